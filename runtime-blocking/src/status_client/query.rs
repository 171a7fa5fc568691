//! One question to the agent and its answer, over a connection that can be used again.

use serde::Deserialize;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest answer that we read. Bytes.
pub(super) const MAX_ANSWER: usize = 64 * 1024;

/// The answer of `/provision` (PX-54).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Provision {
    pub(super) finished: bool,
    pub(super) error_message: String,
}

/// Why a query did not give an answer. Displays as the reason of CLI-19.
#[derive(Debug)]
pub(crate) enum Failure {
    Io(io::Error),
    /// The connection ended before the answer did.
    Closed,
    TimedOut,
    Status(u16),
    NotHttp,
    NotJson,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            // What a socket timeout looks like depends on the operation.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(e),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Closed => f.write_str("the connection was closed before the answer was complete"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Status(status) => write!(f, "the answer is status {status}"),
            Self::NotHttp => f.write_str("the answer is not HTTP"),
            Self::NotJson => f.write_str("the answer is not the expected JSON"),
        }
    }
}

/// The time that is left, at least a little: a socket takes no timeout of zero.
fn left(until: Instant) -> Result<Duration, Failure> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Failure::TimedOut) } else { Ok(left) }
}

/// A connection to the agent, with no question under way.
#[derive(Debug)]
pub(super) struct Connection(TcpStream);

impl Connection {
    pub(super) fn open(agent: SocketAddr, until: Instant) -> Result<Self, Failure> {
        Ok(Self(TcpStream::connect_timeout(&agent, left(until)?)?))
    }

    /// Asks and reads the answer. The connection goes to `kept` if another question may follow on it.
    pub(super) fn ask(mut self, request: &[u8], until: Instant, kept: &mut Option<Self>) -> Result<Provision, Failure> {
        self.0.set_write_timeout(Some(left(until)?))?;
        self.0.write_all(request)?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            self.0.set_read_timeout(Some(left(until)?))?;
            let n = match self.0.read(&mut chunk) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            answer.extend_from_slice(chunk.get(..n).unwrap_or_default());
            if let Some(whole) = complete(&answer, n == 0)? {
                let provision = serde_json::from_slice(whole.body).map_err(|_| Failure::NotJson);
                if whole.persists {
                    *kept = Some(self);
                }
                return provision;
            }
            if n == 0 {
                return Err(Failure::Closed);
            }
            if answer.len() > MAX_ANSWER {
                return Err(Failure::NotHttp);
            }
        }
    }
}

/// An answer of which nothing is missing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole<'a> {
    pub(crate) body: &'a [u8],
    /// Another question may follow on the connection (RFC 9112 section 9.3).
    pub(crate) persists: bool,
}

/// The answer, once it is complete; `ended` says that nothing more follows.
pub(crate) fn complete(answer: &[u8], ended: bool) -> Result<Option<Whole<'_>>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(answer).map_err(|_| Failure::NotHttp)? else { return Ok(None) };
    let status = head.code.unwrap_or(0);
    if !(200..300).contains(&status) {
        return Err(Failure::Status(status));
    }
    let body = answer.get(length..).unwrap_or_default();
    let field = |name: &str| head.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
    if field("transfer-encoding").is_some() {
        // The agent never does that; a stranger on its port may.
        return Err(Failure::NotHttp);
    }
    let Some(length) = field("content-length") else { return Ok(ended.then_some(Whole { body, persists: false })) };
    let length: usize = std::str::from_utf8(length).ok().and_then(|l| l.trim().parse().ok()).ok_or(Failure::NotHttp)?;
    // Whatever else may be said there, a fresh connection costs little.
    let stays = field("connection").is_none_or(|options| options.eq_ignore_ascii_case(b"keep-alive"));
    let persists = head.version == Some(1) && stays && body.len() == length;
    Ok(body.get(..length).map(|body| Whole { body, persists }))
}
