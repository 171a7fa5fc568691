//! Every byte and time bound of the proxy in one place.

use core::time::Duration;

/// Bounds of one connection and of the listener. [`Limits::DEFAULT`] is what the daemons use; tests make their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest request head, request line included (PX-41). Larger ones get 431.
    pub head: usize,
    /// Longest request target (PX-16). Longer ones get 414.
    pub target: usize,
    /// Most header fields of a request (PX-17).
    pub fields: usize,
    /// Largest response head that we accept from a host; a larger one is a failed exchange.
    pub response_head: usize,
    /// Most interim responses (RFC 9110 section 15.2) before the final one of one of the agent's own calls.
    pub interim: usize,
    /// Largest body of a request that is signed (W-67).
    pub signed_body: u64,
    /// Largest body of an exempt request (W-67).
    pub exempt_body: u64,
    /// Bytes of one read from a socket, and the size to which an idle connection's buffers shrink back.
    pub read: usize,
    /// Most relayed bytes buffered per direction: a full buffer stops reading from the other side.
    pub relay: usize,
    /// A request head must be complete this long after its first byte (the first one: after accept, PX-14).
    pub head_timeout: Duration,
    /// How long a peer may neither send a byte of a body that it announced nor take a byte that we hold for it.
    pub stall_timeout: Duration,
    /// How long the body of a request that is collected may take in all: a byte now and then is no progress.
    pub body_timeout: Duration,
    /// How long a request waits for an agent that has just started to know what the host wants (S-03).
    pub settle_timeout: Duration,
    /// How soon such a request looks again.
    pub settle_interval: Duration,
    /// How long a connection to a host may take to be established.
    pub connect_timeout: Duration,
    /// How long one of the agent's own calls may take from its first byte to its last (W-07); connecting has its own bound.
    pub exchange_timeout: Duration,
    /// Largest response body of one of the agent's own calls (W-07).
    pub exchange_body: usize,
    /// How long we wait for the caller to close after a response that ends the connection (RFC 9112 section 9.6).
    pub linger_timeout: Duration,
    /// Most client connections at a time (PX-14a).
    pub connections: usize,
    /// Most client connections of one user id; direct connections count as one user (PX-14a).
    pub connections_per_user: usize,
}

impl Limits {
    /// The specified values.
    pub const DEFAULT: Self = Self {
        head: 64 * 1024,
        target: 65_534,
        fields: 100,
        response_head: 64 * 1024,
        interim: 16,
        signed_body: 102_400,
        exempt_body: 104_857_600,
        read: 4 * 1024,
        relay: 64 * 1024,
        head_timeout: Duration::from_secs(10),
        stall_timeout: Duration::from_secs(60),
        body_timeout: Duration::from_secs(120),
        settle_timeout: Duration::from_secs(5),
        settle_interval: Duration::from_millis(5),
        connect_timeout: Duration::from_secs(5),
        exchange_timeout: Duration::from_secs(30),
        exchange_body: 1024 * 1024,
        linger_timeout: Duration::from_secs(2),
        connections: 1024,
        connections_per_user: 512,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
