//! Probes of the rules, of the documents that bring them, and of the key that vouches for them (security.md, scenarios D and E). The
//! decisions themselves are tested in core, against all vectors; here the same probes come from real callers. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;

use sandbox::{AgentOptions, HostOptions};
use serde_json::{Value, json};
use support::rules::{polls, set};
use support::wire::{Caller, IMDS, WIRESERVER};
use support::{Runtime, World, on_both_runtimes};

on_both_runtimes!(
    variants_of_a_target_get_the_decision_of_what_they_mean,
    names_are_exact,
    hostile_documents_change_nothing,
    rules_that_change_between_two_requests,
    a_key_file_with_another_key_is_not_used,
    differences_to_older_matching_are_logged_when_asked_for,
);

/// What the rules of these tests deny for sure, to see that they are in force.
const DENIED: &str = "/metadata/identity/oauth2/token";
/// What they allow, and the host answers.
const ALLOWED: &str = "/metadata/instance?api-version=2021-02-01";

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")
}

/// A document that lets `user` do one thing.
fn only(user: &str, privilege: &Value) -> Value {
    let rules = json!({
        "privileges": [privilege], "roles": [{"name": "role", "privileges": [privilege["name"]]}],
        "identities": [{"name": "identity", "userName": user}],
        "roleAssignments": [{"role": "role", "identities": ["identity"]}],
    });
    json!({"defaultAccess": "deny", "mode": "enforce", "id": format!("only {user:?}"), "rules": rules})
}

fn instance() -> Value {
    json!({"name": "instance", "path": "/metadata/instance"})
}

trait Seen {
    fn seen_by_target(&self, target: &str) -> usize;
}

impl Seen for World {
    fn seen_by_target(&self, target: &str) -> usize {
        self.host.host().records.all().iter().filter(|record| record.target == target).count()
    }
}

/// SEC-D1
fn variants_of_a_target_get_the_decision_of_what_they_mean(runtime: Runtime) {
    let world = World::start(runtime);
    let goal_state = json!({"name": "goal state", "path": "/machine", "queryParameters": {"comp": "goalstate"}});
    set(&world, json!({"imds": only("nobody", &instance()), "wireserver": only("root", &goal_state)}));
    let (nobody, root) = (Caller::nobody(&world.sandbox), Caller::root(&world.sandbox));
    let refused = |caller: &Caller, to: &str, target: &str| {
        let answer = caller.ask(to, get(target));
        assert!((400..=403).contains(&answer.status) && !answer.is_marked(), "{target}: {answer:?}");
        assert_eq!(world.seen_by_target(target), 0, "{target} reached the host");
    };
    let passed = |caller: &Caller, to: &str, target: &str| {
        let answer = caller.ask(to, get(target));
        assert!(answer.is_marked(), "{target}: {answer:?}");
        assert_eq!(world.seen_by_target(target), 1, "R-168: the host gets {target} as it was written");
    };
    for target in
        ["/metadata/instance", "/metadata/instance/compute?api-version=2021-02-01", "/Metadata/INSTANCE", "/metadata/./instance"]
    {
        passed(&nobody, IMDS, target);
    }
    for target in [
        DENIED,
        "/metadata/identity/oauth2%2Ftoken",
        "/metadata/identity/oauth2%2ftoken",
        "/metadata/identity/oauth2%252Ftoken",
        "/metadata/identity/oauth2/%74oken",
        "/metadata/identity/oauth2/TOKEN",
        "/metadata/identity/oauth2/token/",
        "/metadata/identity/oauth2/token;x",
        "/metadata/identity/oauth2/token.",
        "//identity/oauth2/token",
        "/metadata/instance-evil",
        "/metadata/instance%3Fx",
        "/metadata/instance/../identity/oauth2/token",
        "/metadata/instance/./../identity/oauth2/token",
        "/metadata/instance/%2e%2e/identity/oauth2/token",
        "/metadata\\instance/../identity",
        "http://169.254.169.254/metadata/identity/oauth2/token",
        "http://168.63.129.16/metadata/identity/oauth2/token",
    ] {
        refused(&nobody, IMDS, target);
    }
    for target in ["/machine?comp=goalstate", "/machine/?comp=GOALSTATE&incarnation=1"] {
        passed(&root, WIRESERVER, target);
    }
    for target in [
        "/machine?comp=certificates",
        "/machine?comp=goalstate&comp=certificates",
        "/machine?comp=certificates&comp=goalstate",
        "/machine",
        "/machine%3Fcomp=goalstate",
        "/machine/%3Fcomp=goalstate",
        "//machine///?comp=goalstate",
    ] {
        refused(&root, WIRESERVER, target);
    }
}

/// SEC-D3
fn names_are_exact(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    for name in ["Nobody", "NOBODY", "n\u{43e}body", "nobody ", " nobody", "nobod\u{79}\u{301}", "nobody\u{200b}"] {
        set(&world, json!({"imds": only(name, &instance())}));
        let answer = nobody.ask(IMDS, get(ALLOWED));
        assert_eq!((answer.status, answer.is_marked()), (403, false), "{name:?}");
    }
    set(&world, json!({"imds": only("nobody", &instance())}));
    assert_eq!(nobody.ask(IMDS, get(ALLOWED)).status, 200);
}

/// SEC-D4: what cannot be used leaves everything as it was, in the same process.
fn hostile_documents_change_nothing(runtime: Runtime) {
    let mut world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    set(&world, json!({"imds": only("nobody", &instance())}));
    let deep = (0..200).fold(json!(0), |inner, _| json!([inner]));
    let missing = json!({"defaultAccess": "allow", "mode": "enforce", "id": "dangling", "rules": {
        "privileges": [], "roles": [{"name": "role", "privileges": ["nowhere"]}], "identities": [],
        "roleAssignments": [{"role": "elsewhere", "identities": ["nobody"]}]}});
    for documents in [
        json!({"imds": 5}),
        json!({"imds": {"defaultAccess": true, "mode": 1, "id": []}}),
        json!({"imds": {"defaultAccess": "allow", "mode": "enforce", "id": "x", "rules": deep}}),
        json!([]),
    ] {
        set(&world, documents);
        assert_eq!(nobody.ask(IMDS, get(DENIED)).status, 403);
        assert_eq!(nobody.ask(IMDS, get(ALLOWED)).status, 200);
    }
    // Rules that name missing things are rules: default access decides, here for all.
    set(&world, json!({"imds": missing}));
    assert!(nobody.ask(IMDS, get(ALLOWED)).is_marked());
    for failure in ["garbage", "badjson", "huge"] {
        set(&world, json!({"imds": only("nobody", &instance())}));
        world.host.host().fail("status", failure.parse().unwrap(), 2);
        let before = polls(&world);
        world.wait("the agent has asked twice", || (polls(&world) >= before + 2).then_some(()));
        assert_eq!(nobody.ask(IMDS, get(DENIED)).status, 403, "{failure}");
    }
    assert!(world.agent.is_running().unwrap());
}

/// SEC-D5
fn rules_that_change_between_two_requests(runtime: Runtime) {
    let world = World::start(runtime);
    set(&world, json!({"imds": only("nobody", &instance())}));
    let mut wire = Caller::nobody(&world.sandbox).connect(IMDS);
    wire.send(get(ALLOWED));
    assert_eq!(wire.answer().status, 200);
    set(&world, json!({"imds": only("somebody", &instance())}));
    wire.send(get(ALLOWED));
    assert_eq!(wire.answer().status, 403, "the same connection, the new rules");
}

/// SEC-E5
fn a_key_file_with_another_key_is_not_used(runtime: Runtime) {
    let mut world = World::start(runtime);
    let caller = Caller::nobody(&world.sandbox);
    let keys = |world: &World| {
        let files = fs::read_dir(world.sandbox.key_folder()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "key")).collect::<Vec<_>>()
    };
    let [old] = keys(&world).try_into().expect("one key");
    world.host.host().rotate().unwrap();
    let new = world.wait("the new key is stored", || keys(&world).into_iter().find(|path| *path != old));
    world.agent.stop().unwrap();
    // The older key under the name of the one that the host wants.
    let asked = world.seen_by_target("/secure-channel/key");
    fs::copy(&old, &new).unwrap();
    world.agent = world.sandbox.start_agent(&AgentOptions::new(runtime.binary())).unwrap();
    assert!(world.seen_by_target("/secure-channel/key") > asked, "a new one was asked for");
    let answer = caller.ask(IMDS, get(ALLOWED));
    assert_eq!((answer.status, answer.is_marked()), (200, true), "and the host takes its signature");
}

/// R-73, R-74
fn differences_to_older_matching_are_logged_when_asked_for(runtime: Runtime) {
    let lines = |world: &World| {
        let text = world.sandbox.log("ProxyAgent.Connection.log").unwrap_or_default();
        text.lines().filter_map(|line| line.split_once("CANON_DIVERGENCE ")).map(|(_, line)| line.to_owned()).collect::<Vec<_>>()
    };
    let probe = |world: &World| {
        set(world, json!({"imds": only("nobody", &instance())}));
        let nobody = Caller::nobody(&world.sandbox);
        assert_eq!(nobody.ask(IMDS, get(ALLOWED)).status, 200);
        assert_eq!(nobody.ask(IMDS, get("/metadata/instance-evil?a=b")).status, 403, "it changes no decision");
        assert_eq!(nobody.ask(IMDS, get("/metadata/instance%3Fx")).status, 403);
        assert_eq!(nobody.ask(IMDS, get(DENIED)).status, 403, "both agree");
        world.audit_for(DENIED);
    };
    let world = World::with(runtime, HostOptions::default(), |options| options.config("canonicalRequestMode", "Shadow"));
    probe(&world);
    let expected = [
        r#"mode=shadow rule_set=only\u{20}\"nobody\"-useLocalFileRules-false legacy=allow canon=deny uri="/metadata/instance-evil?a=b""#,
        r#"mode=shadow rule_set=only\u{20}\"nobody\"-useLocalFileRules-false legacy=allow canon=error:CANON_EMBQ uri="/metadata/instance%3Fx""#,
    ];
    world.wait("both lines are in the connection log", || (lines(&world).len() >= 2).then_some(()));
    assert_eq!(lines(&world), expected);
    drop(world);
    let world = World::start(runtime);
    probe(&world);
    assert_eq!(lines(&world), [""; 0], "silent unless asked for");
}
