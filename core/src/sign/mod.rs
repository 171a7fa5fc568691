//! The signature of a request (wire.md section 4): which bytes are signed, with what, and which requests are exempt.
//!
//! Knows HMAC, the string to sign and the key's text form. Refuses to know where keys come from, when they change, and how a
//! request is read or sent.

mod canonical;
mod key;
pub(crate) mod target;

#[cfg(test)]
mod tests;

pub use key::{Key, KeyError, KeyGuid};

use core::fmt;
use ring::hmac;

/// The authorization field, which is made of a [`Signature`] and therefore never part of it (W-53.2).
const AUTHORIZATION: &[u8] = b"x-ms-azure-host-authorization";

/// Scheme name at the beginning of the authorization field's value (W-61).
pub const SCHEME: &str = "Azure-HMAC-SHA256";

/// Guid and key as one value, so that a rotation can never pair the one with a new other (W-61, S-32).
///
/// The key is held as ring's prepared HMAC state. ring does not overwrite that state when it is dropped; the raw key ([`Key`])
/// is overwritten, and a signer lives only as long as the policies that use it.
pub struct Signer {
    guid: KeyGuid,
    prefix: Box<[u8]>,
    key: hmac::Key,
}

impl Signer {
    /// Prepares the key schedule once for all requests.
    #[must_use]
    pub fn new(guid: KeyGuid, key: &Key) -> Self {
        let prefix = format!("{SCHEME} {guid} ").into_bytes().into_boxed_slice();
        Self { prefix, guid, key: hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()) }
    }

    /// Which key it is.
    #[must_use]
    pub const fn guid(&self) -> &KeyGuid {
        &self.guid
    }

    /// The authorization field's value up to the signature: scheme, blank, guid, blank (W-61). The value is this followed by
    /// [`Signature::as_bytes`].
    #[must_use]
    pub const fn authorization_prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Signs a request as it will be sent (W-52 to W-59).
    ///
    /// `target` is the request target as received with the fragment cut off, in any of its forms (W-54). `fields` are in message
    /// order and raw: names in any letter case, values with whatever blanks surround them; the authorization field is left out
    /// here. `body` is the content after removal of any transfer coding.
    ///
    /// Nothing is allocated for up to 104 fields and 64 query parameters (the limit of PX-17 plus our own fields).
    #[must_use]
    pub fn sign<'a>(
        &self,
        method: &[u8],
        target: &[u8],
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        body: &[u8],
    ) -> Signature {
        let mut mac = hmac::Context::with_key(&self.key);
        canonical::write(&mut mac, method, target, fields, body);
        Signature::from_tag(mac.sign().as_ref())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("guid", &self.guid).finish_non_exhaustive()
    }
}

/// 64 lower-case hex digits (W-59). It must appear nowhere but in the request's authorization field (SEC-08), so it can be
/// neither printed nor compared.
pub struct Signature([u8; Self::LEN]);

impl Signature {
    /// Its length in bytes.
    pub const LEN: usize = 64;

    fn from_tag(tag: &[u8]) -> Self {
        let mut hex = [b'0'; Self::LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(tag) {
            pair.copy_from_slice(&key::hex_digits(*byte));
        }
        Self(hex)
    }

    /// The digits.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// The text that [`Signer::sign`] feeds to the MAC, by the same code. For tests and tools: a daemon never has it in one piece.
#[cfg(any(test, feature = "replay"))]
#[must_use]
pub fn string_to_sign<'a>(
    method: &[u8],
    target: &[u8],
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    body: &[u8],
) -> Vec<u8> {
    let mut text = Vec::new();
    canonical::write(&mut text, method, target, fields, body);
    text
}

/// Whether a request is one of the two uploads that are neither signed nor, for an elevated caller, looked at by rules (W-65).
///
/// The method is compared exactly, the complete target without regard to letter case: nothing may be missing or extra.
#[must_use]
pub fn is_exempt(method: &[u8], target: &[u8]) -> bool {
    match method {
        b"PUT" => target.eq_ignore_ascii_case(b"/vmagentlog"),
        b"POST" => target.eq_ignore_ascii_case(b"/machine/?comp=telemetrydata"),
        _ => false,
    }
}
