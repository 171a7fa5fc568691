//! What all connections of a daemon share, on either runtime.

use crate::clock::Clock;
use crate::host::Host;
use crate::policy_cell::PolicyCell;
use crate::records::{Records, Written};
use azure_proxy_agent_core::admission::{Admission, Admitted, Class};
use azure_proxy_agent_core::agent::{AgentAnswer, AgentEvent};
use azure_proxy_agent_core::conn::Summary;
use azure_proxy_agent_core::effect::{LocalQuery, LocalReply, RequestCounter};
use azure_proxy_agent_core::identity::{KernelRecord, Peer, Route};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::time::Now;
use redirect_ebpf::Redirector;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A message to the agent loop.
pub enum Message {
    /// A local endpoint's question; the answer goes to the function.
    Query(LocalQuery, Box<dyn FnOnce(LocalReply) + Send>),
    /// An effect that took its time was carried out.
    Answer(AgentAnswer),
    /// Something happened to another part.
    Event(AgentEvent),
    /// Records wait for being written.
    Flush,
    /// Write everything down and end.
    Stop,
}

/// Where messages to the agent loop go. Posting never blocks; a loop that is gone swallows them, and whoever waits for an answer
/// sees its end of the answer dropped.
pub trait Mailbox: Send + Sync {
    /// Hands the message over.
    fn post(&self, message: Message);
}

/// Everything that connections share.
pub struct Daemon {
    /// Bounds.
    pub limits: Limits,
    /// The newest policy.
    pub policy: PolicyCell,
    /// Running request numbers.
    pub requests: Arc<RequestCounter>,
    /// Audit log, journal's sample, tables.
    pub records: Records,
    /// What the time is.
    pub clock: Clock,
    /// Accounts, processes, files.
    pub host: Host,
    /// The agent loop.
    pub mailbox: Box<dyn Mailbox>,
    redirector: OnceLock<Arc<dyn Redirector>>,
    admission: Mutex<Admission>,
    connections: AtomicU64,
    busy: AtomicUsize,
    draining: AtomicBool,
}

impl Daemon {
    /// Nothing is connected, nothing is redirected.
    #[must_use]
    pub fn new(limits: Limits, clock: Clock, host: Host, mailbox: Box<dyn Mailbox>) -> Self {
        Self {
            limits,
            policy: PolicyCell::default(),
            requests: Arc::default(),
            records: Records::default(),
            clock,
            host,
            mailbox,
            redirector: OnceLock::new(),
            admission: Mutex::new(Admission::new(&limits)),
            connections: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
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

    /// Looks at a connection that was just accepted: whose is it, and is there a place for it (PX-07, PX-14a)? `None`: close it.
    ///
    /// One look-up in a kernel map; nothing here blocks.
    pub fn admit(self: &Arc<Self>, stream: TcpStream, client: SocketAddrV4) -> Option<Accepted> {
        let record = match self.redirector().map(|r| r.identify(stream.as_fd())) {
            Some(Ok(record)) => record,
            None => None,
            Some(Err(e)) => {
                log::warn!("The caller behind {client} cannot be looked up and is treated as unknown: {e}");
                None
            }
        };
        let class = match record {
            Some(KernelRecord { route: Route::Redirected, uid, .. }) => Class::User(uid),
            _ => Class::Direct,
        };
        match self.admission().admit(self.clock.now().mono, class) {
            Admitted::Yes => {
                let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let place = Place { daemon: Arc::clone(self), class };
                Some(Accepted { stream, client, number, record, place })
            }
            Admitted::No { log, unlogged } => {
                if log {
                    log::warn!("Too many connections: one of {class:?} was closed ({unlogged} more since the last such line)");
                }
                None
            }
        }
    }

    /// Who is on the other side. Reads `/proc` and the account database: may block.
    #[must_use]
    pub fn identify(&self, record: Option<&KernelRecord>) -> Peer {
        record.map_or(Peer::Unknown, |record| self.host.identify(record))
    }

    /// Writes a finished request down.
    pub fn record(&self, now: Now, summary: &Summary<'_>) {
        if self.records.record(now, summary, &self.host) == Written::Waiting {
            self.mailbox.post(Message::Flush);
        }
    }

    /// Connections with a request under way.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Acquire)
    }

    /// Connections at all.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.admission().total()
    }

    /// From now on connections end with the request that is under way.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`drain`](Self::drain) was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that has a place.
pub struct Accepted {
    /// Its socket, non-blocking.
    pub stream: TcpStream,
    /// The client's address.
    pub client: SocketAddrV4,
    /// Running connection number (PX-06).
    pub number: u64,
    /// What the kernel noted about the caller.
    pub record: Option<KernelRecord>,
    /// Given back when dropped.
    pub place: Place,
}

/// A place among the connections (PX-14a); dropping it gives it back.
pub struct Place {
    daemon: Arc<Daemon>,
    class: Class,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.daemon.admission().release(self.class);
    }
}

/// Counts a connection as busy while a request is under way.
pub struct Busy<'a> {
    daemon: &'a Daemon,
    busy: bool,
}

impl<'a> Busy<'a> {
    /// Not busy yet.
    #[must_use]
    pub const fn new(daemon: &'a Daemon) -> Self {
        Self { daemon, busy: false }
    }

    /// Tells whether a request is under way now.
    pub fn set(&mut self, busy: bool) {
        if busy != self.busy {
            self.busy = busy;
            if busy {
                self.daemon.busy.fetch_add(1, Ordering::AcqRel);
            } else {
                self.daemon.busy.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
