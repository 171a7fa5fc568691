//! Expectations of an owner: suites of requests and what is to become of them (docs/rules.md).

use super::{Caller, Documents, LocalMisplaced, Question, SourceError, Told, explain};
use crate::identity::Destination;
use core::fmt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One file of expectations.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Suite {
    /// What it is about.
    #[serde(default)]
    pub description: String,
    /// A hint to the schema, for editors.
    #[serde(rename = "$schema", default)]
    pub schema: String,
    /// Whom the cases ask, unless they say otherwise.
    #[serde(default, deserialize_with = "endpoint")]
    pub destination: Option<Destination>,
    /// The document: a file's name, relative to the suite, or the document itself.
    pub rules: SuiteRules,
    /// A local rule file that takes part: likewise.
    #[serde(default)]
    pub local: Option<SuiteRules>,
    /// Decide as if the document's mode were this: an expectation about a document that is only audited yet.
    #[serde(default)]
    pub mode: Option<String>,
    /// Callers by name, for the cases.
    #[serde(default)]
    pub callers: std::collections::BTreeMap<String, Caller>,
    /// The expectations.
    pub cases: Vec<Case>,
}

/// Rules, or where they are.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum SuiteRules {
    /// A file's name.
    File(String),
    /// The text itself.
    Inline(serde_json::Map<String, Value>),
}

/// One expectation.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What it shows. Without one: method and target.
    #[serde(default)]
    pub name: String,
    /// Whom it asks.
    #[serde(default, deserialize_with = "endpoint")]
    pub destination: Option<Destination>,
    /// Method.
    #[serde(default = "get")]
    pub method: String,
    /// Request target.
    pub url: String,
    /// Who asks: the name of a caller of the suite, or one described here.
    pub caller: CaseCaller,
    /// What is to become of it.
    pub expect: Expected,
}

/// A caller, or its name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum CaseCaller {
    /// Of the suite.
    Named(String),
    /// Here.
    Described(Caller),
}

/// What is to become of a request; what is not said does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expected {
    /// `allow`, `audit`, `deny`, `refused` or `local`. `deny` is also fulfilled by a refusal before authorization.
    pub decision: String,
    /// The reason's word, as in records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Name of the privilege that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privilege: Option<String>,
    /// Name of the role that gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Name of the identity that is the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// The words that a decision can be expected by.
const DECISIONS: [&str; 5] = ["allow", "audit", "deny", "refused", "local"];

fn get() -> String {
    "GET".to_owned()
}

fn endpoint<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Destination>, D::Error> {
    let word = String::deserialize(deserializer)?;
    match super::destination(&word) {
        Some(destination) => Ok(Some(destination)),
        None => Err(serde::de::Error::custom(format_args!("destination {word:?} is not imds, wireserver or hostga"))),
    }
}

/// A case that cannot be run, or a suite.
#[derive(Debug)]
pub enum SuiteError {
    /// The documents.
    Rules(SourceError),
    /// The local rule file.
    Local(LocalMisplaced),
    /// Nobody says whom the case asks.
    Destination,
    /// The suite has no caller of that name.
    Caller(String),
    /// Something else is wrong with the case.
    Case(String),
}

impl fmt::Display for SuiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(error) => write!(f, "rules: {error}"),
            Self::Local(error) => error.fmt(f),
            Self::Destination => f.write_str("neither the case nor the suite says its destination"),
            Self::Caller(name) => write!(f, "the suite has no caller {name:?}"),
            Self::Case(text) => f.write_str(text),
        }
    }
}

impl core::error::Error for SuiteError {}

/// A case that was run.
#[derive(Debug)]
pub struct Checked<'s> {
    /// Its name.
    pub name: String,
    /// The case.
    pub case: &'s Case,
    /// What came of it.
    pub ran: Ran,
}

/// What came of a case.
#[derive(Debug)]
pub enum Ran {
    /// As expected.
    Passed,
    /// Otherwise.
    Failed {
        /// What is different: member, expected, found.
        differs: Vec<(&'static str, String, String)>,
        /// What came instead, for programs.
        found: Expected,
    },
    /// It cannot be run.
    Broken(SuiteError),
}

impl Suite {
    /// Reads a suite. The error says line and column.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
    }

    /// Runs all cases. `rules` and `local` are the texts that [`SuiteRules`] stands for; `tell` gets what is known of each case that was
    /// run.
    pub fn run<'s>(
        &'s self,
        rules: &[u8],
        local: Option<&[u8]>,
        mut tell: impl FnMut(&Checked<'s>, Option<&Told<'_>>),
    ) -> Vec<Checked<'s>> {
        let mut all = Vec::with_capacity(self.cases.len());
        for case in &self.cases {
            let name = if case.name.is_empty() { format!("{} {}", case.method, case.url) } else { case.name.clone() };
            let ran = self.run_case(case, rules, local, |ran, told| {
                let checked = Checked { name: name.clone(), case, ran };
                tell(&checked, Some(told));
                checked.ran
            });
            let checked = match ran {
                Ok(ran) => Checked { name, case, ran },
                Err(error) => {
                    let checked = Checked { name, case, ran: Ran::Broken(error) };
                    tell(&checked, None);
                    checked
                }
            };
            all.push(checked);
        }
        all
    }

    fn run_case(
        &self,
        case: &Case,
        rules: &[u8],
        local: Option<&[u8]>,
        tell: impl FnOnce(Ran, &Told<'_>) -> Ran,
    ) -> Result<Ran, SuiteError> {
        if !DECISIONS.contains(&case.expect.decision.as_str()) {
            return Err(SuiteError::Case(format!("decision {:?} is none of {}", case.expect.decision, DECISIONS.join(", "))));
        }
        let caller = match &case.caller {
            CaseCaller::Described(caller) => caller,
            CaseCaller::Named(name) => self.callers.get(name).ok_or_else(|| SuiteError::Caller(name.clone()))?,
        };
        let claims = caller.claims().map_err(|error| SuiteError::Case(error.to_string()))?;
        let named = super::named_destination(&case.url);
        let destination = case.destination.or(self.destination).or(named).ok_or(SuiteError::Destination)?;
        let mut documents = Documents::read(rules, destination).map_err(SuiteError::Rules)?;
        if let Some(local) = local {
            documents.take_local(destination, local).map_err(SuiteError::Local)?;
        }
        if let (Some(mode), Some(document)) = (&self.mode, documents.get_mut(destination)) {
            document.mode.clone_from(mode);
        }
        let (rules, _) = documents.compile();
        let told =
            explain(&rules, documents.epoch, Question { method: &case.method, target: &case.url, destination, claims: &claims });
        let (found, differs) = (Expected::of(&told), case.expect.differences(&told));
        let ran = if differs.is_empty() { Ran::Passed } else { Ran::Failed { differs, found } };
        Ok(tell(ran, &told))
    }
}

impl Expected {
    fn of(told: &Told<'_>) -> Self {
        let explanation = told.explanation.as_ref();
        Self {
            decision: told.word().to_owned(),
            reason: Some(told.reason()),
            privilege: explanation.and_then(|e| e.privilege()).map(|privilege| privilege.name().to_owned()),
            role: explanation.and_then(|e| e.role()).map(|(role, _)| role.to_owned()),
            identity: explanation.and_then(|e| e.identity()).map(|identity| identity.name().to_owned()),
        }
    }

    fn differences(&self, told: &Told<'_>) -> Vec<(&'static str, String, String)> {
        let found = Self::of(told);
        let mut differs = Vec::new();
        // Whoever expects a denial does not care who denies.
        if self.decision != found.decision && (self.decision.as_str(), found.decision.as_str()) != ("deny", "refused") {
            differs.push(("decision", self.decision.clone(), found.decision));
        }
        let members = [
            ("reason", &self.reason, found.reason),
            ("privilege", &self.privilege, found.privilege),
            ("role", &self.role, found.role),
            ("identity", &self.identity, found.identity),
        ];
        for (member, expected, found) in members {
            if let Some(expected) = expected.as_ref().filter(|expected| Some(*expected) != found.as_ref()) {
                differs.push((member, expected.clone(), found.unwrap_or_else(|| "none".to_owned())));
            }
        }
        differs
    }
}

#[cfg(test)]
mod tests;
