//! The making of policies: rules from documents, guid and key and clock from the keeper, one epoch after the other.

use super::source::RULES;
use super::{Agent, AgentEffect, Level};
use crate::authz::{Descriptor, Document, Rules, Shadow};
use crate::identity::Destination;
use crate::policy::Epoch;
use crate::time::Now;
use std::sync::Arc;

/// So many findings about a document are said one by one: a broken one has as many as it has rules, at every change.
const FINDINGS: usize = 16;

impl Agent {
    /// Compiles the documents that changed, as a whole and not by their id (W-45), and publishes.
    pub(super) fn take_documents(&mut self, now: Now) {
        let Some(status) = self.keeper.status().cloned() else { return };
        if status.documents == self.documents {
            return;
        }
        let former = core::mem::replace(&mut self.documents, status.documents.clone());
        self.effective = status.documents.clone().map(|destination, document| document.map(|d| effective(destination, &d)));
        let compiled = self.effective.clone().map(|_, document| document.map(|d| Rules::compile(&d)));
        self.remarks.clear();
        let rules = compiled.map(|destination, compiled| {
            let (document, former) = (self.documents.get(destination), former.get(destination));
            let changed = document != former;
            if changed {
                let id = |d: &Option<Arc<Document>>| d.as_ref().map_or_else(|| "none".to_owned(), |d| format!("{:?}", d.id));
                let text = format!("{} rules: document {} replaces {}.", destination.name(), id(document), id(former));
                self.tell(RULES, Level::Info, false, &text);
            }
            let (rules, findings) = compiled?;
            let more = findings.len().saturating_sub(FINDINGS);
            let more = (more > 0).then(|| format!("{more} more like these"));
            for finding in findings.iter().take(FINDINGS).map(ToString::to_string).chain(more) {
                let text = format!("{} rules: {finding}", destination.name());
                if changed {
                    self.tell(RULES, Level::Error, false, &text);
                }
                self.remarks.push(text);
            }
            Some(Arc::new(rules))
        });
        self.policy.rules = rules;
        self.policy.shadow = Shadow::new(self.config.canonical_mode, &self.effective).map(Arc::new);
        self.publish();
        self.rules_published(now);
    }

    /// Makes the next [`Policy`](crate::policy::Policy).
    pub(super) fn publish(&mut self) {
        self.policy.epoch = Epoch(self.policy.epoch.0 + 1);
        self.policy.signer = self.keeper.signer().cloned();
        self.policy.host_clock = self.keeper.clock();
        self.effects.push_back(AgentEffect::Publish(Arc::new(self.policy.clone())));
    }
}

/// What is in force of a remote document: it bears the displayed id, but for the host plug-in's.
fn effective(destination: Destination, document: &Arc<Document>) -> Arc<Document> {
    let displayed = match destination {
        Destination::Imds | Destination::WireServer => Descriptor::parse(&document.id).displayed_id(),
        Destination::HostGaPlugin => None,
    };
    displayed.map_or_else(|| Arc::clone(document), |id| Arc::new(Document { id, ..Document::clone(document) }))
}
