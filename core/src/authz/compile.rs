//! From a document to what decides (rules.md section 2). Done when a document is published, never per request.

use super::canonical::{self, CanonError};
use super::decision::{IdentityId, PrivilegeId};
use super::document::{self, Document, RuleLists};
use super::finding::{self, Finding, Part};
use super::matcher::Index;
use super::selector::{Assigned, Selectors};
use crate::identity::{Claims, Needs};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a document does with denials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// There are none.
    Disabled,
    /// They are recorded, and the request goes on.
    Audit,
    /// They hold.
    Enforce,
}

impl Mode {
    /// Reads a mode word, letter case ignored; `None` for a word that we do not know.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [("disabled", Self::Disabled), ("audit", Self::Audit), ("enforce", Self::Enforce)]
            .into_iter()
            .find_map(|(known, mode)| word.eq_ignore_ascii_case(known).then_some(mode))
    }

    /// The word in documents and records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }

    /// The name in the snapshot file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "Disabled",
            Self::Audit => "Audit",
            Self::Enforce => "Enforce",
        }
    }
}

/// One compiled document. Immutable; shared by `Arc`.
#[derive(Debug, Clone)]
pub struct Rules {
    id: Box<str>,
    mode: Mode,
    mode_word: Box<str>,
    pub(super) default_allow: bool,
    /// Some privilege has no canonical form: there are none, and all is denied.
    faulty: bool,
    needs: Needs,
    pub(super) privileges: Box<[CompiledPrivilege]>,
    pub(super) identities: Box<[CompiledIdentity]>,
    pub(super) grants: Box<[Grant]>,
    /// Ascending by name.
    pub(super) roles: Box<[CompiledRole]>,
    pub(super) index: Index,
}

/// A role that was assigned: its place among the roles sorted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RoleId(u32);

/// What a role gives to whom.
#[derive(Debug, Clone)]
pub(super) struct CompiledRole {
    pub(super) name: Box<str>,
    /// Whom, and by which of the document's role assignments (the first one); ascending by identity.
    members: Box<[(IdentityId, u32)]>,
    assigned: Assigned,
}

/// The roles that a privilege is in.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    roles: Box<[RoleId]>,
    /// Whoever has one of them, where asking one role after the other would take long.
    merged: Option<Assigned>,
}

/// Up to so many roles of a privilege are asked one after the other.
const FEW_ROLES: usize = 4;
/// What is merged is bounded by what the document says: so many times the members of all its roles.
const MERGED: usize = 4;

/// A privilege in canonical form.
#[derive(Debug, Clone)]
pub(super) struct CompiledPrivilege {
    pub(super) name: Box<str>,
    /// Joined segments, each after a slash.
    pub(super) path: Box<[u8]>,
    /// Ascending by name, then value.
    pub(super) constraints: Box<[Constraint]>,
    /// Its place among the grants; privileges that are in the same roles share one.
    pub(super) grant: usize,
}

/// A parameter that must be present with a value, both canonical.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Constraint {
    pub(super) name: Box<[u8]>,
    pub(super) value: Box<[u8]>,
}

/// An identity by its selectors.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CompiledIdentity {
    pub(super) name: Box<str>,
    #[serde(flatten)]
    pub(super) selectors: Selectors,
}

impl Rules {
    /// Compiles a document. Always gives rules: what cannot be understood denies and is among the findings.
    #[must_use]
    pub fn compile(document: &Document) -> (Self, Vec<Finding>) {
        let mut findings = Vec::new();
        let mode = Mode::parse(&document.mode).unwrap_or_else(|| {
            findings.push(Finding::UnknownMode { word: document.mode.as_str().into() });
            // Refusing on a word that we do not know would break machines when the host learns a new one.
            Mode::Disabled
        });
        let mut default_allow = document.default_access.eq_ignore_ascii_case("allow");
        let lists = document.rules.as_ref().and_then(|lists| Lists::of(lists, &mut findings));
        let compiled = lists.map(|lists| compile_lists(&lists, &mut findings)).unwrap_or_default();
        let mut faulty = false;
        let privileges = compiled.privileges.unwrap_or_else(|Faulty| {
            // Dropping one privilege of a default-allow document would open the path that it locks: drop all, deny all.
            (default_allow, faulty) = (false, true);
            Vec::new()
        });
        finding::unknown_members(document, &mut findings);
        // What is worse comes first.
        findings.sort_by_key(Finding::level);
        let rules = Self {
            id: document.id.as_str().into(),
            mode,
            mode_word: document.mode.as_str().into(),
            default_allow,
            faulty,
            needs: compiled.identities.iter().fold(Needs::default(), |needs, identity| needs | identity.selectors.needs()),
            index: Index::new(&privileges),
            privileges: privileges.into(),
            identities: compiled.identities.into(),
            grants: compiled.grants.into(),
            roles: compiled.roles.into(),
        };
        (rules, findings)
    }

    /// The document's id as given.
    #[must_use]
    pub const fn id(&self) -> &str {
        &self.id
    }

    /// What happens with denials.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The document's mode word as given: for the status, where an unknown one must be seen.
    #[must_use]
    pub const fn mode_word(&self) -> &str {
        &self.mode_word
    }

    /// Whether a request that no privilege matches is allowed.
    #[must_use]
    pub const fn default_allowed(&self) -> bool {
        self.default_allow
    }

    /// Whether everything is denied because some privilege has no canonical form.
    #[must_use]
    pub const fn is_faulty(&self) -> bool {
        self.faulty
    }

    /// What some identity has a selector for that is found out about callers only on demand.
    #[must_use]
    pub const fn needs(&self) -> Needs {
        self.needs
    }

    /// Whether a hash of the executable could make a difference for this caller: some identity has an `exeSha256`, and everything else
    /// that it has is the caller's.
    #[must_use]
    pub fn would_compare_exe_hash(&self, claims: &Claims) -> bool {
        self.needs.exe_hash && self.identities.iter().any(|identity| identity.selectors.lack_only_exe_hash(claims))
    }

    /// Name of a privilege of these rules.
    #[must_use]
    pub fn privilege_name(&self, id: PrivilegeId) -> Option<&str> {
        self.privileges.get(id.0 as usize).map(|privilege| &*privilege.name)
    }

    /// Name of an identity of these rules.
    #[must_use]
    pub fn identity_name(&self, id: IdentityId) -> Option<&str> {
        self.identities.get(id.0 as usize).map(|identity| &*identity.name)
    }

    /// The caller's identity that has a privilege, if there is one.
    pub(super) fn holder(&self, privilege: &CompiledPrivilege, claims: &Claims) -> Option<IdentityId> {
        let grant = self.grants.get(privilege.grant)?;
        match &grant.merged {
            Some(assigned) => assigned.find(&self.identities, claims),
            None => self.roles_of(grant).find_map(|role| role.assigned.find(&self.identities, claims)),
        }
    }

    /// All identities that have a privilege.
    pub(super) fn holders(&self, privilege: &CompiledPrivilege) -> BTreeSet<IdentityId> {
        let grant = self.grants.get(privilege.grant);
        grant.into_iter().flat_map(|grant| self.roles_of(grant)).flat_map(|role| &role.members).map(|(id, _)| *id).collect()
    }

    fn roles_of(&self, grant: &Grant) -> impl Iterator<Item = &CompiledRole> {
        grant.roles.iter().filter_map(|role| self.roles.get(role.0 as usize))
    }

    /// By which role an identity has a privilege, and by which of the document's role assignments, counted from 0. Of several the first
    /// role by name, and the first of its assignments.
    pub(super) fn role(&self, privilege: PrivilegeId, identity: IdentityId) -> Option<(&str, u32)> {
        let grant = self.grants.get(self.privileges.get(privilege.0 as usize)?.grant)?;
        self.roles_of(grant).find_map(|role| {
            let at = role.members.binary_search_by_key(&identity, |(member, _)| *member).ok()?;
            role.members.get(at).map(|(_, assignment)| (&*role.name, *assignment))
        })
    }
}

/// All four lists.
struct Lists<'a> {
    privileges: &'a [document::Privilege],
    roles: &'a [document::Role],
    identities: &'a [document::Identity],
    assignments: &'a [document::RoleAssignment],
}

impl<'a> Lists<'a> {
    fn of(lists: &'a RuleLists, findings: &mut Vec<Finding>) -> Option<Self> {
        match lists {
            RuleLists {
                privileges: Some(privileges),
                roles: Some(roles),
                identities: Some(identities),
                role_assignments: Some(assignments),
                unknown: _,
            } => Some(Self { privileges, roles, identities, assignments }),
            _ => {
                findings.push(Finding::IncompleteLists);
                None
            }
        }
    }
}

/// Some privilege has no canonical form; the finding says which.
struct Faulty;

/// The lists in compiled form.
struct Compiled {
    privileges: Result<Vec<CompiledPrivilege>, Faulty>,
    identities: Vec<CompiledIdentity>,
    grants: Vec<Grant>,
    roles: Vec<CompiledRole>,
}

impl Default for Compiled {
    fn default() -> Self {
        Self { privileges: Ok(Vec::new()), identities: Vec::new(), grants: Vec::new(), roles: Vec::new() }
    }
}

fn compile_lists(lists: &Lists<'_>, findings: &mut Vec<Finding>) -> Compiled {
    // Collecting into a map keeps the last definition of a name, and makes the order of the lists vanish.
    let privileges: BTreeMap<&str, &document::Privilege> = lists.privileges.iter().map(|p| (p.name.as_str(), p)).collect();
    let roles: BTreeMap<&str, &document::Role> = lists.roles.iter().map(|r| (r.name.as_str(), r)).collect();
    let identities: BTreeMap<&str, &document::Identity> = lists.identities.iter().map(|i| (i.name.as_str(), i)).collect();
    let identity_ids: BTreeMap<&str, IdentityId> = identities.keys().copied().zip((0..).map(IdentityId)).collect();
    let identities: Vec<CompiledIdentity> = identities
        .into_iter()
        .map(|(name, identity)| {
            if let (true, Some(member)) = (identity.is_everyone(), identity.unknown.names().next()) {
                findings.push(Finding::Everyone { identity: name.into(), member: member.into() });
            }
            let selectors = Selectors::of(identity);
            findings.extend(selectors.faults().map(|(selector, expected)| Finding::FaultySelector {
                identity: name.into(),
                selector,
                expected,
            }));
            CompiledIdentity { name: name.into(), selectors }
        })
        .collect();

    // which identities each role has, then which roles each privilege is in.
    let role_ids: BTreeMap<&str, RoleId> = roles.keys().copied().zip((0..).map(RoleId)).collect();
    let mut members: Vec<BTreeMap<IdentityId, u32>> = vec![BTreeMap::new(); roles.len()];
    for (number, assignment) in (0u32..).zip(lists.assignments) {
        match role_ids.get(assignment.role.as_str()).and_then(|role| members.get_mut(role.0 as usize)) {
            Some(members) => {
                for identity in assignment.identities.iter().filter_map(|name| identity_ids.get(name.as_str())) {
                    members.entry(*identity).or_insert(number);
                }
            }
            None => findings.push(Finding::UndefinedRole { role: assignment.role.as_str().into() }),
        }
    }
    let mut privilege_roles: BTreeMap<&str, BTreeSet<RoleId>> = BTreeMap::new();
    for (role, id) in roles.values().zip((0..).map(RoleId)) {
        for privilege in &role.privileges {
            privilege_roles.entry(privilege).or_default().insert(id);
        }
    }
    let roles: Vec<CompiledRole> = roles
        .into_keys()
        .zip(members)
        .map(|(name, members)| {
            let ids: Vec<IdentityId> = members.keys().copied().collect();
            let assigned = Assigned::new(&ids, &identities);
            CompiledRole { name: name.into(), members: members.into_iter().collect(), assigned }
        })
        .collect();
    let mut room = MERGED * roles.iter().map(|role| role.members.len()).sum::<usize>();

    let mut grants = Vec::new();
    let mut shared: BTreeMap<BTreeSet<RoleId>, usize> = BTreeMap::new();
    let mut compiled = Vec::with_capacity(privileges.len());
    let mut faulty = false;
    for (name, privilege) in privileges {
        match compile_privilege(privilege) {
            Ok((path, constraints)) => {
                // A privilege without identities stays: it locks its path.
                let in_roles = privilege_roles.remove(name).unwrap_or_default();
                let grant = *shared.entry(in_roles).or_insert_with_key(|in_roles| {
                    grants.push(Grant {
                        roles: in_roles.iter().copied().collect(),
                        merged: merge(in_roles, &roles, &identities, &mut room),
                    });
                    grants.len() - 1
                });
                compiled.push(CompiledPrivilege { name: name.into(), path, constraints, grant });
            }
            Err((part, error)) => {
                faulty = true;
                findings.push(Finding::FaultyPrivilege { privilege: name.into(), part, error });
            }
        }
    }
    Compiled { privileges: if faulty { Err(Faulty) } else { Ok(compiled) }, identities, grants, roles }
}

/// One set of all members of many roles, if there is room for it.
fn merge(ids: &BTreeSet<RoleId>, roles: &[CompiledRole], identities: &[CompiledIdentity], room: &mut usize) -> Option<Assigned> {
    let of = || ids.iter().filter_map(|id| roles.get(id.0 as usize));
    let members: usize = of().map(|role| role.members.len()).sum();
    if ids.len() <= FEW_ROLES || members > *room {
        return None;
    }
    *room -= members;
    let members: BTreeSet<IdentityId> = of().flat_map(|role| &role.members).map(|(identity, _)| *identity).collect();
    let members: Vec<IdentityId> = members.into_iter().collect();
    Some(Assigned::new(&members, identities))
}

type Canonical = (Box<[u8]>, Box<[Constraint]>);

///
fn compile_privilege(privilege: &document::Privilege) -> Result<Canonical, (Part, CanonError)> {
    let path = canonical::privilege_path(&privilege.path).map_err(|error| (Part::Path, error))?;
    let mut constraints = BTreeSet::new();
    for (name, value) in privilege.query_parameters.iter().flat_map(|parameters| &parameters.0) {
        let part = |raw: &str, part: Part| {
            let mut out = Vec::new();
            canonical::component(raw.as_bytes(), &mut out).map(|()| out.into_boxed_slice()).map_err(|error| (part, error))
        };
        let constraint = Constraint { name: part(name, Part::ParameterName)?, value: part(value, Part::ParameterValue)? };
        if !constraint.name.is_empty() {
            constraints.insert(constraint);
        }
    }
    Ok((path, constraints.into_iter().collect()))
}

/// Path and constraints of a privilege in canonical form; `/` is everything.
#[cfg(feature = "advise")]
pub(crate) type CanonicalPrivilege = (String, Vec<(String, String)>);

/// Brings one privilege into canonical form: for the tools, which look at each on its own.
#[cfg(feature = "advise")]
pub(crate) fn canonical_privilege(privilege: &document::Privilege) -> Result<CanonicalPrivilege, (Part, CanonError)> {
    // What has a canonical form is UTF-8.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (path, constraints) = compile_privilege(privilege)?;
    let path = if path.is_empty() { "/".to_owned() } else { text(&path) };
    Ok((path, constraints.iter().map(|c| (text(&c.name), text(&c.value))).collect()))
}
