//! The HTTP/1.1 client of the agent's own calls: one request, one response, one connection, then the connection is dropped.
//!
//! It knows when a message ends (by [`crate::http`]) and nothing of what is asked or answered. It opens no connection: the shell connects
//! (within [`Limits::connect_timeout`]) and pumps bytes until [`Exchange::poll`] says how it ended.
//!
//! ```text
//! Head ──► Sized ───────┐
//!  │ ▲ └─► Chunked ─────┼─► Ended ──► poll() = Some
//!  │ └1xx  UntilClose ──┘    ▲
//!  └───────────(any error, the deadline)
//! ```
//!
//! Bytes may come in pieces of any size: the result is the same.

mod request;
mod response;
#[cfg(test)]
mod tests;

pub(crate) use request::Call;
pub use request::HostRequest;
pub use response::{HostResponse, Text, Undecodable};

use crate::effect::{ConnectError, Recv, Wants};
use crate::http::chunked::{ChunkError, Decoder, Emit};
use crate::http::head::Scanned;
use crate::http::{HeadError, HeadScan, ResponseBody, ResponseHead};
use crate::limits::Limits;
use crate::time::{Mono, Now};
use core::fmt;
use zeroize::Zeroizing;

/// Why a call to the host gave no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchError {
    /// No connection. Said by the shell, never by [`Exchange`].
    Connect(ConnectError),
    /// Not complete within [`Limits::exchange_timeout`].
    TimedOut,
    /// The connection ended before the first byte of a response.
    NoResponse,
    /// The connection ended in the middle of the response.
    Truncated,
    /// The connection broke.
    Reset,
    /// Not an HTTP/1.x response, or its framing is ambiguous.
    Malformed,
    /// Head or body above the limit (W-07), or interim responses without end.
    TooLarge,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect(e) => e.reason(),
            Self::TimedOut => "no complete response in time",
            Self::NoResponse => "connection closed without a response",
            Self::Truncated => "connection closed within the response",
            Self::Reset => "connection reset",
            Self::Malformed => "malformed response",
            Self::TooLarge => "response too large",
        })
    }
}

impl From<HeadError> for FetchError {
    fn from(e: HeadError) -> Self {
        match e {
            HeadError::TooLarge | HeadError::TargetTooLong => Self::TooLarge,
            HeadError::Malformed | HeadError::Http2Preface => Self::Malformed,
        }
    }
}

impl From<ChunkError> for FetchError {
    fn from(e: ChunkError) -> Self {
        match e {
            ChunkError::Malformed => Self::Malformed,
            ChunkError::TooLarge => Self::TooLarge,
        }
    }
}

/// One call to a host endpoint on a connection of its own.
pub struct Exchange {
    request: HostRequest,
    /// Bytes of head and body that are sent.
    sent: usize,
    /// Received bytes that no state has used up yet: `..filled`. May hold key material.
    input: Zeroizing<Vec<u8>>,
    filled: usize,
    state: State,
    /// Interim responses so far.
    interim: usize,
    response: HostResponse,
    body: Body,
    deadline: Mono,
    limits: Limits,
}

/// Where the response is.
enum State {
    /// In the head.
    Head(HeadScan),
    /// That many bytes of the body are missing.
    Sized(u64),
    /// In a chunked body.
    Chunked(Decoder),
    /// In a body that ends with the connection.
    UntilClose,
    /// Over; the outcome is there until it is polled.
    Ended(Option<Result<(), FetchError>>),
}

impl Exchange {
    /// A call that begins now, on a connection that is established.
    #[must_use]
    pub fn new(now: Now, request: HostRequest, limits: Limits) -> Self {
        Self {
            request,
            sent: 0,
            input: Zeroizing::default(),
            filled: 0,
            state: State::Head(HeadScan::default()),
            interim: 0,
            response: HostResponse::default(),
            body: Body { bytes: Zeroizing::default(), limit: limits.exchange_body },
            deadline: now.mono + limits.exchange_timeout,
            limits,
        }
    }

    /// Bytes to send next; empty when there are none.
    #[must_use]
    pub fn transmit(&self) -> &[u8] {
        let head = self.request.head();
        match self.state {
            State::Ended(_) => &[],
            _ => head.get(self.sent..).filter(|rest| !rest.is_empty()).unwrap_or_else(|| {
                let sent = self.sent.saturating_sub(head.len());
                self.request.body().get(sent..).unwrap_or_default()
            }),
        }
    }

    /// `n` bytes of [`transmit`](Self::transmit) were sent.
    pub const fn transmitted(&mut self, n: usize) {
        self.sent = self.sent.saturating_add(n);
    }

    /// Where to put received bytes; never empty while the exchange goes on.
    pub fn recv_space(&mut self) -> &mut [u8] {
        if self.input.len() - self.filled < self.limits.read {
            let mut larger = Zeroizing::new(vec![0; (self.filled + self.limits.read).next_power_of_two()]);
            if let (Some(to), Some(from)) = (larger.get_mut(..self.filled), self.input.get(..self.filled)) {
                to.copy_from_slice(from);
            }
            self.input = larger;
        }
        self.input.get_mut(self.filled..).unwrap_or_default()
    }

    /// What a read gave. Bytes beyond the end of the response are ignored: the connection is not used again.
    pub fn handle_recv(&mut self, now: Now, recv: Recv) {
        self.handle_timeout(now);
        if let State::Ended(_) = self.state {
            return;
        }
        let outcome = match recv {
            Recv::Data(n) => {
                self.filled = self.filled.saturating_add(n).min(self.input.len());
                self.advance()
            }
            Recv::Reset => Err(FetchError::Reset),
            Recv::Eof => match self.state {
                State::UntilClose => Ok(true),
                State::Head(_) if self.filled == 0 => Err(FetchError::NoResponse),
                _ => Err(FetchError::Truncated),
            },
        };
        match outcome {
            Ok(false) => {}
            Ok(true) => self.state = State::Ended(Some(Ok(()))),
            Err(e) => self.state = State::Ended(Some(Err(e))),
        }
    }

    /// Ends the exchange if its time is over.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.mono >= self.deadline && !matches!(self.state, State::Ended(_)) {
            self.state = State::Ended(Some(Err(FetchError::TimedOut)));
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called; `None` when the exchange is over.
    #[must_use]
    pub const fn deadline(&self) -> Option<Mono> {
        match self.state {
            State::Ended(_) => None,
            _ => Some(self.deadline),
        }
    }

    /// What it waits for on its socket.
    #[must_use]
    pub fn interest(&self) -> Wants {
        Wants { read: !matches!(self.state, State::Ended(_)), write: !self.transmit().is_empty() }
    }

    /// The outcome, once; the connection can be dropped then.
    #[must_use]
    pub fn poll(&mut self) -> Option<Result<HostResponse, FetchError>> {
        let State::Ended(outcome) = &mut self.state else { return None };
        Some(match outcome.take()? {
            Ok(()) => {
                let body = core::mem::take(&mut self.body.bytes);
                Ok(HostResponse { body, ..core::mem::take(&mut self.response) })
            }
            Err(e) => Err(e),
        })
    }

    /// Uses up input as far as it goes; whether the response is complete.
    fn advance(&mut self) -> Result<bool, FetchError> {
        loop {
            let input = self.input.get_mut(..self.filled).unwrap_or_default();
            let used = match &mut self.state {
                State::Ended(_) | State::Sized(0) => return Ok(true),
                State::Head(scan) => match scan.response(input, &self.limits)? {
                    // The scan bounds the fields; the status line is bounded here.
                    Scanned::Partial if input.len() > self.limits.response_head => return Err(FetchError::TooLarge),
                    Scanned::Partial => return Ok(false),
                    Scanned::Complete(end) => {
                        (self.response, self.state) = read_head(input.get(..end).unwrap_or_default(), &self.limits)?;
                        if let State::Head(_) = self.state {
                            self.interim += 1;
                            if self.interim > self.limits.interim {
                                return Err(FetchError::TooLarge);
                            }
                        }
                        end
                    }
                },
                _ if input.is_empty() => return Ok(false),
                State::Sized(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    self.body.append(input.get(..take).unwrap_or_default())?;
                    *left -= take as u64;
                    take
                }
                State::Chunked(decoder) => {
                    let decoded = decoder.decode(input, Emit::Data)?;
                    self.body.append(input.get(..decoded.kept).unwrap_or_default())?;
                    if decoded.done {
                        return Ok(true);
                    }
                    if decoded.consumed == 0 {
                        return Ok(false);
                    }
                    decoded.consumed
                }
                State::UntilClose => {
                    self.body.append(input)?;
                    input.len()
                }
            };
            self.input.copy_within(used..self.filled, 0);
            self.filled -= used;
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("request", &self.request).field("sent", &self.sent).finish_non_exhaustive()
    }
}

/// A body that is collected: bounded, and no copy of it is left behind when it grows.
struct Body {
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
}

impl Body {
    fn append(&mut self, part: &[u8]) -> Result<(), FetchError> {
        let len = self.bytes.len() + part.len();
        if len > self.limit {
            return Err(FetchError::TooLarge);
        }
        if len > self.bytes.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(len.next_power_of_two()));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }
}

/// Reads a complete head: the response without its body, and how the body is framed. After an interim response (1xx) the next
/// head follows.
fn read_head(head: &[u8], limits: &Limits) -> Result<(HostResponse, State), FetchError> {
    let parsed = ResponseHead::parse(head, false, limits.fields)?;
    match parsed.status {
        // We asked for no other protocol.
        101 => return Err(FetchError::Malformed),
        100..200 => return Ok((HostResponse::default(), State::Head(HeadScan::default()))),
        _ => {}
    }
    let state = match parsed.body {
        ResponseBody::Length(n) if n > limits.exchange_body as u64 => return Err(FetchError::TooLarge),
        ResponseBody::Length(n) => State::Sized(n),
        ResponseBody::Chunked => State::Chunked(Decoder::new(limits.exchange_body as u64)),
        ResponseBody::Close => State::UntilClose,
    };
    // Read once more for the few values that we use: the first reading keeps framing only.
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut fields = httparse::Response::new(&mut lines);
    fields.parse(head).map_err(|_| FetchError::Malformed)?;
    let first = |name: &str| fields.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value.into());
    let response = HostResponse {
        status: parsed.status,
        host_date: first("x-ms-azure-host-date"),
        date: first("date"),
        content_type: first("content-type"),
        body: Zeroizing::default(),
    };
    Ok((response, state))
}
