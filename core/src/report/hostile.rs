//! Whatever callers choose, each record is one line of JSON that says what they chose and nothing else (PX-114, SEC-F2, SEC-07).

use super::*;
use crate::identity::{OnDemand, RawText};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    /// Bytes that end lines, strings and records, that command terminals, and that are no UTF-8.
    fn text(&mut self) -> Vec<u8> {
        const PIECES: [&[u8]; 22] = [
            b"\n",
            b"\r\n",
            b"\x1b[2J",
            b"\x1b]0;x\x07",
            b"\"",
            b"\\",
            b"\\\"",
            b"\"}\n{\"id\":1,\"method\":\"",
            b"\0",
            b"\t",
            b"\x7f",
            "\u{85}".as_bytes(),
            "\u{9b}31m".as_bytes(),
            "\u{2028}".as_bytes(),
            "\u{2029}".as_bytes(),
            "\u{4e2d}\u{1F511}".as_bytes(),
            "\u{202e}".as_bytes(),
            b"\xff\xfe",
            b"\xe2\x80",
            b"2026-01-06T08:15:30.123 [ERROR] ",
            b"</script>&amp;",
            b"curl",
        ];
        (0..self.below(12)).flat_map(|_| PIECES[self.below(PIECES.len())].iter().copied()).collect()
    }
}

/// The line is one line, and means what was written.
fn read(line: Vec<u8>) -> serde_json::Value {
    let line = String::from_utf8(line).unwrap();
    assert!(!line.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{line:?}");
    assert!(line.starts_with("{\"id\":42,\"method\":\""), "{line}");
    serde_json::from_str(&line).unwrap()
}

#[test]
fn records_are_one_line_of_json_whatever_callers_choose_px81_to_px96_px114_sec_f2() {
    let mut r = Random(3);
    for _ in 0..5_000 {
        let [method, url, path, user, group] = [(); 5].map(|()| r.text());
        let command_line = String::from_utf8_lossy(&r.text()).into_owned();
        let executable = match r.below(3) {
            0 => Executable::Known(RawText::from(path.as_slice())),
            1 => Executable::Elsewhere(RawText::from(path.as_slice())),
            _ => Executable::Unknown,
        };
        let claims = Claims {
            user_id: 1000,
            group_id: 1000,
            user_name: RawText::from(user.as_slice()),
            user_groups: vec![RawText::from(group.as_slice())],
            process_id: 77,
            executable,
            command_line: command_line.as_str().into(),
            cgroup: 1,
            confidence: Confidence::Verified,
            on_demand: OnDemand::default(),
        };
        let peer = Peer::Redirected { to: Destination::Imds.addr(), claims: Arc::new(claims) };
        let details = [Details::None, Details::Denied, Details::UnsupportedMethod, Details::Traversal][r.below(4)];
        let summary = Summary {
            kind: RecordKind::Normal,
            request: 42,
            connection: 7,
            method: &method,
            url: &url,
            client: "127.0.0.1:51514".parse().unwrap(),
            peer: &peer,
            status: Status::OK,
            elapsed: Duration::ZERO,
            details,
            decision: None,
            divergence: None,
            epoch: Epoch(3),
            rules: None,
            forwarded: false,
            steps: Steps::default(),
        };
        let (mut record, mut audit) = (Vec::new(), Vec::new());
        write_summary(&mut record, &summary);
        write_audit(&mut audit, &summary, Wall(0));
        for value in [read(record), read(audit)] {
            let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(value["method"], lossy(&method));
            assert_eq!(value["url"], lossy(&url));
            assert_eq!(value["userName"], lossy(&user));
            assert_eq!(value["userGroups"][0], lossy(&group));
            assert_eq!(value["processCmdLine"], command_line);
            let shown = value["processFullPath"].as_str().unwrap();
            assert!(shown.is_empty() || shown.trim_start_matches("mnt:") == lossy(&path), "{shown}");
            // PX-102: JSON within JSON.
            let text = value["errorDetails"].as_str().unwrap();
            if let Some(identity) = text.strip_prefix("Block unauthorized request: ").and_then(|rest| rest.strip_suffix('}')) {
                let identity: serde_json::Value = serde_json::from_str(&format!("{identity}}}")).unwrap();
                assert_eq!(identity["processCmdLine"], command_line);
            }
        }
    }
}
