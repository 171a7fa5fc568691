//! What the redirector logs: kept until the daemon takes it, whose logs have one writer. What nobody takes goes to standard error in the end.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most lines that wait; then the oldest goes to standard error.
const MOST: usize = 64;

/// Lines that wait.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<VecDeque<(Level, String)>>);

impl Said {
    /// Takes what this process logs from now on.
    pub(super) fn listening() -> Arc<Self> {
        let said = Arc::<Self>::default();
        if log::set_boxed_logger(Box::new(Arc::clone(&said))).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
        said
    }

    /// The oldest line that waits.
    pub(super) fn next(&self) -> Option<(Level, String)> {
        self.lines().pop_front()
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<(Level, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Said {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut lines = self.lines();
        lines.push_back((record.level(), record.args().to_string()));
        let surplus = if lines.len() > MOST { lines.pop_front() } else { None };
        drop(lines);
        if let Some((_, text)) = surplus {
            eprintln!("{text}");
        }
    }

    /// Nobody takes them any more.
    fn flush(&self) {
        for (_, text) in self.lines().drain(..) {
            eprintln!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_in_order_and_not_without_bound() {
        let said = Said::default();
        for n in 0..MOST + 3 {
            said.log(&Record::builder().level(Level::Warn).args(format_args!("{n}")).build());
        }
        said.log(&Record::builder().level(Level::Debug).args(format_args!("details")).build());
        assert_eq!(said.next(), Some((Level::Warn, "3".into())));
        assert_eq!(std::iter::from_fn(|| said.next()).count(), MOST - 1);
    }
}
