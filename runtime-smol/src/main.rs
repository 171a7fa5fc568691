//! `azure-proxy-agent`: the production daemon, on smol.

#![forbid(unsafe_code)]

mod agent;
mod reactor;
mod serve;
mod wait;

use reactor::Reactor;
use runtime_blocking::start::{self, Start};
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

fn main() -> ExitCode {
    start::main(run)
}

fn run(start: Start) -> io::Result<()> {
    let (mailbox, inbox) = agent::mailbox();
    let daemon = start.daemon(Box::new(mailbox));
    let config = start.agent_config();
    start.console();
    // One thread runs all connections; what blocks runs on the blocking pool.
    let reactor = Reactor::new()?;
    let executor = smol::LocalExecutor::new();
    let agent = executor.spawn(agent::run(Rc::clone(&reactor), Arc::clone(&daemon), config, inbox));
    reactor.block_on(executor.run(async {
        let start = Arc::new(start);
        let listening = (Arc::clone(&start), Arc::clone(&daemon));
        // Finding the port free may take a while.
        if let Some(listener) = smol::unblock(move || listening.0.listen(&listening.1)).await {
            serve::accept_loop(&executor, &reactor, &daemon, listener, &start.stop).await?;
        }
        let draining = Arc::clone(&daemon);
        smol::unblock(move || start::drain(&draining)).await;
        agent.await;
        Ok(())
    }))
}
