//! Many at once: no identity is lost, none is given to another.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};

use sandbox::User;
use serde_json::Value;

use super::support::{Runtime, World, on_both_runtimes, text};
use super::{ELEVATED, ORDINARY, caller, imds, real, seen_by};

on_both_runtimes!(two_hundred_parallel_callers_of_five_users_are_never_mixed_up, a_burst_of_512_connections_is_served_whole);

/// Five users of every Debian machine, the last one without an account (I-14).
const USERS: [(u32, &str); 5] = [(0, "root"), (1, "daemon"), (33, "www-data"), (65534, "nobody"), (54321, "undefined")];

/// S-02, S-04, S-06: identity belongs to the socket. All processes start at the same moment.
/// I-24, SEC-10
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
