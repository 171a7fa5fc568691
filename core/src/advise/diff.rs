//! Two documents of one endpoint compared by what they allow, not by their text.
//!
//! Every rule is about a region of requests (a path with everything below it, and parameters) and a set of callers (some selectors). What
//! two documents decide can differ only if it differs for one of the smallest representatives: a request that is just inside one region,
//! or just inside two that overlap, of a caller with just the selectors of one identity, or none. An allowing rule needs one privilege and
//! one identity, and whatever else is true of a request can only be added; so a request that is allowed by one document and denied by the
//! other has a representative of that kind for which the same holds. The representatives are put before both documents with the daemon's
//! own decision.

use super::learn::{self, SELECTIVE};
use super::recording::{Caller, Outcome, Program, Recorded};
use crate::authz::canonical;
use crate::authz::{Allowed, Decision, Denial, Document, Identity, Mode, Request, Rules, Scratch, decide, raw_path};
use crate::identity::{Claims, Confidence, Destination, Executable, PerDestination};
use core::fmt;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod compare;
#[cfg(test)]
mod tests;

pub use compare::compare;

/// What a change of rules would change.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// The endpoint.
    pub destination: &'static str,
    /// Mode before and after, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<(&'static str, &'static str)>,
    /// What would be decided otherwise when both are enforced.
    pub changes: Vec<Change>,
    /// There is more to compare than was compared.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub incomplete: bool,
    /// What the comparison cannot tell.
    pub notes: Vec<String>,
}

impl Diff {
    /// Whether both documents mean the same, as far as anybody can tell.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.mode.is_none() && self.changes.is_empty() && !self.incomplete
    }
}

/// Requests that would be decided otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Newly allowed, or else newly denied.
    pub allowed: bool,
    /// Whose.
    pub who: String,
    /// Which.
    pub what: String,
    /// Why it was decided as it was.
    pub was: String,
    /// Why it will be decided as it will be.
    pub becomes: String,
    /// Where it stays as it was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

/// For people. Texts from outside are as they are: whoever prints it makes them harmless.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((old, new)) = self.mode {
            let means = match (old, new) {
                ("disabled", "audit") => "rules decided nothing; what they deny will be recorded, and forwarded",
                ("disabled", _) => "rules decided nothing; what they deny will be refused",
                (_, "disabled") => "rules will decide nothing: everything is allowed",
                ("audit", _) => "what the rules deny was recorded and forwarded; it will be refused",
                _ => "what the rules deny was refused; it will be recorded and forwarded",
            };
            writeln!(f, "Mode {old} -> {new}: {means}.")?;
        }
        for (allowed, title) in [(true, "Newly allowed"), (false, "Newly denied")] {
            let mut changes = self.changes.iter().filter(|change| change.allowed == allowed).peekable();
            if changes.peek().is_some() {
                writeln!(f, "{title}:")?;
            }
            for Change { who, what, was, becomes, except, .. } in changes {
                writeln!(f, "  {who}: {what}")?;
                if !except.is_empty() {
                    writeln!(f, "      but not {}", except.join(", nor "))?;
                }
                writeln!(f, "      {was} -> {becomes}")?;
            }
        }
        if self.is_empty() {
            writeln!(f, "Nothing changes: both allow the same to the same.")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

/// The recorded requests that two documents decide differently.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Affected {
    /// Requests to the endpoints that were put before both.
    pub requests: u64,
    /// Requests that were not: to another endpoint, refused before any rule, of an unknown caller, or only partly in the log.
    pub skipped: u64,
    /// Some identity asks for what the audit log does not have (`gid`, `exeSha256`, `cgroupPath`): it was taken for nobody's.
    pub blind: bool,
    /// What would change.
    pub groups: Vec<Group>,
}

/// Requests of one caller for one thing.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Decision under the old rules: `allow`, `audit` or `deny`.
    pub old: &'static str,
    /// Decision under the new ones.
    pub new: &'static str,
    /// Who asked.
    pub who: String,
    /// For what, without what machines make up.
    pub what: String,
    /// How many.
    pub requests: u64,
    /// One of them.
    pub example: String,
}

/// Puts recorded requests to these endpoints before both documents.
#[must_use]
pub fn affected(old: &Document, new: &Document, destinations: &[Destination], requests: &[Recorded]) -> Affected {
    let mut out = Affected { blind: [old, new].into_iter().any(is_blind), ..Affected::default() };
    let [old, new] = [old, new].map(|document| Arc::new(Rules::compile(document).0));
    let [old, new] = [old, new].map(|rules| PerDestination::<()>::default().map(|_, ()| Some(Arc::clone(&rules))));
    let mut scratch = Scratch::new();
    let mut groups: BTreeMap<(&str, &str, String, String), Group> = BTreeMap::new();
    for request in requests {
        let decided = !matches!(request.decision, Outcome::Refused | Outcome::Passed) && request.caller.known;
        let destination = request.destination().filter(|destination| destinations.contains(destination));
        let Some(destination) = destination.filter(|_| decided && !request.may_be_cut()) else {
            out.skipped += 1;
            continue;
        };
        out.requests += 1;
        let claims = request.caller.claims();
        let [before, after] =
            [&old, &new].map(|rules| decide(rules, destination.addr(), &claims, request.request(), &mut scratch).word());
        if before != after {
            let (who, what) = (who(&request.caller), what(request, &mut scratch));
            let group = groups.entry((before, after, who.clone(), what.clone())).or_insert_with(|| Group {
                old: before,
                new: after,
                who,
                what,
                requests: 0,
                example: format!("{} {}", request.method, request.url),
            });
            group.requests += 1;
        }
    }
    out.groups = groups.into_values().collect();
    out.groups.sort_by_key(|group| (severity(group), std::cmp::Reverse(group.requests)));
    out
}

fn is_blind(document: &Document) -> bool {
    let identities = document.rules.iter().flat_map(|lists| lists.identities.iter().flatten());
    identities
        .into_iter()
        .any(|identity| identity.gid.is_some() || identity.exe_sha256.is_some() || identity.cgroup_path.is_some())
}

/// What breaks something first.
fn severity(group: &Group) -> u8 {
    match (group.old, group.new) {
        (_, "deny") => 0,
        ("deny", _) => 1,
        (_, "audit") => 2,
        _ => 3,
    }
}

fn who(caller: &Caller) -> String {
    match &caller.program {
        Program::Unknown => format!("user {} with an unknown program", caller.user),
        program => format!("user {} with {program}", caller.user),
    }
}

/// The path, and the parameters that say what is asked for.
fn what(request: &Recorded, scratch: &mut Scratch) -> String {
    let mut text = learn::lasting_path(&String::from_utf8_lossy(raw_path(request.url.as_bytes())));
    let Request { method, target } = request.request();
    let parameters = canonical::check(method, target, scratch).ok().map(|canonical| {
        let pairs = canonical.parameters().filter(|(name, _)| SELECTIVE.iter().any(|known| known.as_bytes() == *name));
        let pairs = pairs.map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        pairs.collect::<BTreeSet<_>>()
    });
    for (at, pair) in parameters.into_iter().flatten().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(&pair);
    }
    text
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed: u64 = self.groups.iter().map(|group| group.requests).sum();
        writeln!(f, "Of {} recorded requests {changed} would be decided otherwise:", self.requests)?;
        let mut last = ("", "");
        for group in &self.groups {
            if (group.old, group.new) != last {
                last = (group.old, group.new);
                let means = match last {
                    ("allow", "deny") => "allowed, would be refused",
                    ("audit", "deny") => "denied and forwarded, would be refused",
                    ("deny", "allow") => "refused, would be allowed",
                    ("deny", _) => "refused, would be denied and forwarded",
                    ("allow", _) => "allowed, would be denied and forwarded",
                    _ => "denied and forwarded, would be allowed",
                };
                writeln!(f, "  {means}:")?;
            }
            writeln!(f, "  {:>7}  {}: {}", group.requests, group.who, group.what)?;
        }
        if self.blind {
            writeln!(
                f,
                "note: gid, exeSha256 and cgroupPath are not in the audit log; who is told by these was taken for nobody"
            )?;
        }
        if self.skipped > 0 {
            writeln!(f, "{} more are of other endpoints, or were never put before rules.", self.skipped)?;
        }
        Ok(())
    }
}

/// Rules of one endpoint.
fn only(destination: Destination, rules: Rules) -> PerDestination<Option<Arc<Rules>>> {
    let rules = Arc::new(rules);
    PerDestination::<()>::default().map(|to, ()| (to == destination).then(|| Arc::clone(&rules)))
}
