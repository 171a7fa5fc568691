//! The audit log and its staging file, as files of this machine.

use super::Host;
use super::files::{self, Access, Dir, FileError};
use super::logfile::{AUDIT_FILE, Appended, MODE};
use super::mapping::Mapping;
use crate::staging::{self, Log, Place};
use azure_proxy_agent_core::time::Wall;
use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Name of the staging file in the log folder.
pub const STAGING_FILE: &str = "audit.staging";

/// The audit log at one moment. If file logs are off (FS-04), lines go nowhere.
#[derive(Debug)]
pub struct AuditLog<'a> {
    /// Has the log, and says when it fails.
    pub host: &'a Host,
    /// Dates the name of a rolled file.
    pub wall: Wall,
}

/// Audit lines were not written.
#[derive(Debug)]
pub struct NotWritten;

impl AuditLog<'_> {
    /// Says once what is wrong.
    fn failed(&self, what: &dyn fmt::Display) -> NotWritten {
        let text = format!("{what}; audit records wait, and the oldest are lost when there are too many");
        log::error!("{text}");
        if let Some(log) = &self.host.audit {
            self.host.telemetry.log_fails(log, text);
        }
        NotWritten
    }
}

impl Log for AuditLog<'_> {
    type Error = NotWritten;

    fn append(&mut self, bytes: &[u8], before: &mut dyn FnMut(Place)) -> Result<(), NotWritten> {
        let Some(file) = &self.host.audit else { return Ok(()) };
        match file.append_marked(self.wall, bytes, before) {
            Appended::Yes => Ok(()),
            Appended::No(why) => Err(self.failed(&why)),
            Appended::StillNot => Err(NotWritten),
        }
    }

    fn behind(&mut self, place: Place, most: usize) -> Option<Vec<u8>> {
        let dir = Dir::open(self.host.audit.as_ref()?.folder(), Access::Shared).ok()?;
        let (_, file) = dir.find(AUDIT_FILE, place.device, place.inode)?;
        let size = file.metadata().ok()?.len();
        let there = usize::try_from(size.checked_sub(place.size)?).ok()?.min(most);
        let mut bytes = vec![0; there];
        file.read_exact_at(&mut bytes, place.size).ok()?;
        Some(bytes)
    }

    fn complete(&mut self, place: Place, bytes: &[u8]) -> Result<(), NotWritten> {
        let Some(log) = &self.host.audit else { return Ok(()) };
        let completed = complete(log.folder(), place, bytes);
        // Whoever has it open does not know how long it is now.
        log.reopen();
        completed.map_err(|e| self.failed(&format_args!("The log file {AUDIT_FILE} is not completed: {e}")))
    }
}

fn complete(folder: &Path, place: Place, bytes: &[u8]) -> io::Result<()> {
    let dir = Dir::open(folder, Access::Shared).map_err(io::Error::other)?;
    let (name, _) = dir.find(AUDIT_FILE, place.device, place.inode).ok_or(io::ErrorKind::NotFound)?;
    let (mut file, _) = dir.append(&name, MODE).map_err(io::Error::other)?;
    file.write_all(bytes).inspect_err(|_| {
        // A disk that takes nothing lets itself be given something back. Failing that, a part of a line stays.
        let _ = file.set_len(place.size);
    })
}

/// Whether the staging file in use is the one that a successor will find: nobody has removed or exchanged it or the folder.
#[must_use]
pub fn is_in_place(folder: &Path, staging: &Mapping) -> bool {
    files::is_at(&folder.join(STAGING_FILE), staging.file())
}

/// The staging file in the log folder, mapped.
///
/// # Errors
/// It cannot be used, or another agent has it.
pub fn open_staging(folder: &Path) -> Result<Mapping, FileError> {
    let dir = Dir::create(folder, Access::Shared)?;
    let file = dir.reserved(STAGING_FILE, MODE, staging::SIZE as u64)?;
    Mapping::new(file, staging::SIZE).map_err(|e| dir.error(STAGING_FILE, e.into()))
}
