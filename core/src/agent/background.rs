//! What goes on beside the key loop (CLI-15 step 4): the status file, event files, a look at the memory; and trying again what a
//! disk has refused. There is one timer for what comes every minute, so an idle agent is woken once (FS-40, FS-57, T-11).

use super::source::{MEMORY, STATUS};
use super::status::{Module, ModuleState, StatusDraft, StatusReader};
use super::{Agent, AgentEffect, EventsWritten, Level, StateFile};
use crate::time::{Mono, Now};
use bytes::Bytes;
use core::time::Duration;
use std::collections::BTreeMap;

/// FS-44.
const STATUS_WRITTEN: &str = "Aggregate status written to status file: ";
/// FS-48.
const EVENTS_WRITTEN: &str = "Telemetry event logger thread started.";
/// FS-40, FS-57, T-11, W-109.
const ROUND: Duration = Duration::from_secs(60);
/// A status that has changed is written at once, but not more often than this.
const STATUS_PACE: Duration = Duration::from_secs(1);
/// Resident memory above which there is something wrong (FS-57). Bytes.
const MEMORY_LIMIT: u64 = 20 * MB;
const MB: u64 = 1024 * 1024;
/// FS-100.
const CPU_PERCENT: u8 = 15;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Background {
    /// The next round; `None` until the background tasks have started (W-76).
    round: Option<Mono>,
    /// When the status file is written because something in it changed.
    change: Option<Mono>,
    /// When what a disk has refused is tried again.
    retry: Option<Mono>,
    /// When the status file was last written, and what was in it, but for what changes all the time.
    written: Option<(Mono, StatusDraft)>,
    status_problem: Option<String>,
    events_problem: Option<String>,
    /// What the log files suffer from.
    log_problem: Option<String>,
    /// Tag files that are not there yet, with what is wrong.
    tags: BTreeMap<StateFile, (Bytes, Option<String>)>,
    /// Resident memory when it was last worth a word. Bytes.
    memory: Option<u64>,
}

impl Background {
    /// The next time that something is to be done.
    pub(super) fn deadline(&self) -> Option<Mono> {
        [self.round, self.change, self.retry].into_iter().flatten().min()
    }

    /// What is wrong with files of the key directory, for the key module's message.
    pub(super) fn tag_problems(&self) -> impl Iterator<Item = &str> {
        self.tags.values().filter_map(|(_, problem)| problem.as_deref())
    }

    /// State of the status task (FS-44).
    pub(super) fn monitor(&self, path: &str, snapshots: Option<&str>) -> Module {
        let written;
        let message = match (&self.written, self.status_problem.as_deref().or(snapshots)) {
            (_, Some(problem)) => problem,
            (None, None) => "Status unknown.",
            (Some(_), None) => {
                written = format!("{STATUS_WRITTEN}{path}");
                &written
            }
        };
        Module::new(ModuleState::Running, message)
    }

    /// State of what writes logs and events (FS-48).
    pub(super) fn telemetry(&self) -> Module {
        let problems: Vec<&str> = self.log_problem.iter().chain(&self.events_problem).map(String::as_str).collect();
        let message = if problems.is_empty() { EVENTS_WRITTEN.to_owned() } else { problems.join(" ") };
        Module::new(ModuleState::Running, &message)
    }
}

impl Agent {
    /// The rounds begin (CLI-15 step 4); once per process.
    pub(super) fn begin_rounds(&mut self, now: Now) {
        self.effects.push_back(AgentEffect::LimitCpu { percent: CPU_PERCENT });
        self.background.round = Some(now.mono + ROUND);
        self.write_status(now);
    }

    /// Does what is due. To be called after every input: what the status document says may have changed with it (S-37).
    pub(super) fn follow_background(&mut self, now: Now) {
        if self.background.round.is_some_and(|at| now.mono >= at) {
            self.background.round = Some(now.mono + ROUND);
            self.effects.push_back(AgentEffect::ReadMemory);
            self.write_events();
            self.write_status(now);
        }
        if self.background.retry.is_some_and(|at| now.mono >= at) {
            self.retry(now);
        }
        if self.background.change.is_none() {
            let draft = self.status_draft().timeless();
            self.background.change = match &self.background.written {
                Some((_, written)) if *written == draft => None,
                Some((at, _)) => Some(*at + STATUS_PACE),
                None => Some(now.mono),
            };
        }
        if self.background.change.is_some_and(|at| now.mono >= at) {
            self.write_status(now);
        }
    }

    /// The process is going to end: what waits is written (T-16).
    pub(super) fn write_events(&mut self) {
        self.effects.push_back(AgentEffect::WriteEvents { files: self.config.event_files });
    }

    fn write_status(&mut self, now: Now) {
        // A document that can be read has been written: it says so.
        self.background.written = Some((now.mono, StatusDraft::default()));
        let draft = self.status_draft();
        self.background.written = Some((now.mono, draft.clone().timeless()));
        self.background.change = None;
        self.effects.push_back(AgentEffect::Status { to: StatusReader::File, draft: Box::new(draft) });
    }

    /// Writes a tag file, now and until it is there.
    pub(super) fn write_tag(&mut self, file: StateFile, bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let problem = self.background.tags.remove(&file).and_then(|(_, problem)| problem);
        self.background.tags.insert(file, (bytes.clone(), problem));
        self.effects.push_back(AgentEffect::WriteState { file, bytes });
    }

    /// Each different failure is said once; what can be tried again is (SEC-E3).
    pub(super) fn written(&mut self, now: Now, file: StateFile, result: Result<(), String>) {
        let problem = result.err().map(|e| format!("{file:?} could not be written: {e}"));
        if problem.is_some() {
            self.retry_later(now);
        }
        let before = match (file, &problem) {
            (StateFile::Status, _) => core::mem::replace(&mut self.background.status_problem, problem.clone()),
            (_, None) => self.background.tags.remove(&file).and_then(|(_, before)| before),
            (_, Some(_)) => {
                self.background.tags.get_mut(&file).and_then(|(_, before)| core::mem::replace(before, problem.clone()))
            }
        };
        match problem {
            Some(text) if before.as_ref() != Some(&text) => self.tell(STATUS, Level::Warn, false, &text),
            None if before.is_some() => self.tell(STATUS, Level::Info, false, &format!("{file:?} is written again.")),
            Some(_) | None => {}
        }
    }

    /// What became of [`AgentEffect::WriteEvents`]. Nothing that is said about events becomes an event (T-17).
    pub(super) fn events_written(&mut self, now: Now, result: EventsWritten) {
        let (problem, dropped) = match result {
            EventsWritten::Nothing => return,
            EventsWritten::Written { dropped } => (None, dropped),
            EventsWritten::Full { dropped: _ } => {
                let text =
                    format!("There are {} event files, which is the limit: new events are dropped.", self.config.event_files);
                (Some(text), 0)
            }
            EventsWritten::Failed(e) => {
                self.retry_later(now);
                (Some(format!("Events could not be written: {e}.")), 0)
            }
        };
        if dropped > 0 {
            self.tell(None, Level::Warn, false, &format!("{dropped} events were dropped, because too many came at once."));
        }
        if problem != self.background.events_problem {
            let text = problem.as_deref().unwrap_or("Events are written again.");
            self.tell(None, if problem.is_some() { Level::Warn } else { Level::Info }, false, text);
            self.background.events_problem = problem;
        }
    }

    /// The log files tell how they are; they have said it themselves where they still can.
    pub(super) fn logs_changed(&mut self, problem: Option<String>) {
        if problem.is_none() && self.background.log_problem.is_some() {
            self.tell(None, Level::Info, false, "All log files are written again.");
        }
        self.background.log_problem = problem;
    }

    /// FS-57. What changed is said for everybody, what stays only where details are wanted.
    pub(super) fn memory(&mut self, bytes: u64) {
        let high = bytes > MEMORY_LIMIT;
        let tenths = bytes * 10 / MB;
        let text = format!("Resident memory: {}.{} MB", tenths / 10, tenths % 10);
        let worth_a_word =
            self.background.memory.is_none_or(|before| before.abs_diff(bytes) >= MB || (before > MEMORY_LIMIT) != high);
        if worth_a_word {
            self.background.memory = Some(bytes);
        }
        match (high, worth_a_word) {
            (true, true) => {
                self.tell(MEMORY, Level::Warn, false, &format!("{text}, which is more than {} MB", MEMORY_LIMIT / MB))
            }
            (false, true) => self.tell(MEMORY, Level::Info, false, &text),
            (_, false) => self.tell(None, Level::Debug, false, &text),
        }
    }

    pub(super) fn retry_later(&mut self, now: Now) {
        self.background.retry.get_or_insert(now.mono + self.config.poll_interval.max(STATUS_PACE));
    }

    fn retry(&mut self, now: Now) {
        self.background.retry = None;
        for (file, (bytes, problem)) in &self.background.tags {
            if problem.is_some() {
                self.effects.push_back(AgentEffect::WriteState { file: *file, bytes: bytes.clone() });
            }
        }
        self.write_snapshot(now);
        if self.background.events_problem.is_some() {
            self.write_events();
        }
        if self.background.status_problem.is_some() {
            self.write_status(now);
        }
    }
}
