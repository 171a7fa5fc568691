//! What decisions say of themselves.

use super::*;
use crate::authz::Document;
use crate::identity::{Confidence, Executable, OnDemand, RawText};
use serde_json::{Value, json};

fn caller(user_id: u32, name: &str) -> Claims {
    Claims {
        user_id,
        group_id: 1000,
        user_name: RawText::from(name),
        user_groups: Vec::new(),
        process_id: 1,
        executable: Executable::Known("/usr/bin/curl".into()),
        command_line: "".into(),
        cgroup: 1,
        confidence: Confidence::Verified,
        on_demand: OnDemand::default(),
    }
}

fn rules(document: Value) -> PerDestination<Option<Arc<Rules>>> {
    let rules = Arc::new(Rules::compile(&serde_json::from_value::<Document>(document).unwrap()).0);
    PerDestination { imds: Some(Arc::clone(&rules)), wireserver: Some(rules), hostga: None }
}

fn document(mode: &str) -> Value {
    json!({"defaultAccess": "deny", "mode": mode, "id": "set \u{1b}1", "rules": {
        "privileges": [
            {"name": "token", "path": "/Metadata/%69dentity/", "queryParameters": {"Resource": "https://vault"}},
            {"name": "all", "path": ""}],
        "roles": [{"name": "b", "privileges": ["token"]}, {"name": "a", "privileges": ["token"]}],
        "identities": [{"name": "al", "userName": "alice", "exePath": "/usr/bin/curl"}, {"name": "every"}],
        "roleAssignments": [{"role": "none", "identities": ["al"]}, {"role": "b", "identities": ["every", "al"]},
            {"role": "a", "identities": ["nobody"]}, {"role": "a", "identities": ["al"]}, {"role": "a", "identities": ["al"]}]}})
}

fn ask(rules: &PerDestination<Option<Arc<Rules>>>, to: SocketAddrV4, claims: &Claims, target: &str) -> (String, Value) {
    let request = Request { method: b"GET", target: target.as_bytes() };
    let told = explain(rules, Epoch(7), to, claims, request, &mut Scratch::new());
    (told.to_string(), serde_json::to_value(told).unwrap())
}

/// SEC-07: whoever wrote the document has no say over the terminal.
#[test]
fn texts_of_the_document_are_escaped() {
    let target = "/metadata/identity/x?resource=https://vault";
    let (text, json) = ask(&rules(document("enforce")), Destination::Imds.addr(), &caller(1000, "alice"), target);
    assert_eq!(json["rule"]["set"], "set \u{1b}1");
    assert!(text.ends_with(r#"; mode enforce, rule set "set \u{1b}1", epoch 7"#), "{text}");
}

/// R-06, R-07, R-12, R-15, R-18, R-30, R-34 to R-38
#[test]
fn every_reason_is_said_in_words_and_members() {
    let alice = caller(1000, "alice");
    let root = caller(0, "root");
    let imds = Destination::Imds.addr();
    let mut with = document("enforce");
    with["id"] = "set".into();
    let enforce = rules(with.clone());
    with["mode"] = "audit".into();
    let audit = rules(with.clone());
    with["mode"] = "Disabled".into();
    let disabled = rules(with.clone());
    with["mode"] = "strict".into();
    let unknown = rules(with);
    let default = rules(json!({"defaultAccess": "ALLOW", "mode": "enforce", "id": ""}));
    let closed = rules(json!({"defaultAccess": "deny", "mode": "enforce", "id": ""}));
    let faulty = rules(json!({"defaultAccess": "allow", "mode": "enforce", "id": "", "rules": {
        "privileges": [{"name": "p", "path": "/a?b"}], "roles": [], "identities": [], "roleAssignments": []}}));
    let none = PerDestination::default();
    let token = "/metadata/identity/oauth2?resource=https://vault";
    let end = r#"; mode enforce, rule set "set", epoch 7"#;
    for (rules, to, caller, target, text, members) in [
        (
            &enforce,
            imds,
            &alice,
            token,
            format!(
                r#"allowed: by privilege "token" (/metadata/identity?resource=https://vault), role "a", role assignment 3, identity "al" (userName "alice", exePath "/usr/bin/curl"){end}"#
            ),
            json!({"decision": "allow", "reason": "privilege", "destination": "IMDS", "epoch": 7,
                "rule": {"set": "set", "mode": "enforce", "privilege": "token", "role": "a", "assignment": 3, "identity": "al"},
                "privilege": {"name": "token", "path": "/metadata/identity", "queryParameters": {"resource": "https://vault"}},
                "identity": {"name": "al", "userName": "alice", "exePath": "/usr/bin/curl"}}),
        ),
        (
            &enforce,
            imds,
            &root,
            token,
            format!(
                r#"allowed: by privilege "token" (/metadata/identity?resource=https://vault), role "b", role assignment 1, identity "every" (everyone){end}"#
            ),
            json!({"decision": "allow", "reason": "privilege", "destination": "IMDS", "epoch": 7,
                "rule": {"set": "set", "mode": "enforce", "privilege": "token", "role": "b", "assignment": 1, "identity": "every"},
                "privilege": {"name": "token", "path": "/metadata/identity", "queryParameters": {"resource": "https://vault"}},
                "identity": {"name": "every"}}),
        ),
        (
            &enforce,
            imds,
            &alice,
            "/x",
            format!(r#"denied: privilege "all" (/) matches, and no identity that it is assigned to is the caller's{end}"#),
            json!({"decision": "deny", "reason": "not-assigned", "destination": "IMDS", "epoch": 7,
                "rule": {"set": "set", "mode": "enforce", "privilege": "all"}, "privilege": {"name": "all", "path": "/"}}),
        ),
        (
            &audit,
            imds,
            &alice,
            "/metadata/identity?resource=https://vault&resource=x",
            r#"would be denied, but is forwarded in mode audit: privilege "token" (/metadata/identity?resource=https://vault) matches, but the request repeats a constrained parameter with another value; mode audit, rule set "set", epoch 7"#.into(),
            json!({"decision": "audit", "reason": "conflicting-values", "destination": "IMDS", "epoch": 7,
                "rule": {"set": "set", "mode": "audit", "privilege": "token"},
                "privilege": {"name": "token", "path": "/metadata/identity", "queryParameters": {"resource": "https://vault"}}}),
        ),
        (
            &disabled,
            imds,
            &alice,
            "/%",
            r#"allowed: the mode is disabled; mode disabled, rule set "set", epoch 7"#.into(),
            json!({"decision": "allow", "reason": "disabled", "destination": "IMDS", "epoch": 7, "rule": {"set": "set", "mode": "disabled"}}),
        ),
        (
            &unknown,
            imds,
            &alice,
            "/%",
            r#"allowed: the mode "strict" is unknown and counts as disabled; mode disabled, rule set "set", epoch 7"#.into(),
            json!({"decision": "allow", "reason": "disabled", "destination": "IMDS", "epoch": 7, "rule": {"set": "set", "mode": "disabled"}}),
        ),
        (
            &default,
            imds,
            &alice,
            "/x",
            r#"allowed: no privilege matches, and the default access is allow; mode enforce, rule set "", epoch 7"#.into(),
            json!({"decision": "allow", "reason": "default", "destination": "IMDS", "epoch": 7, "rule": {"set": "", "mode": "enforce"}}),
        ),
        (
            &closed,
            imds,
            &alice,
            "/x",
            r#"denied: no privilege matches, and the default access is deny; mode enforce, rule set "", epoch 7"#.into(),
            json!({"decision": "deny", "reason": "default", "destination": "IMDS", "epoch": 7, "rule": {"set": "", "mode": "enforce"}}),
        ),
        (
            &faulty,
            imds,
            &alice,
            "/x",
            r#"denied: some privilege of the document has no canonical form, so nothing is allowed; mode enforce, rule set "", epoch 7"#
                .into(),
            json!({"decision": "deny", "reason": "default", "destination": "IMDS", "epoch": 7,
                "rule": {"set": "", "mode": "enforce", "faulty": true}}),
        ),
        (
            &enforce,
            Destination::WireServer.addr(),
            &alice,
            token,
            "denied: WireServer is for elevated callers (root) only, whatever the rules say, epoch 7".into(),
            json!({"decision": "deny", "reason": "elevation", "destination": "WireServer", "epoch": 7}),
        ),
        (
            &none,
            Destination::HostGaPlugin.addr(),
            &root,
            token,
            "allowed: there is no document for HostGAPlugin, epoch 7".into(),
            json!({"decision": "allow", "reason": "no-document", "destination": "HostGAPlugin", "epoch": 7}),
        ),
        (
            &enforce,
            "10.0.0.1:80".parse().unwrap(),
            &root,
            token,
            "denied: the original destination is not a guarded endpoint, epoch 7".into(),
            json!({"decision": "deny", "reason": "destination", "destination": null, "epoch": 7}),
        ),
    ] {
        let told = ask(rules, to, caller, target);
        assert_eq!(told, (text, members), "{target}");
    }
    let exempt = Request { method: b"POST", target: b"/machine/?comp=telemetrydata" };
    let told = explain(&enforce, Epoch(7), Destination::WireServer.addr(), &root, exempt, &mut Scratch::new());
    assert_eq!(told.to_string(), "allowed: the request is exempt for elevated callers, whatever the rules say, epoch 7");
    assert_eq!((told.rule_set(), told.mode()), (None, None));
}
