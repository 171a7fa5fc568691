//! Waiting for one descriptor: poll(2), one system call, nothing to register and nothing to forget.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::Duration;

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

/// As poll(2) wants it: rounded up, so that a deadline has passed when the wait ends.
pub(crate) fn timespec(d: Duration) -> Timespec {
    let d = d.saturating_add(Duration::from_micros(50));
    Timespec { tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(d.subsec_nanos()) }
}
