//! HTTP/1.1 messages as a host receives them: request heads and bodies (RFC 9112), read strictly.
//!
//! Also strict where a real server might be lenient: what the agent lets through by mistake should fail here, visibly.

use std::io::{self, BufRead};
use std::ops::Range;

/// Longest request head that is read, in bytes: the agent's own limit (64 KiB, PX-41) and room for what it adds.
pub const MAX_HEAD: usize = 128 * 1024;
/// Longest request body, in bytes: the exempt limit of W-67 and some room.
pub const MAX_BODY: u64 = 128 * 1024 * 1024;
const MAX_LINE: usize = 8 * 1024;

/// A request head. Owns its bytes, so the connection's buffer is free for the body.
#[derive(Debug, Default)]
pub struct Head {
    bytes: Vec<u8>,
    method: Range<usize>,
    target: Range<usize>,
    /// HTTP/1.0 instead of HTTP/1.1.
    pub http10: bool,
    fields: Vec<(Range<usize>, Range<usize>)>,
}

/// How a request body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What came instead of, or as, a request head.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The connection ended between requests.
    End,
    /// A complete, well-formed head.
    Request,
    /// Something else; the connection cannot go on.
    Bad(&'static str),
}

impl Head {
    /// Reads the next head.
    ///
    /// # Errors
    /// Those of the connection; an end in the middle of a head is `UnexpectedEof`.
    pub fn read(&mut self, reader: &mut impl BufRead) -> io::Result<Incoming> {
        self.bytes.clear();
        self.fields.clear();
        loop {
            let available = reader.fill_buf()?;
            if available.is_empty() {
                return if self.bytes.is_empty() { Ok(Incoming::End) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let before = self.bytes.len();
            let taken = available.len();
            self.bytes.extend_from_slice(available);
            let from = before.saturating_sub(3);
            if let Some(end) = self.bytes[from..].windows(4).position(|w| w == b"\r\n\r\n").map(|at| from + at + 4) {
                reader.consume(end - before);
                self.bytes.truncate(end);
                return Ok(self.parse().map_or_else(Incoming::Bad, |()| Incoming::Request));
            }
            reader.consume(taken);
            if self.bytes.len() > MAX_HEAD {
                return Ok(Incoming::Bad("request head too long"));
            }
        }
    }

    fn parse(&mut self) -> Result<(), &'static str> {
        let bytes = &self.bytes;
        let mut line_start = 0;
        let mut first = true;
        while line_start < bytes.len() - 2 {
            let line_end = find(bytes, line_start, b"\r\n").ok_or("no line end")?;
            let line = &bytes[line_start..line_end];
            if line.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7F) {
                return Err("control character in head");
            }
            if first {
                let (method, target, http10) = request_line(line)?;
                (self.method, self.target, self.http10) = (method, target, http10);
                first = false;
            } else {
                let colon = line.iter().position(|b| *b == b':').ok_or("header line without colon")?;
                if colon == 0 || !line[..colon].iter().all(|b| is_token(*b)) {
                    return Err("bad header name");
                }
                let blank = |b: &u8| *b == b' ' || *b == b'\t';
                let start = line[colon + 1..].iter().position(|b| !blank(b)).map_or(line.len(), |at| colon + 1 + at);
                let end = line.iter().rposition(|b| !blank(b)).map_or(start, |at| (at + 1).max(start));
                self.fields.push((line_start..line_start + colon, line_start + start..line_start + end));
            }
            line_start = line_end + 2;
        }
        if first { Err("empty head") } else { Ok(()) }
    }

    /// The method; methods are tokens, so it is text.
    pub fn method(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.method.clone()]).unwrap_or("")
    }

    /// The request target as received.
    pub fn target(&self) -> &[u8] {
        &self.bytes[self.target.clone()]
    }

    /// The header fields in message order, values without surrounding blanks.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (&self.bytes[name.clone()], &self.bytes[value.clone()]))
    }

    /// All values of one header (name in lower case), in message order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields().filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, v)| v)
    }

    /// How the body is framed.
    ///
    /// # Errors
    /// For every message in which two readers could see different bodies (RFC 9112 section 6.3).
    pub fn framing(&self) -> Result<Framing, &'static str> {
        let mut length = None;
        for value in self.values("content-length") {
            let text = std::str::from_utf8(value).map_err(|_| "bad content-length")?;
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err("bad content-length");
            }
            let number: u64 = text.parse().map_err(|_| "bad content-length")?;
            if length.is_some_and(|l| l != number) {
                return Err("different content-lengths");
            }
            length = Some(number);
        }
        let mut codings = self.values("transfer-encoding");
        match (codings.next(), codings.next()) {
            (None, _) => Ok(length.map_or(Framing::None, Framing::Length)),
            (Some(_), Some(_)) => Err("several transfer-encodings"),
            (Some(_), None) if length.is_some() => Err("both content-length and transfer-encoding"),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && !self.http10 => Ok(Framing::Chunked),
            (Some(_), None) => Err("unknown transfer-encoding"),
        }
    }

    /// Whether the client wants the connection to stay open after the answer.
    pub fn keep_alive(&self) -> bool {
        let says = |word: &str| {
            self.values("connection")
                .any(|v| v.split(|b| *b == b',').any(|o| o.trim_ascii().eq_ignore_ascii_case(word.as_bytes())))
        };
        if self.http10 { says("keep-alive") } else { !says("close") }
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.values("expect").any(|v| v.eq_ignore_ascii_case(b"100-continue"))
    }
}

fn request_line(line: &[u8]) -> Result<(Range<usize>, Range<usize>, bool), &'static str> {
    let first = line.iter().position(|b| *b == b' ').ok_or("bad request line")?;
    let last = line.iter().rposition(|b| *b == b' ').ok_or("bad request line")?;
    if first == 0 || last <= first + 1 || !line[..first].iter().all(|b| is_token(*b)) {
        return Err("bad request line");
    }
    if line[first + 1..last].iter().any(|b| *b <= b' ' || *b == 0x7F) {
        return Err("bad request target");
    }
    match &line[last + 1..] {
        b"HTTP/1.1" => Ok((0..first, first + 1..last, false)),
        b"HTTP/1.0" => Ok((0..first, first + 1..last, true)),
        _ => Err("bad version"),
    }
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|w| w == what).map(|at| from + at)
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Reads a body to its end and hands the decoded bytes to `sink` piece by piece. Returns its length.
///
/// # Errors
/// `InvalidData` for wrong chunk framing or a body above [`MAX_BODY`]; `UnexpectedEof` for one that ends early.
pub fn read_body(reader: &mut impl BufRead, framing: Framing, mut sink: impl FnMut(&[u8])) -> io::Result<u64> {
    match framing {
        Framing::None => Ok(0),
        Framing::Length(length) => {
            if length > MAX_BODY {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "body too long"));
            }
            copy(reader, length, &mut sink)?;
            Ok(length)
        }
        Framing::Chunked => {
            let mut total = 0;
            loop {
                let line = read_line(reader)?;
                let size = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
                let size = std::str::from_utf8(size)
                    .ok()
                    .filter(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|s| u64::from_str_radix(s, 16).ok())
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bad chunk size"))?;
                total += size;
                if total > MAX_BODY {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "body too long"));
                }
                if size == 0 {
                    while !read_line(reader)?.is_empty() {}
                    return Ok(total);
                }
                copy(reader, size, &mut sink)?;
                if !read_line(reader)?.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "chunk longer than its size"));
                }
            }
        }
    }
}

fn copy(reader: &mut impl BufRead, mut left: u64, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
    while left > 0 {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let take = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        sink(&available[..take]);
        reader.consume(take);
        left -= take as u64;
    }
    Ok(())
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    io::Read::take(&mut *reader, MAX_LINE as u64).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match line.strip_suffix(b"\r\n") {
        Some(content) => Ok(content.to_vec()),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "bad line in chunked body")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Head, Incoming) {
        let mut head = Head::default();
        let got = head.read(&mut text.as_bytes()).unwrap();
        (head, got)
    }

    #[test]
    fn a_head_in_pieces_of_one_byte() {
        let text = "PUT /a?b HTTP/1.1\r\nHost: x\r\nEmpty:\r\nV: \t a b \r\n\r\nrest";
        let mut reader = io::BufReader::with_capacity(1, text.as_bytes());
        let mut head = Head::default();
        assert_eq!(head.read(&mut reader).unwrap(), Incoming::Request);
        assert_eq!((head.method(), head.target()), ("PUT", &b"/a?b"[..]));
        let fields: Vec<_> = head.fields().collect();
        assert_eq!(fields, [(&b"Host"[..], &b"x"[..]), (b"Empty", b""), (b"V", b"a b")]);
        let mut rest = Vec::new();
        assert_eq!(read_body(&mut reader, Framing::Length(4), |b| rest.extend_from_slice(b)).unwrap(), 4);
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn malformed_heads() {
        for text in [
            "GET / HTTP/2.0\r\n\r\n",
            "GET  / x HTTP/1.1\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nA : b\r\n\r\n",
            "GET / HTTP/1.1\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nA: b\nB: c\r\n\r\n",
        ] {
            assert!(matches!(read(text).1, Incoming::Bad(_)), "{text:?}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            assert!(read(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n")).0.framing().is_err(), "{fields}");
        }
    }

    #[test]
    fn chunked_with_extension_and_trailer() {
        let mut body = Vec::new();
        let mut reader = &b"3;a=b\r\nabc\r\n2 \r\nde\r\n0\r\nT: x\r\n\r\nNEXT"[..];
        assert_eq!(read_body(&mut reader, Framing::Chunked, |b| body.extend_from_slice(b)).unwrap(), 5);
        assert_eq!((body.as_slice(), reader), (&b"abcde"[..], &b"NEXT"[..]));
        for wrong in ["3\r\nabcd\r\n0\r\n\r\n", "g\r\n", "\r\n", "3\nabc\n0\n\n", "-1\r\n"] {
            assert!(read_body(&mut wrong.as_bytes(), Framing::Chunked, |_| ()).is_err(), "{wrong:?}");
        }
    }
}
