//! `azure-proxy-agent-minimal`: the agent on blocking threads, for images where every megabyte counts.

#![forbid(unsafe_code)]

use runtime_blocking::serve::{ChannelMailbox, accept_loop, run_agent};
use runtime_blocking::start::{self, Start};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

fn main() -> ExitCode {
    start::main(run)
}

fn run(start: Start) -> io::Result<()> {
    let (mailbox, inbox) = ChannelMailbox::new();
    let daemon = start.daemon(Box::new(mailbox));
    let (agent_daemon, config) = (Arc::clone(&daemon), start.agent_config());
    let agent = thread::Builder::new().name("agent".into()).spawn(move || run_agent(agent_daemon, config, &inbox))?;
    start.console();
    if let Some(listener) = start.listen(&daemon) {
        accept_loop(&daemon, &listener, start.stop.as_fd())?;
    }
    start::drain(&daemon);
    agent.join().map_err(|_| io::Error::other("the agent loop panicked"))
}
