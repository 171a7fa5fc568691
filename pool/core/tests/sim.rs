//! Two controllers, one store, agents that store what they do; everything crashes at any moment, answers are lost, clocks go on.
//!
//! After every stored change: no job makes an agent update in no-update mode. In the end: every job has an end, and none was done twice.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests; the number of seeds comes from outside"
)]

use pool_core::agent::{AgentId, Step, Update};
use pool_core::catalog::{Feature, Release, Task};
use pool_core::job::{Attempt, Job, JobId, JobState, Spec, TaskCall};
use pool_core::policy::Mode;
use pool_core::pool::{Doing, Ended, Head, Message, Pool, Refusal, Report, Touched, UpdateRequest};
use pool_core::version::Version;
use pool_core::{Actor, Millis, agent::Agent};
use std::collections::BTreeMap;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// What a database keeps; each row with the revision at which it was stored.
#[derive(Default)]
struct Store {
    revision: u64,
    head: (u64, Head),
    agents: BTreeMap<AgentId, (u64, Option<Agent>)>,
    jobs: BTreeMap<JobId, (u64, Job)>,
}

impl Store {
    fn put(&mut self, touched: Touched) {
        self.revision += 1;
        let mode = &self.head.1.mode;
        for agent in &touched.agents {
            let before = self.agents.get(&agent.id).and_then(|(_, agent)| agent.as_ref()).map(|agent| &agent.update);
            if let Update::Asked { by: Actor::Job(_), .. } = agent.update
                && before != Some(&agent.update)
            {
                let mode = touched.head.as_ref().map_or(mode, |head| &head.mode);
                assert_eq!(*mode, Mode::Normal, "a job made {agent:?} update");
            }
        }
        if let Some(head) = touched.head {
            self.head = (self.revision, head);
        }
        for agent in touched.agents {
            self.agents.insert(agent.id, (self.revision, Some(agent)));
        }
        for id in touched.removed {
            self.agents.insert(id, (self.revision, None));
        }
        for job in touched.jobs {
            let before = self.jobs.insert(job.id, (self.revision, job.clone()));
            if let Some((_, before)) = before {
                assert!(!before.state.is_final(), "{before:?} became {job:?}");
                assert_eq!(before.requirements, job.requirements, "demands slid");
            }
        }
    }
}

/// A controller: what it remembers, and up to which revision that is right.
#[derive(Default)]
struct Controller {
    pool: Pool,
    seen: u64,
}

/// The controller died before it could answer; what it did may be stored or not.
#[derive(Debug)]
struct NoAnswer;

impl Controller {
    fn refresh(&mut self, store: &Store) {
        if store.head.0 > self.seen || self.seen == 0 {
            self.pool.load_head(store.head.1.clone());
        }
        for (id, (revision, agent)) in &store.agents {
            match agent {
                Some(agent) if *revision > self.seen => self.pool.load_agent(agent.clone()),
                None if *revision > self.seen => self.pool.unload_agent(*id),
                _ => {}
            }
        }
        for (revision, job) in store.jobs.values().filter(|(revision, _)| *revision > self.seen) {
            let _ = revision;
            self.pool.load_job(job.clone());
        }
        self.seen = store.revision;
    }

    /// One transaction: what others stored, the operation, decisions, store.
    fn transact<T>(
        &mut self,
        store: &mut Store,
        now: Millis,
        random: &mut Random,
        chaos: bool,
        operation: impl FnOnce(&mut Pool) -> T,
    ) -> Result<T, NoAnswer> {
        self.refresh(store);
        let answer = operation(&mut self.pool);
        self.pool.schedule(now);
        let touched = self.pool.take_touched();
        if chaos && random.one_in(40) {
            *self = Self::default();
            return Err(NoAnswer);
        }
        if !touched.is_empty() {
            store.put(touched);
            self.seen = store.revision;
        }
        if chaos && random.one_in(40) {
            *self = Self::default();
            return Err(NoAnswer);
        }
        Ok(answer)
    }
}

/// What an agent has on its disk.
#[derive(Debug, Clone, PartialEq)]
enum Work {
    Nothing,
    /// Given; the controller has not confirmed that it may begin.
    Given(JobId, Attempt),
    /// At it.
    Running(JobId, Attempt),
    /// Done, and not confirmed.
    Ended(JobId, Attempt, Ended),
    /// An update: confirmed or not, and how far.
    Updating(Version, bool, Step),
    /// Its end, not confirmed.
    Updated(Version, Ended),
}

struct Machine {
    id: AgentId,
    version: Version,
    work: Work,
    away_until: u64,
}

struct World {
    random: Random,
    now: u64,
    store: Store,
    controllers: [Controller; 2],
    machines: Vec<Machine>,
    done: BTreeMap<JobId, u32>,
    chaos: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed * 2 + 1),
            now: 1_000_000,
            store: Store::default(),
            controllers: Default::default(),
            machines: Vec::new(),
            done: BTreeMap::new(),
            chaos: false,
        };
        let person = Actor::Person("admin".into());
        world
            .at(0, |pool, now| {
                let task = |name: &str, minimum: Option<&str>| Task {
                    name: name.into(),
                    version: version("1"),
                    minimum_agent_version: minimum.map(version),
                };
                pool.put_task(now, &person, task("plain", None)).unwrap();
                pool.put_task(now, &person, task("new", Some("2.0"))).unwrap();
                pool.put_task(now, &person, task("newest", Some("3.0"))).unwrap();
                pool.put_feature(now, &person, Feature { name: "f".into(), minimum_agent_version: version("2.0") }).unwrap();
            })
            .unwrap();
        for number in 0..4 {
            let report = Report { version: version("1.0"), capabilities: Default::default(), doing: Doing::Idle };
            let id = world.at(0, |pool, now| pool.register(now, &format!("m{number}"), report).unwrap()).unwrap();
            world.machines.push(Machine { id, version: version("1.0"), work: Work::Nothing, away_until: 0 });
        }
        world.publish("2.0");
        world.chaos = true;
        world
    }

    fn at<T>(&mut self, controller: usize, operation: impl FnOnce(&mut Pool, Millis) -> T) -> Result<T, NoAnswer> {
        let now = Millis(self.now);
        let controller = &mut self.controllers[controller];
        controller.transact(&mut self.store, now, &mut self.random, self.chaos, |pool| operation(pool, now))
    }

    fn any<T>(&mut self, operation: impl FnOnce(&mut Pool, Millis) -> T) -> Result<T, NoAnswer> {
        let controller = self.random.below(2) as usize;
        self.at(controller, operation)
    }

    fn publish(&mut self, number: &str) {
        let release = Release {
            version: version(number),
            file: "f.deb".into(),
            size: 1,
            sha256: "a".repeat(64),
            signature: "b".repeat(128),
            notes: String::new(),
            published: Millis(self.now),
        };
        let _ = self.any(|pool, now| pool.publish(now, &Actor::Person("admin".into()), release));
    }

    fn people(&mut self) {
        let person = Actor::Person("admin".into());
        match self.random.below(20) {
            0 => {
                let mode = if self.random.one_in(2) { Mode::Normal } else { Mode::NoUpdate { reason: "freeze".parse().ok() } };
                let _ = self.any(|pool, now| pool.set_mode(now, &person, mode));
            }
            1 => {
                let id = self.machines[self.random.below(4) as usize].id;
                let force = self.random.one_in(4);
                let _ = self.any(|pool, now| pool.request_update(now, &person, id, UpdateRequest { to: None, force }));
            }
            2 if self.random.one_in(10) => self.publish("3.0"),
            3 => {
                let last = self.store.head.1.last_job;
                if last > 0 {
                    let id = JobId(1 + self.random.below(last as u64) as i64);
                    let _ = self.any(|pool, now| pool.cancel(now, &person, id));
                }
            }
            4..=12 => {
                let name = ["plain", "plain", "new", "newest"][self.random.below(4) as usize];
                let spec = Spec {
                    tasks: vec![TaskCall { name: name.into(), version: version("1"), input: String::new() }],
                    features: if self.random.one_in(5) { vec!["f".into()] } else { vec![] },
                    wait_at_most: self.random.one_in(3).then_some(300_000),
                    ..Spec::default()
                };
                let _ = self.any(|pool, now| pool.submit(now, &person, spec).unwrap());
            }
            _ => {
                let _ = self.any(|pool, now| pool.tick(now));
            }
        }
    }

    /// One machine takes one step.
    fn machine(&mut self, at: usize) {
        if self.machines[at].away_until > self.now {
            return;
        }
        if self.chaos && self.random.one_in(30) {
            self.machines[at].away_until = self.now + self.random.below(1_000_000);
            return;
        }
        let (id, own) = (self.machines[at].id, self.machines[at].version);
        let work = self.machines[at].work.clone();
        self.machines[at].work = match work {
            Work::Nothing => self.ask(id, own),
            Work::Given(job, attempt) => match self.any(|pool, now| pool.begin_job(now, id, job, attempt)) {
                Err(NoAnswer) => work,
                Ok(Err(_)) => Work::Nothing,
                Ok(Ok(())) => Work::Running(job, attempt),
            },
            Work::Running(job, attempt) => {
                *self.done.entry(job).or_default() += 1;
                self.say(id, own, Doing::Job { job, attempt });
                // A power cut while it runs: what was done is done, and is not done again.
                let ended = if self.chaos && self.random.one_in(10) {
                    Ended::Badly { why: "interrupted".into() }
                } else {
                    Ended::Well { result: "{}".into() }
                };
                Work::Ended(job, attempt, ended)
            }
            Work::Ended(job, attempt, ref ended) => {
                let ended = ended.clone();
                match self.any(|pool, now| pool.end_job(now, id, job, attempt, ended)) {
                    Err(NoAnswer) => work,
                    Ok(_) => Work::Nothing,
                }
            }
            Work::Updating(to, false, _) => match self.any(|pool, now| pool.accept_update(now, id, to)) {
                Err(NoAnswer) => work,
                Ok(Err(_)) => Work::Nothing,
                Ok(Ok(())) => Work::Updating(to, true, Step::Downloading),
            },
            Work::Updating(to, true, step) => {
                self.say(id, own, Doing::Update { to, step });
                match step {
                    _ if self.chaos && self.random.one_in(8) => {
                        Work::Updated(to, Ended::Badly { why: "the disk is full".into() })
                    }
                    Step::Downloading => Work::Updating(to, true, Step::Installing),
                    _ => {
                        self.machines[at].version = to;
                        Work::Updated(to, Ended::Well { result: String::new() })
                    }
                }
            }
            Work::Updated(to, ref ended) => {
                let ended = ended.clone();
                match self.any(|pool, now| pool.end_update(now, id, to, own, &ended)) {
                    Err(NoAnswer) => work,
                    Ok(_) => Work::Nothing,
                }
            }
        };
    }

    fn say(&mut self, id: AgentId, version: Version, doing: Doing) {
        let report = Report { version, capabilities: Default::default(), doing };
        let _ = self.any(|pool, now| pool.hear(now, id, &report));
    }

    fn ask(&mut self, id: AgentId, version: Version) -> Work {
        let report = Report { version, capabilities: Default::default(), doing: Doing::Idle };
        let asked = self.any(|pool, now| {
            pool.hear(now, id, &report)?;
            // Decisions come before the answer, as a controller's long poll has them.
            pool.schedule(now);
            Ok::<_, Refusal>(pool.message(id, Doing::Idle))
        });
        match asked {
            Ok(Ok(Some(Message::Run { job, attempt, .. }))) => Work::Given(job, attempt),
            Ok(Ok(Some(Message::Update { release, .. }))) => Work::Updating(release.version, false, Step::Accepted),
            _ => Work::Nothing,
        }
    }

    fn step(&mut self) {
        let most = if self.random.one_in(50) { 200_000 } else { 3000 };
        self.now += self.random.below(most);
        if self.random.one_in(3) {
            self.people();
        } else {
            let at = self.random.below(self.machines.len() as u64) as usize;
            self.machine(at);
        }
    }

    /// No more trouble: everything that was asked for comes to an end.
    fn settle(&mut self) {
        self.chaos = false;
        for machine in &mut self.machines {
            machine.away_until = 0;
        }
        for _ in 0..4000 {
            self.now += 1000;
            self.any(|pool, now| pool.tick(now)).unwrap();
            for at in 0..self.machines.len() {
                self.machine(at);
            }
            if self.store.jobs.values().all(|(_, job)| job.state.is_final()) {
                return;
            }
        }
        let open: Vec<_> = self.store.jobs.values().map(|(_, job)| job).filter(|job| !job.state.is_final()).collect();
        let agents: Vec<_> = self.store.agents.values().collect();
        panic!("jobs without end: {open:#?}\n{agents:#?}\nmode {:?}", self.store.head.1.mode);
    }

    fn judge(&self) {
        for (job, times) in &self.done {
            assert_eq!(*times, 1, "job {job:?} was done {times} times");
        }
        for (_, job) in self.store.jobs.values() {
            if matches!(job.state, JobState::Succeeded { .. }) {
                assert_eq!(self.done.get(&job.id), Some(&1), "{job:?} succeeded without being done");
            }
        }
        assert_eq!(self.store.jobs.len() as i64, self.store.head.1.last_job, "a job is gone");
    }
}

#[test]
fn no_job_is_lost_or_done_twice_and_no_job_updates_in_no_update_mode() {
    let seeds = std::env::var("POOL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let (mut jobs, mut updates) = (0, 0);
    for seed in 1..=seeds {
        let world = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..600 {
                world.step();
            }
            world.settle();
            world.judge();
            world
        });
        let world = world.unwrap_or_else(|e| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(e)
        });
        jobs += world.store.jobs.len();
        updates += world.machines.iter().filter(|machine| machine.version > version("1.0")).count();
    }
    // The simulation is about something.
    assert!(jobs > 1000 && updates > 10, "{jobs} jobs, {updates} updated agents");
}
