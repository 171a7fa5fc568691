//! The real world of the connections: this machine's kernel, processes, accounts, logs and network.

use crate::clock;
use crate::daemon::{Mailbox, Message, World};
use crate::dial;
use crate::host::Host;
use crate::host::notify::Manager;
use crate::pump::Note;
use crate::records::{Records, Written};
use azure_proxy_agent_core::conn::Summary;
use azure_proxy_agent_core::effect::ConnectError;
use azure_proxy_agent_core::identity::{KernelRecord, Peer};
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::time::Now;
use redirect_ebpf::{Pins, RedirectError, Redirector};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

/// Redirector, host effects and records. One per process.
pub struct Machine {
    /// Accounts, processes, files.
    pub host: Host,
    /// Audit log, journal's sample, tables.
    pub records: Records,
    /// The agent loop.
    pub mailbox: Arc<dyn Mailbox>,
    /// The service manager.
    pub manager: Arc<Manager>,
    /// What an earlier agent left in the kernel, until we have loaded ours.
    pins: Option<Pins>,
    redirector: OnceLock<Arc<dyn Redirector>>,
}

impl Machine {
    /// Nothing is redirected by us yet; `pins` is what an earlier agent left.
    #[must_use]
    pub fn new(host: Host, mailbox: Arc<dyn Mailbox>, manager: Arc<Manager>, pins: Option<Pins>) -> Self {
        Self { host, records: Records::default(), mailbox, manager, pins, redirector: OnceLock::new() }
    }

    /// Takes one of our own sockets out of redirect and port guard, ours or those that an earlier agent left (S-10). Before it connects
    /// or is bound.
    ///
    /// # Errors
    /// It must not be used.
    pub fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        match (self.redirector(), &self.pins) {
            (Some(redirector), _) => redirector.exempt(socket),
            (None, Some(pins)) => pins.exempt(socket),
            // Nothing is redirected or guarded.
            (None, None) => Ok(()),
        }
    }

    /// Whether an earlier agent left its redirect: connections come before ours is loaded, and only with ours can be told whose they
    /// are.
    #[must_use]
    pub fn succeeds(&self) -> bool {
        self.pins.is_some()
    }

    /// The redirector, once it is loaded.
    #[must_use]
    pub fn redirector(&self) -> Option<&dyn Redirector> {
        self.redirector.get().map(AsRef::as_ref)
    }

    /// Keeps the redirector from now on; a second one is dropped.
    pub fn set_redirector(&self, redirector: Arc<dyn Redirector>) {
        // The first stays in force whatever comes later.
        drop(self.redirector.set(redirector));
    }

    /// Writes down what waits; `false` if it still does.
    #[must_use]
    pub fn flush(&self) -> bool {
        self.records.flush(&self.host, clock::now())
    }

    /// Writes down who connected from other network namespaces since the last time (S-08).
    pub fn note_foreign(&self) {
        self.records.foreign(self.redirector(), &self.host);
    }

    fn flush_soon(&self, written: Written) {
        if written == Written::Waiting {
            self.mailbox.post(Message::Flush);
        }
    }
}

impl World for Machine {
    fn attribute(&self, accepted: &TcpStream, client: SocketAddrV4) -> Option<KernelRecord> {
        self.redirector()?.identify(accepted.as_fd()).unwrap_or_else(|e| {
            log::warn!("The caller behind {client} cannot be looked up and is treated as unknown: {e}");
            None
        })
    }

    fn identify(&self, record: &KernelRecord, policy: &Policy) -> Peer {
        self.host.identify(record, policy)
    }

    fn dial(&self, to: SocketAddrV4) -> Result<TcpStream, ConnectError> {
        dial::begin(to, |socket| self.exempt(socket))
    }

    fn note(&self, now: Now, note: Note, summary: &Summary<'_>) {
        match note {
            Note::Intent => self.records.intend(now, summary, &self.host),
            Note::Record => self.flush_soon(self.records.record(now, summary, &self.host)),
        }
    }

    fn gone(&self, now: Now, connection: u64) {
        self.flush_soon(self.records.gone(now, connection, &self.host));
    }
}
