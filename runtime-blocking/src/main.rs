//! `azure-proxy-agent-minimal`: the agent on threads, for images where every megabyte counts.

#![forbid(unsafe_code)]

use runtime_blocking::serve::{ChannelMailbox, accept_loop, run_agent};
use runtime_blocking::start::{self, Start};
use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

fn main() -> ExitCode {
    start::main(run)
}

#[expect(clippy::needless_pass_by_value, reason = "the other runtime shares it")]
fn run(start: Start) -> io::Result<()> {
    let (mailbox, inbox) = ChannelMailbox::new();
    let (daemon, machine) = start.daemon(Arc::new(mailbox));
    let (shared, config) = ((Arc::clone(&daemon), Arc::clone(&machine)), start.agent_config());
    let agent = thread::Builder::new().name("agent".into()).spawn(move || run_agent(shared.0, shared.1, config, &inbox))?;
    start.console();
    if let Some(listener) = start.listen(&daemon, &machine) {
        accept_loop(&daemon, listener, &start.stop, start::DRAIN)?;
    }
    start::drain(&daemon, &machine);
    agent.join().map_err(|_| io::Error::other("the agent loop panicked"))
}
