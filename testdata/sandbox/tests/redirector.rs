//! The daemon as the packaged units run it: without any capability, while `azure-proxy-agent redirector`, started by a stand-in for the
//! socket unit, does what needs them. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Agent, AgentOptions, HostOptions, Ready, Sandbox, Server};
use support::wire::{Caller, IMDS};
use support::{PATIENCE, Runtime, copy_program, on_both_runtimes, text, until};

on_both_runtimes!(
    the_daemon_needs_no_capability,
    a_redirector_that_is_killed_takes_over_again,
    what_somebody_undoes_is_put_right,
    it_ends_with_the_daemon_and_the_redirect_stays,
    without_a_redirector_nothing_is_redirected_and_the_log_says_why,
);

/// What systemd does for a socket unit: listens, starts the service when somebody comes, hands the socket over, and again when it has ended.
const UNIT: &str = r#"
import os, select, socket, subprocess, sys
path, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.umask(0o177)
listener.bind(path)
listener.listen(128)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
become = ["sh", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=redirector; exec "$0" "$@"']
while True:
    select.select([listener], [], [])
    subprocess.run(become + command, close_fds=False)
"#;

/// As in the unit: `CapabilityBoundingSet=`, `NoNewPrivileges=yes`.
const BARE: &str = "#!/bin/sh\nexec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs DAEMON \"$@\"\n";

struct Units {
    agent: Agent,
    unit: Child,
    _host: Server,
    sandbox: Sandbox,
    options: AgentOptions,
}

impl Units {
    /// A provisioned agent, or, without the socket unit, one that only listens.
    fn start(runtime: Runtime, has_redirector: bool) -> Self {
        let sandbox = Sandbox::enter().unwrap_or_else(|e| panic!("these tests need root, cgroup2 and eBPF: {e}"));
        let host = sandbox.start_host(HostOptions::default()).unwrap();
        let place = |name: &str| sandbox.directory().join(name);
        let daemon = runtime.binary();
        let [draft, program, socket] = ["draft", "wrapper", "redirector"].map(place);
        fs::write(&draft, BARE.replace("DAEMON", &daemon.display().to_string())).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        copy_program(&draft, &program);
        let mut unit = sandbox.command("python3");
        unit.args(["-c", UNIT]).arg(&socket).arg(&daemon).arg("redirector").arg("--config").arg(place("proxy-agent.json"));
        if !has_redirector {
            unit = sandbox.command("true");
        }
        let unit = unit.spawn().unwrap();
        let mut options = AgentOptions::new(program);
        options.environment.push(("REDIRECTOR_SOCKET".into(), socket.display().to_string()));
        if has_redirector {
            until(PATIENCE, || socket.exists().then_some(())).expect("the socket is there");
        } else {
            options = options.until(Ready::Listening);
        }
        let agent = sandbox.start_agent(&options).unwrap_or_else(|e| panic!("{e}"));
        Self { agent, unit, _host: host, sandbox, options }
    }

    /// The process of the redirector, if there is one.
    fn redirector(&self) -> Option<Pid> {
        let unit = self.unit.id();
        let children = fs::read_to_string(format!("/proc/{unit}/task/{unit}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next()?.parse().unwrap())
    }

    fn says(&self, what: &str) {
        let log = || self.sandbox.log("ProxyAgent.log").unwrap_or_default();
        until(PATIENCE, || log().contains(what).then_some(())).unwrap_or_else(|| panic!("nobody says {what:?}:\n{}", log()));
    }

    fn serves(&self, caller: &Caller) -> bool {
        let _ = &self.sandbox;
        matches!(caller.try_connect(IMDS).and_then(|mut wire| {
            wire.try_send("GET /test/echo HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")?;
            wire.try_answer(false)
        }), Ok(answer) if answer.status == 200 && answer.is_marked())
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let _ = self.unit.kill();
        let _ = self.unit.wait();
    }
}

fn capabilities(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().filter(|line| line.starts_with("CapEff:") || line.starts_with("CapPrm:")).collect()
}

/// FS-96, I-28: who parses HTTP has no capability; callers are known all the same, and their programs verified.
fn the_daemon_needs_no_capability(runtime: Runtime) {
    let units = Units::start(runtime, true);
    assert_eq!(capabilities(units.agent.id()), "CapPrm:\t0000000000000000CapEff:\t0000000000000000");
    assert!(units.serves(&Caller::nobody(&units.sandbox)) && units.serves(&Caller::root(&units.sandbox)));
    let audit = until(PATIENCE, || {
        let log = units.sandbox.log("audit.jsonl").unwrap_or_default();
        (log.lines().count() >= 2).then_some(log)
    });
    for line in audit.expect("two lines").lines() {
        assert!(line.contains(r#""identity":"verified""#), "{line}");
    }
}

/// S-03, PX-23: the questions after its end start it again, and it takes over what is pinned; callers notice nothing.
fn a_redirector_that_is_killed_takes_over_again(runtime: Runtime) {
    let units = Units::start(runtime, true);
    let caller = Caller::nobody(&units.sandbox);
    for _ in 0..3 {
        let before = units.redirector().expect("it is there");
        kill_process(before, Signal::KILL).unwrap();
        until(PATIENCE, || (units.redirector() != Some(before)).then_some(())).expect("it ended");
        until(PATIENCE, || units.serves(&caller).then_some(())).expect("served");
    }
    units.says("The redirector was started anew: eBPF on ");
    units.says("taken over as it was");
}

/// S-13: found and repaired at the next poll, and said in the daemon's log.
fn what_somebody_undoes_is_put_right(runtime: Runtime) {
    let units = Units::start(runtime, true);
    let pin = units.sandbox.pin_folder().join("v1/counters");
    let removed = units.sandbox.command("rm").arg(&pin).output().unwrap();
    assert!(removed.status.success(), "{}", text(&removed));
    units.says("map counters had been unpinned by somebody else; pinned it again");
    assert!(units.sandbox.command("test").arg("-e").arg(&pin).status().unwrap().success());
}

/// S-03: with the daemon the lock of what is pinned is gone, and only that: connections are refused, the next daemon takes over, and
/// `detach` can be used.
fn it_ends_with_the_daemon_and_the_redirect_stays(runtime: Runtime) {
    let mut units = Units::start(runtime, true);
    let caller = Caller::nobody(&units.sandbox);
    for orderly in [false, true] {
        if orderly {
            assert_eq!(units.agent.stop().unwrap().code(), Some(0));
        } else {
            units.agent.kill().unwrap();
        }
        until(PATIENCE, || units.redirector().is_none().then_some(())).expect("it ends");
        let refused = until(PATIENCE, || caller.try_connect(IMDS).err()).expect("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        units.agent = units.sandbox.start_agent(&units.options).unwrap_or_else(|e| panic!("{e}"));
        assert!(units.serves(&caller));
    }
    units.agent.kill().unwrap();
    let config = units.agent.config_file().to_owned();
    let detached = units.sandbox.command(runtime.binary()).arg("detach").arg("--config").arg(config).output().unwrap();
    assert!(text(&detached).contains("programs detached (connect6, connect4, "), "{}", text(&detached));
}

/// S-05: the daemon listens, says why, and keeps trying.
fn without_a_redirector_nothing_is_redirected_and_the_log_says_why(runtime: Runtime) {
    let mut units = Units::start(runtime, false);
    units.says("Failed to start the redirector: the redirector cannot be asked: No such file or directory");
    assert!(!units.serves(&Caller::nobody(&units.sandbox)));
    assert!(units.agent.is_running().unwrap());
}
