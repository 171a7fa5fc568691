//! The agents of a pool, with what decisions ask of them at hand: who is idle and waits longest, who became idle since the last pass, and whether anything changed
//! that the other decisions depend on. With it a job that can be given away costs a look at a few agents, however many there are.

use crate::Millis;
use crate::agent::{Agent, AgentId};
use crate::demand::Capabilities;
use std::collections::{BTreeMap, BTreeSet};

/// When an agent was last given a job, and its number: who is first waits longest.
pub(super) type Turn = (Millis, AgentId);

#[derive(Debug, Default)]
pub(super) struct Roster {
    agents: BTreeMap<AgentId, Agent>,
    names: BTreeMap<String, AgentId>,
    idle: BTreeSet<Turn>,
    freed: BTreeSet<Turn>,
    epoch: u64,
}

fn turn(agent: &Agent) -> Option<Turn> {
    agent.is_idle().then_some((agent.last_assigned, agent.id))
}

impl Roster {
    /// All, ascending by number.
    pub(super) fn values(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values()
    }

    pub(super) fn get(&self, id: AgentId) -> Option<&Agent> {
        self.agents.get(&id)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Agent> {
        self.names.get(name).and_then(|id| self.agents.get(id))
    }

    /// Changes with everything that decides whether an agent satisfies a job, now or later; not with who has a job.
    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Who could begin something now, who waits longest first.
    pub(super) const fn idle(&self) -> &BTreeSet<Turn> {
        &self.idle
    }

    /// Who became idle since the last call.
    pub(super) fn take_freed(&mut self) -> BTreeSet<Turn> {
        core::mem::take(&mut self.freed)
    }

    /// A new agent, or a known one as it is now.
    pub(super) fn insert(&mut self, agent: Agent) {
        let known = self.agents.get(&agent.id);
        let same = known.is_some_and(|known| {
            known.version == agent.version
                && known.online == agent.online
                && known.update == agent.update
                && known.capabilities == agent.capabilities
        });
        self.epoch += u64::from(!same);
        let (id, before, after) = (agent.id, known.and_then(turn), turn(&agent));
        if known.is_none_or(|known| known.name != agent.name) {
            self.names.insert(agent.name.clone(), id);
        }
        self.agents.insert(id, agent);
        self.index(before, after);
    }

    pub(super) fn remove(&mut self, id: AgentId) -> bool {
        let Some(agent) = self.agents.remove(&id) else { return false };
        self.names.remove(&agent.name);
        self.epoch += 1;
        self.index(turn(&agent), None);
        true
    }

    /// Changes an agent: anything but its name and its capabilities.
    pub(super) fn edit(&mut self, id: AgentId, change: impl FnOnce(&mut Agent)) -> bool {
        let Some(agent) = self.agents.get_mut(&id) else { return false };
        let (version, online, update, before) = (agent.version, agent.online, agent.update.clone(), turn(agent));
        change(agent);
        let same = version == agent.version && online == agent.online && update == agent.update;
        let after = turn(agent);
        self.epoch += u64::from(!same);
        self.index(before, after);
        true
    }

    /// Replaces what an agent says of itself.
    pub(super) fn describe(&mut self, id: AgentId, capabilities: &Capabilities) {
        if let Some(agent) = self.agents.get_mut(&id).filter(|agent| agent.capabilities != *capabilities) {
            agent.capabilities.clone_from(capabilities);
            self.epoch += 1;
        }
    }

    /// It was heard of: no decision depends on that.
    pub(super) fn seen(&mut self, id: AgentId, now: Millis) {
        if let Some(agent) = self.agents.get_mut(&id) {
            agent.last_seen = agent.last_seen.max(now);
        }
    }

    fn index(&mut self, before: Option<Turn>, after: Option<Turn>) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.idle.remove(&before);
            self.freed.remove(&before);
        }
        if let Some(after) = after {
            self.idle.insert(after);
            self.freed.insert(after);
        }
    }
}
