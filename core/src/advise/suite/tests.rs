use super::*;
use serde_json::json;

const RULES: &str = include_str!("../../../../testdata/rules/imds.json");

fn run(suite: &Value) -> Vec<String> {
    let suite = Suite::read(suite.to_string().as_bytes()).unwrap();
    let mut told = 0;
    let results = suite.run(RULES.as_bytes(), None, |_, explanation| told += usize::from(explanation.is_some()));
    let lines: Vec<String> = results
        .iter()
        .map(|checked| match &checked.ran {
            Ran::Passed => format!("{}: passed", checked.name),
            Ran::Failed { differs, found } => format!("{}: {differs:?} {}", checked.name, json!(found)),
            Ran::Broken(error) => format!("{}: {error}", checked.name),
        })
        .collect();
    let broken = results.iter().filter(|checked| matches!(checked.ran, Ran::Broken(_))).count();
    assert_eq!(told + broken, results.len());
    lines
}

/// R-34 to R-37
#[test]
fn r34_to_r37_expectations_are_compared_with_what_decides() {
    let case = |caller: Value, url: &str, expect: Value| json!({"url": url, "caller": caller, "expect": expect});
    let web = || json!("web");
    let results = run(&json!({
    "$schema": "x", "description": "y", "destination": "IMDS", "rules": "imds.json",
    "callers": {"web": {"userName": "web", "processName": "python3.11"}},
    "cases": [
        case(web(), "/metadata/instance", json!({"decision": "allow"})),
        case(web(), "/metadata/instance",
            json!({"decision": "allow", "reason": "privilege", "privilege": "instance", "role": "web", "identity": "application"})),
        case(web(), "/metadata/instance", json!({"decision": "deny", "identity": "x"})),
        case(json!({"groups": ["ops"]}), "/metadata/attested", json!({"decision": "deny", "privilege": "attested"})),
        case(web(), "/metadata/../x", json!({"decision": "deny", "reason": "traversal"})),
        case(web(), "/metadata//", json!({"decision": "refused"})),
        case(web(), "/provision", json!({"decision": "local"})),
        case(json!("nobody"), "/", json!({"decision": "deny"})),
        case(web(), "/", json!({"decision": "forbid"})),
        case(json!({"uid": 1, "elevated": true}), "/", json!({"decision": "deny"})),
        {"name": "its own", "destination": "wireserver", "method": "POST", "url": "/machine", "caller": "web",
            "expect": {"decision": "deny", "reason": "elevation"}},
    ]}));
    let found = r#"{"decision":"allow","reason":"privilege","privilege":"instance","role":"web","identity":"application"}"#;
    let expected = [
        "GET /metadata/instance: passed".to_owned(),
        "GET /metadata/instance: passed".to_owned(),
        format!(r#"GET /metadata/instance: [("decision", "deny", "allow"), ("identity", "x", "application")] {found}"#),
        "GET /metadata/attested: passed".to_owned(),
        "GET /metadata/../x: passed".to_owned(),
        "GET /metadata//: passed".to_owned(),
        "GET /provision: passed".to_owned(),
        r#"GET /: the suite has no caller "nobody""#.to_owned(),
        r#"GET /: decision "forbid" is none of allow, audit, deny, refused, local"#.to_owned(),
        "GET /: elevated means user id 0, not 1".to_owned(),
        "its own: passed".to_owned(),
    ];
    let expected: Vec<String> = expected.into();
    let found: Vec<String> = results
        .into_iter()
        .map(|line| {
            // Members of an object are in no order that matters.
            line.replace(
                r#"{"decision":"allow","identity":"application","privilege":"instance","reason":"privilege","role":"web"}"#,
                found,
            )
        })
        .collect();
    assert_eq!(found, expected);
}

/// R-38: what a document that is only audited would do.
#[test]
fn r38_the_mode_can_be_another() {
    let suite = |mode: &str, decision: &str| {
        run(&json!({"destination": "imds", "rules": {}, "mode": mode,
            "cases": [{"name": "n", "url": "/", "caller": {"userName": "a"}, "expect": {"decision": decision}}]}))
    };
    assert_eq!(suite("audit", "audit"), ["n: passed"]);
    assert_eq!(suite("disabled", "allow"), ["n: passed"]);
    assert_eq!(suite("enforce", "deny"), ["n: passed"]);
}

#[test]
fn what_is_no_suite_is_refused_with_its_place() {
    let case = r#"{"url":"/","caller":"a","expect":{"decision":"deny"}}"#;
    for (bad, message) in [
        ("[]", "invalid length"),
        ("{\"rules\":{},\n\"cases\":[],\"x\":1}", "unknown field `x`"),
        (r#"{"cases":[]}"#, "missing field `rules`"),
        (&format!(r#"{{"rules":"f","destination":"host","cases":[{case}]}}"#), "destination \"host\" is not imds"),
        (r#"{"rules":"f","cases":[{"url":"/","caller":"a","expect":{"decision":"deny","role":1}}]}"#, "invalid type: integer"),
    ] {
        let error = Suite::read(bad.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains("line "), "{bad}: {error}");
    }
}

/// The schema for editors knows the members that the reader knows, and no others.
#[test]
fn the_schema_has_the_members_of_the_reader() {
    let schema: Value = serde_json::from_str(include_str!("../../../../docs/rules-test.schema.json")).unwrap();
    let known = |at: &str| -> Vec<String> {
        let mut names: Vec<String> = schema.pointer(at).unwrap()["properties"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    // The reader lists what it knows when it meets what it does not know.
    let read = |error: serde_json::Error| -> Vec<String> {
        let error = error.to_string();
        let mut names: Vec<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        names.sort();
        names
    };
    let odd = r#"{"odd":1}"#;
    assert_eq!(known(""), read(Suite::read(odd.as_bytes()).unwrap_err()));
    assert_eq!(known("/$defs/caller"), read(serde_json::from_str::<Caller>(odd).unwrap_err()));
    assert_eq!(known("/$defs/case"), read(serde_json::from_str::<Case>(odd).unwrap_err()));
    assert_eq!(known("/$defs/expect"), read(serde_json::from_str::<Expected>(odd).unwrap_err()));
    assert_eq!(schema.pointer("/$defs/expect/properties/decision/enum").unwrap(), &json!(DECISIONS));
}
