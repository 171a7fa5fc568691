//! What the caller reads: the usage text, and what was wrong with the arguments.

use super::VERSION;
use crate::config::DEFAULT_PATH;
use crate::config::suggest::closest;
use std::fmt;

/// Long options without a value.
pub(super) const FLAGS: [&str; 5] = ["status", "version", "help", "foreground", "check-config"];

/// Everything that can stand on the command line, for suggestions.
const WORDS: [&str; 13] = [
    "--status",
    "--version",
    "--help",
    "--foreground",
    "--check-config",
    "--wait",
    "--config",
    "console",
    "detach",
    "redirector",
    "help",
    "rules",
    "audit",
];

/// The lines of the tools in the list of commands: of what this build has.
const TOOLS: &str = if cfg!(feature = "tools") {
    concat!(
        "  rules ...              Check, explain, test, learn, compare rules: see rules --help
",
        "  audit ...              Read the audit log: see audit --help
",
    )
} else {
    ""
};

/// The usage text of `program` (CLI-04).
#[must_use]
pub fn help(program: &str) -> String {
    format!(
        "\
{program} {VERSION}: guards the metadata endpoints of an Azure virtual machine

Usage: {program} [COMMAND] [OPTIONS]

Without arguments it runs as the service: in the foreground, until it is told to end.

Commands:
  console                Run in the foreground until Enter is pressed
  detach                 Remove what agents left in the kernel, the redirect first
  redirector             Do what needs privileges for a service without; systemd starts it
  help                   Print this text
{TOOLS}
Options:
  -s, --status           Ask the running agent whether provisioning has finished
  -w, --wait <seconds>   With --status: wait that long for it [default: 0: ask once]
      --config <file>    Read this configuration [default: {DEFAULT_PATH}]
      --check-config     Say what is wrong with the configuration, and end
      --foreground       Run as the service does, started by hand (ends at Ctrl-C)
  -v, --version          Print the version
  -h, --help             Print this text

Exit status of --status:
  0  finished
  1  not finished within the wait
  2  finished with errors (they are on standard output), or wrong arguments

Examples:
  {program} --status --wait 120 && echo ready
  {program} --check-config --config ./proxy-agent.json
  {program} --foreground --config ./proxy-agent.json
"
    )
}

/// Arguments that mean nothing (CLI-07).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UsageError {
    /// An option or command that does not exist.
    Unknown {
        /// As it was written.
        word: String,
        /// What may have been meant.
        meant: Option<&'static str>,
    },
    /// An option at the end that needs a value: its name, and what the value is.
    MissingValue(&'static str, &'static str),
    /// The value of `--wait` is not an unsigned 64-bit decimal number.
    NotANumber(String),
    /// A value for an option that takes none.
    TakesNoValue(String),
    /// `--wait` without `--status`.
    WaitWithoutStatus,
    /// Two values for one option.
    Twice(&'static str),
    /// Less than the usage line says, which is this.
    Missing(&'static str),
    /// Something else, in words.
    Wrong(String),
    /// Two commands.
    TwoCommands(&'static str, &'static str),
}

impl UsageError {
    /// CLI-07.
    pub const EXIT_STATUS: u8 = 2;

    pub(super) fn unknown(word: &str) -> Self {
        let name = word.split_once('=').map_or(word, |(name, _)| name);
        Self::Unknown { word: word.to_owned(), meant: closest(name, WORDS) }
    }

    pub(super) fn takes_no_value(name: &str) -> Self {
        Self::TakesNoValue(format!("--{name}"))
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word, meant } => {
                let kind = if word.starts_with('-') { "option" } else { "command" };
                write!(f, "unknown {kind} {word:?}")?;
                meant.map_or(Ok(()), |meant| write!(f, "; did you mean {meant}?"))
            }
            Self::MissingValue(option, what) => write!(f, "{option} needs {what}"),
            Self::NotANumber(value) => write!(f, "--wait needs a whole number of seconds, not {value:?}"),
            Self::TakesNoValue(option) => write!(f, "{option} takes no value"),
            Self::WaitWithoutStatus => f.write_str("--wait goes with --status only"),
            Self::Twice(option) => write!(f, "{option} is given twice"),
            Self::Missing(usage) => write!(f, "{usage} is expected"),
            Self::Wrong(text) => f.write_str(text),
            Self::TwoCommands(one, other) => write!(f, "{one} and {other} do not go together"),
        }
    }
}

impl std::error::Error for UsageError {}
