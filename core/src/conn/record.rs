//! What is told about a request when it ends (proxy.md section 7.1).

use crate::authz::{Decision, Explanation, Rules};
use crate::effect::RecordKind;
use crate::http::reply::Status;
use crate::identity::{Destination, Peer};
use crate::policy::Epoch;
use crate::time::Mono;
use core::net::SocketAddrV4;
use core::time::Duration;
use std::sync::Arc;

/// Why a request did not simply succeed; becomes `errorDetails` (PX-96 to PX-103).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Details {
    /// Nothing to say.
    #[default]
    None,
    /// PX-97
    UnsupportedMethod,
    /// PX-98
    Traversal,
    /// PX-99
    NoRecord,
    /// PX-100
    NoClaims,
    /// PX-101 in the failed record, PX-102 in the normal one.
    Denied,
    /// PX-42
    NonAsciiValue,
    /// PX-103
    HostFailed(&'static str),
    /// The request was refused before anything was decided (PX-36), or the client went away.
    Text(&'static str),
}

/// One finished request. Borrowed from the connection; valid until its next `poll_effect`.
#[derive(Debug, Clone, Copy)]
pub struct Summary<'a> {
    /// Which table it is for.
    pub kind: RecordKind,
    /// Running request number (PX-81).
    pub request: u64,
    /// Running connection number (PX-06).
    pub connection: u64,
    /// Method as received (PX-82); empty if the head could not be read.
    pub method: &'a [u8],
    /// Target as received, without fragment (PX-83).
    pub url: &'a [u8],
    /// Address of the client (PX-84, PX-85).
    pub client: SocketAddrV4,
    /// Who it is, and whom it asked for (PX-86 to PX-93).
    pub peer: &'a Peer,
    /// Status of the response (PX-94); 403 in a failed record.
    pub status: Status,
    /// Time since the head was complete (PX-95).
    pub elapsed: Duration,
    /// For `errorDetails` (PX-96).
    pub details: Details,
    /// What authorization said, if it was asked.
    pub decision: Option<Decision>,
    /// What to log at level Warn, once, because the older matcher would have decided otherwise.
    pub divergence: Option<&'a str>,
    /// The policy that decided.
    pub epoch: Epoch,
    /// The destination's document of that policy.
    pub rules: Option<&'a Rules>,
    /// Bytes of the request may have reached the host: [`ConnEffect::Intend`](crate::effect::ConnEffect::Intend) was said.
    pub forwarded: bool,
    /// When what happened.
    pub steps: Steps,
}

/// When a request got how far, since its head was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steps {
    /// It is the first of its connection that has a record.
    pub first: bool,
    /// Authorization had said something.
    pub decided: Option<Duration>,
    /// It was put out for the host.
    pub sent: Option<Duration>,
}

impl<'a> Summary<'a> {
    /// What authorization said, with what it was made of.
    #[must_use]
    pub fn explanation(&self) -> Option<Explanation<'a>> {
        let destination = self.peer.original().and_then(Destination::from_addr);
        self.decision.map(|decision| decision.explain(destination, self.rules, self.epoch))
    }

    /// Whether this record is the one for the audit log, which has every decision exactly once. A failed authorization is told
    /// twice, for both tables (PX-104); the normal record has the real status and comes in any case.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        !(self.kind == RecordKind::Failed && self.details == Details::Denied)
    }
}

/// What the connection keeps for its records. Method and target are copied once, because the head is gone when the request ends.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) request: u64,
    pub(super) started: Mono,
    pub(super) ended: Mono,
    pub(super) status: Status,
    pub(super) details: Details,
    pub(super) decision: Option<Decision>,
    pub(super) divergence: Option<Box<str>>,
    pub(super) epoch: Epoch,
    /// The document that decided; `None` between requests, so that an idle client does not keep an old one.
    pub(super) rules: Option<Arc<Rules>>,
    /// The intent to forward it was handed out.
    pub(super) forwarded: bool,
    pub(super) decided: Option<Mono>,
    pub(super) sent: Option<Mono>,
    /// The first request of the connection that was reported; 0: none was.
    first: u64,
    line: Vec<u8>,
    method: usize,
}

impl Record {
    /// Begins the record of a request.
    pub(super) fn begin(&mut self, request: u64, now: Mono, method: &[u8], url: &[u8]) {
        self.line.clear();
        if self.line.capacity() > 4096 {
            self.line = Vec::new();
        }
        self.line.extend_from_slice(method);
        self.line.extend_from_slice(url);
        self.method = method.len();
        (self.request, self.started, self.ended) = (request, now, now);
        (self.status, self.details, self.decision, self.epoch) = (Status::OK, Details::None, None, Epoch::default());
        (self.forwarded, self.rules, self.divergence) = (false, None, None);
        (self.decided, self.sent) = (None, None);
    }

    /// Ends it.
    pub(super) const fn end(&mut self, now: Mono) {
        self.ended = now;
        if self.first == 0 {
            self.first = self.request;
        }
    }

    pub(super) fn steps(&self) -> Steps {
        let since = |at: Mono| at.since(self.started);
        Steps { first: self.first == self.request, decided: self.decided.map(since), sent: self.sent.map(since) }
    }

    pub(super) fn method(&self) -> &[u8] {
        self.line.get(..self.method).unwrap_or_default()
    }

    pub(super) fn url(&self) -> &[u8] {
        self.line.get(self.method..).unwrap_or_default()
    }
}
