//! Words and runs of bytes, looked for at a position. Nothing here looks at a byte twice by itself.

use core::ops::Range;

/// Something to look for.
pub(super) struct Word {
    text: &'static str,
    any_case: bool,
}

impl Word {
    pub(super) const fn any_case(text: &'static str) -> Self {
        Self { text, any_case: true }
    }

    pub(super) const fn exact(text: &'static str) -> Self {
        Self { text, any_case: false }
    }

    /// Where it ends if it stands at `at`.
    pub(super) fn at(&self, text: &[u8], at: usize) -> Option<usize> {
        let end = at + self.text.len();
        let there = text.get(at..end)?;
        let same = if self.any_case { there.eq_ignore_ascii_case(self.text.as_bytes()) } else { there == self.text.as_bytes() };
        same.then_some(end)
    }
}

/// Where the first of `words` (any letter case) that stands at `at` ends.
pub(super) fn word_at(text: &[u8], at: usize, words: &[&'static str]) -> Option<usize> {
    words.iter().find_map(|word| Word::any_case(word).at(text, at))
}

/// Where a run of bytes that `belongs` accepts ends.
pub(super) fn run(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    text.get(from..).and_then(|rest| rest.iter().position(|b| !belongs(*b))).map_or(text.len(), |length| from + length)
}

/// Where a run that ends at `to` begins, at or after `from`.
pub(super) fn run_back(text: &[u8], from: usize, to: usize, belongs: impl Fn(u8) -> bool) -> usize {
    let before = text.get(from..to).unwrap_or_default();
    before.iter().rposition(|b| !belongs(*b)).map_or(from, |last| from + last + 1)
}

/// Ends of runs of one kind, from ascending positions: where one is inside the last run, it is not looked for again.
#[derive(Default)]
pub(super) struct Runs(Range<usize>);

impl Runs {
    pub(super) fn end(&mut self, text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
        if !self.0.contains(&from) {
            self.0 = from..run(text, from, belongs);
        }
        self.0.end
    }
}

pub(super) const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

pub(super) const fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

pub(super) const fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace()
}
