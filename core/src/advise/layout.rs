//! Documents as people lay them out: what is nested deeply stays on its line.

use crate::json;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use std::io::{self, Write};

/// A rule document as text, with a final line feed: one line per privilege, role, identity and assignment.
#[must_use]
pub fn document(document: &impl Serialize) -> String {
    let mut out = Vec::new();
    // Text to memory: it does not fail.
    let _ = json::append_with(&mut out, document, Readable { depth: 0, broken: 3, filled: false });
    out.push(b'\n');
    String::from_utf8(out).unwrap_or_default()
}

/// A value as JSON of several lines, with a final line feed, in which a terminal obeys nothing.
#[must_use]
pub fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    // Likewise.
    let _ = json::append_pretty(&mut out, value);
    out.push(b'\n');
    out
}

/// Breaks the outer containers over lines, and keeps the inner ones on one.
struct Readable {
    /// Of the container that is being written.
    depth: usize,
    /// So many levels are broken.
    broken: usize,
    /// The container that ends has something in it.
    filled: bool,
}

impl Readable {
    fn begin<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        match (first, self.depth <= self.broken) {
            (_, true) => {
                out.write_all(if first { b"\n" } else { b",\n" })?;
                self.indent(out)
            }
            (true, false) => Ok(()),
            (false, false) => out.write_all(b", "),
        }
    }

    fn end<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        let broken = self.depth <= self.broken && self.filled;
        self.depth = self.depth.saturating_sub(1);
        self.filled = true;
        if broken {
            out.write_all(b"\n")?;
            self.indent(out)?;
        }
        out.write_all(bracket)
    }

    fn indent<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        (0..self.depth).try_for_each(|_| out.write_all(b"  "))
    }
}

impl Formatter for Readable {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"[")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.begin(out, b"{")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(out)?;
        out.write_all(b" ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.end(out, b"}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn outer_levels_are_broken_and_inner_ones_are_not() {
        let value = json!({"a": {"empty": [], "list": [{"b": [1, 2], "c": "\u{9b}"}, {}]}, "d": {}});
        let expected = "{\n  \"a\": {\n    \"empty\": [],\n    \"list\": [\n      {\"b\": [1, 2], \"c\": \"\\u009b\"},\n      {}\n    ]\n  },\n  \"d\": {}\n}\n";
        assert_eq!(super::document(&value), expected);
        assert_eq!(serde_json::from_str::<serde_json::Value>(expected).unwrap(), value);
    }

    /// SEC-07: names are chosen by whoever makes a file or an account.
    #[test]
    fn sec07_neither_terminal_nor_reader_is_misled() {
        let name = "\u{9b}2J\u{7f}\u{202e}toor\u{2066}\u{2069}\u{200f}\u{61c}\u{2028}é";
        let escaped = r"\u009b2J\u007f\u202etoor\u2066\u2069\u200f\u061c\u2028é";
        let value = json!({"userName": name});
        for text in [super::document(&value), String::from_utf8(super::pretty(&value)).unwrap()] {
            assert!(text.contains(&format!(": \"{escaped}\"")), "{text}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
    }
}
