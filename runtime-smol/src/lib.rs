//! The production daemon on smol: one thread runs all connections, the agent machine has a thread of its own, look-ups run on the
//! blocking pool. Only the waiting is its own; everything else is `runtime-blocking`'s.

#![forbid(unsafe_code)]

mod reactor;
mod serve;
mod wait;

use reactor::Reactor;
use runtime_blocking::daemon::{Accepted, Daemon};
use runtime_blocking::serve::{ChannelMailbox, run_agent};
use runtime_blocking::start::{self, Start};
use std::rc::Rc;
use std::sync::Arc;
use std::{io, thread};

/// The daemon, from a configuration to its end.
///
/// # Errors
/// It could not begin to serve.
pub fn run(mut start: Start) -> io::Result<()> {
    let (mailbox, inbox) = ChannelMailbox::new();
    let (daemon, machine) = start.daemon(Arc::new(mailbox));
    let (shared, agent) = ((Arc::clone(&daemon), Arc::clone(&machine)), start.agent());
    let agent = thread::Builder::new().name("agent".into()).spawn(move || run_agent(shared.0, shared.1, agent, &inbox))?;
    start.console();
    match start.listen(&daemon, &machine) {
        Some(listener) => {
            let reactor = Reactor::new()?;
            let executor = smol::LocalExecutor::new();
            reactor.block_on(executor.run(async {
                serve::accept_loop(&executor, &reactor, &daemon, listener, &start.stop).await?;
                start::begin_end(&daemon, &machine);
                serve::drain(&reactor, &daemon).await;
                Ok::<_, io::Error>(())
            }))?;
        }
        None => start::begin_end(&daemon, &machine),
    }
    start::end(&daemon, &machine);
    agent.join().map_err(|_| io::Error::other("the agent loop panicked"))
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
