//! Rules for many: who is who under a policy that changes, what counts as a program, how soon accounts count, and documents that are
//! meant to break the agent. Real callers, real eBPF, both daemons. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

#[path = "policies/crowd.rs"]
mod crowd;
#[path = "policies/documents.rs"]
mod documents;
#[path = "policies/programs.rs"]
mod programs;
#[path = "policies/selectors.rs"]
mod selectors;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sandbox::{HostOptions, Sandbox, User};
use serde_json::{Value, json};
use support::rules::{Accounts, set};
use support::{Runtime, World, copy_program, on_both_runtimes, text, until};

on_both_runtimes!(users_and_programs_are_recorded_and_then_refused);

const ELEVATED: &str = r#"{ "isRoot": "true"}"#;
const ORDINARY: &str = r#"{ "isRoot": "false"}"#;

/// Accounts of the sandbox's own.
const USERS: [(u32, &str); 4] = [(2001, "ann"), (2002, "bob"), (2003, "cid"), (2004, "dan")];
const GROUPS: [(u32, &str, &str); 1] = [(2100, "readers", "bob")];

fn user(uid: u32) -> User {
    User::new(uid, uid, &[])
}

/// A copy of `program` that everybody can run, by the path that the kernel knows it by.
fn copy(sandbox: &Sandbox, program: &str, name: &str) -> PathBuf {
    fs::set_permissions(sandbox.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = fs::canonicalize(sandbox.directory()).unwrap().join(name);
    copy_program(program, &path);
    path
}

/// curl, or a copy of it, that asks IMDS and prints the status.
fn curl(world: &World, user: &User, program: &Path, target: &str) -> Command {
    let mut command = world.client(user, program.to_str().unwrap());
    command.args(["-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Metadata: true"]);
    command.arg(format!("http://169.254.169.254{target}"));
    command
}

fn status(world: &World, user: &User, program: &Path, target: &str) -> String {
    text(&curl(world, user, program, target).output().unwrap())
}

/// A world with accounts of its own.
fn world_with_accounts(runtime: Runtime) -> (World, Accounts) {
    let mut accounts = None;
    let cover = |sandbox: &Sandbox| accounts = Some(Accounts::cover(sandbox, &USERS, &GROUPS));
    let world = World::with_sandbox(runtime, HostOptions::default(), cover, |_, options| options);
    (world, accounts.unwrap())
}

/// R-33, R-34, R-37, R-38, PX-71, PX-72: each selector alone and two together. What audit mode records as denied is what enforce mode
/// denies, for the same callers and in the same words.
fn users_and_programs_are_recorded_and_then_refused(runtime: Runtime) {
    let (world, _accounts) = world_with_accounts(runtime);
    let usual = fs::canonicalize("/usr/bin/curl").unwrap();
    let [one, two, three] = ["tool-one", "tool-two", "tool-three"].map(|name| copy(&world.sandbox, "/usr/bin/curl", name));
    let identities = [
        json!({"name": "by user", "userName": "ann"}),
        json!({"name": "by group", "groupName": "readers"}),
        json!({"name": "by program", "exePath": one}),
        json!({"name": "by name", "processName": "tool-two"}),
        json!({"name": "by both", "userName": "cid", "exePath": three}),
    ];
    let rules = |mode: &str| {
        let names: Vec<&Value> = identities.iter().map(|identity| &identity["name"]).collect();
        json!({"imds": {"defaultAccess": "deny", "mode": mode, "id": mode, "rules": {
            "privileges": [{"name": "echo", "path": "/test/echo"}], "roles": [{"name": "reader", "privileges": ["echo"]}],
            "identities": identities, "roleAssignments": [{"role": "reader", "identities": names}]}}})
    };
    let callers = [
        (2001, &usual, Some("by user")),
        (2002, &usual, Some("by group")),
        (2003, &usual, None),
        (2004, &usual, None),
        (0, &usual, None),
        (54321, &usual, None),
        (2003, &one, Some("by program")),
        (0, &one, Some("by program")),
        (2004, &two, Some("by name")),
        (54321, &two, Some("by name")),
        (2003, &three, Some("by both")),
        (2004, &three, None),
    ];
    for (mode, word) in [("audit", "audit"), ("enforce", "deny")] {
        set(&world, rules(mode));
        for (number, (uid, program, identity)) in callers.iter().enumerate() {
            let target = format!("/test/echo?{mode}-{number}");
            let forwarded = identity.is_some() || mode == "audit";
            let expected = if forwarded { "200" } else { "403" };
            assert_eq!(status(&world, &user(*uid), program, &target), expected, "{mode}: {uid} with {}", program.display());

            let line = world.audit_for(&target);
            assert_eq!((&line["userId"], &line["processFullPath"]), (&(*uid).into(), &json!(program)), "{line:#}");
            let (decision, reason) = if identity.is_some() { ("allow", "privilege") } else { (word, "not-assigned") };
            assert_eq!((&line["decision"], &line["reason"]), (&decision.into(), &reason.into()), "{line:#}");
            let rule = &line["rule"];
            assert_eq!((&rule["mode"], &rule["privilege"]), (&mode.into(), &"echo".into()), "{line:#}");
            assert_eq!(rule["identity"].as_str(), *identity, "{line:#}");

            let seen = world.seen_for(&target);
            assert_eq!(seen.is_some(), forwarded, "{target}");
            if let Some(seen) = seen {
                let claims = if *uid == 0 { ELEVATED } else { ORDINARY };
                assert_eq!((seen.verified.as_str(), seen.claims.as_deref()), ("signed", Some(claims)));
            }
        }
    }
}

/// I-30, S-12. The one test that waits as long as the agent remembers: no clock but the machine's counts here. Both at once, for that
/// reason.
#[test]
fn accounts_that_change_count_within_a_minute_on_both_runtimes() {
    std::thread::scope(|scope| {
        for runtime in Runtime::ALL {
            scope.spawn(move || accounts_that_change_count_within_a_minute(runtime));
        }
    });
}

/// Who leaves a group, loses the account or has another name now stops matching, and whoever comes starts, while the agent runs.
fn accounts_that_change_count_within_a_minute(runtime: Runtime) {
    const REMEMBERED: Duration = Duration::from_secs(60);
    let (world, accounts) = world_with_accounts(runtime);
    let pairs = [
        (json!({"name": "ann", "userName": "ann"}), json!({"name": "ann", "path": "/test/echo/ann"})),
        (json!({"name": "readers", "groupName": "readers"}), json!({"name": "readers", "path": "/test/echo/bob"})),
        (json!({"name": "cid", "userName": "cid"}), json!({"name": "cid", "path": "/test/echo/cid"})),
        (json!({"name": "eve", "userName": "eve"}), json!({"name": "eve", "path": "/test/echo/eve"})),
    ];
    set(&world, json!({"imds": support::rules::each_its_own("accounts", "enforce", &pairs)}));
    let curl = fs::canonicalize("/usr/bin/curl").unwrap();
    let may = |uid: u32, name: &str| match status(&world, &user(uid), &curl, &format!("/test/echo/{name}")).as_str() {
        "403" => false,
        // The host knows no such thing; what counts is that it was asked.
        "200" | "404" => true,
        other => panic!("{name}: {other}"),
    };
    assert_eq!([may(2001, "ann"), may(2002, "bob"), may(2003, "cid"), may(2005, "eve")], [true, true, true, false]);
    // The agent remembers from when it was asked first, which was before now.
    let since = Instant::now();
    accounts.set(&[(2002, "bob"), (2003, "sid"), (2005, "eve")], &[(2100, "readers", "dan")]);
    let mut expected = [(2001, "ann", false), (2002, "bob", false), (2003, "cid", false), (2005, "eve", true)].to_vec();
    until(REMEMBERED * 3 / 2, || {
        expected.retain(|(uid, name, now)| may(*uid, name) != *now);
        std::thread::sleep(Duration::from_millis(200));
        expected.is_empty().then_some(())
    })
    .unwrap_or_else(|| panic!("{runtime}: not after {:?}: {expected:?}", since.elapsed()));
    assert_eq!([may(2001, "ann"), may(2002, "bob"), may(2003, "cid"), may(2005, "eve")], [false, false, false, true]);
}
