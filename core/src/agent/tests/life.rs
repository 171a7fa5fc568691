//! What changes while the agent runs: keys, rules, states, redirects, the clock.

use super::*;
use TargetMode::{Audit, Enforce, Off};

#[test]
fn polls_are_fast_until_the_first_status_w85_w86_w101_w102_w103() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.host.status = Err(FetchError::TimedOut);
    rig.start();
    rig.secs(299);
    // Each failed one is followed by a wait of 1 s and at most a tenth more.
    let fast = rig.polls();
    assert!((272..=300).contains(&fast), "{fast}");
    rig.secs(60);
    assert!((3..=6).contains(&(rig.polls() - fast)), "after 300 s, every 15 s: {}", rig.polls() - fast);
    rig.host.status = Ok((200, v1("Wireserver", None)));
    rig.retry();
    assert_eq!(rig.guid_in_use(), Some(GUID));
    rig.host.status = Ok((200, v1("Wireserver", Some(GUID))));
    let polls = rig.polls();
    rig.secs(1500);
    assert_eq!(rig.polls(), polls + 100, "while all is well, every 15 s exactly");
}

#[test]
fn a_named_key_is_taken_over_w97() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start_all();
    rig.host.status = Ok((200, v1("Wireserver", Some(GUID))));
    rig.secs(30);
    let before = Arc::clone(&rig.policy);
    assert_eq!(rig.polls(), 3);
    assert_eq!(rig.calls.len(), 5, "the key in use is the expected one: nothing to do");

    // The host wants another key, and its own answers fail at first: the old key goes on being used.
    rig.host.status = Ok((200, v1("Wireserver", Some(OTHER_GUID))));
    rig.host.key = Ok((500, String::new()));
    rig.secs(30);
    assert!(Arc::ptr_eq(&before, &rig.policy));
    rig.host.key = Ok((200, key_document(OTHER_GUID, OTHER_KEY)));
    rig.secs(15);
    assert_eq!(rig.guid_in_use(), Some(OTHER_GUID));
    assert_eq!(before.signer.as_ref().map(|s| s.guid().as_str()), Some(GUID), "a request in flight keeps its signer");
    assert!(rig.disk.contains_key(GUID), "old key files are kept");

    // Back: the old file serves.
    rig.host.status = Ok((200, v1("Wireserver", Some(GUID))));
    rig.host.key = Ok((500, String::new()));
    rig.secs(15);
    assert_eq!(rig.guid_in_use(), Some(GUID));
}

#[test]
fn disabled_forgets_the_key_w82_w100() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    assert_eq!(rig.guid_in_use(), Some(GUID));
    rig.host.status = Ok((200, v2(Some(GUID), RULES).replace("\"secureChannelEnabled\":true", "\"secureChannelEnabled\":false")));
    rig.secs(15);
    assert_eq!(rig.guid_in_use(), None);
    assert!(
        rig.policy.rules.imds.is_none() && rig.policy.rules.wireserver.is_none() && rig.policy.rules.hostga.is_none(),
        "W-44"
    );
    assert_eq!(rig.redirects.last(), Some(&targets(Off, Off)));
    assert_eq!(rig.key_message(), "Customer has not enforce the secure channel state. - 15000");
    let states = &rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"];
    assert_eq!((states["secureChannelState"].as_str(), states.get("keyGuid")), (Some("disabled"), None));
    assert!(rig.disk.contains_key(GUID), "files stay");
    // And back: the file serves.
    rig.host.status = Ok((200, v2(Some(GUID), RULES)));
    rig.secs(15);
    assert_eq!(rig.guid_in_use(), Some(GUID));
    assert_eq!(rig.redirects.last(), Some(&targets(Audit, Enforce)));
}

/// W-78, S-24
#[test]
fn documents_are_compared_as_a_whole_w45() {
    let mut rig = Rig::new(v2(Some(GUID), RULES));
    rig.start_all();
    let first = Arc::clone(&rig.policy);
    rig.host.status = Ok((200, v2(Some(GUID), &RULES.replace("enforce", "audit"))));
    rig.secs(15);
    assert_eq!(rig.policy.epoch.0, first.epoch.0 + 1);
    assert_eq!(rig.policy.rules.wireserver.as_ref().map(|r| r.mode()), Some(Mode::Audit), "the same id, another mode");
    assert_eq!(rig.policy.rules.hostga.as_ref().map(|r| r.mode()), Some(Mode::Audit));
    assert_eq!(rig.redirects.last(), Some(&targets(Audit, Audit)));
    rig.secs(60);
    assert_eq!(rig.policy.epoch.0, first.epoch.0 + 1, "nothing new, nothing published");
}

#[test]
fn rules_hold_before_the_key_and_the_key_before_the_redirect() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.event(AgentEvent::RedirectorReady);
    rig.start();
    let place = |name: &str| rig.trace.iter().position(|t| t == name).unwrap();
    assert!(place("publish") < place("POST /secure-channel/key"));
    assert!(place("publish with key") < place("redirect"));
}

#[test]
fn an_unknown_mode_is_visible_r12_s23() {
    let mut rig = Rig::new(v2(Some(GUID), &RULES.replace("enforce", "inform")));
    rig.start_all();
    assert!(rig.key_message().contains("unknown mode \"inform\""), "{}", rig.key_message());
    assert!(rig.notices.iter().any(|n| n.starts_with("WireServer rules: unknown mode")));
    assert_eq!(rig.redirects.last(), Some(&targets(Audit, Audit)));
}

/// SEC-D4: a document of thousands of faults does not roll the log away, at every change of its id.
#[test]
fn a_document_of_many_faults_is_said_in_few_words() {
    let assignments: Vec<String> = (0..1000).map(|n| format!(r#"{{"role":"none-{n}","identities":[]}}"#)).collect();
    let rules =
        format!(r#""rules":{{"privileges":[],"roles":[],"identities":[],"roleAssignments":[{}]}},"#, assignments.join(","));
    let mut rig = Rig::new(v2(Some(GUID), &RULES.replacen("\"defaultAccess\"", &format!("{rules}\"defaultAccess\""), 1)));
    rig.start_all();
    let said: Vec<&String> = rig.notices.iter().filter(|n| n.starts_with("IMDS rules: ")).collect();
    assert_eq!(said.len(), 1 + 16 + 1, "what replaces what, the first, and how many more: {said:?}");
    assert!(said.contains(&&"IMDS rules: 984 more like these".to_owned()), "{said:?}");
}

#[test]
fn nothing_is_redirected_before_a_good_status_w111() {
    let mut rig = Rig::new(v1("WireserverAndImds", None));
    rig.host.status = Ok((200, "nonsense".to_owned()));
    rig.start_all();
    rig.secs(100);
    assert!(rig.redirects.is_empty());
    rig.host.status = Ok((200, v1("WireserverAndImds", None)));
    rig.secs(1);
    assert_eq!(rig.redirects.first(), Some(&targets(Enforce, Enforce)));
}

/// W-81
#[test]
fn nothing_is_redirected_before_the_redirector_is_ready() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.start();
    rig.secs(60);
    assert!(rig.redirects.is_empty());
    rig.event(AgentEvent::RedirectorReady);
    assert_eq!(rig.redirects, [targets(Audit, Enforce)], "at once, not at the next poll");
}

/// S-31
#[test]
fn the_redirect_follows_the_status_even_without_a_key_w84() {
    let mut rig = Rig::new(v1("Wireserver", None));
    rig.host.key = Ok((500, String::new()));
    rig.start_all();
    assert_eq!(rig.redirects.last(), Some(&targets(Audit, Enforce)));
    rig.host.status = Ok((200, v1("WireserverAndImds", None)));
    rig.retry();
    assert_eq!((rig.redirects.last(), rig.guid_in_use()), (Some(&targets(Enforce, Enforce)), None));
}

/// W-81: tried again in every iteration until it succeeds.
#[test]
fn the_redirect_is_checked_in_every_iteration_s13() {
    let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
    rig.start_all();
    let before = rig.redirects.len();
    rig.redirect_error = Some("the link of connect4 is gone");
    rig.secs(15);
    assert_eq!(rig.redirects.len(), before + 1);
    let status = rig.status();
    assert_eq!(status["proxyAgentStatus"]["status"], "ERROR");
    assert_eq!(status["proxyAgentStatus"]["ebpfProgramStatus"]["status"], "STOPPED");
    assert_eq!(status["proxyAgentStatus"]["ebpfProgramStatus"]["message"], "the link of connect4 is gone");
    rig.secs(15);
    assert_eq!(rig.notices.iter().filter(|n| n.contains("connect4")).count(), 1, "said once");
    rig.redirect_error = None;
    rig.host.status = Err(FetchError::TimedOut);
    rig.secs(15);
    assert_eq!(
        rig.status()["proxyAgentStatus"]["ebpfProgramStatus"]["message"],
        "Started Redirector with eBPF maps - 0",
        "also without a status"
    );
}

#[test]
fn own_dates_come_from_the_hosts_clock_w70_w72() {
    let mut rig = Rig::new(v1("Disabled", None));
    rig.host.date = "Date: Wed, 07 Jan 2026 00:00:00 GMT\r\n".to_owned();
    rig.start();
    assert!(matches!(rig.policy.host_clock, HostClock::Synchronized { .. }), "published");
    rig.secs(15);
    let head = String::from_utf8_lossy(rig.calls.last().unwrap().head()).into_owned();
    assert!(head.contains("\r\nx-ms-azure-host-date: Wed, 07 Jan 2026 00:00:15 GMT\r\n"), "{head}");
    let first = String::from_utf8_lossy(rig.calls[0].head()).into_owned();
    assert!(first.contains("\r\nx-ms-azure-host-date: Tue, 06 Jan 2026 08:15:30 GMT\r\n"), "the system's before that: {first}");
}

#[test]
fn a_drained_agent_asks_no_more_and_leaves_the_redirect() {
    let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
    rig.start_all();
    let before = rig.trace.len();
    rig.event(AgentEvent::Drain);
    rig.secs(30);
    assert!(rig.trace[before..].is_empty(), "{:?}", &rig.trace[before..]);
    assert!(rig.provision(0, false).0, "queries are still answered");
}

#[test]
fn one_redirect_at_a_time_and_only_the_newest_finishes() {
    let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
    rig.start();
    rig.event(AgentEvent::ListenerReady);
    rig.agent.handle_event(rig.now, AgentEvent::RedirectorReady);
    let asked = |rig: &mut Rig| {
        let mut asked = Vec::new();
        while let Some(effect) = rig.agent.poll_effect() {
            match effect {
                AgentEffect::Redirect(targets) => asked.push(targets),
                effect => {
                    if let Some(answer) = rig.carry_out(effect) {
                        rig.agent.handle_answer(rig.now, answer);
                    }
                }
            }
        }
        asked
    };
    assert_eq!(asked(&mut rig), [targets(Audit, Enforce)]);
    // The redirector is slow: another status comes before its answer.
    rig.host.status = Ok((200, v1("WireserverAndImds", Some(GUID))));
    rig.now.mono = rig.now.mono + Duration::from_secs(15);
    rig.agent.handle_timeout(rig.now);
    assert_eq!(asked(&mut rig), []);
    rig.agent.handle_answer(rig.now, AgentAnswer::Redirected(Ok(())));
    assert_eq!(asked(&mut rig), [targets(Enforce, Enforce)]);
    assert!(!rig.provision(0, false).0, "what is in force is not what the newest status wants");
    rig.agent.handle_answer(rig.now, AgentAnswer::Redirected(Ok(())));
    assert!(rig.provision(0, false).0);
}

#[test]
fn heartbeats_while_anything_is_redirected_s03() {
    let mut rig = Rig::new(v2(None, RULES));
    rig.start_all();
    assert_eq!(rig.heartbeats, 1, "before the first redirect");
    rig.host.status = Err(FetchError::TimedOut);
    rig.secs(60);
    assert_eq!(rig.heartbeats, 7, "every 10 s, whatever the host does");
    rig.host.status = Ok((200, v2(Some(GUID), RULES).replace("\"secureChannelEnabled\":true", "\"secureChannelEnabled\":false")));
    rig.secs(15);
    let so_far = rig.heartbeats;
    rig.secs(300);
    assert_eq!(rig.heartbeats, so_far, "nothing is redirected: no wake-ups");
}

/// S-13: the shell owes an answer; if it loses one, the repairs go on.
#[test]
fn a_redirect_that_is_never_answered_is_asked_for_again_s13() {
    let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
    rig.start();
    rig.event(AgentEvent::ListenerReady);
    rig.agent.handle_event(rig.now, AgentEvent::RedirectorReady);
    // Every redirect is taken and none is answered.
    let mut asked = Vec::new();
    for _ in 0..120 {
        rig.agent.handle_timeout(rig.now);
        while let Some(effect) = rig.agent.poll_effect() {
            if let AgentEffect::Redirect(_) = effect {
                asked.push(rig.now.mono);
            } else if let Some(answer) = rig.carry_out(effect) {
                rig.agent.handle_answer(rig.now, answer);
            }
        }
        rig.now.mono = rig.now.mono + Duration::from_secs(1);
    }
    assert_eq!(asked.len(), 3, "one at a time, and again after 40 s at the next iteration: {asked:?}");
    rig.agent.handle_answer(rig.now, AgentAnswer::Redirected(Ok(())));
    rig.drain();
    assert!(rig.provision(0, false).0);
}

/// W-73, W-72: the wall clock is set by a year. Own requests go on with the host's time, the next poll takes it anew, and no timer minds.
#[test]
fn a_wall_clock_that_jumps_by_a_year_changes_no_date_w72_w73() {
    let year = Duration::from_secs(365 * 86_400);
    for forward in [true, false] {
        let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
        rig.start_all();
        rig.secs(15);
        let wall = rig.now.wall;
        rig.now.wall = if forward { wall.plus(year) } else { Wall(wall.0 - u64::try_from(year.as_nanos()).unwrap()) };
        let (polls, tags) = (rig.polls(), rig.trace.iter().filter(|t| *t == "write ProvisionedTag").count());
        rig.host.date = "x-ms-azure-host-date: Tue, 06 Jan 2026 09:00:00 GMT\r\n".to_owned();
        rig.secs(15);
        let date = |rig: &Rig| {
            let head = String::from_utf8_lossy(rig.calls.last().unwrap().head()).into_owned();
            head.lines().find_map(|line| line.strip_prefix("x-ms-azure-host-date: ").map(str::to_owned)).unwrap()
        };
        assert_eq!(date(&rig), "Tue, 06 Jan 2026 08:16:00 GMT", "asked with the host's time, not with the jumped one");
        rig.secs(15);
        assert_eq!(date(&rig), "Tue, 06 Jan 2026 09:00:15 GMT", "taken anew although 15 minutes have not passed");
        assert_eq!(rig.polls(), polls + 2, "W-86");
        assert_eq!(rig.trace.iter().filter(|t| *t == "write ProvisionedTag").count(), tags);
        assert!(rig.provision(rig.tick(), false).0, "PX-55: latched, whatever the ticks say (CLI-23)");
    }
}

/// W-73: a machine that wakes up does each thing once, and not as often as it would have done it.
#[test]
fn after_a_sleep_everything_is_done_once_w73() {
    let mut rig = Rig::new(v1("Wireserver", Some(GUID)));
    rig.start_all();
    rig.secs(100);
    let (polls, heartbeats, effects) = (rig.polls(), rig.heartbeats, rig.trace.len());
    let slept = Duration::from_secs(3 * 86_400);
    rig.now = Now { mono: rig.now.mono + slept, wall: rig.now.wall.plus(slept) };
    rig.host.date = "Date: Fri, 09 Jan 2026 08:17:10 GMT\r\n".to_owned();
    rig.agent.handle_timeout(rig.now);
    rig.drain();
    assert_eq!((rig.polls(), rig.heartbeats), (polls + 1, heartbeats + 1));
    assert!(rig.trace.len() < effects + 10, "{:?}", &rig.trace[effects..]);
    assert_eq!(
        rig.policy.host_clock.at(rig.now),
        Wall::parse_http_date(b"Fri, 09 Jan 2026 08:17:10 GMT").unwrap(),
        "taken at once"
    );
}
