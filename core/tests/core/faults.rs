//! Hours of bad luck: a seeded world around the agent machine, in which the host is slow, silent, wrong or rotates its keys, the disk is
//! full, clocks jump by a year, the machine sleeps, callers notify a thousand times per second, and the shell loses what it was asked to
//! do. After every input the agent keeps its promises; when the luck turns, it is well again within a minute.
//!
//! `SIM_SEEDS=1000` runs more seeds, `SIM_FIRST` begins elsewhere; the seed is in every message.

mod host;

use azure_proxy_agent_core::agent::{
    Agent, AgentAnswer, AgentConfig, AgentEffect, AgentEvent, AgentTimer, EventsWritten, IdSeed, QueryId, StateFile, StoreError,
    StoredKey, Summaries,
};
use azure_proxy_agent_core::authz::CanonicalMode;
use azure_proxy_agent_core::effect::{LocalQuery, LocalReply};
use azure_proxy_agent_core::identity::{PerDestination, TargetMode};
use azure_proxy_agent_core::replay::XorShift;
use azure_proxy_agent_core::time::{Mono, Now, Wall};
use host::{Host, Mood};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SEEDS: u64 = 6;
/// Simulated time of one run.
const HOURS: u64 = 2;
const SECOND: u64 = 1_000_000_000;
const YEAR: i64 = 365 * 86_400 * SECOND as i64;
/// W-07, and what the keeper adds before it gives up.
const GIVEN_UP: Duration = Duration::from_secs(40);

/// W-07, W-38, W-84 to W-89, W-96, W-97, W-100, PX-55, PX-56, PX-59, S-31, S-54, SEC-E3.
#[test]
fn sim_no_fault_of_host_disk_clock_or_callers_breaks_the_agent() {
    let read = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (first, seeds) = (read("SIM_FIRST", 0), read("SIM_SEEDS", SEEDS));
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        match std::panic::catch_unwind(|| World::new(seed).run(HOURS)) {
            Ok(one) => seen.add(&one),
            Err(_) => panic!("seed {seed} (SIM_FIRST={seed} SIM_SEEDS=1)"),
        }
    }
    // A simulation in which nothing happens proves nothing.
    assert!(seen.attested > seeds && seen.latched > seeds && seen.disabled > seeds, "{seen:?}");
    assert!(seen.lost > seeds && seen.not_stored > 0 && seen.notified > 1000 * seeds && seen.cleared > 0, "{seen:?}");
}

/// What happened.
#[derive(Debug, Default)]
struct Seen {
    polls: u64,
    attested: u64,
    latched: u64,
    disabled: u64,
    lost: u64,
    not_stored: u64,
    notified: u64,
    cleared: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.polls += other.polls;
        self.attested += other.attested;
        self.latched += other.latched;
        self.disabled += other.disabled;
        self.lost += other.lost;
        self.not_stored += other.not_stored;
        self.notified += other.notified;
        self.cleared += other.cleared;
    }
}

/// What the disk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskMood {
    Good,
    Full,
    Broken,
}

struct World {
    seed: u64,
    random: XorShift,
    agent: Agent,
    tables: Summaries,
    /// Monotonic time since the start, and where the wall clock stands against it.
    mono: u64,
    wall: i64,
    /// The wall clock has jumped: ticks and finished ticks do not compare any more (CLI-23).
    jumped: bool,
    interval: Duration,
    host: Host,
    disk: BTreeMap<String, Vec<u8>>,
    disk_mood: DiskMood,
    /// The call to the host that goes on, when its answer comes (never, if the shell lost it), and the targets of the status in it.
    call: Option<(u64, Option<AgentAnswer>, Option<Targets>)>,
    called: u64,
    last_poll: u64,
    /// Targets of the last good status that was answered; the last redirect that was asked for.
    served: Option<Targets>,
    redirected: Option<Targets>,
    redirector: bool,
    /// Model of the finished tick, to the millisecond: the tag file says it, and is written until it is there.
    finished: Option<u64>,
    tag: Vec<u8>,
    replies: BTreeMap<QueryId, String>,
    next_query: u64,
    signer: Option<String>,
    seen: Seen,
}

type Targets = PerDestination<TargetMode>;

impl World {
    fn new(seed: u64) -> Self {
        let mut random = XorShift::new(seed);
        let interval = Duration::from_secs([1, 15, 15, 60][random.below(4) as usize]);
        let config = AgentConfig {
            version: "1".into(),
            rules_folder: "/rules".into(),
            poll_interval: interval,
            event_files: 10,
            status_path: "/status.json".into(),
            canonical_mode: CanonicalMode::Off,
        };
        Self {
            seed,
            agent: Agent::new(config, IdSeed(random.next()), Arc::default()),
            tables: Summaries::default(),
            random,
            mono: 1_000 * SECOND,
            wall: 1_767_687_330 * SECOND as i64,
            jumped: false,
            interval,
            host: Host::new(),
            disk: BTreeMap::new(),
            disk_mood: DiskMood::Good,
            call: None,
            called: 0,
            last_poll: 0,
            served: None,
            redirected: None,
            redirector: false,
            finished: None,
            tag: Vec::new(),
            replies: BTreeMap::new(),
            next_query: 0,
            signer: None,
            seen: Seen::default(),
        }
    }

    fn now(&self) -> Now {
        Now { mono: Mono(self.mono), wall: Wall(u64::try_from(self.wall + self.mono as i64).unwrap()) }
    }

    fn run(mut self, hours: u64) -> Seen {
        self.last_poll = self.mono;
        self.agent.handle_start(self.now());
        self.drain();
        self.event(AgentEvent::ListenerReady);
        self.event(AgentEvent::RedirectorReady);
        let mut awake = 0;
        while awake < hours * 3600 * SECOND {
            let time = self.random.below(120 * SECOND);
            awake += time;
            self.pass(time);
            self.mishap();
        }
        self.heal();
        self.seen
    }

    /// Something goes wrong, or right again.
    fn mishap(&mut self) {
        match self.random.below(12) {
            0..3 => self.host.mood = Mood::random(&mut self.random),
            3..5 => self.host.change_mind(&mut self.random),
            5 => {
                self.disk_mood =
                    [DiskMood::Good, DiskMood::Good, DiskMood::Full, DiskMood::Broken][self.random.below(4) as usize];
            }
            // W-73: the wall clock is set, by a year or a little.
            6 => {
                let by = [YEAR, -YEAR, 31 * SECOND as i64, -3_600 * SECOND as i64][self.random.below(4) as usize];
                self.jumped = true;
                self.wall = (self.wall + by).max(0);
            }
            // Suspend: both clocks go on, nothing else does.
            7 => {
                let slept = self.random.below(3 * 86_400) * SECOND;
                self.mono += slept;
                self.last_poll += slept;
                self.wake();
            }
            8 => self.flood(),
            9 => self.event(AgentEvent::ListenerFailed("busy".into())),
            10 => {
                self.redirector = self.random.below(3) > 0;
                self.event(match self.redirector {
                    true => AgentEvent::RedirectorReady,
                    false => AgentEvent::RedirectorFailed("gone".into()),
                });
            }
            _ => {
                self.host.mood = Mood::Good;
                self.event(AgentEvent::ListenerReady);
            }
        }
    }

    /// PX-59: a thousand notifications in a second, three seconds long.
    fn flood(&mut self) {
        let (polls, from) = (self.seen.polls, self.mono);
        for n in 0..3_000 {
            self.pass(SECOND / 1_000);
            let tick = if n % 2 == 0 { i128::from(self.now().wall.0) } else { i128::MAX };
            self.ask(tick, true);
            self.seen.notified += 1;
        }
        let secs = (self.mono - from) / SECOND;
        assert!(self.seen.polls - polls <= secs + 5, "seed {}: {} polls in {secs} s", self.seed, self.seen.polls - polls);
    }

    /// Asks `/provision`, and compares with what is known (PX-54 to PX-57).
    fn ask(&mut self, tick: i128, notify: bool) -> bool {
        self.next_query += 1;
        let id = QueryId(self.next_query);
        self.agent.handle_query(self.now(), id, LocalQuery::Provision { tick, notify });
        // The answer is of the moment of the question: before what the notification has started.
        let before = self.finished;
        self.drain();
        let reply = self.replies.remove(&id).expect("every question is answered at once");
        let answer: serde_json::Value = serde_json::from_str(&reply).unwrap();
        let finished = answer["finished"].as_bool().unwrap();
        if finished {
            let at = before.unwrap_or_else(|| panic!("seed {}: finished before it was", self.seed));
            let latched = self.served.is_some() && self.host.last_served_latched;
            assert!(latched || i128::from(at) + 1_000_000 >= tick, "seed {}: PX-55, finished at {at}, asked {tick}", self.seed);
        }
        finished
    }

    fn event(&mut self, event: AgentEvent) {
        if event == AgentEvent::RedirectorReady {
            self.redirector = true;
        }
        self.agent.handle_event(self.now(), event);
        self.drain();
    }

    /// Lets time pass, with everything that is due on the way.
    fn pass(&mut self, time: u64) {
        let end = self.mono + time;
        loop {
            let timer = self.agent.deadline().map_or(u64::MAX, |d| d.at.0.max(self.mono));
            let answer = self.call.as_ref().filter(|(_, answer, _)| answer.is_some()).map_or(u64::MAX, |(at, ..)| *at);
            let next = timer.min(answer);
            if next > end {
                break;
            }
            self.mono = self.mono.max(next);
            self.wake();
        }
        self.mono = end;
    }

    /// What is due now.
    fn wake(&mut self) {
        if self.call.as_ref().is_some_and(|(at, answer, _)| answer.is_some() && *at <= self.mono) {
            let (_, answer, targets) = self.call.take().unwrap();
            if targets.is_some() {
                self.served = targets;
                self.host.heard();
                match self.host.last_served_latched {
                    true => self.seen.latched += 1,
                    false => self.seen.disabled += 1,
                }
            }
            self.agent.handle_answer(self.now(), answer.unwrap());
            self.drain();
        }
        self.agent.handle_timeout(self.now());
        self.drain();
        let now = self.now().mono;
        assert!(self.agent.deadline().is_some_and(|d| d.at > now), "seed {}: a deadline that does not move", self.seed);
        let most = self.interval + self.interval / 10 + 6 * GIVEN_UP;
        let silent = Duration::from_nanos(self.mono - self.last_poll);
        assert!(silent <= most, "seed {}: nothing asked for {silent:?}: it hangs", self.seed);
        // W-84: between iterations the redirect is what the last good status wants.
        let quiet = self.call.is_none() && self.agent.deadline().is_none_or(|d| d.timer != AgentTimer::Poll || d.at > now);
        if quiet && self.redirector && self.served.is_some() {
            assert_eq!(self.redirected, self.served, "seed {}: W-84", self.seed);
        }
        if quiet && self.served == Some(Targets::default()) {
            assert_eq!(self.signer, None, "seed {}: W-100", self.seed);
        }
    }

    fn drain(&mut self) {
        let mut effects = 0;
        while let Some(effect) = self.agent.poll_effect() {
            effects += 1;
            assert!(effects <= 60, "seed {}: {effect:?} and no end", self.seed);
            if let Some(answer) = self.carry_out(effect) {
                self.agent.handle_answer(self.now(), answer);
            }
        }
    }

    fn carry_out(&mut self, effect: AgentEffect) -> Option<AgentAnswer> {
        let now = self.now();
        let failed = match self.disk_mood {
            DiskMood::Good => None,
            DiskMood::Full => Some("no space left on device"),
            DiskMood::Broken => Some("input/output error"),
        };
        match effect {
            AgentEffect::Fetch { id, request } => {
                // One at a time: the one before was answered, or lost and given up.
                if let Some((_, answer, _)) = &self.call {
                    let since = Duration::from_nanos(self.mono - self.called);
                    assert!(answer.is_none() && since >= GIVEN_UP, "seed {}: a second call after {since:?}", self.seed);
                }
                if request.target() == "/secure-channel/status" {
                    self.seen.polls += 1;
                    self.last_poll = self.mono;
                }
                if let Some(guid) = request.target().strip_prefix("/secure-channel/key/").and_then(|t| t.split('/').next()) {
                    let stored = self.disk.get(&format!("{guid}.key")).expect("W-96: attested and not stored");
                    assert!(StoredKey::from_json(stored).is_ok(), "W-96");
                }
                let (result, after) = self.host.answer(&mut self.random, now, &request);
                self.called = self.mono;
                self.seen.attested += u64::from(after.attested);
                self.seen.lost += u64::from(after.lost);
                let answer = (!after.lost).then_some(AgentAnswer::Fetched { id, result });
                self.call = Some((self.mono + after.takes, answer, after.targets));
                None
            }
            AgentEffect::LoadKey { id, guid } => {
                let result = match self.disk_mood {
                    DiskMood::Broken => Err(StoreError("input/output error".to_owned())),
                    _ => {
                        let file = self.disk.get(&format!("{guid}.key"));
                        file.map(|bytes| StoredKey::from_json(bytes)).transpose().map_err(StoreError::from)
                    }
                };
                Some(AgentAnswer::KeyLoaded { id, result })
            }
            AgentEffect::StoreKey { id, key } => {
                let result = failed.map_or(Ok(()), |e| Err(StoreError(e.to_owned())));
                match result {
                    Ok(()) => drop(self.disk.insert(format!("{}.key", key.guid()), key.to_json().to_vec())),
                    Err(_) => self.seen.not_stored += 1,
                }
                Some(AgentAnswer::KeyStored { id, result })
            }
            AgentEffect::WriteState { file, bytes } => {
                if file == StateFile::ProvisionedTag && self.tag != bytes {
                    self.tag = bytes.to_vec();
                    self.finished = Some(now.wall.0);
                }
                Some(AgentAnswer::Written { file, result: failed.map_or(Ok(()), |e| Err(e.to_owned())) })
            }
            AgentEffect::Snapshot { .. } => Some(AgentAnswer::SnapshotWritten(failed.map_or(Ok(()), |e| Err(e.to_owned())))),
            AgentEffect::WriteEvents { .. } => Some(AgentAnswer::EventsWritten(match failed {
                None => EventsWritten::Written { dropped: 0 },
                Some(e) => EventsWritten::Failed(e.to_owned()),
            })),
            AgentEffect::Status { to, draft } => {
                let effect = draft.complete(to, &mut self.tables, now);
                self.carry_out(effect)
            }
            AgentEffect::Redirect(targets) => {
                assert!(self.redirector, "seed {}: no redirector", self.seed);
                self.redirected = Some(targets);
                Some(AgentAnswer::Redirected(match self.random.below(20) {
                    0 => Err("detached".to_owned()),
                    _ => Ok(()),
                }))
            }
            AgentEffect::Publish(policy) => {
                self.signer = policy.signer.as_ref().map(|signer| signer.guid().as_str().to_owned());
                if let Some(guid) = &self.signer {
                    assert!(self.host.knows(guid), "seed {}: a key in use that the host never wanted", self.seed);
                }
                None
            }
            AgentEffect::Reply { to, reply } => {
                let LocalReply::Json(body) = reply else { panic!("seed {}: no reply", self.seed) };
                self.replies.insert(to, String::from_utf8(body.to_vec()).unwrap());
                None
            }
            AgentEffect::Notice { text, .. } => {
                assert!(!text.contains("00112233"), "seed {}: SEC-08: {text}", self.seed);
                self.seen.cleared += u64::from(text.contains("Provision finished successfully"));
                None
            }
            _ => None,
        }
    }

    /// Everything is as it should be again: a minute later the agent is.
    fn heal(&mut self) {
        (self.host.mood, self.disk_mood) = (Mood::Good, DiskMood::Good);
        self.host.want_latched();
        self.event(AgentEvent::ListenerReady);
        self.event(AgentEvent::RedirectorReady);
        // What is under way may still be lost; then two polls.
        self.pass(u64::try_from((3 * self.interval + 2 * GIVEN_UP + Duration::from_secs(60)).as_nanos()).unwrap());
        assert_eq!(self.signer.as_deref(), self.host.named(), "seed {}: the key that the host wants", self.seed);
        assert!(self.signer.is_some());
        assert_eq!(self.redirected, self.served, "seed {}", self.seed);
        assert!(self.ask(0, false), "seed {}: finished", self.seed);
        assert!(self.ask(i128::MAX, false), "seed {}: latched, so finished for every tick (PX-55)", self.seed);
    }
}
