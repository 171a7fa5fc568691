//! Readiness of many descriptors for one thread: epoll, level-triggered, told only when a wish changes. Both runtimes wait with it.
//!
//! The `polling` crate arms a descriptor anew for each event, and sets a timer descriptor and clears an event descriptor around each
//! wait: four to six system calls more per proxied request (docs/benchmarks.md).

use crate::clock;
use azure_proxy_agent_core::effect::Wants;
use azure_proxy_agent_core::time::Mono;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

/// Token of the descriptor that wakes the loop from other threads.
const WAKE: u64 = u64::MAX;
/// Events taken from the kernel at a time.
const BATCH: usize = 128;

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// It has bytes, or their end.
    pub read: bool,
    /// It takes bytes.
    pub write: bool,
    /// It failed, or both directions are closed: epoll goes on saying so whatever is asked.
    pub broken: bool,
}

impl Readiness {
    /// Whether it is ready for anything.
    #[must_use]
    pub const fn any(self) -> bool {
        self.read || self.write || self.broken
    }
}

/// Wakes the loop: from its own thread by a flag, from others by a descriptor too.
#[derive(Debug)]
pub struct Notify {
    eventfd: OwnedFd,
    woken: AtomicBool,
    sleeping: AtomicBool,
}

impl Notify {
    /// Says that the loop is going to look at everything now: later wake-ups make it look again.
    pub fn reset(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }
}

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) && self.sleeping.load(Ordering::SeqCst) {
            // Full or not, the descriptor is readable afterwards.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        }
    }
}

/// Events of one wait; kept for its memory.
#[derive(Default)]
pub struct Events(Vec<epoll::Event>);

impl Events {
    /// Token and readiness of each.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Readiness)> {
        self.0.iter().filter(|e| e.data.u64() != WAKE).map(|e| {
            let flags = e.flags;
            let ready = Readiness {
                read: flags.intersects(EventFlags::IN),
                write: flags.intersects(EventFlags::OUT),
                broken: flags.intersects(EventFlags::ERR | EventFlags::HUP),
            };
            (e.data.u64(), ready)
        })
    }
}

/// The descriptors of one thread, by tokens that the caller makes (any but `u64::MAX`).
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    notify: Arc<Notify>,
}

impl Poller {
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &eventfd, EventData::new_u64(WAKE), EventFlags::IN)?;
        let notify = Notify { eventfd, woken: AtomicBool::new(false), sleeping: AtomicBool::new(false) };
        Ok(Self { epoll, notify: Arc::new(notify) })
    }

    /// What wakes a [`wait`](Self::wait), from any thread.
    #[must_use]
    pub const fn notify(&self) -> &Arc<Notify> {
        &self.notify
    }

    /// # Errors
    /// As epoll_ctl(2).
    pub fn add(&self, fd: impl AsFd, token: u64, wants: Wants) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags(wants))?)
    }

    /// # Errors
    /// As epoll_ctl(2).
    pub fn modify(&self, fd: impl AsFd, token: u64, wants: Wants) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), flags(wants))?)
    }

    /// Forgets a descriptor that lives on; a closed one is forgotten by itself.
    pub fn delete(&self, fd: impl AsFd) {
        // It is not there: nothing to forget.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for events, a wake-up, or `until`; only looks if there was a wake-up since [`Notify::reset`].
    pub fn wait(&self, events: &mut Events, until: Option<Mono>) {
        self.notify.sleeping.store(true, Ordering::SeqCst);
        let timeout = if self.notify.woken.load(Ordering::SeqCst) { Some(Timespec::default()) } else { until.map(timespec) };
        events.0.clear();
        events.0.reserve(BATCH);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => log::error!("Waiting for sockets failed: {e}"),
        }
        self.notify.sleeping.store(false, Ordering::SeqCst);
        if events.0.iter().any(|e| e.data.u64() == WAKE) {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.notify.eventfd, &mut count);
        }
    }
}

fn timespec(until: Mono) -> Timespec {
    let left = until.since(clock::mono());
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
}

fn flags(wants: Wants) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, wants.read);
    flags.set(EventFlags::OUT, wants.write);
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const READ: Wants = Wants { read: true, write: false };

    #[test]
    fn events_are_level_triggered_and_wishes_can_change() {
        let poller = Poller::new().unwrap();
        let (mut a, b) = UnixStream::pair().unwrap();
        poller.add(&b, 7, READ).unwrap();
        a.write_all(b"x").unwrap();
        let mut events = Events::default();
        for _ in 0..2 {
            poller.wait(&mut events, None);
            assert_eq!(events.iter().collect::<Vec<_>>(), [(7, Readiness { read: true, ..Readiness::default() })]);
        }
        poller.modify(&b, 7, Wants::default()).unwrap();
        poller.wait(&mut events, Some(clock::mono()));
        assert_eq!(events.iter().count(), 0);
        drop(a);
        poller.wait(&mut events, None);
        assert!(events.iter().all(|(token, ready)| token == 7 && ready.broken));
    }

    #[test]
    fn a_wake_up_is_never_lost() {
        let poller = Poller::new().unwrap();
        let mut events = Events::default();
        // Before the wait.
        poller.notify().wake_by_ref();
        poller.wait(&mut events, None);
        poller.notify().reset();
        // From another thread, before or in the wait.
        let notify = Arc::clone(poller.notify());
        let thread = std::thread::spawn(move || notify.wake());
        poller.wait(&mut events, None);
        thread.join().unwrap();
    }
}
