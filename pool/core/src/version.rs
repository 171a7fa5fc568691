//! Versions of agents, tasks and releases: dotted numbers.

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most numbers of a version.
pub const MOST_NUMBERS: usize = 8;

/// A version: one to [`MOST_NUMBERS`] numbers with dots between. `2.175.1` is greater than `2.9.0`, and `2.9` equals `2.9.0`.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    numbers: [u32; MOST_NUMBERS],
    /// How many were written: for printing only.
    written: u8,
}

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionError {
    /// The text, cut.
    text: String,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Empty,
    EmptyNumber,
    NotADigit(char),
    LeadingZero,
    TooLarge,
    TooMany,
}

impl fmt::Display for VersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a version, which is numbers with dots between, such as 2.175.1: ", self.text.escape_debug())?;
        match self.fault {
            Fault::Empty => f.write_str("it is empty"),
            Fault::EmptyNumber => f.write_str("a number is missing beside a dot"),
            Fault::NotADigit(c) => write!(f, "`{}` is not a digit", c.escape_debug()),
            Fault::LeadingZero => f.write_str("a number has a zero in front"),
            Fault::TooLarge => write!(f, "a number is greater than {}", u32::MAX),
            Fault::TooMany => write!(f, "it has more than {MOST_NUMBERS} numbers"),
        }
    }
}

impl core::error::Error for VersionError {}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let error = |fault| VersionError { text: text.chars().take(64).collect(), fault };
        if text.is_empty() {
            return Err(error(Fault::Empty));
        }
        let mut numbers = [0; MOST_NUMBERS];
        let mut written = 0u8;
        let mut places = numbers.iter_mut();
        for number in text.split('.') {
            let place = places.next().ok_or_else(|| error(Fault::TooMany))?;
            if let Some(other) = number.chars().find(|c| !c.is_ascii_digit()) {
                return Err(error(Fault::NotADigit(other)));
            }
            *place = match number {
                "" => return Err(error(Fault::EmptyNumber)),
                "0" => 0,
                // One way to write each number: versions are names, too.
                _ if number.starts_with('0') => return Err(error(Fault::LeadingZero)),
                _ => number.parse().map_err(|_| error(Fault::TooLarge))?,
            };
            written += 1;
        }
        Ok(Self { numbers, written })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, number) in self.numbers.iter().take(self.written.into()).enumerate() {
            if at > 0 {
                f.write_str(".")?;
            }
            write!(f, "{number}")?;
        }
        Ok(())
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl Eq for Version {}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.numbers.hash(state);
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_compared_as_dotted_numbers() {
        let ascending = ["0", "0.0.1", "0.1", "1", "1.0.0.1", "1.2", "1.10", "2.9.0", "2.175.0", "2.175.1", "10", "4294967295"];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("2.9"), version("2.9.0.0"));
        assert_eq!((version("2.9").to_string(), version("2.9.0.0").to_string()), ("2.9".into(), "2.9.0.0".into()));
    }

    #[test]
    fn anything_else_is_refused_and_says_what_is_wrong() {
        for (text, words) in [
            ("", "it is empty"),
            ("1..2", "a number is missing"),
            (".1", "a number is missing"),
            ("1.", "a number is missing"),
            ("v1.2", "`v` is not a digit"),
            ("1.2-rc1", "`-` is not a digit"),
            ("1.2 ", "` ` is not a digit"),
            ("1.+2", "`+` is not a digit"),
            ("١", "is not a digit"),
            ("1\n", "`\\n` is not a digit"),
            ("1.02", "a zero in front"),
            ("1.4294967296", "greater than 4294967295"),
            ("1.2.3.4.5.6.7.8.9", "more than 8 numbers"),
        ] {
            let error = text.parse::<Version>().unwrap_err().to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        assert!("1".repeat(10_000).parse::<Version>().unwrap_err().to_string().len() < 300);
    }
}
