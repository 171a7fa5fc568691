//! What is kept and written about finished requests: the tables, the journal's sample, the audit log.

use crate::host::Host;
use crate::logging::CONNECTION;
use azure_proxy_agent_core::agent::{Record, Summaries};
use azure_proxy_agent_core::conn::Summary;
use azure_proxy_agent_core::report;
use azure_proxy_agent_core::time::{Mono, Now};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Audit lines are written at once, or, under load, together after this long.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of audit lines that are written without waiting for company.
const BUFFER: usize = 32 * 1024;

/// Tables and waiting audit lines of all connections.
#[derive(Debug, Default)]
pub struct Records(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    summaries: Summaries,
    /// Audit lines that wait. Kept for its memory.
    buffer: Vec<u8>,
    line: Vec<u8>,
    flushed: Option<Mono>,
}

/// Whether somebody has to come and flush.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Everything is written.
    Done,
    /// Lines wait: [`Records::flush`] within [`FLUSH_INTERVAL`]. Said once until then.
    Waiting,
}

impl Records {
    /// Takes one finished request in: counted, into the audit log, and shown if it opens a bucket (PX-108).
    pub fn record(&self, now: Now, summary: &Summary<'_>, host: &Host) -> Written {
        let mut inner = self.lock();
        let record =
            Record { kind: summary.kind, peer: summary.peer, client_ip: (*summary.client.ip()).into(), status: summary.status };
        if inner.summaries.record(now, &record) {
            inner.line.clear();
            report::write_summary(&mut inner.line, summary);
            host.summary(&String::from_utf8_lossy(&inner.line));
        }
        if let Some(text) = report::audit_notice(summary) {
            log::info!(target: CONNECTION, "{text}");
        }
        if !summary.is_audited() {
            return Written::Done;
        }
        let first = inner.buffer.is_empty();
        report::write_audit(&mut inner.buffer, summary, now.wall);
        inner.buffer.push(b'\n');
        let recent = inner.flushed.is_some_and(|at| now.mono.since(at) < FLUSH_INTERVAL);
        if !recent || inner.buffer.len() >= BUFFER {
            inner.flush(now, host);
            Written::Done
        } else if first {
            Written::Waiting
        } else {
            Written::Done
        }
    }

    /// Writes what waits.
    pub fn flush(&self, host: &Host, now: Now) {
        self.lock().flush(now, host);
    }

    /// The tables, for the status document.
    pub fn with_summaries<T>(&self, f: impl FnOnce(&mut Summaries) -> T) -> T {
        f(&mut self.lock().summaries)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn flush(&mut self, now: Now, host: &Host) {
        if !self.buffer.is_empty() {
            host.audit(now.wall, &self.buffer);
            self.buffer.clear();
            self.flushed = Some(now.mono);
        }
    }
}
