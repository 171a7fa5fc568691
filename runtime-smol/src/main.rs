//! `azure-proxy-agent`: the production daemon, on smol.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime_blocking::start::main(env!("CARGO_BIN_NAME"), runtime_smol::run)
}
