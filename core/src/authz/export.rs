//! Compiled rules as they are shown to people. Nothing reads them back.

use super::compile::{CompiledIdentity, CompiledPrivilege, Rules};
use core::fmt;
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use std::borrow::Cow;

impl Rules {
    /// The privileges in canonical form, ascending by name.
    pub fn privileges(&self) -> impl Iterator<Item = PrivilegeView<'_>> {
        self.privileges.iter().map(PrivilegeView::new)
    }
}

impl Serialize for Rules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Rules", 6)?;
        out.serialize_field("id", self.id())?;
        out.serialize_field("defaultAllowed", &self.default_allowed())?;
        out.serialize_field("mode", self.mode().name())?;
        out.serialize_field("privileges", &Privileges(&self.privileges))?;
        out.serialize_field("privilegeAssignments", &Assignments(self))?;
        out.serialize_field("identities", &Identities(self))?;
        out.end()
    }
}

/// Privileges by name, in the canonical form that decides: lower-cased and decoded.
struct Privileges<'a>(&'a [CompiledPrivilege]);

impl Serialize for Privileges<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|privilege| (&privilege.name, PrivilegeView(privilege))))
    }
}

/// A privilege in the canonical form that decides. Prints as path and query.
#[derive(Debug, Clone, Copy)]
pub struct PrivilegeView<'a>(&'a CompiledPrivilege);

impl<'a> PrivilegeView<'a> {
    pub(super) const fn new(privilege: &'a CompiledPrivilege) -> Self {
        Self(privilege)
    }

    /// Its name, as given.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        &self.0.name
    }

    /// The path, lower-cased and decoded; `/` for everything.
    #[must_use]
    pub fn path(&self) -> Cow<'a, str> {
        let path = text(&self.0.path);
        if path.is_empty() { Cow::Borrowed("/") } else { path }
    }

    /// Parameters that must be present, and their values; lower-cased and decoded.
    pub fn constraints(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.0.constraints.iter().map(|c| (text(&c.name), text(&c.value)))
    }
}

impl Serialize for PrivilegeView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("name", self.name())?;
        out.serialize_entry("path", &self.path())?;
        if !self.0.constraints.is_empty() {
            out.serialize_entry("queryParameters", &Constraints(self.0))?;
        }
        out.end()
    }
}

/// Path and query; control characters escaped (SEC-07).
impl fmt::Display for PrivilegeView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().escape_debug().fmt(f)?;
        for (at, (name, value)) in self.constraints().enumerate() {
            write!(f, "{}{}={}", if at == 0 { '?' } else { '&' }, name.escape_debug(), value.escape_debug())?;
        }
        Ok(())
    }
}

/// An identity by its selectors. Prints as name and selectors.
#[derive(Debug, Clone, Copy)]
pub struct IdentityView<'a>(&'a CompiledIdentity);

impl<'a> IdentityView<'a> {
    pub(super) const fn new(identity: &'a CompiledIdentity) -> Self {
        Self(identity)
    }

    /// Its name, as given.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        &self.0.name
    }
}

impl Serialize for IdentityView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Selectors, or `everyone`.
impl fmt::Display for IdentityView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.selectors.fmt(f)
    }
}

struct Constraints<'a>(&'a CompiledPrivilege);

impl Serialize for Constraints<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(PrivilegeView(self.0).constraints())
    }
}

/// Names of identities by the privilege that they are assigned to; a privilege that nobody has is not listed.
struct Assignments<'a>(&'a Rules);

impl Serialize for Assignments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rules = self.0;
        serializer.collect_map(rules.privileges.iter().filter_map(|privilege| {
            // Numbered by name.
            let names: Vec<&str> = rules.holders(privilege).into_iter().filter_map(|id| rules.identity_name(id)).collect();
            (!names.is_empty()).then_some((&privilege.name, names))
        }))
    }
}

struct Identities<'a>(&'a Rules);

impl Serialize for Identities<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.identities.iter().map(|identity| (&identity.name, identity)))
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
