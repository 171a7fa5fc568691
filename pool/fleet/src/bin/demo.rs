//! `pool-demo`: a controller and two machines with real agents, on this machine and reachable from nowhere else. Run it with `make pool-demo`.
//!
//! Without a terminal, or with `--tour`, it shows itself: each step states what is expected of it, and the exit status is 1 if anything is not so.
#![forbid(unsafe_code)]

use fleet::controller::{Controllers, Options};
use fleet::machine::Machine;
use fleet::releases::{Build, Releases};
use fleet::{Programs, Result};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io::{IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Where the controller listens by default, if nobody does.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8440);
const POOL: &str = "demo";
const MACHINES: [&str; 2] = ["web1", "web2"];
/// The task that demands a newer agent than the machines have.
const DEMANDING: &str = "CheckHealth@1.2.0";
const REASON: &str = "Change freeze until March.";

/// A line on standard output. A reader that has gone, or a terminal that was closed, is no reason to leave anything behind.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

fn main() -> ExitCode {
    let tour = match std::env::args().nth(1).as_deref() {
        None => !std::io::stdin().is_terminal(),
        Some("--tour") => true,
        Some(_) => {
            eprintln!(
                "Usage: pool-demo [--tour]\nA pool with a controller and two machines, until Ctrl-C; with --tour, or without a terminal, it shows itself.\n\
                 Needs root."
            );
            return ExitCode::from(2);
        }
    };
    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if let Err(e) = signal_hook::flag::register(signal, Arc::clone(&over)) {
            eprintln!("pool-demo: {e}");
            return ExitCode::FAILURE;
        }
    }
    let folder = std::env::temp_dir().join(format!("pool-demo-{}", std::process::id()));
    let shown = show(&folder, tour, &over);
    let _ = fs::remove_dir_all(&folder);
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // What a signal interrupted is no failure.
        Err(_) if over.load(Ordering::Relaxed) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pool-demo: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Everything; whether all was as expected.
fn show(folder: &Path, tour: bool, over: &AtomicBool) -> Result<bool> {
    let begun = Instant::now();
    fs::create_dir(folder)?;
    let programs = Programs::find()?;
    say!("Making packages, and starting a controller and two machines ...");
    let demo = Demo::start(folder, &programs)?;
    let (old, new) = (&demo.old, &demo.new);
    let url = demo.controllers.addresses().first().map_or_else(String::new, |address| format!("http://{address}/"));
    say!(
        "\nThe pool `{POOL}` has two machines, {} and {}. Each is a network namespace with a simulated Azure host, in which the real agent {old} (with its\n\
         eBPF redirect) and the real updater run. The agent {new} is published and signed; nobody has it yet. All of it is on this machine's loopback.\n",
        MACHINES[0],
        MACHINES[1]
    );
    if !tour {
        let token = fs::read_to_string(demo.controllers.token_file())?;
        let tools = programs.controller.parent().unwrap_or(Path::new("/"));
        say!("  page    {url}\n  token   {}   (administrator)\n", token.trim());
        say!("Or the command line, in another terminal (as root):\n");
        say!(
            "  export PATH={}:$PATH POOL_SERVER={} POOL_TOKEN_FILE={}",
            tools.display(),
            url.trim_end_matches('/'),
            demo.controllers.token_file().display()
        );
        for (words, why) in [
            (format!("pool policy {POOL} no-update --reason '{REASON}'"), "jobs make nobody update any more"),
            (format!("job submit {POOL} --task {DEMANDING} --wait 60"), "needs a newer agent: fails at once, and says why"),
            (format!("agent update {POOL} {}", MACHINES[0]), "by hand it goes through"),
            (format!("agent list {POOL}"), "watch it, until it is online again"),
            (format!("job submit {POOL} --task {DEMANDING} --wait 60"), "now one has it"),
            (format!("pool policy {POOL} normal"), "the other way: jobs may make agents update"),
            (
                format!("job submit {POOL} --task {DEMANDING} --demand 'machine = web2' --wait 60"),
                "only web2 will do: it updates, and runs the job",
            ),
            (format!("pool audit {POOL}"), "who did what, and when"),
        ] {
            say!("  azure-proxy-agent-pool {words:<80} # {why}");
        }
        say!("\nCtrl-C ends it, and leaves nothing behind. (make then says `Interrupt`; that is all right.)");
        while !over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
        say!("\nEnding ...");
        return Ok(true);
    }
    let (steps, wrong) = demo.tour(over)?;
    let verdict = if wrong == 0 { "all as expected".to_owned() } else { format!("{wrong} NOT AS EXPECTED") };
    say!("\n{steps} steps, {verdict}, in {:.1} s.", begun.elapsed().as_secs_f64());
    Ok(wrong == 0)
}

struct Demo {
    /// In this order they end.
    machines: Vec<Machine>,
    controllers: Controllers,
    folder: PathBuf,
    /// What the machines begin with, and what is published.
    old: String,
    new: String,
}

impl Demo {
    fn start(folder: &Path, programs: &Programs) -> Result<Self> {
        let releases = Releases::new(&programs.agent, &folder.join("releases"))?;
        let mut options = Options::new(POOL);
        if TcpListener::bind(USUAL).is_ok() {
            options.listen = USUAL;
        }
        let controllers = Controllers::start(programs, folder, &options)?;
        let (old, new) = (releases.version(0), releases.version(1));
        for (n, version) in [(0, &old), (1, &new)] {
            controllers.publish(version, &releases.package(n, Build::Good)?, None)?;
        }
        let task = DEMANDING.replace('@', "/");
        controllers.ok("PUT", &format!("/tasks/{task}"), &json!({ "minimumAgentVersion": new }))?;
        let machines = MACHINES.map(|name| {
            let own = json!({ "capabilities": { "machine": name } });
            Machine::start(name, programs, &controllers, &releases, &own)
        });
        let machines = machines.into_iter().collect::<Result<Vec<_>>>()?;
        for name in MACHINES {
            controllers.await_agent(name, "online", &old)?;
        }
        Ok(Self { machines, controllers, folder: folder.to_owned(), old, new })
    }

    /// Step by step; how many, and how many were not as expected.
    fn tour(&self, over: &AtomicBool) -> Result<(u32, u32)> {
        let (old, new) = (self.old.as_str(), self.new.as_str());
        let rules = self.folder.join("deny.json");
        fs::write(&rules, json!({ "destination": "imds", "document": { "id": "tour", "defaultAccess": "deny" } }).to_string())?;
        let apply = format!("ApplyRules@1.0.0={}", rules.display());
        let (mut steps, mut wrong) = (0, 0);
        let mut step = |title: &str, words: &[&str], code: i32, expected: &[&str]| -> Result<()> {
            if over.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            steps += 1;
            say!(
                "{steps}. {title}\n   $ azure-proxy-agent-pool {}",
                words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
            );
            let (said, ended) = self.controllers.tool(words)?;
            for line in said.lines() {
                say!("   {}", cut(line));
            }
            let missing: Vec<&&str> = expected.iter().filter(|words| !said.contains(**words)).collect();
            if ended != Some(code) || !missing.is_empty() {
                wrong += 1;
                say!("   NOT AS EXPECTED: exit status {ended:?} instead of {code}; missing: {missing:?}");
            }
            say!();
            Ok(())
        };
        step(
            "Two agents. They are behind the newest release, which is no problem by itself.",
            &["agent", "list", POOL],
            0,
            &["web1", "web2", old, "(behind)"],
        )?;
        let policy = ["pool", "policy", POOL, "no-update", "--reason", REASON];
        step("The administrator decides that jobs make no agent update.", &policy, 0, &[])?;
        let job = ["job", "submit", POOL, "--task", DEMANDING, "--wait", "100"];
        let needs = format!(
            "Task `CheckHealth` version 1.2.0 requires agent version {new}, and no agents with that version are registered."
        );
        let lines = ["This pool doesn't allow agent updates.", needs.as_str(), REASON];
        step("A job that needs a newer agent fails at once, in words that say by whose setting.", &job, 1, &lines)?;
        step(
            "A person may update an agent all the same.",
            &["agent", "update", POOL, "web1"],
            0,
            &["web1 is asked to update to"],
        )?;
        self.controllers.await_agent("web1", "online", new)?;
        step(
            "It fetched, verified and installed the package, restarted the agent and found it ready.",
            &["agent", "list", POOL],
            0,
            &[new, old],
        )?;
        step("Now one agent has the version, and the job runs there.", &job, 0, &["succeeded by web1"])?;
        step(
            "With the other policy a job makes an agent update, and then runs on it.",
            &["pool", "policy", POOL, "normal"],
            0,
            &[],
        )?;
        let other = [&job[..], &["--demand", "machine = web2"]].concat();
        step("This one also demands the machine web2, whose agent is old.", &other, 0, &["succeeded by web2"])?;
        let before = self.curl();
        step(
            "Jobs do real work: this one brings local rules that deny.",
            &["job", "submit", POOL, "--task", &apply, "--demand", "machine = web2", "--wait", "100"],
            0,
            &["succeeded by web2"],
        )?;
        let after = self.curl();
        say!("   curl of the instance metadata on web2, before and after: {before} {after}\n");
        step(
            "Who asked for which update, and when, is on record.",
            &["pool", "audit", POOL, "--limit", "12"],
            0,
            &["admin", "job 3"],
        )?;
        if (before, after) != (200, 403) {
            wrong += 1;
            say!("   NOT AS EXPECTED: 200 403");
        }
        Ok((steps, wrong))
    }

    fn curl(&self) -> u16 {
        let web2 = self.machines.iter().find(|machine| machine.name == MACHINES[1]);
        web2.and_then(|machine| machine.curl("http://169.254.169.254/metadata/instance?api-version=2021-02-01").ok()).unwrap_or(0)
    }
}

/// As a shell wants it.
fn quoted(word: &str) -> String {
    if word.contains([' ', '\'']) { format!("'{word}'") } else { word.to_owned() }
}

/// A line that fits.
fn cut(line: &str) -> String {
    const WIDTH: usize = 180;
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or(line)),
        None => line.to_owned(),
    }
}
