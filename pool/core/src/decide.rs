//! The rules: from a job and the agents of its pool to a decision.
//!
//! | agents | normal mode | no-update mode |
//! |---|---|---|
//! | one satisfies everything and is idle | it gets the job | the same |
//! | one satisfies everything | the job waits for it | the same |
//! | one satisfies all but the version | it is asked to update, once; the job waits | the job fails, in the owner's words |
//! | none does | the job fails, naming the demands | the same |

use crate::Millis;
use crate::agent::{Agent, AgentId, Update};
use crate::catalog::{Release, Requirement};
use crate::demand::Demand;
use crate::job::Waiting;
use crate::policy::{Mode, Reason};
use crate::version::Version;
use core::cmp::Reverse;
use core::fmt;

/// What a job needs. Jobs with equal needs are decided together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Needs<'a> {
    /// Versions, highest first.
    pub requirements: &'a [Requirement],
    /// The rest.
    pub demands: &'a [Demand],
}

impl Needs<'_> {
    fn minimum(&self) -> Option<Version> {
        self.requirements.first().map(|requirement| requirement.minimum)
    }

    /// Whether an agent, if it is idle, could begin with such a job.
    #[must_use]
    pub fn are_satisfied_by(&self, agent: &Agent) -> bool {
        self.minimum().is_none_or(|minimum| agent.version >= minimum)
            && self.demands.iter().all(|demand| demand.is_satisfied_by(&agent.capabilities))
    }
}

/// What happens with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This agent gets it.
    Assign(AgentId),
    /// It waits, and this agent is asked to update to this version. Never in no-update mode.
    Update(AgentId, Version),
    /// It waits.
    Wait(Waiting),
    /// It cannot run.
    Fail(Failure),
}

/// Decides about one job.
pub fn decide<'a>(mode: &Mode, releases: &[Release], agents: impl IntoIterator<Item = &'a Agent>, needs: Needs<'_>) -> Decision {
    Survey::of(agents, needs, newest(releases)).decide(mode, needs)
}

/// The release that agents are asked to update to.
#[must_use]
pub fn newest(releases: &[Release]) -> Option<Version> {
    releases.iter().map(|release| release.version).max()
}

/// The agents as one kind of job sees them: made by looking at each once, then good for any number of jobs with these needs.
#[derive(Debug)]
pub struct Survey {
    /// Satisfy everything and can begin; last in the list is who waits longest.
    idle: Vec<(Millis, AgentId)>,
    satisfying: u32,
    online: u32,
    /// Satisfies the demands and is on its way to the version.
    updating: Option<AgentId>,
    /// Satisfy all but the version, and could be asked to update now; who waits longest is last.
    outdated: Vec<(Millis, AgentId)>,
    /// The same, later: busy or offline.
    outdated_later: u32,
    /// The same, but their update failed or is overdue: name and why.
    stuck: Vec<(String, String)>,
    agents: u32,
    highest: Option<Version>,
    /// Whether any satisfies the demands and lacks the version.
    behind: bool,
    /// For each demand, whether any agent satisfies it.
    satisfied: Vec<bool>,
    target: Option<Version>,
}

impl Survey {
    /// Looks at all agents. `newest` is the release that they could update to.
    pub fn of<'a>(agents: impl IntoIterator<Item = &'a Agent>, needs: Needs<'_>, newest: Option<Version>) -> Self {
        let target = newest.filter(|newest| needs.minimum().is_some_and(|minimum| *newest >= minimum));
        let mut survey = Self {
            idle: Vec::new(),
            satisfying: 0,
            online: 0,
            updating: None,
            outdated: Vec::new(),
            outdated_later: 0,
            stuck: Vec::new(),
            agents: 0,
            highest: None,
            behind: false,
            satisfied: vec![false; needs.demands.len()],
            target,
        };
        for agent in agents {
            survey.look(agent, needs);
        }
        // Popped from the end: least recently used first, then by number, so that nobody sits idle beside a backlog.
        survey.idle.sort_unstable_by_key(|entry| Reverse(*entry));
        survey.outdated.sort_unstable_by_key(|entry| Reverse(*entry));
        survey
    }

    fn look(&mut self, agent: &Agent, needs: Needs<'_>) {
        self.agents += 1;
        self.highest = self.highest.max(Some(agent.version));
        let mut all = true;
        for (demand, anywhere) in needs.demands.iter().zip(&mut self.satisfied) {
            let satisfied = demand.is_satisfied_by(&agent.capabilities);
            *anywhere |= satisfied;
            all &= satisfied;
        }
        if !all {
            return;
        }
        let Some(minimum) = needs.minimum().filter(|minimum| agent.version < *minimum) else {
            // An agent that accepted an update and is not heard of serves nobody, and nothing waits for it.
            if matches!(agent.update, Update::Overdue { .. }) {
                self.stuck.push((agent.name.clone(), "its update is overdue".into()));
                return;
            }
            self.satisfying += 1;
            self.online += u32::from(agent.online);
            if agent.is_idle() {
                self.idle.push((agent.last_assigned, agent.id));
            }
            return;
        };
        self.behind = true;
        if agent.updating_to().is_some_and(|to| to >= minimum) {
            self.updating = self.updating.min(Some(agent.id)).or(Some(agent.id));
            return;
        }
        let Some(target) = self.target else { return };
        match &agent.update {
            Update::Overdue { to, .. } => self.stuck.push((agent.name.clone(), format!("its update to {to} is overdue"))),
            Update::Failed { why, .. } if agent.has_failed(target) => self.stuck.push((agent.name.clone(), why.clone())),
            _ if agent.is_idle() => self.outdated.push((agent.last_assigned, agent.id)),
            _ => self.outdated_later += 1,
        }
    }

    /// Decides about the next job with these needs. An agent that was given away here is not given away again.
    pub fn decide(&mut self, mode: &Mode, needs: Needs<'_>) -> Decision {
        if let Some((_, agent)) = self.idle.pop() {
            return Decision::Assign(agent);
        }
        if self.satisfying > 0 {
            return Decision::Wait(Waiting::Agent { satisfying: self.satisfying, online: self.online });
        }
        match mode {
            // Not even one that somebody else is updating is waited for: it does not have the version.
            Mode::NoUpdate { reason } => Decision::Fail(self.refusal(needs, reason.as_ref())),
            Mode::Normal => self.update(needs),
        }
    }

    /// Normal mode, nobody satisfies everything.
    fn update(&mut self, needs: Needs<'_>) -> Decision {
        if let Some(agent) = self.updating {
            return Decision::Wait(Waiting::Update { agent });
        }
        if let (Some((_, agent)), Some(to)) = (self.outdated.pop(), self.target) {
            // The next job with these needs waits for it.
            self.updating = Some(agent);
            return Decision::Update(agent, to);
        }
        if self.outdated_later > 0 {
            return Decision::Wait(Waiting::Outdated { agents: self.outdated_later });
        }
        if !self.stuck.is_empty() {
            return Decision::Fail(Failure::Stuck {
                requirement: needs.requirements.first().cloned(),
                agents: self.stuck.clone(),
            });
        }
        let too_high = self.too_high(needs);
        if self.agents > 0 && self.target.is_none() && !too_high.is_empty() && self.satisfied.iter().all(|satisfied| *satisfied) {
            return Decision::Fail(Failure::NoRelease { requirements: too_high });
        }
        Decision::Fail(self.unsatisfied(needs))
    }

    /// No-update mode, nobody satisfies everything.
    fn refusal(&self, needs: Needs<'_>, reason: Option<&Reason>) -> Failure {
        let too_high = self.too_high(needs);
        if !too_high.is_empty() {
            return Failure::NoUpdate { requirements: too_high, reason: reason.cloned() };
        }
        if let (true, Some(requirement)) = (self.behind, needs.requirements.first()) {
            return Failure::NoUpdateOfOthers {
                requirement: requirement.clone(),
                demands: needs.demands.to_vec(),
                reason: reason.cloned(),
            };
        }
        self.unsatisfied(needs)
    }

    /// Requirements that no registered agent meets.
    fn too_high(&self, needs: Needs<'_>) -> Vec<Requirement> {
        needs
            .requirements
            .iter()
            .filter(|requirement| self.highest.is_none_or(|highest| highest < requirement.minimum))
            .cloned()
            .collect()
    }

    fn unsatisfied(&self, needs: Needs<'_>) -> Failure {
        if self.agents == 0 {
            return Failure::NoAgents;
        }
        if !self.stuck.is_empty() {
            return Failure::Stuck { requirement: needs.requirements.first().cloned(), agents: self.stuck.clone() };
        }
        let missing: Vec<Demand> =
            needs.demands.iter().zip(&self.satisfied).filter(|(_, anywhere)| !**anywhere).map(|(d, _)| d.clone()).collect();
        if missing.is_empty() {
            Failure::NotTogether { demands: needs.demands.to_vec(), requirement: needs.requirements.first().cloned() }
        } else {
            Failure::Missing { demands: missing }
        }
    }
}

/// Why a job cannot run. Its text is what people read: one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The owner's own setting: no agent has the version, and none is asked to update.
    NoUpdate {
        /// What demands too much, highest version first.
        requirements: Vec<Requirement>,
        /// The owner's words.
        reason: Option<Reason>,
    },
    /// The same, where agents have the version, but not what the job demands besides.
    NoUpdateOfOthers {
        /// What demands most.
        requirement: Requirement,
        /// What agents with that version do not satisfy.
        demands: Vec<Demand>,
        /// The owner's words.
        reason: Option<Reason>,
    },
    /// No agent has the version, and the pool offers no release that would help.
    NoRelease {
        /// What demands too much, highest version first.
        requirements: Vec<Requirement>,
    },
    /// Every agent that would do has tried to update, in vain.
    Stuck {
        /// What demands most.
        requirement: Option<Requirement>,
        /// Name and reason of each.
        agents: Vec<(String, String)>,
    },
    /// Demands that no registered agent satisfies.
    Missing {
        /// Which.
        demands: Vec<Demand>,
    },
    /// Each demand is satisfied by some agent, all of them by none.
    NotTogether {
        /// All demands.
        demands: Vec<Demand>,
        /// The version that is needed besides.
        requirement: Option<Requirement>,
    },
    /// There are no agents at all.
    NoAgents,
    /// Nobody took it in the time that it was given.
    WaitedTooLong {
        /// That time, milliseconds.
        milliseconds: u64,
    },
    /// The agent that ran it stopped answering: the job may be done in part, so it is not given to another.
    AgentLost {
        /// Its name.
        agent: String,
    },
}

const NO_UPDATES: &str = "This pool doesn't allow agent updates.";
const ADMINISTRATOR: &str = "An administrator can alter this setting on the organization pool page.";

/// Most agents that a text names.
const NAMED: usize = 5;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUpdate { requirements, reason } => {
                writeln!(f, "{NO_UPDATES}")?;
                for Requirement { source, minimum } in requirements {
                    writeln!(f, "{source} requires agent version {minimum}, and no agents with that version are registered.")?;
                }
                f.write_str(reason.as_ref().map_or(ADMINISTRATOR, Reason::as_str))
            }
            Self::NoUpdateOfOthers { requirement: Requirement { source, minimum }, demands, reason } => {
                writeln!(f, "{NO_UPDATES}")?;
                write!(
                    f,
                    "{source} requires agent version {minimum}, and no agents with that version satisfy the other demands of this job: "
                )?;
                list(f, demands)?;
                writeln!(f, ".")?;
                f.write_str(reason.as_ref().map_or(ADMINISTRATOR, Reason::as_str))
            }
            Self::NoRelease { requirements } => {
                for (at, Requirement { source, minimum }) in requirements.iter().enumerate() {
                    let line = if at > 0 { "\n" } else { "" };
                    write!(
                        f,
                        "{line}{source} requires agent version {minimum}, no agents with that version are registered, and no release of this pool has it."
                    )?;
                }
                Ok(())
            }
            Self::Stuck { requirement, agents } => {
                match requirement {
                    Some(Requirement { source, minimum }) => write!(
                        f,
                        "{source} requires agent version {minimum}, and every agent that could run this job has tried to update in vain."
                    )?,
                    None => f.write_str("Every agent that could run this job has an update that is overdue.")?,
                }
                for (name, why) in agents.iter().take(NAMED) {
                    write!(f, "\nAgent `{name}`: {why}")?;
                }
                match agents.len().saturating_sub(NAMED) {
                    0 => Ok(()),
                    more => write!(f, "\nAnd {more} more."),
                }
            }
            Self::Missing { demands } => {
                f.write_str("No registered agent satisfies ")?;
                list(f, demands)?;
                f.write_str(".")
            }
            Self::NotTogether { demands, requirement } => {
                f.write_str("No registered agent satisfies everything that this job demands: ")?;
                list(f, demands)?;
                if let Some(Requirement { source, minimum }) = requirement {
                    let and = if demands.is_empty() { "" } else { ", and " };
                    write!(f, "{and}agent version {minimum} ({source})")?;
                }
                f.write_str(".")
            }
            Self::NoAgents => f.write_str("No agent is registered in this pool."),
            Self::WaitedTooLong { milliseconds } => write!(f, "No agent took this job within {} seconds.", milliseconds / 1000),
            Self::AgentLost { agent } => {
                write!(
                    f,
                    "Agent `{agent}` stopped answering while it ran this job, which may be done in part; it was not given to another."
                )
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, demands: &[Demand]) -> fmt::Result {
    for (at, demand) in demands.iter().enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        write!(f, "{comma}`{demand}`")?;
    }
    Ok(())
}
