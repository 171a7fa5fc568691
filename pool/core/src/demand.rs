//! What a job demands of an agent besides its version: `key = value`, `key exists`.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Longest key or value, in bytes.
pub const LONGEST: usize = 256;

/// What an agent says of itself: key to value. Keys are compared as they are written.
pub type Capabilities = BTreeMap<String, String>;

/// One demand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Demand {
    /// The agent has the key, whatever its value.
    Exists(String),
    /// The agent has the key with this value.
    Equals(String, String),
}

impl Demand {
    /// Whether an agent with these capabilities satisfies it.
    #[must_use]
    pub fn is_satisfied_by(&self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Exists(key) => capabilities.contains_key(key),
            Self::Equals(key, value) => capabilities.get(key) == Some(value),
        }
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(key) => write!(f, "{key} exists"),
            Self::Equals(key, value) => write!(f, "{key} = {value}"),
        }
    }
}

/// Why a text is no demand, or a pair no capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemandError(String);

impl fmt::Display for DemandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for DemandError {}

impl FromStr for Demand {
    type Err = DemandError;

    fn from_str(text: &str) -> Result<Self, DemandError> {
        if let Some((key, value)) = text.split_once('=') {
            let (key, value) = (key.trim(), value.trim());
            check(key, value)?;
            return Ok(Self::Equals(key.into(), value.into()));
        }
        let Some(key) = text.trim().strip_suffix("exists").filter(|key| key.ends_with(char::is_whitespace)).map(str::trim) else {
            let shown: String = text.chars().take(64).collect();
            return Err(DemandError(format!("`{}` is not a demand: write `key = value` or `key exists`", shown.escape_debug())));
        };
        check(key, "-")?;
        Ok(Self::Exists(key.into()))
    }
}

/// Whether a key and a value can be what agents say and jobs demand.
///
/// # Errors
/// A key of other characters than ASCII letters, digits, `.`, `_` and `-`; a value that is empty or has control characters; either too long.
pub fn check(key: &str, value: &str) -> Result<(), DemandError> {
    let shown = |text: &str| text.chars().take(64).collect::<String>().escape_debug().to_string();
    if key.is_empty() {
        return Err(DemandError("a key is empty".into()));
    }
    if let Some(c) = key.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        let key = shown(key);
        return Err(DemandError(format!(
            "the key `{key}` has the character `{}`; letters, digits, `.`, `_`, `-` are known",
            c.escape_debug()
        )));
    }
    if value.is_empty() {
        return Err(DemandError(format!("the value of `{}` is empty", shown(key))));
    }
    if value.chars().any(crate::breaks_a_line) {
        return Err(DemandError(format!("the value of `{}` has control characters", shown(key))));
    }
    if key.len() > LONGEST || value.len() > LONGEST {
        return Err(DemandError(format!("`{}` or its value is longer than {LONGEST} bytes", shown(key))));
    }
    Ok(())
}

impl Serialize for Demand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Demand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Capabilities, Demand};

    #[test]
    fn demands_are_read_printed_and_compared() {
        for (text, printed) in
            [("gpu exists", "gpu exists"), ("os=debian", "os = debian"), (" a.b-c_1  =  x = y ", "a.b-c_1 = x = y")]
        {
            let demand: Demand = text.parse().unwrap();
            assert_eq!(demand.to_string(), printed);
            assert_eq!(demand.to_string().parse(), Ok(demand));
        }
        let capabilities = Capabilities::from([("gpu".into(), "2".into())]);
        for (demand, satisfied) in
            [("gpu exists", true), ("gpu = 2", true), ("gpu = 3", false), ("GPU exists", false), ("os = x", false)]
        {
            assert_eq!(demand.parse::<Demand>().unwrap().is_satisfied_by(&capabilities), satisfied, "{demand}");
        }
    }

    #[test]
    fn what_is_no_demand_is_refused() {
        for text in [
            "",
            "gpu",
            "exists",
            "gpuexists",
            "= x",
            "a =",
            "a b = c",
            "a = \u{7}",
            "a = b\u{2028}c",
            "ä exists",
            &format!("a = {}", "x".repeat(257)),
        ] {
            assert!(text.parse::<Demand>().is_err(), "{text:?}");
        }
    }
}
