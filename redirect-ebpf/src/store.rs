//! The agent's side of what is pinned (`pins.rs`): finds what an earlier agent left, and puts it in order.
//!
//! An agent may end between any two system calls, so everything here can be done again from any state in between. Only the holder of
//! the lock changes anything.

use crate::attach::{Hook, is_at};
use crate::error::RedirectError;
use crate::layout::{Build, Plain, target_index};
use crate::load::Maps;
use crate::pins::{LINK, entries, is_bpffs, layouts, lock, open_root, remove_dir, unpin};
use crate::sys::{self, BPF_MAP_TYPE_ARRAY, Kind, LinkInfo, Map, Shape};
use azure_proxy_agent_core::identity::Destination;
use rustix::fs::Mode;
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem::size_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Name of the map that says what the links hold.
const BUILD: &str = "build";

/// A locked directory of pins, and in it the one of this agent's layout.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    dir: PathBuf,
    /// Holds the lock.
    lock: OwnedFd,
    build: Map<u32, Build>,
    /// Pins that [`undo`](Self::undo) removes again.
    made: RefCell<Vec<PathBuf>>,
    /// Pins that were looked into, and what was found: as long as a pin is the same, so is what it holds.
    seen: RefCell<BTreeMap<PathBuf, Seen>>,
    changes: Changes,
}

/// A pin (device, inode number, time of its last change), and the number of the object that it holds.
type Seen = ((u64, u64, i64, u64), u32);

/// Counts changes, for tests of what happens to a successor when the agent ends right before one.
#[derive(Debug, Default)]
struct Changes {
    done: Cell<usize>,
    crash_at: Option<usize>,
}

impl Changes {
    fn one_more(&self) {
        if self.crash_at == Some(self.done.get()) {
            std::process::abort();
        }
        self.done.set(self.done.get() + 1);
    }
}

impl Store {
    /// Opens, makes and locks the directories.
    ///
    /// # Errors
    /// [`RedirectError::Busy`]: another agent runs. Otherwise nothing can be pinned there.
    pub(crate) fn open(root: &Path, layout: u32, crash_at: Option<usize>) -> Result<Self, RedirectError> {
        let changes = Changes { done: Cell::default(), crash_at };
        let (lock, dir) = directories(root, layout, &changes)?;
        let build = match open_map(&dir.join(BUILD)).and_then(|fd| Map::new(fd, BUILD).ok().flatten()) {
            Some(map) => map,
            None => new_build().map_err(|source| RedirectError::Map { map: BUILD, source })?,
        };
        Ok(Self { root: root.to_owned(), dir, lock, build, made: RefCell::default(), seen: RefCell::default(), changes })
    }

    /// Where this agent's pins are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// To be called before anything is changed that outlives the process.
    pub(crate) fn about_to_change(&self) {
        self.changes.one_more();
    }

    /// Whether the directories are still the ones that were opened; makes them again if somebody removed them (S-13).
    pub(crate) fn recover(&mut self, layout: u32) -> Result<(), RedirectError> {
        if !open_root(&self.root)?.is_some_and(|dir| is_same(&dir, &self.lock)) {
            log::warn!("eBPF: {} was replaced by somebody else; pinning again", self.root.display());
            (self.lock, self.dir) = directories(&self.root, layout, &self.changes)?;
        } else if open_root(&self.dir)?.is_none() {
            make_dir(&self.dir, &self.changes)?;
        }
        Ok(())
    }

    // ---- maps ----

    /// The map that is pinned under `name`; none if there is none, or something else.
    pub(crate) fn open_map(&self, name: &str) -> Option<OwnedFd> {
        open_map(&self.dir.join(name))
    }

    /// Pins those of `maps` that are not. Returns their names.
    pub(crate) fn pin_maps(&self, maps: &Maps) -> Result<Vec<&'static str>, RedirectError> {
        let mut pinned = Vec::new();
        for (name, map) in maps.all().into_iter().chain([(BUILD, self.build.fd())]) {
            let path = self.dir.join(name);
            let id = sys::map_id(map).map_err(|source| RedirectError::Map { map: name, source })?;
            let found = || sys::map_id(open_map(&path)?.as_fd()).ok();
            if self.is_pinned(&path, id, found) {
                continue;
            }
            self.replace_pin(&path, map)?;
            self.made.borrow_mut().push(path);
            pinned.push(name);
        }
        Ok(pinned)
    }

    /// Fills new maps with what an agent with another layout had in force: otherwise nothing would be redirected until the targets are
    /// set again. Notes, counters and the records of connections under way are not carried over: such a connection is refused.
    pub(crate) fn carry_over(&self, maps: &Maps) -> Result<(), RedirectError> {
        let Some((_, from)) = layouts(&self.root)?.into_iter().find(|(_, dir)| *dir != self.dir) else { return Ok(()) };
        let targets = typed::<u32>(&from.join("targets"));
        let beat = typed::<u64>(&from.join("heartbeat"));
        for destination in Destination::ALL {
            let index = target_index(destination);
            if let Some(bits) = targets.as_ref().and_then(|map| map.get(index).ok().flatten()) {
                self.about_to_change();
                maps.targets.set(index, bits).map_err(|source| RedirectError::Map { map: "targets", source })?;
            }
        }
        if let Some(time) = beat.and_then(|map| map.get(0).ok().flatten()) {
            self.about_to_change();
            maps.heartbeat.set(0, time).map_err(|source| RedirectError::Map { map: "heartbeat", source })?;
        }
        Ok(())
    }

    // ---- links ----

    /// Where the link of `hook` is pinned.
    pub(crate) fn link_path(&self, hook: Hook) -> PathBuf {
        self.dir.join(link_name(hook))
    }

    /// The link for `hook` on that cgroup which an agent of this layout left.
    pub(crate) fn find_own_link(&self, hook: Hook, cgroup: u64) -> Option<(OwnedFd, LinkInfo)> {
        open_link(&self.link_path(hook)).filter(|(_, info)| is_at(*info, hook, cgroup))
    }

    /// The link for `hook` on that cgroup which an agent of whatever layout left.
    pub(crate) fn find_link(&self, hook: Hook, cgroup: u64) -> Option<(OwnedFd, LinkInfo)> {
        self.find_own_link(hook, cgroup).or_else(|| {
            let others = layouts(&self.root).ok()?;
            let mut links = others.iter().filter_map(|(_, dir)| open_link(&dir.join(link_name(hook))));
            links.find(|(_, info)| is_at(*info, hook, cgroup))
        })
    }

    /// Pins a link at its place, if it is not, and detaches what was there: it is on another cgroup. Returns whether there was
    /// something to do.
    pub(crate) fn pin_link(&self, hook: Hook, link: BorrowedFd<'_>, id: u32) -> Result<bool, RedirectError> {
        let path = self.link_path(hook);
        if self.is_pinned(&path, id, || Some(open_link(&path)?.1.id)) {
            return Ok(false);
        }
        let former = open_link(&path);
        self.replace_pin(&path, link)?;
        if let Some((former, _)) = former {
            self.about_to_change();
            detach(former.as_fd());
        }
        Ok(true)
    }

    /// Whether the object `id` is pinned at `path`. Looks into a pin once, with `found`; after that whether it is still the same pin.
    fn is_pinned(&self, path: &Path, id: u32, found: impl FnOnce() -> Option<u32>) -> bool {
        // Before the look into it: if it is replaced in between, it is looked into again.
        let Ok(stat) = rustix::fs::lstat(path) else { return false };
        let seen = ((stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec), id);
        if self.seen.borrow().get(path) == Some(&seen) {
            return true;
        }
        let pinned = found() == Some(id);
        if pinned {
            self.seen.borrow_mut().insert(path.to_owned(), seen);
        }
        pinned
    }

    // ---- the whole ----

    /// What the links hold, if the last take-over was finished.
    pub(crate) fn build(&self) -> Option<Build> {
        self.build.get(0).ok().flatten().filter(|build| build.fingerprint != 0)
    }

    /// Whether there is anything else than `hooks` and the maps: remains of other layouts, or what somebody put there.
    pub(crate) fn is_tidy(&self, hooks: &[Hook]) -> bool {
        let expected = |path: &PathBuf| self.expects(path, hooks);
        let root = layouts(&self.root).is_ok_and(|all| all.len() == 1);
        root && entries(&self.dir).is_ok_and(|all| all.iter().all(expected) && all.len() == hooks.len() + Maps::NAMES.len() + 1)
    }

    fn expects(&self, path: &Path, hooks: &[Hook]) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_map = name == BUILD || Maps::NAMES.contains(&name);
        is_map || hooks.iter().any(|hook| link_name(*hook) == name)
    }

    /// Says that what the links hold is not known, until [`finish`](Self::finish).
    pub(crate) fn begin(&self) -> Result<(), RedirectError> {
        self.record(Build::ZERO)
    }

    /// Says what the links hold.
    pub(crate) fn record(&self, build: Build) -> Result<(), RedirectError> {
        self.about_to_change();
        self.build.set(0, build).map_err(|source| RedirectError::Map { map: BUILD, source })
    }

    /// Removes what does not belong to `hooks`, whose links have the numbers `ids`, and says that all is in order.
    pub(crate) fn finish(&self, hooks: &[Hook], ids: &[u32], build: Build) -> Result<(), RedirectError> {
        self.made.borrow_mut().clear();
        for path in entries(&self.dir)?.into_iter().filter(|path| !self.expects(path, hooks)) {
            self.remove(&path, ids)?;
        }
        for (_, dir) in layouts(&self.root)?.into_iter().filter(|(_, dir)| *dir != self.dir) {
            for path in entries(&dir)? {
                self.remove(&path, ids)?;
            }
            self.about_to_change();
            remove_dir(&dir)?;
        }
        self.record(build)
    }

    /// Removes a pin; detaches what it held, unless that is one of `ids`.
    fn remove(&self, path: &Path, ids: &[u32]) -> Result<(), RedirectError> {
        if let Some((link, _)) = open_link(path).filter(|(_, info)| !ids.contains(&info.id)) {
            self.about_to_change();
            detach(link.as_fd());
        }
        self.about_to_change();
        unpin(path)
    }

    /// After a failure: removes the pins that were made since, and the directories if nothing is left in them.
    pub(crate) fn undo(&self) {
        for path in self.made.take() {
            if let Err(e) = unpin(&path) {
                log::warn!("eBPF: {e}");
            }
        }
        // Not empty: an earlier agent's.
        let _ = remove_dir(&self.dir).and_then(|()| remove_dir(&self.root));
    }

    fn replace_pin(&self, path: &Path, object: BorrowedFd<'_>) -> Result<(), RedirectError> {
        let pin = || {
            self.about_to_change();
            sys::pin(object, path)
        };
        let result = match pin() {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                self.about_to_change();
                unpin(path)?;
                pin()
            }
            other => other,
        };
        result.map_err(|source| RedirectError::Pin { path: path.to_owned(), source })
    }
}

/// Opens or makes root and layout directory, and locks the root.
fn directories(root: &Path, layout: u32, changes: &Changes) -> Result<(OwnedFd, PathBuf), RedirectError> {
    let refuse = |reason: &str| RedirectError::PinRoot { path: root.to_owned(), reason: reason.to_owned() };
    let opened = match open_root(root)? {
        Some(dir) => dir,
        None => {
            let parent = root.parent().ok_or_else(|| refuse("has no parent"))?;
            if !is_bpffs(rustix::fs::statfs(parent)) {
                return Err(refuse("no bpf file system is mounted there"));
            }
            make_dir(root, changes)?;
            open_root(root)?.ok_or_else(|| refuse("was removed by somebody else"))?
        }
    };
    lock(root, opened.as_fd())?;
    // Who had it before may have removed it: then the lock is one on nothing.
    if !open_root(root)?.is_some_and(|dir| is_same(&dir, &opened)) {
        return Err(RedirectError::Busy { path: root.to_owned() });
    }
    let dir = root.join(format!("v{layout}"));
    if open_root(&dir)?.is_none() {
        make_dir(&dir, changes)?;
    }
    Ok((opened, dir))
}

fn is_same(a: &OwnedFd, b: &OwnedFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

fn make_dir(path: &Path, changes: &Changes) -> Result<(), RedirectError> {
    changes.one_more();
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(RedirectError::PinRoot { path: path.to_owned(), reason: format!("cannot be made: {e}") }),
    }
}

fn new_build() -> std::io::Result<Map<u32, Build>> {
    let value_size = size_of::<Build>() as u32;
    let fd = sys::map_create(BUILD, Shape { kind: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size, entries: 1, flags: 0 }, None)?;
    Map::new(fd, BUILD)?.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn typed<V: Plain>(path: &Path) -> Option<Map<u32, V>> {
    Map::new(open_map(path)?, "of another layout").ok().flatten()
}

fn open_map(path: &Path) -> Option<OwnedFd> {
    let fd = sys::open_pin(path).ok()?;
    sys::kind(fd.as_fd()).is_ok_and(|kind| kind == Kind::Map).then_some(fd)
}

fn open_link(path: &Path) -> Option<(OwnedFd, LinkInfo)> {
    let fd = sys::open_pin(path).ok()?;
    if sys::kind(fd.as_fd()).ok()? != Kind::Link {
        return None;
    }
    let info = sys::link_info(fd.as_fd()).ok()?;
    Some((fd, info))
}

fn link_name(hook: Hook) -> String {
    format!("{LINK}{}", hook.program)
}

fn detach(link: BorrowedFd<'_>) {
    if let Err(e) = sys::link_detach(link) {
        log::debug!("eBPF: link was not attached any more: {e}");
    }
}
