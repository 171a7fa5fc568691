//! Privileges: what they lock and grant, and what of it has no effect.

use super::tree::At;
use super::{Code, Draft, Linter, endpoint_of, hint, older};
use crate::authz::{self, CanonError, Decision, Denial, Part, Privilege, RuleLists, canonical_privilege};
use crate::identity::Destination::{HostGaPlugin, WireServer};
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Above so many privileges at one path, none of them is compared with all others there.
const COMPARED: usize = 64;

/// Longest target of a request (PX-16). Bytes.
const LONGEST: usize = 65_534;

/// A privilege in canonical form, and who has it.
pub(super) struct Known<'d> {
    pub(super) name: &'d str,
    pub(super) at: At,
    pub(super) written: &'d Privilege,
    pub(super) path: String,
    pub(super) constraints: Vec<(String, String)>,
    /// Names of the identities that are assigned to it.
    pub(super) who: Rc<BTreeSet<&'d str>>,
}

/// Prints as `/machine?comp=goalstate`.
impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        let mut separator = '?';
        for (name, value) in &self.constraints {
            write!(f, "{separator}{name}={value}")?;
            separator = '&';
        }
        Ok(())
    }
}

impl Known<'_> {
    /// Whether every request that the other one matches is matched by this one.
    fn covers(&self, other: &Known<'_>) -> bool {
        self.constraints.iter().all(|constraint| other.constraints.contains(constraint))
    }

    /// A request that it matches, if there is any.
    pub(super) fn target(&self) -> String {
        fn encode(out: &mut String, text: &str, plain: &[u8]) {
            for byte in text.bytes() {
                if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        let mut target = String::new();
        encode(&mut target, &self.path, b"/-._~!$'()*,:@&=+");
        let mut separator = '?';
        for (name, value) in &self.constraints {
            target.push(separator);
            separator = '&';
            encode(&mut target, name, b"-._~/:@!$'()*,");
            target.push('=');
            encode(&mut target, value, b"-._~/:@!$'()*,");
        }
        target
    }
}

impl Linter<'_> {
    pub(super) fn privileges(&mut self, draft: &Draft) {
        let Some(lists) = &draft.rules else { return };
        let mut known = self.known(lists);
        let lock = draft.default_access.as_deref().is_none_or(|word| !word.trim().eq_ignore_ascii_case("deny"));
        known.retain(|privilege| {
            let too_long = privilege.path.len() > LONGEST;
            if too_long {
                let what = format!("the privilege {:?} grants nothing to anybody: no request has so long a path", privilege.name);
                self.warn(Code::UnreachablePrivilege, &privilege.at.member("path"), what, None);
            }
            !too_long
        });
        let unreachable: Vec<bool> = known.iter().map(|privilege| self.reach(privilege)).collect();
        for privilege in &known {
            if privilege.who.is_empty() {
                self.unassigned(privilege, lock);
            }
            self.endpoint(privilege);
        }
        self.overlaps(&known);
        let mut unreachable = unreachable.into_iter();
        known.retain(|_| unreachable.next() == Some(false));
        older::lint(self, &known);
    }

    /// All that have a canonical form and count; says what is wrong with the others.
    fn known<'d>(&mut self, lists: &'d RuleLists) -> Vec<Known<'d>> {
        let who = Assigned::new(lists);
        let list = lists.privileges.as_deref().unwrap_or_default();
        let last: BTreeMap<&str, usize> = list.iter().enumerate().map(|(index, p)| (p.name.as_str(), index)).collect();
        let mut known = Vec::new();
        for (index, written) in list.iter().enumerate() {
            let at = At::element("privileges", index);
            let counts = self.is_local() || last.get(written.name.as_str()) == Some(&index);
            if self.is_local() {
                self.blanks(written, &at);
            }
            match canonical_privilege(written) {
                Ok((path, constraints)) if counts && !(self.is_local() && written.path.trim().is_empty()) => {
                    self.ignored_constraints(written, &at);
                    let (name, who) = (written.name.as_str(), who.of(&written.name));
                    known.push(Known { name, at, written, path, constraints, who });
                }
                Err((part, error)) if counts => self.faulty(written, part, error, &at),
                _ => {}
            }
        }
        known
    }

    ///
    fn blanks(&mut self, privilege: &Privilege, at: &At) {
        if privilege.path.trim().is_empty() {
            let what = format!("the path of privilege {:?} is blank", privilege.name);
            self.error(Code::Blank, &at.member("path"), what, hint("\"/\" is everything"));
        }
        let at = at.member("queryParameters");
        for (name, value) in privilege.query_parameters.iter().flat_map(|parameters| &parameters.0) {
            if name.trim().is_empty() {
                self.error(Code::Blank, &at.name(name), "the name of a query parameter is blank".into(), None);
            } else if value.trim().is_empty() {
                let what = format!("the value of the query parameter {name:?} is blank");
                self.error(Code::Blank, &at.member(name), what, None);
            }
        }
    }

    ///
    fn ignored_constraints(&mut self, privilege: &Privilege, at: &At) {
        let parameters = privilege.query_parameters.iter().flat_map(|parameters| &parameters.0);
        if parameters.map(|(name, _)| name).any(String::is_empty) && !self.is_local() {
            let what = "a query parameter without name is ignored".into();
            self.warn(Code::IgnoredConstraint, &at.member("queryParameters").name(""), what, hint("remove it"));
        }
    }

    ///
    fn faulty(&mut self, privilege: &Privilege, part: Part, error: CanonError, at: &At) {
        let at = match part {
            Part::Path => at.member("path"),
            Part::ParameterName | Part::ParameterValue => {
                let parameters = at.member("queryParameters");
                // The first that fails on its own.
                let one = |name: &String, value: &String| {
                    let query = [(name.clone(), value.clone())].into_iter().collect();
                    Privilege { query_parameters: Some(authz::QueryParameters(query)), ..privilege.clone() }
                };
                let mut pairs = privilege.query_parameters.iter().flat_map(|parameters| &parameters.0);
                match pairs.find(|(name, value)| canonical_privilege(&one(name, value)).is_err()) {
                    Some((name, _)) if part == Part::ParameterName => parameters.name(name),
                    Some((name, _)) => parameters.member(name),
                    None => parameters,
                }
            }
        };
        let what = match part {
            Part::Path => "path",
            Part::ParameterName => "name of a query parameter",
            Part::ParameterValue => "value of a query parameter",
        };
        let effect = if self.is_local() { "the file is not taken" } else { "because of it, everything is denied" };
        let what = format!("the {what} of privilege {:?} means nothing ({error}): {effect}", privilege.name);
        let help = match error {
            CanonError::EmbeddedQuery => "put what follows the question mark into queryParameters",
            CanonError::Percent => "a percent sign stands before two hexadecimal digits; write %25 for the sign itself",
            CanonError::NonAscii => "paths are ASCII",
            CanonError::Underflow => "\"..\" leads out of the root",
            CanonError::Control => "control characters are in no request that is allowed",
            CanonError::Utf8 | CanonError::Overlong => "the escapes stand for bytes that are no UTF-8",
            _ => "such a request is never allowed",
        };
        self.error(Code::FaultyPrivilege, &at, what, hint(help));
    }

    /// Says so if no request can be granted by it: the real decision is asked.
    fn reach(&mut self, privilege: &Known<'_>) -> bool {
        let target = privilege.target();
        let path = authz::raw_path(target.as_bytes());
        let Some(everyone) = older::ForEveryone::new(privilege.written) else { return false };
        let decision = everyone.decide(target.as_bytes());
        let name = privilege.name;
        let (at, why) = match decision {
            Decision::Deny(Denial::Canonical(_)) => {
                ("path", "requests with such a path are always refused, because hosts read it in different ways".to_owned())
            }
            Decision::Allow(_) if authz::traversal_guard(path) => {
                ("path", "requests with \"..\" in their path are always refused".to_owned())
            }
            Decision::Deny(Denial::ConflictingValues(_)) => {
                ("queryParameters", "it wants two values of one parameter, which letter case does not tell apart".to_owned())
            }
            _ => return false,
        };
        let what = format!("the privilege {name:?} ({privilege}) grants nothing to anybody: {why}");
        self.warn(Code::UnreachablePrivilege, &privilege.at.member(at), what, None);
        true
    }

    ///
    fn unassigned(&mut self, privilege: &Known<'_>, lock: bool) {
        let name = privilege.name;
        if lock {
            let what = format!("nobody is assigned to the privilege {name:?}: it locks {}", Locked(privilege));
            let hint = hint("if that is not meant, put it into a role and assign that");
            self.warn(Code::UnassignedPrivilege, &privilege.at, what, hint);
        } else {
            let what =
                format!("nobody is assigned to the privilege {name:?}, so it has no effect: {privilege} is denied in any case");
            self.note(Code::UnassignedPrivilege, &privilege.at, what, None);
        }
    }

    fn endpoint(&mut self, privilege: &Known<'_>) {
        let Some(of) = endpoint_of(&privilege.path) else { return };
        // The two share the host's document (W-41).
        let same =
            |asked: &_| *asked == of || (*asked, of) == (WireServer, HostGaPlugin) || (*asked, of) == (HostGaPlugin, WireServer);
        if let Some(asked) = self.options.destination.filter(|asked| !same(asked)) {
            let what = format!("{} is a path of {}, and these rules are for {}", privilege.path, of.name(), asked.name());
            self.warn(Code::OtherEndpoint, &privilege.at.member("path"), what, None);
        }
    }

    /// Pairs of which one matches whatever the other does.
    fn overlaps(&mut self, known: &[Known<'_>]) {
        let mut by_path: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, privilege) in known.iter().enumerate() {
            by_path.entry(&privilege.path).or_default().push(index);
        }
        for (index, narrow) in known.iter().enumerate() {
            if narrow.who.is_empty() {
                continue;
            }
            let wider = prefixes(&narrow.path).filter_map(|path| by_path.get(path)).filter(|at| at.len() <= COMPARED).flatten();
            let wider = wider.filter_map(|at| Some((*at, known.get(*at)?)));
            let wider: Vec<_> = wider.filter(|(at, wide)| *at != index && wide.covers(narrow)).collect();
            // Of two alike, the later one is superfluous.
            let same = |wide: &Known<'_>| wide.path == narrow.path && wide.constraints == narrow.constraints;
            let covering = wider
                .iter()
                .find(|(at, wide)| narrow.who.is_subset(&wide.who) && (!same(wide) || wide.who != narrow.who || *at < index));
            if let Some((_, wide)) = covering {
                let what = format!(
                    "the privilege {:?} changes nothing: {:?} ({wide}) grants all of it to the same identities",
                    narrow.name, wide.name
                );
                self.warn(Code::CoveredPrivilege, &narrow.at, what, hint("remove it"));
                continue;
            }
            let passing = wider.iter().find(|(_, wide)| !same(wide) && !wide.who.is_subset(&narrow.who));
            if let Some((_, wide)) = passing {
                let others: Vec<String> = wide.who.difference(&narrow.who).take(4).map(|name| format!("{name:?}")).collect();
                let what = format!(
                    "the privilege {:?} takes nothing away: {} may also ask for {narrow}, by {:?} ({wide})",
                    narrow.name,
                    others.join(", "),
                    wide.name
                );
                self.note(Code::WiderPrivilege, &narrow.at, what, hint("to keep them out, narrow the wider privilege"));
            }
        }
    }
}

/// What is locked by a privilege that nobody has.
struct Locked<'a>(&'a Known<'a>);

impl fmt::Display for Locked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.path.as_str() {
            "/" => f.write_str("everything")?,
            path => write!(f, "{path} and all below it")?,
        }
        let mut word = ", in requests with";
        for (name, value) in &self.0.constraints {
            write!(f, "{word} {name}={value}")?;
            word = " and";
        }
        Ok(())
    }
}

/// The path itself, and all that it begins with, by segments: `/a/b`, `/a`, `/`.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let shorter = path.rmatch_indices('/').map(|(at, _)| path.get(..at).unwrap_or_default()).filter(|path| !path.is_empty());
    let root = (path != "/").then_some("/");
    core::iter::once(path).chain(shorter).chain(root)
}

/// Who is assigned to which privilege. Sets are shared: there may be many privileges and many identities.
struct Assigned<'d> {
    /// The roles that a privilege is in.
    roles: BTreeMap<&'d str, BTreeSet<&'d str>>,
    members: BTreeMap<&'d str, BTreeSet<&'d str>>,
    sets: core::cell::RefCell<BTreeMap<BTreeSet<&'d str>, Rc<BTreeSet<&'d str>>>>,
}

impl<'d> Assigned<'d> {
    fn new(lists: &'d RuleLists) -> Self {
        let last = lists.roles.iter().flatten().map(|role| (role.name.as_str(), role)).collect::<BTreeMap<_, _>>();
        let identities: BTreeSet<&str> = lists.identities.iter().flatten().map(|identity| identity.name.as_str()).collect();
        let mut roles: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, role) in &last {
            for privilege in &role.privileges {
                roles.entry(privilege).or_default().insert(name);
            }
        }
        let mut members: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for assignment in lists.role_assignments.iter().flatten().filter(|a| last.contains_key(a.role.as_str())) {
            let known = assignment.identities.iter().map(String::as_str).filter(|name| identities.contains(name));
            members.entry(&assignment.role).or_default().extend(known);
        }
        Self { roles, members, sets: core::cell::RefCell::default() }
    }

    fn of(&self, privilege: &str) -> Rc<BTreeSet<&'d str>> {
        let roles = self.roles.get(privilege).cloned().unwrap_or_default();
        let mut sets = self.sets.borrow_mut();
        let union =
            |roles: &BTreeSet<&str>| Rc::new(roles.iter().filter_map(|role| self.members.get(role)).flatten().copied().collect());
        Rc::clone(sets.entry(roles).or_insert_with_key(union))
    }
}
