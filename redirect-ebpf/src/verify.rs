//! Confirms against `/proc` what the kernel noted at `connect()`: is it still the same process, running the same file, and is
//! that file the one which the agent knows under its path (I-27 to I-29)?
//!
//! Nothing here trusts a number twice. `/proc/PID` is opened once; that descriptor stands for the process as a pidfd does: when
//! the process is gone, every look-up through it fails, whoever has the number now. The executable is opened once (`O_PATH`), and
//! file identity and path come from that descriptor: an `exec` in between cannot mix two programs. What is compared with
//! the kernel's record is inode and change time; device numbers are not comparable (overlay, btrfs).
//!
//! 14 system calls (command line below 4 KiB, path below 256 bytes), none of which writes. **Reading another process's command line may
//! block** as long as that process holds its own memory map lock, and `stat` as long as the file system likes: call this from a
//! thread that may wait (I-31).

use azure_proxy_agent_core::identity::{ExeFact, ExeId, KernelRecord, ProcessFacts, RawText};
use core::fmt::Write;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

/// Most bytes of an argument vector that are read (I-33a).
pub const CMDLINE_MAX: usize = 64 * 1024;

/// Nanoseconds per clock tick of `/proc/PID/stat`: USER_HZ is 100 on every architecture that we build for.
const TICK: u64 = 10_000_000;

/// What user space can add to a record. Anything that does not fit, or cannot be read, is [`ExeFact::Gone`].
#[must_use]
pub fn verify(record: &KernelRecord) -> ProcessFacts {
    examine(record).facts
}

/// What was found, and the file.
#[derive(Debug)]
pub struct Examined {
    /// What user space can add to the record.
    pub facts: ProcessFacts,
    /// The file that the process runs and ran when it connected, opened with `O_PATH`; `None` if it is gone.
    pub exe: Option<OwnedFd>,
}

/// As [`verify`], for who wants to look at the file, too.
#[must_use]
pub fn examine(record: &KernelRecord) -> Examined {
    let found = look(record).unwrap_or_else(|e| {
        log::debug!("process {} cannot be examined: {e}", record.tgid);
        None
    });
    found.unwrap_or(Examined { facts: ProcessFacts { exe: ExeFact::Gone, cmdline: None }, exe: None })
}

/// When a process started, as its record would have it, to the precision that [`verify`] compares; `None` if `/proc` says nothing that can
/// be understood.
///
/// # Errors
/// There is no such process.
pub fn start_time(pid: u32) -> std::io::Result<Option<u64>> {
    let mut path = PathText::default();
    let process = openat(CWD, path.set(format_args!("/proc/{pid}")), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(start_ticks(process.as_fd())?.and_then(|ticks| ticks.checked_mul(TICK)))
}

/// `None`: another process, or another program.
fn look(record: &KernelRecord) -> Result<Option<Examined>, Errno> {
    // Without these two (kernel memory may not be read) neither a new process nor a new program could be told from the old.
    let (Some(exe), true) = (record.exe, record.start_boottime != 0) else { return Ok(None) };
    let mut path = PathText::default();
    let process = openat(CWD, path.set(format_args!("/proc/{}", record.tgid)), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if start_ticks(process.as_fd())? != Some(record.start_boottime / TICK) {
        return Ok(None);
    }
    // Before the executable: if that is still the one of the record, then the arguments were not those of a later program.
    let cmdline = cmdline(process.as_fd()).ok();
    let found = executable(process.as_fd(), exe)?;
    Ok(found.map(|(exe, file)| Examined { facts: ProcessFacts { exe, cmdline }, exe: Some(file) }))
}

fn executable(process: BorrowedFd<'_>, expected: ExeId) -> Result<Option<(ExeFact, OwnedFd)>, Errno> {
    let file = openat(process, c"exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&file)?;
    if !is_file(&found, expected) {
        return Ok(None);
    }
    let mut link = PathText::default();
    let path = readlinkat(CWD, link.set(format_args!("/proc/self/fd/{}", file.as_raw_fd())), Vec::with_capacity(256))?;
    // A path from d_path has no symbolic link left; following one would look at another file than the one named.
    let here = statat(CWD, path.as_c_str(), AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT);
    let same = here.is_ok_and(|here| (here.st_dev, here.st_ino) == (found.st_dev, found.st_ino));
    let path = RawText::from(path.into_bytes());
    Ok(Some((if same { ExeFact::Verified(path) } else { ExeFact::OtherMount(path) }, file)))
}

#[allow(clippy::unnecessary_cast, reason = "the members differ in type between architectures")]
fn is_file(found: &Stat, expected: ExeId) -> bool {
    found.st_ino as u64 == expected.inode
        && found.st_ctime as i64 == expected.ctime_s
        && found.st_ctime_nsec as u64 == u64::from(expected.ctime_ns)
}

/// Field 22 of `/proc/PID/stat`.
fn start_ticks(process: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
    let file = open(process, c"stat")?;
    // The field ends within 64 (name) + 20 x 20 (numbers) bytes.
    let mut line = [0; 1024];
    let n = rustix::io::read(&file, &mut line)?;
    Ok(line.get(..n).and_then(parse_start_ticks))
}

fn parse_start_ticks(line: &[u8]) -> Option<u64> {
    // The name, in parentheses, may itself contain blanks and parentheses; nothing behind it does.
    let name_end = line.iter().rposition(|b| *b == b')')?;
    let field = line.get(name_end + 2..)?.split(|b| *b == b' ').nth(22 - 3)?;
    core::str::from_utf8(field).ok()?.parse().ok()
}

fn cmdline(process: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let file = open(process, c"cmdline")?;
    let mut text = vec![0; 4096];
    let mut len = 0;
    while let Some(space) = text.get_mut(len..).filter(|s| !s.is_empty()) {
        match rustix::io::read(&file, space) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        if len == text.len() && len < CMDLINE_MAX {
            text.resize((len * 4).min(CMDLINE_MAX), 0);
        }
    }
    text.truncate(len);
    Ok(text)
}

fn open(process: BorrowedFd<'_>, name: &core::ffi::CStr) -> Result<OwnedFd, Errno> {
    openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// A short path on the stack.
#[derive(Default)]
struct PathText {
    text: [u8; 32],
    len: usize,
}

impl PathText {
    fn set(&mut self, path: core::fmt::Arguments<'_>) -> &str {
        self.len = 0;
        // "/proc/" or "/proc/self/fd/" and ten digits always fit; a text cut off would name no file of ours.
        let _ = self.write_fmt(path);
        self.text.get(..self.len).and_then(|t| core::str::from_utf8(t).ok()).unwrap_or("")
    }
}

impl Write for PathText {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let room = self.text.get_mut(self.len..self.len + s.len()).ok_or(core::fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.len += s.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
