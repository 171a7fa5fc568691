//! `--status [--wait N]`: asks the running agent whether provisioning has finished (cli.md section 2.2).
//!
//! Needs no privileges, no configuration and no kernel program (CLI-10). What it prints reaches the platform (CLI-30): only the
//! agent's own message and our reasons, nothing of a header.

use crate::clock;
use azure_proxy_agent_core::identity::LISTENER;
use serde::Deserialize;
use std::fmt;
use std::io::{self, Read as _, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest answer that we read. Bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// One run of the command.
#[derive(Debug)]
pub struct StatusClient {
    agent: SocketAddr,
    /// When the process began: the wait counts from here, on the monotonic clock (CLI-23).
    started: Instant,
    wait: Duration,
    /// Wall-clock nanoseconds at the start of the command: the same in all queries (CLI-24).
    tick: u64,
    /// Between queries.
    pause: Duration,
    /// One query takes no longer than this (CLI-22) …
    query_limit: Duration,
    /// … and ends this long after the wait at the latest (CLI-22).
    grace: Duration,
}

impl StatusClient {
    /// Asks the agent of this machine, for as long as `wait` from `started`.
    #[must_use]
    pub fn new(wait: Duration, started: Instant) -> Self {
        Self {
            agent: LISTENER.into(),
            started,
            wait,
            tick: clock::wall().0,
            pause: Duration::from_millis(100),
            query_limit: Duration::from_secs(5),
            grace: Duration::from_secs(1),
        }
    }

    /// Asks another address, for tests.
    #[must_use]
    pub const fn at(mut self, agent: SocketAddr) -> Self {
        self.agent = agent;
        self
    }

    /// Queries until provisioning has finished or the wait is over; the exit status of CLI-16 to CLI-18.
    pub fn run(&self, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
        let mut answered = false;
        let mut last_failure = String::new();
        loop {
            let left = self.wait.saturating_add(self.grace).saturating_sub(self.started.elapsed());
            // CLI-21: the notification is repeated until one query has been answered.
            match self.query(!answered, self.query_limit.min(left)) {
                Ok(Provision { finished: true, error_message }) if error_message.is_empty() => return 0,
                Ok(Provision { finished: true, error_message }) => {
                    let _ = writeln!(out, "{error_message}");
                    let _ = out.flush();
                    return 2;
                }
                Ok(Provision { finished: false, .. }) => answered = true,
                Err(failure) => {
                    // CLI-19: only when the text changes.
                    let failure = failure.to_string();
                    if failure != last_failure {
                        let _ = writeln!(err, "Failed to query the current provision state with error: {failure}.");
                        last_failure = failure;
                    }
                }
            }
            // A wait of 0 is over after the first query, whatever the clock says (CLI-20).
            if self.wait.is_zero() || self.started.elapsed() > self.wait {
                return 1;
            }
            std::thread::sleep(self.pause);
        }
    }

    fn query(&self, notify: bool, limit: Duration) -> Result<Provision, Failure> {
        let mut patience = Patience { until: Instant::now() + limit };
        let mut stream = TcpStream::connect_timeout(&self.agent, patience.left()?)?;
        stream.set_write_timeout(Some(patience.left()?))?;
        let notify = if notify { "x-ms-azure-notify: true\r\n" } else { "" };
        let request = format!(
            "GET /provision HTTP/1.1\r\nHost: {}\r\nMetadata: true\r\nx-ms-azure-time-tick: {}\r\n{notify}Connection: close\r\n\r\n",
            self.agent, self.tick
        );
        stream.write_all(request.as_bytes())?;
        read_answer(&mut stream, &mut patience)
    }
}

/// The answer of `/provision` (PX-54).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provision {
    finished: bool,
    error_message: String,
}

/// Why a query did not give an answer. Displays as the reason of CLI-19.
#[derive(Debug)]
enum Failure {
    Io(io::Error),
    TimedOut,
    Status(u16),
    NotHttp,
    NotJson,
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            // What a socket timeout looks like depends on the operation.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(e),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Status(status) => write!(f, "the answer is status {status}"),
            Self::NotHttp => f.write_str("the answer is not HTTP"),
            Self::NotJson => f.write_str("the answer is not the expected JSON"),
        }
    }
}

/// The time that one query may still take, over all its reads.
struct Patience {
    until: Instant,
}

impl Patience {
    fn left(&mut self) -> Result<Duration, Failure> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Failure::TimedOut) } else { Ok(left) }
    }
}

fn read_answer(stream: &mut TcpStream, patience: &mut Patience) -> Result<Provision, Failure> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(patience.left()?))?;
        let n = stream.read(&mut chunk)?;
        answer.extend_from_slice(chunk.get(..n).unwrap_or_default());
        if let Some(body) = complete(&answer, n == 0)? {
            return serde_json::from_slice(body).map_err(|_| Failure::NotJson);
        }
        if n == 0 || answer.len() > MAX_ANSWER {
            return Err(Failure::NotHttp);
        }
    }
}

/// The body, once it is complete; `ended` says that nothing more follows.
fn complete(answer: &[u8], ended: bool) -> Result<Option<&[u8]>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(answer).map_err(|_| Failure::NotHttp)? else { return Ok(None) };
    let status = head.code.unwrap_or(0);
    if !(200..300).contains(&status) {
        return Err(Failure::Status(status));
    }
    let body = answer.get(length..).unwrap_or_default();
    let field = |name: &str| head.headers.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value);
    if field("transfer-encoding").is_some() {
        // The agent never does that; a stranger on its port may.
        return Err(Failure::NotHttp);
    }
    let Some(length) = field("content-length") else { return Ok(ended.then_some(body)) };
    let length = std::str::from_utf8(length).ok().and_then(|l| l.trim().parse().ok()).ok_or(Failure::NotHttp)?;
    Ok(body.get(..length))
}

#[cfg(test)]
mod tests;
