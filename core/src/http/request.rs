//! Request heads (RFC 9112 sections 3, 5, 6).

use super::head::{ContentLength, Field, HeadError, Persistence, Span, Version, list_members};
use super::target::Target;
use core::mem::MaybeUninit;

/// How the body of a request is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// That many bytes; 0 also without any framing field.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
}

impl RequestBody {
    /// Whether nothing follows the head.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::Length(0))
    }
}

/// What is known of a complete request head. Spans are relative to its first byte; the field lines are in a `Vec<Field>` that the
/// connection keeps, so that a warm request allocates nothing.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead {
    /// Length with the empty line.
    pub len: usize,
    /// The method token.
    pub method: Span,
    /// The whole request target as received.
    pub target: Span,
    /// The target without fragment: what is forwarded, signed and recorded.
    pub whole: Span,
    /// The raw path of the target; empty for CONNECT, whose target has none.
    pub path: Span,
    /// Version of the message.
    pub version: Version,
    /// Framing of the body.
    pub body: RequestBody,
    /// Connection options.
    pub persistence: Persistence,
    /// `Expect: 100-continue` from a client that understands interim responses (RFC 9110 section 10.1.1).
    pub expects_continue: bool,
    /// A field value has bytes that cannot be signed (W-58).
    pub unsignable: bool,
    /// Field lines that only the agent may set (PX-75) are there, or the target has a fragment: something has to be cut out.
    pub needs_cut: bool,
    /// A `Metadata` field is there (PX-50).
    pub metadata: bool,
    /// Value of `x-ms-azure-time-tick` (PX-51).
    pub tick: Option<Span>,
    /// `x-ms-azure-notify` is there (PX-52).
    pub notify: bool,
}

/// Whether only the agent may set this field towards the host (PX-74, PX-75).
#[must_use]
pub fn is_protected(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-ms-azure-";
    let (Some(prefix), Some(rest)) = (name.get(..PREFIX.len()), name.get(PREFIX.len()..)) else { return false };
    prefix.eq_ignore_ascii_case(PREFIX)
        && [&b"host-claims"[..], b"host-date", b"host-authorization", b"signature", b"time-tick"]
            .iter()
            .any(|protected| rest.eq_ignore_ascii_case(protected))
}

impl RequestHead {
    /// Reads a complete head, as [`HeadScan`](super::HeadScan) found it. `fields` is cleared and filled.
    ///
    /// # Errors
    /// [`HeadError::Malformed`] for whatever RFC 9112 does not allow, or allows to be read in two ways.
    pub fn parse(head: &[u8], fields: &mut Vec<Field>, max_fields: usize) -> Result<Self, HeadError> {
        fields.clear();
        let mut lines = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; 100];
        let lines = lines.get_mut(..max_fields.min(100)).unwrap_or_default();
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(head, lines) {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            _ => return Err(HeadError::Malformed),
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(HeadError::Malformed);
        };
        // httparse skips empty lines before the request line; a head of ours begins with it.
        if !head.starts_with(method.as_bytes()) {
            return Err(HeadError::Malformed);
        }
        let target = target.as_bytes();
        let (whole, path) = match Target::parse(target) {
            Some(parts) => (parts.whole, parts.path),
            None if method == "CONNECT" => (target.split(|b| *b == b'#').next().unwrap_or_default(), &b""[..]),
            None => return Err(HeadError::Malformed),
        };
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };
        let mut this = Self {
            len: head.len(),
            method: Span::of(head, method.as_bytes()),
            target: Span::of(head, target),
            whole: Span::of(head, whole),
            path: if path.is_empty() { Span::default() } else { Span::of(head, path) },
            version,
            body: RequestBody::Length(0),
            persistence: Persistence::default(),
            expects_continue: false,
            unsignable: false,
            needs_cut: whole.len() < target.len(),
            metadata: false,
            tick: None,
            notify: false,
        };
        this.read_fields(head, request.headers, fields)?;
        Ok(this)
    }

    fn read_fields(&mut self, head: &[u8], lines: &[httparse::Header<'_>], fields: &mut Vec<Field>) -> Result<(), HeadError> {
        let (mut length, mut codings, mut hosts) = (ContentLength::default(), 0usize, 0usize);
        for line in lines {
            let (name, value) = (line.name.as_bytes(), line.value);
            fields.push(Field { name: Span::of(head, name), value: Span::of(head, value) });
            self.unsignable |= !value.iter().all(|b| matches!(b, b'\t' | 0x20..=0x7E));
            // Sorted by length first: most names of a request are none of these.
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => hosts += 1,
                6 if name.eq_ignore_ascii_case(b"expect") => {
                    self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
                }
                8 if name.eq_ignore_ascii_case(b"metadata") => self.metadata = true,
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    // A field that an option names is for the next hop alone (RFC 9110 section 7.6.1): an intermediary at the host
                    // would take our fields out again.
                    if list_members(value).any(is_protected) {
                        return Err(HeadError::Malformed);
                    }
                    self.persistence.add(value);
                }
                14 if name.eq_ignore_ascii_case(b"content-length") => length.add(value)?,
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    // Exactly one coding, and that is chunked: everything else is read differently by different parsers.
                    codings += list_members(value).count().max(1);
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError::Malformed);
                    }
                }
                17.. | 0..=3 | 5 | 7 | 9 | 11..=13 | 15 | 16 => {
                    if name.eq_ignore_ascii_case(b"x-ms-azure-notify") {
                        self.notify = true;
                    } else if is_protected(name) {
                        self.needs_cut = true;
                        if name.len() == b"x-ms-azure-time-tick".len() && name.eq_ignore_ascii_case(b"x-ms-azure-time-tick") {
                            self.tick = Some(Span::of(head, value));
                        }
                    }
                }
                _ => {}
            }
        }
        if hosts > 1 || codings > 1 || (codings > 0 && (length.0.is_some() || self.version == Version::Http10)) {
            return Err(HeadError::Malformed);
        }
        self.expects_continue &= self.version == Version::Http11;
        self.body = if codings > 0 { RequestBody::Chunked } else { RequestBody::Length(length.0.unwrap_or(0)) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<RequestHead, HeadError> {
        RequestHead::parse(head.as_bytes(), &mut Vec::new(), 100)
    }

    #[test]
    fn framing_rfc9112_6_3() {
        let body = |fields: &str| parse(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).map(|h| h.body);
        assert_eq!(body(""), Ok(RequestBody::Length(0)));
        assert_eq!(body("content-LENGTH:  17 \r\n"), Ok(RequestBody::Length(17)));
        assert_eq!(body("Content-Length: 3\r\nContent-Length: 3\r\n"), Ok(RequestBody::Length(3)));
        assert_eq!(body("Transfer-Encoding: Chunked\r\n"), Ok(RequestBody::Chunked));
        for bad in [
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: \r\n",
            "Transfer-Encoding : chunked\r\n",
            "Host: a\r\nHost: a\r\n",
            "Connection: close, X-MS-Azure-Host-Claims\r\n",
            " folded: x\r\n",
            "a: b\r\n c\r\n",
            ": x\r\n",
            "a\r\n",
            "a: \0\r\n",
            "a: b\rc\r\n",
        ] {
            assert_eq!(body(bad), Err(HeadError::Malformed), "{bad:?}");
        }
        assert_eq!(parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").map(|h| h.body), Err(HeadError::Malformed));
    }

    #[test]
    fn request_line_is_strict() {
        for bad in [
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET /\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            " / HTTP/1.1\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\n\r\n",
            "GET foo HTTP/1.1\r\n\r\n",
            "GET /\x7f HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(parse(bad).map(|h| h.len), Err(HeadError::Malformed), "{bad:?}");
        }
        assert!(parse("CONNECT example.com:443 HTTP/1.1\r\n\r\n").is_ok());
        assert!(parse("OPTIONS * HTTP/1.0\r\n\r\n").is_ok());
    }

    #[test]
    fn protected_names_in_any_case_px75() {
        for name in [
            "x-ms-azure-host-claims",
            "X-MS-Azure-Host-Date",
            "X-Ms-Azure-Host-Authorization",
            "x-ms-azure-signature",
            "x-ms-azure-time-tick",
        ] {
            assert!(is_protected(name.as_bytes()), "{name}");
            assert!(parse(&format!("GET / HTTP/1.1\r\n{name}: 1\r\n\r\n")).unwrap().needs_cut, "{name}");
        }
        for name in ["x-ms-azure-notify", "x-ms-version", "x-ms-azure-host-claimsx", "ms-azure-host-claims"] {
            assert!(!is_protected(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn notable_fields() {
        let head =
            parse("GET /provision HTTP/1.1\r\nMetadata: x\r\nX-ms-azure-notify: \r\nx-ms-azure-time-tick: 7\r\n\r\n").unwrap();
        assert!(head.metadata && head.notify && head.tick.is_some());
        assert!(!head.unsignable);
        let raw = b"GET / HTTP/1.1\r\nA: caf\xc3\xa9\r\n\r\n";
        assert!(RequestHead::parse(raw, &mut Vec::new(), 100).unwrap().unsignable);
        let head = parse("PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nConnection: Upgrade, CLOSE\r\n\r\n").unwrap();
        assert!(head.expects_continue && head.persistence.close);
    }
}
