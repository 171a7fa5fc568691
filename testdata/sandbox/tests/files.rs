//! What disks and directories can do to the agent: full, read-only, of another owner, open to everybody, links and other things in the
//! way, torn files, removed directories; at the start and while it runs. It decides with the key that it has, attests no key that it
//! could not store, says what is wrong, and goes on by itself when that is gone (SEC-E1 to SEC-E3, SEC-F3, FS-29). These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use sandbox::{Agent, AgentOptions, HostOptions, Ready, Sandbox, Server};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::wire::{Caller, IMDS, LISTENER};
use support::{PATIENCE, Runtime, on_both_runtimes, until};

on_both_runtimes!(
    owners_and_modes,
    a_disk_that_takes_nothing_at_the_start,
    a_disk_that_takes_nothing_any_more,
    folders_that_must_not_be_used,
    links_in_the_way_of_files,
    removed_folders,
    torn_files,
);

/// Where the agent keeps what, below the disk.
const FOLDERS: [&str; 5] = ["log", "status", "state/keys", "state/rules", "log/events"];

/// A small disk of its own, mounted inside, with everything on it that the agent writes.
struct Scene {
    agent: Option<Agent>,
    host: Server,
    /// Somebody ordinary, and root.
    nobody: Caller,
    root: Caller,
    sandbox: Sandbox,
    runtime: Runtime,
}

impl Scene {
    fn new(runtime: Runtime) -> Self {
        let sandbox = Sandbox::enter().unwrap();
        let host = sandbox.start_host(HostOptions::default()).unwrap();
        let (nobody, root) = (Caller::nobody(&sandbox), Caller::root(&sandbox));
        let scene = Self { agent: None, host, nobody, root, sandbox, runtime };
        fs::create_dir(scene.sandbox.directory().join("disk")).unwrap();
        scene.mount(&["-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs"], "");
        scene
    }

    fn mount(&self, arguments: &[&str], folder: &str) {
        let at = self.sandbox.directory().join("disk").join(folder);
        assert!(self.sandbox.command("mount").args(arguments).arg(at).status().unwrap().success());
    }

    /// A path on the disk, seen from outside.
    fn path(&self, name: &str) -> PathBuf {
        let inside = self.sandbox.directory().join("disk").join(name);
        Path::new(&format!("/proc/{}/root", self.root.id())).join(inside.strip_prefix("/").unwrap())
    }

    fn start(&mut self, ready: Ready) {
        let folder = |name: &str| Value::from(self.sandbox.directory().join("disk").join(name).to_str().unwrap());
        let options = AgentOptions::new(self.runtime.binary())
            .config("logFolder", folder("log"))
            .config("statusFolder", folder("status"))
            .config("latchKeyFolder", folder("state/keys"))
            .config("eventFolder", folder("log/events"))
            .config("fileLogLevelForSystemEvents", "Info")
            .config("fileLogLevelForEvents", "Info")
            .until(ready);
        self.agent = Some(self.sandbox.start_agent(&options).unwrap_or_else(|e| panic!("{e}")));
    }

    fn stop(&mut self) {
        assert!(self.agent.take().unwrap().stop().unwrap().success());
    }

    fn output(&self) -> String {
        self.agent.as_ref().unwrap().output()
    }

    fn fill(&self) {
        let mut file = File::create(self.path("filler")).unwrap();
        let full = (0..).find_map(|_| file.write_all(&[0; 4096]).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    /// Nothing can be written from now on; returns how to make that good again.
    fn break_disk(&self, how: Broken) -> impl Fn(&Self) + use<> {
        match how {
            Broken::Full => self.fill(),
            Broken::ReadOnly => self.mount(&["-o", "remount,ro"], ""),
        }
        move |scene: &Self| match how {
            Broken::Full => fs::remove_file(scene.path("filler")).unwrap(),
            Broken::ReadOnly => scene.mount(&["-o", "remount,rw"], ""),
        }
    }

    /// The status of a request that is allowed.
    fn ask(&self) -> Option<u16> {
        let request = "GET /test/echo HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nConnection: close\r\n\r\n";
        let answer = self.nobody.try_connect(IMDS).and_then(|mut wire| {
            wire.try_send(request)?;
            wire.try_answer(false)
        });
        answer.ok().map(|answer| answer.status)
    }

    /// A module's message in the status document, asked for at the listener (PX-62).
    fn module(&self, name: &str) -> String {
        let request = "GET /gpa-aggregated-status HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nConnection: close\r\n\r\n";
        // Before the redirector is there nobody is known.
        let answer = self.wait("an answer", || Some(self.root.ask(LISTENER, request)).filter(|answer| answer.status == 200));
        answer.json()["proxyAgentStatus"][name]["message"].as_str().unwrap().to_owned()
    }

    /// Attestations that the host has seen (W-94).
    fn attested(&self) -> usize {
        self.host.host().records.all().iter().filter(|r| r.target.contains("/key-attestation")).count()
    }

    fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        until(PATIENCE, &mut condition)
            .unwrap_or_else(|| panic!("{}: {what}: not within {PATIENCE:?}; it printed:\n{}", self.runtime, self.output()))
    }

    fn wait_for_module(&self, name: &str, text: &str) {
        let mut last = String::new();
        until(PATIENCE, || {
            last = self.module(name);
            last.contains(text).then_some(())
        })
        .unwrap_or_else(|| panic!("{}: {name} says {last:?}, not {text:?}; it printed:\n{}", self.runtime, self.output()));
    }

    /// Everything works: a signed answer, a key and a status on the disk, lines in all logs.
    fn all_is_well(&self) {
        self.wait("a signed answer", || (self.ask() == Some(200)).then_some(()));
        let guid = self.host.host().keys(|keys| keys.current().map(|(guid, _)| guid.to_owned())).unwrap();
        self.wait("the key is on the disk", || self.path(&format!("state/keys/{guid}.key")).is_file().then_some(()));
        self.wait("the status on the disk says so", || {
            let status: Value = serde_json::from_slice(&fs::read(self.path("status/status.json")).ok()?).unwrap();
            let status = &status["proxyAgentStatus"];
            (status["status"] == "SUCCESS"
                && status["keyLatchStatus"]["states"]["keyGuid"] == guid
                && !status.to_string().contains("not written")
                && !status.to_string().contains("could not be written"))
            .then_some(())
        });
        self.wait("the audit log has new lines", || {
            let before = fs::metadata(self.path("log/audit.jsonl")).map_or(0, |m| m.len());
            assert_eq!(self.ask(), Some(200));
            until(Duration::from_millis(500), || {
                fs::metadata(self.path("log/audit.jsonl")).is_ok_and(|m| m.len() > before).then_some(())
            })
        });
    }

    /// How often something was printed.
    fn printed(&self, text: &str) -> usize {
        self.output().matches(text).count()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Full,
    ReadOnly,
}

impl Broken {
    const fn text(self) -> &'static str {
        match self {
            Self::Full => "No space left on device",
            Self::ReadOnly => "Read-only file system",
        }
    }
}

/// SEC-E1, FS-05, FS-06, FS-24, FS-25, FS-27, FS-30, FS-40, FS-72, R-155, T-73: whatever the umask is.
fn owners_and_modes(runtime: Runtime) {
    let mut scene = Scene::new(runtime);
    scene.start(Ready::Provisioned);
    scene.all_is_well();
    let status = scene.sandbox.directory().join("disk/status/status.json");
    let message = format!("Aggregate status written to status file: {}", status.display());
    assert_eq!(scene.module("monitorStatus"), message, "FS-44");
    scene.stop();
    let mut seen = Vec::new();
    let mut folders = vec![scene.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(scene.path("")).unwrap().to_str().unwrap().to_owned();
            let mode = meta.mode() & 0o7777;
            assert_eq!(meta.uid(), 0, "{name}");
            let wanted = match name.as_str() {
                "log" | "status" | "state" | "log/events" => 0o755,
                "state/keys" | "state/rules" => 0o700,
                name if name.starts_with("state/keys/") || name.starts_with("log/events/") => 0o600,
                _ => 0o640,
            };
            assert_eq!(mode, wanted, "{name} has mode {mode:o}");
            if meta.is_dir() {
                folders.push(path);
            }
            seen.push(name);
        }
    }
    let kinds = [
        "log/ProxyAgent.log",
        "log/ProxyAgent.Connection.log",
        "log/audit.jsonl",
        "log/events/",
        "status/status.json",
        "status/AuthorizationRules_",
        "state/keys/provisioned.tag",
        "state/keys/status.tag",
    ];
    for kind in kinds {
        assert!(seen.iter().any(|name| name.starts_with(kind) && name.len() >= kind.len()), "no {kind} in {seen:?}");
    }
    assert!(seen.iter().any(|name| name.ends_with(".key")) && !seen.iter().any(|name| name.ends_with("tmp")), "{seen:?}");
    // T-16: what had not been taken away yet is in a file (FS-80).
    let events = seen.iter().find(|n| n.starts_with("log/events/")).unwrap();
    let events: Vec<Value> = serde_json::from_slice(&fs::read(scene.path(events)).unwrap()).unwrap();
    assert!(events.iter().any(|e| e["OperationId"] == "proxy_listener" && e["TaskName"] == "start"), "{events:?}");
    // PX-108
    let summary = events.iter().find(|e| e["TaskName"] == "log_connection_summary").expect("the request above");
    assert_eq!((&summary["EventLevel"], &summary["OperationId"]), (&"INFO".into(), &"proxy_server".into()));
    assert!(serde_json::from_str::<Value>(summary["Message"].as_str().unwrap()).unwrap()["url"] == "/test/echo");
}

/// SEC-E3, W-96
fn a_disk_that_takes_nothing_at_the_start(runtime: Runtime) {
    for how in [Broken::Full, Broken::ReadOnly] {
        let mut scene = Scene::new(runtime);
        for folder in FOLDERS {
            fs::create_dir_all(scene.path(folder)).unwrap();
        }
        let repair = scene.break_disk(how);
        scene.start(Ready::Listening);
        scene.wait_for_module("keyLatchStatus", how.text());
        scene.wait_for_module("monitorStatus", "Status could not be written: ");
        scene.wait("the redirect is there", || (scene.ask() == Some(401)).then_some(()));
        scene.wait_for_module("telemetryLoggerStatus", "The log file audit.jsonl is not written: ");
        // A few rounds: nothing is attested, nothing is repeated.
        let polls =
            |scene: &Scene| scene.host.host().records.all().iter().filter(|r| r.target == "/secure-channel/status").count();
        let before = polls(&scene);
        scene.wait("some polls", || (polls(&scene) > before + 3).then_some(()));
        assert_eq!(scene.attested(), 0, "{how:?}: no key is attested that was not stored");
        assert_ne!(scene.ask(), Some(200));
        for log in ["ProxyAgent.log", "audit.jsonl"] {
            assert_eq!(scene.printed(&format!("The log file {log} is not written")), 1, "{how:?}: {}", scene.output());
        }
        assert_eq!(scene.printed("Status could not be written"), 1, "{how:?}: {}", scene.output());
        repair(&scene);
        scene.all_is_well();
        assert_eq!(scene.attested(), 1);
    }
}

/// SEC-E3: it goes on with the key and the rules that it has, and takes new rules.
fn a_disk_that_takes_nothing_any_more(runtime: Runtime) {
    for how in [Broken::Full, Broken::ReadOnly] {
        let mut scene = Scene::new(runtime);
        if how == Broken::ReadOnly {
            // Where files are open for writing no disk can be made read-only.
            fs::create_dir(scene.path("log")).unwrap();
            scene.mount(&["-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs"], "log");
        }
        scene.start(Ready::Provisioned);
        scene.all_is_well();
        let repair = scene.break_disk(how);
        scene.host.host().rotate().unwrap();
        scene.wait_for_module("keyLatchStatus", how.text());
        assert_eq!((scene.ask(), scene.attested()), (Some(200), 1), "{how:?}: the old key serves, the new one is not attested");
        scene.wait_for_module("monitorStatus", how.text());
        let rules = |id: &str, access: &str| {
            let document = serde_json::json!({"defaultAccess": access, "mode": "enforce", "id": id});
            Some(serde_json::json!({"imds": document, "wireserver": document}))
        };
        scene.host.host().set_rules(rules("closed", "deny"));
        scene.wait("new rules decide", || (scene.ask() == Some(403)).then_some(()));
        scene.host.host().set_rules(rules("open", "allow"));
        scene.wait("and newer ones", || (scene.ask() == Some(200)).then_some(()));
        let complaints =
            |scene: &Scene| scene.printed("Status could not be written") + scene.printed("snapshot could not be written");
        assert!((1..=2).contains(&complaints(&scene)), "{how:?}: once each: {}", scene.output());
        repair(&scene);
        scene.all_is_well();
        assert_eq!(scene.attested(), 2, "{how:?}");
        scene.wait("a snapshot of the rules in force", || {
            let names = fs::read_dir(scene.path("status")).unwrap().map(|e| e.unwrap().path());
            let newest = names.filter(|p| p.to_str().unwrap().contains("AuthorizationRules_")).max()?;
            fs::read_to_string(newest).unwrap().contains("\"open-useLocalFileRules-false\"").then_some(())
        });
    }
}

/// FS-29, SEC-E2, S-60: all of them at a time, in each of the ways.
fn folders_that_must_not_be_used(runtime: Runtime) {
    for (how, word) in [
        ("owner", "belongs to user id 1000"),
        ("mode", "lets others write"),
        ("link", "is a symbolic link"),
        ("dangling link", "is a symbolic link"),
        ("file", "directory"),
    ] {
        let mut scene = Scene::new(runtime);
        for folder in FOLDERS {
            let path = scene.path(folder);
            // The event folder is in the log folder, which is in the way itself.
            if !path.parent().unwrap().is_dir() && fs::create_dir_all(path.parent().unwrap()).is_err() {
                continue;
            }
            match how {
                "owner" => {
                    fs::create_dir(&path).unwrap();
                    chown(&path, Some(1000), None).unwrap();
                }
                "mode" => {
                    fs::create_dir(&path).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
                }
                "link" => {
                    let target = scene.path(&format!("elsewhere-{}", folder.replace('/', "-")));
                    fs::create_dir(&target).unwrap();
                    let inside = scene.sandbox.directory().join("disk").join(target.file_name().unwrap());
                    symlink(inside, &path).unwrap();
                }
                "dangling link" => symlink(scene.sandbox.directory().join("disk/nowhere"), &path).unwrap(),
                _ => fs::write(&path, "in the way").unwrap(),
            }
        }
        scene.start(Ready::Listening);
        scene.wait_for_module("monitorStatus", word);
        let _ = scene.ask();
        scene.wait_for_module("telemetryLoggerStatus", word);
        if how == "mode" {
            // FS-24, FS-25: set at every start.
            for folder in ["state/keys", "state/rules"] {
                assert_eq!(fs::metadata(scene.path(folder)).unwrap().mode() & 0o7777, 0o700, "{folder}");
            }
        } else {
            scene.wait_for_module("keyLatchStatus", word);
            scene.wait("it decides, but there is no key", || (scene.ask() == Some(401)).then_some(()));
            assert_eq!(scene.attested(), 0, "{how}");
        }
        assert!(scene.agent.as_mut().unwrap().is_running().unwrap());
        // Nothing is where it must not be.
        for folder in FOLDERS {
            let elsewhere = scene.path(&format!("elsewhere-{}", folder.replace('/', "-")));
            for used in [elsewhere, scene.path("nowhere"), scene.path(folder)] {
                let foreign = folder != "state/keys" || how != "mode";
                let names = fs::read_dir(&used).into_iter().flatten().map(|e| e.unwrap().file_name());
                let names: Vec<_> = names.filter(|n| n != "events").collect();
                assert!(!foreign || names.is_empty(), "{how}: {} has {names:?}", used.display());
            }
        }
        // Made good while it runs.
        for folder in FOLDERS {
            let path = scene.path(folder);
            match how {
                "owner" => chown(&path, Some(0), None).unwrap(),
                "mode" => fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap(),
                _ => {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        scene.all_is_well();
    }
}

/// SEC-E2, SEC-F3: planted by somebody who could write there once.
fn links_in_the_way_of_files(runtime: Runtime) {
    let mut scene = Scene::new(runtime);
    for folder in ["log", "status", "state/keys"] {
        fs::create_dir_all(scene.path(folder)).unwrap();
    }
    fs::create_dir(scene.path("victims")).unwrap();
    let names = [
        "log/ProxyAgent.log",
        "log/ProxyAgent.Connection.log",
        "log/audit.jsonl",
        "status/status.json",
        "status/status.tmp",
        "state/keys/provisioned.tag",
        "state/keys/provisioned.tag.tmp",
        "state/keys/status.tag",
        "state/keys/status.tag.tmp",
    ];
    for (n, name) in names.iter().enumerate() {
        // Every other one leads nowhere.
        if n % 2 == 0 {
            fs::write(scene.path(&format!("victims/{n}")), "untouched").unwrap();
        }
        symlink(scene.sandbox.directory().join(format!("disk/victims/{n}")), scene.path(name)).unwrap();
    }
    scene.start(Ready::Provisioned);
    assert_eq!(scene.ask(), Some(200));
    for log in ["ProxyAgent.log", "audit.jsonl"] {
        scene.wait_for_module("telemetryLoggerStatus", &format!("{log}: refused, because it is a symbolic link"));
    }
    let untouched = |scene: &Scene| {
        for (n, name) in names.iter().enumerate() {
            let victim = fs::read_to_string(scene.path(&format!("victims/{n}"))).ok();
            assert_eq!(victim.as_deref(), (n % 2 == 0).then_some("untouched"), "{name}");
        }
    };
    untouched(&scene);
    for name in ["status/status.json", "state/keys/provisioned.tag", "state/keys/status.tag"] {
        assert!(fs::symlink_metadata(scene.path(name)).unwrap().is_file(), "{name} has taken the link's place");
    }
    for name in names.iter().take(3) {
        fs::remove_file(scene.path(name)).unwrap();
    }
    scene.all_is_well();
    untouched(&scene);
}

/// SEC-E3: they come back, and what is to be in them.
fn removed_folders(runtime: Runtime) {
    let mut scene = Scene::new(runtime);
    scene.start(Ready::Provisioned);
    scene.all_is_well();
    for folder in ["log", "status", "state"] {
        fs::remove_dir_all(scene.path(folder)).unwrap();
    }
    assert_eq!(scene.ask(), Some(200), "the key is in memory");
    scene.host.host().rotate().unwrap();
    scene.all_is_well();
    assert_eq!(fs::metadata(scene.path("state/keys")).unwrap().mode() & 0o7777, 0o700);
    let mut closed = false;
    scene.wait("the agent's log too", || {
        // Something to write down.
        closed = !closed;
        let document = serde_json::json!({"defaultAccess": "allow", "mode": "enforce", "id": format!("{closed}")});
        scene.host.host().set_rules(Some(serde_json::json!({"imds": document, "wireserver": document})));
        until(Duration::from_secs(2), || scene.path("log/ProxyAgent.log").is_file().then_some(()))
    });
}

/// W-99, FS-35: of a power cut, or of somebody's hand.
fn torn_files(runtime: Runtime) {
    let mut scene = Scene::new(runtime);
    scene.start(Ready::Provisioned);
    scene.all_is_well();
    for content in [&b""[..], b"{\"authorizationScheme\": \"Azure-HM", b"\0\0\0\0\0\0\0\0", b"[]"] {
        scene.stop();
        let attested = scene.attested();
        for folder in ["state/keys", "status"] {
            for entry in fs::read_dir(scene.path(folder)).unwrap() {
                fs::write(entry.unwrap().path(), content).unwrap();
            }
        }
        // A temporary file of a write that was cut off.
        fs::write(scene.path("state/keys/status.tag.tmp"), content).unwrap();
        fs::write(scene.path("status/status.tmp"), content).unwrap();
        scene.start(Ready::Provisioned);
        scene.all_is_well();
        assert_eq!(scene.attested(), attested + 1, "a damaged key is replaced");
        assert!(!fs::read(scene.path("state/keys/provisioned.tag")).unwrap().is_empty());
        assert!(!scene.path("state/keys/status.tag.tmp").exists());
    }
}
