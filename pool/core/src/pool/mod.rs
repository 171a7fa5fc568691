//! A pool: its policy, what it offers, its agents and its jobs, and everything that can be done with them.
//!
//! Every operation either does all that it says, or refuses and changes nothing. What it changed is in [`Pool::take_touched`], to be
//! stored whole before anybody hears of it. Several controllers may each have a `Pool`: whoever stores holds the pool's lock, and has
//! loaded what others stored before.

mod agents;
mod people;
mod roster;
mod schedule;

pub use agents::{Doing, Ended, Message, Report, check_registration};
pub use people::{Settings, UpdateRequest};

use crate::agent::{Agent, AgentId};
use crate::catalog::{Feature, Release, Requirement, Task};
use crate::demand::Demand;
use crate::job::{Job, JobId, JobState, Waiting};
use crate::policy::Mode;
use crate::{Actor, Millis};
use core::fmt;
use roster::Roster;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a pool is besides its agents and jobs: one row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Whether jobs may make agents update.
    pub mode: Mode,
    /// Deadlines.
    #[serde(default)]
    pub settings: Settings,
    /// Builds that agents can update to, ascending by version.
    #[serde(default)]
    pub releases: Vec<Release>,
    /// What jobs can consist of.
    #[serde(default)]
    pub tasks: Vec<Task>,
    /// What jobs can ask for.
    #[serde(default)]
    pub features: Vec<Feature>,
    /// Number of the last agent.
    #[serde(default)]
    pub last_agent: i64,
    /// Number of the last job.
    #[serde(default)]
    pub last_job: i64,
}

/// One line of the audit table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// When.
    pub at: Millis,
    /// Who.
    pub actor: String,
    /// What: one word.
    pub action: String,
    /// To what, and how, for people.
    pub detail: String,
}

/// Why an operation changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Something of that name or number does not exist.
    Unknown(String),
    /// It exists already, or is not in a state in which that can be done.
    Conflict(String),
    /// What was asked for makes no sense.
    Invalid(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unknown(text) | Self::Conflict(text) | Self::Invalid(text)) = self;
        f.write_str(text)
    }
}

impl core::error::Error for Refusal {}

/// What must be stored together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// The pool's own row.
    pub head: Option<Head>,
    /// Agents as they are now.
    pub agents: Vec<Agent>,
    /// Agents that are gone.
    pub removed: Vec<AgentId>,
    /// Jobs as they are now. Those that are final are known to the store alone from now on.
    pub jobs: Vec<Job>,
    /// New lines.
    pub audit: Vec<Audit>,
}

impl Touched {
    /// Whether nothing is to be stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a job needs, by which jobs are decided together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    requirements: Vec<Requirement>,
    demands: Vec<Demand>,
}

/// A pool.
#[derive(Debug, Default)]
pub struct Pool {
    head: Head,
    agents: Roster,
    /// Those that are not final.
    jobs: BTreeMap<JobId, Job>,
    queued: BTreeMap<Class, BTreeSet<JobId>>,
    /// What the jobs of a kind wait for, and the [`Roster::epoch`] in which that was decided.
    waiting: BTreeMap<Class, (Waiting, u64)>,
    /// Whether anything happened that decisions depend on.
    dirty: bool,
    touched_head: bool,
    touched_agents: BTreeSet<AgentId>,
    touched_jobs: BTreeSet<JobId>,
    removed: BTreeSet<AgentId>,
    audit: Vec<Audit>,
}

impl Pool {
    /// A pool with this row; agents and jobs are loaded after it.
    #[must_use]
    pub fn new(head: Head) -> Self {
        Self { head, dirty: true, ..Self::default() }
    }

    /// The pool's own row.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// All agents, ascending by number.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    /// One agent.
    #[must_use]
    pub fn agent(&self, id: AgentId) -> Option<&Agent> {
        self.agents.get(id)
    }

    /// One agent, by its name.
    #[must_use]
    pub fn agent_named(&self, name: &str) -> Option<&Agent> {
        self.agents.named(name)
    }

    /// All jobs that are not final, ascending by number.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// One job, unless it is final.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// What a queued job waits for, as it was last decided.
    #[must_use]
    pub fn waiting(&self, job: &Job) -> Option<Waiting> {
        matches!(job.state, JobState::Queued).then(|| self.waiting.get(&class(job)).map(|(waiting, _)| *waiting)).flatten()
    }

    /// Takes a row as it is stored: at the start, and what another controller stored since.
    pub fn load_head(&mut self, head: Head) {
        self.head = head;
        self.dirty = true;
    }

    /// The same for an agent.
    pub fn load_agent(&mut self, mut agent: Agent) {
        if let Some(known) = self.agents.get(agent.id) {
            // Who hears it knows best when that was.
            agent.last_seen = agent.last_seen.max(known.last_seen);
        }
        self.agents.insert(agent);
        self.dirty = true;
    }

    /// The same for an agent that was removed.
    pub fn unload_agent(&mut self, id: AgentId) {
        self.dirty |= self.agents.remove(id);
    }

    /// The same for a job.
    pub fn load_job(&mut self, job: Job) {
        self.unqueue(job.id);
        if job.state.is_final() {
            self.jobs.remove(&job.id);
        } else {
            self.put_job(job);
        }
        self.dirty = true;
    }

    /// What was changed since the last call; to be stored whole, or everything loaded anew.
    pub fn take_touched(&mut self) -> Touched {
        let agents = core::mem::take(&mut self.touched_agents);
        let touched_jobs = core::mem::take(&mut self.touched_jobs);
        let mut jobs = Vec::with_capacity(touched_jobs.len());
        for id in touched_jobs {
            let is_final = self.jobs.get(&id).is_some_and(|job| job.state.is_final());
            jobs.extend(if is_final { self.jobs.remove(&id) } else { self.jobs.get(&id).cloned() });
        }
        Touched {
            head: core::mem::take(&mut self.touched_head).then(|| self.head.clone()),
            agents: agents.into_iter().filter_map(|id| self.agents.get(id).cloned()).collect(),
            removed: core::mem::take(&mut self.removed).into_iter().collect(),
            jobs,
            audit: core::mem::take(&mut self.audit),
        }
    }

    fn note(&mut self, at: Millis, actor: &Actor, action: &str, detail: String) {
        self.audit.push(Audit { at, actor: actor.to_string(), action: action.into(), detail });
    }

    /// Puts a job into its place, and notes that it changed.
    fn store_job(&mut self, job: Job) {
        self.touched_jobs.insert(job.id);
        self.dirty = true;
        self.unqueue(job.id);
        self.put_job(job);
    }

    fn put_job(&mut self, job: Job) {
        if matches!(job.state, JobState::Queued) {
            self.queued.entry(class(&job)).or_default().insert(job.id);
        }
        self.jobs.insert(job.id, job);
    }

    fn unqueue(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id).filter(|job| matches!(job.state, JobState::Queued)) else { return };
        let class = class(job);
        if let Some(ids) = self.queued.get_mut(&class) {
            ids.remove(&id);
            if ids.is_empty() {
                self.queued.remove(&class);
                self.waiting.remove(&class);
            }
        }
    }

    /// Changes an agent (anything but its name and its capabilities), and notes that it changed.
    fn change(&mut self, id: AgentId, change: impl FnOnce(&mut Agent)) {
        if self.agents.edit(id, change) {
            self.touched_agents.insert(id);
            self.dirty = true;
        }
    }
}

fn class(job: &Job) -> Class {
    Class { requirements: job.requirements.clone(), demands: job.spec.demands.clone() }
}
