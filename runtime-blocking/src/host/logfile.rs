//! A log file that is rolled by size and kept in bounded number (FS-60 to FS-64, FS-72, FS-73).

use super::files::{Access, Dir, FileError};
use crate::clock;
use azure_proxy_agent_core::time::{Mono, Wall};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Name of the audit log in the log folder (design: one JSON object per request).
pub const AUDIT_FILE: &str = "audit.jsonl";

/// Mode of log files (FS-72): they hold command lines and user names.
const MODE: u32 = 0o640;

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
        if self.current.as_ref().is_some_and(|tail| tail.size >= self.rolling.limit) {
            self.roll(wall).map_err(io::Error::other)?;
        }
        let current = match &mut self.current {
            Some(current) => current,
            None => self.current.insert(Tail::new(self.dir.append(&self.name, MODE).map_err(io::Error::other)?)),
        };
        current.append(bytes)
    }

    fn roll(&mut self, wall: Wall) -> Result<(), FileError> {
        let stamp = wall.stamp().to_string().replace(':', ".");
        self.dir.rename_new(&self.name, &format!("{}.{stamp}-{}.log", self.name, wall.0))?;
        // From here on the old file is not the current one, whatever fails.
        self.current = None;
        let mut rolled = self.dir.names()?;
        rolled.retain(|name| is_rolled(name, &self.name));
        rolled.sort_unstable();
        let surplus = rolled.len().saturating_sub(self.rolling.files.saturating_sub(1));
        for name in rolled.iter().take(surplus) {
            self.dir.remove(name)?;
        }
        Ok(())
    }
}

/// What the end of a file needs: [`File`], and what tests put in its place.
trait Appendable: io::Write {
    fn set_len(&self, size: u64) -> io::Result<()>;
}

impl Appendable for File {
    fn set_len(&self, size: u64) -> io::Result<()> {
        Self::set_len(self, size)
    }
}

/// The end of a file, where whole lines are added or nothing.
#[derive(Debug)]
struct Tail<F> {
    file: F,
    /// Bytes in the file.
    size: u64,
    /// The file ends in a part of a line that could not be taken back.
    torn: bool,
}

impl<F: Appendable> Tail<F> {
    const fn new((file, size): (F, u64)) -> Self {
        Self { file, size, torn: false }
    }

    /// Adds `bytes`, or takes back what a failed write left of them; if even that fails the next line does not begin behind it.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            self.whole(b"\n")?;
            self.torn = false;
        }
        self.whole(bytes)
    }

    fn whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (before, mut rest) = (self.size, bytes);
        let failed = loop {
            if rest.is_empty() {
                return Ok(());
            }
            match self.file.write(rest) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(n) => {
                    self.size = self.size.saturating_add(n as u64);
                    rest = rest.get(n..).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break e,
            }
        };
        if self.size != before {
            match self.file.set_len(before) {
                Ok(()) => self.size = before,
                Err(_) => self.torn = true,
            }
        }
        Err(failed)
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
    /// A failure has been returned, and nothing was written since.
    failing: bool,
}

/// How long a file that cannot be opened is left alone.
const RETRY: Duration = Duration::from_secs(10);

impl LogFile {
    /// The log `name` in `folder`; nothing is touched yet.
    #[must_use]
    pub fn new(folder: &Path, name: &'static str) -> Self {
        Self { folder: folder.to_owned(), name, state: Mutex::default() }
    }

    /// Appends whole lines, as [`RollingFile::write`] does.
    ///
    /// # Errors
    /// A text for people, **once**: as long as it goes on failing, lines are dropped without another word.
    pub fn append(&self, wall: Wall, lines: &[u8]) -> Result<(), String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.append(&self.folder, self.name, wall, lines) {
            Ok(()) => {
                state.failing = false;
                Ok(())
            }
            Err(_) if state.failing => Ok(()),
            Err(e) => {
                state.failing = true;
                Err(format!("The log file {} is not written: {e}", self.name))
            }
        }
    }
}

impl State {
    fn append(&mut self, folder: &Path, name: &str, wall: Wall, lines: &[u8]) -> Result<(), String> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let now = clock::mono();
                if now < self.retry_at {
                    return Err("it could not be opened".into());
                }
                self.retry_at = now + RETRY;
                self.file.insert(RollingFile::open(folder, name, Rolling::DEFAULT).map_err(|e| e.to_string())?)
            }
        };
        file.write(wall, lines).map_err(|e| e.to_string())
    }
}

/// Whether `name` is exactly a rolled file of `log`: `<log>.<YYYY-MM-DDTHH.MM.SS.mmm>-<nanoseconds>.log` (FS-62, FS-73).
fn is_rolled(name: &str, log: &str) -> bool {
    let shape = |text: &str| {
        text.len() == 23
            && text.bytes().zip(*b"0000-00-00T00.00.00.000").all(|(b, s)| if s == b'0' { b.is_ascii_digit() } else { b == s })
    };
    name.strip_prefix(log)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(".log"))
        .and_then(|rest| rest.split_at_checked(23))
        .and_then(|(stamp, nanos)| Some((stamp, nanos.strip_prefix('-')?)))
        .is_some_and(|(stamp, nanos)| {
            shape(stamp) && (1..=20).contains(&nanos.len()) && nanos.bytes().all(|b| b.is_ascii_digit())
        })
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const SMALL: Rolling = Rolling { limit: 10, files: 3 };

    fn at(n: u64) -> Wall {
        Wall(1_767_687_330_123_000_000 + n)
    }

    #[test]
    fn fs62_rolled_before_a_write_that_finds_it_full_and_fs64_never_splits_a_line() {
        let scratch = Scratch::new("logfile");
        let mut log = RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens");
        log.write(at(1), b"123456789\n").expect("fits exactly");
        assert_eq!(scratch.names(), ["a.log"], "reaching the limit alone does not roll");
        log.write(at(2), b"a line longer than the limit\n").expect("rolls");
        assert_eq!(scratch.names(), ["a.log", "a.log.2026-01-06T08.15.30.123-1767687330123000002.log"]);
        assert_eq!(fs::read(scratch.path().join("a.log")).expect("read"), b"a line longer than the limit\n");
    }

    #[test]
    fn fs63_keeps_the_newest_and_fs73_never_deletes_foreign_names() {
        let scratch = Scratch::new("logfile");
        let foreign = [
            "a.log.1",
            "a.log.2026-01-06T08.15.30.123-.log",
            "a.log.2026-01-06T08.15.30.123-12x.log",
            "a.log.2026-01-06T08.15.30-1.log",
            "a.log.bak.2026-01-06T08.15.30.123-1.log",
            "b.log.2026-01-06T08.15.30.123-1.log",
        ];
        for name in foreign {
            fs::write(scratch.path().join(name), "keep").expect("write");
        }
        let mut log = RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens");
        for n in 1..=9 {
            log.write(at(n), format!("line number {n}\n").as_bytes()).expect("writes");
        }
        let ours: Vec<String> = scratch.names().into_iter().filter(|n| !foreign.contains(&n.as_str())).collect();
        assert_eq!(
            ours,
            [
                "a.log",
                "a.log.2026-01-06T08.15.30.123-1767687330123000008.log",
                "a.log.2026-01-06T08.15.30.123-1767687330123000009.log"
            ]
        );
        assert_eq!(scratch.names().len(), ours.len() + foreign.len());
    }

    #[test]
    fn goes_on_in_an_existing_file_and_fs72_narrows_its_mode() {
        let scratch = Scratch::new("logfile");
        let path = scratch.path().join("a.log");
        fs::write(&path, "old\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("mode");
        RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens").write(at(0), b"new\n").expect("writes");
        assert_eq!(fs::read(&path).expect("read"), b"old\nnew\n");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn sec_e2_links_are_refused_and_their_targets_untouched() {
        let scratch = Scratch::new("logfile");
        let target = scratch.path().join("target");
        std::os::unix::fs::symlink(&target, scratch.path().join("a.log")).expect("dangling link");
        let error = RollingFile::open(scratch.path(), "a.log", SMALL).expect_err("refused").to_string();
        assert!(error.ends_with("a.log: refused, because it is a symbolic link"), "{error}");
        assert!(!target.exists());
        std::os::unix::fs::symlink(scratch.path(), scratch.path().join("folder")).expect("link");
        RollingFile::open(&scratch.path().join("folder"), "b.log", SMALL).expect_err("refused");
        assert!(!scratch.path().join("b.log").exists());
    }

    #[test]
    fn a_file_that_cannot_be_rolled_takes_no_more_and_recovers() {
        let scratch = Scratch::new("logfile");
        let mut log = RollingFile::open(scratch.path(), "a.log", SMALL).expect("opens");
        log.write(at(1), b"0123456789").expect("writes");
        let in_the_way = scratch.path().join("a.log.2026-01-06T08.15.30.123-1767687330123000002.log");
        fs::write(&in_the_way, "").expect("write");
        log.write(at(2), b"x").expect_err("the name is taken");
        assert_eq!(fs::metadata(scratch.path().join("a.log")).expect("stat").len(), 10);
        log.write(at(3), b"x").expect("the next name is free");
        assert_eq!(fs::read(scratch.path().join("a.log")).expect("read"), b"x");
    }

    #[test]
    fn a_shared_log_reports_a_failure_once_and_mode_is_0640() {
        let scratch = Scratch::new("logfile");
        let (good, bad) = (LogFile::new(&scratch.path().join("logs"), "a"), LogFile::new(&scratch.path().join("file/logs"), "a"));
        fs::write(scratch.path().join("file"), "").expect("write");
        assert_eq!((good.append(at(0), b"1\n"), good.append(at(0), b"2\n")), (Ok(()), Ok(())));
        let path = scratch.path().join("logs/a");
        assert_eq!(fs::read(&path).expect("read"), b"1\n2\n");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o640, "FS-72");
        let error = bad.append(at(0), b"1\n").expect_err("not a directory");
        assert!(error.starts_with("The log file a is not written: "), "{error}");
        assert_eq!(bad.append(at(0), b"2\n"), Ok(()), "said already");
    }
}
