//! Where in a JSON text something is, and what is at a place: for messages to people who have to mend it. Looked for only when there is
//! something to say, in text that the JSON library has taken already.

use core::fmt;
use core::ops::Range;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;

/// So much of a name from outside is shown.
const SHOWN: usize = 64;

/// Where a reader looks: both counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    /// The place of a byte.
    pub(crate) fn of(text: &str, index: usize) -> Self {
        let before = text.get(..text.floor_char_boundary(index)).unwrap_or(text);
        let last = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        Self { line, column: before.get(last..).unwrap_or_default().chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Appends the way from an object to one of its members: `.name`, or `["na me"]`.
pub(crate) fn push_member(path: &mut String, name: &str) {
    if !name.is_empty() && name.len() <= SHOWN && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
    } else {
        path.push_str(&format!("[{}]", shown(name)));
    }
}

/// Appends the way from a list to one of its elements.
pub(crate) fn push_index(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

/// A text from outside as part of a message: quoted, escaped, and not longer than it helps.
pub(crate) fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(SHOWN);
    match text.get(..end) {
        Some(part) if end < text.len() => format!("{part:?}…"),
        _ => format!("{text:?}"),
    }
}

/// Where the value of a member is.
pub(crate) fn of_member(text: &str, member: &str) -> Option<Place> {
    let mut found = None;
    Walk::over(text, |path, range| {
        found = (path == member).then_some(range.start);
        found.is_some()
    });
    found.map(|start| Place::of(text, start))
}

/// How far the JSON library had read when it found an error. Bytes.
fn read_until(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    (lines.map(str::len).sum::<usize>() + error.column()).min(text.len())
}

/// Where the JSON library found an error.
pub(crate) fn of_error(text: &str, error: &serde_json::Error) -> Place {
    Place::of(text, read_until(text, error).saturating_sub(1))
}

/// The value that an error is about, in text that is JSON: its place, and the member whose value it is.
pub(crate) fn of_value(text: &str, error: &serde_json::Error) -> (Place, String) {
    let read = read_until(text, error);
    // A value that was not even begun, or else the innermost that holds the last byte that was read.
    let (mut begun, mut innermost) = (None, None);
    Walk::over(text, |path, range| {
        if range.start == read {
            begun = Some((range.start, path.to_owned()));
        } else if innermost.is_none() && range.contains(&read.saturating_sub(1)) {
            innermost = Some((range.start, path.to_owned()));
        }
        begun.is_some()
    });
    let (at, member) = begun.or(innermost).unwrap_or_default();
    (Place::of(text, at), member)
}

/// What an error of the JSON library says, without the place, and without what the text says: a value of another type may be long, and may
/// be anything.
pub(crate) fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rfind(" at line ").and_then(|end| text.get(..end)).unwrap_or(&text);
    match text.rfind("expected ") {
        Some(at) if text.starts_with("invalid ") && error.is_data() => text.get(at..).unwrap_or_default().to_owned(),
        _ => text.to_owned(),
    }
}

/// Any JSON value, in which no object has a member twice.
pub(crate) struct NoTwins;

impl<'de> Deserialize<'de> for NoTwins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = NoTwins;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<NoTwins, E> {
        Ok(NoTwins)
    }

    fn visit_bool<E>(self, _: bool) -> Result<NoTwins, E> {
        Ok(NoTwins)
    }

    fn visit_i64<E>(self, _: i64) -> Result<NoTwins, E> {
        Ok(NoTwins)
    }

    fn visit_u64<E>(self, _: u64) -> Result<NoTwins, E> {
        Ok(NoTwins)
    }

    fn visit_f64<E>(self, _: f64) -> Result<NoTwins, E> {
        Ok(NoTwins)
    }

    fn visit_str<E>(self, _: &str) -> Result<NoTwins, E> {
        Ok(NoTwins)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<NoTwins, A::Error> {
        while let Some(NoTwins) = list.next_element()? {}
        Ok(NoTwins)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<NoTwins, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = object.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format_args!("the member {} is there twice", shown(&name))));
            }
            names.insert(name);
            let NoTwins = object.next_value()?;
        }
        Ok(NoTwins)
    }
}

/// A walk over all values of a JSON text, each after those that it consists of. Text that is not JSON ends it early.
struct Walk<'a, F> {
    text: &'a str,
    at: usize,
    path: String,
    /// Path and range of a value; `true` ends the walk.
    visit: F,
}

impl<'a, F: FnMut(&str, Range<usize>) -> bool> Walk<'a, F> {
    fn over(text: &'a str, visit: F) {
        Walk { text, at: 0, path: String::new(), visit }.value();
    }

    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        self.at += rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Walks over one value; `true` ends the walk. It is called no deeper than the JSON library reads.
    fn value(&mut self) -> bool {
        let first = self.peek();
        let start = self.at;
        let ended = match first {
            Some(b'{') => self.members(),
            Some(b'[') => self.elements(),
            Some(b'"') => self.string().is_none(),
            Some(_) => {
                let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                self.at += rest.iter().take_while(|b| !matches!(b, b',' | b']' | b'}') && !b.is_ascii_whitespace()).count();
                self.at == start
            }
            None => true,
        };
        ended || (self.visit)(&self.path, start..self.at)
    }

    fn members(&mut self) -> bool {
        let above = self.path.len();
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {}
                Some(b',') => {
                    self.at += 1;
                    continue;
                }
                Some(b'}') => {
                    self.at += 1;
                    return false;
                }
                _ => return true,
            }
            let Some(name) = self.string() else { return true };
            let name: String = serde_json::from_str(name).unwrap_or_default();
            if self.peek() != Some(b':') {
                return true;
            }
            self.at += 1;
            push_member(&mut self.path, &name);
            if self.value() {
                return true;
            }
            self.path.truncate(above);
        }
    }

    fn elements(&mut self) -> bool {
        let above = self.path.len();
        self.at += 1;
        let mut index = 0;
        loop {
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    continue;
                }
                Some(b']') => {
                    self.at += 1;
                    return false;
                }
                None => return true,
                Some(_) => {}
            }
            push_index(&mut self.path, index);
            if self.value() {
                return true;
            }
            self.path.truncate(above);
            index += 1;
        }
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        let mut escaped = false;
        for byte in self.text.as_bytes().get(start + 1..)? {
            self.at += 1;
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.at += 1;
                    return self.text.get(start..self.at);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the report")]
mod tests {
    use super::*;

    const TEXT: &str = "{\n  \"a\": [1, \"é\\\"]\", {\"b c\": null}],\n  \"\\u0064\": {}, \"e\":[[],true]\n}\n";

    #[test]
    fn members_are_found_where_they_are() {
        for (member, place) in [
            ("a", Some((2, 8))),
            ("a[0]", Some((2, 9))),
            ("a[1]", Some((2, 12))),
            ("a[2]", Some((2, 20))),
            ("a[2][\"b c\"]", Some((2, 28))),
            ("d", Some((3, 13))),
            ("e[0]", Some((3, 22))),
            ("e[1]", Some((3, 25))),
            ("", Some((1, 1))),
            ("f", None),
        ] {
            assert_eq!(of_member(TEXT, member).map(|p| (p.line, p.column)), place, "{member}");
        }
    }

    #[test]
    fn text_that_is_no_json_ends_the_walk() {
        for end in 0..TEXT.len() {
            for junk in ["", "}", "]", ":", "\"", ",", "x"] {
                if let Some(part) = TEXT.get(..end) {
                    let text = format!("{part}{junk}");
                    let _ = of_member(&text, "f");
                    if let Err(e) = serde_json::from_str::<NoTwins>(&text) {
                        let _ = (of_error(&text, &e), of_value(&text, &e));
                    }
                }
            }
        }
    }

    #[test]
    fn twins_are_found_wherever_they_are() {
        for (text, place) in [
            (r#"{"a":1,"a":2}"#, (1, 10)),
            (r#"{"x":[{"b":1,"\u0062":2}]}"#, (1, 21)),
            ("{\"c\":{},\n\"d\":{\"e\":null,\"e\":null}}", (2, 17)),
        ] {
            let error = serde_json::from_str::<NoTwins>(text).err().unwrap();
            assert!(words(&error).ends_with("is there twice"), "{error}");
            let found = of_error(text, &error);
            assert_eq!((found.line, found.column), place, "{text}");
        }
        assert!(serde_json::from_str::<NoTwins>(r#"{"a":{"a":[{"a":1.5e3},-1,"",null,true]},"b":{"a":1}}"#).is_ok());
    }
}
