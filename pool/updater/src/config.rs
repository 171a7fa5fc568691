//! The configuration: `/etc/azure/proxy-agent-updater.json`. Every member has a default but the keys, without which no release is good.

use crate::machine::WithoutWayBack;
use pool_core::demand::Capabilities;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where it is, if nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/azure/proxy-agent-updater.json";

/// See pool/README.md. Commands are lists: a program and its arguments, no shell; `{package}` is the package file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Ed25519 public keys, hexadecimal; a release must be signed with one of them.
    pub keys: Vec<String>,
    /// What else this agent can say of itself, for demands.
    pub capabilities: Capabilities,
    /// Identity, state, packages.
    pub state_folder: PathBuf,
    /// The agent's program.
    pub agent: PathBuf,
    /// The agent's configuration.
    pub agent_config: PathBuf,
    /// Installs `{package}`.
    pub install: Vec<String>,
    /// Restarts the agent after that.
    pub restart: Vec<String>,
    /// Has the agent open its log files anew.
    pub reload: Vec<String>,
    /// Folders that installing must be able to write.
    pub install_folders: Vec<PathBuf>,
    /// Whether an update may begin when there is no package to go back to.
    pub without_way_back: WithoutWayBack,
    /// Largest package, bytes.
    pub largest_package: u64,
    /// Bytes that must stay free where the package is kept and where it is installed.
    pub spare_bytes: u64,
    /// Seconds for the download of a package.
    pub download_within: u64,
    /// Seconds for the package manager.
    pub install_within: u64,
    /// Seconds until a version that was installed is ready.
    pub ready_within: u64,
    /// Seconds until the agent has looked at a new rules file.
    pub rules_within: u64,
    /// Seconds that a question to the pool waits for an answer.
    pub poll_wait: u64,
    /// Seconds between two reports while it works.
    pub report_every: u64,
}

impl Default for Config {
    fn default() -> Self {
        let words = |line: &str| line.split(' ').map(String::from).collect();
        Self {
            keys: Vec::new(),
            capabilities: Capabilities::new(),
            state_folder: "/var/lib/azure-proxy-agent-updater".into(),
            agent: "/usr/sbin/azure-proxy-agent".into(),
            agent_config: "/etc/azure/proxy-agent.json".into(),
            // The owner's configuration files stay as they are.
            install: words("dpkg --force-confdef --force-confold --install {package}"),
            restart: words("systemctl restart azure-proxy-agent.service"),
            reload: words("systemctl reload azure-proxy-agent.service"),
            install_folders: vec!["/usr/sbin".into(), "/var/lib/dpkg".into()],
            without_way_back: WithoutWayBack::Refuse,
            largest_package: 64 << 20,
            spare_bytes: 32 << 20,
            download_within: 300,
            install_within: 180,
            ready_within: 90,
            rules_within: 3,
            poll_wait: 50,
            report_every: 20,
        }
    }
}

impl Config {
    /// Reads it. The standard file may be absent: then updates fail, since there is no key, and jobs work.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: Option<&Path>) -> Result<Self, String> {
        let place = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(place) {
            Ok(text) => text,
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(format!("{}: {e}", place.display())),
        };
        let config: Self = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", place.display()))?;
        config.check().map_err(|e| format!("{}: {e}", place.display()))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        for key in &self.keys {
            if unhex(key).is_none_or(|bytes| bytes.len() != 32) {
                return Err(format!("keys: `{key}` is no Ed25519 public key, which is 64 hexadecimal digits"));
            }
        }
        for (name, command) in [("install", &self.install), ("restart", &self.restart), ("reload", &self.reload)] {
            if command.is_empty() {
                return Err(format!("{name}: a command has at least one word"));
            }
        }
        if !self.install.iter().any(|word| word.contains("{package}")) {
            return Err("install: `{package}` does not occur in it".into());
        }
        for (key, value) in &self.capabilities {
            pool_core::demand::check(key, value).map_err(|e| format!("capabilities: {e}"))?;
        }
        Ok(())
    }

    /// Seconds as a duration, at least one.
    pub(crate) fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds.max(1))
    }

    /// What this agent says of itself: system, architecture, and what the configuration adds.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let mut said = os(&release);
        said.insert("arch".into(), std::env::consts::ARCH.into());
        said.extend(self.capabilities.clone());
        said
    }
}

/// `os` and `os-version` of os-release(5).
fn os(release: &str) -> Capabilities {
    let member = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned())
    };
    let pairs = [("os", member("ID")), ("os-version", member("VERSION_ID"))];
    let known = pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    known.filter(|(key, value)| pool_core::demand::check(key, value).is_ok()).collect()
}

/// Bytes of hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// Hexadecimal digits of bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{Config, hex, os, unhex};

    #[test]
    fn a_configuration_says_what_is_wrong_with_it() {
        let parse = |text: &str| serde_json::from_str::<Config>(text).map_err(|e| e.to_string()).and_then(|c| c.check());
        assert_eq!(parse("{}"), Ok(()));
        for (text, words) in [
            (r#"{"keys": ["ab"]}"#, "64 hexadecimal digits"),
            (r#"{"keys": ["zz"]}"#, "64 hexadecimal digits"),
            (r#"{"install": ["dpkg"]}"#, "{package}"),
            (r#"{"restart": []}"#, "at least one word"),
            (r#"{"capabilities": {"a b": "c"}}"#, "capabilities: "),
            (r#"{"withoutWayBack": "maybe"}"#, "expected `refuse` or `goOn`"),
            (r#"{"installs": ["x"]}"#, "unknown field"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_system_is_known_from_os_release() {
        let said = os("PRETTY_NAME=\"X\"\nVERSION_ID=\"12\"\nID=debian\n");
        assert_eq!((said["os"].as_str(), said["os-version"].as_str()), ("debian", "12"));
        assert!(os("ID=\n").is_empty());
    }

    #[test]
    fn hexadecimal_there_and_back() {
        assert_eq!(unhex("00ff7a").map(|bytes| hex(&bytes)).as_deref(), Some("00ff7a"));
        assert!(unhex("0").is_none() && unhex("0g").is_none() && unhex("é0").is_none());
    }
}
