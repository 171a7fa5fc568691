//! The host's answer to one of the agent's own calls, and the reading of its text (W-23).

use core::fmt;
use std::borrow::Cow;
use zeroize::Zeroizing;

/// A complete response. The body may be a key document: it is overwritten when dropped, and `Debug` shows its length only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HostResponse {
    /// Status code.
    pub status: u16,
    /// First `x-ms-azure-host-date` (W-71).
    pub host_date: Option<Box<[u8]>>,
    /// First `Date`.
    pub date: Option<Box<[u8]>>,
    /// First `Content-Type`.
    pub content_type: Option<Box<[u8]>>,
    /// Content after removal of the transfer coding.
    pub body: Zeroizing<Vec<u8>>,
}

impl HostResponse {
    /// Whether the status is a 2xx.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The body as text, in the form and encoding that `Content-Type` names; one byte order mark is skipped (W-23).
    ///
    /// # Errors
    /// [`Undecodable`] for UTF-32, which has no defined reading here.
    pub fn text(&self) -> Result<Text<'_>, Undecodable> {
        let kind = self.content_type.as_deref().unwrap_or_default().to_ascii_lowercase();
        let names = |word: &[u8]| kind.windows(word.len()).any(|w| w == word);
        let content = if names(b"utf-32") {
            return Err(Undecodable);
        } else if names(b"utf-16") {
            let body = self.body.strip_prefix(b"\xff\xfe").unwrap_or(&self.body);
            Cow::Owned(utf16_le(body))
        } else {
            String::from_utf8_lossy(self.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.body))
        };
        Ok(if names(b"xml") { Text::Xml(content) } else { Text::Json(content) })
    }
}

impl fmt::Debug for HostResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostResponse({}, {} bytes)", self.status, self.body.len())
    }
}

/// Decoded content; no `Debug`, it may hold a key.
#[derive(PartialEq, Eq)]
pub enum Text<'a> {
    /// `Content-Type` names XML.
    Xml(Cow<'a, str>),
    /// Anything else, also without `Content-Type`.
    Json(Cow<'a, str>),
}

/// The content is in an encoding that we do not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecodable;

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response is in an encoding that is not supported")
    }
}

/// Invalid units, and a lone byte at the end, become U+FFFD.
fn utf16_le(body: &[u8]) -> String {
    let (pairs, rest) = body.as_chunks::<2>();
    // Three bytes of UTF-8 per unit at most: no growth, so no copy is left behind.
    let mut text = String::with_capacity(body.len() / 2 * 3 + 3);
    for unit in char::decode_utf16(pairs.iter().map(|pair| u16::from_le_bytes(*pair))) {
        text.push(unit.unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    if !rest.is_empty() {
        text.push(char::REPLACEMENT_CHARACTER);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content_type: Option<&[u8]>, body: &[u8]) -> Option<(bool, String)> {
        let response =
            HostResponse { content_type: content_type.map(Into::into), body: body.to_vec().into(), ..HostResponse::default() };
        match response.text().ok()? {
            Text::Xml(t) => Some((true, t.into_owned())),
            Text::Json(t) => Some((false, t.into_owned())),
        }
    }

    #[test]
    fn content_type_decides_w23() {
        let json = |t: &str| Some((false, t.to_owned()));
        assert_eq!(text(None, b"{}"), json("{}"));
        assert_eq!(text(Some(b"text/XML; charset=utf-8"), b"<a/>"), Some((true, "<a/>".to_owned())));
        assert_eq!(text(Some(b"application/json"), b"\xef\xbb\xbf{}"), json("{}"), "byte order mark");
        assert_eq!(text(Some(b"application/json"), b"\xff{}"), json("\u{fffd}{}"), "invalid bytes are replaced");
        assert_eq!(text(Some(b"application/json; charset=UTF-16"), b"\xff\xfe{\0}\0"), json("{}"));
        assert_eq!(text(Some(b"text/plain;charset=utf-16"), b"\x3d\xd8\x00\xde\x3d\xd8x"), json("\u{1f600}\u{fffd}\u{fffd}"));
        assert_eq!(text(Some(b"text/plain;charset=utf-32"), b"{\0\0\0"), None);
    }

    #[test]
    fn debug_shows_no_content_sec08() {
        let response = HostResponse { status: 200, body: b"c0ffee".to_vec().into(), ..HostResponse::default() };
        assert_eq!(format!("{response:?}"), "HostResponse(200, 6 bytes)");
    }
}
