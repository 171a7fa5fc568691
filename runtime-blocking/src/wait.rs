//! Waiting for one or two sockets: poll(2), one system call, nothing to register and nothing to forget.

use crate::clock;
use azure_proxy_agent_core::effect::{Interest, Wants};
use azure_proxy_agent_core::time::Mono;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::pump::Ready;

const fn flags(wants: Wants) -> PollFlags {
    match (wants.read, wants.write) {
        (true, true) => PollFlags::IN.union(PollFlags::OUT),
        (true, false) => PollFlags::IN,
        (false, true) => PollFlags::OUT,
        (false, false) => PollFlags::empty(),
    }
}

/// Waits until a side is ready for what it is wanted for, or the deadline has come.
#[must_use]
pub(crate) fn wait(interest: Interest, client: &TcpStream, upstream: Option<&TcpStream>, deadline: Option<Mono>) -> Ready {
    let timeout = deadline.map(|at| timespec(at.since(clock::now().mono)));
    let mut ready = Ready::default();
    let client = PollFd::new(client, flags(interest.client));
    match upstream {
        Some(upstream) => {
            let mut fds = [client, PollFd::new(upstream, flags(interest.upstream))];
            // An interrupted or failed wait is a spurious wake-up: the turn that follows finds out.
            let _ = poll(&mut fds, timeout.as_ref());
            let [client, upstream] = fds;
            (ready.client, ready.client_broken) = state(&client, interest.client);
            (ready.upstream, ready.upstream_broken) = state(&upstream, interest.upstream);
        }
        None => {
            let mut fds = [client];
            let _ = poll(&mut fds, timeout.as_ref());
            let [client] = fds;
            (ready.client, ready.client_broken) = state(&client, interest.client);
        }
    }
    ready
}

/// Waits until a socket is writable; `false` if it is not in time.
#[must_use]
pub(crate) fn wait_writable(socket: impl AsFd, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    loop {
        match poll(&mut fds, Some(&timespec(timeout))) {
            Ok(n) => return n > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Readable, and broken. Errors and hang-ups show when the socket is read; poll(2) reports them also when nothing was asked for.
fn state(fd: &PollFd<'_>, wants: Wants) -> (bool, bool) {
    let events = fd.revents();
    let failed = events.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    (events.intersects(PollFlags::IN) || failed, failed && !wants.read)
}

/// As poll(2) wants it: rounded up, so that a deadline has passed when the wait ends.
pub(crate) fn timespec(d: Duration) -> Timespec {
    let d = d.saturating_add(Duration::from_micros(50));
    Timespec { tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(d.subsec_nanos()) }
}
