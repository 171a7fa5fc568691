//! Agents that do not become ready, for the two minutes after which they say so (CLI-15a, W-75, W-76). The time is real: nothing
//! about it can be shortened without another agent. So everything that needs it is seen at once, on both daemons.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use sandbox::{AgentOptions, HostOptions, Mode, Ready, Sandbox};

use crate::cloud_init::{self, CloudInit};
use crate::support::wire::{Caller, LISTENER};
use crate::support::{PATIENCE, Runtime, World, until};
use crate::{console, console_texts, ended, is_stamp, provision, ready, stamp, status, status_file, status_of, wrapped};
use serde_json::Value;

/// W-104
const DEADLINE: Duration = Duration::from_secs(120);

/// CLI-18, CLI-30, FS-33, FS-34, PX-57, W-75, W-76, W-104
#[test]
fn agents_that_fail_say_so_after_two_minutes_cli15a() {
    thread::scope(|scope| {
        for runtime in Runtime::ALL {
            scope.spawn(move || the_redirector_fails(runtime));
            scope.spawn(move || the_key_fails(runtime));
        }
    });
}

/// Processor time of the threads that a process has now.
fn cpu(process: u32) -> Duration {
    let one = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok();
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    Duration::from_nanos(tasks.filter_map(|task| one(task.unwrap())).sum())
}

/// FS-34
fn escaped(text: &str) -> String {
    [('&', "&amp;"), ('\'', "&apos;"), ('"', "&quot;"), ('<', "&lt;"), ('>', "&gt;")]
        .iter()
        .fold(text.to_owned(), |text, (c, name)| text.replace(*c, name))
}

/// What everybody is told at the end (CLI-15a, CLI-18, FS-33, FS-34, PX-57). Returns the text.
fn finished_with_errors(world: &World, waiting: Child, began: Instant) -> String {
    let (code, out, error) = ended(&waiting.wait_with_output().unwrap());
    let took = began.elapsed();
    assert_eq!((code, error.as_str()), (Some(2), ""), "CLI-18: {out:?}");
    assert!(took >= DEADLINE && took < DEADLINE + cloud_init::OVERHEAD, "W-75, W-104: {took:?}");
    assert!(out.ends_with("\r\n\n"), "CLI-18: {out:?}");
    let message = out.strip_suffix('\n').unwrap().to_owned();
    let nobody = Caller::nobody(&world.sandbox);
    assert_eq!(provision(&nobody, ""), (true, message.clone()), "PX-57: not escaped here");
    let tag = |name: &str| fs::read_to_string(world.sandbox.key_folder().join(name)).unwrap();
    world.wait("the tags", || world.sandbox.key_folder().join("status.tag").exists().then_some(()));
    assert_eq!(tag("status.tag"), escaped(&message), "FS-34");
    assert!(is_stamp(&tag("provisioned.tag")), "FS-33");
    message
}

/// No eBPF for want of a capability; the host is well and demands nothing yet.
fn the_redirector_fails(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let host = sandbox.start_host(HostOptions { mode: Mode::Audit, ..HostOptions::default() }).unwrap();
    let poor = "[ -n \"$POOR\" ] || POOR=1 exec setpriv --bounding-set -sys_admin,-bpf \"$0\" \"$@\"";
    let options = AgentOptions::new(wrapped(&sandbox, runtime, poor)).until(Ready::Started);
    let began = Instant::now();
    let agent = sandbox.start_agent(&options).unwrap();
    let world = World { agent, host, sandbox, runtime };
    let nobody = Caller::nobody(&world.sandbox);
    until(PATIENCE, || nobody.try_connect(LISTENER).ok()).expect("the agent listens");
    let waiting = status(&world.sandbox, runtime, 150);
    let client = waiting.id();
    // Its two minutes begin later than the agent's, and so end later (CLI-33).
    until(PATIENCE, || (began.elapsed() > Duration::from_secs(3)).then_some(())).unwrap();
    let cloud_init = CloudInit::start(&world.sandbox, Some(runtime), true);
    world.wait("the reason", || provision(&nobody, "").1.contains("Failed to start the redirector").then_some(()));
    let (since, asking, agent) = (Instant::now(), cpu(client), cpu(world.agent.id()));
    // W-76, W-109: whatever is finished or not, a status file is there, and a minute later it is another one.
    let mark = stamp();
    let newer = || {
        let file = fs::read(world.sandbox.status_folder().join("status.json")).ok()?;
        let file: Value = serde_json::from_slice(&file).unwrap();
        (file["timestamp"].as_str().unwrap() > mark.as_str()).then_some(())
    };
    until(DEADLINE, newer).expect("FS-40");
    assert!(since.elapsed() < Duration::from_secs(65), "W-105, W-109: {:?}", since.elapsed());
    let (_, document) = status_file(&world.sandbox.status_folder());
    let of = |name: &str| {
        (
            document["proxyAgentStatus"][name]["status"].as_str().unwrap(),
            document["proxyAgentStatus"][name]["message"].as_str().unwrap(),
        )
    };
    assert_eq!(document["proxyAgentStatus"]["status"], "ERROR", "FS-43");
    assert!(
        matches!(of("ebpfProgramStatus"), ("STOPPED", message) if message.starts_with("Failed to start the redirector")),
        "FS-46"
    );
    assert_eq!((of("keyLatchStatus").0, of("proxyListenerStatus").0), ("RUNNING", "RUNNING"), "FS-45, FS-47");
    assert!(!provision(&nobody, "").0 && !world.sandbox.key_folder().join("status.tag").exists(), "not yet");
    until(PATIENCE * 2, || (since.elapsed() > Duration::from_secs(30)).then_some(())).unwrap();
    // What waiting costs, asking every 20 ms. Optimized programs take half: 0.4 % of a processor.
    let took = since.elapsed();
    let (asking, answering) = (cpu(client) - asking, cpu(world.agent.id()) - agent);
    eprintln!("{runtime}: waiting {took:?} cost {asking:?} in the client, {answering:?} in the agent");
    assert!(asking < took / 50, "{asking:?} of {took:?}");
    let message = finished_with_errors(&world, waiting, began);
    assert!(
        message.starts_with("ebpfProgramStatus - Failed to start the redirector") && message.lines().count() == 1,
        "{message:?}"
    );
    if let Some(cloud_init) = cloud_init {
        cloud_init::expect_failure(&cloud_init.finish(), 2, &message);
    }
}

/// The host does not say what it wants. cloud-init waits for the agent.
fn the_key_fails(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let host = sandbox.start_host(HostOptions { mode: Mode::Audit, ..HostOptions::default() }).unwrap();
    host.host().fail("status", "500".parse().unwrap(), u64::MAX);
    let (console, options) = console(&sandbox, runtime);
    let began = Instant::now();
    let agent = sandbox.start_agent(&options.until(Ready::Listening)).unwrap();
    let world = World { agent, host, sandbox, runtime };
    // Whoever asks while the state is unknown gives the agent two minutes from now on (W-87), and cloud-init itself as long.
    until(PATIENCE, || (began.elapsed() > Duration::from_secs(3)).then_some(())).unwrap();
    let cloud_init = CloudInit::start(&world.sandbox, Some(runtime), true);
    let asked = Instant::now();
    let waiting = status(&world.sandbox, runtime, 150);
    let message = finished_with_errors(&world, waiting, asked);
    assert!(message.starts_with("keyLatchStatus - Failed to get key status - ") && message.lines().count() == 1, "{message:?}");
    let texts = world.wait("the console", || {
        let texts = console_texts(&console, &world.agent);
        texts.iter().any(|text| text.starts_with("keyLatchStatus - ")).then_some(texts)
    });
    assert_eq!(texts.last().map(String::as_str), message.strip_suffix("\r\n"), "FS-37");
    if let Some(cloud_init) = cloud_init {
        let report = cloud_init.finish();
        // Its wait ends at about the same moment: 1 without a word, or 2 with the reason (CLI-33).
        let exit_code = if report.told()[0].contains("|exit_code=1|") { 1 } else { 2 };
        let out = if exit_code == 1 { String::new() } else { message };
        cloud_init::expect_failure(&report, exit_code, &out);
        assert!(asked.elapsed() < DEADLINE + cloud_init::OVERHEAD);
    }
    // It comes late, and then normally: steps 1 to 3, and the text disappears.
    world.host.host().fail("status", "500".parse().unwrap(), 0);
    let nobody = Caller::nobody(&world.sandbox);
    world.wait("provisioning", || (provision(&nobody, "") == (true, String::new())).then_some(()));
    assert_eq!(status_of(&world.sandbox, runtime, 20), ready());
    world.wait("an empty tag", || fs::read(world.sandbox.key_folder().join("status.tag")).unwrap().is_empty().then_some(()));
    world.wait("the console", || {
        console_texts(&console, &world.agent).iter().any(|t| t == "Provision finished successfully").then_some(())
    });
}
