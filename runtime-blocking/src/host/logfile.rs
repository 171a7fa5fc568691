//! A log file that is rolled by size and kept in bounded number (FS-60 to FS-64, FS-72, FS-73).

use super::files::{Access, Dir, FileError};
use crate::clock;
use crate::staging::Place;
use azure_proxy_agent_core::time::{Mono, Wall};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Name of the audit log in the log folder (design: one JSON object per request).
pub const AUDIT_FILE: &str = "audit.jsonl";

/// Bytes that are asked for to see whether there is room.
const ROOM: u64 = 4096;

/// Mode of log files (FS-72): they hold command lines and user names.
pub(super) const MODE: u32 = 0o640;

/// How large, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling {
    /// A file that has reached this many bytes is rolled before the next write (FS-62).
    pub limit: u64,
    /// Files per log, the current one included (FS-63).
    pub files: usize,
}

impl Rolling {
    /// FS-62, FS-63.
    pub const DEFAULT: Self = Self { limit: 10_485_760, files: 5 };
}

/// One log: the current file and its rolled predecessors.
#[derive(Debug)]
pub struct RollingFile {
    dir: Dir,
    name: String,
    rolling: Rolling,
    current: Option<Tail<File>>,
}

impl RollingFile {
    /// Opens (or makes) the log `name` in `folder` (made if it does not exist).
    ///
    /// # Errors
    /// [`FileError`], among others if folder or file is a symbolic link (SEC-E2).
    pub fn open(folder: &Path, name: &str, rolling: Rolling) -> Result<Self, FileError> {
        let dir = Dir::create(folder, Access::Shared)?;
        let current = Some(Tail::new(dir.append(name, MODE)?));
        Ok(Self { dir, name: name.to_owned(), rolling, current })
    }

    /// Appends `bytes` (whole lines) with one system call; rolls first if the file has reached its limit. They are never split
    /// over two files, so a file may exceed the limit by one write (FS-64). `wall` dates the name of a rolled file.
    ///
    /// # Errors
    /// The bytes are not in the file; of a part that got there (a full disk) nothing stays. A file that can neither be rolled nor
    /// opened takes nothing more until it can: a log never grows without bound.
    pub fn write(&mut self, wall: Wall, bytes: &[u8]) -> io::Result<()> {
        self.write_marked(wall, bytes, &mut |_| {})
    }

    /// The same; `before` is told which file it will be and how long that is, before the first byte is written.
    ///
    /// # Errors
    /// As above.
    pub fn write_marked(&mut self, wall: Wall, bytes: &[u8], before: &mut dyn FnMut(Place)) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|tail| tail.size >= self.rolling.limit) {
            self.roll(wall).map_err(io::Error::other)?;
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => self.current.insert(Tail::new(self.dir.append(&self.name, MODE).map_err(io::Error::other)?)),
        };
        current.mend()?;
        before(Place { device: current.id.0, inode: current.id.1, size: current.size });
        current.whole(bytes)
    }

    /// Whether the disk would take a line: has room made behind the end, which the next lines use.
    fn probe(&self) -> io::Result<()> {
        let Some(tail) = &self.current else { return Ok(()) };
        match rustix::fs::fallocate(&tail.file, FallocateFlags::KEEP_SIZE, tail.file.metadata()?.len(), ROOM) {
            // A file system that cannot do this: the next line will tell.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether what is written can still be found under its name. What has never been written is not missed.
    fn is_in_place(&self) -> bool {
        self.current.as_ref().is_none_or(|tail| self.dir.has(&self.name, &tail.file))
    }

    fn roll(&mut self, wall: Wall) -> Result<(), FileError> {
        let newest = format!("{}.{}.log", self.name, wall.file_stamp());
        self.dir.rename_new(&self.name, &newest)?;
        // From here on the old file is not the current one, whatever fails.
        self.current = None;
        let mut rolled = self.dir.names()?;
        rolled.retain(|name| is_rolled(name, &self.name));
        // A name from the future was given by a clock that was wrong: it goes first, or it would outlive all that come.
        rolled.sort_unstable_by(|a, b| (*a <= newest, a).cmp(&(*b <= newest, b)));
        let surplus = rolled.len().saturating_sub(self.rolling.files.saturating_sub(1));
        for name in rolled.iter().take(surplus) {
            self.dir.remove(name)?;
        }
        Ok(())
    }
}

/// What [`Tail`] needs of a file; tests have a disk that is full.
trait Appendable: io::Write {
    /// Removes the last `written` bytes, which the latest writes added.
    fn take_back(&mut self, written: u64) -> io::Result<()>;

    /// Device and inode; zeros if it cannot be said.
    fn id(&self) -> (u64, u64) {
        (0, 0)
    }

    /// The last byte of a file of so many.
    fn last(&self, _size: u64) -> Option<u8> {
        None
    }
}

impl Appendable for File {
    fn take_back(&mut self, written: u64) -> io::Result<()> {
        // In append mode the position is where our bytes end. If the file does not end there, others write or cut it too.
        let end = self.stream_position()?;
        match end.checked_sub(written) {
            Some(before) if self.metadata()?.len() == end => self.set_len(before),
            _ => Err(io::Error::other("the file changed meanwhile")),
        }
    }

    fn id(&self) -> (u64, u64) {
        self.metadata().map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()))
    }

    fn last(&self, size: u64) -> Option<u8> {
        let mut byte = [0];
        self.read_exact_at(&mut byte, size.checked_sub(1)?).ok().map(|()| byte[0])
    }
}

/// The end of a file, where whole lines are added or nothing.
#[derive(Debug)]
struct Tail<F> {
    file: F,
    /// Device and inode; zeros if it cannot be said.
    id: (u64, u64),
    /// Bytes in the file, as far as we know: decides when it is rolled.
    size: u64,
    /// The file ends in a part of a line that could not be taken back.
    torn: bool,
}

impl<F: Appendable> Tail<F> {
    fn new((file, size): (F, u64)) -> Self {
        // So a power cut may have left it.
        let torn = size > 0 && file.last(size).is_some_and(|byte| byte != b'\n');
        Self { id: file.id(), file, size, torn }
    }

    /// Ends a part of a line, so that the next one does not begin behind it.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.whole(b"\n")?;
            self.torn = false;
        }
        Ok(())
    }

    /// Adds `bytes`, or takes back what a failed write left of them; if even that fails the file is torn.
    fn whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        let failed = loop {
            if rest.is_empty() {
                break None;
            }
            match self.file.write(rest) {
                Ok(0) => break Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Some(e),
            }
        };
        let mut written = (bytes.len() - rest.len()) as u64;
        if failed.is_some() && written > 0 {
            match self.file.take_back(written) {
                Ok(()) => written = 0,
                Err(_) => self.torn = true,
            }
        }
        self.size = self.size.saturating_add(written);
        failed.map_or(Ok(()), Err)
    }
}

/// A log that everybody may write to: opened when there is something to write, and again if that failed a while ago (SEC-E3).
#[derive(Debug)]
pub struct LogFile {
    folder: PathBuf,
    name: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<RollingFile>,
    /// Before this it is not opened again.
    retry_at: Mono,
    /// The last failure, if it was told and nothing has worked for a while since: on a disk that is nearly full a short line may find
    /// room where a long one does not.
    failed: Option<Mono>,
    /// When it was last seen under its name.
    seen: Mono,
}

/// What became of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// They are in the file.
    Yes,
    /// They are not, for the first time; why, as a text for people.
    No(String),
    /// They are not, as it was said before.
    StillNot,
}

/// How long a file that cannot be opened is left alone; and how long one may be written to that has been removed.
const RETRY: Duration = Duration::from_secs(5);

impl LogFile {
    /// The log `name` in `folder`; nothing is touched yet.
    #[must_use]
    pub fn new(folder: &Path, name: &'static str) -> Self {
        Self { folder: folder.to_owned(), name, state: Mutex::default() }
    }

    /// Lets go of the file: the next line opens it anew.
    pub fn reopen(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.file, state.retry_at) = (None, Mono::default());
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The folder it is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends whole lines, as [`RollingFile::write`] does. A failure is told **once**: as long as it goes on, lines are dropped
    /// without another word.
    #[must_use]
    pub fn append(&self, wall: Wall, lines: &[u8]) -> Appended {
        self.append_marked(wall, lines, &mut |_| {})
    }

    /// The same; `before` is told where the lines will be, before the first byte is written.
    #[must_use]
    pub fn append_marked(&self, wall: Wall, lines: &[u8], before: &mut dyn FnMut(Place)) -> Appended {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.append(&self.folder, self.name, wall, lines, before) {
            Ok(()) => {
                state.failed.take_if(|at| clock::mono().since(*at) >= RETRY);
                Appended::Yes
            }
            Err(e) => match state.failed.replace(clock::mono()) {
                Some(_) => Appended::StillNot,
                None => Appended::No(format!("The log file {} is not written: {e}", self.name)),
            },
        }
    }

    /// Whether lines get there (again), as far as that can be told without a line; looks at the disk if the last ones did not.
    #[must_use]
    pub fn works(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failed.is_some_and(|at| clock::mono().since(at) >= RETRY) {
            let failed = state.probe(&self.folder, self.name).is_err();
            state.failed = failed.then(clock::mono);
        }
        state.failed.is_none()
    }
}

impl State {
    fn append(
        &mut self,
        folder: &Path,
        name: &str,
        wall: Wall,
        lines: &[u8],
        before: &mut dyn FnMut(Place),
    ) -> Result<(), String> {
        self.open(folder, name)?.write_marked(wall, lines, before).map_err(|e| e.to_string())
    }

    fn probe(&mut self, folder: &Path, name: &str) -> Result<(), String> {
        self.open(folder, name)?.probe().map_err(|e| e.to_string())
    }

    fn open(&mut self, folder: &Path, name: &str) -> Result<&mut RollingFile, String> {
        let now = clock::mono();
        if now.since(self.seen) >= RETRY {
            self.seen = now;
            if self.file.take_if(|file| !file.is_in_place()).is_some() {
                self.retry_at = now;
            }
        }
        match self.file {
            Some(ref mut file) => Ok(file),
            None if now < self.retry_at => Err("it could not be opened".into()),
            None => {
                self.retry_at = now + RETRY;
                Ok(self.file.insert(RollingFile::open(folder, name, Rolling::DEFAULT).map_err(|e| e.to_string())?))
            }
        }
    }
}

/// Whether `name` is exactly a rolled file of `log`: `<log>.<YYYY-MM-DDTHH.MM.SS.mmm>-<nanoseconds>.log` (FS-62, FS-73).
fn is_rolled(name: &str, log: &str) -> bool {
    name.strip_prefix(log)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(".log"))
        .is_some_and(Wall::is_file_stamp)
}

/// Names of the rolled files of a log, from old to new. A folder that cannot be read has none.
#[must_use]
pub fn rolled_files(folder: &Path, log: &str) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut rolled: Vec<String> =
        names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_rolled(name, log)).collect();
    rolled.sort_unstable();
    rolled
}

#[cfg(test)]
mod tests;
