//! Redaction of command lines and messages (identity.md section 4): nothing that looks like a secret leaves the process in a
//! record.
//!
//! All patterns are applied to the text, and again to the result, until nothing is found: what is replaced can bring a word and a
//! value together. Each is a hand-written matcher that looks at a byte a bounded number of times, because the text is chosen by
//! whoever connects.

mod patterns;
mod scan;

#[cfg(test)]
mod tests;

use core::ops::Range;
use std::borrow::Cow;

/// What stands for each match.
const REDACTED: &str = "[REDACTED]";

/// Arguments that are looked at: credentials are usually in later ones (I-32).
const ARGUMENTS: usize = 4;

/// Most bytes of the argument vector that are looked at (I-33a).
const RAW_LIMIT: usize = 64 * 1024;

/// Most bytes of the result (I-33a).
const LIMIT: usize = 1024;

/// How often the patterns are applied. One round finds what the text has; the others are for what only a replacement shows, and
/// a text that would need more was made to.
const ROUNDS: usize = 4;

/// Bytes at the end of an argument vector that was not read whole, and may be the first part of a secret.
const PARTIAL: usize = 4096;

/// Turns a raw argument vector (NUL-separated) into text: the first four arguments that are not empty, redacted, at most 1024
/// bytes (I-32 to I-33a). `None` is a vector that could not be read (I-17), an empty one gives the empty text (I-18).
#[must_use]
pub fn command_line(raw: Option<&[u8]>) -> Box<str> {
    let Some(raw) = raw else { return "undefined".into() };
    let raw = raw.get(..RAW_LIMIT).map_or(raw, without_partial_word);
    let mut text = String::new();
    for argument in raw.split(|b| *b == 0).filter(|argument| !argument.is_empty()).take(ARGUMENTS) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&String::from_utf8_lossy(argument));
    }
    // First redact, then cut: a secret that is cut would no longer be recognized.
    let text = redact(&text);
    text.get(..text.floor_char_boundary(LIMIT)).unwrap_or_default().into()
}

/// What was read of a longer vector, without the word at its end: a secret of a fixed length is not recognized in part.
fn without_partial_word(read: &[u8]) -> &[u8] {
    let certain = read.len().saturating_sub(PARTIAL);
    let word = read.iter().skip(certain).rposition(|b| b.is_ascii_whitespace() || *b == 0).map_or(certain, |at| certain + at);
    read.get(..word).unwrap_or_default()
}

/// Replaces whatever looks like a secret by `[REDACTED]` (I-34 to I-49).
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..ROUNDS {
        let Some(redacted) = replace(&text) else { break };
        text = Cow::Owned(redacted);
    }
    text
}

/// The text with the matches of all patterns replaced, each pattern tried on the text as it is: what one of them finds may be
/// a part of what another one finds, and must not hide the rest from it. `None` without a match.
fn replace(text: &str) -> Option<String> {
    let hints = Hints::of(text.as_bytes());
    let tried = patterns::ALL.iter().filter(|pattern| hints.meets(pattern.needs));
    let mut found: Vec<Range<usize>> = tried.flat_map(|pattern| pattern.matches(text)).collect();
    if found.is_empty() {
        return None;
    }
    found.sort_unstable_by_key(|range| range.start);
    let mut out = String::with_capacity(text.len() + REDACTED.len());
    let mut done = 0;
    for Range { start, end } in found {
        // One inside another, or overlapping it, is one with it.
        if start >= done {
            out.push_str(text.get(done..start).unwrap_or_default());
            out.push_str(REDACTED);
        }
        done = end.max(done);
    }
    out.push_str(text.get(done..).unwrap_or_default());
    Some(out)
}

/// Which of the telling words a text contains: one look at the text says which patterns are worth trying. Every pattern has its
/// words here, so that none is skipped in a text that it would change; I-34, even with the additions of I-49, knows fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hints(u16);

impl Hints {
    const PWD: Self = Self(1);
    const PASSWORD: Self = Self(1 << 1);
    const KEY: Self = Self(1 << 2);
    const SIG: Self = Self(1 << 3);
    const TOKEN: Self = Self(1 << 4);
    const SECRET: Self = Self(1 << 5);
    const AUTHORIZATION: Self = Self(1 << 6);
    const CACHE_KEY: Self = Self(1 << 7);
    const PRIVATE_KEY: Self = Self(1 << 8);
    const JWT: Self = Self(1 << 9);
    const URL: Self = Self(1 << 10);
    const DASH_P: Self = Self(1 << 11);
    /// Words before a value of base64 (I-42, I-43) that are none of the above.
    const VALUE: Self = Self(1 << 12);
    /// Words of client secrets (I-45) that are none of the above.
    const CLIENT: Self = Self(1 << 13);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn meets(self, any_of: Self) -> bool {
        self.0 & any_of.0 != 0
    }

    fn of(text: &[u8]) -> Self {
        let mut hints = 0;
        for (at, first) in text.iter().enumerate() {
            let words: &[(&[u8], Self)] = match first.to_ascii_lowercase() {
                b'p' => &[
                    (b"pwd=", Self::PWD),
                    (b"password", Self::PASSWORD),
                    (b"pat", Self::TOKEN),
                    (b"pwd", Self::VALUE),
                    (b"pswd", Self::VALUE),
                ],
                // AccountKey, PrimaryKey and SecondaryKey are keys too.
                b'k' => &[(b"key", Self::KEY)],
                b's' => &[
                    (b"sig=", Self::SIG),
                    (b"secret", Self::SECRET),
                    (b"scrt", Self::CLIENT),
                    (b"sct", Self::CLIENT),
                    (b"sid", Self::CLIENT),
                    (b"sas", Self::VALUE),
                    (b"shared", Self::VALUE),
                ],
                b'c' => &[(b"credential", Self::VALUE)],
                b't' => &[(b"token", Self::TOKEN)],
                // `azuredevops` contains none of the others, and a pattern looks for it.
                b'a' => &[
                    (b"ado", Self::TOKEN),
                    (b"authorization", Self::AUTHORIZATION),
                    (b"azuredevops", Self::TOKEN),
                    (b"access", Self::VALUE),
                ],
                b'v' => &[(b"vsts", Self::TOKEN)],
                b':' => &[(b"://", Self::URL)],
                b'-' => &[(b"-p", Self::DASH_P)],
                b'e' if text.get(at..).is_some_and(|rest| rest.starts_with(b"eyJ")) => {
                    hints |= Self::JWT.0;
                    continue;
                }
                _ => continue,
            };
            let rest = text.get(at..).unwrap_or_default();
            for (word, hint) in words {
                if rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)) {
                    hints |= hint.0;
                }
            }
            // The two with upper-case initials, in this case only.
            if rest.starts_with(b"AzCa") {
                hints |= Self::CACHE_KEY.0;
            }
            if rest.starts_with(b"PRIVATE KEY") {
                hints |= Self::PRIVATE_KEY.0;
            }
        }
        Self(hints)
    }
}
