//! A finished request as JSON: the summary object (PX-81 to PX-96), and the audit record that adds why (design: audit log).
//!
//! Caller-controlled text appears only as JSON strings, so it can forge no line (PX-114).

use crate::authz::{Decision, Name, Reason};
use crate::conn::{Details, Steps, Summary};
use crate::effect::RecordKind;
use crate::http::reply::Status;
use crate::identity::{Claims, Confidence, Destination, Executable, KernelRecord, Peer, Route};
use crate::json::{self, Object};
use crate::policy::Epoch;
use crate::refusals::{Refused, Suppressed};
use crate::time::{Stamp, Wall};
use core::net::{Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use serde::Serialize;
use serde::ser::{SerializeSeq, SerializeStruct, Serializer};
use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

mod trace;
pub use trace::{write_system_trace, write_trace, write_trace_text};

/// Longest audit line. Bytes, without line feed. A record that does not fit is written with shorter texts and fewer groups.
pub const MAX_LINE: usize = 32 * 1024;
/// Longest line of [`write_unfinished`]. Bytes, without line feed.
pub const MAX_UNFINISHED: usize = 2000;

/// How long the texts of a record may be.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// `method`, `url`, `errorDetails`. Bytes.
    request: usize,
    /// What is known of the caller. Bytes per text.
    caller: usize,
    /// Number of `userGroups`.
    groups: usize,
    /// Names of the rules that decided. Bytes per name.
    rule: usize,
}

impl Cut {
    /// PX-96; the same for `method` and `url`: a denied request costs its sender nothing, and with texts as long as a head may be one
    /// user could roll away what the audit log says of everybody else.
    const NORMAL: Self = Self { request: 4096, caller: usize::MAX, groups: usize::MAX, rule: 256 };
    /// From long to short; the last fits into [`MAX_UNFINISHED`] whatever has to be escaped.
    const STEPS: [Self; 4] = [
        Self::NORMAL,
        Self { request: 1024, caller: 1024, groups: 64, rule: 256 },
        Self { request: 512, caller: 64, groups: 4, rule: 64 },
        Self { request: 24, caller: 24, groups: 2, rule: 12 },
    ];
}

/// Appends the summary object (PX-81 to PX-96) as one line of JSON, without line feed.
pub fn write_summary(out: &mut Vec<u8>, summary: &Summary<'_>) {
    Line { summary, audit: None, cut: Cut::NORMAL, what: What::Finished }.write(out);
}

/// Appends the audit record: the summary object's members first, then decision, reason, epoch, connection, identity confidence, time
/// and the rule that decided. At most [`MAX_LINE`] bytes.
pub fn write_audit(out: &mut Vec<u8>, summary: &Summary<'_>, wall: Wall) {
    write_fitting(out, MAX_LINE, |cut| Line { summary, audit: Some(wall), cut, what: What::Finished });
}

/// What becomes of a request of which only the intent to forward it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// Nobody will ever tell: the agent ended, or gave the connection up, while the request was with the host.
    Interrupted,
    /// A line with the outcome follows, if the agent lives.
    Pending,
}

impl Unfinished {
    const fn word(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Pending => "pending",
        }
    }

    const fn details(self) -> &'static str {
        match self {
            Self::Interrupted => "the agent ended before the outcome was known",
            Self::Pending => "",
        }
    }
}

/// Appends the audit record of a request that was decided and goes to the host: without status, with `outcome`. At most
/// [`MAX_UNFINISHED`] bytes.
pub fn write_unfinished(out: &mut Vec<u8>, summary: &Summary<'_>, wall: Wall, outcome: Unfinished) {
    write_fitting(out, MAX_UNFINISHED, |cut| Line { summary, audit: Some(wall), cut, what: What::Unfinished(outcome) });
}

/// Appends the audit line that says how many lines before it could not be written.
pub fn write_lost(out: &mut Vec<u8>, lost: u64, wall: Wall) {
    #[derive(Serialize)]
    struct Lost {
        lost: u64,
        reason: &'static str,
        time: Show<Stamp>,
    }
    write(out, &Lost { lost, reason: "the audit log could not be written", time: Show(wall.stamp()) });
}

/// Appends the audit line that says how many refused requests of one user were not written.
pub fn write_suppressed(out: &mut Vec<u8>, suppressed: &Suppressed, wall: Wall) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Line {
        suppressed: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<u32>,
        whose: &'static str,
        reason: &'static str,
        since: Show<Stamp>,
        time: Show<Stamp>,
    }
    let (user_id, whose) = match suppressed.whose {
        Refused::User(id) => (Some(id), "user"),
        Refused::Unknown => (None, "unknown callers"),
        Refused::Others => (None, "other users"),
    };
    let (since, time) = (Show(suppressed.since.stamp()), Show(wall.stamp()));
    write(out, &Line { suppressed: suppressed.count, user_id, whose, reason: "too many refused requests", since, time });
}

/// Appends the audit record of a connection to a guarded endpoint from another network namespace (S-08), which the agent never sees:
/// the summary object's members first, as far as they are known. `wall` is when it connected.
pub fn write_foreign(out: &mut Vec<u8>, record: &KernelRecord, claims: &Arc<Claims>, wall: Wall) {
    let peer = Peer::Redirected { to: record.original, claims: Arc::clone(claims) };
    let summary = Summary {
        kind: RecordKind::Normal,
        request: 0,
        connection: 0,
        method: b"",
        url: b"",
        client: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
        peer: &peer,
        status: Status::OK,
        elapsed: Duration::ZERO,
        details: Details::None,
        decision: None,
        divergence: None,
        epoch: Epoch::default(),
        rules: None,
        forwarded: false,
        steps: Steps::default(),
    };
    let what = What::Foreign(Foreign { refused: record.route == Route::Refused, netns: record.netns });
    write_fitting(out, MAX_LINE, |cut| Line { summary: &summary, audit: Some(wall), cut, what });
}

/// The log line of a request that rules deny but audit mode forwards (PX-73); belongs at Info. The target has no byte that could
/// forge a line (PX-40).
#[must_use]
pub fn audit_notice(summary: &Summary<'_>) -> Option<String> {
    let (RecordKind::Failed, Some(Decision::Audit(_))) = (summary.kind, summary.decision) else { return None };
    let name = Destination::from_addr(summary.peer.original()?)?.name();
    let target = String::from_utf8_lossy(summary.url);
    let target = cut(&target, Cut::NORMAL.request);
    Some(format!("{name} request {target} denied in audit mode, continue forward the request"))
}

/// The log line of a request that rules deny: who asked for what, and by what it was denied. Belongs beside the summary object, as often
/// (PX-108), whose text is fixed and does not name the rule. Bounded, and without a byte that could forge a line: names are quoted.
#[must_use]
pub fn denial_notice(summary: &Summary<'_>) -> Option<String> {
    let (RecordKind::Normal, Some(Decision::Deny(_))) = (summary.kind, summary.decision) else { return None };
    let user = summary.peer.claims().map_or(Cow::Borrowed("unknown"), |claims| claims.user_name.lossy());
    let target = String::from_utf8_lossy(summary.url);
    let why = summary.explanation()?.to_string();
    let (user, target, why) = (cut(&user, Cut::NORMAL.rule), cut(&target, Cut::NORMAL.request), cut(&why, Cut::NORMAL.request));
    Some(format!("Request {} of user {user:?} for {target:?} {why}", summary.request))
}

/// Writes the first form that has room.
fn write_fitting<'a>(out: &mut Vec<u8>, room: usize, line: impl Fn(Cut) -> Line<'a>) {
    let before = out.len();
    for cut in Cut::STEPS {
        out.truncate(before);
        line(cut).write(out);
        if out.len() - before <= room {
            return;
        }
    }
    debug_assert!(false, "the shortest form has room");
}

fn write(out: &mut Vec<u8>, line: &impl Serialize) {
    // Writing strings and numbers to memory does not fail; if it did, nothing would stay of the line.
    let _ = json::append(out, line);
}

struct Line<'a> {
    summary: &'a Summary<'a>,
    audit: Option<Wall>,
    cut: Cut,
    what: What,
}

/// What a line is about.
#[derive(Debug, Clone, Copy)]
enum What {
    /// A request that has ended.
    Finished,
    /// One that has not.
    Unfinished(Unfinished),
    /// A connection that never came here.
    Foreign(Foreign),
}

#[derive(Debug, Clone, Copy)]
struct Foreign {
    refused: bool,
    netns: u64,
}

impl Line<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let s = self.summary;
        let claims = s.peer.claims();
        let Cut { request: long, caller, groups, rule } = self.cut;
        let mut out = Object::begin(out);
        out.number("id", s.request);
        out.text("method", cut(&String::from_utf8_lossy(s.method), long));
        out.text("url", cut(&String::from_utf8_lossy(s.url), long));
        out.shown("clientIp", &s.client.ip());
        out.number("clientPort", s.client.port().into());
        match s.peer.original() {
            Some(to) => out.shown("ip", to.ip()),
            None => out.text("ip", "None"),
        }
        out.number("port", s.peer.original().map_or(0, |to| to.port()).into());
        out.number("userId", claims.map_or(0, |c| c.user_id).into());
        out.text("userName", cut(&claims.map_or(Cow::Borrowed("empty"), |c| c.user_name.lossy()), caller));
        out.list("userGroups");
        for group in claims.map_or(&[][..], |c| &c.user_groups).iter().take(groups) {
            out.item(cut(&group.lossy(), caller));
        }
        out.end_list();
        out.text("processFullPath", cut(&claims.map_or(Cow::Borrowed("empty"), process_path), caller));
        out.text("processCmdLine", cut(claims.map_or("empty", |c| &c.command_line), caller));
        out.flag("runAsElevated", claims.is_some_and(Claims::is_elevated));
        match self.what {
            What::Finished => out.shown("responseStatus", &s.status),
            What::Unfinished(_) | What::Foreign(_) => out.text("responseStatus", ""),
        }
        out.number("elapsedTime", u64::try_from(s.elapsed.as_millis()).unwrap_or(u64::MAX));
        match (self.what, s.details) {
            (What::Unfinished(outcome), _) => out.text("errorDetails", outcome.details()),
            (_, Details::None) => out.text("errorDetails", ""),
            _ => out.text("errorDetails", cut(&error_details(s), long)),
        }
        if let Some(wall) = self.audit {
            match (self.what, s.decision) {
                (What::Foreign(foreign), _) => {
                    out.text("decision", if foreign.refused { "refused" } else { "passed" });
                    out.text("reason", "another network namespace");
                }
                (_, Some(decision)) => {
                    out.text("decision", decision.word());
                    out.shown("reason", &decision.reason());
                }
                (_, None) => {
                    out.text("decision", REFUSED);
                    out.text("reason", "");
                }
            }
            out.number("epoch", s.epoch.0);
            out.number("connection", s.connection);
            out.number("processId", claims.map_or(0, |c| c.process_id).into());
            out.text("identity", identity_word(s.peer));
            out.number("elapsedMicros", u64::try_from(s.elapsed.as_micros()).unwrap_or(u64::MAX));
            out.shown("time", &wall.stamp());
            if let Some(explanation) = s.explanation().filter(|explanation| explanation.rule_set().is_some()) {
                out.begin_object("rule");
                explanation.names(&mut |name, value| match value {
                    Name::Text(text) => out.text(name, cut(text, rule)),
                    Name::Number(number) => out.number(name, number.into()),
                    Name::Flag(flag) => out.flag(name, flag),
                });
                out.end_object();
            }
        }
        match self.what {
            What::Finished => {}
            What::Unfinished(outcome) => out.text("outcome", outcome.word()),
            What::Foreign(foreign) => out.number("networkNamespace", foreign.netns),
        }
        out.end();
    }
}

/// Serializes what prints, without building a `String`.
struct Show<T>(T);

impl<T: fmt::Display> Serialize for Show<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

struct Groups<'a>(&'a Claims);

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let groups = &self.0.user_groups;
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

/// The decision's word where none was made.
const REFUSED: &str = "refused";

fn decision_words(s: &Summary<'_>) -> (&'static str, Option<Reason>) {
    s.decision.map_or((REFUSED, None), |decision| (decision.word(), Some(decision.reason())))
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
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
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
        out.serialize_field("userGroups", &Groups(c))?;
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
mod tests;
