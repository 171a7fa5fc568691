//! The daemon on threads: one accepts, each connection has a worker of its own while it lasts.

use crate::agent_loop::{AgentLoop, Job, Spawn};
use crate::daemon::{Accepted, Busy, Daemon, Mailbox, Message};
use crate::machine::Machine;
use crate::pump::{Next, Pump, Ready, set_abort};
use crate::workers::Workers;
use crate::{clock, dial, listener, wait};
use azure_proxy_agent_core::agent::AgentConfig;
use azure_proxy_agent_core::conn::{ProxyConn, Summary};
use azure_proxy_agent_core::effect::{ConnAnswer, ConnectError, Cx, LocalQuery, LocalReply};
use polling::{Event, Events, PollMode, Poller};
use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A mailbox on a channel of the standard library.
pub struct ChannelMailbox(Mutex<Sender<Message>>);

impl ChannelMailbox {
    /// The mailbox and the agent loop's end of it.
    #[must_use]
    pub fn new() -> (Self, Receiver<Message>) {
        let (sender, receiver) = channel();
        (Self(Mutex::new(sender)), receiver)
    }
}

impl Mailbox for ChannelMailbox {
    fn post(&self, message: Message) {
        // The loop ends before its senders only when the process ends.
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).send(message));
    }
}

/// A thread for each job: they are rare.
#[derive(Debug)]
pub struct Threads;

impl Spawn for Threads {
    fn spawn(&self, job: Job) {
        if let Err(e) = std::thread::Builder::new().name("job".into()).stack_size(crate::workers::STACK).spawn(job) {
            log::error!("A thread could not be started: {e}");
        }
    }
}

/// Runs the agent loop until it is stopped.
pub fn run_agent(daemon: Arc<Daemon>, machine: Arc<Machine>, config: AgentConfig, inbox: &Receiver<Message>) {
    let mut agent = AgentLoop::start(daemon, machine, config, Arc::new(Threads));
    while !agent.is_stopped() {
        let message = match agent.deadline() {
            Some(at) => match inbox.recv_timeout(at.since(clock::mono())) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            },
            None => match inbox.recv() {
                Ok(message) => Some(message),
                Err(_) => return,
            },
        };
        agent.handle(message);
    }
}

/// Accepts until `stop` is readable. The workers end with their connections.
///
/// # Errors
/// The poller could not be made: nothing was accepted.
pub fn accept_loop(daemon: &Arc<Daemon>, listener: &TcpListener, stop: BorrowedFd<'_>) -> io::Result<()> {
    const LISTENER: usize = 0;
    const STOP: usize = 1;
    let poller = Poller::new()?;
    let registered = [(listener.as_raw_fd(), LISTENER), (stop.as_raw_fd(), STOP)];
    let registration = Registration::new(&poller, &registered)?;
    let workers = Workers::new(daemon.limits.connections);
    let mut events = Events::new();
    loop {
        events.clear();
        if let Err(e) = poller.wait(&mut events, None)
            && e.kind() != io::ErrorKind::Interrupted
        {
            log::error!("Waiting for connections failed: {e}");
            std::thread::sleep(Duration::from_millis(100));
        }
        if events.iter().any(|e| e.key == STOP) {
            drop(registration);
            return Ok(());
        }
        accept_all(daemon, listener, &workers);
    }
}

fn accept_all(daemon: &Arc<Daemon>, listener: &TcpListener, workers: &Workers) {
    loop {
        match listener::accept(listener) {
            Ok((stream, client)) => {
                if let Some(accepted) = daemon.admit(stream, client) {
                    let daemon = Arc::clone(daemon);
                    workers.run(Box::new(move || serve(&daemon, accepted)));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Err(e) => {
                // PX-04. Out of descriptors: give those who have one the time to finish.
                log::warn!("A connection could not be accepted: {e}");
                std::thread::sleep(Duration::from_millis(50));
                return;
            }
        }
    }
}

/// Descriptors registered with a poller for as long as this lives.
struct Registration<'a> {
    poller: &'a Poller,
    fds: &'a [(i32, usize)],
}

impl<'a> Registration<'a> {
    #[expect(unsafe_code, reason = "the registration must not outlive the descriptors; this guard sees to it")]
    fn new(poller: &'a Poller, fds: &'a [(i32, usize)]) -> io::Result<Self> {
        let this = Self { poller, fds };
        for (fd, key) in fds {
            // SAFETY: the descriptors are borrowed by the caller for as long as this guard lives, and its drop removes them.
            unsafe { poller.add_with_mode(*fd, Event::readable(*key), PollMode::Level) }?;
        }
        Ok(this)
    }
}

impl Drop for Registration<'_> {
    #[expect(unsafe_code, reason = "see new")]
    fn drop(&mut self) {
        for (fd, _) in self.fds {
            // SAFETY: the descriptor is still open (see new); it is only used to delete its registration.
            let _ = self.poller.delete(unsafe { BorrowedFd::borrow_raw(*fd) });
        }
    }
}

/// One connection, from accept to close.
pub fn serve(daemon: &Daemon, accepted: Accepted) {
    let Accepted { stream: client, client: address, number, record, place } = accepted;
    let mut view = daemon.policy.view();
    let mut busy = Busy::new(daemon);
    let mut upstream: Option<TcpStream> = None;
    let mut ready = Ready::default();
    macro_rules! cx {
        ($now:expr) => {
            Cx { now: $now, policy: view.refresh(&daemon.policy), requests: &daemon.requests }
        };
    }
    let mut pump = Pump::new(ProxyConn::new(cx!(daemon.clock.now()), number, address, daemon.limits));
    loop {
        let now = daemon.clock.now();
        if daemon.is_draining() {
            pump.drain();
        }
        let mut report = |summary: &Summary<'_>| daemon.world.record(now, summary);
        let next = pump.turn(cx!(now), &client, upstream.as_ref(), std::mem::take(&mut ready), &mut report);
        match next {
            Next::Identify => {
                let peer = daemon.identify(record.as_ref());
                pump.answer(cx!(daemon.clock.now()), ConnAnswer::Identified(peer));
                // Most clients have sent their request by now.
                ready.client = true;
            }
            Next::Connect(to) => {
                upstream = None;
                let answer = match connect(daemon, to) {
                    Ok(socket) => {
                        upstream = Some(socket);
                        ConnAnswer::Connected
                    }
                    Err(error) => ConnAnswer::ConnectFailed(error),
                };
                pump.answer(cx!(daemon.clock.now()), answer);
            }
            Next::Ask(query) => {
                let reply = ask(daemon, query);
                pump.answer(cx!(daemon.clock.now()), ConnAnswer::Reply(reply));
            }
            Next::Unlink { abort } => {
                if let Some(socket) = upstream.take().filter(|_| abort) {
                    set_abort(&socket);
                }
            }
            Next::Wait => {
                busy.set(pump.is_busy());
                let deadline = pump.deadline().map(|d| d.at);
                ready = wait::wait(pump.interest(), &client, upstream.as_ref(), deadline);
            }
            Next::Done => break,
        }
    }
    // The sockets go before the place does: what is counted as free is free.
    drop((client, upstream));
    drop(place);
}

fn connect(daemon: &Daemon, to: SocketAddrV4) -> Result<TcpStream, ConnectError> {
    let socket = daemon.world.dial(to)?;
    if !wait::wait_writable(&socket, daemon.limits.connect_timeout) {
        return Err(ConnectError::TimedOut);
    }
    dial::outcome(&socket)?;
    Ok(socket)
}

fn ask(daemon: &Daemon, query: LocalQuery) -> LocalReply {
    let (sender, receiver) = sync_channel(1);
    daemon.mailbox.post(Message::Query(query, Box::new(move |reply| drop(sender.send(reply)))));
    // The loop drops the sender if it ends: then there is no answer.
    receiver.recv_timeout(Duration::from_secs(5)).unwrap_or(LocalReply::Unavailable)
}
