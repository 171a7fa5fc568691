//! `--status [--wait N]`: asks the running agent whether provisioning has finished (cli.md section 2.2).
//!
//! Needs no privileges, no configuration and no kernel program (CLI-10). What it prints reaches the platform (CLI-30): only the
//! agent's own message and our reasons, nothing of a header.
//!
//! It asks again every `PAUSE` on one connection, so that the answer is known soon after the agent knows it. A question held open
//! by the agent would save the asking, but agents in service know no such question, and one place and a thousandth of a processor
//! are cheap for two minutes per boot.

pub(crate) mod query;

use crate::clock;
use azure_proxy_agent_core::identity::LISTENER;
use query::{Connection, Failure, Provision};
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between the answer to one query and the next query.
const PAUSE: Duration = Duration::from_millis(20);

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
            pause: PAUSE,
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
        let mut connection = None;
        let mut answered = false;
        let mut last_failure = String::new();
        loop {
            // CLI-21: the notification is repeated until one query has been answered.
            match self.query(&mut connection, !answered) {
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

    /// One question, on the connection of the last one if there is one.
    fn query(&self, kept: &mut Option<Connection>, notify: bool) -> Result<Provision, Failure> {
        let now = Instant::now();
        let left = self.wait.saturating_add(self.grace).saturating_sub(now.duration_since(self.started));
        let until = now + self.query_limit.min(left);
        let notify = if notify { "x-ms-azure-notify: true\r\n" } else { "" };
        let request = format!(
            "GET /provision HTTP/1.1\r\nHost: {}\r\nMetadata: true\r\nx-ms-azure-time-tick: {}\r\n{notify}\r\n",
            self.agent, self.tick
        );
        if let Some(connection) = kept.take() {
            match connection.ask(request.as_bytes(), until, kept) {
                // It ended between two questions, because the agent did: what matters is whether a new one is there.
                Err(Failure::Io(_) | Failure::Closed) => {}
                asked => return asked,
            }
        }
        Connection::open(self.agent, until)?.ask(request.as_bytes(), until, kept)
    }
}

#[cfg(test)]
mod tests;
