//! What was learned, from how much, and what was not.

use super::observe::Ask;
use crate::advise::layout;
use crate::advise::recording::{Place, Recorded};
use crate::authz::Document;
use crate::identity::Destination;
use crate::time::Wall;
use core::fmt;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a recording taught.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lesson {
    /// Requests that were looked at.
    pub requests: u64,
    /// One document for each destination that has rules.
    pub documents: Vec<Learned>,
    /// Requests that no rule stands for.
    #[serde(serialize_with = "values")]
    pub left_out: BTreeMap<LeftOutKey, LeftOut>,
}

type LeftOutKey = (Option<Destination>, Why, String);

fn values<S: Serializer, K, V: Serialize>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(map.values())
}

/// The document of one destination.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Learned {
    /// Whose.
    #[serde(serialize_with = "destination")]
    pub destination: Destination,
    /// The document is to be written as a local rule file.
    pub local: bool,
    /// The document.
    pub document: Document,
    /// What it allows to whom, and how many requests say so.
    pub grants: Vec<Grant>,
    /// Where it says more than the recording did.
    pub notes: Vec<String>,
    /// Requests that it denies although it was made of them: always 0.
    pub missed: u64,
}

fn destination<S: Serializer>(destination: &Destination, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(destination.name())
}

/// One privilege of one identity.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The identity's name.
    pub identity: String,
    /// Its account; `None`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its program; `None`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The privilege's name.
    pub privilege: String,
    /// The endpoints that were asked.
    pub destinations: BTreeSet<&'static str>,
    /// Path and parameters.
    pub allows: String,
    /// Requests that it stands for.
    pub requests: u64,
    /// Of them, those that the host answered with success or a redirect.
    pub answered: u64,
    /// Of them, those that rules denied when they were recorded.
    pub denied: u64,
    /// The earliest of them.
    #[serde(serialize_with = "stamp", skip_serializing_if = "Option::is_none")]
    pub first: Option<Wall>,
    /// The latest of them.
    #[serde(serialize_with = "stamp", skip_serializing_if = "Option::is_none")]
    pub last: Option<Wall>,
    /// What the program ran, if it is an interpreter.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub scripts: BTreeSet<String>,
    /// How far the privilege is wider than what was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wider: Option<String>,
}

fn stamp<S: Serializer>(wall: &Option<Wall>, serializer: S) -> Result<S::Ok, S::Error> {
    match wall {
        Some(wall) => serializer.collect_str(&wall.stamp()),
        None => serializer.serialize_none(),
    }
}

/// Requests that no rule stands for, of one caller and for one reason.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// The endpoint; empty if it is none that is guarded.
    pub destination: &'static str,
    /// Why.
    pub why: String,
    /// Whether no rule could ever allow them.
    pub never: bool,
    /// Who asked.
    pub caller: String,
    /// How many.
    pub requests: u64,
    /// One of them.
    pub example: String,
    /// Where the first of them is.
    pub line: String,
}

/// Why a request has no rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It needs none.
    Exempt,
    /// Not one of the guarded endpoints.
    Destination,
    /// Only elevated callers get there, whatever rules say.
    Elevation,
    /// Nobody knows who asked.
    NoCaller,
    /// No method that the agent forwards.
    Method,
    /// `..` or `//` (PX-44).
    Traversal,
    /// No canonical form, or an ambiguous one.
    Canonical(&'static str),
    /// The agent refused it before it came to a decision.
    Undecided,
    /// A parameter that says what is asked for has several values.
    Conflicting(String),
    /// The parameter that says what is asked for is missing.
    Incomplete(&'static str),
    /// The log has only a part of the target.
    Shortened,
    /// The name of the account cannot stand in a document.
    Name,
    /// Rules denied it, and were enforced.
    Denied,
    /// Fewer requests than were asked for.
    Rare(u64),
}

impl Why {
    /// Whether no rule could ever allow such a request.
    #[must_use]
    pub const fn never(&self) -> bool {
        matches!(
            self,
            Self::Destination
                | Self::Elevation
                | Self::NoCaller
                | Self::Method
                | Self::Traversal
                | Self::Canonical(_)
                | Self::Undecided
        )
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exempt => f.write_str("needs no rule: exempt for root"),
            Self::Destination => f.write_str("not one of the guarded endpoints"),
            Self::Elevation => f.write_str("only root gets there, whatever rules say"),
            Self::NoCaller => f.write_str("nobody knows who asked"),
            Self::Method => f.write_str("a method that the agent does not forward"),
            Self::Traversal => f.write_str("\"..\" or \"//\" in the path"),
            Self::Canonical(code) => write!(f, "the target has no form that is safe to compare ({code})"),
            Self::Undecided => f.write_str("refused before it came to a decision"),
            Self::Conflicting(name) => write!(f, "{name} is given with different values; a rule would have to allow any"),
            Self::Incomplete(name) => {
                write!(f, "{name} is missing, without which the host has no answer; a rule would open all of it")
            }
            Self::Shortened => f.write_str("the log has only a part of the target"),
            Self::Name => f.write_str("the account has no name that a document could have"),
            Self::Denied => f.write_str("rules denied it, and were enforced (--denied learns it, too)"),
            Self::Rare(least) => write!(f, "fewer than {least} requests"),
        }
    }
}

impl Lesson {
    pub(super) fn leave_out(&mut self, recorded: &Recorded, why: Why) {
        let destination = recorded.destination();
        let caller = caller(&recorded.caller.user, &recorded.caller.program.to_string());
        self.add(destination, why, caller, 1, format!("{} {}", recorded.method, recorded.url), Some(&recorded.line));
    }

    pub(super) fn leave_out_many(&mut self, destination: Destination, ask: &Ask, why: Why) {
        let caller = caller(&ask.caller.user, &ask.caller.program.to_string());
        self.add(Some(destination), why, caller, ask.requests, format!("{} {}", ask.method, ask.url), None);
    }

    fn add(&mut self, to: Option<Destination>, why: Why, caller: String, count: u64, example: String, line: Option<&Place>) {
        let key = (to, why, caller);
        let new = LeftOut {
            destination: to.map_or("", Destination::name),
            why: key.1.to_string(),
            never: key.1.never(),
            caller: key.2.clone(),
            requests: 0,
            example,
            line: line.map(Place::to_string).unwrap_or_default(),
        };
        self.left_out.entry(key).or_insert(new).requests += count;
    }
}

fn caller(user: &str, program: &str) -> String {
    match (user, program) {
        ("", "") => "unknown".to_owned(),
        (user, "") => user.to_owned(),
        (user, program) => format!("{user} with {program}"),
    }
}

impl Learned {
    /// The document as text: a document of the host, or a local rule file.
    #[must_use]
    pub fn text(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Local<'a> {
            default_access: &'a str,
            id: &'a str,
            rules: &'a Option<crate::authz::RuleLists>,
        }
        let Document { default_access, id, rules, .. } = &self.document;
        if self.local { layout::document(&Local { default_access, id, rules }) } else { layout::document(&self.document) }
    }
}

/// For people. Texts from outside are as they are: whoever prints it makes them harmless.
impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let identities: BTreeSet<&str> = self.grants.iter().map(|grant| grant.identity.as_str()).collect();
        let privileges: BTreeSet<&str> = self.grants.iter().map(|grant| grant.privilege.as_str()).collect();
        let requests: u64 = self.grants.iter().map(|grant| grant.requests).sum();
        write!(f, "{}: {} for ", self.destination.name(), plural(privileges.len(), "privilege"))?;
        writeln!(
            f,
            "{} from {requests} requests",
            identities.len().to_string() + if identities.len() == 1 { " caller" } else { " callers" }
        )?;
        let mut last = "";
        for grant in &self.grants {
            if grant.identity != last {
                last = &grant.identity;
                let user = grant.user.as_deref().map_or("any user".to_owned(), |user| format!("user {user}"));
                let program = grant.program.as_deref().unwrap_or("any program");
                writeln!(f, "  {last}: {user}, {program}")?;
            }
            write!(f, "  {:>7}  {}", grant.requests, grant.allows)?;
            if !grant.destinations.contains(self.destination.name()) {
                for name in &grant.destinations {
                    write!(f, "  ({name})")?;
                }
            }
            match (grant.requests, grant.answered) {
                (_, 0) => f.write_str("  (the host never had an answer)")?,
                (requests, answered) if answered < requests => write!(f, "  ({answered} answered)")?,
                _ => {}
            }
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        if self.missed > 0 {
            writeln!(f, "  ERROR: {} of these requests would be denied; please report this", self.missed)?;
        }
        Ok(())
    }
}

impl fmt::Display for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for learned in &self.documents {
            write!(f, "{learned}")?;
        }
        if !self.left_out.is_empty() {
            writeln!(f, "No rule for:")?;
        }
        for out in self.left_out.values() {
            let to = if out.destination.is_empty() { String::new() } else { format!(" to {}", out.destination) };
            writeln!(f, "  {:>7}  {}{to}: {}", out.requests, out.caller, out.why)?;
            let line = if out.line.is_empty() { String::new() } else { format!("  ({})", out.line) };
            writeln!(f, "           such as {}{line}", out.example)?;
        }
        Ok(())
    }
}
