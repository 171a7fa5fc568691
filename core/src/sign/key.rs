//! Key and key guid: read once, checked once (W-51), never printed.

use core::fmt;
use zeroize::Zeroizing;

/// Identifies a key. Part of a file name, a request path and the authorization field, hence the narrow alphabet (W-51).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGuid(Box<str>);

impl KeyGuid {
    /// Longest guid.
    pub const MAX_LEN: usize = 64;

    /// Accepts `[0-9A-Fa-f-]{1,64}` and nothing else (W-51).
    ///
    /// # Errors
    /// [`KeyError::Guid`] for any other text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') { Ok(Self(text.into())) } else { Err(KeyError::Guid) }
    }

    /// The text as the host gave it.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyGuid({})", self.0)
    }
}

/// Raw key bytes. Overwritten when dropped; cannot be printed, compared or cloned.
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Reads a key from hex text of either letter case (W-50, W-51).
    ///
    /// # Errors
    /// [`KeyError::Empty`], [`KeyError::OddLength`] or [`KeyError::NotHex`]; no error carries any of the text (W-63).
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if !text.len().is_multiple_of(2) {
            return Err(KeyError::OddLength);
        }
        // Full capacity at once: a vector that grew would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
        for pair in text.as_bytes().chunks_exact(2) {
            let &[high, low] = pair else { return Err(KeyError::NotHex) };
            let (Some(high), Some(low)) = (nibble(high), nibble(low)) else { return Err(KeyError::NotHex) };
            bytes.push(high << 4 | low);
        }
        Ok(Self(bytes))
    }

    /// Lower-case hex text, for the key store only. Overwritten when dropped.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 2));
        for byte in self.0.iter() {
            for digit in hex_digits(*byte) {
                text.push(char::from(digit));
            }
        }
        text
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why a key or guid is refused. Says nothing of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The guid is not `[0-9A-Fa-f-]{1,64}`.
    Guid,
    /// The key has no digits.
    Empty,
    /// The key has an odd number of digits.
    OddLength,
    /// The key contains something else than hex digits.
    NotHex,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guid => "key guid is not 1 to 64 hex digits and hyphens",
            Self::Empty => "key is empty",
            Self::OddLength => "key has an odd number of hex digits",
            Self::NotHex => "key is not hex text",
        })
    }
}

impl core::error::Error for KeyError {}

/// The value of a hex digit.
pub(super) const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The two lower-case hex digits of a byte.
pub(super) const fn hex_digits(byte: u8) -> [u8; 2] {
    const fn digit(nibble: u8) -> u8 {
        if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
    }
    [digit(byte >> 4), digit(byte & 15)]
}
