//! `azure-proxy-agent redirector`: does what needs privileges, for one daemon, for as long as that is there.
//!
//! It outlives no daemon: it ends when the last line is closed, and what it has pinned stays in the kernel (S-03). The listening socket is
//! the service manager's, so the next line starts it again, and it takes over what is pinned.

use super::client::PATIENCE;
use super::said::Said;
use super::wire::{self, Reply, Request};
use crate::config::Config;
use crate::host::Host;
use crate::host::exe_hash::ExeHashes;
use crate::{cli, memory, redirection};
use azure_proxy_agent_core::identity::{ExeFact, ProcessFacts};
use log::Log as _;
use redirect_ebpf::verify::{self, Examined};
use redirect_ebpf::{Hierarchy, Pins, RedirectError, Redirector};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, sockopt};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Most lines at a time: one for each question that is under way. A daemon needs a third of them; the others are questions that hang.
pub(super) const LINES: usize = 64;
/// Most looks at processes of one user that hang: anybody can make reading the arguments of a process of his own hang, in the kernel, for
/// as long as he likes.
pub(super) const HANGING: usize = 4;

/// Loads the programs; another one for tests.
type Load = dyn Fn() -> Result<Arc<dyn Redirector>, RedirectError> + Send + Sync;

/// What questions are about.
pub(super) struct Server {
    load: Box<Load>,
    pins: Option<PathBuf>,
    state: Mutex<State>,
    /// Found when rules ask for it first.
    cgroups: OnceLock<Option<Hierarchy>>,
    exe_hashes: ExeHashes,
    looks: Looks,
    said: Arc<Said>,
}

/// Looks at processes that are under way: of which user, since when.
#[derive(Default)]
pub(super) struct Looks(Mutex<Vec<(u32, Instant)>>);

impl Looks {
    /// Looks, unless too many at this user's processes hang: longer than `overdue`, so that nobody waits for them.
    pub(super) fn look(&self, user: u32, overdue: Duration, look: impl FnOnce() -> Examined) -> Examined {
        let begun = Instant::now();
        let mut all = self.lock();
        if all.iter().filter(|(whose, since)| *whose == user && begun.duration_since(*since) >= overdue).count() >= HANGING {
            drop(all);
            log::debug!("A process of user {user} was not looked at: {HANGING} others of the same user hang");
            return Examined { facts: ProcessFacts { exe: ExeFact::Gone, cmdline: None }, exe: None };
        }
        all.push((user, begun));
        drop(all);
        let examined = look();
        let mut all = self.lock();
        if let Some(at) = all.iter().position(|one| *one == (user, begun)) {
            all.swap_remove(at);
        }
        examined
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u32, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    redirector: Option<Arc<dyn Redirector>>,
    /// What an earlier agent left, until ours is loaded.
    pins: Option<Arc<Pins>>,
}

/// Serves on the socket that the service manager handed over, until nobody is there. Returns only if it cannot begin.
///
/// # Errors
/// Why it cannot.
pub(crate) fn run(handed_over: Vec<(OwnedFd, String)>, config: Config) -> io::Result<()> {
    let listener = choose(handed_over)?;
    memory::one_heap();
    let said = Said::listening();
    let options = redirection::load_options(&config);
    let server = Arc::new(Server::new(Box::new(move || redirection::load(&options)), config.pin_folder, Arc::clone(&said)));
    serve(&listener, &server, move || {
        said.flush();
        std::process::exit(0)
    })
}

/// The listening socket among what was handed over.
fn choose(handed_over: Vec<(OwnedFd, String)>) -> io::Result<OwnedFd> {
    let fits = |socket: &OwnedFd| {
        sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(socket) == Ok(SocketType::SEQPACKET)
            && sockopt::socket_acceptconn(socket) == Ok(true)
    };
    let listener = handed_over.into_iter().map(|(socket, _)| socket).find(fits);
    let listener = listener.ok_or_else(|| {
        io::Error::other("the redirector is started by the service manager, with a socket (azure-proxy-agent-redirector.socket)")
    })?;
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&listener, false)?;
    Ok(listener)
}

/// Accepts lines; `over` is called when the last one is closed. What comes at that very moment is still in the queue, or finds its line
/// closed and asks again.
pub(super) fn serve(listener: &OwnedFd, server: &Arc<Server>, over: impl Fn() + Clone + Send + 'static) -> io::Result<()> {
    let lines = Arc::new(Mutex::new(0_usize));
    loop {
        let line = match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(line) => line,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(e) => return Err(e.into()),
        };
        // The socket's mode says so already.
        if !sockopt::socket_peercred(&line).is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
            continue;
        }
        let mut count = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if *count >= LINES {
            // For ever, perhaps. Who is started anew takes over what is pinned, and has all lines free.
            log::error!("The redirector ends, because all of its lines are taken by questions that hang");
            over();
            continue;
        }
        *count += 1;
        drop(count);
        let (server, lines, over) = (Arc::clone(server), Arc::clone(&lines), over.clone());
        let attend = move || {
            if server.attend(line.as_fd()) == End::Outdated {
                over();
            }
            let mut count = lines.lock().unwrap_or_else(PoisonError::into_inner);
            *count -= 1;
            if *count == 0 {
                over();
            }
            drop(count);
        };
        std::thread::Builder::new().name("line".into()).spawn(attend)?;
    }
}

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The other side has gone.
    Gone,
    /// It is of another version than we: there is a redirector of that version, too, where we were started from.
    Outdated,
}

impl Server {
    /// `pins`: where an earlier agent may have left something; `said`: what waits for the log.
    pub(super) fn new(load: Box<Load>, pins: Option<PathBuf>, said: Arc<Said>) -> Self {
        Self {
            load,
            pins,
            state: Mutex::default(),
            cgroups: OnceLock::new(),
            exe_hashes: ExeHashes::default(),
            looks: Looks::default(),
            said,
        }
    }

    /// Answers until the other side has gone, or sends what is no question.
    pub(super) fn attend(&self, line: BorrowedFd<'_>) -> End {
        loop {
            let (message, descriptor) = match wire::receive(line, wire::REQUEST_MAX) {
                Ok(Some(got)) => got,
                Ok(None) => return End::Gone,
                Err(e) => {
                    log::warn!("The daemon cannot be heard: {e}");
                    return End::Gone;
                }
            };
            let Some(request) = Request::decode(&message) else {
                log::warn!("The daemon asks what means nothing");
                return End::Gone;
            };
            if let Request::Hello(version) = &request
                && version != cli::VERSION
            {
                log::info!("The redirector is of version {} and ends, for the daemon is of version {version:?}", cli::VERSION);
                return End::Outdated;
            }
            let (reply, descriptor) = self.answer(&request, descriptor.as_ref().map(AsFd::as_fd));
            if let Err(e) = wire::send(line, &reply.encode(), descriptor.as_ref().map(AsFd::as_fd)) {
                log::debug!("The daemon did not wait for its answer: {e}");
                return End::Gone;
            }
        }
    }

    pub(super) fn answer(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> (Reply, Option<OwnedFd>) {
        if let Request::Examine(record) = request {
            let Examined { facts, exe } = self.looks.look(record.uid, PATIENCE, || verify::examine(record));
            return (Reply::Facts(facts), exe);
        }
        let reply = match request {
            Request::Hello(_) => Ok(Reply::Done),
            Request::Said => Ok(self.said.next().map_or(Reply::None, |(level, text)| Reply::Line(level, text))),
            Request::Load => self.load(),
            Request::Succeeds => Ok(if self.pins().is_some() { Reply::Done } else { Reply::None }),
            Request::Exempt => needed(descriptor).and_then(|socket| self.exempt(socket)),
            Request::IsOurs => needed(descriptor)
                .and_then(|socket| {
                    Host::is_in_our_network(socket).map_err(|source| RedirectError::System { what: "SIOCGSKNS", source })
                })
                .map(|ours| if ours { Reply::Done } else { Reply::None }),
            Request::CgroupPath(id) => Ok(self.cgroup_path(*id).map_or(Reply::None, Reply::Path)),
            Request::Hash => needed(descriptor).map(|file| self.exe_hashes.get(file).map_or(Reply::None, Reply::Hash)),
            loaded => self.loaded(loaded, descriptor),
        };
        (reply.unwrap_or_else(|e| Reply::Failed(e.to_string())), None)
    }

    /// What can be asked only when the programs are loaded.
    fn loaded(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> Result<Reply, RedirectError> {
        let Some(redirector) = self.state().redirector.clone() else { return Ok(Reply::NotLoaded) };
        let done = |()| Reply::Done;
        let record = |record: Option<_>| record.map_or(Reply::None, Reply::Record);
        match request {
            Request::Identify => needed(descriptor).and_then(|socket| redirector.identify(socket)).map(record),
            Request::NextForeign => redirector.next_foreign().map(record),
            Request::SetTargets(modes) => redirector.set_targets(*modes).map(done),
            Request::Check => redirector.check().map(done),
            Request::Heartbeat => redirector.heartbeat().map(done),
            _ => Ok(Reply::Text(redirector.describe())),
        }
    }

    fn load(&self) -> Result<Reply, RedirectError> {
        let mut state = self.state();
        let redirector = match &state.redirector {
            Some(redirector) => Arc::clone(redirector),
            None => {
                let redirector = (self.load)()?;
                *state = State { redirector: Some(Arc::clone(&redirector)), pins: None };
                redirector
            }
        };
        drop(state);
        Ok(Reply::Text(redirector.describe()))
    }

    fn exempt(&self, socket: BorrowedFd<'_>) -> Result<Reply, RedirectError> {
        if let Some(redirector) = self.state().redirector.clone() {
            redirector.exempt(socket)?;
        } else if let Some(pins) = self.pins() {
            pins.exempt(socket)?;
        }
        // Otherwise nothing is redirected or guarded.
        Ok(Reply::Done)
    }

    fn pins(&self) -> Option<Arc<Pins>> {
        let mut state = self.state();
        if state.redirector.is_none() && state.pins.is_none() {
            state.pins = Pins::open(self.pins.as_deref()?)
                .unwrap_or_else(|e| {
                    log::error!("What an earlier agent left in the kernel cannot be used: {e}");
                    None
                })
                .map(Arc::new);
        }
        state.pins.clone()
    }

    fn cgroup_path(&self, id: u64) -> Option<Vec<u8>> {
        self.cgroups.get_or_init(Hierarchy::find).as_ref()?.path(id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn needed(descriptor: Option<BorrowedFd<'_>>) -> Result<BorrowedFd<'_>, RedirectError> {
    descriptor.ok_or_else(|| RedirectError::Elsewhere("a question about a descriptor came without one".into()))
}
