//! What a decision says: small values that explain themselves and own nothing. Names are in the [`Rules`](super::Rules) that
//! decided.

use super::CanonError;
use core::fmt;

/// A privilege of a compiled document: its place among the privileges sorted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrivilegeId(pub(super) u32);

/// An identity of a compiled document: its place among the identities sorted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId(pub(super) u32);

/// The outcome of authorization.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Forward.
    Allow(Allowed),
    /// Forward, and record as failed authorization (PX-71).
    Audit(Denial),
    /// Refuse with 403 (PX-72).
    Deny(Denial),
}

impl Decision {
    /// Whether the request may be forwarded.
    #[must_use]
    pub const fn forwards(&self) -> bool {
        matches!(self, Self::Allow(_) | Self::Audit(_))
    }

    /// Why authorization failed, if it did.
    #[must_use]
    pub const fn denial(&self) -> Option<Denial> {
        match self {
            Self::Allow(_) => None,
            Self::Audit(denial) | Self::Deny(denial) => Some(*denial),
        }
    }
}

/// Why a request is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// An exempt request of an elevated caller: no document was looked at (R-06, PX-66).
    Exempt,
    /// The destination has no document (PX-68).
    NoDocument,
    /// The document's mode is `disabled` (R-30, PX-69).
    Disabled,
    /// A privilege grants, and this identity of it is the caller's.
    Privilege(PrivilegeId, IdentityId),
    /// No privilege matched, and the default access is `allow`.
    Default,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The original destination is not a guarded endpoint (PX-65), or is the agent's own listener (PX-64).
    Destination,
    /// The destination is for elevated callers, and this one is not (R-07, PX-67).
    Elevation,
    /// The request has no canonical form, or an ambiguous one.
    Canonical(CanonError),
    /// This privilege matched, and none that matched has an identity that is the caller's.
    NotAssigned(PrivilegeId),
    /// This privilege matched and the caller has an identity of it, but the request repeats a constrained parameter with
    /// different values.
    ConflictingValues(PrivilegeId),
    /// No privilege matched, and the default access is `deny`.
    Default,
}

impl Denial {
    /// The canonicalization error, if it was one: goes into the record as `error:<code>`.
    #[must_use]
    pub const fn canonical_error(&self) -> Option<CanonError> {
        match self {
            Self::Canonical(error) => Some(*error),
            _ => None,
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exempt => "exempt",
            Self::NoDocument => "no-document",
            Self::Disabled => "disabled",
            Self::Privilege(..) => "privilege",
            Self::Default => "default",
        })
    }
}

/// A short stable word for records; an error code as `error:<code>`.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Destination => "destination",
            Self::Elevation => "elevation",
            Self::Canonical(error) => return write!(f, "error:{}", error.code()),
            Self::NotAssigned(_) => "not-assigned",
            Self::ConflictingValues(_) => "conflicting-values",
            Self::Default => "default",
        })
    }
}
