//! The real world of the connections: this machine's kernel, processes, accounts, logs and network.

use crate::clock;
use crate::daemon::{Mailbox, Message, World};
use crate::dial;
use crate::host::Host;
use crate::host::notify::Manager;
use crate::pump::Note;
use crate::records::{Records, Written};
use crate::redirector::client::Client;
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
    /// Who is asked as long as no redirect of ours is loaded.
    before: Before,
    redirector: OnceLock<Arc<dyn Redirector>>,
}

/// What there is before a redirect of ours is loaded.
#[derive(Debug)]
pub(crate) enum Before {
    /// What an earlier agent left in the kernel, if it did.
    Pins(Option<Pins>),
    /// Another process has the privileges, and knows.
    Asked {
        /// Who.
        redirector: Arc<Client>,
        /// Whether an earlier agent left something.
        succeeds: bool,
    },
}

impl Machine {
    /// Nothing is redirected by us yet.
    #[must_use]
    pub(crate) fn new(host: Host, mailbox: Arc<dyn Mailbox>, manager: Arc<Manager>, before: Before) -> Self {
        Self { host, records: Records::default(), mailbox, manager, before, redirector: OnceLock::new() }
    }

    /// Takes one of our own sockets out of redirect and port guard, ours or those that an earlier agent left (S-10). Before it connects
    /// or is bound.
    ///
    /// # Errors
    /// It must not be used.
    pub fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        match (self.redirector(), &self.before) {
            (Some(redirector), _) => redirector.exempt(socket),
            (None, Before::Asked { redirector, .. }) => redirector.exempt(socket),
            (None, Before::Pins(Some(pins))) => pins.exempt(socket),
            // Nothing is redirected or guarded.
            (None, Before::Pins(None)) => Ok(()),
        }
    }

    /// As [`exempt`](Self::exempt), for the listener before it is bound. Where nobody can be asked it is tried without: the port guard,
    /// if there is one, refuses it, and if there is none, callers get their refusal and the status says why.
    ///
    /// # Errors
    /// It must not be used.
    pub(crate) fn exempt_listener(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        match (self.exempt(socket), self.asked()) {
            (Err(e), Some(_)) => {
                log::warn!("The listener is not exempt from the port guard: {e}");
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// Whether an earlier agent left its redirect: connections come before ours is loaded, and only with ours can be told whose they
    /// are.
    #[must_use]
    pub fn succeeds(&self) -> bool {
        match &self.before {
            Before::Pins(pins) => pins.is_some(),
            Before::Asked { succeeds, .. } => *succeeds,
        }
    }

    /// The process that has the privileges, if it is another one.
    pub(crate) fn asked(&self) -> Option<&Arc<Client>> {
        match &self.before {
            Before::Pins(_) => None,
            Before::Asked { redirector, .. } => Some(redirector),
        }
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
