//! Queries.

use super::CanonError;
use super::decode::{is_control, percent};

/// The canonical parameters: a list in order of appearance, and a sorted set to look them up in.
///
/// The set holds each pair once: however often a request repeats a parameter, a look-up costs the same.
#[derive(Debug, Default)]
pub(in crate::authz) struct Query {
    text: Vec<u8>,
    pairs: Vec<Pair>,
    set: Vec<Pair>,
}

/// A pair's place in the text: the name ends where the value begins.
#[derive(Debug, Clone, Copy, Default)]
struct Pair {
    name: u32,
    value: u32,
    end: u32,
}

impl Pair {
    fn read(self, text: &[u8]) -> (&[u8], &[u8]) {
        let part = |from: u32, to: u32| text.get(from as usize..to as usize).unwrap_or_default();
        (part(self.name, self.value), part(self.value, self.end))
    }
}

impl Query {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.pairs.clear();
        self.set.clear();
    }

    pub(super) fn trim(&mut self, kept: usize) {
        self.text.shrink_to(kept);
        self.pairs.shrink_to(kept / size_of::<Pair>());
        self.set.shrink_to(kept / size_of::<Pair>());
    }

    /// Canonicalizes a raw query.
    pub(super) fn read(&mut self, raw: &[u8]) -> Result<(), CanonError> {
        self.clear();
        for piece in raw.split(|b| *b == b'&').filter(|piece| !piece.is_empty()) {
            let end = piece.iter().position(|b| *b == b'=').unwrap_or(piece.len());
            let (name, value) = piece.split_at(end);
            let pair = Pair {
                name: self.end()?,
                value: {
                    component(name, &mut self.text)?;
                    self.end()?
                },
                end: {
                    component(value.get(1..).unwrap_or_default(), &mut self.text)?;
                    self.end()?
                },
            };
            if pair.name < pair.value {
                self.pairs.push(pair);
            }
        }
        let text = &self.text;
        self.set.extend_from_slice(&self.pairs);
        self.set.sort_unstable_by(|a, b| a.read(text).cmp(&b.read(text)));
        self.set.dedup_by(|a, b| a.read(text) == b.read(text));
        Ok(())
    }

    /// Length of the text so far. No accepted target is longer than 65 534 bytes (PX-16); a longer one is refused, not cut.
    fn end(&self) -> Result<u32, CanonError> {
        u32::try_from(self.text.len()).map_err(|_| CanonError::Ambiguous)
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|pair| pair.read(&self.text))
    }

    /// Each pair once, ascending.
    pub(in crate::authz) fn distinct(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.set.iter().map(|pair| pair.read(&self.text))
    }

    /// Whether the parameter is present with that value, among others perhaps.
    pub(in crate::authz) fn has(&self, name: &[u8], value: &[u8]) -> bool {
        self.set.binary_search_by(|pair| pair.read(&self.text).cmp(&(name, value))).is_ok()
    }

    /// Whether the parameter is present, and never with another value.
    pub(in crate::authz) fn has_only(&self, name: &[u8], value: &[u8]) -> bool {
        let first = self.set.partition_point(|pair| pair.read(&self.text).0 < name);
        let mut values = self.set.iter().skip(first).map(|pair| pair.read(&self.text)).take_while(|pair| pair.0 == name);
        values.next() == Some((name, value)) && values.next().is_none()
    }
}

/// Appends the canonical form of a name or value.
pub(in crate::authz) fn component(raw: &[u8], out: &mut Vec<u8>) -> Result<(), CanonError> {
    let start = out.len();
    percent(raw, b' ', out)?;
    let decoded = out.get_mut(start..).unwrap_or_default();
    if core::str::from_utf8(decoded).is_err() {
        return Err(CanonError::Utf8);
    }
    if decoded.iter().copied().any(is_control) {
        return Err(CanonError::Control);
    }
    decoded.make_ascii_lowercase();
    Ok(())
}
