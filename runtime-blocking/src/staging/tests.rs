//! The protocol, cut everywhere: a process that stores, writes and sends is killed after each of its steps and within them, and so is
//! the one that recovers. What it sent is in the log, once.

use super::*;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;

/// One step of a process that others can see afterwards.
#[derive(Debug, Clone)]
enum Op {
    /// Bytes are stored; killed within, any number of them.
    Copy(usize, Vec<u8>),
    Word(usize, u64),
    /// The log is rolled: an empty file.
    Roll,
    /// The last file, or the one with that number, gets bytes; killed within, any number of them.
    Write(u64, Vec<u8>),
    /// The file with that number is cut to that length.
    Cut(u64, u64),
    /// The request goes to the host.
    Sent(u64),
    /// The request was answered by us (refused), or its end was noted.
    Noted(u64),
}

impl Op {
    /// Into how many pieces it can be cut.
    fn pieces(&self) -> usize {
        match self {
            Self::Copy(_, bytes) | Self::Write(_, bytes) => bytes.len(),
            _ => 0,
        }
    }
}

/// What outlives processes.
#[derive(Debug, Clone)]
struct Disk {
    staging: Vec<u8>,
    files: Vec<Vec<u8>>,
    sent: BTreeSet<u64>,
    noted: BTreeSet<u64>,
}

impl Disk {
    fn new() -> Self {
        Self { staging: vec![0; SIZE], files: vec![Vec::new()], sent: BTreeSet::new(), noted: BTreeSet::new() }
    }

    /// Does an operation, or the first `part` bytes of it.
    fn apply(&mut self, op: &Op, part: usize) {
        match op {
            Op::Copy(at, bytes) => {
                let n = bytes.len().min(part);
                self.staging[*at..at + n].copy_from_slice(&bytes[..n]);
            }
            Op::Word(at, word) => self.staging[*at..at + 8].copy_from_slice(&word.to_le_bytes()),
            Op::Roll => self.files.push(Vec::new()),
            Op::Write(file, bytes) => self.files[*file as usize].extend_from_slice(&bytes[..bytes.len().min(part)]),
            Op::Cut(file, size) => self.files[*file as usize].truncate(*size as usize),
            Op::Sent(request) => drop(self.sent.insert(*request)),
            Op::Noted(request) => drop(self.noted.insert(*request)),
        }
    }

    /// Lines by request.
    fn counts(&self) -> HashMap<u64, usize> {
        let mut counts = HashMap::new();
        for file in &self.files {
            let text = std::str::from_utf8(file).expect("UTF-8");
            assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
            for line in text.lines() {
                let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
                *counts.entry(value["id"].as_u64().expect("an id")).or_insert(0) += 1;
            }
        }
        counts
    }

    fn check(&self, what: &str) {
        let counts = self.counts();
        for request in self.sent.union(&self.noted) {
            assert_eq!(counts.get(request), Some(&1), "{what}: request {request}: {:?}", self.files);
        }
        assert!(counts.values().all(|n| *n == 1), "{what}: {counts:?}");
    }
}

/// A disk and the story of what is done to it.
#[derive(Debug, Clone)]
struct Tape(Rc<RefCell<(Disk, Vec<Op>)>>);

impl Tape {
    fn on(disk: Disk) -> Self {
        Self(Rc::new(RefCell::new((disk, Vec::new()))))
    }

    fn record(&self, op: Op) {
        let (disk, ops) = &mut *self.0.borrow_mut();
        disk.apply(&op, usize::MAX);
        ops.push(op);
    }

    fn ops(&self) -> Vec<Op> {
        self.0.borrow().1.clone()
    }
}

impl Medium for Tape {
    fn copy(&mut self, at: usize, bytes: &[u8]) {
        self.record(Op::Copy(at, bytes.to_vec()));
    }

    fn publish(&mut self, at: usize, word: u64) {
        assert!(at.is_multiple_of(8) && at + 8 <= SIZE);
        self.record(Op::Word(at, word));
    }

    fn read(&self, at: usize, into: &mut [u8]) -> bool {
        let disk = &self.0.borrow().0;
        into.copy_from_slice(&disk.staging[at..at + into.len()]);
        true
    }
}

/// The log of a process: rolled when it has reached 500 bytes.
#[derive(Debug)]
struct TapeLog(Tape, bool);

impl Log for TapeLog {
    type Error = &'static str;

    fn append(&mut self, bytes: &[u8], before: &mut dyn FnMut(Place)) -> Result<(), Self::Error> {
        if self.1 {
            return Err("full");
        }
        let last = |tape: &Tape| {
            let disk = &tape.0.borrow().0;
            (disk.files.len() as u64 - 1, disk.files.last().map_or(0, Vec::len) as u64)
        };
        if last(&self.0).1 >= 500 {
            self.0.record(Op::Roll);
        }
        let (inode, size) = last(&self.0);
        before(Place { device: 1, inode, size });
        self.0.record(Op::Write(inode, bytes.to_vec()));
        Ok(())
    }

    fn behind(&mut self, place: Place, most: usize) -> Option<Vec<u8>> {
        let disk = &self.0.0.borrow().0;
        let rest = disk.files.get(place.inode as usize)?.get(place.size as usize..)?;
        Some(rest[..rest.len().min(most)].to_vec())
    }

    fn complete(&mut self, place: Place, bytes: &[u8]) -> Result<(), Self::Error> {
        if self.1 {
            self.0.record(Op::Cut(place.inode, place.size));
            return Err("full");
        }
        self.0.record(Op::Write(place.inode, bytes.to_vec()));
        Ok(())
    }
}

fn line(request: u64, text: &str) -> Vec<u8> {
    let mut line = String::new();
    writeln!(line, r#"{{"id":{request},"text":"{text}"}}"#).expect("written");
    line.into_bytes()
}

/// The life of a process: three connections, refusals in between, flushes now and then. Requests `from..`.
fn live(disk: Disk, generation: u64, from: u64) -> Tape {
    let tape = Tape::on(disk);
    let mut log = TapeLog(tape.clone(), false);
    let mut staging = Staging::default();
    staging.attach(tape.clone(), generation, false, &mut log).expect("attaches");
    let intend = |staging: &mut Staging<Tape>, connection, request| {
        assert!(staging.intend(connection, request, &line(request, "interrupted")));
        tape.record(Op::Sent(request));
    };
    let end = |staging: &mut Staging<Tape>, log: &mut TapeLog, connection, request| {
        let line = line(request, &"x".repeat(request as usize * 7 % 90));
        if !staging.has_room(line.len()) {
            staging.flush(log).expect("flushed");
        }
        assert!(staging.append(request, &line));
        staging.settle(connection);
        tape.record(Op::Noted(request));
    };
    let mut next = from;
    let mut take = || {
        next += 1;
        next - 1
    };
    let (a, b, c) = (take(), take(), take());
    intend(&mut staging, 7, a);
    end(&mut staging, &mut log, 7, a);
    staging.flush(&mut log).expect("flushed");
    intend(&mut staging, 7, b);
    intend(&mut staging, 8, c);
    let refused = take();
    end(&mut staging, &mut log, 9, refused);
    end(&mut staging, &mut log, 7, b);
    let d = take();
    intend(&mut staging, 7, d);
    staging.flush(&mut log).expect("flushed");
    // One is given up, one goes on.
    let given_up = staging.unsettled(8).expect("noted");
    assert!(staging.append_intent(&given_up));
    staging.release(8);
    for _ in 0..5 {
        let e = take();
        intend(&mut staging, 10, e);
        end(&mut staging, &mut log, 10, e);
    }
    staging.flush(&mut log).expect("flushed");
    let (f, refused) = (take(), take());
    intend(&mut staging, 11, f);
    end(&mut staging, &mut log, 9, refused);
    assert!(staging.unsettled(7).is_some() && staging.unsettled(10).is_none());
    tape
}

/// The disk after each prefix of the operations, and after parts of the one that follows.
fn cut(start: &Disk, ops: &[Op], mut each: impl FnMut(&str, &Disk)) {
    let mut disk = start.clone();
    for (n, op) in ops.iter().enumerate() {
        each(&format!("before {n}"), &disk);
        let pieces = op.pieces();
        for part in [1, 2, 8, 9, pieces / 3, pieces / 2, pieces.saturating_sub(1)] {
            if (1..pieces).contains(&part) {
                let mut torn = disk.clone();
                torn.apply(op, part);
                each(&format!("in {n} after {part} bytes"), &torn);
            }
        }
        disk.apply(op, usize::MAX);
    }
    each("at the end", &disk);
}

fn recover(disk: Disk, generation: u64) -> (Tape, Recovered) {
    let tape = Tape::on(disk);
    let recovered = Staging::default().attach(tape.clone(), generation, false, &mut TapeLog(tape.clone(), false));
    (tape, recovered.expect("recovers"))
}

fn disk_of(tape: &Tape) -> Disk {
    tape.0.borrow().0.clone()
}

/// Invariant 6, for every moment at which the agent may be killed.
#[test]
fn killed_anywhere_each_request_is_in_the_log_exactly_once() {
    let story = live(Disk::new(), 1_000, 1).ops();
    let mut interrupted = 0;
    cut(&Disk::new(), &story, |what, disk| {
        let (tape, recovered) = recover(disk.clone(), 2_000);
        disk_of(&tape).check(what);
        interrupted = interrupted.max(recovered.interrupted);
        // Nothing is left to be recovered again.
        let (again, nothing) = recover(disk_of(&tape), 3_000);
        assert_eq!(nothing, Recovered::default(), "{what}");
        disk_of(&again).check(what);
    });
    assert!(interrupted >= 2, "a story in which nothing is interrupted proves nothing");
}

/// The successor is killed while it recovers, too.
#[test]
fn killed_while_recovering_each_request_is_in_the_log_exactly_once() {
    let story = live(Disk::new(), 1_000, 1).ops();
    let mut moments = 0;
    let mut before = None;
    cut(&Disk::new(), &story, |what, disk| {
        let repair = recover(disk.clone(), 2_000).0.ops();
        // Most neighbours are alike.
        if before.replace(format!("{repair:?}")) == Some(format!("{repair:?}")) {
            return;
        }
        cut(disk, &repair, |then, torn| {
            disk_of(&recover(torn.clone(), 3_000).0).check(&format!("{what}, then {then}"));
            moments += 1;
        });
    });
    assert!(moments > 1_000, "{moments}");
}

/// Request numbers begin at 1 again in every process.
#[test]
fn the_requests_of_a_successor_are_others() {
    let mut disk = disk_of(&live(Disk::new(), 1_000, 1));
    // The same numbers: what the predecessor noted of 14 must not settle the successor's 14.
    disk = disk_of(&live(disk, 2_000, 1));
    let lines = disk_of(&recover(disk, 3_000).0).counts();
    assert!(lines.values().all(|n| *n == 2), "{lines:?}");
}

#[test]
fn a_log_that_takes_nothing_loses_nothing_until_it_does() {
    let tape = Tape::on(Disk::new());
    let mut log = TapeLog(tape.clone(), true);
    let mut staging = Staging::default();
    staging.attach(tape.clone(), 1, false, &mut log).expect("nothing to write");
    for request in 1..=3 {
        assert!(staging.append(request, &line(request, "waits")));
        assert!(staging.flush(&mut log).is_err());
        tape.record(Op::Noted(request));
    }
    disk_of(&recover(disk_of(&tape), 2).0).check("killed meanwhile");
    log.1 = false;
    staging.flush(&mut log).expect("works again");
    disk_of(&tape).check("works again");
    assert_eq!(staging.waiting(), 0);
}

/// The disk is full when the successor comes, and has room later. Invariant 6.
#[test]
fn a_disk_that_is_full_at_the_recovery_doubles_nothing() {
    let mut cut_short = 0;
    cut(&Disk::new(), &live(Disk::new(), 1_000, 1).ops(), |what, disk| {
        cut_short += usize::from(disk.files.iter().any(|file| file.last().is_some_and(|b| *b != b'\n')));
        let tape = Tape::on(disk.clone());
        let mut log = TapeLog(tape.clone(), true);
        let mut staging = Staging::default();
        if staging.attach(tape.clone(), 2_000, false, &mut log).is_err() {
            disk_of(&recover(disk_of(&tape), 3_000).0).check(&format!("{what}, killed meanwhile"));
        }
        log.1 = false;
        staging.flush(&mut log).expect("works again");
        disk_of(&tape).check(what);
    });
    assert!(cut_short > 3, "{cut_short}");
}

/// The agent before wrote its lines, was killed before it had cleared them, and one that could not use the medium wrote others.
#[test]
fn lines_that_are_followed_by_others_are_known() {
    let tape = Tape::on(Disk::new());
    let mut staging = Staging::default();
    staging.attach(tape.clone(), 1, false, &mut TapeLog(tape.clone(), false)).expect("attaches");
    assert!(staging.append(1, &line(1, "written")));
    staging.flush(&mut TapeLog(tape.clone(), false)).expect("written");
    let ops = tape.ops();
    let written = ops.iter().position(|op| matches!(op, Op::Write(..))).expect("a write");
    let mut disk = Disk::new();
    ops.iter().take(written + 1).for_each(|op| disk.apply(op, usize::MAX));
    disk.apply(&Op::Write(0, line(2, "of another")), usize::MAX);
    disk_of(&recover(disk, 2).0).check("followed");
}

/// Somebody removed the file: what is with the host is noted in the next one, too, and the former is void, should it come back.
#[test]
fn another_medium_takes_over() {
    let (first, second) = (Tape::on(Disk::new()), Tape::on(Disk::new()));
    let mut staging = Staging::default();
    staging.attach(first.clone(), 1, false, &mut TapeLog(first.clone(), false)).expect("attaches");
    for request in 1..=3 {
        assert!(staging.intend(request, request, &line(request, "interrupted")));
    }
    assert!(staging.append(2, &line(2, "waits")));
    staging.settle(2);
    let mut full = TapeLog(second.clone(), true);
    let _: Result<_, _> = staging.attach(second.clone(), 7, true, &mut full);
    assert_eq!(staging.unsettled(1).map(|intent| intent.line), Some(line(1, "interrupted")));
    // Killed between its line and the end of its note.
    assert!(staging.append(3, &line(3, "done")));
    second.record(Op::Noted(2));
    (1..=3).for_each(|request| second.record(Op::Sent(request)));
    disk_of(&recover(disk_of(&second), 9).0).check("recovered");
    assert_eq!(recover(disk_of(&first), 9).1, Recovered::default());
}

/// A disk that lost power has any mixture of old and new: only whole lines count.
#[test]
fn garbage_is_never_a_line() {
    let good = disk_of(&live(Disk::new(), 1_000, 1));
    let count = |disk: &Disk| disk_of(&recover(disk.clone(), 2_000).0).counts().len();
    let all = count(&good);
    let mut seed = 1_u64;
    for _ in 0..300 {
        let mut disk = good.clone();
        for _ in 0..8 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % 700 + if seed & 1 == 0 { 0 } else { SLOTS };
            disk.staging[at] = (seed >> 20) as u8;
        }
        assert!(count(&disk) <= all);
    }
    let mut other = good;
    other.staging[0] ^= 1;
    let logged = other.counts().len();
    assert_eq!(count(&other), logged, "another layout is not ours to read");
}

#[test]
fn as_many_slots_as_connections_and_no_more() {
    let tape = Tape::on(Disk::new());
    let mut staging = Staging::default();
    staging.attach(tape.clone(), 1, false, &mut TapeLog(tape, false)).expect("attaches");
    for connection in 0..COUNT as u64 {
        assert!(staging.intend(connection, connection, b"{}\n"), "{connection}");
    }
    assert!(!staging.intend(9_999, 1, b"{}\n"));
    staging.release(17);
    assert!(staging.intend(9_999, 1, b"{}\n"));
    assert!(!staging.intend(9_999, 2, &[b'x'; MAX_INTENT + 1]));
}
