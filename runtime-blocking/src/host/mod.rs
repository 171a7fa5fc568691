//! What the machines want done to this machine: the one table from effects to system calls. Everything here may block, and
//! nothing here knows a thread, a poller or a connection; both runtimes call it from where they may wait.
//!
//! It decides nothing: who somebody is, what a file holds and what is worth saying, core says.

pub mod accounts;
pub mod audit;
pub mod callers;
pub mod console;
mod events;
pub(crate) mod exe_hash;
pub mod files;
pub mod inherit;
pub mod keystore;
pub mod logfile;
pub mod mapping;
pub mod notify;
pub mod ports;
pub mod quota;
pub mod rules;
#[cfg(test)]
pub(crate) mod scratch;
mod sys;
#[cfg(test)]
pub(crate) mod tests;

use crate::config::Config;
use crate::redirector::client::Client;
use crate::telemetry::Telemetry;
use crate::{clock, logging, memory};
use azure_proxy_agent_core::agent::{AgentAnswer, AgentEffect, Level, Source, StateFile, surplus_snapshots};
use azure_proxy_agent_core::identity::{Claims, KernelRecord, Peer, PerDestination, Route, TargetMode};
use azure_proxy_agent_core::keeper::{StoreError, StoredKey};
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::sign::KeyGuid;
use callers::Callers;
use console::Console;
use files::{Access, Dir, FileError};
use keystore::KeyStore;
use logfile::{AUDIT_FILE, LogFile};
use quota::ServiceManager;
use redirect_ebpf::{Redirector, netns_cookie};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// What the effects need: where files lie, whom to ask about accounts. One per process, shared by reference.
#[derive(Debug)]
pub struct Host {
    callers: Callers,
    keys: KeyStore,
    rules_folder: PathBuf,
    /// `None`: changes there are not heard of.
    rules_watch: Option<Arc<rules::Watch>>,
    status_folder: PathBuf,
    /// `None`: no event files (FS-05 is empty).
    event_folder: Option<PathBuf>,
    console: Console,
    /// `None`: file logs are off (FS-04).
    audit: Option<Arc<LogFile>>,
    telemetry: Arc<Telemetry>,
    /// `None`: the log is somebody else's.
    log: Option<logging::Handle>,
    /// FS-16.
    trace_requests: bool,
    service_manager: ServiceManager,
    /// The lock on the key directory.
    claim: std::sync::Mutex<Option<std::os::fd::OwnedFd>>,
}

/// What became of an effect.
#[derive(Debug)]
pub enum Ran {
    /// It was done; the agent gets this.
    Answered(AgentAnswer),
    /// It was done; there is nothing to answer.
    Done,
    /// It needs the runtime: a call to the host, a policy to publish, a reply to deliver.
    NotHere(AgentEffect),
}

impl Host {
    /// Paths as configured; nothing is touched yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            callers: Callers::system(),
            keys: KeyStore::new(config.key_folder.clone()),
            rules_watch: None,
            rules_folder: config.rules_folder(),
            status_folder: config.status_folder.clone(),
            event_folder: Some(config.event_folder.clone()).filter(|folder| !folder.as_os_str().is_empty()),
            console: Console::default(),
            audit: config.log_folder.as_ref().map(|folder| Arc::new(LogFile::new(folder, AUDIT_FILE))),
            telemetry: Arc::default(),
            log: None,
            trace_requests: config.trace_requests,
            service_manager: ServiceManager::default(),
            claim: std::sync::Mutex::default(),
        }
    }

    /// The same with another serial console, for tests and the sandbox.
    #[must_use]
    pub fn with_console(self, console: Console) -> Self {
        Self { console, ..self }
    }

    /// The same with another process that looks at callers.
    #[must_use]
    pub(crate) fn with_redirector(self, redirector: Option<Arc<Client>>) -> Self {
        Self { callers: Callers::system().through(redirector), ..self }
    }

    /// The same with an ear for changes of local rule files.
    #[must_use]
    pub fn with_rules_watch(self) -> Self {
        Self { rules_watch: rules::Watch::new(&self.rules_folder).map(Arc::new), ..self }
    }

    /// What hears of changes of local rule files, if anything does.
    #[must_use]
    pub const fn rules_watch(&self) -> Option<&Arc<rules::Watch>> {
        self.rules_watch.as_ref()
    }

    /// The same with events and troubles shared with the logger.
    #[must_use]
    pub fn with_telemetry(self, telemetry: Arc<Telemetry>) -> Self {
        Self { telemetry, ..self }
    }

    /// The same with the process's log, which traces of requests go to.
    #[must_use]
    pub fn with_log(self, log: logging::Handle) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Where traces of requests go, if anywhere.
    #[must_use]
    pub const fn log(&self) -> Option<&logging::Handle> {
        self.log.as_ref()
    }

    /// Whether each request is to have an entry in the system log (PX-113).
    #[must_use]
    pub const fn traces_requests(&self) -> bool {
        self.trace_requests
    }

    /// What the process tells of itself.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// How to reach the service manager.
    #[must_use]
    pub const fn service_manager(&self) -> &ServiceManager {
        &self.service_manager
    }

    /// Makes and checks the directories that the agent makes itself (FS-24, FS-25), at every start. What cannot be used is
    /// reported, and again when something is read from it or written to it; the agent runs on (SEC-E3).
    pub fn prepare(&self) {
        for result in [self.keys.open(), Dir::create(&self.rules_folder, Access::Private)] {
            if let Err(e) = result {
                log::error!("{e}");
            }
        }
    }

    /// Makes the key directory this process's own: `false` while another agent has it (CLI-11). Ends with the process. A directory that
    /// cannot be locked for another reason is nobody's; what is wrong with it is said where it is used (SEC-E3).
    #[must_use]
    pub fn claim(&self) -> bool {
        use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut claim = self.claim.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if claim.is_some() {
            return true;
        }
        let Ok(folder) = open(self.keys.path(), flags, Mode::empty()) else { return true };
        let taken = flock(&folder, FlockOperation::NonBlockingLockExclusive);
        if taken.is_ok() {
            *claim = Some(folder);
        }
        taken != Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Who made a connection: what the kernel noted, confirmed against `/proc`, completed from the account database. May take
    /// as long as the database is given (two seconds, I-31), and, if the policy's rules ask for a hash, as long as that takes.
    #[must_use]
    pub fn identify(&self, record: &KernelRecord, policy: &Policy) -> Peer {
        let claims = self.claims(record, Some(policy));
        match record.route {
            Route::Redirected => Peer::Redirected { to: record.original, claims },
            Route::Direct => Peer::Direct { claims: Some(claims) },
            // Such a note is never on an accepted connection; if it were, nobody vouches for who that is.
            Route::Passed | Route::Refused => Peer::Unknown,
        }
    }

    /// What can be said of the process of a record, as in [`identify`](Self::identify); without a policy nothing that only rules ask
    /// for.
    #[must_use]
    pub fn claims(&self, record: &KernelRecord, policy: Option<&Policy>) -> Arc<Claims> {
        Arc::new(self.callers.claims(record, policy))
    }

    /// Does what an effect of the agent machine asks, if this is the place for it.
    #[must_use]
    pub fn run(&self, effect: AgentEffect, redirector: Option<&dyn Redirector>) -> Ran {
        match effect {
            AgentEffect::LoadKey { id, guid } => Ran::Answered(AgentAnswer::KeyLoaded { id, result: self.load_key(&guid) }),
            AgentEffect::StoreKey { id, key } => Ran::Answered(AgentAnswer::KeyStored { id, result: self.store_key(&key) }),
            AgentEffect::ReadRules { id, of, name } => {
                if let Some(watch) = &self.rules_watch {
                    watch.renew();
                }
                Ran::Answered(AgentAnswer::RulesSeen { id, of, found: rules::look(&self.rules_folder, name) })
            }
            AgentEffect::WriteState { file, bytes } => {
                Ran::Answered(AgentAnswer::Written { file, result: self.write_state(file, &bytes).map_err(|e| e.to_string()) })
            }
            AgentEffect::RemoveState(file) => {
                if let Err(e) = self.remove_state(file) {
                    log::warn!("{e}");
                }
                Ran::Done
            }
            AgentEffect::Snapshot { name, bytes } => {
                let result = self.write_snapshot(&name, &bytes).map_err(|e| e.to_string());
                Ran::Answered(AgentAnswer::SnapshotWritten(result))
            }
            AgentEffect::WriteEvents { files } => {
                Ran::Answered(AgentAnswer::EventsWritten(self.write_events(clock::wall(), files)))
            }
            AgentEffect::ReadMemory => memory::resident().map_or(Ran::Done, |bytes| Ran::Answered(AgentAnswer::Memory(bytes))),
            AgentEffect::Redirect(modes) => Ran::Answered(AgentAnswer::Redirected(redirect(redirector, modes))),
            AgentEffect::Heartbeat => {
                if let Some(Err(e)) = redirector.map(Redirector::heartbeat) {
                    log::warn!("{e}");
                }
                Ran::Done
            }
            AgentEffect::Notice { source, level, console, text } => {
                self.notice(source, level, console, &text);
                Ran::Done
            }
            other => Ran::NotHere(other),
        }
    }

    /// Reads a key file; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be used; no key material.
    pub fn load_key(&self, guid: &KeyGuid) -> Result<Option<StoredKey>, StoreError> {
        Ok(self.keys.load(guid)?)
    }

    /// Writes a key file; when this returns it survives a crash (W-96).
    ///
    /// # Errors
    /// Why it is not there; no key material.
    pub fn store_key(&self, key: &StoredKey) -> Result<(), StoreError> {
        Ok(self.keys.store(key)?)
    }

    /// Replaces a state file as a whole (FS-29).
    ///
    /// # Errors
    /// The old content is still there.
    pub fn write_state(&self, file: StateFile, bytes: &[u8]) -> Result<(), FileError> {
        let place = Place::of(file);
        let folder = self.state_folder(file)?;
        match file {
            StateFile::ProvisionedTag | StateFile::StatusTag => folder.replace(place.name, place.temp, place.mode, bytes),
            // The next agent rewrites it as soon as it starts; it is not worth waiting for the disk.
            StateFile::Status => folder.refresh(place.name, place.temp, place.mode, bytes),
        }
    }

    /// Writes a snapshot of the rules and removes the ones that are too many.
    ///
    /// # Errors
    /// It is not there.
    pub fn write_snapshot(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let folder = Dir::create(&self.status_folder, Access::Shared)?;
        for old in surplus_snapshots(&mut folder.names()?, name) {
            folder.remove(old)?;
        }
        // Not synced: a key waits to be loaded, and the next start writes another one anyway.
        folder.add(name, &format!("{name}.tmp"), 0o640, bytes).map_err(|e| e.of(&self.status_folder))
    }

    /// Removes a state file if it is there (FS-35).
    ///
    /// # Errors
    /// It is still there.
    pub fn remove_state(&self, file: StateFile) -> Result<(), FileError> {
        self.state_folder(file)?.remove(Place::of(file).name).map(drop)
    }

    fn state_folder(&self, file: StateFile) -> Result<Dir, FileError> {
        match file {
            StateFile::ProvisionedTag | StateFile::StatusTag => self.keys.open(),
            StateFile::Status => Dir::create(&self.status_folder, Access::Shared),
        }
    }

    /// Logs one line, makes it an event if it has a source (T-06), and writes it to the serial console if it is important (FS-36).
    pub fn notice(&self, source: Option<Source>, level: Level, console: bool, text: &str) {
        let level = match level {
            Level::Error => log::Level::Error,
            Level::Warn => log::Level::Warn,
            Level::Info => log::Level::Info,
            Level::Debug => log::Level::Debug,
        };
        log::log!(target: logging::NOTICE, level, "{text}");
        if let Some(source) = source {
            self.telemetry.event(level, source.task, source.component, text);
        }
        if console {
            self.console.write(clock::wall(), text);
        }
    }

    /// Whether a socket belongs to the network namespace of this thread. Needs CAP_NET_ADMIN before Linux 5.14.
    ///
    /// # Errors
    /// That cannot be told.
    pub fn is_in_our_network(socket: BorrowedFd<'_>) -> io::Result<bool> {
        let own = std::os::unix::net::UnixDatagram::unbound()?;
        if let (Ok(theirs), Ok(ours)) = (netns_cookie(socket), netns_cookie(own.as_fd())) {
            return Ok(theirs == ours);
        }
        let theirs = rustix::fs::fstat(sys::namespace_of(socket)?)?;
        let ours = rustix::fs::stat("/proc/thread-self/ns/net")?;
        Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
    }

    /// Lets go of the log files, so that others may have moved them; they are opened again with the next line.
    pub fn reopen_logs(&self) {
        if let Some(audit) = &self.audit {
            audit.reopen();
        }
    }

    /// Where audit records go; `None` if file logs are off (FS-04).
    #[must_use]
    pub fn audit_log(&self) -> Option<&LogFile> {
        self.audit.as_deref()
    }

    /// Writes out a summary object (PX-108): to the connection log, to the journal, and as an event.
    pub fn summary(&self, line: &str) {
        log::info!(target: logging::SUMMARY, "{line}");
        self.telemetry.event(log::Level::Info, "log_connection_summary", "proxy_server", line);
    }
}

/// Brings the redirect in line and checks that it is attached (W-84, S-13).
fn redirect(redirector: Option<&dyn Redirector>, modes: PerDestination<TargetMode>) -> Result<(), String> {
    let redirector = redirector.ok_or("the redirector is not loaded")?;
    redirector.set_targets(modes).and_then(|()| redirector.check()).map_err(|e| e.to_string())
}

/// Name, temporary name and mode of a state file (files.md sections 4 and 6).
struct Place {
    name: &'static str,
    temp: &'static str,
    mode: u32,
}

impl Place {
    const fn of(file: StateFile) -> Self {
        match file {
            StateFile::ProvisionedTag => Self { name: "provisioned.tag", temp: "provisioned.tag.tmp", mode: keystore::MODE },
            StateFile::StatusTag => Self { name: "status.tag", temp: "status.tag.tmp", mode: keystore::MODE },
            StateFile::Status => Self { name: "status.json", temp: "status.tmp", mode: 0o640 },
        }
    }
}
