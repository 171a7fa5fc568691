//! Arguments of the tools: one table per subcommand, from which parsing and `--help` both come, so that they cannot disagree.

use super::usage::UsageError;
use crate::config::suggest::closest;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::str::FromStr;

/// What a subcommand understands, and what its `--help` says.
pub(super) struct Spec {
    /// The words after the program's name: `rules explain`.
    pub(super) name: &'static str,
    /// What it does: a sentence without full stop.
    pub(super) about: &'static str,
    /// What stands in the usage line after the name.
    pub(super) usage: &'static str,
    /// Words that are not options: how many there must be and may be.
    pub(super) operands: (usize, usize),
    /// Every option but `--help`, which each subcommand has.
    pub(super) options: &'static [Opt],
    /// Further paragraphs, lines of at most 90 characters. May be empty.
    pub(super) details: &'static str,
    /// Exit statuses and what they mean.
    pub(super) exit: &'static [(u8, &'static str)],
    /// Whole command lines, without the program's name.
    pub(super) examples: &'static [&'static str],
}

/// One option.
pub(super) struct Opt {
    /// Its name without the dashes.
    pub(super) long: &'static str,
    /// Its letter, if it has one.
    pub(super) short: Option<char>,
    /// What its value is, as `<file>`; without one it is a flag.
    pub(super) value: Option<&'static str>,
    /// Whether it may be given more than once.
    pub(super) repeats: bool,
    /// What it is for; further lines are indented below.
    pub(super) help: &'static str,
}

impl Opt {
    /// An option without a value.
    pub(super) const fn flag(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, value: None, repeats: false, help }
    }

    /// An option with a value, which usage texts name `value`.
    pub(super) const fn value(long: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { long, short: None, value: Some(value), repeats: false, help }
    }

    /// May be given again.
    pub(super) const fn repeated(self) -> Self {
        Self { repeats: true, ..self }
    }

    /// Has a letter too.
    pub(super) const fn short(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }
}

/// `--json`, the same everywhere.
pub(super) const JSON: Opt = Opt::flag("json", "For programs: JSON");
const HELP: Opt = Opt::flag("help", "Print this text").short('h');

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: Vec<(&'static str, OsString)>,
    /// The words that are not options, in their order.
    pub(super) operands: Vec<OsString>,
}

/// Why a subcommand is not to be run.
#[derive(Debug)]
pub(super) enum Stop {
    /// `--help` was asked for.
    Help,
    /// The arguments mean nothing.
    Usage(UsageError),
}

impl From<UsageError> for Stop {
    fn from(error: UsageError) -> Self {
        Self::Usage(error)
    }
}

impl Spec {
    /// Reads the arguments after the subcommand's name.
    pub(super) fn parse(&self, args: impl IntoIterator<Item = OsString>) -> Result<Given, Stop> {
        let mut given = Given::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let text = arg.to_str().unwrap_or_default();
            if text == "--" {
                given.operands.extend(args.by_ref());
            } else if let Some(long) = arg.as_encoded_bytes().strip_prefix(b"--") {
                let (name, value) = split_value(long);
                let option = self.find(|o| o.long.as_bytes() == name).ok_or_else(|| self.unknown(&arg))?;
                self.take(&mut given, option, value, &mut args)?;
            } else if let Some(letters) = text.strip_prefix('-').filter(|letters| !letters.is_empty()) {
                let mut rest = letters.chars();
                while let Some(letter) = rest.next() {
                    let option = self.find(|o| o.short == Some(letter)).ok_or_else(|| self.unknown(&arg))?;
                    // The rest of the word is the value: `-n5`, `-n=5`; else the next word.
                    let value = rest.as_str();
                    let value = value.strip_prefix('=').unwrap_or(value);
                    let takes = option.value.is_some();
                    self.take(&mut given, option, (takes && !value.is_empty()).then(|| value.into()), &mut args)?;
                    if takes {
                        break;
                    }
                }
            } else {
                // Also `-`: standard input.
                given.operands.push(arg);
            }
        }
        let (least, most) = self.operands;
        match given.operands.get(most) {
            Some(extra) => Err(UsageError::unknown_of(extra, []).into()),
            None if given.operands.len() < least => Err(UsageError::Missing(self.usage).into()),
            None => Ok(given),
        }
    }

    fn find(&self, is: impl Fn(&Opt) -> bool) -> Option<&Opt> {
        self.options.iter().chain([&HELP]).find(|option| is(option))
    }

    fn unknown(&self, word: &OsStr) -> UsageError {
        UsageError::unknown_of(word, self.options.iter().chain([&HELP]).map(|option| option.long))
    }

    fn take(
        &self,
        given: &mut Given,
        option: &Opt,
        value: Option<OsString>,
        args: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Stop> {
        let value = match (option.value, value) {
            (None, Some(_)) => return Err(UsageError::takes_no_value(option.long).into()),
            (None, None) => OsString::new(),
            (Some(_), Some(value)) => value,
            (Some(what), None) => args.next().ok_or_else(|| UsageError::wrong(format!("--{} needs {what}", option.long)))?,
        };
        if option.long == HELP.long {
            return Err(Stop::Help);
        }
        if !option.repeats && given.has(option.long) {
            return Err(UsageError::wrong(format!("--{} is given twice", option.long)).into());
        }
        // From the table, not from the command line: it lives as long as the program.
        let name = self.options.iter().find(|o| o.long == option.long).map_or("", |o| o.long);
        given.values.push((name, value));
        Ok(())
    }

    /// The text of `--help`.
    pub(super) fn help(&self, program: &str) -> String {
        let Self { name, about, usage, details, .. } = self;
        let mut text = format!("{program} {name}: {about}\n\nUsage: {program} {name} {usage}\n");
        if !details.is_empty() {
            let _ = write!(text, "\n{}\n", details.trim_end());
        }
        text.push_str("\nOptions:\n");
        let left = |o: &Opt| {
            let short = o.short.map_or("    ".into(), |letter| format!("-{letter}, "));
            let value = o.value.map(|value| format!(" {value}")).unwrap_or_default();
            format!("  {short}--{}{value}", o.long)
        };
        let all = || self.options.iter().chain([&HELP]);
        let width = all().map(|o| left(o).chars().count()).max().unwrap_or_default().min(34);
        for option in all() {
            let mut left = left(option);
            if left.chars().count() > width {
                let _ = writeln!(text, "{left}");
                left.clear();
            }
            for line in option.help.lines() {
                let _ = writeln!(text, "{left:width$}  {line}");
                left.clear();
            }
        }
        if !self.exit.is_empty() {
            text.push_str("\nExit status:\n");
            for (status, meaning) in self.exit {
                let _ = writeln!(text, "  {status}  {meaning}");
            }
        }
        if !self.examples.is_empty() {
            text.push_str("\nExamples:\n");
            for example in self.examples {
                let _ = writeln!(text, "  {program} {example}");
            }
        }
        text
    }
}

impl Given {
    /// Whether the option was given.
    pub(super) fn has(&self, long: &str) -> bool {
        self.values.iter().any(|(name, _)| *name == long)
    }

    /// The values of an option, in their order.
    pub(super) fn all<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a OsStr> {
        self.values.iter().filter(move |(name, _)| *name == long).map(|(_, value)| value.as_os_str())
    }

    /// The value of an option.
    pub(super) fn one(&self, long: &str) -> Option<&OsStr> {
        self.values.iter().find(|(name, _)| *name == long).map(|(_, value)| value.as_os_str())
    }

    /// The value of an option that is text.
    pub(super) fn text(&self, long: &str) -> Result<Option<&str>, UsageError> {
        self.one(long)
            .map(|value| value.to_str().ok_or_else(|| UsageError::wrong(format!("--{long}: {value:?} is not UTF-8"))))
            .transpose()
    }

    /// The value of an option that is a number, or whatever else is written as text; `what` names it in the error.
    pub(super) fn parsed<T: FromStr>(&self, long: &str, what: &str) -> Result<Option<T>, UsageError> {
        self.text(long)?
            .map(|text| text.parse().map_err(|_| UsageError::wrong(format!("--{long} needs {what}, not {text:?}"))))
            .transpose()
    }

    /// The value of an option that must be there.
    pub(super) fn required(&self, long: &str) -> Result<&OsStr, UsageError> {
        self.one(long).ok_or_else(|| UsageError::wrong(format!("--{long} is missing")))
    }
}

/// `name=value` in two.
fn split_value(long: &[u8]) -> (&[u8], Option<OsString>) {
    use std::os::unix::ffi::OsStrExt as _;
    match long.iter().position(|b| *b == b'=') {
        Some(at) => {
            let (name, value) = long.split_at(at);
            (name, Some(OsStr::from_bytes(value.get(1..).unwrap_or_default()).to_owned()))
        }
        None => (long, None),
    }
}

impl UsageError {
    /// A word that means nothing, and the one of `known` that may have been meant. Options are known without their dashes.
    pub(super) fn unknown_of(word: &OsStr, known: impl IntoIterator<Item = &'static str>) -> Self {
        let word = word.to_string_lossy();
        let name = word.trim_start_matches('-');
        let name = name.split_once('=').map_or(name, |(name, _)| name);
        let dashes = if word.starts_with('-') { "--" } else { "" };
        let hint = closest(name, known).map(|meant| format!("; did you mean {dashes}{meant}?")).unwrap_or_default();
        let kind = if dashes.is_empty() { "word" } else { "option" };
        Self::Wrong(format!("unknown {kind} {word:?}{hint}"))
    }

    /// Another mistake.
    pub(super) fn wrong(text: impl Into<String>) -> Self {
        Self::Wrong(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    const SPEC: Spec = Spec {
        name: "rules fry",
        about: "fries",
        usage: "[OPTIONS] FILE [FILE]",
        operands: (1, 2),
        options: &[
            Opt::value("user", "<name>", "Who\neats").short('u'),
            Opt::value("group", "<name>", "With").repeated(),
            Opt::flag("quick", "At once").short('q'),
            JSON,
        ],
        details: "It fries.\n",
        exit: &[(0, "done"), (2, "burnt")],
        examples: &["rules fry egg"],
    };

    fn parse(line: &str) -> Result<Given, String> {
        SPEC.parse(line.split_whitespace().map(OsString::from)).map_err(|stop| match stop {
            Stop::Help => "help".into(),
            Stop::Usage(e) => e.to_string(),
        })
    }

    #[test]
    fn options_stand_anywhere_in_every_spelling() {
        for line in ["--user=a egg -q", "egg -qu a", "-qua egg", "-u=a --quick egg", "--user a -q -- egg"] {
            let given = parse(line).expect(line);
            assert_eq!(given.text("user"), Ok(Some("a")), "{line}");
            assert!(given.has("quick") && !given.has("json"), "{line}");
            assert_eq!(given.operands, ["egg"], "{line}");
        }
        let given = parse("--group x --group= - -- --quick").expect("two operands");
        assert_eq!(given.all("group").collect::<Vec<_>>(), ["x", ""]);
        assert_eq!(given.operands, ["-", "--quick"]);
        let odd = SPEC.parse([OsString::from_vec(b"--user=\xFF".to_vec()), OsString::from_vec(b"\xFE".to_vec())]).expect("bytes");
        assert_eq!(odd.operands, [OsString::from_vec(b"\xFE".to_vec())]);
        assert!(odd.text("user").is_err() && odd.one("user").is_some());
    }

    /// CLI-07
    #[test]
    fn cli07_mistakes_say_what_and_what_instead() {
        for (line, message) in [
            ("", "[OPTIONS] FILE [FILE] is expected"),
            ("a b c", "unknown word \"c\""),
            ("a --usr=x", "unknown option \"--usr=x\"; did you mean --user?"),
            ("a -x", "unknown option \"-x\""),
            ("a --user", "--user needs <name>"),
            ("a -u", "--user needs <name>"),
            ("a --user=x -uy", "--user is given twice"),
            ("a --quick=yes", "--quick takes no value"),
            ("a -qh", "help"),
            ("--frob --help", "unknown option \"--frob\""),
        ] {
            assert_eq!(parse(line).map(|_| ()), Err(message.into()), "{line}");
        }
    }

    #[test]
    fn help_comes_from_the_table() {
        let expected = "\
agent rules fry: fries

Usage: agent rules fry [OPTIONS] FILE [FILE]

It fries.

Options:
  -u, --user <name>   Who
                      eats
      --group <name>  With
  -q, --quick         At once
      --json          For programs: JSON
  -h, --help          Print this text

Exit status:
  0  done
  2  burnt

Examples:
  agent rules fry egg
";
        assert_eq!(SPEC.help("agent"), expected);
    }
}
