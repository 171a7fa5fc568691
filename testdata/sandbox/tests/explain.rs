//! `rules explain --live`: what the command says of a request is what becomes of it. Both daemons; these tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use sandbox::User;
use serde_json::{Value, json};
use support::rules::set;
use support::wire::{Caller, IMDS};
use support::{Runtime, World, copy_program, on_both_runtimes, root, text};

on_both_runtimes!(what_is_explained_is_what_happens);

fn nobody() -> User {
    User::new(65534, 65534, &[])
}

/// The daemon's program, where everybody may run it.
fn program(world: &World, runtime: Runtime) -> PathBuf {
    fs::set_permissions(world.sandbox.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = world.sandbox.directory().join("explainer");
    copy_program(runtime.binary(), &copy);
    copy
}

fn explain(world: &World, user: &User, program: &Path, more: &[&str]) -> Output {
    let mut command = world.client(user, program.to_str().unwrap());
    command.args(["rules", "explain", "--live"]).args(more).stdin(Stdio::null()).output().unwrap()
}

fn status(world: &World, user: &User, url: &str) -> String {
    let mut curl = world.client(user, "curl");
    curl.args(["-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true", "--path-as-is", url]);
    text(&curl.output().unwrap())
}

/// PX-61, PX-63, R-34 to R-38, I-27, SEC-09: root is told what would become of anybody's requests, in the words and under the epoch of the
/// audit log. Others are told nothing, and without an agent there is nothing to tell.
fn what_is_explained_is_what_happens(runtime: Runtime) {
    let mut world = World::start(runtime);
    let program = program(&world, runtime);
    let document = |mode: &str| {
        json!({"imds": {"defaultAccess": "deny", "mode": mode, "id": mode, "rules": {
            "privileges": [{"name": "echo", "path": "/test/echo", "queryParameters": {"comp": "a b"}}, {"name": "locked", "path": "/test/locked"}],
            "roles": [{"name": "reader", "privileges": ["echo"]}],
            "identities": [{"name": "curl of nobody", "userName": "nobody", "processName": "curl"}],
            "roleAssignments": [{"role": "reader", "identities": ["curl of nobody"]}]}}})
    };
    let who = ["--user", "nobody", "--exe", "/usr/bin/curl"];
    for mode in ["enforce", "audit"] {
        set(&world, document(mode));
        for (n, path) in
            ["/Test/./%65cho?comp=A+b", "/test/echo?comp=c", "/test/locked", "/test/echo.?comp=a%20b"].into_iter().enumerate()
        {
            let mark = if path.contains('?') { '&' } else { '?' };
            let url = format!("http://169.254.169.254{path}{mark}k={mode}-{n}");
            let told = explain(&world, &root(), &program, &[&["--url", &url, "--json"][..], &who].concat());
            let answer: Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&told)));
            let passed = status(&world, &nobody(), &url) != "403";
            assert_eq!(
                (told.status.code(), answer["forwarded"].as_bool()),
                (Some(i32::from(!passed)), Some(passed)),
                "{answer:#}"
            );
            let line = world.audit_for(url.strip_prefix("http://169.254.169.254").unwrap());
            assert_eq!((&answer["outcome"], &answer["reason"]), (&line["decision"], &line["reason"]), "{answer:#}\n{line:#}");
            assert_eq!((&answer["explanation"]["rule"], &answer["explanation"]["epoch"]), (&line["rule"], &line["epoch"]));
        }
    }
    // I-27: a process that runs, as the daemon sees it; it may ask for nothing, as it is not curl.
    let mut running = world.client(&nobody(), "sleep").arg("600").spawn().unwrap();
    let pid = running.id().to_string();
    let told =
        explain(&world, &root(), &program, &["--url", "/test/echo?comp=a+b", "--dest", "imds", "--pid", &pid, "--as-enforced"]);
    running.kill().unwrap();
    running.wait().unwrap();
    let told = (told.status.code(), text(&told));
    assert!(told.0 == Some(1) && told.1.contains("processName is not \"curl\"") && told.1.contains("/sleep"), "{told:?}");

    // Nothing but the documents is told, and only to root.
    let asked = Caller::root(&world.sandbox).ask("127.0.0.1:3080", "GET /rules HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n");
    let answer: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["epoch", "rules", "settled"]);
    let expected = format!("{}-useLocalFileRules-false", document("audit")["imds"]["id"].as_str().unwrap());
    assert_eq!((&answer["rules"]["imds"]["id"], &answer["settled"]), (&expected.into(), &true.into()));
    let refused = explain(&world, &nobody(), &program, &["--url", "/", "--dest", "imds", "--user", "nobody"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "PX-61");
    assert!(error.contains("the running agent tells its rules to root only"), "{error}");
    let through = Caller::nobody(&world.sandbox).ask(IMDS, "GET /rules HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n");
    assert!(through.is_marked(), "PX-48: on a redirected connection it is the host's: {through:?}");
    world.agent.stop().unwrap();
    let alone = explain(&world, &root(), &program, &["--url", "/", "--dest", "imds", "--user", "nobody"]);
    assert_eq!(alone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&alone.stderr).contains("no agent listens on 127.0.0.1:3080"));
}
