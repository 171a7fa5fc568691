//! The snapshot of the rules in force (rules.md section 5): what was published, as files that people and deployed checks read.

use super::source::RULES;
use super::{Agent, AgentEffect, Level};
use crate::authz::{Document, Rules};
use crate::identity::PerDestination;
use crate::json;
use crate::time::{Now, Wall};
use serde::Serialize;
use std::sync::Arc;

/// What every snapshot's name begins with.
const PREFIX: &str = "AuthorizationRules_";
/// So many are kept.
const KEPT: usize = 5;

/// The state of the snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// What is in force has not been written.
    due: bool,
    /// One was asked for and is not answered yet.
    in_flight: bool,
    /// Why the latest one could not be written.
    pub(super) problem: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    input_rules: Destinations<'a, Document>,
    computed_rules: Destinations<'a, Rules>,
}

/// The answer to `/rules`: what requests are decided by now.
#[derive(Serialize)]
pub(super) struct InForce<'a> {
    /// As in records.
    epoch: u64,
    /// Whether the agent knows what the host wants. Without that there are no documents, and requests wait.
    settled: bool,
    rules: Destinations<'a, Document>,
}

/// By the names of the status document; endpoints without document are left out.
#[derive(Serialize)]
struct Destinations<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    imds: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wireserver: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostga: Option<&'a T>,
}

impl<'a, T> Destinations<'a, T> {
    fn of(from: &'a PerDestination<Option<Arc<T>>>) -> Self {
        Self { imds: from.imds.as_deref(), wireserver: from.wireserver.as_deref(), hostga: from.hostga.as_deref() }
    }
}

impl Agent {
    /// The effective documents are others than before: R-150.
    pub(super) fn rules_published(&mut self, now: Now) {
        self.snapshots.due = true;
        self.write_snapshot(now);
    }

    pub(super) fn rules_in_force(&self) -> InForce<'_> {
        InForce { epoch: self.policy.epoch.0, settled: self.policy.settled, rules: Destinations::of(&self.effective) }
    }

    /// Writes what is due; also what could not be written before.
    pub(super) fn write_snapshot(&mut self, now: Now) {
        if self.snapshots.in_flight || !core::mem::take(&mut self.snapshots.due) {
            return;
        }
        let content =
            Content { input_rules: Destinations::of(&self.effective), computed_rules: Destinations::of(&self.policy.rules) };
        let mut bytes = Vec::new();
        // Texts written to memory: cannot fail.
        if json::append_pretty(&mut bytes, &content).is_ok() {
            self.snapshots.in_flight = true;
            self.effects.push_back(AgentEffect::Snapshot { name: name(now.wall).into(), bytes: bytes.into() });
        }
    }

    pub(super) fn snapshot_written(&mut self, now: Now, result: Result<(), String>) {
        self.snapshots.in_flight = false;
        let problem = result.err().map(|e| format!("The rules snapshot could not be written: {e}"));
        match &problem {
            Some(_) => {
                self.snapshots.due = true;
                self.retry_later(now);
            }
            // The rules may have changed meanwhile.
            None => self.write_snapshot(now),
        }
        if problem != self.snapshots.problem {
            match &problem {
                Some(text) => self.tell(RULES, Level::Warn, false, text),
                None => self.tell(RULES, Level::Info, false, "Rules snapshots are written again."),
            }
            self.snapshots.problem = problem;
        }
    }
}

/// `AuthorizationRules_<timestamp>-<nanoseconds>.json`.
fn name(wall: Wall) -> String {
    format!("{PREFIX}{}.json", wall.file_stamp())
}

/// Which of the names in the status directory are to be removed before the snapshot `newest` is written: the oldest of those that
/// have the whole form of a snapshot's name; what somebody else has put there stays. A name from the future, given by a clock that was
/// wrong, counts as the oldest: it would be taken for the newest for as long as it is there.
pub fn surplus_snapshots<'a>(names: &'a mut Vec<String>, newest: &str) -> &'a [String] {
    let is_past = |name: &str| name <= newest;
    names.retain(|name| is_snapshot(name));
    names.sort_unstable_by(|a, b| (is_past(a), a).cmp(&(is_past(b), b)));
    names.get(..(names.len() + 1).saturating_sub(KEPT)).unwrap_or_default()
}

fn is_snapshot(name: &str) -> bool {
    name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".json")).is_some_and(Wall::is_file_stamp)
}
