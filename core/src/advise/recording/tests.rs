use super::*;
use serde_json::json;

fn line(changes: &serde_json::Value) -> String {
    let mut line = json!({"id": 8, "method": "GET", "url": "/machine/?comp=goalstate", "clientIp": "127.0.0.1", "clientPort": 40438,
        "ip": "168.63.129.16", "port": 80, "userId": 65534, "userName": "nobody", "userGroups": ["nogroup"],
        "processFullPath": "/usr/bin/curl", "processCmdLine": "curl -s", "runAsElevated": false, "responseStatus": "403 Forbidden",
        "elapsedTime": 0, "errorDetails": "", "decision": "deny", "reason": "elevation", "epoch": 3, "connection": 8,
        "processId": 5979, "identity": "verified", "elapsedMicros": 0, "time": "2026-11-22T02:59:11.025"});
    for (name, value) in changes.as_object().unwrap() {
        line[name] = value.clone();
    }
    line.to_string()
}

fn read(text: &str) -> Recording {
    let mut recording = Recording::new();
    let mut reader = Reader::new("a");
    // However it is cut.
    for piece in text.as_bytes().chunks(7) {
        reader.feed(piece, |entry, _| recording.take(entry));
    }
    reader.finish(|entry, _| recording.take(entry));
    recording
}

#[test]
fn a_line_of_the_audit_log_reads_back() {
    let recording = read(&line(&json!({"rule": {"set": "s", "privilege": "p", "assignment": 3, "mode": "enforce"}, "new": [1]})));
    let [request] = &*recording.requests else { panic!("{recording:?}") };
    assert_eq!(request.destination(), Some(Destination::WireServer));
    assert_eq!((request.decision, request.reason.as_str(), request.status), (Outcome::Deny, "elevation", 403));
    assert_eq!((request.rule.set.as_str(), request.rule.privilege.as_str(), request.rule.role.as_str()), ("s", "p", ""));
    assert_eq!(request.time.unwrap().stamp().to_string(), "2026-11-22T02:59:11.025");
    assert_eq!(request.caller.program, Program::Path("/usr/bin/curl".into()));
    let claims = request.caller.claims();
    assert_eq!((claims.process_name(), claims.in_group(b"nogroup"), claims.is_elevated()), (Some(&b"curl"[..]), true, false));
    assert_eq!((recording.tally.lines, recording.problems.len()), (1, 0));
}

/// I-16, I-28
#[test]
fn programs_of_other_mount_namespaces_and_unknown_ones_are_matched_by_no_selector_i16_i28() {
    for (path, program) in [("mnt:/usr/bin/curl", Program::Elsewhere("/usr/bin/curl".into())), ("", Program::Unknown)] {
        let recording = read(&line(&json!({"processFullPath": path})));
        assert_eq!(recording.requests[0].caller.program, program);
        assert_eq!(recording.requests[0].caller.claims().exe_path(), None);
    }
    let unknown =
        read(&line(&json!({"identity": "unknown", "processFullPath": "empty", "userName": "empty", "ip": "None", "port": 0})));
    assert!(!unknown.requests[0].caller.known && unknown.requests[0].to.is_none());
}

#[test]
fn other_lines_are_counted_and_bad_ones_named() {
    let text = [
        line(&json!({})),
        r#"{"suppressed":7,"userId":1000,"whose":"user","reason":"too many refused requests","since":"x","time":"y"}"#.into(),
        r#"{"lost":3,"reason":"the audit log could not be written","time":"2026-11-22T02:59:11.025"}"#.into(),
        line(&json!({"decision": "passed", "networkNamespace": 7})),
        line(&json!({"decision": "postponed"})),
        r#"{"hello":1}"#.into(),
        String::new(),
        "{\"id\":8,\"meth".into(),
        line(&json!({"userId": "root"})),
        line(&json!({"outcome": "interrupted", "responseStatus": "", "decision": "allow"})),
        "{\"id\":9,\"method\":\"GE".into(),
    ]
    .join("\n");
    let recording = read(&text);
    let tally = Tally { lines: 10, suppressed: 7, lost: 3, foreign: 1, unfinished: 1, torn: 1, other: 2 };
    assert_eq!(recording.tally, tally);
    assert_eq!(recording.requests.len(), 2);
    assert!(recording.requests[1].unfinished && recording.requests[1].status == 0);
    let problems: Vec<String> = recording.problems.iter().map(Problem::to_string).collect();
    assert!(problems[0].starts_with("a:8: EOF while parsing a string (column "), "{problems:?}");
    assert!(problems[1].starts_with("a:9: invalid type: string"), "{problems:?}");
    assert_eq!(problems.len(), 2);
}

#[test]
fn a_request_with_two_lines_counts_once() {
    let pending = json!({"outcome": "pending", "responseStatus": "", "decision": "allow"});
    let text =
        [line(&pending), line(&json!({"id": 9})), line(&json!({"decision": "allow", "responseStatus": "200 OK"}))].join("\n");
    let recording = read(&text);
    assert_eq!(recording.requests.iter().map(|r| r.status).collect::<Vec<_>>(), [200, 403]);
    assert_eq!(recording.tally.unfinished, 0);
    let alone = read(&line(&pending));
    assert_eq!((alone.requests.len(), alone.tally.unfinished), (1, 1));
}

#[test]
fn a_line_that_is_none_takes_no_memory() {
    let mut recording = Recording::new();
    let mut reader = Reader::new("zeros");
    for _ in 0..64 {
        reader.feed(&[0; 65536], |entry, _| recording.take(entry));
        assert!(reader.rest.len() <= MAX_LINE);
    }
    reader.feed(b"\n{\"lost\":1}\n", |entry, _| recording.take(entry));
    assert!(recording.problems[0].to_string().starts_with("zeros:1: longer than"), "{:?}", recording.problems);
    assert_eq!(recording.tally.lost, 1);
}

#[test]
fn texts_that_the_log_may_have_cut_are_suspect() {
    for (length, unfinished, cut) in
        [(4096, false, true), (4092, false, false), (1023, false, true), (511, false, false), (511, true, true)]
    {
        let outcome = if unfinished { "interrupted" } else { "" };
        let recording = read(&line(&json!({"url": format!("/{}", "a".repeat(length - 1)), "outcome": outcome})));
        assert_eq!(recording.requests[0].may_be_cut(), cut, "{length}");
    }
}
