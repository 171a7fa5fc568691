//! Every way to connect there is: each is redirected, attributed, and does not notice.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;

use super::support::{Runtime, World, not_run, on_both_runtimes, root, text};
use super::{PYTHON, assert_verified, call, imds, nobody, wireserver};

on_both_runtimes!(
    a_thread_is_its_process,
    an_explicit_source_port,
    an_ipv4_mapped_address,
    tcp_fast_open,
    io_uring,
    a_socket_handed_to_another_user_stays_its_connectors,
    getpeername_tells_the_address_that_was_asked_for
);

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
/// PX-07, I-11, I-12, I-24
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
/// SEC-C7
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
    fs::write(&source, include_str!("uring.c")).unwrap();
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
/// SEC-C2
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
