//! Signing.
use core::fmt;
/// Guid and prepared key as one value.
pub struct Signer {}
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}
