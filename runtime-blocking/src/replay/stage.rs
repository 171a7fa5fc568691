//! What the parties of a story share: what was seen so far, and what may happen now.

use azure_proxy_agent_core::effect::{ConnectError, LocalReply};
use azure_proxy_agent_core::identity::Peer;
use azure_proxy_agent_core::replay::Output;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a step may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// State that is waited for.
#[derive(Default)]
pub(super) struct Stage {
    state: Mutex<State>,
    changed: Condvar,
}

/// Everything seen and allowed so far.
#[derive(Default)]
pub(super) struct State {
    pub(super) client: Received,
    /// Per connection to the host that was asked for, made or not.
    pub(super) upstream: Vec<Received>,
    /// Records, questions, connects, in order.
    pub(super) effects: Vec<Output>,
    /// The answer to `identify`, from its step on.
    pub(super) peer: Option<Peer>,
    /// The answers to `connect`, from their steps on.
    pub(super) connects: VecDeque<Result<(), ConnectError>>,
    /// Who waits for the answers to `ask`.
    pub(super) asking: VecDeque<Box<dyn FnOnce(LocalReply) + Send>>,
    /// The host's ends of the connections that were made; `None` once the host has reset one.
    pub(super) hosts: Vec<Option<Arc<TcpStream>>>,
    /// Kept for as long as the story lasts.
    pub(super) kept: Vec<TcpStream>,
    /// Where in `upstream` the newest of `hosts` is.
    pub(super) host: usize,
    /// The connection was served to its end.
    pub(super) served: bool,
    /// The story is over: nobody waits any more.
    pub(super) over: bool,
}

/// What one peer received.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) end: Option<End>,
    /// A write of the peer met a reset. The kernel says so once: the read then only sees an end.
    pub(super) reset: bool,
}

/// How a peer's socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In order.
    Eof,
    /// With a reset.
    Reset,
    /// Not at all: the peer itself gave up, or there was no connection.
    Own,
}

/// Whose bytes a reader collects.
#[derive(Debug, Clone, Copy)]
pub(super) enum Whose {
    Client,
    /// Index of `upstream`.
    Host(usize),
}

impl Stage {
    /// Changes something that others may wait for.
    pub(super) fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `f` gives something; `None` if it does not in time or the story is over.
    pub(super) fn wait<T>(&self, mut f: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.lock();
        loop {
            if let Some(found) = f(&mut state) {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.over {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A thread that collects what a peer receives.
    pub(super) fn read(self: &Arc<Self>, whose: Whose, socket: Arc<TcpStream>) -> thread::JoinHandle<()> {
        let stage = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let end = match (&*socket).read(&mut buffer) {
                    Ok(0) => Some(End::Eof),
                    Ok(n) => {
                        let bytes = buffer.get(..n).unwrap_or_default();
                        stage.change(|s| s.received(whose, |r| r.bytes.extend_from_slice(bytes)));
                        None
                    }
                    Err(e) if e.kind() == ErrorKind::Interrupted => None,
                    Err(_) => Some(End::Reset),
                };
                if let Some(end) = end {
                    // Before the driver learns of it: a socket that it resets must be its alone.
                    drop(socket);
                    return stage.change(|s| s.received(whose, |r| r.end = r.end.or(Some(end))));
                }
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn received(&mut self, whose: Whose, f: impl FnOnce(&mut Received)) {
        let received = match whose {
            Whose::Client => Some(&mut self.client),
            Whose::Host(index) => self.upstream.get_mut(index),
        };
        if let Some(received) = received {
            f(received);
        }
    }

    /// Everything is let go of, so that whoever still waits ends.
    pub(super) fn give_up(&mut self) {
        self.over = true;
        self.asking.clear();
        for host in self.hosts.drain(..).flatten() {
            // It may have ended long ago.
            let _ = host.shutdown(Shutdown::Both);
        }
    }
}
