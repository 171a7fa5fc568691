//! `--follow`: what is there, then what is written from now on, also into the file that takes the place of a rolled one.

use super::{Printer, Shown, Wanted, keep, remark};
use crate::cli::term::clean;
use crate::cli::tool::{Failure, Io};
use azure_proxy_agent_core::advise::recording::{Entry, Reader, Recording};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// How often to look. Nanoseconds.
const INTERVAL: i64 = 200_000_000;

/// Waits a moment; `false` if nobody reads the output any more.
pub(super) fn pause() -> bool {
    let out = io::stdout();
    let mut waiting = [PollFd::new(&out, PollFlags::empty())];
    let moment = Timespec { tv_sec: 0, tv_nsec: INTERVAL };
    // Only errors wake it up, and the one that a pipe has is that its reader has gone. An interruption is a shorter moment.
    !matches!(poll(&mut waiting, Some(&moment)), Ok(n) if n > 0)
}

/// Shows until `pause` says that it is enough.
pub(super) fn run(
    wanted: &Wanted,
    limit: usize,
    printer: &mut Printer,
    io: &mut Io<'_>,
    pause: &mut dyn FnMut() -> bool,
) -> Result<u8, Failure> {
    let (mut rest, mut kept) = (Recording::new(), VecDeque::new());
    let Some((path, rolled)) = wanted.files.split_last().filter(|(path, _)| path.as_os_str() != "-") else {
        return Err("--follow needs a file".to_owned().into());
    };
    let before = Wanted { filter: wanted.filter.clone(), files: rolled.to_vec(), standard: wanted.standard };
    before.read(&mut rest, |request| keep(&mut kept, limit, request))?;
    let mut tail = Tail::new(path);
    tail.read(&mut |entry, line| wanted.take(entry, line, &mut rest, &mut |request| keep(&mut kept, limit, request)))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    printer.all(&kept, io.out)?;
    kept.clear();
    io.out.flush()?;
    remark(&rest, io);
    while pause() {
        let mut rest = Recording::new();
        let mut new: Vec<Shown> = Vec::new();
        tail.read(&mut |entry, line| wanted.take(entry, line, &mut rest, &mut |request| new.push(request)))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        for shown in &new {
            printer.one(shown, io.out)?;
        }
        io.out.flush()?;
        remark(&rest, io);
        for problem in rest.problems.iter().skip(5) {
            let _ = writeln!(io.err, "{}", clean(&problem.to_string()));
        }
    }
    Ok(0)
}

/// A file that grows, is rolled away, and made again.
struct Tail<'a> {
    path: &'a Path,
    open: Option<(File, Reader)>,
}

impl<'a> Tail<'a> {
    const fn new(path: &'a Path) -> Self {
        Self { path, open: None }
    }

    /// Reads what is new. A file that is not there (any more, or yet) has nothing new.
    fn read(&mut self, take: &mut dyn FnMut(Entry, &[u8])) -> io::Result<()> {
        loop {
            // Looked at before the rest is read: what is written until the file is exchanged is in it.
            let now = match fs::metadata(self.path) {
                Ok(now) => Some(now),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            };
            if let Some((file, reader)) = &mut self.open {
                let position = copy(file, reader, take)?;
                let own = file.metadata()?;
                let same = now.is_some_and(|now| (now.dev(), now.ino()) == (own.dev(), own.ino()));
                if same && own.len() >= position {
                    return Ok(());
                }
                // Rolled or removed, or cut short: its last line will not get longer.
                reader.finish(&mut *take);
                self.open = None;
            }
            match File::open(self.path) {
                Ok(file) => self.open = Some((file, Reader::new(&self.path.display().to_string()))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Reads to the end; the position there.
fn copy(file: &mut File, reader: &mut Reader, take: &mut dyn FnMut(Entry, &[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return io::Seek::stream_position(file),
            Ok(n) => reader.feed(buffer.get(..n).unwrap_or_default(), &mut *take),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
