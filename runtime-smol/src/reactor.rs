//! Readiness and timers for one thread: epoll, registered once per socket.
//!
//! async-io arms a socket anew for each wait, sets a timer descriptor around each poll, and keeps a thread and locks for callers on
//! other threads: about six system calls and a futex more per proxied request (docs/benchmarks.md). All our connections live on one
//! thread and wait for the same thing most of their life, so a level-triggered registration that changes only when the wish changes
//! does with none of them.

use azure_proxy_agent_core::effect::Wants;
use azure_proxy_agent_core::time::Mono;
use runtime_blocking::clock;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Key of the descriptor that wakes the loop from other threads.
const WAKE: u64 = u64::MAX;
/// Events taken from the kernel at a time.
const BATCH: usize = 128;

/// The sockets and timers of this thread.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    notify: Arc<Notify>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    timers: RefCell<BTreeMap<(Mono, u64), Waker>>,
    next_timer: RefCell<u64>,
}

/// One registered descriptor.
#[derive(Default)]
struct Slot {
    /// Grows when the slot is given to another descriptor: an event that was fetched before finds nobody.
    generation: u32,
    /// What epoll was told.
    registered: Wants,
    /// What epoll has said since the last look.
    ready: Readiness,
    waker: Option<Waker>,
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// It failed, or both directions are closed: epoll goes on saying so whatever is asked.
    pub(crate) broken: bool,
}

impl Readiness {
    const fn any(self) -> bool {
        self.read || self.write || self.broken
    }
}

/// Wakes the loop: from this thread by a flag, from others by a descriptor too.
struct Notify {
    eventfd: OwnedFd,
    woken: AtomicBool,
    sleeping: AtomicBool,
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

impl Reactor {
    /// # Errors
    /// Out of descriptors.
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &eventfd, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Rc::new(Self {
            epoll,
            notify: Arc::new(Notify { eventfd, woken: AtomicBool::new(false), sleeping: AtomicBool::new(false) }),
            slots: RefCell::default(),
            free: RefCell::default(),
            timers: RefCell::default(),
            next_timer: RefCell::new(0),
        }))
    }

    /// Runs a future to its end; everything else that it wakes runs with it.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::clone(&self.notify));
        let mut cx = Context::from_waker(&waker);
        let mut events = Vec::with_capacity(BATCH);
        loop {
            self.notify.woken.store(false, Ordering::SeqCst);
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            self.wait(&mut events);
            self.dispatch(&events);
            self.fire_timers();
        }
    }

    /// Waits for events, the next timer, or a wake-up; only looks if there is something to do already.
    fn wait(&self, events: &mut Vec<epoll::Event>) {
        self.notify.sleeping.store(true, Ordering::SeqCst);
        let timeout = if self.notify.woken.load(Ordering::SeqCst) { Some(Timespec::default()) } else { self.until_next_timer() };
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => log::error!("Waiting for sockets failed: {e}"),
        }
        self.notify.sleeping.store(false, Ordering::SeqCst);
    }

    fn until_next_timer(&self) -> Option<Timespec> {
        let at = self.timers.borrow().first_key_value().map(|((at, _), _)| *at)?;
        let left = at.since(clock::mono());
        Some(Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) })
    }

    fn dispatch(&self, events: &[epoll::Event]) {
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == WAKE {
                let mut count = [0; 8];
                let _ = rustix::io::read(&self.notify.eventfd, &mut count);
                continue;
            }
            let waker = {
                let mut slots = self.slots.borrow_mut();
                let (key, generation) = unpack(data);
                let Some(slot) = slots.get_mut(key).filter(|slot| slot.generation == generation) else { continue };
                slot.ready.read |= flags.intersects(EventFlags::IN);
                slot.ready.write |= flags.intersects(EventFlags::OUT);
                slot.ready.broken |= flags.intersects(EventFlags::ERR | EventFlags::HUP);
                slot.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn fire_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = clock::mono();
        let due = {
            let mut timers = self.timers.borrow_mut();
            let later = timers.split_off(&(now + std::time::Duration::from_nanos(1), 0));
            mem::replace(&mut *timers, later)
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }
}

const fn unpack(data: u64) -> (usize, u32) {
    ((data & 0xffff_ffff) as usize, (data >> 32) as u32)
}

const fn pack(key: usize, generation: u32) -> u64 {
    (generation as u64) << 32 | key as u64
}

fn flags(wants: Wants) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, wants.read);
    flags.set(EventFlags::OUT, wants.write);
    flags
}

/// A descriptor of this thread's reactor. One task waits for it at a time.
pub(crate) struct Source<T: AsFd> {
    io: T,
    key: usize,
    reactor: Rc<Reactor>,
}

impl<T: AsFd> Source<T> {
    /// Registers a non-blocking descriptor, at first for what `wants` says.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub(crate) fn new(reactor: &Rc<Reactor>, io: T, wants: Wants) -> io::Result<Self> {
        let mut slots = reactor.slots.borrow_mut();
        let key = reactor.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() - 1
        });
        let Some(slot) = slots.get_mut(key) else { return Err(io::Error::other("no slot")) };
        let data = EventData::new_u64(pack(key, slot.generation));
        if let Err(e) = epoll::add(&reactor.epoll, &io, data, flags(wants)) {
            reactor.free.borrow_mut().push(key);
            return Err(e.into());
        }
        (slot.registered, slot.ready) = (wants, Readiness::default());
        drop(slots);
        Ok(Self { io, key, reactor: Rc::clone(reactor) })
    }

    pub(crate) const fn get_ref(&self) -> &T {
        &self.io
    }

    /// What of `wants` it is ready for; if nothing, the task is woken when it is.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, wants: Wants) -> Readiness {
        let mut slots = self.reactor.slots.borrow_mut();
        let Some(slot) = slots.get_mut(self.key) else { return Readiness { broken: true, ..Readiness::default() } };
        let said = mem::take(&mut slot.ready);
        let ready = Readiness { read: said.read && wants.read, write: said.write && wants.write, broken: said.broken };
        if ready.any() {
            return ready;
        }
        if slot.registered != wants {
            let data = EventData::new_u64(pack(self.key, slot.generation));
            if epoll::modify(&self.reactor.epoll, &self.io, data, flags(wants)).is_err() {
                return Readiness { broken: true, ..ready };
            }
            slot.registered = wants;
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        ready
    }

    /// Stops listening while the task waits for something else: a level-triggered descriptor that nobody serves would keep the loop
    /// busy.
    pub(crate) fn rest(&self) {
        let mut slots = self.reactor.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(self.key)
            && slot.registered != Wants::default()
        {
            let data = EventData::new_u64(pack(self.key, slot.generation));
            if epoll::modify(&self.reactor.epoll, &self.io, data, EventFlags::empty()).is_ok() {
                slot.registered = Wants::default();
            }
        }
    }

    /// Waits until it is readable.
    pub(crate) async fn readable(&self) {
        self.wait(Wants { read: true, write: false }).await;
    }

    /// Waits until it is writable.
    pub(crate) async fn writable(&self) {
        self.wait(Wants { read: false, write: true }).await;
    }

    async fn wait(&self, wants: Wants) {
        poll_fn(|cx| if self.poll(cx, wants).any() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

impl<T: AsFd> Drop for Source<T> {
    fn drop(&mut self) {
        // The descriptor may be a borrowed one that lives on.
        let _ = epoll::delete(&self.reactor.epoll, &self.io);
        if let Some(slot) = self.reactor.slots.borrow_mut().get_mut(self.key) {
            slot.generation = slot.generation.wrapping_add(1);
            slot.waker = None;
        }
        self.reactor.free.borrow_mut().push(self.key);
    }
}

/// A timer of this thread's reactor.
pub(crate) struct Timer {
    reactor: Rc<Reactor>,
    at: Option<Mono>,
    armed: Option<(Mono, u64)>,
}

impl Timer {
    pub(crate) fn new(reactor: &Rc<Reactor>) -> Self {
        Self { reactor: Rc::clone(reactor), at: None, armed: None }
    }

    /// Moves it; `None` stops it.
    pub(crate) fn set(&mut self, at: Option<Mono>) {
        if self.at != at {
            self.disarm();
            self.at = at;
        }
    }

    /// Whether its time has come; if not, the task is woken when it has.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.at else { return false };
        if at <= clock::mono() {
            self.set(None);
            return true;
        }
        if self.armed.is_none() {
            let mut next = self.reactor.next_timer.borrow_mut();
            *next += 1;
            self.armed = Some((at, *next));
        }
        if let Some(key) = self.armed {
            self.reactor.timers.borrow_mut().insert(key, cx.waker().clone());
        }
        false
    }

    /// Waits until `at`.
    pub(crate) async fn until(reactor: &Rc<Reactor>, at: Mono) {
        let mut timer = Self::new(reactor);
        timer.set(Some(at));
        poll_fn(|cx| if timer.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn disarm(&mut self) {
        if let Some(key) = self.armed.take() {
            self.reactor.timers.borrow_mut().remove(&key);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    const READ: Wants = Wants { read: true, write: false };

    #[test]
    fn a_socket_wakes_its_task_and_only_once_per_wait() {
        let reactor = Reactor::new().unwrap();
        let (mut a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let source = Source::new(&reactor, b, READ).unwrap();
        a.write_all(b"x").unwrap();
        reactor.block_on(source.readable());
        // Still readable: level-triggered.
        reactor.block_on(source.readable());
    }

    #[test]
    fn wake_ups_from_other_threads_and_timers_end_a_wait() {
        let reactor = Reactor::new().unwrap();
        let (sender, receiver) = smol::channel::bounded(1);
        let thread = std::thread::spawn(move || sender.send_blocking(7).unwrap());
        assert_eq!(reactor.block_on(receiver.recv()), Ok(7));
        thread.join().unwrap();
        let at = clock::mono() + Duration::from_millis(5);
        reactor.block_on(Timer::until(&reactor, at));
        assert!(clock::mono() >= at);
        assert!(reactor.timers.borrow().is_empty());
    }

    #[test]
    fn a_reused_slot_gets_no_event_of_its_predecessor() {
        let reactor = Reactor::new().unwrap();
        let (mut a, b) = UnixStream::pair().unwrap();
        let first = Source::new(&reactor, b, READ).unwrap();
        let data = pack(first.key, reactor.slots.borrow()[first.key].generation);
        a.write_all(b"x").unwrap();
        drop(first);
        let (_c, d) = UnixStream::pair().unwrap();
        let second = Source::new(&reactor, d, READ).unwrap();
        reactor.dispatch(&[epoll::Event { flags: EventFlags::IN, data: EventData::new_u64(data) }]);
        assert_eq!(reactor.slots.borrow()[second.key].ready, Readiness::default());
    }

    #[test]
    fn a_broken_socket_says_so_without_being_asked() {
        let reactor = Reactor::new().unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let source = Source::new(&reactor, b, Wants::default()).unwrap();
        drop(a);
        let ready = reactor.block_on(poll_fn(|cx| {
            let ready = source.poll(cx, Wants::default());
            if ready.any() { Poll::Ready(ready) } else { Poll::Pending }
        }));
        assert!(ready.broken);
    }
}
