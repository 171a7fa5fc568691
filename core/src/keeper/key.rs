//! The key document (wire.md section 3) and the key file (files.md section 3): the same object, checked once.

use super::object::Object;
use crate::sign::{self, Key, KeyGuid, Signer};
use core::fmt;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A key with what the host said of it; the content of a key file (FS-30). The key is overwritten when this is dropped, and
/// `Debug` shows the guid only.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    guid: KeyGuid,
    document: Document,
}

/// Shape of the document (W-46 to W-50, FS-31), members in the order of FS-30.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    authorization_scheme: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation_id: Option<u32>,
    guid: String,
    /// Never read: it is not strictly a date (W-49).
    issued: String,
    key: KeyText,
}

/// Hex text of a key.
#[derive(Clone, PartialEq, Eq)]
struct KeyText(Zeroizing<String>);

impl StoredKey {
    /// Reads a key document or a key file.
    ///
    /// # Errors
    /// [`BadKey`]; it never carries any of the text.
    pub fn from_json(text: &[u8]) -> Result<Self, BadKey> {
        let Object(document): Object<Document> =
            serde_json::from_slice(text).map_err(|e| BadKey::Shape { column: e.column() })?;
        if document.authorization_scheme != sign::SCHEME {
            return Err(BadKey::Scheme);
        }
        let guid = KeyGuid::parse(&document.guid).map_err(|_| BadKey::Guid)?;
        Key::from_hex(&document.key.0).map_err(|_| BadKey::Hex)?;
        Ok(Self { guid, document })
    }

    /// The content of the key file: pretty-printed JSON (FS-30), overwritten when dropped.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Room for every byte escaped: a vector that grew would leave copies of the key behind.
        let room = 256 + 6 * (self.document.issued.len() + self.document.guid.len()) + self.document.key.0.len();
        let mut text = Zeroizing::new(Vec::with_capacity(room));
        // Writing plain strings to memory cannot fail; if it did, an empty file would be found out when it is read back (W-93).
        if serde_json::to_writer_pretty(&mut *text, &self.document).is_err() {
            text.clear();
        }
        text
    }

    /// Which key it is.
    #[must_use]
    pub const fn guid(&self) -> &KeyGuid {
        &self.guid
    }

    /// W-48.
    pub(super) const fn incarnation(&self) -> Option<u32> {
        self.document.incarnation_id
    }

    /// Whether guid and key are the same (W-93).
    pub(super) fn is_same_key(&self, other: &Self) -> bool {
        self.guid == other.guid && self.document.key.0.eq_ignore_ascii_case(&other.document.key.0)
    }

    /// Guid and prepared key as one value.
    pub(super) fn signer(&self) -> Result<Signer, BadKey> {
        let key = Key::from_hex(&self.document.key.0).map_err(|_| BadKey::Hex)?;
        Ok(Signer::new(self.guid.clone(), &key))
    }
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredKey({})", self.guid)
    }
}

impl Serialize for KeyText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// Why a key document or key file is not used. Says where, never what: the text may be a key (SEC-08).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadKey {
    /// Not a JSON object with the members of W-46 to W-50.
    Shape {
        /// Column of the first error in its line.
        column: usize,
    },
    /// Another scheme than ours (W-46).
    Scheme,
    /// Not a guid (W-51).
    Guid,
    /// Not an even number of hex digits (W-51).
    Hex,
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { column } => write!(f, "not a key document (column {column})"),
            Self::Scheme => f.write_str("unknown authorization scheme in the key document"),
            Self::Guid => f.write_str("malformed guid in the key document"),
            Self::Hex => f.write_str("the key is not hex text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
  "authorizationScheme": "Azure-HMAC-SHA256",
  "incarnationId": 3,
  "guid": "7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11",
  "issued": "2026-01-06T08:15:30Z",
  "key": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
}"#;

    #[test]
    fn file_is_written_as_fs30_shows() {
        let key = StoredKey::from_json(FILE.as_bytes()).unwrap();
        assert_eq!(key.incarnation(), Some(3));
        assert_eq!(str::from_utf8(&key.to_json()).unwrap(), FILE);
        assert_eq!(StoredKey::from_json(&key.to_json()).unwrap(), key);
        assert_eq!(format!("{key:?}"), "StoredKey(7f9c2ba4-e88f-4e6d-9c1a-5d0f3f6b2a11)");
    }

    /// FS-31
    #[test]
    fn documents_of_w46_to_w51() {
        let without = StoredKey::from_json(FILE.replacen("  \"incarnationId\": 3,\n", "", 1).as_bytes()).unwrap();
        assert_eq!(str::from_utf8(&without.to_json()).unwrap(), FILE.replacen("  \"incarnationId\": 3,\n", "", 1));
        let with = |from: &str, to: &str| StoredKey::from_json(FILE.replacen(from, to, 1).as_bytes()).map(|_| ());
        assert_eq!(with("3", "null"), Ok(()));
        assert_eq!(with("\"incarnationId\": 3,", "\"other\": [{}],"), Ok(()));
        assert_eq!(with("2026-01-06T08:15:30Z", "2021-05-05T 12:00:00Z"), Ok(()), "W-49");
        assert_eq!(with("aabb", "AABB"), Ok(()), "W-50: either letter case");
        assert_eq!(with("Azure-HMAC-SHA256", "Azure-HMAC-SHA512"), Err(BadKey::Scheme));
        assert_eq!(with("7f9c2ba4", "../7f9c2ba4"), Err(BadKey::Guid));
        assert_eq!(with("0011", "001"), Err(BadKey::Hex));
        assert_eq!(with("0011", "00g1"), Err(BadKey::Hex));
        for (from, to) in
            [("3", "4294967296"), ("3", "\"3\""), ("issued", "issuedAt"), ("\"guid\"", "\"key\": \"00\", \"guid\""), ("{", "[{")]
        {
            assert!(matches!(with(from, to), Err(BadKey::Shape { .. })), "{from} {to}");
        }
        assert!(matches!(StoredKey::from_json(br#"["Azure-HMAC-SHA256",3,"a","b","00"]"#), Err(BadKey::Shape { .. })));
    }

    #[test]
    fn letter_case_does_not_make_another_key_w93() {
        let lower = StoredKey::from_json(FILE.as_bytes()).unwrap();
        let upper = StoredKey::from_json(FILE.replace("aabb", "AABB").as_bytes()).unwrap();
        let other = StoredKey::from_json(FILE.replace("aabb", "aabc").as_bytes()).unwrap();
        assert!(lower.is_same_key(&upper));
        assert!(!lower.is_same_key(&other));
    }
}
