//! The command line of both daemons (cli.md section 1): arguments to an [`Invocation`], and everything that needs no daemon.

#[cfg(feature = "tools")]
mod args;
#[cfg(feature = "tools")]
mod audit;
mod detach;
#[cfg(test)]
#[cfg(feature = "tools")]
mod golden;
#[cfg(feature = "tools")]
mod recorded;
#[cfg(feature = "tools")]
mod rules;
#[cfg(feature = "tools")]
mod term;
#[cfg(test)]
mod tests;
#[cfg(feature = "tools")]
mod tool;
mod usage;

use crate::config::{self, Config, Warning};
use crate::host::inherit;
use crate::redirector::server;
use crate::status_client::StatusClient;
pub use usage::{UsageError, help};

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Version of the product (CLI-03).
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the caller wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Run until the service manager ends it (CLI-01).
    Daemon(Settings),
    /// Run until Enter is pressed (CLI-02).
    Console(Settings),
    /// Print the version (CLI-03).
    Version,
    /// Print the usage text (CLI-04).
    Help,
    /// Ask the running daemon whether provisioning has finished (CLI-05, CLI-06).
    Status {
        /// How long to wait for it.
        wait: Duration,
    },
    /// Read the configuration, say what is wrong with it, end.
    CheckConfig {
        /// Another file than the standard one.
        config: Option<PathBuf>,
    },
    /// Be the part of the agent that needs privileges, for a daemon that has none.
    Redirector {
        /// Another file than the standard one.
        config: Option<PathBuf>,
    },
    /// Remove everything that agents left in the kernel (S-03).
    Detach {
        /// Another file than the standard one.
        config: Option<PathBuf>,
    },
}

/// What a running agent can be told on its command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Another configuration file than the standard one.
    pub config: Option<PathBuf>,
    /// Started by hand: as the daemon, without looking for a service manager.
    pub foreground: bool,
}

/// Reads the arguments, program name excluded.
///
/// # Errors
/// [`UsageError`] (CLI-07): belongs on standard error, exit status [`UsageError::EXIT_STATUS`].
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut found = Found::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        // Nothing that we know is not UTF-8, except the value of --config.
        let Some(text) = arg.to_str() else { return Err(UsageError::unknown(&arg.to_string_lossy())) };
        if let Some(long) = text.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.into())));
            match name {
                "wait" => found.wait(value.or_else(|| args.next()))?,
                "config" => found.config(value.or_else(|| args.next()))?,
                _ if value.is_some() && usage::FLAGS.contains(&name) => return Err(UsageError::takes_no_value(name)),
                "status" => found.status = true,
                "version" => found.version = true,
                "foreground" => found.foreground = true,
                "check-config" => found.check = true,
                // Whoever asks for help gets it, whatever follows.
                "help" => return Ok(Invocation::Help),
                _ => return Err(UsageError::unknown(text)),
            }
        } else if let Some(shorts) = text.strip_prefix('-').filter(|s| !s.is_empty()) {
            let mut rest = shorts.chars();
            while let Some(short) = rest.next() {
                match short {
                    's' => found.status = true,
                    'v' => found.version = true,
                    'h' => return Ok(Invocation::Help),
                    'w' => {
                        // The rest of the word is the value: `-w5`, `-w=5`; else the next word.
                        let value = rest.as_str();
                        let value = value.strip_prefix('=').unwrap_or(value);
                        found.wait(if value.is_empty() { args.next() } else { Some(value.into()) })?;
                        break;
                    }
                    _ => return Err(UsageError::unknown(text)),
                }
            }
        } else {
            match text {
                "console" => found.console = true,
                "detach" => found.detach = true,
                "redirector" => found.redirector = true,
                "help" => return Ok(Invocation::Help),
                _ => return Err(UsageError::unknown(text)),
            }
        }
    }
    found.invocation()
}

/// Options seen so far.
#[derive(Default)]
struct Found {
    version: bool,
    status: bool,
    console: bool,
    foreground: bool,
    check: bool,
    detach: bool,
    redirector: bool,
    wait: Option<Duration>,
    config: Option<PathBuf>,
}

impl Found {
    fn wait(&mut self, value: Option<OsString>) -> Result<(), UsageError> {
        let value = value.ok_or(UsageError::MissingValue("--wait", "a number of seconds"))?;
        // `parse` alone would also take a leading plus sign.
        let seconds = value.to_str().filter(|v| v.bytes().all(|b| b.is_ascii_digit())).and_then(|v| v.parse().ok());
        let seconds = seconds.ok_or_else(|| UsageError::NotANumber(value.to_string_lossy().into_owned()))?;
        once(&mut self.wait, "--wait", Duration::from_secs(seconds))
    }

    fn config(&mut self, value: Option<OsString>) -> Result<(), UsageError> {
        let value = value.filter(|v| !v.is_empty()).ok_or(UsageError::MissingValue("--config", "a file"))?;
        once(&mut self.config, "--config", value.into())
    }

    /// CLI-07, CLI-08: `--version` wins over `--status`, which wins over `console`.
    fn invocation(self) -> Result<Invocation, UsageError> {
        if self.wait.is_some() && !self.status {
            return Err(UsageError::WaitWithoutStatus);
        }
        let settings = Settings { config: self.config, foreground: self.foreground };
        let commands = [(self.console, "console"), (self.detach, "detach"), (self.redirector, "redirector")];
        let mut given = commands.into_iter().filter_map(|(given, name)| given.then_some(name));
        if let (Some(one), Some(other)) = (given.next(), given.next()) {
            return Err(UsageError::TwoCommands(one, other));
        }
        Ok(if self.version {
            Invocation::Version
        } else if self.status {
            Invocation::Status { wait: self.wait.unwrap_or_default() }
        } else if self.check {
            Invocation::CheckConfig { config: settings.config }
        } else if self.detach {
            Invocation::Detach { config: settings.config }
        } else if self.redirector {
            Invocation::Redirector { config: settings.config }
        } else if self.console {
            Invocation::Console(settings)
        } else {
            Invocation::Daemon(settings)
        })
    }
}

fn once<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), UsageError> {
    if slot.replace(value).is_some() { Err(UsageError::Twice(name)) } else { Ok(()) }
}

/// What `main` does next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, once")]
pub enum Next {
    /// Everything is done: end with this status.
    Exit(u8),
    /// Be the agent.
    Run(Run),
}

/// How to be the agent.
#[derive(Debug)]
pub struct Run {
    /// What the configuration says.
    pub config: Config,
    /// What is odd about it: to be logged once there is a log.
    pub warnings: Vec<Warning>,
    /// Print the prompt of CLI-02 and end at a line on standard input.
    pub console: bool,
    /// Started by hand.
    pub foreground: bool,
}

/// Does what needs no daemon, and loads the configuration for what does. `started` is when the process began, as nearly as
/// `main` can tell, `program` what it is called in texts.
pub fn begin(
    program: &str,
    args: impl IntoIterator<Item = OsString>,
    started: Instant,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Next {
    let mut args = args.into_iter().peekable();
    if let Some(word) = args.next_if(|first| TOOLS.iter().any(|tool| first == tool)) {
        return Next::Exit(tools(program, &word, args, out, err));
    }
    let invocation = match parse(args) {
        Ok(invocation) => invocation,
        Err(e) => {
            let _ = writeln!(err, "{program}: {e}\nTry: {program} --help");
            return Next::Exit(UsageError::EXIT_STATUS);
        }
    };
    let (settings, console) = match invocation {
        Invocation::Daemon(settings) => (settings, false),
        Invocation::Console(settings) => (settings, true),
        Invocation::Version => return print(out, &format!("{VERSION}\n")),
        Invocation::Help => return print(out, &help(program)),
        Invocation::Status { wait } => return Next::Exit(StatusClient::new(wait, started).run(out, err)),
        Invocation::CheckConfig { config } => return Next::Exit(check(config.as_deref(), out, err)),
        Invocation::Redirector { config } => return redirector(program, config.as_deref(), err),
        Invocation::Detach { config } => return Next::Exit(detach::run(program, config.as_deref(), out, err)),
    };
    match Config::load(settings.config.as_deref()) {
        Ok((config, warnings)) => Next::Run(Run { config, warnings, console, foreground: settings.foreground }),
        Err(e) => {
            let _ = writeln!(err, "{e}");
            Next::Exit(config::EXIT_STATUS)
        }
    }
}

/// Serves a daemon until that has gone; returns if it cannot.
fn redirector(program: &str, config: Option<&Path>, err: &mut dyn Write) -> Next {
    // The first descriptors that this process has are those that it was given.
    let handed_over = inherit::take();
    let is_service = !handed_over.is_empty();
    let (why, status) = match Config::load(config) {
        Ok((config, _)) => match server::run(handed_over, config) {
            Ok(()) => return Next::Exit(0),
            Err(e) => (format!("{program}: {e}"), 1),
        },
        Err(e) => (e.to_string(), config::EXIT_STATUS),
    };
    let _ = writeln!(err, "{why}");
    if is_service {
        // Who asked still waits in the queue of the socket, and the service manager starts the next one at once.
        std::thread::sleep(BEFORE_THE_NEXT);
    }
    Next::Exit(status)
}

/// How long a redirector that cannot begin puts off the next attempt.
const BEFORE_THE_NEXT: Duration = Duration::from_secs(1);

/// The first words that are not the daemon's: each has arguments of its own.
const TOOLS: [&str; 2] = ["rules", "audit"];

/// Runs `rules …` or `audit …`; the exit status.
#[cfg(feature = "tools")]
fn tools(program: &str, word: &OsStr, args: impl Iterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut io = tool::Io { out, err, term: term::Term::stdout() };
    let families = [rules::FAMILY, audit::FAMILY];
    families.iter().find(|family| word == family.word).map_or(tool::FAILED, |family| family.run(program, args, &mut io))
}

/// Says where `rules …` and `audit …` are.
#[cfg(not(feature = "tools"))]
fn tools(program: &str, word: &OsStr, _: impl Iterator<Item = OsString>, _: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let word = word.display();
    let _ = writeln!(err, "{program}: this build is without the command {word}; the package azure-proxy-agent has it");
    UsageError::EXIT_STATUS
}

fn print(out: &mut dyn Write, text: &str) -> Next {
    // A reader that has gone (`| head -1`) is not our failure.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Next::Exit(0)
}

/// `--check-config`: 0 if the file can be used (warnings are on standard error), [`config::EXIT_STATUS`] if not.
fn check(path: Option<&Path>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match Config::load(path) {
        Ok((config, warnings)) => {
            for warning in &warnings {
                let _ = writeln!(err, "{warning}");
            }
            let oddities = match warnings.len() {
                0 => String::new(),
                1 => ", 1 warning".into(),
                n => format!(", {n} warnings"),
            };
            let _ = writeln!(out, "{}: ok{oddities}", config.path.display());
            0
        }
        Err(e) => {
            let _ = writeln!(err, "{e}");
            config::EXIT_STATUS
        }
    }
}
