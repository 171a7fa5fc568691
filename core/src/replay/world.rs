//! Policies and callers as JSON.

use super::text;
use crate::authz::{Document, Rules};
use crate::identity::{Claims, Confidence, Destination, ExeHash, Executable, Fact, OnDemand, PerDestination, RawText};
use crate::policy::{Epoch, Policy};
use crate::sign::{Key, KeyGuid, Signer};
use crate::time::{HostClock, Mono, Wall};
use serde::Deserialize;
use std::sync::Arc;

/// Guid of the test key `k1`.
const K1_GUID: &str = "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11";
/// The test key `k1`: the one of W-59's known answer.
const K1_KEY: &str = "4A404E635266556A586E3272357538782F413F4428472B4B6250645367566B59";

/// A named policy: its text, and what it means.
#[derive(Debug, Clone)]
pub struct PolicySpec {
    /// Name.
    pub name: String,
    /// JSON as written.
    pub text: String,
    /// The policy.
    pub policy: Arc<Policy>,
}

impl PartialEq for PolicySpec {
    fn eq(&self, other: &Self) -> bool {
        // The policy is made of the text.
        (&self.name, &self.text) == (&other.name, &other.text)
    }
}

impl Eq for PolicySpec {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyJson {
    epoch: Option<u64>,
    signer: Option<SignerJson>,
    settled: Option<bool>,
    host_clock: Option<String>,
    #[serde(default)]
    rules: RulesJson,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SignerJson {
    Named(String),
    Given { guid: String, key: String },
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RulesJson {
    imds: Option<Document>,
    wireserver: Option<Document>,
    hostga: Option<Document>,
}

impl PolicySpec {
    /// Reads a policy; `number` is its epoch unless it names one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str, json: &str, number: u64) -> Result<Self, String> {
        let read: PolicyJson = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let signer = match read.signer {
            None => None,
            Some(SignerJson::Named(name)) if name == "k1" => Some((K1_GUID.to_owned(), K1_KEY.to_owned())),
            Some(SignerJson::Named(name)) => return Err(format!("unknown key {name}")),
            Some(SignerJson::Given { guid, key }) => Some((guid, key)),
        };
        let signer = match signer {
            None => None,
            Some((guid, key)) => {
                let guid = KeyGuid::parse(&guid).map_err(|e| e.to_string())?;
                Some(Arc::new(Signer::new(guid, &Key::from_hex(&key).map_err(|e| e.to_string())?)))
            }
        };
        let host_clock = match read.host_clock {
            None => HostClock::System,
            Some(date) => {
                let wall = Wall::parse_http_date(date.as_bytes()).ok_or("hostClock is not an HTTP date")?;
                HostClock::Synchronized { mono: Mono(0), wall }
            }
        };
        let compile = |document: Option<Document>| document.map(|d| Arc::new(Rules::compile(&d).0));
        let rules = PerDestination {
            imds: compile(read.rules.imds),
            wireserver: compile(read.rules.wireserver),
            hostga: compile(read.rules.hostga),
        };
        let (epoch, settled) = (Epoch(read.epoch.unwrap_or(number)), read.settled.unwrap_or(true));
        let policy = Policy { epoch, rules, signer, settled, host_clock, ..Policy::default() };
        Ok(Self { name: name.into(), text: json.into(), policy: Arc::new(policy) })
    }
}

/// A named caller: its text, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimsSpec {
    /// Name.
    pub name: String,
    /// JSON as written.
    pub text: String,
    /// The caller.
    pub claims: Arc<Claims>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ClaimsJson {
    user_id: u32,
    /// Absent: the same number.
    group_id: Option<u32>,
    user_name: String,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    process_id: u32,
    #[serde(default)]
    process_full_path: String,
    #[serde(default)]
    process_cmd_line: String,
    /// Absent: nobody looked; empty: unknown.
    exe_sha256: Option<String>,
    /// The same.
    cgroup_path: Option<String>,
    /// When the accounts were asked, in seconds of the story.
    #[serde(default)]
    as_of: u64,
}

impl ClaimsSpec {
    /// Reads a caller. Members as in the identity object (I-02); a path with the prefix `mnt:` is one of another mount namespace,
    /// an empty one is unknown; names may have the escapes of heredocs.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str, json: &str) -> Result<Self, String> {
        let read: ClaimsJson = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let raw = |text: &str| {
            let mut bytes = Vec::new();
            text::unescape(text, &mut bytes).map(|_| RawText::from(bytes))
        };
        let path = read.process_full_path.as_str();
        let executable = match path.strip_prefix("mnt:") {
            Some(path) => Executable::Elsewhere(raw(path)?),
            None if path.is_empty() => Executable::Unknown,
            None => Executable::Known(raw(path)?),
        };
        let confidence = if path.is_empty() { Confidence::KernelOnly } else { Confidence::Verified };
        let claims = Claims {
            user_id: read.user_id,
            group_id: read.group_id.unwrap_or(read.user_id),
            user_name: raw(&read.user_name)?,
            user_groups: read.user_groups.iter().map(|g| raw(g)).collect::<Result<_, _>>()?,
            process_id: read.process_id,
            executable,
            command_line: read.process_cmd_line.into(),
            cgroup: 1,
            confidence,
            on_demand: OnDemand {
                as_of: Mono(read.as_of * 1_000_000_000),
                // No policy has this number: what a fixture does not know is looked for whenever rules ask.
                wanted_by: Epoch::default(),
                exe_hash: match read.exe_sha256.as_deref() {
                    None => Fact::NotAsked,
                    Some("") => Fact::Unknown,
                    Some(text) => Fact::Known(ExeHash::from_hex(text).ok_or("exeSha256 is not a hash")?),
                },
                cgroup_path: match read.cgroup_path.as_deref() {
                    None => Fact::NotAsked,
                    Some("") => Fact::Unknown,
                    Some(path) => Fact::Known(raw(path)?),
                },
            },
        };
        Ok(Self { name: name.into(), text: json.into(), claims: Arc::new(claims) })
    }

    /// The callers that every fixture knows: `root`, and `alice` who is nobody special.
    #[must_use]
    pub fn builtin(name: &str) -> Option<Arc<Claims>> {
        let (user_id, groups): (u32, &[&str]) = match name {
            "root" => (0, &["root"]),
            "alice" => (1000, &["alice", "docker"]),
            _ => return None,
        };
        Some(Arc::new(Claims {
            user_id,
            group_id: user_id,
            user_name: RawText::from(name),
            user_groups: groups.iter().map(|g| RawText::from(*g)).collect(),
            process_id: 4711,
            executable: Executable::Known(RawText::from("/usr/bin/curl")),
            command_line: "curl -s -H Metadata:true".into(),
            cgroup: 1,
            confidence: Confidence::Verified,
            on_demand: OnDemand::default(),
        }))
    }
}

/// The word for a guarded endpoint.
pub(super) const fn destination_word(destination: Destination) -> &'static str {
    match destination {
        Destination::Imds => "imds",
        Destination::WireServer => "wireserver",
        Destination::HostGaPlugin => "hostga",
    }
}
