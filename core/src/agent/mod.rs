//! `Agent`: owns the `KeyKeeper`, provisioning and status, and is the only maker of [`Policy`].
//!
//! It knows what the parts mean for each other: a key that came into use is published before provisioning finishes; the redirect
//! follows the latest good status and nothing else (W-84). It knows no file name, no socket and no kernel program: whatever is
//! to be done to the world is an [`AgentEffect`].
//!
//! ```text
//! handle_start, handle_answer, handle_event, handle_query, handle_timeout
//!      │
//!      ▼
//! KeyKeeper ── Steps ──► Agent ── effects ──► shell
//!                          ├─ Provision   flags, ticks, tags
//!                          └─ Policy      rules, signer, clock, epoch
//! ```
//!
//! [`Summaries`], the tables of finished requests, live beside it: connections fill them without a message to the agent, and the
//! shell brings the two together when a status document is due ([`StatusDraft::complete`]).

mod background;
mod effect;
mod provision;
mod publish;
mod redirect;
mod rule_files;
mod snapshot;
mod source;
mod status;
mod summary;

pub use crate::keeper::{BadKey, FetchId, StoreError, StoreId, StoredKey};
pub use effect::{
    AgentAnswer, AgentDeadline, AgentEffect, AgentEvent, AgentTimer, EventsWritten, FileStamp, Level, QueryId, RuleFile,
    StateFile,
};
pub use rule_files::LookId;
pub use snapshot::surplus_snapshots;
pub use source::Source;
pub use status::{StatusDraft, StatusReader};
pub use summary::{Record, Summaries};

use crate::authz::{CanonicalMode, Document};
use crate::effect::{LocalQuery, LocalReply, RequestCounter};
use crate::identity::PerDestination;
use crate::keeper::wire::ChannelState;
use crate::keeper::{KeyKeeper, Step, schedule};
use crate::policy::Policy;
use crate::time::{Mono, Now};
use background::Background;
use core::time::Duration;
use provision::{Flag, Provision};
use redirect::Redirector;
use rule_files::RuleFiles;
use snapshot::Snapshots;
use source::{AGENT, KEY_KEEPER, LISTENER, REDIRECTOR};
use status::{Module, ModuleState, ProvisionAnswer};
use std::collections::VecDeque;
use std::sync::Arc;

/// An endpoint in audit mode is given up by the kernel half when no heartbeat came for four of these (S-03).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// What the agent is told once.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Version text of the product (FS-42).
    pub version: Box<str>,
    /// Time between status polls (FS-08); below one second counts as one second (FS-20).
    pub poll_interval: Duration,
    /// Where the status document is written (FS-28, FS-40): its message says so (FS-44).
    pub status_path: Box<str>,
    /// Where local rule files are (R-100): what is said about them says so.
    pub rules_folder: Box<str>,
    /// Most files of generic events, whoever wrote them (FS-09).
    pub event_files: u64,
    /// Whether requests are logged that the older matcher would decide otherwise (R-73).
    pub canonical_mode: CanonicalMode,
}

/// Randomness, drawn by the shell: identifiers of this process's calls start here, so that none repeats across restarts, and retries are
/// spread by it, so that machines do not all come at the same time.
#[derive(Debug, Clone, Copy)]
pub struct IdSeed(pub u64);

/// See the module's documentation.
pub struct Agent {
    config: AgentConfig,
    requests: Arc<RequestCounter>,
    keeper: KeyKeeper,
    started: Mono,
    provision: Provision,
    redirector: Redirector,
    /// An iteration of the keeper has ended, and what it brought is not in force yet.
    ended: bool,
    listener: Module,
    /// As the host sent them.
    documents: PerDestination<Option<Arc<Document>>>,
    /// What `policy.rules` was compiled from.
    effective: PerDestination<Option<Arc<Document>>>,
    /// The owner's part of it.
    rule_files: RuleFiles,
    snapshots: Snapshots,
    /// What is wrong with `effective`, for the key module's message (R-12, S-23, S-25).
    remarks: PerDestination<Vec<String>>,
    policy: Policy,
    background: Background,
    /// The background tasks are to start at this time at the latest.
    background_due: Option<Mono>,
    /// When to say again that the agent lives; `None` while nothing is redirected.
    heartbeat_due: Option<Mono>,
    effects: VecDeque<AgentEffect>,
}

impl Agent {
    /// An agent that has not started. `requests` counts the requests of all connections of the process (FS-49).
    #[must_use]
    pub fn new(config: AgentConfig, seed: IdSeed, requests: Arc<RequestCounter>) -> Self {
        let interval = config.poll_interval.max(Duration::from_secs(1));
        Self {
            keeper: KeyKeeper::new(interval, seed.0),
            config,
            requests,
            started: Mono::default(),
            provision: Provision::default(),
            redirector: Redirector::default(),
            ended: false,
            listener: Module::default(),
            documents: PerDestination::default(),
            effective: PerDestination::default(),
            rule_files: RuleFiles::default(),
            snapshots: Snapshots::default(),
            remarks: PerDestination::default(),
            policy: Policy::default(),
            background: Background::default(),
            background_due: None,
            heartbeat_due: None,
            effects: VecDeque::new(),
        }
    }

    /// Starts: `now` is the moment from which uptime counts. Once, before any other input.
    pub fn handle_start(&mut self, now: Now) {
        self.started = now.mono;
        // A tag of the boot before must not be taken for one of this one (FS-35).
        self.effects.push_back(AgentEffect::RemoveState(StateFile::ProvisionedTag));
        self.effects.push_back(AgentEffect::RemoveState(StateFile::StatusTag));
        self.provision.start_clock(now);
        self.background_due = Some(now.mono + schedule::BACKGROUND_AT);
        self.keeper.handle_start(now);
        self.follow_keeper(now);
        self.follow_background(now);
    }

    /// The shell did what an effect asked for.
    pub fn handle_answer(&mut self, now: Now, answer: AgentAnswer) {
        match answer {
            AgentAnswer::Fetched { id, result } => self.keeper.handle_fetched(now, id, result),
            AgentAnswer::KeyLoaded { id, result } => self.keeper.handle_loaded(now, id, result),
            AgentAnswer::KeyStored { id, result } => self.keeper.handle_stored(now, id, result),
            AgentAnswer::RulesSeen { id, of, found } => {
                self.file_seen(now, of, id, found);
                self.take_documents(now);
            }
            AgentAnswer::Written { file, result } => self.written(now, file, result),
            AgentAnswer::SnapshotWritten(result) => self.snapshot_written(now, result),
            AgentAnswer::EventsWritten(result) => self.events_written(now, result),
            AgentAnswer::Memory(bytes) => self.memory(bytes),
            AgentAnswer::Redirected(result) => self.redirected(now, result),
        }
        self.follow_keeper(now);
        self.follow_background(now);
    }

    /// Something happened to another part of the agent.
    pub fn handle_event(&mut self, now: Now, event: AgentEvent) {
        match event {
            AgentEvent::ListenerReady => {
                let text = self.with_uptime(now, "Started proxy listener, ready to accept request");
                self.listener = Module::new(ModuleState::Running, &text);
                self.tell(LISTENER, Level::Info, true, &text);
                self.provision.set(Flag::Listener);
                self.redirector.due = true;
            }
            AgentEvent::ListenerFailed(text) => {
                // The shell tries again and again: the same failure is said once.
                let module = Module::new(ModuleState::Stopped, &text);
                if module != self.listener {
                    self.tell(LISTENER, Level::Error, false, &text);
                }
                self.listener = module;
                self.provision.clear(Flag::Listener);
            }
            AgentEvent::RedirectorReady => {
                let text = self.with_uptime(now, "Started Redirector with eBPF maps");
                self.tell(REDIRECTOR, Level::Info, true, &text);
                self.redirector.module = Module::new(ModuleState::Running, &text);
                self.redirector.running = text;
                self.redirector.loaded = true;
                self.provision.set(Flag::Redirector);
                self.redirector.due = true;
            }
            AgentEvent::RedirectorFailed(text) => {
                let module = Module::new(ModuleState::Stopped, &text);
                if module != self.redirector.module {
                    self.tell(REDIRECTOR, Level::Error, false, &text);
                }
                self.redirector.module = module;
                self.redirector.loaded = false;
                self.provision.clear(Flag::Redirector);
            }
            AgentEvent::Reload { poll_interval } => {
                self.config.poll_interval = poll_interval;
                self.keeper.handle_interval(now, poll_interval.max(Duration::from_secs(1)));
            }
            AgentEvent::RulesChanged => self.files_changed(now),
            AgentEvent::Logs(problem) => self.logs_changed(problem),
            AgentEvent::Drain => {
                self.keeper.handle_drain();
                self.write_events();
            }
        }
        self.follow_keeper(now);
        self.follow_background(now);
    }

    /// A connection asks on behalf of a caller.
    pub fn handle_query(&mut self, now: Now, id: QueryId, query: LocalQuery) {
        let body = match query {
            LocalQuery::Provision { tick, notify } => {
                let finished = self.provision.is_finished_for(tick, self.keeper.state().is_latched());
                let error_message = self.error_message();
                if notify && !finished && self.provision.may_notify(now, tick) {
                    self.keeper.handle_notify(now);
                    self.follow_keeper(now);
                }
                serde_json::to_vec(&ProvisionAnswer { finished, error_message: &error_message }).ok()
            }
            LocalQuery::Rules => serde_json::to_vec(&self.rules_in_force()).ok(),
            LocalQuery::Status => {
                let effect = AgentEffect::Status { to: StatusReader::Query(id), draft: Box::new(self.status_draft()) };
                return self.effects.push_back(effect);
            }
        };
        let reply = body.map_or(LocalReply::Unavailable, |body| LocalReply::Json(body.into()));
        self.effects.push_back(AgentEffect::Reply { to: id, reply });
    }

    /// A deadline may have passed; a call too early does nothing.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.follow_files(now) {
            self.take_documents(now);
        }
        self.keeper.handle_timeout(now);
        self.follow_keeper(now);
        if self.provision.must_notify(now, self.keeper.state().is_latched()) {
            self.keeper.handle_notify(now);
            self.follow_keeper(now);
        }
        if self.provision.fire(now) {
            let text = self.error_message();
            for line in text.lines() {
                self.say(Level::Error, true, line);
            }
            self.write_tags(now, &text);
            self.start_background(now);
        }
        if self.background_due.is_some_and(|at| now.mono >= at) {
            self.start_background(now);
        }
        self.follow_background(now);
        if self.heartbeat_due.is_some_and(|at| now.mono >= at) {
            self.beat(now);
        }
    }

    /// The next thing to do; drain to `None` after each input.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<AgentEffect> {
        self.effects.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<AgentDeadline> {
        [
            (AgentTimer::Poll, self.keeper.deadline()),
            (AgentTimer::Provision, self.provision.deadline()),
            (AgentTimer::Notify, self.provision.owed_deadline()),
            (AgentTimer::Background, self.background_due),
            (AgentTimer::Status, self.background.deadline()),
            (AgentTimer::Heartbeat, self.heartbeat_due),
            (AgentTimer::Rules, self.rule_files.deadline()),
        ]
        .into_iter()
        .filter_map(|(timer, at)| Some(AgentDeadline { at: at?, timer }))
        .min_by_key(|deadline| deadline.at)
    }

    /// Does what the keeper wants, in its order, then asks for the redirect if there is a reason.
    fn follow_keeper(&mut self, now: Now) {
        while let Some(step) = self.keeper.poll_step() {
            match step {
                Step::Fetch(id, request) => self.effects.push_back(AgentEffect::Fetch { id, request }),
                Step::Load(id, guid) => self.effects.push_back(AgentEffect::LoadKey { id, guid }),
                Step::Store(id, key) => self.effects.push_back(AgentEffect::StoreKey { id, key }),
                Step::ClockSet | Step::KeyChanged => self.publish(),
                Step::StatusRead => {
                    self.look_at_files(now);
                    self.take_documents(now);
                }
                Step::LatchReady => {
                    self.provision.set(Flag::KeyLatch);
                    self.redirector.due = true;
                }
                Step::LatchLost => self.provision.clear(Flag::KeyLatch),
                Step::LatchCleared => self.provision.reset(now),
                Step::IterationEnded => {
                    self.ended = true;
                    self.end_iteration();
                }
                Step::Problem(text) => self.tell(KEY_KEEPER, Level::Warn, false, &text),
                Step::Milestone(text) => {
                    let console = self.keeper.signer().is_some() || self.keeper.state() == ChannelState::Disabled;
                    self.tell(KEY_KEEPER, Level::Info, console, &text);
                }
            }
        }
        self.end_iteration();
        self.redirect(now);
    }

    /// What the latest status wants is in force, its rules included: callers may come.
    fn end_iteration(&mut self) {
        if !self.ended || self.rule_files.owed() {
            return;
        }
        self.ended = false;
        self.redirector.wanted = self.keeper.status().map(|status| status.targets);
        self.redirector.due = true;
        if self.redirector.wanted.is_some() && !self.policy.settled {
            self.policy.settled = true;
            self.publish();
        }
    }

    /// CLI-15, steps 2 to 4.
    fn finish(&mut self, now: Now) {
        let Some(news) = self.provision.finish(now) else { return };
        if news {
            self.say(Level::Info, true, "Provision finished successfully");
        }
        self.write_tags(now, "");
        self.start_background(now);
    }

    fn write_tags(&mut self, now: Now, text: &str) {
        self.write_tag(StateFile::ProvisionedTag, status::provisioned_tag(now.wall));
        self.write_tag(StateFile::StatusTag, status::status_tag(text));
    }

    /// Once per process (CLI-15, step 4).
    fn start_background(&mut self, now: Now) {
        if self.background_due.take().is_some() {
            self.begin_rounds(now);
        }
    }

    /// The text of PX-57.
    fn error_message(&self) -> String {
        let mut text = String::new();
        for flag in Flag::ALL {
            let (name, module) = match flag {
                Flag::Redirector => ("ebpfProgramStatus", &self.redirector.module),
                Flag::KeyLatch => ("keyLatchStatus", &self.key_module()),
                Flag::Listener => ("proxyListenerStatus", &self.listener),
            };
            if !self.provision.is_set(flag) {
                text.push_str(&format!("{name} - {}\r\n", module.message));
            }
        }
        text
    }

    fn say(&mut self, level: Level, console: bool, text: &str) {
        self.tell(AGENT, level, console, text);
    }

    /// Says something; without source it does not become an event.
    fn tell(&mut self, source: impl Into<Option<Source>>, level: Level, console: bool, text: &str) {
        self.effects.push_back(notice(source.into(), level, console, text));
    }

    fn with_uptime(&self, now: Now, text: &str) -> String {
        format!("{text} - {}", now.mono.since(self.started).as_millis())
    }
}

/// Texts may come from the host or from an error of the system: control characters do not make a second line (SEC-07).
fn notice(source: Option<Source>, level: Level, console: bool, text: &str) -> AgentEffect {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2048).collect::<String>();
    AgentEffect::Notice { source, level, console, text: text.into() }
}

impl core::fmt::Debug for Agent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Agent").field("state", &self.keeper.state()).field("epoch", &self.policy.epoch).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
