use super::super::{Caller, Documents};
use super::*;
use serde_json::{Value, json};

fn told<T>(document: Option<Value>, caller: Value, method: &str, target: &str, then: impl FnOnce(&Told<'_>) -> T) -> T {
    let documents = document
        .map_or_else(Documents::default, |document| Documents::of(Destination::Imds, serde_json::from_value(document).unwrap()));
    let (rules, _) = documents.compile();
    let claims = serde_json::from_value::<Caller>(caller).unwrap().claims().unwrap();
    then(&explain(&rules, Epoch(3), Question { method, target, destination: Destination::Imds, claims: &claims }))
}

fn document(mode: &str, access: &str) -> Value {
    json!({"defaultAccess": access, "mode": mode, "id": "x", "rules": {
        "privileges": [
            {"name": "instance", "path": "/metadata/instance"},
            {"name": "token", "path": "/metadata/identity", "queryParameters": {"resource": "https://vault"}},
            {"name": "locked", "path": "/metadata/locked"}],
        "roles": [{"name": "r", "privileges": ["instance", "token"]}],
        "identities": [
            {"name": "alice", "userName": "alice", "exePath": "/usr/bin/curl"},
            {"name": "ops", "groupName": "ops"}],
        "roleAssignments": [{"role": "r", "identities": ["alice", "ops"]}]}})
}

/// R-31 to R-38, R-17, R-36: matches and near ones agree with the decision, and say why.
#[test]
fn r32_to_r37_every_privilege_that_matters_is_told() {
    let alice = json!({"userName": "alice", "exePath": "/usr/bin/python3"});
    let grants = |told: &Told<'_>| -> Vec<(String, bool)> {
        told.matches.iter().map(|m| (m.privilege.name().to_owned(), m.grants)).collect()
    };
    told(Some(document("enforce", "deny")), alice.clone(), "GET", "/metadata/instance/compute", |told| {
        assert_eq!((told.word(), told.reason(), told.forwards()), ("deny", "not-assigned".into(), false));
        assert_eq!(grants(told), [("instance".into(), false)]);
        let differs: Vec<Value> = told.matches[0].identities.iter().map(|i| json!(i.differs)).collect();
        assert_eq!(differs, [json!({"exePath": "/usr/bin/curl"}), json!({"groupName": "ops"})], "userName is equal");
    });
    let ops = json!({"userName": "bob", "groups": ["dev", "ops"]});
    told(Some(document("enforce", "deny")), ops.clone(), "GET", "/metadata/identity?resource=https://vault&x", |told| {
        assert_eq!((told.word(), grants(told)), ("allow", vec![("token".into(), true)]));
    });
    let twice = "/metadata/identity?resource=https://vault&resource=https://other";
    told(Some(document("audit", "allow")), ops.clone(), "GET", twice, |told| {
        assert_eq!((told.word(), told.reason(), told.forwards()), ("audit", "conflicting-values".into(), true));
        assert_eq!(told.matches[0].conflicts[0].given, ["https://other", "https://vault"]);
        assert!(!told.matches[0].grants && told.matches[0].identities[1].differs.is_empty());
    });
    told(Some(document("enforce", "allow")), ops.clone(), "GET", "/metadata/identity?resource=https://other", |told| {
        assert_eq!((told.word(), told.reason(), told.matches.len()), ("allow", "default".into(), 0));
        let near = &told.near[0];
        assert_eq!((near.privilege.name(), near.missing[0].wanted.as_str()), ("token", "https://vault"));
        assert_eq!(near.missing[0].given, ["https://other"]);
    });
    told(Some(document("enforce", "allow")), ops, "GET", "/metadata/locked", |told| {
        assert_eq!((told.word(), told.matches[0].identities.len()), ("deny", 0), "R-17");
    });
    told(Some(document("enforce", "allow")), alice, "GET", "/a.", |told| {
        assert_eq!((told.reason().as_str(), told.matches.len(), told.compared), ("error:CANON_AMBIGUOUS", 0, true));
    });
}

/// PX-15, PX-16, PX-19, PX-20, PX-44, PX-46: what comes before authorization comes before it here too.
#[test]
fn px15_to_px20_refusals_come_first() {
    let long = format!("/{}", "a".repeat(70_000));
    for (method, target, word, reason) in [
        ("GET", "/a b", "refused", "malformed"),
        ("GET", "/a\r\nX: y", "refused", "malformed"),
        ("G ET", "/a", "refused", "malformed"),
        ("GET", "", "refused", "malformed"),
        ("GET", "metadata", "refused", "malformed"),
        ("GET", long.as_str(), "refused", "target-too-long"),
        ("BREW", "/../a", "refused", "method"),
        ("GET", "/%2e%2E/a", "refused", "traversal"),
        ("GET", "/a//b", "refused", "traversal"),
        ("GET", "/provision", "local", "own-endpoint"),
        ("GET", "/gpa-aggregated-status", "local", "own-endpoint"),
        ("GET", "/gpa-aggregated-status?x", "allow", "no-document"),
    ] {
        told(None, json!({"userName": "alice"}), method, target, |told| {
            assert_eq!((told.word(), told.reason().as_str()), (word, reason), "{method} {target}");
        });
    }
}

/// R-06, R-07, R-30, PX-66 to PX-69: what stands before the document is said, and nothing of the document.
#[test]
fn r06_r07_r30_what_was_not_looked_at_is_not_told() {
    told(Some(document("disabled", "deny")), json!({}), "GET", "/metadata/instance", |told| {
        assert_eq!((told.reason().as_str(), told.compared, told.matches.len()), ("disabled", false, 0));
    });
    told(Some(document("enforce", "deny")), json!({"userName": "root"}), "PUT", "/vmAgentLog", |told| {
        assert_eq!((told.reason().as_str(), told.compared), ("exempt", false));
    });
    let documents = Documents::of(Destination::WireServer, serde_json::from_value(document("audit", "allow")).unwrap());
    let (rules, _) = documents.compile();
    let claims = Caller { user_name: Some("alice".into()), ..Caller::default() }.claims().unwrap();
    let question = Question { method: "GET", target: "/machine", destination: Destination::WireServer, claims: &claims };
    let told = explain(&rules, Epoch(1), question);
    assert_eq!((told.word(), told.reason().as_str(), told.compared), ("deny", "elevation", false));
}

/// Every row of the decisions is told as it is decided.
#[test]
fn r30_to_r38_decisions_json_is_told_as_it_is_decided() {
    let vectors: Value = serde_json::from_str(include_str!("../../../../testdata/vectors/decisions.json")).unwrap();
    for row in vectors["vectors"].as_array().unwrap() {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let destination = match row["destination"].as_str().unwrap() {
            "imds" => Destination::Imds,
            "wireserver" => Destination::WireServer,
            _ => Destination::HostGaPlugin,
        };
        let documents = match &row["rules"] {
            Value::Null => Documents::default(),
            document => Documents::of(destination, serde_json::from_value(document.clone()).unwrap()),
        };
        let who = &row["identity"];
        let claims = Caller {
            user_name: Some(text(&who["userName"])),
            uid: Some(u32::try_from(who["userId"].as_u64().unwrap()).unwrap()),
            groups: who["userGroups"].as_array().unwrap().iter().map(text).collect(),
            exe_path: Some(text(&who["processFullPath"])).filter(|path| !path.is_empty()),
            ..Caller::default()
        };
        let claims = claims.claims().unwrap();
        let (rules, _) = documents.compile();
        let (method, target) = (text(&row["request"]["method"]), text(&row["request"]["target"]));
        let told = explain(&rules, Epoch(0), Question { method: &method, target: &target, destination, claims: &claims });
        let expected = match row["expected"].as_str().unwrap() {
            "reject-405" => "refused",
            // The traversal guard denies, too; what no head may have is refused before (PX-15).
            "deny" if told.refusal.is_some() => "refused",
            expected => expected,
        };
        assert_eq!(told.word(), expected, "{row}\n{told:#?}");
        if told.compared {
            let granted = told.matches.iter().any(|m| m.grants);
            assert_eq!(granted, told.reason() == "privilege", "{row}");
            assert_eq!(
                told.matches.is_empty(),
                !matches!(told.reason().as_str(), "privilege" | "not-assigned" | "conflicting-values")
            );
        }
    }
}
