//! The decision by a document (rules.md section 3), and the index that finds the privileges that matter.

use super::Request;
use super::canonical::query::Query;
use super::canonical::{self, CanonError, Canonical, Scratch};
use super::compile::{CompiledPrivilege, Constraint, Rules};
use super::decision::{Allowed, Denial, PrivilegeId};
use crate::identity::Claims;
use std::collections::BTreeMap;

impl Rules {
    /// Decides, whatever the mode is.
    pub(super) fn verdict(&self, claims: &Claims, request: Request<'_>, scratch: &mut Scratch) -> Result<Allowed, Denial> {
        let request = canonical::check(request.method, request.target, scratch).map_err(Denial::Canonical)?;
        if request.is_ambiguous() {
            return Err(Denial::Canonical(CanonError::Ambiguous));
        }
        let mut denial = None;
        let verdict = self.index.matching(&self.privileges, &request, |id, privilege| {
            let Some(identity) = self.holder(privilege, claims) else {
                // What the caller could have changed is the better explanation.
                if !matches!(denial, Some(Denial::ConflictingValues(_))) {
                    denial = Some(Denial::NotAssigned(id));
                }
                return None;
            };
            if !privilege.constraints.iter().all(|c| request.query().has_only(&c.name, &c.value)) {
                denial = Some(Denial::ConflictingValues(id));
                return None;
            }
            Some(Allowed::Privilege(id, identity))
        });
        match (verdict, denial) {
            (Some(allowed), _) => Ok(allowed),
            (None, Some(denial)) => Err(denial),
            (None, None) if self.default_allow => Ok(Allowed::Default),
            (None, None) => Err(Denial::Default),
        }
    }
}

/// Privileges by path, and those with constraints by one of them.
///
/// A look-up costs one binary search per segment of the request, and per parameter at a path that has constrained privileges;
/// beyond that it looks at matches only. Its order does not depend on the order of the document.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// Ascending by path.
    nodes: Box<[Node]>,
    /// Segments of the longest path.
    depth: usize,
}

/// The privileges of one path.
#[derive(Debug, Clone)]
struct Node {
    path: Box<[u8]>,
    /// Those without constraints.
    plain: Box<[PrivilegeId]>,
    /// The others, ascending by pivot.
    keyed: Box<[Keyed]>,
}

/// A privilege with constraints, by the one of them that is rarest at its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Keyed {
    pivot: Constraint,
    privilege: PrivilegeId,
}

impl Index {
    pub(super) fn new(privileges: &[CompiledPrivilege]) -> Self {
        let mut paths: BTreeMap<&[u8], Vec<(PrivilegeId, &CompiledPrivilege)>> = BTreeMap::new();
        for (id, privilege) in (0..).map(PrivilegeId).zip(privileges) {
            paths.entry(&privilege.path).or_default().push((id, privilege));
        }
        let depth = paths.keys().map(|path| path.iter().filter(|b| **b == b'/').count()).max().unwrap_or(0);
        Self { nodes: paths.into_iter().map(|(path, privileges)| Node::new(path, &privileges)).collect(), depth }
    }

    /// Calls `visit` with each privilege that matches, shortest path first, until it gives something.
    pub(super) fn matching<'p, T>(
        &self,
        privileges: &'p [CompiledPrivilege],
        request: &Canonical<'_>,
        mut visit: impl FnMut(PrivilegeId, &'p CompiledPrivilege) -> Option<T>,
    ) -> Option<T> {
        let query = request.query();
        let mut nodes = &*self.nodes;
        for prefix in request.path().prefixes().take(self.depth + 1) {
            // Longer prefixes sort later: what is behind us stays behind us.
            let at = nodes.partition_point(|node| *node.path < *prefix);
            nodes = nodes.get(at..)?;
            let Some(node) = nodes.first().filter(|node| *node.path == *prefix) else { continue };
            let mut consider = |id: PrivilegeId| {
                let privilege = privileges.get(id.0 as usize)?;
                let matches = privilege.constraints.iter().all(|c| query.has(&c.name, &c.value));
                if matches { visit(id, privilege) } else { None }
            };
            let found = node.plain.iter().copied().find_map(&mut consider);
            let found = found.or_else(|| node.keyed_candidates(query, &mut consider));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

impl Node {
    fn new(path: &[u8], privileges: &[(PrivilegeId, &CompiledPrivilege)]) -> Self {
        let mut frequency: BTreeMap<&Constraint, usize> = BTreeMap::new();
        for constraint in privileges.iter().flat_map(|(_, privilege)| &privilege.constraints) {
            *frequency.entry(constraint).or_default() += 1;
        }
        let (mut plain, mut keyed) = (Vec::new(), Vec::new());
        for (privilege, compiled) in privileges {
            match compiled.constraints.iter().min_by_key(|constraint| (frequency.get(constraint), *constraint)) {
                Some(pivot) => keyed.push(Keyed { pivot: pivot.clone(), privilege: *privilege }),
                None => plain.push(*privilege),
            }
        }
        keyed.sort();
        Self { path: path.into(), plain: plain.into(), keyed: keyed.into() }
    }

    /// The constrained privileges whose pivot is among the parameters; the shorter list is walked, the longer one searched.
    fn keyed_candidates<T>(&self, query: &Query, mut consider: impl FnMut(PrivilegeId) -> Option<T>) -> Option<T> {
        if self.keyed.len() <= query.distinct().len() {
            let present = self.keyed.iter().filter(|keyed| query.has(&keyed.pivot.name, &keyed.pivot.value));
            return present.map(|keyed| keyed.privilege).find_map(consider);
        }
        query.distinct().find_map(|pair| {
            let pivot = |keyed: &Keyed| (&*keyed.pivot.name, &*keyed.pivot.value).cmp(&pair);
            let first = self.keyed.partition_point(|keyed| pivot(keyed).is_lt());
            let same = self.keyed.iter().skip(first).take_while(|keyed| pivot(keyed).is_eq());
            same.map(|keyed| keyed.privilege).find_map(&mut consider)
        })
    }
}
