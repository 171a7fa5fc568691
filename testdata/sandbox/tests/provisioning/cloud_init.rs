//! cloud-init's own code asks the agent: Debian's package, unpacked and unchanged, on one walk through the metadata (CLI-25 to CLI-31).
//! `testdata/clients/cloud-init/` has what is ours about it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use azure_host_sim::documents::VM_ID;
use sandbox::{AgentOptions, HostOptions, Mode, Sandbox};
use serde_json::Value;

use crate::support::clients::{carry_out, install, installed, source, usable};
use crate::support::{PATIENCE, Runtime, World, on_both_runtimes, text, until};

on_both_runtimes!(ready, late);

/// cloud-init's modules: a directory for `PYTHONPATH`.
fn modules() -> Option<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if !installed("apt-get", "apt") {
        return None;
    }
    let made = MADE.get_or_init(|| {
        install("cloud-init", "fetch", |directory| {
            let mut fetch = std::process::Command::new(source("cloud-init/fetch"));
            fetch.arg(directory);
            carry_out(fetch)
        })
    });
    usable(made, "cloud-init of Debian 13").map(|directory| directory.join("root/usr/lib/python3/dist-packages"))
}

/// cloud-init under way in a sandbox.
pub(super) struct CloudInit(Child);

impl CloudInit {
    /// Starts it, with `agent` as the one program that it finds, and media that want it asked or not. `None`: not here.
    pub(super) fn start(sandbox: &Sandbox, agent: Option<Runtime>, asks: bool) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let modules = modules()?;
        let directory = sandbox.directory().join(format!("cloud-init-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let path = directory.join("bin");
        fs::create_dir_all(&path).unwrap();
        if let Some(runtime) = agent {
            // On a machine it has this name, whichever daemon it is.
            std::os::unix::fs::symlink(runtime.binary(), path.join("azure-proxy-agent")).unwrap();
        }
        let mut command = sandbox.command("/usr/bin/python3");
        command.arg(source("cloud-init/crawl.py")).arg(&directory).arg(asks.to_string());
        command.env_clear().env("PATH", path).env("PYTHONPATH", modules).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Some(Self(command.spawn().unwrap()))
    }

    /// Waits until it has started the agent's program.
    fn asks(&self) {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let asking = |pid: &str| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == b"azure-proxy-agent\0--status\0--wait\x00120\0")
        };
        until(PATIENCE, || fs::read_to_string(&children).ok()?.split_whitespace().any(asking).then_some(())).expect("CLI-26");
    }

    /// Waits for its end.
    pub(super) fn finish(self) -> Report {
        let output = self.0.wait_with_output().unwrap();
        let report = serde_json::from_slice(&output.stdout);
        Report(report.unwrap_or_else(|e| panic!("{e}: {}: {}", output.status, text(&output))))
    }
}

/// What it knew at the end, told the platform, and logged.
#[derive(Debug)]
pub(super) struct Report(Value);

impl Report {
    /// The lines of its log that contain `what`.
    pub(super) fn log(&self, what: &str) -> Vec<&str> {
        let lines = self.0["log"].as_array().unwrap().iter().filter_map(Value::as_str);
        lines.filter(|line| line.contains(what)).collect()
    }

    /// What the platform was told in the key-value pool.
    pub(super) fn told(&self) -> Vec<&str> {
        self.0["reports"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
    }

    fn expect_metadata(&self) {
        assert_eq!(self.0["vmId"], VM_ID, "CLI-31: {self:#?}");
    }

    /// CLI-28: nothing about the agent but a line in its debug log, and the machine reported itself as ready.
    fn expect_success(&self) {
        self.expect_metadata();
        let executing = "Executing ['azure-proxy-agent', '--status', '--wait', '120'] resulted in";
        assert_eq!(self.log(executing), [format!("DEBUG: {executing} stderr='' with stdout=''")], "CLI-26, CLI-28: {self:#?}");
        assert!(matches!(self.told()[..], [report] if report.starts_with("result=success|agent=Cloud-Init/")), "{self:#?}");
        assert_eq!(self.log("ERROR: "), [""; 0]);
    }
}

/// The requests of CLI-31: signed, in order, and nothing before the agent was ready.
fn expect_through_the_agent(world: &World) {
    let expected = [
        ("GET", "/metadata/instance?api-version=2021-08-01&extended=true"),
        ("GET", "/machine/?comp=goalstate"),
        ("POST", "/machine?comp=health"),
    ];
    let seen = world.seen();
    let asked: Vec<_> = seen.iter().map(|r| (r.method.as_str(), r.target.as_str())).collect();
    assert_eq!(asked, expected, "CLI-31");
    assert!(seen.iter().all(|r| r.verified == "signed" && r.status == 200), "{seen:#?}");
}

/// CLI-25 to CLI-28, CLI-31
fn ready(runtime: Runtime) {
    let world = World::start(runtime);
    let Some(cloud_init) = CloudInit::start(&world.sandbox, Some(runtime), true) else { return };
    cloud_init.finish().expect_success();
    expect_through_the_agent(&world);
}

/// CLI-26, CLI-28, CLI-32: it waits, and goes on as soon as the agent is there.
fn late(runtime: Runtime) {
    let sandbox = Sandbox::enter().unwrap();
    let host = sandbox.start_host(HostOptions::default()).unwrap();
    let Some(cloud_init) = CloudInit::start(&sandbox, Some(runtime), true) else { return };
    cloud_init.asks();
    assert!(host.host().records.all().is_empty(), "CLI-27: nothing is asked before");
    let agent = sandbox.start_agent(&AgentOptions::new(runtime.binary())).unwrap();
    let world = World { agent, host, sandbox, runtime };
    let report = cloud_init.finish();
    report.expect_metadata();
    // It came to a closed port first; that is in the debug log and nowhere else.
    let refused =
        "stderr='Failed to query the current provision state with error: Connection refused (os error 111).\\n' with stdout=''";
    assert_eq!(report.log(refused).len(), 1, "CLI-19, CLI-28: {report:#?}");
    assert!(matches!(report.told()[..], [told] if told.starts_with("result=success|")), "{report:#?}");
    expect_through_the_agent(&world);
}

/// CLI-29: reported, and it goes on; this host serves whoever comes.
#[test]
fn absent_cli29() {
    let sandbox = Sandbox::enter().unwrap();
    let host = sandbox.start_host(HostOptions { mode: Mode::Audit, ..HostOptions::default() }).unwrap();
    let Some(cloud_init) = CloudInit::start(&sandbox, None, true) else { return };
    let report = cloud_init.finish();
    report.expect_metadata();
    assert!(report.told()[0].starts_with("result=error|reason=azure-proxy-agent not found|"), "CLI-29: {report:#?}");
    assert_eq!(report.log("Failed to activate Azure Guest Proxy Agent: azure-proxy-agent not found").len(), 1);
    assert!(host.host().records.all().iter().any(|r| r.target == "/machine?comp=health" && r.body > 0), "to the WireServer, too");
}

/// CLI-25: without the wish on the media it does not ask, whether the agent is there or not.
#[test]
fn not_asked_cli25() {
    let sandbox = Sandbox::enter().unwrap();
    let _host = sandbox.start_host(HostOptions { mode: Mode::Audit, ..HostOptions::default() }).unwrap();
    let Some(cloud_init) = CloudInit::start(&sandbox, Some(Runtime::Smol), false) else { return };
    let report = cloud_init.finish();
    report.expect_metadata();
    assert_eq!(report.log("Running command ['azure-proxy-agent'"), [""; 0], "{report:#?}");
    assert_eq!(report.log("ERROR: "), [""; 0], "{report:#?}");
}

/// CLI-30, where an agent is not ready: reason, exit status, and both outputs as supporting data. It goes on, too.
pub(super) fn expect_failure(report: &Report, exit_code: i32, message: &str) {
    report.expect_metadata();
    let told = report.told()[0];
    assert!(told.starts_with("result=error|reason=azure-proxy-agent status failure|"), "CLI-30: {report:#?}");
    // It takes line feeds from the end, and quotes what still has a line end.
    let data = told.replace("'stdout=", "stdout=").replace("'|stderr=", "|stderr=");
    let message = message.trim_end_matches('\n');
    assert!(data.contains(&format!("|exit_code={exit_code}|stdout={message}|stderr=|")), "CLI-30: {told:?}");
    let line = report.log("Failed to activate Azure Guest Proxy Agent: status check failed");
    assert!(line.len() == 1 && line[0].contains(&format!("exit_code={exit_code}")), "{report:#?}");
}

/// How long cloud-init may take beside the wait, on a busy machine: to start, and to go on after it.
pub(super) const OVERHEAD: Duration = Duration::from_secs(20);
