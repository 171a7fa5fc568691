//! The status file, rules snapshots, event files, memory: what is written when, and what a disk that refuses does to it.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// W-109, CLI-73
#[test]
fn s37_fs40_the_status_file_is_written_when_something_changes_and_every_minute() {
    let mut rig = Rig::new(v2(Some(GUID), RULES));
    rig.disk.insert(GUID.to_owned(), key_document(GUID, KEY).into_bytes());
    let start = rig.now.mono;
    rig.start();
    assert_eq!(rig.status_writes, [start], "before anything is ready");
    rig.event(AgentEvent::ListenerReady);
    let message = |rig: &Rig, module: &str| {
        let file: serde_json::Value = serde_json::from_str(&rig.files[&StateFile::Status]).unwrap();
        file["proxyAgentStatus"][module]["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(message(&rig, "proxyListenerStatus"), "Status unknown.");
    rig.secs(1);
    assert_eq!(rig.status_writes[1..], [start + SECOND], "once per second at most");
    assert!(message(&rig, "proxyListenerStatus").starts_with("Started proxy listener"));
    assert!(message(&rig, "keyLatchStatus").starts_with("Found key details"));
    rig.secs(9);
    assert_eq!(rig.status_writes.len(), 2, "nothing changed");
    rig.event(AgentEvent::RedirectorReady);
    assert_eq!(rig.status_writes[2..], [rig.now.mono; 2], "the redirector, and then provisioning finished: at once");
    let background = rig.now.mono;
    rig.secs(180);
    let minutes: Vec<Mono> = (1..=3).map(|n| background + Duration::from_secs(60 * n)).collect();
    // What the memory was worth saying changes no status.
    assert_eq!(rig.status_writes[4..], minutes);
    rig.event(AgentEvent::RedirectorFailed("gone".to_owned()));
    rig.secs(1);
    assert_eq!(message(&rig, "ebpfProgramStatus"), "gone");
}

#[test]
fn s37_a_flood_of_changes_is_one_write_per_second() {
    let mut rig = Rig::new(v2(Some(GUID), RULES));
    rig.disk.insert(GUID.to_owned(), key_document(GUID, KEY).into_bytes());
    rig.start_all();
    let before = rig.status_writes.len();
    for n in 0..1000 {
        rig.event(AgentEvent::ListenerFailed(format!("attempt {n}")));
        rig.pass(Duration::from_millis(10));
    }
    let writes = rig.status_writes.len() - before;
    assert!((9..=11).contains(&writes), "{writes} in 10 s");
    // Requests are counted, but nobody is woken for them.
    rig.secs(2);
    let before = rig.status_writes.len();
    rig.agent.requests.next();
    rig.secs(10);
    assert_eq!(rig.status_writes.len(), before);
}

#[test]
fn sec_e3_what_a_disk_refuses_is_said_once_shown_and_tried_again() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    rig.secs(2);
    assert_eq!(rig.snapshots.len(), 1);
    rig.disk_error = Some("No space left on device");
    // New rules, and a key acquired anew: a snapshot, and the tags.
    rig.host.status = Ok((200, v2(Some(OTHER_GUID), &RULES.replace("ws-rules-4", "ws-rules-5"))));
    rig.disk.insert(OTHER_GUID.to_owned(), key_document(OTHER_GUID, OTHER_KEY).into_bytes());
    rig.notices.clear();
    rig.secs(300);
    assert_eq!(rig.guid_in_use(), Some(OTHER_GUID), "it goes on");
    let complaints: Vec<&String> = rig.notices.iter().filter(|n| n.contains("No space left")).collect();
    assert_eq!(
        complaints,
        [
            "The rules snapshot could not be written: No space left on device",
            "Status could not be written: No space left on device",
            "ProvisionedTag could not be written: No space left on device",
            "StatusTag could not be written: No space left on device",
        ],
        "each once"
    );
    let status = rig.status();
    let message = |module: &str| status["proxyAgentStatus"][module]["message"].as_str().unwrap().to_owned();
    assert_eq!(message("monitorStatus"), "Status could not be written: No space left on device");
    let tags =
        "ProvisionedTag could not be written: No space left on device; StatusTag could not be written: No space left on device";
    assert_eq!(message("keyLatchStatus"), format!("Found key details from local and ready to use. - 15000 ({tags})"));
    assert_eq!(status["proxyAgentStatus"]["status"], "SUCCESS");

    rig.disk_error = None;
    rig.files.clear();
    rig.snapshots.clear();
    rig.secs(15);
    assert_eq!(rig.files.len(), 3, "within a poll interval: {:?}", rig.files.keys());
    assert_eq!(rig.snapshots.len(), 1);
    assert!(rig.snapshots[0].1.contains("ws-rules-5"));
    rig.secs(1);
    let file: serde_json::Value = serde_json::from_str(&rig.files[&StateFile::Status]).unwrap();
    assert!(file["proxyAgentStatus"]["monitorStatus"]["message"].as_str().unwrap().starts_with("Aggregate status written"));
    assert!(!file.to_string().contains("could not be written"), "{file}");
    let calm = rig.trace.len();
    rig.secs(40);
    assert!(!rig.trace[calm..].iter().any(|t| t.starts_with("write")), "and not again");
}

#[test]
fn r150_r152_r153_a_snapshot_for_every_change_of_the_rules() {
    let rules = r#"{"imds":{"defaultAccess":"deny","mode":"enforce","id":"eyJpZCI6InAiLCJ1c2VMb2NhbEZpbGVSdWxlcyI6dHJ1ZX0=","rules":{
        "privileges":[{"name":"inst","path":"/Metadata/./Instance","queryParameters":{"API":"A%20b"}},{"name":"none","path":"/"}],
        "roles":[{"name":"r","privileges":["inst"]}],
        "identities":[{"name":"alice","userName":"alice"},{"name":"bob","exePath":"/b","processName":"b","groupName":"g"}],
        "roleAssignments":[{"role":"r","identities":["bob","alice"]}]}},
        "wireserver":{"defaultAccess":"allow","mode":"audit","id":"ws"}}"#;
    let mut rig = Rig::new(v2(None, rules));
    rig.start();
    let [(name, text)] = &rig.snapshots[..] else { panic!("{:?}", rig.snapshots) };
    assert_eq!(name, "AuthorizationRules_2026-01-06T08.15.30.412-1767687330412000000.json");
    assert!(text.starts_with("{\n  \"inputRules\": {\n    \"imds\": {\n      \"defaultAccess\": \"deny\",\n"), "{text}");
    let computed = |id, mode, allowed| serde_json::json!({"id": id, "defaultAllowed": allowed, "mode": mode, "privileges": {}, "privilegeAssignments": {}, "identities": {}});
    let mut imds: serde_json::Value = serde_json::from_str(rules).unwrap();
    imds["imds"]["id"] = "p-useLocalFileRules-true".into();
    let expected = serde_json::json!({
        "inputRules": {
            "imds": imds["imds"],
            "wireserver": {"defaultAccess": "allow", "mode": "audit", "id": "ws-useLocalFileRules-false"},
            "hostga": {"defaultAccess": "allow", "mode": "audit", "id": "ws"},
        },
        "computedRules": {
            "imds": {
                "id": "p-useLocalFileRules-true", "defaultAllowed": false, "mode": "Enforce",
                "privileges": {
                    "inst": {"name": "inst", "path": "/metadata/instance", "queryParameters": {"api": "a b"}},
                    "none": {"name": "none", "path": "/"},
                },
                "privilegeAssignments": {"inst": ["alice", "bob"]},
                "identities": {
                    "alice": {"name": "alice", "userName": "alice"},
                    "bob": {"name": "bob", "groupName": "g", "exePath": "/b", "processName": "b"},
                },
            },
            "wireserver": computed("ws-useLocalFileRules-false", "Audit", true),
            "hostga": computed("ws", "Audit", true),
        }
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(text).unwrap(), expected);
    // R-104
    let states = &rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"];
    assert_eq!(states["imdsRuleId"], "eyJpZCI6InAiLCJ1c2VMb2NhbEZpbGVSdWxlcyI6dHJ1ZX0=");
    assert_eq!((&states["wireServerRuleId"], &states["hostGARuleId"]), (&"ws".into(), &"ws".into()));

    // PX-63: what is in force is what was written.
    let in_force: serde_json::Value = serde_json::from_str(&rig.ask(LocalQuery::Rules)).unwrap();
    assert_eq!((&in_force["rules"], &in_force["settled"]), (&expected["inputRules"], &true.into()));
    assert_eq!(in_force["epoch"], rig.policy.epoch.0);

    rig.secs(60);
    assert_eq!(rig.snapshots.len(), 1, "the same rules are not written again");
    rig.host.status = Ok((200, v2(Some(GUID), &rules.replace("allow", "deny"))));
    rig.secs(15);
    assert_eq!(rig.snapshots.len(), 2, "W-45: also under the same id");
    rig.host.status = Ok((200, v1("Disabled", None)));
    rig.secs(15);
    assert_eq!(rig.snapshots.len(), 3);
    assert_eq!(rig.snapshots[2].1, "{\n  \"inputRules\": {},\n  \"computedRules\": {}\n}");
}

#[test]
fn r151_five_snapshots_are_kept_and_foreign_names_never_removed() {
    let name = |n: u64| format!("AuthorizationRules_{}.json", Wall(1_767_687_330_412_000_000 + n).file_stamp());
    let foreign = [
        "status.json",
        "AuthorizationRules_1.json",
        "AuthorizationRules_2026-01-06T08.15.30.412-1.json.tmp",
        "AuthorizationRules_.json",
    ];
    let with = |numbers: &[u64]| {
        let mut names: Vec<String> = numbers.iter().map(|n| name(*n)).chain(foreign.map(str::to_owned)).collect();
        surplus_snapshots(&mut names, &name(90)).to_vec()
    };
    assert_eq!(with(&[4, 3, 2, 1]), [] as [String; 0]);
    assert_eq!(with(&[5, 1, 4, 3, 2]), [name(1)]);
    assert_eq!(with(&[9, 7, 1, 4, 3, 2]), [name(1), name(2)]);
    assert_eq!(with(&[92, 91, 1, 4, 3, 2]), [name(91), name(92)], "of a clock that was ahead");
}

#[test]
fn fs57_memory_is_said_when_it_changes_and_warned_about_above_20_mb() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    rig.notices.clear();
    for memory in [4 << 20, (4 << 20) + 1000, 9 << 20, 21 << 20, (21 << 20) + 1, 4 << 20] {
        rig.memory = memory;
        rig.secs(60);
    }
    let notices: Vec<&String> = rig.notices.iter().filter(|n| n.contains("memory")).collect();
    assert_eq!(
        notices,
        [
            "Resident memory: 4.0 MB",
            "Resident memory: 4.0 MB",
            "Resident memory: 9.0 MB",
            "Resident memory: 21.0 MB, which is more than 20 MB",
            "Resident memory: 21.0 MB",
            "Resident memory: 4.0 MB"
        ]
    );
    let levels: Vec<&str> =
        rig.log.lines().filter(|l| l.contains("Resident")).map(|l| l.split("level: ").nth(1).unwrap()).collect();
    let levels: Vec<&str> = levels.iter().map(|l| l.split(',').next().unwrap()).collect();
    assert_eq!(levels, ["Info", "Debug", "Info", "Warn", "Debug", "Info"], "what did not change is a detail");
}

#[test]
fn t11_t16_events_are_taken_away_every_minute_and_at_the_end() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    assert_eq!(rig.event_writes, 0);
    rig.secs(180);
    assert_eq!(rig.event_writes, 3);
    rig.event(AgentEvent::Drain);
    assert_eq!(rig.event_writes, 4);
}

#[test]
fn fs80_t10_t17_lost_events_are_said_once_and_never_as_events() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    rig.notices.clear();
    rig.log.clear();
    for events in [
        EventsWritten::Full { dropped: 3 },
        EventsWritten::Full { dropped: 1 },
        EventsWritten::Nothing,
        EventsWritten::Full { dropped: 2 },
        EventsWritten::Written { dropped: 0 },
        EventsWritten::Written { dropped: 7 },
        EventsWritten::Failed("read-only".to_owned()),
    ] {
        rig.events = events;
        rig.secs(60);
    }
    let notices: Vec<&String> = rig.notices.iter().filter(|n| n.contains("vents ")).collect();
    assert_eq!(
        notices,
        [
            "There are 30 event files, which is the limit: new events are dropped.",
            "Events are written again.",
            "7 events were dropped, because too many came at once.",
            "Events could not be written: read-only."
        ]
    );
    assert!(
        rig.log
            .lines()
            .filter(|l| l.contains("vents "))
            .all(|l| l.starts_with("Notice { source: None") || !l.starts_with("Notice"))
    );
    assert_eq!(rig.status()["proxyAgentStatus"]["telemetryLoggerStatus"]["message"], "Events could not be written: read-only.");
    let tries = rig.event_writes;
    rig.secs(30);
    assert_eq!(rig.event_writes, tries + 2, "tried again every poll interval");
}

#[test]
fn sec_e3_log_files_that_fail_are_in_the_status() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    rig.event(AgentEvent::Logs(Some("The log file audit.jsonl is not written: disk full".to_owned())));
    let message =
        |rig: &mut Rig| rig.status()["proxyAgentStatus"]["telemetryLoggerStatus"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message(&mut rig), "The log file audit.jsonl is not written: disk full");
    rig.event(AgentEvent::Logs(None));
    assert_eq!(message(&mut rig), "Telemetry event logger thread started.");
}

#[test]
fn cli15_fs100_the_processor_is_limited_once() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    assert_eq!(rig.cpu_limits, [15]);
    rig.secs(300);
    rig.host.status = Ok((200, v1("Wireserver", Some(OTHER_GUID))));
    rig.host.key = Ok((200, key_document(OTHER_GUID, OTHER_KEY)));
    rig.secs(300);
    assert_eq!(rig.cpu_limits, [15]);
}

#[test]
fn fs37_what_the_serial_console_shows() {
    let shown = |rig: &Rig| -> Vec<String> {
        let texts = rig.log.lines().filter_map(|line| line.split("console: true, text: \"").nth(1));
        texts.map(|text| text.split('"').next().unwrap().to_owned()).collect()
    };
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start_all();
    rig.host.status = Ok((200, v1("Wireserver", Some(GUID))));
    rig.secs(120);
    assert_eq!(
        shown(&rig),
        [
            "Successfully attest the key and ready to use. - 0",
            "Started proxy listener, ready to accept request - 0",
            "Started Redirector with eBPF maps - 0",
            "Provision finished successfully"
        ]
    );
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.host.status = Err(FetchError::TimedOut);
    rig.start();
    rig.secs(120);
    let expected = [
        "ebpfProgramStatus - Status unknown.",
        "keyLatchStatus - Failed to get key status - no complete response in time",
        "proxyListenerStatus - Status unknown.",
    ];
    assert_eq!(shown(&rig), expected, "PX-57");
}
