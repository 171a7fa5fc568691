//! The daemon on threads: this one serves all connections; what blocks (callers' processes and accounts) has threads of its own.

use crate::agent_loop::{AgentLoop, Job, Spawn};
use crate::daemon::{Accepted, Busy, Daemon, Mailbox, Message, Place};
use crate::machine::Machine;
use crate::policy_cell::PolicyView;
use crate::poller::{Events, Notify, Poller, Readiness};
use crate::pump::{Next, Pump, Ready, set_abort};
use crate::reload::Reload;
use crate::start::{self, Stop};
use crate::workers::{LOOKUP_IDLE, Workers};
use crate::{clock, dial, listener};
use azure_proxy_agent_core::agent::AgentConfig;
use azure_proxy_agent_core::conn::{ProxyConn, Summary};
use azure_proxy_agent_core::effect::{ConnAnswer, ConnectError, Cx, Interest, LocalQuery, LocalReply, Wants};
use azure_proxy_agent_core::identity::{KernelRecord, Peer};
use azure_proxy_agent_core::time::Mono;
use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::time::Duration;

/// Most threads that look callers up at a time. More would only wait for each other.
const LOOKUPS: usize = 8;
/// How long an answer from another thread may take.
pub const ANSWER: Duration = Duration::from_secs(15);
const LISTENER: u64 = u64::MAX - 1;
const STOP: u64 = u64::MAX - 2;
const ORDERS: u64 = u64::MAX - 3;
const READ: Wants = Wants { read: true, write: false };
const WRITE: Wants = Wants { read: false, write: true };

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

/// Most jobs of the agent loop at a time: calls to the host come one by one, others hardly ever.
const JOBS: usize = 4;
/// How long a thread waits for the next one: longer than between two questions to the host, as packages configure it.
const JOB_IDLE: Duration = Duration::from_secs(20);

impl Spawn for Workers {
    fn spawn(&self, job: Job) {
        self.run(job);
    }
}

/// Runs the agent loop until it is stopped.
pub(crate) fn run_agent(daemon: Arc<Daemon>, machine: Arc<Machine>, config: (AgentConfig, Reload), inbox: &Receiver<Message>) {
    let mut agent = AgentLoop::start(daemon, machine, config, Arc::new(Workers::new(JOBS, JOB_IDLE)));
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

/// Accepts and serves until `stop` says so; then requests under way get [`DRAIN`](start::DRAIN) (FS-101).
///
/// # Errors
/// The poller could not be made: nothing was accepted.
pub fn accept_loop(daemon: &Arc<Daemon>, machine: &Machine, listener: TcpListener, stop: &Stop) -> io::Result<()> {
    let mut server = Server::new(Arc::clone(daemon))?;
    daemon.pulse.wake_with(&Waker::from(Arc::clone(server.poller.notify())));
    server.poller.add(&listener, LISTENER, READ)?;
    server.poller.add(stop, STOP, READ)?;
    server.poller.add(stop.orders(), ORDERS, READ)?;
    server.run(Some(Door { listener, machine, stop }));
    Ok(())
}

/// Where connections come in, and what closes it.
struct Door<'a> {
    listener: TcpListener,
    machine: &'a Machine,
    stop: &'a Stop,
}

/// Serves one connection on this thread, for replays.
///
/// # Errors
/// Out of descriptors.
pub fn serve_one(daemon: Arc<Daemon>, accepted: Accepted) -> io::Result<()> {
    let mut server = Server::new(daemon)?;
    server.add(accepted);
    server.run(None);
    Ok(())
}

/// All connections of this thread.
struct Server {
    daemon: Arc<Daemon>,
    poller: Poller,
    lookups: Workers,
    slots: Vec<Slot>,
    free: Vec<usize>,
    timers: BTreeSet<(Mono, usize)>,
    answers: Arc<Answers>,
    view: PolicyView,
}

/// A place for a connection.
#[derive(Default)]
struct Slot {
    /// Grows when the slot is given to another connection: what was meant for the former finds nobody.
    generation: u32,
    conn: Option<Box<Conn>>,
}

/// A connection with its sockets.
struct Conn {
    pump: Pump,
    client: TcpStream,
    upstream: Option<TcpStream>,
    record: Option<KernelRecord>,
    busy: Busy,
    awaits: Awaits,
    timer: Option<Mono>,
    /// What the poller was told of each socket; `None`: it does not know it.
    watched: (Option<Wants>, Option<Wants>),
    /// Given back last: what is counted as free is free.
    _place: Place,
}

/// What a connection needs before its next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    /// Readiness of its sockets.
    Sockets,
    /// An answer from another thread.
    Answer,
    /// The same, about who asks: what he says meanwhile is taken in.
    Identity,
    /// The connection to the host.
    Connect,
}

/// Answers from other threads.
struct Answers {
    waiting: Mutex<Vec<(usize, u32, ConnAnswer)>>,
    notify: Arc<Notify>,
}

impl Answers {
    fn give(&self, key: usize, generation: u32, answer: ConnAnswer) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((key, generation, answer));
        self.notify.wake_by_ref();
    }

    fn take(&self) -> Vec<(usize, u32, ConnAnswer)> {
        mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One of the two sockets of a slot's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Client = 0,
    Upstream = 1,
}

const fn token(key: usize, generation: u32, socket: Socket) -> u64 {
    (generation as u64) << 32 | (key as u64) << 1 | socket as u64
}

impl Server {
    fn new(daemon: Arc<Daemon>) -> io::Result<Self> {
        let poller = Poller::new()?;
        let answers = Arc::new(Answers { waiting: Mutex::default(), notify: Arc::clone(poller.notify()) });
        let view = daemon.policy.view();
        let lookups = Workers::new(LOOKUPS, LOOKUP_IDLE);
        Ok(Self { daemon, poller, lookups, slots: Vec::new(), free: Vec::new(), timers: BTreeSet::new(), answers, view })
    }

    /// Serves until there is nothing left to serve.
    fn run(&mut self, mut door: Option<Door<'_>>) {
        let mut events = Events::default();
        let mut end = None;
        while door.is_some() || (self.slots.len() > self.free.len() && end.is_none_or(|end| clock::mono() < end)) {
            let timer = self.timers.first().map(|(at, _)| *at);
            self.poller.wait(&mut events, timer.into_iter().chain(end).min());
            self.poller.notify().reset();
            self.daemon.pulse.answer();
            for (key, generation, answer) in self.answers.take() {
                self.answered(key, generation, answer);
            }
            for (token, ready) in events.iter() {
                match token {
                    LISTENER => door.iter().for_each(|door| self.accept(&door.listener)),
                    ORDERS => door.iter().for_each(|door| door.stop.take_orders(&self.daemon)),
                    STOP => {
                        if let Some(door) = door.take() {
                            self.close(&door);
                            end = Some(clock::mono() + start::DRAIN);
                        }
                    }
                    token => self.socket_ready(token, ready),
                }
            }
            self.fire_timers();
        }
    }

    fn accept(&mut self, listener: &TcpListener) {
        loop {
            match listener::accept(listener) {
                Ok((stream, client)) => {
                    if let Some(accepted) = self.daemon.admit(stream, client) {
                        self.add(accepted);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    // PX-04. Out of descriptors: the connections that there are go on, and may give some back.
                    self.daemon.cannot_accept(&e);
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            }
        }
    }

    fn add(&mut self, accepted: Accepted) {
        let Accepted { stream: client, client: address, number, record, place } = accepted;
        let cx =
            Cx { now: self.daemon.clock.now(), policy: self.view.refresh(&self.daemon.policy), requests: &self.daemon.requests };
        let conn = Conn {
            pump: Pump::new(ProxyConn::new(cx, number, address, self.daemon.limits)),
            client,
            upstream: None,
            record,
            busy: Busy::new(Arc::clone(&self.daemon)),
            awaits: Awaits::Sockets,
            timer: None,
            watched: (None, None),
            _place: place,
        };
        let key = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.drive(key, Box::new(conn), Ready::default());
    }

    /// A connection of that slot, if it is still the one that was meant.
    fn take(&mut self, key: usize, generation: u32) -> Option<Box<Conn>> {
        self.slots.get_mut(key).filter(|slot| slot.generation == generation)?.conn.take()
    }

    fn socket_ready(&mut self, token: u64, ready: Readiness) {
        let (key, generation) = ((token as u32 >> 1) as usize, (token >> 32) as u32);
        let upstream = token & 1 == Socket::Upstream as u64;
        let Some(mut conn) = self.take(key, generation) else { return };
        let mut told = Ready::default();
        if conn.awaits == Awaits::Identity {
            self.listen(&mut conn);
            return self.put_back(key, conn);
        }
        if conn.awaits == Awaits::Connect {
            // An event that was fetched before the attempt began says nothing about it.
            if !(upstream && (ready.write || ready.broken)) {
                return self.put_back(key, conn);
            }
            let outcome = conn.upstream.as_ref().map_or(Err(ConnectError::Local), dial::outcome);
            self.connected(&mut conn, outcome);
        } else if upstream {
            told.upstream = ready.read || ready.broken;
            told.upstream_broken = ready.broken && !conn.pump.interest().upstream.read;
        } else {
            told.client = ready.read || ready.broken;
            told.client_broken = ready.broken && !conn.pump.interest().client.read;
        }
        self.drive(key, conn, told);
    }

    fn answered(&mut self, key: usize, generation: u32, answer: ConnAnswer) {
        let Some(mut conn) = self.take(key, generation) else { return };
        // What came while the client was looked up is in its buffer; else, it comes now.
        self.answer(&mut conn, answer);
        self.drive(key, conn, Ready::default());
    }

    fn connected(&mut self, conn: &mut Conn, outcome: Result<(), ConnectError>) {
        match outcome {
            Ok(()) => self.answer(conn, ConnAnswer::Connected),
            Err(e) => {
                (conn.upstream, conn.watched.1) = (None, None);
                self.answer(conn, ConnAnswer::ConnectFailed(e));
            }
        }
    }

    fn answer(&mut self, conn: &mut Conn, answer: ConnAnswer) {
        conn.awaits = Awaits::Sockets;
        let cx =
            Cx { now: self.daemon.clock.now(), policy: self.view.refresh(&self.daemon.policy), requests: &self.daemon.requests };
        conn.pump.answer(cx, answer);
    }

    /// Turns a connection until it needs something, and sees to it that it gets it.
    fn drive(&mut self, key: usize, mut conn: Box<Conn>, mut ready: Ready) {
        let generation = self.slots.get(key).map_or(0, |slot| slot.generation);
        while conn.awaits == Awaits::Sockets {
            let now = self.daemon.clock.now();
            if self.daemon.is_draining() {
                let cx = Cx { now, policy: self.view.refresh(&self.daemon.policy), requests: &self.daemon.requests };
                conn.pump.drain(cx, &conn.client);
            }
            let cx = Cx { now, policy: self.view.refresh(&self.daemon.policy), requests: &self.daemon.requests };
            let world = &self.daemon.world;
            let mut note = |note, summary: &Summary<'_>| world.note(now, note, summary);
            match conn.pump.turn(cx, &conn.client, conn.upstream.as_ref(), mem::take(&mut ready), &mut note) {
                Next::Identify => match conn.record {
                    Some(record) => {
                        self.identify(key, generation, record);
                        self.rest(key, &mut conn, Awaits::Identity);
                        if !self.listen(&mut conn) {
                            self.tell(&conn.client, &mut conn.watched.0, token(key, generation, Socket::Client), READ);
                        }
                    }
                    None => {
                        self.answer(&mut conn, ConnAnswer::Identified(Peer::Unknown));
                        ready.client = true;
                    }
                },
                Next::Connect(to) => self.connect(key, generation, &mut conn, to),
                Next::Ask(query) => {
                    self.ask(key, generation, query);
                    self.rest(key, &mut conn, Awaits::Answer);
                }
                Next::Unlink { abort } => {
                    conn.watched.1 = None;
                    if let Some(socket) = conn.upstream.take().filter(|_| abort) {
                        set_abort(&socket);
                    }
                }
                Next::Wait => {
                    conn.busy.set(conn.pump.is_busy());
                    let deadline = conn.pump.deadline().map(|d| d.at);
                    self.set_timer(key, &mut conn, deadline);
                    if self.watch(key, generation, &mut conn) {
                        break;
                    }
                    return self.remove(key, *conn);
                }
                Next::Done => return self.remove(key, *conn),
            }
        }
        self.put_back(key, conn);
    }

    /// Takes what a client says while it is looked up. Once is enough; `false`: nothing came yet.
    fn listen(&mut self, conn: &mut Conn) -> bool {
        let now = self.daemon.clock.now();
        let cx = Cx { now, policy: self.view.refresh(&self.daemon.policy), requests: &self.daemon.requests };
        let came = conn.pump.fill(cx, &conn.client);
        if came && conn.watched.0.take().is_some() {
            self.poller.delete(&conn.client);
        }
        came
    }

    fn put_back(&mut self, key: usize, conn: Box<Conn>) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.conn = Some(conn);
        }
    }

    /// Reads `/proc` and the account database on another thread: another process can make both slow.
    fn identify(&self, key: usize, generation: u32, record: KernelRecord) {
        let daemon = Arc::clone(&self.daemon);
        // Nobody that we know, if there is no thread to look: refused (PX-23).
        let mut promise = Promise {
            answers: Arc::clone(&self.answers),
            to: Some((key, generation)),
            otherwise: Some(ConnAnswer::Identified(Peer::Unknown)),
        };
        self.lookups.run(Box::new(move || promise.keep(ConnAnswer::Identified(daemon.identify(Some(&record))))));
    }

    fn ask(&self, key: usize, generation: u32, query: LocalQuery) {
        let otherwise = Some(ConnAnswer::Reply(LocalReply::Unavailable));
        let mut promise = Promise { answers: Arc::clone(&self.answers), to: Some((key, generation)), otherwise };
        self.daemon.mailbox.post(Message::Query(query, Box::new(move |reply| promise.keep(ConnAnswer::Reply(reply)))));
    }

    fn connect(&mut self, key: usize, generation: u32, conn: &mut Conn, to: SocketAddrV4) {
        (conn.upstream, conn.watched.1) = (None, None);
        let begun = self.daemon.world.dial(to).and_then(|socket| {
            self.poller.add(&socket, token(key, generation, Socket::Upstream), WRITE).map_err(|_| ConnectError::Local)?;
            Ok(socket)
        });
        match begun {
            Ok(socket) => {
                self.rest(key, conn, Awaits::Connect);
                (conn.upstream, conn.watched.1) = (Some(socket), Some(WRITE));
            }
            Err(e) => self.answer(conn, ConnAnswer::ConnectFailed(e)),
        }
    }

    /// Leaves the sockets alone while the connection waits for something else, for a limited time: nobody would serve them, and a broken
    /// one keeps the loop busy whatever is asked.
    fn rest(&mut self, key: usize, conn: &mut Conn, awaits: Awaits) {
        conn.awaits = awaits;
        conn.busy.set(true);
        if conn.watched.0.take().is_some() {
            self.poller.delete(&conn.client);
        }
        if let (Some(_), Some(upstream)) = (conn.watched.1.take(), &conn.upstream) {
            self.poller.delete(upstream);
        }
        let patience = if awaits == Awaits::Connect { self.daemon.limits.connect_timeout } else { ANSWER };
        self.set_timer(key, conn, Some(clock::mono() + patience));
    }

    /// Tells the poller what the connection waits for, where that has changed. `false`: it cannot wait.
    fn watch(&self, key: usize, generation: u32, conn: &mut Conn) -> bool {
        let Interest { client, upstream, .. } = conn.pump.interest();
        let Conn { client: client_socket, upstream: upstream_socket, watched, .. } = conn;
        let mut fine = self.tell(client_socket, &mut watched.0, token(key, generation, Socket::Client), client);
        if let Some(socket) = upstream_socket {
            fine &= self.tell(socket, &mut watched.1, token(key, generation, Socket::Upstream), upstream);
        }
        fine
    }

    fn tell(&self, socket: &TcpStream, watched: &mut Option<Wants>, token: u64, wants: Wants) -> bool {
        let told = match *watched {
            Some(known) if known == wants => return true,
            Some(_) => self.poller.modify(socket, token, wants),
            None => self.poller.add(socket, token, wants),
        };
        *watched = Some(wants);
        told.map_err(|e| log::warn!("A socket cannot be watched: {e}")).is_ok()
    }

    fn set_timer(&mut self, key: usize, conn: &mut Conn, at: Option<Mono>) {
        if conn.timer != at {
            if let Some(old) = conn.timer {
                self.timers.remove(&(old, key));
            }
            self.timers.extend(at.map(|at| (at, key)));
            conn.timer = at;
        }
    }

    fn fire_timers(&mut self) {
        while let Some((at, key)) = self.timers.first().copied()
            && at <= clock::mono()
        {
            self.timers.pop_first();
            let Some(mut conn) = self.slots.get_mut(key).and_then(|slot| slot.conn.take()) else { continue };
            conn.timer = None;
            match conn.awaits {
                Awaits::Sockets => {}
                Awaits::Connect => self.connected(&mut conn, Err(ConnectError::TimedOut)),
                // A look-up that hangs must not hold a place for ever. Nothing was decided, so there is nothing to say.
                Awaits::Answer | Awaits::Identity => {
                    self.remove(key, *conn);
                    continue;
                }
            }
            self.drive(key, conn, Ready::default());
        }
    }

    /// Accepts nothing more, and tells all connections to end with the request that is under way.
    fn close(&mut self, door: &Door<'_>) {
        // Closing is not enough: the service manager may have the same socket, and what waits in its queue is for the next agent.
        self.poller.delete(&door.listener);
        self.poller.delete(door.stop);
        self.poller.delete(door.stop.orders());
        start::begin_end(&self.daemon, door.machine);
        for key in 0..self.slots.len() {
            if let Some(conn) = self.slots.get_mut(key).and_then(|slot| slot.conn.take()) {
                self.drive(key, conn, Ready::default());
            }
        }
    }

    fn remove(&mut self, key: usize, mut conn: Conn) {
        self.set_timer(key, &mut conn, None);
        if let Some(slot) = self.slots.get_mut(key) {
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(key);
        }
    }
}

/// An answer of another thread that comes in any case: if that thread ends without one, or was never there, another one is given.
struct Promise {
    answers: Arc<Answers>,
    to: Option<(usize, u32)>,
    otherwise: Option<ConnAnswer>,
}

impl Promise {
    fn keep(&mut self, answer: ConnAnswer) {
        if let Some((key, generation)) = self.to.take() {
            self.answers.give(key, generation, answer);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(answer) = self.otherwise.take() {
            self.keep(answer);
        }
    }
}
