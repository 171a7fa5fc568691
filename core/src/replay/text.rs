//! Bytes as text and back.

use core::fmt::Write;

/// Equal bytes in a row from which on a run is written as `\(n*b)`.
const RUN: usize = 40;
/// Longest data that one fixture may unfold to: a run is a few characters, and the parser eats fuzzed text.
const MAX: usize = 256 * 1024 * 1024;

/// The lines of a heredoc, without indentation and closing dot.
pub(super) fn lines(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|w| w == b"\r\n");
        let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
        let mut text = escape(line);
        if text == "." {
            text = "\\x2e".into();
        }
        if text.ends_with(' ') {
            text.pop();
            text.push_str("\\x20");
        }
        if end.is_none() {
            text.push('\\');
        }
        lines.push(text);
        rest = after.get(2..).unwrap_or_default();
    }
    lines
}

/// One line of bytes with escapes.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let run = rest.iter().take_while(|b| *b == first).count();
        if run >= RUN {
            let _ = write!(text, "\\({run}*");
            escape_byte(&mut text, *first);
            text.push(')');
            rest = rest.get(run..).unwrap_or_default();
        } else {
            escape_byte(&mut text, *first);
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    text
}

fn escape_byte(text: &mut String, byte: u8) {
    match byte {
        b'\\' => text.push_str("\\\\"),
        b'\r' => text.push_str("\\r"),
        b'\n' => text.push_str("\\n"),
        b'\t' => text.push_str("\\t"),
        0x20..=0x7e => text.push(char::from(byte)),
        _ => {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
}

/// Adds the bytes of one line of text. `Ok(true)`: the line ends in a lone backslash and is joined with the next.
///
/// # Errors
/// What is wrong with it.
pub(super) fn unescape(text: &str, out: &mut Vec<u8>) -> Result<bool, &'static str> {
    let mut rest = text.as_bytes();
    loop {
        match rest {
            [] => return Ok(false),
            b"\\" => return Ok(true),
            [b'\\', b'(', run @ ..] => {
                let star = run.iter().position(|b| *b == b'*').ok_or("run without *")?;
                let count = run.get(..star).and_then(|n| core::str::from_utf8(n).ok()).and_then(|n| n.parse::<usize>().ok());
                let count = count.ok_or("length of a run is not a number")?;
                let (byte, after) = unescape_one(run.get(star + 1..).unwrap_or_default())?;
                rest = after.strip_prefix(b")").ok_or("run without )")?;
                if count > MAX - out.len().min(MAX) {
                    return Err("too many bytes");
                }
                out.resize(out.len() + count, byte);
            }
            _ => {
                let (byte, after) = unescape_one(rest)?;
                out.push(byte);
                rest = after;
            }
        }
    }
}

fn unescape_one(text: &[u8]) -> Result<(u8, &[u8]), &'static str> {
    match text {
        [b'\\', b'\\', rest @ ..] => Ok((b'\\', rest)),
        [b'\\', b'r', rest @ ..] => Ok((b'\r', rest)),
        [b'\\', b'n', rest @ ..] => Ok((b'\n', rest)),
        [b'\\', b't', rest @ ..] => Ok((b'\t', rest)),
        [b'\\', b'x', high, low, rest @ ..] => {
            let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err("\\x without two hex digits") };
            Ok((high << 4 | low, rest))
        }
        [b'\\', ..] => Err("unknown escape"),
        [byte, rest @ ..] => Ok((*byte, rest)),
        [] => Err("nothing to repeat"),
    }
}
