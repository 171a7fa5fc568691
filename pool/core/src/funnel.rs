//! The funnel: when few agents satisfy the version that jobs demand, these jobs pile up on them while the rest idle. Nothing is wrong then, but
//! somebody should see it.

use crate::Millis;
use crate::job::JobState;
use crate::pool::Pool;
use crate::version::Version;
use serde::Serialize;
use std::collections::BTreeMap;

/// How a pool's agents and the versions that its jobs demand compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Funnel {
    /// Agents per version, ascending.
    pub agents: Vec<Bar>,
    /// Jobs per demanded version, ascending; jobs that demand none are not in it.
    pub demanded: Vec<Demanded>,
}

/// Agents of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bar {
    /// Which.
    pub version: Version,
    /// How many.
    pub agents: u32,
    /// How many of those are online and have nothing to do.
    pub idle: u32,
}

/// Jobs that demand one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Demanded {
    /// Which.
    pub version: Version,
    /// How many agents have it or a later one.
    pub satisfying: u32,
    /// How many agents there are.
    pub agents: u32,
    /// How many jobs wait.
    pub waiting: u32,
    /// How long the oldest waits, milliseconds.
    pub longest_wait: u64,
    /// How many agents sit idle that do not have it, while jobs wait.
    pub idle_below: u32,
}

impl Demanded {
    /// Whether jobs pile up on a few: more wait than agents satisfy them, and less than half of all agents do.
    #[must_use]
    pub const fn is_funnel(&self) -> bool {
        self.waiting > self.satisfying && self.satisfying * 2 < self.agents && self.idle_below > 0
    }
}

impl Funnel {
    /// Counts.
    #[must_use]
    pub fn of(pool: &Pool, now: Millis) -> Self {
        let mut bars: BTreeMap<Version, Bar> = BTreeMap::new();
        for agent in pool.agents() {
            let bar = bars.entry(agent.version).or_insert(Bar { version: agent.version, agents: 0, idle: 0 });
            bar.agents += 1;
            bar.idle += u32::from(agent.is_idle());
        }
        let agents: u32 = bars.values().map(|bar| bar.agents).sum();
        let mut demanded: BTreeMap<Version, Demanded> = BTreeMap::new();
        for job in pool.jobs().filter(|job| matches!(job.state, JobState::Queued)) {
            let Some(version) = job.minimum() else { continue };
            let entry = demanded.entry(version).or_insert_with(|| Demanded {
                version,
                satisfying: bars.range(version..).map(|(_, bar)| bar.agents).sum(),
                agents,
                waiting: 0,
                longest_wait: 0,
                idle_below: bars.range(..version).map(|(_, bar)| bar.idle).sum(),
            });
            entry.waiting += 1;
            entry.longest_wait = entry.longest_wait.max(now.since(job.submitted));
        }
        Self { agents: bars.into_values().collect(), demanded: demanded.into_values().collect() }
    }
}
