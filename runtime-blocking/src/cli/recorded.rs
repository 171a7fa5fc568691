//! Where recordings come from: files, standard input, the log folder.

use super::tool::Failure;
use super::usage::UsageError;
use crate::clock;
use crate::host::logfile::{AUDIT_FILE, rolled_files};
use azure_proxy_agent_core::advise::recording::{Entry, Reader, Recording};
use azure_proxy_agent_core::identity::Destination;
use azure_proxy_agent_core::time::Wall;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads files of audit lines, `-` for standard input.
///
/// # Errors
/// A file cannot be read; or there is nothing but what cannot be read.
pub(super) fn read<'a>(files: impl IntoIterator<Item = &'a OsStr>) -> Result<Recording, Failure> {
    let mut recording = Recording::new();
    for file in files {
        let name = file.display();
        let entry = |entry, _: &[u8]| recording.take(entry);
        let result = match file.as_encoded_bytes() {
            b"-" => copy(&mut io::stdin().lock(), &mut Reader::new("-"), entry),
            _ => File::open(file).and_then(|mut open| copy(&mut open, &mut Reader::new(&name.to_string()), entry)),
        };
        result.map_err(|e| format!("{name}: {e}"))?;
    }
    match recording.problems.first() {
        Some(problem) if recording.requests.is_empty() => Err(format!("{problem}: is this an audit log?").into()),
        _ => Ok(recording),
    }
}

/// Reads one file to its end.
pub(super) fn copy(from: &mut dyn Read, reader: &mut Reader, mut entry: impl FnMut(Entry, &[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => reader.feed(buffer.get(..n).unwrap_or_default(), &mut entry),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    reader.finish(entry);
    Ok(())
}

/// The audit log in a folder, as files: rolled files first, from old to new, then the current one.
pub(super) fn of_folder(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = rolled_files(folder, AUDIT_FILE).into_iter().map(|name| folder.join(name)).collect();
    files.push(folder.join(AUDIT_FILE));
    files
}

/// What was wrong with the recording, and what is not in it: one line each.
pub(super) fn remarks(recording: &Recording) -> Vec<String> {
    const SHOWN: usize = 5;
    let mut lines: Vec<String> = recording.problems.iter().take(SHOWN).map(ToString::to_string).collect();
    match recording.problems.len() {
        0 => {}
        n if n > SHOWN => lines.push(format!("{} more lines could not be read", n - SHOWN)),
        n => lines.push(format!("{n} of {} lines could not be read", recording.tally.lines)),
    }
    let tally = &recording.tally;
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            lines.push(format!("{count} {what}"));
        }
    };
    say(tally.suppressed, "refused requests are not in it: there were too many, and they were only counted");
    say(tally.lost, "lines are not in it: the log could not be written");
    say(tally.foreign, "connections from other network namespaces are in it, about which rules decide nothing");
    say(tally.torn, "files end in the middle of a line");
    lines
}

/// Reads `--since`: a time in UTC, or how long ago.
pub(super) fn since(text: &str) -> Result<Wall, UsageError> {
    if let Some(wall) = Wall::parse_stamp(text) {
        return Ok(wall);
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(number.len()..) {
        Some("s" | "sec") => 1,
        Some("m" | "min") => 60,
        Some("h") => 3600,
        Some("d") => 86_400,
        Some("w") => 604_800,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|_| unit > 0) {
        Some(seconds) => {
            let ago = u64::try_from(Duration::from_secs(seconds).as_nanos()).unwrap_or(u64::MAX);
            Ok(Wall(clock::now().wall.0.saturating_sub(ago)))
        }
        None => Err(UsageError::wrong(format!(
            "--since needs how long ago (90s, 15m, 1h, 2d) or a time in UTC (2026-11-22T08:15), not {text:?}"
        ))),
    }
}

/// Reads `--dest`.
pub(super) fn destination(text: &str) -> Result<Destination, UsageError> {
    match text.to_ascii_lowercase().as_str() {
        "imds" => Ok(Destination::Imds),
        "wireserver" => Ok(Destination::WireServer),
        "hostga" | "hostgaplugin" => Ok(Destination::HostGaPlugin),
        _ => Err(UsageError::wrong(format!("--dest needs imds, wireserver or hostga, not {text:?}"))),
    }
}

/// The word of `--dest`, for messages and names of files.
pub(super) const fn word(destination: Destination) -> &'static str {
    match destination {
        Destination::Imds => "imds",
        Destination::WireServer => "wireserver",
        Destination::HostGaPlugin => "hostga",
    }
}

/// The files of an option and the words after it: the shell makes several words of `--from audit.jsonl*`.
pub(super) fn files<'a>(given: &'a super::args::Given, option: &'a str) -> Vec<&'a OsStr> {
    given.all(option).chain(given.operands.iter().map(OsString::as_os_str)).collect()
}
