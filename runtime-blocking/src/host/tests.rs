//! Each effect does what it says, in the place where it belongs.

use super::scratch::Scratch;
use super::*;
use azure_proxy_agent_core::agent::StoreId;
use azure_proxy_agent_core::authz::Rules;
use azure_proxy_agent_core::identity::{Confidence, Destination, ExeId, Executable, Fact, RawText};
use bytes::Bytes;
use redirect_ebpf::{MemoryRedirector, verify};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const KEY: &str = r#"{"authorizationScheme":"Azure-HMAC-SHA256","guid":"7f9c","issued":"now","key":"0011"}"#;

/// A host that lives below a scratch directory: `keys`, `rules`, `status`, `logs`.
pub(crate) fn host(scratch: &Scratch) -> Host {
    let root = scratch.path().to_str().expect("UTF-8");
    let json = format!(
        r#"{{"logFolder": "{root}/logs", "eventFolder": "{root}/events", "latchKeyFolder": "{root}/keys", "statusFolder": "{root}/status",
            "monitorIntervalInSeconds": 1, "pollKeyStatusIntervalInSeconds": 1, "ebpfProgramName": "x"}}"#
    );
    let config = Config::parse(Path::new("test"), json.as_bytes(), &|_| None).expect("configuration").0;
    Host::new(&config).with_console(Console::at(scratch.path().join("console")))
}

pub(crate) fn record(route: Route, uid: u32) -> KernelRecord {
    KernelRecord {
        route,
        original: Destination::Imds.addr(),
        tgid: std::process::id(),
        tid: 1,
        ppid: 1,
        uid,
        gid: 0,
        start_boottime: 0,
        exec_id: 1,
        exe: None,
        pid_ns: 1,
        ns_tgid: 1,
        task_cgroup: 7,
        socket_cgroup: 7,
        netns: 1,
        socket_cookie: 1,
        connected_at: 1,
        mapped_v6: false,
        comm: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

/// I-26
#[test]
fn a_recorded_connection_gets_user_groups_and_what_the_kernel_said() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    let Peer::Redirected { to, claims } = host.identify(&record(Route::Redirected, 0), &Policy::default()) else {
        panic!("redirected")
    };
    assert_eq!(to, Destination::Imds.addr());
    assert_eq!((claims.user_id, claims.process_id, claims.cgroup), (0, std::process::id(), 7));
    assert_eq!(claims.user_name, RawText::from("root"), "I-04");
    assert!(claims.in_group(b"root"), "I-05");
    // I-29: without start time and executable nothing ties the number to the process.
    assert_eq!((&claims.executable, claims.confidence), (&Executable::Unknown, Confidence::KernelOnly));

    let Peer::Direct { claims: Some(claims) } = host.identify(&record(Route::Direct, 3_999_999_999), &Policy::default()) else {
        panic!("direct")
    };
    assert_eq!((claims.user_name.as_bytes(), claims.user_groups.len()), (&b"undefined"[..], 0), "I-14");
}

/// What the kernel would have noted about this process.
fn ours() -> KernelRecord {
    use std::os::linux::fs::MetadataExt as _;
    let exe = fs::metadata("/proc/self/exe").expect("executable");
    let exe = ExeId {
        inode: exe.st_ino(),
        ctime_s: exe.st_ctime(),
        ctime_ns: u32::try_from(exe.st_ctime_nsec()).expect("nanoseconds"),
        ..ExeId::default()
    };
    let start = verify::start_time(std::process::id()).expect("a process").expect("a time");
    KernelRecord { start_boottime: start, exe: Some(exe), ..record(Route::Redirected, 0) }
}

fn policy(identity: &str) -> Policy {
    let json = format!(
        r#"{{"defaultAccess":"deny","mode":"enforce","id":"","rules":{{"privileges":[],"roles":[],"identities":[{identity}],
        "roleAssignments":[]}}}}"#
    );
    let rules = Rules::compile(&serde_json::from_str(&json).expect("a document")).0;
    Policy { rules: PerDestination { imds: Some(Arc::new(rules)), ..PerDestination::default() }, ..Policy::default() }
}

/// I-28, I-29: the file that the process was seen to run, when rules ask and it can make a difference.
#[test]
fn an_executable_is_hashed_for_rules_that_it_could_matter_to() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    let exe_hash = |record: &KernelRecord, identity: &str| host.claims(record, Some(&policy(identity))).on_demand.exe_hash;
    let hash = format!(r#""exeSha256":"{}""#, "0".repeat(64));
    let Fact::Known(ours_is) = exe_hash(&ours(), &format!(r#"{{"name":"i",{hash}}}"#)) else { panic!("a hash") };
    let sum = std::process::Command::new("sha256sum").arg(std::env::current_exe().expect("path")).output().expect("sha256sum");
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(&ours_is.to_string()));
    assert_eq!(exe_hash(&ours(), &format!(r#"{{"name":"i","userName":"nobody",{hash}}}"#)), Fact::Unknown);
    assert_eq!(exe_hash(&record(Route::Redirected, 0), &format!(r#"{{"name":"i",{hash}}}"#)), Fact::Unknown);
    assert_eq!(exe_hash(&ours(), r#"{"name":"i","uid":0}"#), Fact::NotAsked);
    assert_eq!(host.claims(&ours(), None).on_demand.exe_hash, Fact::NotAsked);
}

#[test]
fn a_cgroup_has_its_path_when_rules_ask() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    let ask = |id| {
        let record = KernelRecord { task_cgroup: id, ..ours() };
        host.claims(&record, Some(&policy(r#"{"name":"i","cgroupPath":"/*"}"#))).on_demand.cgroup_path.clone()
    };
    assert_eq!(host.claims(&ours(), Some(&policy(r#"{"name":"i","uid":0}"#))).on_demand.cgroup_path, Fact::NotAsked);
    assert_eq!(ask(0), Fact::Unknown);
    if let Some(root) = redirect_ebpf::find_cgroup2() {
        use std::os::linux::fs::MetadataExt as _;
        assert_eq!(ask(fs::metadata(root).expect("root").st_ino()), Fact::Known("/".into()));
    }
}

#[test]
fn keys_are_stored_and_loaded_by_effects() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    let key = StoredKey::from_json(KEY.as_bytes()).expect("key");
    let guid = key.guid().clone();
    let load = || host.run(AgentEffect::LoadKey { id: StoreId(1), guid: guid.clone() }, None);
    assert!(matches!(load(), Ran::Answered(AgentAnswer::KeyLoaded { id: StoreId(1), result: Ok(None) })));
    assert!(matches!(
        host.run(AgentEffect::StoreKey { id: StoreId(2), key: key.clone() }, None),
        Ran::Answered(AgentAnswer::KeyStored { id: StoreId(2), result: Ok(()) })
    ));
    let Ran::Answered(AgentAnswer::KeyLoaded { result: Ok(Some(loaded)), .. }) = load() else { panic!("there") };
    assert!(loaded == key);
    assert_eq!(mode(&scratch.path().join("keys/7f9c.key")), 0o600);

    fs::write(scratch.path().join("keys/7f9c.key"), "{}").expect("write");
    let Ran::Answered(AgentAnswer::KeyLoaded { result: Err(e), .. }) = load() else { panic!("damaged") };
    assert!(e.to_string().contains("keys/7f9c.key: not a key document"), "{e}");
}

#[test]
fn state_files_lie_where_files_md_says() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    for (file, path, wanted) in [
        (StateFile::ProvisionedTag, "keys/provisioned.tag", 0o600),
        (StateFile::StatusTag, "keys/status.tag", 0o600),
        (StateFile::Status, "status/status.json", 0o640),
    ] {
        let path = scratch.path().join(path);
        let Ran::Answered(AgentAnswer::Written { file: written, result }) =
            host.run(AgentEffect::WriteState { file, bytes: Bytes::from_static(b"text") }, None)
        else {
            panic!("answered")
        };
        assert_eq!((written, result), (file, Ok(())));
        assert_eq!((fs::read(&path).expect("read"), mode(&path)), (b"text".to_vec(), wanted));
        assert!(matches!(host.run(AgentEffect::RemoveState(file), None), Ran::Done));
        assert!(!path.exists(), "FS-35");
        host.remove_state(file).expect("removing nothing is no error");
    }
    assert_eq!((mode(&scratch.path().join("keys")), mode(&scratch.path().join("status"))), (0o700, 0o755));
    assert_eq!(fs::read_dir(scratch.path().join("status")).expect("list").count(), 0, "no temporary file");
}

#[test]
fn fs24_fs25_directories_are_made_and_narrowed_at_every_start() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    host.prepare();
    for name in ["keys", "rules"] {
        let path = scratch.path().join(name);
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("chmod");
    }
    host.prepare();
    assert_eq!((mode(&scratch.path().join("keys")), mode(&scratch.path().join("rules"))), (0o700, 0o700));
}

#[test]
fn a_redirect_is_set_or_says_why_not() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    let modes = PerDestination { imds: TargetMode::Audit, wireserver: TargetMode::Enforce, hostga: TargetMode::Off };
    let redirector = MemoryRedirector::new();
    let run = |redirector| match host.run(AgentEffect::Redirect(modes), redirector) {
        Ran::Answered(AgentAnswer::Redirected(result)) => result,
        other => panic!("{other:?}"),
    };
    assert_eq!(run(Some(&redirector)), Ok(()));
    assert_eq!(redirector.targets(), modes);
    redirector.set_broken(Some("detached"));
    assert!(run(Some(&redirector)).expect_err("broken").contains("detached"));
    assert_eq!(run(None), Err("the redirector is not loaded".into()));
}

#[test]
fn fs36_important_notices_reach_the_console() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    let console = scratch.path().join("console");
    fs::write(&console, "").expect("write");
    for (important, text) in [(false, "ordinary"), (true, "Provision finished successfully")] {
        let effect = AgentEffect::Notice { source: None, level: Level::Info, console: important, text: text.into() };
        assert!(matches!(host.run(effect, None), Ran::Done));
    }
    let text = fs::read_to_string(&console).expect("read");
    assert!(text.ends_with(" - Provision finished successfully\n") && text.lines().count() == 1, "{text}");
}

#[test]
fn audit_records_are_appended_with_mode_0640() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    for line in [b"{\"id\":1}\n", b"{\"id\":2}\n"] {
        let mut log = audit::AuditLog { host: &host, wall: azure_proxy_agent_core::time::Wall(0) };
        crate::staging::Log::append(&mut log, line, &mut |_| {}).expect("writes");
    }
    let path = scratch.path().join("logs/audit.jsonl");
    assert_eq!((fs::read_to_string(&path).expect("read").as_str(), mode(&path)), ("{\"id\":1}\n{\"id\":2}\n", 0o640));
}

#[test]
fn what_needs_the_runtime_comes_back() {
    let scratch = Scratch::new("host");
    let effect = AgentEffect::Publish(Arc::default());
    assert!(matches!(host(&scratch).run(effect, None), Ran::NotHere(AgentEffect::Publish(_))));
}

#[test]
fn r151_r155_snapshots_have_mode_0640_and_five_are_kept() {
    let scratch = Scratch::new("host");
    let host = host(&scratch);
    let name = |n: u64| format!("AuthorizationRules_{}.json", clock::wall().plus(std::time::Duration::from_secs(n)).file_stamp());
    let names: Vec<String> = (0..8).map(name).collect();
    for name in &names {
        let effect = AgentEffect::Snapshot { name: name.as_str().into(), bytes: Bytes::from_static(b"{}") };
        assert!(matches!(host.run(effect, None), Ran::Answered(AgentAnswer::SnapshotWritten(Ok(())))));
    }
    let folder = scratch.path().join("status");
    let mut left: Vec<String> =
        fs::read_dir(&folder).expect("listed").map(|e| e.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    left.sort();
    assert_eq!(left, names[3..]);
    assert!(left.iter().all(|name| mode(&folder.join(name)) == 0o640));
}
