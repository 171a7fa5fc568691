//! `rules test`: runs an owner's expectations (docs/rules.md).

use super::super::args::{Given, JSON, Opt, Spec};
use super::super::term::{Style, Term};
use super::super::tool::{Failure, Io, Tool};
use super::super::usage::UsageError;
use super::explain::MAX_FILE;
use super::{live, tell};
use azure_proxy_agent_core::advise::{Checked, Ran, Suite, SuiteRules, Told};
use serde::Serialize;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the names of suites in a directory end with.
const ENDING: &str = ".test.json";
/// Directories in directories.
const DEPTH: usize = 16;

pub(super) static TOOL: Tool = Tool {
    spec: Spec {
        name: "rules test",
        about: "runs expectations about rules",
        usage: "SUITE... [OPTIONS]",
        operands: (1, usize::MAX),
        options: &[
            Opt::value("rules", "<file>", "These rules instead of those that the suites name").short('r'),
            Opt::flag("live", "The rules that the running agent enforces; needs root"),
            Opt::flag("verbose", "Name the cases that pass, too").short('v'),
            JSON,
        ],
        details: "\
A suite is a JSON file that names rules, callers, requests, and what is to become of them:
docs/rules.md, and docs/rules-test.schema.json for editors. Of a directory every file named
*.test.json is one. A case that fails is explained as by rules explain.",
        exit: &[(0, "every case came out as expected"), (1, "some did not"), (2, "a suite or a case cannot be run")],
        examples: &["rules test tests/", "rules test imds.test.json --rules imds-new.json --verbose"],
    },
    run,
};

fn run(given: &Given, io: &mut Io<'_>) -> Result<u8, Failure> {
    let instead = match (given.one("rules"), given.has("live")) {
        (Some(_), true) => return Err(UsageError::wrong("--rules and --live do not go together").into()),
        (Some(file), false) => Some(io.read(file, MAX_FILE)?),
        (None, true) => Some(live::fetch()?),
        (None, false) => None,
    };
    let mut files = Vec::new();
    for operand in &given.operands {
        find(operand, &mut files)?;
    }
    let (as_json, verbose) = (given.has("json"), given.has("verbose"));
    let mut total = Total::default();
    let mut suites = Vec::new();
    for file in &files {
        let suite = Loaded::new(io, file, instead.as_deref());
        match &suite {
            Ok(loaded) => {
                let cases = loaded.run(io, as_json, verbose, &mut total)?;
                suites.push(json!({"file": file.to_string_lossy(), "cases": cases}));
            }
            Err(error) => {
                total.broken += 1;
                suites.push(json!({"file": file.to_string_lossy(), "error": error}));
                if !as_json {
                    writeln!(io.err, "{}", tell::clean(error))?;
                }
            }
        }
    }
    if as_json {
        io.json(&json!({"suites": suites, "passed": total.passed, "failed": total.failed, "broken": total.broken}))?;
    } else {
        writeln!(io.out, "{}", total.text(io.term))?;
    }
    Ok(match total {
        Total { broken: 1.., .. } => 2,
        Total { failed: 1.., .. } => 1,
        Total { .. } => 0,
    })
}

/// The suites of an operand: itself, or what is below it.
fn find(operand: &OsStr, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let path = Path::new(operand);
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let before = files.len();
    below(path, DEPTH, files).map_err(|e| format!("{}: {e}", path.display()))?;
    match files.get_mut(before..) {
        Some(found) if !found.is_empty() => found.sort(),
        _ => return Err(format!("{}: no file named *{ENDING} below it", path.display()).into()),
    }
    Ok(())
}

fn below(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A link to a directory may lead in circles.
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                below(&entry.path(), depth - 1, files)?;
            }
        } else if entry.file_name().as_encoded_bytes().ends_with(ENDING.as_bytes()) {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// A suite with everything that it needs.
struct Loaded {
    file: PathBuf,
    suite: Suite,
    rules: Vec<u8>,
    local: Option<Vec<u8>>,
}

impl Loaded {
    fn new(io: &Io<'_>, file: &Path, instead: Option<&[u8]>) -> Result<Self, String> {
        let read = |path: &Path| match io.read(path.as_os_str(), MAX_FILE) {
            Ok(bytes) => Ok(bytes),
            Err(Failure::Other(text)) => Err(text),
            Err(_) => Err(path.display().to_string()),
        };
        let suite = Suite::read(&read(file)?).map_err(|e| format!("{}: {e}", file.display()))?;
        let text = |rules: &SuiteRules| match rules {
            SuiteRules::File(name) => read(&file.parent().unwrap_or(Path::new("")).join(name)),
            SuiteRules::Inline(document) => serde_json::to_vec(document).map_err(|e| e.to_string()),
        };
        let rules = instead.map_or_else(|| text(&suite.rules), |bytes| Ok(bytes.to_vec()))?;
        // The rules given instead are all there is: what an agent enforces has its local file in it.
        let local = suite.local.as_ref().filter(|_| instead.is_none()).map(text).transpose()?;
        Ok(Self { file: file.to_owned(), rules, local, suite })
    }

    fn run(&self, io: &mut Io<'_>, as_json: bool, verbose: bool, total: &mut Total) -> Result<Vec<Value>, Failure> {
        let mut text = String::new();
        let mut cases = Vec::new();
        let results = self.suite.run(&self.rules, self.local.as_deref(), |checked, told| {
            if as_json {
                cases.push(json!(Case::new(checked, told)));
            } else {
                say(checked, told, verbose, io.term, &mut text);
            }
        });
        for checked in &results {
            match checked.ran {
                Ran::Passed => total.passed += 1,
                Ran::Failed { .. } => total.failed += 1,
                Ran::Broken(_) => total.broken += 1,
            }
        }
        if !text.is_empty() {
            let about = if self.suite.description.is_empty() { String::new() } else { format!(": {}", self.suite.description) };
            let heading = tell::clean(&format!("{}{about}", self.file.display()));
            write!(io.out, "{}\n{text}", io.term.paint(Style::Bold, heading))?;
        }
        Ok(cases)
    }
}

/// One case, for people.
fn say(checked: &Checked<'_>, told: Option<&Told<'_>>, verbose: bool, term: Term, text: &mut String) {
    let name = tell::clean(&checked.name);
    let mut line = |indent: &str, line: &str| text.extend([indent, line, "\n"]);
    match &checked.ran {
        Ran::Passed if !verbose => {}
        Ran::Passed => line("  ", &format!("{}  {name}", term.paint(Style::Green, "ok    "))),
        Ran::Broken(error) => {
            line("  ", &format!("{}  {name}", term.paint(Style::Yellow, "BROKEN")));
            line("          ", &tell::clean(&error.to_string()));
        }
        Ran::Failed { differs, .. } => {
            line("  ", &format!("{}  {name}", term.paint(Style::Red, "FAILED")));
            for (member, expected, found) in differs {
                line("          ", &tell::clean(&format!("{member}: expected {expected}, found {found}")));
            }
            let told = told.map(|told| tell::told(told, term)).unwrap_or_default();
            told.lines().for_each(|told| line("          ", told));
        }
    }
}

/// One case, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Case<'a> {
    name: &'a str,
    result: &'static str,
    expected: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<&'a Told<'a>>,
}

impl<'a> Case<'a> {
    fn new(checked: &'a Checked<'_>, told: Option<&'a Told<'a>>) -> Self {
        let expected = json!(checked.case.expect);
        let (result, found, error) = match &checked.ran {
            Ran::Passed => ("passed", None, None),
            Ran::Failed { found, .. } => ("failed", Some(json!(found)), None),
            Ran::Broken(error) => ("broken", None, Some(error.to_string())),
        };
        Self { name: &checked.name, result, expected, told: told.filter(|_| found.is_some()), found, error }
    }
}

#[derive(Default)]
struct Total {
    passed: usize,
    failed: usize,
    broken: usize,
}

impl Total {
    fn text(&self, term: Term) -> String {
        let Self { passed, failed, broken } = self;
        let style = if failed + broken == 0 { Style::Green } else { Style::Red };
        let broken = if *broken > 0 { format!(", {broken} cannot be run") } else { String::new() };
        term.paint(style, format!("{passed} passed, {failed} failed{broken}")).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_of_a_directory_are_found_in_order_and_only_they() {
        let mut files = Vec::new();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/rules");
        find(OsStr::new(folder), &mut files).unwrap_or_else(|e| panic!("{e:?}"));
        let names: Vec<_> = files.iter().map(|file| file.file_name().and_then(OsStr::to_str).unwrap_or_default()).collect();
        assert_eq!(names, ["audit.test.json", "imds.test.json"]);
        let Err(Failure::Other(error)) = find(OsStr::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut files) else {
            panic!("no suite there")
        };
        assert!(error.ends_with("no file named *.test.json below it"), "{error}");
    }
}
