//! What comes out does not depend on how the input was cut into reads, nor the output into writes (design: invariant 10).

use super::support::fixtures;
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
        // A long run of one byte is not more interesting byte by byte.
        agrees(&name, &fixture, Cuts::Every(if input(&fixture) < 8_000 { 1 } else { 13 }));
    }
}

#[test]
fn split_once_at_every_byte() {
    for (name, _, fixture) in fixtures() {
        let len = input(&fixture);
        // Long inputs are long runs of one byte: their ends are what matters.
        let positions = (0..len).filter(|at| len < 4_000 || *at < 400 || len - at < 100 || at % 9_973 == 0);
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
