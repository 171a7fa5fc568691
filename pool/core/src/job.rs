//! One job: what it needs, and how far it is.

use crate::Millis;
use crate::agent::AgentId;
use crate::catalog::Requirement;
use crate::demand::Demand;
use crate::version::Version;
use serde::{Deserialize, Serialize};

/// Number of a job, unique in its pool; a later job has a greater one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

/// Which time a job was given to an agent. An agent that answers for an earlier one is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

/// One task of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskCall {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// What it works on: JSON that only the task understands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub input: String,
}

/// What is to be done, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The work, in its order.
    pub tasks: Vec<TaskCall>,
    /// Capabilities asked for by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// What the agent must satisfy besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub demands: Vec<Demand>,
    /// How long it may wait for an agent, milliseconds; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_at_most: Option<u64>,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What was asked for.
    pub spec: Spec,
    /// What its tasks and features demanded when it was submitted, highest version first. It is never looked up again: neither a new release nor a
    /// new version of a task changes what this job needs.
    pub requirements: Vec<Requirement>,
    /// How far it is.
    pub state: JobState,
    /// How often it was given to an agent.
    #[serde(default)]
    pub attempts: Attempt,
    /// When.
    pub submitted: Millis,
    /// By whom.
    pub by: String,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum JobState {
    /// Waits for an agent; what for exactly is [`Pool::waiting`](crate::pool::Pool::waiting)'s to say, since it changes with every agent.
    Queued,
    /// Given to an agent that has not said yet that it begins. It may still be put back.
    #[serde(rename_all = "camelCase")]
    Assigned {
        /// To whom.
        agent: AgentId,
        /// When.
        at: Millis,
    },
    /// The agent has begun. From here on it is never given to another: work is done at most once.
    #[serde(rename_all = "camelCase")]
    Running {
        /// Who.
        agent: AgentId,
        /// Since when.
        since: Millis,
    },
    /// Done.
    #[serde(rename_all = "camelCase")]
    Succeeded {
        /// By whom.
        agent: AgentId,
        /// When.
        at: Millis,
        /// What the tasks gave: JSON.
        result: String,
    },
    /// It could not be done.
    #[serde(rename_all = "camelCase")]
    Failed {
        /// Why, in full.
        error: String,
        /// When.
        at: Millis,
        /// Who tried.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentId>,
    },
    /// Somebody took it back.
    #[serde(rename_all = "camelCase")]
    Canceled {
        /// Who.
        by: String,
        /// When.
        at: Millis,
    },
}

/// What a queued job waits for, as it was last decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "for")]
pub enum Waiting {
    /// An agent that satisfies it becomes idle.
    #[serde(rename_all = "camelCase")]
    Agent {
        /// How many registered agents satisfy it.
        satisfying: u32,
        /// How many of those are heard from.
        online: u32,
    },
    /// An agent that is updating comes back.
    #[serde(rename_all = "camelCase")]
    Update {
        /// Which.
        agent: AgentId,
    },
    /// An agent that could update becomes idle.
    #[serde(rename_all = "camelCase")]
    Outdated {
        /// How many could.
        agents: u32,
    },
}

impl JobState {
    /// The agent that has the job now.
    #[must_use]
    pub const fn agent(&self) -> Option<AgentId> {
        match self {
            Self::Assigned { agent, .. } | Self::Running { agent, .. } => Some(*agent),
            Self::Queued | Self::Succeeded { .. } | Self::Failed { .. } | Self::Canceled { .. } => None,
        }
    }

    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded { .. } | Self::Failed { .. } | Self::Canceled { .. })
    }

    /// When it ended, if it has.
    #[must_use]
    pub const fn ended(&self) -> Option<Millis> {
        match self {
            Self::Succeeded { at, .. } | Self::Failed { at, .. } | Self::Canceled { at, .. } => Some(*at),
            Self::Queued | Self::Assigned { .. } | Self::Running { .. } => None,
        }
    }

    /// The word that people see.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Assigned { .. } => "assigned",
            Self::Running { .. } => "running",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Canceled { .. } => "canceled",
        }
    }
}

impl Job {
    /// The least agent version that will do.
    #[must_use]
    pub fn minimum(&self) -> Option<Version> {
        self.requirements.first().map(|requirement| requirement.minimum)
    }
}

/// Puts requirements into the order in which they are told: highest version first, else as the job has them.
pub fn sort(requirements: &mut Vec<Requirement>) {
    requirements.sort_by_key(|requirement| core::cmp::Reverse(requirement.minimum));
    // A task that a job names twice demands once.
    let mut seen: Vec<Requirement> = Vec::with_capacity(requirements.len());
    requirements.retain(|requirement| {
        let new = !seen.contains(requirement);
        if new {
            seen.push(requirement.clone());
        }
        new
    });
}
