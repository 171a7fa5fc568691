//! One request and its response between client and host: sending, signing, relaying, and every way it can fail.

use super::request::{Request, cut_lines};
use super::{After, Details, Link, ProxyConn, State, Step};
use crate::effect::{ConnEffect, ConnectError, Cx, How, RecordKind, Side};
use crate::http::chunked::{ChunkError, Decoder, Emit, size_line};
use crate::http::head::Scanned;
use crate::http::reply::{Reply, Status};
use crate::http::response::MARKER;
use crate::http::{Buf, HeadScan, RequestBody, ResponseBody, ResponseHead, Version};
use core::iter::once;

/// Read at a time of a body whose length is not known. Bytes.
const UNKNOWN: usize = 16 * 1024;

/// A body on its way through a buffer: what is still to come.
#[derive(Debug, Clone, Copy)]
pub(super) enum StreamBody {
    /// That many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Decoder),
    /// Until the sender closes.
    UntilClose,
    /// Nothing.
    Done,
}

impl StreamBody {
    /// How much of it is known to come, at most `step`; a step where its length is not known.
    pub(super) fn expected(&self, step: usize) -> usize {
        match self {
            Self::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(step),
            Self::Chunked(_) | Self::UntilClose => step.min(UNKNOWN),
            Self::Done => 0,
        }
    }

    /// Moves what is there of the body from the raw to the ready zone. `true`: it is complete.
    pub(super) fn advance(&mut self, buf: &mut Buf, emit: Emit) -> Result<bool, ChunkError> {
        match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.raw().len());
                buf.accept(here);
                *left -= here as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
            }
            Self::Chunked(decoder) => {
                let decoded = decoder.decode(buf.raw_mut(), emit)?;
                buf.accept_decoded(decoded.consumed, decoded.kept);
                if decoded.done {
                    *self = Self::Done;
                }
            }
            Self::UntilClose => buf.accept(buf.raw().len()),
            Self::Done => {}
        }
        Ok(matches!(self, Self::Done))
    }
}

/// A request that may go out, and the response to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exchange {
    response: Response,
    /// Some byte of the request was sent on this connection.
    pub(super) sent_any: bool,
    /// The host takes no more of the request.
    unwritable: bool,
    /// The client's body is still coming (exempt requests stream).
    streaming: bool,
}

#[derive(Debug, Clone, Copy)]
enum Response {
    /// Waiting for its head.
    Head,
    /// Relaying its body.
    Body { body: StreamBody, emit: Emit, keep_client: bool, keep_host: bool },
}

impl Exchange {
    /// Whether the exchange cannot end before the client sends more.
    pub(super) const fn awaits_client(&self) -> bool {
        self.streaming
    }

    /// How much is known to come of the response, at most `step`.
    pub(super) fn expected(&self, step: usize) -> usize {
        match &self.response {
            Response::Head => 0,
            Response::Body { body, .. } => body.expected(step),
        }
    }

    /// Whether a response has begun.
    pub(super) const fn answered(&self) -> bool {
        matches!(self.response, Response::Body { .. })
    }
}

const CLAIMS_ROOT: &[u8] = b"{ \"isRoot\": \"true\"}";
const CLAIMS_OTHER: &[u8] = b"{ \"isRoot\": \"false\"}";
const CLAIMS_FIELD: &[u8] = b"x-ms-azure-host-claims";
const DATE_FIELD: &[u8] = b"x-ms-azure-host-date";

impl ProxyConn {
    /// The request is complete (or streams): over the connection that we have, or a new one.
    pub(super) fn begin_exchange(&mut self, cx: Cx<'_>, request: Request) {
        let Some(to) = request.to else {
            return self.fail(cx, &request, Status::BAD_GATEWAY, "no destination");
        };
        if !self.upstream.raw().is_empty() {
            // The host spoke without being asked. Whatever it said must not be taken for the answer to this request.
            self.unlink(How::Close);
        }
        match self.link {
            Link::Open { .. } => self.send(cx, request),
            Link::None | Link::Connecting => self.open_link(cx, to, request),
        }
    }

    fn open_link(&mut self, cx: Cx<'_>, to: core::net::SocketAddrV4, request: Request) {
        self.effects.push(ConnEffect::Connect { to });
        self.link = Link::Connecting;
        self.upstream_progress = cx.now.mono;
        self.state = State::Connect(request);
    }

    pub(super) fn connected(&mut self, cx: Cx<'_>, result: Result<(), ConnectError>) {
        let State::Connect(request) = &self.state else { return };
        let request = *request;
        match result {
            Ok(()) => {
                self.link = Link::Open { reused: false };
                self.send(cx, request);
            }
            Err(error) => self.fail(cx, &request, Status::BAD_GATEWAY, error.reason()),
        }
    }

    /// Puts the request into the outbox: the received head, the fields that only we may set, the body. From here on nothing of it
    /// changes (W-57).
    fn send(&mut self, cx: Cx<'_>, request: Request) {
        let (Some(policy), Some(claims)) = (&self.policy, self.peer.claims()) else {
            // Unreachable by construction (authorize() pins the policy of an identified caller); if it were, nothing goes out.
            return self.fail(cx, &request, Status::INTERNAL, "no policy");
        };
        let ready = self.client.ready();
        let head = ready.get(..request.head.len).unwrap_or_default();
        let body = ready.get(request.head.len..).unwrap_or_default();
        let claims = if claims.is_elevated() { CLAIMS_ROOT } else { CLAIMS_OTHER };
        let date = self.host_date.refresh(policy.host_clock.at(cx.now));
        let inject = self.to_upstream.start(request.head.len);
        for (name, value) in [(CLAIMS_FIELD, claims), (DATE_FIELD, &date[..])] {
            put_field(inject, name, value);
        }
        if let (Some(signer), false) = (&policy.signer, request.exempt) {
            let fields = self.fields.iter().map(|f| (f.name.get(head), f.value.get(head)));
            let ours = once((CLAIMS_FIELD, claims)).chain(once((DATE_FIELD, &date[..])));
            let (method, target) = (self.record.method(), self.record.url());
            let signature = signer.sign(method, target, fields.chain(ours), body);
            inject.extend_from_slice(MARKER);
            inject.extend_from_slice(b": ");
            inject.extend_from_slice(signer.authorization_prefix());
            inject.extend_from_slice(signature.as_bytes());
            inject.extend_from_slice(b"\r\n");
        }
        inject.extend_from_slice(b"\r\n");
        let streaming = !matches!(request.body, StreamBody::Done);
        if request.head.body == RequestBody::Chunked && !request.exempt {
            // The content was collected; it goes out as one chunk, because transfer-encoding was signed (W-57). Exempt content
            // keeps its chunks.
            let (line, len) = size_line(body.len() as u64);
            inject.extend_from_slice(line.get(..len).unwrap_or_default());
            self.to_upstream.set_tail(if body.is_empty() { b"\r\n" } else { b"\r\n0\r\n\r\n" });
        }
        self.scan = HeadScan::default();
        self.upstream_progress = cx.now.mono;
        // Once, also if the request has to be put out again on another connection (PX-12).
        if !std::mem::replace(&mut self.record.forwarded, true) {
            self.record.sent = Some(cx.now.mono);
            self.effects.push(ConnEffect::Intend);
        }
        self.state =
            State::Exchange(request, Exchange { response: Response::Head, sent_any: false, unwritable: false, streaming });
    }

    /// Moves what can be moved in both directions.
    pub(super) fn relay(&mut self, cx: Cx<'_>) -> Step {
        if let Err(step) = self.relay_request(cx) {
            return step;
        }
        let State::Exchange(request, exchange) = &self.state else { return Step::Again };
        let (request, exchange) = (*request, *exchange);
        match exchange.response {
            Response::Head if !exchange.sent_any && !self.upstream.raw().is_empty() => {
                // Said before anything was asked: it answers no request of ours.
                self.stale(cx, &request, "response before the request");
                Step::Again
            }
            Response::Head => self.read_response_head(cx, &request),
            Response::Body { body, emit, keep_client, keep_host } => {
                let mut body = body;
                let outcome = if self.room_for_response() { body.advance(&mut self.upstream, emit) } else { Ok(false) };
                if let State::Exchange(_, exchange) = &mut self.state {
                    exchange.response = Response::Body { body, emit, keep_client, keep_host };
                }
                match outcome {
                    Err(_) => {
                        self.break_off(cx, "malformed response body");
                        Step::Again
                    }
                    Ok(false) => Step::Wait,
                    Ok(true) if !self.to_client.is_empty(&self.upstream) => Step::Wait,
                    Ok(true) => {
                        self.finish(cx, &request, keep_client, keep_host);
                        Step::Again
                    }
                }
            }
        }
    }

    /// Framed chunks are rewritten in place, so they are only looked at while the ready zone before them is bounded.
    fn room_for_response(&self) -> bool {
        self.upstream.ready().len() < self.limits.relay
    }

    /// The client's body on its way to the host.
    fn relay_request(&mut self, cx: Cx<'_>) -> Result<(), Step> {
        let State::Exchange(request, exchange) = &mut self.state else { return Ok(()) };
        if !exchange.streaming {
            return Ok(());
        }
        let outcome = request.body.advance(&mut self.client, Emit::Framed);
        if exchange.unwritable {
            self.client.drop_ready();
        }
        match outcome {
            Ok(true) => exchange.streaming = false,
            Ok(false) if self.client_eof => {
                self.client_gone(cx.now.mono, "client closed before the request was complete");
                return Err(Step::Again);
            }
            Ok(false) => {}
            Err(error) => {
                let (request, answered) = (*request, exchange.answered());
                // The host must not take what it has for a complete request.
                self.unlink(How::Abort);
                if answered {
                    self.break_off(cx, "malformed request body");
                } else {
                    self.bad_body(cx, &request, error);
                }
                return Err(Step::Again);
            }
        }
        Ok(())
    }

    fn read_response_head(&mut self, cx: Cx<'_>, request: &Request) -> Step {
        if self.upstream.raw().is_empty() {
            return Step::Wait;
        }
        let len = match self.scan.response(self.upstream.raw(), &self.limits) {
            Ok(Scanned::Partial) => return Step::Wait,
            Ok(Scanned::Complete(len)) => len,
            Err(_) => {
                self.fail(cx, request, Status::UNAVAILABLE, "malformed response");
                return Step::Again;
            }
        };
        self.scan = HeadScan::default();
        let head = self.upstream.raw().get(..len).unwrap_or_default();
        match ResponseHead::parse(head, request.answers_head, self.limits.fields) {
            Ok(head) if head.is_interim() => self.upstream.discard(len),
            Ok(head) if head.status >= 200 => self.forward_response(cx, request, head),
            _ => self.fail(cx, request, Status::UNAVAILABLE, "malformed response"),
        }
        Step::Again
    }

    /// The response's head goes out as it came, but for the marker (W-69), a missing Date (PX-37) and the fate of the connection.
    fn forward_response(&mut self, cx: Cx<'_>, request: &Request, head: ResponseHead) {
        let State::Exchange(_, exchange) = &mut self.state else { return };
        let http10 = request.head.version == Version::Http10;
        let plain = http10 && head.body == ResponseBody::Chunked;
        let keep_client = request.keep
            && head.persistence.persists(head.version)
            && (!http10 || head.persistence.keep_alive)
            && head.body != ResponseBody::Close
            && !plain;
        let keep_host = head.persistence.persists(head.version) && head.body != ResponseBody::Close;
        exchange.response = Response::Body {
            body: match head.body {
                ResponseBody::Length(n) => StreamBody::Length(n),
                ResponseBody::Chunked => StreamBody::Chunked(Decoder::new(u64::MAX)),
                ResponseBody::Close => StreamBody::UntilClose,
            },
            // An HTTP/1.0 client does not know chunks: it gets the data, and our close as the end.
            emit: if plain { Emit::Data } else { Emit::Framed },
            keep_client,
            keep_host,
        };
        self.upstream.accept(head.len);
        let mut len = head.len;
        if head.needs_cut {
            len = cut_lines(&mut self.upstream, len, |name| name.eq_ignore_ascii_case(MARKER));
        }
        if plain {
            len = cut_lines(&mut self.upstream, len, |name| name.eq_ignore_ascii_case(b"transfer-encoding"));
        }
        if http10 {
            // PX-37; `HTTP/1.` is checked by the parser.
            if let Some(minor) = self.upstream.ready_mut().get_mut(7) {
                *minor = b'0';
            }
        }
        let inject = self.to_client.start(len);
        put_field(inject, MARKER, b"value");
        if !head.has_date {
            put_field(inject, b"date", self.date.refresh(cx.now.wall));
        }
        if !keep_client && !head.persistence.close {
            put_field(inject, b"connection", b"close");
        }
        inject.extend_from_slice(b"\r\n");
        self.record.status = Status(head.status);
        self.client_progress = cx.now.mono;
    }

    /// The response is complete and on its way.
    fn finish(&mut self, cx: Cx<'_>, request: &Request, keep_client: bool, keep_host: bool) {
        self.report(cx.now.mono, RecordKind::Normal);
        let State::Exchange(_, exchange) = &self.state else { return };
        let exchange = *exchange;
        let complete = !exchange.streaming && self.to_upstream.is_empty(&self.client);
        if !complete {
            // An early answer: the rest of the request is nobody's business any more.
            self.unlink(How::Abort);
            self.client.drop_ready();
            self.state = State::Reply(After::Linger);
            return;
        }
        let clean = self.upstream.raw().is_empty();
        if keep_host && clean && !exchange.unwritable {
            self.link = match self.link {
                Link::Open { .. } => Link::Open { reused: true },
                other => other,
            };
        } else {
            self.unlink(How::Close);
        }
        // A client that has half-closed is noticed when the next head is looked for: it may have sent more requests before.
        if keep_client && request.keep {
            self.next_request(cx.now.mono);
        } else {
            self.state = State::Reply(After::Close);
        }
    }

    /// The host sends nothing more (`orderly`), or the connection to it broke.
    pub(super) fn host_closed(&mut self, cx: Cx<'_>, orderly: bool) {
        let State::Exchange(request, exchange) = &self.state else {
            // Idle, or connecting anew: nobody waits for anything on it.
            if matches!(self.link, Link::Open { .. }) {
                self.unlink(How::Close);
            }
            return;
        };
        let (request, exchange) = (*request, *exchange);
        match exchange.response {
            Response::Head => {
                let why = if orderly { "connection closed before a response" } else { "connection reset" };
                if exchange.sent_any {
                    self.fail(cx, &request, Status::UNAVAILABLE, why);
                } else {
                    self.stale(cx, &request, why);
                }
            }
            Response::Body { body: StreamBody::UntilClose, emit, .. } if orderly => {
                if let State::Exchange(_, exchange) = &mut self.state {
                    let mut body = StreamBody::UntilClose;
                    let _ = body.advance(&mut self.upstream, emit);
                    exchange.response = Response::Body { body: StreamBody::Done, emit, keep_client: false, keep_host: false };
                }
                self.close_link_only();
            }
            Response::Body { body, emit, keep_client, .. } => {
                let mut body = body;
                match body.advance(&mut self.upstream, emit) {
                    // Everything had arrived before the close.
                    Ok(true) => {
                        if let State::Exchange(_, exchange) = &mut self.state {
                            exchange.response = Response::Body { body, emit, keep_client, keep_host: false };
                        }
                        self.close_link_only();
                    }
                    _ => self.break_off(cx, "connection closed within the response"),
                }
            }
        }
    }

    /// The connection to the host is of no use for this request, of which no byte was sent: once more on a new one, unless it is
    /// new itself (PX-12).
    fn stale(&mut self, cx: Cx<'_>, request: &Request, why: &'static str) {
        match (self.link, request.to) {
            (Link::Open { reused: true }, Some(to)) => {
                // The request is untouched in the client's buffer and serves again.
                self.unlink(How::Close);
                self.open_link(cx, to, *request);
            }
            _ => self.fail(cx, request, Status::UNAVAILABLE, why),
        }
    }

    /// Closes the connection to the host, but keeps what it has sent.
    fn close_link_only(&mut self) {
        if self.link != Link::None {
            self.effects.push(ConnEffect::Shutdown { side: Side::Upstream, how: How::Close });
            self.link = Link::None;
        }
    }

    /// The host takes no more bytes; its answer may be on its way.
    pub(super) fn host_unwritable(&mut self) {
        if let State::Exchange(_, exchange) = &mut self.state {
            // A stale connection shows as a failing first write: then a read error or end follows and PX-12 applies. So only a
            // request that has begun is thrown away.
            if exchange.sent_any {
                exchange.unwritable = true;
                self.to_upstream.clear();
                self.client.drop_ready();
            }
        } else if matches!(self.link, Link::Open { .. }) {
            self.unlink(How::Close);
        }
    }

    /// A peer neither sent nor took a byte for too long.
    pub(super) fn stalled(&mut self, cx: Cx<'_>) {
        match &self.state {
            State::Collect(request) => {
                let request = *request;
                self.fail(cx, &request, Status(408), "client stopped sending");
            }
            State::Exchange(request, exchange) => {
                let (request, exchange) = (*request, *exchange);
                if !self.to_client.is_empty(&self.upstream) {
                    self.break_off(cx, "client stopped reading");
                } else if exchange.answered() {
                    self.break_off(cx, "request stalled");
                } else if self.upstream_writable() {
                    self.fail(cx, &request, Status::UNAVAILABLE, "host stopped reading");
                } else {
                    self.fail(cx, &request, Status(408), "client stopped sending");
                }
            }
            _ => self.close(How::Abort),
        }
    }

    /// Nothing of a response was said yet: say that it failed (PX-31, PX-32), and close.
    fn fail(&mut self, cx: Cx<'_>, request: &Request, status: Status, why: &'static str) {
        // Half of a request must not look complete to the host.
        self.unlink(How::Abort);
        self.client.drop_ready();
        self.record.status = status;
        self.record.details = Details::HostFailed(why);
        if status.0 == 408 {
            self.record.details = Details::Text(why);
        }
        if request.query.is_none() {
            self.report(cx.now.mono, RecordKind::Normal);
        }
        self.reply(cx, &Reply::empty(status, true), request.head.version, request.answers_head, After::Linger);
    }

    /// A response has begun and cannot be completed: the client must not take it for complete (PX-80).
    fn break_off(&mut self, cx: Cx<'_>, why: &'static str) {
        if !matches!(&self.state, State::Exchange(_, exchange) if exchange.answered()) {
            self.record.status = Status::CLIENT_CLOSED;
        }
        self.record.details = Details::HostFailed(why);
        self.report(cx.now.mono, RecordKind::Normal);
        self.close(How::Abort);
    }
}

fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
