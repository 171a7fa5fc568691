//! The audit log as people look at it: which requests, in what words, and how many of a kind.

use super::learn;
use super::recording::{Outcome, Program, Recorded};
use crate::authz::raw_path;
use crate::identity::Destination;
use crate::json;
use crate::time::Wall;
use std::collections::BTreeMap;

/// Which requests to look at. What is not set is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// An account's name, or its user id.
    pub user: Option<String>,
    /// An executable's path, or its last component.
    pub program: Option<String>,
    /// The endpoint.
    pub destination: Option<Destination>,
    /// Any of these; empty: all.
    pub decisions: Vec<Outcome>,
    /// Requests that ended before are left out; so are those that do not say when.
    pub since: Option<Wall>,
}

impl Filter {
    /// Whether the request is to be looked at.
    #[must_use]
    pub fn admits(&self, request: &Recorded) -> bool {
        let caller = &request.caller;
        let user = |user: &String| *user == caller.user || user.parse() == Ok(caller.user_id);
        let program = |wanted: &String| match &caller.program {
            Program::Path(path) | Program::Elsewhere(path) => {
                path == wanted || *wanted == caller.program.to_string() || path.rsplit('/').next() == Some(wanted)
            }
            Program::Unknown => wanted.is_empty(),
        };
        self.user.as_ref().is_none_or(user)
            && self.program.as_ref().is_none_or(program)
            && self.destination.is_none_or(|destination| request.destination() == Some(destination))
            && (self.decisions.is_empty() || self.decisions.contains(&request.decision))
            && self.since.is_none_or(|since| request.time.is_some_and(|time| time >= since))
    }
}

/// The endpoint's name, or the address.
#[must_use]
pub fn destination(request: &Recorded) -> String {
    match (request.destination(), request.to) {
        (Some(destination), _) => destination.name().to_owned(),
        (None, Some(to)) => to.to_string(),
        (None, None) => "-".to_owned(),
    }
}

/// What decided, in a few words: the privilege and whose it was, or the reason.
#[must_use]
pub fn rule(request: &Recorded) -> String {
    let rule = &request.rule;
    match (request.decision, rule.privilege.as_str(), rule.identity.as_str()) {
        (_, "", _) if request.reason.is_empty() => "-".to_owned(),
        (_, "", _) => request.reason.clone(),
        (Outcome::Allow, privilege, "") => privilege.to_owned(),
        (Outcome::Allow, privilege, identity) => format!("{privilege} ({identity})"),
        (_, privilege, _) => format!("{} {privilege}", request.reason),
    }
}

/// A line of the log for programs, still JSON: whatever a terminal would obey is escaped, also in a line that the agent did not write.
#[must_use]
pub fn json_line(line: &[u8]) -> Vec<u8> {
    // In JSON these stand between tokens only.
    let mut out: Vec<u8> =
        line.trim_ascii().iter().map(|byte| if byte.is_ascii_control() && *byte != 0x7f { b' ' } else { *byte }).collect();
    json::escape(&mut out, 0);
    out
}

/// What requests are summed up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Account.
    User,
    /// Executable.
    Program,
    /// Endpoint.
    Destination,
    /// Endpoint and path, without what machines make up.
    Path,
    /// Decision.
    Decision,
}

impl By {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::User, Self::Program, Self::Destination, Self::Path, Self::Decision];

    /// Its name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Program => "program",
            Self::Destination => "dest",
            Self::Path => "path",
            Self::Decision => "decision",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.word() == word)
    }

    fn of(self, request: &Recorded) -> String {
        let or_unknown = |text: String| if text.is_empty() { "(unknown)".to_owned() } else { text };
        match self {
            Self::User => or_unknown(if request.caller.known { request.caller.user.clone() } else { String::new() }),
            Self::Program => or_unknown(request.caller.program.to_string()),
            Self::Destination => destination(request),
            Self::Path => format!(
                "{} {}",
                destination(request),
                learn::lasting_path(&String::from_utf8_lossy(raw_path(request.url.as_bytes())))
            ),
            Self::Decision => request.decision.word().to_owned(),
        }
    }
}

/// How many requests of each kind.
#[derive(Debug, Clone, Default)]
pub struct Top {
    by: Vec<By>,
    kinds: BTreeMap<Vec<String>, Count>,
    total: u64,
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub requests: u64,
    /// Those that rules denied, in whatever mode, and those that were refused.
    pub denied: u64,
}

impl Top {
    /// Of nothing yet.
    #[must_use]
    pub const fn new(by: Vec<By>) -> Self {
        Self { by, kinds: BTreeMap::new(), total: 0 }
    }

    /// Counts a request.
    pub fn add(&mut self, request: &Recorded) {
        let count = self.kinds.entry(self.by.iter().map(|by| by.of(request)).collect()).or_default();
        count.requests += 1;
        count.denied += u64::from(matches!(request.decision, Outcome::Audit | Outcome::Deny | Outcome::Refused));
        self.total += 1;
    }

    /// All requests.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The kinds, most frequent first; a kind is named by what was summed up by, in that order.
    #[must_use]
    pub fn kinds(&self) -> Vec<(&[String], Count)> {
        let mut kinds: Vec<(&[String], Count)> = self.kinds.iter().map(|(kind, count)| (kind.as_slice(), *count)).collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(count.requests));
        kinds
    }
}

/// A bar of `value`, which is `full` at `width` characters; what is not nothing shows something.
#[must_use]
pub fn bar(value: u64, full: u64, width: usize, utf8: bool) -> String {
    const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
    if value == 0 || full == 0 {
        return String::new();
    }
    let parts = if utf8 { 8 } else { 1 };
    let most = u128::from(value.min(full)) * (width as u128) * parts / u128::from(full);
    let filled = usize::try_from(most).unwrap_or(width).max(1);
    if !utf8 {
        return "#".repeat(filled);
    }
    let rest = EIGHTHS.get((filled % 8).wrapping_sub(1)).filter(|_| filled % 8 > 0);
    "█".repeat(filled / 8).chars().chain(rest.copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::recording::{Entry, Reader};
    use serde_json::json;

    fn request(changes: &[(&str, serde_json::Value)]) -> Recorded {
        let mut line = json!({"method": "GET", "url": "/metadata/instance?x", "ip": "169.254.169.254", "port": 80, "userId": 1000,
            "userName": "alice", "processFullPath": "/usr/bin/curl", "decision": "audit", "reason": "not-assigned", "identity": "verified",
            "time": "2026-11-22T02:59:11.025", "rule": {"privilege": "p"}});
        for (name, value) in changes {
            line[*name] = value.clone();
        }
        let mut found = None;
        Reader::new("x").feed(format!("{line}\n").as_bytes(), |entry, _| {
            if let Entry::Request(line) | Entry::Foreign(line) = entry {
                found = Some(line.request);
            }
        });
        found.unwrap()
    }

    #[test]
    fn filters_are_all_to_be_met() {
        let alice = request(&[]);
        let mut filter = Filter {
            user: Some("alice".into()),
            program: Some("curl".into()),
            destination: Some(Destination::Imds),
            decisions: vec![Outcome::Deny, Outcome::Audit],
            since: alice.time,
        };
        assert!(filter.admits(&alice) && Filter::default().admits(&alice));
        filter.program = Some("/usr/bin/curl".into());
        filter.user = Some("1000".into());
        assert!(filter.admits(&alice));
        for (name, value) in [
            ("userId", json!(1001)),
            ("processFullPath", json!("/usr/bin/curl2")),
            ("port", json!(81)),
            ("decision", json!("allow")),
            ("time", json!("2026-11-22T02:59:11.024")),
            ("time", json!("")),
        ] {
            assert!(!filter.admits(&request(&[(name, value)])), "{name}");
        }
    }

    #[test]
    fn requests_in_words() {
        assert_eq!(rule(&request(&[])), "not-assigned p");
        assert_eq!(
            rule(&request(&[("decision", json!("allow")), ("rule", json!({"privilege": "p", "identity": "i"}))])),
            "p (i)"
        );
        assert_eq!(rule(&request(&[("rule", json!(null)), ("reason", json!("default"))])), "default");
        assert_eq!(rule(&request(&[("rule", json!({})), ("reason", json!(""))])), "-");
        assert_eq!(destination(&request(&[("port", json!(81))])), "169.254.169.254:81");
        assert_eq!(destination(&request(&[("ip", json!("None"))])), "-");
    }

    /// SEC-07
    #[test]
    fn sec07_a_foreign_line_is_harmless_and_still_json() {
        let line = " {\"a\":\r\t\"b\u{9b}\u{7f}\u{2028}\"}\r".as_bytes();
        assert_eq!(json_line(line), br#"{"a":  "b\u009b\u007f\u2028"}"#);
    }

    #[test]
    fn the_most_frequent_kind_is_first() {
        let mut top = Top::new(vec![By::User, By::Path]);
        top.add(&request(&[("userName", json!("bob")), ("decision", json!("allow"))]));
        top.add(&request(&[("url", json!("/machine/6f3c9a54-2b1e-4d7c-9f08-5a1be27c4d90/x"))]));
        for url in ["/metadata/instance", "/metadata/instance?api-version=1"] {
            top.add(&request(&[("url", json!(url))]));
        }
        let kinds: Vec<(String, u64, u64)> =
            top.kinds().into_iter().map(|(kind, n)| (kind.join(" "), n.requests, n.denied)).collect();
        let expected =
            [("alice IMDS /metadata/instance", 2, 2), ("alice IMDS /machine/*/x", 1, 1), ("bob IMDS /metadata/instance", 1, 0)];
        assert_eq!(kinds, expected.map(|(kind, requests, denied)| (kind.to_owned(), requests, denied)));
        assert_eq!(top.total(), 4);
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        for (value, utf8, bar_) in [
            (0, true, ""),
            (1, true, "▏"),
            (100, true, "████"),
            (50, true, "██"),
            (55, true, "██▏"),
            (1, false, "#"),
            (75, false, "###"),
        ] {
            assert_eq!(bar(value, 100, 4, utf8), bar_, "{value}");
        }
        assert_eq!(bar(u64::MAX, u64::MAX, 3, true), "███");
    }
}
