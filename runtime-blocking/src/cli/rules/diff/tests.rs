use crate::cli::rules::FAMILY;
use crate::cli::term::Term;
use crate::cli::tool::Io;
use crate::host::scratch::Scratch;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;

struct Files(Scratch);

impl Files {
    fn write(&self, name: &str, value: &Value) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn diff(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: &mut out, err: &mut err, term: Term::PLAIN };
    let status = FAMILY.run("agent", ["diff"].iter().chain(args).map(OsString::from), &mut io);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn rules(user: &str) -> Value {
    json!({"privileges": [{"name": "p", "path": "/metadata/instance"}], "roles": [{"name": "r", "privileges": ["p"]}],
        "identities": [{"name": "i", "userName": user}], "roleAssignments": [{"role": "r", "identities": ["i"]}]})
}

fn document(user: &str) -> Value {
    json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": rules(user)})
}

#[test]
fn rules_diff_compares_what_files_mean() {
    let files = Files(Scratch::new("diff"));
    let alice = files.write("imds.json", &document("alice"));
    let bob = files.write("new.json", &document("b\u{1b}b"));
    assert_eq!(diff(&[&alice, &alice]), (0, "Nothing changes: both allow the same to the same.\n".into(), String::new()));
    let (status, out, _) = diff(&[&alice, &bob]);
    assert_eq!(status, 1);
    // SEC-07
    assert!(out.starts_with("Newly allowed:\n  user b\\u{1b}b: /metadata/instance\n") && !out.contains('\u{1b}'), "{out}");

    let log = files.0.path().join("log");
    let line = json!({"method": "GET", "url": "/metadata/instance", "ip": "169.254.169.254", "port": 80, "userId": 1000,
        "userName": "alice", "decision": "allow", "identity": "verified"});
    fs::write(&log, format!("{line}\n{line}\nx\n")).unwrap();
    let log = log.to_str().unwrap();
    let (status, out, err) = diff(&["--against", log, &alice, &bob]);
    assert!(status == 1 && err.contains("log:3: "), "{err}");
    assert!(
        out.ends_with("  allowed, would be refused:\n        2  user alice with an unknown program: /metadata/instance\n"),
        "{out}"
    );
    let (_, out, _) = diff(&["--json", "--against", log, &alice, &bob]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json[0]["changes"][0]["allowed"], &json[0]["recorded"]["groups"][0]["requests"]), (&json!(true), &json!(2)));

    // A local file, and the documents of several endpoints.
    let local = files.write("IMDS_Rules.json", &json!({"rules": rules("alice")}));
    let (status, out, _) = diff(&[&local, &alice]);
    assert!(status == 0 && out.contains("note: old: a local rule file; compared as if it stood alone"), "{out}");
    let one = files.write("one", &json!({"inputRules": {"imds": document("alice")}, "computedRules": {}}));
    let two = files.write("two", &json!({"inputRules": {"imds": document("alice"), "wireserver": document("root")}}));
    let (status, out, _) = diff(&[&one, &two]);
    assert!(
        status == 1 && out.starts_with("IMDS:\nNothing changes") && out.contains("\nWireServer:\nMode disabled -> enforce"),
        "{out}"
    );
    assert_eq!(diff(&[&one, &alice]).0, 0);
}

/// CLI-07
#[test]
fn cli07_rules_diff_says_what_is_wrong() {
    let files = Files(Scratch::new("diff-wrong"));
    let plain = files.write("plain", &document("alice"));
    let broken = files.write("broken", &json!({"mode": 1}));
    for (args, message) in [
        (&[][..], "[OPTIONS] OLD NEW is expected"),
        (&[&*plain, &plain], "--dest is missing, and the names of the files do not say whose documents they are"),
        (&["--dest", "imds", &plain, &broken], "broken: invalid type: integer"),
        (&["--dest", "imds", &plain, "/does/not/exist"], "/does/not/exist: No such file"),
    ] {
        let (status, out, err) = diff(args);
        assert!(status == 2 && out.is_empty() && err.contains(message), "{args:?}: {err}");
    }
}
