//! The machine against the pool's own decisions, with the power cut before, in the middle of and after every single thing it does.

use super::{Action, Event, MOST_STARTS, Machine, Package, Stored, WithoutWayBack, Work};
use pool_core::agent::{AgentId, Update};
use pool_core::catalog::{Release, Task};
use pool_core::job::{JobState, Spec, TaskCall};
use pool_core::pool::{Doing, Ended, Head, Message, Pool, Report, UpdateRequest};
use pool_core::version::Version;
use pool_core::{Actor, Millis};

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn release(number: &str) -> Release {
    Release {
        version: version(number),
        file: "agent.deb".into(),
        size: 1,
        sha256: number.chars().filter(char::is_ascii_digit).cycle().take(64).collect(),
        signature: "b".repeat(128),
        notes: String::new(),
        published: Millis(0),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    /// Nothing of it was done.
    Before,
    /// Something was.
    Half,
    /// All was done; that it was is not on the disk.
    After,
    /// No power cut: the pool did it, and its answer was lost.
    Answer,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Good,
    /// The package manager fails, with the package half installed.
    Fails,
    /// It installs; the new version never becomes ready.
    NeverReady,
    BadSignature,
    Busy,
}

/// Where the package of the version before is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Back {
    Kept,
    /// Not here, but in the pool.
    Published,
    /// Nowhere, and the configuration says to go on.
    Nowhere,
}

struct World {
    pool: Pool,
    id: AgentId,
    now: u64,
    disk: Stored,
    installed: Version,
    half: bool,
    fate: Fate,
    downloaded: bool,
    /// Whether the package to go back to is here.
    back: bool,
    performed: u32,
    /// What was done, for the report of a failed test.
    story: Vec<String>,
}

impl World {
    fn new(fate: Fate, back: Back) -> Self {
        let mut pool = Pool::new(Head::default());
        let now = Millis(1_000_000);
        let person = Actor::Person("admin".into());
        pool.put_task(now, &person, Task { name: "t".into(), version: version("1"), minimum_agent_version: None }).unwrap();
        let report = Report { version: version("1.0"), capabilities: Default::default(), doing: Doing::Idle };
        let id = pool.register(now, "m", report).unwrap();
        if back == Back::Published {
            pool.publish(now, &person, release("1.0")).unwrap();
        }
        let kept = back == Back::Kept;
        let good = kept.then(|| Package { version: version("1.0"), sha256: "a".repeat(64) });
        let disk = Stored { work: Work::Idle, good };
        let installed = version("1.0");
        let (downloaded, story) = (false, Vec::new());
        Self { pool, id, now: now.0, disk, installed, half: false, fate, downloaded, back: kept, performed: 0, story }
    }

    fn ask_for_update(&mut self) {
        let person = Actor::Person("admin".into());
        self.pool.publish(Millis(self.now), &person, release("2.0")).unwrap();
        self.pool.request_update(Millis(self.now), &person, self.id, UpdateRequest { to: None, force: false }).unwrap();
    }

    fn submit(&mut self) {
        let person = Actor::Person("admin".into());
        let tasks = vec![TaskCall { name: "t".into(), version: version("1"), input: String::new() }];
        self.pool.submit(Millis(self.now), &person, Spec { tasks, ..Spec::default() }).unwrap();
    }

    fn ready(&self, wanted: Version) -> Result<(), String> {
        match () {
            () if self.half || self.installed != wanted => Err("another version".into()),
            () if self.fate == Fate::NeverReady && wanted == version("2.0") => Err("it did not become ready".into()),
            () => Ok(()),
        }
    }

    /// Does what the machine says, perhaps half. `None`: no answer.
    fn act(&mut self, action: &Action<'_>, half: bool) -> Event {
        let now = Millis(self.now);
        let event = |result: Result<(), String>| result.map_or_else(Event::Failed, |()| Event::Done);
        let said = |done: Result<(), pool_core::pool::Refusal>| if done.is_ok() { Event::Confirmed } else { Event::Refused };
        match action {
            Action::Ask => {
                let report = Report { version: self.installed, capabilities: Default::default(), doing: Doing::Idle };
                self.pool.hear(now, self.id, &report).unwrap();
                self.pool.schedule(now);
                Event::Told(self.pool.message(self.id, Doing::Idle), self.installed, WithoutWayBack::GoOn)
            }
            Action::Begin(job, attempt) => said(self.pool.begin_job(now, self.id, *job, *attempt)),
            Action::SayEnd(job, attempt, ended) => said(self.pool.end_job(now, self.id, *job, *attempt, (*ended).clone())),
            Action::Accept(to) => said(self.pool.accept_update(now, self.id, *to)),
            Action::SayUpdate(to, ended) => said(self.pool.end_update(now, self.id, *to, self.installed, ended)),
            Action::Perform(_) => {
                self.performed += 1;
                Event::Performed(Ended::Well { result: "{}".into() })
            }
            Action::Download(packages) => {
                self.downloaded |= !half;
                self.back |= !half && packages.back.is_some();
                Event::Done
            }
            Action::Verify(_) if self.fate == Fate::BadSignature => Event::Failed("the signature is wrong".into()),
            Action::Verify(packages) => {
                assert!(self.downloaded && (self.back || packages.back.is_none()));
                Event::Done
            }
            Action::Install(_) if self.fate == Fate::Busy => Event::Untouched("the package manager is busy".into()),
            Action::Install(release) => {
                self.half = half || self.fate == Fate::Fails;
                if self.half {
                    return Event::Failed("the package manager failed".into());
                }
                self.installed = release.version;
                Event::Done
            }
            Action::Restart => Event::Done,
            Action::AwaitReady(wanted) => event(self.ready(*wanted)),
            Action::GoBack(package) => {
                assert!(self.back, "{:#?}", self.story);
                self.half = half;
                self.installed = if half { self.installed } else { package.version };
                event(self.ready(package.version))
            }
        }
    }

    /// Until nothing is left to do; `cuts` says at which action (counted from 0) what goes wrong. Returns how many actions there were.
    fn run(&mut self, cuts: &[(usize, Cut)]) -> usize {
        let mut machine = Machine::resume(self.disk.clone());
        self.disk = machine.stored().clone();
        for count in 0..200 {
            self.now += 1000;
            self.pool.tick(Millis(self.now));
            let action = machine.next();
            let cut = cuts.iter().find(|(at, _)| *at == count).map(|(_, cut)| *cut);
            self.story.push(format!("{action:?} {cut:?}"));
            let event = match cut {
                Some(Cut::Before) => None,
                Some(Cut::Half) => {
                    let _ = self.act(&action, true);
                    None
                }
                Some(Cut::After) => {
                    let _ = self.act(&action, false);
                    None
                }
                Some(Cut::Answer) => {
                    if matches!(action, Action::Begin(..) | Action::SayEnd(..) | Action::Accept(_) | Action::SayUpdate(..)) {
                        let _ = self.act(&action, false);
                    }
                    continue;
                }
                None => Some(self.act(&action, false)),
            };
            match event {
                // All that is remembered is on the disk.
                None => machine = Machine::resume(serde_json::from_str(&serde_json::to_string(&self.disk).unwrap()).unwrap()),
                Some(Event::Told(None, _, _)) => return count,
                Some(event) => machine.on(event),
            }
            self.disk = machine.stored().clone();
        }
        panic!("no end: {:#?}", self.story);
    }

    fn judge_update(&self, back: Back) {
        let agent = self.pool.agent(self.id).unwrap();
        let story = &self.story;
        assert_eq!(agent.version, self.installed, "the pool believes in another version: {story:#?}");
        assert_eq!(self.disk.work, Work::Idle, "{story:#?}");
        match &agent.update {
            Update::None => {
                assert_eq!((self.fate, self.installed, self.half), (Fate::Good, version("2.0"), false), "{story:#?}");
                assert_eq!(self.disk.good.as_ref().unwrap().version, version("2.0"));
            }
            Update::Failed { why, .. } => {
                if why.contains("; went back to 1.0") {
                    assert_eq!((self.installed, self.half), (version("1.0"), false), "{why} {story:#?}");
                } else if why.contains("going back was impossible") {
                    assert_eq!(back, Back::Nowhere, "{why} {story:#?}");
                } else {
                    assert!(matches!(self.fate, Fate::BadSignature | Fate::Busy), "{why} {story:#?}");
                    assert_eq!((self.installed, self.half), (version("1.0"), false), "{why} {story:#?}");
                }
            }
            other => panic!("{other:?} {story:#?}"),
        }
    }
}

const CUTS: [Cut; 4] = [Cut::Before, Cut::Half, Cut::After, Cut::Answer];
const FATES: [Fate; 5] = [Fate::Good, Fate::Fails, Fate::NeverReady, Fate::BadSignature, Fate::Busy];

#[test]
fn an_update_ends_with_the_new_version_or_the_old_one_whenever_the_power_is_cut_once_or_twice() {
    let mut worlds = 0;
    for fate in FATES {
        for back in [Back::Kept, Back::Published, Back::Nowhere] {
            let run = |cuts: &[(usize, Cut)]| {
                let mut world = World::new(fate, back);
                world.ask_for_update();
                let length = world.run(cuts);
                world.judge_update(back);
                length
            };
            let length = run(&[]);
            for first in 0..length {
                for cut in CUTS {
                    let length = run(&[(first, cut)]);
                    for second in first + 1..length {
                        for again in CUTS {
                            run(&[(first, cut), (second, again)]);
                            worlds += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(worlds > 2000, "{worlds}");
}

#[test]
fn a_good_update_stays_good_after_a_power_cut() {
    for at in 0..9 {
        let mut world = World::new(Fate::Good, Back::Kept);
        world.ask_for_update();
        world.run(&[(at, Cut::Half)]);
        assert_eq!(world.installed, version("2.0"), "{:#?}", world.story);
    }
}

#[test]
fn a_step_that_takes_the_machine_down_each_time_is_not_repeated_for_ever() {
    let mut world = World::new(Fate::Good, Back::Kept);
    world.ask_for_update();
    // Ask, accept, download, verify, then the installation again and again.
    let cuts: Vec<_> = (4..4 + MOST_STARTS as usize).map(|at| (at, Cut::Half)).collect();
    world.run(&cuts);
    let Update::Failed { why, .. } = &world.pool.agent(world.id).unwrap().update else { panic!("{:#?}", world.story) };
    assert_eq!(why, "it was interrupted 3 times while installing; went back to 1.0");
    assert_eq!((world.installed, world.half), (version("1.0"), false));
}

#[test]
fn a_job_is_done_at_most_once_and_always_has_an_end() {
    for cuts in (0..6).flat_map(|first| (0..6).flat_map(move |second| CUTS.map(|a| CUTS.map(|b| [(first, a), (second, b)])))) {
        for cuts in cuts {
            let mut world = World::new(Fate::Good, Back::Kept);
            world.submit();
            world.run(&cuts);
            world.pool.tick(Millis(world.now));
            let ended = world.pool.take_touched().jobs.pop().unwrap();
            assert!(world.performed <= 1, "done twice: {:#?}", world.story);
            match ended.state {
                JobState::Succeeded { .. } => assert_eq!(world.performed, 1, "{:#?}", world.story),
                JobState::Failed { error, .. } => {
                    assert!(error.starts_with("interrupted: the machine or the updater went down"), "{error}");
                }
                other => panic!("{other:?} {:#?}", world.story),
            }
        }
    }
}

#[test]
fn a_downgrade_is_refused_unless_it_is_forced_and_what_runs_already_is_not_installed() {
    let told = |to: &str, force: bool| {
        let mut machine = Machine::default();
        let message = Message::Update { release: release(to), force, previous: None };
        machine.on(Event::Told(Some(message), version("1.5"), WithoutWayBack::GoOn));
        match &machine.stored().work {
            Work::Updated { ended: Ended::Badly { why }, .. } => why.clone(),
            Work::Updated { ended: Ended::Well { .. }, .. } => "well".into(),
            Work::Update(_) => "goes ahead".into(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told("1.0", false), "1.0 is older than 1.5, which runs: an administrator can force that");
    assert_eq!(told("1.0", true), "goes ahead");
    assert_eq!(told("1.5.0", false), "well");
    assert_eq!(told("2.0", false), "goes ahead");
}

#[test]
fn an_update_begins_only_with_a_way_back_unless_an_administrator_or_the_configuration_says_otherwise() {
    let told = |good: Option<&str>, previous: Option<&str>, force: bool, without: WithoutWayBack| {
        let good = good.map(|good| Package { version: version(good), sha256: "a".repeat(64) });
        let mut machine = Machine::resume(Stored { work: Work::Idle, good });
        let previous = previous.map(|previous| Box::new(release(previous)));
        machine.on(Event::Told(Some(Message::Update { release: release("2.0"), force, previous }), version("1.5"), without));
        match &machine.stored().work {
            Work::Updated { ended: Ended::Badly { why }, .. } => why.clone(),
            Work::Update(update) => format!("kept {:?}, fetches {}", update.back.is_some(), update.fetch.is_some()),
            other => panic!("{other:?}"),
        }
    };
    let refuse = WithoutWayBack::Refuse;
    assert_eq!(
        told(None, None, false, refuse),
        "there would be no way back: the package of 1.5, which runs, is neither kept here nor published in the pool. Publish it, or have an administrator force the update"
    );
    // Of another version than runs, it is no way back to what runs.
    assert!(told(Some("1.4"), Some("1.3"), false, refuse).starts_with("there would be no way back"));
    assert_eq!(told(Some("1.5"), Some("1.5"), false, refuse), "kept true, fetches false");
    assert_eq!(told(Some("1.4"), Some("1.5"), false, refuse), "kept false, fetches true");
    assert_eq!(told(None, None, true, refuse), "kept false, fetches false");
    assert_eq!(told(None, None, false, WithoutWayBack::GoOn), "kept false, fetches false");
}

#[test]
fn an_event_that_cannot_come_changes_nothing() {
    let mut machine = Machine::default();
    for event in [Event::Confirmed, Event::Refused, Event::Done, Event::Untouched("x".into()), Event::Failed("x".into())] {
        machine.on(event);
    }
    assert_eq!(machine, Machine::default());
}
