//! The redirect as the agent sees it: what is wanted, asked for, answered. Level-triggered: the whole wish is repeated in every
//! iteration, so nothing that another program did to it lasts (S-13), and no change can be missed (W-84).

use super::provision::Flag;
use super::source::REDIRECTOR;
use super::status::{Module, ModuleState};
use super::{Agent, AgentEffect, HEARTBEAT_INTERVAL, Level};
use crate::identity::{PerDestination, TargetMode};
use crate::keeper::schedule::ANSWER_LIMIT;
use crate::time::{Mono, Now};

/// The redirector as the agent sees it.
#[derive(Debug, Default)]
pub(super) struct Redirector {
    pub(super) module: Module,
    /// Loaded and attached: redirects may be asked for.
    pub(super) loaded: bool,
    /// The message to go back to when a failed redirect succeeds again.
    pub(super) running: String,
    /// What the latest good status wants, as of the end of its iteration: a key that the status asks for is in use then, or
    /// could not be got. Nothing before that (W-111).
    pub(super) wanted: Option<PerDestination<TargetMode>>,
    /// A redirect is to be asked for.
    pub(super) due: bool,
    /// When one was asked for that is not answered yet.
    pub(super) asked: Option<Mono>,
}

impl Agent {
    /// Asks for the redirect that is wanted (W-84), if it is time.
    pub(super) fn redirect(&mut self, now: Now) {
        // An answer that never comes must not end the repairs (S-13).
        let waits = self.redirector.asked.is_some_and(|at| now.mono.since(at) < ANSWER_LIMIT);
        if !self.redirector.due || !self.redirector.loaded || waits {
            return;
        }
        if let Some(wanted) = self.redirector.wanted {
            self.redirector.due = false;
            self.redirector.asked = Some(now.mono);
            // Before the redirect: an endpoint in audit mode without a heartbeat counts as given up (S-03).
            if wanted != PerDestination::default() && self.heartbeat_due.is_none() {
                self.beat(now);
            } else if wanted == PerDestination::default() {
                self.heartbeat_due = None;
            }
            self.effects.push_back(AgentEffect::Redirect(wanted));
        }
    }

    /// Says that the agent lives, and when to do so again.
    pub(super) fn beat(&mut self, now: Now) {
        self.heartbeat_due = Some(now.mono + HEARTBEAT_INTERVAL);
        self.effects.push_back(AgentEffect::Heartbeat);
    }

    pub(super) fn redirected(&mut self, now: Now, result: Result<(), String>) {
        self.redirector.asked = None;
        match result {
            Ok(()) if !self.redirector.loaded => {}
            Ok(()) => {
                if !self.provision.is_set(Flag::Redirector) {
                    let text = core::mem::take(&mut self.redirector.running);
                    self.tell(REDIRECTOR, Level::Info, false, "The redirect is in force again.");
                    self.redirector.module = Module::new(ModuleState::Running, &text);
                    self.redirector.running = text;
                    self.provision.set(Flag::Redirector);
                }
                // A newer wish waits: what is in force now is not what the newest status wants.
                if !self.redirector.due {
                    self.finish(now);
                }
            }
            Err(text) => {
                let module = Module::new(ModuleState::Stopped, &text);
                if module != self.redirector.module {
                    self.tell(REDIRECTOR, Level::Error, false, &text);
                }
                self.redirector.module = module;
                self.provision.clear(Flag::Redirector);
            }
        }
    }
}
