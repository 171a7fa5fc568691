//! Random schedules: one connection, a caller that sends random requests, a host that answers as it likes, and a world in which everything
//! happens in any order and in any piece, or fails. The seed is in every message; `SIM_SEEDS=100000` runs more of them, `SIM_FIRST` begins
//! elsewhere, `SIM_TRACE` tells the story of one.
//!
//! Checked against the invariants of the design: nothing reaches the host without a decision that allows it; the agent's fields are there
//! exactly once and true; every request that was begun is recorded once; what is relayed is what was sent; room is bounded; everything ends.

mod traffic;

use azure_proxy_agent_core::authz::Decision;
use azure_proxy_agent_core::conn::{IOV, ProxyConn};
use azure_proxy_agent_core::effect::{
    ConnAnswer, ConnEffect, ConnectError, Cx, How, LocalReply, RecordKind, Recv, RequestCounter, Side,
};
use azure_proxy_agent_core::identity::{Destination, Peer};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::replay::{ClaimsSpec, PolicySpec, XorShift};
use azure_proxy_agent_core::time::{Mono, Now, Wall};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use traffic::{Asked, ask, field, partial, pattern, read_body, respond};

/// Tells what happens, if `SIM_TRACE` is set.
macro_rules! trace {
    ($($text:tt)*) => {
        if std::env::var_os("SIM_TRACE").is_some() {
            eprintln!($($text)*);
        }
    };
}

const SEEDS: u64 = 3_000;
/// Events of one run after which it is taken for endless.
const EVENTS: usize = 400_000;

/// SEC-05, SEC-06, SEC-09
#[test]
fn sim_random_schedules_keep_the_invariants() {
    let seeds = std::env::var("SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let first = std::env::var("SIM_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let policies = policies();
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        let outcome = std::panic::catch_unwind(|| World::new(seed, &policies).run());
        match outcome {
            Ok(one) => seen.add(one),
            Err(_) => panic!("seed {seed} (SIM_FIRST={seed} SIM_SEEDS=1)"),
        }
    }
    // A simulation in which nothing happens proves nothing.
    if seeds < 100 {
        return;
    }
    assert!(seen.forwarded > seeds / 2 && seen.answered > seeds / 4 && seen.denied > seeds / 20, "{seen:?}");
    assert!(seen.aborted > 0 && seen.reconnected > 0 && seen.reused > 0, "{seen:?}");
}

/// What happened, over all runs.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    forwarded: u64,
    answered: u64,
    denied: u64,
    aborted: u64,
    reconnected: u64,
    reused: u64,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.forwarded += other.forwarded;
        self.answered += other.answered;
        self.denied += other.denied;
        self.aborted += other.aborted;
        self.reconnected += other.reconnected;
        self.reused += other.reused;
    }
}

fn policies() -> Vec<Arc<Policy>> {
    let document = |mode: &str| {
        format!(
            r#"{{"defaultAccess":"allow","mode":"{mode}","id":"sim","rules":{{"privileges":[{{"name":"p","path":"/deny"}}],
            "roles":[{{"name":"r","privileges":["p"]}}],"identities":[{{"name":"i","userName":"nobody"}}],
            "roleAssignments":[{{"role":"r","identities":["i"]}}]}}}}"#
        )
    };
    let rules = |mode: &str| format!(r#"{{"imds":{0},"wireserver":{0}}}"#, document(mode));
    let other = r#"{"guid":"00000000-aaaa-bbbb-cccc-000000000001","key":"00112233445566778899aabbccddeeff"}"#;
    [
        format!(r#"{{"signer":"k1","rules":{}}}"#, rules("enforce")),
        format!(r#"{{"signer":{other},"rules":{}}}"#, rules("enforce")),
        format!(r#"{{"signer":"k1","rules":{}}}"#, rules("audit")),
        format!(r#"{{"rules":{}}}"#, rules("enforce")),
        // S-03: of an agent that has just started. No request may be decided by it.
        r#"{"settled":false}"#.to_owned(),
    ]
    .iter()
    .zip(1..)
    .map(|(json, number)| PolicySpec::parse("sim", json, number).unwrap().policy)
    .collect()
}

/// What the host got.
#[derive(Debug)]
struct Got {
    tag: usize,
    guid: Option<String>,
}

/// One connection on the host's side.
#[derive(Debug, Default)]
struct HostConn {
    received: Vec<u8>,
    /// Where the current request begins.
    at: usize,
    answered_current: bool,
    out: VecDeque<u8>,
    eof: bool,
    broken: bool,
    requests: usize,
}

struct World<'a> {
    random: XorShift,
    policies: &'a [Arc<Policy>],
    policy: Arc<Policy>,
    requests: RequestCounter,
    now: Now,
    conn: ProxyConn,
    peer: Peer,
    asked: Vec<Asked>,
    to_send: VecDeque<u8>,
    client_eof: bool,
    client_gone: bool,
    /// No more faults: only what has to happen still happens.
    closing: bool,
    client_got: Vec<u8>,
    client_closed: bool,
    client_aborted: bool,
    host: Option<HostConn>,
    got: Vec<Got>,
    pending: Option<ConnEffect>,
    identified: bool,
    /// Normal records by request number: url and whether it was denied, epoch.
    normal: BTreeMap<u64, (String, bool, u64)>,
    failed: BTreeMap<u64, bool>,
    /// Requests that were said to go out, and the last of them.
    intended: BTreeSet<u64>,
    sending: u64,
    seen: Seen,
}

impl<'a> World<'a> {
    fn new(seed: u64, policies: &'a [Arc<Policy>]) -> Self {
        let mut random = XorShift::new(seed);
        let now = Now { mono: Mono(1_000_000_000), wall: Wall(1_767_687_330_000_000_000) };
        let requests = RequestCounter::default();
        let policy = Arc::clone(&policies[random.below(policies.len() as u64) as usize]);
        let client = "127.0.0.1:40112".parse().unwrap();
        let conn = ProxyConn::new(Cx { now, policy: &policy, requests: &requests }, 1, client, Limits::DEFAULT);
        let claims = |name: &str| ClaimsSpec::builtin(name).unwrap();
        let peer = match random.below(20) {
            0 => Peer::Unknown,
            1 => Peer::Direct { claims: None },
            2 => Peer::Unidentified { to: Destination::Imds.addr() },
            3..=7 => Peer::Redirected { to: Destination::Imds.addr(), claims: claims("alice") },
            8 => Peer::Redirected { to: Destination::WireServer.addr(), claims: claims("alice") },
            _ => Peer::Redirected { to: Destination::WireServer.addr(), claims: claims("root") },
        };
        let asked: Vec<_> = (0..1 + random.below(6) as usize).map(|tag| ask(&mut random, tag)).collect();
        let to_send = asked.iter().flat_map(|a| a.bytes.iter().copied()).collect();
        Self {
            random,
            policies,
            policy,
            requests,
            now,
            conn,
            peer,
            asked,
            to_send,
            client_eof: false,
            client_gone: false,
            closing: false,
            client_got: Vec::new(),
            client_closed: false,
            client_aborted: false,
            host: None,
            got: Vec::new(),
            pending: None,
            identified: false,
            normal: BTreeMap::new(),
            failed: BTreeMap::new(),
            intended: BTreeSet::new(),
            sending: 0,
            seen: Seen::default(),
        }
    }

    fn run(mut self) -> Seen {
        self.effects();
        let most = 200 + self.random.below(3_000) as usize;
        let mut idle = 0;
        for event in 0..EVENTS {
            if self.conn.interest().done {
                self.check_end();
                return self.seen;
            }
            if event > most {
                self.closing = true;
            }
            let moved = self.one_event();
            self.effects();
            idle = if moved { 0 } else { idle + 1 };
            if self.closing && idle > 60 {
                idle = 0;
                self.push_on();
                self.effects();
            }
        }
        panic!("the connection does not end: {:?}", self.conn.interest());
    }

    /// Something happens.
    fn one_event(&mut self) -> bool {
        let faults = if self.closing { 0 } else { 6 };
        match self.random.below(1_000) {
            0..=299 => self.caller_sends(),
            300..=549 => self.host_sends(),
            550..=699 => self.write(Side::Client),
            700..=849 => self.write(Side::Upstream),
            850..=939 => self.answer(),
            940..=969 => {
                let step = [1_000, 1_000_000, 500_000_000][self.random.below(3) as usize];
                self.pass(step);
                false
            }
            970..=979 if !self.closing => {
                self.policy = Arc::clone(&self.policies[self.random.below(self.policies.len() as u64) as usize]);
                true
            }
            n if n >= 1_000 - faults => self.fault(),
            _ => false,
        }
    }

    /// Nothing moves by itself any more: deadlines pass, and whoever is waited for gives up.
    fn push_on(&mut self) {
        if !self.client_eof && self.to_send.is_empty() {
            self.client_eof = true;
        } else if let Some(deadline) = self.conn.deadline() {
            let left = deadline.at.since(self.now.mono);
            self.pass(u64::try_from(left.as_nanos()).unwrap());
        } else if let Some(host) = &mut self.host {
            host.eof = true;
        } else {
            self.client_eof = true;
        }
    }

    fn pass(&mut self, nanos: u64) {
        self.now.mono.0 += nanos;
        self.now.wall.0 += nanos;
        let policy = Arc::clone(&self.policy);
        self.conn.handle_timeout(Cx { now: self.now, policy: &policy, requests: &self.requests });
    }

    fn caller_sends(&mut self) -> bool {
        if self.client_gone || self.client_closed || !self.conn.interest().client.read {
            return false;
        }
        if self.to_send.is_empty() {
            if !std::mem::take(&mut self.client_eof) {
                return false;
            }
            return self.recv(Side::Client, Recv::Eof);
        }
        let mut bytes = std::mem::take(&mut self.to_send);
        let moved = self.deliver(Side::Client, &mut bytes);
        self.to_send = bytes;
        moved
    }

    fn host_sends(&mut self) -> bool {
        if !self.conn.interest().upstream.read {
            return false;
        }
        let Some(mut host) = self.host.take() else { return false };
        let moved = if host.out.is_empty() {
            host.eof && {
                host.eof = false;
                self.recv(Side::Upstream, Recv::Eof)
            }
        } else {
            self.deliver(Side::Upstream, &mut host.out)
        };
        self.host = Some(host);
        moved
    }

    fn recv(&mut self, side: Side, recv: Recv) -> bool {
        trace!("recv {side:?} {recv:?}");
        let policy = Arc::clone(&self.policy);
        self.conn.handle_recv(Cx { now: self.now, policy: &policy, requests: &self.requests }, side, recv);
        true
    }

    fn deliver(&mut self, side: Side, bytes: &mut VecDeque<u8>) -> bool {
        let most = if self.random.below(3) == 0 { bytes.len() } else { bytes.len().min(40) };
        let n = 1 + self.random.below(most as u64) as usize;
        let space = self.conn.recv_space(side);
        assert!(!space.is_empty(), "wants to read from {side:?} without room");
        assert!(space.len() <= 256 * 1024, "room of {} for {side:?}", space.len());
        let n = n.min(space.len());
        for (to, from) in space.iter_mut().zip(bytes.drain(..n)) {
            *to = from;
        }
        self.recv(side, Recv::Data(n))
    }

    fn write(&mut self, side: Side) -> bool {
        if (side == Side::Client && self.client_gone) || (side == Side::Upstream && self.host.as_ref().is_none_or(|h| h.broken)) {
            return false;
        }
        let mut iov = [IoSlice::new(&[]); IOV];
        let count = self.conn.transmit(side, &mut iov);
        let all: Vec<u8> = iov.iter().take(count).flat_map(|s| s.iter().copied()).collect();
        if all.is_empty() {
            return false;
        }
        let n = if self.random.below(2) == 0 { all.len() } else { 1 + self.random.below(all.len() as u64) as usize };
        trace!("write {side:?} {n} of {}: {}", all.len(), all[..n.min(300)].escape_ascii());
        let policy = Arc::clone(&self.policy);
        self.conn.transmitted(Cx { now: self.now, policy: &policy, requests: &self.requests }, side, n);
        match side {
            Side::Client => self.client_got.extend_from_slice(&all[..n]),
            Side::Upstream => {
                // Invariant 6, whatever happens to the process: first the intent, then the first byte.
                assert!(self.sending == self.requests.count(), "bytes to the host without an intent");
                self.host_receives(&all[..n]);
            }
        }
        true
    }

    fn answer(&mut self) -> bool {
        let Some(effect) = self.pending.take() else { return false };
        let answer = match effect {
            ConnEffect::Identify => {
                self.identified = true;
                ConnAnswer::Identified(self.peer.clone())
            }
            ConnEffect::Connect { .. } if !self.closing && self.random.below(20) == 0 => {
                ConnAnswer::ConnectFailed([ConnectError::Refused, ConnectError::TimedOut][self.random.below(2) as usize])
            }
            ConnEffect::Connect { .. } => {
                self.host = Some(HostConn::default());
                ConnAnswer::Connected
            }
            ConnEffect::Ask(_) if self.random.below(10) == 0 => ConnAnswer::Reply(LocalReply::Unavailable),
            ConnEffect::Ask(_) => ConnAnswer::Reply(LocalReply::Json("{}".into())),
            other => panic!("{other:?} needs no answer"),
        };
        let policy = Arc::clone(&self.policy);
        self.conn.handle_answer(Cx { now: self.now, policy: &policy, requests: &self.requests }, answer);
        true
    }

    fn fault(&mut self) -> bool {
        let policy = Arc::clone(&self.policy);
        let cx = Cx { now: self.now, policy: &policy, requests: &self.requests };
        trace!("fault");
        match self.random.below(8) {
            0 => {
                // The caller ends early.
                let left = self.random.below(self.to_send.len() as u64 + 1) as usize;
                self.to_send.truncate(left);
                self.client_eof = true;
            }
            1 => {
                self.client_gone = true;
                self.conn.handle_recv(cx, Side::Client, Recv::Reset);
            }
            2 if !self.client_got.is_empty() => {
                self.client_gone = true;
                self.conn.handle_unwritable(cx, Side::Client);
            }
            3 | 4 => {
                if let Some(host) = &mut self.host {
                    let left = self.random.below(host.out.len() as u64 + 1) as usize;
                    host.out.truncate(left);
                    host.eof = true;
                }
            }
            5 => {
                if let Some(host) = &mut self.host {
                    host.broken = true;
                    host.out.clear();
                    self.conn.handle_recv(cx, Side::Upstream, Recv::Reset);
                }
            }
            6 => {
                if let Some(host) = &mut self.host {
                    host.broken = true;
                    host.eof = true;
                    self.conn.handle_unwritable(cx, Side::Upstream);
                }
            }
            7 => self.stray(),
            _ => {}
        }
        true
    }

    /// The host says something without being asked. What it says once a request is on its way cannot be told from an answer, so it says
    /// this at once and whole.
    fn stray(&mut self) {
        let idle = |h: &HostConn| h.out.is_empty() && !h.eof && !h.broken && h.at == h.received.len();
        if self.random.below(4) == 0 && self.host.as_ref().is_some_and(idle) && self.conn.interest().upstream.read {
            let stray = b"HTTP/1.1 200 OK\r\nX-Tag: none\r\nContent-Length: 0\r\n\r\n";
            self.conn.recv_space(Side::Upstream)[..stray.len()].copy_from_slice(stray);
            self.recv(Side::Upstream, Recv::Data(stray.len()));
        }
    }

    fn effects(&mut self) {
        let policy = Arc::clone(&self.policy);
        let cx = Cx { now: self.now, policy: &policy, requests: &self.requests };
        let early = self.conn.transmit(Side::Upstream, &mut [IoSlice::new(&[]); IOV]);
        while let Some(effect) = self.conn.poll_effect(cx) {
            trace!("effect {effect:?}");
            assert!(effect != ConnEffect::Intend || early == 0, "bytes for the host before the intent was taken");
            match effect {
                ConnEffect::Identify | ConnEffect::Connect { .. } | ConnEffect::Ask(_) => {
                    if let ConnEffect::Connect { to } = effect {
                        assert!(self.identified && self.peer.original() == Some(to), "connects to {to}");
                        self.host = None;
                        self.seen.reconnected += u64::from(!self.got.is_empty());
                    }
                    self.pending = Some(effect);
                }
                ConnEffect::Shutdown { side: Side::Upstream, .. } => {
                    self.host = None;
                    if matches!(self.pending, Some(ConnEffect::Connect { .. })) {
                        self.pending = None;
                    }
                }
                ConnEffect::Shutdown { side: Side::Client, how } => {
                    self.client_aborted |= how == How::Abort;
                    self.client_closed |= how != How::Write;
                    self.seen.aborted += u64::from(how == How::Abort);
                }
                ConnEffect::Intend => {
                    let summary = self.conn.summary(RecordKind::Normal);
                    assert!(matches!(summary.decision, Some(Decision::Allow(_) | Decision::Audit(_))), "{summary:?}");
                    assert!(summary.forwarded && !self.normal.contains_key(&summary.request));
                    let new = self.intended.insert(summary.request);
                    assert!(new, "two intents for request {}", summary.request);
                    self.sending = summary.request;
                }
                ConnEffect::Report(kind) => {
                    let summary = self.conn.summary(kind);
                    assert_eq!(summary.forwarded, self.intended.contains(&summary.request), "request {}", summary.request);
                    let denied = matches!(summary.decision, Some(Decision::Deny(_)));
                    let url = String::from_utf8_lossy(summary.url).into_owned();
                    assert!(summary.request > 0 && summary.request <= self.requests.count());
                    match kind {
                        RecordKind::Normal => {
                            self.seen.denied += u64::from(denied);
                            self.seen.answered += u64::from(summary.status.0 == 200);
                            let before = self.normal.insert(summary.request, (url, denied, summary.epoch.0));
                            assert!(before.is_none(), "two normal records of request {}", summary.request);
                        }
                        RecordKind::Failed => {
                            let before = self.failed.insert(summary.request, denied);
                            assert!(before.is_none(), "two failed records of request {}", summary.request);
                        }
                    }
                }
            }
        }
    }

    /// The host reads what has come, checks it, and perhaps answers.
    fn host_receives(&mut self, bytes: &[u8]) {
        assert!(matches!(self.peer, Peer::Redirected { .. }), "bytes to the host for {:?}", self.peer);
        let Some(mut host) = self.host.take() else { panic!("bytes to a host that is not connected") };
        host.received.extend_from_slice(bytes);
        while let Some(head_len) = host.received[host.at..].windows(4).position(|w| w == b"\r\n\r\n").map(|n| n + 4) {
            let head = String::from_utf8(host.received[host.at..host.at + head_len].to_vec()).expect("ASCII");
            let rest = &host.received[host.at + head_len..];
            let body = read_body(&head, rest);
            let tag: usize = field(&head, "x-tag").expect("a tag").parse().unwrap();
            if !host.answered_current && (body.is_some() || self.random.below(30) == 0) {
                host.answered_current = true;
                host.requests += 1;
                self.seen.forwarded += 1;
                self.seen.reused += u64::from(host.requests > 1);
                let answer = respond(&mut self.random, tag, head.starts_with("HEAD "), &mut host.eof);
                host.out.extend(answer);
            }
            let Some((content, used)) = body else { break };
            self.check_request(tag, &head, &content);
            host.at += head_len + used;
            host.answered_current = false;
        }
        self.host = Some(host);
    }

    /// Invariants 1, 3 and 4.
    fn check_request(&mut self, tag: usize, head: &str, content: &[u8]) {
        assert_eq!(content, self.asked[tag].content, "content of request {tag}");
        assert!(self.got.iter().all(|g| g.tag != tag), "request {tag} was sent twice");
        let count = |name: &str| head.lines().filter(|l| l.to_ascii_lowercase().starts_with(&format!("{name}:"))).count();
        assert_eq!((count("x-ms-azure-host-claims"), count("x-ms-azure-host-date")), (1, 1), "{head}");
        assert_eq!((count("x-ms-azure-signature"), count("x-ms-azure-time-tick")), (0, 0), "{head}");
        let root = self.peer.claims().unwrap().is_elevated();
        assert_eq!(field(head, "x-ms-azure-host-claims").unwrap(), format!("{{ \"isRoot\": \"{root}\"}}"));
        let line: Vec<&str> = head.lines().next().unwrap().split(' ').collect();
        let exempt = matches!(line[1], "/vmAgentLog" | "/machine/?comp=telemetrydata");
        let authorization = field(head, "x-ms-azure-host-authorization").map(str::to_owned);
        assert!(count("x-ms-azure-host-authorization") <= 1 && !(exempt && authorization.is_some()), "{head}");
        let guid = authorization.map(|value| {
            let [_, guid, signature] = value.split(' ').collect::<Vec<_>>()[..] else { panic!("{value}") };
            let signer = self.policies.iter().filter_map(|p| p.signer.as_ref()).find(|s| s.guid().as_str() == guid).unwrap();
            let fields = head.lines().skip(1).filter_map(|l| l.split_once(':'));
            let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let expected = signer.sign(line[0].as_bytes(), line[1].as_bytes(), fields, content);
            assert_eq!(signature.as_bytes(), expected.as_bytes(), "signature of {head}");
            guid.to_owned()
        });
        self.got.push(Got { tag, guid: guid.or_else(|| exempt.then(|| "exempt".into())) });
    }

    fn check_end(&self) {
        for (number, (url, denied, epoch)) in &self.normal {
            let Some(tag) = url.rsplit('/').next().and_then(|t| t.split('?').next()).and_then(|t| t.parse::<usize>().ok()) else {
                continue;
            };
            let got = self.got.iter().find(|g| g.tag == tag);
            assert!(!(*denied && got.is_some()), "request {number} was denied and sent");
            if let Some(got) = got {
                // Decision and signature are of one policy.
                let policy = self.policies.iter().find(|p| p.epoch.0 == *epoch).unwrap();
                assert!(policy.settled, "forwarded before the host's wishes are known");
                let guid = policy.signer.as_ref().map(|s| s.guid().as_str().to_owned());
                assert_eq!(got.guid, guid, "request {number} of epoch {epoch}");
            }
        }
        let unidentified = matches!(self.peer, Peer::Unidentified { .. });
        for (number, denied) in &self.failed {
            assert!(unidentified || self.normal.contains_key(number), "request {number} has no normal record (denied: {denied})");
        }
        for number in &self.intended {
            assert!(self.normal.contains_key(number), "request {number} was to go out and has no record");
        }
        assert!(self.intended.len() >= self.got.len(), "{} intents of {} requests", self.intended.len(), self.got.len());
        let of_host = self.normal.values().filter(|(url, ..)| !url.is_empty()).count();
        assert!(of_host >= self.got.len(), "{} records of {} requests", of_host, self.got.len());
        self.check_answers();
    }

    /// Invariant 2 within one connection: the answers are those to the requests, in order, with the host's bytes.
    fn check_answers(&self) {
        let mut rest = &self.client_got[..];
        let mut asked = self.asked.iter().enumerate();
        while let Some(len) = rest.windows(4).position(|w| w == b"\r\n\r\n").map(|n| n + 4) {
            let head = String::from_utf8(rest[..len].to_vec()).unwrap();
            rest = &rest[len..];
            if head.starts_with("HTTP/1.1 100 ") {
                continue;
            }
            let Some((tag, asked)) = asked.next() else { panic!("one answer too many:\n{head}") };
            let marked = field(&head, "x-ms-azure-host-authorization").is_some();
            let none = asked.head || head.contains(" 204 ") || head.contains(" 304 ");
            let framed = field(&head, "transfer-encoding").is_some() || field(&head, "content-length").is_some();
            let (content, used) = match read_body(&head, rest) {
                _ if none => (Vec::new(), 0),
                Some(body) if framed => body,
                // Ended by the close, or cut off.
                _ => (partial(&head, rest), rest.len()),
            };
            rest = &rest[used..];
            if marked {
                assert_eq!(field(&head, "x-tag"), Some(tag.to_string().as_str()), "answer to {tag}:\n{head}");
                let full = pattern(tag, field(&head, "x-len").unwrap().parse().unwrap());
                let complete = used > 0 && framed && !none;
                if complete && !(rest.is_empty() && (self.client_aborted || self.client_gone)) {
                    assert_eq!(content, full, "content of the answer to {tag}");
                } else if !none {
                    assert!(full.starts_with(&content), "content of the answer to {tag}");
                }
                assert_eq!(head.to_ascii_lowercase().matches("x-ms-azure-host-authorization").count(), 1, "{head}");
            }
        }
        assert!(rest.is_empty() || self.client_gone || self.client_aborted || rest.len() < 2_000, "{} stray bytes", rest.len());
    }
}
