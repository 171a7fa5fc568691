//! From `main` to a running daemon: what both runtimes do the same way.

use crate::clock::Clock;
use crate::daemon::{Daemon, Mailbox, Message, World};
use crate::host::notify::{Manager, State};
use crate::host::rules::Watch;
use crate::host::{Host, inherit};
use crate::machine::{Before, Machine};
use crate::pulse::Pulse;
use crate::redirector::client::Client;
use crate::reload::Reload;
use crate::serve::{ChannelMailbox, run_agent};
use crate::signals::Signals;
use crate::telemetry::Telemetry;
use crate::{cli, listener, logging, memory, redirection, redirector, signals, wait};
use azure_proxy_agent_core::agent::{AgentConfig, AgentEvent, Level, Source};
use azure_proxy_agent_core::limits::Limits;
use redirect_ebpf::Pins;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use std::io::{self, BufRead};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Quick attempts to listen, and the pause between them (PX-02); then one every [`LISTEN_SLOW`].
const LISTEN_QUICK: (u32, Duration) = (6, Duration::from_secs(1));
const LISTEN_SLOW: Duration = Duration::from_secs(5);
/// Between two looks whether another agent has ended.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the connections that an earlier agent's redirect brings wait for this one's to be loaded. Usually 20 ms; a machine on which
/// it cannot be loaded answers them with 421 after this.
const SUCCESSION: Duration = Duration::from_secs(3);
/// How long requests under way may take at the end (FS-101).
pub const DRAIN: Duration = Duration::from_secs(2);

/// What the start line is as an event (T-06).
const START: Source = Source { task: "start", component: "proxy_agent" };

/// What a runtime starts with.
pub struct Start {
    run: cli::Run,
    telemetry: Arc<Telemetry>,
    /// When the process began.
    begun: Instant,
    /// The signals, and what else tells the daemon to end.
    pub stop: Stop,
    /// A listener that an earlier agent or a socket unit left with the service manager.
    inherited: Option<TcpListener>,
    /// The process that has the privileges, if it is another one.
    redirector: Option<Arc<Client>>,
    manager: Arc<Manager>,
    log: logging::Handle,
}

/// The end of the daemon: a signal, or Enter in the console. And other orders from outside: to read the configuration anew, to look at
/// rule files.
pub struct Stop {
    signals: Signals,
    console: bool,
    rules: Option<Arc<Watch>>,
    /// Readable when any of those is that are no end.
    orders: OwnedFd,
}

/// `main` of both daemons, of which `program` is the name: everything up to the point where they differ, which is `run`.
pub fn main(program: &'static str, run: fn(Start) -> io::Result<()>) -> ExitCode {
    let started = Instant::now();
    let args = std::env::args_os().skip(1);
    let begun = cli::begin(program, args, started, &mut io::stdout(), &mut io::stderr());
    let result = match begun {
        cli::Next::Exit(code) => return ExitCode::from(code),
        cli::Next::Run(settings) => Start::new(settings, started).and_then(run),
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
    fn new(run: cli::Run, begun: Instant) -> io::Result<Self> {
        // The first descriptors that this process has are those that it was given.
        let handed_over = inherit::take();
        memory::one_heap();
        let telemetry = Arc::<Telemetry>::default();
        let log = logging::init(&run.config, &telemetry);
        forbid_core_dumps();
        for warning in &run.warnings {
            log::warn!("{warning}");
        }
        let redirector = Client::new(std::env::var_os(redirector::VARIABLE).as_deref())?;
        let inherited = choose(handed_over, redirector.as_deref());
        let manager = Arc::new(Manager::new(&|name| std::env::var_os(name)));
        let stop = Stop::new(signals::block()?, run.console)?;
        Ok(Self { run, telemetry, begun, stop, inherited, redirector, manager, log })
    }

    /// What both daemons have in common once they run: the agent machine on a thread of its own, the listener, and the end. `serve`,
    /// on this thread, is where they differ: it accepts until the end, and gives what is under way its time (FS-101).
    ///
    /// # Errors
    /// It could not begin to serve.
    pub fn run(mut self, serve: impl FnOnce(&Arc<Daemon>, &Machine, TcpListener, &Stop) -> io::Result<()>) -> io::Result<()> {
        let (mailbox, inbox) = ChannelMailbox::new();
        let (daemon, machine) = self.daemon(Arc::new(mailbox));
        self.stop.follow(machine.host.rules_watch());
        let (shared, its, config) = (Arc::clone(&daemon), Arc::clone(&machine), self.agent());
        let agent = std::thread::Builder::new().name("agent".into()).spawn(move || run_agent(shared, its, config, &inbox))?;
        self.console();
        match self.listen(&daemon, &machine) {
            Some(listener) => serve(&daemon, &machine, listener, &self.stop)?,
            None => begin_end(&daemon, &machine),
        }
        end(&daemon, &machine);
        agent.join().map_err(|_| io::Error::other("the agent loop panicked"))
    }

    /// The machine, with its directories checked, and what the connections share.
    fn daemon(&self, mailbox: Arc<dyn Mailbox>) -> (Arc<Daemon>, Arc<Machine>) {
        let limits = affordable(Limits::DEFAULT, raise_descriptor_limit());
        let host =
            Host::new(&self.run.config).with_telemetry(Arc::clone(&self.telemetry)).with_log(self.log.clone()).with_rules_watch();
        let host = host.with_redirector(self.redirector.clone());
        host.notice(Some(START), Level::Info, true, &start_line(self.begun.elapsed()));
        host.prepare();
        // Before the first socket of our own: what an earlier agent left would redirect its connection, and refuse it the port.
        let before = match &self.redirector {
            Some(redirector) => Before::Asked { succeeds: succeeds(redirector), redirector: Arc::clone(redirector) },
            None => Before::Pins(self.run.config.pin_folder.as_deref().and_then(|folder| {
                Pins::open(folder).unwrap_or_else(|e| {
                    log::error!("What an earlier agent left in the kernel cannot be used: {e}");
                    None
                })
            })),
        };
        let machine = Arc::new(Machine::new(host, Arc::clone(&mailbox), Arc::clone(&self.manager), before));
        let world: Arc<dyn World> = Arc::<Machine>::clone(&machine);
        let daemon = Daemon::new(limits, Clock::System, mailbox, world).with_pulse(Pulse::new(Arc::clone(&self.manager)));
        (Arc::new(daemon), machine)
    }

    /// What the agent loop is told.
    fn agent(&self) -> (AgentConfig, Reload) {
        let config = AgentConfig {
            version: cli::VERSION.into(),
            poll_interval: self.run.config.poll_interval,
            status_path: self.run.config.status_folder.join("status.json").display().to_string().into(),
            rules_folder: self.run.config.rules_folder().display().to_string().into(),
            event_files: self.run.config.max_event_files,
            canonical_mode: self.run.config.canonical_mode,
        };
        (config, Reload::new(self.run.config.clone(), self.log.clone()))
    }

    /// Listens, as soon as that is possible, then begins to load the redirect on a thread of its own. `None`: stopped before.
    ///
    /// An agent that has the listener from the service manager waits until no other one runs: the listener does not tell (CLI-11).
    fn listen(&mut self, daemon: &Arc<Daemon>, machine: &Arc<Machine>) -> Option<TcpListener> {
        let listener = match self.inherited.take() {
            Some(listener) => {
                while !machine.host.claim() {
                    if self.stop.wait(AGAIN, daemon) {
                        return None;
                    }
                }
                log::info!("The listener comes from the service manager: what waits in its queue is served");
                listener
            }
            None => {
                let listener = self.bind(daemon, machine)?;
                self.manager.keep(listener.as_fd());
                listener
            }
        };
        daemon.mailbox.post(Message::Event(AgentEvent::ListenerReady));
        let tried = self.redirect(daemon, machine);
        if machine.succeeds() {
            // Until then they wait in the queue of the listener: accepted now, they would be refused as unknown.
            let _ = tried.recv_timeout(SUCCESSION);
        }
        Some(listener)
    }

    fn bind(&self, daemon: &Arc<Daemon>, machine: &Arc<Machine>) -> Option<TcpListener> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match listener::open(|socket| machine.exempt_listener(socket)) {
                Ok(listener) => return Some(listener),
                Err(e) => {
                    // The quick attempts are silent but for the first: a restart finds the port free after a moment.
                    if attempt == 1 || attempt >= LISTEN_QUICK.0 {
                        daemon.mailbox.post(Message::Event(AgentEvent::ListenerFailed(e.to_string())));
                    }
                }
            }
            let pause = if attempt < LISTEN_QUICK.0 { LISTEN_QUICK.1 } else { LISTEN_SLOW };
            if self.stop.wait(pause, daemon) {
                return None;
            }
        }
    }

    /// Begins to load the redirect. What is returned ends when that has come to something.
    fn redirect(&self, daemon: &Arc<Daemon>, machine: &Arc<Machine>) -> Receiver<()> {
        let (daemon, machine, config) = (Arc::clone(daemon), Arc::clone(machine), self.run.config.clone());
        let (tried, ended) = channel();
        let bring_up = move || redirection::bring_up(&daemon, &machine, &config, tried);
        if let Err(e) = std::thread::Builder::new().name("redirect".into()).spawn(bring_up) {
            log::error!("The redirector was not started: {e}");
        }
        ended
    }

    /// Prints the prompt of `console` and makes Enter a stop (CLI-02).
    fn console(&self) {
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

/// Whether an earlier agent left something in the kernel. If that cannot be asked, whatever there may be is waited for.
fn succeeds(redirector: &Client) -> bool {
    redirector.succeeds().unwrap_or_else(|e| {
        log::error!("{e}");
        true
    })
}

/// The listener among what the service manager handed over. The rest is closed, in words.
fn choose(handed_over: Vec<(OwnedFd, String)>, redirector: Option<&Client>) -> Option<TcpListener> {
    let mut chosen = None;
    for (socket, name) in handed_over {
        match listener::adopt(socket, redirector) {
            Ok(listener) if chosen.is_none() => chosen = Some(listener),
            Ok(_) => log::warn!("The descriptor {name:?} of the service manager was closed: it is a second listener"),
            Err(e) => log::warn!("The descriptor {name:?} of the service manager was closed: {e}"),
        }
    }
    chosen
}

impl Stop {
    fn new(signals: Signals, console: bool) -> io::Result<Self> {
        let orders = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&orders, &signals.reload, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self { signals, console, rules: None, orders })
    }

    /// Changes of rule files are orders, too.
    fn follow(&mut self, rules: Option<&Arc<Watch>>) {
        let Some(rules) = rules else { return };
        match epoll::add(&self.orders, rules, epoll::EventData::new_u64(1), epoll::EventFlags::IN) {
            Ok(()) => self.rules = Some(Arc::clone(rules)),
            Err(e) => log::warn!("Changes of local rule files are not noticed at once: {e}"),
        }
    }

    /// Waits before the daemon serves; `true` if it is time to end. Goes on giving signs of life meanwhile.
    #[must_use]
    fn wait(&self, timeout: Duration, daemon: &Daemon) -> bool {
        let end = Instant::now() + timeout;
        loop {
            daemon.pulse.answer();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let slice = daemon.pulse.interval().map_or(left, |interval| left.min(interval / 2));
            let mut fds = [PollFd::new(&self.signals.end, PollFlags::IN)];
            if poll(&mut fds, Some(&wait::timespec(slice))).is_ok_and(|n| n > 0) {
                return true;
            }
        }
    }

    /// Readable when SIGHUP was sent, or rule files have changed: see [`take_orders`](Self::take_orders).
    #[must_use]
    pub fn orders(&self) -> BorrowedFd<'_> {
        self.orders.as_fd()
    }

    /// Passes on what was asked for. Does not block.
    pub fn take_orders(&self, daemon: &Daemon) {
        if signals::take(&self.signals.reload) {
            daemon.mailbox.post(Message::Reload);
        }
        if self.rules.as_ref().is_some_and(|rules| rules.take()) {
            daemon.mailbox.post(Message::RulesChanged);
        }
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.end.as_fd()
    }
}

/// The orderly end (FS-101), after accepting has stopped: requests under way get [`DRAIN`], as the caller sees to. The redirect stays
/// as it is (S-03), and the listener stays with the service manager.
pub fn begin_end(daemon: &Daemon, machine: &Machine) {
    log::info!("The agent ends in order: what is under way gets {} s, the redirect stays", DRAIN.as_secs());
    machine.manager.tell(State::Stopping);
    daemon.drain();
}

/// The last words, after [`begin_end`] and what is under way.
fn end(daemon: &Daemon, machine: &Machine) {
    // What cannot be written now stays in the staging file.
    let _: bool = machine.flush();
    daemon.mailbox.post(Message::Stop);
}

/// The first line of every log and of the serial console (FS-37).
fn start_line(elapsed: Duration) -> String {
    let (version, arch, elapsed) = (cli::VERSION, std::env::consts::ARCH, elapsed.as_millis());
    format!("============== GuestProxyAgent ({version}) is starting on Linux({arch}), elapsed: {elapsed}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fs37_the_start_line() {
        let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        let expected = format!("============== GuestProxyAgent ({version}) is starting on Linux({arch}), elapsed: 7");
        assert_eq!(start_line(Duration::from_micros(7_900)), expected);
    }
}
