use super::*;
use crate::host::scratch::Scratch;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};

const TERM: Term = Term { colour: true, width: Some(110) };

fn audit_on(term: Term, args: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: &mut out, err: &mut err, term };
    let status = FAMILY.run("agent", args.iter().map(OsString::from), &mut io);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn audit(args: &[&str]) -> (u8, String, String) {
    audit_on(Term::PLAIN, args)
}

fn line(user: &str, second: u32, decision: &str, url: &str) -> String {
    json!({"method": "GET", "url": url, "ip": "169.254.169.254", "port": 80, "userId": 1000, "userName": user, "connection": second,
        "processFullPath": "/usr/bin/curl", "decision": decision, "reason": "default", "identity": "verified",
        "responseStatus": "200 OK", "time": format!("2026-11-22T02:59:{second:02}.025")})
    .to_string()
        + "\n"
}

/// SEC-07, SEC-F2
#[test]
fn sec07_a_table_for_people_and_lines_for_programs_both_harmless() {
    let scratch = Scratch::new("audit");
    let log = scratch.path().join("log");
    let file = log.to_str().unwrap();
    // The last one was not written by the agent.
    let forged = line("mallory", 13, "refused", "/x").replace("/x", "/\u{9b}2J\u{202e}").replacen(',', ",\r", 1);
    let text = [line("alice", 11, "allow", "/metadata/instance"), line("b\u{1b}b", 12, "audit", "/%1b"), "{\n".into(), forged];
    fs::write(&log, text.concat()).unwrap();
    let (status, out, err) = audit(&["--file", file]);
    assert_eq!(
        out,
        "TIME                 USER      PROGRAM        TO    DECISION  RULE     REQUEST\n\
         2026-11-22 02:59:11  alice     /usr/bin/curl  IMDS  allow     default  GET /metadata/instance\n\
         2026-11-22 02:59:12  b\\u{1b}b  /usr/bin/curl  IMDS  audit     default  GET /%1b\n\
         2026-11-22 02:59:13  mallory   /usr/bin/curl  IMDS  refused   default  GET /\\u{9b}2J\\u{202e}\n"
    );
    assert_eq!((status, err), (0, format!("{file}:3: EOF while parsing an object (column 1)\n1 of 4 lines could not be read\n")));

    let (_, out, _) = audit(&["--json", "--decision=allow,refused", file]);
    assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
    let users: Vec<Value> = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["userName"].clone()).collect();
    assert_eq!(users, ["alice", "mallory"]);

    let (_, out, _) = audit_on(TERM, &["--limit=1", "--user", "b\u{1b}b", file]);
    assert!(out.starts_with("\x1b[1mTIME\x1b[0m ") && out.contains("\x1b[33maudit\x1b[0m"), "{out:?}");
    assert_eq!(out.lines().count(), 2);
    assert_eq!(audit(&["--since", "2026-11-22T02:59:12", file]).1.lines().count(), 3);
    let (_, out, _) = audit(&["top", "--by", "program,decision", "--json", file]);
    let top: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(top["kinds"][0], json!({"program": "/usr/bin/curl", "decision": "allow", "requests": 1, "denied": 0}));
}

#[test]
fn audit_top_has_bars() {
    let scratch = Scratch::new("audit-top");
    let log = scratch.path().join("log");
    let many = line("alice", 1, "audit", "/metadata/instance?a").repeat(3) + &line("bob", 2, "allow", "/metadata/versions");
    fs::write(&log, many).unwrap();
    let (status, out, _) = audit(&["top", "--limit=1", log.to_str().unwrap()]);
    let first = out.lines().nth(1).unwrap();
    assert!(
        first.starts_with("       3  ") && first.ends_with("       3  alice  /usr/bin/curl  IMDS /metadata/instance"),
        "{out}"
    );
    assert!(first.contains(&"#".repeat(20)), "{out}");
    assert!(status == 0 && out.ends_with("\nand 1 more (--limit 0 shows all)\n"), "{out}");
}

#[test]
fn following_goes_on_in_the_file_that_takes_the_place() {
    let scratch = Scratch::new("audit-follow");
    let log = scratch.path().join("audit.jsonl");
    let add = |text: &str| {
        let mut file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let rolled = |n: u32| scratch.path().join(format!("audit.jsonl.2026-11-22T00.00.00.00{n}-{n}.log"));
    let url = |n: u32| line("alice", n, "allow", &format!("/{n}"));
    fs::write(rolled(2), url(2)).unwrap();
    fs::write(rolled(1), url(1)).unwrap();
    let mut turns = 0;
    let mut pause = || {
        turns += 1;
        match turns {
            1 => add(&url(3)),
            2 => {
                // A line in two parts, and the second half is written just before the file is rolled.
                let (head, tail) = (&url(4)[..20], &url(4)[20..]);
                add(head);
                add(tail);
                add(&url(5));
                fs::rename(&log, rolled(3)).unwrap();
            }
            3 => {}
            4 => add(&url(6)),
            // Cut short.
            5 => fs::write(&log, "").unwrap(),
            6 => add(&url(7)),
            7 => add(&line("bob", 8, "allow", "/8")),
            8 => add(&url(9)),
            _ => return false,
        }
        true
    };
    let filter = Filter { user: Some("alice".into()), ..Filter::default() };
    let wanted = Wanted { filter, files: recorded::of_folder(scratch.path()), standard: true };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: &mut out, err: &mut err, term: Term::PLAIN };
    let mut printer = Printer { json: true, term: Term::PLAIN, widths: [0; COLUMNS] };
    assert_eq!(follow::run(&wanted, 1, &mut printer, &mut io, &mut pause).unwrap(), 0);
    let out = String::from_utf8(out).unwrap();
    let urls: Vec<Value> = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["url"].clone()).collect();
    // Of what was there, the last one; then everything of alice's.
    assert_eq!(urls, ["/2", "/3", "/4", "/5", "/6", "/7", "/9"]);
    assert_eq!(String::from_utf8(err).unwrap(), "");
}

/// CLI-07
#[test]
fn cli07_audit_says_what_is_wrong() {
    let empty = Scratch::new("audit-empty");
    let config = empty.path().join("config");
    fs::write(&config, fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/config/minimal.json")).unwrap())
        .unwrap();
    for (args, message) in [
        (&["--decision", "allow,perhaps"][..], "--decision needs some of allow, audit, deny, refused, passed, not \"perhaps\""),
        (&["--file", "/does/not/exist"], "/does/not/exist: No such file"),
        (&["--config", "/does/not/exist"], "Or name the log with --file"),
        (&["--follow", "-"], "--follow needs a file"),
        (&["top", "--by", "weekday"], "--by needs some of user, program, dest, path, decision, not \"weekday\""),
        (&["--limit=some", "x"], "--limit needs a whole number, not \"some\""),
    ] {
        let (status, out, err) = audit(args);
        assert!(status == 2 && out.is_empty() && err.contains(message), "{args:?}: {err}");
    }
    assert!(audit(&["--help"]).1.contains("Commands:\n  top "));
}

/// A reader that has gone is no failure.
#[test]
fn a_closed_pipe_ends_it_without_a_word() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let scratch = Scratch::new("audit-pipe");
    let log = scratch.path().join("log");
    fs::write(&log, line("alice", 1, "allow", "/")).unwrap();
    for args in [&["--follow"][..], &["--json"], &[], &["top"], &["top", "--json"]] {
        let (mut out, mut err) = (Gone, Vec::new());
        let mut io = Io { out: &mut out, err: &mut err, term: Term::PLAIN };
        let args = args.iter().map(OsString::from).chain([log.clone().into_os_string()]);
        let status = FAMILY.run("agent", args, &mut io);
        assert_eq!((status, err), (0, Vec::new()));
    }
}
