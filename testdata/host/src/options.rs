//! What can be asked of the host: modes, options, and their form on the command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::Value;

/// How strict the host is, and what its status document demands of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The secure channel is off.
    Disabled,
    /// Signatures are checked and recorded, everything is served.
    Audit,
    /// Whatever is not properly signed is refused.
    #[default]
    Enforce,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word.to_ascii_lowercase().as_str() {
            "disabled" => Ok(Self::Disabled),
            "audit" => Ok(Self::Audit),
            "enforce" => Ok(Self::Enforce),
            _ => Err(format!("{word:?} is none of disabled, audit, enforce")),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "disabled",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        })
    }
}

/// Version of the status document (W-26).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `1.0`: a state word.
    V1,
    /// `2.0`: a switch and rules.
    #[default]
    V2,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "1.0" => Ok(Self::V1),
            "2.0" => Ok(Self::V2),
            _ => Err(format!("{word:?} is neither 1.0 nor 2.0")),
        }
    }
}

/// Everything a host is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where IMDS listens.
    pub imds: SocketAddr,
    /// Where the WireServer listens.
    pub wireserver: SocketAddr,
    /// Where the host plug-in listens.
    pub hostga: SocketAddr,
    /// Directory in which keys outlive the host.
    pub state_dir: Option<PathBuf>,
    /// Version of the status document.
    pub version: Version,
    /// Strictness.
    pub mode: Mode,
    /// The member `authorizationRules` of the status document; without it documents follow the mode.
    pub rules: Option<Value>,
    /// File for one JSON line per request.
    pub log: Option<PathBuf>,
    /// Keep no records at all: for benches.
    pub no_record: bool,
    /// How far the host's clock is ahead of this machine's, in seconds.
    pub skew: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            imds: SocketAddr::from(([169, 254, 169, 254], 80)),
            wireserver: SocketAddr::from(([168, 63, 129, 16], 80)),
            hostga: SocketAddr::from(([168, 63, 129, 16], 32526)),
            state_dir: None,
            version: Version::default(),
            mode: Mode::default(),
            rules: None,
            log: None,
            no_record: false,
            skew: 0,
        }
    }
}

impl Options {
    /// All three endpoints on `127.0.0.1` at ports that the kernel chooses: for tests without a network of their own.
    pub fn loopback() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { imds: any, wireserver: any, hostga: any, ..Self::default() }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Print the help text.
    Help,
    /// Serve.
    Run {
        /// The host.
        options: Box<Options>,
        /// Address of the control port.
        control: Option<SocketAddr>,
        /// Descriptor to which `ready` is written, instead of standard output.
        ready_fd: Option<u32>,
    },
}

/// The help text.
pub const HELP: &str = "\
Usage: azure-host-sim [OPTION]...

A simulated Azure host: WireServer, HostGAPlugin and IMDS. Verifies every signature.
Starts only where it cannot be mistaken for the real one: each address must be a loopback
address, or configured on lo of a network namespace in which nothing else is up.

  --imds ADDR            where IMDS listens             [169.254.169.254:80]
  --wireserver ADDR      where the WireServer listens   [168.63.129.16:80]
  --hostga ADDR          where the host plug-in listens [168.63.129.16:32526]
  --mode MODE            disabled, audit or enforce     [enforce]
  --version VERSION      of the status document, 1.0 or 2.0 [2.0]
  --rules FILE           authorizationRules of the status document (JSON)
  --state-dir DIR        where keys outlive a restart
  --log FILE             one JSON line per request
  --no-record            keep and write no records (for benches)
  --skew SECONDS         how far the host's clock is ahead
  --control ADDR         loopback address of the control port:
                           POST /mode?to=MODE      POST /rules (body: JSON, empty for the default)
                           POST /rotate[?to=none][?revoke=1]   POST /skew?seconds=N
                           POST /delay?ms=N[&what=WHAT]
                           POST /fail?count=N&how=HOW[&what=WHAT]
                           GET /requests   DELETE /requests   GET /keys
                           HOW: 500, reset, garbage, badjson, silent, redirect, huge
                           WHAT: status (default of fail), key, attest, wireserver, hostga, imds, all (default of delay)
  --ready-fd N           write the line `ready` to this descriptor instead of standard output
  -h, --help

Examples:
  azure-host-sim --imds 127.0.0.1:8080 --wireserver 127.0.0.1:8081 --hostga 127.0.0.1:8082 --mode audit
  unshare --net sh -c 'ip link set lo up; ip addr add 169.254.169.254/32 dev lo;
      ip addr add 168.63.129.16/32 dev lo; exec azure-host-sim --log requests.jsonl'
";

/// Reads the command line (without the program's name).
///
/// # Errors
/// A sentence about the argument that cannot be used.
pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    fn read<T: FromStr>(name: &str, text: &str) -> Result<T, String>
    where
        T::Err: fmt::Display,
    {
        text.parse().map_err(|e| format!("{name} {text}: {e}"))
    }
    let mut options = Options::default();
    let (mut control, mut ready_fd) = (None, None);
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        match (name.as_str(), &inline) {
            ("-h" | "--help", None) => return Ok(Command::Help),
            ("--no-record", None) => {
                options.no_record = true;
                continue;
            }
            (
                "--imds" | "--wireserver" | "--hostga" | "--mode" | "--version" | "--rules" | "--state-dir" | "--log" | "--skew"
                | "--control" | "--ready-fd",
                _,
            ) => {}
            _ => return Err(format!("unknown option {name}")),
        }
        let value = inline.or_else(|| arguments.next()).ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--imds" => options.imds = read(&name, &value)?,
            "--wireserver" => options.wireserver = read(&name, &value)?,
            "--hostga" => options.hostga = read(&name, &value)?,
            "--mode" => options.mode = read(&name, &value)?,
            "--version" => options.version = read(&name, &value)?,
            "--rules" => options.rules = Some(rules_file(&value)?),
            "--state-dir" => options.state_dir = Some(value.into()),
            "--log" => options.log = Some(value.into()),
            "--skew" => options.skew = read(&name, &value)?,
            "--control" => control = Some(read(&name, &value)?),
            _ => ready_fd = Some(read(&name, &value)?),
        }
    }
    Ok(Command::Run { options: Box::new(options), control, ready_fd })
}

fn rules_file(path: &str) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("--rules {path}: {e}"))?;
    serde_json::from_str(&text).map_err(|e| format!("--rules {path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn unknown_options_and_bad_values_are_refused() {
        for line in ["--verbose", "x", "--mode", "--mode strict", "--imds 1.2.3.4", "--no-record=1", "--version 3.0"] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn values_with_and_without_equals_sign() {
        let Ok(Command::Run { options, control, .. }) = words("--mode=audit --control 127.0.0.1:9 --version 1.0") else {
            panic!()
        };
        assert_eq!((options.mode, options.version, control.unwrap().port()), (Mode::Audit, Version::V1, 9));
    }
}
