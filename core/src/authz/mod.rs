//! Authorization: may this caller send this request to this endpoint? (rules.md sections 1 to 3 and 6, proxy.md section 5)
//!
//! Knows documents, their compiled form, and the canonical form of a request. Refuses to know HTTP, status codes, records, and
//! where documents come from. Whatever goes wrong on the way to a decision is a denial (SEC-06).

pub mod canonical;
mod compile;
mod decision;
mod descriptor;
#[cfg(feature = "advise")]
mod detail;
mod document;
mod explanation;
mod export;
mod finding;
mod guard;
mod legacy;
pub mod local;
mod matcher;
mod selector;

#[cfg(test)]
mod tests;

pub use crate::json::place::Place;
pub use canonical::{CanonError, Scratch};
#[cfg(feature = "advise")]
pub(crate) use compile::canonical_privilege;
pub use compile::{Mode, Rules};
pub use decision::{Allowed, Decision, Denial, IdentityId, PrivilegeId};
pub use descriptor::Descriptor;
#[cfg(feature = "advise")]
pub use detail::{Compared, Match, Near, Parameter};
pub use document::{Document, Identity, Privilege, QueryParameters, Role, RoleAssignment, RuleLists, Unknown};
pub(crate) use explanation::Name;
pub use explanation::{Explanation, Reason, explain};
pub use export::{IdentityView, PrivilegeView};
pub use finding::{Element, Finding, Part};
pub use guard::{raw_path, traversal_guard};
pub use legacy::{CanonicalMode, Legacy, Shadow};
pub use local::{LocalError, LocalRules};

use crate::identity::{Claims, Destination, PerDestination};
use crate::sign;
use core::net::SocketAddrV4;
use std::sync::Arc;

/// What authorization looks at of a request: nothing else takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// As received.
    pub method: &'a [u8],
    /// The request target as received, without fragment.
    pub target: &'a [u8],
}

/// Decides about one request (PX-64 to PX-72).
///
/// `to` is the original destination of the connection: it alone selects the document (PX-64). The caller has run the
/// [`traversal_guard`] before (PX-45). `scratch` is working memory, kept by the caller so that a warm one needs no allocation.
pub fn decide(
    rules: &PerDestination<Option<Arc<Rules>>>,
    to: SocketAddrV4,
    claims: &Claims,
    request: Request<'_>,
    scratch: &mut Scratch,
) -> Decision {
    // Before anything else, exemption included: a signing proxy has no default that forwards (PX-65).
    let Some(destination) = Destination::from_addr(to) else {
        return Decision::Deny(Denial::Destination);
    };
    if claims.is_elevated() {
        if sign::is_exempt(request.method, request.target) {
            return Decision::Allow(Allowed::Exempt);
        }
    } else if destination.elevated_only() {
        return Decision::Deny(Denial::Elevation);
    }
    let Some(rules) = rules.get(destination) else {
        return Decision::Allow(Allowed::NoDocument);
    };
    let verdict = match rules.mode() {
        Mode::Disabled => return Decision::Allow(Allowed::Disabled),
        Mode::Audit | Mode::Enforce => rules.verdict(claims, request, scratch),
    };
    match (verdict, rules.mode()) {
        (Ok(allowed), _) => Decision::Allow(allowed),
        (Err(denial), Mode::Audit) => Decision::Audit(denial),
        (Err(denial), _) => Decision::Deny(denial),
    }
}
