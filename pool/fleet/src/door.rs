//! The way out of a machine's network: what connects to it there is passed on to a controller on the loopback outside. Nothing else leaves the namespace, and
//! nothing leaves the machine that this runs on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Where it is, inside.
pub const INSIDE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8440);

/// See the module. Threads of its own do the work, as long as the process lives.
#[derive(Debug, Clone)]
pub struct Door(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    controllers: Vec<SocketAddr>,
    turn: usize,
    /// After so many bytes of answers a connection breaks.
    most: Option<usize>,
    /// What is said with these words in it is held up.
    trap: Option<String>,
    caught: bool,
    /// What was said, if somebody wants to know.
    said: Option<Vec<u8>>,
}

impl Door {
    /// Passes on what connects to `listener`. The controllers take turns; one that does not answer is passed over.
    pub fn open(listener: TcpListener, controllers: &[SocketAddr]) -> Self {
        let door = Self(Arc::default());
        door.state().controllers = controllers.to_vec();
        let own = door.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let door = own.clone();
                thread::spawn(move || door.pass(client));
            }
        });
        door
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks every connection after so many bytes of answers; `None`: none.
    pub fn break_after(&self, most: Option<usize>) {
        self.state().most = most;
    }

    /// Keeps what is said from now on.
    pub fn listen(&self) {
        self.state().said = Some(Vec::new());
    }

    /// What was said since [`Door::listen`].
    pub fn said(&self) -> String {
        String::from_utf8_lossy(self.state().said.as_deref().unwrap_or_default()).into_owned()
    }

    /// Holds up whoever says something with these words in it.
    pub fn set_trap(&self, words: &str) {
        let mut state = self.state();
        state.trap = Some(words.into());
        state.caught = false;
    }

    /// Whether somebody is held up.
    pub fn has_caught(&self) -> bool {
        self.state().caught
    }

    /// Holds up nobody any more. What was held up breaks off, and was never said.
    pub fn clear_trap(&self) {
        self.state().trap = None;
        self.0.changed.notify_all();
    }

    fn connect(&self) -> Option<TcpStream> {
        let (controllers, turn) = {
            let mut state = self.state();
            state.turn = state.turn.wrapping_add(1);
            (state.controllers.clone(), state.turn)
        };
        (0..controllers.len()).find_map(|n| TcpStream::connect(controllers.get((turn + n) % controllers.len())?).ok())
    }

    fn pass(&self, client: TcpStream) {
        let Some(server) = self.connect() else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
        let door = self.clone();
        thread::spawn(move || copy(from, to, |bytes| door.is_let_through(bytes)));
        let (door, mut passed) = (self.clone(), 0);
        copy(server, client, move |bytes| {
            passed += bytes.len();
            door.state().most.is_none_or(|most| passed <= most)
        });
    }

    /// What is held up waits here, and is not let through in the end.
    fn is_let_through(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        if let Some(said) = &mut state.said {
            said.extend_from_slice(bytes);
        }
        let text = String::from_utf8_lossy(bytes);
        if !state.trap.as_deref().is_some_and(|words| text.contains(words)) {
            return true;
        }
        state.caught = true;
        while state.trap.is_some() {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut may_pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(n @ 1..) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            _ => break,
        };
        let bytes = buffer.get(..n).unwrap_or_default();
        if !may_pass(bytes) || to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
