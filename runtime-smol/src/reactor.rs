//! Sockets and timers of one thread as futures, on [`Poller`].
//!
//! async-io would arm a socket anew for each wait, set a timer descriptor around each poll, and keep a thread and locks for callers on
//! other threads: about six system calls and a futex more per proxied request (docs/benchmarks.md). All our connections live on one
//! thread and wait for the same thing most of their life.

use azure_proxy_agent_core::effect::Wants;
use azure_proxy_agent_core::time::Mono;
use runtime_blocking::clock;
use runtime_blocking::poller::{Events, Poller, Readiness};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The sockets and timers of this thread.
pub(crate) struct Reactor {
    poller: Poller,
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
    /// What the poller was told; `None`: nothing, it does not know the descriptor.
    registered: Option<Wants>,
    /// What the poller has said since the last look.
    ready: Readiness,
    waker: Option<Waker>,
}

impl Reactor {
    /// # Errors
    /// Out of descriptors.
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            poller: Poller::new()?,
            slots: RefCell::default(),
            free: RefCell::default(),
            timers: RefCell::default(),
            next_timer: RefCell::new(0),
        }))
    }

    /// Runs a future to its end; everything else that it wakes runs with it.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let waker = Waker::from(Arc::clone(self.poller.notify()));
        let mut cx = Context::from_waker(&waker);
        let mut events = Events::default();
        loop {
            self.poller.notify().reset();
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            let until = self.timers.borrow().first_key_value().map(|((at, _), _)| *at);
            self.poller.wait(&mut events, until);
            for (token, ready) in events.iter() {
                self.dispatch(token, ready);
            }
            self.fire_timers();
        }
    }

    fn dispatch(&self, token: u64, ready: Readiness) {
        let waker = {
            let mut slots = self.slots.borrow_mut();
            let (key, generation) = unpack(token);
            let Some(slot) = slots.get_mut(key).filter(|slot| slot.generation == generation) else { return };
            slot.ready.read |= ready.read;
            slot.ready.write |= ready.write;
            slot.ready.broken |= ready.broken;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn fire_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = clock::mono();
        let due = {
            let mut timers = self.timers.borrow_mut();
            let later = timers.split_off(&(now + Duration::from_nanos(1), 0));
            mem::replace(&mut *timers, later)
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }
}

const fn unpack(token: u64) -> (usize, u32) {
    ((token & 0xffff_ffff) as usize, (token >> 32) as u32)
}

const fn pack(key: usize, generation: u32) -> u64 {
    (generation as u64) << 32 | key as u64
}

/// A descriptor of this thread's reactor. One task waits for it at a time.
pub(crate) struct Source<T: AsFd> {
    io: T,
    key: usize,
    reactor: Rc<Reactor>,
}

impl<T: AsFd> Source<T> {
    /// Takes a non-blocking descriptor in. The poller hears of it when somebody waits for it.
    pub(crate) fn new(reactor: &Rc<Reactor>, io: T) -> Self {
        let mut slots = reactor.slots.borrow_mut();
        let key = reactor.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::default());
            slots.len() - 1
        });
        drop(slots);
        Self { io, key, reactor: Rc::clone(reactor) }
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
        if slot.registered != Some(wants) {
            let (poller, token) = (&self.reactor.poller, pack(self.key, slot.generation));
            let told = match slot.registered {
                None => poller.add(&self.io, token, wants),
                Some(_) => poller.modify(&self.io, token, wants),
            };
            if let Err(e) = told {
                log::warn!("A socket cannot be watched: {e}");
                return Readiness { broken: true, ..ready };
            }
            slot.registered = Some(wants);
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        ready
    }

    /// Takes it from the poller while the task waits for something else: a level-triggered descriptor that nobody serves would keep the
    /// loop busy, and a broken one does so whatever is asked.
    pub(crate) fn rest(&self) {
        let mut slots = self.reactor.slots.borrow_mut();
        if let Some(slot) = slots.get_mut(self.key) {
            if slot.registered.take().is_some() {
                self.reactor.poller.delete(&self.io);
            }
            slot.ready = Readiness::default();
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
        self.rest();
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

    #[test]
    fn a_socket_wakes_its_task_and_only_once_per_wait() {
        let reactor = Reactor::new().unwrap();
        let (mut a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let source = Source::new(&reactor, b);
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
        let first = Source::new(&reactor, b);
        let data = pack(first.key, reactor.slots.borrow()[first.key].generation);
        a.write_all(b"x").unwrap();
        drop(first);
        let (_c, d) = UnixStream::pair().unwrap();
        let second = Source::new(&reactor, d);
        reactor.dispatch(data, Readiness { read: true, ..Readiness::default() });
        assert_eq!(reactor.slots.borrow()[second.key].ready, Readiness::default());
    }

    #[test]
    fn a_broken_socket_says_so_without_being_asked() {
        let reactor = Reactor::new().unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let source = Source::new(&reactor, b);
        drop(a);
        let ready = reactor.block_on(poll_fn(|cx| {
            let ready = source.poll(cx, Wants::default());
            if ready.any() { Poll::Ready(ready) } else { Poll::Pending }
        }));
        assert!(ready.broken);
    }
}
