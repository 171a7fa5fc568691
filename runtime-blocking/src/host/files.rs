//! Files of the agent: opened below a checked directory, without following links, replaced whole or not at all (FS-29, S-60).
//!
//! Everything goes through a [`Dir`], which holds the directory open: once checked it cannot be exchanged for another one.

use azure_proxy_agent_core::durable::{self, FolderStep, MAKE_FOLDER, ReplaceStep};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, RenameFlags, fchmod, fstat, fsync, openat, renameat_with, unlinkat};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How a directory must be protected before we use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody else may look in: mode 0700 (FS-24, FS-25).
    Private,
    /// Everybody may look in, only its owner's side may change it (FS-26).
    Shared,
}

impl Access {
    const fn mode(self) -> u32 {
        match self {
            Self::Private => 0o700,
            Self::Shared => 0o755,
        }
    }
}

/// An open, checked directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens an existing directory: not a symbolic link, owned by us or root, not writable by strangers; a private one gets its
    /// mode if it has another ("set at every start").
    ///
    /// # Errors
    /// [`FileError`] that says what was refused, or the system's reason.
    pub fn open(path: &Path, access: Access) -> Result<Self, FileError> {
        // A trailing slash would make the kernel follow a link in spite of NOFOLLOW: rebuild the path without it.
        let path: PathBuf = path.components().collect();
        let fail = |cause| FileError { path: path.clone(), cause };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| fail(not_followed(e, Cause::NotADirectory, &path)))?;
        let stat = fstat(&fd).map_err(|e| fail(e.into()))?;
        if !is_ours(stat.st_uid) {
            return Err(fail(Cause::Owner(stat.st_uid)));
        }
        let mode = stat.st_mode & 0o7777;
        match access {
            Access::Private if mode & 0o077 != 0 => fchmod(&fd, Mode::from_raw_mode(0o700)).map_err(|e| fail(e.into()))?,
            // Root's own group is root.
            Access::Shared if mode & 0o002 != 0 || (mode & 0o020 != 0 && stat.st_gid != 0) => {
                return Err(fail(Cause::Writable(mode)));
            }
            Access::Private | Access::Shared => {}
        }
        Ok(Self { fd, path })
    }

    /// Opens a directory, making it (and its parents, mode 0755) if it does not exist.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn create(path: &Path, access: Access) -> Result<Self, FileError> {
        Self::make(path, access, false)
    }

    /// As [`Dir::create`]; in addition the directory itself, not what is in it, survives a power cut when this returns.
    ///
    /// # Errors
    /// As [`Dir::open`].
    pub fn create_durable(path: &Path, access: Access) -> Result<Self, FileError> {
        Self::make(path, access, true)
    }

    fn make(path: &Path, access: Access, durable: bool) -> Result<Self, FileError> {
        make(path, access.mode(), durable).map_err(|e| FileError { path: path.to_path_buf(), cause: Cause::Io(e) })?;
        Self::open(path, access)
    }

    /// Where it was when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a regular file of at most `limit` bytes, owned by us or root and writable by nobody else. `None` if there is none.
    /// The bytes are overwritten when dropped.
    ///
    /// # Errors
    /// [`FileError`]; nothing of the content is in its text.
    pub fn read(&self, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
        let fail = |cause| self.error(name, cause);
        check_name(name).map_err(fail)?;
        // NONBLOCK: a planted FIFO must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(fail(not_followed(e, Cause::NotAFile, &self.path.join(name)))),
        };
        let stat = fstat(&fd).map_err(|e| fail(e.into()))?;
        check_file(&stat).map_err(fail)?;
        let size = usize::try_from(stat.st_size).ok().filter(|s| *s <= limit).ok_or_else(|| fail(Cause::TooLarge(limit)))?;
        // Room for one byte more than the file has: the buffer never grows, so no copy of a secret stays behind in freed memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
        File::from(fd).take(size as u64).read_to_end(&mut bytes).map_err(|e| fail(Cause::Io(e)))?;
        Ok(Some(bytes))
    }

    /// Makes `name` hold exactly `bytes`, by the steps of [`durable::REPLACE`] through `temp` in this directory. Whatever happens,
    /// `name` has the old content or the new one; `temp` does not stay.
    ///
    /// # Errors
    /// [`FileError`]; the old content is untouched, unless only the last sync failed.
    pub fn replace(&self, name: &str, temp: &str, mode: u32, bytes: &[u8]) -> Result<(), FileError> {
        self.replace_by(&durable::REPLACE, name, temp, mode, bytes)
    }

    /// The same for what is written again soon anyway: whole or not at all for every reader, but after a power cut it may be gone.
    ///
    /// # Errors
    /// [`FileError`]; the old content is untouched.
    pub fn refresh(&self, name: &str, temp: &str, mode: u32, bytes: &[u8]) -> Result<(), FileError> {
        self.replace_by(&durable::REFRESH, name, temp, mode, bytes)
    }

    /// The same for a new file: an existing one stays and is an error.
    pub(super) fn add(&self, name: &str, temp: &str, mode: u32, bytes: &[u8]) -> Result<(), FileError> {
        self.replace_by(&durable::ADD, name, temp, mode, bytes)
    }

    fn replace_by(&self, steps: &[ReplaceStep], name: &str, temp: &str, mode: u32, bytes: &[u8]) -> Result<(), FileError> {
        let fail = |cause| self.error(name, cause);
        check_name(name).and_then(|()| check_name(temp)).map_err(fail)?;
        let mode = Mode::from_raw_mode(mode as RawMode);
        let mut replacement = Replacement { folder: &self.fd, name, temp, mode, file: None };
        for step in steps {
            if let Err(e) = replacement.take(*step, bytes) {
                // Once the name is taken over there is none, and nothing else bears its name: only one agent writes here.
                let _ = unlinkat(&self.fd, temp, AtFlags::empty());
                return Err(fail(Cause::Io(e)));
            }
        }
        Ok(())
    }

    /// Removes a file; `false` if there was none.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove(&self, name: &str) -> Result<bool, FileError> {
        check_name(name).map_err(|cause| self.error(name, cause))?;
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.error(name, e.into())),
        }
    }

    /// Opens a regular file for appending and reading, making it with `mode`; an existing one gets that mode. Returns its size in bytes.
    pub(super) fn append(&self, name: &str, mode: u32) -> Result<(File, u64), FileError> {
        let fail = |cause| self.error(name, cause);
        check_name(name).map_err(fail)?;
        let mode = Mode::from_raw_mode(mode as RawMode);
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd =
            openat(&self.fd, name, flags, mode).map_err(|e| fail(not_followed(e, Cause::NotAFile, &self.path.join(name))))?;
        let stat = fstat(&fd).map_err(|e| fail(e.into()))?;
        check_file(&stat).map_err(fail)?;
        // What is appended here must not appear elsewhere under another name (SEC-F3).
        if stat.st_nlink > 1 {
            return Err(fail(Cause::HardLink));
        }
        if Mode::from_raw_mode(stat.st_mode) != mode {
            fchmod(&fd, mode).map_err(|e| fail(e.into()))?;
        }
        Ok((File::from(fd), u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// Opens a regular file of exactly `size` bytes, all of which have their place on the disk, for reading and writing, making it
    /// with `mode`. Nobody else has it open by this call: it is locked until it is closed.
    pub(super) fn reserved(&self, name: &str, mode: u32, size: u64) -> Result<File, FileError> {
        use rustix::fs::{FallocateFlags, FlockOperation, IFlags, fallocate, flock, ftruncate, ioctl_getflags, ioctl_setflags};
        let fail = |cause| self.error(name, cause);
        check_name(name).map_err(fail)?;
        let mode = Mode::from_raw_mode(mode as RawMode);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd =
            openat(&self.fd, name, flags, mode).map_err(|e| fail(not_followed(e, Cause::NotAFile, &self.path.join(name))))?;
        let stat = fstat(&fd).map_err(|e| fail(e.into()))?;
        check_file(&stat).map_err(fail)?;
        let reserve = || {
            fchmod(&fd, mode)?;
            flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
            if stat.st_size == 0 {
                // btrfs would look for a new place with every store, and might find none; others do not know the flag.
                let _ = ioctl_getflags(&fd).and_then(|flags| ioctl_setflags(&fd, flags | IFlags::NOCOW));
            }
            if u64::try_from(stat.st_size).is_ok_and(|now| now > size) {
                ftruncate(&fd, size)?;
            }
            match fallocate(&fd, FallocateFlags::empty(), 0, size) {
                // A file system that cannot: with every byte written there is a place for it.
                Err(Errno::OPNOTSUPP) => fill(&fd, u64::try_from(stat.st_size).unwrap_or(0), size),
                other => other,
            }
        };
        reserve().map_err(|e| fail(e.into()))?;
        Ok(File::from(fd))
    }

    /// Name, among those that begin with `prefix`, of a regular file by its number, open for reading.
    pub(super) fn find(&self, prefix: &str, device: u64, inode: u64) -> Option<(String, File)> {
        use std::os::unix::fs::MetadataExt as _;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let names = self.names().ok()?;
        names.into_iter().filter(|name| name.starts_with(prefix)).find_map(|name| {
            let file = File::from(openat(&self.fd, &*name, flags, Mode::empty()).ok()?);
            let metadata = file.metadata().ok()?;
            (metadata.is_file() && metadata.dev() == device && metadata.ino() == inode).then_some((name, file))
        })
    }

    /// Renames within the directory, never over an existing file.
    pub(super) fn rename_new(&self, from: &str, to: &str) -> Result<(), FileError> {
        check_name(to)
            .and_then(|()| renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE).map_err(Cause::from))
            .map_err(|cause| self.error(to, cause))
    }

    /// Whether `file`, which was opened here as `name`, is still what that path leads to: nobody has removed or exchanged it or the
    /// directory.
    pub(super) fn has(&self, name: &str, file: &File) -> bool {
        is_at(&self.path.join(name), file)
    }

    /// Names of the entries that are UTF-8, in no order.
    pub(super) fn names(&self) -> Result<Vec<String>, FileError> {
        let list = rustix::fs::Dir::read_from(self.fd.as_fd()).and_then(|dir| {
            dir.filter_map(|entry| entry.map(|e| e.file_name().to_str().ok().map(str::to_owned)).transpose()).collect()
        });
        list.map_err(|e: Errno| FileError { path: self.path.clone(), cause: e.into() })
    }

    pub(super) fn error(&self, name: &str, cause: Cause) -> FileError {
        FileError { path: self.path.join(name), cause }
    }
}

/// Whether `path` leads to `file` itself.
pub(super) fn is_at(path: &Path, file: &File) -> bool {
    matches!((rustix::fs::lstat(path), fstat(file)), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// A file on its way to be replaced.
struct Replacement<'a> {
    folder: &'a OwnedFd,
    name: &'a str,
    temp: &'a str,
    mode: Mode,
    file: Option<File>,
}

impl Replacement<'_> {
    fn take(&mut self, step: ReplaceStep, bytes: &[u8]) -> io::Result<()> {
        let file = || io::Error::other("there is no temporary file");
        match step {
            ReplaceStep::RemoveTemp => match unlinkat(self.folder, self.temp, AtFlags::empty()) {
                Err(e) if e != Errno::NOENT => return Err(e.into()),
                _ => {}
            },
            ReplaceStep::CreateTemp => {
                // EXCL: what we write to is ours and new.
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                self.file = Some(File::from(openat(self.folder, self.temp, flags, self.mode)?));
            }
            ReplaceStep::SetMode => fchmod(self.file.as_ref().ok_or_else(file)?, self.mode)?,
            ReplaceStep::Write => self.file.as_mut().ok_or_else(file)?.write_all(bytes)?,
            ReplaceStep::SyncFile => self.file.as_ref().ok_or_else(file)?.sync_all()?,
            ReplaceStep::Rename => self.rename(RenameFlags::empty())?,
            ReplaceStep::RenameNew => self.rename(RenameFlags::NOREPLACE)?,
            ReplaceStep::SyncFolder => fsync(self.folder)?,
        }
        Ok(())
    }

    fn rename(&self, flags: RenameFlags) -> rustix::io::Result<()> {
        renameat_with(self.folder, self.temp, self.folder, self.name, flags)
    }
}

/// Makes a directory, and its parents (mode 0755), by the steps of [`MAKE_FOLDER`]; of an existing one only the sync, if wanted.
fn make(path: &Path, mode: u32, durable: bool) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let build = || std::fs::DirBuilder::new().mode(mode).create(path);
    for step in MAKE_FOLDER {
        match step {
            FolderStep::Make => match build() {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if !durable {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    make(parent.ok_or(e)?, 0o755, false)?;
                    build()?;
                }
                made => made?,
            },
            FolderStep::SyncParent => File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?,
        }
    }
    Ok(())
}

/// A file or directory that could not be used, and why. Displays as `<path>: <reason>`.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    cause: Cause,
}

/// The reasons.
#[derive(Debug)]
pub(super) enum Cause {
    Io(io::Error),
    Symlink,
    NotADirectory,
    NotAFile,
    HardLink,
    /// The user id that it belongs to.
    Owner(u32),
    /// Its mode.
    Writable(RawMode),
    /// The limit, bytes.
    TooLarge(usize),
    Name,
}

impl From<io::Error> for Cause {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Errno> for Cause {
    fn from(e: Errno) -> Self {
        Self::Io(e.into())
    }
}

impl FileError {
    /// The same about its directory: for files whose names never come again, so that the same fault has the same text.
    #[must_use]
    pub(super) fn of(self, directory: &Path) -> Self {
        Self { path: directory.to_owned(), ..self }
    }

    /// The reason alone.
    pub(super) const fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Whether the file or directory itself was refused, in contrast to an operation that the system refused.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        !matches!(self.cause, Cause::Io(_))
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "{e}"),
            Self::Symlink => f.write_str("refused, because it is a symbolic link"),
            Self::NotADirectory => f.write_str("refused, because it is not a directory"),
            Self::NotAFile => f.write_str("refused, because it is not a regular file"),
            Self::HardLink => f.write_str("refused, because the file has another name, too"),
            Self::Owner(uid) => write!(f, "refused, because it belongs to user id {uid}, not to root"),
            Self::Writable(mode) => write!(f, "refused, because its mode {:04o} lets others write", mode & 0o7777),
            Self::TooLarge(limit) => write!(f, "refused, because it is larger than {limit} bytes"),
            Self::Name => f.write_str("refused, because that is not a file name"),
        }
    }
}

impl std::error::Error for FileError {}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writes zeros from one length to another.
fn fill(fd: &OwnedFd, from: u64, to: u64) -> Result<(), Errno> {
    let zeros = [0; 4096];
    let mut at = from;
    while at < to {
        let n = usize::try_from(to - at).unwrap_or(zeros.len()).min(zeros.len());
        at += rustix::io::pwrite(fd, zeros.get(..n).unwrap_or_default(), at)? as u64;
    }
    Ok(())
}

fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn check_file(stat: &rustix::fs::Stat) -> Result<(), Cause> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        Err(Cause::NotAFile)
    } else if !is_ours(stat.st_uid) {
        Err(Cause::Owner(stat.st_uid))
    } else if stat.st_mode & 0o022 != 0 {
        Err(Cause::Writable(stat.st_mode))
    } else {
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), Cause> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) { Err(Cause::Name) } else { Ok(()) }
}

/// What an open that follows no links means by its error: with `DIRECTORY` a link gives `ENOTDIR`, without it `ELOOP`; a socket
/// or a FIFO without reader gives `ENXIO`.
pub(super) fn not_followed(e: Errno, other: Cause, path: &Path) -> Cause {
    let link = || std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_symlink());
    match e {
        Errno::LOOP | Errno::NOTDIR if link() => Cause::Symlink,
        Errno::NOTDIR | Errno::ISDIR | Errno::NXIO => other,
        e => e.into(),
    }
}

#[cfg(test)]
mod tests;
