//! The command line.

use crate::client;
use crate::command::Runner;
use crate::config::{Config, DEFAULT_PATH};
use crate::daemon;
use crate::install;
use crate::log;
use crate::machine::Work;
use crate::store::{Folder, Identity};
use pool_core::pool::{Doing, Ended, Report};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn help() -> String {
    format!(
        "\
azure-proxy-agent-updater {}: jobs and updates of azure-proxy-agent, as its pool decides

Usage: azure-proxy-agent-updater COMMAND [OPTIONS]

Commands:
  register               Make this machine an agent of a pool, with a one-time token
  run                    Be the daemon
  status                 Print what it is, and what it does
  help                   Print this text

Options:
      --config <file>    Read this configuration [default: {DEFAULT_PATH}]
      --json             With status: for programs
  -v, --version          Print the version
  -h, --help             Print this text

Options of register:
      --server <url>     The controller: https://HOST[:PORT], or http:// on loopback
      --pool <name>      The pool
      --token-file <file>  The one-time token
      --name <name>      Name of the agent [default: the host's name]
      --ca <file>        Certificates (PEM) that the controller's must come from

Exit status:
  0  done
  1  refused, or failed
  2  wrong arguments

Examples:
  azure-proxy-agent-updater register --server https://pool.example --pool production --token-file token
  azure-proxy-agent-updater status --json
  systemctl enable --now azure-proxy-agent-updater.service
",
        env!("CARGO_PKG_VERSION")
    )
}

/// Why a command ended.
enum Failure {
    Usage(String),
    Other(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

/// Does what the arguments say.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    match command(arguments) {
        Ok(text) => {
            // Whoever reads no further has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Failure::Other(text)) => {
            log(&text);
            ExitCode::FAILURE
        }
        Err(Failure::Usage(text)) => {
            log(&format!("{text}\nTry: azure-proxy-agent-updater --help"));
            ExitCode::from(2)
        }
    }
}

fn command(arguments: &[String]) -> Result<String, Failure> {
    let (words, options) = parse(arguments).map_err(Failure::Usage)?;
    let flag = |name: &str| options.contains_key(name);
    if flag("help") || words == ["help"] {
        return Ok(help());
    }
    if flag("version") {
        return Ok(format!("{}\n", env!("CARGO_PKG_VERSION")));
    }
    let of_register = |name: &str| ["server", "pool", "token-file", "name", "ca"].contains(&name);
    let [command] = words.as_slice() else { return Err(Failure::Usage("give one command".into())) };
    if let Some(odd) = options.keys().find(|name| match command.as_str() {
        "register" => **name == "json",
        "status" => of_register(name),
        _ => **name == "json" || of_register(name),
    }) {
        return Err(Failure::Usage(format!("--{odd} is not for {command}")));
    }
    let config = || Config::read(options.get("config").map(Path::new));
    match command.as_str() {
        "run" => daemon::run(&config()?).map(|()| String::new()).map_err(Failure::Other),
        "status" => status(&config()?, flag("json")).map_err(Failure::Other),
        "register" => {
            let needed = |name: &str| options.get(name).ok_or_else(|| Failure::Usage(format!("register needs --{name}")));
            let (server, pool, token) = (needed("server")?, needed("pool")?, needed("token-file")?);
            let ca = options.get("ca").map(PathBuf::from);
            register(&config()?, server, pool, Path::new(token), options.get("name"), ca).map_err(Failure::Other)
        }
        other => Err(Failure::Usage(format!("unknown command `{}`", other.escape_debug()))),
    }
}

type Options = BTreeMap<&'static str, String>;

fn parse(arguments: &[String]) -> Result<(Vec<String>, Options), String> {
    const FLAGS: [(&str, &str); 3] = [("json", ""), ("version", "-v"), ("help", "-h")];
    const VALUES: [&str; 6] = ["config", "server", "pool", "token-file", "name", "ca"];
    let (mut words, mut options) = (Vec::new(), Options::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let (name, given) = argument.split_once('=').map_or((argument.as_str(), None), |(name, value)| (name, Some(value)));
        let long = name.strip_prefix("--");
        if let Some((flag, _)) = FLAGS.iter().find(|(flag, short)| long == Some(flag) || argument == short) {
            options.insert(flag, String::new());
        } else if let Some(name) = VALUES.iter().find(|name| long == Some(**name)) {
            let value = given.map(String::from).or_else(|| arguments.next().cloned());
            options.insert(name, value.ok_or_else(|| format!("--{name} needs a value"))?);
        } else if argument.starts_with('-') {
            return Err(format!("unknown option `{}`", argument.escape_debug()));
        } else {
            words.push(argument.clone());
        }
    }
    Ok((words, options))
}

fn register(
    config: &Config,
    server: &str,
    pool: &str,
    token: &Path,
    name: Option<&String>,
    ca: Option<PathBuf>,
) -> Result<String, String> {
    let folder = Folder::open(&config.state_folder)?;
    let lock = folder.lock(false).map_err(|e| format!("an updater runs already ({e}): stop it first"))?;
    if let Some(known) = folder.identity()? {
        return Err(format!(
            "this machine is agent `{}` of pool `{}` at {} already; remove {} to register it anew",
            known.name,
            known.pool,
            known.server,
            folder.path().join("identity.json").display()
        ));
    }
    let name = match name {
        Some(name) => name.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|e| e.to_string())?.trim().to_owned(),
    };
    let token = std::fs::read_to_string(token).map_err(|e| format!("{}: {e}", token.display()))?;
    let version = install::version(config, &Runner::new(None))?;
    let report = Report { version, capabilities: config.capabilities(), doing: Doing::Idle };
    // The token is good for one time: first we make sure that the key can be kept.
    folder.put_state(&folder.state()?).map_err(|e| format!("{}: {e}", folder.path().display()))?;
    let ca = ca.map(|ca| ca.canonicalize().map_err(|e| format!("{}: {e}", ca.display()))).transpose()?;
    let registered = client::register(server, pool, token.trim(), &name, &report, ca.as_deref())?;
    let (server, pool) = (server.to_owned(), pool.to_owned());
    let identity = Identity { server, pool, id: registered.id, name, version, key: registered.key, ca };
    folder.put_identity(&identity).map_err(|e| {
        format!("registered as agent {}, but the key cannot be kept ({e}): remove that agent, and register again", identity.id.0)
    })?;
    drop(lock);
    Ok(format!(
        "agent `{}` of pool `{}`; next: systemctl enable --now azure-proxy-agent-updater.service\n",
        identity.name, identity.pool
    ))
}

fn status(config: &Config, json: bool) -> Result<String, String> {
    let folder = Folder::at(&config.state_folder);
    let identity = folder.identity()?.ok_or("this machine is not registered")?;
    let stored = folder.state()?;
    let runs = install::version(config, &Runner::new(None));
    // Whoever holds the lock runs.
    let running = folder.lock(false).is_err();
    let (word, detail) = match &stored.work {
        Work::Idle => ("idle", String::new()),
        Work::Given { job, .. } => ("job", format!("job {} was given", job.0)),
        Work::Running { job, .. } => ("job", format!("job {} runs", job.0)),
        Work::Ended { job, ended, .. } => ("job", format!("job {} has ended, to be told: {}", job.0, outcome(ended))),
        Work::Update(update) => ("update", format!("from {} to {}: {}", update.previous, update.to.version, update.step)),
        Work::Updated { to, ended, .. } => ("update", format!("to {to} has ended, to be told: {}", outcome(ended))),
    };
    let good = stored.good.as_ref().map(|good| good.version.to_string());
    if json {
        let value: Value = json!({
            "agent": identity.name, "pool": identity.pool, "server": identity.server, "running": running,
            "version": runs.as_ref().ok(), "work": word, "detail": detail, "keptPackage": good,
        });
        return Ok(format!("{value}\n"));
    }
    Ok(format!(
        "agent      {}\npool       {} at {}\nupdater    {}\nversion    {}\nwork       {word} {detail}\nkept       {}\n",
        identity.name,
        identity.pool,
        identity.server,
        if running { "runs" } else { "does not run" },
        runs.map_or_else(|why| why, |version| version.to_string()),
        good.unwrap_or_else(|| "no package to go back to yet".into()),
    ))
}

fn outcome(ended: &Ended) -> &str {
    match ended {
        Ended::Well { .. } => "well",
        Ended::Badly { why } => why,
    }
}

#[cfg(test)]
mod tests {
    use super::{command, parse};

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn wrong_arguments_are_told() {
        for line in [
            "",
            "rnu",
            "run status",
            "register",
            "run --json",
            "status --pool p",
            "run --config",
            "run --x",
            "register --server x",
        ] {
            assert!(matches!(command(&words(line)), Err(super::Failure::Usage(_))), "{line}");
        }
    }

    #[test]
    fn options_have_two_forms_and_help_names_all() {
        let (_, options) = parse(&words("register --server=http://[::1]:1/?a=b --pool p -v")).unwrap();
        assert_eq!((options["server"].as_str(), options["pool"].as_str()), ("http://[::1]:1/?a=b", "p"));
        let help = command(&words("--help")).map_err(|_| ()).unwrap();
        for name in ["--config", "--json", "--version", "--help", "--server", "--pool", "--token-file", "--name", "--ca"] {
            assert!(help.contains(name), "{name}");
        }
    }
}
