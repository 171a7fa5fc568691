//! What the process tells of itself beside its logs: events on their way to the platform, and which log files do not work. Filled by
//! whoever logs, on any thread; read by the agent loop.

use crate::{cli, clock};
use azure_proxy_agent_core::telemetry::{Batch, Event, Events};
use log::Level;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One per process, shared by the logger and the host effects.
#[derive(Debug)]
pub struct Telemetry {
    events: Mutex<Events>,
    troubles: Mutex<Troubles>,
}

#[derive(Debug, Default)]
struct Troubles {
    /// By the name of the log file.
    by_file: BTreeMap<&'static str, String>,
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

    /// A log file works (`None`), or does not, and why.
    pub fn log_file(&self, name: &'static str, problem: Option<String>) {
        let mut troubles = lock(&self.troubles);
        let before = match problem {
            Some(text) => troubles.by_file.insert(name, text),
            None => troubles.by_file.remove(name),
        };
        troubles.changed |= before.as_ref() != troubles.by_file.get(name);
    }

    /// What is wrong with the log files, if that has changed since the last time; the inner `None`: nothing any more.
    pub(crate) fn take_troubles(&self) -> Option<Option<String>> {
        let mut troubles = lock(&self.troubles);
        if !std::mem::take(&mut troubles.changed) {
            return None;
        }
        let texts: Vec<&str> = troubles.by_file.values().map(String::as_str).collect();
        Some((!texts.is_empty()).then(|| texts.join("; ")))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_told_when_they_change() {
        let telemetry = Telemetry::default();
        assert_eq!(telemetry.take_troubles(), None);
        telemetry.log_file("a", Some("a is full".into()));
        telemetry.log_file("b", Some("b is gone".into()));
        assert_eq!(telemetry.take_troubles(), Some(Some("a is full; b is gone".into())));
        telemetry.log_file("a", Some("a is full".into()));
        assert_eq!(telemetry.take_troubles(), None, "as before");
        telemetry.log_file("a", None);
        telemetry.log_file("b", None);
        assert_eq!((telemetry.take_troubles(), telemetry.take_troubles()), (Some(None), None));
    }
}
