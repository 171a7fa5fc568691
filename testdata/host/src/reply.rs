//! Answers: what is sent, and with which framing, including the ways in which a host can misbehave.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

/// A response body and its framing.
#[derive(Clone, Debug)]
pub enum Body {
    /// Bytes with `Content-Length`.
    Bytes(Arc<[u8]>),
    /// No body and no length, as 204 and 304 have it.
    Absent,
    /// This many bytes of [`pattern`] with `Content-Length`.
    Pattern(u64),
    /// This many bytes of [`pattern`] in chunks.
    Chunked {
        /// Length of the body.
        total: u64,
        /// Length of each chunk.
        chunk: u64,
        /// Whether chunk sizes carry an extension.
        extensions: bool,
        /// Whether a trailer section follows.
        trailers: bool,
    },
    /// This many bytes of [`pattern`], ended by the end of the connection.
    UntilClose(u64),
    /// These bytes instead of any HTTP.
    Raw(Vec<u8>),
    /// `Content-Length` says `says`, but only `sent` bytes come.
    Truncated {
        /// The announced length.
        says: u64,
        /// What is really sent.
        sent: u64,
    },
}

/// What happens to the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It stays open if the client wants that.
    Stay,
    /// It is closed, and the answer says so.
    Close,
    /// It is closed although the answer does not say so.
    CloseSilently,
    /// It is reset (RST).
    Reset,
    /// Nothing is sent at all, until the client gives up.
    Silence,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header fields besides `Date`, `Server`, `Connection` and the framing.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body,
    /// The connection's fate.
    pub after: After,
    /// Interim responses that are sent before.
    pub interim: &'static [u16],
    /// Pauses before the head, and between head and body.
    pub pause: (Duration, Duration),
}

impl Reply {
    /// An answer without particularities.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Arc<[u8]>>) -> Self {
        let mut reply = Self::with(status, Body::Bytes(body.into()));
        reply.headers.push(("Content-Type", content_type.to_owned()));
        reply
    }

    /// An answer with the given body and no `Content-Type`.
    pub fn with(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body, after: After::Stay, interim: &[], pause: Default::default() }
    }

    /// A JSON answer.
    pub fn json(status: u16, value: &Value) -> Self {
        Self::new(status, "application/json; charset=utf-8", value.to_string().into_bytes())
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the connection's fate.
    #[must_use]
    pub fn then(mut self, after: After) -> Self {
        self.after = after;
        self
    }
}

/// The byte at each position of a generated body: printable, with a period (95) that no power of two divides, so that a
/// lost or repeated buffer shows.
pub const fn pattern(position: u64) -> u8 {
    b' ' + (position % 95) as u8
}

const BLOCK: usize = 95 * 690;
static PATTERN: [u8; BLOCK] = {
    let mut block = [0; BLOCK];
    let mut at = 0;
    while at < BLOCK {
        block[at] = pattern(at as u64);
        at += 1;
    }
    block
};

/// The facts about the request that shape the answer's framing.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The request was `HEAD`: no body is sent.
    pub head: bool,
    /// The request was HTTP/1.0: no chunked coding, no interim responses.
    pub http10: bool,
    /// The client wants the connection to stay open.
    pub keep_alive: bool,
}

/// Sends `reply`. `out` is scratch space that a connection reuses. Returns whether the connection stays open.
///
/// # Errors
/// Those of the connection.
pub fn send(stream: &TcpStream, out: &mut Vec<u8>, reply: &Reply, shape: Shape, date: &str) -> io::Result<bool> {
    out.clear();
    if let Body::Raw(bytes) = &reply.body {
        (&*stream).write_all(bytes)?;
        return Ok(false);
    }
    std::thread::sleep(reply.pause.0);
    if !shape.http10 {
        for code in reply.interim {
            let _ = write!(out, "HTTP/1.1 {code} {}\r\nX-Interim: {code}\r\n\r\n", reason(*code));
        }
    }
    let close_delimited =
        matches!(reply.body, Body::UntilClose(_)) || (shape.http10 && matches!(reply.body, Body::Chunked { .. }));
    let stay = match reply.after {
        After::Stay => shape.keep_alive && !close_delimited,
        After::CloseSilently => true,
        _ => false,
    };
    head(out, reply, date, close_delimited);
    match (stay, shape.http10) {
        (true, true) => out.extend_from_slice(b"Connection: keep-alive\r\n\r\n"),
        (false, false) => out.extend_from_slice(b"Connection: close\r\n\r\n"),
        _ => out.extend_from_slice(b"\r\n"),
    }
    if !reply.pause.1.is_zero() {
        (&*stream).write_all(out)?;
        out.clear();
        std::thread::sleep(reply.pause.1);
    }
    if !shape.head {
        body(stream, out, &reply.body, close_delimited)?;
    }
    (&*stream).write_all(out)?;
    Ok(stay && reply.after == After::Stay)
}

fn head(out: &mut Vec<u8>, reply: &Reply, date: &str, close_delimited: bool) {
    // Writing into a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {}\r\nDate: {date}\r\nServer: azure-host-sim\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    let _ = match &reply.body {
        Body::Bytes(bytes) => write!(out, "Content-Length: {}\r\n", bytes.len()),
        Body::Pattern(length) | Body::Truncated { says: length, .. } => write!(out, "Content-Length: {length}\r\n"),
        Body::Chunked { trailers, .. } if !close_delimited => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            if *trailers { write!(out, "Trailer: X-Trailer\r\n") } else { Ok(()) }
        }
        _ => Ok(()),
    };
}

fn body(stream: &TcpStream, out: &mut Vec<u8>, body: &Body, close_delimited: bool) -> io::Result<()> {
    match body {
        Body::Bytes(bytes) => out.extend_from_slice(bytes),
        Body::Absent | Body::Raw(_) => {}
        Body::Pattern(length) | Body::UntilClose(length) | Body::Truncated { sent: length, .. } => {
            generate(stream, out, 0, *length)?;
        }
        Body::Chunked { total, .. } if close_delimited => generate(stream, out, 0, *total)?,
        Body::Chunked { total, chunk, extensions, trailers } => {
            let mut position = 0;
            while position < *total {
                let length = (*chunk).clamp(1, total - position);
                let _ = if *extensions {
                    write!(out, "{length:x};at={position};quoted=\"a;b\"\r\n")
                } else {
                    write!(out, "{length:x}\r\n")
                };
                generate(stream, out, position, length)?;
                out.extend_from_slice(b"\r\n");
                position += length;
            }
            out.extend_from_slice(b"0\r\n");
            if *trailers {
                let _ = write!(out, "X-Trailer: {total}\r\n");
            }
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(())
}

fn generate(stream: &TcpStream, out: &mut Vec<u8>, mut position: u64, length: u64) -> io::Result<()> {
    let end = position + length;
    while position < end {
        let from = (position % BLOCK as u64) as usize;
        let take = (BLOCK - from).min(usize::try_from(end - position).unwrap_or(BLOCK));
        out.extend_from_slice(&PATTERN[from..from + take]);
        position += take as u64;
        if out.len() >= 48 * 1024 {
            (&*stream).write_all(out)?;
            out.clear();
        }
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        410 => "Gone",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
