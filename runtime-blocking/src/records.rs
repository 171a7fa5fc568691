//! What is kept and written about requests: the tables, the journal's sample, the audit log. Nothing that was decided is lost when
//! the process is killed (`staging`).

use crate::clock;
use crate::host::Host;
use crate::host::audit::{self, AuditLog, NotWritten, open_staging};
use crate::host::mapping::Mapping;
use crate::logging::{self, CONNECTION};
use crate::staging::{Recovered, Staging};
use azure_proxy_agent_core::agent::{Record, Summaries};
use azure_proxy_agent_core::conn::Summary;
use azure_proxy_agent_core::identity::{Claims, KernelRecord};
use azure_proxy_agent_core::refusals::Refusals;
use azure_proxy_agent_core::report::{self, Unfinished};
use azure_proxy_agent_core::time::{Mono, Now, Wall};
use redirect_ebpf::Redirector;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Audit lines are written at once, or, under load, together after this long.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of audit lines that are written without waiting for company.
const BUFFER: usize = 32 * 1024;
/// How long a staging file that cannot be used is left alone.
const RETRY: Duration = Duration::from_secs(10);
/// How often to see whether the staging file is still where a successor looks for it.
const LOOK: Duration = Duration::from_secs(5);

/// Notes about other network namespaces that are written down at a time, and how long that may take.
const FOREIGN: usize = 256;
const FOREIGN_TIME: Duration = Duration::from_secs(1);

/// Tables and waiting audit lines of all connections.
#[derive(Debug, Default)]
pub struct Records(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    summaries: Summaries,
    /// Audit lines that wait, and requests that are with the host.
    staging: Staging<Mapping>,
    /// The line under construction. Kept for its memory.
    line: Vec<u8>,
    /// Lines for the connection log that wait (PX-111). Unlike those of the audit log they do not outlive the process.
    traces: Vec<u8>,
    flushed: Option<Mono>,
    /// When to look for the staging file again.
    retry_at: Mono,
    /// When the staging file was last seen in its place.
    seen: Mono,
    /// That it cannot be used has been said.
    complained: bool,
    /// It was in use before.
    again: bool,
    /// What of the log refused requests may fill.
    refusals: Refusals,
    /// Audit lines that had to be dropped since the log was last written.
    lost: u64,
    /// Everything was written down; what still comes is written at once. The connections whose requests got their line then.
    closed: Option<BTreeSet<u64>>,
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
    /// Makes the staging file this process's own and writes down what a predecessor left there. Call it as soon as no other agent uses
    /// the files; until then, and as long as that fails, every line is written at once.
    pub fn open(&self, now: Now, host: &Host) {
        self.lock().ready(now, host);
    }

    /// A request goes to the host: noted, so that it is in the audit log whatever happens to this process.
    pub fn intend(&self, now: Now, summary: &Summary<'_>, host: &Host) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if host.audit_log().is_none() {
            return;
        }
        inner.ready(now, host);
        inner.unfinished(now, summary, Unfinished::Interrupted);
        if !inner.staging.intend(summary.connection, summary.request, &inner.line) {
            inner.unfinished(now, summary, Unfinished::Pending);
            inner.append(now, 0, host);
            inner.flush(now, host);
        }
    }

    /// Takes one finished request in: counted, into the audit log, and shown if it opens a bucket (PX-108).
    pub fn record(&self, now: Now, summary: &Summary<'_>, host: &Host) -> Written {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let record =
            Record { kind: summary.kind, peer: summary.peer, client_ip: (*summary.client.ip()).into(), status: summary.status };
        if inner.summaries.record(now, &record) {
            inner.line.clear();
            report::write_summary(&mut inner.line, summary);
            host.summary(&String::from_utf8_lossy(&inner.line));
            if let Some(text) = report::denial_notice(summary) {
                log::info!("{text}");
            }
        }
        if let Some(text) = report::audit_notice(summary) {
            log::info!(target: CONNECTION, "{text}");
        }
        let told = inner.closed.as_mut().is_some_and(|told| told.remove(&summary.connection));
        if !summary.is_audited() || told {
            return Written::Done;
        }
        if host.audit_log().is_none() {
            tell_divergence(summary);
            inner.trace(now, summary, host);
            return Written::Done;
        }
        inner.ready(now, host);
        inner.line.clear();
        report::write_audit(&mut inner.line, summary, now.wall);
        inner.line.push(b'\n');
        let user = summary.peer.claims().map(|claims| claims.user_id);
        if !summary.forwarded && !inner.refusals.admit(now, user, inner.line.len()) {
            // It has no trace either, which would roll the connection log.
            return Written::Done;
        }
        tell_divergence(summary);
        let first = inner.append(now, summary.request, host);
        inner.staging.settle(summary.connection);
        inner.trace(now, summary, host);
        inner.written(now, first, host)
    }

    /// Writes down who connected to a guarded endpoint from another network namespace since the last time, or was kept from it (S-08).
    /// Most of it: a container that does nothing else must not keep us busy.
    pub fn foreign(&self, redirector: Option<&dyn Redirector>, host: &Host) {
        let since = clock::mono();
        for _ in 0..FOREIGN {
            let record = match redirector.map_or(Ok(None), Redirector::next_foreign) {
                Ok(Some(record)) => record,
                Ok(None) => return,
                Err(e) => return log::warn!("{e}"),
            };
            let claims = host.claims(&record, None);
            self.lock().foreign(clock::now(), &record, &claims, host);
            if clock::mono().since(since) >= FOREIGN_TIME {
                return;
            }
        }
    }

    /// A connection is over. A request that was noted and never reported is one whose outcome nobody knows.
    pub fn gone(&self, now: Now, connection: u64, host: &Host) -> Written {
        let mut inner = self.lock();
        let unsettled = inner.unsettled(now, connection, host);
        inner.staging.release(connection);
        unsettled.map_or(Written::Done, |first| inner.written(now, first, host))
    }

    /// Writes what waits; `false` if it still does.
    #[must_use]
    pub fn flush(&self, host: &Host, now: Now) -> bool {
        let mut inner = self.lock();
        inner.tell_suppressed(now, false, host);
        inner.flush(now, host);
        inner.staging.waiting() == 0
    }

    /// The end: requests that are still with the host get their line, too, and everything is written.
    pub fn close(&self, now: Now, host: &Host) {
        let mut inner = self.lock();
        let mut told = BTreeSet::new();
        for connection in inner.staging.connections() {
            if inner.unsettled(now, connection, host).is_some() {
                told.insert(connection);
                inner.staging.settle(connection);
            }
        }
        inner.tell_suppressed(now, true, host);
        inner.flush(now, host);
        inner.closed = Some(told);
    }

    /// Nobody is connected: what waits is written, and memory given back.
    pub fn rest(&self, now: Now, host: &Host) {
        let mut inner = self.lock();
        inner.flush(now, host);
        inner.staging.rest();
        inner.traces = Vec::new();
    }

    /// The tables, for the status document.
    pub fn with_summaries<T>(&self, f: impl FnOnce(&mut Summaries) -> T) -> T {
        f(&mut self.lock().summaries)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Not for refused requests that are too many for the audit log: these lines have the same readers to lose.
fn tell_divergence(summary: &Summary<'_>) {
    if let Some(line) = summary.divergence {
        log::warn!(target: CONNECTION, "{line}");
    }
}

impl Inner {
    /// Sees to it that what is staged outlives the process, if that is possible.
    fn ready(&mut self, now: Now, host: &Host) {
        let Some(file) = host.audit_log() else { return };
        if self.staging.is_durable() {
            if now.mono.since(self.seen) < LOOK {
                return;
            }
            self.seen = now.mono;
            if self.staging.medium().is_some_and(|staging| audit::is_in_place(file.folder(), staging)) {
                return;
            }
            log::warn!("The staging file of the audit log was removed by somebody else; another one is made");
        } else {
            if self.staging.is_attached() {
                log::error!("The staging file of the audit log cannot be used any more; every line is written at once");
                self.complained = true;
                self.staging.detach();
                self.retry_at = now.mono + RETRY;
            }
            if now.mono < self.retry_at || !host.claim() {
                return;
            }
        }
        self.retry_at = now.mono + RETRY;
        self.seen = now.mono;
        match open_staging(file.folder()) {
            Ok(mapping) => {
                let mut log = AuditLog { host, wall: now.wall };
                match self.staging.attach(mapping, now.wall.0, std::mem::replace(&mut self.again, true), &mut log) {
                    Ok(Recovered { lines: 0, interrupted: 0 }) => {}
                    Ok(Recovered { lines, interrupted }) => log::warn!(
                        "The agent before this one was killed: {lines} lines of its audit log were staged, and the outcome of \
                         {interrupted} requests is not known"
                    ),
                    // It has been said.
                    Err(NotWritten) => {}
                }
                if std::mem::take(&mut self.complained) {
                    log::info!("The staging file of the audit log can be used again");
                }
            }
            Err(e) => {
                // The one in use, if there is one, nobody would find.
                self.staging.detach();
                if std::mem::replace(&mut self.complained, true) {
                    log::debug!("{e}");
                } else {
                    log::error!("{e}; every line of the audit log is written at once, before a request goes to the host");
                }
            }
        }
    }

    /// The trace of a request that has ended, for whoever wants it; nothing is formatted for nobody. Its lines for the connection log wait
    /// for the audit log's.
    fn trace(&mut self, now: Now, summary: &Summary<'_>, host: &Host) {
        let Some(log) = host.log() else { return };
        if log.keeps_traces() {
            report::write_trace(&mut self.traces, summary, now.wall);
        }
        if log.shows_traces() {
            self.line.clear();
            report::write_trace_text(&mut self.line, summary);
            logging::show_trace(&self.line);
        }
        if host.traces_requests() && log.shows_system_traces() {
            self.line.clear();
            report::write_system_trace(&mut self.line, summary, now.wall);
            logging::show_system_trace(&self.line);
        }
    }

    /// Puts the record of a request without outcome into `line`.
    fn unfinished(&mut self, now: Now, summary: &Summary<'_>, outcome: Unfinished) {
        self.line.clear();
        report::write_unfinished(&mut self.line, summary, now.wall, outcome);
        self.line.push(b'\n');
    }

    /// Appends `line`; `true` if it is the first that waits.
    fn append(&mut self, now: Now, request: u64, host: &Host) -> bool {
        if !self.staging.has_room(self.line.len()) {
            self.flush(now, host);
        }
        let first = self.staging.waiting() == 0;
        if !self.staging.append(request, &self.line) {
            // The log takes nothing: the oldest go.
            self.lost += self.staging.drop_waiting();
            self.staging.append(request, &self.line);
        }
        first
    }

    fn foreign(&mut self, now: Now, record: &KernelRecord, claims: &Arc<Claims>, host: &Host) {
        let ago = u64::try_from(now.mono.since(Mono(record.connected_at)).as_nanos()).unwrap_or(u64::MAX);
        self.line.clear();
        report::write_foreign(&mut self.line, record, claims, Wall(now.wall.0.saturating_sub(ago)));
        self.line.push(b'\n');
        if host.audit_log().is_some() && self.refusals.admit(now, Some(record.uid), self.line.len()) {
            self.ready(now, host);
            self.append(now, 0, host);
        }
    }

    /// Adds lines that say how many refused requests were not written.
    fn tell_suppressed(&mut self, now: Now, all: bool, host: &Host) {
        while let Some(suppressed) = self.refusals.due(now.mono, all) {
            self.line.clear();
            report::write_suppressed(&mut self.line, &suppressed, now.wall);
            self.line.push(b'\n');
            self.append(now, 0, host);
        }
    }

    /// Appends the line of a request that was noted and not reported, if there is one; `true` if it is the first that waits.
    fn unsettled(&mut self, now: Now, connection: u64, host: &Host) -> Option<bool> {
        let intent = self.staging.unsettled(connection)?;
        if !self.staging.has_room(crate::staging::MAX_INTENT) {
            self.flush(now, host);
        }
        let first = self.staging.waiting() == 0;
        self.staging.append_intent(&intent);
        Some(first)
    }

    /// Writes now, or soon.
    fn written(&mut self, now: Now, first: bool, host: &Host) -> Written {
        let recent = self.flushed.is_some_and(|at| now.mono.since(at) < FLUSH_INTERVAL);
        let durable = self.staging.is_durable() && self.closed.is_none();
        if !recent || !durable || self.staging.waiting().max(self.traces.len()) >= BUFFER {
            self.flush(now, host);
        }
        // What could not be written waits, too.
        if first && self.staging.waiting() > 0 { Written::Waiting } else { Written::Done }
    }

    fn flush(&mut self, now: Now, host: &Host) {
        if let Some(log) = host.log().filter(|_| !self.traces.is_empty()) {
            log.write_trace(now.wall, &self.traces);
            self.traces.clear();
        }
        if self.staging.waiting() == 0 {
            return;
        }
        self.flushed = Some(now.mono);
        let mut log = AuditLog { host, wall: now.wall };
        match self.staging.flush(&mut log) {
            Ok(()) if self.lost > 0 => {
                let mut line = Vec::new();
                report::write_lost(&mut line, self.lost, now.wall);
                line.push(b'\n');
                if self.staging.append(0, &line) {
                    self.lost = 0;
                    self.flush(now, host);
                }
            }
            // A failure has been said.
            Ok(()) | Err(NotWritten) => {}
        }
    }
}

#[cfg(test)]
mod tests;
