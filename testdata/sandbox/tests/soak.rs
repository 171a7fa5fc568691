//! One fault after the other, over and over, with clients that ask all the time: decisions stay right, nobody waits longer than
//! he must, the state is what the fault demands and becomes good again, and at the end the agent holds no more than at first.
//! W-07, W-38, W-87 to W-97, PX-59, S-23, SEC-G1, SEC-G2, invariants 1, 3, 6 and 8. These tests need root.
//!
//! Half a minute in `make test`; `make soak` takes ten and prints what was counted. Jumps of the clock and suspend are tested in
//! core, where time is a value.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sandbox::{Failure, Host, HostOptions, Sandbox};
use serde_json::{Value, json};
use support::load::{Client, Load, PROBE};
use support::process::{Usage, in_kernel, open_bpf, usage};
use support::soak::{Soak, say, table};
use support::wire::{Answer, Caller, IMDS, LISTENER, WIRESERVER, Wire};
use support::{PATIENCE, Runtime, World, on_both_runtimes, text, until};

on_both_runtimes!(one_fault_after_the_other, a_disk_that_fails);

/// Within this an ordinary request is answered, whatever else is wrong (SEC-G1).
const ORDINARY: Duration = Duration::from_secs(5);

/// Something that goes wrong, and what one sees of it.
struct Fault {
    name: &'static str,
    /// What goes on as long as it lasts, again and again.
    happens: fn(&Scene),
    over: fn(&Scene),
    /// What the message of the key module begins with; empty: all is well.
    says: &'static str,
    /// What an allowed request to IMDS is answered meanwhile; 0: not asked.
    imds: u16,
    /// Whether the agent sits out a time limit of its own, too long for the short form.
    is_long: bool,
}

impl Fault {
    /// The host fails in the same way at its own protocol (W-38) and at requests of clients for IMDS.
    const fn host(name: &'static str, imds: u16, happens: fn(&Scene)) -> Self {
        Self { name, happens, over: Scene::host_is_well, says: "Failed to get key status - ", imds, is_long: false }
    }

    /// Nothing fails, but much changes.
    const fn change(name: &'static str, happens: fn(&Scene), over: fn(&Scene)) -> Self {
        Self { name, happens, over, says: "", imds: 200, is_long: false }
    }
}

/// The list.
const FAULTS: [Fault; 12] = [
    Fault::host("500", 500, |s| s.host_fails(Failure::Status500)),
    Fault::host("reset", 503, |s| s.host_fails(Failure::Reset)),
    Fault::host("garbage", 503, |s| s.host_fails(Failure::Garbage)),
    Fault::host("no JSON", 200, |s| s.host_fails(Failure::BadJson)),
    Fault::host("redirect", 302, |s| s.host_fails(Failure::Redirect)),
    Fault::host("huge", 200, |s| s.host_fails(Failure::Huge)),
    Fault { is_long: true, ..Fault::host("silent status", 0, |s| s.host_fails(Failure::Silent)) },
    Fault { imds: 0, ..Fault::change("silent IMDS", |s| s.host.fail("imds", Failure::Silent, 3), Scene::host_is_well) },
    Fault::change("slow", |s| s.host_delays(Duration::from_millis(700)), |s| s.host_delays(Duration::ZERO)),
    Fault::change("rules with another id", Scene::change_rules, |s| s.host.set_rules(None)),
    Fault::change("another key", Scene::rotate, |_| ()),
    Fault::change("notifications", Scene::notify_often, |_| ()),
];

/// Clients who are to be served, or denied, whatever happens; IMDS is asked beside them.
const CLIENTS: [Client; 3] = [Client::wireserver("root1", 0), Client::hostga("root2", 0), Client::wireserver("eve", 2004)];

/// What an agent holds.
#[derive(Debug)]
struct Held {
    usage: Usage,
    open_bpf: usize,
    in_kernel: BTreeSet<String>,
}

impl Held {
    fn by(world: &World) -> Self {
        let pid = world.agent.id();
        Self { usage: usage(pid), open_bpf: open_bpf(pid), in_kernel: in_kernel(&world.sandbox, pid) }
    }

    /// Nothing leaked: when everybody has gone, there is not more than when everybody was there.
    fn assert_not_more(&self, world: &World) {
        let mut now = Self::by(world);
        let fits = until(PATIENCE, || {
            now = Self::by(world);
            let Usage { descriptors, threads, resident, .. } = self.usage;
            let fits = now.usage.descriptors <= descriptors + 4
                && now.usage.threads <= threads + 2
                && now.usage.resident <= resident + 2048
                && (now.open_bpf, &now.in_kernel) == (self.open_bpf, &self.in_kernel);
            fits.then_some(())
        });
        assert!(fits.is_some(), "{now:?}\nis more than at first: {self:?}");
    }
}

/// The world, and whoever asks.
struct Scene {
    host: Arc<Host>,
    root: Caller,
    nobody: Caller,
    rotated: Mutex<Option<Instant>>,
    world: World,
}

impl Scene {
    fn of(world: World) -> Self {
        let host = Arc::clone(world.host.host());
        let (root, nobody) = (Caller::root(&world.sandbox), Caller::nobody(&world.sandbox));
        Self { host, root, nobody, rotated: Mutex::default(), world }
    }

    fn host_fails(&self, how: Failure) {
        for what in ["status", "imds"] {
            self.host.fail(what, how, 1 << 40);
        }
    }

    fn host_is_well(&self) {
        for what in ["status", "imds"] {
            self.host.fail(what, Failure::Reset, 0);
        }
    }

    fn host_delays(&self, by: Duration) {
        for what in ["status", "imds"] {
            self.host.faults.delay(what, by);
        }
    }

    /// Every second at most; this comes more often.
    fn rotate(&self) {
        let mut last = self.rotated.lock().unwrap();
        if last.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.host.rotate().unwrap();
            *last = Some(Instant::now());
        }
    }

    /// The same decisions, with other ids.
    fn change_rules(&self) {
        let id = format!("rules-{:?}", Instant::now());
        let by = |name: &str| json!({"defaultAccess": "allow", "mode": "enforce", "id": format!("{name}-{id}")});
        self.host.set_rules(Some(json!({"imds": by("imds"), "wireserver": by("wireserver"), "hostga": by("hostga")})));
    }

    /// 100 in a tenth of a second: callers who say that the provisioning state they know is outdated (PX-58).
    fn notify_often(&self) {
        let mut wire = self.nobody.connect(LISTENER);
        let ask = "GET /provision HTTP/1.1\r\nHost: h\r\nMetadata: true\r\nx-ms-azure-notify: 1\r\n\
                   x-ms-azure-time-tick: 99999999999999999999\r\n\r\n";
        let since = Instant::now();
        for n in 1..=100 {
            wire.send(ask);
            assert_eq!(wire.answer().status, 200);
            std::thread::sleep(Duration::from_millis(n).saturating_sub(since.elapsed()));
        }
    }

    /// The agent's own view (PX-60).
    fn status(&self) -> Value {
        let get = "GET /gpa-aggregated-status HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n";
        self.root.ask(WIRESERVER, get).json()["proxyAgentStatus"].clone()
    }

    /// What is wrong with the agent, if anything is.
    fn complaint(&self) -> Option<String> {
        let status = self.status();
        let message = status["keyLatchStatus"]["message"].as_str().unwrap().to_owned();
        let is_good = status["status"] == "SUCCESS" && !message.starts_with("Failed");
        (!is_good).then(|| format!("{}: {message}", status["status"]))
    }

    /// An ordinary request of each kind, answered in time and rightly.
    fn ordinary(&self, imds: u16, during: &str) {
        let ask = |caller: &Caller, to: &str, expected: u16| {
            let since = Instant::now();
            let mut wire: Wire = caller.connect(to);
            wire.send(format!("GET {PROBE} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n"));
            let answer: Answer = wire.answer();
            assert_eq!(answer.status, expected, "{during}: {to}: {answer:?}");
            assert!(since.elapsed() < ORDINARY, "{during}: {to}: it took {:?}", since.elapsed());
        };
        ask(&self.root, WIRESERVER, 200);
        ask(&self.nobody, WIRESERVER, 403);
        if imds > 0 {
            ask(&self.nobody, IMDS, imds);
        }
    }

    fn suffer(&self, fault: &Fault, lasting: Duration) {
        let since = Instant::now();
        (fault.happens)(self);
        if !fault.says.is_empty() {
            let mut last = None;
            let said = until(PATIENCE * 2, || {
                last = self.complaint();
                last.as_ref()?.contains(fault.says).then_some(())
            });
            assert!(said.is_some(), "{fault}: not said: {last:?}");
        }
        loop {
            (fault.happens)(self);
            self.ordinary(fault.imds, fault.name);
            if since.elapsed() >= lasting {
                break;
            }
            // A pace, so that the machine is not busy with asking.
            std::thread::sleep(Duration::from_millis(50));
        }
        (fault.over)(self);
        let mut last = None;
        let good = until(PATIENCE * 2, || {
            last = self.complaint();
            last.is_none().then_some(())
        });
        assert!(good.is_some(), "after {fault}: it does not recover: {last:?}");
        self.ordinary(200, "afterwards");
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn one_fault_after_the_other(runtime: Runtime) {
    let mut scene = Scene::of(World::start(runtime));
    let load = Load::start(&scene.world.sandbox, &scene.host, &CLIENTS, Duration::from_millis(20));
    let (whole, began) = (Soak::length().faults, Instant::now());
    let faults: Vec<&Fault> = FAULTS.iter().filter(|f| Soak::is_long() || !f.is_long).collect();
    let lasting = (whole / 40).min(Duration::from_secs(5));
    let mut at_first: Option<Held> = None;
    let mut rounds = 0;
    while began.elapsed() < whole || rounds < 2 {
        for fault in &faults {
            scene.suffer(fault, lasting);
        }
        rounds += 1;
        let now = Held::by(&scene.world);
        say(&format!("{runtime}: round {rounds} after {:?}: {:?}\n", began.elapsed(), now.usage));
        // The first round has filled every pool and table.
        at_first.get_or_insert(now);
    }
    let evidence = load.finish(|| ());
    at_first.unwrap().assert_not_more(&scene.world);
    table(&format!("{runtime}: {rounds} rounds of {} faults in {:?}", faults.len(), began.elapsed()), &evidence);
    evidence.judge().assert_none("faults");
    assert!(scene.world.agent.is_running().unwrap());
}

/// FS-30, W-92, W-97: a disk that is full, or may only be read, stops nobody; a new key is used when it is stored,
/// not before; what cannot be written is said, and written again when that is possible.
fn a_disk_that_fails(runtime: Runtime) {
    let world = World::with_sandbox(runtime, HostOptions::default(), Disks::make, |sandbox, options| {
        let folder = |disk: &str, name: &str| Value::from(sandbox.directory().join(disk).join(name).to_str().unwrap());
        options
            .config("logFolder", folder(Disks::LOGS, "log"))
            .config("eventFolder", folder(Disks::LOGS, "log/events"))
            .config("latchKeyFolder", folder(Disks::STATE, "keys"))
            .config("statusFolder", folder(Disks::STATE, "status"))
    });
    let scene = Scene::of(world);
    let disks = Disks { world: &scene.world };
    let in_use = || scene.status()["keyLatchStatus"]["states"]["keyGuid"].as_str().unwrap_or_default().to_owned();
    let is_stored = |guid: &str| disks.path(Disks::STATE).join(format!("keys/{guid}.key")).exists();
    let asks = || {
        for _ in 0..20 {
            scene.ordinary(200, "with a disk that fails");
        }
    };
    for is_full in [true, false] {
        let old = in_use();
        if is_full {
            disks.fill(Disks::STATE)
        } else {
            disks.remount(Disks::STATE, "ro")
        }
        let new = scene.host.rotate().unwrap();
        let complaint = scene.world.wait("it says that it cannot store the key", || scene.complaint());
        assert!(complaint.contains("Failed to save key details to file"), "{complaint}");
        asks();
        assert!(in_use() == old && !is_stored(&new), "a key that is not stored is not used");
        if is_full {
            disks.free(Disks::STATE)
        } else {
            disks.remount(Disks::STATE, "rw")
        }
        scene.world.wait("the new key is in use", || (in_use() == new && scene.complaint().is_none()).then_some(()));
        assert!(is_stored(&new));
        asks();
    }
    disks.fill(Disks::LOGS);
    asks();
    disks.free(Disks::LOGS);
    scene.root.ask(WIRESERVER, "GET /test/bytes?n=10&probe=last HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n");
    let log = || fs::read_to_string(disks.path(Disks::LOGS).join("log/audit.jsonl")).unwrap();
    scene.world.wait("the audit log goes on", || log().contains("probe=last").then_some(()));
    for line in log().lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("a torn line {line:?}: {e}"));
    }
    let unsigned: Vec<_> = scene.world.seen().into_iter().filter(|r| r.verified != "signed").collect();
    assert!(unsigned.is_empty(), "{unsigned:?}");
}

/// Two small disks, inside: one for logs, one for keys and status.
struct Disks<'w> {
    world: &'w World,
}

impl Disks<'_> {
    const LOGS: &'static str = "logs";
    const STATE: &'static str = "disk";

    fn make(sandbox: &Sandbox) {
        for disk in [Self::LOGS, Self::STATE] {
            let at = sandbox.directory().join(disk);
            fs::create_dir(&at).unwrap();
            run(sandbox, &["mount", "-t", "tmpfs", "-o", "size=1m", "none", at.to_str().unwrap()]);
        }
    }

    /// As seen from here.
    fn path(&self, disk: &str) -> PathBuf {
        let inside = self.world.sandbox.directory().join(disk);
        PathBuf::from(format!("/proc/{}/root", self.world.agent.id())).join(inside.strip_prefix("/").unwrap())
    }

    /// Not a byte more fits.
    fn fill(&self, disk: &str) {
        let mut file = File::create(self.path(disk).join("filler")).unwrap();
        let full = (0..).find_map(|_| file.write_all(&[0; 4096]).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    fn free(&self, disk: &str) {
        fs::remove_file(self.path(disk).join("filler")).unwrap();
    }

    fn remount(&self, disk: &str, how: &str) {
        let at = self.world.sandbox.directory().join(disk);
        run(&self.world.sandbox, &["mount", "-o", &format!("remount,{how}"), at.to_str().unwrap()]);
    }
}

fn run(sandbox: &Sandbox, words: &[&str]) {
    let output = sandbox.command(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
}
