//! What is expected of a call, and whether it came out so. Knows the host's records; prints nothing.

use sandbox::Record;

use crate::call::Seen;

/// What a call must come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Status code that the client gets.
    pub(crate) status: u16,
    /// Whom the client believes to speak to.
    pub(crate) peer: &'static str,
    /// What the host sees.
    pub(crate) host: AtHost,
}

/// What the host sees of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtHost {
    /// One request whose signature it has verified, with these claims.
    Signed { root: bool },
    /// One request, which it refuses because it is not signed.
    Refused,
    /// Nothing.
    Nothing,
}

/// What came of it, in words.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// What the host saw.
    pub(crate) text: String,
    /// The same for a table.
    pub(crate) short: String,
    /// What is not as expected; empty if all is well.
    pub(crate) wrong: Vec<String>,
}

/// One line of the summary.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) caller: &'static str,
    pub(crate) asks: &'static str,
    pub(crate) status: u16,
    pub(crate) host: String,
    pub(crate) wrong: Vec<String>,
}

/// Holds what was seen against what is expected.
pub(crate) fn judge(seen: &Seen, expected: Expected) -> Verdict {
    let mut wrong = Vec::new();
    if seen.status != expected.status {
        wrong.push(format!("status {} instead of {}", seen.status, expected.status));
    }
    if seen.peer != expected.peer {
        wrong.push(format!("the client believes to speak to {:?} instead of {}", seen.peer, expected.peer));
    }
    let (found, text, short) = match seen.host.as_slice() {
        [] => (Some(AtHost::Nothing), "received nothing".to_owned(), "nothing".to_owned()),
        [one] => read(one),
        several => (None, format!("received {} requests", several.len()), format!("{} requests", several.len())),
    };
    if found != Some(expected.host) {
        wrong.push(format!("the host should have seen: {:?}", expected.host));
    }
    Verdict { text, short, wrong }
}

fn read(record: &Record) -> (Option<AtHost>, String, String) {
    let Record { verified, status, .. } = record;
    let key = record.guid.as_deref().and_then(|guid| guid.get(..8)).unwrap_or("none");
    let root = match record.claims.as_deref() {
        Some("{ \"isRoot\": \"true\"}") => Some(true),
        Some("{ \"isRoot\": \"false\"}") => Some(false),
        _ => None,
    };
    match (verified.as_str(), root) {
        ("signed", Some(root)) => (
            Some(AtHost::Signed { root }),
            format!("received it; signature verified with key {key}…, claims {{ \"isRoot\": \"{root}\"}}"),
            format!("signature verified, root {root}"),
        ),
        ("refused:unsigned", _) => (
            Some(AtHost::Refused),
            format!("received it, and refused it with {status} because there is no signature"),
            "no signature, refused".to_owned(),
        ),
        (other, _) => (None, format!("received it: {other}"), other.to_owned()),
    }
}

/// What is wrong with the fields of a request to which its sender had added forged ones: the agent's own must be there once,
/// the others not at all (PX-75, SEC-B4).
pub(crate) fn forged_fields(record: &Record) -> Vec<String> {
    let expected = [
        ("x-ms-azure-host-claims", 1),
        ("x-ms-azure-host-date", 1),
        ("x-ms-azure-host-authorization", 1),
        ("x-ms-azure-signature", 0),
    ];
    let count = |name: &str| record.headers.iter().filter(|header| header.eq_ignore_ascii_case(name)).count();
    let wrong = expected.iter().filter(|(name, times)| count(name) != *times);
    wrong.map(|(name, times)| format!("{name} arrived {} times instead of {times}", count(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: u16, verified: &str, claims: &str) -> Seen {
        let record = Record { verified: verified.into(), claims: Some(claims.into()), ..Record::default() };
        Seen { status, peer: "a:80".into(), host: vec![record], ..Seen::default() }
    }

    #[test]
    fn a_demo_that_goes_wrong_says_so() {
        let expected = Expected { status: 200, peer: "a:80", host: AtHost::Signed { root: false } };
        let (no, yes) = ("{ \"isRoot\": \"false\"}", "{ \"isRoot\": \"true\"}");
        assert!(judge(&seen(200, "signed", no), expected).wrong.is_empty());
        for (bad, why) in [
            (seen(200, "signed", yes), "claims"),
            (seen(200, "wrong:signature does not match", no), "signature"),
            (seen(403, "signed", no), "status"),
            (Seen { peer: "127.0.0.1:3080".into(), ..seen(200, "signed", no) }, "address"),
            (Seen { host: Vec::new(), ..seen(200, "signed", no) }, "nothing arrived"),
        ] {
            assert_eq!(judge(&bad, expected).wrong.len(), 1, "{why}");
        }
    }

    #[test]
    fn a_forged_field_that_arrives_is_noticed() {
        let own = ["x-ms-azure-host-claims", "x-ms-azure-host-date", "X-MS-Azure-Host-Authorization"];
        let mut record = Record { headers: own.map(Into::into).into(), ..Record::default() };
        assert!(forged_fields(&record).is_empty());
        record.headers.push("X-Ms-Azure-Signature".into());
        record.headers.push("x-ms-azure-host-claims".into());
        assert_eq!(forged_fields(&record).len(), 2);
    }
}
