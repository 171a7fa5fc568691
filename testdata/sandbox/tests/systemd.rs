//! What the agent and the service manager say to each other (sd_notify(3), sd_listen_fds(3), systemd.service(5)), with a stand-in for
//! systemd: who has the listener, when the agent is ready, signs of life, SIGHUP. And `detach`. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sandbox::{Agent, AgentOptions, HostOptions, Ready, Sandbox, Server, Store, Supervisor};
use serde_json::Value;
use support::wire::{Caller, IMDS, LISTENER};
use support::{PATIENCE, Runtime, copy_program, on_both_runtimes, text, until};

on_both_runtimes!(
    the_listener_outlives_the_agent,
    a_listener_that_was_handed_over_is_served,
    without_a_redirector_the_listener_is_served_nevertheless,
    what_is_not_our_listener_is_closed,
    the_listener_of_a_running_agent_is_not_served_twice,
    it_says_how_it_is,
    signs_of_life,
    no_sign_of_life_unasked,
    sighup_reads_the_configuration,
    detach_is_for_when_no_agent_runs,
    the_port_is_kept_from_others,
);

/// A sandbox with a host and a service manager.
struct Boot {
    manager: Supervisor,
    // Ends before the sandbox, and keeps it company.
    _host: Server,
    sandbox: Sandbox,
    options: AgentOptions,
}

impl Boot {
    fn new(runtime: Runtime) -> Self {
        let sandbox = Sandbox::enter().unwrap_or_else(|e| panic!("these tests need root, cgroup2 and eBPF: {e}"));
        let host = sandbox.start_host(HostOptions::default()).unwrap();
        let manager = Supervisor::new(&sandbox, Store::Kept).unwrap();
        Self { manager, _host: host, sandbox, options: AgentOptions::new(runtime.binary()).config("fileLogLevel", "Info") }
    }

    fn start(&self) -> Agent {
        self.manager.start(&self.sandbox, &self.options).unwrap_or_else(|e| panic!("{e}"))
    }

    fn log(&self) -> String {
        self.sandbox.log("ProxyAgent.log").unwrap_or_default()
    }

    fn says(&self, what: &str) {
        until(PATIENCE, || self.log().contains(what).then_some(()))
            .unwrap_or_else(|| panic!("nobody says {what:?}:\n{}", self.log()));
    }

    /// What the agent has told the service manager.
    fn told(&self, agent: &Agent) -> Vec<String> {
        self.manager.notices().into_iter().filter(|n| n.pid == agent.id()).flat_map(|n| n.assignments).collect()
    }

    fn hears(&self, agent: &Agent, what: &str) {
        assert!(self.manager.heard(agent.id(), what, PATIENCE), "{what} is not among {:?}", self.told(agent));
    }

    fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.sandbox.in_network(f).unwrap()
    }

    fn serves(&self, caller: &Caller) -> bool {
        let _ = &self.sandbox;
        matches!(caller.try_connect(IMDS).and_then(|mut wire| {
            wire.try_send("GET /test/echo HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")?;
            wire.try_answer(false)
        }), Ok(answer) if answer.status == 200 && answer.is_marked())
    }
}

fn signal(agent: &Agent, signal: Signal) {
    kill_process(Pid::from_raw(agent.id().cast_signed()).unwrap(), signal).unwrap();
}

/// S-03, PX-01: a connection that comes while no agent runs waits in the queue of the kept listener and is served by the next agent, after
/// a crash and after an orderly stop.
fn the_listener_outlives_the_agent(runtime: Runtime) {
    let boot = Boot::new(runtime);
    let mut agent = boot.start();
    let stored = boot.manager.notices().into_iter().find(|n| n.descriptors > 0).expect("a descriptor");
    assert_eq!((stored.assignments.join(" ").as_str(), stored.descriptors), ("FDSTORE=1 FDNAME=listener FDPOLL=0", 1));
    assert_eq!(boot.manager.stored(), ["listener"]);
    for orderly in [false, true] {
        if orderly {
            assert_eq!(agent.stop().unwrap().code(), Some(0));
        } else {
            agent.kill().unwrap();
        }
        let mut waiting = boot.inside(|| std::net::TcpStream::connect(LISTENER)).expect("the queue is there");
        std::io::Write::write_all(
            &mut waiting,
            b"GET /provision HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
        agent = boot.start();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut waiting, &mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
        boot.says("The listener comes from the service manager");
        assert!(!boot.told(&agent).contains(&"FDSTORE=1".to_owned()), "it is there already");
        assert!(boot.serves(&Caller::nobody(&boot.sandbox)));
    }
    assert_eq!(boot.manager.stored(), ["listener"]);
}

/// Stores a listener as a socket unit has it: blocking, another queue. From inside: who is on the other side is written down in the cgroup
/// of the socket's maker.
const SOCKET_UNIT: &str = r"
import glob, os, socket, sys
listener = socket.create_server(('127.0.0.1', 3080), backlog=1)
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.connect(glob.glob(sys.argv[1] + '/notify-*')[0])
socket.send_fds(manager, [b'FDSTORE=1\nFDNAME=unit\n'], [listener.fileno()])
";

/// A socket unit's listener, of another backlog and blocking, as systemd makes it.
fn a_listener_that_was_handed_over_is_served(runtime: Runtime) {
    let boot = Boot::new(runtime);
    let maker = boot.sandbox.command("python3").args(["-c", SOCKET_UNIT]).arg(boot.sandbox.directory()).output().unwrap();
    assert!(maker.status.success(), "{}", text(&maker));
    until(PATIENCE, || (boot.manager.stored() == ["unit"]).then_some(())).expect("it is stored");
    let agent = boot.start();
    assert!(boot.serves(&Caller::nobody(&boot.sandbox)));
    assert!(!boot.told(&agent).contains(&"FDSTORE=1".to_owned()), "the socket unit has it");
    let environment = fs::read(format!("/proc/{}/environ", agent.id())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("LISTEN_FDS=1"), "it was told by the environment");
}

/// S-05, PX-23: as under the packaged units, when the redirector cannot be started. Callers are refused and the status says why; the
/// service manager's listener cannot be made a second time.
fn without_a_redirector_the_listener_is_served_nevertheless(runtime: Runtime) {
    let mut boot = Boot::new(runtime);
    let nowhere = boot.sandbox.directory().join("nobody");
    boot.options.environment.push(("REDIRECTOR_SOCKET".into(), nowhere.display().to_string()));
    boot.options = boot.options.until(Ready::Listening);
    boot.inside(|| boot.manager.keep("unit", TcpListener::bind(LISTENER).unwrap().into()));
    let agent = boot.start();
    boot.says("The listener comes from the service manager");
    boot.hears(&agent, "READY=1");
    boot.says("Failed to start the redirector: the redirector cannot be asked");
    let root = Caller::root(&boot.sandbox);
    let mut wire = root.try_connect(LISTENER).expect("somebody listens");
    wire.try_send("GET /rules HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n").unwrap();
    let answer = wire.try_answer(false).unwrap();
    assert!((400..500).contains(&answer.status), "{}", answer.status);
}

/// Anything else than a TCP listener on 127.0.0.1:3080 of this network is closed, in words, and the agent makes its own.
fn what_is_not_our_listener_is_closed(runtime: Runtime) {
    let boot = Boot::new(runtime);
    let keep = |name: &str, socket: OwnedFd| boot.manager.keep(name, socket);
    boot.inside(|| {
        keep("udp", UdpSocket::bind(LISTENER).unwrap().into());
        keep("port", TcpListener::bind((Ipv4Addr::LOCALHOST, 3081)).unwrap().into());
        keep("wide", TcpListener::bind((Ipv4Addr::UNSPECIFIED, 3082)).unwrap().into());
    });
    // Of this machine's own network, where nobody shall listen on 3080: not listening, bound to nothing.
    let idle = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    keep("idle", idle);
    keep("file", fs::File::open("/dev/null").unwrap().into());
    let agent = boot.start();
    for (name, why) in [
        ("udp", "it is not TCP over IPv4"),
        ("port", "its address is 127.0.0.1:3081"),
        ("wide", "its address is 0.0.0.0:3082"),
        ("idle", "its address is 0.0.0.0:0"),
        ("file", "Socket operation on non-socket"),
    ] {
        assert!(
            boot.log().contains(&format!("The descriptor \"{name}\" of the service manager was closed: {why}")),
            "{}",
            boot.log()
        );
    }
    assert!(boot.serves(&Caller::nobody(&boot.sandbox)));
    // udp is on the same port, and does not count.
    assert_eq!(support::process::listeners(agent.id()), ["0100007F:0C08"]);
    assert_eq!(boot.manager.stored().last().map(String::as_str), Some("listener"), "its own is kept");
}

/// CLI-11: whoever has the listener handed over still waits for the agent that runs, and touches nothing.
fn the_listener_of_a_running_agent_is_not_served_twice(runtime: Runtime) {
    let boot = Boot::new(runtime);
    let caller = Caller::nobody(&boot.sandbox);
    let mut first = boot.start();
    let second = boot.manager.start(&boot.sandbox, &boot.options.clone().until(Ready::Started)).unwrap();
    boot.says("Another agent uses the same key directory");
    for _ in 0..20 {
        assert!(boot.serves(&caller));
    }
    assert!(!boot.told(&second).contains(&"READY=1".to_owned()));
    first.stop().unwrap();
    boot.hears(&second, "READY=1");
    until(PATIENCE, || boot.serves(&caller).then_some(())).expect("it takes over");
}

/// sd_notify(3): ready when the listener is there, in words what it does, and the end.
fn it_says_how_it_is(runtime: Runtime) {
    let boot = Boot::new(runtime);
    let mut agent = boot.start();
    boot.hears(&agent, "READY=1");
    boot.hears(
        &agent,
        "STATUS=Secure channel: WireServer Enforce -  IMDS Enforce - HostGA Enforce. Redirected: IMDS, WireServer, HostGAPlugin.",
    );
    let before = boot.manager.notices().len();
    // Nothing changes: nothing is said, though it goes on asking the host every second.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(boot.manager.notices().len(), before, "{:?}", boot.told(&agent));
    agent.stop().unwrap();
    boot.hears(&agent, "STOPPING=1");
}

/// WatchdogSec=: twice as often as asked for, and not without the thread that serves.
fn signs_of_life(runtime: Runtime) {
    let mut boot = Boot::new(runtime);
    boot.manager.watchdog(Duration::from_millis(200));
    let agent = boot.start();
    let count = || boot.told(&agent).iter().filter(|a| *a == "WATCHDOG=1").count();
    until(PATIENCE, || (count() >= 10).then_some(())).expect("they come");
    // The thread that serves has the process's own number.
    let task = Pid::from_raw(agent.id().cast_signed()).unwrap();
    signal(&agent, Signal::STOP);
    let state = || fs::read_to_string(format!("/proc/{}/stat", task.as_raw_nonzero())).unwrap();
    until(PATIENCE, || state().contains(") T ").then_some(())).expect("it stands still");
    let before = count();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(count(), before);
    signal(&agent, Signal::CONT);
    until(PATIENCE, || (count() >= before + 5).then_some(())).expect("they come again");
}

/// Without a watchdog nothing of the kind is said.
fn no_sign_of_life_unasked(runtime: Runtime) {
    let boot = Boot::new(runtime);
    let agent = boot.start();
    assert!(!boot.manager.heard(agent.id(), "WATCHDOG=1", Duration::from_millis(500)));
}

/// systemd.service(5), notify-reload: the configuration is read anew, the host asked at once; what cannot be used changes nothing.
fn sighup_reads_the_configuration(runtime: Runtime) {
    let mut boot = Boot::new(runtime);
    boot.options = boot.options.config("pollKeyStatusIntervalInSeconds", 3600);
    let agent = boot.start();
    let file = agent.config_file().to_owned();
    let config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let reloads = || boot.told(&agent).iter().filter(|a| *a == "READY=1").count();
    let reload = |content: &str, says: &str| {
        let before = reloads();
        fs::write(&file, content).unwrap();
        signal(&agent, Signal::HUP);
        until(PATIENCE, || (reloads() > before).then_some(())).unwrap_or_else(|| panic!("no READY=1: {:?}", boot.told(&agent)));
        boot.says(says);
    };
    let with = |member: &str, value: Value| {
        let mut config = config.clone();
        config[member] = value;
        config.to_string()
    };
    let polls = || boot._host.host().records.all().iter().filter(|r| r.target == "/secure-channel/status").count();
    let before = polls();
    reload(&with("fileLogLevel", "Debug".into()), "The configuration was read anew");
    until(PATIENCE, || (polls() > before).then_some(())).expect("it asks the host at once");
    let told = boot.told(&agent);
    let at = told.iter().position(|a| a == "RELOADING=1").expect("RELOADING=1");
    assert!(told[at + 1].strip_prefix("MONOTONIC_USEC=").is_some_and(|t| t.parse::<u64>().is_ok()), "{told:?}");
    reload(&with("cgroupRoot", "/elsewhere".into()), "need a restart: cgroupRoot");
    reload("{", "The configuration was not read anew, the one before stays in force: Error in reading Config from Json file");
    // A log that was moved away (logrotate) is let go of.
    let log = boot.sandbox.log_folder().join("ProxyAgent.log");
    fs::rename(&log, boot.sandbox.log_folder().join("moved")).unwrap();
    reload(&with("fileLogLevel", "Info".into()), "The configuration was read anew");
    assert!(log.exists() && boot.serves(&Caller::nobody(&boot.sandbox)));
}

/// S-03: `detach` refuses while an agent runs, and removes what it left when it is gone.
fn detach_is_for_when_no_agent_runs(runtime: Runtime) {
    let boot = Boot::new(runtime);
    let caller = Caller::nobody(&boot.sandbox);
    let mut agent = boot.start();
    let config = agent.config_file().to_owned();
    let detach = |user: &sandbox::User| {
        let copy = boot.sandbox.directory().join("copy");
        if !copy.exists() {
            copy_program(runtime.binary(), &copy);
        }
        let output = boot.sandbox.command_as(user, copy).arg("detach").arg("--config").arg(&config).output().unwrap();
        (output.status.code(), text(&output))
    };
    let name = runtime.program();
    assert_eq!(detach(&support::root()), (Some(1), format!("{name}: an agent is running; stop it first, then detach\n")));
    assert_eq!(detach(&sandbox::User::new(65534, 65534, &[])), (Some(1), format!("{name}: detach needs root\n")));
    assert!(boot.serves(&caller), "nothing was touched");
    agent.kill().unwrap();
    boot.manager.forget();
    // A child that another test is starting may hold a copy of the listener until it becomes its program.
    let refused = until(PATIENCE, || caller.try_connect(IMDS).err()).expect("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let (code, said) = detach(&support::root());
    assert!(code == Some(0) && said.contains("programs detached (connect6, connect4, "), "{said}");
    let folder = boot.sandbox.pin_folder();
    assert_eq!(detach(&support::root()), (Some(0), format!("nothing to remove in {}\n", folder.display())));
    // As if no agent had ever been there.
    let mut wire = caller.connect(IMDS);
    wire.send("GET /test/echo HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n");
    assert_eq!(wire.answer().status, 401, "the host refuses what is unsigned");
    let _again = boot.start();
    assert!(boot.serves(&caller));
}

/// ebpf.md 1.6: `listen()` without `bind()` takes a port of the local range, unseen by any hook; the agent reserves its own.
fn the_port_is_kept_from_others(runtime: Runtime) {
    const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let boot = Boot::new(runtime);
    let read = |path: &'static str| boot.inside(move || fs::read_to_string(path).unwrap().trim().to_owned());
    let mut agent = boot.start();
    assert_eq!(read(RESERVED), "", "the usual range does not contain it");
    agent.kill().unwrap();
    boot.inside(|| {
        fs::write(RESERVED, "8080,9000-9010").unwrap();
        fs::write(RANGE, "3080 4080").unwrap();
    });
    let _agent = boot.start();
    boot.says("Port 3080 is reserved now");
    assert_eq!(read(RESERVED), "3080,8080,9000-9010");
}
