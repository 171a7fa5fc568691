//! The request signature, as the host computes it (W-52 to W-63).
//!
//! Written from the specification alone and for clarity, not speed: it sorts in trees and builds its text in a vector. It
//! knows no keys' whereabouts and no policy.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// HMAC-SHA-256, the one MAC of this protocol (W-24).
pub type Hmac256 = Hmac<Sha256>;

/// The header that carries the signature (W-61); never signed itself (W-53.2).
pub const AUTHORIZATION: &str = "x-ms-azure-host-authorization";
/// The header that says whether the caller is elevated (W-62).
pub const CLAIMS: &str = "x-ms-azure-host-claims";
/// The header with the time of signing (W-60).
pub const DATE: &str = "x-ms-azure-host-date";
/// The word before guid and signature (W-61).
pub const SCHEME: &str = "Azure-HMAC-SHA256";

/// A header field as received: name and value, the value already without surrounding blanks or not.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// What follows the body in the string to sign (W-52): LF, canonical headers, path, LF, canonical parameters.
///
/// The body comes *before* the headers, so a receiver can stream it into the MAC and append this at the end.
pub fn after_body(headers: &[Field<'_>], target: &[u8]) -> Vec<u8> {
    let mut text = vec![b'\n'];
    let mut by_name: BTreeMap<Vec<u8>, &[u8]> = BTreeMap::new();
    for (name, value) in headers {
        // W-53.5: the map keeps the value that comes last.
        by_name.insert(name.to_ascii_lowercase(), value);
    }
    by_name.remove(AUTHORIZATION.as_bytes());
    for (name, value) in by_name {
        text.extend_from_slice(&name);
        text.push(b':');
        text.extend_from_slice(trim(value));
        text.push(b'\n');
    }
    let (path, parameters) = canonical_target(target);
    text.extend_from_slice(&path);
    text.push(b'\n');
    text.extend_from_slice(&parameters);
    text
}

/// The whole string to sign (W-52).
pub fn string_to_sign(method: &str, headers: &[Field<'_>], target: &[u8], body: &[u8]) -> Vec<u8> {
    let mut text = before_body(method);
    text.extend_from_slice(body);
    text.extend_from_slice(&after_body(headers, target));
    text
}

/// What precedes the body in the string to sign: the method and LF.
pub fn before_body(method: &str) -> Vec<u8> {
    format!("{method}\n").into_bytes()
}

/// Path (W-54) and parameters (W-55) of a request target.
pub fn canonical_target(target: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let target = target.split(|&b| b == b'#').next().unwrap_or_default();
    let (before_query, query) = match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &[][..]),
    };
    let path = match authority_start(before_query) {
        Some(start) => match before_query[start..].iter().position(|&b| b == b'/') {
            Some(slash) => &before_query[start + slash..],
            None => &[][..],
        },
        None => before_query,
    };
    let path = if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
    (path, canonical_parameters(query))
}

/// Where the authority of an absolute-form target begins; `None` for every other form.
fn authority_start(target: &[u8]) -> Option<usize> {
    let colon = target.iter().position(|&b| b == b':')?;
    let scheme_is_token = target[..colon].iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b));
    (colon > 0 && scheme_is_token && target[colon..].starts_with(b"://")).then_some(colon + 3)
}

fn canonical_parameters(query: &[u8]) -> Vec<u8> {
    // Sort key = name immediately followed by value; of two equal keys the later survives (W-55.4, W-56).
    let mut sorted: BTreeMap<Vec<u8>, (Vec<u8>, &[u8])> = BTreeMap::new();
    for piece in query.split(|&b| b == b'&') {
        let (name, value) = match piece.iter().position(|&b| b == b'=') {
            Some(at) => (&piece[..at], &piece[at + 1..]),
            None => (piece, &[][..]),
        };
        if name.is_empty() {
            continue;
        }
        let name = name.to_ascii_lowercase();
        sorted.insert([&name, value].concat(), (name, value));
    }
    let printed: Vec<Vec<u8>> = sorted
        .into_values()
        .map(|(name, value)| if value.is_empty() { name } else { [&name, &b"="[..], value].concat() })
        .collect();
    printed.join(&b'&')
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &value[start..end]
}

/// A MAC keyed with `key`, to be fed in pieces.
pub fn mac(key: &[u8]) -> Hmac256 {
    // A block-sized key would be hashed by HMAC anyway, so no length can be refused.
    Hmac256::new_from_slice(key).unwrap_or_else(|_| Hmac256::new(&Default::default()))
}

/// The signature over a complete request, as 64 lower-case hex digits (W-59). For test clients that play the agent.
pub fn sign(key: &[u8], method: &str, headers: &[Field<'_>], target: &[u8], body: &[u8]) -> String {
    let mut mac = mac(key);
    mac.update(&string_to_sign(method, headers, target, body));
    to_hex(&mac.finalize().into_bytes())
}

/// Lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes of an even number of hex digits in either letter case; `None` for anything else (W-50, W-63).
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests;
