//! What outlives the agent (S-03): links and maps under a directory of a bpffs, one subdirectory for each layout of the maps.
//!
//! ```text
//! /sys/fs/bpf/azure-proxy-agent/      root:root 0700; locked by the agent that runs
//!     v1/                             the number is `LAYOUT`
//!         config targets heartbeat sk_exempt sk_who peer_who flows counters foreign
//!         build                       which object the links hold, once all of them do
//!         link_bind4 ... link_connect6
//! ```

use crate::error::RedirectError;
use crate::sys::{self, Kind, SocketStorage};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// Begins the names of pinned links.
pub(crate) const LINK: &str = "link_";

/// Opens the root of the pins if it is there; refuses one that others than root could have made or could change.
pub(crate) fn open_root(path: &Path) -> Result<Option<OwnedFd>, RedirectError> {
    let refuse = |reason: &str| RedirectError::PinRoot { path: path.to_owned(), reason: reason.to_owned() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        // With O_DIRECTORY, a symbolic link is "not a directory".
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(refuse("is no directory, or a link to one")),
        Err(e) => return Err(refuse(&e.to_string())),
    };
    let stat = rustix::fs::fstat(&dir).map_err(|e| refuse(&e.to_string()))?;
    if stat.st_uid != 0 {
        return Err(refuse("is not owned by root"));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(refuse("is writable by others than root"));
    }
    if !is_bpffs(rustix::fs::fstatfs(&dir)) {
        return Err(refuse("is not in a bpf file system"));
    }
    Ok(Some(dir))
}

pub(crate) fn is_bpffs(stat: Result<rustix::fs::StatFs, Errno>) -> bool {
    stat.is_ok_and(|s| s.f_type == BPF_FS_MAGIC)
}

/// Only one agent at a time changes what is pinned. The lock goes with the descriptor, so with the process.
pub(crate) fn lock(path: &Path, dir: BorrowedFd<'_>) -> Result<(), RedirectError> {
    match rustix::fs::flock(dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(RedirectError::Busy { path: path.to_owned() }),
        Err(e) => Err(RedirectError::PinRoot { path: path.to_owned(), reason: format!("cannot be locked: {e}") }),
    }
}

/// The directories of layouts under `root`, the newest first.
pub(crate) fn layouts(root: &Path) -> Result<Vec<(u32, PathBuf)>, RedirectError> {
    let mut found: Vec<_> = entries(root)?.into_iter().filter_map(|path| Some((layout(&path)?, path))).collect();
    found.sort_unstable_by_key(|(layout, _)| std::cmp::Reverse(*layout));
    Ok(found)
}

fn layout(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()
}

/// What is in a directory; nothing if there is none.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, RedirectError> {
    let error = |source| RedirectError::Pin { path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path()).map_err(error)).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(error(e)),
    }
}

/// Removes a pin, or whatever is in its place: the directory is ours alone. That it is not there is as good.
pub(crate) fn unpin(path: &Path) -> Result<(), RedirectError> {
    gone(
        path,
        fs::remove_file(path)
            .or_else(|e| if e.kind() == io::ErrorKind::IsADirectory { fs::remove_dir_all(path) } else { Err(e) }),
    )
}

/// Removes an empty directory of pins.
pub(crate) fn remove_dir(path: &Path) -> Result<(), RedirectError> {
    gone(path, fs::remove_dir(path))
}

fn gone(path: &Path, result: io::Result<()>) -> Result<(), RedirectError> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RedirectError::Pin { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

/// What an earlier agent left pinned: enough for its successor to get past the port guard before it has loaded anything.
#[derive(Debug)]
pub struct Pins {
    exempt: Vec<SocketStorage<u32>>,
}

impl Pins {
    /// Opens what agents left under `root`, of all layouts; `None` if there is nothing.
    ///
    /// # Errors
    /// The directory is not to be trusted, or cannot be read.
    pub fn open(root: &Path) -> Result<Option<Self>, RedirectError> {
        if open_root(root)?.is_none() {
            return Ok(None);
        }
        let mut exempt = Vec::new();
        for (_, dir) in layouts(root)? {
            // Its key and value are the same in every layout. One that is missing or foreign marks nothing: `load` puts it right.
            let Ok(map) = sys::open_pin(&dir.join("sk_exempt")) else { continue };
            if sys::kind(map.as_fd()).is_ok_and(|kind| kind == Kind::Map)
                && let Ok(Some(map)) = SocketStorage::new(map, "sk_exempt")
            {
                exempt.push(map);
            }
        }
        Ok((!exempt.is_empty()).then_some(Self { exempt }))
    }

    /// Takes a socket of the agent's own out of the redirect and the port guard that are in force, before
    /// [`EbpfRedirector::load`](crate::EbpfRedirector::load) (S-10). Before `bind()` or `connect()`.
    ///
    /// # Errors
    /// The descriptor is no socket, or the kernel refused.
    pub fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        self.exempt
            .iter()
            .try_for_each(|storage| storage.set(socket, 1).map_err(|source| RedirectError::Map { map: storage.name(), source }))
    }
}

/// What [`detach`] removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detached {
    /// Names of the programs that were attached.
    pub programs: Vec<String>,
    /// How many pinned maps were removed.
    pub maps: usize,
    /// The directories that were removed, the root last.
    pub directories: Vec<PathBuf>,
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(root) = self.directories.last() else { return f.write_str("nothing was pinned") };
        write!(f, "{} programs detached", self.programs.len())?;
        for (i, program) in self.programs.iter().enumerate() {
            write!(f, "{}{program}", if i == 0 { " (" } else { ", " })?;
        }
        let end = if self.programs.is_empty() { "" } else { ")" };
        write!(f, "{end}, {} maps removed, {} removed", self.maps, root.display())
    }
}

/// Ends the redirect that agents left pinned under `root`, of all layouts, the redirect first: detaches the links and removes the
/// pins and their directories. Does nothing where there is nothing.
///
/// # Errors
/// [`RedirectError::Busy`] if an agent runs; otherwise the directory is not to be trusted, or something could not be removed: what
/// came before that is gone, and the next call goes on.
pub fn detach(root: &Path) -> Result<Detached, RedirectError> {
    let mut done = Detached::default();
    let Some(dir) = open_root(root)? else { return Ok(done) };
    lock(root, dir.as_fd())?;
    let layouts = layouts(root)?;
    let (mut links, mut others) = (Vec::new(), Vec::new());
    for (_, dir) in &layouts {
        let all = entries(dir)?.into_iter();
        all.for_each(|path| if program(&path).is_some() { links.push(path) } else { others.push(path) });
    }
    // What redirects goes before what makes a redirected connection safe, and nothing of another layout stops it.
    links.sort_by_key(|path| !program(path).is_some_and(|p| p.starts_with("connect")));
    for path in links {
        if detach_link(&path)? {
            done.programs.extend(program(&path).map(str::to_owned));
        }
        unpin(&path)?;
    }
    for path in others {
        unpin(&path)?;
        done.maps += 1;
    }
    for (_, dir) in layouts {
        remove_dir(&dir)?;
        done.directories.push(dir);
    }
    remove_dir(root)?;
    done.directories.push(root.to_owned());
    Ok(done)
}

/// The program behind a pinned link, by its name.
fn program(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix(LINK)
}

/// Whether there was something attached.
fn detach_link(path: &Path) -> Result<bool, RedirectError> {
    let error = |source| RedirectError::Pin { path: path.to_owned(), source };
    // Something that is no pin.
    let Ok(link) = sys::open_pin(path) else { return Ok(false) };
    if sys::kind(link.as_fd()).map_err(error)? != Kind::Link || sys::link_info(link.as_fd()).map_err(error)?.cgroup == 0 {
        return Ok(false);
    }
    sys::link_detach(link.as_fd()).map_err(error)?;
    Ok(true)
}
