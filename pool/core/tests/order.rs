//! Who gets a job is found without looking at every agent; it is whom the rules say that look at every agent, whatever happened before.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the report")]

use pool_core::agent::{AgentId, Update};
use pool_core::catalog::{Release, Task};
use pool_core::decide::{Decision, Needs, decide};
use pool_core::job::{Attempt, Job, JobId, JobState, Spec, TaskCall, Waiting};
use pool_core::policy::Mode;
use pool_core::pool::{Doing, Ended, Head, Pool, Report, UpdateRequest};
use pool_core::version::Version;
use pool_core::{Actor, Millis};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn person() -> Actor {
    Actor::Person("admin".into())
}

fn report(random: &mut Random) -> Report {
    let mut capabilities = std::collections::BTreeMap::new();
    if random.below(2) == 0 {
        capabilities.insert("rack".to_owned(), random.below(3).to_string());
    }
    Report { version: version(random.of(&["1.0", "2.0", "2.0", "3.0"])), capabilities, doing: Doing::Idle }
}

fn pool() -> Pool {
    let mut pool = Pool::new(Head::default());
    for (name, minimum) in [("plain", None), ("new", Some("2.0")), ("newest", Some("3.0"))] {
        let task = Task { name: name.into(), version: version("1"), minimum_agent_version: minimum.map(version) };
        pool.put_task(Millis(0), &person(), task).unwrap();
    }
    pool
}

fn release(number: &str) -> Release {
    let (sha256, signature) = ("a".repeat(64), "b".repeat(128));
    Release {
        version: version(number),
        file: "f.deb".into(),
        size: 1,
        sha256,
        signature,
        notes: String::new(),
        published: Millis(0),
    }
}

/// Anything that can happen to a pool.
fn anything(pool: &mut Pool, random: &mut Random, now: Millis, step: u64) {
    let agents: Vec<AgentId> = pool.agents().map(|agent| agent.id).collect();
    let jobs: Vec<JobId> = pool.jobs().map(|job| job.id).collect();
    let agent = if agents.is_empty() { AgentId(0) } else { random.of(&agents) };
    let held = pool.agent(agent).and_then(|agent| agent.job).unwrap_or((JobId(0), Attempt(0)));
    let report = report(random);
    match random.below(24) {
        0..=2 => drop(pool.register(now, &format!("m{step}"), report)),
        3..=9 => {
            let name = random.of(&["plain", "plain", "new", "newest"]).to_owned();
            let demands =
                if random.below(3) == 0 { vec![format!("rack = {}", random.below(3)).parse().unwrap()] } else { vec![] };
            let tasks = vec![TaskCall { name, version: version("1"), input: String::new() }];
            drop(pool.submit(now, &person(), Spec { tasks, demands, ..Spec::default() }));
        }
        10..=12 => drop(pool.begin_job(now, agent, held.0, held.1)),
        13..=15 => drop(pool.end_job(now, agent, held.0, held.1, Ended::Well { result: String::new() })),
        16 => drop(pool.hear(now, agent, &report)),
        17 => drop(pool.request_update(now, &person(), agent, UpdateRequest::default())),
        18 => {
            if let Some(Update::Asked { to, .. } | Update::UnderWay { to, .. }) = pool.agent(agent).map(|a| a.update.clone()) {
                drop(pool.accept_update(now, agent, to));
                let ended =
                    if random.below(2) == 0 { Ended::Well { result: String::new() } } else { Ended::Badly { why: "no".into() } };
                let runs = if matches!(ended, Ended::Well { .. }) { to } else { report.version };
                drop(pool.end_update(now, agent, to, runs, &ended));
            }
        }
        19 => pool.set_mode(now, &person(), if random.below(2) == 0 { Mode::Normal } else { Mode::NoUpdate { reason: None } }),
        20 => drop(pool.publish(now, &person(), release(random.of(&["2.0", "3.0"])))),
        21 if !jobs.is_empty() => drop(pool.cancel(now, &person(), random.of(&jobs))),
        22 if random.below(3) == 0 => drop(pool.remove_agent(now, &person(), agent)),
        // What another controller stored.
        23 if !agents.is_empty() => {
            let mut other = pool.agent(agent).unwrap().clone();
            other.online = random.below(2) == 0;
            if other.job.is_none() {
                other.last_assigned = Millis(random.below(now.0));
            }
            pool.load_agent(other);
        }
        _ => pool.tick(now),
    }
}

fn rules(pool: &Pool, job: &Job) -> Decision {
    let needs = Needs { requirements: &job.requirements, demands: &job.spec.demands };
    decide(&pool.head().mode, &pool.head().releases, pool.agents(), needs)
}

fn queued(pool: &Pool) -> Vec<Job> {
    pool.jobs().filter(|job| matches!(job.state, JobState::Queued)).cloned().collect()
}

#[test]
fn what_is_decided_is_what_the_rules_decide_that_look_at_every_agent() {
    let (mut assigned, mut failed, mut waited) = (0, 0, 0);
    for seed in 1..300 {
        let (mut random, mut pool, mut now) = (Random(seed), pool(), Millis(1));
        for step in 0..150 {
            let most = if random.below(20) == 0 { 130_000 } else { 2000 };
            now = Millis(now.0 + random.below(most));
            anything(&mut pool, &mut random, now, step);
            let oldest = queued(&pool).first().map(|job| (job.id, rules(&pool, job)));
            pool.schedule(now);
            let place = format!("seed {seed}, step {step}");
            if let Some((id, expected)) = oldest {
                let job = pool.job(id).unwrap();
                match expected {
                    Decision::Assign(agent) => {
                        assert_eq!(job.state, JobState::Assigned { agent, at: now }, "{place}");
                        assigned += 1;
                    }
                    Decision::Fail(failure) => {
                        let error = failure.to_string();
                        assert_eq!(job.state, JobState::Failed { error, at: now, agent: None }, "{place}");
                        failed += 1;
                    }
                    Decision::Update(..) | Decision::Wait(_) => assert_eq!(job.state, JobState::Queued, "{place}"),
                }
            }
            for _ in 0..4 {
                pool.schedule(now);
            }
            // Nothing is left that could be decided otherwise, and what people are told of the wait is true.
            for job in queued(&pool) {
                match (rules(&pool, &job), pool.waiting(&job)) {
                    (Decision::Wait(expected @ Waiting::Agent { .. }), told) => {
                        assert_eq!(told, Some(expected), "{place}, {job:?}");
                        waited += 1;
                    }
                    (Decision::Wait(_), Some(_)) => {}
                    (decision, told) => panic!("{place}: {job:?} is {told:?}, and the rules say {decision:?}"),
                }
            }
            pool.take_touched();
        }
    }
    assert!(assigned > 1000 && failed > 100 && waited > 1000, "{assigned} {failed} {waited}: too tame a test");
}
