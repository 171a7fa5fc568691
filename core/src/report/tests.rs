//! What lines look like.

use super::*;
use crate::authz::{Allowed, Denial, Document, Request, Rules, Scratch, explain};
use crate::identity::{OnDemand, PerDestination, RawText};

fn peer(path: &[u8]) -> Peer {
    caller(b"alice", path)
}

pub(super) fn caller(name: &[u8], path: &[u8]) -> Peer {
    Peer::Redirected {
        to: Destination::Imds.addr(),
        claims: Arc::new(Claims {
            user_id: 1000,
            group_id: 1000,
            user_name: RawText::from(name),
            user_groups: vec![RawText::from("alice"), RawText::from("docker")],
            process_id: 77,
            executable: Executable::Known(RawText::from(path)),
            command_line: "curl -s -H Metadata:true".into(),
            cgroup: 1,
            confidence: Confidence::Verified,
            on_demand: OnDemand::default(),
        }),
    }
}

pub(super) fn summary<'a>(peer: &'a Peer, details: Details) -> Summary<'a> {
    Summary {
        kind: RecordKind::Normal,
        request: 42,
        connection: 7,
        method: b"GET",
        url: b"/metadata/instance?api-version=2021-02-01",
        client: "127.0.0.1:51514".parse().unwrap(),
        peer,
        status: Status::OK,
        elapsed: Duration::from_micros(7_900),
        details,
        decision: Some(Decision::Allow(Allowed::NoDocument)),
        divergence: None,
        epoch: Epoch(3),
        rules: None,
        forwarded: true,
        steps: Steps::default(),
    }
}

#[test]
fn summary_object_px81_to_px96() {
    let peer = peer(b"/usr/bin/curl");
    let mut out = Vec::new();
    write_summary(&mut out, &summary(&peer, Details::None));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"id":42,"method":"GET","url":"/metadata/instance?api-version=2021-02-01","clientIp":"127.0.0.1","clientPort":51514,"ip":"169.254.169.254","port":80,"userId":1000,"userName":"alice","userGroups":["alice","docker"],"processFullPath":"/usr/bin/curl","processCmdLine":"curl -s -H Metadata:true","runAsElevated":false,"responseStatus":"200 OK","elapsedTime":7,"errorDetails":""}"#
    );
}

#[test]
fn hostile_text_stays_one_line_px114_sec_f2() {
    let peer = peer(b"/tmp/a\n{\"id\":1}\xff\x1b[31m");
    let mut out = Vec::new();
    write_audit(&mut out, &Summary { url: b"/\"\r\n", ..summary(&peer, Details::Denied) }, Wall(0));
    let line = String::from_utf8(out).unwrap();
    assert!(!line.contains(['\n', '\r', '\x1b']), "{line}");
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["processFullPath"], "/tmp/a\n{\"id\":1}\u{fffd}\u{1b}[31m");
    assert!(value["errorDetails"].as_str().unwrap().starts_with("Block unauthorized request: {\"userId\":1000,"));
}

#[test]
fn a_long_target_or_method_is_cut_at_a_character_boundary_px82_px83_px105() {
    let peer = peer(b"/usr/bin/curl");
    // The two bytes of the last character that counts would be the 4096th and the 4097th.
    let long = format!("/{}\u{e9}{}", "a".repeat(4094), "b".repeat(60_000));
    for (url, kept) in [(long.as_bytes(), 4095), (&long.as_bytes()[1..], 4096), (&[0xff; 60_000], 4095)] {
        let (mut record, mut audit) = (Vec::new(), Vec::new());
        let summary = Summary { method: url, url, ..summary(&peer, Details::Denied) };
        write_summary(&mut record, &summary);
        write_audit(&mut audit, &summary, Wall(0));
        for line in [record, audit] {
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            for name in ["method", "url"] {
                let got = value[name].as_str().unwrap();
                assert_eq!(got.len(), kept, "{name}");
                assert!(String::from_utf8_lossy(url).starts_with(got), "{name}");
            }
        }
    }
}

#[test]
fn audit_mode_is_said_px73() {
    let peer = peer(b"/usr/bin/curl");
    let audited =
        Summary { kind: RecordKind::Failed, decision: Some(Decision::Audit(Denial::Default)), ..summary(&peer, Details::Denied) };
    let line = "IMDS request /metadata/instance?api-version=2021-02-01 denied in audit mode, continue forward the request";
    assert_eq!(audit_notice(&audited).as_deref(), Some(line));
    assert_eq!(audit_notice(&Summary { kind: RecordKind::Normal, ..audited }), None);
    assert_eq!(audit_notice(&summary(&peer, Details::None)), None);
}

/// PX-108: beside the summary object, once for its two records; SEC-07: names from outside are quoted and cannot fill the log.
#[test]
fn a_denial_is_said_with_the_rule_that_denied() {
    let peer = peer(b"/usr/bin/curl");
    let denied = |rules| {
        let decision = Some(Decision::Deny(Denial::Default));
        Summary { kind: RecordKind::Normal, decision, rules, ..summary(&peer, Details::Denied) }
    };
    let document = serde_json::json!({"defaultAccess": "deny", "mode": "enforce", "id": "set-1"});
    let rules = Rules::compile(&serde_json::from_value::<Document>(document).unwrap()).0;
    let line = "Request 42 of user \"alice\" for \"/metadata/instance?api-version=2021-02-01\" denied: \
        no privilege matches, and the default access is deny; mode enforce, rule set \"set-1\", epoch 3";
    assert_eq!(denial_notice(&denied(Some(&rules))).as_deref(), Some(line));
    assert_eq!(denial_notice(&Summary { kind: RecordKind::Failed, ..denied(Some(&rules)) }), None);
    assert_eq!(denial_notice(&summary(&peer, Details::None)), None);
    let rules = endless_rules();
    let line = denial_notice(&denied(Some(&rules))).unwrap();
    assert!(line.len() < 3 * 4096 && !line.contains(|c: char| c.is_control()), "{}", line.len());
}

#[test]
fn a_denied_request_is_audited_once_px104() {
    let peer = peer(b"/usr/bin/curl");
    let normal = summary(&peer, Details::Denied);
    assert!(normal.is_audited());
    assert!(!Summary { kind: RecordKind::Failed, ..normal }.is_audited());
    // PX-24 is told as failed only.
    assert!(Summary { kind: RecordKind::Failed, details: Details::NoClaims, ..normal }.is_audited());
}

#[test]
fn without_identity_i19() {
    let mut out = Vec::new();
    write_summary(&mut out, &Summary { status: Status::MISDIRECTED, ..summary(&Peer::Unknown, Details::NoRecord) });
    let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&value["ip"], &value["port"]), (&"None".into(), &0.into()));
    assert_eq!((&value["userName"], &value["processFullPath"]), (&"empty".into(), &"empty".into()));
    assert_eq!(value["responseStatus"], "421 Misdirected Request");
    assert_eq!(value["errorDetails"], "No remote destination_ip found in the request, return!");
}

/// A caller whose every text is as long as it can be and consists of what JSON needs most room for.
fn endless() -> Peer {
    let long = "\u{1}".repeat(5_000);
    Peer::Redirected {
        to: Destination::HostGaPlugin.addr(),
        claims: Arc::new(Claims {
            user_id: u32::MAX,
            group_id: 1000,
            user_name: RawText::from(long.as_str()),
            user_groups: vec![RawText::from(long.as_str()); 300],
            process_id: u32::MAX,
            executable: Executable::Elsewhere(RawText::from(long.as_str())),
            command_line: long.as_str().into(),
            cgroup: 1,
            confidence: Confidence::KernelOnly,
            on_demand: OnDemand::default(),
        }),
    }
}

/// A document whose names are as long as they can be and need most room.
fn endless_rules() -> Arc<Rules> {
    let long = "\u{1}".repeat(5_000);
    let document = serde_json::json!({"defaultAccess": "deny", "mode": "enforce", "id": long, "rules": {
        "privileges": [{"name": long, "path": "/"}], "roles": [{"name": long, "privileges": [long]}],
        "identities": [{"name": long}], "roleAssignments": [{"role": long, "identities": [long]}]}});
    Arc::new(Rules::compile(&serde_json::from_value::<Document>(document).unwrap()).0)
}

#[test]
fn a_line_is_bounded_whatever_the_caller_is_called_s53() {
    let endless = endless();
    let hostile = vec![b'"'; 60_000];
    let rules = PerDestination { hostga: Some(endless_rules()), ..PerDestination::default() };
    let (to, claims) = (Destination::HostGaPlugin.addr(), endless.claims().unwrap());
    let claims = Claims { user_id: 0, ..claims.clone() };
    let request = Request { method: b"GET", target: b"/" };
    let granted = explain(&rules, Epoch(1), to, &claims, request, &mut Scratch::new()).decision();
    assert!(matches!(granted, Decision::Allow(Allowed::Privilege(..))));
    let summary = Summary {
        request: u64::MAX,
        connection: u64::MAX,
        method: &hostile,
        url: &hostile,
        elapsed: Duration::MAX,
        decision: Some(granted),
        epoch: Epoch(u64::MAX),
        rules: rules.hostga.as_deref(),
        ..summary(&endless, Details::Denied)
    };
    let (mut audit, mut intent) = (Vec::new(), Vec::new());
    write_audit(&mut audit, &summary, Wall(u64::MAX));
    write_unfinished(&mut intent, &summary, Wall(u64::MAX), Unfinished::Interrupted);
    for (line, most) in [(audit, MAX_LINE), (intent, MAX_UNFINISHED)] {
        assert!(line.len() <= most, "{}", line.len());
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&value["id"], &value["userId"]), (&u64::MAX.into(), &u32::MAX.into()));
        assert!(!value["url"].as_str().unwrap().is_empty());
        assert!(value["rule"]["identity"].as_str().unwrap().len() >= 12);
    }
}

/// The audit line and the explanation are one value (design: audit log).
#[test]
fn the_rule_that_decided_is_named_last_and_as_the_explanation_has_it() {
    let document = serde_json::json!({"defaultAccess": "deny", "mode": "audit", "id": "set-1", "rules": {
        "privileges": [{"name": "inst", "path": "/metadata/instance"}, {"name": "locked", "path": "/locked"}],
        "roles": [{"name": "reader", "privileges": ["inst"]}],
        "identities": [{"name": "al", "userName": "alice"}],
        "roleAssignments": [{"role": "reader", "identities": []}, {"role": "reader", "identities": ["al"]}]}});
    let rules = Arc::new(Rules::compile(&serde_json::from_value::<Document>(document).unwrap()).0);
    let rules = PerDestination { imds: Some(rules), ..PerDestination::default() };
    let peer = peer(b"/usr/bin/curl");
    for (url, end) in [
        (
            "/metadata/instance?api-version=2021-02-01",
            r#""rule":{"set":"set-1","mode":"audit","privilege":"inst","role":"reader","assignment":1,"identity":"al"}}"#,
        ),
        ("/locked/x", r#""rule":{"set":"set-1","mode":"audit","privilege":"locked"}}"#),
        ("/other", r#""rule":{"set":"set-1","mode":"audit"}}"#),
    ] {
        let request = Request { method: b"GET", target: url.as_bytes() };
        let claims = peer.claims().unwrap();
        let told = explain(&rules, Epoch(3), Destination::Imds.addr(), claims, request, &mut Scratch::new());
        let summary = Summary {
            url: url.as_bytes(),
            decision: Some(told.decision()),
            rules: rules.imds.as_deref(),
            ..summary(&peer, Details::None)
        };
        let mut out = Vec::new();
        write_audit(&mut out, &summary, Wall(0));
        let line = String::from_utf8(out).unwrap();
        assert!(line.ends_with(&format!(r#""time":"1970-01-01T00:00:00.000",{end}"#)), "{line}");
        let (line, told): (serde_json::Value, _) = (serde_json::from_str(&line).unwrap(), serde_json::to_value(told).unwrap());
        for member in ["decision", "reason", "epoch", "rule"] {
            assert_eq!(line[member], told[member], "{member}");
        }
    }
}

#[test]
fn an_unfinished_request_says_so_and_what_was_decided() {
    let peer = peer(b"/usr/bin/curl");
    let mut out = Vec::new();
    let summary = Summary { elapsed: Duration::ZERO, ..summary(&peer, Details::None) };
    write_unfinished(&mut out, &summary, Wall(1_767_687_330_123_000_000), Unfinished::Interrupted);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"id":42,"method":"GET","url":"/metadata/instance?api-version=2021-02-01","clientIp":"127.0.0.1","clientPort":51514,"ip":"169.254.169.254","port":80,"userId":1000,"userName":"alice","userGroups":["alice","docker"],"processFullPath":"/usr/bin/curl","processCmdLine":"curl -s -H Metadata:true","runAsElevated":false,"responseStatus":"","elapsedTime":0,"errorDetails":"the agent ended before the outcome was known","decision":"allow","reason":"no-document","epoch":3,"connection":7,"processId":77,"identity":"verified","elapsedMicros":0,"time":"2026-01-06T08:15:30.123","outcome":"interrupted"}"#
    );
}

#[test]
fn a_connection_from_another_network_namespace_is_told_s08() {
    let peer = peer(b"/usr/bin/curl");
    let record = KernelRecord {
        route: Route::Refused,
        original: Destination::Imds.addr(),
        tgid: 77,
        tid: 77,
        ppid: 1,
        uid: 1000,
        gid: 100,
        start_boottime: 1,
        exec_id: 1,
        exe: None,
        pid_ns: 1,
        ns_tgid: 7,
        task_cgroup: 1,
        socket_cgroup: 1,
        netns: 4_026_532_999,
        socket_cookie: 1,
        connected_at: 2,
        mapped_v6: false,
        comm: *b"curl\0\0\0\0\0\0\0\0\0\0\0\0",
    };
    let Peer::Redirected { claims, .. } = &peer else { panic!("it is") };
    for (route, decision) in [(Route::Refused, "refused"), (Route::Passed, "passed")] {
        let mut out = Vec::new();
        write_foreign(&mut out, &KernelRecord { route, ..record }, claims, Wall(1_767_687_330_123_000_000));
        let line = String::from_utf8(out).unwrap();
        assert!(line.starts_with(r#"{"id":0,"method":"","url":"","clientIp":"0.0.0.0","clientPort":0,"ip":"169.254.169.254","port":80,"userId":1000,"#), "{line}");
        let end = format!(
            r#""decision":"{decision}","reason":"another network namespace","epoch":0,"connection":0,"processId":77,"identity":"verified","elapsedMicros":0,"time":"2026-01-06T08:15:30.123","networkNamespace":4026532999}}"#
        );
        assert!(line.ends_with(&end), "{line}");
    }
}

#[test]
fn what_was_not_written_is_told() {
    let mut out = Vec::new();
    let wall = Wall(1_767_687_330_123_000_000);
    write_suppressed(&mut out, &Suppressed { whose: Refused::User(1000), count: 3, since: Wall(0) }, wall);
    out.push(b'\n');
    write_suppressed(&mut out, &Suppressed { whose: Refused::Unknown, count: 4, since: Wall(0) }, wall);
    out.push(b'\n');
    write_lost(&mut out, 5, wall);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"suppressed":3,"userId":1000,"whose":"user","reason":"too many refused requests","since":"1970-01-01T00:00:00.000","time":"2026-01-06T08:15:30.123"}"#,
            r#"{"suppressed":4,"whose":"unknown callers","reason":"too many refused requests","since":"1970-01-01T00:00:00.000","time":"2026-01-06T08:15:30.123"}"#,
            r#"{"lost":5,"reason":"the audit log could not be written","time":"2026-01-06T08:15:30.123"}"#,
        ]
    );
}
