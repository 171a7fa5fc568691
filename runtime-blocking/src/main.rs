//! `azure-proxy-agent-minimal`: the agent on threads, for images where every megabyte counts.

#![forbid(unsafe_code)]

use runtime_blocking::serve::{ChannelMailbox, accept_loop, run_agent};
use runtime_blocking::start::{self, Start};
use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

fn main() -> ExitCode {
    start::main(env!("CARGO_BIN_NAME"), run)
}

fn run(mut start: Start) -> io::Result<()> {
    let (mailbox, inbox) = ChannelMailbox::new();
    let (daemon, machine) = start.daemon(Arc::new(mailbox));
    let (shared, agent) = ((Arc::clone(&daemon), Arc::clone(&machine)), start.agent());
    let agent = thread::Builder::new().name("agent".into()).spawn(move || run_agent(shared.0, shared.1, agent, &inbox))?;
    start.console();
    match start.listen(&daemon, &machine) {
        Some(listener) => accept_loop(&daemon, &machine, listener, &start.stop)?,
        None => start::begin_end(&daemon, &machine),
    }
    start::end(&daemon, &machine);
    agent.join().map_err(|_| io::Error::other("the agent loop panicked"))
}
