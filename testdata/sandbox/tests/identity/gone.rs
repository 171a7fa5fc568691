//! Callers that are not any more what they were when they connected. What they did is done before the agent has a look.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{HostOptions, User};
use serde_json::{Value, json};

use super::support::{Runtime, World, on_both_runtimes, root, text};
use super::{assert_attributed, call, caller, imds, nobody, real, wireserver};

on_both_runtimes!(
    a_caller_that_is_gone_keeps_its_user_and_loses_its_path,
    a_caller_that_became_another_program_is_not_taken_for_that,
    becoming_a_trusted_program_opens_nothing
);

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
