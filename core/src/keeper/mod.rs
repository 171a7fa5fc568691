//! `KeyKeeper`: asks the host what it wants and sees to it that there is a key (wire.md section 6).
//!
//! The only holder of key material. It knows the order of the steps and nothing of files, sockets, provisioning or rules: whoever
//! encloses it does what steps say and hears what happened.
//!
//! ```text
//!            ┌──────────────── wait (1 s or the interval, W-85 to W-89) ◄────────────────────┐
//!            ▼                                                                               │
//! Waiting ─► AskStatus ─► (LoadLocal ─► found) ────────────────────────────► in use ────────►┤
//!                │             └─► Acquire ─► Store ─► ReadBack ─► Attest ─► in use ────────►┤
//!                └─► disabled: key forgotten ───────────────────────────────────────────────►┤
//!                                                          any failure: nothing is used ────►┘
//! ```
//!
//! A key is on disk, and was read back, before it is attested (W-96): a crash at any point leaves no host that demands a key
//! nobody has. One call to the host at a time, and an answer that does not come is given up: no phase lasts for ever. What each
//! input does in each phase: `testdata/keeper/states.txt`, which a test holds.

mod acquire;
mod answer;
mod key;
mod object;
pub(crate) mod schedule;
pub(crate) mod wire;

pub use key::{BadKey, StoredKey};

use crate::exchange::{Call, FetchError, HostRequest, HostResponse, Text};
use crate::identity::Destination;
use crate::sign::{KeyGuid, Signer};
use crate::time::{HostClock, Mono, Now};
use acquire::{Fresh, Held};
use core::fmt;
use core::time::Duration;
use schedule::{ClockSync, Jitter};
use std::collections::VecDeque;
use std::sync::Arc;
use wire::{ChannelState, HostStatus};

/// Names a call to the host, so that its answer finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Names a look into the key store, so that its answer finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

/// Why the key store did not do what it was asked to; the text is for people and holds no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<BadKey> for StoreError {
    fn from(e: BadKey) -> Self {
        Self(e.to_string())
    }
}

/// What the keeper wants done, and what it has to say. In order.
#[derive(Debug)]
pub(crate) enum Step {
    /// Call the host.
    Fetch(FetchId, HostRequest),
    /// Read a key file.
    Load(StoreId, KeyGuid),
    /// Write a key file.
    Store(StoreId, StoredKey),
    /// The host's clock was set: [`KeyKeeper::clock`].
    ClockSet,
    /// A good status came: [`KeyKeeper::status`].
    StatusRead,
    /// Another key is held, or none: [`KeyKeeper::signer`].
    KeyChanged,
    /// The latch is ready, perhaps again (CLI-13).
    LatchReady,
    /// The host wants a key now, and none is held: the latch is not ready any more (CLI-13).
    LatchLost,
    /// A fresh answer is asked for: latch and finished provisioning start over (W-87).
    LatchCleared,
    /// One iteration is over and a good status is known: bring the redirect in line (W-84).
    IterationEnded,
    /// A new message of the key module: something failed.
    Problem(String),
    /// A new message of the key module: all is well.
    Milestone(String),
}

/// See the module's documentation.
pub(crate) struct KeyKeeper {
    /// Start of the process: uptime counts from here.
    started: Mono,
    interval: Duration,
    phase: Phase,
    /// When the answer that the phase waits for is given up.
    answer_by: Mono,
    state: ChannelState,
    /// The latest good status; survives failures (W-38).
    status: Option<Arc<HostStatus>>,
    held: Option<Held>,
    /// The key that is being obtained; kept while nothing but our own side stands in the way.
    fresh: Option<Fresh>,
    sync: ClockSync,
    jitter: Jitter,
    latch_ready: bool,
    /// A notification waits to be taken; at most one (W-89).
    notified: bool,
    /// No iteration begins any more.
    drained: bool,
    milestone: String,
    problem: Option<String>,
    /// The last complaint about a local key file.
    local_problem: Option<String>,
    next_id: u64,
    steps: VecDeque<Step>,
}

/// Where in an iteration we are.
enum Phase {
    /// Not started, or drained.
    Idle,
    /// Between iterations.
    Waiting {
        until: Mono,
        /// A notification was taken in this wait already (W-88).
        deaf: bool,
    },
    /// W-77.
    AskStatus(FetchId),
    /// W-90.
    LoadLocal(StoreId, KeyGuid),
    /// W-91.
    Acquire(FetchId),
    /// W-92, of the fresh key.
    Store(StoreId),
    /// W-93, of the fresh key.
    ReadBack(StoreId),
    /// W-94; what was read back.
    Attest(FetchId, Held),
}

const METADATA: (&str, &str) = ("Metadata", "True ");

/// The shell lost the job, or a device does not come back.
const NO_ANSWER: &str = "no answer in time";

impl KeyKeeper {
    /// A keeper that polls every `interval`; its calls are numbered from `seed` on, which also spreads its retries.
    pub(crate) fn new(interval: Duration, seed: u64) -> Self {
        Self {
            started: Mono::default(),
            interval,
            phase: Phase::Idle,
            answer_by: Mono::default(),
            state: ChannelState::Unknown,
            status: None,
            held: None,
            fresh: None,
            sync: ClockSync::default(),
            jitter: Jitter::new(seed),
            latch_ready: false,
            notified: false,
            drained: false,
            milestone: String::new(),
            problem: None,
            local_problem: None,
            next_id: seed,
            steps: VecDeque::new(),
        }
    }

    /// The next step; drain to `None` after each input.
    pub(crate) fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub(crate) const fn deadline(&self) -> Option<Mono> {
        match self.phase {
            Phase::Idle => None,
            Phase::Waiting { until, .. } => Some(until),
            _ => Some(self.answer_by),
        }
    }

    /// W-39.
    pub(crate) const fn state(&self) -> ChannelState {
        self.state
    }

    /// The latest good status.
    pub(crate) const fn status(&self) -> Option<&Arc<HostStatus>> {
        self.status.as_ref()
    }

    /// Guid and key in use, as one value (S-32).
    pub(crate) fn signer(&self) -> Option<&Arc<Signer>> {
        self.held.as_ref().map(|held| &held.signer)
    }

    /// Incarnation of the key: the status says it, or the key document did (W-28, W-48).
    pub(crate) fn incarnation(&self) -> Option<u32> {
        let status = self.status.as_ref().and_then(|status| status.incarnation);
        status.or_else(|| self.held.as_ref().and_then(|held| held.incarnation))
    }

    /// The host's clock (W-72).
    pub(crate) const fn clock(&self) -> HostClock {
        self.sync.clock()
    }

    /// The key module's message (W-83).
    pub(crate) fn message(&self) -> &str {
        self.problem.as_deref().unwrap_or(&self.milestone)
    }

    /// Whether the last iteration did what it should.
    pub(crate) const fn is_well(&self) -> bool {
        self.problem.is_none()
    }

    /// The first iteration begins at once (W-74).
    pub(crate) fn handle_start(&mut self, now: Now) {
        if matches!(self.phase, Phase::Idle) && !self.drained {
            self.started = now.mono;
            self.reach("poll secure channel status task started.".to_owned());
            self.begin(now);
        }
    }

    /// Somebody needs a fresh answer (PX-58).
    pub(crate) fn handle_notify(&mut self, now: Now) {
        self.notified = true;
        self.take_notification(now);
    }

    /// From now on polls come this often; the next one at once, unless one is under way.
    pub(crate) fn handle_interval(&mut self, now: Now, interval: Duration) {
        self.interval = interval;
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.begin(now);
        }
    }

    /// The wait may be over, or the answer that we wait for has gone astray: then the iteration has failed, and the answer is ignored
    /// should it come later.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        if self.deadline().is_none_or(|at| now.mono < at) {
            return;
        }
        match core::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => {}
            Phase::Waiting { .. } => self.begin(now),
            Phase::AskStatus(_) => self.fail(now, format!("Failed to get key status - {NO_ANSWER}")),
            Phase::LoadLocal(_, guid) => self.fail(now, format!("{}: {NO_ANSWER}", local_failure(&guid))),
            Phase::Acquire(_) => self.fail(now, format!("Failed to acquire key details: {NO_ANSWER}")),
            Phase::Store(_) => self.fail(now, format!("Failed to save key details to file: {NO_ANSWER}")),
            Phase::ReadBack(_) => self.fail_read_back(now, NO_ANSWER),
            Phase::Attest(..) => self.fail(now, format!("Failed to attest the key: {NO_ANSWER}")),
        }
    }

    /// No more iterations; one that has begun goes on if its answers still come.
    pub(crate) fn handle_drain(&mut self) {
        self.drained = true;
        if let Phase::Waiting { .. } = self.phase {
            self.phase = Phase::Idle;
        }
    }

    /// The host answered, or did not. An answer to another question is ignored.
    pub(crate) fn handle_fetched(&mut self, now: Now, id: FetchId, result: Result<HostResponse, FetchError>) {
        match core::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::AskStatus(asked) if asked == id => match self.read_status(now, result) {
                Ok(status) => self.adopt(now, status),
                Err(e) => self.fail(now, format!("Failed to get key status - {e}")),
            },
            Phase::Acquire(asked) if asked == id => self.acquired(now, result),
            Phase::Attest(asked, held) if asked == id => self.attested(now, held, result),
            other => self.phase = other,
        }
    }

    /// A key file was written, or not. An answer to another question is ignored.
    pub(crate) fn handle_stored(&mut self, now: Now, id: StoreId, result: Result<(), StoreError>) {
        match core::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Store(asked) if asked == id => self.stored(now, result),
            other => self.phase = other,
        }
    }

    /// A key file was read, is not there, or cannot be read. An answer to another question is ignored.
    pub(crate) fn handle_loaded(&mut self, now: Now, id: StoreId, result: Result<Option<StoredKey>, StoreError>) {
        match core::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::LoadLocal(asked, guid) if asked == id => self.found(now, &guid, result),
            Phase::ReadBack(asked) if asked == id => self.read_back(now, result),
            other => self.phase = other,
        }
    }

    /// W-77: the first step of an iteration.
    fn begin(&mut self, now: Now) {
        let id = self.fetch(now, "GET", "/secure-channel/status", &[METADATA], b"", None);
        self.phase = Phase::AskStatus(id);
    }

    fn read_status(&mut self, now: Now, result: Result<HostResponse, FetchError>) -> Result<HostStatus, String> {
        let response = result.map_err(|e| e.to_string())?;
        if !response.is_success() {
            return Err(format!("the host answered {}", response.status));
        }
        if self.sync.offer(now, response.host_date.as_deref(), response.date.as_deref()) {
            self.steps.push_back(Step::ClockSet);
        }
        match response.text() {
            Ok(Text::Json(text)) => HostStatus::from_json(&text).map_err(|e| e.to_string()),
            Ok(Text::Xml(_)) => Err("the host answered with XML".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// W-78 to W-82 with a good status.
    fn adopt(&mut self, now: Now, status: HostStatus) {
        let status = Arc::new(status);
        let became_disabled = status.state == ChannelState::Disabled && self.state != ChannelState::Disabled;
        self.state = status.state;
        self.status = Some(Arc::clone(&status));
        self.steps.push_back(Step::StatusRead);
        if !status.state.is_latched() {
            self.fresh = None;
            if self.held.take().is_some() {
                self.steps.push_back(Step::KeyChanged);
            }
            if became_disabled {
                self.reach(self.with_uptime(now, "Customer has not enforce the secure channel state."));
                self.report_latch();
            }
            return self.succeed(now);
        }
        if holds_expected(self.signer(), status.key.as_ref()) {
            self.fresh = None;
            return self.succeed(now);
        }
        if self.held.is_none() && self.latch_ready {
            self.latch_ready = false;
            self.steps.push_back(Step::LatchLost);
        }
        self.obtain(now, status.key.as_ref());
    }

    fn fetch(
        &mut self,
        now: Now,
        method: &'static str,
        target: &str,
        fields: &[(&'static str, &'static str)],
        body: &'static [u8],
        signer: Option<&Signer>,
    ) -> FetchId {
        let id = FetchId(self.next_id(now));
        let call = Call { to: Destination::WireServer, method, target, fields, body };
        self.steps.push_back(Step::Fetch(id, HostRequest::new(&call, self.clock().at(now), signer)));
        id
    }

    /// Something is asked: its number, and the clock until it is given up.
    fn next_id(&mut self, now: Now) -> u64 {
        self.answer_by = now.mono + schedule::ANSWER_LIMIT;
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }

    fn report_latch(&mut self) {
        self.latch_ready = true;
        self.steps.push_back(Step::LatchReady);
    }

    fn succeed(&mut self, now: Now) {
        if self.problem.take().is_some() {
            self.steps.push_back(Step::Milestone(self.milestone.clone()));
        }
        let wait = self.pause(now);
        self.wait(now, wait);
    }

    /// Nothing was used; the next iteration tries again. A little later than it must: machines that lost the same host at the same time
    /// do not come back to it at the same time.
    fn fail(&mut self, now: Now, text: String) {
        self.note(text);
        let wait = self.pause(now);
        let wait = self.jitter.stretch(wait);
        self.wait(now, wait);
    }

    /// W-85, W-86.
    fn pause(&self, now: Now) -> Duration {
        schedule::wait(self.state == ChannelState::Unknown, now.mono.since(self.started), self.interval)
    }

    /// The iteration is over.
    fn wait(&mut self, now: Now, wait: Duration) {
        if self.status.is_some() {
            self.steps.push_back(Step::IterationEnded);
        }
        if self.drained {
            self.phase = Phase::Idle;
            return;
        }
        self.phase = Phase::Waiting { until: now.mono + wait, deaf: false };
        self.take_notification(now);
    }

    /// A notification ends the wait, if it may (W-87, W-88).
    fn take_notification(&mut self, now: Now) {
        let Phase::Waiting { deaf, .. } = &mut self.phase else { return };
        if *deaf || !self.notified {
            return;
        }
        self.notified = false;
        if self.state.is_latched() {
            *deaf = true;
            // Only a latch that is ready can be ready again: a caller must not be told so while no key could be got.
            if self.latch_ready {
                self.report_latch();
            }
        } else {
            self.latch_ready = false;
            self.state = ChannelState::Unknown;
            self.steps.push_back(Step::LatchCleared);
            self.begin(now);
        }
    }

    /// A message that replaces what was wrong before.
    fn reach(&mut self, text: String) {
        self.problem = None;
        self.milestone.clone_from(&text);
        self.steps.push_back(Step::Milestone(text));
    }

    /// A message about something wrong; each different one is said once (W-83).
    fn note(&mut self, text: String) {
        if self.problem.as_ref() != Some(&text) {
            self.steps.push_back(Step::Problem(text.clone()));
            self.problem = Some(text);
        }
    }

    fn with_uptime(&self, now: Now, text: &str) -> String {
        format!("{text} - {}", now.mono.since(self.started).as_millis())
    }
}

/// Whether the key in use is the one that the host expects (W-80).
fn holds_expected(signer: Option<&Arc<Signer>>, expected: Option<&KeyGuid>) -> bool {
    signer.is_some_and(|signer| expected == Some(signer.guid()))
}

/// W-83.
fn local_failure(guid: &KeyGuid) -> String {
    format!("Failed to check the key '{guid}' details saved locally")
}

#[cfg(test)]
mod tests;
