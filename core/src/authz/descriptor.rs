//! What the host packs into the id of a rule set: the id proper, and whether a local file takes part.

use serde::Deserialize;
use std::borrow::Cow;

/// The id of a remote document, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// The id as people know it; may be empty.
    pub logical_id: Cow<'a, str>,
    /// Whether the local rule file takes part.
    pub use_local_file: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Packed {
    #[serde(default)]
    id: String,
    #[serde(default)]
    use_local_file_rules: bool,
}

impl<'a> Descriptor<'a> {
    /// Reads an id: base64 of a JSON object, or else the logical id itself, with the switch off.
    #[must_use]
    pub fn parse(id: &'a str) -> Self {
        let id = id.trim();
        // An array would also be read as the members' values, and invalid UTF-8 be passed over in members that nobody reads.
        let packed = base64(id.as_bytes()).and_then(|json| String::from_utf8(json).ok());
        let packed = packed.filter(|json| json.trim_ascii_start().starts_with('{'));
        match packed.and_then(|json| serde_json::from_str::<Packed>(&json).ok()) {
            Some(packed) => Self { logical_id: packed.id.into(), use_local_file: packed.use_local_file_rules },
            None => Self { logical_id: id.into(), use_local_file: false },
        }
    }

    /// The id of the effective document; `None` if it keeps the raw one.
    #[must_use]
    pub fn displayed_id(&self) -> Option<String> {
        (!self.logical_id.is_empty()).then(|| format!("{}-useLocalFileRules-{}", self.logical_id, self.use_local_file))
    }
}

/// Standard base64 with padding (RFC 4648 section 4), nothing else: no line breaks, no bits left over.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let (groups, []) = text.as_chunks::<4>() else { return None };
    let (last, whole) = groups.split_last()?;
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for group in whole {
        out.extend_from_slice(&bytes(*group)?);
    }
    let padding = last.iter().rev().take_while(|b| **b == b'=').count();
    let kept = 3usize.checked_sub(padding).filter(|kept| *kept > 0)?;
    let decoded = bytes(last.map(|b| if b == b'=' { b'A' } else { b }))?;
    // A padding character further in was taken for a digit above: the count says that it was not at the end.
    let equals = last.iter().filter(|b| **b == b'=').count();
    let (kept, rest) = decoded.split_at_checked(kept)?;
    (equals == padding && rest.iter().all(|b| *b == 0)).then(|| {
        out.extend_from_slice(kept);
        out
    })
}

fn bytes(group: [u8; 4]) -> Option<[u8; 3]> {
    let mut bits = 0u32;
    for digit in group {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
    }
    let [_, a, b, c] = bits.to_be_bytes();
    Some([a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r101_r102_r103_ids_are_taken_apart_and_displayed() {
        for (raw, displayed, on) in [
            ("abc", Some("abc-useLocalFileRules-false"), false),
            ("  abc ", Some("abc-useLocalFileRules-false"), false),
            ("", None, false),
            // {"id":"prof-1","useLocalFileRules":false}, …true}, {"id":"prof-1"}
            ("eyJpZCI6InByb2YtMSIsInVzZUxvY2FsRmlsZVJ1bGVzIjpmYWxzZX0=", Some("prof-1-useLocalFileRules-false"), false),
            ("eyJpZCI6InByb2YtMSIsInVzZUxvY2FsRmlsZVJ1bGVzIjp0cnVlfQ==", Some("prof-1-useLocalFileRules-true"), true),
            (" eyJpZCI6InByb2YtMSIsInVzZUxvY2FsRmlsZVJ1bGVzIjp0cnVlfQ==\n", Some("prof-1-useLocalFileRules-true"), true),
            ("eyJpZCI6InByb2YtMSJ9", Some("prof-1-useLocalFileRules-false"), false),
            // {}, and {"useLocalFileRules":true,"x":1}: the logical id is empty.
            ("e30=", None, false),
            ("eyJ1c2VMb2NhbEZpbGVSdWxlcyI6dHJ1ZSwieCI6MX0=", None, true),
            // Without padding, not JSON ("test"), an array, a wrong type: a plain id.
            ("e30", Some("e30-useLocalFileRules-false"), false),
            ("dGVzdA==", Some("dGVzdA==-useLocalFileRules-false"), false),
            ("WyJhIix0cnVlXQ==", Some("WyJhIix0cnVlXQ==-useLocalFileRules-false"), false),
            ("eyJpZCI6MX0=", Some("eyJpZCI6MX0=-useLocalFileRules-false"), false),
            // {"id":"a","\xff":1}: not UTF-8.
            ("eyJpZCI6ImEiLCL/IjoxfQ==", Some("eyJpZCI6ImEiLCL/IjoxfQ==-useLocalFileRules-false"), false),
        ] {
            let descriptor = Descriptor::parse(raw);
            assert_eq!((descriptor.displayed_id().as_deref(), descriptor.use_local_file), (displayed, on), "{raw:?}");
        }
    }

    #[test]
    fn r101_base64_is_standard_with_padding() {
        assert_eq!(base64(b"Zm9vYmFy").as_deref(), Some(&b"foobar"[..]));
        assert_eq!(base64(b"Zm9vYg==").as_deref(), Some(&b"foob"[..]));
        assert_eq!(base64(b"+/+/").as_deref(), Some(&[0xfb, 0xff, 0xbf][..]));
        for bad in ["", "Zg", "Zg=", "Zg===", "====", "Z===", "Zm=v", "=m9v", "Zh==", "Zm9=", "Zm9v\n", "-_-_", "Zg==Zg=="] {
            assert_eq!(base64(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
