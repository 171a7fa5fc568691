//! JSON that is one line to everybody. JSON allows more characters inside strings than a terminal or a reader of lines takes for
//! text: DEL, the control characters U+0080 to U+009F (one of them begins a terminal's command), the separators U+2028 and U+2029, and
//! the controls that reorder text (a user could be called `root` for whoever reads a learned document, and be somebody else).
//! Here they are escaped like the others (PX-114, SEC-F2).

pub(crate) mod place;

use serde::Serialize;
use std::fmt;
use std::io::Write as _;

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

/// The same in another layout.
#[cfg(feature = "advise")]
pub(crate) fn append_with(
    out: &mut Vec<u8>,
    value: &impl Serialize,
    layout: impl serde_json::ser::Formatter,
) -> Result<(), serde_json::Error> {
    let before = out.len();
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, layout));
    finish(out, before, written)
}

/// An object member by member, for lines that are written for every request: the same bytes as [`append`] makes, in a quarter of the
/// time, because nearly everything needs no escape.
pub(crate) struct Object<'a>(&'a mut Vec<u8>);

impl<'a> Object<'a> {
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self(out)
    }

    pub(crate) fn text(&mut self, key: &'static str, text: &str) {
        self.key(key);
        string(self.0, text);
    }

    /// A text that prints.
    pub(crate) fn shown(&mut self, key: &'static str, text: &impl fmt::Display) {
        self.key(key);
        self.0.push(b'"');
        let from = self.0.len();
        // Writing to memory does not fail.
        let _ = write!(self.0, "{text}");
        if self.0.get(from..).unwrap_or_default().iter().copied().all(is_plain) {
            self.0.push(b'"');
        } else {
            let text = self.0.split_off(from);
            self.0.pop();
            string(self.0, &String::from_utf8_lossy(&text));
        }
    }

    pub(crate) fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        number(self.0, value);
    }

    pub(crate) fn flag(&mut self, key: &'static str, flag: bool) {
        self.key(key);
        self.0.extend_from_slice(if flag { b"true" } else { b"false" });
    }

    /// Begins an object; its members follow.
    pub(crate) fn begin_object(&mut self, key: &'static str) {
        self.key(key);
        self.0.push(b'{');
    }

    pub(crate) fn end_object(&mut self) {
        self.0.push(b'}');
    }

    /// Begins a list of texts.
    pub(crate) fn list(&mut self, key: &'static str) {
        self.key(key);
        self.0.push(b'[');
    }

    /// One of them.
    pub(crate) fn item(&mut self, text: &str) {
        if self.0.last() != Some(&b'[') {
            self.0.push(b',');
        }
        string(self.0, text);
    }

    pub(crate) fn end_list(&mut self) {
        self.0.push(b']');
    }

    pub(crate) fn end(self) {
        self.0.push(b'}');
    }

    fn key(&mut self, key: &'static str) {
        self.0.extend_from_slice(if self.0.last() == Some(&b'{') { b"\"" } else { b",\"" });
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}

/// Whether a byte stands for itself in a string.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\'
}

/// Appends a number.
pub(crate) fn number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut first = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        first -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(first..).unwrap_or_default());
}

/// Appends a text as a string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Text to memory: it does not fail.
        let _ = append(out, &text);
    }
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
        // Separators; and what reorders the text around it for who reads it.
        [0xe2, 0x80, third @ (0x8e..=0x8f | 0xa8..=0xae), ..] => Some((3, 0x2000 | u16::from(third & 0x3f))),
        [0xe2, 0x81, third @ 0xa6..=0xa9, ..] => Some((3, 0x2040 | u16::from(third & 0x3f))),
        [0xd8, 0x9c, ..] => Some((2, 0x061c)),
        _ => None,
    }
}

/// Outside of strings JSON has none of these characters, so they are replaced wherever they are.
pub(crate) fn escape(out: &mut Vec<u8>, from: usize) {
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

    /// PX-114
    #[test]
    fn an_object_by_hand_is_what_the_serializer_makes() {
        let nasty: String = (0..0x3000).filter_map(char::from_u32).chain("\u{1F511}\u{FFFD}".chars()).collect();
        for text in ["", "plain", "\"", "\\", "{", "[", "a\nb", "\u{7f}", "\u{e9}", &nasty] {
            for number in [0, 7, 10, 4_294_967_296, u64::MAX] {
                let (mut by_hand, mut expected) = (b"before".to_vec(), b"before".to_vec());
                let mut object = Object::begin(&mut by_hand);
                object.text("a", text);
                object.number("b", number);
                object.shown("c", &text);
                object.list("d");
                object.item(text);
                object.item(text);
                object.end_list();
                object.list("e");
                object.end_list();
                object.flag("f", number == 7);
                object.begin_object("g");
                object.number("h", number);
                object.text("i", text);
                object.end_object();
                object.number("j", number);
                object.end();
                #[derive(Serialize)]
                struct Same<'a> {
                    a: &'a str,
                    b: u64,
                    c: &'a str,
                    d: [&'a str; 2],
                    e: [u8; 0],
                    f: bool,
                    g: Inner<'a>,
                    j: u64,
                }
                #[derive(Serialize)]
                struct Inner<'a> {
                    h: u64,
                    i: &'a str,
                }
                let g = Inner { h: number, i: text };
                append(&mut expected, &Same { a: text, b: number, c: text, d: [text; 2], e: [], f: number == 7, g, j: number })
                    .unwrap();
                assert_eq!(String::from_utf8(by_hand), String::from_utf8(expected));
            }
        }
    }

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
                    && line.contains("\u{2027}\\u2028\\u2029\\u202a")
            );
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }
    }
}
