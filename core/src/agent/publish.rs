//! The making of policies: rules from documents, guid and key and clock from the keeper, one epoch after the other.

use super::source::RULES;
use super::{Agent, AgentEffect, Level};
use crate::authz::{Document, Finding, Rules, Shadow};
use crate::identity::Destination;
use crate::policy::Epoch;
use crate::time::Now;
use std::sync::Arc;

/// So many findings about a document are said one by one: a broken one has as many as it has rules, at every change.
const FINDINGS: usize = 16;

impl Agent {
    /// Compiles what is in force now and was not before (documents are compared as a whole and not by their id, W-45), and publishes.
    /// Nothing while a look at a rule file is awaited: then all comes at once.
    pub(super) fn take_documents(&mut self, now: Now) {
        let Some(status) = self.keeper.status().cloned() else { return };
        if self.rule_files.owed() {
            return;
        }
        let changed = self.rule_files.take_changed();
        if !changed && status.documents == self.documents {
            return;
        }
        let former = core::mem::replace(&mut self.documents, status.documents.clone());
        let mut news = false;
        for destination in Destination::ALL {
            let (document, former) = (status.documents.get(destination), former.get(destination));
            if document != former {
                let id = |d: &Option<Arc<Document>>| d.as_ref().map_or_else(|| "none".to_owned(), |d| format!("{:?}", d.id));
                let text = format!("{} rules: document {} replaces {}.", destination.name(), id(document), id(former));
                self.tell(RULES, Level::Info, false, &text);
            }
            let effective = document.as_ref().map(|document| self.rule_files.effective(destination, document));
            if effective.as_ref() != self.effective.get(destination).as_deref() {
                self.compile(destination, effective.map(Arc::new));
                news = true;
            }
        }
        if news {
            self.policy.shadow = Shadow::new(self.config.canonical_mode, &self.effective).map(Arc::new);
            self.publish();
            self.rules_published(now);
        }
    }

    /// Compiles what is in force of one endpoint's document, and says what is odd about it.
    fn compile(&mut self, destination: Destination, document: Option<Arc<Document>>) {
        let compiled = document.as_deref().map(Rules::compile);
        *self.effective.get_mut(destination) = document;
        self.remarks.get_mut(destination).clear();
        let rules = compiled.map(|(rules, findings)| {
            let more = findings.len().saturating_sub(FINDINGS);
            let more = (more > 0).then(|| format!("{more} more like these"));
            let level = |finding: &Finding| if finding.level() == log::Level::Error { Level::Error } else { Level::Warn };
            let said = findings.iter().take(FINDINGS).map(|finding| (level(finding), finding.to_string()));
            for (level, finding) in said.chain(more.map(|more| (Level::Warn, more))) {
                let text = format!("{} rules: {finding}", destination.name());
                self.tell(RULES, level, false, &text);
                self.remarks.get_mut(destination).push(text);
            }
            Arc::new(rules)
        });
        *self.policy.rules.get_mut(destination) = rules;
    }

    /// Makes the next [`Policy`](crate::policy::Policy).
    pub(super) fn publish(&mut self) {
        self.policy.epoch = Epoch(self.policy.epoch.0 + 1);
        self.policy.signer = self.keeper.signer().cloned();
        self.policy.host_clock = self.keeper.clock();
        self.effects.push_back(AgentEffect::Publish(Arc::new(self.policy.clone())));
    }
}
