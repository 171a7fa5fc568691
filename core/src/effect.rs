//! The seam: everything a machine may be told, and everything it may ask for. A shell translates these values to system calls
//! and back, and decides nothing.

use crate::identity::Peer;
use crate::policy::Policy;
use crate::time::{Mono, Now};
use bytes::Bytes;
use core::net::SocketAddrV4;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Everything the world may tell a connection besides bytes and answers.
#[derive(Debug, Clone, Copy)]
pub struct Cx<'a> {
    /// Both clocks.
    pub now: Now,
    /// The newest policy. A request takes hold of it when its head is complete.
    pub policy: &'a Arc<Policy>,
    /// The process's running request number (PX-81).
    pub requests: &'a RequestCounter,
}

/// Hands out running request numbers, starting at 1 (PX-81, FS-49). One per process, shared by its connections.
#[derive(Debug, Default)]
pub struct RequestCounter(AtomicU64);

impl RequestCounter {
    /// The next number.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many requests there have been.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of the two byte streams of a proxied connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The caller.
    Client,
    /// The host endpoint.
    Upstream,
}

/// What a read from a socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recv {
    /// That many bytes were put at the beginning of the receive space.
    Data(usize),
    /// The other side sends nothing more.
    Eof,
    /// The connection is broken (reset, timed out, any other error).
    Reset,
}

/// One-shot requests of a connection to its shell: drain with `poll_effect` until `None` after each input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnEffect {
    /// Say who is on the other side of the client connection. Once per connection, first of all; answered by
    /// [`ConnAnswer::Identified`].
    Identify,
    /// Open a connection to a host endpoint (dropping a former one); answered by [`ConnAnswer::Connected`] or
    /// [`ConnAnswer::ConnectFailed`].
    Connect {
        /// Where to.
        to: SocketAddrV4,
    },
    /// Ask the agent machine; answered by [`ConnAnswer::Reply`].
    Ask(LocalQuery),
    /// The current request is about to go to the host: write down, in a place that outlives this process, that it does
    /// ([`summary`](crate::conn::ProxyConn::summary) has the record as it stands). Once per request that goes out; no byte for the
    /// host is handed out before it is taken. No answer. The normal [`Report`](Self::Report) of the request replaces what was
    /// written; if the connection ends without one, the outcome is not known.
    Intend,
    /// Write a record of the request that just ended (or was denied): [`summary`](crate::conn::ProxyConn::summary) has it. No
    /// answer; must be taken before the next input.
    Report(RecordKind),
    /// Close one side. No answer.
    Shutdown {
        /// Which.
        side: Side,
        /// How far.
        how: How,
    },
}

/// Which table a record belongs to (PX-104).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// Every finished request.
    Normal,
    /// Failed authorization; a denied request appears in both.
    Failed,
}

/// How far a side is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// No more bytes from us; the other direction stays open (half-close).
    Write,
    /// Close in order.
    Close,
    /// Close with a reset: what was sent so far must not look complete (PX-80).
    Abort,
}

/// The shell's answer to a [`ConnEffect`].
#[derive(Debug, Clone)]
pub enum ConnAnswer {
    /// To [`ConnEffect::Identify`].
    Identified(Peer),
    /// The connection to the host is established.
    Connected,
    /// It is not.
    ConnectFailed(ConnectError),
    /// The agent machine's answer.
    Reply(LocalReply),
}

/// Why a connection to a host could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// No answer within the connect timeout.
    TimedOut,
    /// This machine could not even try (descriptors, memory, permission, exemption from the redirect failed).
    Local,
}

impl ConnectError {
    /// Short text for `errorDetails` (PX-103).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Unreachable => "host unreachable",
            Self::TimedOut => "connect timed out",
            Self::Local => "no connection could be opened",
        }
    }
}

/// A question of a local endpoint to the agent machine (proxy.md section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalQuery {
    /// `/provision` (PX-49 to PX-59).
    Provision {
        /// `x-ms-azure-time-tick`; 0 if absent or not a number (PX-51).
        tick: i128,
        /// Whether `x-ms-azure-notify` was present (PX-52).
        notify: bool,
    },
    /// `/gpa-aggregated-status`, already authorized (PX-61).
    Status,
    /// `/rules`, already authorized: the documents in force.
    Rules,
}

/// The agent machine's answer: a JSON body for a 200, or nothing (500).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalReply {
    /// Complete JSON document.
    Json(Bytes),
    /// The agent could not answer.
    Unavailable,
}

/// What the machine waits for on one socket. Level-triggered: ask whenever you want, nothing can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// It has room for bytes.
    pub read: bool,
    /// It has bytes to write.
    pub write: bool,
}

/// What a connection waits for on its two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// The caller's socket.
    pub client: Wants,
    /// The host's socket.
    pub upstream: Wants,
    /// Nothing is left to do: drop the connection (both sockets).
    pub done: bool,
}

/// When `handle_timeout` wants to be called, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The moment.
    pub at: Mono,
    /// Which timer it is.
    pub timer: Timer,
}

/// The timers of a connection; at most one runs at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// When to give up on an incomplete request head (PX-14).
    Head,
    /// When to give up on a peer that neither sends nor takes a byte in the middle of a message.
    Stall,
    /// When to look again whether the agent knows what the host wants.
    Settle,
    /// When to give up on a connection attempt.
    Connect,
    /// When to stop waiting for the caller's close.
    Linger,
}
