//! Every fixture over loopback sockets, whole and byte by byte: the minimal daemon does what core does (design invariant 10).

use runtime_blocking::replay::{Outcome, Writes, play_folder};
use runtime_blocking::serve::serve_one;
use std::io;
use std::path::Path;

/// Plays all of them.
fn play(writes: Writes) -> io::Result<Outcome> {
    play_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/replay"), writes, |daemon, accepted| {
        // A connection that is not served is one that says nothing.
        drop(serve_one(daemon, accepted));
    })
}

fn assert_all(outcome: &Outcome) {
    println!("{} fixtures played, {} are for core only", outcome.played, outcome.core_only);
    assert!(outcome.failures.is_empty(), "{} failed:\n{}", outcome.failures.len(), outcome.failures.join("\n\n"));
    assert!(outcome.played > 200, "{} fixtures", outcome.played);
}

#[test]
fn fixtures_come_out_the_same_over_sockets() {
    assert_all(&play(Writes::Whole).unwrap());
}

#[test]
fn fixtures_come_out_the_same_over_sockets_byte_by_byte() {
    assert_all(&play(Writes::Bytewise).unwrap());
}
