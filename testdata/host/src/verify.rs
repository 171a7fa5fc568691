//! Is this request what the key's holder signed, and are the protected headers whole? (W-53, W-57, W-59 to W-66, SEC-B4)
//!
//! The body is streamed through; nothing is decided before its end.

use hmac::Mac;

use crate::date;
use crate::http::Head;
use crate::signature::{self, AUTHORIZATION, CLAIMS, DATE, Hmac256, SCHEME};

/// How far the date of a request may be off, in seconds, either way.
pub const WINDOW: i64 = 300;
/// Headers that the agent removes in every case (PX-75).
const FORBIDDEN: [&str; 2] = ["x-ms-azure-signature", "x-ms-azure-time-tick"];

/// What a request needs (W-15 to W-22, W-65).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Never signed: the two requests by which a key is obtained.
    Never,
    /// Exempt (W-65): claims and date, but no signature.
    Exempt,
    /// A signature with an attested key.
    Signature,
    /// A signature with the key whose guid is in the path.
    Attestation,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Properly signed.
    Signed,
    /// Needs no signature and has none.
    Exempt,
    /// Has no signature.
    Unsigned,
    /// Has something that is not right.
    Wrong(&'static str),
}

/// The protected headers of a request; only the last of each is looked at.
#[derive(Debug)]
pub struct Protected {
    /// Claims value, as text.
    pub claims: Option<String>,
    /// Guid named in the authorization header.
    pub guid: Option<String>,
}

impl Protected {
    /// Reads them, without judging.
    pub fn of(head: &Head) -> Self {
        let last = |name| head.values(name).last().map(|v| String::from_utf8_lossy(v).into_owned());
        let guid = last(AUTHORIZATION).and_then(|a| a.split(' ').nth(1).map(str::to_owned));
        Self { claims: last(CLAIMS), guid }
    }
}

/// A verification under way.
#[derive(Debug)]
pub enum Check {
    /// Already decided by the head.
    Decided(Verdict),
    /// Waits for the body: the MAC so far, and the signature in the message.
    Running(Box<Hmac256>, Vec<u8>),
}

impl Check {
    /// Looks at the head. `key` finds the key of a guid if it may be used for this request; `now` is the host's time in
    /// seconds since 1970.
    pub fn begin(head: &Head, need: Need, now: i64, key: impl FnOnce(&str) -> Option<Vec<u8>>) -> Self {
        match Self::examine(head, need, now, key) {
            Ok(check) => check,
            Err(why) => Self::Decided(Verdict::Wrong(why)),
        }
    }

    fn examine(head: &Head, need: Need, now: i64, key: impl FnOnce(&str) -> Option<Vec<u8>>) -> Result<Self, &'static str> {
        if FORBIDDEN.iter().any(|name| head.values(name).next().is_some()) {
            return Err("a header that the agent must remove");
        }
        let authorization = single(head, AUTHORIZATION, "several authorization headers")?;
        let claims = single(head, CLAIMS, "several claims headers")?;
        let date = single(head, DATE, "several date headers")?;
        if let Some(claims) = claims
            && claims != b"{ \"isRoot\": \"true\"}"
            && claims != b"{ \"isRoot\": \"false\"}"
        {
            return Err("claims are not of the known form");
        }
        if let Some(date) = date {
            let date = std::str::from_utf8(date).ok().and_then(date::parse).ok_or("date is not of the known form")?;
            if (date - now).abs() > WINDOW {
                return Err("date outside the window");
            }
        }
        let authorization = match (need, authorization) {
            (Need::Never | Need::Exempt, None) => return Ok(Self::Decided(Verdict::Exempt)),
            (Need::Never | Need::Exempt, Some(_)) => return Err("authorization on an exempt request"),
            (_, None) => return Ok(Self::Decided(Verdict::Unsigned)),
            (_, Some(authorization)) => authorization,
        };
        let (guid, mac) = take_apart(authorization).ok_or("authorization is not of the known form")?;
        if claims.is_none() || date.is_none() {
            return Err("claims or date missing");
        }
        let key = key(guid).ok_or("key not accepted")?;
        let mut running = signature::mac(&key);
        running.update(&signature::before_body(head.method()));
        Ok(Self::Running(Box::new(running), mac))
    }

    /// Takes the next piece of the decoded body.
    pub fn update(&mut self, body: &[u8]) {
        if let Self::Running(mac, _) = self {
            mac.update(body);
        }
    }

    /// The verdict, at the end of the body.
    pub fn finish(self, head: &Head) -> Verdict {
        match self {
            Self::Decided(verdict) => verdict,
            Self::Running(mut mac, expected) => {
                let fields: Vec<signature::Field<'_>> = head.fields().collect();
                mac.update(&signature::after_body(&fields, head.target()));
                match mac.verify_slice(&expected) {
                    Ok(()) => Verdict::Signed,
                    Err(_) => Verdict::Wrong("signature does not match"),
                }
            }
        }
    }
}

fn single<'a>(head: &'a Head, name: &'a str, several: &'static str) -> Result<Option<&'a [u8]>, &'static str> {
    let mut values = head.values(name);
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(several),
    }
}

/// Guid and signature of an authorization value (W-61). Upper-case digits are refused: the format says lower case (W-59).
fn take_apart(value: &[u8]) -> Option<(&str, Vec<u8>)> {
    let mut parts = std::str::from_utf8(value).ok()?.split(' ');
    let (scheme, guid, mac) = (parts.next()?, parts.next()?, parts.next()?);
    let lower = mac.len() == 64 && !mac.bytes().any(|b| b.is_ascii_uppercase());
    if scheme != SCHEME || guid.is_empty() || !lower || parts.next().is_some() {
        return None;
    }
    Some((guid, signature::from_hex(mac)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_687_330;
    const KEY: &[u8] = &[7; 32];

    /// A request as the agent would send it, with `extra` header lines that are not signed.
    fn request(body: &str, extra: &str, age: i64) -> (Head, String) {
        let date = date::format(NOW - age);
        let fields = [("Host", "168.63.129.16"), (CLAIMS, "{ \"isRoot\": \"true\"}"), (DATE, date.as_str())];
        let bytes: Vec<signature::Field<'_>> = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        let mac = signature::sign(KEY, "PUT", &bytes, b"/a?b=c", body.as_bytes());
        let lines: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let text = format!("PUT /a?b=c HTTP/1.1\r\n{lines}X-MS-Azure-Host-Authorization: {SCHEME} g-1 {mac}\r\n{extra}\r\n");
        let mut head = Head::default();
        head.read(&mut text.as_bytes()).unwrap();
        (head, mac)
    }

    fn verdict(head: &Head, need: Need, body: &str) -> Verdict {
        let mut check = Check::begin(head, need, NOW, |guid| (guid == "g-1").then(|| KEY.to_vec()));
        body.as_bytes().chunks(2).for_each(|piece| check.update(piece));
        check.finish(head)
    }

    #[test]
    fn a_good_signature_over_a_body_in_pieces() {
        assert_eq!(verdict(&request("hello", "", 0).0, Need::Signature, "hello"), Verdict::Signed);
        assert_eq!(verdict(&request("", "", WINDOW).0, Need::Signature, ""), Verdict::Signed);
    }

    #[test]
    fn anything_that_changed_after_signing_is_found() {
        for (extra, body) in [("", "hellO"), ("", "hello "), ("X-New: 1\r\n", "hello")] {
            assert_eq!(
                verdict(&request("hello", extra, 0).0, Need::Signature, body),
                Verdict::Wrong("signature does not match"),
                "{extra}{body}"
            );
        }
    }

    #[test]
    fn protected_headers_must_be_single_and_others_absent() {
        for (extra, why) in [
            ("x-ms-azure-host-claims: { \"isRoot\": \"true\"}\r\n", "several claims headers"),
            ("X-MS-AZURE-HOST-DATE: x\r\n", "several date headers"),
            ("x-ms-azure-host-authorization: x\r\n", "several authorization headers"),
            ("x-ms-azure-signature: x\r\n", "a header that the agent must remove"),
            ("x-ms-azure-time-tick: 1\r\n", "a header that the agent must remove"),
        ] {
            assert_eq!(verdict(&request("", extra, 0).0, Need::Signature, ""), Verdict::Wrong(why));
        }
    }

    #[test]
    fn dates_outside_five_minutes_are_refused() {
        for age in [WINDOW + 1, -WINDOW - 1] {
            assert_eq!(verdict(&request("", "", age).0, Need::Signature, ""), Verdict::Wrong("date outside the window"));
        }
    }

    #[test]
    fn exempt_requests_carry_no_authorization() {
        assert_eq!(verdict(&request("", "", 0).0, Need::Exempt, ""), Verdict::Wrong("authorization on an exempt request"));
        let mut head = Head::default();
        head.read(&mut &b"PUT /vmAgentLog HTTP/1.1\r\n\r\n"[..]).unwrap();
        assert_eq!(verdict(&head, Need::Exempt, "x"), Verdict::Exempt);
        assert_eq!(verdict(&head, Need::Signature, "x"), Verdict::Unsigned);
    }

    #[test]
    fn authorization_form_of_w61() {
        let mac = "a".repeat(64);
        assert!(take_apart(format!("{SCHEME} g {mac}").as_bytes()).is_some());
        for bad in [
            format!("{SCHEME}  g {mac}"),
            format!("{SCHEME} g {}", mac.to_uppercase()),
            format!("{SCHEME} g {mac} "),
            format!("{SCHEME} g {}", &mac[2..]),
            format!("azure-hmac-sha256 g {mac}"),
        ] {
            assert!(take_apart(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
