//! Start, end, and everything that can be wrong around the agent: privileges, cgroups, ports, hosts, configuration files. And the
//! command line. cli.md sections 1 and 2, PX-02, FS-03, FS-101. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Agent, AgentOptions, HostOptions, Ready, Sandbox, User};
use serde_json::Value;
use support::wire::{Caller, IMDS, LISTENER, WIRESERVER, Wire};
use support::{PATIENCE, Runtime, World, copy_program, on_both_runtimes, text, until};

on_both_runtimes!(
    sigterm_ends_it_in_order,
    a_request_that_does_not_end_is_not_waited_for,
    console_ends_at_enter,
    without_privileges,
    without_one_capability,
    without_any_cgroup2,
    a_cgroup_root_that_is_none,
    a_second_agent_leaves_the_first_alone,
    a_port_that_somebody_else_has,
    a_host_that_comes_late,
    a_bad_configuration,
    the_command_line,
    the_status_command,
);

/// FS-101 gives two seconds to requests under way; the rest is room for a busy machine.
const END: Duration = Duration::from_millis(2500);

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")
}

fn nobody() -> User {
    User::new(65534, 65534, &[])
}

/// Neither redirected nor refused by the agent: the request comes to the host as it is, and there it fails for being unsigned.
fn goes_directly(world: &World, caller: &Caller) {
    world.host.host().records.clear();
    let answer = caller.ask(IMDS, get("/test/echo"));
    assert_eq!((answer.status, answer.is_marked()), (401, false), "{answer:?}");
    assert_eq!(world.seen()[0].verified, "refused:unsigned");
    world.host.host().records.clear();
}

/// S-03: the redirect of endpoints in enforce mode outlives the agent, so connections are refused, and nothing reaches the host.
fn nobody_gets_through(world: &World, caller: &Caller) {
    world.host.host().records.clear();
    for to in [IMDS, WIRESERVER] {
        let error = caller.try_connect(to).expect_err("redirected to where nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    assert!(world.seen().is_empty());
}

fn goes_through_the_agent(caller: &Caller) -> bool {
    matches!(caller.try_connect(IMDS).and_then(|mut wire| {
        wire.try_send(get("/test/echo"))?;
        wire.try_answer(false)
    }), Ok(answer) if answer.status == 200 && answer.is_marked())
}

/// The answer of `/provision` (PX-54).
fn provision(sandbox: &Sandbox) -> std::io::Result<(bool, String)> {
    let answer = sandbox.in_network(|| {
        let mut wire = Wire::new(std::net::TcpStream::connect(LISTENER)?)?;
        wire.try_send(get("/provision"))?;
        wire.try_answer(false)
    })??;
    let state = answer.json();
    Ok((state["finished"].as_bool().unwrap(), state["errorMessage"].as_str().unwrap().to_owned()))
}

/// Waits until `/provision` mentions `what`, and returns its text.
fn complains(sandbox: &Sandbox, what: &str) -> String {
    let mut last = String::new();
    until(PATIENCE, || {
        last = provision(sandbox).map_or_else(|e| e.to_string(), |(_, error)| error);
        last.contains(what).then_some(())
    })
    .unwrap_or_else(|| panic!("/provision never says {what:?}, but {last:?}"));
    last
}

/// Waits until the agents of this sandbox have printed, or written to the log file, `what`.
fn says(sandbox: &Sandbox, agent: &Agent, what: &str) {
    let said = || agent.output() + &sandbox.log("ProxyAgent.log").unwrap_or_default();
    until(PATIENCE, || said().contains(what).then_some(())).unwrap_or_else(|| panic!("nothing says {what:?}:\n{}", said()));
}

/// A copy of the daemon that all users can execute.
fn public(sandbox: &Sandbox, runtime: Runtime) -> PathBuf {
    let copy = sandbox.directory().join(runtime.program());
    copy_program(runtime.binary(), &copy);
    copy
}

/// A program that prepares something and becomes the daemon.
fn wrapped(sandbox: &Sandbox, runtime: Runtime, script: &str) -> PathBuf {
    let daemon = public(sandbox, runtime);
    let [draft, path] = ["draft", "wrapper"].map(|name| sandbox.directory().join(name));
    fs::write(&draft, script.replace("DAEMON", &format!("{} \"$@\"", daemon.display()))).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    copy_program(&draft, &path);
    path
}

/// A world whose agent is `script` around the daemon, and is not waited for.
fn started(runtime: Runtime, script: &str, cgroup_root: Option<&str>) -> World {
    let sandbox = Sandbox::enter().unwrap_or_else(|e| panic!("these tests need root, cgroup2 and eBPF: {e}"));
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let mut options = AgentOptions::new(wrapped(&sandbox, runtime, script)).until(Ready::Started);
    if let Some(root) = cgroup_root {
        options = options.config("cgroupRoot", root);
    }
    let agent = sandbox.start_agent(&options).unwrap();
    World { agent, host, sandbox, runtime }
}

fn run(sandbox: &Sandbox, user: &User, program: &Path, arguments: &[&str]) -> Output {
    sandbox.command_as(user, program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Ends it and says how long that took.
fn stop(agent: &mut Agent) -> Duration {
    let since = Instant::now();
    let status = agent.stop().unwrap();
    assert_eq!(status.code(), Some(0), "{}", agent.output());
    since.elapsed()
}

/// FS-101, S-03: what is under way is finished, what is idle is closed, the redirect stays: an orderly stop counts as a crash.
fn sigterm_ends_it_in_order(runtime: Runtime) {
    let mut world = World::start(runtime);
    let caller = Caller::nobody(&world.sandbox);
    let mut idle = caller.connect(IMDS);
    idle.send(get("/test/bytes?n=1"));
    assert_eq!(idle.answer().status, 200);
    let mut fresh = caller.connect(IMDS);
    let mut busy = caller.connect(IMDS);
    busy.send(get("/test/slow?ms=700&n=10") + &get("/test/bytes?n=2"));
    world.wait("the request is at the host", || world.seen().iter().any(|r| r.target.contains("slow")).then_some(()));
    let took = stop(&mut world.agent);
    assert!(took < END, "it took {took:?}");
    let answer = busy.answer();
    assert!(answer.status == 200 && answer.is_marked() && answer.body.len() == 10, "{answer:?}");
    busy.end();
    idle.end();
    fresh.end();
    nobody_gets_through(&world, &caller);
    // And again, in the same place.
    world.agent = world.sandbox.start_agent(&AgentOptions::new(runtime.binary())).unwrap();
    assert!(goes_through_the_agent(&caller));
    kill_process(Pid::from_raw(world.agent.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    until(PATIENCE, || (!world.agent.is_running().unwrap()).then_some(())).expect("SIGINT ends it too");
    nobody_gets_through(&world, &caller);
}

fn a_request_that_does_not_end_is_not_waited_for(runtime: Runtime) {
    let mut world = World::start(runtime);
    let caller = Caller::nobody(&world.sandbox);
    world.host.host().fail("imds", "silent".parse().unwrap(), 100);
    let mut waiting: Vec<Wire> = caller.connect_many(IMDS, 20);
    waiting.iter_mut().for_each(|wire| wire.send(get("/metadata/versions")));
    let mut half = caller.connect(IMDS);
    half.send("GET /half");
    world.wait("all are at the host", || (world.seen().len() == 20).then_some(()));
    let took = stop(&mut world.agent);
    assert!(took < END, "it took {took:?}");
    for mut wire in waiting {
        wire.end();
    }
    half.end();
}

/// CLI-02
fn console_ends_at_enter(runtime: Runtime) {
    let mut world = World::start(runtime);
    stop(&mut world.agent);
    let mut command = world.sandbox.command(runtime.binary());
    command.arg("--config").arg(world.agent.config_file()).arg("console").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let caller = Caller::nobody(&world.sandbox);
    world.wait("the same services", || goes_through_the_agent(&caller).then_some(()));
    writeln!(child.stdin.take().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output).lines().next(), Some("Press Enter to end it."));
    nobody_gets_through(&world, &caller);
}

/// An agent that may not load anything says what it lacks and what to do, serves its status, redirects nothing.
fn cannot_redirect(mut world: World, lacks: &[&str], has: &[&str]) {
    let caller = Caller::nobody(&world.sandbox);
    let error = complains(&world.sandbox, "ebpfProgramStatus - Failed to start the redirector");
    let line = error.lines().next().unwrap();
    for word in lacks.iter().chain(&["run as root or grant them"]) {
        assert!(line.contains(word), "{word} is not named: {line}");
    }
    for word in has {
        assert!(!line.contains(word), "{word} is not missing: {line}");
    }
    says(&world.sandbox, &world.agent, lacks[0]);
    let status = run(&world.sandbox, &nobody(), &world.runtime.binary(), &["--status", "--wait", "1"]);
    assert_eq!((status.status.code(), status.stdout.as_slice()), (Some(1), &b""[..]), "CLI-17");
    goes_directly(&world, &caller);
    assert!(world.agent.is_running().unwrap(), "it keeps trying");
    assert!(stop(&mut world.agent) < END);
}

fn without_privileges(runtime: Runtime) {
    let world = started(runtime, "#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups DAEMON\n", None);
    says(&world.sandbox, &world.agent, "Permission denied");
    cannot_redirect(world, &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"], &[]);
}

fn without_one_capability(runtime: Runtime) {
    // CAP_SYS_ADMIN would stand for CAP_BPF and CAP_PERFMON.
    let world = started(runtime, "#!/bin/sh\nexec setpriv --bounding-set -sys_admin,-bpf DAEMON\n", None);
    cannot_redirect(world, &["CAP_BPF"], &["CAP_NET_ADMIN", "CAP_PERFMON"]);
}

/// Unmounts every cgroup2 but the directory of the sandbox's machine, if that is kept. Refuses to go on if anything else is left:
/// the agent would attach to the first mount that it finds, and that must never be the root of this machine.
const CGROUPS: &str = r#"#!/bin/sh
exec unshare --mount sh -c '
mounts() { grep " - cgroup2 " /proc/self/mountinfo; }
KEEP
for m in $(mounts | cut -d" " -f5 | tac); do case $m in */only) ;; *) umount -l $m ;; esac; done
LEFT
exec DAEMON' sh "$@"
"#;

/// FS-12, FS-21: `cgroupRoot`, and nowhere else to go.
fn without_any_cgroup2(runtime: Runtime) {
    let script = CGROUPS.replace("KEEP", "").replace("LEFT", "if mounts; then echo a cgroup2 is left; exit 77; fi");
    let mut world = started(runtime, &script, Some("/nonexistent"));
    let error = complains(&world.sandbox, "ebpfProgramStatus - Failed to start the redirector");
    assert!(error.contains("no cgroup2 file system is mounted") && error.contains("cgroupRoot"), "{error}");
    says(&world.sandbox, &world.agent, "no cgroup2 file system is mounted");
    goes_directly(&world, &Caller::nobody(&world.sandbox));
    assert!(stop(&mut world.agent) < END);
}

/// A directory that is no cgroup2: said, and the first cgroup2 mount is used instead (design section 4).
/// FS-12, FS-21
fn a_cgroup_root_that_is_none(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let only = sandbox.directory().join("only");
    fs::create_dir(&only).unwrap();
    let keep = format!("mount --bind {} {}", sandbox.cgroup().display(), only.display());
    let left = r#"if [ "$(mounts | wc -l)" != 1 ] || ! mounts | cut -d" " -f4 | grep -q "/vm$"; then mounts; exit 77; fi"#;
    let script = CGROUPS.replace("KEEP", &keep).replace("LEFT", left);
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let options = AgentOptions::new(wrapped(&sandbox, runtime, &script)).config("cgroupRoot", "/proc/self");
    let agent = sandbox.start_agent(&options).unwrap();
    let world = World { agent, host, sandbox, runtime };
    says(&world.sandbox, &world.agent, "/proc/self is not a cgroup2 directory");
    assert!(goes_through_the_agent(&Caller::nobody(&world.sandbox)));
}

/// CLI-11, PX-02: it says so, keeps trying, touches nothing, and takes over when the first is gone.
fn a_second_agent_leaves_the_first_alone(runtime: Runtime) {
    let mut world = World::start(runtime);
    let caller = Caller::nobody(&world.sandbox);
    let elsewhere = world.sandbox.directory().join("second");
    let folder = |name: &str| Value::from(elsewhere.join(name).to_str().unwrap());
    let options = AgentOptions::new(runtime.binary())
        .config("logFolder", folder("log"))
        .config("statusFolder", folder("status"))
        .until(Ready::Started);
    let mut second = world.sandbox.start_agent(&options).unwrap();
    says(&world.sandbox, &second, "Cannot listen on 127.0.0.1:3080");
    says(&world.sandbox, &second, "Another agent uses the same key directory");
    let tags = ["provisioned.tag", "status.tag"].map(|name| world.sandbox.key_folder().join(name));
    assert!(tags.iter().all(|tag| tag.exists()), "CLI-11: what the first has written stays");
    for _ in 0..50 {
        assert!(goes_through_the_agent(&caller));
    }
    assert!(second.is_running().unwrap(), "PX-02: it keeps trying");
    assert!(tags.iter().all(|tag| tag.exists()));
    assert_eq!(provision(&world.sandbox).unwrap(), (true, String::new()), "the first is asked, and well");
    assert!(stop(&mut second) < END);
    assert!(goes_through_the_agent(&caller), "nor does its end touch anything");
    let mut second = world.sandbox.start_agent(&options).unwrap();
    until(PATIENCE, || {
        let log = fs::read_to_string(elsewhere.join("log/ProxyAgent.log")).unwrap_or_default();
        (log.matches("Cannot listen on").count() > 1).then_some(())
    })
    .expect("the second one says it, too");
    assert!(stop(&mut world.agent) < END);
    world.wait("the second one takes over", || goes_through_the_agent(&caller).then_some(()));
    assert!(second.is_running().unwrap());
}

/// PX-02, PX-57
/// W-108, S-57
fn a_port_that_somebody_else_has(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let squatter = sandbox.in_network(|| TcpListener::bind(LISTENER)).unwrap().unwrap();
    let agent = sandbox.start_agent(&AgentOptions::new(runtime.binary()).until(Ready::Started)).unwrap();
    let world = World { agent, host, sandbox, runtime };
    says(&world.sandbox, &world.agent, "Cannot listen on 127.0.0.1:3080: the address is in use");
    let caller = Caller::nobody(&world.sandbox);
    goes_directly(&world, &caller);
    drop(squatter);
    world.wait("it listens when it can", || goes_through_the_agent(&caller).then_some(()));
    assert_eq!(provision(&world.sandbox).unwrap(), (true, String::new()));
}

/// W-38, W-111: said, nothing redirected; and latched when the host is there.
fn a_host_that_comes_late(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let agent = sandbox.start_agent(&AgentOptions::new(runtime.binary()).until(Ready::Listening)).unwrap();
    let error = complains(&sandbox, "keyLatchStatus - Failed to get key status - ");
    assert!(error.contains("connection refused"), "{error}");
    says(&sandbox, &agent, "Failed to get key status - ");
    let caller = Caller::nobody(&sandbox);
    for to in [IMDS, WIRESERVER] {
        let error = caller.try_connect(to).expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: not redirected");
    }
    let status = run(&sandbox, &nobody(), &public(&sandbox, runtime), &["--status", "--wait", "1"]);
    assert_eq!((status.status.code(), status.stdout.as_slice()), (Some(1), &b""[..]), "CLI-17: {}", text(&status));
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let world = World { agent, host, sandbox, runtime };
    let status = run(&world.sandbox, &nobody(), &public(&world.sandbox, runtime), &["--status", "--wait", "20"]);
    assert_eq!((status.status.code(), text(&status).as_str()), (Some(0), ""), "CLI-16");
    assert!(goes_through_the_agent(&caller));
}

/// FS-03: one message with file, line and hint; exit status 101.
fn a_bad_configuration(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let file = sandbox.directory().join("proxy-agent.json");
    let name = file.to_str().unwrap();
    let good = include_str!("../../config/shipped.json");
    let member = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    for (content, words) in [
        (Some("{\n  \"logFolder\": \"/x\",\n  oops\n}".to_owned()), &[":3:"][..]),
        (Some(String::new()), &[":1:"]),
        (Some("[]".to_owned()), &["not a JSON object"]),
        (Some(member("\"logFolder\"", "\"logFoldr\"")), &["logFolder", "logFoldr"]),
        (Some("{\"a\": 1".repeat(300)), &[":1:"]),
        (None, &["No such file"]),
    ] {
        match &content {
            Some(content) => fs::write(&file, content).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        for arguments in [&["--config", name, "--foreground"][..], &["--config", name, "--check-config"]] {
            let output = run(&sandbox, &User::new(0, 0, &[]), &runtime.binary(), arguments);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(101), "{content:?}: {error}");
            assert!(output.stdout.is_empty(), "{}", text(&output));
            assert!(error.starts_with("Error in reading Config from Json file: ") && error.contains(name), "{error}");
            for word in words {
                assert!(error.contains(word), "{word} is not in {error}");
            }
            assert!(error.contains("hint"), "{error}");
        }
    }
    fs::write(&file, good).unwrap();
    let output = run(&sandbox, &nobody(), &public(&sandbox, runtime), &["--config", name, "--check-config"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

/// CLI-03 to CLI-10, without configuration, privileges, or an agent.
fn the_command_line(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let program = public(&sandbox, runtime);
    let run = |arguments: &[&str]| {
        let since = Instant::now();
        let output = run(&sandbox, &nobody(), &program, arguments);
        assert!(since.elapsed() < Duration::from_secs(3), "{arguments:?} took {:?}", since.elapsed());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for arguments in [&["--version"][..], &["-v"], &["-v", "--status", "--wait", "100", "console"]] {
        let (code, out, error) = run(arguments);
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}");
        let version = out.strip_suffix('\n').unwrap();
        let numbers = version.split(['.', '-']).take(3).filter(|n| n.parse::<u32>().is_ok()).count();
        assert!(numbers == 3 && !version.contains(char::is_whitespace), "{out:?}");
    }
    for arguments in [&["--help"][..], &["-h"], &["help"]] {
        let (code, out, _) = run(arguments);
        assert_eq!(code, 0);
        for word in ["console", "-s", "--status", "-w", "--wait", "-v", "--version", "-h", "--help"] {
            assert!(out.contains(word), "{word} is not in {out}");
        }
    }
    for arguments in [
        &["--bogus"][..],
        &["bogus"],
        &["-x"],
        &["--wait", "5"],
        &["-s", "-w"],
        &["-s", "--wait=x"],
        &["-s", "-w", "-1"],
        &["--status=1"],
    ] {
        let (code, out, error) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: CLI-07, CLI-09");
        assert!(!error.is_empty(), "{arguments:?}");
    }
    // Nobody answers: one query, or queries for a second; one line, because the reason stays the same (CLI-17, CLI-19, CLI-20).
    for arguments in [&["--status"][..], &["-s"], &["-s", "-w", "1"], &["--status", "--wait=1"]] {
        let (code, out, error) = run(arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}");
        let expected = "Failed to query the current provision state with error: Connection refused (os error 111).\n";
        assert_eq!(error, expected, "{arguments:?}");
    }
}

/// CLI-16 to CLI-22, CLI-36
fn the_status_command(runtime: Runtime) {
    let mut world = World::start(runtime);
    let program = public(&world.sandbox, runtime);
    for arguments in [&["--status"][..], &["--status", "--wait", "10"], &["-s", "-w", "10"], &["--wait=10", "-s"]] {
        let output = run(&world.sandbox, &nobody(), &program, arguments);
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""), "{arguments:?}: CLI-16");
    }
    stop(&mut world.agent);
    // An agent that has finished with an error, as it says after two minutes.
    let listener = world.sandbox.in_network(|| TcpListener::bind(LISTENER)).unwrap().unwrap();
    let body = r#"{"finished":true,"errorMessage":"keyLatchStatus - why\r\n"}"#;
    let asked = std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1000];
            let n = stream.read(&mut asked).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        let output = run(&world.sandbox, &nobody(), &program, &["-s", "-w", "10"]);
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(2), "keyLatchStatus - why\r\n\n"), "CLI-18");
        answering.join().unwrap()
    });
    assert!(asked.contains("\r\nMetadata: true\r\n") && asked.contains("\r\nx-ms-azure-notify: true\r\n"), "{asked}");
    // One that accepts and never answers does not hold it beyond the wait and a second (CLI-22).
    let since = Instant::now();
    let output = run(&world.sandbox, &nobody(), &program, &["-s", "-w", "1"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(since.elapsed() < Duration::from_secs(4), "it took {:?}", since.elapsed());
}
