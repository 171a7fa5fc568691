//! `sandbox`: see `--help`.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitCode;

use azure_host_sim::control;
use sandbox::{AgentOptions, HostOptions, Sandbox, User, sys};

const HELP: &str = "\
Usage: sandbox run [OPTION]... -- COMMAND [ARGUMENT]...
       sandbox shell [OPTION]...

Runs a command in a world of its own: a network with only lo, on which 169.254.169.254 and
168.63.129.16 are a simulated Azure host that verifies every signature; its own cgroup and
bpffs. Everything is removed when the command ends. Needs root.

  --user NAME            run the command as this user         [root]
  --agent PATH           start this agent first, and wait until it is provisioned
  --agent-config K=JSON  change a member of the agent's configuration (repeatable)
  --host-mode MODE       disabled, audit or enforce           [enforce]
  --host-version V       of the host's status document, 1.0 or 2.0 [2.0]
  --rules FILE           authorizationRules of the status document (JSON)
  --host-log FILE        one JSON line per request that the host received
  --host-imds ADDR       the host's IMDS listens here instead, and leaves 169.254.169.254:80 to another
                         program (loopback addresses only; for benches)
  --no-record            the host keeps no records (for benches)
  --control PORT         the host's control port, on 127.0.0.1 inside (see azure-host-sim --help)
  -h, --help

The command finds SANDBOX_DIR (configuration, keys, logs) and SANDBOX_CGROUP in its environment.

Examples:
  sandbox run -- curl -s -H Metadata:true http://169.254.169.254/metadata/versions
  sandbox run --agent target/release/azure-proxy-agent --user nobody -- \\
      curl -s -H Metadata:true 'http://169.254.169.254/metadata/instance?api-version=2021-02-01'
  sandbox shell --agent target/release/azure-proxy-agent --control 9080
";

struct Request {
    user: Option<String>,
    agent: Option<PathBuf>,
    config: Vec<(String, serde_json::Value)>,
    host: HostOptions,
    control: Option<u16>,
    command: Vec<String>,
}

fn main() -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(Some(request)) => request,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("sandbox: {why}; try --help");
            return ExitCode::from(2);
        }
    };
    match run(&request) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("sandbox: {e}");
            ExitCode::from(125)
        }
    }
}

fn run(request: &Request) -> io::Result<u8> {
    let user = request.user.as_deref().map(User::named).transpose()?;
    sys::outlive_keyboard_signals();
    let sandbox = Sandbox::enter()?;
    let host = sandbox.start_host(request.host.clone())?;
    if let Some(port) = request.control {
        sandbox.in_network(|| control::start(SocketAddr::from(([127, 0, 0, 1], port)), host.host().clone()))??;
    }
    let agent = match &request.agent {
        Some(program) => {
            let mut options = AgentOptions::new(program);
            options.config.clone_from(&request.config);
            Some(sandbox.start_agent(&options)?)
        }
        None => None,
    };
    let (program, arguments) = request.command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut command = match &user {
        Some(user) => sandbox.command_as(user, program),
        None => sandbox.command(program),
    };
    command.args(arguments).env("SANDBOX_DIR", sandbox.directory()).env("SANDBOX_CGROUP", sandbox.cgroup());
    let status = command.status().map_err(|e| io::Error::new(e.kind(), format!("{program}: {e}")))?;
    drop(agent);
    // As a shell reports it.
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(1))
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Request>, String> {
    let shell = match arguments.next().as_deref() {
        Some("run") => false,
        Some("shell") => true,
        Some("-h" | "--help" | "help") => return Ok(None),
        Some(other) => return Err(format!("unknown command {other}")),
        None => return Err("what shall I do: run or shell?".to_owned()),
    };
    let mut request =
        Request { user: None, agent: None, config: Vec::new(), host: HostOptions::default(), control: None, command: Vec::new() };
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            request.command = arguments.by_ref().collect();
            break;
        }
        if matches!(argument.as_str(), "-h" | "--help") {
            return Ok(None);
        }
        if argument == "--no-record" {
            request.host.no_record = true;
            continue;
        }
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let known = [
            "--user",
            "--agent",
            "--agent-config",
            "--host-mode",
            "--host-version",
            "--rules",
            "--host-log",
            "--host-imds",
            "--control",
        ];
        if !known.contains(&name.as_str()) {
            return Err(format!("unknown option {name}"));
        }
        let value = inline.or_else(|| arguments.next()).ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--user" => request.user = Some(value),
            "--agent" => request.agent = Some(std::path::absolute(&value).map_err(|e| format!("--agent {value}: {e}"))?),
            "--agent-config" => request.config.push(member(&value)?),
            "--host-mode" => request.host.mode = value.parse().map_err(|e| format!("--host-mode: {e}"))?,
            "--host-version" => request.host.version = value.parse().map_err(|e| format!("--host-version: {e}"))?,
            "--rules" => {
                let text = std::fs::read_to_string(&value).map_err(|e| format!("--rules {value}: {e}"))?;
                request.host.rules = Some(serde_json::from_str(&text).map_err(|e| format!("--rules {value}: {e}"))?);
            }
            "--host-log" => request.host.log = Some(value.into()),
            "--host-imds" => request.host.imds = value.parse().map_err(|e| format!("--host-imds {value}: {e}"))?,
            _ => request.control = Some(value.parse().map_err(|e| format!("--control {value}: {e}"))?),
        }
    }
    match (shell, request.command.is_empty()) {
        (true, true) => request.command.push(std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())),
        (true, false) => return Err("shell takes no command".to_owned()),
        (false, true) => return Err("run needs -- COMMAND".to_owned()),
        (false, false) => {}
    }
    Ok(Some(request))
}

fn member(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("--agent-config {text}: not of the form NAME=JSON"))?;
    let value = serde_json::from_str(value).map_err(|e| format!("--agent-config {text}: {e}"))?;
    Ok((name.to_owned(), value))
}
