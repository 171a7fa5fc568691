//! Controllers, updaters and agents are killed at random moments, and machines lose their power, while people submit jobs, ask for updates and change the policy.
//! In the end every job has ended exactly once, was begun at most once, and no agent was made to update while the policy did not allow it.
//!
//! `POOL_STORM`: for how many seconds [6]; `POOL_STORM_SEED`: which storm. The controllers speak TLS.

use crate::support::{Fleet, POOL, v};
use fleet::controller::{Options, is_final};
use fleet::releases::Build;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// xorshift64*: a storm can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// A database of its own on the server that the environment names.
struct Database(String, String);

impl Database {
    fn make() -> Option<Self> {
        let server = std::env::var("POOL_TEST_POSTGRES").ok()?;
        let name = format!("fleet_{}", std::process::id());
        let database = Self(server, name);
        database.psql(&format!("CREATE DATABASE {}", database.1));
        Some(database)
    }

    fn psql(&self, words: &str) {
        assert!(Command::new("psql").args(["-q", &self.0, "-c", words]).status().unwrap().success(), "{words}");
    }

    fn url(&self) -> String {
        format!("{}/{}", self.0.rsplit_once('/').unwrap().0, self.1)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.psql(&format!("DROP DATABASE {} WITH (FORCE)", self.1));
    }
}

#[test]
fn nothing_is_lost_or_run_twice_whatever_is_killed() {
    storm(&Options { tls: true, ..Options::new(POOL) });
}

/// Only where there is a PostgreSQL server (`pool/with-postgres`).
#[test]
fn nothing_is_lost_or_run_twice_with_two_controllers_on_postgresql() {
    let Some(database) = Database::make() else { return };
    storm(&Options { tls: true, database: Some(database.url()), processes: 2, ..Options::new(POOL) });
}

/// What people know of a job: its key and what it is, its number, and its end as it was first seen.
struct Job {
    key: String,
    spec: Value,
    id: Option<i64>,
    end: Option<Value>,
}

struct Storm {
    fleet: Fleet,
    random: Random,
    processes: usize,
    jobs: Vec<Job>,
    kills: BTreeMap<&'static str, u32>,
}

fn storm(options: &Options) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let chance = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("POOL_STORM_SEED").unwrap_or(chance | 1);
    eprintln!("POOL_STORM_SEED={seed}");
    let seconds = Duration::from_secs(number("POOL_STORM").unwrap_or(6));
    let processes = options.processes;
    let fleet = Fleet::with(options, &NAMES, &json!({ "rulesWithin": 0, "readyWithin": 8, "pollWait": 5 }));
    let mut storm = Storm { fleet, random: Random(seed), processes, jobs: Vec::new(), kills: BTreeMap::new() };
    storm.prepare();
    let end = Instant::now() + seconds;
    while Instant::now() < end {
        storm.something_happens();
        thread::sleep(Duration::from_millis(storm.random.below(250)));
    }
    storm.calm();
    storm.check();
    storm.recover();
}

impl Storm {
    fn prepare(&self) {
        for n in 1..4 {
            self.fleet.publish(n, if n == 3 { Build::NeverReady } else { Build::Good });
        }
        // From here on there is a package to go back to.
        self.update_all_to_the_first();
        for (version, minimum) in [("1.1.0", 1), ("1.2.0", 2), ("1.3.0", 5)] {
            self.fleet.ok("PUT", &format!("/tasks/ApplyRules/{version}"), &json!({ "minimumAgentVersion": v(minimum) }));
        }
        self.fleet.deadlines(5_000, 4_000, 30_000, 10_000);
    }

    fn update_all_to_the_first(&self) {
        for name in NAMES {
            // One that runs it refuses.
            let _ = self.fleet.controllers.ask_for_update(name, Some(&v(1)), true);
        }
        for name in NAMES {
            // One that went back to it from another release is still marked.
            fleet::until(&format!("{name} to run {}", v(1)), || {
                let agent = self.fleet.controllers.agent(name).ok()?;
                (agent["version"] == v(1).as_str() && matches!(agent["state"].as_str(), Some("online" | "update failed")))
                    .then_some(())
            })
            .unwrap();
        }
    }

    fn something_happens(&mut self) {
        match self.random.below(20) {
            0..=7 => self.somebody_submits(),
            8 => {
                let mode = if self.random.below(2) == 0 {
                    json!({ "mode": "normal" })
                } else {
                    json!({ "mode": "noUpdate", "reason": "a storm" })
                };
                // It may not be heard; then the policy stays.
                let _ = self.fleet.controllers.call("PUT", "/policy", &mode, None);
            }
            9 | 10 => {
                let to = v(1 + u8::try_from(self.random.below(3)).unwrap());
                let body = json!({ "agents": [self.random.of(&NAMES)], "to": to, "force": true });
                let _ = self.fleet.controllers.call("POST", "/agents/update", &body, None);
            }
            n => self.something_is_killed(n),
        }
        self.look();
    }

    fn something_is_killed(&mut self, n: u64) {
        let name = *self.random.of(&NAMES);
        let machine = self.fleet.machine(name);
        let what = match n {
            11..=13 => {
                machine.kill_updater();
                "updater"
            }
            14 | 15 => {
                machine.kill_agent();
                "agent"
            }
            16 | 17 => {
                machine.cut_power().unwrap();
                machine.boot().unwrap();
                "power"
            }
            _ => {
                let one = usize::try_from(self.random.below(self.processes as u64)).unwrap();
                self.fleet.controllers.kill(one);
                self.fleet.controllers.start_one(one).unwrap();
                "controller"
            }
        };
        *self.kills.entry(what).or_default() += 1;
    }

    /// With a key, so that whoever hears no answer can ask again.
    fn somebody_submits(&mut self) {
        let n = self.jobs.len();
        let version = *self.random.of(&["1.0.0", "1.0.0", "1.1.0", "1.2.0", "1.3.0"]);
        let input = json!({ "destination": "imds", "document": { "id": format!("job-{n}"), "defaultAccess": "allow" } });
        let spec = json!({ "tasks": [
            { "name": "ApplyRules", "version": version, "input": input.to_string() },
            { "name": *self.random.of(&["CheckHealth", "RotateLogs", "CollectDiagnostics"]), "version": "1.0.0" },
        ] });
        self.jobs.push(Job { key: format!("key-{n}"), spec, id: None, end: None });
        self.submit(n);
    }

    fn submit(&mut self, n: usize) {
        let Job { key, spec, id, .. } = &mut self.jobs[n];
        if let Some((status, answer)) = self.fleet.controllers.call("POST", "/jobs", spec, Some(key))
            && status != 503
        {
            assert!(matches!(status, 200 | 201), "{status} {answer}");
            let number = answer["id"].as_i64().unwrap();
            assert!(id.is_none_or(|id| id == number), "one key, two jobs");
            *id = Some(number);
        }
    }

    /// Looks at one job; how it ended never changes.
    fn look(&mut self) {
        if !self.jobs.is_empty() {
            let n = usize::try_from(self.random.below(self.jobs.len() as u64)).unwrap();
            self.look_at(n);
        }
    }

    fn look_at(&mut self, n: usize) {
        let Job { id: Some(id), end, .. } = &mut self.jobs[n] else { return };
        let answer = self.fleet.controllers.call("GET", &format!("/jobs/{id}"), &Value::Null, None);
        let Some((200, job)) = answer else { return };
        let state = &job["state"];
        match end {
            Some(end) => assert_eq!(state, end, "job {id} ended twice"),
            None if is_final(state) => *end = Some(state.clone()),
            None => {}
        }
    }

    /// Everything runs again, and what is open comes to an end.
    fn calm(&mut self) {
        for n in 0..self.jobs.len() {
            let key = self.jobs[n].key.clone();
            fleet::until(&key, || {
                self.submit(n);
                self.jobs[n].id
            })
            .unwrap();
        }
        for n in 0..self.jobs.len() {
            let key = self.jobs[n].key.clone();
            fleet::until(&format!("the end of {key}"), || {
                self.look_at(n);
                self.jobs[n].end.as_ref().map(drop)
            })
            .unwrap();
        }
        for name in NAMES {
            fleet::until(&format!("{name} to come to rest"), || {
                let agent = self.fleet.controllers.agent(name).ok()?;
                matches!(agent["state"].as_str(), Some("online" | "update failed")).then_some(())
            })
            .unwrap();
        }
    }

    fn check(&mut self) {
        let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
        let mut ids = Vec::new();
        for n in 0..self.jobs.len() {
            self.look_at(n);
            let Job { id, end: Some(end), .. } = &self.jobs[n] else { panic!("job {n} has no end") };
            ids.push(id.unwrap());
            let runs: usize = self.fleet.machines.iter().map(|machine| machine.runs(&format!("job-{n}"))).sum();
            assert!(runs <= 1, "job {n} was begun {runs} times: {end}");
            let outcome = if end["state"] == "succeeded" {
                assert_eq!(runs, 1, "job {n} succeeded without being done");
                "succeeded"
            } else {
                let error = end["error"].as_str().unwrap();
                let known = [
                    "interrupted: the machine or the updater went down",
                    "stopped answering while it ran this job",
                    "This pool doesn't allow agent updates.",
                    "has tried to update in vain.",
                    "no agents with that version are registered, and no release of this pool has it.",
                    // The agent was not there when it was asked to reopen its logs, or was killed while a task asked it something.
                    "was killed",
                    "has an update that is overdue",
                    // A release that does not work, and from which there was no way back: see the end.
                    "it is broken (exit code 1)",
                ];
                *known.iter().find(|words| error.contains(**words)).unwrap_or_else(|| panic!("job {n}: {error}"))
            };
            *outcomes.entry(outcome.into()).or_default() += 1;
        }
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "one job for two keys");
        let all = self.fleet.ok("GET", "/jobs?limit=1", &Value::Null);
        assert_eq!(all["items"][0]["id"].as_u64().unwrap_or(0), count as u64, "jobs that nobody submitted");
        self.check_updates();
        for name in NAMES {
            let agent = self.fleet.controllers.agent(name).unwrap();
            assert_eq!(agent["version"], self.fleet.machine(name).installed().unwrap().as_str(), "{agent}");
        }
        eprintln!("{count} jobs: {outcomes:?}; killed: {:?}", self.kills);
    }

    /// Wherever the storm left an agent, a person can have it back.
    fn recover(&self) {
        for machine in &self.fleet.machines {
            machine.configure(&json!({ "readyWithin": 60 })).unwrap();
        }
        self.fleet.deadlines(60_000, 60_000, 600_000, 60_000);
        self.update_all_to_the_first();
        for (name, machine) in NAMES.iter().zip(&self.fleet.machines) {
            assert_eq!(machine.package().unwrap(), format!("installed {}", v(1)), "{name}");
            assert_eq!(machine.curl("http://169.254.169.254/metadata/versions").unwrap(), 200, "{name}");
        }
    }

    /// While the policy did not allow it, no job made an agent update.
    fn check_updates(&self) {
        let mut allowed = true;
        let (mut by_jobs, mut by_people) = (0, 0);
        for line in self.fleet.controllers.audit().unwrap() {
            let word = |member: &str| line[member].as_str().unwrap_or_default().to_owned();
            match word("action").as_str() {
                "policy" => allowed = word("detail") == "normal",
                "update" if word("actor").starts_with("job ") => {
                    assert!(allowed, "{line}");
                    by_jobs += 1;
                }
                "update" => by_people += 1,
                _ => {}
            }
        }
        eprintln!("updates asked for by people: {by_people}, by jobs: {by_jobs}");
    }
}
