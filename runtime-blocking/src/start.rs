//! From `main` to a running daemon: what both runtimes do the same way.

use crate::clock::Clock;
use crate::daemon::{Daemon, Mailbox, Message, World};
use crate::host::Host;
use crate::machine::Machine;
use crate::telemetry::Telemetry;
use crate::{cli, listener, logging, memory, redirection, signals, wait};
use azure_proxy_agent_core::agent::{AgentConfig, AgentEvent};
use azure_proxy_agent_core::limits::Limits;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, BufRead};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Quick attempts to listen, and the pause between them (PX-02); then one every [`LISTEN_SLOW`].
const LISTEN_QUICK: (u32, Duration) = (6, Duration::from_secs(1));
const LISTEN_SLOW: Duration = Duration::from_secs(5);
/// How long requests under way may take at the end (FS-101).
pub const DRAIN: Duration = Duration::from_secs(2);

/// What a runtime starts with.
pub struct Start {
    run: cli::Run,
    telemetry: Arc<Telemetry>,
    /// Readable when the daemon is to end.
    pub stop: Stop,
}

/// The end of the daemon: a signal, or Enter in the console.
pub struct Stop {
    signals: OwnedFd,
    console: bool,
}

/// `main` of both daemons: everything up to the point where they differ, which is `run`.
pub fn main(run: fn(Start) -> io::Result<()>) -> ExitCode {
    let started = Instant::now();
    let args = std::env::args_os().skip(1);
    let begun = cli::begin(args, started, &mut io::stdout(), &mut io::stderr());
    let result = match begun {
        cli::Next::Exit(code) => return ExitCode::from(code),
        cli::Next::Run(settings) => {
            memory::one_heap();
            let telemetry = Arc::<Telemetry>::default();
            logging::init(&settings.config, &telemetry);
            forbid_core_dumps();
            for warning in &settings.warnings {
                log::warn!("{warning}");
            }
            signals::termination()
                .map(|signals| Start { stop: Stop { signals, console: settings.console }, telemetry, run: settings })
                .and_then(run)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("The agent ended: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Start {
    /// The machine, with its directories checked, and what the connections share.
    #[must_use]
    pub fn daemon(&self, mailbox: Arc<dyn Mailbox>) -> (Arc<Daemon>, Arc<Machine>) {
        let limits = affordable(Limits::DEFAULT, raise_descriptor_limit());
        let host = Host::new(&self.run.config).with_telemetry(Arc::clone(&self.telemetry));
        host.prepare();
        let machine = Arc::new(Machine::new(host, Arc::clone(&mailbox)));
        let world: Arc<dyn World> = Arc::<Machine>::clone(&machine);
        (Arc::new(Daemon::new(limits, Clock::System, mailbox, world)), machine)
    }

    /// What the agent machine is told.
    #[must_use]
    pub fn agent_config(&self) -> AgentConfig {
        AgentConfig {
            version: cli::VERSION.into(),
            poll_interval: self.run.config.poll_interval,
            event_files: self.run.config.max_event_files,
        }
    }

    /// Listens, as soon as that is possible, then begins to load the redirect on a thread of its own. `None`: stopped before.
    pub fn listen(&self, daemon: &Arc<Daemon>, machine: &Arc<Machine>) -> Option<TcpListener> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match listener::open(machine.redirector()) {
                Ok(listener) => {
                    daemon.mailbox.post(Message::Event(AgentEvent::ListenerReady));
                    self.redirect(daemon, machine);
                    return Some(listener);
                }
                Err(e) => {
                    // The quick attempts are silent but for the first: a restart finds the port free after a moment.
                    if attempt == 1 || attempt >= LISTEN_QUICK.0 {
                        daemon.mailbox.post(Message::Event(AgentEvent::ListenerFailed(e.to_string())));
                    }
                }
            }
            let pause = if attempt < LISTEN_QUICK.0 { LISTEN_QUICK.1 } else { LISTEN_SLOW };
            if self.stop.wait(pause) {
                return None;
            }
        }
    }

    fn redirect(&self, daemon: &Arc<Daemon>, machine: &Arc<Machine>) {
        let (daemon, machine, config) = (Arc::clone(daemon), Arc::clone(machine), self.run.config.clone());
        let started =
            std::thread::Builder::new().name("redirect".into()).spawn(move || redirection::bring_up(&daemon, &machine, &config));
        if let Err(e) = started {
            log::error!("The redirector was not started: {e}");
        }
    }

    /// Prints the prompt of `console` and makes Enter a stop (CLI-02).
    pub fn console(&self) {
        if self.stop.console {
            println!("Press Enter to end it.");
            std::thread::spawn(|| {
                let mut line = String::new();
                if io::stdin().lock().read_line(&mut line).is_ok() {
                    // The same way out as for the service manager's signal.
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
                }
            });
        }
    }
}

impl Stop {
    /// Waits; `true` if it is time to end.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
        poll(&mut fds, Some(&wait::timespec(timeout))).is_ok_and(|n| n > 0)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// The orderly end (FS-101), after accepting has stopped: requests under way get two seconds. The redirect goes with its links.
pub fn drain(daemon: &Daemon, machine: &Machine) {
    crate::host::notify::notify(crate::host::notify::State::Stopping);
    daemon.drain();
    let end = Instant::now() + DRAIN;
    while daemon.busy() > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    machine.flush();
    daemon.mailbox.post(Message::Stop);
}

/// The key is in memory: no core dump may carry it out (invariant 5), and no process of another user may look (ptrace).
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let results = [
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }),
    ];
    for e in results.into_iter().filter_map(Result::err) {
        log::warn!("Core dumps could not be forbidden: {e}");
    }
}

/// As many connections as there can be descriptors for: two each, and some for everything else. Running out of them would stop the
/// agent's own work, too.
fn affordable(limits: Limits, descriptors: u64) -> Limits {
    let connections = usize::try_from(descriptors.saturating_sub(96) / 2).unwrap_or(usize::MAX).clamp(2, limits.connections);
    if connections < limits.connections {
        log::warn!("The limit of {descriptors} open files is enough for {connections} connections, not {}", limits.connections);
    }
    Limits { connections, connections_per_user: limits.connections_per_user.min(connections / 2).max(1), ..limits }
}

/// 1024 connections need more descriptors than the usual soft limit of 1024. Returns what there is.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const WANTED: u64 = 8192;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let target = maximum.map_or(WANTED, |max| max.min(WANTED));
    if current.is_some_and(|soft| soft < target)
        && let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum })
    {
        log::warn!("The limit of open files could not be raised to {target}: {e}");
        return current.unwrap_or(target);
    }
    current.map_or(target, |soft| soft.max(target))
}
