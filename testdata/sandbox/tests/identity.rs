//! Who asks? Callers of every kind, real eBPF, both daemons, and a host in enforce mode that verifies every signature. What is
//! compared: the caller's own process id, what the host received (claims header), and the agent's audit log. Needs root.
//!
//! Numbers (`I-20`, `PX-63`, `S-04`, …) are those of the specification.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

#[path = "identity/crowd.rs"]
mod crowd;
#[path = "identity/gone.rs"]
mod gone;
#[path = "identity/ways.rs"]
mod ways;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use sandbox::{HostOptions, User};
use serde_json::Value;
use support::{Runtime, World, not_run, on_both_runtimes, root, text};

on_both_runtimes!(
    elevated_is_the_real_user_id_zero_and_nothing_else,
    direct_connections_to_the_listener,
    a_direct_unsigned_call_is_refused_by_the_host,
    a_user_of_two_thousand_groups_has_them_all,
);

const CALLER: &str = include_str!("identity/caller.py");
const PYTHON: &str = "/usr/bin/python3";
const ELEVATED: &str = r#"{ "isRoot": "true"}"#;
const ORDINARY: &str = r#"{ "isRoot": "false"}"#;

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
/// PX-08, I-03, I-06, I-08, I-10, I-21, I-22, SEC-C1
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

/// PX-23, PX-49, PX-61, PX-63: whoever connects to the listener itself gets the local endpoints and nothing else.
/// PX-09
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
/// SEC-B1a
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
    assert!(world.audit().is_empty(), "the agent saw nothing");
    // The same call through the agent is served.
    let target = imds("through");
    assert_eq!(call(&world, &nobody(), "plain", &target, &[])["status"], 200);
    assert_eq!(world.seen_for(&target).unwrap().verified, "signed");
}

/// I-15, I-04, I-05
fn a_user_of_two_thousand_groups_has_them_all(runtime: Runtime) {
    const GROUPS: u32 = 2000;
    let prepare = |sandbox: &sandbox::Sandbox| {
        let file = sandbox.directory().join("group");
        let more: String = (0..GROUPS).map(|n| format!("many{n:04}:x:{}:nobody\n", 100_000 + n)).collect();
        fs::write(&file, fs::read_to_string("/etc/group").unwrap() + &more).unwrap();
        let mounted = sandbox.command("mount").arg("--bind").arg(&file).arg("/etc/group").status().unwrap();
        assert!(mounted.success());
    };
    let world = World::with_sandbox(runtime, HostOptions::default(), prepare, |_, options| options);
    let target = imds("many-groups");
    assert_eq!(call(&world, &nobody(), "plain", &target, &[])["status"], 200);
    let line = world.audit_for(&target);
    assert_eq!(line["userName"], "nobody");
    let groups = line["userGroups"].as_array().unwrap();
    // After those below 100 000, ascending by number.
    let many: Vec<Value> = (0..GROUPS).map(|n| format!("many{n:04}").into()).collect();
    assert!(groups.ends_with(&many), "{} groups, the last of them {:?}", groups.len(), groups.last());
}
