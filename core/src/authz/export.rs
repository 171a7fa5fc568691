//! Compiled rules as they are shown to people. Nothing reads them back.

use super::compile::{CompiledPrivilege, Rules};
use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use std::borrow::Cow;

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
        serializer.collect_map(self.0.iter().map(|privilege| (&privilege.name, Privilege(privilege))))
    }
}

struct Privilege<'a>(&'a CompiledPrivilege);

impl Serialize for Privilege<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("name", &self.0.name)?;
        let path = text(&self.0.path);
        out.serialize_entry("path", if path.is_empty() { "/" } else { &path })?;
        if !self.0.constraints.is_empty() {
            out.serialize_entry("queryParameters", &Constraints(self.0))?;
        }
        out.end()
    }
}

struct Constraints<'a>(&'a CompiledPrivilege);

impl Serialize for Constraints<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.constraints.iter().map(|c| (text(&c.name), text(&c.value))))
    }
}

/// Names of identities by the privilege that they are assigned to; a privilege that nobody has is not listed.
struct Assignments<'a>(&'a Rules);

impl Serialize for Assignments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rules = self.0;
        serializer.collect_map(rules.privileges.iter().filter_map(|privilege| {
            let assigned = rules.assigned.get(privilege.assigned)?;
            let mut names: Vec<&str> = assigned.identities().filter_map(|id| rules.identity_name(id)).collect();
            names.sort_unstable();
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
