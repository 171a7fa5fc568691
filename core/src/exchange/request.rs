//! One of the agent's own calls, ready to be sent: the fields of W-08 to W-15, and the signature where one is due.

use crate::identity::Destination;
use crate::sign::Signer;
use crate::time::Wall;
use bytes::Bytes;
use core::fmt;

/// What a call says beyond the fields that every call carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// Whom.
    pub(crate) to: Destination,
    /// Request method.
    pub(crate) method: &'static str,
    /// Origin-form target; made of our own constants and validated guids only.
    pub(crate) target: &'a str,
    /// Fields of this call (W-12, W-13, `Content-Type`), in the order in which they are sent.
    pub(crate) fields: &'a [(&'static str, &'static str)],
    /// Content.
    pub(crate) body: &'static [u8],
}

/// A complete request of the agent itself to a host endpoint. A shell opens a connection to [`HostRequest::destination`] that is
/// exempt from the redirect (W-06) and lets an [`Exchange`](super::Exchange) talk.
///
/// `Debug` shows method and target and nothing else: the head may carry a signature (SEC-08).
#[derive(Clone, PartialEq, Eq)]
pub struct HostRequest {
    destination: Destination,
    method: &'static str,
    target: Box<str>,
    /// Request line and fields, with the empty line.
    head: Bytes,
    body: &'static [u8],
}

impl HostRequest {
    /// Writes the head: `date` is the synchronized time (W-08), `signer` is given for calls that are signed (W-14, W-15).
    pub(crate) fn new(call: &Call<'_>, date: Wall, signer: Option<&Signer>) -> Self {
        let date = date.http_date();
        let host = call.to.addr().ip().to_string();
        let length = call.body.len().to_string();
        let common: [(&str, &[u8]); 4] = [
            ("x-ms-azure-host-date", date.as_bytes()),
            ("host", host.as_bytes()),
            ("x-ms-azure-host-claims", br#"{ "isRoot": "true"}"#),
            ("content-length", length.as_bytes()),
        ];
        let fields = common.into_iter().chain(call.fields.iter().map(|(name, value)| (*name, value.as_bytes())));

        let mut head = Vec::with_capacity(512);
        for part in [call.method, " ", call.target, " HTTP/1.1\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
        for (name, value) in fields.clone() {
            line(&mut head, name, &[value]);
        }
        if let Some(signer) = signer {
            let fields = fields.map(|(name, value)| (name.as_bytes(), value));
            let signature = signer.sign(call.method.as_bytes(), call.target.as_bytes(), fields, call.body);
            line(&mut head, "x-ms-azure-host-authorization", &[signer.authorization_prefix(), signature.as_bytes()]);
        }
        head.extend_from_slice(b"\r\n");
        Self { destination: call.to, method: call.method, target: call.target.into(), head: head.into(), body: call.body }
    }

    /// Whom to call.
    #[must_use]
    pub const fn destination(&self) -> Destination {
        self.destination
    }

    /// Request method.
    #[must_use]
    pub const fn method(&self) -> &'static str {
        self.method
    }

    /// Request target.
    #[must_use]
    pub const fn target(&self) -> &str {
        &self.target
    }

    /// Request line and fields as they are sent, with the empty line at the end. May carry a signature: not for logs.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Content.
    #[must_use]
    pub const fn body(&self) -> &'static [u8] {
        self.body
    }
}

impl fmt::Debug for HostRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostRequest({} {} {})", self.destination.name(), self.method, self.target)
    }
}

fn line(head: &mut Vec<u8>, name: &str, value: &[&[u8]]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    for part in value {
        head.extend_from_slice(part);
    }
    head.extend_from_slice(b"\r\n");
}
