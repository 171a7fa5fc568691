//! What the process tells of itself beside its logs: events on their way to the platform, and which log files do not work. Filled by
//! whoever logs, on any thread; read by the agent loop.

use crate::host::logfile::LogFile;
use crate::{cli, clock};
use azure_proxy_agent_core::telemetry::{Batch, Event, Events};
use log::Level;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One per process, shared by the logger and the host effects.
#[derive(Debug)]
pub struct Telemetry {
    events: Mutex<Events>,
    troubles: Mutex<Troubles>,
}

#[derive(Debug, Default)]
struct Troubles {
    /// By the name of the log file.
    by_file: BTreeMap<&'static str, (Arc<LogFile>, String)>,
    changed: bool,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { events: Mutex::new(Events::new(cli::VERSION)), troubles: Mutex::default() }
    }
}

impl Telemetry {
    /// Takes an event in; never fails, never waits, never logs (T-17).
    pub fn event(&self, level: Level, task: &str, component: &str, message: &str) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let event = Event { level, task, component, message, time: clock::wall(), process: std::process::id(), thread };
        lock(&self.events).push(&event);
    }

    /// Takes away the events that wait.
    pub(crate) fn take_events(&self) -> Batch {
        lock(&self.events).take()
    }

    /// Gives back those that could not be written.
    pub(crate) fn restore_events(&self, batch: Batch) {
        lock(&self.events).restore(batch);
    }

    /// A log file does not work, and why.
    pub fn log_fails(&self, file: &Arc<LogFile>, why: String) {
        let mut troubles = lock(&self.troubles);
        troubles.by_file.insert(file.name(), (Arc::clone(file), why));
        troubles.changed = true;
    }

    /// What is wrong with the log files, if that has changed since the last time; the inner `None`: nothing any more. Looks whether
    /// those that failed work again.
    pub(crate) fn take_troubles(&self) -> Option<Option<String>> {
        let mut troubles = lock(&self.troubles);
        let before = troubles.by_file.len();
        // The lock is held while a file is looked at, which happens only if one has failed.
        troubles.by_file.retain(|_, (file, _)| !file.works());
        troubles.changed |= troubles.by_file.len() < before;
        if !std::mem::take(&mut troubles.changed) {
            return None;
        }
        let texts: Vec<&str> = troubles.by_file.values().map(|(_, why)| why.as_str()).collect();
        Some((!texts.is_empty()).then(|| texts.join("; ")))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::logfile::Appended;
    use crate::host::scratch::Scratch;

    #[test]
    fn sec_e3_troubles_are_told_when_they_change() {
        let scratch = Scratch::new("telemetry");
        let folder = scratch.path().join("logs");
        std::fs::write(&folder, "in the way").expect("write");
        let (a, b) = (Arc::new(LogFile::new(&folder, "a")), Arc::new(LogFile::new(&scratch.path().join("other"), "b")));
        let telemetry = Telemetry::default();
        assert_eq!(telemetry.take_troubles(), None);
        assert!(matches!(a.append(clock::wall(), b"lost\n"), Appended::No(_)));
        telemetry.log_fails(&a, "a fails".into());
        telemetry.log_fails(&b, "b fails".into());
        assert_eq!(telemetry.take_troubles(), Some(Some("a fails".into())), "b works");
        assert_eq!(telemetry.take_troubles(), None, "as before");
        assert_eq!(b.append(clock::wall(), b"line\n"), Appended::Yes);
    }
}
