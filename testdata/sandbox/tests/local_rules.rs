//! Local rule files on real disks, end to end: they appear, break, are repaired, replaced and removed, are switched off and on by the host;
//! and the scenarios of security.md section 3. Whatever is wrong with a file, it closes. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use sandbox::{HostOptions, Record};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;
use support::wire::{Caller, HOSTGA, IMDS, LISTENER, WIRESERVER};
use support::{PATIENCE, Runtime, World, on_both_runtimes, root, until};

on_both_runtimes!(
    a_file_appears_is_replaced_and_removed,
    whatever_is_wrong_with_a_file_closes,
    a_file_that_is_written_slowly_never_opens,
    directories_that_come_and_go,
    the_host_switches_files_off_and_on,
    nobody_gets_by_while_the_agent_starts,
    scenarios_of_local_files,
);

const IMDS_FILE: &str = "IMDS_Rules.json";
const WIRESERVER_FILE: &str = "WireServer_Rules.json";
const INSTANCE: &str = "/metadata/instance?api-version=2021-02-01";
const TOKEN: &str = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x";
const VERSIONS: &str = "/metadata/versions";
const GOAL_STATE: &str = "/machine/?comp=goalstate";
const ALLOW: &str = r#"{"defaultAccess": "allow"}"#;
const DENY: &str = r#"{"defaultAccess": "deny" }"#;

/// An id that switches the file on or off (R-101).
fn id(name: &str, on: bool) -> String {
    let text = json!({"id": name, "useLocalFileRules": on}).to_string();
    let digits = |group: &[u8]| {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        let digit = |at: usize| if at <= group.len() { ALPHABET[(bits >> (18 - 6 * at) & 63) as usize] } else { b'=' };
        [0, 1, 2, 3].map(|at| char::from(digit(at)))
    };
    text.as_bytes().chunks(3).flat_map(digits).collect()
}

fn document(access: &str, mode: &str, id: &str) -> Value {
    json!({"defaultAccess": access, "mode": mode, "id": id})
}

/// A machine whose host has these documents. It is asked once an hour, so that nothing but the file itself tells of its change; or, with
/// `polls`, every second.
struct Scene {
    nobody: Caller,
    root: Caller,
    world: World,
}

impl Scene {
    fn start(runtime: Runtime, documents: Value, polls: bool) -> Self {
        Self::with_file(runtime, documents, polls, None)
    }

    /// The same with an IMDS file that is there before the agent.
    fn with_file(runtime: Runtime, documents: Value, polls: bool, file: Option<&str>) -> Self {
        let host = HostOptions { rules: Some(documents), ..HostOptions::default() };
        let interval = if polls { 1 } else { 3600 };
        let world = World::with_sandbox(
            runtime,
            host,
            |sandbox| {
                if let Some(text) = file {
                    let folder = sandbox.key_folder().parent().unwrap().join("rules");
                    fs::create_dir_all(&folder).unwrap();
                    fs::write(folder.join(IMDS_FILE), text).unwrap();
                }
            },
            |_, options| options.config("pollKeyStatusIntervalInSeconds", interval).config("fileLogLevelForEvents", "Info"),
        );
        Self { nobody: Caller::nobody(&world.sandbox), root: Caller::root(&world.sandbox), world }
    }

    fn folder(&self) -> PathBuf {
        self.world.sandbox.key_folder().parent().unwrap().join("rules")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Replaces a file as the specification's scenarios do: a temporary name, mode 0600, renamed.
    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let temporary = self.path("new.tmp");
        fs::write(&temporary, text).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&temporary, self.path(name)).unwrap();
    }

    fn status_of(caller: &Caller, to: &str, target: &str) -> u16 {
        caller.ask(to, format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nx-ms-version: 2012-11-30\r\n\r\n")).status
    }

    /// What somebody who is not root gets of IMDS.
    fn instance(&self) -> u16 {
        Self::status_of(&self.nobody, IMDS, INSTANCE)
    }

    fn wait<T>(&self, what: &str, condition: impl FnMut() -> Option<T>) -> T {
        self.world.wait(what, condition)
    }

    /// Waits until somebody who is not root gets this of IMDS.
    fn wait_for(&self, status: u16, what: &str) {
        self.wait(&format!("{status} because the file {what}"), || (self.instance() == status).then_some(()));
    }

    /// The key module's message in the status document.
    fn message(&self) -> String {
        let request = "GET /gpa-aggregated-status HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n";
        let answer = self.root.ask(LISTENER, request);
        answer.json()["proxyAgentStatus"]["keyLatchStatus"]["message"].as_str().unwrap().to_owned()
    }

    fn wait_for_message(&self, text: &str) {
        let mut last = String::new();
        until(PATIENCE, || {
            last = self.message();
            last.contains(text).then_some(())
        })
        .unwrap_or_else(|| panic!("{}: the key module says {last:?}, not {text:?}", self.world.runtime));
    }

    /// The newest snapshot.
    fn snapshot(&self) -> Value {
        let files = fs::read_dir(self.world.sandbox.status_folder()).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let newest = files.filter(|p| name(p).starts_with("AuthorizationRules_") && name(p).ends_with(".json")).max();
        newest.map_or(Value::Null, |path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
    }

    /// Waits until the newest snapshot has these ids.
    fn wait_for_ids(&self, imds: &str, wireserver: &str) {
        self.wait(&format!("a snapshot with {imds} and {wireserver}"), || {
            let rules = &self.snapshot()["computedRules"];
            (rules["imds"]["id"] == imds && rules["wireserver"]["id"] == wireserver).then_some(())
        });
    }

    fn polls(&self) -> usize {
        let records: Vec<Record> = self.world.host.host().records.all();
        records.iter().filter(|record| record.target == "/secure-channel/status").count()
    }

    /// Sets the host's documents, and waits until the agent has read them.
    fn set(&self, documents: Value) {
        self.world.host.host().set_rules(Some(documents));
        let before = self.polls();
        self.wait("the agent asks for the rules twice", || (self.polls() >= before + 2).then_some(()));
    }

    fn is_alive(&mut self) -> bool {
        self.world.agent.is_running().unwrap()
    }
}

/// R-111, R-112, R-117, R-120, R-154, SEC-L17, SEC-L18, S-61
fn a_file_appears_is_replaced_and_removed(runtime: Runtime) {
    let mut scene = Scene::start(runtime, json!({"imds": document("allow", "enforce", &id("p", true))}), false);
    let polls = scene.polls();
    assert_eq!(scene.instance(), 200, "there is no file");
    scene.put(IMDS_FILE, DENY);
    scene.wait_for(403, "appeared");
    // Same size, same time: only what cannot be set tells.
    let time = fs::metadata(scene.path(IMDS_FILE)).unwrap().modified().unwrap();
    assert_eq!(ALLOW.len(), DENY.len());
    for (text, status) in [(ALLOW, 200), (DENY, 403), (ALLOW, 200)] {
        let temporary = scene.path("new.tmp");
        let mut file = File::create(&temporary).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.set_modified(time).unwrap();
        fs::rename(&temporary, scene.path(IMDS_FILE)).unwrap();
        scene.wait_for(status, "was replaced unnoticeably");
    }
    // In place.
    fs::write(scene.path(IMDS_FILE), DENY).unwrap();
    scene.wait_for(403, "was written over");
    fs::set_permissions(scene.path(IMDS_FILE), fs::Permissions::from_mode(0o666)).unwrap();
    scene.wait_for_message("its mode 0666 lets others write");
    fs::set_permissions(scene.path(IMDS_FILE), fs::Permissions::from_mode(0o640)).unwrap();
    scene.wait("it counts again", || (!scene.message().contains("fail-closed")).then_some(()));
    assert_eq!(scene.instance(), 403);
    fs::remove_file(scene.path(IMDS_FILE)).unwrap();
    scene.wait_for(200, "is gone");
    scene.put(IMDS_FILE, r#"{"id": "mine"}"#);
    scene.wait("a snapshot", || (scene.snapshot()["inputRules"]["imds"]["id"] == "p-useLocalFileRules-true_mine").then_some(()));
    assert_eq!(scene.snapshot()["computedRules"]["imds"]["mode"], "Enforce");
    assert_eq!(scene.polls(), polls, "the host was not asked");
    assert!(scene.is_alive());
    let log = scene.world.sandbox.log("ProxyAgent.log").unwrap();
    for line in [
        "IMDS local file rules enabled.".to_owned(),
        format!("IMDS local rules file found at {}.", scene.path(IMDS_FILE).display()),
        format!("IMDS local rules file changed at {}.", scene.path(IMDS_FILE).display()),
        format!("IMDS local rules file deleted or not found at {}.", scene.path(IMDS_FILE).display()),
        format!("Successfully parsed IMDS local rules file {} with id 'mine' on attempt 1.", scene.path(IMDS_FILE).display()),
    ] {
        assert!(log.contains(&line), "{line}\n{log}");
    }
}

/// Something that is no rule file, how to make it, and what is said about it.
type Fault = (&'static str, fn(&Scene), &'static str);

/// R-113, R-116, R-118, R-119, R-134 to R-140, R-145, R-146, SEC-F4, SEC-L10, SEC-L12
fn whatever_is_wrong_with_a_file_closes(runtime: Runtime) {
    let faults: [Fault; 19] = [
        ("half of it", |s| s.put(IMDS_FILE, &ALLOW[..ALLOW.len() - 1]), "line 1, column 25: EOF while parsing an object"),
        ("empty", |s| s.put(IMDS_FILE, ""), "empty"),
        ("a byte order mark", |s| s.put(IMDS_FILE, "\u{feff}"), "empty"),
        ("not UTF-8", |s| s.put(IMDS_FILE, b"{\"defaultAccess\": \"allow\", \"id\": \"\xff\"}"), "line 1, column 35: not UTF-8"),
        ("an array", |s| s.put(IMDS_FILE, "[]"), "expected an object"),
        (
            "a member twice",
            |s| s.put(IMDS_FILE, r#"{"defaultAccess": "deny", "defaultAccess": "allow"}"#),
            "the member \"defaultAccess\" is there twice",
        ),
        (
            "a wrong type",
            |s| s.put(IMDS_FILE, r#"{"defaultAccess": true}"#),
            "line 1, column 19: defaultAccess: expected a string",
        ),
        ("a wrong word", |s| s.put(IMDS_FILE, r#"{"defaultAccess": "allowed"}"#), "defaultAccess: neither allow nor deny"),
        (
            "a name twice",
            |s| {
                let privilege = json!({"name": "p", "path": "/"});
                s.put(IMDS_FILE, json!({"defaultAccess": "allow", "rules": {"privileges": [privilege, privilege]}}).to_string());
            },
            "rules.privileges[1].name: the name \"p\" is there twice",
        ),
        (
            "a name that goes round in circles",
            |s| s.put(IMDS_FILE, r#"{"defaultAccess": "allow", "rules": {"roles": [{"name": "r", "privileges": ["r"]}]}}"#),
            "rules.roles[0].privileges[0]: this file defines no privilege \"r\"",
        ),
        (
            "a path without canonical form",
            |s| s.put(IMDS_FILE, r#"{"defaultAccess": "allow", "rules": {"privileges": [{"name": "p", "path": "/%"}]}}"#),
            "rules.privileges[0].path: without a canonical form (CANON_PCT)",
        ),
        (
            "ten megabytes",
            |s| s.put(IMDS_FILE, format!("{{\"defaultAccess\": \"allow\", \"id\": \"{}\"}}", "x".repeat(10 << 20))),
            "refused, because it is larger than 1048576 bytes",
        ),
        (
            "a million arrays in each other, on a megabyte",
            |s| s.put(IMDS_FILE, format!("{{\"defaultAccess\": \"allow\", \"x\": {}", "[".repeat(1_000_000))),
            "recursion limit exceeded",
        ),
        (
            "of another owner",
            |s| {
                s.put("theirs.tmp", ALLOW);
                chown(s.path("theirs.tmp"), Some(65534), Some(65534)).unwrap();
                fs::rename(s.path("theirs.tmp"), s.path(IMDS_FILE)).unwrap();
            },
            "refused, because it belongs to user id 65534, not to root",
        ),
        (
            "writable by others",
            |s| {
                s.put("open.tmp", ALLOW);
                fs::set_permissions(s.path("open.tmp"), fs::Permissions::from_mode(0o666)).unwrap();
                fs::rename(s.path("open.tmp"), s.path(IMDS_FILE)).unwrap();
            },
            "refused, because its mode 0666 lets others write",
        ),
        (
            "a link to a good file",
            |s| {
                s.put("good.json", ALLOW);
                fs::remove_file(s.path(IMDS_FILE)).unwrap();
                symlink("good.json", s.path(IMDS_FILE)).unwrap();
            },
            "refused, because it is a symbolic link",
        ),
        (
            "a link to nowhere",
            |s| {
                fs::remove_file(s.path(IMDS_FILE)).unwrap();
                symlink("nowhere", s.path(IMDS_FILE)).unwrap();
            },
            "refused, because it is a symbolic link",
        ),
        (
            "a FIFO",
            |s| {
                fs::remove_file(s.path(IMDS_FILE)).unwrap();
                let made = s.world.client(&root(), "mkfifo").args(["-m", "600"]).arg(s.path(IMDS_FILE)).status().unwrap();
                assert!(made.success());
            },
            "refused, because it is not a regular file",
        ),
        (
            "a directory",
            |s| {
                fs::remove_file(s.path(IMDS_FILE)).unwrap();
                fs::create_dir(s.path(IMDS_FILE)).unwrap();
            },
            "refused, because it is not a regular file",
        ),
    ];
    let mut scene = Scene::start(runtime, json!({"imds": document("allow", "enforce", &id("p", true))}), false);
    let polls = scene.polls();
    for (what, make, said) in faults {
        scene.put(IMDS_FILE, ALLOW);
        scene.wait("the file is good", || (!scene.message().contains("fail-closed")).then_some(()));
        scene.wait_for(200, "allows");
        make(&scene);
        scene.wait_for(403, what);
        scene.wait_for_message(said);
        assert!(scene.message().contains("IMDS rules: fail-closed, because"), "{what}");
        assert_eq!(scene.instance(), 403, "{what}: it stays closed");
        if scene.path(IMDS_FILE).symlink_metadata().unwrap().is_dir() {
            fs::remove_dir(scene.path(IMDS_FILE)).unwrap();
        }
    }
    scene.wait_for(200, "is gone");
    assert_eq!(scene.polls(), polls, "the host was not asked");
    assert!(scene.is_alive());
}

/// R-116: byte by byte, over the old content. Whatever is there until the last byte, nobody gets anything.
fn a_file_that_is_written_slowly_never_opens(runtime: Runtime) {
    let scene = Scene::start(runtime, json!({"imds": document("allow", "enforce", &id("p", true))}), false);
    scene.put(IMDS_FILE, DENY);
    scene.wait_for(403, "denies");
    let text = r#"{"defaultAccess": "allow", "id": "whole"}"#;
    let mut file = File::create(scene.path(IMDS_FILE)).unwrap();
    for byte in text.as_bytes() {
        assert_eq!(scene.instance(), 403);
        file.write_all(&[*byte]).unwrap();
    }
    scene.wait_for(200, "is whole");
    drop(file);
    // Denial takes the place of permission at the first byte, if at all: between them is no third thing.
    let mut file = File::create(scene.path(IMDS_FILE)).unwrap();
    file.write_all(&DENY.as_bytes()[..10]).unwrap();
    scene.wait_for(403, "is half-written");
    file.write_all(&DENY.as_bytes()[10..]).unwrap();
    scene.wait("it is read", || (!scene.message().contains("fail-closed")).then_some(()));
    assert_eq!(scene.instance(), 403);
}

/// R-100, R-111, R-114, FS-25, FS-29
fn directories_that_come_and_go(runtime: Runtime) {
    let mut scene = Scene::start(runtime, json!({"imds": document("allow", "enforce", &id("p", true))}), false);
    let aside = scene.folder().with_file_name("aside");
    scene.put(IMDS_FILE, DENY);
    scene.wait_for(403, "appeared");
    fs::rename(scene.folder(), &aside).unwrap();
    scene.wait_for(200, "went with its directory");
    fs::rename(&aside, scene.folder()).unwrap();
    scene.wait_for(403, "came with its directory");
    fs::remove_dir_all(scene.folder()).unwrap();
    scene.wait_for(200, "is gone with its directory");
    fs::create_dir(scene.folder()).unwrap();
    scene.put(IMDS_FILE, DENY);
    scene.wait_for(403, "is in a new directory");
    scene.put(IMDS_FILE, ALLOW);
    scene.wait_for(200, "is another one there");
    // What must not be used is not the same as nothing.
    fs::rename(scene.folder(), &aside).unwrap();
    symlink(&aside, scene.folder()).unwrap();
    scene.wait_for_message("rules: refused, because it is a symbolic link");
    assert_eq!(scene.instance(), 403);
    fs::remove_file(scene.folder()).unwrap();
    fs::rename(&aside, scene.folder()).unwrap();
    scene.wait_for(200, "is back");
    chown(scene.folder(), Some(65534), None).unwrap();
    scene.wait_for_message("rules: refused, because it belongs to user id 65534, not to root");
    assert_eq!(scene.instance(), 403);
    chown(scene.folder(), Some(0), None).unwrap();
    scene.wait_for(200, "is root's again");
    assert!(scene.is_alive());
}

/// R-101, R-103, R-104, R-105, R-110, R-145, R-147, SEC-L19
fn the_host_switches_files_off_and_on(runtime: Runtime) {
    let documents = |imds: Value, wireserver: Value| json!({"imds": imds, "wireserver": wireserver});
    let closed = || document("allow", "enforce", &id("ws", true));
    let scene = Scene::start(runtime, documents(document("allow", "enforce", &id("p", true)), closed()), true);
    scene.put(IMDS_FILE, DENY);
    scene.put(WIRESERVER_FILE, "broken");
    scene.wait_for_ids("p-useLocalFileRules-true", "ws-useLocalFileRules-true");
    scene.wait_for(403, "denies");
    scene.wait_for_message("WireServer rules: fail-closed");
    let of = |to, target| Scene::status_of(&scene.root, to, target);
    assert_eq!((of(WIRESERVER, GOAL_STATE), of(HOSTGA, "/versions")), (403, 200), "SEC-L19");
    for (mode, on, imds) in [("enforce", false, 200), ("enforce", true, 403), ("audit", true, 200), ("enforce", true, 403)] {
        scene.set(documents(document("allow", mode, &id("p", on)), closed()));
        scene.wait_for_ids(&format!("p-useLocalFileRules-{on}"), "ws-useLocalFileRules-true");
        scene.wait_for(imds, &format!("is switched to {on} in mode {mode}"));
        assert_eq!((of(WIRESERVER, GOAL_STATE), of(HOSTGA, "/versions")), (403, 200));
    }
    // In audit mode a broken file denies nothing; what it would have denied is on record.
    scene.set(documents(document("allow", "audit", &id("p", true)), closed()));
    scene.put(IMDS_FILE, "broken");
    scene.wait_for_message("IMDS rules: fail-closed");
    let target = "/metadata/instance/compute?api-version=2021-02-01";
    assert_eq!(Scene::status_of(&scene.nobody, IMDS, target), 200);
    let line = scene.world.audit_for(target);
    assert!(line["decision"] == "audit", "{line}");
    let status: Value =
        scene.root.ask(LISTENER, "GET /gpa-aggregated-status HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n").json();
    let states = &status["proxyAgentStatus"]["keyLatchStatus"]["states"];
    assert_eq!((&states["imdsRuleId"], &states["hostGARuleId"]), (&json!(id("p", true)), &json!(id("ws", true))), "raw ids");
    // A switch that is off forgets the file.
    scene.set(documents(document("allow", "enforce", "plain"), document("allow", "enforce", "plain")));
    scene.wait_for(200, "does not count");
    assert_eq!((of(WIRESERVER, GOAL_STATE), of(HOSTGA, "/versions")), (200, 200));
    assert!(!scene.message().contains("fail-closed"));
    assert_eq!(scene.snapshot()["inputRules"]["imds"]["id"], "plain-useLocalFileRules-false");
}

/// R-112, R-113: what the owner says counts from the first request on, for an agent that starts, and for one that starts again.
fn nobody_gets_by_while_the_agent_starts(runtime: Runtime) {
    let documents = || json!({"imds": document("allow", "enforce", &id("p", true))});
    for file in [DENY, "broken"] {
        let mut scene = Scene::with_file(runtime, documents(), false, Some(file));
        assert_eq!(scene.instance(), 403);
        scene.world.agent.kill().unwrap();
        let binary = runtime.binary();
        let options = sandbox::AgentOptions::new(binary).until(sandbox::Ready::Listening);
        scene.world.agent = scene.world.sandbox.start_agent(&options).unwrap();
        scene.wait("an answer", || match scene.nobody.try_connect(IMDS).ok().map(|_| scene.instance()) {
            Some(200) => panic!("{runtime}: got by"),
            status => (status == Some(403)).then_some(()),
        });
        assert!(scene.is_alive());
    }
}

/// A document that lets an identity do something, for [`scenarios_of_local_files`].
fn only(id: &str, identity: &Value, privilege: &Value) -> Value {
    let mut identity = identity.clone();
    identity["name"] = "i".into();
    let mut privilege = privilege.clone();
    privilege["name"] = "p".into();
    json!({"defaultAccess": "deny", "id": id, "rules": {
        "privileges": [privilege], "roles": [{"name": "r", "privileges": ["p"]}],
        "identities": [identity], "roleAssignments": [{"role": "r", "identities": ["i"]}]}})
}

/// SEC-L1 to SEC-L9, SEC-L11, SEC-L13 to SEC-L16; R-131 to R-133, R-141
fn scenarios_of_local_files(runtime: Runtime) {
    let nothing = json!({"privileges": [], "roles": [], "identities": [], "roleAssignments": []});
    let remote = |name: &str| {
        let mut document = document("deny", "enforce", &id(name, true));
        document["rules"] = nothing.clone();
        document
    };
    let mut scene = Scene::start(runtime, json!({"imds": remote("i"), "wireserver": remote("w")}), false);
    let both = |scene: &Scene, number: &str, imds: &Value, wireserver: &Value| {
        scene.put(IMDS_FILE, imds.to_string());
        scene.put(WIRESERVER_FILE, wireserver.to_string());
        scene.wait_for_ids(&format!("i-useLocalFileRules-true_{number}"), &format!("w-useLocalFileRules-true_{number}"));
    };
    let check = |scene: &Scene, number: &str, to: &str, probes: &[(&str, u16)]| {
        for (target, expected) in probes {
            assert_eq!(Scene::status_of(&scene.root, to, target), *expected, "{number} {target}");
        }
    };
    let broken = |scene: &Scene, number: &str, text: &str| {
        scene.put(IMDS_FILE, text);
        scene.put(WIRESERVER_FILE, text);
        scene.wait(&format!("{number}: both are broken"), || {
            let message = scene.message();
            (message.contains("IMDS rules: fail-closed") && message.contains("WireServer rules: fail-closed")).then_some(())
        });
        check(scene, number, IMDS, &[(INSTANCE, 403), (VERSIONS, 403)]);
        check(scene, number, WIRESERVER, &[(GOAL_STATE, 403), ("/machine?comp=versions", 403)]);
    };
    let user = json!({"userName": "root"});
    let (instance, goal_state) =
        (json!({"path": "/metadata/instance"}), json!({"path": "/machine/", "queryParameters": {"comp": "goalstate"}}));
    let shared = "/machine/x?comp=config&type=sharedConfig";
    let certificates = "/machine?comp=certificates";

    let open = json!({"defaultAccess": "allow", "id": "L1"});
    both(&scene, "L1", &open, &open);
    check(&scene, "L1", IMDS, &[(INSTANCE, 200), (TOKEN, 200)]);
    check(&scene, "L1", WIRESERVER, &[(GOAL_STATE, 200), ("/machine?comp=versions", 200)]);

    let closed = |id: &str| json!({"defaultAccess": "deny", "id": id, "rules": nothing});
    both(&scene, "L2", &closed("L2"), &closed("L2"));
    let mut audit = closed("L3");
    audit["mode"] = "audit".into();
    for number in ["L2", "L3"] {
        if number == "L3" {
            both(&scene, "L3", &audit, &audit);
        }
        check(&scene, number, IMDS, &[(INSTANCE, 403), (VERSIONS, 403)]);
        check(&scene, number, WIRESERVER, &[(GOAL_STATE, 403), ("/machine?comp=versions", 403), (shared, 403)]);
    }

    both(&scene, "L4", &only("L4", &user, &instance), &only("L4", &user, &goal_state));
    check(&scene, "L4", IMDS, &[(INSTANCE, 200), (TOKEN, 403), (VERSIONS, 403)]);
    check(&scene, "L4", WIRESERVER, &[(GOAL_STATE, 200), (shared, 403), (certificates, 403)]);
    check(
        &scene,
        "L6",
        IMDS,
        &[
            ("/metadata/identity/oauth2%2Ftoken", 403),
            ("/metadata/identity/oauth2%2ftoken", 403),
            ("/metadata/identity/oauth2%252Ftoken", 403),
            ("/metadata/instance%3Fx", 403),
        ],
    );
    check(
        &scene,
        "L6",
        WIRESERVER,
        &[
            ("/machine%2F?comp=certificates", 403),
            ("/machine/%3Fcomp=certificates", 403),
            ("/machine?comp=Certificates", 403),
            ("/machine/?comp=GOALSTATE", 200),
        ],
    );
    for (to, target) in [
        (IMDS, "/metadata/instance/./../identity/oauth2/token"),
        (WIRESERVER, "//machine///?comp=certificates"),
        (WIRESERVER, "/machine/./../machine/?comp=certificates"),
        (IMDS, "//identity/oauth2/token"),
    ] {
        let status = Scene::status_of(&scene.root, to, target);
        assert!(matches!(status, 403 | 404), "L6 {target}: {status}");
    }
    check(
        &scene,
        "L16",
        IMDS,
        &[
            ("/metadata/IDENTITY/oauth2/TOKEN", 403),
            ("/metadata/identity/oauth2/%74oken", 403),
            ("/metadata/identity/oauth2/token/", 403),
            ("/metadata/identity/oauth2/token;x", 403),
            ("/metadata/identity/oauth2/token.", 403),
        ],
    );

    for (number, name) in [("L5", "no-such-user"), ("L15", "r\u{43e}\u{6f}t")] {
        let other = json!({"userName": name});
        both(&scene, number, &only(number, &other, &instance), &only(number, &other, &goal_state));
        check(&scene, number, IMDS, &[(INSTANCE, 403)]);
        check(&scene, number, WIRESERVER, &[(GOAL_STATE, 403)]);
    }

    let version = json!({"path": "/metadata/instance", "queryParameters": {"api-version": "2021-02-01"}});
    both(&scene, "L7", &only("L7", &user, &version), &only("L7", &user, &goal_state));
    check(
        &scene,
        "L7",
        IMDS,
        &[(INSTANCE, 200), ("/metadata/instance", 403), ("/metadata/instance?api-version=2018-02-01", 403)],
    );
    check(
        &scene,
        "L7",
        WIRESERVER,
        &[(GOAL_STATE, 200), ("/machine/", 403), ("/machine/?comp=x", 403), ("/machine/?comp=goalstate&incarnation=1", 200)],
    );

    let group = json!({"groupName": "root"});
    both(&scene, "L8", &only("L8", &group, &instance), &only("L8", &group, &goal_state));
    check(&scene, "L8", IMDS, &[(INSTANCE, 200)]);
    check(&scene, "L8", WIRESERVER, &[(GOAL_STATE, 200)]);

    let curl = json!({"exePath": fs::canonicalize("/usr/bin/curl").unwrap().to_str().unwrap()});
    both(&scene, "L9", &only("L9", &curl, &instance), &only("L9", &curl, &goal_state));
    for (to, target) in [(IMDS, INSTANCE), (WIRESERVER, GOAL_STATE)] {
        check(&scene, "L9: a script", to, &[(target, 403)]);
        let mut command = scene.world.client(&root(), "curl");
        let url = format!("http://{}{target}", to.trim_end_matches(":80"));
        let fields = ["-H", "Metadata: true", "-H", "x-ms-version: 2012-11-30"];
        let output = command.args(["-sS", "-m10", "-o", "/dev/null", "-w", "%{http_code}"]).args(fields).arg(url).output();
        assert_eq!(support::text(&output.unwrap()), "200", "L9: curl");
    }

    scene.put(IMDS_FILE, [b"\xef\xbb\xbf", closed("L11").to_string().as_bytes()].concat());
    scene.put(WIRESERVER_FILE, [b"\xef\xbb\xbf", closed("L11").to_string().as_bytes()].concat());
    scene.wait_for_ids("i-useLocalFileRules-true_L11", "w-useLocalFileRules-true_L11");
    check(&scene, "L11", IMDS, &[(INSTANCE, 403)]);
    check(&scene, "L11", WIRESERVER, &[(GOAL_STATE, 403)]);

    let prefixed = |document: Value| -> Value {
        let text = document.to_string();
        let names = ["p", "r", "i"]
            .iter()
            .fold(text, |text, name| text.replace(&format!("\"{name}\""), &format!("\"LocalFileRules_{name}\"")));
        serde_json::from_str(&names).unwrap()
    };
    both(&scene, "L13", &prefixed(only("L13", &user, &instance)), &prefixed(only("L13", &user, &goal_state)));
    check(&scene, "L13", IMDS, &[(INSTANCE, 200), (VERSIONS, 403)]);
    check(&scene, "L13", WIRESERVER, &[(GOAL_STATE, 200)]);

    broken(&scene, "L10", "not JSON");
    both(
        &scene,
        "between",
        &json!({"defaultAccess": "allow", "id": "between"}),
        &json!({"defaultAccess": "allow", "id": "between"}),
    );
    broken(&scene, "L12", r#"{"defaultAccess": "allow", "defaultAccess": "deny"}"#);
    both(&scene, "again", &json!({"defaultAccess": "allow", "id": "again"}), &json!({"defaultAccess": "allow", "id": "again"}));
    let mut dangling = only("L14", &user, &instance);
    dangling["rules"]["roles"][0]["privileges"] = json!(["p", "ghost"]);
    broken(&scene, "L14", &dangling.to_string());
    assert!(scene.is_alive());
}
