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
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer may take, with connecting and all attempts. Less than the service manager's patience with us: the agent loop asks,
/// too.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take where a look into a table is all there is to do: the thread that serves everybody waits for it. When one such
/// question was not answered, none is asked for as long, so that that thread serves and denies at least half of its time.
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
    quick: Duration,
    /// When a quick question was given up.
    silent: Mutex<Option<Instant>>,
}

impl Client {
    /// `None`: the variable is not set, so there is none.
    pub(crate) fn new(variable: Option<&OsStr>) -> io::Result<Option<Arc<Self>>> {
        let Some(path) = variable.filter(|path| !path.is_empty()) else { return Ok(None) };
        Self::with_patience(path, QUICK).map(|client| Some(Arc::new(client)))
    }

    /// `quick`: [`QUICK`], or less for tests.
    pub(super) fn with_patience(path: &OsStr, quick: Duration) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        Ok(Self { address, idle: Mutex::default(), quick, silent: Mutex::default() })
    }

    /// Has it load, or take over what an earlier agent left. Only for who has the listener.
    pub(crate) fn load(self: &Arc<Self>) -> Result<Remote, RedirectError> {
        let loaded = self.text(&Request::Load);
        self.relay();
        loaded?;
        let client = Arc::clone(self);
        Ok(Remote(Arc::new(Shared { client, reload: Mutex::default(), reloaded: Condvar::new() })))
    }

    /// Whether an earlier agent left something in the kernel.
    pub(crate) fn succeeds(&self) -> Result<bool, RedirectError> {
        self.yes(&Request::Succeeds, None)
    }

    /// Takes a socket of our own out of redirect and port guard, ours or those that an earlier agent left.
    pub(crate) fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        self.yes(&Request::Exempt, Some(socket)).map(drop)
    }

    /// Whether a socket belongs to the machine's network; `None` if nobody can be asked.
    pub(crate) fn is_ours(&self, socket: BorrowedFd<'_>) -> Result<Option<bool>, RedirectError> {
        match self.call(&Request::IsOurs, Some(socket)) {
            Ok((Reply::Done, _)) => Ok(Some(true)),
            Ok((Reply::None, _)) => Ok(Some(false)),
            Ok((other, _)) => Err(failure(other)),
            Err(e) => {
                log::warn!("Whether the listener belongs to this network cannot be told: {e}");
                Ok(None)
            }
        }
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
        let patience = self.patience(request);
        let quick = patience <= self.quick;
        if quick && self.silent().is_some_and(|since| since.elapsed() < self.quick) {
            return Err(cannot_ask(&io::ErrorKind::TimedOut.into()));
        }
        let answer = self.answer(request, descriptor, Instant::now() + patience);
        match &answer {
            Ok(_) => *self.silent() = None,
            Err(e) if quick && is_late(e) => *self.silent() = Some(Instant::now()),
            Err(_) => {}
        }
        answer.map_err(|e| cannot_ask(&e))
    }

    fn patience(&self, request: &Request) -> Duration {
        match request {
            Request::Load => LOADING,
            // Another process, a large file, something to repair, or the first question of all, which starts the redirector.
            Request::Examine(_) | Request::CgroupPath(_) | Request::Hash => PATIENCE,
            Request::Check | Request::Succeeds | Request::IsOurs => PATIENCE,
            _ => self.quick,
        }
    }

    fn answer(
        &self,
        request: &Request,
        descriptor: Option<BorrowedFd<'_>>,
        until: Instant,
    ) -> io::Result<(Reply, Option<OwnedFd>)> {
        let bytes = request.encode();
        for _ in 0..ATTEMPTS {
            let kept = self.idle().pop();
            let line = match kept {
                Some(line) => line,
                None => match self.connect(until.min(Instant::now() + PATIENCE))? {
                    Some(line) => line,
                    None => continue,
                },
            };
            if let Some(answer) = ask(&line, request, &bytes, descriptor, until)? {
                let mut idle = self.idle();
                if idle.len() < KEPT {
                    idle.push(line);
                }
                return Ok(answer);
            }
            // The others are as old.
            self.idle().clear();
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// A new line; `None`: who had been there has just gone.
    fn connect(&self, until: Instant) -> io::Result<Option<OwnedFd>> {
        let line = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&line, sockopt::Timeout::Send, Some(left(until)?))?;
        connect(&line, &self.address)?;
        let hello = Request::Hello(cli::VERSION.to_owned());
        match ask(&line, &hello, &hello.encode(), None, until)? {
            Some((Reply::Done, _)) => Ok(Some(line)),
            _ => Ok(None),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn silent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None`: nobody is there any more.
fn ask(
    line: &OwnedFd,
    request: &Request,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
    until: Instant,
) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
    sockopt::set_socket_timeout(line, sockopt::Timeout::Recv, Some(left(until)?))?;
    match wire::send(line.as_fd(), bytes, descriptor) {
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => return Ok(None),
        other => other?,
    }
    let Some((message, descriptor)) = wire::receive(line.as_fd(), request.reply_max())? else { return Ok(None) };
    let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "its answer means nothing");
    Reply::decode(&message).map(|reply| Some((reply, descriptor))).ok_or_else(nonsense)
}

/// The time until then; an error if there is none.
fn left(until: Instant) -> io::Result<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or(io::ErrorKind::TimedOut.into())
}

/// Whether it is only that there was no answer in time.
fn is_late(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn cannot_ask(e: &io::Error) -> RedirectError {
    RedirectError::Elsewhere(match is_late(e) {
        true => "the redirector does not answer".into(),
        false => format!("the redirector cannot be asked: {e}"),
    })
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
pub(crate) struct Remote(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    reload: Mutex<Reload>,
    /// An attempt has ended.
    reloaded: Condvar,
}

/// Attempts to have a redirector that was started anew load again.
#[derive(Debug, Default)]
struct Reload {
    under_way: bool,
    /// The last one's beginning.
    begun: Option<Instant>,
    /// Why it failed.
    failure: Option<String>,
}

impl Shared {
    /// Has it load, on a thread of its own: that may take longer than who asks can wait. One at a time; `None`: nobody needs to be
    /// waited for any more.
    fn reload(self: &Arc<Self>, until: Instant) -> Option<RedirectError> {
        let mut reload = self.lock();
        if !reload.under_way && reload.begun.is_none_or(|begun| begun.elapsed() >= AGAIN) {
            (reload.under_way, reload.begun) = (true, Some(Instant::now()));
            let shared = Arc::clone(self);
            if let Err(e) = std::thread::Builder::new().name("reload".into()).spawn(move || shared.load()) {
                reload.under_way = false;
                return Some(cannot_ask(&e));
            }
        }
        while reload.under_way {
            let Ok(left) = left(until) else { return Some(RedirectError::Elsewhere("the redirector is still loading".into())) };
            reload = self.reloaded.wait_timeout(reload, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        reload.failure.clone().map(RedirectError::Elsewhere)
    }

    fn load(&self) {
        let result = self.client.text(&Request::Load);
        match &result {
            Ok(how) => log::warn!("The redirector was started anew: {how}"),
            Err(e) => log::warn!("The redirector was started anew, and cannot load: {e}"),
        }
        self.client.relay();
        let mut reload = self.lock();
        (reload.under_way, reload.failure) = (false, result.err().map(|e| e.to_string()));
        drop(reload);
        self.reloaded.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Reload> {
        self.reload.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote {
    /// A question that needs the programs: a redirector that had ended, and was started anew by this very question, first takes them over.
    fn call(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<Reply, RedirectError> {
        let client = &self.0.client;
        let until = Instant::now() + client.patience(request);
        match client.call(request, descriptor)? {
            (Reply::NotLoaded, _) => {}
            (reply, _) => return Ok(reply),
        }
        match self.0.reload(until) {
            None => Ok(client.call(request, descriptor)?.0),
            Some(e) => Err(e),
        }
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
        self.0.client.exempt(socket)
    }

    fn set_targets(&self, modes: PerDestination<TargetMode>) -> Result<(), RedirectError> {
        self.done(&Request::SetTargets(modes))
    }

    fn check(&self) -> Result<(), RedirectError> {
        let checked = self.done(&Request::Check);
        self.0.client.relay();
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
