//! Authorities of absolute-form targets. Names are never resolved.

use super::CanonError;
use super::decode::digit;
use crate::identity::Destination;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

/// Which guarded endpoint an authority denotes; `None` for any other well-formed one.
pub(super) fn classify(authority: &[u8]) -> Result<Option<Destination>, CanonError> {
    if authority.contains(&b'@') {
        return Err(CanonError::UserInfo);
    }
    let (address, port) = match authority {
        [b'[', rest @ ..] => {
            let close = rest.iter().position(|b| *b == b']').ok_or(CanonError::Host)?;
            let (host, after) = rest.split_at(close);
            let host = core::str::from_utf8(host).map_err(|_| CanonError::Host)?;
            let address: Ipv6Addr = host.parse().map_err(|_| CanonError::Host)?;
            let port = match after {
                [b']'] => None,
                [b']', b':', port @ ..] => Some(port),
                _ => return Err(CanonError::Host),
            };
            (address.to_ipv4_mapped(), port)
        }
        _ => {
            let colon = authority.iter().position(|b| *b == b':');
            let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
            (host_address(host)?, port.get(1..))
        }
    };
    let port = match port {
        None => 80,
        Some(port) => number(port, 10).and_then(|port| u16::try_from(port).ok()).ok_or(CanonError::Port)?,
    };
    Ok(address.and_then(|address| Destination::from_addr(SocketAddrV4::new(address, port))))
}

/// The address that a host without brackets denotes, `None` for a name.
fn host_address(mut host: &[u8]) -> Result<Option<Ipv4Addr>, CanonError> {
    while let [rest @ .., b'.'] = host {
        host = rest;
    }
    if host.is_empty() || !host.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
        return Err(CanonError::Host);
    }
    if !host.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b'x' | b'X' | b'.')) {
        return Ok(None);
    }
    numeric(host).map(Some).ok_or(CanonError::Host)
}

/// 1 to 4 numbers in the traditional style: the last one fills the bytes that remain.
fn numeric(host: &[u8]) -> Option<Ipv4Addr> {
    let mut address: u32 = 0;
    let mut parts = host.split(|b| *b == b'.').peekable();
    for free in [32u32, 24, 16, 8] {
        let value = match parts.next()? {
            [b'0', b'x' | b'X', digits @ ..] if digits.len() <= 8 => number(digits, 16)?,
            [b'0', digits @ ..] if !digits.is_empty() => number(digits, 8)?,
            digits => number(digits, 10)?,
        };
        if parts.peek().is_none() {
            return (u64::from(value) < 1 << free).then(|| Ipv4Addr::from(address | value));
        }
        if value > 255 {
            return None;
        }
        address |= value << (free - 8);
    }
    None
}

/// A number of at least one digit.
fn number(digits: &[u8], radix: u8) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u32, |value, byte| {
        let digit = digit(*byte).filter(|digit| *digit < radix)?;
        value.checked_mul(radix.into())?.checked_add(digit.into())
    })
}
