//! The audit log of a host in a scratch folder, with agents that are dropped as they stand, which is how a killed one leaves it.

use super::*;
use crate::host::scratch::Scratch;
use crate::host::tests::{host, record};
use azure_proxy_agent_core::authz::{Allowed, Decision, Denial};
use azure_proxy_agent_core::conn::{Details, Steps};
use azure_proxy_agent_core::effect::RecordKind;
use azure_proxy_agent_core::http::reply::Status;
use azure_proxy_agent_core::identity::{Confidence, Destination, Executable, OnDemand, Peer, RawText, Route};
use azure_proxy_agent_core::policy::Epoch;
use redirect_ebpf::MemoryRedirector;
use serde_json::Value;

fn peer(user_id: u32) -> Peer {
    let claims = Claims {
        user_id,
        group_id: 1000,
        user_name: RawText::from("someone"),
        user_groups: Vec::new(),
        process_id: 7,
        executable: Executable::Unknown,
        command_line: "".into(),
        cgroup: 1,
        confidence: Confidence::KernelOnly,
        on_demand: OnDemand::default(),
    };
    Peer::Redirected { to: Destination::Imds.addr(), claims: Arc::new(claims) }
}

fn forwarded(peer: &Peer, request: u64) -> Summary<'_> {
    Summary {
        kind: RecordKind::Normal,
        request,
        connection: request % 3,
        method: b"GET",
        url: b"/x",
        client: "127.0.0.1:40112".parse().expect("address"),
        peer,
        status: Status::OK,
        elapsed: Duration::ZERO,
        details: Details::None,
        decision: Some(Decision::Allow(Allowed::Default)),
        divergence: None,
        epoch: Epoch(1),
        rules: None,
        forwarded: true,
        steps: Steps::default(),
    }
}

fn denied(peer: &Peer, request: u64) -> Summary<'_> {
    let (status, details, decision) = (Status::FORBIDDEN, Details::Denied, Some(Decision::Deny(Denial::Default)));
    Summary { status, details, decision, forwarded: false, ..forwarded(peer, request) }
}

/// Ids and outcomes of what is in the log.
fn lines(scratch: &Scratch) -> Vec<Value> {
    let text = std::fs::read_to_string(scratch.path().join("logs/audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn outcomes(scratch: &Scratch) -> Vec<(u64, String)> {
    let outcome = |line: &Value| line["outcome"].as_str().unwrap_or_default().to_owned();
    lines(scratch).iter().map(|line| (line["id"].as_u64().expect("an id"), outcome(line))).collect()
}

fn done(id: u64) -> (u64, String) {
    (id, String::new())
}

fn with(id: u64, outcome: &str) -> (u64, String) {
    (id, outcome.to_owned())
}

/// Invariant 6
#[test]
fn a_killed_agent_leaves_everything_to_its_successor() {
    let scratch = Scratch::new("records");
    let (host, peer, now) = (host(&scratch), peer(1000), clock::now());
    let records = Records::default();
    records.open(now, &host);
    let mut written = Vec::new();
    for request in 1..=4 {
        records.intend(now, &forwarded(&peer, request), &host);
        if request != 3 {
            written.push(records.record(now, &forwarded(&peer, request), &host));
        }
    }
    assert_eq!(written, [Written::Done, Written::Waiting, Written::Done], "the first at once, the others together");
    assert_eq!(outcomes(&scratch), [done(1)]);
    drop(records);

    let records = Records::default();
    records.open(now, &host);
    assert_eq!(outcomes(&scratch), [done(1), done(2), done(4), with(3, "interrupted")]);
    // In order this time: nothing is left for the next.
    records.intend(now, &forwarded(&peer, 5), &host);
    records.intend(now, &forwarded(&peer, 6), &host);
    assert_eq!(records.gone(now, 5 % 3, &host), Written::Done);
    records.close(now, &host);
    // Its connection ends while the process does: it has its line.
    assert_eq!(records.record(now, &forwarded(&peer, 6), &host), Written::Done);
    let all = [done(1), done(2), done(4), with(3, "interrupted"), with(5, "interrupted"), with(6, "interrupted")];
    assert_eq!(outcomes(&scratch), all);
    drop(records);
    Records::default().open(now, &host);
    assert_eq!(outcomes(&scratch), all);
}

/// S-60, SEC-E2
#[test]
fn without_staging_every_line_is_written_at_once_and_no_link_is_followed() {
    let scratch = Scratch::new("records");
    let (host, peer, now) = (host(&scratch), peer(1000), clock::now());
    std::fs::create_dir(scratch.path().join("logs")).expect("made");
    let (link, target) = (scratch.path().join("logs/audit.staging"), scratch.path().join("target"));
    std::os::unix::fs::symlink(&target, &link).expect("linked");
    let records = Records::default();
    for request in 1..=2 {
        records.intend(now, &forwarded(&peer, request), &host);
        assert_eq!(outcomes(&scratch).last(), Some(&with(request, "pending")), "before the request goes out");
        assert_eq!(records.record(now, &forwarded(&peer, request), &host), Written::Done);
    }
    assert!(!target.exists());
    assert_eq!(outcomes(&scratch), [with(1, "pending"), done(1), with(2, "pending"), done(2)]);
    // As soon as it can be used again, it is.
    std::fs::remove_file(link).expect("removed");
    let later = Now { mono: Mono(now.mono.0 + 60_000_000_000), ..now };
    records.intend(later, &forwarded(&peer, 3), &host);
    assert_eq!(outcomes(&scratch).len(), 4);
    drop(records);
    Records::default().open(later, &host);
    assert_eq!(outcomes(&scratch).last(), Some(&with(3, "interrupted")));
}

/// A file that somebody has cut short under us: what was noted there is lost, the agent is not.
#[test]
fn a_staging_file_that_is_cut_short_ends_nobody() {
    let scratch = Scratch::new("records");
    let (host, peer, now) = (host(&scratch), peer(1000), clock::now());
    let records = Records::default();
    records.intend(now, &forwarded(&peer, 1), &host);
    std::fs::File::options().write(true).open(scratch.path().join("logs/audit.staging")).expect("open").set_len(0).expect("cut");
    records.intend(now, &forwarded(&peer, 2), &host);
    for request in 1..=2 {
        let _: Written = records.record(now, &forwarded(&peer, request), &host);
    }
    assert!(outcomes(&scratch).contains(&done(1)) && outcomes(&scratch).contains(&done(2)), "{:?}", outcomes(&scratch));
}

/// Invariant 6: somebody tidies the log folder while the agent runs, and the agent is killed later.
#[test]
fn a_staging_file_that_is_removed_is_made_again() {
    let scratch = Scratch::new("records");
    let (host, peer, now) = (host(&scratch), peer(1000), clock::now());
    let records = Records::default();
    records.intend(now, &forwarded(&peer, 1), &host);
    std::fs::remove_dir_all(scratch.path().join("logs")).expect("removed");
    let later = Now { mono: now.mono + LOOK, ..now };
    records.intend(later, &forwarded(&peer, 2), &host);
    drop(records);
    Records::default().open(later, &host);
    assert_eq!(outcomes(&scratch), [with(1, "interrupted"), with(2, "interrupted")]);
}

/// S-54, invariant 8
#[test]
fn a_flood_of_refusals_is_counted_and_does_not_roll_the_log() {
    let scratch = Scratch::new("records");
    let (host, now) = (host(&scratch), clock::now());
    let (flooder, other) = (peer(1000), peer(1001));
    let records = Records::default();
    for request in 1..=5_000 {
        let _: Written = records.record(now, &denied(&flooder, request), &host);
    }
    let _: Written = records.record(now, &denied(&other, 5_001), &host);
    records.intend(now, &forwarded(&flooder, 5_002), &host);
    let _: Written = records.record(now, &forwarded(&flooder, 5_002), &host);
    records.close(now, &host);
    let lines = lines(&scratch);
    let of = |id: u64| lines.iter().filter(|line| line["id"].as_u64() == Some(id)).count();
    assert_eq!((of(1), of(5_000), of(5_001), of(5_002)), (1, 0, 1, 1), "what reaches the host is always written");
    let last = lines.last().expect("a line");
    let written = lines.iter().filter(|line| line["decision"] == "deny" && line["userId"] == 1000).count() as u64;
    assert_eq!((last["suppressed"].as_u64(), &last["userId"]), (Some(5_000 - written), &1000.into()));
    let size = std::fs::metadata(scratch.path().join("logs/audit.jsonl")).expect("stat").len();
    assert!(size < 1_100_000, "{size}");
    assert_eq!(records.with_summaries(|_| ()), ());
}

#[test]
fn connections_from_other_network_namespaces_are_written_down_s08() {
    let scratch = Scratch::new("records");
    let (host, redirector) = (host(&scratch), MemoryRedirector::new());
    redirector.note_foreign(record(Route::Refused, 0));
    redirector.note_foreign(record(Route::Passed, 65534));
    let records = Records::default();
    records.foreign(Some(&redirector), &host);
    records.foreign(Some(&redirector), &host);
    assert!(records.flush(&host, clock::now()));
    let lines = lines(&scratch);
    assert_eq!(lines.len(), 2);
    for (line, decision, user) in [(&lines[0], "refused", 0), (&lines[1], "passed", 65534)] {
        assert_eq!(
            (&line["decision"], &line["userId"], &line["ip"]),
            (&decision.into(), &user.into(), &"169.254.169.254".into())
        );
        assert_eq!((&line["reason"], &line["networkNamespace"]), (&"another network namespace".into(), &1.into()));
    }
}

/// SEC-E3
#[test]
fn a_log_that_cannot_be_written_says_afterwards_what_is_missing() {
    let scratch = Scratch::new("records");
    let (host, peer) = (host(&scratch), peer(1000));
    let mut now = clock::now();
    std::fs::create_dir_all(scratch.path().join("logs/audit.jsonl")).expect("in the way");
    let records = Records::default();
    for request in 1..=200 {
        let _: Written = records.record(now, &forwarded(&peer, request), &host);
        now.mono.0 += 60_000_000;
    }
    assert!(!records.flush(&host, now));
    std::fs::remove_dir(scratch.path().join("logs/audit.jsonl")).expect("removed");
    host.reopen_logs();
    assert!(records.flush(&host, now));
    let lines = lines(&scratch);
    let lost = lines.last().expect("a line")["lost"].as_u64().expect("a count");
    let kept: Vec<u64> = lines.iter().filter_map(|line| line["id"].as_u64()).collect();
    assert!(lost > 0 && kept.len() as u64 + lost == 200 && kept.last() == Some(&200), "{lost} lost, {} kept", kept.len());
}

/// A host with a log of its own.
fn traced(scratch: &Scratch, level: &str) -> Host {
    let handle = logging::tests::handle(scratch.path().join("logs").to_str().expect("UTF-8"), level);
    host(scratch).with_log(handle)
}

fn trace(scratch: &Scratch) -> String {
    std::fs::read_to_string(scratch.path().join("logs").join(logging::CONNECTION_FILE)).unwrap_or_default()
}

/// PX-111: together when the request ends, with the lines of the audit log.
#[test]
fn traces_of_requests_are_in_the_connection_log_with_the_audit_log_px111() {
    let scratch = Scratch::new("records");
    let (host, peer, now) = (traced(&scratch, "Trace"), peer(1000), clock::now());
    let records = Records::default();
    records.open(now, &host);
    let written: Vec<Written> = (1..=3).map(|request| records.record(now, &forwarded(&peer, request), &host)).collect();
    assert_eq!(written, [Written::Done, Written::Waiting, Written::Done]);
    let ends = |text: &str| {
        let dropped = "] - ------------------------ ConnectionLogger is dropped ------------------------";
        let end = |line: &str| line.get(34..)?.strip_suffix(dropped).map(str::to_owned);
        text.lines().filter_map(end).collect::<Vec<_>>()
    };
    assert_eq!(ends(&trace(&scratch)), ["1[1"], "the first at once, the others together");
    assert!(records.flush(&host, now));
    assert_eq!(ends(&trace(&scratch)), ["1[1", "2[2", "3[0"]);
    // A denied request has two records and one trace.
    let denied = denied(&peer, 4);
    let _: Written = records.record(now, &Summary { kind: RecordKind::Failed, ..denied }, &host);
    let _: Written = records.record(now, &denied, &host);
    records.close(now, &host);
    let text = trace(&scratch);
    assert_eq!(ends(&text), ["1[1", "2[2", "3[0", "4[1"]);
    assert!(text.lines().all(|line| line.get(23..34) == Some(" [TRACE]   ")), "{text}");
}

/// FS-13
#[test]
fn nothing_is_traced_below_trace() {
    let scratch = Scratch::new("records");
    let (host, peer, now) = (traced(&scratch, "Debug"), peer(1000), clock::now());
    let records = Records::default();
    let _: Written = records.record(now, &forwarded(&peer, 1), &host);
    assert_eq!((records.lock().traces.capacity(), trace(&scratch).as_str()), (0, ""));
    records.close(now, &host);
    assert_eq!(outcomes(&scratch), [done(1)]);
}

/// PX-111, S-54, invariant 8
#[test]
fn a_flood_of_refusals_does_not_roll_the_connection_log() {
    let scratch = Scratch::new("records");
    let (host, peer, now) = (traced(&scratch, "Trace"), peer(1000), clock::now());
    let records = Records::default();
    for request in 1..=20_000 {
        let _: Written = records.record(now, &denied(&peer, request), &host);
    }
    records.close(now, &host);
    let size = trace(&scratch).len();
    assert!(size > 0 && size < 2_000_000, "{size}");
}
