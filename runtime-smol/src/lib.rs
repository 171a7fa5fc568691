//! The production daemon on smol: one thread runs all connections, the agent machine has a thread of its own, look-ups run on
//! a few others. Only the waiting is its own; everything else is `runtime-blocking`'s.

#![forbid(unsafe_code)]

mod reactor;
mod serve;
mod wait;

use reactor::Reactor;
use runtime_blocking::daemon::{Accepted, Daemon};
use runtime_blocking::start::{self, Start};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// The daemon, from a configuration to its end.
///
/// # Errors
/// It could not begin to serve.
pub fn run(start: Start) -> io::Result<()> {
    start.run(|daemon, machine, listener, stop| {
        let reactor = Reactor::new()?;
        let executor = smol::LocalExecutor::new();
        reactor.block_on(executor.run(async {
            serve::accept_loop(&executor, &reactor, daemon, listener, stop).await?;
            start::begin_end(daemon, machine);
            serve::drain(&reactor, daemon).await;
            Ok(())
        }))
    })
}

/// Serves one connection on this thread, for replays.
///
/// # Errors
/// Out of descriptors.
pub fn serve_one(daemon: Arc<Daemon>, accepted: Accepted) -> io::Result<()> {
    let reactor = Reactor::new()?;
    reactor.block_on(serve::serve(Rc::clone(&reactor), daemon, accepted, serve::lookups()));
    Ok(())
}
