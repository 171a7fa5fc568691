//! A finished request as JSON: the summary object (PX-81 to PX-96), and the audit record that adds why (design: audit log).
//!
//! Caller-controlled text appears only as JSON strings, so it can forge no line (PX-114).

use crate::authz::{Allowed, Decision, Denial};
use crate::conn::{Details, Summary};
use crate::effect::RecordKind;
use crate::identity::{Claims, Confidence, Destination, Executable, Peer};
use crate::json;
use crate::time::Wall;
use serde::ser::{Serialize, SerializeSeq, SerializeStruct, Serializer};
use std::borrow::Cow;
use std::fmt::{self, Write};

/// Most bytes of `errorDetails` (PX-96), and of `method` and `url`: a denied request costs its sender nothing, and with texts as long
/// as a head may be one user could roll away what the audit log says of everybody else.
const MAX_TEXT: usize = 4096;

/// Appends the summary object (PX-81 to PX-96) as one line of JSON, without line feed.
pub fn write_summary(out: &mut Vec<u8>, summary: &Summary<'_>) {
    write(out, &Line { summary, audit: None });
}

/// Appends the audit record: the summary object's members first, then decision, reason, epoch, connection, identity confidence and time
/// of the decision.
pub fn write_audit(out: &mut Vec<u8>, summary: &Summary<'_>, wall: Wall) {
    write(out, &Line { summary, audit: Some(wall) });
}

/// The log line of a request that rules deny but audit mode forwards (PX-73); belongs at Info. The target has no byte that could
/// forge a line (PX-40).
#[must_use]
pub fn audit_notice(summary: &Summary<'_>) -> Option<String> {
    let (RecordKind::Failed, Some(Decision::Audit(_))) = (summary.kind, summary.decision) else { return None };
    let name = Destination::from_addr(summary.peer.original()?)?.name();
    let target = String::from_utf8_lossy(summary.url);
    let target = cut(&target);
    Some(format!("{name} request {target} denied in audit mode, continue forward the request"))
}

fn write(out: &mut Vec<u8>, line: &Line<'_>) {
    // Writing strings and numbers to memory does not fail; if it did, nothing would stay of the line.
    let _ = json::append(out, line);
}

struct Line<'a> {
    summary: &'a Summary<'a>,
    audit: Option<Wall>,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let s = self.summary;
        let claims = s.peer.claims();
        let mut out = serializer.serialize_struct("Summary", 24)?;
        out.serialize_field("id", &s.request)?;
        out.serialize_field("method", cut(&String::from_utf8_lossy(s.method)))?;
        out.serialize_field("url", cut(&String::from_utf8_lossy(s.url)))?;
        out.serialize_field("clientIp", &Show(s.client.ip()))?;
        out.serialize_field("clientPort", &s.client.port())?;
        match s.peer.original() {
            Some(to) => out.serialize_field("ip", &Show(to.ip()))?,
            None => out.serialize_field("ip", "None")?,
        }
        out.serialize_field("port", &s.peer.original().map_or(0, |to| to.port()))?;
        out.serialize_field("userId", &claims.map_or(0, |c| c.user_id))?;
        out.serialize_field("userName", &claims.map_or(Cow::Borrowed("empty"), |c| c.user_name.lossy()))?;
        out.serialize_field("userGroups", &Groups(claims))?;
        out.serialize_field("processFullPath", &claims.map_or(Cow::Borrowed("empty"), process_path))?;
        out.serialize_field("processCmdLine", claims.map_or("empty", |c| &c.command_line))?;
        out.serialize_field("runAsElevated", &claims.is_some_and(Claims::is_elevated))?;
        out.serialize_field("responseStatus", &Show(s.status))?;
        out.serialize_field("elapsedTime", &u64::try_from(s.elapsed.as_millis()).unwrap_or(u64::MAX))?;
        match s.details {
            Details::None => out.serialize_field("errorDetails", "")?,
            _ => out.serialize_field("errorDetails", cut(&error_details(s)))?,
        }
        if let Some(wall) = self.audit {
            let (decision, reason) = decision_words(s);
            out.serialize_field("decision", decision)?;
            match reason {
                Some(reason) => out.serialize_field("reason", &Show(reason))?,
                None => out.serialize_field("reason", "")?,
            }
            out.serialize_field("epoch", &s.epoch.0)?;
            out.serialize_field("connection", &s.connection)?;
            out.serialize_field("processId", &claims.map_or(0, |c| c.process_id))?;
            out.serialize_field("identity", identity_word(s.peer))?;
            out.serialize_field("elapsedMicros", &u64::try_from(s.elapsed.as_micros()).unwrap_or(u64::MAX))?;
            out.serialize_field("time", &Show(wall.stamp()))?;
        }
        out.end()
    }
}

/// Serializes what prints, without building a `String`.
struct Show<T>(T);

impl<T: fmt::Display> Serialize for Show<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Groups<'a>(Option<&'a Claims>);

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let groups = self.0.map_or(&[][..], |c| &c.user_groups);
        let mut seq = serializer.serialize_seq(Some(groups.len()))?;
        for group in groups {
            seq.serialize_element(&group.lossy())?;
        }
        seq.end()
    }
}

/// `processFullPath` of a record (PX-91, I-28).
fn process_path(claims: &Claims) -> Cow<'_, str> {
    match &claims.executable {
        Executable::Known(path) => path.lossy(),
        Executable::Elsewhere(path) => Cow::Owned(format!("mnt:{}", path.lossy())),
        Executable::Unknown => Cow::Borrowed(""),
    }
}

enum Reason {
    Allowed(Allowed),
    Denied(Denial),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(a) => a.fmt(f),
            Self::Denied(d) => d.fmt(f),
        }
    }
}

fn decision_words(s: &Summary<'_>) -> (&'static str, Option<Reason>) {
    match s.decision {
        Some(Decision::Allow(a)) => ("allow", Some(Reason::Allowed(a))),
        Some(Decision::Audit(d)) => ("audit", Some(Reason::Denied(d))),
        Some(Decision::Deny(d)) => ("deny", Some(Reason::Denied(d))),
        None => ("refused", None),
    }
}

fn identity_word(peer: &Peer) -> &'static str {
    match peer {
        Peer::Redirected { claims, .. } => match claims.confidence {
            Confidence::Verified => "verified",
            Confidence::KernelOnly => "kernel-only",
        },
        Peer::Unidentified { .. } => "underivable",
        Peer::Direct { .. } => "direct",
        Peer::Unknown => "unknown",
    }
}

/// The standard texts PX-97 to PX-103.
fn error_details(s: &Summary<'_>) -> String {
    let mut text = String::new();
    let code = s.decision.and_then(|d| d.denial()).and_then(|d| d.canonical_error());
    let written = match (s.details, s.kind) {
        (Details::None, _) => Ok(()),
        (Details::UnsupportedMethod, _) => {
            write!(text, "Rejected unsupported HTTP method '{}'", String::from_utf8_lossy(s.method))
        }
        (Details::Traversal, _) => write!(text, "Traversal characters found in the request, return FORBIDDEN!"),
        (Details::NoRecord, _) => write!(text, "No remote destination_ip found in the request, return!"),
        (Details::NoClaims, _) => write!(text, "No claims found in the request, return!"),
        (Details::Denied, RecordKind::Failed) => write!(text, "Authorize failed"),
        (Details::Denied, RecordKind::Normal) => {
            let claims = s.peer.claims().map(|c| Identity { claims: c, summary: s });
            write!(text, "Block unauthorized request: {}", serde_json::to_string(&claims).unwrap_or_default())
        }
        (Details::NonAsciiValue, _) => write!(text, "non-ascii header value"),
        (Details::HostFailed(why), _) => write!(text, "Failed to send request to host: {why}"),
        (Details::Text(why), _) => write!(text, "{why}"),
    };
    // Writing to a String does not fail.
    debug_assert!(written.is_ok());
    if let (Details::Denied, Some(code)) = (s.details, code) {
        text.push_str(" error:");
        text.push_str(code.code());
    }
    text
}

/// Cuts at the last character boundary at or before the limit (PX-105).
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text)
}

/// The identity object (I-02 to I-12).
struct Identity<'a> {
    claims: &'a Claims,
    summary: &'a Summary<'a>,
}

impl Serialize for Identity<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (c, s) = (self.claims, self.summary);
        let name = match &c.executable {
            Executable::Known(path) | Executable::Elsewhere(path) => {
                String::from_utf8_lossy(path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default())
            }
            Executable::Unknown => Cow::Borrowed(""),
        };
        let mut out = serializer.serialize_struct("Identity", 10)?;
        out.serialize_field("userId", &c.user_id)?;
        out.serialize_field("userName", &c.user_name.lossy())?;
        out.serialize_field("userGroups", &Groups(Some(c)))?;
        out.serialize_field("processId", &c.process_id)?;
        out.serialize_field("processName", &name)?;
        out.serialize_field("processFullPath", &process_path(c))?;
        out.serialize_field("processCmdLine", &c.command_line)?;
        out.serialize_field("runAsElevated", &c.is_elevated())?;
        out.serialize_field("clientIp", &Show(s.client.ip()))?;
        out.serialize_field("clientPort", &s.client.port())?;
        out.end()
    }
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::reply::Status;
    use crate::identity::RawText;
    use crate::policy::Epoch;
    use core::time::Duration;
    use std::sync::Arc;

    fn peer(path: &[u8]) -> Peer {
        Peer::Redirected {
            to: Destination::Imds.addr(),
            claims: Arc::new(Claims {
                user_id: 1000,
                user_name: RawText::from("alice"),
                user_groups: vec![RawText::from("alice"), RawText::from("docker")],
                process_id: 77,
                executable: Executable::Known(RawText::from(path)),
                command_line: "curl -s -H Metadata:true".into(),
                cgroup: 1,
                confidence: Confidence::Verified,
            }),
        }
    }

    fn summary<'a>(peer: &'a Peer, details: Details) -> Summary<'a> {
        Summary {
            kind: RecordKind::Normal,
            request: 42,
            connection: 7,
            method: b"GET",
            url: b"/metadata/instance?api-version=2021-02-01",
            client: "127.0.0.1:51514".parse().unwrap(),
            peer,
            status: Status::OK,
            elapsed: Duration::from_micros(7_900),
            details,
            decision: Some(Decision::Allow(Allowed::NoDocument)),
            epoch: Epoch(3),
        }
    }

    #[test]
    fn summary_object_px81_to_px96() {
        let peer = peer(b"/usr/bin/curl");
        let mut out = Vec::new();
        write_summary(&mut out, &summary(&peer, Details::None));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"id":42,"method":"GET","url":"/metadata/instance?api-version=2021-02-01","clientIp":"127.0.0.1","clientPort":51514,"ip":"169.254.169.254","port":80,"userId":1000,"userName":"alice","userGroups":["alice","docker"],"processFullPath":"/usr/bin/curl","processCmdLine":"curl -s -H Metadata:true","runAsElevated":false,"responseStatus":"200 OK","elapsedTime":7,"errorDetails":""}"#
        );
    }

    #[test]
    fn hostile_text_stays_one_line_px114_sec_f2() {
        let peer = peer(b"/tmp/a\n{\"id\":1}\xff\x1b[31m");
        let mut out = Vec::new();
        write_audit(&mut out, &Summary { url: b"/\"\r\n", ..summary(&peer, Details::Denied) }, Wall(0));
        let line = String::from_utf8(out).unwrap();
        assert!(!line.contains(['\n', '\r', '\x1b']), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["processFullPath"], "/tmp/a\n{\"id\":1}\u{fffd}\u{1b}[31m");
        assert!(value["errorDetails"].as_str().unwrap().starts_with("Block unauthorized request: {\"userId\":1000,"));
    }

    #[test]
    fn a_long_target_or_method_is_cut_at_a_character_boundary_px82_px83_px105() {
        let peer = peer(b"/usr/bin/curl");
        // The two bytes of the last character that counts would be the 4096th and the 4097th.
        let long = format!("/{}\u{e9}{}", "a".repeat(4094), "b".repeat(60_000));
        for (url, kept) in [(long.as_bytes(), 4095), (&long.as_bytes()[1..], 4096), (&[0xff; 60_000], 4095)] {
            let (mut record, mut audit) = (Vec::new(), Vec::new());
            let summary = Summary { method: url, url, ..summary(&peer, Details::Denied) };
            write_summary(&mut record, &summary);
            write_audit(&mut audit, &summary, Wall(0));
            for line in [record, audit] {
                let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
                for name in ["method", "url"] {
                    let got = value[name].as_str().unwrap();
                    assert_eq!(got.len(), kept, "{name}");
                    assert!(String::from_utf8_lossy(url).starts_with(got), "{name}");
                }
            }
        }
    }

    #[test]
    fn audit_mode_is_said_px73() {
        let peer = peer(b"/usr/bin/curl");
        let audited = Summary {
            kind: RecordKind::Failed,
            decision: Some(Decision::Audit(Denial::Default)),
            ..summary(&peer, Details::Denied)
        };
        let line = "IMDS request /metadata/instance?api-version=2021-02-01 denied in audit mode, continue forward the request";
        assert_eq!(audit_notice(&audited).as_deref(), Some(line));
        assert_eq!(audit_notice(&Summary { kind: RecordKind::Normal, ..audited }), None);
        assert_eq!(audit_notice(&summary(&peer, Details::None)), None);
    }

    #[test]
    fn a_denied_request_is_audited_once_px104() {
        let peer = peer(b"/usr/bin/curl");
        let normal = summary(&peer, Details::Denied);
        assert!(normal.is_audited());
        assert!(!Summary { kind: RecordKind::Failed, ..normal }.is_audited());
        // PX-24 is told as failed only.
        assert!(Summary { kind: RecordKind::Failed, details: Details::NoClaims, ..normal }.is_audited());
    }

    #[test]
    fn without_identity_i19() {
        let mut out = Vec::new();
        write_summary(&mut out, &Summary { status: Status::MISDIRECTED, ..summary(&Peer::Unknown, Details::NoRecord) });
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&value["ip"], &value["port"]), (&"None".into(), &0.into()));
        assert_eq!((&value["userName"], &value["processFullPath"]), (&"empty".into(), &"empty".into()));
        assert_eq!(value["responseStatus"], "421 Misdirected Request");
        assert_eq!(value["errorDetails"], "No remote destination_ip found in the request, return!");
    }
}
