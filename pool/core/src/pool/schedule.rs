//! What the pool does by itself: it decides about jobs, and holds deadlines.

use super::people::asked_by_job;
use super::roster::{Roster, Turn};
use super::{Class, Pool};
use crate::agent::{Agent, AgentId, Update};
use crate::decide::{self, Decision, Failure, Needs, Survey};
use crate::job::{Attempt, Job, JobId, JobState, Waiting};
use crate::{Actor, Millis};
use core::ops::Bound;
use std::collections::{BTreeMap, BTreeSet};

impl Pool {
    /// Decides about queued jobs, if anything has happened that a decision depends on. Older jobs first; jobs that need the same are decided together. A job that an
    /// idle agent satisfies costs a look at the idle ones before it; only where none does, all agents are looked at, and again only when any has changed.
    pub fn schedule(&mut self, now: Millis) {
        if !core::mem::take(&mut self.dirty) {
            return;
        }
        let freed = self.agents.take_freed();
        let epoch = self.agents.epoch();
        let mut again = false;
        let newest = decide::newest(&self.head.releases);
        let mode = self.head.mode.clone();
        let mut kinds: Vec<Kind> = Vec::with_capacity(self.queued.len());
        // The oldest job of each kind, and which kind that is.
        let mut next: BTreeMap<JobId, usize> = BTreeMap::new();
        for (class, jobs) in &self.queued {
            // Agents satisfied it, none was idle, and none has changed: then only those that have become idle are of interest.
            let waits = self.waiting.get(class).is_some_and(|(w, at)| matches!(w, Waiting::Agent { .. }) && *at == epoch);
            next.extend(jobs.first().map(|job| (*job, kinds.len())));
            kinds.push(Kind { class: class.clone(), waits, looked: None, survey: None });
        }
        while let Some((id, at)) = next.pop_first() {
            let Some(kind) = kinds.get_mut(at) else { continue };
            let candidates = if kind.waits { &freed } else { self.agents.idle() };
            let decision = match kind.idle(candidates, &self.agents) {
                Some(agent) => Decision::Assign(agent),
                None if kind.waits => continue,
                None => {
                    let survey =
                        kind.survey.get_or_insert_with(|| Box::new(Survey::of(self.agents.values(), needs(&kind.class), newest)));
                    survey.decide(&mode, needs(&kind.class))
                }
            };
            match decision {
                Decision::Assign(agent) => {
                    // Another kind of job may have taken it in this very pass: then this kind asks for its next.
                    if self.agents.get(agent).is_some_and(Agent::is_idle) {
                        self.assign(now, id, agent);
                    } else {
                        next.insert(id, at);
                        continue;
                    }
                }
                Decision::Update(agent, to) => {
                    if self.agents.get(agent).is_some_and(Agent::is_idle) {
                        let by = Actor::Job(id);
                        self.note(
                            now,
                            &by,
                            "update",
                            format!("agent {} to {to}, because no agent that would do has the version that it demands", agent.0),
                        );
                        self.change(agent, |agent| agent.update = Update::Asked { to, by, force: false, at: now });
                    }
                    // Decided again with the next pass, in which that agent is on its way.
                    again = true;
                    continue;
                }
                Decision::Wait(waiting) => {
                    // All of this kind wait for the same.
                    self.waiting.insert(kind.class.clone(), (waiting, epoch));
                    continue;
                }
                Decision::Fail(failure) => self.fail_job(now, id, &failure, None),
            }
            let following = self.queued.get(&kind.class).and_then(|jobs| jobs.range(id..).find(|job| **job > id));
            next.extend(following.map(|job| (*job, at)));
        }
        // What this pass changed it has reckoned with.
        self.dirty = again;
    }

    fn assign(&mut self, now: Millis, id: JobId, agent: AgentId) {
        let Some(job) = self.jobs.get(&id).cloned() else { return };
        let attempts = Attempt(job.attempts.0.saturating_add(1));
        self.store_job(Job { state: JobState::Assigned { agent, at: now }, attempts, ..job });
        self.change(agent, |agent| {
            agent.job = Some((id, attempts));
            agent.last_assigned = now;
        });
    }

    /// A job that its agent has not begun waits again.
    pub(super) fn put_back(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id).cloned() else { return };
        if let Some(agent) = job.state.agent() {
            self.change(agent, |agent| agent.job = None);
        }
        self.store_job(Job { state: JobState::Queued, ..job });
    }

    /// Holds the deadlines: call it every second or so.
    pub fn tick(&mut self, now: Millis) {
        let settings = self.head.settings;
        let late: Vec<AgentId> = self
            .agents
            .values()
            .filter(|agent| agent.online && now.since(agent.last_seen) >= settings.offline_after)
            .map(|agent| agent.id)
            .collect();
        for id in late {
            self.change(id, |agent| {
                agent.online = false;
                if asked_by_job(agent) {
                    // Jobs look for another one, instead of waiting behind it.
                    agent.update = Update::None;
                }
            });
        }
        let updates: Vec<AgentId> = self
            .agents
            .values()
            .filter(|agent| !matches!(agent.update, Update::None | Update::Failed { .. }))
            .map(|agent| agent.id)
            .collect();
        for id in updates {
            self.tick_update(now, id);
        }
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in jobs {
            self.tick_job(now, id);
        }
    }

    fn tick_update(&mut self, now: Millis, id: AgentId) {
        let settings = self.head.settings;
        let Some(agent) = self.agents.get(id) else { return };
        match &agent.update {
            Update::UnderWay { to, since, .. } if now.since(*since) >= settings.update_within => {
                let (to, since) = (*to, *since);
                self.note(now, &Actor::Agent(id), "update-overdue", format!("to {to}"));
                self.change(id, |agent| agent.update = Update::Overdue { to, since });
            }
            // Heard of, idle, told, and silent about it: as good as a no.
            Update::Asked { to, at, by: Actor::Job(_), .. } if agent.job.is_none() && now.since(*at) >= settings.begin_within => {
                let to = *to;
                let why = format!("it did not answer the request to update within {} seconds", settings.begin_within / 1000);
                self.update_failed(now, id, to, &why);
            }
            _ => {}
        }
    }

    fn tick_job(&mut self, now: Millis, id: JobId) {
        let settings = self.head.settings;
        let Some(job) = self.jobs.get(&id) else { return };
        match &job.state {
            JobState::Queued => {
                if let Some(milliseconds) = job.spec.wait_at_most.filter(|most| now.since(job.submitted) >= *most) {
                    self.fail_job(now, id, &Failure::WaitedTooLong { milliseconds }, None);
                }
            }
            JobState::Assigned { agent, at } => {
                let online = self.agents.get(*agent).is_some_and(|agent| agent.online);
                if !online || now.since(*at) >= settings.begin_within {
                    self.put_back(id);
                }
            }
            JobState::Running { agent, .. } => {
                let holder = self.agents.get(*agent);
                if holder.is_none_or(|agent| now.since(agent.last_seen) >= settings.lost_after) {
                    let (agent, name) = (*agent, holder.map_or_else(|| agent.0.to_string(), |agent| agent.name.clone()));
                    self.fail_job(now, id, &Failure::AgentLost { agent: name }, Some(agent));
                }
            }
            JobState::Succeeded { .. } | JobState::Failed { .. } | JobState::Canceled { .. } => {}
        }
    }
}

/// Jobs that need the same, in one pass.
struct Kind {
    class: Class,
    /// Whether only agents that have become idle are of interest.
    waits: bool,
    /// The last idle agent that was looked at: those before it do not satisfy this kind.
    looked: Option<Turn>,
    survey: Option<Box<Survey>>,
}

impl Kind {
    /// The idle agent that waits longest among those that satisfy it.
    fn idle(&mut self, candidates: &BTreeSet<Turn>, agents: &Roster) -> Option<AgentId> {
        let from = self.looked.map_or(Bound::Unbounded, Bound::Excluded);
        for turn in candidates.range((from, Bound::Unbounded)) {
            self.looked = Some(*turn);
            let satisfies = |agent: &&Agent| agent.is_idle() && needs(&self.class).are_satisfied_by(agent);
            if let Some(agent) = agents.get(turn.1).filter(satisfies) {
                return Some(agent.id);
            }
        }
        None
    }
}

fn needs(class: &Class) -> Needs<'_> {
    Needs { requirements: &class.requirements, demands: &class.demands }
}
