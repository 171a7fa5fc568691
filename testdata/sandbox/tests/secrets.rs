//! No key, no signature and no authorization anywhere but where they belong (invariant 5, SEC-08, SEC-E1, SEC-F1). These tests need
//! root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use sandbox::HostOptions;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use support::wire::{Caller, IMDS, WIRESERVER};
use support::{Runtime, World, on_both_runtimes};

on_both_runtimes!(secrets_stay_where_they_belong, a_crash_leaves_no_core);

/// All files below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

/// Every request that there is, at the most talkative level, with a key that changes; then a look at everything that was written.
/// PX-115, FS-56, S-58, SEC-08, SEC-F1
fn secrets_stay_where_they_belong(runtime: Runtime) {
    let mut world = World::with(runtime, HostOptions::default(), |o| {
        o.config("fileLogLevelForEvents", "Trace")
            .config("fileLogLevel", "Trace")
            .config("fileLogLevelForSystemEvents", "Trace")
            .config("enableHttpProxyTrace", true)
    });
    let (root, nobody) = (Caller::root(&world.sandbox), Caller::nobody(&world.sandbox));
    let ask = |marker: &str| {
        let get = format!("GET /test/echo?{marker} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n");
        // The echo shows the signature that the host has seen.
        let answer = root.ask(IMDS, get.clone());
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(nobody.ask(WIRESERVER, get).status, 403);
        let echo: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        let fields = echo["headers"].as_array().unwrap().clone();
        let sent = fields.iter().find(|f| f[0].as_str().unwrap().eq_ignore_ascii_case("x-ms-azure-host-authorization")).unwrap();
        sent[1].as_str().unwrap().rsplit(' ').next().unwrap().to_owned()
    };
    let mut secrets = vec![ask("first")];
    let guid = world.host.host().rotate().unwrap();
    world.wait("the new key is in use", || {
        fs::exists(world.sandbox.key_folder().join(format!("{guid}.key"))).unwrap().then_some(())
    });
    secrets.push(ask("second"));
    let keys: Vec<PathBuf> =
        files(&world.sandbox.key_folder()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "key")).collect();
    for path in &keys {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o600, 0, 0), "{}", path.display());
        let key: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        secrets.push(key["key"].as_str().unwrap().to_owned());
    }
    assert!(keys.len() >= 2, "{keys:?}");
    assert_eq!(fs::metadata(world.sandbox.key_folder()).unwrap().mode() & 0o7777, 0o700);
    let _ = world.agent.stop().unwrap();

    let mut looked = 0;
    let written = files(world.sandbox.directory()).into_iter().filter(|p| !keys.contains(p));
    let texts = written.map(|p| (p.display().to_string(), fs::read(&p).unwrap_or_default()));
    for (name, bytes) in texts.chain([("output".to_owned(), world.agent.output().into_bytes())]) {
        // What the simulated host keeps for itself is not the agent's.
        if name.contains("/host") {
            continue;
        }
        looked += 1;
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        for secret in &secrets {
            assert!(!text.contains(&secret.to_ascii_lowercase()), "{name} contains a key or a signature");
        }
        assert!(!text.contains("azure-hmac-sha256 "), "{name} contains an authorization field");
    }
    // Traces were among it: PX-111 in the file, PX-112 and PX-113 on standard output.
    let steps = fs::read_to_string(world.sandbox.log_folder().join("ProxyAgent.Connection.log")).unwrap();
    let (output, asked) = (world.agent.output(), "Request \"GET\" \"/test/echo?first\" to ");
    let bare = |line: &str| line.split_once("] - ").is_some_and(|(number, text)| number.contains('[') && text.starts_with(asked));
    assert_eq!(steps.lines().filter(|line| line.get(34..).is_some_and(bare)).count(), 2, "{steps}");
    assert_eq!(output.lines().filter(|line| !line.starts_with('[') && bare(line)).count(), 2, "{output}");
    assert_eq!(output.lines().filter(|line| line.starts_with('[') && line.contains(asked)).count(), 2, "{output}");
    // SEC-F1: with everything that was said in them (T-16).
    let events = fs::read_dir(world.sandbox.log_folder().join("events")).unwrap().count();
    assert!(events > 0, "no event files were there to look at");
    assert!(looked >= 4, "only {looked} files were there to look at");
}

/// The key is in memory: the daemon allows no core dump of itself.
fn a_crash_leaves_no_core(runtime: Runtime) {
    let world = World::start(runtime);
    let limits = fs::read_to_string(format!("/proc/{}/limits", world.agent.id())).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}
