//! Whether a program is the one that the rules name: by the file that runs, at the path where it is found.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::support::rules::{each_its_own, set};
use super::support::{Runtime, World, on_both_runtimes, text};
use super::{copy, status, user};

on_both_runtimes!(
    the_same_program_at_another_path_is_another_one,
    a_script_is_its_interpreter,
    a_program_that_was_deleted_or_replaced_is_not_what_is_there_now,
);

/// Waits for a line, asks for the target `$0` as whatever runs it, and prints the status line.
const ASK: &str = r#"read -r _; exec 3<>/dev/tcp/169.254.169.254/80
printf 'GET %s HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nConnection: close\r\n\r\n' "$0" >&3
read -r line <&3; echo "$line""#;

fn only(world: &World, program: &Path) {
    let pair = (json!({"name": "it", "exePath": program}), json!({"name": "all", "path": "/"}));
    set(world, json!({"imds": each_its_own(&program.display().to_string(), "enforce", &[pair])}));
}

/// bash, or a copy of it, that waits for a line before it asks.
fn waiting(world: &World, shell: &Path, target: &str) -> Child {
    let mut command = world.client(&user(65534), shell.to_str().unwrap());
    command.args(["-c", ASK, target]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn go(mut child: Child) -> String {
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let printed = text(&child.wait_with_output().unwrap());
    printed.split(' ').nth(1).unwrap_or_else(|| panic!("{printed:?}")).to_owned()
}

/// R-33, I-27, I-28: a bind mount of the trusted program, in everybody's mount namespace, and the trusted path with another program
/// mounted over it. (Links, copies and mounts that only the caller sees are probed in `security.rs`.)
fn the_same_program_at_another_path_is_another_one(runtime: Runtime) {
    let world = World::start(runtime);
    let [trusted, other] = ["trusted", "other"].map(|name| copy(&world.sandbox, "/usr/bin/curl", name));
    only(&world, &trusted);
    assert_eq!(status(&world, &user(65534), &trusted, "/test/echo?1"), "200");
    let bind = |from: &Path, to: &Path| {
        assert!(world.sandbox.command("mount").arg("--bind").args([from, to]).status().unwrap().success());
    };
    let elsewhere = copy(&world.sandbox, "/usr/bin/true", "elsewhere");
    bind(&trusted, &elsewhere);
    assert_eq!(status(&world, &user(65534), &elsewhere, "/test/echo?2"), "403", "the same file at another path");
    let line = world.audit_for("/test/echo?2");
    assert_eq!(line["processFullPath"], json!(elsewhere), "{line:#}");
    // Where root mounts something over the path for all, the agent included, that is the program at this path.
    bind(&other, &trusted);
    assert_eq!(status(&world, &user(65534), &trusted, "/test/echo?3"), "200", "who may mount may also replace the file");
    assert!(world.sandbox.command("umount").arg(&trusted).status().unwrap().success());
}

/// SEC-22, SEC-L9: a rule for a script matches nobody, and one for its interpreter matches all its scripts.
fn a_script_is_its_interpreter(runtime: Runtime) {
    let world = World::start(runtime);
    let shell = copy(&world.sandbox, "/bin/bash", "shell");
    let script = copy(&world.sandbox, "/usr/bin/true", "script");
    fs::write(&script, format!("#!{} -p\nset -- \"$1\"\n{}", shell.display(), ASK.replace("$0", "$1"))).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |target: &str| {
        let mut command: Command = world.client(&user(65534), script.to_str().unwrap());
        go(command.arg(target).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    };
    only(&world, &script);
    assert_eq!(run("/test/echo?script"), "403");
    let line = world.audit_for("/test/echo?script");
    assert_eq!(line["processFullPath"], json!(shell), "{line:#}");
    only(&world, &shell);
    assert_eq!(run("/test/echo?interpreter"), "200");
}

/// I-28, I-29, S-11: a process whose file is gone from its path is no trusted program, whatever is at that path now.
fn a_program_that_was_deleted_or_replaced_is_not_what_is_there_now(runtime: Runtime) {
    let world = World::start(runtime);
    let trusted = copy(&world.sandbox, "/bin/bash", "trusted");
    only(&world, &trusted);
    let [before, deleted, replaced] = ["before", "deleted", "replaced"].map(|name| format!("/test/echo?{name}"));
    assert_eq!(go(waiting(&world, &trusted, &before)), "200");
    let [first, second] = [&deleted, &replaced].map(|target| waiting(&world, &trusted, target));
    fs::remove_file(&trusted).unwrap();
    assert_eq!(go(first), "403");
    copy(&world.sandbox, "/bin/bash", "trusted");
    assert_eq!(go(second), "403", "the file at the path has the same bytes, and is another one");
    for target in [&deleted, &replaced] {
        let line = world.audit_for(target);
        assert_ne!(line["processFullPath"], json!(trusted), "{line:#}");
        assert_eq!(world.seen_for(target), None);
    }
    // Who runs what is there now is the program at that path.
    assert_eq!(go(waiting(&world, &trusted, "/test/echo?after")), "200");
}
