use super::*;
use crate::authz::{Finding, Rules};
use serde_json::json;
use std::collections::BTreeSet;

const DECISIONS: &str = include_str!("../../../../testdata/vectors/decisions.json");
const LOCAL_MERGE: &str = include_str!("../../../../testdata/vectors/local_merge.json");

const REMOTE: Options<'_> = Options { form: Form::Remote, destination: Some(Destination::Imds), machine: None };
const LOCAL: Options<'_> = Options { form: Form::Local, ..REMOTE };

fn codes(text: &str, options: &Options<'_>) -> Vec<String> {
    let report = lint(text.as_bytes(), options);
    report.lints.iter().map(|lint| format!("{} {} {}", lint.severity.word(), lint.code, lint.place)).collect()
}

/// Those of one code, with what is said.
fn said(text: &str, options: &Options<'_>, code: Code) -> Vec<(String, String)> {
    let report = lint(text.as_bytes(), options);
    let lints = report.lints.into_iter().filter(|lint| lint.code == code);
    lints.map(|lint| (lint.place, lint.message)).collect()
}

/// A document of everything that is needed, whose lists are changed.
fn document(change: impl FnOnce(&mut Value)) -> String {
    let mut value = json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": {
        "privileges": [{"name": "instance", "path": "/metadata/instance"}],
        "roles": [{"name": "reader", "privileges": ["instance"]}],
        "identities": [{"name": "root", "userName": "root"}],
        "roleAssignments": [{"role": "reader", "identities": ["root"]}]}});
    change(&mut value);
    value.to_string()
}

/// Whether a lint says that the agent does not take the document.
fn refuses(options: &Options<'_>, lint: &Lint) -> bool {
    use Code::*;
    let read = [TooLarge, NotUtf8, NotJson, WrongType, MissingMember, DuplicateMember, Refused];
    let valid =
        [BadDefaultAccess, Blank, DuplicateName, UndefinedName, RepeatedName, EmptyList, FaultyPrivilege, MatchesEveryone];
    lint.severity == Severity::Error && (read.contains(&lint.code) || options.form == Form::Local && valid.contains(&lint.code))
}

/// What is found is what the agent finds; returns what it says.
fn agrees(text: &str, options: &Options<'_>) -> bool {
    let taken = match options.form {
        Form::Remote => serde_json::from_str::<Document>(text).map(drop).map_err(|e| e.to_string()),
        Form::Local => LocalRules::parse(text.as_bytes()).map(drop).map_err(|e| e.to_string()),
    };
    let report = lint(text.as_bytes(), options);
    let refused: Vec<&Lint> = report.lints.iter().filter(|lint| refuses(options, lint)).collect();
    assert_eq!(taken.is_err(), !refused.is_empty(), "{:?}: {taken:?}\n{refused:#?}\n{text}", options.form);
    assert!(refused.iter().all(|lint| lint.code != Code::Refused), "a reason without a word: {refused:#?}\n{text}");
    taken.is_ok()
}

/// All that one change can make of a value: each member missing, there twice, unknown, or of another type; each element too.
fn changed(value: &Value) -> Vec<String> {
    let others =
        [json!(null), json!(true), json!(7), json!(-1), json!(1.5), json!(""), json!(" "), json!("x"), json!([]), json!({})];
    let mut all: Vec<String> = others.iter().map(Value::to_string).collect();
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let rest: Vec<String> = members
                    .iter()
                    .filter(|(other, _)| *other != name)
                    .map(|(name, value)| format!("{}:{value}", json!(name)))
                    .collect();
                let with = |member: &str| {
                    format!("{{{}}}", rest.iter().cloned().chain([member.to_owned()]).collect::<Vec<_>>().join(","))
                };
                all.push(format!("{{{}}}", rest.join(",")));
                all.push(with(&format!("{n}:{member},{n}:{member}", n = json!(name))));
                all.push(with(&format!("{}:{member}", json!(name.to_uppercase()))));
                all.push(with(&format!("{}:{member},\"more\":1,\"more\":[{{\"a\":1,\"a\":2}}]", json!(name))));
                all.extend(changed(member).iter().map(|changed| with(&format!("{}:{changed}", json!(name)))));
            }
        }
        Value::Array(elements) => {
            let element = elements.first().cloned().unwrap_or_else(|| json!("x"));
            all.push(format!("[{element},{element}]"));
            all.extend(changed(&element).iter().map(|changed| format!("[{changed}]")));
            all.extend(changed(&element).iter().map(|changed| format!("[{element},{changed}]")));
        }
        _ => {}
    }
    all
}

/// R-01 to R-04, R-05a, R-05b, R-05c, R-05d, R-130 to R-140
#[test]
fn what_is_refused_here_is_what_the_agent_refuses() {
    let full = json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": {
        "privileges": [{"name": "p", "path": "/metadata", "queryParameters": {"a": "1"}}],
        "roles": [{"name": "r", "privileges": ["p"]}],
        "identities": [{"name": "i", "userName": "u", "groupName": "g", "exePath": "/e", "processName": "e",
            "uid": 1, "gid": 2, "exeSha256": "0", "cgroupPath": "/c/*"}],
        "roleAssignments": [{"role": "r", "identities": ["i"]}]}});
    let mut counts = [0, 0];
    for text in changed(&full) {
        for options in [REMOTE, LOCAL] {
            counts[usize::from(agrees(&text, &options))] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
    for text in ["", " ", "nul", "{", "[1]", "\"x\"", "{} {}", "{\"a\":1,}"] {
        for options in [REMOTE, LOCAL] {
            assert!(!agrees(text, &options), "{text}");
        }
    }
    // Half of a character: what is wrong with it only the library says.
    let half = |options| {
        lint(br#"{"defaultAccess":"deny","mode":"audit","id":"\ud800"}"#, options).lints.iter().any(|l| l.code == Code::Refused)
    };
    assert!(half(&REMOTE) && half(&LOCAL));
}

/// R-01 to R-04, R-05a, R-05b, R-05c, R-05d, R-130 to R-140
#[test]
fn all_documents_of_the_vectors_are_judged_as_the_agent_judges_them() {
    let vectors: Value = serde_json::from_str(DECISIONS).unwrap();
    let mut taken = 0;
    for row in vectors["vectors"].as_array().unwrap().iter().filter(|row| !row["rules"].is_null()) {
        taken += usize::from(agrees(&row["rules"].to_string(), &REMOTE));
    }
    let merges: Value = serde_json::from_str(LOCAL_MERGE).unwrap();
    let (mut files, mut good) = (0, 0);
    for row in merges["vectors"].as_array().unwrap() {
        taken += usize::from(agrees(&row["remote"].to_string(), &REMOTE));
        let Some(text) = row["local_file"]["text"].as_str() else { continue };
        files += 1;
        if row["file_state"] == "invalid" || row["file_state"] == "valid" {
            assert_eq!(agrees(text.strip_prefix('\u{feff}').unwrap_or(text), &LOCAL), row["file_state"] == "valid", "{row}");
        } else {
            good += usize::from(agrees(text, &LOCAL));
        }
    }
    assert!(taken > 150 && files > 20, "{taken} {files} {good}");
}

#[test]
fn bytes_that_are_no_document() {
    let one = |bytes: &[u8]| match &*lint(bytes, &REMOTE).lints {
        [lint] => (lint.code, lint.span.clone().unwrap()),
        other => panic!("{other:#?}"),
    };
    assert_eq!(one(b"\xEF\xBB\xBF{\"id\": \"\xE9\"}"), (Code::NotUtf8, 11..12));
    assert_eq!(one(&vec![b' '; MAX_BYTES + 1]).0, Code::TooLarge);
    assert_eq!(one(&b"[".repeat(1_000_000)).0, Code::NotJson);
    let nested = [b"[".repeat(500_000), b"]".repeat(500_000)].concat();
    assert_eq!(one(&nested), (Code::WrongType, 0..1_000_000));
    assert_eq!(one(b"").0, Code::NotJson);
}

#[test]
fn a_good_document_has_no_lints() {
    assert_eq!(codes(&document(|_| ()), &REMOTE), [""; 0]);
    let file = r#"{"rules": {"privileges": [], "roles": [], "identities": [], "roleAssignments": []}}"#;
    assert_eq!(codes(file, &LOCAL), [""; 0]);
}

/// R-10 to R-13, R-30
#[test]
fn words_of_the_document_r10_to_r13() {
    let with = |name: &str, value: Value| document(|d| d[name] = value);
    assert_eq!(codes(&with("mode", json!("Enforce")), &REMOTE), [""; 0]);
    assert_eq!(codes(&with("mode", json!("enfroce")), &REMOTE), ["error unknown-mode mode"]);
    assert_eq!(codes(&with("mode", json!("disabled")), &REMOTE), ["info mode-disabled mode"]);
    assert_eq!(codes(&with("defaultAccess", json!(" deny")), &REMOTE), ["warning bad-default-access defaultAccess"]);
    let incomplete = document(|d| d["rules"]["roles"] = Value::Null);
    assert!(codes(&incomplete, &REMOTE).contains(&"error incomplete-lists rules".to_owned()));
    assert_eq!(codes(&with("rules", json!({"roles": []})), &REMOTE), with_lock_outs(&[]));
}

/// What is said of a document that denies everything.
fn with_lock_outs(others: &[&str]) -> Vec<String> {
    let lock_outs = ["locks-out-cloud-init", "locks-out-ssh-keys", "locks-out-guest-agent"];
    lock_outs.iter().map(|code| format!("error {code} defaultAccess")).chain(others.iter().map(|o| (*o).to_owned())).collect()
}

/// R-14, R-16, R-17
#[test]
fn names_r14_r16() {
    let text = document(|d| {
        let lists = &mut d["rules"];
        lists["privileges"] = json!([{"name": "instance", "path": "/old"}, {"name": "instance", "path": "/metadata/instance"}]);
        lists["roles"] = json!([{"name": "reader", "privileges": ["instance", "gone"]}, {"name": "idle", "privileges": []}]);
        lists["roleAssignments"] =
            json!([{"role": "reader", "identities": ["root", "root", "gone"]}, {"role": "raeder", "identities": ["root"]}]);
    });
    // In the order of the text, in which members are sorted here.
    assert_eq!(
        codes(&text, &REMOTE),
        [
            "warning duplicate-name rules.privileges[0].name",
            "info repeated-name rules.roleAssignments[0].identities[1]",
            "warning undefined-name rules.roleAssignments[0].identities[2]",
            "error undefined-name rules.roleAssignments[1].role",
            "warning undefined-name rules.roles[0].privileges[1]",
            "info unused-name rules.roles[1].name",
            "warning empty-list rules.roles[1].privileges",
        ]
    );
    let hints = lint(text.as_bytes(), &REMOTE).lints.into_iter().filter(|l| l.code == Code::UndefinedName).filter_map(|l| l.hint);
    assert_eq!(
        hints.collect::<Vec<_>>(),
        ["define it, or remove the name", "did you mean \"reader\"?", "define it, or remove the name"]
    );
}

/// R-17: what is locked.
#[test]
fn a_privilege_that_nobody_has_locks_its_path_r17() {
    let with = |access: &str, path: &str, query: Value| {
        document(|d| {
            d["defaultAccess"] = access.into();
            let lock = json!({"name": "lock", "path": path, "queryParameters": query});
            d["rules"]["privileges"].as_array_mut().unwrap().push(lock);
        })
    };
    let locked = |text: &str| said(text, &REMOTE, Code::UnassignedPrivilege).pop().unwrap().1;
    let begin = "nobody is assigned to the privilege \"lock\"";
    assert_eq!(locked(&with("allow", "/Secret/", json!({}))), format!("{begin}: it locks /secret and all below it"));
    assert_eq!(
        locked(&with("Allow", "/", json!({"b": "1", "A": "2 "}))),
        format!("{begin}: it locks everything, in requests with a=2  and b=1")
    );
    assert_eq!(
        locked(&with("deny", "/secret", json!({}))),
        format!("{begin}, so it has no effect: /secret is denied in any case")
    );
}

/// R-18 to R-20, R-36, R-84
#[test]
fn privileges_that_are_faulty_or_grant_nothing() {
    for (path, query, place, code) in [
        ("/a?b", json!({}), "path", Code::FaultyPrivilege),
        ("/\u{e9}", json!({}), "path", Code::FaultyPrivilege),
        ("/..", json!({}), "path", Code::FaultyPrivilege),
        ("/", json!({"x": "1", "a%": "1"}), "queryParameters[\"a%\"]", Code::FaultyPrivilege),
        ("/", json!({"x": "%0a"}), "queryParameters.x", Code::FaultyPrivilege),
        ("/a%2525", json!({}), "path", Code::UnreachablePrivilege),
        ("/a\\b", json!({}), "path", Code::UnreachablePrivilege),
        ("/a./b", json!({}), "path", Code::UnreachablePrivilege),
        ("/a%20", json!({}), "path", Code::UnreachablePrivilege),
        ("/a..b", json!({}), "path", Code::UnreachablePrivilege),
        ("/a", json!({"A": "1", "a": "2"}), "queryParameters", Code::UnreachablePrivilege),
        ("/a", json!({"": "1"}), "queryParameters[\"\"]", Code::IgnoredConstraint),
    ] {
        let text = document(|d| {
            d["rules"]["privileges"][0]["path"] = path.into();
            d["rules"]["privileges"][0]["queryParameters"] = query.clone();
        });
        let places: Vec<String> = said(&text, &REMOTE, code).into_iter().map(|(place, _)| place).collect();
        let separator = if place.starts_with('[') { "" } else { "." };
        assert_eq!(places, [format!("rules.privileges[0]{separator}{place}")], "{path} {query}");
    }
}

/// R-50 to R-54, R-61, R-63 to R-65, R-68, R-72: what a rule's author may have counted on. Those that are no faults in other ways.
#[test]
fn rules_that_older_agents_read_otherwise_are_reported_with_the_paths_r50_to_r72() {
    let read = |path: &str, query: Value| {
        let text =
            document(|d| d["rules"]["privileges"][0] = json!({"name": "instance", "path": path, "queryParameters": query}));
        said(&text, &REMOTE, Code::ReadDifferently).pop().map(|(place, what)| (place.replace("rules.privileges[0].", ""), what))
    };
    let also = |paths: &str| format!("older agents match the privilege \"instance\" also with {paths}; this one does not");
    let not = |paths: &str| format!("older agents do not match the privilege \"instance\" with {paths}; this one does");
    for (number, path, query, place, what) in [
        (
            "R-50, R-51",
            "/metadata/inst",
            json!({}),
            "path",
            also("/metadata/instance, /metadata/instance/compute, /metadata/instance/compute/publickeys"),
        ),
        ("R-71", "/metadata/scheduled", json!({}), "path", also("/metadata/scheduledevents")),
        ("R-52", "/machine/", json!({"comp": "goalstate"}), "path", not("/machine?comp=goalstate")),
        ("R-63", "/x%2Fy", json!({}), "path", not("/x/y, /x/y/x")),
        ("R-64", "/x//y", json!({}), "path", not("/x/y, /x/y/x")),
        ("R-64", "/x/./y;z", json!({}), "path", not("/x/y, /x/y/x")),
        ("R-64", "/x/../y", json!({}), "path", not("/y, /y/x")),
        ("R-65", "y", json!({}), "path", not("/y, /y/x")),
        ("R-68", "/y", json!({"r": "https%3A%2F%2Fvault"}), "queryParameters", not("/y/x?r=https://vault, /y?r=https://vault")),
        ("R-61", "/y", json!({"r": "a+b"}), "queryParameters", not("/y/x?r=a%20b, /y?r=a%20b")),
        ("R-61", "/y", json!({"r": "a b"}), "queryParameters", not("/y?r=a+b")),
    ] {
        assert_eq!(read(path, query), Some((place.to_owned(), what)), "{number}");
    }
    for (path, query) in [("/metadata/instance", json!({"A": "B"})), ("/METADATA", json!({})), ("/", json!({})), ("", json!({}))]
    {
        assert_eq!(read(path, query), None, "{path}");
    }
}

/// R-33 to R-35
#[test]
fn privileges_that_change_nothing_and_such_that_restrict_nobody() {
    let text = document(|d| {
        let lists = &mut d["rules"];
        lists["privileges"] = json!([
            {"name": "all", "path": "/metadata"},
            {"name": "twin", "path": "/Metadata/"},
            {"name": "below", "path": "/metadata/instance", "queryParameters": {"a": "1"}},
            {"name": "narrow", "path": "/metadata/identity"},
            {"name": "beside", "path": "/metadata2"}]);
        lists["roles"] = json!([
            {"name": "many", "privileges": ["all", "twin", "below", "beside"]},
            {"name": "few", "privileges": ["narrow"]}]);
        lists["identities"] = json!([{"name": "root", "userName": "root"}, {"name": "app", "userName": "app"}]);
        lists["roleAssignments"] = json!([{"role": "many", "identities": ["root"]}, {"role": "few", "identities": ["app"]}]);
    });
    let of = |code| said(&text, &REMOTE, code).into_iter().map(|(place, _)| place).collect::<Vec<_>>();
    assert_eq!(of(Code::CoveredPrivilege), ["rules.privileges[1]", "rules.privileges[2]"]);
    assert_eq!(
        said(&text, &REMOTE, Code::WiderPrivilege),
        [(
            "rules.privileges[3]".to_owned(),
            "the privilege \"narrow\" takes nothing away: \"root\" may also ask for /metadata/identity, by \"all\" (/metadata)"
                .to_owned()
        )]
    );
}

struct Small;

impl Machine for Small {
    fn user(&self, name: &str) -> Option<Account> {
        match name {
            "root" | "toor" => Some(Account::Id(0)),
            "app" => Some(Account::Id(1000)),
            "slow" => None,
            _ => Some(Account::Missing),
        }
    }

    fn group(&self, name: &str) -> Option<Account> {
        Some(if name == "adm" { Account::Id(4) } else { Account::Missing })
    }

    fn program(&self, path: &str) -> Option<Program> {
        Some(match path {
            "/usr/bin/curl" => Program::Here,
            "/bin/curl" => Program::LinkTo("/usr/bin/curl".into()),
            "/etc/passwd" => Program::NotRunnable,
            _ => Program::Missing,
        })
    }
}

/// R-07, R-33, R-40, R-138
#[test]
fn identities_that_match_nobody_or_everybody_or_whoever_wants() {
    let here = Options { machine: Some(&Small), ..REMOTE };
    let gated = Options { destination: Some(Destination::WireServer), ..REMOTE };
    let gated_here = Options { machine: Some(&Small), ..gated };
    let local_here = Options { form: Form::Local, ..here };
    for (options, identity, expected) in [
        (REMOTE, json!({}), &["warning matches-everyone "][..]),
        (REMOTE, json!({"username": "a"}), &["error matches-everyone ", "warning unknown-member .username"]),
        (LOCAL, json!({}), &["error matches-everyone "]),
        (LOCAL, json!({"userName": " "}), &["error matches-everyone "]),
        (REMOTE, json!({"userName": ""}), &["warning matches-nobody .userName"]),
        (REMOTE, json!({"groupName": "adm "}), &["warning matches-nobody .groupName"]),
        (REMOTE, json!({"userName": "a", "exePath": "bin/a"}), &["warning matches-nobody .exePath"]),
        (REMOTE, json!({"userName": "a", "exePath": "/bin/../a"}), &["warning matches-nobody .exePath"]),
        (REMOTE, json!({"userName": "a", "processName": "/bin/a"}), &["warning matches-nobody .processName"]),
        (REMOTE, json!({"exePath": "/x/a", "processName": "b"}), &["warning matches-nobody .processName"]),
        (REMOTE, json!({"exePath": "/x//a/", "processName": "a"}), &[]),
        (REMOTE, json!({"userName": "r\u{43e}\u{43e}t"}), &["info looks-alike .userName"]),
        (REMOTE, json!({"processName": "curl"}), &["warning weak-identity .processName"]),
        (REMOTE, json!({"groupName": "adm", "processName": "curl"}), &[]),
        (REMOTE, json!({"exePath": "/usr/bin/python3.12"}), &["info weak-identity .exePath"]),
        (REMOTE, json!({"exePath": "/opt/app/bin/app"}), &[]),
        (REMOTE, json!({"exeSha256": "abc"}), &["warning matches-nobody .exeSha256"]),
        (REMOTE, json!({"exeSha256": "0a".repeat(32)}), &[]),
        (REMOTE, json!({"uid": 7, "cgroupPath": "a/b"}), &["warning matches-nobody .cgroupPath"]),
        (LOCAL, json!({"gid": 7, "cgroupPath": "/a/*"}), &[]),
        (here, json!({"userName": "app", "uid": 7}), &["warning matches-nobody .uid"]),
        (gated, json!({"uid": 7}), &["warning not-elevated .uid"]),
        (gated, json!({"uid": 0, "userName": "toor"}), &[]),
        (gated, json!({"userName": "app"}), &["warning not-elevated .userName"]),
        (gated, json!({"userName": "root"}), &[]),
        (gated, json!({"groupName": "adm"}), &[]),
        (gated_here, json!({"userName": "toor"}), &[]),
        (here, json!({"userName": "nobody"}), &["warning unknown-account .userName"]),
        (here, json!({"userName": "slow"}), &[]),
        (here, json!({"userName": "app", "groupName": "docker"}), &["warning unknown-account .groupName"]),
        (here, json!({"userName": "app", "exePath": "/usr/bin/wget"}), &["warning unknown-program .exePath"]),
        (here, json!({"userName": "app", "exePath": "/bin/curl"}), &["warning unknown-program .exePath"]),
        (local_here, json!({"userName": "app", "exePath": "/etc/passwd"}), &["warning unknown-program .exePath"]),
        (here, json!({"userName": "app", "exePath": "/usr/bin/curl"}), &[]),
    ] {
        let text = document(|d| {
            let mut identity = identity.clone();
            identity["name"] = "root".into();
            d["rules"]["identities"] = json!([identity]);
            d["defaultAccess"] = "allow".into();
            d["rules"]["privileges"][0]["path"] = "/other".into();
            d.as_object_mut().unwrap().retain(|name, _| options.form == Form::Remote || name != "mode");
        });
        let mut found = codes(&text, &options);
        found.iter_mut().for_each(|code| *code = code.replace("rules.identities[0]", ""));
        found.sort();
        assert_eq!(found, expected, "{identity}");
    }
}

/// R-37, R-35, R-06: whatever of root's programs is let through counts, and exempt requests are no matter.
#[test]
fn lock_outs_are_what_the_decision_says() {
    let ws = Options { destination: Some(Destination::WireServer), ..REMOTE };
    let locked = |text: &str, options: &Options<'_>| {
        let report = lint(text.as_bytes(), options);
        let outs = report.lints.into_iter().filter(|lint| lint.code.word().starts_with("locks-out"));
        outs.map(|lint| format!("{} {} {}", lint.severity.word(), lint.code, lint.place)).collect::<Vec<_>>()
    };
    let machine = |identity: Value, change: &dyn Fn(&mut Value)| {
        document(|d| {
            d["rules"]["privileges"] = json!([{"name": "instance", "path": "/"}]);
            d["rules"]["identities"] = json!([identity]);
            change(d);
        })
    };
    let none = |_: &mut Value| ();
    for identity in [
        json!({"name": "root", "userName": "root"}),
        json!({"name": "root", "userName": "root", "exePath": "/usr/bin/python3.9"}),
        json!({"name": "root", "processName": "python3"}),
        json!({"name": "root", "groupName": "root"}),
    ] {
        assert_eq!(locked(&machine(identity.clone(), &none), &ws), [""; 0], "{identity}");
    }
    let all = ["locks-out-cloud-init", "locks-out-ssh-keys", "locks-out-guest-agent", "locks-out-guest-agent"];
    let alice = json!({"name": "root", "userName": "alice"});
    let at = |severity: &str, place: &str| all.map(|code| format!("{severity} {code} {place}"));
    assert_eq!(locked(&machine(alice.clone(), &none), &ws), at("error", "rules.privileges[0]"));
    assert_eq!(locked(&machine(alice.clone(), &|d| d["mode"] = "audit".into()), &ws), at("warning", "rules.privileges[0]"));
    assert_eq!(locked(&machine(alice.clone(), &|d| d["mode"] = "disabled".into()), &ws), [""; 0]);
    let denied = document(|d| d["rules"] = Value::Null);
    assert_eq!(locked(&denied, &ws), at("error", "defaultAccess"));
    // The host plug-in does not have the local file's rules (W-41).
    let local = Options { form: Form::Local, ..ws };
    assert_eq!(locked(r#"{"defaultAccess": "deny"}"#, &local), at("warning", "defaultAccess")[..3]);
    assert_eq!(locked("{}", &local), [""; 0]);
    let hostga = Options { destination: Some(Destination::HostGaPlugin), ..REMOTE };
    assert_eq!(locked(&denied, &hostga), at("error", "defaultAccess")[2..3]);
    let said = said(&denied, &hostga, Code::LocksOutGuestAgent).pop().unwrap().1;
    assert!(said.starts_with("the guest agent is refused 5 of its 6 requests to HostGAPlugin (GET /versions,"), "{said}");
}

/// What the agent reports of a document when it takes it is said here, too, and as loudly.
#[test]
fn the_findings_of_the_agent_are_among_the_lints() {
    let text = document(|d| {
        d["mode"] = "strict".into();
        d["extra"] = 1.into();
        let lists = &mut d["rules"];
        lists["privileges"].as_array_mut().unwrap().push(json!({"name": "bad", "path": "/?"}));
        lists["roleAssignments"].as_array_mut().unwrap().push(json!({"role": "gone", "identities": ["root"]}));
        lists["identities"] = json!([
            {"name": "root", "userName": "root", "exeSha256": "x", "cgroupPath": "y"}, {"name": "all", "usr": "x"}]);
    });
    let (_, findings) = Rules::compile(&serde_json::from_str(&text).unwrap());
    let report = lint(text.as_bytes(), &REMOTE);
    for finding in &findings {
        let code = match finding {
            Finding::UnknownMode { .. } => Code::UnknownMode,
            Finding::IncompleteLists => Code::IncompleteLists,
            Finding::UndefinedRole { .. } => Code::UndefinedName,
            Finding::FaultyPrivilege { .. } => Code::FaultyPrivilege,
            Finding::UnknownMember { .. } => Code::UnknownMember,
            Finding::Everyone { .. } => Code::MatchesEveryone,
            Finding::FaultySelector { .. } => Code::MatchesNobody,
        };
        let loud = report.lints.iter().filter(|lint| lint.code == code).map(|lint| lint.severity).max();
        let least =
            if finding.level() == log::Level::Error && code != Code::MatchesNobody { Severity::Error } else { Severity::Warning };
        assert!(loud >= Some(least), "{finding:?} {report:#?}");
    }
    assert!(findings.len() >= 8, "{findings:#?}");
}

/// The words are a contract with those who read them.
#[test]
fn codes_are_unique_kebab_case_words() {
    let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    assert_eq!(words.len(), Code::ALL.len());
    for code in Code::ALL {
        assert!(code.word().bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'8'), "{code}");
        assert_eq!(code.word().parse(), Ok(*code));
    }
}

#[test]
fn what_a_document_is_can_be_seen() {
    let remote = document(|_| ());
    assert_eq!(Form::guess(remote.as_bytes(), "x.json"), Form::Remote);
    assert_eq!(Form::guess(remote.as_bytes(), "IMDS_Rules.json"), Form::Local);
    assert_eq!(Form::guess(b"\xEF\xBB\xBF{}", ""), Form::Local);
    assert_eq!(Form::guess(b"\xFF", ""), Form::Remote);
    assert_eq!(Form::guess(br#"{"authorizationRules": {}}"#, ""), Form::Remote);
    assert_eq!(guess_destination(remote.as_bytes()), Some(Destination::Imds));
    assert_eq!(guess_destination(remote.replace("/metadata/instance", "Machine").as_bytes()), Some(Destination::WireServer));
    assert_eq!(guess_destination(b"{}"), None);
}

/// However large: nothing here takes time that grows with its square.
#[test]
fn large_documents_are_looked_at_in_bounded_time() {
    let many = 3000;
    let name = |kind: &str, n: usize| format!("{kind}{n}");
    let text = document(|d| {
        d["rules"] = json!({
            "privileges": (0..many).map(|n| json!({"name": name("p", n), "path": "/metadata/x", "queryParameters": {"a": n.to_string()}})).collect::<Vec<_>>(),
            "roles": [{"name": "r", "privileges": (0..many).map(|n| name("p", n)).chain(["q".into()]).collect::<Vec<_>>()}],
            "identities": (0..many).map(|n| json!({"name": name("i", n), "userName": name("u", n)})).collect::<Vec<_>>(),
            "roleAssignments": [{"role": "r", "identities": (0..many).map(|n| name("i", n)).collect::<Vec<_>>()}],
        });
    });
    assert!(text.len() < MAX_BYTES);
    let report = lint(text.as_bytes(), &REMOTE);
    assert_eq!(report.count(Severity::Warning), 1, "the one name that is not defined");
}

/// The schemas for editors refuse nothing that is fine, and what they refuse is an error here.
#[test]
fn the_schemas_in_docs_refuse_what_is_refused_here_and_nothing_that_is_fine() {
    let schema = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let remote = schema(include_str!("../../../../docs/authorization-rules.schema.json"));
    let local = schema(include_str!("../../../../docs/local-rules.schema.json"));
    let mut refused = 0;
    let mut hold = |text: &str, options: &Options<'_>, schema: &Value| {
        // What is said twice, a reader of JSON does not see.
        let Ok(value) = serde_json::from_str::<Value>(text) else { return };
        let wrong = schema_check::wrong(schema, &value);
        let report = lint(text.as_bytes(), options);
        let errors: Vec<&Lint> = report.lints.iter().filter(|lint| lint.severity == Severity::Error).collect();
        assert!(wrong.is_empty() || !errors.is_empty(), "{:?} {wrong:#?}\n{text}", options.form);
        // The other way round for everything that is about types.
        let types = errors.iter().any(|lint| matches!(lint.code, Code::WrongType | Code::MissingMember));
        assert!(!types || !wrong.is_empty(), "{:?} {errors:#?}\n{text}", options.form);
        refused += usize::from(!wrong.is_empty());
    };
    let full = json!({"defaultAccess": "deny", "mode": "enforce", "id": "x", "rules": {
        "privileges": [{"name": "p", "path": "/metadata", "queryParameters": {"a": "1"}}],
        "roles": [{"name": "r", "privileges": ["p"]}],
        "identities": [{"name": "i", "userName": "u", "groupName": "g", "exePath": "/e", "processName": "e",
            "uid": 1, "gid": 2, "exeSha256": "0", "cgroupPath": "/c/*"}, {"name": "j", "userName": "u"}],
        "roleAssignments": [{"role": "r", "identities": ["i"]}]}});
    for text in changed(&full) {
        hold(&text, &REMOTE, &remote);
        hold(&text, &LOCAL, &local);
    }
    for row in schema(DECISIONS)["vectors"].as_array().unwrap().iter().filter(|row| !row["rules"].is_null()) {
        hold(&row["rules"].to_string(), &REMOTE, &remote);
    }
    for row in schema(LOCAL_MERGE)["vectors"].as_array().unwrap() {
        hold(&row["remote"].to_string(), &REMOTE, &remote);
        if let Some(text) = row["local_file"]["text"].as_str() {
            hold(text, &LOCAL, &local);
        }
    }
    assert!(refused > 200, "{refused}");
    // A path that has no canonical form, a blank name, a mode that nobody knows: also what is no matter of types.
    for (text, schema) in [
        (document(|d| d["rules"]["privileges"][0]["path"] = "/a?b".into()), &remote),
        (document(|d| d["mode"] = "enforced".into()), &remote),
        (document(|d| d["id"] = " ".into()), &local),
        (document(|d| d["defaultAccess"] = "denied".into()), &local),
        (document(|d| d["rules"]["identities"] = json!([{"name": "x", "userName": " "}])), &local),
    ] {
        assert_eq!(schema_check::wrong(schema, &serde_json::from_str(&text).unwrap()).len(), 1, "{text}");
    }
}

/// However often something is wrong, and however long the names are: 1 MiB is looked at in bounded time, and little is said.
#[test]
fn of_very_many_faults_a_few_are_said_and_the_rest_is_counted() {
    let many = |one: &dyn Fn(usize) -> String, room: usize| {
        let mut text = String::new();
        for one in (0..).map(one) {
            if text.len() + one.len() >= room {
                break;
            }
            text.extend([&one, ","]);
        }
        text.pop();
        text
    };
    let room = MAX_BYTES / 8;
    let lists = |privileges: &str, roles: &str, identities: &str, assignments: &str| {
        format!(
            r#"{{"defaultAccess":"allow","mode":"enforce","id":"","rules":{{"privileges":[{privileges}],"roles":[{roles}],
                "identities":[{identities}],"roleAssignments":[{assignments}]}}}}"#
        )
    };
    let long = "/a".repeat(100_000);
    for (text, code) in [
        (format!("{{{}}}", many(&|n| format!("\"{n}\":{n}"), room)), Code::UnknownMember),
        (lists(&many(&|_| "{}".to_owned(), room), "", "", ""), Code::MissingMember),
        (lists("", &many(&|n| format!(r#"{{"name":"{n}","privileges":["{n}x"]}}"#), room), "", ""), Code::UndefinedName),
        (lists("", "", "", &many(&|n| format!(r#"{{"role":"{n}","identities":[]}}"#), room)), Code::EmptyList),
        (lists("", "", &many(&|n| format!(r#"{{"name":"{n}","exePath":"{n}"}}"#), room), ""), Code::MatchesNobody),
        (lists(&many(&|n| format!(r#"{{"name":"{n}","path":"%"}}"#), room), "", "", ""), Code::FaultyPrivilege),
    ] {
        let report = lint(text.as_bytes(), &REMOTE);
        let of_code = report.lints.iter().filter(|lint| lint.code == code).count();
        assert!(of_code == MOST || of_code == 2 * MOST, "{code} {of_code}");
        assert!(report.omitted > 1000, "{code} {}", report.omitted);
    }
    let parameters = format!(r#"{{"name":"p","path":"/","queryParameters":{{{}}}}}"#, many(&|n| format!("\"{n}\":\" \""), room));
    let text = format!(r#"{{"rules":{{"privileges":[{parameters}]}}}}"#);
    assert!(lint(text.as_bytes(), &LOCAL).omitted > 1000);
    let text = lists(&format!(r#"{{"name":"{long}","path":"{long}"}},{{"name":"b","path":"/a"}}"#), "", "", "");
    let report = lint(text.as_bytes(), &REMOTE);
    assert!(report.lints.iter().any(|lint| lint.code == Code::UnreachablePrivilege));
    assert!(report.lints.iter().all(|lint| lint.message.chars().count() <= LONGEST + 1));
}

/// Any bytes: no panic, and places are within them.
#[test]
fn broken_documents_have_their_places_within_them() {
    let good = document(|d| d["rules"]["privileges"][0]["queryParameters"] = json!({"\u{e9}": "\u{1F511}"}));
    let junk = [b'"', b'{', b'}', b'[', b']', b',', b'\\', 0, 0xE9, b'%', b'?', b' '];
    for at in (0..good.len()).step_by(2) {
        for byte in junk {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = byte;
            for options in [REMOTE, LOCAL] {
                for lint in lint(&bytes, &options).lints {
                    let span = lint.span.clone().unwrap();
                    assert!(span.start <= span.end && span.end <= bytes.len() + 1, "{lint:?}");
                }
            }
        }
    }
}
