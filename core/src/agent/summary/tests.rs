use super::*;
use crate::identity::{Confidence, Destination, RawText};
use crate::time::Wall;

fn at(secs: u64) -> Now {
    Now { mono: Mono(0) + Duration::from_secs(secs), wall: Wall(0) }
}

fn alice(command_line: &str) -> Peer {
    let claims = Claims {
        user_id: 1000,
        group_id: 1000,
        user_name: RawText::from("alice"),
        user_groups: vec![RawText::from("alice"), RawText::from("docker")],
        process_id: 7,
        executable: Executable::Known(RawText::from("/usr/bin/curl")),
        command_line: command_line.into(),
        cgroup: 1,
        confidence: Confidence::Verified,
        on_demand: crate::identity::OnDemand::default(),
    };
    Peer::Redirected { to: Destination::Imds.addr(), claims: Arc::new(claims) }
}

fn normal(peer: &Peer, status: u16) -> Record<'_> {
    Record { kind: RecordKind::Normal, peer, client_ip: [127, 0, 0, 1].into(), status: Status(status) }
}

fn counts(summaries: &Summaries) -> Vec<u64> {
    summaries.export(RecordKind::Normal).iter().map(|e| e.count).collect()
}

#[test]
fn a_bucket_is_opened_every_900_s_px107_px108() {
    let (mut s, peer) = (Summaries::default(), alice("curl"));
    let opened: Vec<u64> = (0..4000).step_by(100).filter(|t| s.record(at(*t), &normal(&peer, 200))).collect();
    assert_eq!(opened, [0, 900, 1800, 2700, 3600]);
    assert_eq!(counts(&s), [40]);
}

#[test]
fn buckets_are_forgotten_after_four_hours_px107() {
    let (mut s, peer) = (Summaries::default(), alice("curl"));
    for t in (0..=14_400).step_by(900) {
        assert!(s.record(at(t), &normal(&peer, 200)));
    }
    s.expire(at(14_400));
    assert_eq!(counts(&s), [17]);
    s.expire(at(14_401));
    assert_eq!(counts(&s), [16]);
    assert!(s.record(at(15_300), &normal(&peer, 200)));
    assert_eq!(counts(&s), [17], "17 places are enough");
    s.expire(at(15_300 + 14_401));
    assert_eq!(counts(&s), [0u64; 0], "a key without buckets is dropped");
}

/// S-67, PX-110: what the wall clock does plays no part.
#[test]
fn a_changed_wall_clock_hides_and_repeats_nothing() {
    let (mut s, peer) = (Summaries::default(), alice("curl"));
    const YEAR: u64 = 365 * 86_400 * 1_000_000_000;
    let walls = [10 * YEAR, 9 * YEAR, 11 * YEAR, 0].into_iter().cycle();
    let opened = (0..4000).step_by(100).zip(walls).filter(|(t, wall)| {
        let now = Now { wall: Wall(*wall), ..at(*t) };
        s.record(now, &normal(&peer, 200))
    });
    assert_eq!(opened.map(|(t, _)| t).collect::<Vec<u64>>(), [0, 900, 1800, 2700, 3600]);
    assert_eq!(counts(&s), [40]);
}

#[test]
fn the_key_is_px106() {
    let mut s = Summaries::default();
    let (a, b) = (alice("curl"), alice("curl -v"));
    assert!(s.record(at(0), &normal(&a, 200)));
    assert!(!s.record(at(1), &normal(&alice("curl"), 200)), "equal claims, another connection");
    assert!(s.record(at(2), &normal(&b, 200)), "command line");
    assert!(s.record(at(3), &normal(&a, 403)), "status");
    assert!(s.record(at(4), &normal(&Peer::Unknown, 421)), "no identity");
    assert!(s.record(at(5), &Record { client_ip: [127, 0, 0, 2].into(), ..normal(&a, 200) }), "client address");
    assert!(s.record(at(6), &Record { kind: RecordKind::Failed, ..normal(&a, 403) }), "the other table");
    assert_eq!(counts(&s), [1, 1, 1, 1, 2], "most recently used first");
}

#[test]
fn entries_have_the_members_of_fs55() {
    let mut s = Summaries::default();
    s.record(at(0), &normal(&alice("curl \"x\"\n"), 403));
    s.record(at(1), &normal(&Peer::Unknown, 421));
    assert_eq!(
        serde_json::to_string(&s.export(RecordKind::Normal)).unwrap(),
        "[{\"userName\":\"empty\",\"ip\":\"None\",\"port\":0,\"processCmdLine\":\"empty\",\"responseStatus\":\"421 Misdirected Request\",\
         \"count\":1,\"userGroups\":[],\"processFullPath\":\"empty\"},\
         {\"userName\":\"alice\",\"ip\":\"169.254.169.254\",\"port\":80,\"processCmdLine\":\"curl \\\"x\\\"\\n\",\
         \"responseStatus\":\"403 Forbidden\",\"count\":1,\"userGroups\":[\"alice\",\"docker\"],\"processFullPath\":\"/usr/bin/curl\"}]"
    );
}

#[test]
fn tables_are_bounded_px110_s53() {
    let mut s = Summaries::default();
    // Worst case for the document: every byte is escaped.
    let peer = |n: u32| alice(&format!("{n}{}", "\u{1}".repeat(1000)));
    let kept = peer(0);
    for n in 0..3000 {
        assert!(s.record(at(1), &normal(&peer(n), 200)));
        s.record(at(1), &normal(&kept, 200));
    }
    assert_eq!(s.normal.rows.len(), KEYS);
    assert!(s.normal.rows.is_sorted_by(|a, b| a.key() < b.key()));
    assert!(!s.record(at(1), &normal(&kept, 200)), "the least recently used go first");
    assert!(!s.record(at(1), &normal(&peer(2999), 200)));
    let entries = s.export(RecordKind::Normal);
    assert!(serde_json::to_vec(&entries).unwrap().len() < 2_000_000);
    assert_eq!(
        serde_json::to_value(&entries[1]).unwrap()["processCmdLine"].as_str().map(|t| t.len()),
        Some(1001),
        "whole entries"
    );
}

#[test]
fn s53_the_status_document_stays_below_4_mib_whatever_callers_do() {
    use crate::agent::{AgentEffect, StatusDraft, StatusReader};
    let claims = |n: usize, groups: usize, line: &str| Claims {
        user_id: 1000,
        group_id: 1000,
        user_name: RawText::from("alice"),
        user_groups: (0..groups).map(|g| RawText::from(g.to_string().as_str())).collect(),
        process_id: 7,
        executable: Executable::Known(RawText::from(format!("/tmp/{n}{}", "\u{2}".repeat(2000)).as_str())),
        command_line: line.into(),
        cgroup: 1,
        confidence: Confidence::Verified,
        on_demand: crate::identity::OnDemand::default(),
    };
    // Every byte escaped; characters of several bytes; one line of the file per group; one row that fits nowhere.
    let lines = ["\u{1}".repeat(1020), "\u{10ffff}".repeat(255), "\"\\".repeat(500), "x".to_owned()];
    for groups in [0, 1, 300] {
        let mut s = Summaries::default();
        for n in 0..2000 {
            let groups = if n == 1999 { 65_537 } else { groups };
            let claims = Arc::new(claims(n, groups, &format!("{n}{}", lines[n % lines.len()])));
            let peer = Peer::Redirected { to: Destination::Imds.addr(), claims };
            let kind = if n % 2 == 0 { RecordKind::Normal } else { RecordKind::Failed };
            s.record(at(1), &Record { kind, ..normal(&peer, 200) });
        }
        let effect = StatusDraft::default().complete(StatusReader::File, &mut s, at(2));
        let AgentEffect::WriteState { bytes, .. } = effect else { panic!("a file") };
        assert!(bytes.len() < 4 << 20, "{} bytes with {groups} groups", bytes.len());
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        for table in ["proxyConnectionSummary", "failedAuthenticateSummary"] {
            assert!(document[table].as_array().unwrap().len() > 1, "{table} with {groups} groups");
        }
    }
}
