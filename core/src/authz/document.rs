//! The authorization document as it is written (rules.md section 1). Only its shape is checked here; sense is made of it by
//! [`Rules::compile`](super::Rules::compile).

use core::fmt;
use core::marker::PhantomData;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use std::collections::BTreeMap;

/// One document for one destination. Unknown members are ignored, repeated ones refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// `allow` or `deny`: the outcome when no privilege matches.
    pub default_access: String,
    /// `disabled`, `audit` or `enforce`.
    pub mode: String,
    /// Identifies the rule set; may be empty.
    pub id: String,
    /// The four lists.
    #[serde(default, deserialize_with = "maybe_object", skip_serializing_if = "Option::is_none")]
    pub rules: Option<RuleLists>,
}

/// The lists of a document. Only a document with all four has privileges.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, DeriveDeserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleLists {
    /// What may be asked for (R-05a).
    #[serde(default, deserialize_with = "maybe_objects", skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Vec<Privilege>>,
    /// Named sets of privileges (R-05b).
    #[serde(default, deserialize_with = "maybe_objects", skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<Role>>,
    /// Who may ask (R-05c).
    #[serde(default, deserialize_with = "maybe_objects", skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<Identity>>,
    /// Who has which role (R-05d).
    #[serde(default, deserialize_with = "maybe_objects", skip_serializing_if = "Option::is_none")]
    pub role_assignments: Option<Vec<RoleAssignment>>,
}

/// A path, and parameters that must be present (R-05a).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
#[serde(rename_all = "camelCase")]
pub struct Privilege {
    /// Its name.
    pub name: String,
    /// The path, with everything below it.
    pub path: String,
    /// Parameter name to value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_parameters: Option<QueryParameters>,
}

/// A named set of privileges (R-05b).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Names of privileges.
    pub privileges: Vec<String>,
}

/// A caller, described by selectors that must all be equal to the caller's (R-05c, R-33).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, DeriveDeserialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
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

/// A value that is written as an object. Derived code alone would also take an array of the members' values.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

fn maybe_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|o| o.0))
}

fn maybe_objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Option::<Vec<Object<T>>>::deserialize(deserializer)?.map(|list| list.into_iter().map(|o| o.0).collect()))
}
