//! What request and response heads share: finding where a head ends, spans, fields.

use crate::limits::Limits;
use core::ops::Range;

/// A range of bytes relative to the beginning of a head. 32 bits: heads are bounded by [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// From offsets; saturates far beyond any head that we accept.
    #[must_use]
    pub fn new(range: Range<usize>) -> Self {
        let clip = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { start: clip(range.start), end: clip(range.end) }
    }

    /// The span of `part`, which is a subslice of `whole`.
    #[must_use]
    pub fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Self::new(start..start + part.len())
    }

    /// As offsets.
    #[must_use]
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// The bytes of `head` that it covers.
    #[must_use]
    pub fn get(self, head: &[u8]) -> &[u8] {
        head.get(self.range()).unwrap_or_default()
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it covers nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end == self.start
    }
}

/// One field line (RFC 9112 section 5): name and value without surrounding whitespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Field {
    /// Field name, any letter case.
    pub name: Span,
    /// Field value, trimmed.
    pub value: Span,
}

/// Version of a message (RFC 9112 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// Why a head is refused. Each variant is an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// 400 (PX-15, PX-43).
    Malformed,
    /// 414 (PX-16).
    TargetTooLong,
    /// 431 (PX-17, PX-41).
    TooLarge,
    /// Closed without a response: an HTTP/2 connection preface (PX-05).
    Http2Preface,
}

/// Longest method, version and separators of a request line beside the target.
const REQUEST_LINE_EXTRA: usize = 64;

/// What is allowed for fields when the request line alone fills the head limit (PX-41: the longest legal target still fits).
const MIN_FIELDS: usize = 1024;

/// Finds the end of a head as bytes arrive. It looks at every byte once, in order, so that the verdict does not depend on how
/// the bytes were cut into reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScan {
    /// Bytes looked at.
    seen: usize,
    /// Where the current line begins.
    line: usize,
    /// Complete lines so far, start line included.
    lines: usize,
    /// Length of the start line.
    start_line: usize,
}

/// How far a scan got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned {
    /// No end yet.
    Partial,
    /// The head is complete and that long, with the empty line that ends it.
    Complete(usize),
}

impl HeadScan {
    /// Looks at the bytes of `raw` (which begins with the head) that it has not seen yet.
    ///
    /// # Errors
    /// As soon as a byte decides it: a bare LF or CR, too many bytes or too many fields.
    pub fn request(&mut self, raw: &[u8], limits: &Limits) -> Result<Scanned, HeadError> {
        self.scan(raw, |scan, line| scan.check_request_line(line, limits), limits.head, limits.fields)
    }

    /// The same for a response head.
    ///
    /// # Errors
    /// As for requests.
    pub fn response(&mut self, raw: &[u8], limits: &Limits) -> Result<Scanned, HeadError> {
        let check = |_: &Self, line: Line<'_>| {
            let (Line::Complete(text) | Line::Partial(text)) = line;
            if text.len() > limits.response_head { Err(HeadError::TooLarge) } else { Ok(()) }
        };
        self.scan(raw, check, limits.response_head, limits.fields)
    }

    /// Whether any byte of a head was seen.
    #[must_use]
    pub const fn started(&self) -> bool {
        self.seen > 0
    }

    fn scan(
        &mut self,
        raw: &[u8],
        check_start_line: impl Fn(&Self, Line<'_>) -> Result<(), HeadError>,
        max: usize,
        max_fields: usize,
    ) -> Result<Scanned, HeadError> {
        loop {
            let rest = raw.get(self.seen..).unwrap_or_default();
            let bound = if self.lines == 0 { usize::MAX } else { max.max(self.start_line + MIN_FIELDS) };
            let found = rest.iter().position(|b| *b == b'\n');
            self.seen = found.map_or(raw.len(), |at| self.seen + at + 1);
            let line = raw.get(self.line..self.seen).unwrap_or_default();
            if self.lines == 0 {
                check_start_line(self, if found.is_some() { Line::Complete(line) } else { Line::Partial(line) })?;
            }
            if self.seen > bound {
                return Err(HeadError::TooLarge);
            }
            if found.is_none() {
                return Ok(Scanned::Partial);
            }
            // RFC 9112 section 2.2 lets a recipient take a bare LF for a line end. Others do not: so we refuse it.
            let Some(text) = line.strip_suffix(b"\r\n") else { return Err(HeadError::Malformed) };
            self.line = self.seen;
            if self.lines == 0 {
                self.start_line = line.len();
            } else if text.is_empty() {
                return Ok(Scanned::Complete(self.seen));
            } else if self.lines > max_fields {
                return Err(HeadError::TooLarge);
            }
            self.lines += 1;
        }
    }

    /// The limits of a request line, which can be judged before its end has come.
    fn check_request_line(&self, line: Line<'_>, limits: &Limits) -> Result<(), HeadError> {
        let (Line::Complete(text) | Line::Partial(text)) = line;
        if matches!(line, Line::Partial(_)) && text.len() <= limits.target + REQUEST_LINE_EXTRA {
            return Ok(());
        }
        if text.starts_with(b"PRI * HTTP/2.0\r\n") {
            return Err(HeadError::Http2Preface);
        }
        let beginning = text.get(..limits.target + REQUEST_LINE_EXTRA).unwrap_or(text);
        let mut words = beginning.split(|b| *b == b' ');
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        if target.len() > limits.target {
            return Err(HeadError::TargetTooLong);
        }
        // Without its LF this line would have been too long already, had it come in pieces.
        let too_long = matches!(line, Line::Partial(_)) || text.len() > limits.target + REQUEST_LINE_EXTRA + 1;
        if too_long || method.len() > REQUEST_LINE_EXTRA / 2 {
            return Err(HeadError::Malformed);
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Line<'a> {
    Complete(&'a [u8]),
    Partial(&'a [u8]),
}

/// The members of a comma-separated field value (RFC 9110 section 5.6.1), trimmed; empty members are skipped.
pub fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|m| !m.is_empty())
}

/// What the Connection field lines of a message say (RFC 9112 section 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Persistence {
    /// `close` was said.
    pub close: bool,
    /// `keep-alive` was said.
    pub keep_alive: bool,
}

impl Persistence {
    /// Takes one Connection field value in.
    pub fn add(&mut self, value: &[u8]) {
        for option in list_members(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Whether the connection stays open after the message.
    #[must_use]
    pub const fn persists(self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// Content-Length of one or several field lines: all must be the same decimal number (RFC 9112 section 6.3, PX-15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentLength(pub Option<u64>);

impl ContentLength {
    /// Takes one field value in.
    ///
    /// # Errors
    /// If it is not `1*DIGIT`, too large for 64 bits, or differs from a former one. A list such as `5, 5` is not a number.
    pub fn add(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if value.is_empty() {
            return Err(HeadError::Malformed);
        }
        let mut n: u64 = 0;
        for digit in value {
            if !digit.is_ascii_digit() {
                return Err(HeadError::Malformed);
            }
            n = n.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0'))).ok_or(HeadError::Malformed)?;
        }
        match self.0 {
            Some(former) if former != n => Err(HeadError::Malformed),
            _ => {
                self.0 = Some(n);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_split(bytes: &[u8], at: usize) -> Result<Scanned, HeadError> {
        let mut scan = HeadScan::default();
        match scan.request(&bytes[..at], &Limits::DEFAULT) {
            Ok(Scanned::Partial) => scan.request(bytes, &Limits::DEFAULT),
            other => other,
        }
    }

    #[test]
    fn verdict_does_not_depend_on_cuts() {
        for head in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest"[..],
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let whole = scan_split(head, 0);
            for at in 0..=head.len() {
                assert_eq!(scan_split(head, at), whole, "{:?} cut at {at}", head.escape_ascii().to_string());
            }
        }
        assert_eq!(scan_split(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", 0), Ok(Scanned::Complete(27)));
    }

    #[test]
    fn a_long_line_behind_a_short_target_is_refused_however_it_comes() {
        let most = Limits::DEFAULT.target + REQUEST_LINE_EXTRA;
        for length in [most - 1, most, most + 1, most + 2, most + 50] {
            let line = [b"GET / HTTP/1.1".as_slice(), &vec![b'x'; length - 16], b"\r\n"].concat();
            let whole = scan_split(&line, 0);
            for at in [1, 20, most, most + 1, length - 1] {
                assert_eq!(scan_split(&line, at.min(length)), whole, "line of {length} cut at {at}");
            }
        }
    }

    #[test]
    fn limits_px16_px17_px41() {
        let line = |n: usize| [b"GET /".as_slice(), &vec![b'a'; n - 1], b" HTTP/1.1\r\n\r\n"].concat();
        assert!(matches!(scan_split(&line(65_534), 9), Ok(Scanned::Complete(_))));
        assert_eq!(scan_split(&line(65_535), 9), Err(HeadError::TargetTooLong));
        assert_eq!(scan_split(&line(100_000)[..70_000], 9), Err(HeadError::TargetTooLong));
        assert_eq!(scan_split(&vec![b'A'; 70_000], 9), Err(HeadError::Malformed));
        let fields = |n: usize| [b"GET / HTTP/1.1\r\n".as_slice(), &b"a: b\r\n".repeat(n), b"\r\n"].concat();
        assert!(matches!(scan_split(&fields(100), 30), Ok(Scanned::Complete(_))));
        assert_eq!(scan_split(&fields(101), 30), Err(HeadError::TooLarge));
        let big = |n: usize| [b"GET / HTTP/1.1\r\na: ".as_slice(), &vec![b'b'; n], b"\r\n\r\n"].concat();
        assert!(matches!(scan_split(&big(65_536 - 23), 30), Ok(Scanned::Complete(65_536))));
        assert_eq!(scan_split(&big(65_536 - 22), 30), Err(HeadError::TooLarge));
    }

    #[test]
    fn an_endless_status_line_is_too_large() {
        let raw = vec![b'H'; Limits::DEFAULT.response_head + 1];
        let mut scan = HeadScan::default();
        assert_eq!(scan.response(&raw[..100], &Limits::DEFAULT), Ok(Scanned::Partial));
        assert_eq!(scan.response(&raw, &Limits::DEFAULT), Err(HeadError::TooLarge));
    }

    #[test]
    fn content_length_is_strict_px15() {
        for bad in ["", "+5", "-1", "0x5", "5, 5", "5 5", "18446744073709551616", "５"] {
            assert_eq!(ContentLength::default().add(bad.as_bytes()), Err(HeadError::Malformed), "{bad}");
        }
        let mut twice = ContentLength::default();
        twice.add(b"5").unwrap();
        twice.add(b"005").unwrap();
        assert_eq!(twice.0, Some(5));
        assert_eq!(twice.add(b"6"), Err(HeadError::Malformed));
    }
}
