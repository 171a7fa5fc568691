use crate::cli::rules::FAMILY;
use crate::cli::term::Term;
use crate::cli::tool::Io;
use crate::host::scratch::Scratch;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn rules(args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: &mut out, err: &mut err, term: Term::PLAIN };
    let status = FAMILY.run("agent", args.iter().map(OsString::from), &mut io);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn line(user: &str, (ip, port): (&str, u16), url: &str) -> String {
    json!({"method": "GET", "url": url, "ip": ip, "port": port, "userId": if user == "root" { 0 } else { 1000 }, "userName": user,
        "processFullPath": "/usr/bin/curl", "decision": "audit", "identity": "verified", "responseStatus": "200 OK",
        "time": "2026-11-22T02:59:11.025"})
    .to_string()
        + "\n"
}

#[test]
fn rules_learn_writes_a_document_and_a_report() {
    let scratch = Scratch::new("learn");
    let log = scratch.path().join("audit.jsonl");
    let [log, out] = [log, scratch.path().join("out")].map(|path| path.to_str().unwrap().to_owned());
    let imds = line("al\u{1b}ice", ("169.254.169.254", 80), "/metadata/instance?api-version=1");
    let wireserver = line("root", ("168.63.129.16", 80), "/machine?comp=goalstate");
    fs::write(&log, format!("{imds}not JSON\n{wireserver}{{\"suppressed\":3}}\n{{\"id\":")).unwrap();

    let (status, document, report) = rules(&["learn", "--dest", "imds", "--from", &log]);
    assert_eq!(status, 0, "{report}");
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["rules"]["privileges"], json!([{"name": "instance", "path": "/metadata/instance"}]));
    assert_eq!((&document["mode"], &document["defaultAccess"]), (&json!("audit"), &json!("deny")));
    let expected = format!(
        "{log}:2: expected ident (column 2)\n1 of 5 lines could not be read\n\
         3 refused requests are not in it: there were too many, and they were only counted\n1 files end in the middle of a line\n\
         IMDS: 1 privilege for 1 caller from 1 requests\n"
    );
    assert!(report.starts_with(&expected), "{report}");
    // SEC-07
    assert!(report.contains("user al\\u{1b}ice, /usr/bin/curl\n") && !report.contains('\u{1b}'), "{report}");

    // Twice the same file counts twice; several endpoints need a choice.
    let (status, document, report) = rules(&["learn", "-q", "--from", &log, &log]);
    assert_eq!((status, document.as_str()), (2, ""));
    assert!(report.ends_with("imds and wireserver: choose one with --dest, or write all with --out DIRECTORY\n"), "{report}");
    let (status, document, _) = rules(&["learn", "--json", "--from", &log, &log]);
    let json: Value = serde_json::from_str(&document).unwrap();
    assert_eq!((status, &json["documents"][1]["grants"][0]["requests"]), (0, &json!(2)));

    let learn = ["learn", "-q", "--out", &out, "--mode=enforce", "--from", &log];
    assert_eq!(rules(&learn).0, 0);
    let written: Value = serde_json::from_slice(&fs::read(format!("{out}/wireserver.json")).unwrap()).unwrap();
    assert_eq!(written["mode"], "enforce");
    assert_eq!(fs::metadata(format!("{out}/imds.json")).unwrap().permissions().mode() & 0o777, 0o640);
    let (status, _, report) = rules(&learn);
    assert!(status == 2 && report.ends_with("imds.json: is there already; nothing is overwritten\n"), "{report}");
    //
    assert_eq!(rules(&["learn", "-q", "--local", "--out", &out, "--from", &log]).0, 0);
    let mut names: Vec<String> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["IMDS_Rules.json", "WireServer_Rules.json", "imds.json", "wireserver.json"]);
}

/// CLI-07
#[test]
fn cli07_rules_learn_says_what_is_wrong_with_its_arguments() {
    for (args, message) in [
        (&["learn"][..], "--from is missing: which recording shall be learned from?"),
        (&["learn", "--from", "x", "--mode", "disabled"], "--mode needs audit or enforce, not \"disabled\""),
        (&["learn", "--from", "x", "--default=maybe"], "--default needs deny or allow, not \"maybe\""),
        (&["learn", "--from", "x", "--dest", "azure"], "--dest needs imds, wireserver or hostga, not \"azure\""),
        (&["learn", "--from", "x", "--since", "soon"], "--since needs how long ago (90s, 15m, 1h, 2d)"),
        (&["learn", "--from", "x", "--min-count=few"], "--min-count needs a whole number, not \"few\""),
        (&["learn", "--from", "x", "--local", "--id= "], "--id: the id of a local rule file is not blank"),
        (&["learn", "--from", "/does/not/exist"], "/does/not/exist: No such file"),
    ] {
        let (status, out, err) = rules(args);
        assert!(status == 2 && out.is_empty() && err.contains(message), "{args:?}: {err}");
    }
    assert_eq!(rules(&["learn", "--from", "/dev/null"]).0, 1, "there is nothing to learn");
}
