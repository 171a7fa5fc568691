//! Where tests are: crates of the agent, end-to-end tests, fixtures.

use crate::numbers::Numbers;
use crate::results::{Outcome, Results};
use crate::{Failure, cites, read, source};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Folders of crates whose tests show what the agent does. Tests of the simulated host show what the host does.
const CRATES: [&str; 5] = ["core", "redirect-ebpf", "runtime-blocking", "runtime-smol", "testdata/sandbox"];

/// Who plays the fixtures: binaries, module, test.
const FIXTURES: [(&str, &str, &str); 2] =
    [("core", "replay", "replay_fixtures_come_out_as_written"), ("replay", "", "fixtures_come_out_the_same_over_sockets")];

/// What a number has to show: the tests that cite it, with their results, by their short path.
pub(crate) type Evidence = BTreeMap<String, BTreeMap<String, Outcome>>;

/// All cites in the tree.
pub(crate) fn evidence(root: &Path, numbers: &Numbers, results: &Results) -> Result<Evidence, Failure> {
    let mut evidence = Evidence::new();
    for folder in CRATES {
        crate_tests(root, folder, numbers, results, &mut evidence)?;
    }
    let played = |tests: &[(&str, &str, &str)]| {
        let outcome = |(binary, module, name): &(&str, &str, &str)| results.outcome(&[(*binary).to_owned()], module, name);
        tests.iter().map(outcome).max().unwrap_or(Outcome::NotRun)
    };
    for path in files(&root.join("testdata/replay"), "replay")? {
        let outcome = played(&FIXTURES);
        let name = relative(&path, &root.join("testdata")).trim_end_matches(".replay").to_owned();
        let text = read(Path::new(&path))?;
        for number in text.lines().filter(|line| line.starts_with('#')).flat_map(|line| cites::in_text(line, numbers)) {
            evidence.entry(number).or_default().insert(name.clone(), outcome);
        }
    }
    for (file, test) in [("requests", "smuggling_requests"), ("responses", "smuggling_responses")] {
        let outcome = played(&[("core", "smuggling", test)]);
        let text = read(&root.join(format!("testdata/smuggling/{file}.txt")))?;
        // An entry: its name, what is expected, its source.
        let mut entry = "";
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(line) = lines.next() {
            if lines.peek().is_some_and(|next| next.starts_with("expect ")) {
                entry = line;
            } else if let Some(source) = line.strip_prefix("source ") {
                for number in cites::in_text(source, numbers) {
                    evidence.entry(number).or_default().insert(format!("smuggling/{entry}"), outcome);
                }
            }
        }
    }
    Ok(evidence)
}

/// Cites of a crate's test functions.
fn crate_tests(root: &Path, folder: &str, numbers: &Numbers, results: &Results, evidence: &mut Evidence) -> Result<(), Failure> {
    let directory = root.join(folder);
    // Package and binaries: under these names unit tests run.
    let manifest = read(&directory.join("Cargo.toml"))?;
    let quoted = |line: &str| Some(line.strip_prefix("name = \"")?.strip_suffix('"')?.replace('-', "_"));
    let units: Vec<String> = manifest.lines().filter_map(quoted).collect();
    let short = folder.trim_start_matches("testdata/");
    for (part, is_unit) in [("src", true), ("tests", false)] {
        for path in files(&directory.join(part), "rs")? {
            let file = relative(&path, &directory.join(part));
            let mut parts: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
            let (binaries, binary) = if is_unit {
                (units.clone(), None)
            } else {
                // `tests/x.rs`, and files in `tests/x`, are test binary `x`.
                let binary = parts.remove(0);
                (vec![binary.to_owned()], Some(binary))
            };
            parts.pop_if(|last| matches!(*last, "mod" | "lib" | "main"));
            for test in source::tests(&read(Path::new(&path))?) {
                let module = parts.iter().copied().chain(test.module.split("::")).filter(|part| !part.is_empty());
                let module: Vec<&str> = module.collect();
                let outcome = results.outcome(&binaries, &module.join("::"), &test.name);
                let shown = binary.into_iter().chain(module).filter(|part| *part != "tests").chain([test.name.as_str()]);
                let name = format!("{short}/{}", shown.collect::<Vec<_>>().join("::"));
                let texts = test.texts.iter().flat_map(|text| cites::in_text(text, numbers));
                let cited: BTreeSet<String> = texts.chain(cites::in_name(&test.name, numbers)).collect();
                for number in cited {
                    let worst = evidence.entry(number).or_default().entry(name.clone()).or_insert(outcome);
                    *worst = outcome.max(*worst);
                }
            }
        }
    }
    Ok(())
}

fn relative(path: &str, to: &Path) -> String {
    path.strip_prefix(&format!("{}/", to.display())).unwrap_or(path).to_owned()
}

/// All files with an extension, below a directory that may be missing, sorted.
fn files(directory: &Path, extension: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return Ok(found) };
    for entry in entries {
        let path = entry.map_err(|e| format!("{}: {e}", directory.display()))?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|there| there == extension) {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    Ok(found)
}
