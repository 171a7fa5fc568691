//! The decisions of a pool: which agent gets a job, whether an agent is asked to update, and why a job cannot run.
//!
//! Pure: no I/O, no clock, no randomness. A shell keeps a [`Pool`](pool::Pool) in memory, calls its operations with the time, and stores the rows
//! that they touched ([`Pool::take_touched`](pool::Pool::take_touched)) in one transaction; whatever it did not store did not happen. What agents are told is derived
//! from rows ([`Pool::message`](pool::Pool::message)) and never queued anywhere, so no message can be lost.
//!
//! | module | what |
//! |---|---|
//! | [`version`] | dotted numbers |
//! | [`demand`] | what an agent must satisfy |
//! | [`catalog`] | tasks and features with the version they need; releases |
//! | [`policy`] | may jobs make agents update? with the owner's reason |
//! | [`agent`] | one machine: version, presence, its update |
//! | [`job`] | one job: what it needs, and how far it is |
//! | [`decide`] | the rules: a job and the agents to a decision, and the exact words of a failure |
//! | [`pool`] | all of it together: the operations, and the deadlines |
//! | [`funnel`] | how many agents satisfy what jobs demand, and what waits for them |

#![forbid(unsafe_code)]

pub mod agent;
pub mod catalog;
pub mod decide;
pub mod demand;
pub mod funnel;
pub mod job;
pub mod policy;
pub mod pool;
pub mod server;
pub mod version;

use serde::{Deserialize, Serialize};

/// A moment: milliseconds since 1970-01-01 UTC, as the shell's clock says. Operations expect it not to run backwards; if it does,
/// deadlines are late, and nothing else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// How long ago `earlier` was; zero if it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Later by `milliseconds`.
    #[must_use]
    pub const fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

/// Whether a character would break one line into two, or is obeyed by a terminal.
#[must_use]
pub fn breaks_a_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Who asked for something, as the audit table names them: a person's token, an agent, or the pool itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Actor {
    /// A person, by the name of the token.
    Person(String),
    /// An agent.
    Agent(agent::AgentId),
    /// The pool, because a job needs it: never in no-update mode.
    Job(job::JobId),
}

impl core::fmt::Display for Actor {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Person(name) => f.write_str(name),
            Self::Agent(id) => write!(f, "agent {}", id.0),
            Self::Job(id) => write!(f, "job {}", id.0),
        }
    }
}
