//! Names: defined once, used as they are defined.

use super::tree::At;
use super::{Code, Draft, Linter, Severity, hint};
use crate::authz::RuleLists;
use crate::suggest::closest;
use std::collections::{BTreeMap, BTreeSet};

/// Above so many names nobody is told which of them may have been meant: each is compared with each.
const SUGGESTED: usize = 500;

/// The names of a list, and what its elements are called.
struct Names<'d> {
    list: &'static str,
    /// One of them, without article.
    one: &'static str,
    /// Where each is defined last.
    defined: BTreeMap<&'d str, usize>,
    used: BTreeSet<&'d str>,
}

impl<'d> Names<'d> {
    fn meant(&self, name: &str) -> Option<String> {
        let known = self.defined.keys().copied().take(SUGGESTED);
        closest(name, known).map(|meant| format!("did you mean {meant:?}?"))
    }
}

impl Linter<'_> {
    pub(super) fn names(&mut self, draft: &Draft) {
        let Some(lists) = &draft.rules else { return };
        let RuleLists { privileges, roles, identities, role_assignments, .. } = lists;
        let mut privilege_names = self.defined("privileges", "privilege", privileges.iter().flatten().map(|p| p.name.as_str()));
        let mut role_names = self.defined("roles", "role", roles.iter().flatten().map(|r| r.name.as_str()));
        let mut identity_names = self.defined("identities", "identity", identities.iter().flatten().map(|i| i.name.as_str()));

        for (index, role) in roles.iter().flatten().enumerate() {
            let at = At::element("roles", index).member("privileges");
            let whose = format!("role {:?}", role.name);
            self.references(&at, &whose, &role.privileges, &mut privilege_names, Severity::Warning);
        }
        for (index, assignment) in role_assignments.iter().flatten().enumerate() {
            let at = At::element("roleAssignments", index);
            // the agent calls this an error, too.
            if self.reference(&at.member("role"), "the role assignment", &assignment.role, &role_names, Severity::Error) {
                role_names.used.insert(&assignment.role);
            }
            let whose = format!("the assignment of role {:?}", assignment.role);
            self.references(&at.member("identities"), &whose, &assignment.identities, &mut identity_names, Severity::Warning);
        }
        // That of a privilege is more than that: it locks.
        for names in [role_names, identity_names] {
            self.unused(&names);
        }
    }

    fn defined<'d>(&mut self, list: &'static str, one: &'static str, names: impl Iterator<Item = &'d str>) -> Names<'d> {
        let mut defined: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, name) in names.enumerate() {
            let at = |index| At::element(list, index).member("name");
            if self.is_local() && name.trim().is_empty() {
                self.error(Code::Blank, &at(index), format!("the name of a {one} is blank"), hint("give it one"));
            }
            let Some(before) = defined.insert(name, index) else { continue };
            if self.is_local() {
                let what = format!("a {one} of the name {name:?} is there already");
                self.error(Code::DuplicateName, &at(index), what, hint("names must be unique in a local rule file"));
            } else {
                let what = format!("the {one} {name:?} is defined again further below, and only that counts");
                self.warn(Code::DuplicateName, &at(before), what, hint("remove one of them, or give it another name"));
            }
        }
        Names { list, one, defined, used: BTreeSet::new() }
    }

    fn references<'d>(&mut self, at: &At, whose: &str, list: &'d [String], names: &mut Names<'d>, undefined: Severity) {
        if list.is_empty() {
            let what = format!("{whose} has no {}", names.list);
            return self.strict(Severity::Warning, Code::EmptyList, at, what, hint("name one, or remove it"));
        }
        let mut seen = BTreeSet::new();
        for (index, name) in list.iter().enumerate() {
            let at = at.index(index);
            if !seen.insert(name) {
                let what = format!("{whose} names the {} {name:?} twice", names.one);
                self.strict(Severity::Info, Code::RepeatedName, &at, what, hint("remove one of them"));
            }
            if self.reference(&at, whose, name, names, undefined) {
                names.used.insert(name);
            }
        }
    }

    /// Whether it is defined.
    fn reference(&mut self, at: &At, whose: &str, name: &str, names: &Names<'_>, undefined: Severity) -> bool {
        let known = names.defined.contains_key(name);
        if !known {
            let what = format!("{whose} names the {} {name:?}, which is not defined here", names.one);
            let instead =
                if self.is_local() { "names of the host's document cannot be used" } else { "define it, or remove the name" };
            let severity = if self.is_local() { Severity::Error } else { undefined };
            let meant = if self.is_full(severity, Code::UndefinedName) { None } else { names.meant(name) };
            let hint = meant.or_else(|| hint(instead));
            self.strict(undefined, Code::UndefinedName, at, what, hint);
        }
        known
    }

    fn unused(&mut self, names: &Names<'_>) {
        for (name, index) in names.defined.iter().filter(|(name, _)| !names.used.contains(*name)) {
            let what = format!("the {} {name:?} is assigned nowhere", names.one);
            self.note(Code::UnusedName, &At::element(names.list, *index).member("name"), what, None);
        }
    }
}
