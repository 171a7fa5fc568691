//! What `cargo test` printed: which test of which binary ended how.

use std::collections::BTreeMap;

/// How a test ended; of several, the largest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Passed,
    NotRun,
    Failed,
}

impl Outcome {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::NotRun => "not run",
            Self::Failed => "failed",
        }
    }
}

/// By the binary's name, the paths of its tests. Binaries of the same name (two crates have `tests/replay.rs`) count as one.
#[derive(Debug, Default)]
pub(crate) struct Results(BTreeMap<String, BTreeMap<String, Outcome>>);

impl Results {
    /// How the function `name` of a module (or of one inside it) ended in any of these binaries.
    pub(crate) fn outcome(&self, binaries: &[String], module: &str, name: &str) -> Outcome {
        let is_it = |path: &str| {
            let (before, last) = path.rsplit_once("::").unwrap_or(("", path));
            let below =
                before.strip_prefix(module).is_some_and(|rest| module.is_empty() || rest.is_empty() || rest.starts_with("::"));
            last == name && below
        };
        let tests = binaries.iter().filter_map(|binary| self.0.get(binary)).flatten();
        tests.filter(|(path, _)| is_it(path)).map(|(_, outcome)| *outcome).max().unwrap_or(Outcome::NotRun)
    }
}

impl From<&str> for Results {
    fn from(text: &str) -> Self {
        let mut results = Self::default();
        let mut binary = String::new();
        // A test whose result was not on its own line, because something else printed there.
        let mut open: Option<String> = None;
        for line in text.lines() {
            let line = without_colours(line);
            let trimmed = line.trim();
            if let Some(program) =
                trimmed.strip_prefix("Running ").and_then(|rest| rest.split_once('(')).map(|(_, program)| program)
            {
                let file = program.trim_end_matches(')').rsplit('/').next().unwrap_or_default();
                binary = file.rsplit_once('-').map_or(file, |(stem, _)| stem).to_owned();
            } else if trimmed.starts_with("Doc-tests ") {
                binary.clear();
            }
            let (path, ending) = match trimmed.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                Some((path, ending)) => (Some(path.trim_end_matches(" - should panic").to_owned()), ending),
                None => (open.clone(), trimmed),
            };
            let Some(path) = path.filter(|path| !path.contains(' ')) else { continue };
            let outcome = match ending {
                _ if ending == "ok" || (open.is_some() && ending.ends_with("ok")) => Outcome::Passed,
                _ if ending.ends_with("FAILED") => Outcome::Failed,
                _ if ending.starts_with("ignored") => Outcome::NotRun,
                _ => {
                    open = Some(path);
                    continue;
                }
            };
            open = None;
            let worst = results.0.entry(binary.clone()).or_default().entry(path).or_insert(outcome);
            *worst = outcome.max(*worst);
        }
        results
    }
}

/// The line without the terminal's escape sequences (`ESC [ … m`).
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_cargo_test_is_understood() {
        let text = "   Compiling x\n\
            \u{1b}[1m     Running\u{1b}[0m unittests src/lib.rs (target/debug/deps/my_core-0a1b)\n\
            test a::tests::one ... \u{1b}[32mok\u{1b}[0m\n\
            test a::tests::two ... FAILED\n\
            test a::three - should panic ... ok\n\
            test b::four ... ignored, needs a kernel\n\
            test smol::five ... a child says something ok\n\
            test blocking::five ... a child says\nsomething more\nok\n\
            test result: FAILED. 1 passed; 1 failed\n\
            \x20    Running tests/kernel/main.rs (target/debug/deps/kernel-77)\n\
            test one ... ok\n\
            \x20  Doc-tests my_core\ntest core/src/a.rs - a (line 3) ... ok\n";
        let results = Results::from(text);
        let core = ["my_core".to_owned()];
        let of = |module: &str, name: &str| results.outcome(&core, module, name);
        assert_eq!(of("a", "one"), Outcome::Passed);
        assert_eq!(of("a", "two"), Outcome::Failed);
        assert_eq!(of("a", "three"), Outcome::Passed);
        assert_eq!(of("b", "four"), Outcome::NotRun);
        assert_eq!(of("", "five"), Outcome::Passed);
        assert_eq!(of("b", "one"), Outcome::NotRun);
        assert_eq!(of("a::test", "one"), Outcome::NotRun);
        assert_eq!(results.outcome(&["kernel".to_owned()], "", "one"), Outcome::Passed);
    }
}
