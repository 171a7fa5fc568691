//! One record on a stream.

use log::Level;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::os::fd::BorrowedFd;

/// Who reads a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A file or a pipe: bare text.
    Plain,
    /// A person at a terminal: errors red, warnings yellow, details dim.
    Colour,
    /// The journal: each line with its priority in front (sd-daemon(3)).
    Journal,
}

impl Style {
    /// `journal` is `JOURNAL_STREAM`: device and inode of the stream that the service manager connected to the journal. It is
    /// inherited by children whose streams may go elsewhere, hence the comparison.
    pub(super) fn of(stream: BorrowedFd<'_>, journal: Option<&str>, no_colour: bool) -> Self {
        let id = rustix::fs::fstat(stream).map(|s| format!("{}:{}", s.st_dev, s.st_ino));
        if journal.is_some_and(|j| id.is_ok_and(|id| id == j)) {
            Self::Journal
        } else if stream.is_terminal() && !no_colour {
            Self::Colour
        } else {
            Self::Plain
        }
    }

    /// Writes a record's text and a line feed.
    pub(super) fn write(self, out: &mut dyn io::Write, level: Level, text: &fmt::Arguments<'_>) -> io::Result<()> {
        let (before, between, after): (&str, &str, &str) = match (self, level) {
            (Self::Plain, _) | (Self::Colour, Level::Info) => ("", "", ""),
            (Self::Colour, Level::Error) => ("\x1b[31m", "", "\x1b[0m"),
            (Self::Colour, Level::Warn) => ("\x1b[33m", "", "\x1b[0m"),
            (Self::Colour, Level::Debug | Level::Trace) => ("\x1b[2m", "", "\x1b[0m"),
            (Self::Journal, Level::Error) => ("<3>", "<3>", ""),
            (Self::Journal, Level::Warn) => ("<4>", "<4>", ""),
            (Self::Journal, Level::Info) => ("<6>", "<6>", ""),
            (Self::Journal, Level::Debug | Level::Trace) => ("<7>", "<7>", ""),
        };
        out.write_all(before.as_bytes())?;
        let mut escaped = Escaped::new(&mut *out, between.as_bytes());
        if escaped.write_fmt(*text).is_err() {
            return Err(escaped.failure());
        }
        out.write_all(after.as_bytes())?;
        out.write_all(b"\n")
    }
}

/// Passes text on with control characters escaped; after a line feed comes `indent`. Final line feeds are dropped.
pub(super) struct Escaped<'a, W: io::Write> {
    out: W,
    indent: &'a [u8],
    /// Line feeds that are written only if something follows.
    pending: usize,
    failure: Option<io::Error>,
}

impl<'a, W: io::Write> Escaped<'a, W> {
    pub(super) const fn new(out: W, indent: &'a [u8]) -> Self {
        Self { out, indent, pending: 0, failure: None }
    }

    fn failure(self) -> io::Error {
        self.failure.unwrap_or_else(|| io::Error::other("a value could not be formatted"))
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        for piece in text.split_inclusive(char::is_control) {
            let control = piece.chars().next_back().filter(|c| c.is_control());
            let clean = piece.get(..piece.len() - control.map_or(0, char::len_utf8)).unwrap_or("");
            // Anything but a line feed proves that the ones before were not final.
            if !clean.is_empty() || control.is_some_and(|c| c != '\n') {
                for _ in 0..std::mem::take(&mut self.pending) {
                    self.out.write_all(b"\n")?;
                    self.out.write_all(self.indent)?;
                }
            }
            self.out.write_all(clean.as_bytes())?;
            match control {
                Some('\n') => self.pending += 1,
                Some('\t') => self.out.write_all(b"\t")?,
                Some(c) => write!(self.out, "{}", c.escape_default())?,
                None => {}
            }
        }
        Ok(())
    }
}

impl<W: io::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text).map_err(|e| {
            self.failure = Some(e);
            fmt::Error
        })
    }
}
