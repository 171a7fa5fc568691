//! Section 4.3 and 4.4 of rules.md, and its vectors.

use super::*;
use serde_json::{Value, json};

const VECTORS: &str = include_str!("../../../../testdata/vectors/local_merge.json");

fn document(value: &Value) -> Document {
    serde_json::from_value(value.clone()).unwrap()
}

/// The bytes of a row's file; `None` if there is none.
fn file(row: &Value) -> Option<Vec<u8>> {
    let file = row["local_file"].as_object()?;
    let encoded = |text: &str| {
        let digits = text.bytes().filter(|b| *b != b'=').map(|b| match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            _ => 63,
        });
        let digits: Vec<u32> = digits.map(u32::from).collect();
        let groups = digits.chunks(4).flat_map(|group| {
            let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
            bits.to_be_bytes()[1..group.len()].to_vec()
        });
        groups.collect::<Vec<u8>>()
    };
    file.get("text").map_or_else(|| Some(encoded(file["base64"].as_str()?)), |text| Some(text.as_str()?.as_bytes().to_vec()))
}

/// What the agent makes of a row, and how it calls that.
fn outcome(row: &Value) -> (Document, &'static str) {
    let remote = document(&row["remote"]);
    let displayed = displayed(Destination::Imds, &remote);
    if !Descriptor::parse(&remote.id).use_local_file {
        return (displayed, "ignored");
    }
    match file(row).map(|bytes| LocalRules::parse(&bytes)) {
        None => (displayed, "missing"),
        Some(Ok(local)) => (local.merge(&displayed), "applied"),
        Some(Err(_)) => (fail_closed(&displayed), "failed"),
    }
}

/// L-01 to L-41: R-101 to R-103, R-110 to R-113, R-118, R-130 to R-139, R-141 to R-145.
#[test]
fn all_vectors_of_local_merge_json() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let rows = vectors["vectors"].as_array().unwrap();
    assert_eq!(rows.len(), 41);
    for row in rows {
        let (effective, state) = outcome(row);
        assert_eq!((&effective, state), (&document(&row["effective"]), row["file_state"].as_str().unwrap()), "{row}");
    }
}

fn error(text: &str) -> LocalError {
    LocalRules::parse(text.as_bytes()).expect_err(text)
}

fn says(text: &str, expected: &str) {
    let e = error(text);
    assert_eq!((e.to_string().as_str(), e.is_final), (expected, false), "{text}");
}

/// R-116, R-118, SEC-L10, SEC-L12, SEC-D4: what is not a document is a parse failure, with its place.
#[test]
fn what_cannot_be_read_says_where_r116_r118() {
    says("", "empty");
    says("\u{feff}", "empty");
    says("\u{feff}\u{feff}{}", "line 1, column 1: expected value");
    says(" ", "line 1, column 1: EOF while parsing a value");
    says("{\n \"id\": nope }", "line 2, column 9: expected ident");
    says("{\"id\": \"x\"} {}", "line 1, column 13: trailing characters");
    says("{\"id\": \"half", "line 1, column 12: EOF while parsing a string");
    says("[]", "line 1, column 1: expected an object");
    says("\"text\"", "line 1, column 1: expected an object");
    says("{\"id\":\"a\",\"id\":\"a\"}", "line 1, column 14: the member \"id\" is there twice");
    says("{\"other\":{\"x\":1,\n\"x\":2}}", "line 2, column 3: the member \"x\" is there twice");
    let e = LocalRules::parse(b"{\"id\": \"\xc3\xa9\xff\"}").unwrap_err();
    assert_eq!(e.to_string(), "line 1, column 10: not UTF-8");
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(LocalRules::parse(&utf16).unwrap_err().to_string(), "line 1, column 1: not UTF-8");
}

/// R-116: a wrong type is a parse failure; it names the member, and shows nothing of what is there instead.
#[test]
fn a_wrong_type_names_the_member_r116() {
    says(r#"{"defaultAccess": true}"#, "line 1, column 19: defaultAccess: expected a string");
    says(r#"{"id": 5}"#, "line 1, column 8: id: expected a string");
    says(r#"{"rules": []}"#, "line 1, column 11: rules: expected an object");
    says(r#"{"rules": "secret, expected value"}"#, "line 1, column 11: rules: expected an object");
    says(r#"{"rules": {"roles": {"secret": 1}}}"#, "line 1, column 21: rules.roles: expected a sequence");
    says(r#"{"rules": {"privileges": [["p", "/"]]}}"#, "line 1, column 27: rules.privileges[0]: expected an object");
    says(r#"{"rules": {"privileges": [{"name": "p"}]}}"#, "line 1, column 27: rules.privileges[0]: missing field `path`");
    says(
        "{\"rules\": {\"privileges\": [{\"name\": \"p\", \"path\": \"/\",\n \"queryParameters\": {\"api-version\": 1}}]}}",
        "line 2, column 37: rules.privileges[0].queryParameters[\"api-version\"]: expected a string",
    );
    says(
        r#"{"rules": {"roleAssignments": [{"role": "r", "identities": ["a", null]}]}}"#,
        "line 1, column 66: rules.roleAssignments[0].identities[1]: expected a string",
    );
    assert!(error(&format!(r#"{{"defaultAccess": ["{}"]}}"#, "long".repeat(1000))).to_string().len() < 100);
}

/// A valid file with one place changed.
fn changed(pointer: &str, value: Value) -> String {
    let mut file = json!({"rules": {
        "privileges": [{"name": "p", "path": "/p", "queryParameters": {"a": "b"}}, {"name": "q", "path": "/q"}],
        "roles": [{"name": "r", "privileges": ["p", "q"]}, {"name": "s", "privileges": ["p"]}],
        "identities": [{"name": "i", "userName": "root"}, {"name": "j", "exePath": "/j"}],
        "roleAssignments": [{"role": "r", "identities": ["i", "j"]}]}});
    assert!(LocalRules::parse(file.to_string().as_bytes()).is_ok());
    match pointer.rsplit_once('/') {
        Some((parent, name)) if file.pointer(pointer).is_none() => {
            file.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value);
        }
        _ => *file.pointer_mut(pointer).unwrap() = value,
    }
    file.to_string()
}

fn invalid(pointer: &str, value: Value, expected: &str) {
    let text = changed(pointer, value);
    let e = error(&text);
    assert!(e.is_final && e.place.is_some(), "{e:?}");
    assert_eq!(format!("{}: {}", e.member, e.what), expected, "{text}");
}

/// R-134 to R-139, SEC-L14.
#[test]
fn what_is_invalid_names_the_member_r134_to_r139() {
    for access in ["", " ", "maybe", "allow deny", "\u{130}", "al\u{200b}low"] {
        invalid("/defaultAccess", access.into(), "defaultAccess: neither allow nor deny");
    }
    for blank in ["", " ", "\t\n", "\u{3000}"] {
        invalid("/id", blank.into(), "id: blank");
        invalid("/rules/privileges/0/name", blank.into(), "rules.privileges[0].name: blank");
        invalid("/rules/privileges/1/path", blank.into(), "rules.privileges[1].path: blank");
        invalid("/rules/privileges/0/queryParameters/a", blank.into(), "rules.privileges[0].queryParameters.a: blank");
        invalid("/rules/roles/0/name", blank.into(), "rules.roles[0].name: blank");
        invalid("/rules/roles/0/privileges/1", blank.into(), "rules.roles[0].privileges[1]: blank");
        invalid("/rules/identities/1/name", blank.into(), "rules.identities[1].name: blank");
        invalid("/rules/identities/1/exePath", blank.into(), "rules.identities[1]: without a selector that is not blank");
        invalid("/rules/roleAssignments/0/role", blank.into(), "rules.roleAssignments[0].role: blank");
        invalid("/rules/roleAssignments/0/identities/0", blank.into(), "rules.roleAssignments[0].identities[0]: blank");
    }
    invalid(
        "/rules/privileges/0/queryParameters",
        json!({" ": "x"}),
        "rules.privileges[0].queryParameters[\" \"]: a parameter with a blank name",
    );
    invalid("/rules/privileges/1/name", "p".into(), "rules.privileges[1].name: the name \"p\" is there twice");
    invalid("/rules/roles/1/name", "r".into(), "rules.roles[1].name: the name \"r\" is there twice");
    invalid("/rules/identities/1/name", "i".into(), "rules.identities[1].name: the name \"i\" is there twice");
    invalid("/rules/roles/0/privileges", json!([]), "rules.roles[0].privileges: empty");
    invalid("/rules/roles/0/privileges/1", "p".into(), "rules.roles[0].privileges[1]: the privilege \"p\" is there twice");
    invalid("/rules/roles/0/privileges/0", "P".into(), "rules.roles[0].privileges[0]: this file defines no privilege \"P\"");
    invalid("/rules/privileges", Value::Null, "rules.roles[0].privileges[0]: this file defines no privilege \"p\"");
    invalid("/rules/identities/0", json!({"name": "i"}), "rules.identities[0]: without a selector that is not blank");
    invalid("/rules/roleAssignments/0/role", "r\n".into(), "rules.roleAssignments[0].role: this file defines no role \"r\\n\"");
    invalid("/rules/roleAssignments/0/identities", json!([]), "rules.roleAssignments[0].identities: empty");
    invalid(
        "/rules/roleAssignments/0/identities/0",
        "x".repeat(100).into(),
        &format!("rules.roleAssignments[0].identities[0]: this file defines no identity \"{}\"…", "x".repeat(64)),
    );
}

/// R-140: what has no canonical form would otherwise deny everything in silence (R-18).
#[test]
fn what_has_no_canonical_form_is_invalid_r140() {
    let path = "rules.privileges[1].path: without a canonical form";
    for (text, code) in [
        ("/a?b", ""),
        ("/%zz", "CANON_PCT"),
        ("/../x", "CANON_UNDERFLOW"),
        ("/caf\u{e9}", "CANON_NON_ASCII"),
        ("/a\u{1}", "CANON_CTRL"),
    ] {
        let code = if code.is_empty() { "CANON_EMBQ" } else { code };
        invalid("/rules/privileges/1/path", text.into(), &format!("{path} ({code})"));
    }
    for (name, value) in [("a", "%"), ("a%4", "b")] {
        let e = error(&changed("/rules/privileges/0/queryParameters", json!({name: value})));
        assert!(e.is_final && e.to_string().ends_with("without a canonical form (CANON_PCT)"), "{e}");
    }
    let e = error(&changed("/rules/privileges/1/path", "/a?b".into()));
    assert!(e.place.is_some_and(|p| p.line == 1 && p.column > 1), "{e}");
}

/// R-134: the word that was validated is the word that decides.
#[test]
fn default_access_is_trimmed_r134() {
    for (written, allowed) in [(" allow ", true), ("ALLOW\n", true), ("\tDeny", false)] {
        let local = LocalRules::parse(json!({"defaultAccess": written}).to_string().as_bytes()).unwrap();
        let effective = local.merge(&document(&json!({"defaultAccess": "deny", "mode": "enforce", "id": "x"})));
        assert_eq!(effective.default_access, written.trim());
        assert_eq!(super::super::Rules::compile(&effective).0.default_allowed(), allowed);
    }
}

/// R-141 to R-143, R-13: which side has which lists.
#[test]
fn a_list_that_one_side_lacks_comes_from_the_other_r141_r142_r143() {
    let remote = json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": {
        "roles": [], "identities": [{"name": "p", "userName": "root"}], "roleAssignments": []}});
    let local = |text: &str| LocalRules::parse(text.as_bytes()).unwrap();
    let merged = local(r#"{"rules": {"privileges": [{"name": "p", "path": "/p"}], "identities": []}}"#).merge(&document(&remote));
    let lists = merged.rules.clone().unwrap();
    assert_eq!(lists.privileges.unwrap()[0].name, "LocalFileRules_p");
    assert_eq!((lists.roles, lists.role_assignments), (Some(vec![]), Some(vec![])));
    assert_eq!(lists.identities.unwrap().len(), 1, "the remote one");
    let (rules, findings) = super::super::Rules::compile(&merged);
    assert!(findings.is_empty() && !rules.default_allowed(), "all four are present: {findings:?}");
    // R-142: the local lists alone, as they are.
    let alone = document(&json!({"defaultAccess": "deny", "mode": "enforce", "id": "x"}));
    let merged = local(r#"{"rules": {"privileges": [{"name": "p", "path": "/p"}]}}"#).merge(&alone);
    assert_eq!(merged.rules.unwrap().privileges.unwrap()[0].name, "p");
    // Empty on both sides is present.
    let empty = document(&json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": {}}));
    assert_eq!(local(r#"{"rules": {}}"#).merge(&empty).rules, Some(RuleLists::default()));
}

/// R-145: the mode and the displayed id stay.
#[test]
fn fail_closed_denies_by_default_and_keeps_the_mode_r145() {
    for mode in ["enforce", "audit", "disabled", "Surprise"] {
        let remote = document(&json!({"defaultAccess": "allow", "mode": mode, "id": "i-useLocalFileRules-true", "rules": {}}));
        let closed = fail_closed(&remote);
        assert_eq!(closed, document(&json!({"defaultAccess": "deny", "mode": mode, "id": "i-useLocalFileRules-true"})));
    }
}

/// R-100, R-104.
#[test]
fn two_endpoints_have_files_r100() {
    let names = Destination::ALL.map(LocalRules::file_name);
    assert_eq!(names, [Some("IMDS_Rules.json"), Some("WireServer_Rules.json"), None]);
    let remote = document(&json!({"defaultAccess": "allow", "mode": "audit", "id": "abc"}));
    let ids = Destination::ALL.map(|d| displayed(d, &remote).id);
    assert_eq!(ids, ["abc-useLocalFileRules-false", "abc-useLocalFileRules-false", "abc"]);
}

/// R-119, SEC-D4: size, depth, and nothing but a clear error.
#[test]
fn hostile_files_are_refused_in_words_r119() {
    let deep = format!("{{\"x\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    says(&deep, "line 1, column 133: recursion limit exceeded");
    let deep = format!("{{\"rules\": {}{}}}", "{\"a\":".repeat(1000), "1".to_owned() + &"}".repeat(1000));
    assert!(error(&deep).to_string().ends_with("recursion limit exceeded"));
    let large = format!("{{\"id\": \"{}\"}}", "x".repeat(LocalRules::MAX_BYTES));
    says(&large, "larger than 1048576 bytes");
    let full = format!("{{\"x\": [0{}]}}", ",0".repeat(LocalRules::MAX_BYTES / 2 - 8));
    assert!(LocalRules::parse(full.as_bytes()).is_ok());
    // A name that goes round in circles is just a name.
    let circle = json!({"rules": {"privileges": [{"name": "r", "path": "/"}], "roles": [{"name": "r", "privileges": ["r"]}],
        "identities": [{"name": "r", "userName": "r"}], "roleAssignments": [{"role": "r", "identities": ["r"]}]}});
    assert!(LocalRules::parse(circle.to_string().as_bytes()).is_ok());
}
