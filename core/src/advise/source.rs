//! Where documents come from: a file with one of them, or with those of several endpoints.

use crate::authz::local::{displayed, fail_closed};
use crate::authz::{Descriptor, Document, LocalRules, Rules};
use crate::identity::{Destination, PerDestination};
use crate::policy::Epoch;
use core::fmt;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Documents, and the number of the policy that they are of, if they are of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Documents {
    /// By endpoint.
    pub by_destination: PerDestination<Option<Document>>,
    /// Of a running agent's (SEC-09).
    pub epoch: Epoch,
}

/// Why bytes are no documents.
#[derive(Debug)]
pub struct SourceError(serde_json::Error);

/// With line and column, where there is one.
impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for SourceError {}

/// Why a local rule file has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalMisplaced {
    /// The endpoint has none (R-100).
    NoFile(Destination),
    /// There is no document of the endpoint.
    NoDocument(Destination),
}

impl fmt::Display for LocalMisplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFile(destination) => write!(f, "there is no local rule file for {}", destination.name()),
            Self::NoDocument(destination) => {
                write!(f, "there is no document for {} that a local rule file could be merged with", destination.name())
            }
        }
    }
}

impl core::error::Error for LocalMisplaced {}

#[derive(Deserialize, Default)]
struct Several {
    imds: Option<Document>,
    wireserver: Option<Document>,
    hostga: Option<Document>,
}

impl From<Several> for PerDestination<Option<Document>> {
    fn from(several: Several) -> Self {
        Self { imds: several.imds, wireserver: several.wireserver, hostga: several.hostga }
    }
}

#[derive(Deserialize)]
struct Live {
    epoch: u64,
    rules: Several,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    input_rules: Several,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    authorization_rules: Several,
}

impl Documents {
    /// Reads a document, which is then that of `destination`, or one of the texts that have those of several endpoints: the agent's
    /// answer to `/rules`, a snapshot of the rules (R-152), the host's status document (W-32).
    ///
    /// # Errors
    /// It is none of these.
    pub fn read(bytes: &[u8], destination: Destination) -> Result<Self, SourceError> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let has = |value: &Value, name: &str| value.get(name).is_some_and(Value::is_object);
        // Which one it is decides what is said about it if it cannot be read.
        let shape: Value = serde_json::from_slice(bytes).map_err(SourceError)?;
        if has(&shape, "inputRules") {
            let Snapshot { input_rules } = serde_json::from_slice(bytes).map_err(SourceError)?;
            return Ok(Self { by_destination: input_rules.into(), epoch: Epoch::default() });
        }
        if has(&shape, "authorizationRules") {
            let Status { authorization_rules: Several { imds, wireserver, .. } } =
                serde_json::from_slice(bytes).map_err(SourceError)?;
            // W-41
            let hostga = wireserver.clone();
            return Ok(Self { by_destination: PerDestination { imds, wireserver, hostga }, epoch: Epoch::default() });
        }
        if shape.get("epoch").is_some_and(Value::is_u64) && has(&shape, "rules") {
            let Live { epoch, rules } = serde_json::from_slice(bytes).map_err(SourceError)?;
            return Ok(Self { by_destination: rules.into(), epoch: Epoch(epoch) });
        }
        let document: Document = serde_json::from_slice(bytes).map_err(SourceError)?;
        Ok(Self::of(destination, document))
    }

    /// One document.
    #[must_use]
    pub fn of(destination: Destination, document: Document) -> Self {
        let mut all = Self::default();
        *all.get_mut(destination) = Some(document);
        all
    }

    /// The document of an endpoint.
    pub const fn get_mut(&mut self, destination: Destination) -> &mut Option<Document> {
        let PerDestination { imds, wireserver, hostga } = &mut self.by_destination;
        match destination {
            Destination::Imds => imds,
            Destination::WireServer => wireserver,
            Destination::HostGaPlugin => hostga,
        }
    }

    /// Lets a local rule file take part as the agent does: merged, or closing if it cannot be used (R-112, R-113). What there is to say
    /// about that.
    ///
    /// # Errors
    /// The endpoint has no local file (R-100), or no document that one could be merged with.
    pub fn take_local(&mut self, destination: Destination, bytes: &[u8]) -> Result<Vec<String>, LocalMisplaced> {
        if LocalRules::file_name(destination).is_none() {
            return Err(LocalMisplaced::NoFile(destination));
        }
        let document = self.get_mut(destination).as_mut().ok_or(LocalMisplaced::NoDocument(destination))?;
        let mut notes = Vec::new();
        if !Descriptor::parse(&document.id).use_local_file {
            notes.push(
                "the document's id does not switch local rule files on: an agent would not look at this one (R-101)".to_owned(),
            );
        }
        let remote = displayed(destination, document);
        *document = match LocalRules::parse(bytes) {
            Ok(local) => local.merge(&remote),
            Err(error) => {
                notes.push(format!("the local file cannot be used, so nothing is allowed (R-145): {error}"));
                fail_closed(&remote)
            }
        };
        Ok(notes)
    }

    /// What requests are decided by under these documents, and what there is to say about them, line by line.
    #[must_use]
    pub fn compile(&self) -> (PerDestination<Option<Arc<Rules>>>, PerDestination<Vec<String>>) {
        let compiled = self.by_destination.clone().map(|_, document| document.map(|document| Rules::compile(&document)));
        let findings = compiled
            .clone()
            .map(|_, compiled| compiled.iter().flat_map(|(_, findings)| findings).map(ToString::to_string).collect());
        (compiled.map(|_, compiled| compiled.map(|(rules, _)| Arc::new(rules))), findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_that_has_documents_is_read_r152_w32_w41() {
        let document = r#"{"defaultAccess":"deny","mode":"audit","id":"a"}"#;
        let ids = |text: String| {
            let documents = Documents::read(text.as_bytes(), Destination::WireServer).unwrap();
            let PerDestination { imds, wireserver, hostga } = documents.by_destination.map(|_, d| d.map(|d| d.id));
            (imds, wireserver, hostga, documents.epoch.0)
        };
        let a = || Some("a".to_owned());
        assert_eq!(ids(format!("\u{feff}{document}")), (None, a(), None, 0));
        assert_eq!(ids(format!(r#"{{"inputRules":{{"imds":{document}}},"computedRules":{{}}}}"#)), (a(), None, None, 0));
        assert_eq!(ids(format!(r#"{{"authorizationRules":{{"wireserver":{document}}}}}"#)), (None, a(), a(), 0));
        assert_eq!(ids(format!(r#"{{"epoch":7,"settled":true,"rules":{{"hostga":{document}}}}}"#)), (None, None, a(), 7));
        for bad in
            ["", "[]", "{}", r#"{"rules":{"imds":{}}}"#, r#"{"inputRules":{"imds":{}}}"#, r#"{"epoch":1,"rules":{"imds":1}}"#]
        {
            Documents::read(bad.as_bytes(), Destination::Imds).unwrap_err();
        }
        let error = Documents::read(b"{\n \"mode\": 1}", Destination::Imds).unwrap_err().to_string();
        assert!(error.ends_with("at line 2 column 10"), "{error}");
    }
}
