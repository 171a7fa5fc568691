//! Response heads (RFC 9112 sections 4 to 6) of a host.

use super::head::{ContentLength, HeadError, Persistence, Version, list_members};
use core::mem::MaybeUninit;

/// How the body of a response is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseBody {
    /// That many bytes; 0 for responses that have none by their status or by the request's method.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the host closes.
    Close,
}

/// What is known of a complete response head.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead {
    /// Length with the empty line.
    pub len: usize,
    /// Status code.
    pub status: u16,
    /// Framing of the body.
    pub body: ResponseBody,
    /// Connection options of the message.
    pub persistence: Persistence,
    /// Version of the message.
    pub version: Version,
    /// A Date field is there.
    pub has_date: bool,
    /// The marker field (W-69) is there already and has to be cut out.
    pub needs_cut: bool,
}

/// Name of the field that marks a response from a host (W-69).
pub const MARKER: &[u8] = b"x-ms-azure-host-authorization";

impl ResponseHead {
    /// Reads a complete head that answers a request with the method HEAD or not.
    ///
    /// # Errors
    /// [`HeadError::Malformed`] for whatever RFC 9112 does not allow, or allows to be read in two ways.
    pub fn parse(head: &[u8], answers_head: bool, max_fields: usize) -> Result<Self, HeadError> {
        let mut lines = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; 100];
        let lines = lines.get_mut(..max_fields.min(100)).unwrap_or_default();
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, head, lines) {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            _ => return Err(HeadError::Malformed),
        }
        let (Some(status), Some(version)) = (response.code, response.version) else { return Err(HeadError::Malformed) };
        if !head.starts_with(b"HTTP/1.") || !(100..=599).contains(&status) {
            return Err(HeadError::Malformed);
        }
        let (mut length, mut codings) = (ContentLength::default(), 0usize);
        let mut this = Self {
            len: head.len(),
            status,
            body: ResponseBody::Close,
            persistence: Persistence::default(),
            version: if version == 0 { Version::Http10 } else { Version::Http11 },
            has_date: false,
            needs_cut: false,
        };
        for line in response.headers.iter() {
            let (name, value) = (line.name.as_bytes(), line.value);
            match name.len() {
                4 => this.has_date |= name.eq_ignore_ascii_case(b"date"),
                10 if name.eq_ignore_ascii_case(b"connection") => this.persistence.add(value),
                14 if name.eq_ignore_ascii_case(b"content-length") => length.add(value)?,
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    codings += list_members(value).count().max(1);
                    if !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError::Malformed);
                    }
                }
                29 => this.needs_cut |= name.eq_ignore_ascii_case(MARKER),
                _ => {}
            }
        }
        if codings > 1 || (codings > 0 && (length.0.is_some() || this.version == Version::Http10)) {
            return Err(HeadError::Malformed);
        }
        this.body = match (answers_head, status, codings, length.0) {
            (true, ..) | (_, 100..=199 | 204 | 304, ..) => ResponseBody::Length(0),
            (_, _, 1, _) => ResponseBody::Chunked,
            (_, _, _, Some(n)) => ResponseBody::Length(n),
            _ => ResponseBody::Close,
        };
        Ok(this)
    }

    /// An interim response (RFC 9110 section 15.2), which another response follows. 101 is not: it would end HTTP.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_rfc9112_6_3() {
        let body = |status: &str, head: bool, fields: &str| {
            ResponseHead::parse(format!("HTTP/1.1 {status}\r\n{fields}\r\n").as_bytes(), head, 100).map(|h| h.body)
        };
        assert_eq!(body("200 OK", false, "Content-Length: 5\r\n"), Ok(ResponseBody::Length(5)));
        assert_eq!(body("200 OK", true, "Content-Length: 5\r\n"), Ok(ResponseBody::Length(0)));
        assert_eq!(body("200 OK", true, "Transfer-Encoding: chunked\r\n"), Ok(ResponseBody::Length(0)));
        assert_eq!(body("204 No Content", false, ""), Ok(ResponseBody::Length(0)));
        assert_eq!(body("304 Not Modified", false, "Content-Length: 5\r\n"), Ok(ResponseBody::Length(0)));
        assert_eq!(body("200 OK", false, "Transfer-Encoding: chunked\r\n"), Ok(ResponseBody::Chunked));
        assert_eq!(body("200 ", false, ""), Ok(ResponseBody::Close));
        for bad in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Transfer-Encoding: gzip\r\n",
        ] {
            assert_eq!(body("200 OK", false, bad), Err(HeadError::Malformed), "{bad:?}");
        }
        assert_eq!(body("999 Odd", false, ""), Err(HeadError::Malformed));
    }
}
