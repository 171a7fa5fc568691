use super::*;
use crate::authz::tests::claims;
use crate::authz::{CanonError, Rules, Scratch, canonical, decide, raw_path, traversal_guard};
use serde_json::{Value, json};

const DECISIONS: &str = include_str!("../../../../testdata/vectors/decisions.json");

fn caller(name: &str) -> Claims {
    claims(&json!({"userId": 1000, "userName": name, "userGroups": [name], "processName": "curl",
        "processFullPath": "/usr/bin/curl", "runAsElevated": false}))
}

fn document(mode: &str, default: &str, path: &str, query: &Value) -> Document {
    let document = json!({"defaultAccess": default, "mode": mode, "id": "rules 1\n", "rules": {
        "privileges": [{"name": "p", "path": path, "queryParameters": query}],
        "roles": [{"name": "r", "privileges": ["p"]}],
        "identities": [{"name": "alice", "userName": "alice"}],
        "roleAssignments": [{"role": "r", "identities": ["alice"]}]}});
    serde_json::from_value(document).unwrap()
}

fn get(target: &str) -> Request<'_> {
    Request { method: b"GET", target: target.as_bytes() }
}

fn imds<T>(value: T) -> PerDestination<Option<T>> {
    PerDestination { imds: Some(value), wireserver: None, hostga: None }
}

/// The column `legacy` of every row, R-50 to R-72 among them.
#[test]
fn the_older_outcomes_of_decisions_json() {
    let vectors: Value = serde_json::from_str(DECISIONS).unwrap();
    let mut differences = 0;
    for row in vectors["vectors"].as_array().unwrap() {
        let [method, target] = ["method", "target"].map(|m| row["request"][m].as_str().unwrap());
        let target = target.split('#').next().unwrap().as_bytes();
        let document: Option<Document> = serde_json::from_value(row["rules"].clone()).unwrap();
        let to = match row["destination"].as_str().unwrap() {
            "imds" => Destination::Imds,
            "wireserver" => Destination::WireServer,
            _ => Destination::HostGaPlugin,
        };
        let rules = document.as_ref().map(|d| Arc::new(Rules::compile(d).0));
        let rules = PerDestination { imds: rules.clone(), wireserver: rules.clone(), hostga: rules };
        let (claims, request) = (claims(&row["identity"]), Request { method: method.as_bytes(), target });
        let decision = decide(&rules, to.addr(), &claims, request, &mut Scratch::new());
        let outcome = if !canonical::METHODS.contains(&method) {
            "reject-405"
        } else if traversal_guard(raw_path(target)) {
            "deny"
        } else {
            match (decision, &document) {
                (Decision::Allow(Allowed::Exempt | Allowed::NoDocument | Allowed::Disabled), _) => "allow",
                (Decision::Deny(Denial::Destination | Denial::Elevation), _) | (_, None) => "deny",
                (_, Some(document)) => {
                    let allowed = Legacy::compile(document).allows(&claims, request);
                    // The report says exactly what the column says.
                    let documents = Some(Arc::new(document.clone()));
                    let documents = PerDestination { imds: documents.clone(), wireserver: documents.clone(), hostga: documents };
                    let shadow = Shadow::new(CanonicalMode::Shadow, &documents).unwrap();
                    let line = shadow.divergence(to.addr(), &claims, request, decision);
                    let differs = allowed != matches!(decision, Decision::Allow(_));
                    assert_eq!(line.is_some(), differs, "{row}");
                    differences += usize::from(differs);
                    match (allowed, Mode::parse(&document.mode)) {
                        (true, _) => "allow",
                        (false, Some(Mode::Audit)) => "audit",
                        (false, _) => "deny",
                    }
                }
            }
        };
        assert_eq!(outcome, row["legacy"], "{row}");
    }
    assert!(differences > 20, "{differences}");
}

#[test]
fn r50_to_r72_one_by_one() {
    let none = json!({});
    for (number, path, query, target, older) in [
        ("R-50", "/metadata/instance", &none, "/metadata/instance-evil", true),
        ("R-51", "/metadata/instance", &none, "/metadata/instancex", true),
        ("R-52", "/machine/", &none, "/machine?comp=x", false),
        ("R-53", "/a/b", &none, "/a/./b", false),
        ("R-54", "/a/b", &none, "/a;x/b", false),
        ("R-55", "/a", &json!({"c": "d"}), "/a%3Fc=d", true),
        ("R-56", "/a", &json!({"c": "%zz"}), "/a%zz?c=%zz", true),
        ("R-57", "/a\n", &none, "/a%0a", true),
        ("R-58", "/k", &none, "/%E2%84%AA", true),
        ("R-59", "/a\u{FFFD}", &none, "/a%ff", true),
        ("R-60", "/a", &json!({"c": "d"}), "/a?c=d&c=e", true),
        ("R-60", "/a", &json!({"c": "d"}), "/a?c=e&c=d", false),
        ("R-61", "/a", &json!({"c": "x y"}), "/a?c=x+y", false),
        ("R-61", "/a", &json!({"c": "x+y"}), "/a?c=x+y", true),
        ("R-62", "/a", &json!({"\u{C9}": "\u{C9}"}), "/a?%C3%A9=%C3%A9", true),
        ("R-63", "/a%2Fb", &none, "/a/b", false),
        ("R-64", "/a//b", &none, "/a/b", false),
        ("R-65", "a", &none, "/a", false),
        ("R-66", "/a?b", &none, "/a?b", false),
        ("R-67", "/\u{E9}", &none, "/%C3%A9", true),
        ("R-68", "/a", &json!({"c": "x%20y"}), "/a?c=x%20y", false),
        ("R-69", "/a", &none, "ftp://user@host:x/a", true),
        ("R-72", "", &none, "/a", true),
    ] {
        let document = document("enforce", "deny", path, query);
        let legacy = Legacy::compile(&document);
        assert_eq!(legacy.allows(&caller("alice"), get(target)), older, "{number} {path} {target}");
        assert!(!legacy.allows(&caller("bob"), get(target)), "{number}");
    }
    let locked = Legacy::compile(&document("enforce", "allow", "/token", &none));
    assert!(!locked.allows(&caller("bob"), get("/tokens")), "R-71");
    assert!(locked.allows(&caller("bob"), get("/other")));
}

/// R-13 to R-16
#[test]
fn it_reads_the_lists_as_the_compile_step_does() {
    let mut lists = json!({
        "privileges": [{"name": "p", "path": "/old"}, {"name": "p", "path": "/new"}],
        "roles": [{"name": "r", "privileges": ["p", "undefined"]}],
        "identities": [{"name": "i", "userName": "bob"}, {"name": "i", "userName": "alice"}],
        "roleAssignments": [{"role": "r", "identities": ["i", "undefined"]}, {"role": "undefined", "identities": ["i"]}]});
    let compile = |lists: &Value| {
        let document = json!({"defaultAccess": "deny", "mode": "audit", "id": "", "rules": lists});
        Legacy::compile(&serde_json::from_value(document).unwrap())
    };
    let allows = |legacy: &Legacy, name: &str, target: &str| legacy.allows(&caller(name), get(target));
    let legacy = compile(&lists);
    assert!(allows(&legacy, "alice", "/new") && !allows(&legacy, "alice", "/old") && !allows(&legacy, "bob", "/new"));
    lists["roles"] = Value::Null;
    assert!(!allows(&compile(&lists), "alice", "/new"));
}

/// R-73
#[test]
fn the_words_of_the_mode() {
    for (word, mode) in [("off", CanonicalMode::Off), (" Shadow\t", CanonicalMode::Shadow), ("ENFORCE", CanonicalMode::Enforce)] {
        assert_eq!(CanonicalMode::parse(word), Some(mode));
    }
    assert_eq!(CanonicalMode::parse("on"), None);
    let documents = imds(Arc::new(document("enforce", "allow", "/a", &Value::Null)));
    assert!(Shadow::new(CanonicalMode::Off, &documents).is_none());
}

/// R-74, SEC-07
#[test]
fn the_line_says_both_results_and_cannot_be_forged() {
    let shadow = |mode, document: Document| Shadow::new(mode, &imds(Arc::new(document))).unwrap();
    let line = |shadow: &Shadow, document: &Document, name: &str, target: &str| {
        let rules = imds(Arc::new(Rules::compile(document).0));
        let (to, claims) = (Destination::Imds.addr(), caller(name));
        let decision = decide(&rules, to, &claims, get(target), &mut Scratch::new());
        shadow.divergence(to, &claims, get(target), decision).map(String::from)
    };
    let enforce = document("enforce", "deny", "/metadata/instance", &Value::Null);
    let one = shadow(CanonicalMode::Shadow, enforce.clone());
    let begin = r"CANON_DIVERGENCE mode=shadow rule_set=rules\u{20}1\u{a} ";
    assert_eq!(line(&one, &enforce, "alice", "/metadata/instance/x?y"), None);
    assert_eq!(
        line(&one, &enforce, "alice", "http://169.254.169.254/metadata/instancex?a=\"b\\").unwrap(),
        format!(r#"{begin}legacy=allow canon=deny uri="/metadata/instancex?a=\"b\\""#)
    );
    assert_eq!(
        line(&one, &enforce, "alice", "/metadata/instance%3F\u{9b}2J\u{2028}").unwrap(),
        format!(r#"{begin}legacy=allow canon=error:CANON_NON_ASCII uri="/metadata/instance%3F\xc2\x9b2J\xe2\x80\xa8""#)
    );
    let long = format!("/metadata/instance-{}?{}", "x".repeat(3000), "y".repeat(3000));
    let long = line(&one, &enforce, "alice", &long).unwrap();
    assert!(long.len() < 4300 && long.ends_with("yy\""), "{long}");
    // The mode of the rules is not that of the comparison; what audit mode forwards is still denied by the canonical matcher.
    let audit = document("audit", "allow", "a", &Value::Null);
    let other = shadow(CanonicalMode::Enforce, audit.clone());
    assert_eq!(
        line(&other, &audit, "bob", "/a").unwrap(),
        r#"CANON_DIVERGENCE mode=enforce rule_set=rules\u{20}1\u{a} legacy=allow canon=deny uri="/a""#
    );
    let exempt = Decision::Allow(Allowed::Exempt);
    assert_eq!(other.divergence(Destination::Imds.addr(), &caller("bob"), get("/a"), exempt), None);
    let failed = Decision::Deny(Denial::Canonical(CanonError::Percent));
    assert_eq!(other.divergence(Destination::WireServer.addr(), &caller("bob"), get("/a"), failed), None, "no document");
    for mode in ["disabled", "strict"] {
        let silent = document(mode, "allow", "a", &Value::Null);
        assert_eq!(line(&shadow(CanonicalMode::Shadow, silent.clone()), &silent, "bob", "/a"), None, "{mode}");
    }
}
