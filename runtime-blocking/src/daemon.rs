//! What all connections of a daemon share, on either runtime.

use crate::clock::Clock;
use crate::policy_cell::PolicyCell;
use crate::pulse::Pulse;
use crate::pump::Note;
use azure_proxy_agent_core::admission::{Admission, Admitted, Holder};
use azure_proxy_agent_core::agent::{AgentAnswer, AgentEvent};
use azure_proxy_agent_core::conn::Summary;
use azure_proxy_agent_core::effect::{ConnectError, LocalQuery, LocalReply, RequestCounter};
use azure_proxy_agent_core::identity::{KernelRecord, Peer, Route};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::time::Now;
use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Something has changed among the local rule files.
    RulesChanged,
    /// Read the configuration anew, and what else SIGHUP means.
    Reload,
    /// Write everything down and end.
    Stop,
}

/// Where messages to the agent loop go. Posting never blocks; a loop that is gone swallows them, and whoever waits for an answer
/// sees its end of the answer dropped.
pub trait Mailbox: Send + Sync {
    /// Hands the message over.
    fn post(&self, message: Message);
}

/// What connections need of their surroundings. [`Machine`](crate::machine::Machine) is the real one; replays have their own.
pub trait World: Send + Sync {
    /// What the kernel noted about the caller of a connection that was just accepted. One look-up; does not block.
    fn attribute(&self, accepted: &TcpStream, client: SocketAddrV4) -> Option<KernelRecord>;

    /// Who that is, as far as the policy's rules ask. Reads `/proc`, the account database, perhaps the executable: may block.
    fn identify(&self, record: &KernelRecord, policy: &Policy) -> Peer;

    /// Begins a connection to the host: a non-blocking socket (see [`dial::outcome`](crate::dial::outcome)).
    ///
    /// # Errors
    /// It failed at once.
    fn dial(&self, to: SocketAddrV4) -> Result<TcpStream, ConnectError>;

    /// Writes down that a request goes to the host, or what became of it. What is noted survives the end of this process at any
    /// moment after.
    fn note(&self, now: Now, note: Note, summary: &Summary<'_>);

    /// A connection is over: a request of it that was said to go to the host and not reported since will not be.
    fn gone(&self, now: Now, connection: u64);
}

/// Everything that connections share.
pub struct Daemon {
    /// Bounds.
    pub limits: Limits,
    /// The newest policy.
    pub policy: PolicyCell,
    /// Running request numbers.
    pub requests: Arc<RequestCounter>,
    /// What the time is.
    pub clock: Clock,
    /// The agent loop.
    pub mailbox: Arc<dyn Mailbox>,
    /// Everything else.
    pub world: Arc<dyn World>,
    /// Whether the serving thread lives.
    pub pulse: Pulse,
    admission: Mutex<Admission>,
    connections: AtomicU64,
    busy: AtomicUsize,
    draining: AtomicBool,
    /// When a failing accept was last logged (nanoseconds since boot).
    last_complaint: AtomicU64,
}

impl Daemon {
    /// Nobody is connected.
    #[must_use]
    pub fn new(limits: Limits, clock: Clock, mailbox: Arc<dyn Mailbox>, world: Arc<dyn World>) -> Self {
        Self {
            limits,
            policy: PolicyCell::default(),
            requests: Arc::default(),
            clock,
            mailbox,
            world,
            pulse: Pulse::default(),
            admission: Mutex::new(Admission::new(&limits)),
            connections: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            last_complaint: AtomicU64::new(0),
        }
    }

    /// The same with a service manager that may want signs of life.
    #[must_use]
    pub fn with_pulse(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// Looks at a connection that was just accepted: whose is it, and is there a place for it (PX-07, PX-14a)? `None`: close it.
    pub fn admit(self: &Arc<Self>, stream: TcpStream, client: SocketAddrV4) -> Option<Accepted> {
        let record = self.world.attribute(&stream, client);
        let holder = Holder { user: record.map(|r| r.uid), direct: record.is_none_or(|r| r.route == Route::Direct) };
        match self.admission().admit(self.clock.now().mono, holder) {
            Admitted::Yes => {
                let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
                let place = Place { daemon: Arc::clone(self), holder, number };
                Some(Accepted { stream, client, number, record, place })
            }
            Admitted::No { log, unlogged } => {
                if log {
                    log::warn!("Too many connections: one of {holder:?} was closed ({unlogged} more since the last such line)");
                }
                None
            }
        }
    }

    /// PX-04: accepting failed; said at most once per second.
    pub fn cannot_accept(&self, error: &io::Error) {
        let now = self.clock.now().mono.0;
        let last = self.last_complaint.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= 1_000_000_000 || last == 0 {
            self.last_complaint.store(now, Ordering::Relaxed);
            log::warn!("A connection could not be accepted: {error}");
        }
    }

    /// Who is on the other side: without a record nobody that we know, which is refused (PX-23). May block.
    #[must_use]
    pub fn identify(&self, record: Option<&KernelRecord>) -> Peer {
        record.map_or(Peer::Unknown, |record| self.world.identify(record, self.policy.view().refresh(&self.policy)))
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
    holder: Holder,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.daemon.world.gone(self.daemon.clock.now(), self.number);
        self.daemon.admission().release(self.holder);
    }
}

/// Counts a connection as busy while a request is under way.
pub struct Busy {
    daemon: Arc<Daemon>,
    busy: bool,
}

impl Busy {
    /// Not busy yet.
    #[must_use]
    pub const fn new(daemon: Arc<Daemon>) -> Self {
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

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(false);
    }
}
