//! `azure-proxy-agent-pool`: the controller of pools, and its command line.

#![forbid(unsafe_code)]

use clap::Parser;
use pool_controller::cli::{self, Cli, Command};
use pool_controller::serve;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match Cli::parse() {
        Cli { command: Command::Serve(options), .. } => {
            log(options.log_json);
            let runtime = match tokio::runtime::Runtime::new() {
                Ok(runtime) => runtime,
                Err(e) => return failed(&e.to_string()),
            };
            match runtime.block_on(serve::serve(options)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => failed(&e),
            }
        }
        cli => cli::run(&cli),
    }
}

fn failed(text: &str) -> ExitCode {
    eprintln!("azure-proxy-agent-pool: {text}");
    ExitCode::FAILURE
}

/// `RUST_LOG` chooses; the database's own messages are of interest only when it is asked for them.
fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
