//! What agents say, and what they are told.

use super::{Pool, Refusal};
use crate::agent::{Agent, AgentId, Step, Update};
use crate::catalog::{Release, check_name};
use crate::decide::Failure;
use crate::demand::{self, Capabilities};
use crate::job::{Attempt, Job, JobId, JobState, Spec};
use crate::version::Version;
use crate::{Actor, Millis};
use serde::{Deserialize, Serialize};

/// An agent is stored again this often if nothing but its last sign of life has changed, milliseconds.
const STORE_SEEN_EVERY: u64 = 30_000;
/// Most capabilities of an agent.
const MOST_CAPABILITIES: usize = 100;
/// Longest reason of a failed update, and longest error of a job, characters.
const LONGEST_WHY: usize = 2000;
/// Longest result of a job, bytes.
const LONGEST_RESULT: usize = 1 << 20;

/// What an agent says with every question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What it runs.
    pub version: Version,
    /// What it is.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// What it does.
    #[serde(default)]
    pub doing: Doing,
}

/// What an agent does at the moment, as it has stored it itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "doing")]
pub enum Doing {
    /// Nothing.
    #[default]
    Idle,
    /// A job.
    #[serde(rename_all = "camelCase")]
    Job {
        /// Which.
        job: JobId,
        /// Which time.
        attempt: Attempt,
    },
    /// An update.
    #[serde(rename_all = "camelCase")]
    Update {
        /// To which version.
        to: Version,
        /// How far.
        step: Step,
    },
}

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "message")]
pub enum Message {
    /// Do this: say that you begin ([`Pool::begin_job`]), then begin.
    #[serde(rename_all = "camelCase")]
    Run {
        /// Which job.
        job: JobId,
        /// Which time.
        attempt: Attempt,
        /// What.
        spec: Spec,
    },
    /// Somebody took the job back.
    #[serde(rename_all = "camelCase")]
    Stop {
        /// Which.
        job: JobId,
    },
    /// Update: say that you will ([`Pool::accept_update`]), then do.
    #[serde(rename_all = "camelCase")]
    Update {
        /// To what.
        release: Release,
        /// Whether it may be a lower version, or an update without a way back.
        force: bool,
        /// The release of the version that the agent runs, if the pool has it: to go back to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Box<Release>>,
    },
}

/// How a job or an update ended, in the agent's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Ended {
    /// Well.
    #[serde(rename_all = "camelCase")]
    Well {
        /// What came of it: JSON.
        #[serde(default)]
        result: String,
    },
    /// Not.
    #[serde(rename_all = "camelCase")]
    Badly {
        /// Why.
        why: String,
    },
}

impl Pool {
    /// A new agent. That it may register is the shell's to know (a one-time token).
    ///
    /// # Errors
    /// The name is taken or no name; a capability is none.
    pub fn register(&mut self, now: Millis, name: &str, report: Report) -> Result<AgentId, Refusal> {
        check_registration(name, &report)?;
        if self.agents.named(name).is_some() {
            return Err(Refusal::Conflict(format!(
                "an agent named `{name}` is registered already; remove it first if it is gone"
            )));
        }
        self.head.last_agent += 1;
        self.touched_head = true;
        let id = AgentId(self.head.last_agent);
        let Report { version, capabilities, .. } = report;
        let agent = Agent {
            id,
            name: name.into(),
            version,
            capabilities,
            last_seen: now,
            online: true,
            job: None,
            update: Update::None,
            last_assigned: Millis(0),
            registered: now,
        };
        self.agents.insert(agent);
        self.change(id, |_| ());
        self.note(now, &Actor::Agent(id), "register", format!("agent `{name}`, version {version}"));
        Ok(id)
    }

    /// An agent was heard from: with every question, and while it works.
    ///
    /// # Errors
    /// It is not registered (any more), or a capability is none.
    pub fn hear(&mut self, now: Millis, id: AgentId, report: &Report) -> Result<(), Refusal> {
        check_capabilities(&report.capabilities)?;
        let agent = self.agents.get(id).ok_or_else(|| unknown(id))?;
        let back = !agent.online;
        let changed = back || agent.version != report.version || agent.capabilities != report.capabilities;
        let stale = now.since(agent.last_seen) >= STORE_SEEN_EVERY;
        self.agents.seen(id, now);
        if changed {
            self.agents.describe(id, &report.capabilities);
            self.change(id, |agent| {
                agent.online = true;
                agent.version = report.version;
            });
        }
        if changed || stale {
            self.touched_agents.insert(id);
        }
        self.reconcile(now, id, report);
        Ok(())
    }

    /// Brings together what the agent does and what the pool believes.
    fn reconcile(&mut self, now: Millis, id: AgentId, report: &Report) {
        let Some(agent) = self.agents.get(id) else { return };
        match (&agent.update, report.doing) {
            (Update::UnderWay { to, step, .. }, Doing::Update { to: said, step: reached }) if *to == said && *step != reached => {
                self.change(id, |agent| {
                    if let Update::UnderWay { step, .. } = &mut agent.update {
                        *step = reached;
                    }
                });
            }
            // It is back, and its last word was lost or never said.
            (Update::UnderWay { to, .. } | Update::Overdue { to, .. }, Doing::Idle) if *to == report.version => {
                let to = *to;
                self.updated(now, id, to);
            }
            (Update::Overdue { to, .. }, Doing::Idle) => {
                let (to, version) = (*to, report.version);
                self.update_failed(now, id, to, &format!("it came back with version {version} instead of {to}"));
            }
            _ => {}
        }
        // An agent stores what it runs before it says that it begins. If it knows nothing of it, it never will.
        let Some(agent) = self.agents.get(id) else { return };
        let (Some((job, _)), Doing::Idle, name) = (agent.job, report.doing, agent.name.clone()) else { return };
        if let Some(JobState::Running { since, .. }) = self.jobs.get(&job).map(|job| &job.state)
            && now.since(*since) >= self.head.settings.begin_within
        {
            self.fail_job(now, job, &Failure::AgentLost { agent: name }, Some(id));
        }
    }

    /// What to tell an agent that does this: made from what is stored, the same however often it is asked for.
    #[must_use]
    pub fn message(&self, id: AgentId, doing: Doing) -> Option<Message> {
        let agent = self.agents.get(id)?;
        match doing {
            Doing::Job { job, attempt } => (agent.job != Some((job, attempt))).then_some(Message::Stop { job }),
            Doing::Update { .. } => None,
            Doing::Idle => match (&agent.update, agent.job) {
                (_, Some((job, attempt))) => match self.jobs.get(&job)? {
                    Job { state: JobState::Assigned { .. }, spec, .. } => Some(Message::Run { job, attempt, spec: spec.clone() }),
                    _ => None,
                },
                (Update::Asked { to, force, .. } | Update::UnderWay { to, force, .. }, None) => {
                    let release = |version| self.head.releases.iter().find(|release| release.version == version).cloned();
                    let previous = release(agent.version).map(Box::new);
                    Some(Message::Update { release: release(*to)?, force: *force, previous })
                }
                (Update::None | Update::Failed { .. } | Update::Overdue { .. }, None) => None,
            },
        }
    }

    /// An agent begins with the job that it was given. It has stored that it does.
    ///
    /// # Errors
    /// The job is not, or no longer, this agent's: it must not begin.
    pub fn begin_job(&mut self, now: Millis, id: AgentId, job: JobId, attempt: Attempt) -> Result<(), Refusal> {
        self.owned(id, job, attempt)?;
        match self.jobs.get(&job) {
            // Said twice: the first answer was lost.
            Some(Job { state: JobState::Running { .. }, .. }) => Ok(()),
            Some(found @ Job { state: JobState::Assigned { .. }, .. }) => {
                let begun = Job { state: JobState::Running { agent: id, since: now }, ..found.clone() };
                self.store_job(begun);
                Ok(())
            }
            _ => Err(not_yours(job)),
        }
    }

    /// An agent has done the job, or not.
    ///
    /// # Errors
    /// The job is not this agent's: its word does not count, and it may forget it.
    pub fn end_job(&mut self, now: Millis, id: AgentId, job: JobId, attempt: Attempt, ended: Ended) -> Result<(), Refusal> {
        self.owned(id, job, attempt)?;
        let Some(found) = self.jobs.get(&job).filter(|found| matches!(found.state, JobState::Running { .. })).cloned() else {
            return Err(Refusal::Conflict(format!("job {} was not begun: say that first", job.0)));
        };
        let state = match ended {
            Ended::Well { result } if result.len() <= LONGEST_RESULT => JobState::Succeeded { agent: id, at: now, result },
            Ended::Well { .. } => JobState::Failed {
                error: format!("the job was done, but its result is longer than {LONGEST_RESULT} bytes"),
                at: now,
                agent: Some(id),
            },
            Ended::Badly { why } => JobState::Failed { error: cut(&why), at: now, agent: Some(id) },
        };
        self.store_job(Job { state, ..found });
        self.change(id, |agent| agent.job = None);
        Ok(())
    }

    fn owned(&self, id: AgentId, job: JobId, attempt: Attempt) -> Result<(), Refusal> {
        let agent = self.agents.get(id).ok_or_else(|| unknown(id))?;
        if agent.job == Some((job, attempt)) { Ok(()) } else { Err(not_yours(job)) }
    }

    /// An agent will update. It has stored that it does.
    ///
    /// # Errors
    /// It was not asked to, or to another version.
    pub fn accept_update(&mut self, now: Millis, id: AgentId, version: Version) -> Result<(), Refusal> {
        let agent = self.agents.get(id).ok_or_else(|| unknown(id))?;
        match &agent.update {
            Update::UnderWay { to, .. } if *to == version => Ok(()),
            Update::Asked { to, by, force, .. } if *to == version && agent.job.is_none() => {
                let under_way = Update::UnderWay { to: *to, by: by.clone(), force: *force, since: now, step: Step::Accepted };
                self.change(id, |agent| agent.update = under_way);
                Ok(())
            }
            _ => Err(Refusal::Conflict(format!("this agent is not asked to update to {version}"))),
        }
    }

    /// An agent has updated to `version`, or says why not; either way it `runs` this version now.
    ///
    /// # Errors
    /// No update to that version was under way or asked for.
    pub fn end_update(
        &mut self,
        now: Millis,
        id: AgentId,
        version: Version,
        runs: Version,
        ended: &Ended,
    ) -> Result<(), Refusal> {
        let agent = self.agents.get(id).ok_or_else(|| unknown(id))?;
        match &agent.update {
            // An agent that cannot even begin says so at once.
            Update::Asked { to, .. } | Update::UnderWay { to, .. } | Update::Overdue { to, .. } if *to == version => {}
            // Said twice.
            Update::None if runs == version => return Ok(()),
            Update::Failed { to, .. } if *to == version => return Ok(()),
            _ => return Err(Refusal::Conflict(format!("no update of this agent to {version} is under way"))),
        }
        self.change(id, |agent| agent.version = runs);
        match ended {
            Ended::Well { .. } if runs == version => self.updated(now, id, version),
            Ended::Well { .. } => {
                let why = format!("it came back with version {runs} instead of {version}");
                self.update_failed(now, id, version, &why);
            }
            Ended::Badly { why } => self.update_failed(now, id, version, why),
        }
        Ok(())
    }

    fn updated(&mut self, now: Millis, id: AgentId, version: Version) {
        self.change(id, |agent| agent.update = Update::None);
        self.note(now, &Actor::Agent(id), "updated", format!("to {version}"));
    }

    pub(super) fn update_failed(&mut self, now: Millis, id: AgentId, to: Version, why: &str) {
        let why = cut(why);
        self.note(now, &Actor::Agent(id), "update-failed", format!("to {to}: {why}"));
        self.change(id, |agent| agent.update = Update::Failed { to, why, at: now });
    }

    pub(super) fn fail_job(&mut self, now: Millis, job: JobId, failure: &Failure, agent: Option<AgentId>) {
        let Some(found) = self.jobs.get(&job).cloned() else { return };
        if let Some(holder) = found.state.agent() {
            self.change(holder, |agent| agent.job = None);
        }
        self.store_job(Job { state: JobState::Failed { error: failure.to_string(), at: now, agent }, ..found });
    }
}

fn unknown(id: AgentId) -> Refusal {
    Refusal::Unknown(format!("agent {} is not registered in this pool", id.0))
}

fn not_yours(job: JobId) -> Refusal {
    Refusal::Conflict(format!("job {} is not this agent's (any more)", job.0))
}

/// Whether an agent can be registered so, whatever the pool has: to be asked before a one-time token is used up.
///
/// # Errors
/// The name is none, or a number, which would be taken for another agent's; a capability is none.
pub fn check_registration(name: &str, report: &Report) -> Result<(), Refusal> {
    check_name("agent", name).map_err(Refusal::Invalid)?;
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::Invalid(format!("the name of the agent, `{name}`, is a number: agents have numbers besides")));
    }
    check_capabilities(&report.capabilities)
}

fn check_capabilities(capabilities: &Capabilities) -> Result<(), Refusal> {
    if capabilities.len() > MOST_CAPABILITIES {
        return Err(Refusal::Invalid(format!(
            "an agent has at most {MOST_CAPABILITIES} capabilities, not {}",
            capabilities.len()
        )));
    }
    capabilities.iter().try_for_each(|(key, value)| demand::check(key, value).map_err(|e| Refusal::Invalid(e.to_string())))
}

/// One line, not too long.
fn cut(why: &str) -> String {
    let line: String = why.chars().map(|c| if crate::breaks_a_line(c) { ' ' } else { c }).take(LONGEST_WHY).collect();
    let line = line.trim();
    if line.is_empty() { "no reason was given".into() } else { line.into() }
}
