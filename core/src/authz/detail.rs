//! What a decision leaves out because it needs no more: every privilege that matches and why it grants or not, and those that would
//! match but for a parameter. For people; made of the same index, sets and comparisons that decide.

use super::canonical::{self, CanonError, Scratch};
use super::compile::Rules;
use super::document::Identity;
use super::export::{IdentityView, PrivilegeView};
use super::selector::Selectors;
use super::{PrivilegeId, Request};
use crate::identity::Claims;
use serde::Serialize;
use serde_json::Value;

/// A privilege that matches a request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Match<'a> {
    /// The privilege.
    pub privilege: PrivilegeView<'a>,
    /// Whether it grants.
    pub grants: bool,
    /// Constrained parameters that the request gives another value too: with these it grants nobody anything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Parameter>,
    /// Who it is assigned to, by name. None: it locks its path.
    pub identities: Vec<Compared<'a>>,
}

/// An identity compared with the caller.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared<'a> {
    /// The identity.
    pub identity: IdentityView<'a>,
    /// Names of selectors that are not equal to the caller's, and their values. Empty: it is the caller's.
    pub differs: serde_json::Map<String, Value>,
}

/// A constrained parameter, and what a request says about it. All in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// The value that the privilege asks for.
    pub wanted: String,
    /// The values that the request gives, each once.
    pub given: Vec<String>,
}

/// A privilege whose path is a prefix of the request's, and which does not match because of its constraints.
#[derive(Debug, Clone, Serialize)]
pub struct Near<'a> {
    /// The privilege.
    pub privilege: PrivilegeView<'a>,
    /// The constraints that are not met.
    pub missing: Vec<Parameter>,
}

impl Rules {
    /// Every privilege that matches, shortest path first, and what it says to the caller. The mode takes no part.
    ///
    /// # Errors
    /// The request has no canonical form, or an ambiguous one: nothing matches.
    pub fn matches(&self, claims: &Claims, request: Request<'_>) -> Result<Vec<Match<'_>>, CanonError> {
        let mut scratch = Scratch::new();
        let request = canonical(request, &mut scratch)?;
        let mut ids: Vec<PrivilegeId> = Vec::new();
        self.index.matching(&self.privileges, &request, |id, _| {
            ids.push(id);
            None::<()>
        });
        let matches = ids.into_iter().filter_map(|id| self.privileges.get(id.0 as usize)).map(|privilege| {
            let has_only = |name: &[u8], value: &[u8]| request.query().has_only(name, value);
            let conflicts = parameters(privilege, &request, has_only);
            let is_theirs = self.holder(privilege, claims).is_some();
            let identities: Vec<Compared<'_>> = self
                .holders(privilege)
                .into_iter()
                .filter_map(|id| self.identities.get(id.0 as usize))
                .map(|identity| Compared { identity: IdentityView::new(identity), differs: identity.selectors.differing(claims) })
                .collect();
            Match { privilege: PrivilegeView::new(privilege), grants: is_theirs && conflicts.is_empty(), conflicts, identities }
        });
        Ok(matches.collect())
    }

    /// The privileges that would match if the request's parameters were others.
    ///
    /// # Errors
    /// As [`matches`](Self::matches).
    pub fn nearly(&self, request: Request<'_>) -> Result<Vec<Near<'_>>, CanonError> {
        let mut scratch = Scratch::new();
        let request = canonical(request, &mut scratch)?;
        let below = |path: &[u8]| request.path().prefixes().any(|prefix| prefix == path);
        let near = self.privileges.iter().filter(|privilege| below(&privilege.path)).filter_map(|privilege| {
            let missing = parameters(privilege, &request, |name, value| request.query().has(name, value));
            (!missing.is_empty()).then(|| Near { privilege: PrivilegeView::new(privilege), missing })
        });
        Ok(near.collect())
    }
}

fn canonical<'s>(request: Request<'_>, scratch: &'s mut Scratch) -> Result<canonical::Canonical<'s>, CanonError> {
    let canonical = canonical::check(request.method, request.target, scratch)?;
    if canonical.is_ambiguous() { Err(CanonError::Ambiguous) } else { Ok(canonical) }
}

/// The constraints of a privilege that a request does not meet in the sense of `met`.
fn parameters(
    privilege: &super::compile::CompiledPrivilege,
    request: &canonical::Canonical<'_>,
    met: impl Fn(&[u8], &[u8]) -> bool,
) -> Vec<Parameter> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let unmet = privilege.constraints.iter().filter(|constraint| !met(&constraint.name, &constraint.value));
    unmet
        .map(|constraint| Parameter {
            name: text(&constraint.name),
            wanted: text(&constraint.value),
            given: request
                .query()
                .distinct()
                .filter(|(name, _)| *name == &*constraint.name)
                .map(|(_, value)| text(value))
                .collect(),
        })
        .collect()
}

impl Selectors {
    /// The selectors that are not equal to the caller's. Each one is compared as an identity of that selector alone would be.
    fn differing(&self, claims: &Claims) -> serde_json::Map<String, Value> {
        let Ok(Value::Object(selectors)) = serde_json::to_value(self) else { return serde_json::Map::new() };
        let differs = |(name, value): &(String, Value)| {
            let alone = serde_json::json!({"name": "", name: value});
            let alone: Option<Identity> = serde_json::from_value(alone).ok();
            // What cannot be compared is not said to be equal.
            alone.is_none_or(|alone| !Self::of(&alone).match_caller(claims))
        };
        selectors.into_iter().filter(differs).collect()
    }
}
