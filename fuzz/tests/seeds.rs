//! Every target on the repository's own fixtures, corpora and vectors, and on mutations of them that a fixed generator makes: the
//! same in every run. What libFuzzer does with feedback, this does without, in seconds; `FUZZ_ROUNDS` makes it longer.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use azure_proxy_agent_core::replay::XorShift;
use azure_proxy_agent_fuzz::{canonical, chunked, conn_ops, documents, head, matcher, replay_format};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

fn files(directory: &Path, extension: &str) -> Vec<Vec<u8>> {
    let mut found: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().unwrap_or_default() == extension {
                let bytes = fs::read(&entry).unwrap();
                found.push((entry, bytes));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no *.{extension} in {}", directory.display());
    found.into_iter().map(|(_, bytes)| bytes).collect()
}

/// The inputs that reached something new when libFuzzer ran the target for hours, minimized.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target), "")
}

/// Runs a target on seeds and on mutations of them.
fn fuzz(name: &str, seeds: &[Vec<u8>], rounds: u64, run: fn(&[u8])) {
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(rounds);
    let mut random = XorShift::new(1);
    let all = seeds.iter().cloned().chain((0..rounds).map(|_| mutate(&mut random, seeds)));
    for (number, input) in all.enumerate() {
        if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
            panic!("{name}, input {number}: {}", input.escape_ascii());
        }
    }
}

fn mutate(random: &mut XorShift, seeds: &[Vec<u8>]) -> Vec<u8> {
    const INTERESTING: [&[u8]; 12] = [
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"\0",
        b"%2f",
        b"%",
        b"..",
        b"0\r\n\r\n",
        b"chunked",
        b"\"",
        b"\xFF",
        b"18446744073709551616",
    ];
    let pick = |random: &mut XorShift, n: usize| random.below(n as u64) as usize;
    let mut input = seeds[pick(random, seeds.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = pick(random, input.len() + 1);
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.splice(at..at, INTERESTING[pick(random, INTERESTING.len())].iter().copied())),
            3 => drop(input.drain(at..(at + pick(random, 40)).min(input.len()))),
            4 => {
                let other = &seeds[pick(random, seeds.len())];
                let from = pick(random, other.len() + 1);
                let to = (from + pick(random, 60)).min(other.len());
                drop(input.splice(at..at, other[from..to].iter().copied()));
            }
            _ => {
                let again = input[at..(at + pick(random, 20)).min(input.len())].to_vec();
                drop(input.splice(at..at, again));
            }
        }
    }
    input
}

/// Requests and responses in which `\r\n` stands for itself, each with a first byte for the step.
fn messages() -> Vec<Vec<u8>> {
    let fixtures = files(&testdata().join("replay"), "replay");
    let texts = fixtures.iter().map(|f| String::from_utf8_lossy(f).into_owned());
    let blocks = texts.flat_map(|text| {
        let mut blocks = vec![String::new()];
        for line in text.lines() {
            match line.strip_prefix("    ") {
                Some(".") | None => blocks.push(String::new()),
                Some(part) => blocks.last_mut().unwrap().push_str(&format!("{part}\r\n")),
            }
        }
        blocks.retain(|block| !block.is_empty());
        blocks
    });
    blocks.enumerate().map(|(number, block)| [&[number as u8], block.as_bytes()].concat()).collect()
}

/// All strings of a JSON vector file.
fn strings(name: &str) -> Vec<Vec<u8>> {
    fn collect(value: &serde_json::Value, found: &mut Vec<Vec<u8>>) {
        match value {
            serde_json::Value::String(text) => found.push(text.clone().into_bytes()),
            serde_json::Value::Array(list) => list.iter().for_each(|v| collect(v, found)),
            serde_json::Value::Object(members) => members.values().for_each(|v| collect(v, found)),
            _ => {}
        }
    }
    let text = fs::read(testdata().join("vectors").join(name)).unwrap();
    let mut found = Vec::new();
    collect(&serde_json::from_slice(&text).unwrap(), &mut found);
    found
}

#[test]
fn heads() {
    fuzz("head", &messages(), 60_000, head::run);
}

#[test]
fn chunked_bodies() {
    let mut seeds: Vec<Vec<u8>> =
        ["5\r\nhello\r\n0\r\n\r\n", "A;x=\"y\"\r\n0123456789\r\n000\r\nt: u\r\n\r\n", "1\r\na\r\n1\r\nb\r\n0\r\n\r\n"]
            .iter()
            .map(|text| format!("\u{1}{text}").into_bytes())
            .collect();
    seeds.extend(messages());
    fuzz("chunked", &seeds, 60_000, chunked::run);
}

#[test]
fn canonical_forms() {
    let mut seeds = strings("canonical_path.json");
    seeds.extend(strings("canonical_query.json"));
    seeds.extend(strings("canonical_authority.json"));
    seeds.extend(strings("decisions.json"));
    seeds.extend(corpus("canonical"));
    fuzz("canonical", &seeds, 10_000, canonical::run);
}

#[test]
fn rule_documents() {
    let text = fs::read(testdata().join("vectors/decisions.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut seeds = Vec::new();
    documents(&vectors, &mut seeds);
    assert!(seeds.len() > 3, "{} documents in the vectors", seeds.len());
    seeds.extend(strings("local_merge.json"));
    seeds.extend(corpus("documents"));
    fuzz("documents", &seeds, 5_000, documents::run);
}

#[test]
fn matches() {
    let mut random = XorShift::new(5);
    let mut seeds: Vec<Vec<u8>> = (0..400).map(|n| (0..n).map(|_| random.next() as u8).collect()).collect();
    seeds.extend(corpus("matcher"));
    fuzz("matcher", &seeds, 10_000, matcher::run);
}

/// Every object that looks like a rule document.
fn documents(value: &serde_json::Value, found: &mut Vec<Vec<u8>>) {
    if value.get("defaultAccess").is_some() {
        found.push(value.to_string().into_bytes());
    }
    match value {
        serde_json::Value::Array(list) => list.iter().for_each(|v| documents(v, found)),
        serde_json::Value::Object(members) => members.values().for_each(|v| documents(v, found)),
        _ => {}
    }
}

#[test]
fn connections() {
    // Operations are bytes: random ones are as good a seed as any, and messages give raw bytes that mean something.
    let mut random = XorShift::new(7);
    let mut seeds: Vec<Vec<u8>> = (0..200).map(|n| (0..n).map(|_| random.next() as u8).collect()).collect();
    seeds.extend(messages().iter().map(|m| [&[1, 7, 0, 3, m.len().min(255) as u8], m.get(1..).unwrap_or_default()].concat()));
    fuzz("conn_ops", &seeds, 40_000, conn_ops::run);
}

#[test]
fn fixtures() {
    fuzz("replay_format", &files(&testdata().join("replay"), "replay"), 5_000, replay_format::run);
}
