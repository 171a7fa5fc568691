//! The two tables of finished requests (proxy.md section 7.2): a bounded sample of who asked whom, with what outcome.
//!
//! Keys are made of caller-chosen text, so everything is bounded (PX-110), and counting a request whose key is there already
//! allocates nothing.

use crate::effect::RecordKind;
use crate::http::reply::Status;
use crate::identity::{Claims, Executable, Peer};
use crate::json;
use crate::time::{Mono, Now};
use core::net::{IpAddr, SocketAddrV4};
use core::time::Duration;
use serde::Serialize;
use std::borrow::Cow;
use std::sync::Arc;

/// Most keys of a table (PX-110).
const KEYS: usize = 1000;
/// Requests are counted together for this long (PX-107).
const BUCKET: Duration = Duration::from_secs(900);
/// And remembered for this long (PX-107).
const MEMORY: Duration = Duration::from_secs(14_400);
/// As many buckets as can be young enough at a time: one at each end and 15 between.
const BUCKETS: usize = 17;
/// Most bytes of one table in the status document, which stays below 4 MiB (S-53).
const EXPORT: usize = 1_500_000;

/// What a table needs to know of a finished request. All of it is the key (PX-106), but for a few claims.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Which table.
    pub kind: RecordKind,
    /// Who asked, and whom.
    pub peer: &'a Peer,
    /// The caller's address.
    pub client_ip: IpAddr,
    /// Status of the response; 403 for the failed table (PX-104).
    pub status: Status,
}

/// The normal and the failed table. They belong to the process, not to the agent machine: connections count, the status document
/// shows.
#[derive(Debug, Default)]
pub struct Summaries {
    normal: Table,
    failed: Table,
}

impl Summaries {
    /// Counts a finished request; whether it opens a bucket and is therefore written out as summary object (PX-108). Allocates
    /// nothing if its key is in the table already.
    pub fn record(&mut self, now: Now, record: &Record<'_>) -> bool {
        self.table(record.kind).record(now.mono, record)
    }

    /// Drops what is too old (PX-107): to be done before reading.
    pub(super) fn expire(&mut self, now: Now) {
        self.normal.expire(now.mono);
        self.failed.expire(now.mono);
    }

    /// The rows of one table for the status document, most recently used first, as many as fit.
    pub(super) fn export(&self, kind: RecordKind) -> Vec<Entry<'_>> {
        match kind {
            RecordKind::Normal => self.normal.export(),
            RecordKind::Failed => self.failed.export(),
        }
    }

    const fn table(&mut self, kind: RecordKind) -> &mut Table {
        match kind {
            RecordKind::Normal => &mut self.normal,
            RecordKind::Failed => &mut self.failed,
        }
    }
}

/// Rows in ascending order of their keys: a look-up compares borrowed fields and builds no key.
#[derive(Debug, Default)]
struct Table {
    #[expect(clippy::vec_box, reason = "a row is large, and rows move when one comes or goes")]
    rows: Vec<Box<Row>>,
    /// Uses so far; orders rows by their last use, also within one reading of the clock.
    uses: u64,
}

#[derive(Debug)]
struct Row {
    claims: Option<Arc<Claims>>,
    client_ip: IpAddr,
    original: Option<SocketAddrV4>,
    status: Status,
    buckets: Buckets,
    used: u64,
}

impl Table {
    fn record(&mut self, now: Mono, record: &Record<'_>) -> bool {
        self.uses += 1;
        match self.rows.binary_search_by(|row| row.key().cmp(&Key::of(record))) {
            Ok(at) => self.rows.get_mut(at).is_some_and(|row| {
                row.used = self.uses;
                row.buckets.count(now)
            }),
            Err(at) => {
                let at = if self.rows.len() < KEYS { at } else { self.evict(at) };
                let mut buckets = Buckets::default();
                buckets.count(now);
                let row = Row {
                    claims: claims(record.peer).cloned(),
                    client_ip: record.client_ip,
                    original: record.peer.original(),
                    status: record.status,
                    buckets,
                    used: self.uses,
                };
                self.rows.insert(at, Box::new(row));
                true
            }
        }
    }

    /// Drops the least recently used row; where a row goes that was to be inserted at `at`.
    fn evict(&mut self, at: usize) -> usize {
        let Some((oldest, _)) = self.rows.iter().enumerate().min_by_key(|(_, row)| row.used) else { return at };
        self.rows.remove(oldest);
        if oldest < at { at - 1 } else { at }
    }

    fn expire(&mut self, now: Mono) {
        self.rows.retain_mut(|row| {
            row.buckets.expire(now);
            row.buckets.len > 0
        });
    }

    fn export(&self) -> Vec<Entry<'_>> {
        let mut rows: Vec<&Row> = self.rows.iter().map(AsRef::as_ref).collect();
        rows.sort_unstable_by_key(|row| core::cmp::Reverse(row.used));
        let (mut left, mut text) = (EXPORT, Vec::new());
        let mut entries: Vec<_> = rows
            .into_iter()
            .map(Row::entry)
            .filter(|entry| match left.checked_sub(entry.size(&mut text)) {
                Some(rest) => {
                    left = rest;
                    true
                }
                // Smaller ones may still fit: no row hides all the others.
                None => false,
            })
            .collect();
        entries.shrink_to_fit();
        entries
    }
}

/// The fields of PX-106, compared instead of joined to a text. What would print the same is the same.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    user: &'a [u8],
    path: (u8, &'a [u8]),
    command_line: &'a str,
    client_ip: IpAddr,
    original: Option<SocketAddrV4>,
    status: u16,
}

impl<'a> Key<'a> {
    fn of(record: &Record<'a>) -> Self {
        Self::new(claims(record.peer), record.client_ip, record.peer.original(), record.status)
    }

    fn new(claims: Option<&'a Arc<Claims>>, client_ip: IpAddr, original: Option<SocketAddrV4>, status: Status) -> Self {
        let (user, path, command_line) = match claims {
            None => (NOBODY.as_bytes(), (0, NOBODY.as_bytes()), NOBODY),
            Some(claims) => {
                let path = match &claims.executable {
                    Executable::Known(path) => (0, path.as_bytes()),
                    Executable::Elsewhere(path) => (1, path.as_bytes()),
                    Executable::Unknown => (0, b"".as_slice()),
                };
                (claims.user_name.as_bytes(), path, &*claims.command_line)
            }
        };
        Self { user, path, command_line, client_ip, original, status: status.0 }
    }
}

const fn claims(peer: &Peer) -> Option<&Arc<Claims>> {
    match peer {
        Peer::Redirected { claims, .. } => Some(claims),
        Peer::Direct { claims } => claims.as_ref(),
        Peer::Unidentified { .. } | Peer::Unknown => None,
    }
}

/// What stands for a caller without identity (PX-89, PX-91, I-19).
const NOBODY: &str = "empty";

impl Row {
    fn key(&self) -> Key<'_> {
        Key::new(self.claims.as_ref(), self.client_ip, self.original, self.status)
    }

    fn entry(&self) -> Entry<'_> {
        let claims = self.claims.as_deref();
        Entry {
            user_name: claims.map_or(Cow::Borrowed(NOBODY), |c| c.user_name.lossy()),
            ip: self.original.map_or_else(|| "None".to_owned(), |to| to.ip().to_string()),
            port: self.original.map_or(0, |to| to.port()),
            process_cmd_line: claims.map_or(NOBODY, |c| &c.command_line),
            response_status: self.status.to_string(),
            count: self.buckets.sum(),
            user_groups: claims.map(|c| c.user_groups.iter().map(|g| g.lossy()).collect()).unwrap_or_default(),
            process_full_path: claims.map_or(Cow::Borrowed(NOBODY), |c| match &c.executable {
                Executable::Known(path) => path.lossy(),
                Executable::Elsewhere(path) => Cow::Owned(format!("mnt:{}", path.lossy())),
                Executable::Unknown => Cow::Borrowed(""),
            }),
        }
    }
}

/// A row of the status document (FS-55), members in this order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry<'a> {
    user_name: Cow<'a, str>,
    ip: String,
    port: u16,
    process_cmd_line: &'a str,
    response_status: String,
    count: u64,
    user_groups: Vec<Cow<'a, str>>,
    process_full_path: Cow<'a, str>,
}

impl Entry<'_> {
    /// Bytes that it takes in the status file, generously: one line per member and per group, indented. `text` is room to work in.
    fn size(&self, text: &mut Vec<u8>) -> usize {
        text.clear();
        let size = json::append(text, self).map_or(usize::MAX, |()| text.len());
        size.saturating_add(128 + 12 * self.user_groups.len())
    }
}

/// Time buckets, oldest first, inline: nothing is allocated when one opens.
#[derive(Debug, Default)]
struct Buckets {
    buckets: [(Mono, u64); BUCKETS],
    len: usize,
}

impl Buckets {
    /// Counts one; whether that opened a bucket (PX-107).
    fn count(&mut self, now: Mono) -> bool {
        if let Some((start, count)) = self.len.checked_sub(1).and_then(|last| self.buckets.get_mut(last))
            && now.since(*start) < BUCKET
        {
            *count += 1;
            return false;
        }
        self.expire(now);
        if self.len == BUCKETS {
            self.drop_first(1);
        }
        if let Some(free) = self.buckets.get_mut(self.len) {
            *free = (now, 1);
            self.len += 1;
        }
        true
    }

    fn expire(&mut self, now: Mono) {
        let old = self.buckets.iter().take(self.len).take_while(|(start, _)| now.since(*start) > MEMORY).count();
        self.drop_first(old);
    }

    fn drop_first(&mut self, n: usize) {
        self.buckets.copy_within(n..self.len, 0);
        self.len -= n;
    }

    fn sum(&self) -> u64 {
        self.buckets.iter().take(self.len).map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests;
