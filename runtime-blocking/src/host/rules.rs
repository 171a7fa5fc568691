//! The directory of local rule files: read with care, because what is in it decides who may do what, and listened to, so that a
//! change takes effect at once.

use super::files::{Access, Cause, Dir, FileError, not_followed};
use azure_proxy_agent_core::agent::{FileStamp, RuleFile};
use azure_proxy_agent_core::authz::{LocalRules, local};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What happens to a rule file, or to its directory.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);
/// How a directory comes to be there.
const ARRIVALS: WatchFlags = WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::ONLYDIR);

/// Looks at a rule file. Never blocks on what is no regular file, and follows no link: such a thing is not even opened.
pub(super) fn look(folder: &Path, name: &str) -> RuleFile {
    let folder = match Dir::open(folder, Access::Private) {
        Ok(folder) => folder,
        Err(e) if e.is_missing() => return RuleFile::Missing,
        Err(e) => return RuleFile::Unknown(e.to_string()),
    };
    match statat(folder.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => read(&folder, name, &stat).unwrap_or_else(|e| unreadable(&stat, &e)),
        Err(Errno::NOENT) => RuleFile::Missing,
        Err(e) => RuleFile::Unknown(e.to_string()),
    }
}

/// Reads what was there a moment ago.
fn read(folder: &Dir, name: &str, seen: &Stat) -> Result<RuleFile, Cause> {
    check(seen)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match openat(folder.as_fd(), name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(RuleFile::Missing),
        Err(e) => return Err(not_followed(e, Cause::NotAFile, &folder.path().join(name))),
    };
    // The file that is open is the one that counts.
    let before = fstat(&fd)?;
    check(&before)?;
    let size = usize::try_from(before.st_size).unwrap_or(0);
    let mut file = File::from(fd);
    let mut bytes = Vec::with_capacity(size + 1);
    (&mut file).take(LocalRules::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let after = fstat(&file)?;
    let stamp = stamp(&after);
    if self::stamp(&before) == stamp && bytes.len() == size {
        Ok(RuleFile::Read { stamp, bytes: bytes.into() })
    } else {
        Ok(RuleFile::Changing { stamp })
    }
}

/// Why it does not count; the path is said by whoever says this.
fn unreadable(stat: &Stat, cause: &Cause) -> RuleFile {
    RuleFile::Unreadable { stamp: stamp(stat), reason: cause.to_string() }
}

///
fn check(stat: &Stat) -> Result<(), Cause> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(Cause::Symlink),
        _ => return Err(Cause::NotAFile),
    }
    if stat.st_uid != 0 {
        Err(Cause::Owner(stat.st_uid))
    } else if stat.st_mode & 0o002 != 0 || (stat.st_mode & 0o020 != 0 && stat.st_gid != 0) {
        Err(Cause::Writable(stat.st_mode))
    } else if usize::try_from(stat.st_size).map_or(true, |size| size > LocalRules::MAX_BYTES) {
        Err(Cause::TooLarge(LocalRules::MAX_BYTES))
    } else {
        Ok(())
    }
}

fn stamp(stat: &Stat) -> FileStamp {
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions, reason = "not on every architecture")]
    let part = |value| u64::try_from(value).unwrap_or(0);
    FileStamp {
        modified: (stat.st_mtime, part(stat.st_mtime_nsec)),
        changed: (stat.st_ctime, part(stat.st_ctime_nsec)),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        inode: stat.st_ino,
        device: stat.st_dev,
    }
}

/// Hears that something changes among the rule files. It tells nothing more: whoever hears it looks.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    folder: PathBuf,
    watched: Mutex<Watched>,
}

/// Numbers of what is listened to.
#[derive(Debug, Default)]
struct Watched {
    folder: Option<i32>,
    parent: Option<i32>,
    /// Said already.
    problem: Option<Errno>,
}

impl Watch {
    /// Listens to nothing yet. `None` where that cannot be had: changes are then seen at the next question to the host.
    #[must_use]
    pub fn new(folder: &Path) -> Option<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|e| log::warn!("Changes of local rule files are not noticed at once: {e}"))
            .ok()?;
        Some(Self { inotify, folder: folder.components().collect(), watched: Mutex::default() })
    }

    /// Listens to the directory that is there now, and for one that comes in its place. Before each look, so that no change falls between.
    pub fn renew(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let parent = self.folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        watched.parent = inotify::add_watch(&self.inotify, parent, ARRIVALS).ok();
        let (folder, problem) = match inotify::add_watch(&self.inotify, &self.folder, CHANGES) {
            Ok(number) => (Some(number), None),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => (None, None),
            Err(e) => (None, Some(e)),
        };
        if let Some(old) = watched.folder.filter(|old| folder != Some(*old)) {
            // Another directory has its name now. One that is gone is not listened to anyway.
            let _ = inotify::remove_watch(&self.inotify, old);
        }
        watched.folder = folder;
        if let Some(e) = problem.filter(|_| problem != watched.problem) {
            log::warn!("{}: changes of local rule files are not noticed at once: {e}", self.folder.display());
        }
        watched.problem = problem;
    }

    /// Takes what was heard; whether it concerns a rule file.
    #[must_use]
    pub fn take(&self) -> bool {
        let parent = self.watched.lock().unwrap_or_else(PoisonError::into_inner).parent;
        let mut space = [MaybeUninit::uninit(); 2048];
        let mut events = inotify::Reader::new(&self.inotify, &mut space);
        let mut concerned = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(std::ffi::CStr::to_bytes);
                    concerned |= match name {
                        _ if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => true,
                        Some(name) if Some(event.wd()) == parent => {
                            self.folder.file_name().is_some_and(|folder| folder.as_encoded_bytes() == name)
                        }
                        Some(name) => [local::IMDS_FILE, local::WIRESERVER_FILE].iter().any(|file| file.as_bytes() == name),
                        None => true,
                    };
                }
                Err(Errno::INTR) => {}
                Err(_) => return concerned,
            }
        }
    }
}

/// Readable when there is something to [`take`](Watch::take).
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl FileError {
    fn is_missing(&self) -> bool {
        matches!(self.cause(), Cause::Io(e) if e.kind() == std::io::ErrorKind::NotFound)
    }
}

#[cfg(test)]
mod tests;
