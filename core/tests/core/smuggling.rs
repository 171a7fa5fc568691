//! Hostile messages: each whole, cut at every byte, and byte by byte, with another request behind it.

use super::support::testdata;
use azure_proxy_agent_core::effect::{How, RecordKind, Side};
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::replay::{Cuts, Fixture, Output, Streams, play};

struct Entry {
    name: String,
    expect: String,
    heredoc: String,
}

fn entries(file: &str) -> Vec<Entry> {
    let text = std::fs::read_to_string(testdata().join("smuggling").join(file)).unwrap();
    let mut lines = text.lines().filter(|l| !l.starts_with('#'));
    let mut entries = Vec::new();
    while let Some(name) = lines.next() {
        if name.is_empty() {
            continue;
        }
        let expect = lines.next().unwrap().strip_prefix("expect ").unwrap().to_owned();
        let source = lines.next().unwrap().strip_prefix("source ").unwrap();
        assert!(!source.is_empty(), "{name}: no source");
        let mut heredoc = String::new();
        for line in lines.by_ref() {
            heredoc.push_str(line);
            heredoc.push('\n');
            if line == "    ." {
                break;
            }
        }
        entries.push(Entry { name: name.to_owned(), expect, heredoc });
    }
    entries
}

const BEGIN: &str =
    "replay 1\npolicy signed {\"signer\":\"k1\"}\n0s < accept 127.0.0.1:40112\n0s < identified redirected imds alice\n";
const FINE: &str = "0s < upstream\n    HTTP/1.1 200 OK\n    Content-Length: 4\n\n    fine\\\n    .\n";

/// Plays under every cut; returns what comes out, which is the same under all of them.
fn outcome(name: &str, text: &str, joined: bool) -> Streams {
    let mut fixture: Fixture = text.parse().unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
    if joined {
        // The message and what is behind it arrive together.
        let behind = fixture.steps.remove(3);
        let (message, behind) = (&mut fixture.steps[2].input, behind.input);
        use azure_proxy_agent_core::replay::Input;
        let (Input::Bytes(_, message), Input::Bytes(_, behind)) = (message, behind) else { panic!("{name}: not bytes") };
        message.extend(behind);
    }
    let run = |cuts: Cuts| {
        let how = format!("{cuts:?}");
        play(&fixture, Limits::DEFAULT, cuts).unwrap_or_else(|e| panic!("{name}, {how}: {e}")).streams()
    };
    let whole = run(Cuts::Whole);
    let len = text.len().max(if text.contains("\\(") { 70_200 } else { 0 });
    let positions = (0..len.min(900)).chain((900..len).step_by(7_919)).map(Cuts::At);
    for cuts in positions.chain([Cuts::Every(1)]) {
        let how = format!("{cuts:?}");
        let other = run(cuts);
        assert!(other.agrees(&whole), "{name}, {how}:\n{other:?}\nwhole:\n{whole:?}");
    }
    whole
}

fn connects(streams: &Streams) -> usize {
    streams.effects.iter().filter(|e| matches!(e, Output::Connect(_))).count()
}

#[test]
fn smuggling_requests() {
    let all = entries("requests.txt");
    assert!(all.len() >= 60, "{} messages", all.len());
    for entry in &all {
        let name = entry.name.as_str();
        let after = "0s < client\n    GET /behind HTTP/1.1\n    Host: 169.254.169.254\n\n    .\n";
        if entry.expect == "forwarded" {
            let text = format!("{BEGIN}0s < client\n{}0s < connected\n{FINE}0s < client eof\n", entry.heredoc);
            forwarded(name, &outcome(name, &text, false));
        } else {
            let text = format!("{BEGIN}0s < client\n{}{after}0s < client eof\n", entry.heredoc);
            refused(name, &entry.expect, &outcome(name, &text, true));
        }
    }
}

fn refused(name: &str, expect: &str, streams: &Streams) {
    assert!(streams.upstream.is_empty(), "{name}: a connection to the host was opened");
    let client = String::from_utf8_lossy(&streams.client.bytes);
    if expect == "close" {
        assert_eq!(client, "", "{name}");
    } else {
        assert!(client.starts_with(&format!("HTTP/1.1 {expect} ")), "{name}: expected {expect}, got {client}");
        assert_eq!(client.matches("HTTP/1.").count(), 1, "{name}: {client}");
    }
    let ended = streams.effects.iter().any(|e| matches!(e, Output::Shutdown(Side::Client, How::Close | How::Write)));
    assert!(ended && streams.effects.last() == Some(&Output::Done), "{name}: the connection does not end: {:?}", streams.effects);
    let mut reports = 0;
    for effect in &streams.effects {
        if let Output::Report(report) = effect {
            let url = String::from_utf8_lossy(&report.url);
            assert!(!url.contains("behind"), "{name}: what is behind was taken for a request");
            assert_eq!((report.kind, report.status.to_string().as_str()), (RecordKind::Normal, expect), "{name}");
            reports += 1;
        }
    }
    assert_eq!(reports, usize::from(expect != "close"), "{name}: PX-36");
}

fn forwarded(name: &str, streams: &Streams) {
    assert_eq!((connects(streams), streams.upstream.len()), (1, 1), "{name}: {streams:?}");
    let upstream = String::from_utf8_lossy(&streams.upstream[0].bytes);
    assert_eq!(upstream.matches("x-ms-azure-host-claims: { \"isRoot\"").count(), 1, "{name}: one request:\n{upstream}");
    let (_, body) = upstream.split_once("\r\n\r\n").unwrap();
    let framed = upstream.to_ascii_lowercase().contains("transfer-encoding:");
    let evil = "GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n";
    let content = match (upstream.contains("/evil"), upstream.contains("body")) {
        (true, _) => evil,
        (_, true) => "body",
        _ => "",
    };
    let expected = if framed { format!("{:x}\r\n{content}\r\n0\r\n\r\n", content.len()) } else { content.to_owned() };
    assert_eq!(body, expected, "{name}");
    assert!(streams.client.bytes.ends_with(b"\r\n\r\nfine"), "{name}");
}

#[test]
fn smuggling_responses() {
    let all = entries("responses.txt");
    assert!(all.len() >= 30, "{} messages", all.len());
    for entry in &all {
        let name = entry.name.as_str();
        let ask = |path: &str| format!("0s < client\n    GET {path} HTTP/1.1\n    Host: 169.254.169.254\n\n    .\n");
        let text = format!(
            "{BEGIN}{}0s < connected\n0s < upstream\n{}{}0s < connected\n{FINE}0s < client eof\n",
            ask("/first"),
            entry.heredoc,
            ask("/second")
        );
        let streams = outcome(name, &text, false);
        let client = String::from_utf8_lossy(&streams.client.bytes);
        assert!(!client.contains("evil") || streams.client.aborted, "{name}: {client}");
        assert_eq!(streams.effects.last(), Some(&Output::Done), "{name}");
        match entry.expect.as_str() {
            "503" => {
                assert!(client.starts_with("HTTP/1.1 503 "), "{name}: {client}");
                assert_eq!((client.matches("HTTP/1.").count(), connects(&streams)), (1, 1), "{name}: {client}");
            }
            "abort" => {
                assert!(streams.client.aborted && connects(&streams) == 1, "{name}: {:?}", streams.effects);
            }
            expect => {
                assert_eq!(client.matches("x-ms-azure-host-authorization: value\r\n").count(), 2, "{name}: {client}");
                assert!(client.ends_with("fine") && !streams.client.aborted, "{name}: {client}");
                assert_eq!(connects(&streams), if expect == "once" { 2 } else { 1 }, "{name}: {expect}");
            }
        }
    }
}
