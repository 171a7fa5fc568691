//! `demo`: the main job of the agent, shown and checked. Run it with `make demo`.
//!
//! Real are the kernel's redirect, the users, curl, and every signature; the host is simulated, and the network is one of our
//! own. Each scene states what is expected of it: the exit status is 1 if anything shown is not as expected.
#![forbid(unsafe_code)]

mod call;
mod judge;
mod scenes;
mod screen;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use call::Clients;
use judge::Row;
use sandbox::{AgentOptions, HostOptions, Sandbox, User};
use scenes::Demo;
use screen::{Screen, Style};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(agent), None) = (arguments.next(), arguments.next()) else {
        eprintln!("Usage: demo AGENT\nShows what the agent (the path of its binary) does. Needs root, curl and python3.");
        return ExitCode::from(2);
    };
    match std::path::absolute(agent).and_then(|agent| show(&agent)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("demo: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Shows everything; `true` if all of it is as expected.
fn show(program: &Path) -> io::Result<bool> {
    let screen = Screen::new();
    let started = Instant::now();
    let sandbox = Sandbox::enter()?;
    let remains = [Some(sandbox.directory().to_owned()), outside_cgroup(sandbox.name())?];
    let server = sandbox.start_host(HostOptions::default())?;
    let begun = Instant::now();
    let mut agent = sandbox.start_agent(&AgentOptions::new(program))?;
    introduce(screen, program, begun.elapsed(), agent.id());
    let clients = Clients { sandbox: &sandbox, server: &server, nobody: User::named("nobody")? };
    let mut demo = Demo { screen, clients, rows: Vec::new() };
    demo.play()?;
    let rows = demo.rows;
    agent.stop()?;
    drop((agent, server, sandbox));
    let clean = !remains.iter().flatten().any(|path| path.exists());
    Ok(summarize(screen, &rows, clean, started.elapsed()))
}

fn introduce(screen: Screen, program: &Path, ready: Duration, pid: u32) {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let kernel = read("/proc/sys/kernel/osrelease".into());
    let status = read(format!("/proc/{pid}/status"));
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    screen.text(
        Style::Plain,
        &format!(
            "{name} at work. Real: the redirect by eBPF (Linux {}), the users, curl, every signature. Simulated: the Azure host, \
             in a network of its own that holds nothing else. The agent was ready after {} ms, with the host's key and the \
             redirect in place; it occupies {:.1} MB. curl is run with -si -m 10 -w … as well, to show what it sees.",
            kernel.trim(),
            ready.as_millis(),
            kilobytes.unwrap_or_default() / 1000.0
        ),
    );
}

fn summarize(screen: Screen, rows: &[Row], clean: bool, elapsed: Duration) -> bool {
    const WIDTHS: [usize; 5] = [7, 30, 11, 33, 12];
    screen.gap();
    screen.row(&WIDTHS, &["caller", "asks", "client saw", "host saw", ""], Style::Strong, Style::Strong);
    for row in rows {
        let (verdict, style) = if row.wrong.is_empty() { ("as expected", Style::Good) } else { ("WRONG", Style::Bad) };
        screen.row(&WIDTHS, &[row.caller, row.asks, &row.status.to_string(), &row.host, verdict], Style::Plain, style);
    }
    let good = rows.iter().filter(|row| row.wrong.is_empty()).count();
    let left = if clean { "nothing is left behind" } else { "SOMETHING IS LEFT BEHIND" };
    let all = clean && good == rows.len();
    screen.gap();
    screen.text(
        if all { Style::Good } else { Style::Bad },
        &format!("{good} of {} as expected, in {:.1} s; {left}.", rows.len(), elapsed.as_secs_f64()),
    );
    all
}

/// Where the machine's own cgroup2 mount, if it has one, shows the sandbox's cgroup.
fn outside_cgroup(name: &str) -> io::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    Ok(line.and_then(|line| line.split(' ').nth(4)).map(|mount| Path::new(mount).join(name)))
}
