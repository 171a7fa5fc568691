//! Paths.

use super::CanonError;
use super::decode::{is_control, percent};

/// The canonical path: segments joined, each after a slash; the root is the empty text.
#[derive(Debug, Default)]
pub(in crate::authz) struct Path {
    decoded: Vec<u8>,
    joined: Vec<u8>,
    /// Where each segment ends in `joined`.
    ends: Vec<u32>,
    trailing_slash: bool,
}

impl Path {
    pub(super) fn clear(&mut self) {
        self.decoded.clear();
        self.joined.clear();
        self.ends.clear();
        self.trailing_slash = false;
    }

    pub(super) fn trim(&mut self, kept: usize) {
        self.decoded.shrink_to(kept);
        self.joined.shrink_to(kept);
        self.ends.shrink_to(kept / size_of::<u32>());
    }

    /// Canonicalizes a raw path.
    pub(super) fn read(&mut self, raw: &[u8]) -> Result<(), CanonError> {
        self.clear();
        percent(raw, b'+', &mut self.decoded)?;
        check_characters(&self.decoded)?;
        for piece in self.decoded.split(|b| *b == b'/') {
            let piece = piece.split(|b| *b == b';').next().unwrap_or_default();
            match piece {
                b"" | b"." => {}
                b".." => {
                    self.ends.pop().ok_or(CanonError::Underflow)?;
                    self.joined.truncate(self.ends.last().map_or(0, |end| *end as usize));
                }
                _ => {
                    self.joined.push(b'/');
                    self.joined.extend(piece.iter().map(u8::to_ascii_lowercase));
                    // Longer than any target that is accepted (PX-16): refuse rather than cut.
                    self.ends.push(u32::try_from(self.joined.len()).map_err(|_| CanonError::Ambiguous)?);
                }
            }
        }
        self.trailing_slash = raw.len() > 1 && raw.ends_with(b"/") && !self.ends.is_empty();
        Ok(())
    }

    pub(super) const fn trailing_slash(&self) -> bool {
        self.trailing_slash
    }

    /// All segments, each after a slash.
    pub(in crate::authz) fn joined(&self) -> &[u8] {
        &self.joined
    }

    /// The path of no segment, of the first, of the first two, and so on, each joined.
    pub(in crate::authz) fn prefixes(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.ends.iter().map(|end| *end as usize);
        core::iter::once(0).chain(ends).map(|end| self.joined.get(..end).unwrap_or_default())
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &[u8]> {
        // The first piece is what precedes the first slash: nothing.
        self.joined.split(|b| *b == b'/').skip(1)
    }
}

/// each over the whole path before the next.
fn check_characters(decoded: &[u8]) -> Result<(), CanonError> {
    if core::str::from_utf8(decoded).is_err() {
        let overlong = |pair: &[u8]| matches!(pair, [0xC0 | 0xC1, ..] | [0xE0, 0x80..=0x9F] | [0xF0, 0x80..=0x8F]);
        // Of a last byte alone only C0 and C1 say enough.
        let last = decoded.last().is_some_and(|b| matches!(b, 0xC0 | 0xC1));
        let overlong = last || decoded.windows(2).any(overlong);
        return Err(if overlong { CanonError::Overlong } else { CanonError::Utf8 });
    }
    if decoded.iter().copied().any(is_control) {
        return Err(CanonError::Control);
    }
    if !decoded.is_ascii() {
        return Err(CanonError::NonAscii);
    }
    if decoded.contains(&b'?') {
        return Err(CanonError::EmbeddedQuery);
    }
    Ok(())
}
