//! What the updater does next: pure, and safe against a power cut at any point.
//!
//! A shell asks [`Machine::next`], does that, and tells what came of it with [`Machine::on`]; before it does anything else it stores
//! [`Machine::stored`]. So the disk always has what is being done, and whoever starts with it ([`Machine::resume`]) goes on or goes back:
//!
//! | on the disk | means | after a power cut |
//! |---|---|---|
//! | `idle` | nothing | asks |
//! | `given` | a job that the pool has not confirmed, or not yet to our knowledge | says again that it begins |
//! | `running` | it may be done in part | says that it was interrupted: it is never done again |
//! | `ended` | how it ended; the pool may know it already | says it again |
//! | `update` | how far an update is; every step can be repeated | repeats the step; after [`MOST_STARTS`] times goes back |
//! | `updated` | how an update ended; the pool may know it already | says it again |

use pool_core::agent::Step;
use pool_core::catalog::Release;
use pool_core::job::{Attempt, JobId, Spec};
use pool_core::pool::{Doing, Ended, Message};
use pool_core::version::Version;
use serde::{Deserialize, Serialize};

/// How often a step that changes the machine is begun: more often, and it is the step that takes the machine down.
pub const MOST_STARTS: u32 = 3;

/// A package that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Package {
    /// Version of the agent in it.
    pub version: Version,
    /// SHA-256, lower-case hexadecimal: its name in the state folder.
    pub sha256: String,
}

/// Everything that is on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// What is being done.
    pub work: Work,
    /// The package of the last version that became ready, or of the one that ran before that was found in the pool: to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Package>,
}

/// What is being done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "work")]
pub enum Work {
    /// Nothing.
    #[default]
    Idle,
    /// A job, as it came. The pool has not confirmed that it may begin.
    #[serde(rename_all = "camelCase")]
    Given {
        /// Which.
        job: JobId,
        /// Which time.
        attempt: Attempt,
        /// What.
        spec: Spec,
    },
    /// A job, confirmed: it may have been begun.
    #[serde(rename_all = "camelCase")]
    Running {
        /// Which.
        job: JobId,
        /// Which time.
        attempt: Attempt,
        /// What.
        spec: Spec,
    },
    /// A job's end, which the pool has not confirmed.
    #[serde(rename_all = "camelCase")]
    Ended {
        /// Which.
        job: JobId,
        /// Which time.
        attempt: Attempt,
        /// How.
        ended: Ended,
    },
    /// An update.
    #[serde(rename_all = "camelCase")]
    Update(Box<Update>),
    /// An update's end, which the pool has not confirmed.
    #[serde(rename_all = "camelCase")]
    Updated {
        /// To which version.
        to: Version,
        /// The last step.
        step: Step,
        /// How.
        ended: Ended,
    },
}

/// An update under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// To what.
    pub to: Release,
    /// How far.
    pub step: Step,
    /// What ran before.
    pub previous: Version,
    /// Its package, if it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Package>,
    /// Its release, while its package is not kept yet: it is fetched and verified with that of the new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Release>,
    /// While it goes back: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How often this step was begun.
    #[serde(default)]
    pub starts: u32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<'a> {
    /// Ask the pool what there is to do; [`Event::Told`].
    Ask,
    /// Say that the job begins; [`Event::Confirmed`] or [`Event::Refused`].
    Begin(JobId, Attempt),
    /// Do the job; [`Event::Performed`].
    Perform(&'a Spec),
    /// Say how it ended; [`Event::Confirmed`] or [`Event::Refused`].
    SayEnd(JobId, Attempt, &'a Ended),
    /// Say that the update is accepted; [`Event::Confirmed`] or [`Event::Refused`].
    Accept(Version),
    /// Fetch the packages, or the rest of them; [`Event::Done`] or [`Event::Failed`].
    Download(Packages<'a>),
    /// Compare SHA-256, check the signature, keep the packages; [`Event::Done`] or [`Event::Failed`].
    Verify(Packages<'a>),
    /// Install it; [`Event::Done`], [`Event::Untouched`] or [`Event::Failed`].
    Install(&'a Release),
    /// Restart the agent; [`Event::Done`] or [`Event::Failed`].
    Restart,
    /// Wait until this version says that it is ready; [`Event::Done`] or [`Event::Failed`].
    AwaitReady(Version),
    /// Install this package, restart, wait until it is ready; [`Event::Done`] or [`Event::Failed`].
    GoBack(&'a Package),
    /// Say how the update ended, and what runs; [`Event::Confirmed`] or [`Event::Refused`].
    SayUpdate(Version, &'a Ended),
}

/// What an update needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packages<'a> {
    /// What will be installed.
    pub to: &'a Release,
    /// What can be gone back to, if it is not here yet.
    pub back: Option<&'a Release>,
}

/// Whether an update may begin when there is no package to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WithoutWayBack {
    /// Only if an administrator of the pool forces it.
    #[default]
    Refuse,
    /// Yes.
    GoOn,
}

/// What came of it. That the pool could not be reached is no event: the same is done again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pool's answer, what runs here, and what the configuration says of updates that could not be undone.
    Told(Option<Message>, Version, WithoutWayBack),
    /// The pool has taken note.
    Confirmed,
    /// The pool does not want it (any more).
    Refused,
    /// How the job ended.
    Performed(Ended),
    /// Well.
    Done,
    /// Not, and nothing was changed.
    Untouched(String),
    /// Not.
    Failed(String),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    stored: Stored,
}

fn badly(why: impl Into<String>) -> Ended {
    Ended::Badly { why: why.into() }
}

impl Machine {
    /// Goes on with what is on the disk. To be stored before anything is done: each start counts.
    #[must_use]
    pub fn resume(mut stored: Stored) -> Self {
        match &mut stored.work {
            Work::Running { job, attempt, .. } => {
                let ended = badly("interrupted: the machine or the updater went down while this job ran; it may be done in part");
                stored.work = Work::Ended { job: *job, attempt: *attempt, ended };
            }
            Work::Update(update) => match update.step {
                Step::Installing | Step::Restarting | Step::AwaitingReady | Step::RollingBack => {
                    update.starts += 1;
                    if update.starts >= MOST_STARTS {
                        let why = format!("it was interrupted {MOST_STARTS} times while {}", update.step);
                        let mut machine = Self { stored };
                        machine.fail_step(why);
                        return machine;
                    }
                }
                Step::Accepted | Step::Downloading | Step::Verifying => {}
            },
            Work::Idle | Work::Given { .. } | Work::Ended { .. } | Work::Updated { .. } => {}
        }
        Self { stored }
    }

    /// What must be on the disk before anything else is done.
    #[must_use]
    pub const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// What the pool is told with every question.
    #[must_use]
    pub fn doing(&self) -> Doing {
        match &self.stored.work {
            Work::Idle => Doing::Idle,
            Work::Given { job, attempt, .. } | Work::Running { job, attempt, .. } | Work::Ended { job, attempt, .. } => {
                Doing::Job { job: *job, attempt: *attempt }
            }
            Work::Update(update) => Doing::Update { to: update.to.version, step: update.step },
            Work::Updated { to, step, .. } => Doing::Update { to: *to, step: *step },
        }
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self) -> Action<'_> {
        match &self.stored.work {
            Work::Idle => Action::Ask,
            Work::Given { job, attempt, .. } => Action::Begin(*job, *attempt),
            Work::Running { spec, .. } => Action::Perform(spec),
            Work::Ended { job, attempt, ended } => Action::SayEnd(*job, *attempt, ended),
            Work::Updated { to, ended, .. } => Action::SayUpdate(*to, ended),
            Work::Update(update) => match (update.step, &update.back) {
                (Step::Accepted, _) => Action::Accept(update.to.version),
                (Step::Downloading, _) => Action::Download(update.packages()),
                (Step::Verifying, _) => Action::Verify(update.packages()),
                (Step::Installing, _) => Action::Install(&update.to),
                (Step::Restarting, _) | (Step::RollingBack, None) => Action::Restart,
                (Step::AwaitingReady, _) => Action::AwaitReady(update.to.version),
                (Step::RollingBack, Some(package)) => Action::GoBack(package),
            },
        }
    }

    /// Takes in what came of [`Machine::next`]. An event that cannot come of it changes nothing.
    pub fn on(&mut self, event: Event) {
        match (&mut self.stored.work, event) {
            (Work::Idle, Event::Told(Some(message), runs, without)) => self.told(message, runs, without),
            (Work::Given { job, attempt, spec }, Event::Confirmed) => {
                let (job, attempt, spec) = (*job, *attempt, core::mem::take(spec));
                self.stored.work = Work::Running { job, attempt, spec };
            }
            (Work::Running { job, attempt, .. }, Event::Performed(ended)) => {
                self.stored.work = Work::Ended { job: *job, attempt: *attempt, ended };
            }
            (Work::Given { .. }, Event::Refused)
            | (Work::Ended { .. } | Work::Updated { .. }, Event::Confirmed | Event::Refused) => self.stored.work = Work::Idle,
            (Work::Update(update), Event::Refused) if update.step == Step::Accepted => self.stored.work = Work::Idle,
            (Work::Update(update), Event::Confirmed) if update.step == Step::Accepted => update.reach(Step::Downloading),
            (Work::Update(update), Event::Done) => match update.step {
                Step::Accepted => {}
                Step::Downloading => update.reach(Step::Verifying),
                Step::Verifying => {
                    if let Some(release) = update.fetch.take() {
                        let package = Package { version: release.version, sha256: release.sha256 };
                        update.back = Some(package.clone());
                        self.stored.good = Some(package);
                    }
                    update.reach(Step::Installing);
                }
                Step::Installing => update.reach(Step::Restarting),
                Step::Restarting => update.reach(Step::AwaitingReady),
                Step::AwaitingReady => {
                    let (to, step) = (update.to.version, update.step);
                    self.stored.good = Some(Package { version: to, sha256: update.to.sha256.clone() });
                    self.stored.work = Work::Updated { to, step, ended: Ended::Well { result: String::new() } };
                }
                Step::RollingBack => {
                    let why = format!("{}; went back to {}", update.why.as_deref().unwrap_or_default(), update.previous);
                    self.end_update(why);
                }
            },
            // Nothing was touched now; if it is not the first time, something may have been before.
            (Work::Update(update), Event::Untouched(why)) if update.starts == 0 => self.end_update(why),
            (Work::Update(_), Event::Untouched(why)) => self.fail_step(why),
            (Work::Update(_), Event::Failed(why)) => self.fail_step(why),
            _ => {}
        }
    }

    fn told(&mut self, message: Message, runs: Version, without: WithoutWayBack) {
        self.stored.work = match message {
            Message::Run { job, attempt, spec } => Work::Given { job, attempt, spec },
            // Somebody took back what is not here.
            Message::Stop { .. } => Work::Idle,
            Message::Update { release, force, .. } if release.version < runs && !force => {
                let why = format!("{} is older than {runs}, which runs: an administrator can force that", release.version);
                Work::Updated { to: release.version, step: Step::Accepted, ended: badly(why) }
            }
            Message::Update { release, .. } if release.version == runs => {
                Work::Updated { to: release.version, step: Step::Accepted, ended: Ended::Well { result: String::new() } }
            }
            Message::Update { release, force, previous } => {
                let back = self.stored.good.clone().filter(|good| good.version == runs);
                let fetch = previous.map(|release| *release).filter(|release| back.is_none() && release.version == runs);
                if back.is_none() && fetch.is_none() && !force && without == WithoutWayBack::Refuse {
                    let why = format!(
                        "there would be no way back: the package of {runs}, which runs, is neither kept here nor published in the pool. Publish it, or have an administrator force the update"
                    );
                    self.stored.work = Work::Updated { to: release.version, step: Step::Accepted, ended: badly(why) };
                    return;
                }
                let (step, why) = (Step::Accepted, None);
                Work::Update(Box::new(Update { to: release, step, previous: runs, back, fetch, why, starts: 0 }))
            }
        };
    }

    /// The step failed: back, if anything was changed and there is something to go back to.
    fn fail_step(&mut self, failure: String) {
        let Work::Update(update) = &mut self.stored.work else { return };
        match update.step {
            Step::Accepted | Step::Downloading | Step::Verifying => self.end_update(failure),
            Step::Installing | Step::Restarting | Step::AwaitingReady if update.back.is_some() => {
                update.why = Some(failure);
                update.reach(Step::RollingBack);
            }
            Step::Installing | Step::Restarting | Step::AwaitingReady => {
                let why = format!("{failure}; going back was impossible: the package of {} is not kept here", update.previous);
                self.end_update(why);
            }
            Step::RollingBack => {
                let first = update.why.as_deref().unwrap_or_default();
                let why = format!("{first}; going back to {} failed, too: {failure}", update.previous);
                self.end_update(why);
            }
        }
    }

    fn end_update(&mut self, why: String) {
        let Work::Update(update) = &self.stored.work else { return };
        self.stored.work = Work::Updated { to: update.to.version, step: update.step, ended: badly(why) };
    }

    /// The packages that must stay in the state folder.
    pub fn needed(&self) -> impl Iterator<Item = &str> {
        let update = match &self.stored.work {
            Work::Update(update) => Some(update),
            _ => None,
        };
        let back = update.and_then(|update| update.back.as_ref()).map(|package| package.sha256.as_str());
        let fetch = update.and_then(|update| update.fetch.as_ref()).map(|release| release.sha256.as_str());
        let to = update.map(|update| update.to.sha256.as_str());
        self.stored.good.as_ref().map(|package| package.sha256.as_str()).into_iter().chain(back).chain(fetch).chain(to)
    }
}

impl Update {
    const fn packages(&self) -> Packages<'_> {
        Packages { to: &self.to, back: self.fetch.as_ref() }
    }

    const fn reach(&mut self, step: Step) {
        self.step = step;
        self.starts = 0;
    }
}

#[cfg(test)]
mod tests;
