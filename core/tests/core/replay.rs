//! Every stored fixture comes out as written.

use super::support::{files, fixtures, name, testdata};
use azure_proxy_agent_core::effect::RecordKind;
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::replay::{Cuts, Fixture, Input, Output, play};

#[test]
fn replay_fixtures_come_out_as_written() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for path in files("replay", ".replay") {
        let text = std::fs::read_to_string(&path).unwrap();
        let fixture: Fixture = text.parse().unwrap_or_else(|e| panic!("{}: {e}", name(&path)));
        let played = play(&fixture, Limits::DEFAULT, Cuts::Whole).unwrap_or_else(|e| panic!("{}: {e}", name(&path)));
        let fresh = fixture.with_outputs(played.steps).to_string();
        if fresh == text {
            continue;
        }
        if bless {
            std::fs::write(&path, fresh).unwrap();
        } else {
            wrong.push(format!("{}\n{}", name(&path), difference(&text, &fresh)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first lines that differ.
fn difference(old: &str, new: &str) -> String {
    let at = old.lines().zip(new.lines()).take_while(|(a, b)| a == b).count();
    let lines = |text: &str| text.lines().skip(at).take(4).map(|l| format!("    {l}\n")).collect::<String>();
    format!("  line {}, written:\n{}  played:\n{}", at + 1, lines(old), lines(new))
}

#[test]
fn replay_fixtures_print_as_they_are_written() {
    for (name, text, fixture) in fixtures() {
        assert_eq!(fixture.to_string(), text, "{name}");
    }
}

#[test]
fn replay_fixtures_cite_the_spec_and_are_many() {
    let all = fixtures();
    for (name, _, fixture) in &all {
        let comment = fixture.comments.first().map(String::as_str).unwrap_or_default();
        let number = ["PX-", "W-", "R-", "I-", "S-", "SEC-"].iter().any(|n| comment.contains(n));
        assert!(number, "{name}: the first comment line names no number of the spec");
    }
    assert!(all.len() >= 70, "{} fixtures", all.len());
}

/// A shell plays what has no `core-only` line: over sockets, whose buffers are nobody's to fill or to break at a given byte.
#[test]
fn replay_fixtures_for_shells_need_no_magic() {
    for (name, _, fixture) in fixtures() {
        let magic =
            fixture.steps.iter().find(|s| matches!(s.input, Input::Unwritable(_) | Input::Blocked(_) | Input::Unblocked(_)));
        if let (None, Some(step)) = (&fixture.core_only, magic) {
            panic!("{name}: {:?} at {:?} is for the core only", step.input, step.at);
        }
    }
}

/// The invariants of one connection that can be seen in what is stored, whoever blessed it.
#[test]
fn replay_fixtures_keep_the_invariants() {
    for (name, _, fixture) in fixtures() {
        let (mut forwarding, mut intended) = (false, false);
        for step in &fixture.steps {
            for output in &step.outputs {
                match output {
                    Output::Connect(_) => forwarding = true,
                    Output::Intend(_) => intended = true,
                    Output::Bytes(side, bytes) if *side == azure_proxy_agent_core::effect::Side::Upstream => {
                        assert!(forwarding, "{name}: bytes to the host without a connection");
                        assert!(intended, "{name}: bytes to the host without an intent");
                        let text = String::from_utf8_lossy(bytes);
                        assert!(!text.contains("x-ms-azure-signature"), "{name}: PX-75");
                    }
                    Output::Report(report) => {
                        // The next request needs an intent of its own.
                        intended &= report.kind == RecordKind::Failed;
                        let key = "4A404E635266556A";
                        assert!(!report.details.contains(key), "{name}: SEC-08");
                    }
                    _ => {}
                }
            }
            if let Input::Policy(policy) = &step.input {
                assert!(fixture.policy(policy).is_some(), "{name}");
            }
        }
    }
}

/// The signatures in the fixtures are computed by the machine; these are known from elsewhere.
#[test]
fn replay_signatures_are_those_of_the_vectors_w59() {
    let vectors = std::fs::read_to_string(testdata().join("vectors/signature.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&vectors).unwrap();
    let mut checked = 0;
    for (name, text, fixture) in fixtures() {
        for id in fixture.comments.iter().flat_map(|c| c.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')) {
            if !id.starts_with("SIG-") {
                continue;
            }
            let vector = vectors["vectors"].as_array().unwrap().iter().find(|v| v["id"] == id).unwrap();
            let signature = vector["signature_hex"].as_str().unwrap();
            assert!(text.contains(&format!("{signature}\n")), "{name}: signature of {id} is {signature}");
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked}");
}
