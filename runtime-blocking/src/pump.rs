//! One non-blocking turn over the two sockets of a connection. Both runtimes use it; it knows no waiter.
//!
//! What waits (readiness, `/proc`, a connect, the agent) is handed to the runtime as [`Next`]; everything else happens here, with
//! the fewest system calls: one read per readable side, one vectored write per writable side.

use azure_proxy_agent_core::conn::{IOV, ProxyConn, Summary};
use azure_proxy_agent_core::effect::{ConnAnswer, ConnEffect, Cx, Deadline, How, Interest, LocalQuery, RecordKind, Recv, Side};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};

/// Which sides a wait has found readable. Writing is simply tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready {
    /// The client's socket has bytes, or its end.
    pub client: bool,
    /// The host's socket has.
    pub upstream: bool,
    /// The client's socket failed while nothing was to be read from it: the wait would not wait any more.
    pub client_broken: bool,
    /// The host's socket did.
    pub upstream_broken: bool,
}

impl Ready {
    /// Whether anything happened.
    #[must_use]
    pub const fn any(self) -> bool {
        self.client || self.upstream || self.client_broken || self.upstream_broken
    }
}

/// What is to be written down about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// It goes to the host now ([`ConnEffect::Intend`]).
    Intent,
    /// It has ended ([`ConnEffect::Report`]).
    Record,
}

/// What a connection needs from its runtime before it can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Find out who is on the other side, then [`Pump::answer`].
    Identify,
    /// Connect to the host, then [`Pump::answer`].
    Connect(SocketAddrV4),
    /// Ask the agent machine, then [`Pump::answer`].
    Ask(LocalQuery),
    /// Close the connection to the host: `abort` with a reset.
    Unlink {
        /// With a reset, so that half a request cannot look complete.
        abort: bool,
    },
    /// Wait for readiness as [`Pump::interest`] says, at most until [`Pump::deadline`].
    Wait,
    /// Drop both sockets: it is over.
    Done,
}

/// A connection machine and its turn.
#[derive(Debug)]
pub struct Pump {
    conn: ProxyConn,
}

/// Most rounds of one turn: a peer that is always ready must not keep the others waiting.
const ROUNDS: usize = 16;

impl Pump {
    /// For a machine that was just made.
    #[must_use]
    pub const fn new(conn: ProxyConn) -> Self {
        Self { conn }
    }

    /// Gives the machine the answer to the last [`Next`].
    pub fn answer(&mut self, cx: Cx<'_>, answer: ConnAnswer) {
        self.conn.handle_answer(cx, answer);
    }

    /// Reads what is ready, runs the machine, writes what it has, until it needs something.
    pub fn turn(
        &mut self,
        cx: Cx<'_>,
        client: &TcpStream,
        upstream: Option<&TcpStream>,
        ready: Ready,
        note: &mut dyn FnMut(Note, &Summary<'_>),
    ) -> Next {
        if ready.upstream
            && let Some(upstream) = upstream
        {
            self.read(cx, Side::Upstream, upstream);
        }
        if ready.client {
            self.read(cx, Side::Client, client);
        }
        if ready.upstream_broken {
            self.conn.handle_recv(cx, Side::Upstream, Recv::Reset);
        }
        if ready.client_broken {
            self.conn.handle_recv(cx, Side::Client, Recv::Reset);
        }
        self.conn.handle_timeout(cx);
        for _ in 0..ROUNDS {
            while let Some(effect) = self.conn.poll_effect(cx) {
                if let Some(next) = self.carry_out(effect, client, note) {
                    // What there is to say does not wait for an answer: an interim response (PX-78) goes out before the connect.
                    self.write(cx, Side::Client, client);
                    return next;
                }
            }
            let mut moved = self.write(cx, Side::Client, client);
            if let Some(upstream) = upstream {
                moved |= self.write(cx, Side::Upstream, upstream);
            }
            if !moved {
                break;
            }
        }
        if self.conn.interest().done { Next::Done } else { Next::Wait }
    }

    /// What to wait for.
    #[must_use]
    pub fn interest(&self) -> Interest {
        self.conn.interest()
    }

    /// Until when.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.conn.deadline()
    }

    /// Whether a request is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.conn.is_idle()
    }

    /// The daemon is going down: no request but the one that is under way, or has come though nobody has looked yet.
    pub fn drain(&mut self, cx: Cx<'_>, client: &TcpStream) {
        self.fill(cx, client);
        self.conn.handle_drain();
    }

    /// Takes what the client has sent, though something else is waited for: a socket that is closed with bytes unread, as those of a
    /// killed process are, resets its connection. `true` if there was something.
    pub fn fill(&mut self, cx: Cx<'_>, client: &TcpStream) -> bool {
        self.read(cx, Side::Client, client)
    }

    fn carry_out(&self, effect: ConnEffect, client: &TcpStream, note: &mut dyn FnMut(Note, &Summary<'_>)) -> Option<Next> {
        match effect {
            ConnEffect::Identify => Some(Next::Identify),
            ConnEffect::Connect { to } => Some(Next::Connect(to)),
            ConnEffect::Ask(query) => Some(Next::Ask(query)),
            ConnEffect::Intend => {
                note(Note::Intent, &self.conn.summary(RecordKind::Normal));
                None
            }
            ConnEffect::Report(kind) => {
                note(Note::Record, &self.conn.summary(kind));
                None
            }
            ConnEffect::Shutdown { side: Side::Upstream, how } => Some(Next::Unlink { abort: how == How::Abort }),
            ConnEffect::Shutdown { side: Side::Client, how } => {
                match how {
                    // An error means that the client is gone already.
                    How::Write => drop(client.shutdown(Shutdown::Write)),
                    How::Abort => set_abort(client),
                    How::Close => {}
                }
                None
            }
        }
    }

    /// One read: a full one is followed by another turn, because the socket stays readable. `true` if it gave anything, be it the end.
    fn read(&mut self, cx: Cx<'_>, side: Side, mut socket: &TcpStream) -> bool {
        let space = self.conn.recv_space(side);
        if space.is_empty() {
            return false;
        }
        let recv = loop {
            match socket.read(space) {
                Ok(0) => break Recv::Eof,
                Ok(n) => break Recv::Data(n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => break Recv::Reset,
            }
        };
        self.conn.handle_recv(cx, side, recv);
        true
    }

    /// One vectored write; `true` if bytes went out.
    fn write(&mut self, cx: Cx<'_>, side: Side, mut socket: &TcpStream) -> bool {
        let mut iov = [IoSlice::new(&[]); IOV];
        let count = self.conn.transmit(side, &mut iov);
        if count == 0 {
            return false;
        }
        let slices = iov.get(..count).unwrap_or_default();
        let result = loop {
            match socket.write_vectored(slices) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match result {
            Ok(n) => {
                self.conn.transmitted(cx, side, n);
                n > 0
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(_) => {
                self.conn.handle_unwritable(cx, side);
                // What was received meanwhile says more than the failed write.
                self.read(cx, side, socket);
                true
            }
        }
    }
}

/// Makes the close of a socket a reset, so that what was sent so far cannot be taken for complete.
pub fn set_abort(socket: &TcpStream) {
    // Failing that, the close is an ordinary one.
    let _: io::Result<()> = rustix::net::sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO)).map_err(Into::into);
}
