//! The owner's word on updates.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize};

/// Longest reason, in Unicode scalar values.
pub const LONGEST_REASON: usize = 400;

/// Whether jobs may make agents update.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum Mode {
    /// A minimum version is a soft demand: where no agent has it, one is asked to update.
    #[default]
    Normal,
    /// A minimum version is a demand like any other: where no agent has it, the job fails, and nobody is asked to update.
    NoUpdate {
        /// The administrator's words, shown with every job that fails for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
    },
}

/// An administrator's words: not blank, at most [`LONGEST_REASON`] characters, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reason(String);

/// Why a text is no reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReasonError {
    /// Too long.
    TooLong {
        /// How long it is, in Unicode scalar values.
        length: usize,
    },
    /// Nothing but blanks.
    Blank,
    /// A line break or another control character would break the lines of an error apart.
    Control(char),
}

impl fmt::Display for ReasonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length } => write!(f, "the reason has {length} characters; at most {LONGEST_REASON} are allowed"),
            Self::Blank => f.write_str("the reason is blank; leave it out instead"),
            Self::Control(c) => write!(f, "the reason has the control character `{}`; it is one line", c.escape_debug()),
        }
    }
}

impl core::error::Error for ReasonError {}

impl Reason {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, ReasonError> {
        // Before trimming: who writes too much is told how much was written.
        let length = text.chars().count();
        if length > LONGEST_REASON {
            return Err(ReasonError::TooLong { length });
        }
        if let Some(c) = text.chars().find(|c| crate::breaks_a_line(*c)) {
            return Err(ReasonError::Control(c));
        }
        if text.trim().is_empty() {
            return Err(ReasonError::Blank);
        }
        Ok(Self(text.trim().into()))
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Reason, ReasonError};

    #[test]
    fn a_reason_has_at_most_400_characters_and_the_error_says_how_many_it_has() {
        assert!("ä".repeat(400).parse::<Reason>().is_ok());
        let error = "🦀".repeat(401).parse::<Reason>().unwrap_err();
        assert_eq!(error.to_string(), "the reason has 401 characters; at most 400 are allowed");
        assert_eq!(" \t".parse::<Reason>(), Err(ReasonError::Control('\t')));
        assert_eq!("  ".parse::<Reason>(), Err(ReasonError::Blank));
        assert_eq!("a\nb".parse::<Reason>(), Err(ReasonError::Control('\n')));
        assert_eq!(" Change freeze. ".parse::<Reason>().unwrap().as_str(), "Change freeze.");
    }
}
