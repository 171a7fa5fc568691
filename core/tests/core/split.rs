//! What comes out does not depend on how the input was cut into reads, nor the output into writes (design: invariant 10).

use super::support::fixtures;
use azure_proxy_agent_core::effect::Side;
use azure_proxy_agent_core::limits::Limits;
use azure_proxy_agent_core::replay::{Cuts, Fixture, Input, XorShift, play};

fn agrees(name: &str, fixture: &Fixture, cuts: Cuts) {
    let how = format!("{cuts:?}");
    let played = play(fixture, Limits::DEFAULT, cuts).unwrap_or_else(|e| panic!("{name}, {how}: {e}"));
    let (got, expected) = (played.streams(), fixture.streams());
    if !got.agrees(&expected) {
        let text = fixture.with_outputs(played.steps).to_string();
        panic!("{name}, {how}: came out as\n{text}");
    }
}

/// Received bytes of the whole fixture.
fn input(fixture: &Fixture) -> usize {
    let len = |input: &Input| if let Input::Bytes(_, bytes) = input { bytes.len() } else { 0 };
    fixture.steps.iter().map(|s| len(&s.input)).sum()
}

#[test]
fn split_byte_by_byte() {
    for (name, _, fixture) in fixtures() {
        agrees(&name, &fixture, Cuts::Every(1));
    }
}

#[test]
fn split_once_at_every_byte() {
    for (name, _, fixture) in fixtures() {
        let len = input(&fixture);
        // Long inputs are long runs of one byte: their ends are what matters.
        let positions = (0..len).filter(|at| len < 4_000 || *at < 500 || len - at < 500 || at % 997 == 0);
        for at in positions {
            agrees(&name, &fixture, Cuts::At(at));
        }
    }
}

#[test]
fn split_at_random() {
    for (name, _, fixture) in fixtures() {
        for seed in 0..30 {
            agrees(&name, &fixture, Cuts::Random(XorShift::new(seed)));
        }
    }
}

/// Two messages in one packet or one after the other: the same, if nothing happens between them.
#[test]
fn split_adjacent_inputs_can_be_joined() {
    for (name, _, fixture) in fixtures() {
        let mut joined = fixture.clone();
        let mut at = 1;
        while at < joined.steps.len() {
            let quiet = joined.steps[at - 1].outputs.is_empty();
            let (before, this) = (joined.steps[at - 1].input.clone(), joined.steps[at].input.clone());
            match (before, this) {
                (Input::Bytes(Side::Client, mut a), Input::Bytes(Side::Client, b)) if quiet => {
                    a.extend_from_slice(&b);
                    joined.steps[at].input = Input::Bytes(Side::Client, a);
                    joined.steps.remove(at - 1);
                }
                _ => at += 1,
            }
        }
        if joined != fixture {
            agrees(&name, &joined, Cuts::Whole);
        }
    }
}
