//! One connection driven by a list of operations, as a shell could perform them in any order: bytes, ends and resets on both
//! sides, answers to effects, writes of any length, time, a new policy, the end of the daemon.
//!
//! Held against the machine: nothing goes to a host unless the caller was attributed and the host asked for; one record of each
//! kind per request at most; room is bounded; and whatever came before, it comes to its end.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::{Arc, LazyLock};

use azure_proxy_agent_core::conn::{IOV, ProxyConn};
use azure_proxy_agent_core::effect::{
    ConnAnswer, ConnEffect, ConnectError, Cx, How, LocalReply, RecordKind, Recv, RequestCounter, Side,
};
use azure_proxy_agent_core::identity::{Destination, Peer};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::replay::{ClaimsSpec, PolicySpec};
use azure_proxy_agent_core::time::{Mono, Now, Wall};

use crate::Choices;

/// Turns in which a connection must end once nothing new happens to it.
const LAST_TURNS: usize = 100_000;
/// Whole messages that a plain operation sends, so that a short input gets far.
const REQUESTS: [&[u8]; 5] = [
    b"GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n\r\n",
    b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nx-ms-azure-host-claims: forged\r\n\r\n3;e\r\nabc\r\n0\r\nt: u\r\n\r\n",
    b"PUT /vmAgentLog HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\nnine chars",
    b"GET /provision HTTP/1.1\r\nMetadata: true\r\n\r\n",
    b"HEAD /deny/../deny%2e HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
];
const RESPONSES: [&[u8]; 5] = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
];

static POLICIES: LazyLock<Vec<Arc<Policy>>> = LazyLock::new(|| {
    let rules = r#"{"defaultAccess":"allow","mode":"enforce","id":"f","rules":{"privileges":[{"name":"p","path":"/deny"}],"roles":[],"identities":[],"roleAssignments":[]}}"#;
    let specs = [format!(r#"{{"signer":"k1","rules":{{"imds":{rules}}}}}"#), r#"{"signer":"k1"}"#.to_owned(), "{}".to_owned()];
    specs.iter().zip(1..).map(|(json, number)| PolicySpec::parse("f", json, number).expect("a policy of ours").policy).collect()
});

/// The input is who is on the other side, then operations.
pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let mut world = World::new(&mut choices);
    while !choices.is_empty() && !world.conn.interest().done {
        world.operate(&mut choices);
        world.effects();
    }
    world.end();
}

struct World {
    conn: ProxyConn,
    policy: Arc<Policy>,
    requests: RequestCounter,
    now: Now,
    peer: Peer,
    identified: bool,
    /// The effect that waits for an answer.
    pending: Option<ConnEffect>,
    linked: bool,
    client_ended: bool,
    client_closed: bool,
    host_ended: bool,
    records: BTreeSet<(u64, bool)>,
    /// The last request that was said to go out.
    sending: u64,
}

impl World {
    fn new(choices: &mut Choices<'_>) -> Self {
        let policy = Arc::clone(&POLICIES[0]);
        let requests = RequestCounter::default();
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_767_687_330_000_000_000) };
        let cx = Cx { now, policy: &policy, requests: &requests };
        let client = "127.0.0.1:40112".parse().expect("an address");
        let conn = ProxyConn::new(cx, 1, client, Limits { signed_body: 2048, exempt_body: 8192, relay: 4096, ..Limits::DEFAULT });
        let claims = |name| ClaimsSpec::builtin(name).expect("one of the two that exist");
        let peer = match choices.byte() % 6 {
            0 => Peer::Redirected { to: Destination::Imds.addr(), claims: claims("alice") },
            1 => Peer::Redirected { to: Destination::WireServer.addr(), claims: claims("root") },
            2 => Peer::Redirected { to: Destination::HostGaPlugin.addr(), claims: claims("root") },
            3 => Peer::Direct { claims: None },
            4 => Peer::Unidentified { to: Destination::Imds.addr() },
            _ => Peer::Unknown,
        };
        let mut world = Self {
            conn,
            policy,
            requests,
            now,
            peer,
            identified: false,
            pending: None,
            linked: false,
            client_ended: false,
            client_closed: false,
            host_ended: false,
            records: BTreeSet::new(),
            sending: 0,
        };
        world.effects();
        world
    }

    fn operate(&mut self, choices: &mut Choices<'_>) {
        let operation = choices.byte();
        let argument = choices.byte();
        match operation % 16 {
            0..=2 => self.receive(Side::Client, REQUESTS[usize::from(argument) % REQUESTS.len()]),
            3 => self.receive(Side::Client, choices.bytes(argument.into())),
            4..=5 => self.receive(Side::Upstream, RESPONSES[usize::from(argument) % RESPONSES.len()]),
            6 => self.receive(Side::Upstream, choices.bytes(argument.into())),
            7..=9 => self.answer(argument),
            10 => self.write(Side::Client, usize::from(argument) + 1),
            11 => self.write(Side::Upstream, usize::from(argument) + 1),
            12 => self.pass(u64::from(argument) * 250_000_000),
            13 => self.policy = Arc::clone(&POLICIES[usize::from(argument) % POLICIES.len()]),
            14 => self.end_of(if argument.is_multiple_of(2) { Side::Client } else { Side::Upstream }, argument / 2),
            _ if argument < 8 => self.conn.handle_drain(),
            _ => self.write(Side::Client, usize::MAX),
        }
    }

    fn told(&mut self, tell: impl FnOnce(&mut ProxyConn, Cx<'_>)) {
        let cx = Cx { now: self.now, policy: &self.policy, requests: &self.requests };
        tell(&mut self.conn, cx);
    }

    /// Bytes arrive, as far as the machine wants them.
    fn receive(&mut self, side: Side, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.readable(side) {
            let space = self.conn.recv_space(side);
            assert!(!space.is_empty() && space.len() <= 512 * 1024, "room of {} for {side:?}", space.len());
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.told(|conn, cx| conn.handle_recv(cx, side, Recv::Data(n)));
            self.effects();
        }
    }

    fn readable(&self, side: Side) -> bool {
        let interest = self.conn.interest();
        match side {
            Side::Client => interest.client.read && !self.client_ended && !self.client_closed,
            Side::Upstream => interest.upstream.read && self.linked && !self.host_ended,
        }
    }

    fn write(&mut self, side: Side, most: usize) {
        if match side {
            Side::Client => self.client_closed,
            Side::Upstream => !self.linked,
        } {
            return;
        }
        let mut iov = [IoSlice::new(&[]); IOV];
        let count = self.conn.transmit(side, &mut iov);
        let all: usize = iov[..count].iter().map(|slice| slice.len()).sum();
        if all == 0 {
            return;
        }
        if side == Side::Upstream {
            assert!(self.identified && matches!(self.peer, Peer::Redirected { .. }), "bytes to the host for {:?}", self.peer);
            assert!(self.sending == self.requests.count(), "bytes to the host without an intent");
        }
        self.told(|conn, cx| conn.transmitted(cx, side, most.min(all)));
    }

    fn answer(&mut self, argument: u8) {
        let answer = match self.pending.take() {
            None => return,
            Some(ConnEffect::Identify) => {
                self.identified = true;
                ConnAnswer::Identified(self.peer.clone())
            }
            Some(ConnEffect::Connect { .. }) if argument % 8 == 7 => {
                const ERRORS: [ConnectError; 4] =
                    [ConnectError::Refused, ConnectError::Unreachable, ConnectError::TimedOut, ConnectError::Local];
                ConnAnswer::ConnectFailed(ERRORS[usize::from(argument / 8) % 4])
            }
            Some(ConnEffect::Connect { .. }) => {
                (self.linked, self.host_ended) = (true, false);
                ConnAnswer::Connected
            }
            Some(_) if argument % 8 == 7 => ConnAnswer::Reply(LocalReply::Unavailable),
            Some(_) => ConnAnswer::Reply(LocalReply::Json("{}".into())),
        };
        self.told(|conn, cx| conn.handle_answer(cx, answer));
    }

    fn end_of(&mut self, side: Side, how: u8) {
        match side {
            Side::Client if self.client_ended || self.client_closed => return,
            Side::Upstream if !self.linked || self.host_ended => return,
            // Who takes nothing more may still send, and will end.
            _ if how % 4 == 3 => {}
            Side::Client => self.client_ended = true,
            Side::Upstream => self.host_ended = true,
        }
        self.told(|conn, cx| match how % 4 {
            0 | 1 => conn.handle_recv(cx, side, Recv::Eof),
            2 => conn.handle_recv(cx, side, Recv::Reset),
            _ => conn.handle_unwritable(cx, side),
        });
    }

    fn pass(&mut self, nanos: u64) {
        self.now.mono.0 += nanos;
        self.now.wall.0 += nanos;
        self.told(|conn, cx| conn.handle_timeout(cx));
    }

    fn effects(&mut self) {
        loop {
            let cx = Cx { now: self.now, policy: &self.policy, requests: &self.requests };
            let Some(effect) = self.conn.poll_effect(cx) else { return };
            match effect {
                ConnEffect::Connect { to } => {
                    assert!(self.identified && self.peer.original() == Some(to), "connects to {to}");
                    self.linked = false;
                    self.pending = Some(effect);
                }
                ConnEffect::Identify | ConnEffect::Ask(_) => self.pending = Some(effect),
                ConnEffect::Shutdown { side: Side::Upstream, .. } => {
                    self.linked = false;
                    if matches!(self.pending, Some(ConnEffect::Connect { .. })) {
                        self.pending = None;
                    }
                }
                ConnEffect::Shutdown { side: Side::Client, how } => self.client_closed |= how != How::Write,
                ConnEffect::Intend => {
                    let summary = self.conn.summary(RecordKind::Normal);
                    assert!(summary.forwarded && !self.records.contains(&(summary.request, false)));
                    self.sending = summary.request;
                }
                ConnEffect::Report(kind) => {
                    let request = self.conn.summary(kind).request;
                    assert!(request > 0 && request <= self.requests.count());
                    let new = self.records.insert((request, kind == RecordKind::Failed));
                    assert!(new, "two {kind:?} records of request {request}");
                }
            }
        }
    }

    /// Everybody is done: what is held goes out, effects are answered, deadlines pass.
    fn end(mut self) {
        for _ in 0..LAST_TURNS {
            self.effects();
            if self.conn.interest().done {
                return;
            }
            self.answer(0);
            self.effects();
            self.write(Side::Client, usize::MAX);
            self.write(Side::Upstream, usize::MAX);
            self.effects();
            if self.readable(Side::Client) {
                self.end_of(Side::Client, 0);
            } else if self.readable(Side::Upstream) {
                self.end_of(Side::Upstream, 0);
            }
            self.effects();
            if let Some(deadline) = self.conn.deadline() {
                let left = deadline.at.since(self.now.mono);
                self.pass(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
            }
        }
        panic!("the connection does not end: {:?}", self.conn.interest());
    }
}
