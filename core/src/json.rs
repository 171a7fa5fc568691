//! JSON that is one line to everybody. JSON allows more characters inside strings than a terminal or a reader of lines takes for
//! text: DEL, the control characters U+0080 to U+009F (one of them begins a terminal's command), the separators U+2028 and U+2029.
//! Here they are escaped like the others (PX-114, SEC-F2).

use serde::Serialize;

/// Appends a value; nothing stays if it cannot be written, which values made of text and numbers can.
pub(crate) fn append(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), serde_json::Error> {
    let before = out.len();
    let written = serde_json::to_writer(&mut *out, value);
    finish(out, before, written)
}

/// The same over many lines, for people.
pub(crate) fn append_pretty(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), serde_json::Error> {
    let before = out.len();
    let written = serde_json::to_writer_pretty(&mut *out, value);
    finish(out, before, written)
}

fn finish(out: &mut Vec<u8>, before: usize, written: Result<(), serde_json::Error>) -> Result<(), serde_json::Error> {
    match written {
        Ok(()) => escape(out, before),
        Err(_) => out.truncate(before),
    }
    written
}

/// What stands for the characters that begin with the first of these bytes, and their length; `None` for all others.
fn escaped(rest: &[u8]) -> Option<(usize, u16)> {
    match *rest {
        [0x7f, ..] => Some((1, 0x7f)),
        [0xc2, second @ 0x80..=0x9f, ..] => Some((2, u16::from(second))),
        [0xe2, 0x80, third @ 0xa8..=0xa9, ..] => Some((3, 0x2000 | u16::from(third & 0x3f))),
        _ => None,
    }
}

/// Outside of strings JSON has none of these characters, so they are replaced wherever they are.
fn escape(out: &mut Vec<u8>, from: usize) {
    let text = out.get(from..).unwrap_or_default();
    // Nearly all lines are ASCII: one quick look is enough for them.
    let Some(suspect) = text.iter().position(|byte| *byte >= 0x7f) else { return };
    let Some(first) = (suspect..text.len()).find(|at| escaped(text.get(*at..).unwrap_or_default()).is_some()) else { return };
    let rest = out.split_off(from + first);
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        if let Some((length, code)) = escaped(rest.get(at..).unwrap_or_default()) {
            out.extend_from_slice(format!("\\u{code:04x}").as_bytes());
            at += length;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the report")]
mod tests {
    use super::*;

    /// PX-114, SEC-F2
    #[test]
    fn what_is_no_text_to_a_terminal_is_escaped_and_reads_back() {
        let text: String = (0..0x3000).filter_map(char::from_u32).chain("\u{1F511}\u{FFFD}".chars()).collect();
        for append in [append, append_pretty] {
            let mut out = b"\x7f before".to_vec();
            append(&mut out, &text).unwrap();
            let line = String::from_utf8(out.split_off(8)).unwrap();
            assert_eq!(out, b"\x7f before");
            assert!(!line.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')));
            assert!(
                line.contains("\\u007f\\u0080")
                    && line.contains("\\u009f\u{a0}")
                    && line.contains("\u{2027}\\u2028\\u2029\u{202a}")
            );
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
