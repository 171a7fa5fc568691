//! Plays the fixtures of `testdata/replay/` through a real shell: a daemon with a scripted world, a client and a host on loopback
//! sockets. What each side receives and what is recorded must be what core alone produced (design invariant 10).
//!
//! It knows sockets and fixtures. It refuses to know the runtime: whoever plays brings a function that serves one connection.
//!
//! `stage` is what the parties of a story share, `world` the daemon's surroundings, `driver` walks the steps, `judge` says what is
//! different.
//!
//! Nothing here sleeps: each step waits until everything that the fixture lets it bring about was seen. Steps that bring nothing
//! about are followed by the next at once, so a fixture whose outcome depends on what a shell has read *before* the other side
//! acts is `core-only`.

mod driver;
mod judge;
mod stage;
mod world;

use crate::daemon::{Accepted, Daemon};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::replay::{Cuts, Fixture, Input, Output, Step, XorShift, play as play_core};
use azure_proxy_agent_core::{effect::ConnectError, effect::LocalReply, effect::Side, replay::PeerSpec};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io, thread};

/// Serves one accepted connection on the calling thread until it is over.
pub type Serve = fn(Arc<Daemon>, Accepted);

/// How inputs are written to the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Each input with one write.
    Whole,
    /// Byte by byte; of very long inputs the beginning and the end, and the middle in pieces of random length.
    Bytewise,
}

impl Writes {
    /// Inputs up to this length are cut everywhere.
    const LONG: usize = 16 * 1024;
    /// This much at both ends of longer ones.
    const ENDS: usize = 4 * 1024;

    /// The lengths of the writes for so many bytes.
    fn lengths(self, total: usize) -> impl Iterator<Item = usize> {
        let mut at = 0;
        let mut random = XorShift::new(total as u64);
        std::iter::from_fn(move || {
            let left = total - at;
            let n = match self {
                Self::Whole => left,
                Self::Bytewise if total > Self::LONG && at >= Self::ENDS && left > Self::ENDS => {
                    let most = (left - Self::ENDS).min(Self::ENDS) as u64;
                    1 + usize::try_from(random.below(most)).unwrap_or(0)
                }
                Self::Bytewise => left.min(1),
            };
            at += n;
            (n > 0).then_some(n)
        })
    }
}

/// Plays one fixture.
///
/// # Errors
/// What came out differently, or why it cannot be played.
pub fn play(fixture: &Fixture, writes: Writes, serve: Serve) -> Result<(), String> {
    let fixture = to_the_end(fixture)?;
    driver::drive(&fixture, writes, serve)
}

/// The story with its natural end: what is still open is closed, the client first. What follows is what core says.
fn to_the_end(fixture: &Fixture) -> Result<Fixture, String> {
    let mut story = fixture.clone();
    loop {
        let played = play_core(&story, Limits::DEFAULT, Cuts::Whole)?;
        story = story.with_outputs(played.steps);
        let outputs = || story.steps.iter().flat_map(|s| &s.outputs);
        if outputs().any(|o| *o == Output::Done) {
            return Ok(story);
        }
        let count = |effect: fn(&Output) -> bool, answer: fn(&Input) -> bool| {
            outputs().filter(|o| effect(o)).count() > story.steps.iter().filter(|s| answer(&s.input)).count()
        };
        let had = |input: &Input| story.steps.iter().any(|s| s.input == *input);
        let input = if count(|o| matches!(o, Output::Identify), |i| matches!(i, Input::Identified(_))) {
            Input::Identified(PeerSpec::Unknown)
        } else if count(|o| matches!(o, Output::Ask(_)), |i| matches!(i, Input::Reply(_))) {
            Input::Reply(LocalReply::Unavailable)
        } else if count(|o| matches!(o, Output::Connect(_)), |i| matches!(i, Input::Connect(_))) {
            Input::Connect(Err(ConnectError::Refused))
        } else if !had(&Input::Eof(Side::Client)) {
            Input::Eof(Side::Client)
        } else if !had(&Input::Eof(Side::Upstream)) {
            Input::Eof(Side::Upstream)
        } else {
            return Err("the story does not end when both sides do".into());
        };
        let at = story.steps.last().map(|s| s.at).unwrap_or_default();
        story.steps.push(Step { comments: Vec::new(), at, input, outputs: Vec::new() });
    }
}

/// What came of a folder of fixtures.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How many were played.
    pub played: usize,
    /// How many only core can play.
    pub core_only: usize,
    /// File and difference of those that came out differently.
    pub failures: Vec<String>,
}

/// Plays all fixtures below `folder` that are not `core-only`, several at a time: most of their life they wait.
///
/// # Errors
/// The folder cannot be read.
pub fn play_folder(folder: &Path, writes: Writes, serve: Serve) -> io::Result<Outcome> {
    const AT_A_TIME: usize = 6;
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new(Outcome::default());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = play_file(file, writes, serve);
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(true) => outcome.played += 1,
                        Ok(false) => outcome.core_only += 1,
                        Err(what) => {
                            let name = file.strip_prefix(folder).unwrap_or(file);
                            outcome.failures.push(format!("{}: {what}", name.display()));
                        }
                    }
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.failures.sort();
    Ok(outcome)
}

/// Whether it was played.
fn play_file(file: &Path, writes: Writes, serve: Serve) -> Result<bool, String> {
    let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
    let fixture: Fixture = text.parse().map_err(|e| format!("{e}"))?;
    if fixture.core_only.is_some() {
        return Ok(false);
    }
    play(&fixture, writes, serve).map(|()| true)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "replay") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_cover_everything_in_order() {
        for total in [0, 1, 7, Writes::LONG, Writes::LONG + 1, 1_000_000] {
            assert_eq!(Writes::Whole.lengths(total).sum::<usize>(), total);
            let cut: Vec<usize> = Writes::Bytewise.lengths(total).collect();
            assert_eq!(cut.iter().sum::<usize>(), total);
            let ends = if total > Writes::LONG { Writes::ENDS } else { total };
            assert!(cut.iter().take(ends).chain(cut.iter().rev().take(ends)).all(|n| *n == 1), "{total}");
        }
    }
}
