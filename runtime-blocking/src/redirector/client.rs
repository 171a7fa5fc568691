//! The daemon's side: asks the redirector.

use super::wire::{self, Reply, Request};
use crate::cli;
use azure_proxy_agent_core::identity::{ExeFact, ExeHash, KernelRecord, PerDestination, ProcessFacts, TargetMode};
use redirect_ebpf::verify::Examined;
use redirect_ebpf::{RedirectError, Redirector};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer may take. Less than the service manager's patience with us: the agent loop asks, too.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take where a look into a table is all there is to do: who accepts connections waits for it.
const QUICK: Duration = Duration::from_secs(5);
/// How long loading may take: the verifier's work, on a slow machine, within the limit on processor time.
const LOADING: Duration = Duration::from_secs(60);
/// How often a redirector may be gone when it is asked.
const ATTEMPTS: usize = 4;
/// Most lines that are taken over into the log at a time.
const RELAYED: usize = 64;
/// It must not happen; what it was is not worth the code that says it.
const ANOTHER: &str = "the redirector's answer is to another question";
/// Lines that are kept for the next question.
const KEPT: usize = 8;
/// Pause between attempts to have a redirector that was started anew load again, so that a caller cannot cause one with each connection.
const AGAIN: Duration = Duration::from_secs(1);

/// A redirector that the service manager starts for us.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddrUnix,
    /// Lines on which no question is under way. As long as we have one the redirector stays.
    idle: Mutex<Vec<OwnedFd>>,
}

impl Client {
    /// `None`: the variable is not set, so there is none.
    pub(crate) fn new(variable: Option<&OsStr>) -> io::Result<Option<Arc<Self>>> {
        let Some(path) = variable.filter(|path| !path.is_empty()) else { return Ok(None) };
        let address = SocketAddrUnix::new(path)?;
        Ok(Some(Arc::new(Self { address, idle: Mutex::default() })))
    }

    /// Has it load, or take over what an earlier agent left. Only for who has the listener.
    pub(crate) fn load(self: &Arc<Self>) -> Result<Remote, RedirectError> {
        let loaded = self.text(&Request::Load);
        self.relay();
        loaded?;
        Ok(Remote { client: Arc::clone(self), reloaded: Mutex::new(None) })
    }

    /// Whether an earlier agent left something in the kernel.
    pub(crate) fn succeeds(&self) -> Result<bool, RedirectError> {
        self.yes(&Request::Succeeds, None)
    }

    /// Takes a socket of our own out of redirect and port guard, ours or those that an earlier agent left.
    pub(crate) fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        self.yes(&Request::Exempt, Some(socket)).map(drop)
    }

    /// Whether a socket belongs to the machine's network.
    pub(crate) fn is_ours(&self, socket: BorrowedFd<'_>) -> Result<bool, RedirectError> {
        self.yes(&Request::IsOurs, Some(socket))
    }

    /// As [`examine`](redirect_ebpf::verify::examine). What cannot be asked is as good as gone.
    pub(crate) fn examine(&self, record: &KernelRecord) -> Examined {
        match self.call(&Request::Examine(*record), None) {
            Ok((Reply::Facts(facts), exe)) => Examined { facts, exe },
            other => {
                complain::<()>(&other);
                Examined { facts: ProcessFacts { exe: ExeFact::Gone, cmdline: None }, exe: None }
            }
        }
    }

    /// The path of a control group, if it has one.
    pub(crate) fn cgroup_path(&self, id: u64) -> Option<Vec<u8>> {
        match self.call(&Request::CgroupPath(id), None) {
            Ok((Reply::Path(path), _)) => Some(path),
            Ok((Reply::None, _)) => None,
            other => complain(&other),
        }
    }

    /// The hash of an executable that [`examine`](Self::examine) returned.
    pub(crate) fn exe_hash(&self, exe: BorrowedFd<'_>) -> Option<ExeHash> {
        match self.call(&Request::Hash, Some(exe)) {
            Ok((Reply::Hash(hash), _)) => Some(hash),
            Ok((Reply::None, _)) => None,
            other => complain(&other),
        }
    }

    /// Logs what the redirector has to say.
    fn relay(&self) {
        for _ in 0..RELAYED {
            match self.call(&Request::Said, None) {
                Ok((Reply::Line(level, text), _)) => log::log!(level, "{text}"),
                _ => return,
            }
        }
    }

    fn text(&self, request: &Request) -> Result<String, RedirectError> {
        match self.call(request, None)? {
            (Reply::Text(text), _) => Ok(text),
            other => Err(failure(other.0)),
        }
    }

    fn yes(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<bool, RedirectError> {
        match self.call(request, descriptor)? {
            (Reply::Done, _) => Ok(true),
            (Reply::None, _) => Ok(false),
            other => Err(failure(other.0)),
        }
    }

    /// One question, one answer. A redirector that ended since the last one is started again by asking the next; one that ends just now,
    /// because its daemon did or because it is of another version, may be met a few times.
    fn call(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<(Reply, Option<OwnedFd>), RedirectError> {
        let error = |e: io::Error| RedirectError::Elsewhere(format!("the redirector cannot be asked: {e}"));
        let bytes = request.encode();
        for _ in 0..ATTEMPTS {
            let kept = self.idle().pop();
            let line = match kept {
                Some(line) => line,
                None => match self.connect().map_err(error)? {
                    Some(line) => line,
                    None => continue,
                },
            };
            if let Some((reply, descriptor)) = ask(&line, request, &bytes, descriptor).map_err(error)? {
                let mut idle = self.idle();
                if idle.len() < KEPT {
                    idle.push(line);
                }
                return Ok((reply, descriptor));
            }
            // The others are as old.
            self.idle().clear();
        }
        Err(error(io::ErrorKind::UnexpectedEof.into()))
    }

    /// A new line; `None`: who had been there has just gone.
    fn connect(&self) -> io::Result<Option<OwnedFd>> {
        let line = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&line, sockopt::Timeout::Send, Some(PATIENCE))?;
        connect(&line, &self.address)?;
        let hello = Request::Hello(cli::VERSION.to_owned());
        match ask(&line, &hello, &hello.encode(), None)? {
            Some((Reply::Done, _)) => Ok(Some(line)),
            _ => Ok(None),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None`: nobody is there any more.
fn ask(
    line: &OwnedFd,
    request: &Request,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
    let patience = match request {
        Request::Identify | Request::Exempt => QUICK,
        Request::Load => LOADING,
        _ => PATIENCE,
    };
    sockopt::set_socket_timeout(line, sockopt::Timeout::Recv, Some(patience))?;
    match wire::send(line.as_fd(), bytes, descriptor) {
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => return Ok(None),
        other => other?,
    }
    let Some((message, descriptor)) = wire::receive(line.as_fd(), request.reply_max())? else { return Ok(None) };
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "its answer means nothing");
    Reply::decode(&message).map(|reply| Some((reply, descriptor))).ok_or_else(nonsense)
}

fn failure(reply: Reply) -> RedirectError {
    RedirectError::Elsewhere(match reply {
        Reply::Failed(text) => text,
        Reply::NotLoaded => "the redirector is not loaded".into(),
        _ => ANOTHER.into(),
    })
}

fn complain<T>(answer: &Result<(Reply, Option<OwnedFd>), RedirectError>) -> Option<T> {
    match answer {
        Ok((Reply::Failed(text), _)) => log::warn!("{text}"),
        Ok(_) => log::warn!("{ANOTHER}"),
        Err(e) => log::warn!("{e}"),
    }
    None
}

/// The redirect, once it is loaded.
#[derive(Debug)]
pub(crate) struct Remote {
    client: Arc<Client>,
    /// When one that had been started anew was last told to load.
    reloaded: Mutex<Option<Instant>>,
}

impl Remote {
    /// A question that needs the programs: a redirector that had ended, and was started anew by this very question, first takes them over.
    fn call(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<Reply, RedirectError> {
        match self.client.call(request, descriptor)? {
            (Reply::NotLoaded, _) => {}
            (reply, _) => return Ok(reply),
        }
        // One at a time: the others find it loaded.
        let mut last = self.reloaded.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= AGAIN) {
            *last = Some(Instant::now());
            let how = self.client.text(&Request::Load)?;
            log::warn!("The redirector was started anew: {how}");
            self.client.relay();
        }
        drop(last);
        Ok(self.client.call(request, descriptor)?.0)
    }

    fn done(&self, request: &Request) -> Result<(), RedirectError> {
        match self.call(request, None)? {
            Reply::Done => Ok(()),
            other => Err(failure(other)),
        }
    }

    fn record(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<Option<KernelRecord>, RedirectError> {
        match self.call(request, descriptor)? {
            Reply::Record(record) => Ok(Some(record)),
            Reply::None => Ok(None),
            other => Err(failure(other)),
        }
    }
}

impl Redirector for Remote {
    fn identify(&self, accepted: BorrowedFd<'_>) -> Result<Option<KernelRecord>, RedirectError> {
        self.record(&Request::Identify, Some(accepted))
    }

    fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        self.client.exempt(socket)
    }

    fn set_targets(&self, modes: PerDestination<TargetMode>) -> Result<(), RedirectError> {
        self.done(&Request::SetTargets(modes))
    }

    fn check(&self) -> Result<(), RedirectError> {
        let checked = self.done(&Request::Check);
        self.client.relay();
        checked
    }

    fn heartbeat(&self) -> Result<(), RedirectError> {
        self.done(&Request::Heartbeat)
    }

    fn next_foreign(&self) -> Result<Option<KernelRecord>, RedirectError> {
        self.record(&Request::NextForeign, None)
    }

    fn describe(&self) -> String {
        match self.call(&Request::Describe, None) {
            Ok(Reply::Text(text)) => text,
            Ok(other) => failure(other).to_string(),
            Err(e) => e.to_string(),
        }
    }
}
