//! The Azure host, simulated: WireServer, HostGAPlugin and IMDS as the agent's tests, demo and benches meet them.
//!
//! It plays the *host* side of the key protocol, serves realistic documents, and checks every request as a host in
//! `enforce` does. It was written from the specification and shares no code with the agent: a canonicalization mistake in
//! the agent is not repeated here, so it shows. It refuses to run on any network but one of its own ([`netns`]).
#![forbid(unsafe_code)]

pub mod control;
pub mod date;
pub mod documents;
pub mod faults;
pub mod framing;
pub mod host;
pub mod http;
pub mod keys;
pub mod netns;
pub mod options;
pub mod record;
pub mod reply;
pub mod server;
pub mod signature;
pub mod verify;

pub use host::{Endpoint, Host};
pub use options::{Mode, Options, Version};
pub use record::Record;
pub use server::Server;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic elsewhere: a simulator that has lost one connection thread still answers the others.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
