//! What the tools have in common: how a subcommand is found and run, reads its files, prints, and fails.

use super::args::{Given, Spec, Stop};
use super::term::Term;
use super::usage::UsageError;
use crate::config::suggest::closest;
use azure_proxy_agent_core::advise::layout;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::Path;

/// A subcommand.
pub(super) struct Tool {
    /// Its arguments and its help.
    pub(super) spec: Spec,
    /// Runs it; the exit status.
    pub(super) run: fn(&Given, &mut Io<'_>) -> Result<u8, Failure>,
}

/// Subcommands of one word: `rules`, `audit`.
pub(super) struct Family {
    /// The word.
    pub(super) word: &'static str,
    /// What they are about.
    pub(super) about: &'static str,
    /// Those with a word of their own, which is the last of their names.
    pub(super) tools: &'static [&'static Tool],
    /// What the word alone does.
    pub(super) alone: Option<&'static Tool>,
}

/// What every failure, and every wrong argument, of a tool ends with.
pub(super) const FAILED: u8 = UsageError::EXIT_STATUS;

/// Why a tool could not do its work. Printed after the tool's name.
#[derive(Debug)]
pub(super) enum Failure {
    /// The arguments do not go together.
    Usage(UsageError),
    /// Anything else: a whole sentence without full stop, or several lines.
    Other(String),
    /// Nobody reads the output any more (`| head -1`): no failure of ours.
    Gone,
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Self::Usage(error)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

/// Of writing to the standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Gone,
            _ => Self::Other(format!("cannot write: {error}")),
        }
    }
}

/// The world of a tool.
pub(super) struct Io<'a> {
    /// For what was asked.
    pub(super) out: &'a mut dyn Write,
    /// For everything else.
    pub(super) err: &'a mut dyn Write,
    /// What `out` is.
    pub(super) term: Term,
}

impl Io<'_> {
    /// The whole file, `-` for standard input.
    ///
    /// # Errors
    /// It cannot be read, or is longer than `limit` bytes.
    pub(super) fn read(&self, path: &OsStr, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let result = match path.as_encoded_bytes() {
            b"-" => io::stdin().take(limit + 1).read_to_end(&mut bytes),
            _ => std::fs::File::open(Path::new(path)).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)),
        };
        let path = path.display();
        match result {
            Ok(n) if n as u64 > limit => Err(format!("{path}: longer than {limit} bytes").into()),
            Ok(_) => Ok(bytes),
            Err(e) => Err(format!("{path}: {e}").into()),
        }
    }

    /// A value as JSON of several lines.
    pub(super) fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        Ok(self.out.write_all(&layout::pretty(value))?)
    }
}

impl Family {
    /// Runs what the arguments after the word say; the exit status.
    pub(super) fn run(&self, program: &str, args: impl IntoIterator<Item = OsString>, io: &mut Io<'_>) -> u8 {
        let mut args = args.into_iter().peekable();
        let first = args.peek().and_then(|word| word.to_str()).unwrap_or_default();
        let named = self.tools.iter().find(|tool| own_word(tool) == first).copied();
        if named.is_some() {
            args.next();
        } else if self.alone.is_none() || first == "help" {
            return match first {
                "-h" | "--help" | "help" => self.print(&self.help(program), io),
                _ => {
                    let word = self.word;
                    let what = match closest(first, self.tools.iter().map(|tool| own_word(tool))) {
                        _ if first.is_empty() => format!("{word} needs a word that says what to do"),
                        None => format!("unknown command \"{word} {}\"", first.escape_debug()),
                        Some(meant) => format!("unknown command \"{word} {}\"; did you mean {meant}?", first.escape_debug()),
                    };
                    let _ = writeln!(io.err, "{program}: {what}\nTry: {program} {word} --help");
                    FAILED
                }
            };
        }
        match named.or(self.alone) {
            Some(tool) => self.run_tool(tool, program, args, io),
            None => FAILED,
        }
    }

    fn run_tool(&self, tool: &Tool, program: &str, args: impl Iterator<Item = OsString>, io: &mut Io<'_>) -> u8 {
        let name = tool.spec.name;
        let result = match tool.spec.parse(args) {
            Ok(given) => (tool.run)(&given, io).and_then(|status| Ok(io.out.flush().map(|()| status)?)),
            Err(Stop::Usage(error)) => Err(error.into()),
            Err(Stop::Help) => {
                let more = if self.alone.is_some_and(|alone| std::ptr::eq(alone, tool)) { self.list() } else { String::new() };
                return self.print(&format!("{}{more}", tool.spec.help(program)), io);
            }
        };
        match result {
            Ok(status) => status,
            Err(Failure::Gone) => 0,
            Err(Failure::Usage(error)) => {
                let _ = writeln!(io.err, "{program} {name}: {error}\nTry: {program} {name} --help");
                FAILED
            }
            Err(Failure::Other(text)) => {
                let _ = writeln!(io.err, "{program} {name}: {text}");
                FAILED
            }
        }
    }

    fn print(&self, text: &str, io: &mut Io<'_>) -> u8 {
        // A reader that has gone (`| head -1`) is not our failure.
        let _ = io.out.write_all(text.as_bytes()).and_then(|()| io.out.flush());
        0
    }

    fn help(&self, program: &str) -> String {
        let Self { word, about, .. } = self;
        format!(
            "{program} {word}: {about}\n\nUsage: {program} {word} COMMAND [OPTIONS]\n{}\nEach has its own: {program} {word} COMMAND --help\n",
            self.list()
        )
    }

    fn list(&self) -> String {
        let mut text = String::new();
        for tool in self.tools {
            let heading = if text.is_empty() { "\nCommands:\n" } else { "" };
            let _ = writeln!(text, "{heading}  {:10} {}", own_word(tool), tool.spec.about);
        }
        text
    }
}

/// The word that names it within its family.
fn own_word(tool: &Tool) -> &'static str {
    tool.spec.name.rsplit(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tool(name: &'static str, run: fn(&Given, &mut Io<'_>) -> Result<u8, Failure>) -> Tool {
        Tool {
            spec: Spec { name, about: "x", usage: "", operands: (0, 1), options: &[], details: "", exit: &[], examples: &[] },
            run,
        }
    }
    static EAT: Tool = tool("food eat", |given, io| {
        writeln!(io.out, "{} eaten", given.operands.len())?;
        Ok(1)
    });
    static FAIL: Tool = tool("food fail", |_, _| Err("burnt".to_owned().into()));
    static ALONE: Tool = tool("food", |_, _| Err(io::Error::from(io::ErrorKind::BrokenPipe).into()));
    const RULES: Family = Family { word: "food", about: "about food", tools: &[&EAT, &FAIL], alone: None };
    const AUDIT: Family = Family { alone: Some(&ALONE), ..RULES };

    fn run(family: &Family, line: &str) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut io = Io { out: &mut out, err: &mut err, term: Term::PLAIN };
        let status = family.run("agent", line.split_whitespace().map(OsString::from), &mut io);
        (status, String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
    }

    /// CLI-07, CLI-09
    #[test]
    fn cli07_words_find_their_tool_and_mistakes_are_status_2_with_a_hint() {
        for (family, line, status, out, err) in [
            (&RULES, "eat egg", 1, "1 eaten\n", ""),
            (&AUDIT, "eat", 1, "0 eaten\n", ""),
            (&AUDIT, "egg", 0, "", ""),
            (&RULES, "fail", 2, "", "agent food fail: burnt\n"),
            (&RULES, "eat a b", 2, "", "agent food eat: unknown word \"b\"\nTry: agent food eat --help\n"),
            (&RULES, "", 2, "", "agent: food needs a word that says what to do\nTry: agent food --help\n"),
            (&RULES, "aet", 2, "", "agent: unknown command \"food aet\"\nTry: agent food --help\n"),
            (&RULES, "fial", 2, "", "agent: unknown command \"food fial\"\nTry: agent food --help\n"),
            (&RULES, "fai", 2, "", "agent: unknown command \"food fai\"; did you mean fail?\nTry: agent food --help\n"),
        ] {
            assert_eq!(run(family, line), (status, out.into(), err.into()), "{line}");
        }
        for line in ["help", "--help", "-h"] {
            assert!(
                run(&RULES, line)
                    .1
                    .ends_with("\nCommands:\n  eat        x\n  fail       x\n\nEach has its own: agent food COMMAND --help\n")
            );
        }
        assert!(run(&AUDIT, "--help").1.ends_with("Print this text\n\nCommands:\n  eat        x\n  fail       x\n"));
    }
}
