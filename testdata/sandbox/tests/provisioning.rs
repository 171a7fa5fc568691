//! Provisioning as those see it who wait for it or read about it: `--status`, `/provision`, tag files, status document, serial
//! console, and cloud-init. cli.md section 2, proxy.md section 4, files.md sections 4 to 6. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

#[path = "provisioning/cloud_init.rs"]
mod cloud_init;
#[path = "provisioning/two_minutes.rs"]
mod two_minutes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use sandbox::{Agent, AgentOptions, HostOptions, Mode, Ready, Sandbox, Server};
use serde_json::{Value, json};
use support::wire::{Answer, Caller, IMDS, LISTENER, WIRESERVER};
use support::{PATIENCE, Runtime, World, on_both_runtimes, schema, until};

on_both_runtimes!(
    whoever_waits_is_answered,
    a_restart_while_somebody_waits,
    ticks_and_when_they_are_answered,
    a_disabled_channel_is_asked_anew,
    two_callers_at_a_time_get_a_fresh_answer_each,
    tag_files,
    the_status_document,
    the_state_follows_the_host,
    the_serial_console,
    a_console_that_takes_nothing,
);

/// Status 200 of `GET target`, and no further wish.
fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n{fields}\r\n")
}

/// `/provision` of the agent, asked with these fields: `finished` and `errorMessage` (PX-54).
fn provision(caller: &Caller, fields: &str) -> (bool, String) {
    let answer = caller.ask(LISTENER, get("/provision", fields));
    assert_eq!(answer.status, 200, "{answer:?}");
    let state = answer.json();
    (state["finished"].as_bool().unwrap(), state["errorMessage"].as_str().unwrap().to_owned())
}

/// Nanoseconds since the epoch, as in a tick.
fn tick() -> i128 {
    i128::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// The time as the agent writes it. Such texts compare as times do.
fn stamp() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%3N"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

const STAMP: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}.[0-9]{3}$";

/// Whether it is a time of files.md.
fn is_stamp(text: &str) -> bool {
    schema_check::matches(&STAMP.replace(".[", "[.]["), text)
}

/// `--status --wait seconds`, as the daemon's program does it.
fn status(sandbox: &Sandbox, runtime: Runtime, seconds: u64) -> Child {
    let mut command = sandbox.command(runtime.binary());
    command.args(["--status", "--wait", &seconds.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Exit status, standard output, standard error.
fn ended(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The same, waited for.
fn status_of(sandbox: &Sandbox, runtime: Runtime, seconds: u64) -> (Option<i32>, String, String) {
    ended(&status(sandbox, runtime, seconds).wait_with_output().unwrap())
}

fn ready() -> (Option<i32>, String, String) {
    (Some(0), String::new(), String::new())
}

/// How often the agent asked the host for its status.
fn polls(host: &Server) -> usize {
    host.host().records.all().iter().filter(|r| r.target.starts_with("/secure-channel/status")).count()
}

/// A program that prepares something in a mount namespace of its own and becomes the daemon.
fn wrapped(sandbox: &Sandbox, runtime: Runtime, prepare: &str) -> std::path::PathBuf {
    let path = sandbox.directory().join("wrapper");
    let script = format!("#!/bin/sh\n{prepare}\nexec {} \"$@\"\n", runtime.binary().display());
    let script = script.replace("UNSHARED", "if [ -z \"$UNSHARED\" ]; then UNSHARED=1 exec unshare --mount \"$0\" \"$@\"; fi");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// CLI-15, CLI-16, CLI-36. How soon after readiness is a matter of the bench.
fn whoever_waits_is_answered(runtime: Runtime) {
    let mut world = World::start(runtime);
    // An agent that is started while somebody waits, with its key on disk.
    world.agent.stop().unwrap();
    let waiting = status(&world.sandbox, runtime, 60);
    let options = AgentOptions::new(runtime.binary()).until(Ready::Listening);
    world.agent = world.sandbox.start_agent(&options).unwrap();
    let (code, out, _) = ended(&waiting.wait_with_output().unwrap());
    assert_eq!((code, out.as_str()), (Some(0), ""));
    // One that is there, asked again and again, and becomes ready when the host answers.
    world.agent.stop().unwrap();
    world.host.host().fail("status", "500".parse().unwrap(), u64::MAX);
    world.agent = world.sandbox.start_agent(&options).unwrap();
    let waiting = status(&world.sandbox, runtime, 60);
    let before = polls(&world.host);
    world.wait("the agent asks again", || (polls(&world.host) > before).then_some(()));
    world.host.host().fail("status", "500".parse().unwrap(), 0);
    assert_eq!(ended(&waiting.wait_with_output().unwrap()), ready());
}

/// CLI-17, CLI-19: an agent that is killed and started again while somebody waits.
fn a_restart_while_somebody_waits(runtime: Runtime) {
    let mut world = World::start(runtime);
    world.agent.stop().unwrap();
    world.host.host().fail("status", "500".parse().unwrap(), u64::MAX);
    let options = AgentOptions::new(runtime.binary()).until(Ready::Listening);
    world.agent = world.sandbox.start_agent(&options).unwrap();
    let before = polls(&world.host);
    let waiting = status(&world.sandbox, runtime, 60);
    world.wait("it is asked", || (polls(&world.host) > before).then_some(()));
    world.agent.kill().unwrap();
    world.host.host().fail("status", "500".parse().unwrap(), 0);
    // Refused long enough for that to be noticed.
    let (code, _, error) = status_of(&world.sandbox, runtime, 0);
    let refused = "Failed to query the current provision state with error: Connection refused (os error 111).\n";
    assert_eq!((code, error.as_str()), (Some(1), refused));
    std::thread::sleep(Duration::from_millis(100));
    world.agent = world.sandbox.start_agent(&options).unwrap();
    let (code, out, error) = ended(&waiting.wait_with_output().unwrap());
    assert_eq!((code, out.as_str()), (Some(0), ""));
    // What was under way at the end may be told first, but nothing twice.
    let lines: Vec<_> = error.lines().collect();
    assert!(error.ends_with(refused) && lines.len() <= 2, "{error}");
}

/// PX-49 to PX-52, PX-54 to PX-57, CLI-13, CLI-14: a tick is a question about a time.
fn ticks_and_when_they_are_answered(runtime: Runtime) {
    let host = HostOptions { mode: Mode::Disabled, ..HostOptions::default() };
    let sandbox = Sandbox::enter().unwrap();
    let options = AgentOptions::new(runtime.binary()).config("pollKeyStatusIntervalInSeconds", 3600).until(Ready::Listening);
    let mut agent = sandbox.start_agent(&options).unwrap();
    let nobody = Caller::nobody(&sandbox);
    let field = |value: &str| format!("x-ms-azure-time-tick: {value}\r\n");
    let past = ["0", "-1", "1", "soon", "1.5", "", "\u{2464}", "99999999999999999999999999999999999999999"].map(field);
    let least = field(&i128::MIN.to_string());
    let unready = |fields: &str| {
        let (finished, error) = provision(&nobody, fields);
        assert!(!finished, "PX-56: {fields:?}");
        assert!(error.is_empty() || error.ends_with("\r\n"), "{error:?}");
        error
    };
    // Nobody is the host: not finished for anybody, whatever the tick (PX-56), and the reason is said (PX-57).
    until(PATIENCE, || unready("").starts_with("keyLatchStatus - Failed to get key status - ").then_some(()))
        .expect("the reason");
    let error = unready("");
    assert!(error.contains("connection refused") && error.lines().count() == 1, "the others are ready: {error:?}");
    past.iter().chain([&least]).for_each(|fields| drop(unready(fields)));
    let host = sandbox.start_host(host).unwrap();
    until(PATIENCE, || provision(&nobody, "").0.then_some(())).expect("it finishes when the host is there");
    let polled = polls(&host);
    // An answer of then is good for questions of then, and for those that name no time.
    for fields in past.iter().chain([&least, &String::new()]) {
        assert_eq!(provision(&nobody, fields), (true, String::new()), "PX-51, PX-55: {fields:?}");
    }
    for later in [tick(), i128::MAX] {
        assert_eq!(provision(&nobody, &field(&later.to_string())), (false, String::new()), "PX-55, CLI-24");
    }
    // Twice the name, twice the tick: whatever counts, nothing of it is a notification (PX-52).
    assert_eq!(polls(&host), polled, "nobody notified");
    agent.stop().unwrap();
    // With a key in use it does not matter when that was (PX-55).
    host.host().set_mode(Mode::Enforce);
    let agent = sandbox.start_agent(&options.until(Ready::Provisioned)).unwrap();
    for fields in past.iter().chain([&least, &field(&i128::MAX.to_string())]) {
        assert_eq!(provision(&nobody, fields), (true, String::new()), "{fields:?}");
    }
    drop(agent);
}

/// A world with a disabled channel, in which nothing but a notification lets the agent ask the host.
fn disabled(runtime: Runtime) -> World {
    let host = HostOptions { mode: Mode::Disabled, ..HostOptions::default() };
    World::with(runtime, host, |options| options.config("pollKeyStatusIntervalInSeconds", 3600))
}

/// CLI-15b, CLI-24, CLI-36, W-75, W-87, PX-55, PX-58
fn a_disabled_channel_is_asked_anew(runtime: Runtime) {
    let world = disabled(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let tag = world.sandbox.key_folder().join("provisioned.tag");
    let (before, polled) = (fs::read_to_string(&tag).unwrap(), polls(&world.host));
    // The host takes its time: the answer is that of the poll that the question brought about.
    let slow = Duration::from_millis(600);
    world.host.host().faults.delay("status", slow);
    let since = Instant::now();
    assert_eq!(status_of(&world.sandbox, runtime, 20), ready());
    assert!(since.elapsed() >= slow, "a fresh answer after {:?}", since.elapsed());
    assert_eq!(polls(&world.host), polled + 1);
    let after = fs::read_to_string(&tag).unwrap();
    assert!(is_stamp(&before) && is_stamp(&after) && before < after, "W-87, FS-33: {before} {after}");
    // The host is away: what was known does not count any more, not even for those who ask without a tick.
    world.host.host().faults.delay("status", Duration::ZERO);
    world.host.host().fail("status", "500".parse().unwrap(), u64::MAX);
    std::thread::sleep(Duration::from_secs(1)); // PX-59: not at once
    assert_eq!(status_of(&world.sandbox, runtime, 1), (Some(1), String::new(), String::new()), "CLI-17");
    let (finished, error) = provision(&nobody, "");
    assert!(!finished && error.starts_with("keyLatchStatus - Failed to get key status - "), "{error:?}");
    assert_eq!(state(&served(&Caller::root(&world.sandbox), LISTENER)), "Unknown", "W-87");
    // It comes back; while the state is unknown it is asked every second (W-85).
    world.host.host().fail("status", "500".parse().unwrap(), 0);
    assert_eq!(status_of(&world.sandbox, runtime, 20), ready());
    assert_eq!(state(&served(&Caller::root(&world.sandbox), LISTENER)), "disabled");
}

/// PX-59, W-89: at most one poll per second, and nobody is forgotten.
fn two_callers_at_a_time_get_a_fresh_answer_each(runtime: Runtime) {
    let world = disabled(runtime);
    let nobody = Caller::nobody(&world.sandbox);
    let polled = polls(&world.host);
    let since = Instant::now();
    for _ in 0..4 {
        assert_eq!(status_of(&world.sandbox, runtime, 20), ready());
    }
    // A flood.
    while since.elapsed() < Duration::from_secs(5) {
        provision(&nobody, &format!("x-ms-azure-notify: 1\r\nx-ms-azure-time-tick: {}\r\n", i128::MAX));
    }
    let (polled, took) = (polls(&world.host) - polled, since.elapsed());
    assert!((4..=1 + took.as_secs() as usize).contains(&polled), "{polled} polls in {took:?}");
}

/// FS-33 to FS-35, CLI-15
fn tag_files(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let [provisioned, status] = ["provisioned.tag", "status.tag"].map(|name| sandbox.key_folder().join(name));
    fs::create_dir_all(sandbox.key_folder()).unwrap();
    fs::set_permissions(sandbox.key_folder(), fs::Permissions::from_mode(0o700)).unwrap();
    // Of the boot before. One is not even a file that could be written to.
    fs::write(&status, "").unwrap();
    std::os::unix::fs::symlink(sandbox.directory().join("elsewhere"), &provisioned).unwrap();
    let agent = sandbox.start_agent(&AgentOptions::new(runtime.binary()).until(Ready::Listening)).unwrap();
    until(PATIENCE, || (!status.exists() && provisioned.symlink_metadata().is_err()).then_some(())).expect("FS-35: both go");
    let before = stamp();
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let world = World { agent, host, sandbox, runtime };
    assert_eq!(status_of(&world.sandbox, runtime, 20), ready());
    world.wait("both tags", || (provisioned.exists() && status.exists()).then_some(()));
    let written = fs::read_to_string(&provisioned).unwrap();
    assert!(is_stamp(&written) && before <= written && written <= stamp(), "FS-33: {before} {written}");
    assert_eq!(fs::read(&status).unwrap(), b"", "FS-34: finished without errors");
    for tag in [&provisioned, &status] {
        let metadata = tag.symlink_metadata().unwrap();
        assert!(metadata.is_file() && metadata.permissions().mode() & 0o7777 == 0o600, "{}: {metadata:?}", tag.display());
    }
    let left: Vec<_> = fs::read_dir(world.sandbox.key_folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().contains("tmp")), "{left:?}");
    assert!(!world.sandbox.directory().join("elsewhere").exists());
}

/// The status document as the agent serves it to this caller at this address, checked (PX-62).
fn served(caller: &Caller, at: &str) -> Value {
    let answer = caller.ask(at, get("/gpa-aggregated-status", ""));
    let Answer { status, body, .. } = &answer;
    assert_eq!((*status, answer.values("content-type")), (200, vec!["application/json; charset=utf-8"]), "PX-62");
    assert!(!body.contains(&b'\n') && !answer.closes(), "PX-62: compact, and the connection is kept");
    let document = answer.json();
    schema::check(&document);
    document
}

/// W-39
fn state(document: &Value) -> String {
    document["proxyAgentStatus"]["keyLatchStatus"]["states"]["secureChannelState"].as_str().unwrap().to_owned()
}

/// The status file, checked (FS-40).
fn status_file(folder: &Path) -> (String, Value) {
    let file = folder.join("status.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640, "FS-40");
    assert!(!folder.join("status.tmp").exists());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("{\n  \"timestamp\": \""), "FS-40: pretty-printed: {text}");
    let document = serde_json::from_str(&text).unwrap();
    schema::check(&document);
    (text, document)
}

/// FS-40 to FS-53, FS-55, PX-60 to PX-63, CLI-35
fn the_status_document(runtime: Runtime) {
    let before = stamp();
    let world = World::start(runtime);
    let (root, nobody) = (Caller::root(&world.sandbox), Caller::nobody(&world.sandbox));
    let (text, file) = world.wait("the file", || {
        world.sandbox.status_folder().join("status.json").exists().then(|| status_file(&world.sandbox.status_folder()))
    });
    assert!(before.as_str() <= file["timestamp"].as_str().unwrap(), "CLI-35, FS-41");
    let order = |text: &str, names: &[&str]| {
        let places: Vec<_> =
            names.iter().map(|name| text.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name}"))).collect();
        assert!(places.is_sorted(), "{names:?} in {text}");
    };
    order(&text, &["timestamp", "proxyAgentStatus", "proxyConnectionSummary", "failedAuthenticateSummary"]);
    // Requests of both tables.
    assert_eq!(root.ask(WIRESERVER, get("/machine?comp=goalstate", "x-ms-version: 2012-11-30\r\n")).status, 200);
    assert_eq!(nobody.ask(WIRESERVER, get("/machine?comp=goalstate", "x-ms-version: 2012-11-30\r\n")).status, 403);
    // PX-48, PX-61: redirected or not, by a caller who is elevated.
    let document = served(&root, WIRESERVER);
    let status = &document["proxyAgentStatus"];
    assert_eq!((&status["status"], &status["version"]), (&"SUCCESS".into(), &env!("CARGO_PKG_VERSION").into()), "FS-42, FS-43");
    let modules = ["monitorStatus", "keyLatchStatus", "ebpfProgramStatus", "proxyListenerStatus", "telemetryLoggerStatus"];
    assert!(modules.iter().all(|module| status[module]["status"] == "RUNNING"), "FS-44 to FS-48: {document:#}");
    let said =
        |module: &str, begins: &str| assert!(status[module]["message"].as_str().unwrap().starts_with(begins), "{status:#}");
    said("monitorStatus", "Aggregate status written to status file: ");
    said("keyLatchStatus", "Successfully attest the key and ready to use. - ");
    said("ebpfProgramStatus", "Started Redirector with eBPF maps - ");
    said("proxyListenerStatus", "Started proxy listener, ready to accept request - ");
    let states = &status["keyLatchStatus"]["states"];
    let (guid, incarnation) = world.host.host().keys(|k| k.current().map(|(g, i)| (g.to_owned(), i.to_string()))).unwrap();
    let expected = json!({
        "secureChannelState": "WireServer Enforce -  IMDS Enforce - HostGA Enforce",
        "keyGuid": guid, "keyIncarnationId": incarnation,
        "wireServerRuleId": "wireserver-enforce", "imdsRuleId": "imds-enforce", "hostGARuleId": "wireserver-enforce",
    });
    assert_eq!(states, &expected, "FS-53");
    // FS-49: each request, local endpoints included.
    let count = |document: &Value| document["proxyAgentStatus"]["proxyConnectionsCount"].as_u64().unwrap();
    provision(&nobody, "");
    assert_eq!(count(&served(&root, LISTENER)), count(&document) + 2, "FS-49, PX-63");
    // FS-50, FS-51, FS-55
    let mut row = json!({
        "userName": "root", "ip": "168.63.129.16", "port": 80, "responseStatus": "200 OK", "count": 1,
        "processFullPath": fs::canonicalize("/usr/bin/python3").unwrap(),
    });
    let find = |table: &str, row: &Value| {
        let rows = document[table].as_array().unwrap();
        let alike = |r: &&Value| row.as_object().unwrap().iter().all(|(name, value)| &r[name] == value);
        assert_eq!(rows.iter().filter(alike).count(), 1, "{row:#} in {rows:#?}");
    };
    find("proxyConnectionSummary", &row);
    row["userName"] = "nobody".into();
    row["responseStatus"] = "403 Forbidden".into();
    find("proxyConnectionSummary", &row);
    find("failedAuthenticateSummary", &row);
    let text = String::from_utf8(root.ask(WIRESERVER, get("/gpa-aggregated-status", "")).body).unwrap();
    let summary = ["userName", "ip", "port", "processCmdLine", "responseStatus", "count", "userGroups", "processFullPath"];
    order(&text, &summary);
    // PX-60 first, then PX-61.
    for caller in [&root, &nobody] {
        let answer = caller.ask(IMDS, "GET /gpa-aggregated-status HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(answer.status == 400 && answer.closes(), "PX-60: {answer:?}");
    }
    let answer = nobody.ask(IMDS, get("/gpa-aggregated-status", ""));
    assert!(answer.status == 403 && answer.closes() && answer.body.is_empty(), "PX-61: {answer:?}");
}

/// CLI-35 to CLI-37, FS-53, W-39, W-69
fn the_state_follows_the_host(runtime: Runtime) {
    let world = World::start(runtime);
    let root = Caller::root(&world.sandbox);
    for (mode, expected) in [
        (Mode::Enforce, "WireServer Enforce -  IMDS Enforce - HostGA Enforce"),
        (Mode::Audit, "WireServer Audit -  IMDS Audit - HostGA Audit"),
        (Mode::Disabled, "disabled"),
        (Mode::Enforce, "WireServer Enforce -  IMDS Enforce - HostGA Enforce"),
    ] {
        world.host.host().set_mode(mode);
        world.wait("the state", || (state(&served(&root, LISTENER)) == expected).then_some(()));
        assert_eq!(status_of(&world.sandbox, runtime, 20), ready(), "CLI-36: {mode}");
        let document = served(&root, LISTENER);
        let states = &document["proxyAgentStatus"]["keyLatchStatus"]["states"];
        assert_eq!(states.get("keyGuid").is_some(), mode != Mode::Disabled, "FS-53: {mode}");
        assert_eq!(document["proxyAgentStatus"]["status"], "SUCCESS");
        for (to, target) in [(IMDS, "/metadata/versions"), (WIRESERVER, "/machine?comp=goalstate")] {
            let answer = root.ask(to, get(target, "x-ms-version: 2012-11-30\r\n"));
            assert_eq!((answer.status, answer.is_marked()), (200, mode != Mode::Disabled), "CLI-37: {mode} {to}");
        }
    }
}

/// A file in the place of `/dev/console`, for an agent that is not started yet.
fn console(sandbox: &Sandbox, runtime: Runtime) -> (std::path::PathBuf, AgentOptions) {
    let file = sandbox.directory().join("console");
    fs::write(&file, "").unwrap();
    let bind = format!("UNSHARED\nmount --bind {} /dev/console || exit 77", file.display());
    (file, AgentOptions::new(wrapped(sandbox, runtime, &bind)))
}

/// The texts on the console; all lines must be as FS-36 says.
fn console_texts(file: &Path, agent: &Agent) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let begins = format!(" azure-proxy-agent_{}({}) - ", env!("CARGO_PKG_VERSION"), agent.id());
    let one = |line: &str| {
        let (time, rest) = line.split_at_checked(23).unwrap_or_else(|| panic!("{line:?}"));
        assert!(is_stamp(time), "FS-36: {line:?}");
        rest.strip_prefix(&begins).unwrap_or_else(|| panic!("FS-36: {line:?} without {begins:?}")).to_owned()
    };
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(one).collect()
}

/// FS-36, FS-37
fn the_serial_console(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let (file, options) = console(&sandbox, runtime);
    let agent = sandbox.start_agent(&options).unwrap();
    let world = World { agent, host, sandbox, runtime };
    let texts = || console_texts(&file, &world.agent);
    let finished = |texts: &Vec<String>| texts.iter().any(|t| t == "Provision finished successfully");
    let lines = world.wait("the last line", || Some(texts()).filter(finished));
    let start = format!("============== GuestProxyAgent ({}) is starting on Linux(", env!("CARGO_PKG_VERSION"));
    assert!(lines[0].starts_with(&start) && lines[0].contains("), elapsed: "), "FS-37: {lines:#?}");
    let milliseconds = |text: &str| text.rsplit([' ', ':']).next().is_some_and(|n| n.parse::<u32>().is_ok());
    assert!(milliseconds(&lines[0]), "{lines:#?}");
    for event in [
        "Started proxy listener, ready to accept request - ",
        "Started Redirector with eBPF maps - ",
        "Successfully attest the key and ready to use. - ",
    ] {
        let found: Vec<_> = lines.iter().filter(|line| line.starts_with(event)).collect();
        assert!(found.len() == 1 && milliseconds(found[0]), "FS-37: {event}: {lines:#?}");
    }
    assert_eq!(lines.last().map(String::as_str), Some("Provision finished successfully"), "{lines:#?}");
    // What happens every day is not for the console.
    assert_eq!(status_of(&world.sandbox, runtime, 0), ready());
    Caller::nobody(&world.sandbox).ask(WIRESERVER, get("/machine?comp=goalstate", ""));
    assert_eq!(texts(), lines);
}

/// FS-36: a failure is reported on standard error and ignored.
fn a_console_that_takes_nothing(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    // A pipe that nobody reads cannot be opened for writing without waiting.
    let pipe = sandbox.directory().join("console");
    let bind = format!("UNSHARED\nmkfifo {0} && mount --bind {0} /dev/console || exit 77", pipe.display());
    let agent = sandbox.start_agent(&AgentOptions::new(wrapped(&sandbox, runtime, &bind))).unwrap();
    assert!(agent.output().contains("Cannot write to /dev/console: No such device or address"), "{}", agent.output());
    drop(World { agent, host, sandbox, runtime });
}
