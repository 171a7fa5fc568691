//! What becomes of a request, and why: every stage, every privilege that has something to say, and the decision.

use crate::authz::canonical::{METHODS, Step, check, trace};
use crate::authz::{self, Allowed, Decision, Denial, Explanation, Match, Near, Request, Rules, Scratch, traversal_guard};
use crate::http::head::Scanned;
use crate::http::target::is_exactly;
use crate::http::{HeadError, HeadScan, RequestHead};
use crate::identity::{Claims, Destination, PerDestination};
use crate::limits::Limits;
use crate::policy::Epoch;
use crate::sign::target::{Form, Target};
use core::fmt;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// A request that nobody has sent.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Method.
    pub method: &'a str,
    /// Request target.
    pub target: &'a str,
    /// Whom the caller asks.
    pub destination: Destination,
    /// Who asks.
    pub claims: &'a Claims,
}

/// What comes before authorization, and ends the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request line cannot be read (PX-15, PX-40).
    Malformed,
    /// The target is too long (PX-16).
    TargetTooLong,
    /// The method is not served (PX-19).
    Method,
    /// The path may lead elsewhere than it says (PX-20, PX-44).
    Traversal,
    /// It is the agent's own endpoint, which it answers itself (PX-46, PX-48).
    OwnEndpoint,
}

impl Refusal {
    /// What the caller gets; `None`: that depends on the endpoint.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::Malformed => Some(400),
            Self::TargetTooLong => Some(414),
            Self::Method => Some(405),
            Self::Traversal => Some(403),
            Self::OwnEndpoint => None,
        }
    }

    /// A stable word for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TargetTooLong => "target-too-long",
            Self::Method => "method",
            Self::Traversal => "traversal",
            Self::OwnEndpoint => "own-endpoint",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the request line cannot be read; the answer is 400",
            Self::TargetTooLong => "the target is too long; the answer is 414",
            Self::Method => "the method is not served; the answer is 405",
            Self::Traversal => "the path has // or, decoded, .. in it, whatever the rules say; the answer is 403",
            Self::OwnEndpoint => "it is an endpoint of the agent, which answers itself",
        })
    }
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Everything that can be said about a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told<'r> {
    /// It does not get as far as authorization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The decision, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation<'r>>,
    /// Whether the decision looked at the canonical form and the privileges at all.
    pub compared: bool,
    /// How the request is brought into its canonical form, up to the error that it has instead.
    pub steps: Vec<Step>,
    /// The privileges that match.
    pub matches: Vec<Match<'r>>,
    /// Those that would with other parameters.
    pub near: Vec<Near<'r>>,
}

impl Told<'_> {
    /// Whether the host gets to see it.
    #[must_use]
    pub fn forwards(&self) -> bool {
        self.decision().is_some_and(|decision| decision.forwards())
    }

    /// `allow`, `audit` or `deny`, as in records; `refused` for what does not get as far, `local` for the agent's own endpoints.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (self.refusal, self.decision()) {
            (Some(Refusal::OwnEndpoint), _) => "local",
            (None, Some(decision)) => decision.word(),
            (Some(_), _) | (None, None) => "refused",
        }
    }

    /// Why: the word of records, or that of the refusal.
    #[must_use]
    pub fn reason(&self) -> String {
        match (self.refusal, self.decision()) {
            (Some(refusal), _) => refusal.word().to_owned(),
            (None, Some(decision)) => decision.reason().to_string(),
            (None, None) => String::new(),
        }
    }

    fn decision(&self) -> Option<Decision> {
        self.explanation.as_ref().map(Explanation::decision)
    }
}

/// Answers a question as the agent would, and says how it came to that.
#[must_use]
pub fn explain<'r>(rules: &'r PerDestination<Option<Arc<Rules>>>, epoch: Epoch, question: Question<'_>) -> Told<'r> {
    let (method, target) = (question.method.as_bytes(), question.target.as_bytes());
    let mut told = Told {
        refusal: refusal(question.method, question.target).err(),
        explanation: None,
        compared: false,
        steps: trace(method, target),
        matches: Vec::new(),
        near: Vec::new(),
    };
    if told.refusal.is_some() {
        return told;
    }
    let request = Request { method, target: target.split(|b| *b == b'#').next().unwrap_or_default() };
    let to = question.destination.addr();
    let explanation = authz::explain(rules, epoch, to, question.claims, request, &mut Scratch::new());
    told.compared = match explanation.decision() {
        Decision::Allow(Allowed::Exempt | Allowed::NoDocument | Allowed::Disabled)
        | Decision::Audit(Denial::Destination | Denial::Elevation)
        | Decision::Deny(Denial::Destination | Denial::Elevation) => false,
        Decision::Allow(Allowed::Privilege(..) | Allowed::Default) | Decision::Audit(_) | Decision::Deny(_) => true,
    };
    told.explanation = Some(explanation);
    if let Some(rules) = rules.get(question.destination).as_deref().filter(|_| told.compared) {
        told.matches = rules.matches(question.claims, request).unwrap_or_default();
        told.near = rules.nearly(request).unwrap_or_default();
    }
    told
}

/// The guarded endpoint of a word: `imds`, `wireserver`, `hostga`, or the name in records; letter case does not matter.
#[must_use]
pub fn destination(word: &str) -> Option<Destination> {
    match word.to_ascii_lowercase().as_str() {
        "imds" => Some(Destination::Imds),
        "wireserver" => Some(Destination::WireServer),
        "hostga" | "hostgaplugin" => Some(Destination::HostGaPlugin),
        _ => None,
    }
}

/// The guarded endpoint that a target in absolute form names. What decides is the address that the caller connects to; people who
/// write down a URL mean that.
#[must_use]
pub fn named_destination(target: &str) -> Option<Destination> {
    let Form::Absolute { authority, .. } = Target::split(target.as_bytes()).form else { return None };
    let alone = [b"http://", authority, b"/"].concat();
    check(b"GET", &alone, &mut Scratch::new()).ok()?.destination()
}

/// What comes before authorization, in the order of proxy.md section 3.
fn refusal(method: &str, target: &str) -> Result<(), Refusal> {
    // As it would be sent, through the reader of what is sent.
    let raw = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n");
    let malformed = |error| match error {
        HeadError::TargetTooLong => Refusal::TargetTooLong,
        HeadError::Malformed | HeadError::TooLarge | HeadError::Http2Preface => Refusal::Malformed,
    };
    let scanned = HeadScan::default().request(raw.as_bytes(), &Limits::DEFAULT).map_err(malformed)?;
    if scanned != Scanned::Complete(raw.len()) {
        return Err(Refusal::Malformed);
    }
    let head = RequestHead::parse(raw.as_bytes(), &mut Vec::new(), Limits::DEFAULT.fields).map_err(malformed)?;
    if !METHODS.contains(&method) {
        return Err(Refusal::Method);
    }
    if traversal_guard(head.path.get(raw.as_bytes())) {
        return Err(Refusal::Traversal);
    }
    let whole = head.whole.get(raw.as_bytes());
    if is_exactly(whole, b"/provision") || is_exactly(whole, b"/gpa-aggregated-status") {
        return Err(Refusal::OwnEndpoint);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
