//! `azure-proxy-agent`: the production daemon, on smol.

#![forbid(unsafe_code)]

mod agent;
mod serve;
mod wait;

use runtime_blocking::start::{self, Start};
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    start::main(run)
}

fn run(start: Start) -> io::Result<()> {
    let (mailbox, inbox) = agent::mailbox();
    let daemon = start.daemon(Box::new(mailbox));
    let config = start.agent_config();
    start.console();
    // One thread runs all connections; what blocks runs on the blocking pool. An executor of our own: the global one would start
    // threads and swallow panics.
    let executor = smol::LocalExecutor::new();
    let agent = executor.spawn(agent::run(std::sync::Arc::clone(&daemon), config, inbox));
    smol::block_on(executor.run(async {
        if let Some(listener) = serve::listen(&executor, &start, &daemon).await {
            serve::accept_loop(&executor, &daemon, listener, &start.stop).await?;
        }
        smol::unblock({
            let daemon = std::sync::Arc::clone(&daemon);
            move || start::drain(&daemon)
        })
        .await;
        agent.await;
        Ok(())
    }))
}
