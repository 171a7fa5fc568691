//! Percent-decoding, once.

use super::CanonError;

/// Appends `raw`, percent-decoded once, to `out`; `plus` is what a literal plus sign becomes.
pub(super) fn percent(raw: &[u8], plus: u8, out: &mut Vec<u8>) -> Result<(), CanonError> {
    out.reserve(raw.len());
    let mut rest = raw;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        out.push(match first {
            b'%' => {
                let &[high, low, ref after @ ..] = tail else { return Err(CanonError::Percent) };
                let (Some(high), Some(low)) = (digit(high), digit(low)) else { return Err(CanonError::Percent) };
                rest = after;
                high << 4 | low
            }
            b'+' => plus,
            byte => *byte,
        });
    }
    Ok(())
}

/// The value of a hex digit.
pub(super) fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Whether a byte is a control character.
pub(super) const fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7F
}
