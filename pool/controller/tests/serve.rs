//! Where the controller listens, and where it does not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::process::{Command, id};

fn serve(arguments: &[&str]) -> (Option<i32>, String, bool) {
    let folder =
        std::env::temp_dir().join(format!("pool-serve-{}-{}", id(), arguments.join("").replace(['/', '[', ']', ':'], "_")));
    fs::create_dir_all(&folder).unwrap();
    let database = folder.join("pool.db");
    let mut command = Command::new(env!("CARGO_BIN_EXE_azure-proxy-agent-pool"));
    command.args(["serve", "--database", &database.display().to_string()]).args(arguments);
    let output = command.output().unwrap();
    let made = database.exists();
    fs::remove_dir_all(&folder).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), made)
}

#[test]
fn without_a_certificate_it_refuses_addresses_that_are_not_loopback_before_it_listens() {
    // The last address is not this machine's: to listen there would fail with other words.
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:127.0.0.1]:0", "192.0.2.1:8440"] {
        let (code, said, made) = serve(&["--listen", address]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is not a loopback address, and tokens would cross the network in the clear"), "{said}");
        assert!(!made, "{address}: nothing may be begun");
    }
}

#[test]
fn a_certificate_without_its_key_or_one_that_is_none_is_told() {
    assert_eq!(serve(&["--tls-certificate", "/dev/null"]).0, Some(2));
    let (code, said, _) = serve(&["--listen", "127.0.0.1:0", "--tls-certificate", "/dev/null", "--tls-key", "/dev/null"]);
    assert!(code == Some(1) && said.contains("/dev/null and /dev/null: "), "{code:?} {said}");
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let mut completions = Command::new(env!("CARGO_BIN_EXE_azure-proxy-agent-pool"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(completions.args(["completions", "bash"]).stdout(writer).status().unwrap().success());
}
