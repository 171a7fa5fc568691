//! The parsed form of a fixture. A shell can play it too: what each step puts in, and what comes out before the next.

use super::world::{ClaimsSpec, PolicySpec};
use crate::conn::Summary;
use crate::effect::{ConnectError, How, LocalQuery, LocalReply, RecordKind, Side};
use crate::identity::Peer;
use crate::policy::Policy;
use crate::report::write_summary;
use crate::time::{Mono, Wall};
use crate::{authz::Decision, effect::ConnEffect};
use core::net::SocketAddrV4;
use core::time::Duration;
use std::sync::Arc;

/// One connection's story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixture {
    /// Comment and blank lines after the first line: what is shown, by spec numbers.
    pub comments: Vec<String>,
    /// Why only the core can play it: it needs moments that no socket can bring about. `None`: a shell can play it too.
    pub core_only: Option<String>,
    /// Wall-clock time at monotonic time 0.
    pub epoch: Wall,
    /// Policies by name; the first one is in force at the beginning.
    pub policies: Vec<PolicySpec>,
    /// Callers by name, besides the built-in `root` and `alice`.
    pub claims: Vec<ClaimsSpec>,
    /// What happens, in order. The first is [`Input::Accept`].
    pub steps: Vec<Step>,
    /// Comment and blank lines at the end.
    pub trailer: Vec<String>,
}

impl Fixture {
    /// The policy of that name.
    #[must_use]
    pub fn policy(&self, name: &str) -> Option<Arc<Policy>> {
        self.policies.iter().find(|p| p.name == name).map(|p| Arc::clone(&p.policy))
    }

    /// The policy in force at the beginning: the first one, or one without rules and key.
    #[must_use]
    pub fn first_policy(&self) -> Arc<Policy> {
        self.policies.first().map_or_else(|| Arc::new(Policy { settled: true, ..Policy::default() }), |p| Arc::clone(&p.policy))
    }

    /// The peer that an `identified` line speaks of.
    #[must_use]
    pub fn peer(&self, spec: &PeerSpec) -> Peer {
        let claims = |name: &str| {
            let own = self.claims.iter().find(|c| c.name == name).map(|c| Arc::clone(&c.claims));
            own.or_else(|| ClaimsSpec::builtin(name))
        };
        match spec {
            PeerSpec::Redirected { to, claims: name } => match claims(name) {
                Some(claims) => Peer::Redirected { to: *to, claims },
                // The parser has refused unknown names.
                None => Peer::Unidentified { to: *to },
            },
            PeerSpec::Unidentified { to } => Peer::Unidentified { to: *to },
            PeerSpec::Direct { claims: name } => Peer::Direct { claims: name.as_deref().and_then(claims) },
            PeerSpec::Unknown => Peer::Unknown,
        }
    }

    /// The client's address.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddrV4> {
        self.steps.first().and_then(|s| if let Input::Accept(client) = s.input { Some(client) } else { None })
    }

    /// The same story with the outputs of a run in place of the recorded ones.
    #[must_use]
    pub fn with_outputs(&self, outputs: Vec<Vec<Output>>) -> Self {
        let mut fixture = self.clone();
        for (step, outputs) in fixture.steps.iter_mut().zip(outputs) {
            step.outputs = outputs;
        }
        fixture
    }
}

/// One input and what follows from it before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Comment and blank lines before it.
    pub comments: Vec<String>,
    /// When.
    pub at: Mono,
    /// What goes in.
    pub input: Input,
    /// What comes out, in order.
    pub outputs: Vec<Output>,
}

/// What goes into the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// `accept ADDR`: the connection begins.
    Accept(SocketAddrV4),
    /// `identified …`: the answer to `identify`.
    Identified(PeerSpec),
    /// `client` or `upstream` with a heredoc: bytes arrive.
    Bytes(Side, Vec<u8>),
    /// `client eof`: the peer sends nothing more.
    Eof(Side),
    /// `client reset`: the connection to the peer is broken.
    Reset(Side),
    /// `client unwritable`: a write to the peer failed.
    Unwritable(Side),
    /// `client blocked`: the peer reads nothing for now.
    Blocked(Side),
    /// `client unblocked`: it reads again.
    Unblocked(Side),
    /// `connected`, or `connect-failed refused`: the answer to `connect`.
    Connect(Result<(), ConnectError>),
    /// `reply` with a heredoc, or `reply unavailable`: the answer to `ask`.
    Reply(LocalReply),
    /// `policy NAME`: another policy is in force from now on.
    Policy(String),
    /// `timeout`: time has come to this moment, and the shell asks about deadlines.
    Timeout,
    /// `wall DATE`: the wall clock is set.
    Wall(Wall),
    /// `drain`: the shell goes down.
    Drain,
}

/// Who is on the other side, by names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerSpec {
    /// `redirected DESTINATION NAME`
    Redirected {
        /// `imds`, `wireserver`, `hostga` or an address.
        to: SocketAddrV4,
        /// Name of a caller.
        claims: String,
    },
    /// `unidentified DESTINATION`
    Unidentified {
        /// As above.
        to: SocketAddrV4,
    },
    /// `direct` or `direct NAME`
    Direct {
        /// Name of a caller, if the kernel could tell.
        claims: Option<String>,
    },
    /// `unknown`
    Unknown,
}

/// What comes out of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `identify`
    Identify,
    /// `connect ADDR`
    Connect(SocketAddrV4),
    /// `ask status`, `ask provision tick=0 notify=false`
    Ask(LocalQuery),
    /// `intend request=N`
    Intend(u64),
    /// `report normal …`
    Report(Report),
    /// `shutdown client close`
    Shutdown(Side, How),
    /// `client` or `upstream` with a heredoc: bytes are sent.
    Bytes(Side, Vec<u8>),
    /// `done`
    Done,
}

/// A record as text: what an audit line is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which table.
    pub kind: RecordKind,
    /// Running request number.
    pub request: u64,
    /// As received.
    pub method: Vec<u8>,
    /// As received, without fragment.
    pub url: Vec<u8>,
    /// Status code.
    pub status: u16,
    /// Since the head was complete. Not the same in a shell.
    pub elapsed: Duration,
    /// `allow:…`, `audit:…`, `deny:…`; `none` if authorization was not asked.
    pub decision: String,
    /// Number of the policy that decided.
    pub epoch: u64,
    /// Account name of the caller, `-` without identity.
    pub user: String,
    /// Original destination, `-` without one.
    pub to: String,
    /// `errorDetails` of the record (PX-96); empty if there are none.
    pub details: String,
}

impl Report {
    /// From the machine's own record.
    #[must_use]
    pub fn of(s: &Summary<'_>) -> Self {
        Self {
            kind: s.kind,
            request: s.request,
            method: s.method.to_vec(),
            url: s.url.to_vec(),
            status: s.status.0,
            elapsed: s.elapsed,
            decision: match s.decision {
                None => "none".into(),
                Some(Decision::Allow(why)) => format!("allow:{why}"),
                Some(Decision::Audit(why)) => format!("audit:{why}"),
                Some(Decision::Deny(why)) => format!("deny:{why}"),
            },
            epoch: s.epoch.0,
            user: s.peer.claims().map_or_else(|| "-".into(), |c| c.user_name.lossy().into_owned()),
            to: s.peer.original().map_or_else(|| "-".into(), |to| to.to_string()),
            details: details(s),
        }
    }

    /// The same without what depends on the machine's speed.
    #[must_use]
    pub fn timeless(mut self) -> Self {
        self.elapsed = Duration::ZERO;
        self
    }
}

/// `errorDetails` as the record has it (PX-96).
fn details(summary: &Summary<'_>) -> String {
    let mut json = Vec::new();
    write_summary(&mut json, summary);
    let object: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    object.get("errorDetails").and_then(serde_json::Value::as_str).unwrap_or("not JSON").to_owned()
}

impl Output {
    /// An effect as output; what is about a request needs the record from the machine.
    pub(super) fn of(effect: ConnEffect, report: impl FnOnce(RecordKind) -> Report) -> Self {
        match effect {
            ConnEffect::Identify => Self::Identify,
            ConnEffect::Connect { to } => Self::Connect(to),
            ConnEffect::Ask(query) => Self::Ask(query),
            ConnEffect::Intend => Self::Intend(report(RecordKind::Normal).request),
            ConnEffect::Report(kind) => Self::Report(report(kind)),
            ConnEffect::Shutdown { side, how } => Self::Shutdown(side, how),
        }
    }
}
