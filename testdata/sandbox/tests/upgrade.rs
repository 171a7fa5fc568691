//! Killed and upgraded under load: eight clients ask all the time, and whatever happens to the agent meanwhile, nothing reaches
//! the host unsigned, unaudited or under a wrong identity, and nobody is served whom the rules deny. With a listener that the
//! service manager keeps, nobody is refused either. FS-101, S-03, SEC-E4, SEC-G4, invariants 1, 3 and 6. These tests need root.
//!
//! Seconds in `make test`; `make soak` has the long form and prints what was counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use sandbox::{Agent, AgentOptions, HostOptions, Ready, Sandbox, Server, Store, Supervisor};
use serde_json::{Value, json};
use support::load::{EIGHT, Evidence, Load};
use support::process::in_kernel;
use support::soak::{Soak, table};
use support::wire::{Caller, IMDS, WIRESERVER};
use support::{PATIENCE, Runtime, on_both_runtimes, until};

on_both_runtimes!(
    killed_with_a_listener_that_is_kept,
    killed_with_rules_that_only_audit,
    killed_without_a_service_manager,
    upgraded_under_load,
    gone_for_a_while,
);

/// How long a life lasts.
const LIFE: Duration = Duration::from_millis(300);
/// Between an answer and the next request of a client: enough load that every kill meets requests, and audit logs of a size that
/// can be looked at.
const PAUSE: Duration = Duration::from_millis(2);

/// A world whose agent is started by a service manager.
struct Stage {
    // In this order they end.
    agent: Agent,
    supervisor: Supervisor,
    host: Server,
    sandbox: Sandbox,
    runtime: Runtime,
}

impl Stage {
    fn set(runtime: Runtime, store: Store, rules: Option<Value>) -> Self {
        let sandbox = Sandbox::enter().unwrap_or_else(|e| panic!("these tests need root, cgroup2 and eBPF: {e}"));
        let host = sandbox.start_host(HostOptions { rules, ..HostOptions::default() }).unwrap();
        let supervisor = Supervisor::new(&sandbox, store).unwrap();
        let agent = supervisor.start(&sandbox, &AgentOptions::new(runtime.binary())).unwrap_or_else(|e| panic!("{e}"));
        Self { agent, supervisor, host, sandbox, runtime }
    }

    fn load(&self) -> Load {
        Load::start(&self.sandbox, self.host.host(), &EIGHT, PAUSE)
    }

    /// The next process, which is not waited for.
    fn next(&mut self, options: AgentOptions) {
        self.agent = self.supervisor.start(&self.sandbox, &options.until(Ready::Started)).unwrap();
    }

    /// Kills one process after the other.
    fn kill_for(&mut self, how_long: Duration) -> u32 {
        let (end, mut kills) = (Instant::now() + how_long, 0);
        while Instant::now() < end {
            // The pace of the scenario; nothing waits for it.
            std::thread::sleep(LIFE);
            self.agent.kill().unwrap();
            self.next(AgentOptions::new(self.runtime.binary()));
            kills += 1;
        }
        kills
    }

    /// Ends the load when it has come to rest: with an agent that is ready, and then stopped in order.
    fn finish(&mut self, load: Load) -> Evidence {
        assert!(self.supervisor.heard(self.agent.id(), "READY=1", PATIENCE), "{}: not ready", self.runtime);
        load.finish(|| {
            self.agent.stop().unwrap();
        })
    }

    fn in_kernel(&self) -> BTreeSet<String> {
        in_kernel(&self.sandbox, self.agent.id())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.agent.output();
            let tail = text.len().saturating_sub(4000);
            eprintln!("--- the last of what {} printed:\n{}---", self.runtime, text.get(tail..).unwrap_or(&text));
        }
    }
}

/// What must hold however the agent was treated.
fn safe(evidence: &Evidence, about: &str) {
    evidence.judge().assert_none(about);
    let served = evidence.tally(true).iter().filter(|((_, outcome), _)| outcome == "200").map(|(_, n)| n).sum::<u64>();
    assert!(served > 20, "{about}: hardly anybody was served: {:?}", evidence.tally(true));
}

/// Nobody is refused, and what waits to be accepted waits for the next process. What the killed one had accepted ends with it: the
/// kernel closes it, or resets it if the request had arrived and had not been read yet. That takes microseconds, or as long as a busy
/// machine lets a process wait: one reset per kill is much in the long form, one per kill and client in the short one. An orderly
/// end makes none.
fn nobody_refused(evidence: &Evidence, kills: u32, about: &str) {
    let most = if Soak::is_long() { kills } else { kills * EIGHT.len() as u32 };
    let tallies = [evidence.tally(true), evidence.tally(false)];
    let count = |outcome: &str| tallies.iter().filter_map(|t| t.get(&(true, outcome.to_owned()))).sum::<u64>();
    for lost in ["refused", "silent", "other", "forbidden", "421", "503"] {
        assert_eq!(count(lost), 0, "{about}: {lost} on a fresh connection: {tallies:?}");
    }
    assert!(count("reset") <= most.into(), "{about}: more resets than {most}: {tallies:?}");
}

fn audit_rules() -> Value {
    let by = |id: &str| json!({"defaultAccess": "allow", "mode": "audit", "id": id});
    json!({"imds": by("imds-audit"), "wireserver": by("wireserver-audit"), "hostga": by("hostga-audit")})
}

fn killed_with_a_listener_that_is_kept(runtime: Runtime) {
    killed(runtime, None, "enforce");
}

fn killed_with_rules_that_only_audit(runtime: Runtime) {
    killed(runtime, Some(audit_rules()), "audit");
}

fn killed(runtime: Runtime, rules: Option<Value>, mode: &str) {
    let mut stage = Stage::set(runtime, Store::Kept, rules);
    let load = stage.load();
    let kills = stage.kill_for(Soak::length().kills);
    let evidence = stage.finish(load);
    table(&format!("{runtime}: {kills} kills, listener kept, {mode}"), &evidence);
    safe(&evidence, mode);
    nobody_refused(&evidence, kills, mode);
}

/// Refused: nobody listens between one process and the next. Reset: what waited to be accepted ends with the listener.
fn killed_without_a_service_manager(runtime: Runtime) {
    let mut stage = Stage::set(runtime, Store::None, None);
    let load = stage.load();
    let kills = stage.kill_for(Soak::length().kills);
    let evidence = stage.finish(load);
    table(
        &format!("{runtime}: {kills} kills, no listener kept (refused: nobody listened; reset: waited to be accepted)"),
        &evidence,
    );
    safe(&evidence, "alone");
}

/// FS-101, SEC-G4: one version stops in order, another takes over, and it holds the same in the kernel; no request is lost.
fn upgraded_under_load(runtime: Runtime) {
    let mut stage = Stage::set(runtime, Store::Kept, None);
    let object = another_build(&stage.sandbox);
    let [other] = Runtime::ALL.into_iter().filter(|r| *r != runtime).collect::<Vec<_>>()[..] else { panic!("two runtimes") };
    let at_first = stage.in_kernel();
    let load = stage.load();
    let switches = Soak::length().switches;
    for switch in 1..=switches {
        let binary = if switch % 2 == 1 { other.binary() } else { runtime.binary() };
        let mut options = AgentOptions::new(binary);
        if switch % 4 < 2 {
            options = options.config("ebpfFileFullPath", object.to_str().unwrap());
        }
        stage.agent.stop().unwrap();
        stage.next(options);
        assert!(stage.supervisor.heard(stage.agent.id(), "READY=1", PATIENCE), "switch {switch}: not ready");
        let now = until(PATIENCE, || (stage.in_kernel() == at_first).then_some(()));
        assert!(now.is_some(), "switch {switch}: {:?}\nis not what it was at first: {at_first:?}", stage.in_kernel());
        let before = stage.host.host().records.count();
        let serves = until(PATIENCE, || (stage.host.host().records.count() > before + 30).then_some(()));
        assert!(serves.is_some(), "switch {switch}: it does not serve");
    }
    let evidence = stage.finish(load);
    table(&format!("{runtime}: {switches} upgrades, listener kept"), &evidence);
    safe(&evidence, "upgrade");
    nobody_refused(&evidence, 0, "upgrade");
    // Of a connection that stays open a client knows that it may be closed, just when it asks again (RFC 9112 section 9.5).
    for outcome in ["closed", "cut"] {
        let lost = evidence.tally(true).get(&(true, outcome.to_owned())).copied();
        assert_eq!(lost, None, "a request that was under way is finished: {outcome}: {:?}", evidence.tally(true));
    }
}

/// S-03, SEC-E4: killed and not started again, nothing of a destination in enforce goes anywhere; afterwards everything works.
fn gone_for_a_while(runtime: Runtime) {
    let mut stage = Stage::set(runtime, Store::None, None);
    let before = stage.in_kernel();
    stage.agent.kill().unwrap();
    stage.host.host().records.clear();
    let callers = [Caller::root(&stage.sandbox), Caller::nobody(&stage.sandbox)];
    for caller in &callers {
        for to in [IMDS, WIRESERVER] {
            let error = caller.try_connect(to).expect_err("nobody may be served");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        }
    }
    assert_eq!(stage.host.host().records.all(), [], "S-03");
    stage.agent = stage.supervisor.start(&stage.sandbox, &AgentOptions::new(runtime.binary())).unwrap();
    assert_eq!(stage.in_kernel(), before, "SEC-G4");
    let answer = callers[1].ask(IMDS, "GET /test/bytes?n=1 HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n");
    assert!(answer.status == 200 && answer.is_marked(), "{answer:?}");
}

/// The newest object file that the build made, and a byte more.
fn another_build(sandbox: &Sandbox) -> PathBuf {
    let build = support::target_directory().join("build");
    let made = fs::read_dir(&build).unwrap().flatten().map(|e| e.path().join("out/redirect.bpf.o")).filter(|p| p.is_file());
    let age = |p: &PathBuf| fs::metadata(p).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let newest = made.max_by_key(age).unwrap_or_else(|| panic!("no redirect.bpf.o below {}", build.display()));
    let mut bytes = fs::read(newest).unwrap();
    bytes.push(0);
    let path = sandbox.directory().join("another.bpf.o");
    fs::write(&path, bytes).unwrap();
    path
}
