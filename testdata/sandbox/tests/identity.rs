//! Who asks? Callers of every kind, real eBPF, both daemons, and a host in enforce mode that verifies every signature. What is
//! compared: the caller's own process id, what the host received (claims header), and the agent's audit log. Needs root.
//!
//! Numbers (`I-20`, `PX-63`, `S-04`, …) are those of the specification.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{HostOptions, User};
use serde_json::{Value, json};
use support::{Runtime, World, not_run, on_both_runtimes, root, text, until};

on_both_runtimes!(
    elevated_is_the_real_user_id_zero_and_nothing_else,
    two_hundred_parallel_callers_of_five_users_are_never_mixed_up,
    a_burst_of_512_connections_is_served_whole,
    a_caller_that_is_gone_keeps_its_user_and_loses_its_path,
    a_caller_that_became_another_program_is_not_taken_for_that,
    becoming_a_trusted_program_opens_nothing,
    a_thread_is_its_process,
    an_explicit_source_port,
    an_ipv4_mapped_address,
    tcp_fast_open,
    io_uring,
    a_socket_handed_to_another_user_stays_its_connectors,
    getpeername_tells_the_address_that_was_asked_for,
    direct_connections_to_the_listener,
    a_direct_unsigned_call_is_refused_by_the_host,
);

const CALLER: &str = include_str!("identity/caller.py");
const PYTHON: &str = "/usr/bin/python3";
const ELEVATED: &str = r#"{ "isRoot": "true"}"#;
const ORDINARY: &str = r#"{ "isRoot": "false"}"#;
/// Five users of every Debian machine, the last one without an account (I-14).
const USERS: [(u32, &str); 5] = [(0, "root"), (1, "daemon"), (33, "www-data"), (65534, "nobody"), (54321, "undefined")];

fn nobody() -> User {
    User::new(65534, 65534, &[])
}

/// An IMDS target that belongs to one caller only.
fn imds(name: &str) -> String {
    format!("/metadata/instance/compute/vmId?api-version=2021-02-01&caller={name}")
}

/// A WireServer target that belongs to one caller only.
fn wireserver(name: &str) -> String {
    format!("/machine?comp=versions&caller={name}")
}

/// `caller.py` as `user`.
fn caller(world: &World, user: &User, how: &str, target: &str, arguments: &[&str]) -> Command {
    let mut command = world.client(user, PYTHON);
    command.args(["-I", "-S", "-c", CALLER, how, target]).args(arguments).stderr(Stdio::inherit()).stdout(Stdio::piped());
    command
}

/// Runs `caller.py` and returns what it saw.
fn call(world: &World, user: &User, how: &str, target: &str, arguments: &[&str]) -> Value {
    seen_by(&caller(world, user, how, target, arguments).output().unwrap())
}

fn seen_by(output: &Output) -> Value {
    assert!(output.status.success(), "{:?}: {}", output.status, text(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(output)))
}

/// The path under which the kernel knows a program.
fn real(program: &str) -> String {
    fs::canonicalize(program).unwrap().to_str().unwrap().to_owned()
}

/// What agent and host know of the request for `target`: of user `uid`, process `pid`. Returns the audit line.
#[track_caller]
fn assert_attributed(world: &World, target: &str, uid: u32, pid: &Value) -> Value {
    let line = world.audit_for(target);
    assert_eq!((&line["userId"], &line["processId"]), (&uid.into(), pid), "{line:#}");
    assert_eq!(line["runAsElevated"], uid == 0, "{line:#}");
    let claims = if uid == 0 { ELEVATED } else { ORDINARY };
    let seen = world.seen_for(target).unwrap_or_else(|| panic!("{}: the host did not see {target}", world.runtime));
    assert_eq!((seen.verified.as_str(), seen.claims.as_deref()), ("signed", Some(claims)), "{target}");
    line
}

/// The same of a living process, whose program is known.
#[track_caller]
fn assert_verified(world: &World, target: &str, uid: u32, pid: &Value, program: &str) -> Value {
    let line = assert_attributed(world, target, uid, pid);
    assert_eq!((&line["identity"], &line["processFullPath"]), (&"verified".into(), &real(program).into()), "{line:#}");
    line
}

/// I-20, S-09, PX-67: the WireServer is for elevated callers; IMDS for all, and it learns who is one.
fn elevated_is_the_real_user_id_zero_and_nothing_else(runtime: Runtime) {
    let world = World::start(runtime);
    let check = |name: &str, elevated: bool, uid: u32, ask: &dyn Fn(&str) -> Value| {
        for target in [wireserver(name), imds(name)] {
            let allowed = elevated || target == imds(name);
            let seen = ask(&target);
            assert_eq!(seen["status"], if allowed { 200 } else { 403 }, "{runtime}: {name}: {target}");
            if allowed {
                assert_verified(&world, &target, uid, &seen["pid"], PYTHON);
                continue;
            }
            assert_eq!(world.seen_for(&target), None, "a denied request leaves no byte at the host");
            let line = world.audit_for(&target);
            assert_eq!((&line["decision"], &line["responseStatus"]), (&"deny".into(), &"403 Forbidden".into()), "{line:#}");
            assert_eq!((&line["userId"], &line["processId"]), (&uid.into(), &seen["pid"]), "{line:#}");
        }
    };
    for (name, user, elevated) in [
        ("root", root(), true),
        ("root-of-another-group", User::new(0, 65534, &[65534]), true),
        ("nobody", nobody(), false),
        ("group-root", User::new(65534, 0, &[]), false),
        ("in-group-root", User::new(1, 1, &[0]), false),
        ("no-account", User::new(54321, 54321, &[]), false),
    ] {
        check(name, elevated, user.uid, &|target| call(&world, &user, "plain", target, &[]));
    }
    // Effective ids, and with them capabilities, play no part.
    check("effective-root", false, 65534, &|target| call(&world, &root(), "ids", target, &["65534", "0"]));
    check("effective-nobody", true, 0, &|target| call(&world, &root(), "ids", target, &["0", "65534"]));
    root_of_a_user_namespace_is_not_elevated(&world);
    assert_audited_once_each(world);
}

/// The agent's last words are in the log when it has ended: now a line too many would show.
fn assert_audited_once_each(mut world: World) {
    world.agent.stop().unwrap();
    let mut requests = BTreeSet::new();
    for line in world.audit() {
        assert!(requests.insert(line["id"].as_u64()), "each request is audited once: {line:#}");
    }
}

fn root_of_a_user_namespace_is_not_elevated(world: &World) {
    let unshare = |command: &[&str]| world.client(&nobody(), "unshare").arg("-Ur").args(command).output().unwrap();
    if !unshare(&["true"]).status.success() {
        not_run("root in a user namespace (ordinary users may not make one here)");
        return;
    }
    let target = wireserver("namespace-root");
    let seen = seen_by(&unshare(&[PYTHON, "-I", "-S", "-c", CALLER, "plain", &target]));
    assert_eq!(seen["status"], 403, "I-20: root inside is somebody else outside");
    let line = world.audit_for(&target);
    assert_eq!((&line["userId"], &line["userName"]), (&65534.into(), &"nobody".into()), "{line:#}");
}

/// S-02, S-04, S-06: identity belongs to the socket. All processes start at the same moment.
fn two_hundred_parallel_callers_of_five_users_are_never_mixed_up(runtime: Runtime) {
    let world = World::start(runtime);
    let (gate, opener) = std::io::pipe().unwrap();
    let mut callers: Vec<(String, u32, &str, Child)> = Vec::new();
    for number in 0..200 {
        let (uid, name) = USERS[number % USERS.len()];
        let target = imds(&format!("{name}-{number}"));
        // The shell waits at the gate and becomes curl: the process that connects has the id that we know.
        let mut command = world.client(&User::new(uid, uid, &[]), "/bin/sh");
        command.args(["-c", r#"read -r _; exec curl -sS -m 60 -o /dev/null -w "%{http_code}" -H Metadata:true "$0""#]);
        command.arg(format!("http://169.254.169.254{target}")).stdin(gate.try_clone().unwrap()).stdout(Stdio::piped());
        callers.push((target, uid, name, command.spawn().unwrap()));
    }
    drop((gate, opener));
    let pids: Vec<u32> = callers.iter().map(|(.., child)| child.id()).collect();
    let mut expected = BTreeMap::new();
    for ((target, uid, name, child), pid) in callers.into_iter().zip(pids) {
        assert_eq!(text(&child.wait_with_output().unwrap()), "200", "{runtime}: {target}");
        expected.insert(target, (uid, name, pid));
    }
    let lines = world.audit_lines(expected.len(), |_| true);
    assert_eq!(lines.len(), expected.len(), "one line per request");
    for line in &lines {
        let (uid, name, pid) = expected[line["url"].as_str().unwrap()];
        let found = (line["userId"].as_u64(), line["userName"].as_str(), line["processId"].as_u64());
        assert_eq!(found, (Some(uid.into()), Some(name), Some(pid.into())), "{line:#}");
        assert_eq!(line["processFullPath"], real("/usr/bin/curl"), "{line:#}");
    }
    let seen = world.seen();
    assert_eq!(seen.len(), expected.len());
    for record in seen {
        let claims = if expected[&record.target].0 == 0 { ELEVATED } else { ORDINARY };
        assert_eq!((record.verified.as_str(), record.claims.as_deref()), ("signed", Some(claims)), "{}", record.target);
    }
}

/// PX-14a allows 512 of one user and 1024 in all; within that nobody is refused and nothing is lost.
fn a_burst_of_512_connections_is_served_whole(runtime: Runtime) {
    let world = World::start(runtime);
    // Root has 128 of them.
    let shares = [128, 96, 96, 96, 96];
    let mut children = Vec::new();
    for ((uid, name), share) in USERS.into_iter().zip(shares) {
        let target = imds(name);
        let mut command = caller(&world, &User::new(uid, uid, &[]), "many", &target, &[&share.to_string()]);
        let child = command.stdin(Stdio::piped()).spawn().unwrap();
        children.push((uid, target, share, child));
    }
    let gates: Vec<_> = children.iter_mut().map(|(.., child)| child.stdin.take()).collect();
    drop(gates);
    let mut expected = BTreeMap::new();
    for (uid, target, share, child) in children {
        let seen = seen_by(&child.wait_with_output().unwrap());
        assert_eq!(seen["statuses"], Value::from(vec![200; share]), "{runtime}: user {uid}");
        expected.extend((0..share).map(|number| (format!("{target}-{number}"), (uid, seen["pid"].clone()))));
    }
    let lines = world.audit_lines(512, |_| true);
    assert_eq!(lines.len(), 512);
    for line in &lines {
        let (uid, pid) = &expected[line["url"].as_str().unwrap()];
        assert_eq!((&line["userId"], &line["processId"]), (&(*uid).into(), pid), "{line:#}");
    }
    let targets: BTreeSet<String> = world.seen().into_iter().map(|r| r.target).collect();
    assert!(targets.iter().eq(expected.keys()), "the host saw each of them");
}

/// The agent, stopped: what callers do meanwhile has happened before it looks.
struct Stopped<'a>(&'a World);

impl<'a> Stopped<'a> {
    fn new(world: &'a World) -> Self {
        let stopped = Self(world);
        stopped.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", world.agent.id());
        let state =
            |task: PathBuf| fs::read_to_string(task.join("stat")).is_ok_and(|s| s[s.rfind(')').unwrap()..].starts_with(") T"));
        world
            .wait("the agent is stopped", || fs::read_dir(&tasks).unwrap().all(|task| state(task.unwrap().path())).then_some(()));
        stopped
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.agent.id().cast_signed()).unwrap(), signal).unwrap();
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

/// The record of a caller whose process could not be looked at (I-16, I-17, I-29).
#[track_caller]
fn assert_pathless(line: &Value) {
    assert_eq!(
        (&line["identity"], &line["processFullPath"], &line["processCmdLine"]),
        (&"kernel-only".into(), &"".into(), &"undefined".into()),
        "{line:#}"
    );
}

/// I-16, I-29: connects, asks, exits, and all that before the agent has a look.
fn a_caller_that_is_gone_keeps_its_user_and_loses_its_path(runtime: Runtime) {
    let world = World::start(runtime);
    let stopped = Stopped::new(&world);
    let target = imds("gone");
    let seen = call(&world, &nobody(), "leave", &target, &[]);
    let denied = wireserver("gone");
    let seen_denied = call(&world, &nobody(), "leave", &denied, &[]);
    drop(stopped);
    assert_pathless(&assert_attributed(&world, &target, 65534, &seen["pid"]));
    let line = world.audit_for(&denied);
    assert_eq!((&line["userName"], &line["processId"]), (&"nobody".into(), &seen_denied["pid"]), "{line:#}");
    assert_eq!((&line["decision"], world.seen_for(&denied)), (&"deny".into(), None));
    assert_pathless(&line);

    // Its child has the socket, and gets the answer on the connector's account.
    for (user, target, status) in [(root(), wireserver("orphan-of-root"), 200), (nobody(), wireserver("orphan"), 403)] {
        let stopped = Stopped::new(&world);
        let mut child = caller(&world, &user, "orphan", &target, &[]).stdin(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "gone\n");
        drop((stopped, child.stdin.take()));
        let seen: Value = serde_json::from_reader(output).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(seen["status"], status, "{target}");
        let line = world.audit_for(&target);
        assert_eq!((&line["userId"], &line["processId"]), (&user.uid.into(), &seen["pid"]), "{line:#}");
        assert_pathless(&line);
    }
}

/// I-29: the path is unknown, and never that of the program which has the process now.
fn a_caller_that_became_another_program_is_not_taken_for_that(runtime: Runtime) {
    let world = World::start(runtime);
    for (user, name) in [(root(), "exec-root"), (nobody(), "exec")] {
        let target = imds(name);
        let (answer, pid) = ask_and_become_cat(&world, &user, &target);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let line = assert_attributed(&world, &target, user.uid, &pid.into());
        assert_pathless(&line);
        assert!(!line.to_string().contains("cat"), "nothing of the later program: {line:#}");
    }
}

/// I-29, R-33: a rule for a program lets that program pass, and nobody who put it on afterwards.
fn becoming_a_trusted_program_opens_nothing(runtime: Runtime) {
    let trusted = [real("/usr/bin/curl"), real("/bin/cat")].map(|path| json!({"name": path, "exePath": path}));
    let names: Vec<&Value> = trusted.iter().map(|identity| &identity["name"]).collect();
    let rules = json!({
        "privileges": [{"name": "all", "path": "/"}], "roles": [{"name": "trusted", "privileges": ["all"]}],
        "identities": trusted, "roleAssignments": [{"role": "trusted", "identities": names}],
    });
    let document = |id: &str| json!({"defaultAccess": "deny", "mode": "enforce", "id": id, "rules": rules});
    let rules = json!({"imds": document("i"), "wireserver": document("w"), "hostga": document("h")});
    let world = World::with(runtime, HostOptions { rules: Some(rules), ..HostOptions::default() }, |options| options);

    let allowed = imds("trusted");
    let mut curl = world.client(&nobody(), "curl");
    curl.args(["-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true"]);
    let output = curl.arg(format!("http://169.254.169.254{allowed}")).output().unwrap();
    assert_eq!(text(&output), "200");
    assert_eq!(call(&world, &nobody(), "plain", &imds("untrusted"), &[])["status"], 403);

    for user in [root(), nobody()] {
        let target = imds(&format!("disguised-{}", user.uid));
        let (answer, pid) = ask_and_become_cat(&world, &user, &target);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(world.seen_for(&target), None);
        let line = world.audit_for(&target);
        assert_eq!((&line["decision"], &line["processId"]), (&"deny".into(), &pid.into()), "{line:#}");
        assert_pathless(&line);
    }
}

/// The answer, as cat read it, and the process id.
fn ask_and_become_cat(world: &World, user: &User, target: &str) -> (String, u32) {
    let cat = real("/bin/cat");
    let stopped = Stopped::new(world);
    let child = caller(world, user, "execute", target, &["/bin/cat"]).spawn().unwrap();
    let pid = child.id();
    world.wait("the caller runs cat", || {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.as_os_str() == cat.as_str()).then_some(())
    });
    drop(stopped);
    (text(&child.wait_with_output().unwrap()), pid)
}

/// I-06: the process (thread group) id, whichever thread connects.
fn a_thread_is_its_process(runtime: Runtime) {
    let world = World::start(runtime);
    for (user, name) in [(root(), "thread-root"), (nobody(), "thread")] {
        let target = imds(name);
        let seen = call(&world, &user, "thread", &target, &[]);
        assert_eq!(seen["status"], 200);
        assert_ne!(seen["thread"], seen["pid"], "another thread connected");
        assert_verified(&world, &target, user.uid, &seen["pid"], PYTHON);
    }
}

/// S-02, S-07: the same source port for one user after the other; nothing of the one sticks to it.
fn an_explicit_source_port(runtime: Runtime) {
    let world = World::start(runtime);
    for (user, name, port) in
        [(root(), "port-root", 25_001), (nobody(), "port", 25_001), (root(), "port-again", 25_001), (root(), "port-low", 1_001)]
    {
        let target = imds(name);
        let seen = call(&world, &user, "port", &target, &[&port.to_string()]);
        assert_eq!(seen["status"], 200);
        let line = assert_verified(&world, &target, user.uid, &seen["pid"], PYTHON);
        assert_eq!((&line["clientIp"], &line["clientPort"]), (&"127.0.0.1".into(), &port.into()), "{line:#}");
    }
}

/// S-01: dual-stack clients connect an AF_INET6 socket, which the IPv4 hook does not see.
fn an_ipv4_mapped_address(runtime: Runtime) {
    let world = World::start(runtime);
    for (user, target, status) in
        [(root(), wireserver("six-root"), 200), (nobody(), wireserver("six"), 403), (nobody(), imds("six"), 200)]
    {
        let seen = call(&world, &user, "six", &target, &[]);
        assert_eq!(seen["status"], status, "{target}");
        assert_eq!(world.seen_for(&target).is_some(), status == 200);
        let line = world.audit_for(&target);
        assert_eq!((&line["userId"], &line["processId"]), (&user.uid.into(), &seen["pid"]), "{line:#}");
        assert_eq!((&line["clientIp"], &line["identity"]), (&"127.0.0.1".into(), &"verified".into()), "{line:#}");
    }
}

fn tcp_fast_open(runtime: Runtime) {
    let world = World::start(runtime);
    // The second of each kind may already have the listener's cookie.
    for (user, name) in [(root(), "tfo-root"), (nobody(), "tfo"), (root(), "tfo-root-2"), (nobody(), "tfo-2")] {
        let target = imds(name);
        let seen = call(&world, &user, "fastopen", &target, &[]);
        assert_eq!(seen["status"], 200);
        assert_verified(&world, &target, user.uid, &seen["pid"], PYTHON);
    }
}

/// The connect may be made by a kernel worker; it is the process's all the same (I-01, I-06).
fn io_uring(runtime: Runtime) {
    let world = World::start(runtime);
    let source = world.sandbox.directory().join("uring.c");
    let program = world.sandbox.directory().join("uring");
    fs::write(&source, include_str!("identity/uring.c")).unwrap();
    let mut compiler = Command::new("gcc");
    compiler.args(["-O1", "-Wall", "-Werror", "-o"]).arg(&program).arg(&source).arg("-luring");
    match compiler.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) if text(&output).contains("liburing") => return not_run("io_uring (liburing-dev is not installed)"),
        Ok(output) => panic!("{}", text(&output)),
        Err(e) => return not_run(&format!("io_uring (gcc: {e})")),
    }
    let path = program.to_str().unwrap();
    for (user, target, how, status) in [
        (root(), wireserver("uring-root"), "inline", "200 OK"),
        (nobody(), wireserver("uring"), "inline", "403 Forbidden"),
        (root(), wireserver("uring-root-async"), "async", "200 OK"),
        (nobody(), imds("uring-async"), "async", "200 OK"),
    ] {
        let mut command = world.client(&user, path);
        let child = command.args([host_of(&target), &target, how]).stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        if output.status.code() == Some(77) {
            return not_run("io_uring (this kernel refuses it)");
        }
        assert!(text(&output).starts_with(&format!("HTTP/1.1 {status}\r\n")), "{:?}: {}", output.status, text(&output));
        if status.starts_with("200") {
            assert_verified(&world, &target, user.uid, &pid.into(), path);
        } else {
            assert_eq!(world.audit_for(&target)["userId"], user.uid);
        }
    }
}

fn host_of(target: &str) -> &'static str {
    if target.starts_with("/machine") { "168.63.129.16" } else { "169.254.169.254" }
}

/// I-01: whoever called connect is who asks, also when another user sends the request.
fn a_socket_handed_to_another_user_stays_its_connectors(runtime: Runtime) {
    let world = World::start(runtime);
    for (target, connector, asker, status) in [
        (wireserver("handed-down"), 0, 65534, 200),
        (wireserver("handed-up"), 65534, 0, 403),
        (imds("handed-down"), 0, 65534, 200),
        (imds("handed-up"), 65534, 0, 200),
    ] {
        let seen = call(&world, &root(), "handed", &target, &[&connector.to_string(), &asker.to_string()]);
        assert_eq!(seen["status"], status, "{target}");
        if status == 200 {
            assert_verified(&world, &target, connector, &seen["connector"], PYTHON);
        } else {
            assert_eq!(world.seen_for(&target), None);
            let line = world.audit_for(&target);
            assert_eq!((&line["userId"], &line["processId"]), (&connector.into(), &seen["connector"]), "{line:#}");
        }
    }
}

fn getpeername_tells_the_address_that_was_asked_for(runtime: Runtime) {
    let world = World::start(runtime);
    for (how, target, peer) in [
        ("plain", imds("peer"), "169.254.169.254"),
        ("plain", wireserver("peer"), "168.63.129.16"),
        ("thread", imds("peer-thread"), "169.254.169.254"),
        ("six", imds("peer-six"), "::ffff:169.254.169.254"),
    ] {
        let seen = call(&world, &root(), how, &target, &[]);
        assert_eq!((&seen["status"], &seen["peer"]), (&200.into(), &json!([peer, 80])), "{how}");
        assert_eq!(world.audit_for(&target)["clientIp"], "127.0.0.1", "though it went through the agent");
    }
}

/// PX-23, PX-49, PX-61, PX-63: whoever connects to the listener itself gets the local endpoints and nothing else.
fn direct_connections_to_the_listener(runtime: Runtime) {
    let world = World::start(runtime);
    let ask = |user: &User, target: &str, more: &[&str]| {
        let mut curl = world.client(user, "curl");
        curl.args(["-sS", "-m", "30", "-w", "\n%{http_code}", "-H", "Metadata: true"]).args(more);
        let output = text(&curl.arg(format!("http://127.0.0.1:3080{target}")).output().unwrap());
        let (body, status) = output.rsplit_once('\n').unwrap();
        (status.parse::<u16>().unwrap(), body.to_owned())
    };
    for user in [root(), nobody()] {
        let target = imds(&format!("direct-{}", user.uid));
        assert_eq!(ask(&user, &target, &[]), (421, String::new()), "PX-23");
        assert_eq!(ask(&user, &target, &["-H", "Host: 169.254.169.254"]).0, 421, "PX-39: no open proxy");
        let lines = world.audit_lines(2, |line| line["url"] == target.as_str());
        for line in lines {
            // PX-63: who it is is known, that there is no destination too.
            let found = (&line["identity"], &line["userId"], &line["ip"], &line["decision"]);
            assert_eq!(found, (&"direct".into(), &user.uid.into(), &"None".into(), &"refused".into()), "{line:#}");
        }
        assert_eq!(world.seen_for(&target), None);
        let (status, body) = ask(&user, "/provision", &[]);
        assert_eq!((status, body.as_str()), (200, r#"{"finished":true,"errorMessage":""}"#), "PX-49, PX-54");
    }
    assert_eq!(ask(&nobody(), "/gpa-aggregated-status", &[]), (403, String::new()), "PX-61");
    assert_eq!(ask(&User::new(65534, 0, &[]), "/gpa-aggregated-status", &[]).0, 403, "S-09");
    let (status, body) = ask(&root(), "/gpa-aggregated-status", &[]);
    assert_eq!(status, 200, "PX-63");
    let document: Value = serde_json::from_str(&body).unwrap();
    assert!(document.is_object(), "{body}");
}

/// The other half of the promise: around the agent there is nothing to be had.
fn a_direct_unsigned_call_is_refused_by_the_host(runtime: Runtime) {
    let world = World::start(runtime);
    let target = imds("around");
    let ask = || {
        let mut stream = TcpStream::connect(("169.254.169.254", 80)).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = world.sandbox.in_network(ask).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let seen = world.seen_for(&target).unwrap();
    assert_eq!((seen.verified.as_str(), seen.status), ("refused:unsigned", 401));
    assert!(until(std::time::Duration::ZERO, || (!world.audit().is_empty()).then_some(())).is_none(), "the agent saw nothing");
    // The same call through the agent is served.
    let target = imds("through");
    assert_eq!(call(&world, &nobody(), "plain", &target, &[])["status"], 200);
    assert_eq!(world.seen_for(&target).unwrap().verified, "signed");
}
