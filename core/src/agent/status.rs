//! The status document (files.md section 6) and the texts around it: how the agent's parts are, for people and for readers that
//! exist.

use super::effect::{AgentEffect, QueryId, StateFile};
use super::summary::Entry;
use super::{Agent, Summaries};
use crate::effect::{LocalReply, RecordKind};
use crate::identity::{Destination, TargetMode};
use crate::json;
use crate::time::{Now, Wall};
use core::fmt;
use serde::Serialize;
use std::collections::BTreeMap;

/// Longest message of a module (FS-52, PX-57), in bytes.
const MESSAGE: usize = 1024;

/// `text`, cut at the last character boundary at or before `max` bytes.
fn cut(text: &str, max: usize) -> (&str, bool) {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (text.get(..end).unwrap_or_default(), end < text.len())
}

/// State of one part of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum ModuleState {
    #[default]
    Unknown,
    Running,
    Stopped,
}

/// One part of the agent: state and message (FS-52). The message is cut when it is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Module {
    pub(super) status: ModuleState,
    pub(super) message: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) states: BTreeMap<&'static str, String>,
}

impl Module {
    pub(super) fn new(status: ModuleState, message: &str) -> Self {
        let (kept, was_cut) = cut(message, MESSAGE);
        let message = if was_cut { format!("{kept}...") } else { kept.to_owned() };
        Self { status, message, states: BTreeMap::new() }
    }
}

impl Default for Module {
    fn default() -> Self {
        Self::new(ModuleState::Unknown, "Status unknown.")
    }
}

/// The whole document, members in the order of FS-41 to FS-51.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(serialize_with = "as_text")]
    timestamp: crate::time::Stamp,
    proxy_agent_status: &'a StatusDraft,
    proxy_connection_summary: Vec<Entry<'a>>,
    failed_authenticate_summary: Vec<Entry<'a>>,
}

/// The status document but for the tables of requests, which connections fill without the agent: whoever keeps the tables
/// [`complete`](Self::complete)s it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDraft {
    version: Box<str>,
    status: Overall,
    monitor_status: Module,
    key_latch_status: Module,
    ebpf_program_status: Module,
    proxy_listener_status: Module,
    telemetry_logger_status: Module,
    proxy_connections_count: u64,
}

/// Who reads a status document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusReader {
    /// To a caller, compact (PX-62).
    Query(QueryId),
    /// To the status file, pretty-printed (FS-40).
    File,
}

impl StatusDraft {
    /// The same without what changes all the time: to tell whether there is anything new for a reader.
    pub(super) fn timeless(self) -> Self {
        Self { proxy_connections_count: 0, ..self }
    }

    /// Adds the tables and the time; gives the effect to carry out in place of [`AgentEffect::Status`].
    #[must_use]
    pub fn complete(&self, to: StatusReader, tables: &mut Summaries, now: Now) -> AgentEffect {
        tables.expire(now);
        let document = Document {
            timestamp: now.wall.stamp(),
            proxy_agent_status: self,
            proxy_connection_summary: tables.export(RecordKind::Normal),
            failed_authenticate_summary: tables.export(RecordKind::Failed),
        };
        // Texts and numbers written to memory: cannot fail. If it did, an empty object is what readers take for "no status".
        match to {
            StatusReader::Query(to) => {
                let mut body = Vec::new();
                let reply =
                    json::append(&mut body, &document).map_or(LocalReply::Unavailable, |()| LocalReply::Json(body.into()));
                AgentEffect::Reply { to, reply }
            }
            StatusReader::File => {
                let mut bytes = Vec::new();
                if json::append_pretty(&mut bytes, &document).is_err() {
                    bytes.extend_from_slice(b"{}");
                }
                AgentEffect::WriteState { file: StateFile::Status, bytes: bytes.into() }
            }
        }
    }
}

/// FS-43.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Overall {
    Success,
    #[default]
    Error,
}

impl Overall {
    /// All of the three must run.
    fn of(modules: [&Module; 3]) -> Self {
        if modules.iter().all(|m| m.status == ModuleState::Running) { Self::Success } else { Self::Error }
    }
}

impl Agent {
    /// State of the key module, with what is wrong with the rules (S-23).
    pub(super) fn key_module(&self) -> Module {
        let found = Destination::ALL.iter().flat_map(|destination| self.remarks.get(*destination)).map(String::as_str);
        let remarks: Vec<&str> = self.rule_files.problems().chain(found).chain(self.background.tag_problems()).collect();
        match self.keeper.message() {
            "" => Module::default(),
            message if remarks.is_empty() => Module::new(ModuleState::Running, message),
            message => Module::new(ModuleState::Running, &format!("{message} ({})", remarks.join("; "))),
        }
    }

    /// One line for people: what the host wants, what is redirected, and what does not work.
    #[must_use]
    pub fn headline(&self) -> String {
        let state = self.keeper.state();
        let mut text = match &self.redirector.wanted {
            Some(modes) if self.redirector.module.status == ModuleState::Running => {
                let names = Destination::ALL.into_iter().filter(|d| *modes.get(*d) != TargetMode::Off).map(Destination::name);
                let names: Vec<&str> = names.collect();
                let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                format!("Secure channel: {state}. Redirected: {names}.")
            }
            _ => format!("Secure channel: {state}. Not redirecting."),
        };
        if !self.keeper.is_well() {
            text.push_str(&format!(" {}", self.keeper.message()));
        }
        for module in [&self.redirector.module, &self.listener].into_iter().filter(|m| m.status == ModuleState::Stopped) {
            text.push_str(&format!(" {}", module.message));
        }
        text
    }

    /// The agent's part of the document of files.md section 6.
    pub(super) fn status_draft(&self) -> StatusDraft {
        let mut key_latch = self.key_module();
        let rule_id = |d| self.keeper.status().map_or("", |s| s.rule_id(d)).to_owned();
        key_latch.states = [
            ("secureChannelState", self.keeper.state().to_string()),
            ("wireServerRuleId", rule_id(Destination::WireServer)),
            ("imdsRuleId", rule_id(Destination::Imds)),
            ("hostGARuleId", rule_id(Destination::HostGaPlugin)),
        ]
        .into();
        if let Some(signer) = self.keeper.signer() {
            key_latch.states.insert("keyGuid", signer.guid().to_string());
        }
        if let Some(incarnation) = self.keeper.incarnation() {
            key_latch.states.insert("keyIncarnationId", incarnation.to_string());
        }
        StatusDraft {
            version: self.config.version.clone(),
            status: Overall::of([&key_latch, &self.redirector.module, &self.listener]),
            monitor_status: self.background.monitor(&self.config.status_path, self.snapshots.problem.as_deref()),
            key_latch_status: key_latch,
            ebpf_program_status: self.redirector.module.clone(),
            proxy_listener_status: self.listener.clone(),
            telemetry_logger_status: self.background.telemetry(),
            proxy_connections_count: self.requests.count(),
        }
    }
}

/// Content of `provisioned.tag` (FS-33).
pub(super) fn provisioned_tag(now: Wall) -> Vec<u8> {
    now.stamp().to_string().into_bytes()
}

/// Content of `status.tag`: the text of PX-57, escaped (FS-34).
pub(super) fn status_tag(text: &str) -> Vec<u8> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            _ => out.push(c),
        }
    }
    out.into_bytes()
}

/// Body of an answer to `/provision` (PX-54).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProvisionAnswer<'a> {
    pub(super) finished: bool,
    pub(super) error_message: &'a str,
}

fn as_text<S: serde::Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_at_a_character_px57() {
        assert_eq!(Module::new(ModuleState::Stopped, &"x".repeat(1024)).message.len(), 1024);
        let long = format!("{}é and more", "x".repeat(1023));
        let expected = format!("{}...", "x".repeat(1023));
        assert_eq!(Module::new(ModuleState::Stopped, &long).message, expected);
    }

    #[test]
    fn fs33_fs34_tags_hold_a_time_and_an_escaped_text() {
        assert_eq!(status_tag("a & 'b' \"c\" <d>\r\n"), b"a &amp; &apos;b&apos; &quot;c&quot; &lt;d&gt;\r\n");
        assert_eq!(provisioned_tag(Wall(1_767_687_330_412_000_000)), b"2026-01-06T08:15:30.412");
    }
}
