//! The production daemon on smol: one thread runs all connections, what blocks runs on the blocking pool. Only the waiting is its own;
//! everything else is `runtime-blocking`'s.

#![forbid(unsafe_code)]

mod agent;
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
    let (mailbox, inbox) = agent::mailbox();
    let (daemon, machine) = start.daemon(Arc::new(mailbox));
    let config = start.agent_config();
    start.console();
    // One thread runs all connections; what blocks runs on the blocking pool.
    let reactor = Reactor::new()?;
    let executor = smol::LocalExecutor::new();
    let agent = executor.spawn(agent::run(Rc::clone(&reactor), Arc::clone(&daemon), Arc::clone(&machine), config, inbox));
    reactor.block_on(executor.run(async {
        let start = Arc::new(start);
        let (starting, listening, redirected) = (Arc::clone(&start), Arc::clone(&daemon), Arc::clone(&machine));
        // Finding the port free may take a while.
        if let Some(listener) = smol::unblock(move || starting.listen(&listening, &redirected)).await {
            serve::accept_loop(&executor, &reactor, &daemon, listener, &start.stop).await?;
        }
        let draining = Arc::clone(&daemon);
        smol::unblock(move || start::drain(&draining, &machine)).await;
        agent.await;
        Ok(())
    }))
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
