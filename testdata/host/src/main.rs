//! `azure-host-sim`: see `--help`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use azure_host_sim::options::{Command, HELP, parse};
use azure_host_sim::{Server, control};

fn main() -> ExitCode {
    let (options, control, ready_fd) = match parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Command::Run { options, control, ready_fd }) => (options, control, ready_fd),
        Err(why) => return fail(&format!("{why}; try --help")),
    };
    let server = match Server::start(&options) {
        Ok(server) => server,
        Err(e) => return fail(&e.to_string()),
    };
    if let Some(address) = control
        && let Err(e) = control::start(address, server.host().clone())
    {
        return fail(&format!("--control {address}: {e}"));
    }
    let told = match ready_fd {
        // Reopening through /proc needs no unsafe code and works for pipes and files alike.
        Some(fd) => File::options().write(true).open(format!("/proc/self/fd/{fd}")).and_then(|mut f| f.write_all(b"ready\n")),
        None => {
            let mut out = std::io::stdout();
            out.write_all(b"ready\n").and_then(|()| out.flush())
        }
    };
    if let Err(e) = told {
        return fail(&format!("cannot say that I am ready: {e}"));
    }
    loop {
        std::thread::park();
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("azure-host-sim: {why}");
    ExitCode::from(2)
}
