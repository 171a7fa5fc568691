//! The traversal guard (PX-44, PX-45): runs for every request, with and without a document.

use crate::sign::target::Target;

/// The raw path of a request target: what the guard looks at, and what is signed and authorized. Without scheme, authority and
/// query; empty if an absolute-form target has none.
#[must_use]
pub fn raw_path(target: &[u8]) -> &[u8] {
    Target::split(target).path
}

/// Whether a raw request path must be refused: it contains `//`, or `..` after percent-decoding once (PX-44).
///
/// Invalid escapes are left alone. Allocates nothing.
#[must_use]
pub fn traversal_guard(raw_path: &[u8]) -> bool {
    let mut rest = raw_path;
    let (mut slash, mut dot) = (false, false);
    while let Some((first, tail)) = rest.split_first() {
        let decoded = match rest {
            // The only escape that matters: an encoded dot.
            [b'%', b'2', b'e' | b'E', after @ ..] => {
                rest = after;
                b'.'
            }
            _ => {
                rest = tail;
                *first
            }
        };
        // Slashes count as they stand in the raw path; an encoded one passes (PX-45).
        if (slash && decoded == b'/') || (dot && decoded == b'.') {
            return true;
        }
        (slash, dot) = (decoded == b'/', decoded == b'.');
    }
    false
}
