//! What people do.

use super::{Pool, Refusal};
use crate::agent::{Agent, AgentId, Update};
use crate::catalog::{Feature, Release, Requirement, Source, Task, check_name, is_hex};
use crate::decide::{self, Failure};
use crate::job::{self, Attempt, Job, JobId, JobState, Spec};
use crate::policy::Mode;
use crate::version::Version;
use crate::{Actor, Millis};
use serde::{Deserialize, Serialize};

/// Most tasks, features or demands of a job.
const MOST_OF_A_JOB: usize = 50;
/// Longest input of a task, bytes.
const LONGEST_INPUT: usize = 2 << 20;
/// Longest notes of a release, characters.
const LONGEST_NOTES: usize = 10_000;

/// Least time that something is kept, milliseconds: a slip of the hand does not end the history.
const LEAST_KEPT: u64 = 3_600_000;

/// Deadlines of a pool, and how long it keeps what has ended; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// After this time without a word an agent is offline.
    pub offline_after: u64,
    /// An agent that was given a job, or asked to update by one, says within this time that it begins, or it is as if it had not been.
    pub begin_within: u64,
    /// An agent that accepted an update is back within this time, or overdue.
    pub update_within: u64,
    /// A job whose agent was not heard of for this time has failed.
    pub lost_after: u64,
    /// A job that ended is forgotten after this time.
    pub keep_jobs: u64,
    /// An idempotency key is good for this time; a one-time token that was used up is forgotten after it.
    pub keep_keys: u64,
}

const DAY: u64 = 24 * 3_600_000;

impl Default for Settings {
    fn default() -> Self {
        Self {
            offline_after: 120_000,
            begin_within: 60_000,
            update_within: 600_000,
            lost_after: 600_000,
            keep_jobs: 90 * DAY,
            keep_keys: DAY,
        }
    }
}

/// Which update a person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateRequest {
    /// To which version; the newest release if absent.
    pub to: Option<Version>,
    /// Whether it may be lower than what the agent runs.
    pub force: bool,
}

impl Pool {
    /// Changes the policy. Updates that are under way, and those that people asked for, go on; those that only jobs asked for and that no agent has accepted are taken back.
    pub fn set_mode(&mut self, now: Millis, actor: &Actor, mode: Mode) {
        let detail = match &mode {
            Mode::Normal => "normal".into(),
            Mode::NoUpdate { reason: None } => "no updates".into(),
            Mode::NoUpdate { reason: Some(reason) } => format!("no updates: {}", reason.as_str()),
        };
        if matches!(mode, Mode::NoUpdate { .. }) {
            let asked: Vec<AgentId> = self.agents.values().filter(|agent| asked_by_job(agent)).map(|agent| agent.id).collect();
            for id in asked {
                self.change(id, |agent| agent.update = Update::None);
            }
        }
        self.head.mode = mode;
        self.head_changed();
        self.note(now, actor, "policy", detail);
    }

    /// Changes the deadlines.
    ///
    /// # Errors
    /// A deadline is less than a second; something is kept for less than an hour, or keys for longer than the jobs that they stand for.
    pub fn set_settings(&mut self, now: Millis, actor: &Actor, settings: Settings) -> Result<(), Refusal> {
        let Settings { offline_after, begin_within, update_within, lost_after, keep_jobs, keep_keys } = settings;
        if [offline_after, begin_within, update_within, lost_after].into_iter().any(|deadline| deadline < 1000) {
            return Err(Refusal::Invalid("a deadline is less than a second".into()));
        }
        if keep_keys < LEAST_KEPT || keep_jobs < keep_keys {
            return Err(Refusal::Invalid(
                "jobs and keys are kept for at least an hour, and jobs not for less time than keys".into(),
            ));
        }
        self.head.settings = settings;
        self.head_changed();
        let detail = format!(
            "offline after {offline_after} ms, begin within {begin_within}, update within {update_within}, lost after {lost_after}, keep jobs {keep_jobs}, keep keys {keep_keys}"
        );
        self.note(now, actor, "settings", detail);
        Ok(())
    }

    /// Offers a release. No job's demands change by it.
    ///
    /// # Errors
    /// There is one of that version, or it is not whole.
    pub fn publish(&mut self, now: Millis, actor: &Actor, release: Release) -> Result<(), Refusal> {
        let Release { version, ref file, ref sha256, ref signature, ref notes, .. } = release;
        if self.head.releases.iter().any(|known| known.version == version) {
            return Err(Refusal::Conflict(format!(
                "there is a release {version} already: withdraw it, or choose another version"
            )));
        }
        check_name("file", file).map_err(Refusal::Invalid)?;
        if !is_hex(sha256, 64) {
            return Err(Refusal::Invalid("the SHA-256 of a release is 64 lower-case hexadecimal digits".into()));
        }
        if !is_hex(signature, 128) {
            return Err(Refusal::Invalid("the signature of a release is 128 lower-case hexadecimal digits (Ed25519)".into()));
        }
        if notes.chars().count() > LONGEST_NOTES {
            return Err(Refusal::Invalid(format!(
                "the notes have {} characters; at most {LONGEST_NOTES} are allowed",
                notes.chars().count()
            )));
        }
        let detail = format!("{version}, sha256 {sha256}");
        self.head.releases.push(release);
        self.head.releases.sort_by_key(|release| release.version);
        self.head_changed();
        self.note(now, actor, "publish", detail);
        Ok(())
    }

    /// Takes a release back. Agents that were asked to update to it, and did not begin, are not asked any more.
    ///
    /// # Errors
    /// There is none of that version, or an agent is at it.
    pub fn withdraw(&mut self, now: Millis, actor: &Actor, version: Version) -> Result<(), Refusal> {
        if !self.head.releases.iter().any(|release| release.version == version) {
            return Err(Refusal::Unknown(format!("there is no release {version}")));
        }
        if let Some(agent) =
            self.agents.values().find(|agent| matches!(agent.update, Update::UnderWay { to, .. } if to == version))
        {
            return Err(Refusal::Conflict(format!("agent `{}` is updating to {version}", agent.name)));
        }
        let asked: Vec<AgentId> =
            self.agents.values().filter(|agent| agent.updating_to() == Some(version)).map(|agent| agent.id).collect();
        for id in asked {
            self.change(id, |agent| agent.update = Update::None);
        }
        self.head.releases.retain(|release| release.version != version);
        self.head_changed();
        self.note(now, actor, "withdraw", version.to_string());
        Ok(())
    }

    /// Makes a task known, or changes the agent version that it needs. Jobs that were submitted before keep what it needed then.
    ///
    /// # Errors
    /// Its name is none.
    pub fn put_task(&mut self, now: Millis, actor: &Actor, task: Task) -> Result<(), Refusal> {
        check_name("task", &task.name).map_err(Refusal::Invalid)?;
        let needs = task.minimum_agent_version.map_or("any agent version".into(), |minimum| format!("agent version {minimum}"));
        let detail = format!("`{}` version {} needs {needs}", task.name, task.version);
        self.head.tasks.retain(|known| (&known.name, known.version) != (&task.name, task.version));
        self.head.tasks.push(task);
        self.head.tasks.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        self.head_changed();
        self.note(now, actor, "task", detail);
        Ok(())
    }

    /// The same for a feature.
    ///
    /// # Errors
    /// Its name is none.
    pub fn put_feature(&mut self, now: Millis, actor: &Actor, feature: Feature) -> Result<(), Refusal> {
        check_name("feature", &feature.name).map_err(Refusal::Invalid)?;
        let detail = format!("`{}` needs agent version {}", feature.name, feature.minimum_agent_version);
        self.head.features.retain(|known| known.name != feature.name);
        self.head.features.push(feature);
        self.head.features.sort_by(|a, b| a.name.cmp(&b.name));
        self.head_changed();
        self.note(now, actor, "feature", detail);
        Ok(())
    }

    /// Forgets an agent. A job that it has not begun is put back; one that it runs has failed.
    ///
    /// # Errors
    /// There is none of that number.
    pub fn remove_agent(&mut self, now: Millis, actor: &Actor, id: AgentId) -> Result<(), Refusal> {
        let agent = self.agents.get(id).ok_or_else(|| Refusal::Unknown(format!("there is no agent {}", id.0)))?;
        let (name, job) = (agent.name.clone(), agent.job);
        match job.and_then(|(job, _)| self.jobs.get(&job)).map(|job| (job.id, &job.state)) {
            Some((job, JobState::Running { .. })) => {
                self.fail_job(now, job, &Failure::AgentLost { agent: name.clone() }, Some(id))
            }
            Some((job, _)) => self.put_back(job),
            None => {}
        }
        self.unload_agent(id);
        self.touched_agents.remove(&id);
        self.removed.insert(id);
        self.note(now, actor, "remove", format!("agent `{name}`"));
        Ok(())
    }

    /// Asks one agent to update, whatever the policy is: it is a person who asks. An agent that has a job updates after it; one that is offline, when it is back.
    ///
    /// # Errors
    /// There is no such release, it would be a downgrade and is not forced, the agent has the version, or an update is under way.
    pub fn request_update(
        &mut self,
        now: Millis,
        actor: &Actor,
        id: AgentId,
        request: UpdateRequest,
    ) -> Result<Version, Refusal> {
        let agent = self.agents.get(id).ok_or_else(|| Refusal::Unknown(format!("there is no agent {}", id.0)))?;
        let to = match request.to {
            Some(to) if !self.head.releases.iter().any(|release| release.version == to) => {
                return Err(Refusal::Unknown(format!("there is no release {to}")));
            }
            Some(to) => to,
            None => decide::newest(&self.head.releases).ok_or_else(|| Refusal::Conflict("this pool offers no release".into()))?,
        };
        let name = agent.name.clone();
        if let Update::UnderWay { to: other, .. } = &agent.update {
            return Err(Refusal::Conflict(format!("agent `{name}` is updating to {other}")));
        }
        if agent.version == to {
            return Err(Refusal::Conflict(format!("agent `{name}` runs {to}")));
        }
        if to < agent.version && !request.force {
            return Err(Refusal::Conflict(format!(
                "agent `{name}` runs {}, and {to} is lower: force it if you mean it",
                agent.version
            )));
        }
        let asked = Update::Asked { to, by: actor.clone(), force: request.force, at: now };
        self.change(id, |agent| agent.update = asked);
        let forced = if request.force { ", forced" } else { "" };
        self.note(now, actor, "update", format!("agent `{name}` to {to}{forced}"));
        Ok(to)
    }

    /// A new job. What its tasks and features demand is looked up now, and never again.
    ///
    /// # Errors
    /// A task or feature is unknown; it has no task, or too much of something.
    pub fn submit(&mut self, now: Millis, actor: &Actor, spec: Spec) -> Result<JobId, Refusal> {
        let requirements = self.requirements(&spec)?;
        self.head.last_job += 1;
        self.touched_head = true;
        let id = JobId(self.head.last_job);
        let by = actor.to_string();
        self.store_job(Job { id, spec, requirements, state: JobState::Queued, attempts: Attempt(0), submitted: now, by });
        Ok(id)
    }

    fn requirements(&self, spec: &Spec) -> Result<Vec<Requirement>, Refusal> {
        if spec.tasks.is_empty() {
            return Err(Refusal::Invalid("a job has at least one task".into()));
        }
        if spec.tasks.len().max(spec.features.len()).max(spec.demands.len()) > MOST_OF_A_JOB {
            return Err(Refusal::Invalid(format!("a job has at most {MOST_OF_A_JOB} tasks, features and demands each")));
        }
        let mut requirements = Vec::new();
        for call in &spec.tasks {
            if call.input.len() > LONGEST_INPUT {
                return Err(Refusal::Invalid(format!("the input of task `{}` is longer than {LONGEST_INPUT} bytes", call.name)));
            }
            let task = self.head.tasks.iter().find(|task| task.name == call.name && task.version == call.version);
            let task = task.ok_or_else(|| {
                let known: Vec<_> =
                    self.head.tasks.iter().filter(|task| task.name == call.name).map(|task| task.version.to_string()).collect();
                Refusal::Unknown(match known.as_slice() {
                    [] => format!("there is no task `{}`", call.name.chars().take(64).collect::<String>().escape_debug()),
                    known => format!("task `{}` has no version {}; it has {}", call.name, call.version, known.join(", ")),
                })
            })?;
            let source = || Source::Task { name: task.name.clone(), version: task.version };
            requirements.extend(task.minimum_agent_version.map(|minimum| Requirement { source: source(), minimum }));
        }
        for name in &spec.features {
            let feature = self.head.features.iter().find(|feature| feature.name == *name);
            let feature = feature.ok_or_else(|| {
                Refusal::Unknown(format!("there is no feature `{}`", name.chars().take(64).collect::<String>().escape_debug()))
            })?;
            requirements
                .push(Requirement { source: Source::Feature { name: name.clone() }, minimum: feature.minimum_agent_version });
        }
        job::sort(&mut requirements);
        Ok(requirements)
    }

    /// Takes a job back. An agent that runs it is told to stop.
    ///
    /// # Errors
    /// There is none of that number that has not ended.
    pub fn cancel(&mut self, now: Millis, actor: &Actor, id: JobId) -> Result<(), Refusal> {
        let Some(job) = self.jobs.get(&id).filter(|job| !job.state.is_final()).cloned() else {
            return Err(Refusal::Conflict(format!("job {} has ended, or does not exist", id.0)));
        };
        if let Some(agent) = job.state.agent() {
            self.change(agent, |agent| agent.job = None);
        }
        self.store_job(Job { state: JobState::Canceled { by: actor.to_string(), at: now }, ..job });
        self.note(now, actor, "cancel", format!("job {}", id.0));
        Ok(())
    }

    fn head_changed(&mut self) {
        self.touched_head = true;
        self.dirty = true;
    }
}

/// Whether an agent was asked to update for a job's sake, and has not accepted.
pub(super) const fn asked_by_job(agent: &Agent) -> bool {
    matches!(agent.update, Update::Asked { by: Actor::Job(_), .. })
}
