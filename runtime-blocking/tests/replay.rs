//! Every fixture over loopback sockets, whole and byte by byte: the threads do what core does (design invariant 10).

use runtime_blocking::replay::{Writes, play_folder};
use runtime_blocking::serve::serve;
use std::path::Path;

fn play(writes: Writes) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/replay");
    let outcome = play_folder(&folder, writes, |daemon, accepted| serve(&daemon, accepted)).unwrap();
    println!("{} fixtures played, {} are for core only", outcome.played, outcome.core_only);
    assert!(outcome.failures.is_empty(), "{} failed:\n{}", outcome.failures.len(), outcome.failures.join("\n\n"));
    assert!(outcome.played > 150, "{} fixtures", outcome.played);
}

#[test]
fn fixtures_come_out_the_same_over_sockets() {
    play(Writes::Whole);
}

#[test]
fn fixtures_come_out_the_same_over_sockets_byte_by_byte() {
    play(Writes::Bytewise);
}
