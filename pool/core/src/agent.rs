//! One registered machine.

use crate::demand::Capabilities;
use crate::job::{Attempt, JobId};
use crate::version::Version;
use crate::{Actor, Millis};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Number of an agent, unique in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentId(pub i64);

/// One agent, as the pool knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its number.
    pub id: AgentId,
    /// Its name, unique in the pool.
    pub name: String,
    /// The version that it runs, as it last said.
    pub version: Version,
    /// What it says of itself.
    pub capabilities: Capabilities,
    /// When it last said anything.
    pub last_seen: Millis,
    /// Whether it is heard from.
    pub online: bool,
    /// The job that it was given and that has not ended. One at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<(JobId, Attempt)>,
    /// Its update.
    #[serde(default)]
    pub update: Update,
    /// When it was last given a job: whoever waits longest is next.
    #[serde(default)]
    pub last_assigned: Millis,
    /// When it was registered.
    pub registered: Millis,
}

/// Where an agent's update stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "update")]
pub enum Update {
    /// There is none.
    #[default]
    None,
    /// The agent is told with its next question, after the job that it has.
    #[serde(rename_all = "camelCase")]
    Asked {
        /// To which version.
        to: Version,
        /// Who wants it.
        by: Actor,
        /// Whether `to` may be lower than what it runs.
        force: bool,
        /// When.
        at: Millis,
    },
    /// The agent has said that it is at it.
    #[serde(rename_all = "camelCase")]
    UnderWay {
        /// To which version.
        to: Version,
        /// Who wants it.
        by: Actor,
        /// Whether `to` may be lower than what it ran.
        force: bool,
        /// When it accepted.
        since: Millis,
        /// How far it is.
        step: Step,
    },
    /// It could not, said why, and runs the version that it has: usable for what that satisfies.
    #[serde(rename_all = "camelCase")]
    Failed {
        /// To which version.
        to: Version,
        /// Why, in the agent's words.
        why: String,
        /// When it said so.
        at: Millis,
    },
    /// It accepted, and has not come back within the pool's deadline.
    #[serde(rename_all = "camelCase")]
    Overdue {
        /// To which version.
        to: Version,
        /// When it accepted.
        since: Millis,
    },
}

/// How far an update is: what the updater stores before each step, so that a power cut at any point leaves one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Accepted; nothing done yet.
    Accepted,
    /// Fetching the package.
    Downloading,
    /// Comparing its SHA-256, checking its signature.
    Verifying,
    /// The package manager is at work.
    Installing,
    /// systemd restarts the service.
    Restarting,
    /// Waiting until the new version says that it is ready.
    AwaitingReady,
    /// It did not: the package before is being installed again.
    RollingBack,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Installing => "installing",
            Self::Restarting => "restarting",
            Self::AwaitingReady => "awaiting readiness",
            Self::RollingBack => "rolling back",
        })
    }
}

/// What people see of an agent, one word each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Heard from.
    Online,
    /// Not heard from.
    Offline,
    /// Asked to update, or at it.
    Updating,
    /// The last update failed; it runs on with what it has.
    UpdateFailed,
    /// An update was accepted, and nothing was heard of its end.
    UpdateOverdue,
}

impl State {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Updating => "updating",
            Self::UpdateFailed => "update failed",
            Self::UpdateOverdue => "update overdue",
        }
    }

    /// Whether somebody should look: being offline or behind is no fault by itself.
    #[must_use]
    pub const fn is_warning(self) -> bool {
        matches!(self, Self::UpdateFailed | Self::UpdateOverdue)
    }
}

impl Agent {
    /// What people see.
    #[must_use]
    pub const fn state(&self) -> State {
        match (&self.update, self.online) {
            (Update::Overdue { .. }, _) => State::UpdateOverdue,
            (Update::UnderWay { .. }, _) | (Update::Asked { .. }, true) => State::Updating,
            (_, false) => State::Offline,
            (Update::Failed { .. }, true) => State::UpdateFailed,
            (Update::None, true) => State::Online,
        }
    }

    /// Whether it could be given a job, or be asked to update, at this moment.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.online && self.job.is_none() && matches!(self.update, Update::None | Update::Failed { .. })
    }

    /// The version that it is on its way to.
    #[must_use]
    pub const fn updating_to(&self) -> Option<Version> {
        match &self.update {
            Update::Asked { to, .. } | Update::UnderWay { to, .. } => Some(*to),
            Update::None | Update::Failed { .. } | Update::Overdue { .. } => None,
        }
    }

    /// Whether an update to `to` has already been tried in vain: a job does not ask for it again, only a person does.
    #[must_use]
    pub fn has_failed(&self, to: Version) -> bool {
        matches!(&self.update, Update::Failed { to: failed, .. } | Update::Overdue { to: failed, .. } if *failed == to)
    }
}
