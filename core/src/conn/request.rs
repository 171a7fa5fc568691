//! From bytes to a decision: heads, the order of checks (proxy.md section 3), bodies that are collected.

use super::exchange::StreamBody;
use super::{After, Details, ProxyConn, State, Step};
use crate::authz::{self, Decision, Mode, traversal_guard};
use crate::effect::{ConnEffect, Cx, LocalQuery, RecordKind};
use crate::http::chunked::{ChunkError, Decoder, Emit};
use crate::http::head::Scanned;
use crate::http::reply::{CONTINUE, Reply, Status};
use crate::http::request::is_protected;
use crate::http::target::is_exactly;
use crate::http::{HeadError, HeadScan, RequestBody, RequestHead, Version};
use crate::identity::{Destination, Peer};
use crate::sign;
use core::net::SocketAddrV4;

/// A request whose head is complete. The head is the first `head.len` bytes of the client buffer's ready zone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) head: RequestHead,
    /// One of the two uploads that are not signed (W-65).
    pub(super) exempt: bool,
    /// The method is HEAD.
    pub(super) answers_head: bool,
    /// The client connection may stay open afterwards.
    pub(super) keep: bool,
    /// A local endpoint's question; otherwise the request goes to the host.
    pub(super) query: Option<LocalQuery>,
    /// Where to.
    pub(super) to: Option<SocketAddrV4>,
    /// What is left of the body.
    pub(super) body: StreamBody,
}

/// `Allow` of a 405 (PX-19).
const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// The methods that are served (PX-19); case-sensitive.
fn method_allowed(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"POST" | b"PUT" | b"DELETE" | b"HEAD" | b"OPTIONS" | b"PATCH")
}

impl ProxyConn {
    /// Looks for a complete request head.
    pub(super) fn read_head(&mut self, cx: Cx<'_>) -> Step {
        if !self.upstream.raw().is_empty() {
            // A host that speaks without being asked: whatever this is, it answers no request of ours.
            self.unlink(crate::effect::How::Close);
            return Step::Again;
        }
        if !self.scan.started() {
            // RFC 9112 section 2.2: an empty line before the request line is skipped.
            while self.client.raw().starts_with(b"\r\n") {
                self.client.discard(2);
            }
            if self.client.raw().is_empty() {
                if self.record.request > 0 {
                    self.head_since = None;
                }
                if self.client_eof {
                    self.close(crate::effect::How::Close);
                }
                return Step::Wait;
            }
            if self.client.raw() == b"\r" && !self.client_eof {
                return Step::Wait;
            }
        }
        match self.scan.request(self.client.raw(), &self.limits) {
            Ok(Scanned::Partial) => {
                if self.client_eof {
                    self.close(crate::effect::How::Close);
                }
                Step::Wait
            }
            Ok(Scanned::Complete(len)) => {
                self.scan = HeadScan::default();
                self.head_since = None;
                let head = self.client.raw().get(..len).unwrap_or_default();
                match RequestHead::parse(head, &mut self.fields, self.limits.fields) {
                    Ok(head) => self.admit(cx, head),
                    Err(error) => self.refuse_head(cx, error),
                }
                Step::Again
            }
            Err(error) => {
                self.refuse_head(cx, error);
                Step::Again
            }
        }
    }

    /// PX-15 to PX-17: the head cannot be read.
    fn refuse_head(&mut self, cx: Cx<'_>, error: HeadError) {
        self.head_since = None;
        let (status, why) = match error {
            HeadError::Malformed => (Status::BAD_REQUEST, "malformed request"),
            HeadError::TargetTooLong => (Status::URI_TOO_LONG, "request target too long"),
            HeadError::TooLarge => (Status::FIELDS_TOO_LARGE, "request head too large"),
            HeadError::Http2Preface => return self.close(crate::effect::How::Close),
        };
        // What the client meant is not known; its first words help who reads the record.
        let raw = self.client.raw();
        let line = raw.split(|b| !b.is_ascii_graphic() && *b != b' ').next().unwrap_or_default();
        let mut words = line.split(|b| *b == b' ');
        let method = words.next().unwrap_or_default();
        let url = words.next().unwrap_or_default();
        let (method, url) = (method.get(..32).unwrap_or(method), url.get(..1024).unwrap_or(url));
        self.record.begin(cx.requests.next(), cx.now.mono, method, url);
        self.refuse(cx, Version::Http11, false, &Reply::empty(status, false), Details::Text(why));
    }

    /// Refuses the current request with a record if the kernel knows the caller (PX-36). Every refusal waits for the caller's close:
    /// an unread body, or further requests that it has sent already, would turn ours into a reset that destroys the answer.
    fn refuse(&mut self, cx: Cx<'_>, version: Version, answers_head: bool, reply: &Reply<'_>, details: Details) {
        self.record.status = reply.status;
        self.record.details = details;
        if self.peer.original().is_some() {
            self.report(cx.now.mono, RecordKind::Normal);
        }
        self.reply(cx, reply, version, answers_head, After::Linger);
    }

    /// The checks of proxy.md section 3, in its order, from PX-18 on.
    fn admit(&mut self, cx: Cx<'_>, head: RequestHead) {
        let raw = self.client.raw();
        let method = head.method.get(raw);
        let url = head.whole.get(raw);
        let exempt = sign::is_exempt(method, url);
        let answers_head = method == b"HEAD";
        let allowed = method_allowed(method);
        let blocked = traversal_guard(head.path.get(raw));
        let provision = is_exactly(url, b"/provision");
        let status = is_exactly(url, b"/gpa-aggregated-status");
        // On the listener itself only: on a redirected connection it may be the host's.
        let rules = matches!(self.peer, Peer::Direct { .. }) && is_exactly(url, b"/rules");
        let tick = head.tick.and_then(|t| core::str::from_utf8(t.get(raw)).ok()).and_then(|t| t.parse().ok()).unwrap_or(0);
        self.record.begin(cx.requests.next(), cx.now.mono, method, url);
        self.record.epoch = cx.policy.epoch;

        let limit = if exempt { self.limits.exempt_body } else { self.limits.signed_body };
        let version = head.version;
        if matches!(head.body, RequestBody::Length(n) if n > limit) {
            let reply = Reply::text(Status::CONTENT_TOO_LARGE, "length limit exceeded", false);
            return self.refuse(cx, version, answers_head, &reply, Details::Text("length limit exceeded"));
        }
        if !allowed {
            let mut reply = Reply::text(Status::METHOD_NOT_ALLOWED, "Method Not Allowed", true);
            reply.allow = Some(ALLOW);
            return self.deny(cx, version, answers_head, &reply, Details::UnsupportedMethod);
        }
        if blocked {
            let reply = Reply::empty(Status::FORBIDDEN, true);
            return self.deny(cx, version, answers_head, &reply, Details::Traversal);
        }
        let mut request = Request {
            head,
            exempt,
            answers_head,
            keep: head.persistence.persists(version) && !self.draining,
            query: None,
            to: None,
            body: match head.body {
                RequestBody::Length(n) => StreamBody::Length(n),
                RequestBody::Chunked => StreamBody::Chunked(Decoder::new(limit)),
            },
        };
        if provision || status || rules {
            let forbidden = !provision && !self.peer.claims().is_some_and(crate::identity::Claims::is_elevated);
            let refused = match (head.metadata, forbidden) {
                (false, _) => Some(Status::BAD_REQUEST),
                (true, true) => Some(Status::FORBIDDEN),
                (true, false) => None,
            };
            if let Some(status) = refused {
                return self.reply(cx, &Reply::empty(status, true), version, answers_head, After::Linger);
            }
            request.query = Some(match (provision, status) {
                (true, _) => LocalQuery::Provision { tick, notify: head.notify },
                (_, true) => LocalQuery::Status,
                _ => LocalQuery::Rules,
            });
            return self.collect(request);
        }
        if cx.policy.settled || !matches!(self.peer, Peer::Redirected { .. }) {
            self.decide(cx, request);
        } else {
            self.state = State::Hold(request, cx.now.mono + self.limits.settle_interval);
        }
    }

    /// Decides about a request for the host, with what is known of the caller if that is recent and enough (I-30).
    pub(super) fn decide(&mut self, cx: Cx<'_>, request: Request) {
        if self.must_recheck(cx) {
            self.effects.push(ConnEffect::Identify);
            self.state = State::Recheck(request);
        } else {
            self.decide_now(cx, request);
        }
    }

    /// Whether a document is to be asked, and the caller's accounts were looked up too long ago, or something that rules in force
    /// by now compare was not looked for.
    fn must_recheck(&self, cx: Cx<'_>) -> bool {
        let Peer::Redirected { to, claims } = &self.peer else { return false };
        let rules = Destination::from_addr(*to).and_then(|destination| cx.policy.rules.get(destination).as_ref());
        rules.is_some_and(|rules| {
            rules.mode() != Mode::Disabled && (claims.is_old(cx.now.mono) || claims.lacks(cx.policy.needs(), cx.policy.epoch))
        })
    }

    /// The shell has looked at the caller again. The kernel's part is the same for the life of the connection (PX-10): whoever it is
    /// not is nobody.
    pub(super) fn rechecked(&mut self, cx: Cx<'_>, request: Request, peer: Peer) {
        let Peer::Redirected { to, claims } = &self.peer else { return };
        self.peer = match peer {
            Peer::Redirected { to: same, claims: new } if same == *to && new.is_same_process(claims) => {
                Peer::Redirected { to: same, claims: new }
            }
            _ => Peer::Unidentified { to: *to },
        };
        self.decide_now(cx, request);
    }

    /// Forwards or refuses a request for the host.
    fn decide_now(&mut self, cx: Cx<'_>, request: Request) {
        self.record.epoch = cx.policy.epoch;
        match self.authorize(cx, request) {
            Ok(request) => self.take(cx, request),
            Err((status, details)) => {
                let reply = Reply::empty(status, true);
                self.deny(cx, request.head.version, request.answers_head, &reply, details);
            }
        }
    }

    /// A request that is held: refused when it has waited long enough for an agent that learns nothing from the host.
    pub(super) fn look_again(&mut self, cx: Cx<'_>) {
        let State::Hold(request, again) = &mut self.state else { return };
        if cx.now.mono < self.record.started + self.limits.settle_timeout {
            *again = cx.now.mono + self.limits.settle_interval;
            return;
        }
        let (version, answers_head) = (request.head.version, request.answers_head);
        let reply = Reply::empty(Status::UNAVAILABLE, true);
        self.deny(cx, version, answers_head, &reply, Details::Text("nothing known from the host yet"));
    }

    /// PX-23 to PX-28: attributed, canonicalized, authorized; in this order, and nothing else opens the way to the host.
    fn authorize(&mut self, cx: Cx<'_>, mut request: Request) -> Result<Request, (Status, Details)> {
        let (to, claims) = match &self.peer {
            Peer::Redirected { to, claims } => (*to, claims),
            Peer::Unidentified { .. } => return Err((Status::MISDIRECTED, Details::NoClaims)),
            Peer::Direct { .. } | Peer::Unknown => return Err((Status::MISDIRECTED, Details::NoRecord)),
        };
        let asked = authz::Request { method: self.record.method(), target: self.record.url() };
        let decision = authz::decide(&cx.policy.rules, to, claims, asked, &mut self.scratch);
        let divergence = cx.policy.shadow.as_ref().and_then(|shadow| shadow.divergence(to, claims, asked, decision));
        (self.record.decision, self.record.decided) = (Some(decision), Some(cx.now.mono));
        self.record.rules = Destination::from_addr(to).and_then(|destination| cx.policy.rules.get(destination).clone());
        self.record.divergence = divergence;
        match decision {
            Decision::Allow(_) => {}
            Decision::Audit(_) => self.report(cx.now.mono, RecordKind::Failed),
            Decision::Deny(_) => {
                self.report(cx.now.mono, RecordKind::Failed);
                return Err((Status::FORBIDDEN, Details::Denied));
            }
        }
        if request.head.unsignable && !request.exempt && cx.policy.signer.is_some() {
            return Err((Status::BAD_REQUEST, Details::NonAsciiValue));
        }
        self.policy = Some(std::sync::Arc::clone(cx.policy));
        request.to = Some(to);
        Ok(request)
    }

    /// Refuses with a normal record (the failed one, if any, was reported before); without claims with a failed one alone (PX-24).
    fn deny(&mut self, cx: Cx<'_>, version: Version, answers_head: bool, reply: &Reply<'_>, details: Details) {
        self.record.status = reply.status;
        self.record.details = details;
        let kind = if matches!(details, Details::NoClaims) { RecordKind::Failed } else { RecordKind::Normal };
        self.report(cx.now.mono, kind);
        self.reply(cx, reply, version, answers_head, After::Linger);
    }

    /// An authorized request: exempt bodies stream, all others are collected first (PX-76).
    fn take(&mut self, cx: Cx<'_>, request: Request) {
        if request.exempt && !request.head.body.is_empty() {
            let request = self.lift_head(request);
            self.say_continue(&request);
            self.begin_exchange(cx, request);
        } else {
            self.collect(request);
        }
    }

    fn collect(&mut self, request: Request) {
        let request = self.lift_head(request);
        self.say_continue(&request);
        self.state = State::Collect(request);
    }

    /// PX-78. Said whenever it was asked for, also if the body is there already: the bytes must not depend on timing.
    fn say_continue(&mut self, request: &Request) {
        if request.head.expects_continue && !request.head.body.is_empty() {
            self.to_client.pre().extend_from_slice(CONTINUE);
        }
    }

    /// Moves the head to the ready zone and cuts out what the host must not see from a client (PX-75, W-54).
    fn lift_head(&mut self, mut request: Request) -> Request {
        self.client.accept(request.head.len);
        if !request.head.needs_cut {
            return request;
        }
        let target = request.head.target;
        let mut len = request.head.len;
        let whole = target.get(self.client.ready());
        if let Some(at) = whole.iter().position(|b| *b == b'#') {
            let range = target.range();
            self.client.cut_ready(range.start + at, range.end);
            len -= range.len() - at;
        }
        len = cut_lines(&mut self.client, len, is_protected);
        let head = self.client.ready().get(..len).unwrap_or_default();
        if let Ok(head) = RequestHead::parse(head, &mut self.fields, self.limits.fields) {
            request.head = head;
        } else {
            // Cutting whole lines out of a well-formed head leaves a well-formed head. If not, nothing may go out.
            debug_assert!(false, "cut head does not parse");
            request.to = None;
        }
        request
    }

    /// Collects the body of a request that is signed, or of one that is answered here.
    pub(super) fn read_body(&mut self, cx: Cx<'_>) -> Step {
        let State::Collect(request) = &mut self.state else { return Step::Wait };
        let outcome = request.body.advance(&mut self.client, Emit::Data);
        let request = *request;
        match outcome {
            Ok(true) => {
                self.body_complete(cx, request);
                Step::Again
            }
            Ok(false) if self.client_eof => {
                self.client_gone(cx.now.mono, "client closed before the request was complete");
                Step::Again
            }
            Ok(false) => Step::Wait,
            Err(error) => {
                self.bad_body(cx, &request, error);
                Step::Again
            }
        }
    }

    fn body_complete(&mut self, cx: Cx<'_>, request: Request) {
        match request.query {
            Some(query) => {
                self.client.drop_ready();
                self.effects.push(ConnEffect::Ask(query));
                self.state = State::Ask(request);
            }
            None => self.begin_exchange(cx, request),
        }
    }

    /// A chunked body that is malformed (400) or too long (413, PX-35).
    pub(super) fn bad_body(&mut self, cx: Cx<'_>, request: &Request, error: ChunkError) {
        let (reply, details) = match error {
            ChunkError::Malformed => (Reply::empty(Status::BAD_REQUEST, false), Details::Text("malformed request body")),
            ChunkError::TooLarge => {
                let reply = Reply::text(Status::CONTENT_TOO_LARGE, "length limit exceeded", true);
                (reply, Details::Text("length limit exceeded"))
            }
        };
        if request.query.is_some() {
            return self.reply(cx, &reply, request.head.version, request.answers_head, After::Linger);
        }
        self.deny(cx, request.head.version, request.answers_head, &reply, details);
    }
}

/// Cuts the field lines whose name is `unwanted` out of a head of `len` bytes at the beginning of the ready zone; returns its new
/// length.
pub(super) fn cut_lines(buf: &mut crate::http::Buf, mut len: usize, unwanted: impl Fn(&[u8]) -> bool) -> usize {
    let mut at = 0;
    let mut first = true;
    loop {
        let head = buf.ready().get(..len).unwrap_or_default();
        let Some(end) = head.get(at..).and_then(|rest| rest.iter().position(|b| *b == b'\n')).map(|n| at + n + 1) else {
            return len;
        };
        let name = head.get(at..end).and_then(|line| line.split(|b| *b == b':').next()).unwrap_or_default();
        if !first && unwanted(name) {
            buf.cut_ready(at, end);
            len -= end - at;
        } else {
            at = end;
        }
        first = false;
    }
}
