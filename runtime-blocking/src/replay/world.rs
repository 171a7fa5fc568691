//! The surroundings of a daemon that plays a fixture.

use super::stage::{End, PATIENCE, Received, Stage, Whose};
use crate::daemon::{Mailbox, Message, World};
use crate::dial;
use crate::pump::Note;
use azure_proxy_agent_core::conn::Summary;
use azure_proxy_agent_core::effect::ConnectError;
use azure_proxy_agent_core::identity::{KernelRecord, Peer, Route};
use azure_proxy_agent_core::policy::Policy;
use azure_proxy_agent_core::replay::{Fixture, Input, Output, PeerSpec, Report};
use azure_proxy_agent_core::time::Now;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, ipproto, socket};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;

/// Kernel, processes and network as the fixture has them.
pub(super) struct ReplayWorld {
    stage: Arc<Stage>,
    /// The host; every destination leads to it.
    host: TcpListener,
    /// Whether the kernel has a record of the caller.
    known: bool,
    /// How many connects have an answer.
    answered: usize,
}

impl ReplayWorld {
    pub(super) fn new(stage: Arc<Stage>, fixture: &Fixture) -> io::Result<Self> {
        let known = !fixture.steps.iter().any(|s| s.input == Input::Identified(PeerSpec::Unknown));
        let answered = fixture.steps.iter().filter(|s| matches!(s.input, Input::Connect(_))).count();
        Ok(Self { stage, host: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, known, answered })
    }

    /// A connection to the scripted host.
    fn connect(&self, index: usize) -> Result<TcpStream, ConnectError> {
        let Ok(SocketAddr::V4(address)) = self.host.local_addr() else { return Err(ConnectError::Local) };
        let socket = dial::begin(address, |_| Ok(()))?;
        // On loopback the handshake needs nobody's help.
        let (host, _) = self.host.accept().map_err(|_| ConnectError::Local)?;
        host.set_nodelay(true).and_then(|()| host.set_write_timeout(Some(PATIENCE))).map_err(|_| ConnectError::Local)?;
        let host = Arc::new(host);
        drop(self.stage.read(Whose::Host(index), Arc::clone(&host)));
        self.stage.change(|s| {
            s.hosts.push(Some(host));
            s.host = index;
        });
        Ok(socket)
    }

    /// A socket that never becomes writable, like one whose handshake nobody answers.
    fn stuck(&self) -> io::Result<TcpStream> {
        let mut near = TcpStream::connect(self.host.local_addr()?)?;
        let (far, _) = self.host.accept()?;
        near.set_nonblocking(true)?;
        while !matches!(near.write(&[0; 64 * 1024]), Err(e) if e.kind() == ErrorKind::WouldBlock) {}
        self.stage.change(|s| s.kept.push(far));
        Ok(near)
    }
}

impl World for ReplayWorld {
    fn attribute(&self, _: &TcpStream, _: SocketAddrV4) -> Option<KernelRecord> {
        self.known.then_some(RECORD)
    }

    fn identify(&self, _: &KernelRecord, _: &Policy) -> Peer {
        self.stage.change(|s| s.effects.push(Output::Identify));
        self.stage.wait(|s| s.peer.take()).unwrap_or(Peer::Unknown)
    }

    fn dial(&self, to: SocketAddrV4) -> Result<TcpStream, ConnectError> {
        let index = self.stage.change(|s| {
            s.effects.push(Output::Connect(to));
            s.upstream.push(Received::default());
            s.upstream.len() - 1
        });
        let never = || self.stage.change(|s| s.received(Whose::Host(index), |r| r.end = Some(End::Own)));
        if index >= self.answered {
            never();
            return self.stuck().map_err(|_| ConnectError::Local);
        }
        match self.stage.wait(|s| s.connects.pop_front()) {
            Some(Ok(())) => self.connect(index),
            other => {
                never();
                match other {
                    Some(Err(ConnectError::Refused)) => refused(),
                    Some(Err(error)) => Err(error),
                    _ => Err(ConnectError::Local),
                }
            }
        }
    }

    fn note(&self, _: Now, note: Note, summary: &Summary<'_>) {
        let output = match note {
            Note::Intent => Output::Intend(summary.request),
            Note::Record => Output::Report(Report::of(summary).timeless()),
        };
        self.stage.change(|s| s.effects.push(output));
    }

    fn gone(&self, _: Now, _: u64) {}
}

/// A real refusal: the port is taken by a socket that does not listen.
fn refused() -> Result<TcpStream, ConnectError> {
    let holder = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).map_err(|_| ConnectError::Local)?;
    bind(&holder, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).map_err(|_| ConnectError::Local)?;
    let address = getsockname(&holder).ok().and_then(|a| SocketAddrV4::try_from(a).ok()).ok_or(ConnectError::Local)?;
    dial::begin(address, |_| Ok(()))
}

/// Any record: who it is says [`ReplayWorld::identify`].
const RECORD: KernelRecord = KernelRecord {
    route: Route::Direct,
    original: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
    tgid: 1,
    tid: 1,
    ppid: 0,
    uid: 0,
    gid: 0,
    start_boottime: 0,
    exec_id: 0,
    exe: None,
    pid_ns: 0,
    ns_tgid: 1,
    task_cgroup: 0,
    socket_cgroup: 0,
    netns: 0,
    socket_cookie: 0,
    connected_at: 0,
    mapped_v6: false,
    comm: [0; 16],
};

/// The agent as the fixture has it.
pub(super) struct ReplayMailbox(pub(super) Arc<Stage>);

impl Mailbox for ReplayMailbox {
    fn post(&self, message: Message) {
        // Nothing else comes from a connection.
        if let Message::Query(query, answer) = message {
            self.0.change(|s| {
                s.effects.push(Output::Ask(query));
                s.asking.push_back(answer);
            });
        }
    }
}
