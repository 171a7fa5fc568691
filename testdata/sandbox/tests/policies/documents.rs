//! Documents from a host that means harm, or that somebody else speaks for: the old policy stays, or nothing is allowed; the agent
//! lives, and its memory is bounded.

use serde_json::json;

use super::support::process::{forget_peak, usage};
use super::support::rules::{each_its_own, read, set};
use super::support::wire::{Caller, IMDS};
use super::support::{Runtime, World, on_both_runtimes};

on_both_runtimes!(
    documents_that_cannot_be_used_change_nothing,
    odd_documents_allow_nobody_by_mistake,
    as_many_privileges_as_a_document_can_have,
);

const ALLOWED: &str = "/test/echo?allowed";
const DENIED: &str = "/metadata/identity/oauth2/token";
/// What a document may cost, in KiB: the largest answer that is read is 1 MiB (W-07), and what is made of it is some multiple.
const ROOM: u64 = 32 * 1024;

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")
}

fn good() -> serde_json::Value {
    let pair = (json!({"name": "nobody", "userName": "nobody"}), json!({"name": "test", "path": "/test"}));
    json!({"imds": each_its_own("good", "enforce", &[pair])})
}

/// An open document in whose place `what` stands.
fn with(what: &str) -> Vec<u8> {
    format!(r#"{{"imds":{{"defaultAccess":"allow","mode":"enforce","id":"evil",{what}}}}}"#).into_bytes()
}

/// R-13, W-07, W-38, S-29: 10 MB, a million brackets, members that are there twice.
fn documents_that_cannot_be_used_change_nothing(runtime: Runtime) {
    let mut world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    set(&world, good());
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let privileges = |n: usize| {
        let all: Vec<String> = (0..n).map(|n| format!(r#"{{"name":"p{n}","path":"/{n}"}}"#)).collect();
        format!(r#""rules":{{"privileges":[{}],"roles":[],"identities":[],"roleAssignments":[]}}"#, all.join(","))
    };
    forget_peak(world.agent.id());
    let before = usage(world.agent.id());
    for (what, raw) in [
        ("10 MB", with(&format!(r#""x":"{}""#, "x".repeat(10_000_000)))),
        ("100 000 privileges", with(&privileges(100_000))),
        ("a million arrays", with(&format!(r#""x":{}"#, nested(1_000_000)))),
        ("as many arrays as fit, in place of rules", with(&format!(r#""rules":{}"#, nested(500_000)))),
        ("a million arrays that do not end", with(&format!(r#""x":{}"#, "[".repeat(1_000_000)))),
        ("a member twice", with(r#""rules":null,"mode":"disabled""#)),
        ("a member twice, in another place", with(r#""rules":{"roles":[],"roles":[]}"#)),
        ("lists that are objects", with(r#""rules":{"privileges":{},"roles":{},"identities":{},"roleAssignments":{}}"#)),
        ("not JSON", b"}{".to_vec()),
        ("nothing", Vec::new()),
    ] {
        world.host.host().set_raw_rules(Some(raw));
        read(&world);
        assert_eq!(nobody.ask(IMDS, get(DENIED)).status, 403, "{runtime}: {what}");
        assert_eq!(nobody.ask(IMDS, get(ALLOWED)).status, 200, "{runtime}: {what}");
        assert!(world.agent.is_running().unwrap(), "{what}");
        let log = world.sandbox.log("azure-proxy-agent.log").unwrap_or_default() + &world.agent.output();
        assert!(!log.contains("\"x\":\"xxxx"), "{what}: the document is not in the log");
    }
    let after = usage(world.agent.id());
    assert!(after.peak < before.resident + ROOM, "{runtime}: {before:?}, {after:?}");
    // And what comes next is read as ever.
    world.host.host().set_raw_rules(None);
    set(&world, json!({"imds": each_its_own("none", "enforce", &[])}));
    assert_eq!(nobody.ask(IMDS, get(ALLOWED)).status, 403);
}

/// R-10, R-14, R-16, R-18, S-22, S-23, W-23: what can be read is in force as it is written, and nothing opens that is not meant to.
fn odd_documents_allow_nobody_by_mistake(runtime: Runtime) {
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let lists = |privileges: &str, roles: &str, identities: &str, assignments: &str| {
        format!(
            r#""rules":{{"privileges":[{privileges}],"roles":[{roles}],"identities":[{identities}],"roleAssignments":[{assignments}]}}"#
        )
    };
    let all = r#"{"name":"p","path":"/test"}"#;
    let (role, assigned) = (r#"{"name":"r","privileges":["p"]}"#, r#"{"role":"r","identities":["i"]}"#);
    for (what, access, rules, status) in [
        (
            "roles that name each other",
            "deny",
            lists(
                all,
                r#"{"name":"r","privileges":["s"]},{"name":"s","privileges":["r","s"]}"#,
                r#"{"name":"i"}"#,
                r#"{"role":"r","identities":["r","s","i"]}"#,
            ),
            403,
        ),
        (
            "a role of its own name",
            "deny",
            lists(
                all,
                r#"{"name":"p","privileges":["p"]}"#,
                r#"{"name":"p","userName":"p"}"#,
                r#"{"role":"p","identities":["p"]}"#,
            ),
            403,
        ),
        (
            "an identity twice, the last one another's",
            "deny",
            lists(all, role, r#"{"name":"i"},{"name":"i","userName":"other"}"#, assigned),
            403,
        ),
        (
            "an identity twice, the last one ours",
            "deny",
            lists(all, role, r#"{"name":"i","userName":"other"},{"name":"i","userName":"nobody"}"#, assigned),
            200,
        ),
        (
            "a privilege twice, the last one elsewhere",
            "deny",
            lists(&format!(r#"{all},{{"name":"p","path":"/elsewhere"}}"#), role, r#"{"name":"i"}"#, assigned),
            403,
        ),
        (
            "a privilege that has no form, where all is allowed",
            "allow",
            lists(r#"{"name":"q","path":"/%"}"#, role, r#"{"name":"i"}"#, assigned),
            403,
        ),
        ("access in other words", " allow", lists("", "", "", ""), 403),
        ("access in capitals", "ALLOW", lists("", "", "", ""), 200),
        (
            "many arrays where nobody looks",
            "deny",
            format!(r#""x":{}{},"rules":null"#, "[".repeat(400_000), "]".repeat(400_000)),
            403,
        ),
        // W-23: bytes that are no text are replaced, and what stands there then is nobody's name and no path.
        ("a name that is no text", "deny", lists(all, role, r#"{"name":"i","userName":"nobody~"}"#, assigned), 403),
        (
            "a path that is no text, where all is allowed",
            "allow",
            lists(r#"{"name":"p","path":"/x~"}"#, role, r#"{"name":"i"}"#, assigned),
            403,
        ),
    ] {
        let raw = format!(r#"{{"imds":{{"defaultAccess":"{access}","mode":"enforce","id":"{what}",{rules}}}}}"#);
        let raw = raw.bytes().map(|byte| if byte == b'~' { 0xFF } else { byte });
        world.host.host().set_raw_rules(Some(raw.collect()));
        read(&world);
        assert_eq!(nobody.ask(IMDS, get(ALLOWED)).status, status, "{runtime}: {what}");
    }
}

/// What fits into one answer (W-07) is compiled and decides; in bounded memory, and without a request that waits for it.
fn as_many_privileges_as_a_document_can_have(runtime: Runtime) {
    const COUNT: usize = 9_000;
    let world = World::start(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    forget_peak(world.agent.id());
    let before = usage(world.agent.id());
    let pairs: Vec<_> = (0..COUNT)
        .map(|n| {
            (
                json!({"name": format!("{n}"), "userName": if n % 2 == 0 { "nobody" } else { "x" }}),
                json!({"name": format!("{n}"), "path": format!("/test/echo/{n}")}),
            )
        })
        .collect();
    // The last one fills it up: each has a name, a role, an identity and an assignment.
    let mut count = COUNT;
    let document = loop {
        let document = json!({"imds": each_its_own("many", "enforce", &pairs[..count])});
        if document.to_string().len() < 1_000_000 {
            break document;
        }
        count -= 500;
    };
    set(&world, document);
    for n in [0, 1, count / 2 * 2 - 2, count / 2 * 2 - 1] {
        let answer = nobody.ask(IMDS, get(&format!("/test/echo/{n}")));
        assert_eq!(answer.status == 403, n % 2 == 1, "{n} of {count}: {answer:?}");
    }
    assert_eq!(nobody.ask(IMDS, get(&format!("/test/echo/{count}"))).status, 403);
    let after = usage(world.agent.id());
    assert!(after.peak < before.resident + ROOM, "{runtime}: {before:?}, {after:?}");
}
