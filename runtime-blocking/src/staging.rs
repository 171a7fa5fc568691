//! Audit lines that wait for being written, and the requests that are with the host, in memory that outlives the process (invariant
//! 6): killed at any moment, the agent leaves behind what its successor needs to write each of them down exactly once.
//!
//! ```text
//! 0       8      64                          65536                                   2162688
//! | magic | mark | lines that wait           | slots of 2 KiB: requests with the host |
//! ```
//!
//! A line or slot is valid once its first word is: length and checksum, stored last. The order of stores is the whole protocol:
//!
//! - A request goes out: slot, its word. Then the bytes to the host.
//! - It has ended: the final line, its word; then the slot's word is cleared. In between both are there: the line wins.
//! - Lines are written to the log: the mark (which file, how long it was), the write, the lines' first word is cleared, the mark is
//!   cleared. Killed in between, the file tells how much of the write took place.
//!
//! Stores of a killed process are all there up to one point of its program, because the pages are the kernel's. A machine that loses
//! its power may keep any part: then the checksums say what is whole.
//!
//! It knows the protocol. It refuses to know requests, files and mappings.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

/// Bytes of the whole.
pub const SIZE: usize = SLOTS + COUNT * SLOT;
/// Most connections with a request at the host: as many as there may be connections (PX-14a).
const COUNT: usize = 1024;
/// Bytes of a slot.
const SLOT: usize = 2048;
const SLOTS: usize = 64 * 1024;
const MARK: usize = 8;
const PLACE: usize = 16;
const LINES: usize = 64;
/// Word and key before the bytes of a line or slot.
const HEAD: usize = 16;
/// Says that the rest is laid out as above.
const MAGIC: u64 = u64::from_le_bytes(*b"audit 1\n");

/// The longest line of a request that is with the host. Bytes, with line feed.
pub const MAX_INTENT: usize = SLOT - HEAD;
/// The longest line. Bytes, with line feed.
pub const MAX_LINE: usize = SLOTS - LINES - HEAD - 16;

/// Memory that outlives the process.
pub trait Medium {
    /// Stores bytes. In no order with other copies.
    fn copy(&mut self, at: usize, bytes: &[u8]);

    /// Stores one aligned word: after everything that was stored before, and before everything that is stored after.
    fn publish(&mut self, at: usize, word: u64);

    /// What is there; false if that cannot be said.
    fn read(&self, at: usize, into: &mut [u8]) -> bool;

    /// Whether everything that was stored so far outlives the process.
    fn is_whole(&self) -> bool {
        true
    }

    /// The memory is not used now: the process need not keep it.
    fn rest(&mut self) {}
}

/// A file and how long it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Bytes before what is appended.
    pub size: u64,
}

/// Where lines go in the end.
pub trait Log {
    /// Why it did not work.
    type Error;

    /// Appends all bytes or none. `before` is told where, before the first one is.
    ///
    /// # Errors
    /// None is there.
    fn append(&mut self, bytes: &[u8], before: &mut dyn FnMut(Place)) -> Result<(), Self::Error>;

    /// What the file of `place` holds behind it, at most `most` bytes; `None` if there is no such file, or it is shorter.
    fn behind(&mut self, place: Place, most: usize) -> Option<Vec<u8>>;

    /// Appends to the file of `place` itself, whatever it is called now.
    ///
    /// # Errors
    /// The file ends at `place` again: what was behind it is gone, too.
    fn complete(&mut self, place: Place, bytes: &[u8]) -> Result<(), Self::Error>;
}

/// A line of a request that was with the host when the process ended, or its connection did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    slot: usize,
    key: u64,
    line: Vec<u8>,
}

/// The protocol on a medium; without one nothing outlives the process, and whoever has a line must flush it.
#[derive(Debug)]
pub struct Staging<M> {
    medium: Option<M>,
    /// Tells requests of this process from those of its predecessors.
    generation: u64,
    /// The lines that wait.
    batch: Vec<u8>,
    /// Where the next one goes.
    end: usize,
    slots: BTreeMap<u64, Slot>,
    /// One bit per slot that is in use.
    used: [u64; COUNT / 64],
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: usize,
    /// The request in it, if there is one.
    key: Option<u64>,
}

/// What a predecessor left.
#[derive(Debug, Default)]
struct Left {
    mark: Option<Place>,
    lines: usize,
    /// Requests whose final lines wait.
    ended: BTreeSet<u64>,
    intents: Vec<Intent>,
}

/// What was recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Lines that were waiting.
    pub lines: usize,
    /// Requests whose outcome nobody knows.
    pub interrupted: usize,
}

impl<M> Default for Staging<M> {
    fn default() -> Self {
        Self { medium: None, generation: 0, batch: Vec::new(), end: LINES, slots: BTreeMap::new(), used: [0; COUNT / 64] }
    }
}

impl<M: Medium> Staging<M> {
    /// Begins to use a medium, after writing down what a predecessor left there; what this process itself left there in an earlier
    /// attempt (`again`) it still knows and does not recover. Lines that wait here already are kept, and requests that are with the
    /// host are noted in the new medium, too; the former is void then. `generation` must not be one that was used before with this
    /// medium: a time.
    ///
    /// # Errors
    /// The log's. What could not be written stays where it is, for the next attempt or successor; the medium is in use all the same.
    pub fn attach<L: Log>(&mut self, medium: M, generation: u64, again: bool, log: &mut L) -> Result<Recovered, L::Error> {
        let generation = if again { self.generation } else { generation };
        let former = std::mem::replace(self, Self { medium: Some(medium), generation, ..Self::default() });
        let (waiting, noted) = (former.batch, former.slots);
        let left = self.adopt(again);
        let recovered = Recovered { lines: left.lines, interrupted: left.intents.len() };
        let result = self.recover(left, log);
        if let Some(mut former) = former.medium {
            for (connection, slot) in noted.into_iter().filter(|(_, slot)| slot.key.is_some()) {
                if let Some(intent) = read_intent(&former, slot.number) {
                    self.note(connection, intent.key, &intent.line);
                }
            }
            former.publish(0, 0);
        }
        for line in waiting.split_inclusive(|b| *b == b'\n') {
            if self.has_room(line.len()) {
                self.append(0, line);
            }
        }
        result.map(|()| recovered)
    }

    /// Nothing outlives the process any more.
    pub fn detach(&mut self) {
        self.medium = None;
        self.slots.clear();
        self.used = [0; COUNT / 64];
    }

    /// Whether what is stored here outlives the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.medium.as_ref().is_some_and(Medium::is_whole)
    }

    /// Whether there is a medium, in whatever state.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.medium.is_some()
    }

    /// What it is, if there is one.
    #[must_use]
    pub const fn medium(&self) -> Option<&M> {
        self.medium.as_ref()
    }

    /// Bytes of lines that wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.batch.len()
    }

    /// Notes that the request of a connection goes to the host; `line` is for the log if nothing is heard of it again. `false`: there
    /// is no place that outlives the process.
    pub fn intend(&mut self, connection: u64, request: u64, line: &[u8]) -> bool {
        line.len() <= MAX_INTENT && self.note(connection, self.generation.wrapping_add(request), line)
    }

    fn note(&mut self, connection: u64, key: u64, line: &[u8]) -> bool {
        let Some(medium) = &mut self.medium else { return false };
        let slot = match self.slots.get_mut(&connection) {
            Some(slot) => slot,
            None => {
                let Some(number) = take_free(&mut self.used) else { return false };
                self.slots.entry(connection).or_insert(Slot { number, key: None })
            }
        };
        let at = SLOTS + slot.number * SLOT;
        if slot.key.take().is_some() {
            medium.publish(at, 0);
        }
        medium.copy(at + 8, &key.to_le_bytes());
        medium.copy(at + HEAD, line);
        medium.publish(at, word(key, line));
        slot.key = Some(key);
        medium.is_whole()
    }

    /// Whether there is room for one more line.
    #[must_use]
    pub const fn has_room(&self, line: usize) -> bool {
        // The word behind it, which ends the lines, needs room, too.
        self.end + HEAD + padded(line) + 8 <= SLOTS
    }

    /// Adds a line, which ends in a line feed, about a request (0: about none). Without room it is not added: flush before.
    pub fn append(&mut self, request: u64, line: &[u8]) -> bool {
        let key = if request == 0 { 0 } else { self.generation.wrapping_add(request) };
        self.append_key(key, line)
    }

    fn append_key(&mut self, key: u64, line: &[u8]) -> bool {
        if !self.has_room(line.len()) {
            return false;
        }
        let next = self.end + HEAD + padded(line.len());
        if let Some(medium) = &mut self.medium {
            medium.copy(self.end + 8, &key.to_le_bytes());
            medium.copy(self.end + HEAD, line);
            medium.publish(next, 0);
            medium.publish(self.end, word(key, line));
        }
        self.end = next;
        self.batch.extend_from_slice(line);
        true
    }

    /// The request of a connection has its final line: nothing is to be said of it any more.
    pub fn settle(&mut self, connection: u64) {
        if let (Some(medium), Some(slot)) = (&mut self.medium, self.slots.get_mut(&connection))
            && slot.key.take().is_some()
        {
            medium.publish(SLOTS + slot.number * SLOT, 0);
        }
    }

    /// The request of a connection that was noted and has no final line.
    #[must_use]
    pub fn unsettled(&self, connection: u64) -> Option<Intent> {
        let slot = self.slots.get(&connection).filter(|slot| slot.key.is_some())?;
        read_intent(self.medium.as_ref()?, slot.number)
    }

    /// Adds the line of such a request.
    pub fn append_intent(&mut self, intent: &Intent) -> bool {
        self.append_key(intent.key, &intent.line)
    }

    /// Connections that were heard of.
    #[must_use]
    pub fn connections(&self) -> Vec<u64> {
        self.slots.keys().copied().collect()
    }

    /// The connection is over.
    pub fn release(&mut self, connection: u64) {
        self.settle(connection);
        if let Some(slot) = self.slots.remove(&connection) {
            give_back(&mut self.used, slot.number);
        }
    }

    /// Writes what waits to the log.
    ///
    /// # Errors
    /// The log's. Everything still waits.
    pub fn flush<L: Log>(&mut self, log: &mut L) -> Result<(), L::Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let medium = &mut self.medium;
        let result = log.append(&self.batch, &mut |place| {
            if let Some(medium) = medium {
                set_mark(medium, place);
            }
        });
        match result {
            Ok(()) => self.emptied(),
            Err(_) => self.unmark(),
        }
        result
    }

    /// Forgets the lines that wait; returns how many.
    pub fn drop_waiting(&mut self) -> u64 {
        let lines = self.batch.iter().filter(|b| **b == b'\n').count();
        self.emptied();
        lines as u64
    }

    /// Nobody is connected: memory that is not used is given back.
    pub fn rest(&mut self) {
        if let Some(medium) = self.medium.as_mut().filter(|_| self.batch.is_empty()) {
            medium.rest();
        }
    }

    fn emptied(&mut self) {
        self.batch.clear();
        // A burst may have been long.
        self.batch.shrink_to(MAX_LINE);
        self.end = LINES;
        if let Some(medium) = &mut self.medium {
            medium.publish(LINES, 0);
        }
        self.unmark();
    }

    fn unmark(&mut self) {
        if let Some(medium) = &mut self.medium {
            medium.publish(MARK, 0);
        }
    }

    /// Takes over what is valid in the medium.
    fn adopt(&mut self, again: bool) -> Left {
        let Some(medium) = &mut self.medium else { return Left::default() };
        let mut left = Left::default();
        match read_word(medium, 0) {
            Some(MAGIC) if !again => {}
            found => {
                if found != Some(0) {
                    // Of another layout, or known. Nothing of it may be taken for ours later.
                    (0..COUNT).for_each(|number| medium.publish(SLOTS + number * SLOT, 0));
                }
                medium.publish(LINES, 0);
                medium.publish(MARK, 0);
                medium.publish(0, MAGIC);
                return left;
            }
        }
        left.mark = read_mark(medium);
        let mut lines = vec![0; SLOTS];
        if medium.read(0, &mut lines) {
            while let Some((key, line)) = lines.get(self.end..).and_then(valid) {
                left.ended.insert(key);
                left.lines += 1;
                self.batch.extend_from_slice(line);
                self.end += HEAD + padded(line.len());
            }
        }
        for number in 0..COUNT {
            if read_word(medium, SLOTS + number * SLOT) != Some(0) {
                match read_intent(medium, number).filter(|intent| !left.ended.contains(&intent.key)) {
                    Some(intent) => {
                        take(&mut self.used, number);
                        left.intents.push(intent);
                    }
                    None => medium.publish(SLOTS + number * SLOT, 0),
                }
            }
        }
        left.intents.sort_unstable_by_key(|intent| intent.key);
        left
    }

    fn recover<L: Log>(&mut self, left: Left, log: &mut L) -> Result<(), L::Error> {
        if let Some(place) = left.mark.filter(|_| !self.batch.is_empty()) {
            match log.behind(place, self.batch.len()) {
                // What is behind the mark is the beginning of these lines, or all of them, and perhaps others after them.
                Some(there) if self.batch.starts_with(&there) => {
                    let rest = self.batch.get(there.len()..).unwrap_or_default();
                    if rest.is_empty() || log.complete(place, rest).is_ok() {
                        self.emptied();
                    } else {
                        // None of them is there now: they wait like any others.
                        self.unmark();
                    }
                }
                _ => self.unmark(),
            }
        }
        for intent in left.intents {
            if !self.has_room(intent.line.len()) {
                self.flush(log)?;
            }
            self.append_intent(&intent);
            if let Some(medium) = &mut self.medium {
                medium.publish(SLOTS + intent.slot * SLOT, 0);
            }
            give_back(&mut self.used, intent.slot);
        }
        self.flush(log)
    }
}

const fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

fn take(used: &mut [u64], number: usize) {
    if let Some(bits) = used.get_mut(number / 64) {
        *bits |= 1 << (number % 64);
    }
}

fn give_back(used: &mut [u64], number: usize) {
    if let Some(bits) = used.get_mut(number / 64) {
        *bits &= !(1 << (number % 64));
    }
}

/// The first free one: few pages are touched.
fn take_free(used: &mut [u64]) -> Option<usize> {
    let (at, bits) = used.iter_mut().enumerate().find(|(_, bits)| **bits != u64::MAX)?;
    let bit = bits.trailing_ones() as usize;
    *bits |= 1 << bit;
    Some(at * 64 + bit)
}

/// The word before valid bytes: never 0.
fn word(key: u64, bytes: &[u8]) -> u64 {
    u64::from(checksum(key, bytes)) << 32 | bytes.len() as u64 & 0xffff_ffff
}

/// Finds what is torn, not who forges: whoever may write to the medium may write to the log.
fn checksum(key: u64, bytes: &[u8]) -> u32 {
    let mut sum = key ^ bytes.len() as u64;
    let mut mix = |word: u64| sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    mix(u64::from_le_bytes(last));
    (sum >> 32) as u32
}

/// Key and bytes at the beginning of `bytes`, if they are whole: one line, of JSON.
fn valid(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (word_read, key) = (le(head.get(..8)?), le(head.get(8..)?));
    let line = rest.get(..usize::try_from(word_read & 0xffff_ffff).ok()?)?;
    let text = line.strip_suffix(b"\n")?;
    let whole = word_read == word(key, line) && !text.contains(&b'\n');
    (whole && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()).then_some((key, line))
}

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn read_word(medium: &impl Medium, at: usize) -> Option<u64> {
    let mut word = [0; 8];
    medium.read(at, &mut word).then(|| u64::from_le_bytes(word))
}

fn read_intent(medium: &impl Medium, slot: usize) -> Option<Intent> {
    let mut bytes = [0; SLOT];
    if !medium.read(SLOTS + slot * SLOT, &mut bytes) {
        return None;
    }
    valid(&bytes).map(|(key, line)| Intent { slot, key, line: line.to_vec() })
}

fn set_mark(medium: &mut impl Medium, place: Place) {
    let mut bytes = [0; 24];
    let words = [place.device, place.inode, place.size].map(u64::to_le_bytes);
    bytes.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
    medium.copy(PLACE, &bytes);
    medium.publish(MARK, word(0, &bytes));
}

fn read_mark(medium: &impl Medium) -> Option<Place> {
    let mut bytes = [0; 24];
    let set = read_word(medium, MARK)?;
    (medium.read(PLACE, &mut bytes) && set == word(0, &bytes)).then(|| {
        let (device, rest) = bytes.split_at(8);
        let (inode, size) = rest.split_at(8);
        Place { device: le(device), inode: le(inode), size: le(size) }
    })
}
