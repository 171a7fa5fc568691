//! The rule file of the machine's owner (rules.md section 4): what is in it, what makes it invalid, and what comes of it together with
//! the host's document. A file that cannot be used never opens anything: it closes.

use super::canonical;
use super::document::{Document, Identity, Privilege, Role, RoleAssignment, RuleLists, Unknown};
use super::{CanonError, Descriptor};
use crate::identity::Destination;
use crate::json::place::{self, NoTwins, Place};
use core::fmt;
use serde::Deserialize;
use std::collections::BTreeSet;

/// What names of the local lists begin with when both sides have lists.
const PREFIX: &str = "LocalFileRules_";
/// Name of the WireServer's file.
pub const WIRESERVER_FILE: &str = "WireServer_Rules.json";
/// Name of the IMDS's file.
pub const IMDS_FILE: &str = "IMDS_Rules.json";
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The content of a local rule file, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRules(Members);

/// Other members are ignored, `mode` among them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct Members {
    default_access: Option<String>,
    id: Option<String>,
    rules: Option<RuleLists>,
}

impl LocalRules {
    /// Largest file that is looked at, in bytes.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// The name of the rule file of an endpoint; the host plug-in has none.
    #[must_use]
    pub const fn file_name(destination: Destination) -> Option<&'static str> {
        match destination {
            Destination::Imds => Some(IMDS_FILE),
            Destination::WireServer => Some(WIRESERVER_FILE),
            Destination::HostGaPlugin => None,
        }
    }

    /// Reads the content of a file: UTF-8, perhaps after a byte order mark, one object without twin members, valid.
    ///
    /// # Errors
    /// What is wrong with it, and where. The text is for people; it quotes names, and nothing else of the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, LocalError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(LocalError::parse(None, "", format!("larger than {} bytes", Self::MAX_BYTES)));
        }
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        if bytes.is_empty() {
            return Err(LocalError::parse(None, "", "empty".to_owned()));
        }
        let text = core::str::from_utf8(bytes).map_err(|e| {
            let valid = bytes.get(..e.valid_up_to()).and_then(|valid| core::str::from_utf8(valid).ok()).unwrap_or_default();
            LocalError::parse(Some(Place::of(valid, valid.len())), "", "not UTF-8".to_owned())
        })?;
        let NoTwins =
            serde_json::from_str(text).map_err(|e| LocalError::parse(Some(place::of_error(text, &e)), "", place::words(&e)))?;
        // A derived type alone would also be read from an array of its members' values.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(LocalError::parse(Some(Place::of(text, 0)), "", "expected an object".to_owned()));
        }
        let mut members: Members = serde_json::from_str(text).map_err(|e| {
            let (place, member) = place::of_value(text, &e);
            LocalError::parse(Some(place), &member, place::words(&e))
        })?;
        if let Some(access) = &mut members.default_access {
            // The word that was looked at is the word that counts.
            *access = access.trim().to_owned();
        }
        members.check().map_err(|Flaw { member, what }| {
            let place = place::of_member(text, &member);
            LocalError { place, member: member.into(), what: what.into(), is_final: true }
        })?;
        Ok(Self(members))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.0.id.as_deref()
    }

    /// The document that comes of the host's, which has its displayed id, and of this one.
    #[must_use]
    pub fn merge(&self, remote: &Document) -> Document {
        let Members { default_access, id, rules } = &self.0;
        Document {
            default_access: default_access.as_ref().unwrap_or(&remote.default_access).clone(),
            mode: remote.mode.clone(),
            id: id.as_ref().map_or_else(|| remote.id.clone(), |id| format!("{}_{id}", remote.id)),
            rules: match (&remote.rules, rules) {
                (Some(remote), Some(local)) => Some(merge_lists(remote, local)),
                (lists, None) | (None, lists) => lists.clone(),
            },
            unknown: remote.unknown.clone(),
        }
    }
}

/// The host's document with its displayed id; the host plug-in's keeps the raw one.
#[must_use]
pub fn displayed(destination: Destination, remote: &Document) -> Document {
    let id = match destination {
        Destination::Imds | Destination::WireServer => Descriptor::parse(&remote.id).displayed_id(),
        Destination::HostGaPlugin => None,
    };
    Document { id: id.unwrap_or_else(|| remote.id.clone()), ..remote.clone() }
}

/// What is in force while a local file cannot be used. `remote` has its displayed id.
#[must_use]
pub fn fail_closed(remote: &Document) -> Document {
    Document { default_access: "deny".to_owned(), rules: None, ..remote.clone() }
}

/// the remote lists, each followed by the local one with prefixed names.
fn merge_lists(remote: &RuleLists, local: &RuleLists) -> RuleLists {
    fn join<T: Clone>(remote: Option<&Vec<T>>, local: Option<Vec<T>>) -> Option<Vec<T>> {
        match (remote, local) {
            (Some(remote), Some(local)) => Some(remote.iter().cloned().chain(local).collect()),
            (Some(remote), None) => Some(remote.clone()),
            (None, local) => local,
        }
    }
    let prefixed = |name: &String| format!("{PREFIX}{name}");
    let all = |names: &[String]| names.iter().map(prefixed).collect::<Vec<_>>();
    let privileges =
        local.privileges.as_ref().map(|list| list.iter().map(|p| Privilege { name: prefixed(&p.name), ..p.clone() }));
    let roles = local.roles.as_ref();
    let roles =
        roles.map(|list| list.iter().map(|r| Role { name: prefixed(&r.name), privileges: all(&r.privileges), ..r.clone() }));
    let identities = local.identities.as_ref().map(|list| list.iter().map(|i| Identity { name: prefixed(&i.name), ..i.clone() }));
    let assignments = local.role_assignments.as_ref();
    let assignments = assignments
        .map(|list| list.iter().map(|a| RoleAssignment { role: prefixed(&a.role), identities: all(&a.identities), ..a.clone() }));
    RuleLists {
        privileges: join(remote.privileges.as_ref(), privileges.map(Iterator::collect)),
        roles: join(remote.roles.as_ref(), roles.map(Iterator::collect)),
        identities: join(remote.identities.as_ref(), identities.map(Iterator::collect)),
        role_assignments: join(remote.role_assignments.as_ref(), assignments.map(Iterator::collect)),
        unknown: Unknown::both(&remote.unknown, &local.unknown),
    }
}

/// Something that makes a file invalid.
struct Flaw {
    member: String,
    what: String,
}

impl Members {
    ///
    fn check(&self) -> Result<(), Flaw> {
        let at = |member: &str| Path::default().member(member);
        if let Some(access) = &self.default_access
            && !["allow", "deny"].iter().any(|word| access.to_lowercase() == *word)
        {
            return at("defaultAccess").refuse("neither allow nor deny");
        }
        if let Some(id) = &self.id {
            at("id").not_blank(id)?;
        }
        let Some(lists) = &self.rules else { return Ok(()) };
        let rules = at("rules");
        let privileges = names(&rules.member("privileges"), lists.privileges.as_deref(), |p| &p.name)?;
        for (at, privilege) in rules.member("privileges").elements(lists.privileges.as_deref()) {
            check_privilege(&at, privilege)?;
        }
        let roles = names(&rules.member("roles"), lists.roles.as_deref(), |r| &r.name)?;
        for (at, role) in rules.member("roles").elements(lists.roles.as_deref()) {
            references(&at.member("privileges"), &role.privileges, &privileges, "privilege")?;
        }
        let identities = names(&rules.member("identities"), lists.identities.as_deref(), |i| &i.name)?;
        for (at, identity) in rules.member("identities").elements(lists.identities.as_deref()) {
            if !has_selector(identity) {
                return at.refuse("without a selector that is not blank");
            }
        }
        for (at, assignment) in rules.member("roleAssignments").elements(lists.role_assignments.as_deref()) {
            at.member("role").defined(&assignment.role, &roles, "role")?;
            references(&at.member("identities"), &assignment.identities, &identities, "identity")?;
        }
        Ok(())
    }
}

///
fn check_privilege(at: &Path, privilege: &Privilege) -> Result<(), Flaw> {
    let canonical =
        |at: &Path, form: Result<(), CanonError>| form.or_else(|error| at.refuse(&format!("without a canonical form ({error})")));
    let path = at.member("path");
    path.not_blank(&privilege.path)?;
    canonical(&path, canonical::privilege_path(&privilege.path).map(drop))?;
    for (name, value) in privilege.query_parameters.iter().flat_map(|parameters| &parameters.0) {
        let at = at.member("queryParameters").member(name);
        if name.trim().is_empty() {
            return at.refuse("a parameter with a blank name");
        }
        at.not_blank(value)?;
        for text in [name, value] {
            canonical(&at, canonical::component(text.as_bytes(), &mut Vec::new()))?;
        }
    }
    Ok(())
}

/// something that a caller can be told by.
fn has_selector(identity: &Identity) -> bool {
    // Each by its name: a selector that is new must be thought of here.
    let Identity { name: _, user_name, group_name, exe_path, process_name, uid, gid, exe_sha256, cgroup_path, unknown: _ } =
        identity;
    let mut texts = [user_name, group_name, exe_path, process_name, exe_sha256, cgroup_path].into_iter().flatten();
    texts.any(|text| !text.trim().is_empty()) || uid.is_some() || gid.is_some()
}

/// Names of a list: not blank, each once.
fn names<'a, T>(list: &Path, elements: Option<&'a [T]>, name: impl Fn(&'a T) -> &'a String) -> Result<BTreeSet<&'a str>, Flaw> {
    let mut names = BTreeSet::new();
    for (at, element) in list.elements(elements) {
        let (at, name) = (at.member("name"), name(element));
        at.not_blank(name)?;
        if !names.insert(name.as_str()) {
            return at.refuse(&format!("the name {} is there twice", place::shown(name)));
        }
    }
    Ok(names)
}

/// References to names of the same file: at least one, none blank, each once.
fn references(list: &Path, references: &[String], defined: &BTreeSet<&str>, kind: &str) -> Result<(), Flaw> {
    if references.is_empty() {
        return list.refuse("empty");
    }
    let mut seen = BTreeSet::new();
    for (at, name) in list.elements(Some(references)) {
        at.defined(name, defined, kind)?;
        if !seen.insert(name) {
            return at.refuse(&format!("the {kind} {} is there twice", place::shown(name)));
        }
    }
    Ok(())
}

/// The way to a member.
#[derive(Debug, Clone, Default)]
struct Path(String);

impl Path {
    fn member(&self, name: &str) -> Self {
        let mut path = self.0.clone();
        place::push_member(&mut path, name);
        Self(path)
    }

    fn elements<'a, T>(&self, list: Option<&'a [T]>) -> impl Iterator<Item = (Self, &'a T)> + use<'a, '_, T> {
        list.unwrap_or_default().iter().enumerate().map(|(index, element)| {
            let mut path = self.0.clone();
            place::push_index(&mut path, index);
            (Self(path), element)
        })
    }

    fn refuse<T>(&self, what: &str) -> Result<T, Flaw> {
        Err(Flaw { member: self.0.clone(), what: what.to_owned() })
    }

    fn not_blank(&self, text: &str) -> Result<(), Flaw> {
        if text.trim().is_empty() { self.refuse("blank") } else { Ok(()) }
    }

    fn defined(&self, name: &str, defined: &BTreeSet<&str>, kind: &str) -> Result<(), Flaw> {
        self.not_blank(name)?;
        if defined.contains(name) { Ok(()) } else { self.refuse(&format!("this file defines no {kind} {}", place::shown(name))) }
    }
}

/// What is wrong with a local rule file. Displays as one line: place, member, fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalError {
    /// Where; `None` if that is nowhere in particular.
    pub place: Option<Place>,
    /// The member concerned, as `rules.roles[0].privileges[1]`; empty for the file as a whole.
    pub member: Box<str>,
    /// The fault.
    pub what: Box<str>,
    /// Whether reading again cannot help: the file was understood, and is invalid. Else it may have been half-written.
    pub is_final: bool,
}

impl LocalError {
    fn parse(place: Option<Place>, member: &str, what: String) -> Self {
        Self { place, member: member.into(), what: what.into(), is_final: false }
    }
}

impl fmt::Display for LocalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        if !self.member.is_empty() {
            write!(f, "{}: ", self.member)?;
        }
        f.write_str(&self.what)
    }
}

impl core::error::Error for LocalError {}

#[cfg(test)]
mod tests;
