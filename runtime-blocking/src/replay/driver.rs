//! Client and host of a story: does what the fixture says, and waits for what follows.

use super::judge::{Expected, ended};
use super::stage::{End, PATIENCE, Stage, State, Whose};
use super::world::{ReplayMailbox, ReplayWorld};
use super::{Serve, Writes};
use crate::clock::{self, Clock};
use crate::daemon::Daemon;
use crate::listener;
use azure_proxy_agent_core::effect::Side;
use azure_proxy_agent_core::identity::{Claims, Peer};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::replay::{Fixture, Input, Step};
use azure_proxy_agent_core::time::{HostClock, Mono, Wall};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Plays a fixture that goes to its end.
pub(super) fn drive(fixture: &Fixture, writes: Writes, serve: Serve) -> Result<(), String> {
    let mut driver = Driver::begin(fixture, writes, serve).map_err(|e| format!("the sockets could not be made: {e}"))?;
    let mut expected = Expected::new(fixture);
    let mut result = Ok(());
    for (number, step) in fixture.steps.iter().enumerate() {
        expected.add(step);
        result = driver.step(fixture, step, &expected);
        if let Err(what) = &mut result {
            *what = format!("step {} ({:?}): {what}", number + 1, Duration::from_nanos(step.at.0));
            break;
        }
    }
    // Whatever is still on its way comes before the end of its socket.
    let all_ended = driver.stage.wait(|s| (s.served && ended(s)).then_some(()));
    let result = result.and_then(|()| all_ended.ok_or_else(|| "the connection does not end".to_owned()));
    let difference = driver.stage.change(|s| expected.difference(s));
    driver.end();
    match (result, difference) {
        (_, Some(difference)) if driver.panicked() => Err(format!("the server panicked; {difference}")),
        (Err(what), Some(difference)) => Err(format!("{what}: {difference}")),
        (Err(what), None) => Err(what),
        (Ok(()), Some(difference)) => Err(difference),
        (Ok(()), None) => Ok(()),
    }
}

struct Driver {
    stage: Arc<Stage>,
    daemon: Arc<Daemon>,
    wall: Arc<AtomicU64>,
    /// Wall-clock time of the fixture, and since when.
    set: (Mono, Wall),
    writes: Writes,
    client: Option<Arc<TcpStream>>,
    server: Option<JoinHandle<()>>,
    /// Connections to the host that were made.
    connected: usize,
}

impl Driver {
    fn begin(fixture: &Fixture, writes: Writes, serve: Serve) -> io::Result<Self> {
        let stage = Arc::new(Stage::default());
        let wall = Arc::new(AtomicU64::new(fixture.epoch.0));
        let world = Arc::new(ReplayWorld::new(Arc::clone(&stage), fixture)?);
        let mailbox = Arc::new(ReplayMailbox(Arc::clone(&stage)));
        let daemon = Arc::new(Daemon::new(limits(fixture), Clock::Frozen(Arc::clone(&wall)), mailbox, world));
        publish(&daemon, &fixture.first_policy(), Mono(0));

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        client.set_nodelay(true)?;
        client.set_write_timeout(Some(PATIENCE))?;
        let (stream, _) = listener::accept(&listener)?;
        stream.set_nodelay(true)?;
        let address = fixture.client().ok_or_else(|| io::Error::other("no client"))?;
        let accepted = daemon.admit(stream, address).ok_or_else(|| io::Error::other("not admitted"))?;
        let client = Arc::new(client);
        drop(stage.read(Whose::Client, Arc::clone(&client)));
        let server = {
            let (daemon, served) = (Arc::clone(&daemon), Served(Arc::clone(&stage)));
            thread::spawn(move || {
                serve(daemon, accepted);
                drop(served);
            })
        };
        let set = (Mono(0), fixture.epoch);
        Ok(Self { stage, daemon, wall, set, writes, client: Some(client), server: Some(server), connected: 0 })
    }

    /// Does what the step says, and waits until everything that the story has brought about so far was seen.
    fn step(&mut self, fixture: &Fixture, step: &Step, expected: &Expected) -> Result<(), String> {
        if let Input::Wall(wall) = step.input {
            self.set = (step.at, wall);
        }
        self.wall.store(self.set.1.plus(step.at.since(self.set.0)).0, Ordering::Release);
        match &step.input {
            Input::Accept(_) | Input::Wall(_) | Input::Timeout => {}
            Input::Identified(peer) => {
                let peer = as_old(fixture.peer(peer), step.at);
                self.stage.change(|s| s.peer = Some(peer));
            }
            Input::Connect(answer) => {
                self.connected += usize::from(answer.is_ok());
                self.stage.change(|s| s.connects.push_back(*answer));
            }
            Input::Reply(reply) => {
                let answer = self.stage.wait(|s| s.asking.pop_front()).ok_or("nobody asks")?;
                answer(reply.clone());
            }
            Input::Policy(name) => publish(&self.daemon, &fixture.policy(name).unwrap_or_default(), step.at),
            Input::Drain => self.daemon.drain(),
            Input::Bytes(side, bytes) => {
                if let Some(socket) = self.socket(*side)?
                    && write(&socket, bytes, self.writes) == Written::Reset
                {
                    self.stage.change(|s| s.received(whose(s, *side), |r| r.reset = true));
                }
            }
            Input::Eof(side) => {
                if let Some(socket) = self.socket(*side)? {
                    // An error means that it is closed already.
                    let _ = socket.shutdown(Shutdown::Write);
                }
            }
            Input::Reset(side) => self.reset(*side)?,
            Input::Unwritable(_) | Input::Blocked(_) | Input::Unblocked(_) => return Err("no socket can play that".into()),
        }
        self.stage.wait(|s| expected.is_seen(s).then_some(())).ok_or_else(|| "what should follow does not come".to_owned())
    }

    /// The peer's end of a connection; `None` if it is gone.
    fn socket(&self, side: Side) -> Result<Option<Arc<TcpStream>>, String> {
        match side {
            Side::Client => Ok(self.client.clone()),
            Side::Upstream => {
                let connected = self.connected;
                let made = |s: &mut State| (s.hosts.len() >= connected).then(|| s.hosts.last().cloned().flatten());
                self.stage.wait(made).ok_or_else(|| "there is no connection to the host".to_owned())
            }
        }
    }

    /// Closes a peer's socket with a reset.
    fn reset(&mut self, side: Side) -> Result<(), String> {
        let Some(socket) = self.socket(side)? else { return Ok(()) };
        let whose = self.stage.change(|s| whose(s, side));
        crate::pump::set_abort(&socket);
        // Wakes the reader and sends nothing; once the reader has let go, the close below is the last.
        self.stage.change(|s| s.received(whose, |r| r.end = None));
        let _ = socket.shutdown(Shutdown::Read);
        self.stage.wait(|s| {
            let mut ended = false;
            s.received(whose, |r| ended = r.end.is_some());
            ended.then_some(())
        });
        self.stage.change(|s| s.received(whose, |r| r.end = Some(End::Own)));
        match side {
            Side::Client => self.client = None,
            Side::Upstream => self.stage.change(|s| {
                if let Some(host) = s.hosts.last_mut() {
                    *host = None;
                }
            }),
        }
        drop(socket);
        Ok(())
    }

    /// Lets everything go and waits for the server, which has nobody to talk to any more.
    fn end(&mut self) {
        self.stage.change(State::give_up);
        if let Some(client) = self.client.take() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    fn panicked(&mut self) -> bool {
        self.server.take_if(|s| s.is_finished()).is_some_and(|s| s.join().is_err())
    }
}

/// Says that the server has ended, also if it panics.
struct Served(Arc<Stage>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.change(|s| s.served = true);
    }
}

/// Who receives what at this end of a side.
const fn whose(s: &State, side: Side) -> Whose {
    match side {
        Side::Client => Whose::Client,
        Side::Upstream => Whose::Host(s.host),
    }
}

/// How writing to a socket went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    All,
    /// The other side has closed, or takes nothing: the rest is lost, as it is in the fixture.
    Lost,
    /// It has reset the connection.
    Reset,
}

fn write(mut socket: &TcpStream, mut bytes: &[u8], writes: Writes) -> Written {
    for n in writes.lengths(bytes.len()) {
        let Some((now, later)) = bytes.split_at_checked(n) else { break };
        match socket.write_all(now) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Written::Reset,
            Err(_) => return Written::Lost,
        }
        if writes == Writes::Bytewise {
            thread::yield_now();
        }
        bytes = later;
    }
    Written::All
}

/// Makes a policy the newest. A host clock stands still like ours: at what it shows at this moment.
fn publish(daemon: &Daemon, policy: &Arc<Policy>, at: Mono) {
    let mut policy = Policy::clone(policy);
    if let HostClock::Synchronized { mono, wall } = policy.host_clock {
        policy.host_clock = HostClock::Synchronized { mono: Mono(u64::MAX), wall: wall.plus(at.since(mono)) };
    }
    daemon.policy.publish(Arc::new(policy));
}

/// The limits of the daemons; shorter times where the story is that one of them runs out.
fn limits(fixture: &Fixture) -> Limits {
    let runs_out = fixture.steps.iter().any(|s| s.input == Input::Timeout && !s.outputs.is_empty());
    if !runs_out {
        return Limits::DEFAULT;
    }
    let short = Duration::from_secs(1);
    Limits { head_timeout: short, stall_timeout: short, connect_timeout: short, linger_timeout: short, ..Limits::DEFAULT }
}

/// The same caller with what is known of him as old as it is in the story at that time.
fn as_old(peer: Peer, at: Mono) -> Peer {
    match peer {
        Peer::Redirected { to, claims } => {
            let mut claims = Claims::clone(&claims);
            let age = at.since(claims.on_demand.as_of);
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            claims.on_demand.as_of = Mono(clock::mono().0.saturating_sub(age));
            Peer::Redirected { to, claims: Arc::new(claims) }
        }
        other => other,
    }
}
