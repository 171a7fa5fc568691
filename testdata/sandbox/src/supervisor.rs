//! A stand-in for what systemd does for the unit: it listens to what the agent says (`NOTIFY_SOCKET`, sd_notify(3)), keeps the
//! descriptors that the agent stores with it (`FDSTORE=1`), and offers them to the next process (`LISTEN_FDS`,
//! sd_listen_fds(3)). Without a descriptor store it is a service manager that only starts and listens.
//!
//! It decides nothing: when an agent is started, killed or stopped is the test's business.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, fstat};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};

use crate::agent::{Agent, AgentOptions};
use crate::sandbox::Sandbox;
use crate::sys;

/// `FileDescriptorStoreMax`: more are closed unseen, as systemd does.
const STORE_MAX: usize = 64;
/// `SD_LISTEN_FDS_START`.
const FIRST: usize = 3;

/// What the environment must say of the process that reads it cannot be known before there is one: a shell puts its own
/// number in and becomes the program.
const BECOME: &str = r#"export LISTEN_PID=$$ WATCHDOG_PID=$$; exec "$0" "$@""#;

/// Whether descriptors outlive the process that stored them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// As with `FileDescriptorStoreMax` and `FileDescriptorStorePreserve` in the unit.
    Kept,
    /// As without systemd: what is stored is closed at once, nothing is offered.
    None,
}

/// One message of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The process that sent it, as the kernel says.
    pub pid: u32,
    /// The assignments, in order, such as `READY=1`.
    pub assignments: Vec<String>,
    /// How many descriptors came with it.
    pub descriptors: usize,
}

/// A service manager for the agents of one sandbox.
#[derive(Debug)]
pub struct Supervisor {
    path: PathBuf,
    socket: Arc<UnixDatagram>,
    inbox: Arc<Inbox>,
    watchdog: Option<Duration>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inbox {
    store: Store,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    notices: Vec<Notice>,
    stored: Vec<(String, Arc<OwnedFd>)>,
    over: bool,
}

impl Supervisor {
    /// Listens from now on, inside `sandbox`.
    ///
    /// # Errors
    /// Those of making the socket.
    pub fn new(sandbox: &Sandbox, store: Store) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let path = sandbox.directory().join(format!("notify-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let socket = Arc::new(UnixDatagram::bind(&path)?);
        // An agent that gave up root may notify, too.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        sockopt::set_socket_passcred(&*socket, true)?;
        let inbox = Arc::new(Inbox { store, state: Mutex::default(), arrived: Condvar::new() });
        let (from, to) = (Arc::clone(&socket), Arc::clone(&inbox));
        let listening = std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || listen(&from, &to))?;
        Ok(Self { path, socket, inbox, watchdog: None, listening: Some(listening) })
    }

    /// Tells agents that are started from now on to send a sign of life this often (`WatchdogSec=`). It is only recorded:
    /// nobody is killed for its absence.
    pub fn watchdog(&mut self, interval: Duration) {
        self.watchdog = Some(interval);
    }

    /// Starts an agent that may notify and is offered what is stored, and waits until it is as ready as the options want it.
    ///
    /// # Errors
    /// As [`Sandbox::start_agent`].
    pub fn start(&self, sandbox: &Sandbox, options: &AgentOptions) -> io::Result<Agent> {
        Agent::start_as(sandbox, options, |arguments| {
            let mut command = sandbox.command("/bin/sh");
            command.args(["-c", BECOME]).arg(&options.program).args(arguments);
            self.offer(&mut command);
            command
        })
    }

    /// Puts the descriptors and the environment into a command.
    fn offer(&self, command: &mut Command) {
        let stored = self.inbox.lock().stored.clone();
        command.env("NOTIFY_SOCKET", &self.path);
        if let Some(interval) = self.watchdog {
            command.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        if !stored.is_empty() {
            let (names, descriptors): (Vec<String>, Vec<_>) = stored.into_iter().unzip();
            command.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            sys::hand_over_before_exec(command, descriptors, FIRST);
        }
    }

    /// Puts a descriptor into the store, as a socket unit does before the first start.
    pub fn keep(&self, name: &str, descriptor: OwnedFd) {
        self.inbox.lock().keep(name, descriptor);
    }

    /// Closes everything that is stored (`systemctl clean --what=fdstore`).
    pub fn forget(&self) {
        self.inbox.lock().stored.clear();
    }

    /// The names of what is stored, in the order in which it is offered.
    pub fn stored(&self) -> Vec<String> {
        self.inbox.lock().stored.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Everything that was said so far.
    pub fn notices(&self) -> Vec<Notice> {
        self.inbox.lock().notices.clone()
    }

    /// Waits until process `pid` has made `assignment`, such as `READY=1`; `false` if it has not within `patience`.
    pub fn heard(&self, pid: u32, assignment: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.inbox.lock();
        loop {
            if state.notices.iter().any(|n| n.pid == pid && n.assignments.iter().any(|a| a == assignment)) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.inbox.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.inbox.lock().over = true;
        // Wakes the receiver.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.listening.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, pid: u32, text: &str, descriptors: Vec<OwnedFd>) {
        let assignments: Vec<String> = text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
        let value = |name: &str| assignments.iter().find_map(|a| a.strip_prefix(name)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored");
        let mut state = self.lock();
        state.notices.push(Notice { pid, assignments: assignments.clone(), descriptors: descriptors.len() });
        if value("FDSTOREREMOVE") == Some("1") {
            state.stored.retain(|(stored, _)| stored != name);
        } else if value("FDSTORE") == Some("1") && self.store == Store::Kept {
            for descriptor in descriptors {
                state.keep(name, descriptor);
            }
        }
        // Whatever was not stored is closed here. That also answers BARRIER=1.
        self.arrived.notify_all();
    }
}

impl State {
    /// The same socket is stored once, however often it is sent (sd_notify(3)).
    fn keep(&mut self, name: &str, descriptor: OwnedFd) {
        let known = self.stored.iter().any(|(_, stored)| is_same_socket(stored, &descriptor));
        if !known && self.stored.len() < STORE_MAX {
            self.stored.push((name.to_owned(), Arc::new(descriptor)));
        }
    }
}

/// Other kinds of descriptors share an inode without being the same.
fn is_same_socket(one: impl AsFd, other: impl AsFd) -> bool {
    let (Ok(one), Ok(other)) = (fstat(one), fstat(other)) else { return false };
    let is_socket = FileType::from_raw_mode(one.st_mode) == FileType::Socket;
    is_socket && (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn listen(socket: &UnixDatagram, inbox: &Inbox) {
    let mut text = [0; 4096];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STORE_MAX), ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let Ok(got) = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) else { return };
        let (mut pid, mut descriptors) = (0, Vec::new());
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
                RecvAncillaryMessage::ScmCredentials(who) => pid = who.pid.as_raw_nonzero().get().unsigned_abs(),
                _ => {}
            }
        }
        if inbox.lock().over {
            return;
        }
        inbox.take(pid, &String::from_utf8_lossy(&text[..got.bytes]), descriptors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(store: Store) -> Inbox {
        Inbox { store, state: Mutex::default(), arrived: Condvar::new() }
    }

    fn socket() -> OwnedFd {
        UnixDatagram::unbound().unwrap().into()
    }

    fn names(inbox: &Inbox) -> Vec<String> {
        inbox.lock().stored.iter().map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn what_is_stored_has_a_name_is_stored_once_and_can_be_removed() {
        let inbox = inbox(Store::Kept);
        let listener = socket();
        inbox.take(7, "FDSTORE=1\nFDNAME=listener\n", vec![listener.try_clone().unwrap()]);
        inbox.take(7, "FDSTORE=1\nFDNAME=listener\n", vec![listener.try_clone().unwrap(), socket()]);
        inbox.take(7, "FDSTORE=1", vec![socket()]);
        assert_eq!(names(&inbox), ["listener", "listener", "stored"]);
        inbox.take(7, "FDSTOREREMOVE=1\nFDNAME=listener", Vec::new());
        assert_eq!(names(&inbox), ["stored"]);
        let last = inbox.lock().notices.last().cloned().unwrap();
        assert_eq!(
            last,
            Notice { pid: 7, assignments: vec!["FDSTOREREMOVE=1".into(), "FDNAME=listener".into()], descriptors: 0 }
        );
    }

    #[test]
    fn without_a_store_nothing_is_kept() {
        let inbox = inbox(Store::None);
        inbox.take(7, "FDSTORE=1\nFDNAME=listener\n", vec![socket()]);
        assert_eq!(names(&inbox), [""; 0]);
        assert_eq!(inbox.lock().notices.len(), 1);
    }
}
