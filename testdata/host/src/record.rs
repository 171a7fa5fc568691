//! What the host saw: one record per request, kept for the tests and written as JSON lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::lock;

/// How many records are kept in memory; older ones are forgotten.
pub const KEPT: usize = 16_384;

/// One request as the host saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Running number, starting at 1.
    pub number: u64,
    /// Milliseconds since 1970, by the host's own clock.
    pub time: i64,
    /// Number of the connection; equal numbers show that a connection was reused.
    pub connection: u64,
    /// `wireserver`, `hostga` or `imds`.
    pub endpoint: &'static str,
    /// Method.
    pub method: String,
    /// Target as received (bytes that are not UTF-8 are replaced).
    pub target: String,
    /// `signed`, `exempt`, `unsigned`, `wrong:<why>` (served, since the mode is not `enforce`) or `refused:<why>`.
    pub verified: String,
    /// Value of the claims header (W-62).
    pub claims: Option<String>,
    /// Guid named in the authorization header.
    pub guid: Option<String>,
    /// Status of the answer.
    pub status: u16,
    /// Header names as received, in message order. Values are not kept: they may carry tokens.
    pub headers: Vec<String>,
    /// Length of the decoded body in bytes.
    pub body: u64,
}

impl Record {
    /// The record as a JSON object, the form of the log file and of `GET /requests`.
    pub fn to_json(&self) -> Value {
        json!({
            "number": self.number, "time": self.time, "connection": self.connection, "endpoint": self.endpoint,
            "method": self.method, "target": self.target, "verified": self.verified, "claims": self.claims,
            "guid": self.guid, "status": self.status, "headers": self.headers, "body": self.body,
        })
    }
}

/// Where records go.
#[derive(Debug, Default)]
pub struct Records {
    kept: Mutex<(u64, VecDeque<Record>)>,
    file: Option<Mutex<File>>,
    off: bool,
}

impl Records {
    /// Opens (and appends to) the log file, if one is wanted. `off` keeps nothing and writes nothing: for benches.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn new(file: Option<&Path>, off: bool) -> io::Result<Self> {
        let file = file.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        Ok(Self { file: file.map(Mutex::new), off, ..Self::default() })
    }

    /// Whether nobody looks at records, so that none need be made.
    pub fn off(&self) -> bool {
        self.off
    }

    /// Numbers, keeps and writes one.
    pub fn add(&self, mut record: Record) {
        let mut kept = lock(&self.kept);
        kept.0 += 1;
        record.number = kept.0;
        if let Some(file) = &self.file {
            // A full disk must not stop the host; the record is still kept in memory.
            let _ = lock(file).write_all(format!("{}\n", record.to_json()).as_bytes());
        }
        if kept.1.len() == KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(record);
    }

    /// The records that are still kept, oldest first.
    pub fn all(&self) -> Vec<Record> {
        lock(&self.kept).1.iter().cloned().collect()
    }

    /// The records that are still kept, oldest first, which are forgotten by that: for whoever looks again and again.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut lock(&self.kept).1).into()
    }

    /// How many there were so far, forgotten ones included.
    pub fn count(&self) -> u64 {
        lock(&self.kept).0
    }

    /// Forgets all records; the numbering goes on.
    pub fn clear(&self) {
        lock(&self.kept).1.clear();
    }
}
