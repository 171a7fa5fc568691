//! Redaction of command lines and messages (identity.md section 4): nothing that looks like a secret leaves the process in a
//! record.
//!
//! Patterns are applied one after the other, each to the result of the one before. Each is a hand-written matcher that looks at
//! a byte a bounded number of times, because the text is chosen by whoever connects.

mod patterns;

#[cfg(test)]
mod tests;

use core::ops::Range;
use patterns::Pattern;
use std::borrow::Cow;

/// What stands for each match.
const REDACTED: &str = "[REDACTED]";

/// Arguments that are looked at: credentials are usually in later ones (I-32).
const ARGUMENTS: usize = 4;

/// Most bytes of the argument vector that are looked at (I-33a).
const RAW_LIMIT: usize = 64 * 1024;

/// Most bytes of the result (I-33a).
const LIMIT: usize = 1024;

/// Turns a raw argument vector (NUL-separated) into text: the first four arguments that are not empty, redacted, at most 1024
/// bytes (I-32 to I-33a). `None` is a vector that could not be read (I-17), an empty one gives the empty text (I-18).
#[must_use]
pub fn command_line(raw: Option<&[u8]>) -> Box<str> {
    let Some(raw) = raw else { return "undefined".into() };
    let raw = raw.get(..RAW_LIMIT).unwrap_or(raw);
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

/// Replaces whatever looks like a secret by `[REDACTED]` (I-34 to I-49).
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    let hints = Hints::of(text.as_bytes());
    if !hints.meets(Hints::OPENERS) {
        return text;
    }
    for pattern in &patterns::ALL {
        if hints.meets(pattern.needs)
            && let Some(redacted) = apply(pattern, &text)
        {
            text = Cow::Owned(redacted);
        }
    }
    text
}

/// The text with all matches of one pattern replaced; `None` without a match.
fn apply(pattern: &Pattern, text: &str) -> Option<String> {
    let matches = pattern.matches(text);
    if matches.is_empty() {
        return None;
    }
    let mut out = String::with_capacity(text.len() + REDACTED.len());
    let mut done = 0;
    for Range { start, end } in matches {
        out.push_str(text.get(done..start).unwrap_or_default());
        out.push_str(REDACTED);
        done = end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    Some(out)
}

/// Which of the telling words a text contains (I-34, with the additions of I-49): one look at the text says which patterns are
/// worth trying.
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
    /// Words of client secrets (I-45) that are telling only together with another of these.
    const CLIENT: Self = Self(1 << 15);
    /// Any of those that open the door (I-34, I-49).
    const OPENERS: Self = Self(!Self::CLIENT.0);

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
                b'p' => &[(b"pwd=", Self::PWD), (b"password", Self::PASSWORD), (b"pat", Self::TOKEN)],
                // AccountKey, PrimaryKey and SecondaryKey are keys too.
                b'k' => &[(b"key", Self::KEY)],
                b's' => &[
                    (b"sig=", Self::SIG),
                    (b"secret", Self::SECRET),
                    (b"scrt", Self::CLIENT),
                    (b"sct", Self::CLIENT),
                    (b"sid", Self::CLIENT),
                ],
                b't' => &[(b"token", Self::TOKEN)],
                // `azuredevops` contains none of the others, and a pattern looks for it.
                b'a' => &[(b"ado", Self::TOKEN), (b"authorization", Self::AUTHORIZATION), (b"azuredevops", Self::TOKEN)],
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
