//! A decision with what it was made of, for people and records: who prints a decision prints this.

use super::compile::{Mode, Rules};
use super::decision::{Allowed, Decision, Denial};
use super::export::{IdentityView, PrivilegeView};
use super::{Request, Scratch, decide};
use crate::identity::{Claims, Destination, PerDestination};
use crate::policy::Epoch;
use core::fmt;
use core::net::SocketAddrV4;
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::sync::Arc;

/// A decision that explains itself. Costs nothing to make: names are looked up when it is printed or asked.
///
/// As JSON it has `decision`, `reason` and `epoch` as in the audit log, `destination`, and as far as they took part `rule` (as in the
/// audit log), `privilege` and `identity` (as in the snapshot of the rules, R-153). As text it is one line.
#[derive(Debug, Clone, Copy)]
pub struct Explanation<'a> {
    decision: Decision,
    destination: Option<Destination>,
    epoch: Epoch,
    /// The document, if it was looked at.
    rules: Option<&'a Rules>,
}

/// Decides as [`decide`] does, and explains.
pub fn explain<'r>(
    rules: &'r PerDestination<Option<Arc<Rules>>>,
    epoch: Epoch,
    to: SocketAddrV4,
    claims: &Claims,
    request: Request<'_>,
    scratch: &mut Scratch,
) -> Explanation<'r> {
    let decision = decide(rules, to, claims, request, scratch);
    let destination = Destination::from_addr(to);
    decision.explain(destination, destination.and_then(|destination| rules.get(destination).as_deref()), epoch)
}

impl Decision {
    /// With what it was made of: the destination that was asked for, the rules in force for it and the policy's number at that time.
    #[must_use]
    pub const fn explain(self, destination: Option<Destination>, rules: Option<&Rules>, epoch: Epoch) -> Explanation<'_> {
        // What stands before the document is not the document's.
        let rules = match self {
            Self::Allow(Allowed::Exempt | Allowed::NoDocument)
            | Self::Deny(Denial::Destination | Denial::Elevation)
            | Self::Audit(Denial::Destination | Denial::Elevation) => None,
            Self::Allow(_) | Self::Audit(_) | Self::Deny(_) => rules,
        };
        Explanation { decision: self, destination, epoch, rules }
    }

    /// The word in records: `allow`, `audit` (denied, but forwarded) or `deny`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Audit(_) => "audit",
            Self::Deny(_) => "deny",
        }
    }

    /// Why, in the word of records.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Allow(allowed) => Reason(Ok(allowed)),
            Self::Audit(denial) | Self::Deny(denial) => Reason(Err(denial)),
        }
    }
}

/// Prints as a short stable word, such as `default` or `error:CANON_PCT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(Result<Allowed, Denial>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(allowed) => allowed.fmt(f),
            Err(denial) => denial.fmt(f),
        }
    }
}

impl<'a> Explanation<'a> {
    /// What was decided.
    pub const fn decision(&self) -> Decision {
        self.decision
    }

    /// Whom the request is for; `None`: not one of the guarded endpoints (PX-65).
    #[must_use]
    pub const fn destination(&self) -> Option<Destination> {
        self.destination
    }

    /// The policy that decided.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The document's mode; `None` if no document was looked at.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.rules.map(Rules::mode)
    }

    /// The document's id; `None` if no document was looked at.
    #[must_use]
    pub fn rule_set(&self) -> Option<&'a str> {
        self.rules.map(Rules::id)
    }

    /// Whether it is denied because some privilege of the document has no canonical form, so that nothing is allowed.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        matches!(self.decision.denial(), Some(Denial::Default)) && self.rules.is_some_and(Rules::is_faulty)
    }

    /// The privilege that decided, if one did.
    #[must_use]
    pub fn privilege(&self) -> Option<PrivilegeView<'a>> {
        let id = match self.decision {
            Decision::Allow(Allowed::Privilege(id, _)) => id,
            Decision::Audit(Denial::NotAssigned(id) | Denial::ConflictingValues(id))
            | Decision::Deny(Denial::NotAssigned(id) | Denial::ConflictingValues(id)) => id,
            Decision::Allow(_) | Decision::Audit(_) | Decision::Deny(_) => return None,
        };
        self.rules?.privileges.get(id.0 as usize).map(PrivilegeView::new)
    }

    /// The identity that is the caller's and grants.
    #[must_use]
    pub fn identity(&self) -> Option<IdentityView<'a>> {
        let Decision::Allow(Allowed::Privilege(_, id)) = self.decision else { return None };
        self.rules?.identities.get(id.0 as usize).map(IdentityView::new)
    }

    /// The role by which the identity has the privilege, and which of the document's role assignments gives it that, counted from 0. If
    /// there are several, the first role by name, and the first of its assignments.
    #[must_use]
    pub fn role(&self) -> Option<(&'a str, u32)> {
        let Decision::Allow(Allowed::Privilege(privilege, identity)) = self.decision else { return None };
        self.rules?.role(privilege, identity)
    }
}

/// One line; names are quoted and escaped, because they come from outside (SEC-07).
impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.decision {
            Decision::Allow(_) => "allowed: ",
            Decision::Audit(_) => "would be denied, but is forwarded in mode audit: ",
            Decision::Deny(_) => "denied: ",
        })?;
        let name = self.destination.map_or("this destination", Destination::name);
        match self.decision {
            Decision::Allow(allowed) => match allowed {
                Allowed::Exempt => f.write_str("the request is exempt for elevated callers, whatever the rules say")?,
                Allowed::NoDocument => write!(f, "there is no document for {name}")?,
                Allowed::Disabled => match self.rules.map(Rules::mode_word) {
                    //
                    Some(word) if Mode::parse(word).is_none() => {
                        write!(f, "the mode {word:?} is unknown and counts as disabled")?;
                    }
                    _ => f.write_str("the mode is disabled")?,
                },
                Allowed::Default => f.write_str("no privilege matches, and the default access is allow")?,
                Allowed::Privilege(..) => self.granted(f)?,
            },
            Decision::Audit(denial) | Decision::Deny(denial) => match denial {
                Denial::Destination => f.write_str("the original destination is not a guarded endpoint")?,
                Denial::Elevation => write!(f, "{name} is for elevated callers (root) only, whatever the rules say")?,
                Denial::Canonical(error) => write!(f, "the request has no canonical form that is safe to compare: {error}")?,
                Denial::NotAssigned(_) => {
                    self.matched(f)?;
                    f.write_str(" matches, and no identity that it is assigned to is the caller's")?;
                }
                Denial::ConflictingValues(_) => {
                    self.matched(f)?;
                    f.write_str(" matches, but the request repeats a constrained parameter with another value")?;
                }
                Denial::Default if self.is_faulty() => {
                    f.write_str("some privilege of the document has no canonical form, so nothing is allowed")?;
                }
                Denial::Default => f.write_str("no privilege matches, and the default access is deny")?,
            },
        }
        if let Some(rules) = self.rules {
            write!(f, "; mode {}, rule set {:?}", rules.mode().word(), rules.id())?;
        }
        // The first policy that is published has number 1: 0 is that of none.
        if self.epoch.0 == 0 { Ok(()) } else { write!(f, ", epoch {}", self.epoch.0) }
    }
}

impl Explanation<'_> {
    fn matched(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.privilege() {
            Some(privilege) => write!(f, "privilege {:?} ({privilege})", privilege.name()),
            None => f.write_str("a privilege"),
        }
    }

    fn granted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("by ")?;
        self.matched(f)?;
        if let Some((role, assignment)) = self.role() {
            write!(f, ", role {role:?}, role assignment {assignment}")?;
        }
        match self.identity() {
            Some(identity) => write!(f, ", identity {:?} ({identity})", identity.name()),
            None => Ok(()),
        }
    }
}

impl Serialize for Explanation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("decision", self.decision.word())?;
        out.serialize_entry("reason", &format_args!("{}", self.decision.reason()))?;
        out.serialize_entry("destination", &self.destination.map(Destination::name))?;
        out.serialize_entry("epoch", &self.epoch.0)?;
        if self.rules.is_some() {
            out.serialize_entry("rule", &Rule(self))?;
        }
        if let Some(privilege) = self.privilege() {
            out.serialize_entry("privilege", &privilege)?;
        }
        if let Some(identity) = self.identity() {
            out.serialize_entry("identity", &identity)?;
        }
        out.end()
    }
}

/// The names of what decided.
struct Rule<'a>(&'a Explanation<'a>);

impl Serialize for Rule<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        let mut failed = None;
        self.0.names(&mut |name, value| {
            let written = match value {
                Name::Text(text) => out.serialize_entry(name, text),
                Name::Number(number) => out.serialize_entry(name, &number),
                Name::Flag(flag) => out.serialize_entry(name, &flag),
            };
            failed = failed.take().or(written.err());
        });
        failed.map_or_else(|| out.end(), Err)
    }
}

/// A value of the `rule` member.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name<'a> {
    Text(&'a str),
    Number(u32),
    Flag(bool),
}

impl Explanation<'_> {
    /// The members of `rule`, here and in the audit log: nothing if no document was looked at.
    pub(crate) fn names(&self, member: &mut dyn FnMut(&'static str, Name<'_>)) {
        let Some(rules) = self.rules else { return };
        member("set", Name::Text(rules.id()));
        member("mode", Name::Text(rules.mode().word()));
        if self.is_faulty() {
            member("faulty", Name::Flag(true));
        }
        if let Some(privilege) = self.privilege() {
            member("privilege", Name::Text(privilege.name()));
        }
        if let Some((role, assignment)) = self.role() {
            member("role", Name::Text(role));
            member("assignment", Name::Number(assignment));
        }
        if let Some(identity) = self.identity() {
            member("identity", Name::Text(identity.name()));
        }
    }
}

#[cfg(test)]
mod tests;
