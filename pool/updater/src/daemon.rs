//! The daemon: does what the machine says, stores before it goes on, and tells the pool.

use crate::client::{Client, Trouble};
use crate::command::Runner;
use crate::config::Config;
use crate::install::{self, Installer};
use crate::log;
use crate::machine::{Action, Event, Machine, Work};
use crate::store::{Folder, Identity};
use crate::tasks::Tasks;
use pool_core::demand::Capabilities;
use pool_core::pool::{Ended, Message, Report};
use pool_core::version::Version;
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// First and longest pause after trouble; each is twice the one before, and some of it is chance.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Pause of an agent that the pool does not know any more.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Runs until it is ended.
///
/// # Errors
/// It cannot begin: not registered, no state folder, a state that cannot be read.
pub fn run(config: &Config) -> Result<(), String> {
    let mut daemon = Daemon::begin(config)?;
    loop {
        daemon.step();
    }
}

struct Daemon<'a> {
    config: &'a Config,
    folder: Folder,
    identity: Identity,
    client: Client,
    runner: Runner,
    capabilities: Capabilities,
    machine: Machine,
    /// What ran when it was last asked.
    runs: Option<Version>,
    troubles: u32,
}

impl<'a> Daemon<'a> {
    fn begin(config: &'a Config) -> Result<Self, String> {
        let folder = Folder::open(&config.state_folder)?;
        let lock = match folder.lock(false) {
            Ok(lock) => lock,
            Err(_) => {
                log("waits until the updater that runs, or a command that it started, has ended");
                folder.lock(true)?
            }
        };
        let identity = folder.identity()?.ok_or("this machine is not registered: azure-proxy-agent-updater register --help")?;
        let client = Client::new(&identity)?;
        let runner = Runner::new(Some(lock));
        let machine = Machine::resume(folder.state()?);
        let capabilities = config.capabilities();
        let daemon = Self { config, folder, identity, client, runner, capabilities, machine, runs: None, troubles: 0 };
        daemon.tasks().undo();
        log(&format!("agent `{}` of pool `{}` at {}", daemon.identity.name, daemon.identity.pool, daemon.identity.server));
        let mut daemon = daemon;
        daemon.store();
        Ok(daemon)
    }

    fn tasks(&self) -> Tasks<'_> {
        Tasks { config: self.config, folder: &self.folder, runner: &self.runner }
    }

    fn installer(&self) -> Installer<'_> {
        Installer { config: self.config, folder: &self.folder, runner: &self.runner }
    }

    /// What runs: as the agent says, or as was last known.
    fn runs(&mut self) -> Version {
        match install::version(self.config, &self.runner) {
            Ok(version) => self.runs = Some(version),
            Err(why) => log(&format!("the agent's version is not known: {why}")),
        }
        let before = match &self.machine.stored().work {
            Work::Update(update) => Some(update.previous),
            _ => None,
        };
        self.runs.or(before).unwrap_or(self.identity.version)
    }

    /// One action and what comes of it, on the disk in the end.
    fn step(&mut self) {
        let machine = self.machine.clone();
        let done = match machine.next() {
            Action::Ask => self.ask(),
            Action::Begin(job, attempt) => said(self.client.begin(job, attempt)),
            Action::SayEnd(job, attempt, ended) => said(self.client.end(job, attempt, ended)),
            Action::Accept(to) => said(self.client.accept(to)),
            Action::SayUpdate(to, ended) => {
                let runs = self.runs();
                log(&format!("the update to {to} has ended, {runs} runs: {}", words(ended)));
                said(self.client.end_update(to, runs, ended))
            }
            Action::Perform(spec) => {
                let stop = Arc::new(AtomicBool::new(false));
                Ok(Event::Performed(self.reporting(&stop, || self.tasks().perform(spec, &stop))))
            }
            Action::Download(packages) => Ok(self.working("downloads", |by| done(by.download(&self.client, packages)))),
            Action::Verify(packages) => Ok(self.working("verifies", |by| done(by.verify(packages)))),
            Action::Install(release) => Ok(self.working("installs", |by| by.install(&release.sha256))),
            Action::Restart => Ok(self.working("restarts the agent", |by| done(by.restart()))),
            Action::AwaitReady(wanted) => Ok(self.working("waits until the agent is ready", |by| done(by.await_ready(wanted)))),
            Action::GoBack(package) => Ok(self.working("goes back to the version before", |by| done(by.go_back(package)))),
        };
        match done {
            Ok(event) => {
                let refused = event == Event::Refused;
                self.machine.on(event);
                if self.machine.stored() != machine.stored() {
                    match (&machine.stored().work, &self.machine.stored().work) {
                        (Work::Idle, Work::Given { .. } | Work::Update(_)) => self.store_or_decline(machine),
                        _ => self.store(),
                    }
                }
                if refused {
                    self.pause(PAUSE.0);
                }
                self.troubles = 0;
            }
            Err(trouble) => self.trouble(&trouble),
        }
    }

    fn ask(&mut self) -> Result<Event, Trouble> {
        self.folder.clean(self.machine.needed());
        let runs = self.runs();
        let began = Instant::now();
        let message = self.client.poll(&self.report(runs), self.config.poll_wait.max(1))?;
        if message.is_none() && began.elapsed() < PAUSE.0 {
            self.pause(PAUSE.0);
        }
        Ok(Event::Told(message, runs, self.config.without_way_back))
    }

    fn report(&self, runs: Version) -> Report {
        Report { version: runs, capabilities: self.capabilities.clone(), doing: self.machine.doing() }
    }

    fn working(&self, what: &str, work: impl FnOnce(&Installer<'_>) -> Event) -> Event {
        log(what);
        let event = self.reporting(&Arc::default(), || work(&self.installer()));
        if let Event::Failed(why) | Event::Untouched(why) = &event {
            log(&format!("{what}: {why}"));
        }
        event
    }

    /// Does something that takes a while; the pool hears of it at once, and then every so often. It may answer that the job was taken back.
    fn reporting<T>(&self, stop: &Arc<AtomicBool>, work: impl FnOnce() -> T) -> T {
        let (end, ended) = mpsc::channel::<()>();
        let (client, stop) = (self.client.clone(), Arc::clone(stop));
        let report = self.report(self.runs.unwrap_or(self.identity.version));
        let every = Config::seconds(self.config.report_every);
        let reporter = thread::spawn(move || {
            loop {
                if let Ok(Some(Message::Stop { .. })) = client.report(&report) {
                    stop.store(true, Ordering::Relaxed);
                }
                if ended.recv_timeout(every) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let came = work();
        drop(end);
        // A report that arrives after what comes next would be believed.
        let _ = reporter.join();
        came
    }

    /// Nothing goes on before it is on the disk.
    fn store(&mut self) {
        while let Err(e) = self.folder.put_state(self.machine.stored()) {
            self.trouble(&Trouble::Unreachable(format!("the state cannot be stored in {}: {e}", self.folder.path().display())));
        }
    }

    /// What cannot be stored is not begun, and the pool hears at once why.
    fn store_or_decline(&mut self, before: Machine) {
        let Err(e) = self.folder.put_state(self.machine.stored()) else { return };
        let why = format!("not begun, because its state cannot be stored in {}: {e}", self.folder.path().display());
        let badly = Ended::Badly { why: why.clone() };
        let declined = core::mem::replace(&mut self.machine, before);
        let told = match &declined.stored().work {
            Work::Given { job, attempt, .. } => {
                self.client.begin(*job, *attempt).and_then(|()| self.client.end(*job, *attempt, &badly))
            }
            Work::Update(update) => self.client.end_update(update.to.version, update.previous, &badly),
            _ => Ok(()),
        };
        self.trouble(&Trouble::Unreachable(told.err().map_or(why, |trouble| trouble.to_string())));
    }

    fn trouble(&mut self, trouble: &Trouble) {
        log(&trouble.to_string());
        match trouble {
            Trouble::Unknown(_) => self.pause(FORGOTTEN),
            _ => self.pause(PAUSE.0.saturating_mul(1 << self.troubles.min(10)).min(PAUSE.1)),
        }
        self.troubles += 1;
    }

    /// Half of it, and some of the other half: agents that lost their controller together do not come back together.
    fn pause(&self, most: Duration) {
        let mut byte = [0];
        let _ = SystemRandom::new().fill(&mut byte);
        let [chance] = byte;
        thread::sleep(most / 2 + most / 512 * u32::from(chance));
    }
}

fn done(result: Result<(), String>) -> Event {
    result.map_or_else(Event::Failed, |()| Event::Done)
}

fn words(ended: &Ended) -> &str {
    match ended {
        Ended::Well { .. } => "well",
        Ended::Badly { why } => why,
    }
}

/// A refusal is an answer; everything else is trouble.
fn said(answer: Result<(), Trouble>) -> Result<Event, Trouble> {
    match answer {
        Ok(()) => Ok(Event::Confirmed),
        Err(Trouble::Refused(_, why)) => {
            log(&format!("the pool does not want it: {why}"));
            Ok(Event::Refused)
        }
        Err(trouble) => Err(trouble),
    }
}
