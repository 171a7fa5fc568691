//! What traces look like.

use super::super::tests::{caller as peer, summary as finished};
use super::*;
use crate::authz::{Decision, Denial};
use crate::conn::Steps;
use crate::http::reply::Status;
use crate::identity::Peer;

/// When the request of [`summary`] ended.
const END: Wall = Wall(1_767_687_330_412_000_000);

/// It waited 200 ms for its decision, and took 411.5 ms.
fn summary(peer: &Peer) -> Summary<'_> {
    let decided = Some(Duration::from_millis(200));
    Summary {
        elapsed: Duration::from_micros(411_500),
        steps: Steps { first: true, decided, sent: decided },
        ..finished(peer, Details::None)
    }
}

fn file(summary: &Summary<'_>) -> String {
    let mut out = Vec::new();
    write_trace(&mut out, summary, END);
    String::from_utf8(out).unwrap()
}

fn text(summary: &Summary<'_>) -> String {
    let mut out = Vec::new();
    write_trace_text(&mut out, summary);
    String::from_utf8(out).unwrap()
}

fn system(summary: &Summary<'_>) -> String {
    let mut out = Vec::new();
    write_system_trace(&mut out, summary, END);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_line_per_step_with_the_time_of_the_step_px111_fs70() {
    assert_eq!(
        file(&summary(&peer(b"alice", b"/usr/bin/curl"))),
        r#"2026-01-06T08:15:30.000 [TRACE]   0[7] - Accepted a connection from 127.0.0.1:51514
2026-01-06T08:15:30.000 [TRACE]   42[7] - Request "GET" "/metadata/instance?api-version=2021-02-01" to 169.254.169.254:80
2026-01-06T08:15:30.000 [TRACE]   42[7] - Caller: user 1000 "alice", process 77 "/usr/bin/curl", verified
2026-01-06T08:15:30.200 [TRACE]   42[7] - Decision: allow, no-document, epoch 3
2026-01-06T08:15:30.200 [TRACE]   42[7] - Forwarded to the host
2026-01-06T08:15:30.412 [TRACE]   42[7] - Ended with 200 OK after 411500 us
2026-01-06T08:15:30.412 [TRACE]   42[7] - ------------------------ ConnectionLogger is dropped ------------------------
"#
    );
}

/// The connection is told of once.
#[test]
fn what_a_stream_shows_has_no_header_px111_px112() {
    let peer = peer(b"alice", b"/usr/bin/curl");
    let mut later = summary(&peer);
    later.steps.first = false;
    let header = |line: &str| line.get(34..).unwrap().to_owned();
    for summary in [summary(&peer), later] {
        let bare: Vec<String> = file(&summary).lines().map(header).collect();
        assert_eq!(text(&summary), bare.join("\n"));
        assert_eq!(bare[0].starts_with("0[7] - Accepted"), summary.steps.first);
    }
}

#[test]
fn an_entry_of_the_system_log_has_all_steps_and_when_they_were_px113() {
    assert_eq!(
        system(&summary(&peer(b"alice", b"/usr/bin/curl"))),
        r#"[42] - 0 - 2026-01-06T08:15:30.000 - Request "GET" "/metadata/instance?api-version=2021-02-01" to 169.254.169.254:80
[42] - 0 - 2026-01-06T08:15:30.000 - Caller: user 1000 "alice", process 77 "/usr/bin/curl", verified
[42] - 200 - 2026-01-06T08:15:30.200 - Decision: allow, no-document, epoch 3
[42] - 200 - 2026-01-06T08:15:30.200 - Forwarded to the host
[42] - 411 - 2026-01-06T08:15:30.412 - Ended with 200 OK after 411500 us"#
    );
}

/// PX-111
#[test]
fn refusals_say_why_and_not_that_they_were_forwarded() {
    let someone = peer(b"alice", b"/usr/bin/curl");
    let steps = Steps { first: false, decided: Some(Duration::ZERO), sent: None };
    let (status, decision) = (Status::FORBIDDEN, Some(Decision::Deny(Denial::Default)));
    let denied = Summary { status, decision, details: Details::Denied, steps, ..summary(&someone) };
    let lines = text(&denied);
    let lines: Vec<&str> = lines.lines().map(|line| line.split_once(" - ").unwrap().1).collect();
    assert_eq!(lines[2..4], ["Decision: deny, default, epoch 3", "Ended with 403 Forbidden after 411500 us"]);

    let (status, steps) = (Status::MISDIRECTED, Steps::default());
    let unknown =
        Summary { status, decision: None, details: Details::NoRecord, peer: &Peer::Unknown, steps, ..summary(&someone) };
    let lines = text(&unknown);
    let lines: Vec<&str> = lines.lines().map(|line| line.split_once(" - ").unwrap().1).collect();
    assert_eq!(
        lines[..4],
        [
            r#"Request "GET" "/metadata/instance?api-version=2021-02-01", its destination is not known"#,
            "Caller: unknown",
            "Decision: refused",
            r#"Ended with 421 Misdirected Request after 411500 us: "No remote destination_ip found in the request, return!""#,
        ]
    );
}

/// PX-113, PX-114, SEC-F2: whatever callers choose, each line begins with what we say, and theirs is one JSON string in it.
#[test]
fn no_line_begins_with_what_a_caller_chose_px114() {
    let nasty =
        "/a\n2026-01-06T08:15:30.000 [ERROR]   9[9] - forged\r\x1b[2J\"\\\u{7f}\u{9b}31m\u{2028}\u{4e2d}\n9[9] - forged\n[9] - ";
    let bytes = [nasty.as_bytes(), b"\xff\n9[9] - ", &b"\n".repeat(5000)].concat();
    let peer = peer(&bytes, &bytes);
    for details in [Details::None, Details::Denied, Details::UnsupportedMethod] {
        let summary = Summary { method: &bytes, url: &bytes, details, ..summary(&peer) };
        let (file, text, system) = (file(&summary), text(&summary), system(&summary));
        for (all, count) in [(&file, 7), (&text, 7), (&system, 5)] {
            assert_eq!(all.lines().count(), count, "{all}");
            assert!(!all.chars().any(|c| (c.is_control() && c != '\n') || matches!(c, '\u{2028}' | '\u{2029}')), "{all}");
            assert!(all.len() < 64 * 1024, "{}", all.len());
            // The texts read back, as long as they are.
            let method = all.lines().find_map(|line| line.split_once("Request ")).unwrap().1;
            let texts: Vec<String> =
                serde_json::Deserializer::from_str(method).into_iter().map_while(Result::ok).take(2).collect();
            let expected = String::from_utf8_lossy(&bytes);
            assert!(texts.len() == 2 && texts.iter().all(|text| expected.starts_with(text) && text.len() > 1000), "{texts:?}");
        }
        assert!(
            file.lines().all(|line| line.starts_with("2026-01-06T08:15:30.") && line[23..].starts_with(" [TRACE]   ")),
            "{file}"
        );
        assert!(text.lines().all(|line| line.starts_with("42[7] - ") || line.starts_with("0[7] - Accepted ")), "{text}");
        assert!(system.lines().all(|line| line.starts_with("[42] - ")), "{system}");
    }
}
