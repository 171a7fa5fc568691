//! `azure-proxy-agent-minimal`: the agent on threads, for images where every megabyte counts.

#![forbid(unsafe_code)]

use runtime_blocking::serve::accept_loop;
use runtime_blocking::start;
use std::process::ExitCode;

fn main() -> ExitCode {
    start::main(env!("CARGO_BIN_NAME"), |start| start.run(accept_loop))
}
