//! The audit log read back (docs/audit.md): what a tool needs of a request that was recorded, and what else was in the file.
//!
//! Unknown members and unknown kinds of lines are no error: a newer agent may have written them. A line that is no JSON is one, and is
//! told with file and line; the others are read nevertheless, because a full disk may leave a part of a line anywhere.

use crate::authz::Request;
use crate::identity::{Claims, Confidence, Destination, Executable, OnDemand};
use crate::time::Wall;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One request as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When it ended; `None` if the line does not say.
    pub time: Option<Wall>,
    /// Who asked.
    pub caller: Arc<Caller>,
    /// Process id of the caller.
    pub process_id: u32,
    /// The address that was asked for; `None`: unknown.
    pub to: Option<SocketAddrV4>,
    /// As received; long ones are shortened in the log.
    pub method: String,
    /// The request target as received; long ones are shortened in the log.
    pub url: String,
    /// What was decided.
    pub decision: Outcome,
    /// Why, in one word.
    pub reason: String,
    /// What decided, where the log says it.
    pub rule: Rule,
    /// Status code of the answer; 0 if there was none.
    pub status: u16,
    /// Number of the policy that decided.
    pub epoch: u64,
    /// Nobody knows what became of it: `interrupted`, or `pending` without a line that follows.
    pub unfinished: bool,
    /// Its line, for errors and notes.
    pub line: Place,
}

impl Recorded {
    /// Which of the guarded endpoints it is for; `None`: another address, or none.
    #[must_use]
    pub fn destination(&self) -> Option<Destination> {
        Destination::from_addr(self.to?)
    }

    /// What a decision looks at.
    #[must_use]
    pub const fn request(&self) -> Request<'_> {
        Request { method: self.method.as_bytes(), target: self.url.as_bytes() }
    }

    /// Whether the log may have shortened the target: long texts are cut, at one of a few lengths (docs/audit.md).
    #[must_use]
    pub fn may_be_cut(&self) -> bool {
        // At a character's boundary, so up to three bytes earlier. The smaller limits only occur where a line has no room.
        let near = |limit: usize| (limit - 3..=limit).contains(&self.url.len());
        near(4096) || near(1024) || (self.unfinished && (near(512) || near(24)))
    }
}

/// A caller as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// User id.
    pub user_id: u32,
    /// Account name.
    pub user: String,
    /// Names of groups; long lists are shortened in the log.
    pub groups: Vec<String>,
    /// What it runs.
    pub program: Program,
    /// The first words of its command line, redacted.
    pub command_line: String,
    /// Whether it is anybody at all: without attribution there is no caller that a rule could mean.
    pub known: bool,
}

impl Caller {
    /// The identity that this caller had, as far as it is in the log.
    #[must_use]
    pub fn claims(&self) -> Claims {
        Claims {
            user_id: self.user_id,
            // Not in the log, like what is found out on demand: no group has this number.
            group_id: u32::MAX,
            user_name: self.user.as_str().into(),
            user_groups: self.groups.iter().map(|group| group.as_str().into()).collect(),
            process_id: 0,
            executable: match &self.program {
                Program::Path(path) => Executable::Known(path.as_str().into()),
                Program::Elsewhere(path) => Executable::Elsewhere(path.as_str().into()),
                Program::Unknown => Executable::Unknown,
            },
            command_line: self.command_line.as_str().into(),
            cgroup: 0,
            confidence: Confidence::Verified,
            on_demand: OnDemand::default(),
        }
    }
}

/// The executable of a caller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Attributed beyond doubt.
    Path(String),
    /// Of another mount namespace: matched by no selector (I-28).
    Elsewhere(String),
    /// Nothing is known: matched by no selector (I-16).
    Unknown,
}

impl Program {
    fn read(text: String) -> Self {
        match text.strip_prefix("mnt:") {
            Some(path) => Self::Elsewhere(path.to_owned()),
            None if text.is_empty() => Self::Unknown,
            None => Self::Path(text),
        }
    }
}

/// As in the log.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Elsewhere(path) => write!(f, "mnt:{path}"),
            Self::Unknown => Ok(()),
        }
    }
}

/// The word of `decision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Forwarded.
    Allow,
    /// Rules deny, but their mode only audits: forwarded.
    Audit,
    /// Rules deny.
    Deny,
    /// It did not come to a decision, or a connection from another network namespace was refused.
    Refused,
    /// A connection from another network namespace was let through.
    Passed,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Allow, Self::Audit, Self::Deny, Self::Refused, Self::Passed];

    /// The word in the log.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
            Self::Refused => "refused",
            Self::Passed => "passed",
        }
    }

    /// The outcome of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.word() == word)
    }
}

/// Names of what decided; empty where it took no part or the log does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// The rule set's id.
    pub set: String,
    /// The privilege that matched.
    pub privilege: String,
    /// The role by which the identity has it.
    pub role: String,
    /// The identity that was the caller's.
    pub identity: String,
}

/// A line of a file, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's name.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A line that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// What a recording has beside requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines.
    pub lines: u64,
    /// Requests that a line says were refused and not written down.
    pub suppressed: u64,
    /// Lines that could not be written.
    pub lost: u64,
    /// Connections from other network namespaces.
    pub foreign: u64,
    /// Requests whose outcome nobody knows.
    pub unfinished: u64,
    /// Last lines of files that end in the middle.
    pub torn: u64,
    /// Lines of another kind.
    pub other: u64,
}

/// What several files, read one after the other, had in them.
#[derive(Debug, Default)]
pub struct Recording {
    /// The requests, in the order of their lines.
    pub requests: Vec<Recorded>,
    /// What else there was.
    pub tally: Tally,
    /// Lines that could not be read.
    pub problems: Vec<Problem>,
    callers: BTreeSet<Arc<Caller>>,
    /// Requests that were noted before they went out, by connection and number, and where they are in `requests`.
    pending: BTreeMap<(u64, u64), usize>,
}

impl Recording {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what a line says; [`Entry::Torn`] and unreadable lines included.
    pub fn take(&mut self, entry: Entry) {
        self.tally.lines += 1;
        match entry {
            Entry::Request(request) => self.request(*request),
            Entry::Suppressed(count) => self.tally.suppressed = self.tally.suppressed.saturating_add(count),
            Entry::Lost(count) => self.tally.lost = self.tally.lost.saturating_add(count),
            Entry::Foreign(_) => self.tally.foreign += 1,
            Entry::Torn => self.tally.torn += 1,
            Entry::Other => self.tally.other += 1,
            Entry::Problem(problem) => self.problems.push(problem),
        }
    }

    fn request(&mut self, line: Line) {
        let Line { mut request, key, pending } = line;
        // A day has thousands of requests and a handful of callers.
        match self.callers.get(&request.caller) {
            Some(caller) => request.caller = Arc::clone(caller),
            None => drop(self.callers.insert(Arc::clone(&request.caller))),
        }
        if let Some(at) = self.pending.remove(&key) {
            // The line with the outcome: it stands for the request.
            if let Some(slot) = self.requests.get_mut(at) {
                self.tally.unfinished -= 1;
                self.tally.unfinished += u64::from(request.unfinished);
                *slot = request;
            }
            return;
        }
        if pending {
            self.pending.insert(key, self.requests.len());
        }
        self.tally.unfinished += u64::from(request.unfinished);
        self.requests.push(request);
    }
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A request.
    Request(Box<Line>),
    /// A connection from another network namespace (S-08).
    Foreign(Box<Line>),
    /// That many refused requests have no line.
    Suppressed(u64),
    /// That many lines could not be written.
    Lost(u64),
    /// Something that we do not know.
    Other,
    /// The file ends in the middle of it.
    Torn,
    /// It cannot be read.
    Problem(Problem),
}

/// A request, and what is needed to bring its lines together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The request.
    pub request: Recorded,
    /// Its connection and number.
    key: (u64, u64),
    /// A line with the outcome follows.
    pending: bool,
}

/// The members that are read. All are optional: a line of another kind has others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    id: u64,
    method: String,
    url: String,
    ip: String,
    port: u32,
    user_id: u32,
    user_name: String,
    user_groups: Vec<String>,
    process_full_path: String,
    process_cmd_line: String,
    response_status: String,
    decision: Option<String>,
    reason: String,
    rule: Option<Rule>,
    epoch: u64,
    connection: u64,
    process_id: u32,
    identity: String,
    time: String,
    outcome: String,
    network_namespace: Option<u64>,
    suppressed: Option<u64>,
    lost: Option<u64>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            id: 0,
            method: String::new(),
            url: String::new(),
            ip: String::new(),
            port: 0,
            user_id: u32::MAX,
            user_name: String::new(),
            user_groups: Vec::new(),
            process_full_path: String::new(),
            process_cmd_line: String::new(),
            response_status: String::new(),
            decision: None,
            reason: String::new(),
            rule: None,
            epoch: 0,
            connection: 0,
            process_id: 0,
            identity: String::new(),
            time: String::new(),
            outcome: String::new(),
            network_namespace: None,
            suppressed: None,
            lost: None,
        }
    }
}

impl Entry {
    /// Reads one line. `complete`: its line feed is there.
    #[must_use]
    pub fn read(place: Place, line: &[u8], complete: bool) -> Self {
        match serde_json::from_slice::<Raw>(line) {
            Ok(raw) => Self::of(place, raw).unwrap_or(Self::Other),
            Err(_) if !complete => Self::Torn,
            Err(e) => {
                let what = e.to_string();
                // The position that it names is within the line, which has none but the first.
                let what =
                    what.split_once(" at line 1 column ").map_or(what.clone(), |(what, at)| format!("{what} (column {at})"));
                Self::Problem(Problem { place, what })
            }
        }
    }

    fn of(line: Place, raw: Raw) -> Option<Self> {
        if let Some(count) = raw.suppressed {
            return Some(Self::Suppressed(count));
        }
        if let Some(count) = raw.lost {
            return Some(Self::Lost(count));
        }
        let decision = Outcome::parse(&raw.decision?)?;
        let port = u16::try_from(raw.port).ok();
        let to = raw.ip.parse::<Ipv4Addr>().ok().zip(port).map(|(ip, port)| SocketAddrV4::new(ip, port));
        let known = !matches!(raw.identity.as_str(), "underivable" | "unknown");
        let program = if known { raw.process_full_path } else { String::new() };
        let request = Recorded {
            time: Wall::parse_stamp(&raw.time),
            caller: Arc::new(Caller {
                user_id: raw.user_id,
                user: raw.user_name,
                groups: raw.user_groups,
                program: Program::read(program),
                command_line: raw.process_cmd_line,
                known,
            }),
            process_id: raw.process_id,
            to,
            method: raw.method,
            url: raw.url,
            decision,
            reason: raw.reason,
            rule: raw.rule.unwrap_or_default(),
            status: raw.response_status.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0),
            epoch: raw.epoch,
            unfinished: matches!(raw.outcome.as_str(), "interrupted" | "pending"),
            line,
        };
        let line = Box::new(Line { request, key: (raw.connection, raw.id), pending: raw.outcome == "pending" });
        Some(if raw.network_namespace.is_some() { Self::Foreign(line) } else { Self::Request(line) })
    }
}

/// Longest line that is read; the agent's have at most 32 KiB. Bytes.
const MAX_LINE: usize = 1 << 20;

/// Cuts what comes out of one file into lines, and reads them.
#[derive(Debug)]
pub struct Reader {
    file: Arc<str>,
    line: u64,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    /// The line is longer than any of ours: the rest of it is thrown away.
    overlong: bool,
}

impl Reader {
    /// At the beginning of a file of that name.
    #[must_use]
    pub fn new(file: &str) -> Self {
        Self { file: file.into(), line: 0, rest: Vec::new(), overlong: false }
    }

    /// Takes the next bytes of the file; `take` gets every line that ends in them, and its text.
    pub fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Entry, &[u8])) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (head, tail) = bytes.split_at(end);
            self.push(head);
            self.end(true, &mut take);
            bytes = tail.get(1..).unwrap_or_default();
        }
        self.push(bytes);
    }

    /// The file has no more bytes.
    pub fn finish(&mut self, mut take: impl FnMut(Entry, &[u8])) {
        self.end(false, &mut take);
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.overlong || self.rest.len() + bytes.len() > MAX_LINE {
            self.overlong = true;
            self.rest.clear();
        } else {
            self.rest.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, complete: bool, take: &mut impl FnMut(Entry, &[u8])) {
        let overlong = std::mem::take(&mut self.overlong);
        let blank = !overlong && self.rest.iter().all(u8::is_ascii_whitespace);
        self.line += u64::from(complete || !blank);
        let place = Place { file: Arc::clone(&self.file), line: self.line };
        if overlong {
            take(
                Entry::Problem(Problem { place, what: format!("longer than {MAX_LINE} bytes: not a line of an audit log") }),
                b"",
            );
        } else if !blank {
            take(Entry::read(place, &self.rest, complete), &self.rest);
        }
        self.rest.clear();
    }
}

#[cfg(test)]
mod tests;
