//! Selectors that are additions of ours: numbers of user and group, what is in the executable, and the control group.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::User;
use serde_json::{Value, json};

use super::support::rules::set;
use super::support::{Runtime, World, on_both_runtimes, root, text};
use super::{copy, status, user};

on_both_runtimes!(numbers_hashes_and_control_groups_tell_callers_apart, a_program_that_is_rewritten_in_place_is_another_one,);

/// A document in which each of these identities may read what is below `/test`.
fn any_of(identities: &[Value]) -> Value {
    let names: Vec<&Value> = identities.iter().map(|identity| &identity["name"]).collect();
    json!({"imds": {"defaultAccess": "deny", "mode": "enforce", "id": "selectors", "rules": {
        "privileges": [{"name": "test", "path": "/test"}], "roles": [{"name": "reader", "privileges": ["test"]}],
        "identities": identities, "roleAssignments": [{"role": "reader", "identities": names}]}}})
}

fn sha256(file: &Path) -> String {
    let printed = text(&Command::new("sha256sum").arg(file).output().unwrap());
    printed.split(' ').next().unwrap().to_owned()
}

/// A program that does what curl does, and is another one by its last byte.
fn tool(world: &World, name: &str, last: &str) -> PathBuf {
    let path = copy(&world.sandbox, "/usr/bin/curl", name);
    // By another process, for the reason that copy_program has.
    assert!(Command::new("sh").args(["-c", r#"printf %s "$1" >> "$0""#]).arg(&path).arg(last).status().unwrap().success());
    path
}

/// A control group below the sandbox's, and its name in the hierarchy.
fn control_group(world: &World, name: &str) -> (PathBuf, String) {
    let path = world.sandbox.cgroup().join(name);
    assert!(world.sandbox.command("mkdir").arg("-p").arg(&path).status().unwrap().success());
    let script = r#"echo 0 > "$0/cgroup.procs" && sed -n s/^0:://p /proc/self/cgroup"#;
    let printed = text(&world.sandbox.command("sh").args(["-c", script]).arg(&path).output().unwrap());
    assert!(printed.trim_end().ends_with(&format!("/{name}")), "{printed}");
    (path, printed.trim_end().to_owned())
}

/// R-33: each alone, and two together.
fn numbers_hashes_and_control_groups_tell_callers_apart(runtime: Runtime) {
    let world = World::start(runtime);
    let usual = fs::canonicalize("/usr/bin/curl").unwrap();
    let [known, same, other] = [("known", "1"), ("same", "1"), ("other", "2")].map(|(name, last)| tool(&world, name, last));
    let [app, inner, below, under, beside] =
        ["app", "app/inner", "below", "below/a/b", "belows"].map(|n| control_group(&world, n));
    set(
        &world,
        any_of(&[
            json!({"name": "by uid", "uid": 2001}),
            json!({"name": "by gid", "gid": 2200}),
            json!({"name": "by hash", "exeSha256": sha256(&known).to_uppercase(), "gid": 2002}),
            json!({"name": "by group", "cgroupPath": app.1}),
            json!({"name": "below", "cgroupPath": format!("{}/*", below.1), "uid": 0}),
        ]),
    );
    let check = |name: &str, command: &mut Command, identity: Option<&str>| {
        let target = format!("/test/echo?{name}");
        command.arg(format!("http://169.254.169.254{target}"));
        let expected = if identity.is_some() { "200" } else { "403" };
        assert_eq!(text(&command.output().unwrap()), expected, "{runtime}: {name}");
        let line = world.audit_for(&target);
        assert_eq!(line["rule"]["identity"].as_str(), identity, "{line:#}");
    };
    let plain = |user: &User, program: &Path| {
        let mut command = world.client(user, program.to_str().unwrap());
        command.args(["-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true"]);
        command
    };
    for (name, user, program, identity) in [
        ("uid", user(2001), &usual, Some("by uid")),
        ("nobody", user(2002), &usual, None),
        ("gid", User::new(2004, 2200, &[]), &usual, Some("by gid")),
        // The real group is meant, not one of many.
        ("one-of-many", User::new(2004, 2004, &[2200]), &usual, None),
        ("hash", user(2002), &known, Some("by hash")),
        ("hash-elsewhere", user(2002), &same, Some("by hash")),
        ("hash-of-another", user(2002), &other, None),
        ("hash-and-another", user(2003), &known, None),
    ] {
        check(name, &mut plain(&user, program), identity);
    }
    for (name, group, identity) in [
        ("app", &app, Some("by group")),
        ("app-inner", &inner, None),
        ("below", &below, Some("below")),
        ("below-inner", &under, Some("below")),
        ("beside", &beside, None),
    ] {
        let mut command = world.client(&root(), "sh");
        command.args(["-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#]).arg(&group.0).arg(&usual);
        command.args(["-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true"]);
        check(name, &mut command, identity);
    }
}

/// I-28: what was hashed once is not believed of what is in the file now, though size and times are what they were.
fn a_program_that_is_rewritten_in_place_is_another_one(runtime: Runtime) {
    const REWRITE: &str = r#"touch -r "$0" "$0.times"
truncate -s -1 "$0"
printf %s "$1" >> "$0"
touch -r "$0.times" "$0""#;
    let world = World::start(runtime);
    let program = tool(&world, "program", "1");
    set(&world, any_of(&[json!({"name": "it", "exeSha256": sha256(&program)})]));
    assert_eq!(status(&world, &user(2001), &program, "/test/echo?1"), "200");
    for (last, expected) in [("2", "403"), ("1", "200")] {
        let of = |program: &Path| (program.metadata().unwrap().len(), program.metadata().unwrap().modified().unwrap());
        let before = of(&program);
        assert!(Command::new("sh").args(["-e", "-c", REWRITE]).arg(&program).arg(last).status().unwrap().success());
        assert_eq!(of(&program), before);
        assert_eq!(status(&world, &user(2001), &program, &format!("/test/echo?again-{last}")), expected);
    }
}
