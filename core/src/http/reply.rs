//! The responses that the agent makes itself (PX-15 to PX-35, section 4 of proxy.md).

use super::head::Version;
use core::fmt;

/// A status code with its reason phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status(pub u16);

impl Status {
    /// 200
    pub const OK: Self = Self(200);
    /// 400
    pub const BAD_REQUEST: Self = Self(400);
    /// 403
    pub const FORBIDDEN: Self = Self(403);
    /// 405
    pub const METHOD_NOT_ALLOWED: Self = Self(405);
    /// 413
    pub const CONTENT_TOO_LARGE: Self = Self(413);
    /// 414
    pub const URI_TOO_LONG: Self = Self(414);
    /// 421
    pub const MISDIRECTED: Self = Self(421);
    /// 431
    pub const FIELDS_TOO_LARGE: Self = Self(431);
    /// 499: nobody was there any more to be answered. Appears in records only.
    pub const CLIENT_CLOSED: Self = Self(499);
    /// 500
    pub const INTERNAL: Self = Self(500);
    /// 502
    pub const BAD_GATEWAY: Self = Self(502);
    /// 503
    pub const UNAVAILABLE: Self = Self(503);

    /// The reason phrase of RFC 9110 section 15 (413 in its older wording, which deployed log queries know), empty for a code
    /// without one.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self.0 {
            200 => "OK",
            201 => "Created",
            202 => "Accepted",
            203 => "Non-Authoritative Information",
            204 => "No Content",
            205 => "Reset Content",
            206 => "Partial Content",
            300 => "Multiple Choices",
            301 => "Moved Permanently",
            302 => "Found",
            303 => "See Other",
            304 => "Not Modified",
            307 => "Temporary Redirect",
            308 => "Permanent Redirect",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            406 => "Not Acceptable",
            408 => "Request Timeout",
            409 => "Conflict",
            410 => "Gone",
            411 => "Length Required",
            412 => "Precondition Failed",
            413 => "Payload Too Large",
            414 => "URI Too Long",
            415 => "Unsupported Media Type",
            416 => "Range Not Satisfiable",
            417 => "Expectation Failed",
            421 => "Misdirected Request",
            422 => "Unprocessable Entity",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            499 => "Client Closed Request",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            505 => "HTTP Version Not Supported",
            _ => "",
        }
    }
}

/// `403 Forbidden` (PX-94).
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            "" => write!(f, "{}", self.0),
            reason => write!(f, "{} {reason}", self.0),
        }
    }
}

/// Interim response to `Expect: 100-continue` (PX-78).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A response of our own: what is in it besides Date and Content-Length, which every one has (PX-37).
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// Status line.
    pub status: Status,
    /// Content-Type, if there is content.
    pub content_type: Option<&'a str>,
    /// Content.
    pub body: &'a [u8],
    /// `Allow` of a 405.
    pub allow: Option<&'a str>,
    /// Say `Connection: close`.
    pub close: bool,
}

impl Reply<'_> {
    /// No content.
    #[must_use]
    pub const fn empty(status: Status, close: bool) -> Self {
        Self { status, content_type: None, body: b"", allow: None, close }
    }

    /// Plain text.
    #[must_use]
    pub const fn text(status: Status, text: &'static str, close: bool) -> Self {
        Self { status, content_type: Some("text/plain; charset=utf-8"), body: text.as_bytes(), allow: None, close }
    }

    /// Appends the message to `out`. An HTTP/1.0 request gets an HTTP/1.0 status line (PX-37); HEAD gets no content.
    pub fn write(&self, out: &mut Vec<u8>, version: Version, answers_head: bool, date: &[u8; 29]) {
        out.extend_from_slice(if version == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        decimal(out, u64::from(self.status.0));
        out.push(b' ');
        out.extend_from_slice(self.status.reason().as_bytes());
        out.extend_from_slice(b"\r\n");
        let mut field = |name: &str, value: &[u8]| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        };
        if let Some(allow) = self.allow {
            field("allow", allow.as_bytes());
        }
        if let Some(content_type) = self.content_type {
            field("content-type", content_type.as_bytes());
        }
        if self.close {
            field("connection", b"close");
        } else if version == Version::Http10 {
            field("connection", b"keep-alive");
        }
        field("date", date);
        out.extend_from_slice(b"content-length: ");
        decimal(out, self.body.len() as u64);
        out.extend_from_slice(b"\r\n\r\n");
        if !answers_head {
            out.extend_from_slice(self.body);
        }
    }
}

/// Appends a number in decimal without allocating.
fn decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_has_date_and_length_px37() {
        let mut out = Vec::new();
        let date = b"Tue, 06 Jan 2026 08:15:30 GMT";
        Reply::text(Status::CONTENT_TOO_LARGE, "length limit exceeded", false).write(&mut out, Version::Http11, false, date);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 413 Payload Too Large\r\ncontent-type: text/plain; charset=utf-8\r\ndate: Tue, 06 Jan 2026 08:15:30 GMT\r\ncontent-length: 21\r\n\r\nlength limit exceeded"
        );
        let mut out = Vec::new();
        Reply::empty(Status::FORBIDDEN, true).write(&mut out, Version::Http10, true, date);
        assert!(out.starts_with(b"HTTP/1.0 403 Forbidden\r\nconnection: close\r\ndate: "));
        assert!(out.ends_with(b"content-length: 0\r\n\r\n"));
    }
}
