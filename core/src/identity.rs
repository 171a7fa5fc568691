//! Who asks, and whom: the vocabulary of attribution. What the kernel noted ([`KernelRecord`]), what user space could add
//! ([`ExeFact`], [`AccountFacts`]), and what a decision is made of ([`Claims`]).
//!
//! The shells collect facts; only this module turns facts into claims (identity.md).

mod claims;
pub mod redact;

pub use claims::{
    AccountFacts, Claims, Confidence, ExeFact, ExeHash, ExeHasher, Executable, Fact, Needs, OnDemand, ProcessFacts,
};

use core::net::{Ipv4Addr, SocketAddrV4};
use core::{borrow::Borrow, fmt};
use std::sync::Arc;

/// Address and port of the agent's listener (PX-01). Fixed, not configurable.
pub const LISTENER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3080);

/// One of the three guarded endpoints of the host (W-01 to W-03).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// Instance metadata service, `169.254.169.254:80`.
    Imds,
    /// WireServer, `168.63.129.16:80`.
    WireServer,
    /// Host plug-in (HostGAPlugin), `168.63.129.16:32526`.
    HostGaPlugin,
}

impl Destination {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Imds, Self::WireServer, Self::HostGaPlugin];

    /// Where it listens.
    #[must_use]
    pub const fn addr(self) -> SocketAddrV4 {
        match self {
            Self::Imds => SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80),
            Self::WireServer => SocketAddrV4::new(Ipv4Addr::new(168, 63, 129, 16), 80),
            Self::HostGaPlugin => SocketAddrV4::new(Ipv4Addr::new(168, 63, 129, 16), 32_526),
        }
    }

    /// The endpoint behind an original destination address; `None` for any other address, which is never forwarded to (PX-65).
    #[must_use]
    pub fn from_addr(addr: SocketAddrV4) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.addr() == addr)
    }

    /// The name used in log lines (PX-73).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imds => "IMDS",
            Self::WireServer => "WireServer",
            Self::HostGaPlugin => "HostGAPlugin",
        }
    }

    /// Whether only elevated callers may reach it, whatever the rules say (PX-67).
    #[must_use]
    pub const fn elevated_only(self) -> bool {
        !matches!(self, Self::Imds)
    }
}

/// What is done with new connections to a guarded endpoint (W-42). Ascending by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TargetMode {
    /// Not redirected: callers talk to the host themselves.
    #[default]
    Off,
    /// Redirected while an agent is there; given up when it stays away (S-03).
    Audit,
    /// Redirected even while no agent is there: connections are then refused (S-03).
    Enforce,
}

/// A value per guarded endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerDestination<T> {
    /// For IMDS.
    pub imds: T,
    /// For the WireServer.
    pub wireserver: T,
    /// For the host plug-in.
    pub hostga: T,
}

impl<T> PerDestination<T> {
    /// The value of one endpoint.
    pub const fn get(&self, destination: Destination) -> &T {
        match destination {
            Destination::Imds => &self.imds,
            Destination::WireServer => &self.wireserver,
            Destination::HostGaPlugin => &self.hostga,
        }
    }

    /// The same, to be changed.
    pub const fn get_mut(&mut self, destination: Destination) -> &mut T {
        match destination {
            Destination::Imds => &mut self.imds,
            Destination::WireServer => &mut self.wireserver,
            Destination::HostGaPlugin => &mut self.hostga,
        }
    }

    /// The same with `f` applied to each.
    pub fn map<U>(self, mut f: impl FnMut(Destination, T) -> U) -> PerDestination<U> {
        PerDestination {
            imds: f(Destination::Imds, self.imds),
            wireserver: f(Destination::WireServer, self.wireserver),
            hostga: f(Destination::HostGaPlugin, self.hostga),
        }
    }
}

/// Bytes that are usually text: compared raw, printed lossily (PX-34, R-40). Paths and account names may hold anything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RawText(Box<[u8]>);

impl RawText {
    /// The bytes as they are.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Text with invalid UTF-8 replaced; for records only, never for comparison.
    #[must_use]
    pub fn lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Whether there is no text at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Into<Vec<u8>>> From<T> for RawText {
    fn from(bytes: T) -> Self {
        Self(bytes.into().into_boxed_slice())
    }
}

impl Borrow<[u8]> for RawText {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RawText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// How a connection came to the listener, as the kernel saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The caller asked for a guarded endpoint and was redirected.
    Redirected,
    /// The caller connected to the listener itself.
    Direct,
    /// The caller asked for a guarded endpoint from another network namespace and was let through (S-08, audit). Noted, never on an
    /// accepted connection.
    Passed,
    /// The same, refused at `connect()` (S-08, enforce).
    Refused,
}

/// The executable file of a process as the kernel names it: inode, its change time, device and generation.
///
/// Inode and change time are compared; the device is advisory, because overlay and btrfs file systems show another number to
/// `stat` (ebpf.md 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExeId {
    /// Inode number.
    pub inode: u64,
    /// Change time, seconds.
    pub ctime_s: i64,
    /// Change time, nanoseconds.
    pub ctime_ns: u32,
    /// Kernel device number (`major << 20 | minor`).
    pub dev: u32,
    /// Inode generation; 0 where the file system has none.
    pub generation: u32,
}

/// What the kernel program wrote down when a thread called `connect()`: it belongs to the socket, moves to the accepted socket,
/// and can neither be evicted nor be inherited by another connection (S-02, S-04, S-06, S-07).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelRecord {
    /// How the connection came here.
    pub route: Route,
    /// The destination that the caller asked for.
    pub original: SocketAddrV4,
    /// Process (thread group) id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Parent's process id.
    pub ppid: u32,
    /// Real **user** id in the initial user namespace (I-20; not the group half of the kernel's combined value, S-09).
    pub uid: u32,
    /// Real group id in the initial user namespace.
    pub gid: u32,
    /// Start time of the process, nanoseconds since boot; 0 if the kernel does not let us read it.
    pub start_boottime: u64,
    /// The task's `self_exec_id`: changes with each exec.
    pub exec_id: u64,
    /// The executable at connect time; `None` if the kernel does not let us read it, or a kernel thread connected.
    pub exe: Option<ExeId>,
    /// Inode number of the task's pid namespace.
    pub pid_ns: u32,
    /// Process id as the process itself sees it.
    pub ns_tgid: u32,
    /// cgroup2 id of the task.
    pub task_cgroup: u64,
    /// cgroup2 id of the socket (its creator's); 0 before Linux 5.15.
    pub socket_cgroup: u64,
    /// Cookie (or inode number, on kernels before 5.15) of the network namespace.
    pub netns: u64,
    /// Socket cookie of the client's socket.
    pub socket_cookie: u64,
    /// When `connect()` was called, nanoseconds since boot.
    pub connected_at: u64,
    /// Whether the caller used an IPv6 socket with a v4-mapped address.
    pub mapped_v6: bool,
    /// Command name of the process, NUL-padded.
    pub comm: [u8; 16],
}

/// The shell's answer about one accepted connection: who is on the other side. Fixed for the life of the connection (PX-10).
#[derive(Debug, Clone)]
pub enum Peer {
    /// Redirected, and the caller's identity is known.
    Redirected {
        /// The address the caller asked for.
        to: SocketAddrV4,
        /// Who it is.
        claims: Arc<Claims>,
    },
    /// Redirected, but no identity could be derived from the record (PX-24).
    Unidentified {
        /// The address the caller asked for.
        to: SocketAddrV4,
    },
    /// Connected to the listener itself. The identity, if known, opens local endpoints only (PX-63); nothing is ever forwarded.
    Direct {
        /// Who it is, where the kernel could tell.
        claims: Option<Arc<Claims>>,
    },
    /// The kernel has no record of this connection (PX-23).
    Unknown,
}

impl Peer {
    /// The caller's identity, if there is one.
    #[must_use]
    pub fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Redirected { claims, .. } => Some(claims),
            Self::Direct { claims } => claims.as_deref(),
            Self::Unidentified { .. } | Self::Unknown => None,
        }
    }

    /// The address the caller asked for, if it was redirected.
    #[must_use]
    pub const fn original(&self) -> Option<SocketAddrV4> {
        match self {
            Self::Redirected { to, .. } | Self::Unidentified { to } => Some(*to),
            Self::Direct { .. } | Self::Unknown => None,
        }
    }
}
