//! Misbehaviour on demand: delays and failures of the host's services.

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::lock;
use crate::reply::{After, Body, Reply};

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Status 500.
    Status500,
    /// The connection is reset.
    Reset,
    /// Bytes that are not HTTP, then the end of the connection.
    Garbage,
    /// A well-formed answer whose JSON is not.
    BadJson,
    /// No answer at all.
    Silent,
    /// Status 302 to another place of the same host.
    Redirect,
    /// A well-formed answer with far more than anybody wants.
    Huge,
}

/// Bytes of a huge answer: beyond every limit of a client that has one (W-07: 1 MiB), and nothing to a client that streams.
const HUGE: u64 = 16 << 20;

impl FromStr for Failure {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "500" => Ok(Self::Status500),
            "reset" => Ok(Self::Reset),
            "garbage" => Ok(Self::Garbage),
            "badjson" => Ok(Self::BadJson),
            "silent" => Ok(Self::Silent),
            "redirect" => Ok(Self::Redirect),
            "huge" => Ok(Self::Huge),
            _ => Err(format!("{word:?} is none of 500, reset, garbage, badjson, silent, redirect, huge")),
        }
    }
}

impl Failure {
    /// The failure as an answer.
    pub fn reply(self) -> Reply {
        match self {
            Self::Status500 => Reply::new(500, "text/plain", &b"simulated failure"[..]),
            Self::Reset => Reply::with(500, Body::Absent).then(After::Reset),
            Self::Garbage => Reply::with(500, Body::Raw(b"\x16\x03\x01\x00\xff garbage \r\n\r\n\0\x01\x02".to_vec())),
            Self::BadJson => Reply::new(200, "application/json", &b"{\"authorizationScheme\": \"Azure-HMAC"[..]),
            Self::Silent => Reply::with(500, Body::Absent).then(After::Silence),
            Self::Redirect => Reply::new(302, "text/plain", &b"elsewhere"[..]).header("Location", "/test/bytes?n=1"),
            Self::Huge => Reply::with(200, Body::Pattern(HUGE)),
        }
    }
}

/// The faults that are switched on. Each names what it applies to: `status`, `key`, `attest`, an endpoint, or `all`.
#[derive(Debug, Default)]
pub struct Faults {
    any: AtomicBool,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    delays: Vec<(String, Duration)>,
    failures: Vec<(String, Failure, u64)>,
}

impl Faults {
    /// Delays every answer of `what` from now on; zero ends it.
    pub fn delay(&self, what: &str, by: Duration) {
        let mut table = lock(&self.table);
        table.delays.retain(|(w, _)| w != what);
        if !by.is_zero() {
            table.delays.push((what.to_owned(), by));
        }
        self.any.store(!table.delays.is_empty() || !table.failures.is_empty(), Ordering::Release);
    }

    /// Lets the next `count` requests for `what` fail; 0 ends it.
    pub fn fail(&self, what: &str, how: Failure, count: u64) {
        let mut table = lock(&self.table);
        table.failures.retain(|(w, _, _)| w != what);
        if count > 0 {
            table.failures.push((what.to_owned(), how, count));
        }
        self.any.store(!table.delays.is_empty() || !table.failures.is_empty(), Ordering::Release);
    }

    /// What happens to a request that is all of `kinds`.
    pub fn strike(&self, kinds: &[&str]) -> (Duration, Option<Failure>) {
        if !self.any.load(Ordering::Acquire) {
            return (Duration::ZERO, None);
        }
        let mut table = lock(&self.table);
        let delay = table.delays.iter().filter(|(w, _)| kinds.contains(&w.as_str())).map(|(_, d)| *d).sum();
        let hit = table.failures.iter_mut().find(|(w, _, left)| *left > 0 && kinds.contains(&w.as_str()));
        let failure = hit.map(|(_, how, left)| {
            *left -= 1;
            *how
        });
        (delay, failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_delays_stay() {
        let faults = Faults::default();
        faults.fail("status", Failure::Reset, 2);
        faults.delay("all", Duration::from_millis(7));
        assert_eq!(faults.strike(&["imds", "all"]), (Duration::from_millis(7), None));
        assert_eq!(faults.strike(&["status", "wireserver", "all"]).1, Some(Failure::Reset));
        assert_eq!(faults.strike(&["status"]), (Duration::ZERO, Some(Failure::Reset)));
        assert_eq!(faults.strike(&["status"]).1, None);
    }
}
