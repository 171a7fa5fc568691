//! What jobs are made of, and what agents can update to.

use crate::Millis;
use crate::version::Version;
use core::fmt;
use serde::{Deserialize, Serialize};

/// A named, versioned piece of work that agents can perform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: Version,
    /// The agent version it needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_agent_version: Option<Version>,
}

/// A named capability that a job can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// The agent version it needs.
    pub minimum_agent_version: Version,
}

/// What demands a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A task of the job.
    #[serde(rename_all = "camelCase")]
    Task {
        /// Its name.
        name: String,
        /// Its version.
        version: Version,
    },
    /// A feature that the job asks for.
    #[serde(rename_all = "camelCase")]
    Feature {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { name, version } => write!(f, "Task `{name}` version {version}"),
            Self::Feature { name } => write!(f, "Feature `{name}`"),
        }
    }
}

/// A version that something demands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// What demands it.
    pub source: Source,
    /// The least agent version that will do.
    pub minimum: Version,
}

/// A build of the agent that the pool can offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Its version.
    pub version: Version,
    /// Name of the package file.
    pub file: String,
    /// Its length, bytes.
    pub size: u64,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
    /// Ed25519 signature of the file's SHA-256 and version, by a key that the agents know; hexadecimal.
    pub signature: String,
    /// What is new, for people.
    #[serde(default)]
    pub notes: String,
    /// When it was offered.
    pub published: Millis,
}

impl Release {
    /// What its signature is over: three lines, so that a signature of one version is none of another.
    #[must_use]
    pub fn signed_text(version: &Version, sha256: &str) -> String {
        format!("azure-proxy-agent release\n{version}\n{sha256}\n")
    }
}

/// Whether a text is this many lower-case hexadecimal digits.
#[must_use]
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Longest name of a task, feature, agent or pool, in bytes.
pub const LONGEST_NAME: usize = 100;

/// Whether a text can be a name: letters, digits, `.`, `_`, `-`, not empty, not too long. Names stand in texts, tables and addresses.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    let shown = || name.chars().take(64).collect::<String>().escape_debug().to_string();
    if name.is_empty() {
        return Err(format!("the name of the {what} is empty"));
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("the name of the {what}, `{}…`, is longer than {LONGEST_NAME} bytes", shown()));
    }
    // Addresses and folders mean something else by these.
    if matches!(name, "." | "..") {
        return Err(format!("the {what} cannot be named `{name}`"));
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(c) => Err(format!(
            "the name of the {what}, `{}`, has the character `{}`; letters, digits, `.`, `_`, `-` are known",
            shown(),
            c.escape_debug()
        )),
        None => Ok(()),
    }
}
