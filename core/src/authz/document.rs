//! The authorization document as it is written (rules.md section 1). Only its shape is checked here; sense is made of it by
//! [`Rules::compile`](super::Rules::compile).

use core::fmt;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, forward_to_deserialize_any};
use std::collections::BTreeMap;

/// One document for one destination (R-01 to R-04). Unknown members change nothing (R-05), but are noted; repeated ones are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Document {
    /// `allow` or `deny`: the outcome when no privilege matches (R-01).
    pub default_access: String,
    /// `disabled`, `audit` or `enforce` (R-02).
    pub mode: String,
    /// Identifies the rule set; may be empty (R-03).
    pub id: String,
    /// The four lists (R-04).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<RuleLists>,
    /// Members that mean nothing to us.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// The lists of a document (R-05). Only a document with all four has privileges (R-13).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct RuleLists {
    /// What may be asked for (R-05a).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Vec<Privilege>>,
    /// Named sets of privileges (R-05b).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<Role>>,
    /// Who may ask (R-05c).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<Identity>>,
    /// Who has which role (R-05d).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_assignments: Option<Vec<RoleAssignment>>,
    /// Members that mean nothing to us.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A path, and parameters that must be present (R-05a).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Privilege {
    /// Its name.
    pub name: String,
    /// The path, with everything below it (R-32).
    pub path: String,
    /// Parameter name to value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_parameters: Option<QueryParameters>,
    /// Members that mean nothing to us.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A named set of privileges (R-05b).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Names of privileges.
    pub privileges: Vec<String>,
    /// Members that mean nothing to us.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A caller, described by selectors that must all be equal to the caller's (R-05c, R-33).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Account name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Name of one of the caller's groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    /// Path of the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_path: Option<String>,
    /// Last component of the executable's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_name: Option<String>,
    /// Real user id, in the initial user namespace. An addition of ours, like those that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Real group id, in the initial user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// SHA-256 of the executable's content, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<String>,
    /// Control group (cgroup2) of the process, as `/proc/PID/cgroup` has it; with `/*` at the end that one and all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    /// Members that mean nothing to us.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// Gives a role to identities (R-05d).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct RoleAssignment {
    /// Name of a role.
    pub role: String,
    /// Names of identities.
    pub identities: Vec<String>,
    /// Members that mean nothing to us.
    #[serde(skip)]
    pub unknown: Unknown,
}

impl Identity {
    /// Whether it has no selector that we know: such a one matches everyone (R-33).
    #[must_use]
    pub const fn is_everyone(&self) -> bool {
        let Self { name: _, user_name, group_name, exe_path, process_name, uid, gid, exe_sha256, cgroup_path, unknown: _ } = self;
        user_name.is_none()
            && group_name.is_none()
            && exe_path.is_none()
            && process_name.is_none()
            && uid.is_none()
            && gid.is_none()
            && exe_sha256.is_none()
            && cgroup_path.is_none()
    }
}

/// Names of members that mean nothing to us: the first of them, and their beginnings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unknown(Vec<Box<str>>);

impl Unknown {
    /// So many of an object are kept …
    const MOST: usize = 8;
    /// … of each so many bytes.
    const LONG: usize = 64;

    fn note(&mut self, name: &str) {
        if self.0.len() < Self::MOST {
            self.0.push(name.get(..name.floor_char_boundary(Self::LONG)).unwrap_or(name).into());
        }
    }

    /// Those of one and of the other.
    pub(super) fn both(one: &Self, other: &Self) -> Self {
        Self(one.0.iter().chain(&other.0).take(Self::MOST).cloned().collect())
    }

    /// The names, in the order in which they were met.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Constraints of a privilege, by parameter name as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct QueryParameters(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for QueryParameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = QueryParameters;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    // A map would let the last one win, in silence.
                    if pairs.insert(name, value).is_some() {
                        return Err(A::Error::custom("duplicate query parameter"));
                    }
                }
                Ok(QueryParameters(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Gives a type whose members are derived (`remote = "Self"`) its two traits, such that only an object is read as one: derived
/// code alone would also take an array of the members' values.
macro_rules! objects {
    ($($name:ident)+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Members;
                impl<'de> Visitor<'de> for Members {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                        let mut unknown = Unknown::default();
                        let object = $name::deserialize(Object { map, unknown: &mut unknown })?;
                        Ok($name { unknown, ..object })
                    }
                }
                deserializer.deserialize_map(Members)
            }
        }
    )+};
}

/// An object whose unknown members are noted.
struct Object<'u, A> {
    map: A,
    unknown: &'u mut Unknown,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for Object<'_, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_map(self.map)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        visitor.visit_map(Members { map: self.map, fields, unknown: self.unknown })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Its members, of which those in `fields` are known.
struct Members<'u, A> {
    map: A,
    fields: &'static [&'static str],
    unknown: &'u mut Unknown,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.map.next_key_seed(MemberName { seed, fields: self.fields, unknown: self.unknown })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

struct MemberName<'u, K> {
    seed: K,
    fields: &'static [&'static str],
    unknown: &'u mut Unknown,
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for MemberName<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for MemberName<'_, K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<K::Value, E> {
        if !self.fields.contains(&name) {
            self.unknown.note(name);
        }
        self.seed.deserialize(name.into_deserializer())
    }
}

objects!(Document RuleLists Privilege Role Identity RoleAssignment);

#[cfg(test)]
mod tests {
    use super::Document;

    fn read(text: &str) -> Result<Document, String> {
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn members_are_optional_or_null_as_r04_and_r05_say() {
        let plain = read(r#"{"mode":"audit","id":"","defaultAccess":"deny","other":[1,{"mode":"x"}]}"#).unwrap();
        assert_eq!(plain.unknown.names().collect::<Vec<_>>(), ["other"]);
        let plain = Document { unknown: Default::default(), ..plain };
        assert_eq!(read(r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":null}"#), Ok(plain.clone()));
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"defaultAccess":"deny","mode":"audit","id":""}"#);
        let lists = read(
            r#"{"defaultAccess":"deny","mode":"audit","id":"i","rules":{"privileges":null,"roles":[],
                "identities":[{"name":"a","userName":null,"x":1}],"roleAssignments":[{"role":"r","identities":["a"]}]}}"#,
        );
        let lists = lists.unwrap().rules.unwrap();
        assert_eq!((lists.privileges, lists.roles), (None, Some(vec![])));
        let identity = &lists.identities.unwrap()[0];
        assert_eq!((&identity.user_name, identity.is_everyone()), (&None, true));
        assert_eq!(identity.unknown.names().collect::<Vec<_>>(), ["x"]);
    }

    /// A document may hold anything where nobody looks, and only the beginning is kept of it.
    #[test]
    fn unknown_members_are_noted_in_bounds_r05() {
        let many: String = (0..10_000).map(|n| format!(r#""{n}{}":{n},"#, "\u{e9}".repeat(100))).collect();
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let text = format!(r#"{{"deep":{deep},{many}"defaultAccess":"deny","mode":"audit","id":""}}"#);
        let document = read(&text).unwrap();
        let names: Vec<&str> = document.unknown.names().collect();
        assert_eq!((names.len(), names[0]), (8, "deep"));
        assert!(names.iter().all(|name| name.len() <= 64));
        // Nobody who writes the document down again writes them.
        assert_eq!(serde_json::to_string(&document).unwrap(), r#"{"defaultAccess":"deny","mode":"audit","id":""}"#);
    }

    #[test]
    fn own_selectors_are_optional_and_have_their_types() {
        let with = |identity: &str| {
            let lists = format!(r#""privileges":[],"roles":[],"identities":[{identity}],"roleAssignments":[]"#);
            let document = read(&format!(r#"{{"defaultAccess":"deny","mode":"audit","id":"","rules":{{{lists}}}}}"#));
            document.map(|d| d.rules.unwrap().identities.unwrap().remove(0))
        };
        let text = r#"{"name":"a","uid":0,"gid":4294967295,"exeSha256":"AB","cgroupPath":"/a/*"}"#;
        let identity = with(text).unwrap();
        assert!(!identity.is_everyone() && identity.unknown.is_empty());
        assert_eq!(serde_json::to_string(&identity).unwrap(), text);
        assert!(with(r#"{"name":"a","uid":null,"cgroupPath":null}"#).unwrap().is_everyone());
        for bad in
            [r#""uid":-1"#, r#""uid":"0""#, r#""gid":4294967296"#, r#""gid":1.5"#, r#""exeSha256":1"#, r#""cgroupPath":[]"#]
        {
            assert!(with(&format!(r#"{{"name":"a",{bad}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_a_document_is_refused() {
        for bad in [
            r#"{"mode":"audit","id":""}"#,
            r#"{"defaultAccess":"deny","mode":"audit"}"#,
            r#"{"defaultAccess":"deny","mode":null,"id":""}"#,
            r#"{"defaultAccess":"deny","mode":"audit","mode":"enforce","id":""}"#,
            r#"["deny","audit","",null]"#,
            r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":[]}"#,
            r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":{"roles":[],"roles":[]}}"#,
            r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":{"privileges":[["p","/"]]}}"#,
            r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":{"privileges":[{"name":"p"}]}}"#,
            r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":{"privileges":[{"name":"p","path":"/","queryParameters":{"a":"1","a":"2"}}]}}"#,
            r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":{"privileges":[{"name":"p","path":"/","queryParameters":{"a":1}}]}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
