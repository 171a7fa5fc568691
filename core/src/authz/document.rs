//! The authorization document as it is written (rules.md section 1). Only its shape is checked here; sense is made of it by
//! [`Rules::compile`](super::Rules::compile).

use core::fmt;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// One document for one destination (R-01 to R-04). Unknown members are ignored, repeated ones refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A path, and parameters that must be present (R-05a).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase")]
pub struct Privilege {
    /// Its name.
    pub name: String,
    /// The path, with everything below it (R-32).
    pub path: String,
    /// Parameter name to value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_parameters: Option<QueryParameters>,
}

/// A named set of privileges (R-05b).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Names of privileges.
    pub privileges: Vec<String>,
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
}

/// Gives a role to identities (R-05d).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct RoleAssignment {
    /// Name of a role.
    pub role: String,
    /// Names of identities.
    pub identities: Vec<String>,
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
                        $name::deserialize(MapAccessDeserializer::new(map))
                    }
                }
                deserializer.deserialize_map(Members)
            }
        }
    )+};
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
        assert_eq!(read(r#"{"defaultAccess":"deny","mode":"audit","id":"","rules":null}"#), Ok(plain.clone()));
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"defaultAccess":"deny","mode":"audit","id":""}"#);
        let lists = read(
            r#"{"defaultAccess":"deny","mode":"audit","id":"i","rules":{"privileges":null,"roles":[],
                "identities":[{"name":"a","userName":null,"x":1}],"roleAssignments":[{"role":"r","identities":["a"]}]}}"#,
        );
        let lists = lists.unwrap().rules.unwrap();
        assert_eq!((lists.privileges, lists.roles), (None, Some(vec![])));
        assert_eq!(lists.identities.unwrap()[0].user_name, None);
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
