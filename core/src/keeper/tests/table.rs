//! Every state times every input: what the keeper does, as one table for people, in `testdata/keeper/states.txt`. A change of behaviour
//! is a change of that file. `BLESS=1 cargo test -p azure-proxy-agent-core table` writes it anew.

use super::inputs::{self, Input};
use super::*;
use core::fmt::Write as _;

const GOLDEN: &str = include_str!("../../../../testdata/keeper/states.txt");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/keeper/states.txt");

const INTRODUCTION: &str = "\
The key keeper: what every input does in every state. Written by a test (core/src/keeper/tests/table.rs), which fails when the
keeper does something else; BLESS=1 writes it anew. Keys A and B stand for their guids. Inputs with the same effect share an
entry; what is not listed in a state changes nothing there. An entry shows

    steps   what the keeper asks for and says, in order
    then    the phase it is in, with its time limit (\"+\": and up to a tenth more, after failures),
            and what has changed: channel state, key in use, message

The texts of failures end where they differ; they are complete in the last section. The inputs:
";

type State = (&'static str, fn() -> Bench);

/// Where a keeper can be, by the way it came there.
fn states() -> Vec<State> {
    let asking: [State; 7] = [
        ("asking for the first time", Bench::started),
        ("asking, channel disabled", || Bench::started().ok(&v1("Disabled", None)).timer()),
        ("asking, version 1, key A in use", || Bench::holding_a(&v1("Wireserver", Some(GUID_A))).timer()),
        ("asking, version 2, key A in use", || Bench::holding_a(&v2(Some(GUID_A))).timer()),
        ("asking, notified, version 2, key A in use", || Bench::holding_a(&v2(Some(GUID_A))).timer().notify()),
        ("asking, key A handed out and not stored", || no_room().timer()),
        ("asking, drained", || Bench::started().drain()),
    ];
    let waiting: [State; 7] = [
        ("not started", Bench::new),
        ("waiting, channel unknown", || Bench::started().fetched(answer(500, ""))),
        ("waiting, channel disabled", || Bench::started().ok(&v1("Disabled", None))),
        ("waiting, version 1, key A in use", || Bench::holding_a(&v1("Wireserver", Some(GUID_A)))),
        ("waiting, version 2, key A in use", || Bench::holding_a(&v2(Some(GUID_A)))),
        ("waiting after a notification, version 2, key A in use", || Bench::holding_a(&v2(Some(GUID_A))).notify()),
        ("waiting, key A handed out and not stored", no_room),
    ];
    let obtaining: [State; 9] = [
        ("looking for the file of key A", || Bench::started().ok(&v1("Wireserver", Some(GUID_A)))),
        ("looking for the file of key B, key A in use", || rotation().0),
        ("asking for a key, none named", || Bench::started().ok(&v1("Wireserver", None))),
        ("asking for a key, B named, key A in use", || rotation().loaded(Ok(None)).0),
        ("writing the file of key A", || Bench::started().ok(&v1("Wireserver", None)).ok(&key_document(GUID_A, KEY_A))),
        ("reading back the file of key A", || first_key().0),
        ("attesting key A", || first_key().loaded(Ok(Some(key(GUID_A)))).0),
        ("reading back the file of key B, key A in use", || second_key().0),
        ("attesting key B, key A in use", || second_key().loaded(Ok(Some(key(GUID_B)))).0),
    ];
    waiting.into_iter().chain(asking).chain(obtaining).collect()
}

/// Shorthand for ways that branch.
struct Way(Bench);

impl Way {
    fn loaded(self, result: Result<Option<StoredKey>, StoreError>) -> Self {
        Self(self.0.loaded(result))
    }
}

fn rotation() -> Way {
    Way(Bench::holding_a(&v2(Some(GUID_A))).timer().ok(&v2(Some(GUID_B))))
}

fn first_key() -> Way {
    Way(Bench::started().ok(&v1("Wireserver", None)).ok(&key_document(GUID_A, KEY_A)).stored(Ok(())))
}

fn second_key() -> Way {
    Way(rotation().loaded(Ok(None)).0.ok(&key_document(GUID_B, KEY_B)).stored(Ok(())))
}

fn no_room() -> Bench {
    let full = Err(StoreError("no space left on device".to_owned()));
    Bench::started().ok(&v1("Wireserver", None)).ok(&key_document(GUID_A, KEY_A)).stored(full)
}

/// Where a failure's text stops being the same for all.
fn elide(text: &str) -> String {
    for start in [
        "Failed to get key status - ",
        "Failed to acquire key details: ",
        "Failed to save key details to file: ",
        "details saved locally: ",
        "Failed to attest the key: ",
    ] {
        if let Some(at) = text.find(start) {
            return format!("{}…", &text[..at + start.len()]);
        }
    }
    text.to_owned()
}

fn phase(bench: &Bench) -> String {
    let name = match &bench.keeper.phase {
        Phase::Idle => return "at rest".to_owned(),
        Phase::Waiting { deaf: false, .. } => "waits",
        Phase::Waiting { deaf: true, .. } => "waits, deaf to notifications",
        Phase::AskStatus(_) => "asks for the status",
        Phase::LoadLocal(..) => "looks for the file",
        Phase::Acquire(_) => "asks for a key",
        Phase::Store(_) => "writes the file",
        Phase::ReadBack(_) => "reads the file back",
        Phase::Attest(..) => "attests the key",
    };
    let left = bench.keeper.deadline().expect("a deadline in every phase").since(bench.now.mono);
    let secs = left.as_secs();
    let plus = if left.subsec_nanos() > 0 || secs == 16 { "+" } else { "" };
    assert!(matches!(secs, 1 | 15 | 16 | 40), "{left:?}");
    format!("{name}, {}{plus} s", if secs == 16 { 15 } else { secs })
}

/// What one input did.
fn outcome(before: &Bench, after: &Bench) -> String {
    let mut text = String::new();
    for (n, step) in after.steps.iter().enumerate() {
        let _ = writeln!(text, "    {}   {}", if n == 0 { "steps" } else { "     " }, elide(step));
    }
    let (from, to) = (phase(before), phase(after));
    let mut then = to;
    let (was, is) = (before.keeper.state().to_string(), after.keeper.state().to_string());
    if was != is {
        let _ = write!(then, "; state \"{is}\"");
    }
    if before.key_in_use() != after.key_in_use() {
        let _ = write!(then, "; {} in use", key_name(after));
    }
    if before.keeper.message() != after.keeper.message() {
        let _ = write!(then, "; message \"{}\"", shown(after.keeper.message()));
    }
    if text.is_empty() && then == from && before.keeper.notified == after.keeper.notified {
        return String::new();
    }
    if !before.keeper.notified && after.keeper.notified {
        then.push_str("; the notification is kept");
    }
    let _ = writeln!(text, "    then    {then}");
    text
}

fn key_name(bench: &Bench) -> String {
    match bench.key_in_use() {
        "none" => "no key".to_owned(),
        key => format!("key {key}"),
    }
}

fn shown(message: &str) -> String {
    elide(&message.replace(GUID_A, "A").replace(GUID_B, "B"))
}

/// Words, comma-separated and filled to lines.
fn fill(indent: &str, words: &[&str]) -> String {
    let mut out = String::from(indent);
    let mut column = indent.len();
    for (n, word) in words.iter().enumerate() {
        let end = if n + 1 < words.len() { "; " } else { "" };
        if column + word.len() + end.len() > 118 && column > indent.len() {
            out.truncate(out.trim_end().len());
            let _ = write!(out, "\n{indent}");
            column = indent.len();
        }
        out.push_str(word);
        out.push_str(end);
        column += word.len() + end.len();
    }
    out
}

/// W-38: what must hold whatever the table says.
fn check(name: &str, input: &str, before: &Bench, after: &Bench) {
    let at = format!("{name} / {input}");
    let taken = after.steps.iter().any(|step| step == "status taken");
    assert!(taken || before.keeper.status() == after.keeper.status(), "{at}: a status is taken as a whole or not at all");
    let attested = matches!(before.keeper.phase, Phase::Attest(..) | Phase::LoadLocal(..));
    let dropped = after.key_in_use() == "none";
    assert!(before.key_in_use() == after.key_in_use() || attested || (taken && dropped), "{at}: the key changed");
    for text in [after.keeper.message(), after.keeper.problem.as_deref().unwrap_or_default()] {
        assert!(!text.contains(&KEY_A[..8]) && !text.contains(&KEY_B[..8]), "{at}: SEC-08");
    }
    if let Some(deadline) = after.keeper.deadline() {
        assert!(deadline > after.now.mono, "{at}: a deadline that does not move");
    }
}

fn table() -> String {
    let mut out = String::from(INTRODUCTION);
    for (class, inputs) in inputs::all() {
        let names: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(out, "\n    {class}:\n{}", fill("        ", &names));
    }
    let mut texts: Vec<(String, Vec<&'static str>)> = Vec::new();
    for (name, make) in states() {
        let before = make();
        let _ = writeln!(out, "\n== {name}\n");
        let _ = writeln!(
            out,
            "    now     {}; state \"{}\"; key {} in use",
            phase(&before),
            before.keeper.state(),
            before.key_in_use()
        );
        let _ = writeln!(out, "            message \"{}\"\n", shown(before.keeper.message()));
        let mut rows: Vec<(String, Vec<&'static str>)> = Vec::new();
        for (input_name, input) in inputs::all().into_iter().flat_map(|(_, inputs)| inputs) {
            let mut after = input.clone().apply(make());
            if !matches!(input, Input::Timer) {
                // The same moment, so that the time limits of both compare.
                assert_eq!(after.now, before.now);
            }
            check(name, input_name, &before, &after);
            for step in &after.steps {
                if let Some(text) = step.strip_prefix("say problem: ").filter(|text| elide(text) != **text) {
                    // Where in a text the reader gave up says nothing about us.
                    let text = text.split(" (column").next().and_then(|text| text.split(" at line").next()).unwrap_or(text);
                    note(&mut texts, text.to_owned(), input_name);
                }
            }
            let row = outcome(&before, &after);
            note(&mut rows, row, input_name);
            // Whatever happened: an agent that is not going to end asks again some time.
            if !matches!(after.keeper.phase, Phase::Idle) {
                for _ in 0..4 {
                    after = after.timer();
                    if matches!(after.keeper.phase, Phase::AskStatus(_) | Phase::Idle) {
                        break;
                    }
                }
                assert!(
                    matches!(after.keeper.phase, Phase::AskStatus(_)) || after.keeper.drained,
                    "{name} / {input_name}: hangs"
                );
            }
        }
        for (row, names) in rows.into_iter().filter(|(row, _)| !row.is_empty()) {
            let _ = writeln!(out, "{}\n{}", fill("  ", &classes(&names)), row.trim_end());
        }
    }
    out.push_str("\n== the texts of failures\n\n");
    texts.sort();
    for (text, names) in texts {
        let _ = writeln!(out, "    {text}\n{}", fill("        ", &classes(&names)));
    }
    out
}

/// Whole classes by their name.
fn classes(names: &[&'static str]) -> Vec<&'static str> {
    let mut short = Vec::new();
    for (class, inputs) in inputs::all() {
        if inputs.iter().all(|(name, _)| names.contains(name)) {
            short.push(class);
        } else {
            short.extend(inputs.iter().map(|(name, _)| *name).filter(|name| names.contains(name)));
        }
    }
    short
}

fn note(rows: &mut Vec<(String, Vec<&'static str>)>, text: String, name: &'static str) {
    match rows.iter_mut().find(|(known, _)| *known == text) {
        Some((_, names)) => {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        None => rows.push((text, vec![name])),
    }
}

/// Each state, each input: W-33 to W-38, W-74, W-77, W-79, W-80, W-82, W-83, W-85 to W-100.
#[test]
fn the_state_table_is_the_golden_file() {
    let table = table();
    assert_eq!(table, self::table(), "the same again");
    if table == GOLDEN {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "rewriting the golden file is asked for by the environment")]
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(PATH, &table).unwrap();
        return;
    }
    let (new, old): (Vec<&str>, Vec<&str>) = (table.lines().collect(), GOLDEN.lines().collect());
    let same = new.iter().zip(&old).take_while(|(a, b)| a == b).count();
    let state = new[..same].iter().rev().find(|line| line.starts_with("== ")).unwrap_or(&"");
    let part = |lines: &[&str]| lines.iter().skip(same.saturating_sub(4)).take(12).copied().collect::<Vec<_>>().join("\n");
    panic!(
        "the keeper does not do what testdata/keeper/states.txt says, line {} ({state})\n--- file\n{}\n--- keeper\n{}\n\
         If that is meant: BLESS=1 cargo test -p azure-proxy-agent-core table",
        same + 1,
        part(&old),
        part(&new)
    );
}
