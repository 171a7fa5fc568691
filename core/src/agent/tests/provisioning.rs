//! What callers and readers are told (CLI-12 to CLI-15c, PX-49 to PX-59, files.md sections 4 and 6).

use super::*;

/// W-112, CLI-12 to CLI-14, S-36
#[test]
fn finished_when_all_three_are_ready() {
    let mut rig = Rig::new(v1("Wireserver", None));
    let asked = rig.tick();
    assert_eq!(
        rig.provision(asked, false),
        (
            false,
            "ebpfProgramStatus - Status unknown.\r\nkeyLatchStatus - Status unknown.\r\nproxyListenerStatus - Status unknown.\r\n".to_owned()
        )
    );
    rig.secs(1);
    rig.start();
    assert_eq!(
        rig.provision(asked, false),
        (false, "ebpfProgramStatus - Status unknown.\r\nproxyListenerStatus - Status unknown.\r\n".to_owned())
    );
    rig.event(AgentEvent::ListenerReady);
    rig.event(AgentEvent::RedirectorFailed("no cgroup2 mount".to_owned()));
    assert_eq!(rig.provision(asked, false), (false, "ebpfProgramStatus - no cgroup2 mount\r\n".to_owned()));
    assert!(!rig.provision(0, false).0, "PX-56: without a tick it is not finished either");
    rig.event(AgentEvent::RedirectorReady);
    assert_eq!(rig.provision(asked, false), (true, String::new()));
    assert_eq!(rig.ask(LocalQuery::Provision { tick: 0, notify: false }), r#"{"finished":true,"errorMessage":""}"#, "PX-54");
    assert_eq!(rig.files[&StateFile::ProvisionedTag], "2026-01-06T08:15:31.412");
    assert_eq!(rig.files[&StateFile::StatusTag], "");
    assert!(rig.notices.iter().any(|n| n == "Provision finished successfully"));
}

#[test]
fn a_failure_that_repeats_is_said_once() {
    type Failed = fn(String) -> AgentEvent;
    let parts: [(Failed, AgentEvent, &str); 2] = [
        (AgentEvent::ListenerFailed, AgentEvent::ListenerReady, "proxyListenerStatus"),
        (AgentEvent::RedirectorFailed, AgentEvent::RedirectorReady, "ebpfProgramStatus"),
    ];
    for (failed, ready, name) in parts {
        let mut rig = Rig::new(v1("Wireserver", None));
        rig.start();
        let fail = |rig: &mut Rig, text: &str| {
            rig.event(failed(text.to_owned()));
            // Said or not, it is what whoever asks is told (PX-57).
            assert!(rig.provision(0, false).1.contains(&format!("{name} - {text}\r\n")));
            rig.notices.iter().filter(|notice| *notice == text).count()
        };
        assert_eq!([fail(&mut rig, "busy"), fail(&mut rig, "busy"), fail(&mut rig, "busy")], [1, 1, 1], "{name}");
        assert_eq!([fail(&mut rig, "refused"), fail(&mut rig, "busy")], [1, 2], "{name}: each change");
        rig.event(ready);
        assert_eq!([fail(&mut rig, "busy"), fail(&mut rig, "busy")], [3, 3], "{name}: it was well in between");
    }
}

#[test]
fn not_finished_before_the_redirect_is_in_line_cli15() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.redirect_error = Some("EPERM");
    rig.start_all();
    assert_eq!(rig.provision(0, false), (false, "ebpfProgramStatus - EPERM\r\n".to_owned()));
    rig.redirect_error = None;
    rig.secs(15);
    assert_eq!(rig.provision(0, false), (true, String::new()));
}

#[test]
fn a_latched_channel_is_finished_for_every_tick_px55() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start_all();
    rig.secs(100);
    let tick = rig.tick() + 1_000_000_000;
    assert!(rig.provision(tick, false).0);
}

#[test]
fn a_disabled_channel_is_asked_anew_cli24_w87_px58() {
    let mut rig = Rig::new(v1("Disabled", None));
    rig.start_all();
    assert!(rig.provision(0, false).0);
    rig.secs(100);
    let (asked, polls) = (rig.tick(), rig.polls());
    rig.secs(1);
    let before = rig.trace.len();
    assert_eq!(rig.provision(asked, true), (false, String::new()), "the answer is of the moment of the question");
    assert_eq!(rig.trace[before], "GET /secure-channel/status", "the poll is on its way before the answer (PX-58)");
    assert_eq!(rig.polls(), polls + 1, "without waiting for the interval");
    assert_eq!(rig.provision(asked, false), (true, String::new()), "and after that poll it is fresh");
    assert_eq!(rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"]["secureChannelState"], "disabled");
}

/// CLI-15b
#[test]
fn a_notification_during_trouble_is_unfinished_until_a_good_status_w87() {
    let mut rig = Rig::new(v1("Disabled", None));
    rig.start_all();
    rig.secs(1);
    let asked = rig.tick() + 1;
    rig.host.status = Err(FetchError::TimedOut);
    assert!(!rig.provision(asked, true).0);
    let (finished, message) = rig.provision(0, false);
    assert!(!finished && message.starts_with("keyLatchStatus - Failed to get key status"), "{message}");
    assert_eq!(rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"]["secureChannelState"], "Unknown");
    rig.host.status = Ok((200, v1("Disabled", None)));
    rig.pass(Duration::from_millis(1100));
    assert!(rig.provision(asked, false).0);
}

/// S-35
#[test]
fn notifications_are_limited_px59_and_do_not_queue_w89() {
    let mut rig = Rig::new(v1("Disabled", None));
    rig.start_all();
    rig.secs(5);
    let polls = rig.polls();
    for _ in 0..50 {
        let tick = rig.tick() + 1_000_000_000_000;
        rig.provision(tick, true);
    }
    assert_eq!(rig.polls(), polls + 1);
    rig.secs(1);
    let tick = rig.tick() + 1_000_000_000_000;
    rig.provision(tick, true);
    assert_eq!(rig.polls(), polls + 2);
}

/// Two callers within a second: the second one sends no other notification (CLI-21), and must not wait out its time.
#[test]
fn a_notification_soon_after_another_is_kept_px59() {
    let mut rig = Rig::new(v1("Disabled", None));
    rig.start_all();
    rig.secs(100);
    let first = rig.tick() + 1;
    assert!(!rig.provision(first, true).0);
    let polls = rig.polls();
    let second = rig.tick() + 1;
    assert!(!rig.provision(second, true).0, "finished before it was asked");
    assert_eq!(rig.polls(), polls, "not yet");
    rig.secs(1);
    assert_eq!(rig.polls(), polls + 1);
    assert!(rig.provision(second, false).0);
    rig.secs(5);
    assert_eq!(rig.polls(), polls + 1, "once");
}

/// W-88: with a key in use and a redirect that fails, a notification polls nothing, and readiness is what it was.
#[test]
fn a_notification_of_a_latched_channel_only_confirms_w88_w89() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start();
    rig.event(AgentEvent::ListenerReady);
    rig.event(AgentEvent::RedirectorFailed("EPERM".to_owned()));
    rig.host.status = Ok((200, v1("Wireserver", Some(GUID))));
    rig.secs(15);
    let polls = rig.polls();
    for _ in 0..3 {
        assert_eq!(rig.provision(0, true), (false, "ebpfProgramStatus - EPERM\r\n".to_owned()));
        rig.secs(2);
    }
    assert_eq!(rig.polls(), polls, "the rest of the interval is waited for");
    rig.secs(9);
    assert_eq!(rig.polls(), polls + 1);
    rig.event(AgentEvent::RedirectorReady);
    assert_eq!(rig.provision(0, false), (true, String::new()));
}

#[test]
fn a_notification_without_a_latched_key_confirms_nothing_w88() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.host.attest = Ok((500, String::new()));
    rig.start_all();
    let polls = rig.polls();
    assert!(!rig.provision(0, true).0);
    assert!(!rig.provision(0, false).0);
    assert_eq!(rig.polls(), polls, "the rest of the interval is waited for");
    rig.retry();
    assert_eq!(rig.polls(), polls + 1);
}

/// W-75, W-104, W-105
#[test]
fn after_120_s_provisioning_ends_with_errors_cli15a() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.host.status = Err(FetchError::Connect(ConnectError::Unreachable));
    rig.start();
    rig.event(AgentEvent::ListenerReady);
    rig.event(AgentEvent::RedirectorFailed("a <b> & 'c'".to_owned()));
    let asked = rig.tick();
    rig.secs(59);
    assert!(rig.cpu_limits.is_empty());
    rig.secs(1);
    assert_eq!(rig.cpu_limits, [15], "W-76: background tasks at 60 s, FS-100");
    rig.secs(59);
    assert!(!rig.provision(asked, false).0);
    rig.secs(1);
    let text = "ebpfProgramStatus - a <b> & 'c'\r\nkeyLatchStatus - Failed to get key status - host unreachable\r\n";
    assert_eq!(rig.provision(asked, false), (true, text.to_owned()));
    assert_eq!(
        rig.files[&StateFile::StatusTag],
        "ebpfProgramStatus - a &lt;b&gt; &amp; &apos;c&apos;\r\nkeyLatchStatus - Failed to get key status - host unreachable\r\n"
    );
    assert!(rig.files.contains_key(&StateFile::ProvisionedTag));
    // Late, but then normally.
    rig.host.status = Ok((200, v1("Wireserver", None)));
    rig.event(AgentEvent::RedirectorReady);
    rig.secs(15);
    assert_eq!(rig.provision(asked, false), (true, String::new()));
    assert_eq!(rig.files[&StateFile::StatusTag], "");
}

/// PX-03, PX-109, CLI-73
#[test]
fn status_document_is_fs40_to_fs53() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    let expected = serde_json::json!({
        "timestamp": "2026-01-06T08:15:30.412",
        "proxyAgentStatus": {
            "version": "1.2.3",
            "status": "SUCCESS",
            "monitorStatus": {"status": "RUNNING", "message": "Aggregate status written to status file: /var/log/azure-proxy-agent/status.json"},
            "keyLatchStatus": {
                "status": "RUNNING",
                "message": "Successfully attest the key and ready to use. - 0",
                "states": {
                    "secureChannelState": "WireServer Enforce -  IMDS Audit - HostGA Enforce",
                    "keyGuid": GUID,
                    "keyIncarnationId": "3",
                    "wireServerRuleId": "ws-rules-4",
                    "imdsRuleId": "imds-rules-17",
                    "hostGARuleId": "ws-rules-4"
                }
            },
            "ebpfProgramStatus": {"status": "RUNNING", "message": "Started Redirector with eBPF maps - 0"},
            "proxyListenerStatus": {"status": "RUNNING", "message": "Started proxy listener, ready to accept request - 0"},
            "telemetryLoggerStatus": {"status": "RUNNING", "message": "Telemetry event logger thread started."},
            "proxyConnectionsCount": 2
        },
        "proxyConnectionSummary": [{"userName": "empty", "ip": "None", "port": 0, "processCmdLine": "empty",
            "responseStatus": "421 Misdirected Request", "count": 2, "userGroups": [], "processFullPath": "empty"}],
        "failedAuthenticateSummary": []
    });
    let record = Record {
        kind: RecordKind::Normal,
        peer: &crate::identity::Peer::Unknown,
        client_ip: [127, 0, 0, 1].into(),
        status: crate::http::reply::Status::MISDIRECTED,
    };
    let written: Vec<bool> = (0..2)
        .map(|_| {
            rig.agent.requests.next();
            rig.tables.record(rig.now, &record)
        })
        .collect();
    assert_eq!(written, [true, false], "PX-108");
    let compact = rig.ask(LocalQuery::Status);
    assert!(!compact.contains("\n"), "PX-62");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&compact).unwrap(), expected);
    rig.secs(60);
    let file: serde_json::Value = serde_json::from_str(&rig.files[&StateFile::Status]).unwrap();
    assert_eq!(file["timestamp"], "2026-01-06T08:16:30.412", "rewritten every 60 s");
    assert!(rig.files[&StateFile::Status].starts_with("{\n  \"timestamp\""), "pretty-printed");
    rig.disk_error = Some("read-only");
    rig.secs(60);
    assert_eq!(rig.status()["proxyAgentStatus"]["monitorStatus"]["message"], "Status could not be written: read-only");
}

#[test]
fn every_key_refreshes_the_finished_tick_cli15() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start_all();
    rig.host.status = Ok((200, v1("Wireserver", Some(GUID))));
    rig.secs(15);
    assert_eq!(rig.files[&StateFile::ProvisionedTag], "2026-01-06T08:15:30.412");
    rig.host.status = Ok((200, v1("Wireserver", Some(OTHER_GUID))));
    rig.host.key = Ok((200, key_document(OTHER_GUID, OTHER_KEY)));
    rig.secs(15);
    assert_eq!(rig.files[&StateFile::ProvisionedTag], "2026-01-06T08:16:00.412");
    assert_eq!(rig.notices.iter().filter(|n| *n == "Provision finished successfully").count(), 1);
}
