//! Runs a fixture through the machine. What a shell does with sockets is done here with queues.

use super::fixture::{Fixture, Input, Output, Report};
use crate::conn::{IOV, ProxyConn};
use crate::effect::{ConnAnswer, ConnEffect, Cx, How, Recv, RequestCounter, Side};
use crate::limits::Limits;
use crate::policy::Policy;
use crate::time::{Mono, Now};
use core::net::SocketAddrV4;
use core::time::Duration;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// Turns of the machine for one input after which it is taken for caught in a loop.
const TURNS: usize = 50_000_000;

/// How the bytes of a run are cut into reads and writes.
#[derive(Debug, Clone)]
pub enum Cuts {
    /// As much as fits.
    Whole,
    /// At most so many bytes at a time, in both directions.
    Every(usize),
    /// One cut, after so many received bytes of the whole run.
    At(usize),
    /// Random lengths, in both directions.
    Random(XorShift),
}

impl Cuts {
    fn read(&mut self, available: usize, received: usize) -> usize {
        match self {
            Self::At(at) if received < *at => available.min(*at - received),
            Self::At(_) => available,
            _ => self.write(available),
        }
    }

    fn write(&mut self, available: usize) -> usize {
        match self {
            Self::Whole | Self::At(_) => available,
            Self::Every(n) => available.min((*n).max(1)),
            Self::Random(random) => {
                // Mostly short: interesting cuts are where the structure is.
                let most = if random.below(4) == 0 { available } else { available.min(16) };
                1 + random.below(most.max(1) as u64) as usize
            }
        }
        .min(available)
    }
}

/// A small random number generator (Marsaglia's xorshift64*): same seed, same numbers, everywhere.
#[derive(Debug, Clone)]
pub struct XorShift(u64);

impl XorShift {
    /// From a seed; every seed is fine.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { (self.next() >> 11) % bound }
    }
}

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// Per step of the fixture.
    pub steps: Vec<Vec<Output>>,
}

/// What comes out of a whole exchange, whenever: the bytes of each side and everything else in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Streams {
    /// What the client gets.
    pub client: Segment,
    /// What the host gets, per connection to it.
    pub upstream: Vec<Segment>,
    /// All outputs but bytes.
    pub effects: Vec<Output>,
}

/// The bytes of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segment {
    /// What was sent.
    pub bytes: Vec<u8>,
    /// It ended with a reset: how much of the bytes got through before is a matter of time.
    pub aborted: bool,
}

impl Segment {
    /// Whether two runs agree: equal, or, if aborted, as far as both got.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let prefix = self.bytes.starts_with(&other.bytes) || other.bytes.starts_with(&self.bytes);
        self.aborted == other.aborted && if self.aborted { prefix } else { self.bytes == other.bytes }
    }
}

impl Streams {
    /// Joins outputs.
    pub fn of<'a>(outputs: impl IntoIterator<Item = &'a Output>) -> Self {
        let mut streams = Self::default();
        for output in outputs {
            match output {
                Output::Bytes(Side::Client, bytes) => streams.client.bytes.extend_from_slice(bytes),
                Output::Bytes(Side::Upstream, bytes) => {
                    if let Some(last) = streams.upstream.last_mut() {
                        last.bytes.extend_from_slice(bytes);
                    }
                }
                effect => {
                    match effect {
                        Output::Connect(_) => streams.upstream.push(Segment::default()),
                        Output::Shutdown(Side::Client, How::Abort) => streams.client.aborted = true,
                        Output::Shutdown(Side::Upstream, How::Abort) => {
                            if let Some(last) = streams.upstream.last_mut() {
                                last.aborted = true;
                            }
                        }
                        _ => {}
                    }
                    streams.effects.push(effect.clone());
                }
            }
        }
        streams
    }

    /// Whether two runs of one fixture agree.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        self.client.agrees(&other.client)
            && self.upstream.len() == other.upstream.len()
            && self.upstream.iter().zip(&other.upstream).all(|(a, b)| a.agrees(b))
            && self.effects == other.effects
    }
}

impl Fixture {
    /// What the fixture says must come out, whenever.
    #[must_use]
    pub fn streams(&self) -> Streams {
        Streams::of(self.steps.iter().flat_map(|s| &s.outputs))
    }
}

impl Played {
    /// What came out, whenever.
    #[must_use]
    pub fn streams(&self) -> Streams {
        Streams::of(self.steps.iter().flatten())
    }
}

/// Plays a fixture.
///
/// # Errors
/// If the machine does not come to rest, or offers no room although it wants to read.
pub fn play(fixture: &Fixture, limits: Limits, cuts: Cuts) -> Result<Played, String> {
    let requests = RequestCounter::default();
    let mut player = Player {
        conn: None,
        requests: &requests,
        policy: fixture.first_policy(),
        now: Now { mono: Mono(0), wall: fixture.epoch },
        cuts,
        received: 0,
        client: Socket::default(),
        upstream: Socket::default(),
        outputs: Vec::new(),
        done: false,
    };
    let mut steps = Vec::new();
    let mut wall = (Mono(0), fixture.epoch);
    for step in &fixture.steps {
        if let Input::Wall(set) = step.input {
            wall = (step.at, set);
        }
        player.now = Now { mono: step.at, wall: wall.1.plus(step.at.since(wall.0)) };
        player.feed(fixture, &step.input, limits);
        player.settle().map_err(|what| format!("at {:?}: {what}", Duration::from_nanos(step.at.0)))?;
        steps.push(core::mem::take(&mut player.outputs));
    }
    Ok(Played { steps })
}

/// One peer as the machine sees it through a socket.
#[derive(Debug, Default)]
struct Socket {
    /// Sent by the peer, not read yet.
    pending: VecDeque<u8>,
    eof: bool,
    /// Takes nothing for now.
    blocked: bool,
}

struct Player<'a> {
    conn: Option<ProxyConn>,
    requests: &'a RequestCounter,
    policy: Arc<Policy>,
    now: Now,
    cuts: Cuts,
    received: usize,
    client: Socket,
    upstream: Socket,
    outputs: Vec<Output>,
    done: bool,
}

impl Player<'_> {
    fn socket(&mut self, side: Side) -> &mut Socket {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    fn feed(&mut self, fixture: &Fixture, input: &Input, limits: Limits) {
        let policy = Arc::clone(&self.policy);
        let cx = Cx { now: self.now, policy: &policy, requests: self.requests };
        match input {
            Input::Accept(addr) => self.accept(cx, *addr, limits),
            Input::Bytes(side, bytes) => self.socket(*side).pending.extend(bytes),
            Input::Eof(side) => self.socket(*side).eof = true,
            Input::Blocked(side) => self.socket(*side).blocked = true,
            Input::Unblocked(side) => self.socket(*side).blocked = false,
            Input::Policy(name) => self.policy = fixture.policy(name).unwrap_or_default(),
            Input::Reset(side) => {
                *self.socket(*side) = Socket::default();
                self.with(|conn| conn.handle_recv(cx, *side, Recv::Reset));
            }
            Input::Unwritable(side) => self.with(|conn| conn.handle_unwritable(cx, *side)),
            Input::Identified(peer) => {
                let peer = fixture.peer(peer);
                self.with(|conn| conn.handle_answer(cx, ConnAnswer::Identified(peer)));
            }
            Input::Connect(Ok(())) => self.with(|conn| conn.handle_answer(cx, ConnAnswer::Connected)),
            Input::Connect(Err(why)) => self.with(|conn| conn.handle_answer(cx, ConnAnswer::ConnectFailed(*why))),
            Input::Reply(reply) => self.with(|conn| conn.handle_answer(cx, ConnAnswer::Reply(reply.clone()))),
            Input::Timeout => self.with(|conn| conn.handle_timeout(cx)),
            Input::Wall(_) => {}
            Input::Drain => self.with(ProxyConn::handle_drain),
        }
    }

    fn accept(&mut self, cx: Cx<'_>, client: SocketAddrV4, limits: Limits) {
        self.conn = Some(ProxyConn::new(cx, 1, client, limits));
    }

    fn with(&mut self, act: impl FnOnce(&mut ProxyConn)) {
        if let Some(conn) = &mut self.conn {
            act(conn);
        }
    }

    /// Moves everything that can be moved.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..TURNS {
            let effects = self.take_effects();
            let wrote = self.write(Side::Client) | self.write(Side::Upstream);
            // Once written, the machine may have something to say before it reads on.
            if !(effects || wrote || self.read(Side::Client)? || self.read(Side::Upstream)?) {
                return Ok(());
            }
        }
        Err("the machine does not come to rest".into())
    }

    fn take_effects(&mut self) -> bool {
        let policy = Arc::clone(&self.policy);
        let cx = Cx { now: self.now, policy: &policy, requests: self.requests };
        let Some(conn) = &mut self.conn else { return false };
        let mut any = false;
        while let Some(effect) = conn.poll_effect(cx) {
            any = true;
            match effect {
                ConnEffect::Connect { .. } | ConnEffect::Shutdown { side: Side::Upstream, how: How::Close | How::Abort } => {
                    self.upstream = Socket::default();
                }
                ConnEffect::Shutdown { side: Side::Client, how: How::Close | How::Abort } => self.client = Socket::default(),
                _ => {}
            }
            self.outputs.push(Output::of(effect, |kind| Report::of(&conn.summary(kind))));
        }
        if conn.interest().done && !self.done {
            self.done = true;
            self.outputs.push(Output::Done);
        }
        any
    }

    fn write(&mut self, side: Side) -> bool {
        if self.socket(side).blocked {
            return false;
        }
        let policy = Arc::clone(&self.policy);
        let cx = Cx { now: self.now, policy: &policy, requests: self.requests };
        let Some(conn) = &mut self.conn else { return false };
        let mut iov = [IoSlice::new(&[]); IOV];
        let count = conn.transmit(side, &mut iov);
        let n = self.cuts.write(iov.iter().take(count).map(|slice| slice.len()).sum());
        if n == 0 {
            return false;
        }
        if !matches!(self.outputs.last(), Some(Output::Bytes(last, _)) if *last == side) {
            self.outputs.push(Output::Bytes(side, Vec::new()));
        }
        let mut left = n;
        if let Some(Output::Bytes(_, sent)) = self.outputs.last_mut() {
            for slice in iov.iter().take(count) {
                let part = slice.get(..left.min(slice.len())).unwrap_or_default();
                sent.extend_from_slice(part);
                left -= part.len();
            }
        }
        conn.transmitted(cx, side, n);
        true
    }

    fn read(&mut self, side: Side) -> Result<bool, String> {
        let policy = Arc::clone(&self.policy);
        let cx = Cx { now: self.now, policy: &policy, requests: self.requests };
        let Some(conn) = &mut self.conn else { return Ok(false) };
        let wants = match side {
            Side::Client => conn.interest().client.read,
            Side::Upstream => conn.interest().upstream.read,
        };
        if !wants {
            return Ok(false);
        }
        let socket = match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        };
        if socket.pending.is_empty() {
            if socket.eof {
                socket.eof = false;
                conn.handle_recv(cx, side, Recv::Eof);
                return Ok(true);
            }
            return Ok(false);
        }
        let space = conn.recv_space(side);
        if space.is_empty() {
            return Err(format!("no room for {side:?} although it wants to read"));
        }
        let n = self.cuts.read(socket.pending.len().min(space.len()), self.received);
        let (front, back) = socket.pending.as_slices();
        let n = n.min(if front.is_empty() { back.len() } else { front.len() });
        let from = if front.is_empty() { back } else { front };
        if let (Some(to), Some(from)) = (space.get_mut(..n), from.get(..n)) {
            to.copy_from_slice(from);
        }
        socket.pending.drain(..n);
        self.received += n;
        conn.handle_recv(cx, side, Recv::Data(n));
        Ok(true)
    }
}
