//! What the end-to-end tests share: a world with a host in enforce mode and one of the two daemons, and looks into what the
//! host and the agent wrote down. Every test runs on both runtimes: they promise the same behaviour (design: card).
//!
//! Waits are for conditions and have deadlines; nothing sleeps for a guessed time.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

pub(crate) mod clients;
pub(crate) mod corpus;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod rules;
pub(crate) mod schema;
pub(crate) mod soak;
pub(crate) mod wire;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbox::{Agent, AgentOptions, HostOptions, Record, Sandbox, Server, User};
use serde_json::Value;

/// How long a condition may take that another process brings about. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// `azure-proxy-agent`.
    Smol,
    /// `azure-proxy-agent-minimal`.
    Blocking,
}

impl Runtime {
    /// Both of them.
    pub(crate) const ALL: [Self; 2] = [Self::Smol, Self::Blocking];

    /// The name of its binary.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Smol => "azure-proxy-agent",
            Self::Blocking => "azure-proxy-agent-minimal",
        }
    }

    /// Where its binary is: in `AZURE_PROXY_AGENT_BIN_DIR`, else in the directory above the test's own (`target/debug`).
    pub(crate) fn binary(self) -> PathBuf {
        let directory = match std::env::var_os("AZURE_PROXY_AGENT_BIN_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => target_directory(),
        };
        let path = directory.join(self.program());
        assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
        path
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// `target/debug` or `target/release`: the test's own executable is in `deps` below it.
pub(crate) fn target_directory() -> PathBuf {
    let own = std::env::current_exe().expect("the path of the test's executable");
    own.parent().and_then(|deps| deps.parent()).expect("the executable is in target/<profile>/deps").to_owned()
}

/// Makes of each named function `fn name(runtime: Runtime)` one test per runtime: `smol::name` and `blocking::name`.
#[allow(unused_macros, reason = "a test program may have tests without a runtime only")]
macro_rules! on_both_runtimes {
    ($($(#[$attribute:meta])* $name:ident),+ $(,)?) => {
        mod smol {
            $($(#[$attribute])* #[test] fn $name() { super::$name(crate::support::Runtime::Smol); })+
        }
        mod blocking {
            $($(#[$attribute])* #[test] fn $name() { super::$name(crate::support::Runtime::Blocking); })+
        }
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use on_both_runtimes;

/// A sandbox with a host and a provisioned agent. What the agent printed is shown when a test fails.
#[derive(Debug)]
pub(crate) struct World {
    // In this order they end.
    pub(crate) agent: Agent,
    pub(crate) host: Server,
    pub(crate) sandbox: Sandbox,
    pub(crate) runtime: Runtime,
}

impl World {
    /// The usual world: the host in enforce mode, the agent in its ordinary configuration.
    pub(crate) fn start(runtime: Runtime) -> Self {
        Self::with(runtime, HostOptions::default(), |options| options)
    }

    /// A world whose host or agent is started otherwise.
    pub(crate) fn with(runtime: Runtime, host: HostOptions, change: impl FnOnce(AgentOptions) -> AgentOptions) -> Self {
        Self::with_sandbox(runtime, host, |_| (), |_, options| change(options))
    }

    /// A world whose sandbox is prepared before.
    pub(crate) fn with_sandbox(
        runtime: Runtime,
        host: HostOptions,
        prepare: impl FnOnce(&Sandbox),
        change: impl FnOnce(&Sandbox, AgentOptions) -> AgentOptions,
    ) -> Self {
        let binary = runtime.binary();
        raise_descriptor_limit();
        let sandbox = Sandbox::enter().unwrap_or_else(|e| panic!("these tests need root, cgroup2 and eBPF: {e}"));
        prepare(&sandbox);
        let host = sandbox.start_host(host).unwrap_or_else(|e| panic!("the simulated host does not start: {e}"));
        let agent = sandbox.start_agent(&change(&sandbox, AgentOptions::new(binary))).unwrap_or_else(|e| panic!("{e}"));
        Self { agent, host, sandbox, runtime }
    }

    /// The requests that clients sent, as the host saw them: the agent's own are left out.
    pub(crate) fn seen(&self) -> Vec<Record> {
        self.host.host().records.all().into_iter().filter(|r| !r.target.starts_with("/secure-channel/")).collect()
    }

    /// The one request for `target` that the host saw, if any.
    pub(crate) fn seen_for(&self, target: &str) -> Option<Record> {
        let mut all: Vec<Record> = self.seen().into_iter().filter(|r| r.target == target).collect();
        assert!(all.len() < 2, "{}: the host saw {target} more than once: {all:?}", self.runtime);
        all.pop()
    }

    /// All lines of the audit log that are there now. A line that is not JSON is a failure.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = match self.sandbox.log("audit.jsonl") {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => panic!("audit.jsonl: {e}"),
        };
        // The last line may be in the middle of being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("audit line {line:?}: {e}"))).collect()
    }

    /// Waits for the audit lines that `wanted` chooses, until there are at least `count`, and returns them.
    pub(crate) fn audit_lines(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let what = format!("{count} audit lines");
        self.wait(&what, || {
            let lines: Vec<Value> = self.audit().into_iter().filter(&wanted).collect();
            (lines.len() >= count).then_some(lines)
        })
    }

    /// Waits for the audit line of the request for `url`, of which there must be one.
    pub(crate) fn audit_for(&self, url: &str) -> Value {
        let mut lines = self.audit_lines(1, |line| line["url"] == url);
        assert_eq!(lines.len(), 1, "{}: exactly one audit line per request: {lines:#?}", self.runtime);
        lines.remove(0)
    }

    /// Waits until `condition` gives something. Fails with `what` and the agent's words when it takes too long.
    pub(crate) fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        until(PATIENCE, &mut condition).unwrap_or_else(|| panic!("{}: {what}: not within {PATIENCE:?}", self.runtime))
    }

    /// A command as `user` inside.
    pub(crate) fn client(&self, user: &User, program: &str) -> Command {
        if user.uid == 0 && user.gid == 0 && user.groups.is_empty() {
            return self.sandbox.command(program);
        }
        self.sandbox.command_as(user, program)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} printed:\n{}---", self.runtime, self.agent.output());
        } else if let Ok(status) = fs::read(self.sandbox.status_folder().join("status.json")) {
            // Whatever a test was about, what the agent said of itself on the way is as promised, and whole.
            schema::check(&serde_json::from_slice(&status).unwrap_or_else(|e| panic!("status.json: {e}")));
        }
    }
}

/// Copies a program that is going to be run. By another process: a child that another thread starts meanwhile would inherit a descriptor
/// of ours that is open for writing, and until it runs something nobody could run the copy ("text file busy").
pub(crate) fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let copied = Command::new("cp").arg("--").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(copied.success(), "{} could not be copied", from.as_ref().display());
}

/// Looks again and again until `condition` gives something, or `patience` is over. For conditions that come about in another
/// process and have no event to wait for.
pub(crate) fn until<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says what a test leaves out here. Not with `println!`: the output of a test that passes is swallowed.
pub(crate) fn not_run(what: &str) {
    // In one piece, and on a line of its own, though tests run side by side.
    let _ = io::stderr().write_all(format!("\nnot run: {what}\n").as_bytes());
}

/// The host runs in this process, and tests run side by side: a burst needs more descriptors than the usual 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("raising the soft limit to the hard one");
}

/// Root, as the sandbox's owner is.
pub(crate) fn root() -> User {
    User::new(0, 0, &[])
}

/// What a program printed, both streams, for messages.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
