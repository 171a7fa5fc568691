//! `azure-proxy-agent-updater`: see the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    pool_updater::cli::main(&arguments)
}
