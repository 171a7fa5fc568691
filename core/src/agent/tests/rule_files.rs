//! Local rule files in the agent: when they are looked at, what is in force, what is said (rules.md sections 4.1, 4.2 and 4.4).

use super::*;
use bytes::Bytes;

/// `{"id":"prof-1","useLocalFileRules":true}`, and the same with `false`.
const ON: &str = "eyJpZCI6InByb2YtMSIsInVzZUxvY2FsRmlsZVJ1bGVzIjp0cnVlfQ==";
const OFF: &str = "eyJpZCI6InByb2YtMSIsInVzZUxvY2FsRmlsZVJ1bGVzIjpmYWxzZX0=";
const IMDS: &str = "IMDS_Rules.json";
const WIRESERVER: &str = "WireServer_Rules.json";
const MOMENT: Duration = Duration::from_millis(50);

/// A status whose rules allow everything.
fn status(imds: &str, wireserver: &str, mode: &str) -> String {
    let document = |id: &str| format!(r#"{{"defaultAccess":"allow","mode":"{mode}","id":"{id}"}}"#);
    v2(None, &format!(r#"{{"imds":{},"wireserver":{}}}"#, document(imds), document(wireserver)))
}

fn file(text: &str) -> RuleFile {
    let stamp = FileStamp { modified: (1, 0), changed: (1, 0), size: text.len() as u64, inode: 7, device: 1 };
    RuleFile::Read { stamp, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

fn later(file: RuleFile, seconds: i64) -> RuleFile {
    match file {
        RuleFile::Read { stamp, bytes } => RuleFile::Read { stamp: FileStamp { modified: (seconds, 0), ..stamp }, bytes },
        other => other,
    }
}

impl Rig {
    /// A machine whose host wants the IMDS file.
    fn with_file(found: RuleFile) -> Self {
        let mut rig = Self::new(status(ON, "ws", "enforce"));
        rig.rule_files.insert(IMDS, found);
        rig.start_all();
        // Retries, if any.
        rig.pass(Duration::from_millis(500));
        rig
    }

    /// The IMDS file becomes another one, and the agent is told.
    fn change(&mut self, found: RuleFile) {
        self.rule_files.insert(IMDS, found);
        self.event(AgentEvent::RulesChanged);
        self.pass(Duration::from_millis(500));
    }

    /// Whether IMDS allows what no rule mentions, and the id of the rules.
    fn imds(&self) -> (bool, &str) {
        let rules = self.policy.rules.imds.as_ref().expect("rules");
        (rules.default_allowed(), rules.id())
    }

    fn looks(&self) -> usize {
        self.trace.iter().filter(|t| t.starts_with("look at")).count()
    }

    /// What was told of files since the last call: task, component, level, text.
    fn file_events(&mut self) -> Vec<String> {
        let told = std::mem::take(&mut self.told);
        let of_files = told.into_iter().filter(|(task, ..)| task.starts_with("Local"));
        of_files.map(|(task, component, level, text)| format!("{task} {component} {level:?} {text}")).collect()
    }
}

/// R-110 to R-113, R-120, R-130, R-145, R-146, SEC-L1, SEC-L2, SEC-L10, SEC-L17: the whole story, without a word of the host.
#[test]
fn a_file_appears_breaks_is_repaired_and_removed_r111_r112_r113_r120_r146() {
    let mut rig = Rig::with_file(RuleFile::Missing);
    assert_eq!(rig.imds(), (true, "prof-1-useLocalFileRules-true"));
    assert_eq!(
        rig.file_events(),
        [
            "LocalFileRulesStateChanged IMDS Warn IMDS local file rules enabled.",
            "LocalFileRulesStateChanged IMDS Warn IMDS local rules file deleted or not found at /rules/IMDS_Rules.json."
        ]
    );
    let (polls, epoch) = (rig.polls(), rig.policy.epoch);
    rig.change(file(r#"{"defaultAccess": "deny", "id": "mine", "mode": "audit"}"#));
    assert_eq!(rig.imds(), (false, "prof-1-useLocalFileRules-true_mine"));
    assert_eq!(rig.policy.rules.imds.as_ref().unwrap().mode(), Mode::Enforce, "R-133");
    assert_eq!(rig.policy.epoch.0, epoch.0 + 1, "one policy");
    assert_eq!(
        rig.file_events(),
        [
            "LocalFileRulesStateChanged IMDS Warn IMDS local rules file found at /rules/IMDS_Rules.json.",
            "LocalRulesFileParseSuccess IMDS Info Successfully parsed IMDS local rules file /rules/IMDS_Rules.json with id 'mine' on attempt 1."
        ]
    );
    rig.change(file(r#"{"defaultAccess": "allow""#));
    assert_eq!(rig.imds(), (false, "prof-1-useLocalFileRules-true"));
    assert_eq!(
        rig.file_events(),
        [
            "LocalFileRulesStateChanged IMDS Warn IMDS local rules file changed at /rules/IMDS_Rules.json.",
            "LocalRulesFileParseFailed IMDS Error Failed to parse IMDS local rules file /rules/IMDS_Rules.json: line 1, column 25: EOF while parsing an object. Apply fail-closed rules."
        ]
    );
    let message = rig.key_message();
    let broken = "(IMDS rules: fail-closed, because /rules/IMDS_Rules.json cannot be used: line 1, column 25: EOF while parsing an object)";
    assert!(message.ends_with(broken), "S-25: {message}");
    rig.change(later(file(r#"{"defaultAccess": "allow"}"#), 2));
    assert_eq!(rig.imds(), (true, "prof-1-useLocalFileRules-true"));
    assert!(!rig.key_message().contains("fail-closed"));
    let success = "LocalRulesFileParseSuccess IMDS Info Successfully parsed IMDS local rules file /rules/IMDS_Rules.json with id 'unknown' on attempt 1.";
    assert_eq!(rig.file_events()[1], success);
    rig.change(RuleFile::Missing);
    assert_eq!(rig.imds(), (true, "prof-1-useLocalFileRules-true"));
    assert_eq!(
        rig.file_events(),
        ["LocalFileRulesStateChanged IMDS Warn IMDS local rules file deleted or not found at /rules/IMDS_Rules.json."]
    );
    assert_eq!(rig.polls(), polls, "the host was not asked");
    assert_eq!(rig.policy.epoch.0, epoch.0 + 3, "nothing changed with the last one");
}

/// R-103, R-104, R-141, R-150, R-152, R-154.
#[test]
fn status_has_raw_ids_and_snapshots_have_what_is_in_force_r103_r104_r150() {
    let mut rig = Rig::with_file(RuleFile::Missing);
    let before = rig.snapshots.len();
    rig.change(file(r#"{"id": "mine", "rules": {"privileges": [{"name": "p", "path": "/P"}], "roles": [], "identities": [], "roleAssignments": []}}"#));
    assert_eq!(rig.snapshots.len(), before + 1);
    let snapshot: serde_json::Value = serde_json::from_str(&rig.snapshots[before].1).unwrap();
    assert_eq!(snapshot["inputRules"]["imds"]["id"], "prof-1-useLocalFileRules-true_mine");
    assert_eq!(snapshot["inputRules"]["imds"]["rules"]["privileges"][0]["path"], "/P");
    assert_eq!(snapshot["computedRules"]["imds"]["privileges"]["p"]["path"], "/p");
    assert_eq!(snapshot["inputRules"]["wireserver"]["id"], "ws-useLocalFileRules-false");
    assert_eq!(snapshot["inputRules"]["hostga"]["id"], "ws");
    let states = &rig.status()["proxyAgentStatus"]["keyLatchStatus"]["states"];
    assert_eq!([&states["imdsRuleId"], &states["wireServerRuleId"], &states["hostGARuleId"]], [ON, "ws", "ws"]);
}

/// R-116, W-110: three attempts, 50 ms apart, and what was in force stays until the last.
#[test]
fn a_half_written_file_is_read_again_and_never_half_used_r116() {
    let mut rig = Rig::with_file(file(r#"{"defaultAccess": "deny", "id": "old"}"#));
    let (looks, epoch) = (rig.looks(), rig.policy.epoch);
    let half = || RuleFile::Changing { stamp: FileStamp::default() };
    for found in [file(r#"{"defaultAccess": "allow", "id": "ne"#), half()] {
        rig.rule_files.insert(IMDS, found);
        rig.event(AgentEvent::RulesChanged);
        assert_eq!(rig.agent.deadline().unwrap().timer, AgentTimer::Rules);
        rig.pass(MOMENT + MOMENT);
        assert_eq!((rig.imds(), rig.policy.epoch), ((false, "prof-1-useLocalFileRules-true_old"), epoch), "two attempts");
        assert!(rig.told.iter().all(|(task, ..)| *task != "LocalRulesFileParseFailed"));
        rig.rule_files.insert(IMDS, file(r#"{"defaultAccess": "deny", "id": "old"}"#));
        rig.pass(MOMENT);
        assert_eq!(rig.policy.epoch, epoch, "whole again at the third, and the same as before");
    }
    assert_eq!(rig.looks(), looks + 6);
    rig.file_events();
    rig.rule_files.insert(IMDS, half());
    rig.event(AgentEvent::RulesChanged);
    rig.pass(MOMENT * 3);
    assert_eq!(rig.imds(), (false, "prof-1-useLocalFileRules-true"), "given up: closed");
    assert_eq!(rig.looks(), looks + 9);
    let events = rig.file_events();
    assert!(events.iter().any(|e| e.contains("it changes while it is read. Apply fail-closed rules.")), "{events:?}");
    rig.change(later(file(r#"{"id": "new"}"#), 3));
    let events = rig.file_events();
    assert!(events.iter().any(|e| e.ends_with("with id 'new' on attempt 1.")), "{events:?}");
}

/// R-116: the second attempt, when it succeeds, says so.
#[test]
fn the_attempt_that_succeeded_is_told_r116_r120() {
    let mut rig = Rig::with_file(RuleFile::Missing);
    rig.rule_files.insert(IMDS, file("{"));
    rig.event(AgentEvent::RulesChanged);
    rig.pass(MOMENT);
    rig.rule_files.insert(IMDS, file("{}"));
    rig.pass(MOMENT);
    assert!(rig.file_events().iter().any(|e| e.ends_with("with id 'unknown' on attempt 2.")));
}

/// R-113, R-114, R-116, R-119, R-134: what reading again cannot mend is not read again.
#[test]
fn what_is_invalid_is_final_r116_r119() {
    let refused =
        RuleFile::Unreadable { stamp: FileStamp::default(), reason: "refused, because it is a symbolic link".to_owned() };
    let unknown = RuleFile::Unknown("Input/output error".to_owned());
    for (found, task, reason) in [
        (file(r#"{"defaultAccess": "perhaps"}"#), "ParseFailed", "line 1, column 19: defaultAccess: neither allow nor deny"),
        (refused, "ParseFailed", "refused, because it is a symbolic link"),
        (unknown, "MetadataReadFailed", "Input/output error. Treat it as parse failure and apply fail-closed rules."),
    ] {
        let mut rig = Rig::with_file(file(r#"{"defaultAccess": "allow"}"#));
        assert_eq!(rig.imds(), (true, "prof-1-useLocalFileRules-true"));
        let looks = rig.looks();
        rig.file_events();
        rig.change(found);
        assert_eq!(rig.looks(), looks + 1);
        assert_eq!(rig.imds(), (false, "prof-1-useLocalFileRules-true"), "{reason}");
        let events = rig.file_events();
        assert!(events[1].starts_with(&format!("LocalRulesFile{task} IMDS Error ")) && events[1].contains(reason), "{events:?}");
        assert!(rig.key_message().contains("fail-closed"));
    }
}

/// R-120: the text for metadata.
#[test]
fn metadata_that_cannot_be_read_is_told_twice_r114_r120() {
    let mut rig = Rig::with_file(RuleFile::Unknown("EIO".to_owned()));
    assert_eq!(
        rig.file_events()[1..],
        [
            "LocalFileRulesStateChanged IMDS Error IMDS local rules file metadata read failed at /rules/IMDS_Rules.json: EIO",
            "LocalRulesFileMetadataReadFailed IMDS Error Failed to read IMDS local rules file metadata /rules/IMDS_Rules.json: EIO. Treat it as parse failure and apply fail-closed rules."
        ]
    );
}

/// R-115: looked at in every poll; parsed again when there is a reason, and what stays as it was is said once.
#[test]
fn looked_at_in_every_poll_and_said_once_r115() {
    let mut rig = Rig::with_file(file(r#"{"id": "mine"}"#));
    let (looks, snapshots) = (rig.looks(), rig.snapshots.len());
    rig.file_events();
    rig.secs(30);
    assert_eq!((rig.looks(), rig.snapshots.len()), (looks + 2, snapshots));
    assert!(rig.file_events().is_empty());
    // Another id of the host's document: parsed again.
    let other = "eyJpZCI6InAiLCJ1c2VMb2NhbEZpbGVSdWxlcyI6dHJ1ZSwiZXh0cmEiOjF9";
    rig.host.status = Ok((200, status(other, "ws", "enforce")));
    rig.secs(15);
    assert_eq!(rig.imds(), (true, "p-useLocalFileRules-true_mine"));
    assert_eq!(rig.file_events().len(), 1, "LocalRulesFileParseSuccess");
    // A failure is tried again in every poll.
    rig.rule_files.insert(IMDS, file("nonsense"));
    rig.secs(15);
    rig.pass(MOMENT * 2);
    assert_eq!(rig.file_events().len(), 2);
    let looks = rig.looks();
    rig.secs(15);
    rig.pass(MOMENT * 2);
    assert_eq!(rig.looks(), looks + 3);
    assert!(rig.file_events().is_empty(), "the same failure");
    assert!(!rig.imds().0);
    // No look without a good status.
    rig.host.status = Err(FetchError::TimedOut);
    rig.secs(60);
    assert_eq!(rig.looks(), looks + 3);
    assert!(!rig.imds().0, "R-146: it stays");
}

/// R-117, S-61, SEC-L18: whatever tells one file from another, and the content if nothing does.
#[test]
fn every_change_is_seen_r117_s61() {
    let deny = r#"{"defaultAccess": "deny" }"#;
    let stamp = FileStamp { modified: (1, 0), changed: (1, 0), size: 26, inode: 7, device: 1 };
    let others = [
        stamp,
        FileStamp { modified: (1, 1), ..stamp },
        FileStamp { changed: (2, 0), ..stamp },
        FileStamp { inode: 8, ..stamp },
        FileStamp { device: 2, ..stamp },
    ];
    for other in others {
        let mut rig = Rig::with_file(file(r#"{"defaultAccess": "allow"}"#));
        assert!(rig.imds().0);
        rig.rule_files.insert(IMDS, RuleFile::Read { stamp: other, bytes: Bytes::from_static(deny.as_bytes()) });
        rig.secs(15);
        assert!(!rig.imds().0, "{other:?}");
        let events = rig.file_events();
        assert!(events.iter().any(|e| e.contains("local rules file changed at")), "{events:?}");
    }
}

/// R-110: switched off, the file does not count, and is news when it counts again.
#[test]
fn the_host_switches_the_file_off_and_on_r101_r105_r110() {
    let mut rig = Rig::with_file(file(r#"{"defaultAccess": "deny"}"#));
    assert!(!rig.imds().0);
    rig.file_events();
    rig.host.status = Ok((200, status(OFF, "ws", "enforce")));
    rig.secs(15);
    assert_eq!(rig.imds(), (true, "prof-1-useLocalFileRules-false"));
    let looks = rig.looks();
    rig.change(file("broken"));
    assert_eq!(rig.looks(), looks, "nobody looks");
    assert_eq!(rig.file_events(), ["LocalFileRulesStateChanged IMDS Warn IMDS local file rules disabled."]);
    assert!(rig.imds().0 && !rig.key_message().contains("fail-closed"));
    rig.host.status = Ok((200, status(ON, "ws", "enforce")));
    rig.secs(15);
    rig.pass(MOMENT * 2);
    assert_eq!(rig.imds(), (false, "prof-1-useLocalFileRules-true"), "broken: R-146");
    let events = rig.file_events();
    assert!(events[0].ends_with("enabled.") && events[1].contains("file found at") && events[2].contains("ParseFailed"));
    rig.host.status = Ok((200, v1("Disabled", None)));
    rig.secs(15);
    assert!(rig.policy.rules.imds.is_none());
    assert_eq!(rig.file_events(), ["LocalFileRulesStateChanged IMDS Warn IMDS local file rules disabled."]);
}

/// R-145: in audit mode a broken file denies nothing, but it shows (S-25).
#[test]
fn a_broken_file_keeps_the_mode_r145_s25() {
    let mut rig = Rig::new(status(ON, "ws", "audit"));
    rig.rule_files.insert(IMDS, file("broken"));
    rig.start_all();
    rig.pass(MOMENT * 2);
    let rules = rig.policy.rules.imds.clone().unwrap();
    assert_eq!((rules.mode(), rules.default_allowed()), (Mode::Audit, false));
    assert!(rig.key_message().contains("fail-closed"));
}

/// R-104, R-147, W-41, SEC-L19.
#[test]
fn the_host_plugin_is_not_affected_r147_sec_l19() {
    let mut rig = Rig::new(status("i", ON, "enforce"));
    rig.rule_files.insert(WIRESERVER, file("broken"));
    rig.start_all();
    rig.pass(MOMENT * 2);
    let rules = &rig.policy.rules;
    let of = |rules: &Option<Arc<crate::authz::Rules>>| rules.as_ref().map(|r| (r.default_allowed(), r.id().to_owned())).unwrap();
    assert_eq!(of(&rules.wireserver), (false, "prof-1-useLocalFileRules-true".to_owned()));
    assert_eq!(of(&rules.hostga), (true, ON.to_owned()));
    assert_eq!(of(&rules.imds), (true, "i-useLocalFileRules-false".to_owned()));
    assert!(rig.file_events()[0].starts_with("LocalFileRulesStateChanged WireServer Warn WireServer local"));
}

/// An agent that starts lets nobody in before it knows what the owner says, however long that takes: no rules without the file's, no
/// redirect, not settled (S-03).
#[test]
fn nothing_is_in_force_before_the_file_was_read_r112_s03() {
    let mut rig = Rig::new(status(ON, ON, "enforce"));
    let (mut asked, mut published) = (Vec::new(), Vec::new());
    let mut drive = |rig: &mut Rig, asked: &mut Vec<AgentEffect>| {
        while let Some(effect) = rig.agent.poll_effect() {
            match effect {
                AgentEffect::ReadRules { .. } => asked.push(effect),
                AgentEffect::Publish(policy) => published.push(policy),
                AgentEffect::Redirect(_) => panic!("too early"),
                other => {
                    if let Some(answer) = rig.carry_out(other) {
                        rig.agent.handle_answer(rig.now, answer);
                    }
                }
            }
        }
        published.iter().all(|p| !p.settled && p.rules.imds.is_none() && p.rules.wireserver.is_none())
    };
    rig.agent.handle_start(rig.now);
    assert!(drive(&mut rig, &mut asked));
    for event in [AgentEvent::ListenerReady, AgentEvent::RedirectorReady] {
        rig.agent.handle_event(rig.now, event);
        assert!(drive(&mut rig, &mut asked));
    }
    rig.now.mono = rig.now.mono + Duration::from_secs(16);
    rig.agent.handle_timeout(rig.now);
    assert!(drive(&mut rig, &mut asked), "another poll");
    let [AgentEffect::ReadRules { id: first, .. }, AgentEffect::ReadRules { id: second, of, .. }] = asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(of, Destination::Imds);
    let deny = file(r#"{"defaultAccess": "deny"}"#);
    let answer = |id, of, found| AgentAnswer::RulesSeen { id, of, found };
    rig.agent.handle_answer(rig.now, answer(first, Destination::WireServer, deny.clone()));
    assert!(drive(&mut rig, &mut asked), "one of two");
    rig.agent.handle_answer(rig.now, answer(LookId(99), Destination::Imds, RuleFile::Missing));
    assert!(drive(&mut rig, &mut asked), "not the answer");
    // The other one is given up, and that is no way round it.
    rig.rule_files = [(WIRESERVER, deny), (IMDS, RuleFile::Unknown("no answer in time".to_owned()))].into();
    rig.now.mono = rig.now.mono + Duration::from_secs(30);
    rig.agent.handle_timeout(rig.now);
    rig.policy = published.last().unwrap().clone();
    rig.drain();
    assert!(rig.policy.settled && !rig.redirects.is_empty());
    assert!(!rig.imds().0 && !rig.policy.rules.wireserver.as_ref().unwrap().default_allowed());
    assert!(rig.key_message().contains("no answer in time"));
    rig.agent.handle_answer(rig.now, answer(second, Destination::Imds, file(r#"{"defaultAccess": "allow"}"#)));
    rig.drain();
    assert!(!rig.imds().0, "a late answer");
}

/// A change while a look is under way is not forgotten.
#[test]
fn a_change_during_a_look_is_looked_at_r117() {
    let mut rig = Rig::with_file(RuleFile::Missing);
    rig.rule_files.insert(IMDS, file(r#"{"defaultAccess": "deny"}"#));
    rig.event(AgentEvent::RulesChanged);
    rig.now.mono = rig.now.mono + MOMENT;
    rig.agent.handle_timeout(rig.now);
    let Some(effect @ AgentEffect::ReadRules { .. }) = rig.agent.poll_effect() else { panic!("no look") };
    rig.agent.handle_event(rig.now, AgentEvent::RulesChanged);
    let answer = rig.carry_out(effect).unwrap();
    rig.rule_files.insert(IMDS, file(r#"{"defaultAccess": "allow"}"#));
    rig.agent.handle_answer(rig.now, answer);
    rig.drain();
    assert!(!rig.imds().0);
    rig.pass(MOMENT);
    assert!(rig.imds().0);
}

/// What a simulated file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Missing,
    Allow,
    Deny,
    Half,
    Changing,
    Unknown,
}

impl Kind {
    /// Those that allow something last.
    const ALL: [Self; 6] = [Self::Deny, Self::Half, Self::Changing, Self::Unknown, Self::Missing, Self::Allow];

    fn found(self) -> RuleFile {
        match self {
            Self::Missing => RuleFile::Missing,
            Self::Allow => file(r#"{"defaultAccess": "allow"}"#),
            Self::Deny => file(r#"{"defaultAccess": "deny" }"#),
            Self::Half => file(r#"{"defaultAccess": "allow""#),
            Self::Changing => RuleFile::Changing { stamp: FileStamp::default() },
            Self::Unknown => RuleFile::Unknown("EIO".to_owned()),
        }
    }
}

/// R-111 to R-117, R-145, R-146: files that change, answers that are late or lost, a host that changes its mind, in any order. Where no
/// file ever allowed anything, nothing is allowed; and when all is quiet, what is in force is what is there.
#[test]
fn no_order_of_events_opens_anything_r112_r113_r146() {
    for seed in 0..60 {
        let mut state: u64 = seed * 2 + 1;
        let mut below = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let mut rig = Rig::new(status(ON, "ws", "enforce"));
        let mut kind = Kind::Deny;
        let mut late = Vec::new();
        // Whether the file was ever such that it allows something.
        let mut has_allowed = false;
        rig.agent.handle_start(rig.now);
        for _ in 0..300 {
            match below(6) {
                0 => kind = Kind::ALL[below(if seed % 2 == 0 { 6 } else { 4 })],
                1 => rig.agent.handle_event(rig.now, AgentEvent::RulesChanged),
                2 => rig.now.mono = rig.now.mono + Duration::from_millis(below(200) as u64),
                3 => rig.now.mono = rig.now.mono + Duration::from_secs(below(50) as u64),
                4 => rig.host.status = Ok((200, status([ON, ON, OFF][below(3)], "ws", ["enforce", "audit"][below(2)]))),
                _ if !late.is_empty() => {
                    let answer = late.swap_remove(below(late.len()));
                    rig.agent.handle_answer(rig.now, answer);
                }
                _ => {}
            }
            has_allowed |= matches!(kind, Kind::Allow | Kind::Missing);
            rig.agent.handle_timeout(rig.now);
            while let Some(effect) = rig.agent.poll_effect() {
                rig.rule_files.insert(IMDS, kind.found());
                let is_look = matches!(effect, AgentEffect::ReadRules { .. });
                match rig.carry_out(effect) {
                    // Late, or lost if nobody takes it.
                    Some(answer) if is_look && below(3) == 0 => late.push(answer),
                    Some(answer) => rig.agent.handle_answer(rig.now, answer),
                    None => {}
                }
            }
            if let Some(rules) = rig.policy.rules.imds.as_ref().filter(|rules| rules.id().ends_with("true")) {
                assert!(!rules.default_allowed() || has_allowed, "seed {seed}: open");
            }
        }
        rig.rule_files.insert(IMDS, kind.found());
        rig.host.status = Ok((200, status(ON, "ws", "enforce")));
        rig.secs(100);
        assert_eq!(rig.imds(), (matches!(kind, Kind::Allow | Kind::Missing), "prof-1-useLocalFileRules-true"), "seed {seed}");
        assert!(rig.policy.settled);
        // From now on no file allows anything, and no old answer brings that back.
        rig.change(Kind::Deny.found());
        for answer in late {
            rig.agent.handle_answer(rig.now, answer);
            rig.drain();
            assert!(!rig.imds().0, "seed {seed}: a late answer");
        }
    }
}
