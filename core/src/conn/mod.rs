//! [`ProxyConn`]: one intercepted client connection, from accept to close, without a socket in sight.
//!
//! ```text
//! Identify ─► Head ─► (decide) ─┬─► Collect ─┬─► Connect ─► Exchange ─┐
//!               ▲               │            └─► Ask ─► Reply ────────┤
//!               │               └─► Reply (refused) ──────────────────┤
//!               └──────────────── keep-alive ◄────────────────────────┴─► Linger ─► Closed
//! ```
//!
//! Inputs are `handle_*`; after each, [`ProxyConn::poll_effect`] runs the machine and hands out what it asks of the world, until
//! `None`. [`interest`](ProxyConn::interest), [`deadline`](ProxyConn::deadline) and [`transmit`](ProxyConn::transmit) can be asked
//! at any time. Order of checks: proxy.md section 3.
//!
//! It knows HTTP, policies and identities. It refuses to know sockets, processes, clocks, and who runs it.

mod exchange;
mod outbox;
mod record;
mod request;

pub use outbox::IOV;
pub use record::{Details, Steps, Summary};

use crate::authz::Scratch;
use crate::effect::{
    ConnAnswer, ConnEffect, ConnectError, Cx, Deadline, How, Interest, LocalReply, RecordKind, Recv, Side, Timer, Wants,
};
use crate::http::reply::{Reply, Status};
use crate::http::{Buf, Field, HeadScan, Version};
use crate::identity::Peer;
use crate::limits::Limits;
use crate::policy::Policy;
use crate::time::{HttpDate, Mono};
use core::net::SocketAddrV4;
use exchange::Exchange;
use outbox::Outbox;
use record::Record;
use request::Request;
use std::io::IoSlice;
use std::sync::Arc;

/// One client connection and the connection to the host that belongs to it.
#[derive(Debug)]
pub struct ProxyConn {
    limits: Limits,
    /// Running connection number (PX-06).
    number: u64,
    client_addr: SocketAddrV4,
    peer: Peer,
    state: State,
    /// Received from the client; its ready zone goes to the host.
    client: Buf,
    /// Received from the host; its ready zone goes to the client.
    upstream: Buf,
    to_client: Outbox,
    to_upstream: Outbox,
    link: Link,
    /// The client sends nothing more.
    client_eof: bool,
    /// The shell goes down: no request is waited for any more.
    draining: bool,
    /// Progress of the head that is being received, from the client or from the host.
    scan: HeadScan,
    /// Field lines of the current request, relative to its head. Kept for its memory.
    fields: Vec<Field>,
    /// The policy of the current request; `None` between requests, so that an old key is not kept alive by an idle client.
    policy: Option<Arc<Policy>>,
    scratch: Scratch,
    record: Record,
    effects: Effects,
    /// When the wait for a head began: accept, the end of the request before, or the head's first byte.
    head_since: Option<Mono>,
    /// Last time the client sent or took a byte.
    client_progress: Mono,
    /// Last time the host sent or took a byte, or a connection to it was begun.
    upstream_progress: Mono,
    date: HttpDate,
    host_date: HttpDate,
}

/// Situation of the connection.
#[derive(Debug)]
enum State {
    /// The shell finds out who is on the other side.
    Identify,
    /// Waiting for a request head, or idle.
    Head,
    /// The agent does not know yet what the host wants; when to look again. The head is still in the buffer.
    Hold(Request, Mono),
    /// What is known of the caller is too old for the request, or less than the rules ask for: the shell looks again. The head is
    /// still in the buffer.
    Recheck(Request),
    /// The request may be answered; its body is being read.
    Collect(Request),
    /// The agent machine composes the answer.
    Ask(Request),
    /// A connection to the host is being made.
    Connect(Request),
    /// The request goes out, the response comes in.
    Exchange(Request, Exchange),
    /// A response of ours goes out.
    Reply(After),
    /// Everything is said; waiting until the client has read it (RFC 9112 section 9.6).
    Linger(Mono),
    /// Nothing is left to do.
    Closed,
}

/// What follows a response of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The next request.
    Keep,
    /// Close: the caller announced that it sends nothing more, or the response said so.
    Close,
    /// Close after a refusal, but wait for the client: it may be sending a body or further requests.
    Linger,
}

/// The connection to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    None,
    Connecting,
    Open {
        /// A request before this one used it.
        reused: bool,
    },
}

/// At most four effects are ever pending: identify, or (failed report, intent or connect, normal report, shutdowns).
#[derive(Debug, Default)]
struct Effects {
    slots: [Option<ConnEffect>; 6],
    first: usize,
    len: usize,
}

impl Effects {
    fn push(&mut self, effect: ConnEffect) {
        let at = (self.first + self.len) % self.slots.len();
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(effect);
            self.len += 1;
        }
        debug_assert!(self.len <= self.slots.len(), "effects are drained before the machine goes on");
    }

    fn pop(&mut self) -> Option<ConnEffect> {
        let effect = self.slots.get_mut(self.first).and_then(Option::take)?;
        self.first = (self.first + 1) % self.slots.len();
        self.len -= 1;
        Some(effect)
    }
}

/// Whether a step of the machine changed something, so that another may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Again,
    Wait,
}

impl ProxyConn {
    /// A connection that was just accepted from `client`.
    #[must_use]
    pub fn new(cx: Cx<'_>, number: u64, client: SocketAddrV4, limits: Limits) -> Self {
        let mut effects = Effects::default();
        effects.push(ConnEffect::Identify);
        Self {
            limits,
            number,
            client_addr: client,
            peer: Peer::Unknown,
            state: State::Identify,
            client: Buf::default(),
            upstream: Buf::default(),
            to_client: Outbox::default(),
            to_upstream: Outbox::default(),
            link: Link::None,
            client_eof: false,
            draining: false,
            scan: HeadScan::default(),
            fields: Vec::new(),
            policy: None,
            scratch: Scratch::default(),
            record: Record::default(),
            effects,
            head_since: Some(cx.now.mono),
            client_progress: cx.now.mono,
            upstream_progress: cx.now.mono,
            date: HttpDate::default(),
            host_date: HttpDate::default(),
        }
    }

    /// Room for bytes of one side. Empty when [`interest`](Self::interest) does not want to read from it.
    pub fn recv_space(&mut self, side: Side) -> &mut [u8] {
        let room = self.room(side);
        if room == 0 {
            return &mut [];
        }
        let want = self.expected(side).clamp(self.limits.read, room.max(self.limits.read));
        match side {
            Side::Client => self.client.space(want.min(room), room),
            Side::Upstream => self.upstream.space(want.min(room), room),
        }
    }

    /// Bytes that are known to come from one side: a body is read in few steps, and everything else in small ones.
    fn expected(&self, side: Side) -> usize {
        match (&self.state, side) {
            (State::Collect(request), Side::Client) => request.body.expected(usize::MAX),
            (State::Exchange(request, _), Side::Client) => request.body.expected(self.limits.relay / 4),
            (State::Exchange(_, exchange), Side::Upstream) => exchange.expected(self.limits.relay / 4),
            _ => 0,
        }
    }

    /// What a read from one side gave. `Data(n)` means that `n` bytes stand at the beginning of the receive space.
    pub fn handle_recv(&mut self, cx: Cx<'_>, side: Side, recv: Recv) {
        match (side, recv) {
            (Side::Client, Recv::Data(n)) => {
                self.client.received(n);
                self.client_progress = cx.now.mono;
                if matches!(self.state, State::Head) && self.head_since.is_none() {
                    self.head_since = Some(cx.now.mono);
                }
            }
            (Side::Client, Recv::Eof) => self.client_eof = true,
            (Side::Client, Recv::Reset) => self.client_gone(cx.now.mono, "client reset the connection"),
            (Side::Upstream, Recv::Data(n)) => {
                self.upstream.received(n);
                self.upstream_progress = cx.now.mono;
            }
            (Side::Upstream, Recv::Eof) => self.host_closed(cx, true),
            (Side::Upstream, Recv::Reset) => self.host_closed(cx, false),
        }
    }

    /// One side takes no more bytes (a write failed). Of the host, a response may still be on its way; a client that cannot be
    /// written to is gone.
    pub fn handle_unwritable(&mut self, cx: Cx<'_>, side: Side) {
        match side {
            Side::Client => self.client_gone(cx.now.mono, "client closed the connection"),
            Side::Upstream => self.host_unwritable(),
        }
    }

    /// The answer to an effect.
    pub fn handle_answer(&mut self, cx: Cx<'_>, answer: ConnAnswer) {
        match answer {
            ConnAnswer::Identified(peer) => match self.state {
                State::Identify => (self.peer, self.state) = (peer, State::Head),
                State::Recheck(request) => self.rechecked(cx, request, peer),
                _ => {}
            },
            ConnAnswer::Connected => self.connected(cx, Ok(())),
            ConnAnswer::ConnectFailed(error) => {
                if self.link == Link::Connecting {
                    // There is nothing to shut down.
                    self.link = Link::None;
                }
                self.connected(cx, Err(error));
            }
            ConnAnswer::Reply(reply) => self.replied(cx, &reply),
        }
    }

    /// The deadline may have passed. A spurious call does nothing.
    pub fn handle_timeout(&mut self, cx: Cx<'_>) {
        let Some(deadline) = self.deadline().filter(|d| d.at <= cx.now.mono) else { return };
        match deadline.timer {
            // PX-14: without a response.
            Timer::Head => self.close(How::Close),
            Timer::Linger => self.state = State::Closed,
            Timer::Settle => self.look_again(cx),
            Timer::Connect => self.connected(cx, Err(ConnectError::TimedOut)),
            Timer::Stall => self.stalled(cx),
        }
    }

    /// The shell is going down: finish the request that is under way (or has begun to come), take no other. An idle connection
    /// closes at once, and a new one as soon as it is known whether a request has begun to come on it. Said before each turn.
    pub fn handle_drain(&mut self) {
        self.draining = true;
        match &mut self.state {
            State::Head if self.client.raw().is_empty() => self.close(How::Close),
            State::Identify | State::Head | State::Reply(_) | State::Linger(_) | State::Closed => {}
            State::Hold(request, _)
            | State::Recheck(request)
            | State::Collect(request)
            | State::Ask(request)
            | State::Connect(request)
            | State::Exchange(request, _) => request.keep = false,
        }
    }

    /// Runs the machine until it asks for something, and says what. `None`: it waits for input.
    #[must_use = "an effect that is not carried out is lost"]
    pub fn poll_effect(&mut self, cx: Cx<'_>) -> Option<ConnEffect> {
        loop {
            if let Some(effect) = self.effects.pop() {
                return Some(effect);
            }
            if self.step(cx) == Step::Wait {
                let effect = self.effects.pop();
                if effect.is_none() && matches!(self.state, State::Head) {
                    // Nobody asks for the record of the request before any more.
                    self.record.rules = None;
                }
                return effect;
            }
        }
    }

    /// The unsent bytes for one side, as slices for one vectored write; returns how many slices there are.
    pub fn transmit<'a>(&'a self, side: Side, iov: &mut [IoSlice<'a>; IOV]) -> usize {
        match side {
            Side::Client => self.to_client.slices(&self.upstream, iov),
            // Not in any other state: a body that is being collected stands in the same buffer, and may yet be refused. And not
            // before the effects are taken, one of which may be that this request goes out.
            Side::Upstream if self.effects.len == 0 && self.upstream_writable() => self.to_upstream.slices(&self.client, iov),
            Side::Upstream => 0,
        }
    }

    /// Says that the first `n` bytes of [`transmit`](Self::transmit) were sent.
    pub fn transmitted(&mut self, cx: Cx<'_>, side: Side, n: usize) {
        match side {
            Side::Client => {
                self.to_client.advance(n, &mut self.upstream);
                self.client_progress = cx.now.mono;
            }
            Side::Upstream => {
                self.to_upstream.advance(n, &mut self.client);
                self.upstream_progress = cx.now.mono;
                if let State::Exchange(_, exchange) = &mut self.state {
                    exchange.sent_any |= n > 0;
                }
            }
        }
    }

    /// What the machine waits for.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest {
            client: Wants { read: self.room(Side::Client) > 0, write: !self.to_client.is_empty(&self.upstream) },
            upstream: Wants { read: self.room(Side::Upstream) > 0, write: self.upstream_writable() },
            done: matches!(self.state, State::Closed) && self.effects.len == 0,
        }
    }

    /// Until when, and why. `None` between requests and while a host takes its time (PX-14).
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let stall = |since: Mono| Some(Deadline { at: since + self.limits.stall_timeout, timer: Timer::Stall });
        match &self.state {
            State::Identify | State::Head => {
                let at = self.head_since? + self.limits.head_timeout;
                Some(Deadline { at, timer: Timer::Head })
            }
            State::Hold(_, again) => Some(Deadline { at: *again, timer: Timer::Settle }),
            State::Collect(_) => {
                let stalled = self.client_progress + self.limits.stall_timeout;
                let at = stalled.min(self.record.started + self.limits.body_timeout);
                Some(Deadline { at, timer: Timer::Stall })
            }
            State::Reply(_) => stall(self.client_progress),
            State::Connect(_) => {
                let at = self.upstream_progress + self.limits.connect_timeout;
                Some(Deadline { at, timer: Timer::Connect })
            }
            State::Exchange(_, exchange) => {
                if !self.to_client.is_empty(&self.upstream) {
                    stall(self.client_progress)
                } else if self.upstream_writable() {
                    stall(self.upstream_progress)
                } else if exchange.awaits_client() {
                    stall(self.client_progress)
                } else {
                    None
                }
            }
            State::Linger(since) => Some(Deadline { at: *since + self.limits.linger_timeout, timer: Timer::Linger }),
            State::Recheck(_) | State::Ask(_) | State::Closed => None,
        }
    }

    /// The record that a [`ConnEffect::Report`] is about. Valid until the next [`poll_effect`](Self::poll_effect).
    #[must_use]
    pub fn summary(&self, kind: RecordKind) -> Summary<'_> {
        let r = &self.record;
        Summary {
            kind,
            request: r.request,
            connection: self.number,
            method: r.method(),
            url: r.url(),
            client: self.client_addr,
            peer: &self.peer,
            status: match (kind, r.details) {
                // PX-24: there was nothing to decide about.
                (RecordKind::Failed, Details::NoClaims) | (RecordKind::Normal, _) => r.status,
                (RecordKind::Failed, _) => Status::FORBIDDEN,
            },
            elapsed: r.ended.since(r.started),
            details: match (kind, r.details) {
                (RecordKind::Failed, details @ Details::NoClaims) => details,
                (RecordKind::Failed, _) => Details::Denied,
                (RecordKind::Normal, details) => details,
            },
            decision: r.decision,
            divergence: r.divergence.as_deref(),
            epoch: r.epoch,
            rules: r.rules.as_deref(),
            forwarded: r.forwarded,
            steps: r.steps(),
        }
    }

    /// Who is on the other side, as far as the shell has told.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether the connection waits for a request that has not begun: such a one may be closed when there are too many.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.client.raw().is_empty()
    }

    fn step(&mut self, cx: Cx<'_>) -> Step {
        match &mut self.state {
            State::Identify | State::Recheck(_) | State::Ask(_) | State::Connect(_) => Step::Wait,
            State::Head => self.read_head(cx),
            State::Hold(request, _) if cx.policy.settled => {
                let request = *request;
                self.decide(cx, request);
                Step::Again
            }
            State::Hold(..) => Step::Wait,
            State::Collect(_) => self.read_body(cx),
            State::Exchange(..) => self.relay(cx),
            State::Reply(after) => {
                let after = *after;
                if !self.to_client.is_empty(&self.upstream) {
                    return Step::Wait;
                }
                match after {
                    After::Keep => self.next_request(cx.now.mono),
                    After::Close => self.close(How::Close),
                    After::Linger if self.client_eof => self.close(How::Close),
                    After::Linger => {
                        self.effects.push(ConnEffect::Shutdown { side: Side::Client, how: How::Write });
                        self.state = State::Linger(cx.now.mono);
                    }
                }
                Step::Again
            }
            State::Linger(_) => {
                self.client.clear();
                if self.client_eof {
                    self.state = State::Closed;
                }
                Step::Wait
            }
            State::Closed => Step::Wait,
        }
    }

    /// Total bytes that the buffer of one side may hold now; 0 if nothing should be read.
    fn room(&self, side: Side) -> usize {
        let limits = &self.limits;
        let (buf, max) = match side {
            Side::Client if self.client_eof => return 0,
            Side::Client => {
                let head = limits.head.max(limits.target + 2048) + limits.read;
                let max = match &self.state {
                    State::Closed => 0,
                    State::Identify | State::Head | State::Linger(_) => head,
                    State::Collect(_) => head + usize::try_from(limits.signed_body).unwrap_or(usize::MAX / 2),
                    State::Exchange(_, exchange) if exchange.awaits_client() => limits.relay,
                    // Nothing is needed now: just enough to notice a close, and for the beginning of a pipelined request.
                    _ => self.client.ready().len() + limits.read,
                };
                (&self.client, max)
            }
            Side::Upstream => {
                let max = match (&self.state, self.link) {
                    (_, Link::None | Link::Connecting) | (State::Closed, _) => 0,
                    (State::Exchange(..), _) => limits.relay.max(limits.response_head + limits.read),
                    _ => limits.read,
                };
                (&self.upstream, max)
            }
        };
        if buf.has_space(max) { max } else { 0 }
    }

    fn upstream_writable(&self) -> bool {
        matches!(self.link, Link::Open { .. })
            && matches!(self.state, State::Exchange(..))
            && !self.to_upstream.is_empty(&self.client)
    }

    /// Answers the current request ourselves.
    fn reply(&mut self, cx: Cx<'_>, reply: &Reply<'_>, version: Version, answers_head: bool, after: After) {
        self.client.drop_ready();
        if !self.upstream.is_empty() {
            // The host speaks without being asked; the rest of what it says must not become the answer to the next request.
            self.unlink(How::Close);
        }
        reply.write(self.to_client.pre(), version, answers_head, self.date.refresh(cx.now.wall));
        self.policy = None;
        self.client_progress = cx.now.mono;
        self.state = State::Reply(after);
    }

    /// Ends the record of the current request and asks for it to be written.
    fn report(&mut self, now: Mono, kind: RecordKind) {
        self.record.end(now);
        self.effects.push(ConnEffect::Report(kind));
    }

    /// Waits for the next request on the connection.
    fn next_request(&mut self, now: Mono) {
        self.policy = None;
        self.scan = HeadScan::default();
        self.head_since = (!self.client.raw().is_empty()).then_some(now);
        self.client.shrink(self.limits.read);
        self.upstream.shrink(self.limits.read);
        if self.draining {
            return self.close(How::Close);
        }
        self.state = State::Head;
    }

    /// Gives the connection to the host up.
    fn unlink(&mut self, how: How) {
        if self.link != Link::None {
            self.effects.push(ConnEffect::Shutdown { side: Side::Upstream, how });
            self.link = Link::None;
        }
        self.to_upstream.clear();
        self.upstream.clear();
    }

    /// Ends everything.
    fn close(&mut self, how: How) {
        self.unlink(How::Close);
        self.to_client.clear();
        self.client.clear();
        self.policy = None;
        self.effects.push(ConnEffect::Shutdown { side: Side::Client, how });
        self.state = State::Closed;
    }

    /// The client is not there any more.
    fn client_gone(&mut self, now: Mono, why: &'static str) {
        let answered = matches!(&self.state, State::Exchange(_, exchange) if exchange.answered());
        let under_way = match self.state {
            State::Hold(..) | State::Recheck(_) | State::Collect(_) | State::Ask(_) | State::Connect(_) | State::Exchange(..) => {
                true
            }
            State::Identify | State::Head | State::Reply(_) | State::Linger(_) | State::Closed => false,
        };
        if under_way {
            if !answered {
                self.record.status = Status::CLIENT_CLOSED;
            }
            if !matches!(&self.state, State::Ask(request) | State::Collect(request) if request.query.is_some()) {
                self.record.details = Details::Text(why);
                self.report(now, RecordKind::Normal);
            }
        }
        if !matches!(self.state, State::Closed) {
            // It may still be reading: half an answer must not look whole (PX-80).
            self.close(if answered { How::Abort } else { How::Close });
        }
    }

    /// The answer of the agent machine to a local endpoint's question.
    fn replied(&mut self, cx: Cx<'_>, reply: &LocalReply) {
        let State::Ask(request) = &self.state else { return };
        let (version, answers_head, keep) = (request.head.version, request.answers_head, request.keep);
        match reply {
            LocalReply::Json(body) => {
                let after = if keep { After::Keep } else { After::Close };
                let reply = Reply {
                    status: Status::OK,
                    content_type: Some("application/json; charset=utf-8"),
                    body,
                    allow: None,
                    close: !keep,
                };
                self.reply(cx, &reply, version, answers_head, after);
            }
            LocalReply::Unavailable => {
                self.reply(cx, &Reply::empty(Status::INTERNAL, true), version, answers_head, After::Linger);
            }
        }
    }
}
