//! A machine's day in miniature: cloud-init boots it, the guest agent polls, an application fetches tokens, a monitoring agent looks
//! around, a person tries things. Its audit log is what rules are learned from, and the rules are enforced while the day is had again.
//!
//! `RECORD=1` writes the logs to `testdata/recording/`, of which the worked example of `docs/` is made. This test needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sandbox::{HostOptions, Mode, Sandbox, User};
use serde_json::{Value, json};
use support::clients::{cache, carry_out, install, installed, source, usable};
use support::rules::{Accounts, set};
use support::{Runtime, World, copy_program, on_both_runtimes, root, text};

on_both_runtimes!(what_was_learned_from_a_day_lets_the_day_happen_again);

/// The application, the monitoring agent, and a person.
const USERS: [(u32, &str); 3] = [(2001, "shop"), (2002, "telegraf"), (2003, "alice")];
const HOURS: usize = 6;

const TOKEN: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=";
const METADATA: [&str; 2] = ["-H", "Metadata: true"];

/// Everything is denied, and nothing of that is enforced: so begins whoever wants to know what goes on.
fn audit_all() -> Value {
    let document = |id: &str| json!({"defaultAccess": "deny", "mode": "audit", "id": id});
    json!({"imds": document("audit-imds"), "wireserver": document("audit-wireserver")})
}

/// What the machine's programs are in this world.
struct Machine {
    cloud_init: PathBuf,
    shop: PathBuf,
}

/// Cloud-init's modules, and the application: Go's own client, built here. `None`: not on this machine.
fn machine() -> Option<Machine> {
    if !(installed("apt-get", "apt") && installed("go", "golang-go") && installed("curl", "curl")) {
        return None;
    }
    let modules = install("cloud-init", "fetch", |directory| {
        let mut fetch = Command::new(source("cloud-init/fetch"));
        fetch.arg(directory);
        carry_out(fetch)
    });
    let modules = usable(&modules, "cloud-init of Debian 13")?;
    let directory = cache().join("shop");
    let program = directory.join("shop");
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&program).arg(source("go/main.go")).current_dir("/");
    // The standard library is all it needs: nothing is fetched.
    go.env("GOPROXY", "off").env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("GOCACHE", directory.join("cache"));
    carry_out(go).unwrap();
    Some(Machine { cloud_init: modules.join("root/usr/lib/python3/dist-packages"), shop: program })
}

/// Puts programs where they are on a machine: these folders are empty inside.
fn furnish(sandbox: &Sandbox, machine: &Machine) {
    for folder in ["/opt", "/usr/local/sbin"] {
        let mounted = sandbox.command("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", folder]).status().unwrap();
        assert!(mounted.success(), "{folder}");
    }
    let place = |from: &Path, to: &str| {
        let near = sandbox.directory().join("placed");
        copy_program(from, &near);
        assert!(sandbox.command("install").args(["-D", "-m", "755"]).arg(&near).arg(to).status().unwrap().success(), "{to}");
    };
    place(&source("../recording/waagent"), "/usr/local/sbin/waagent");
    place(&source("cloud-init/crawl.py"), "/usr/local/sbin/cloud-init");
    place(&machine.shop, "/opt/shop/bin/shop");
}

/// Runs a client to its end.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

fn user(name: &str) -> User {
    USERS.iter().find(|(_, known)| *known == name).map(|(uid, _)| User::new(*uid, *uid, &[])).unwrap()
}

/// One of the files that the worked example shows.
fn example(name: &str) -> PathBuf {
    source("../recording").join(name)
}

/// Keeps lines for the worked example, if that is wanted: of one daemon.
fn record(world: &World, lines: &[Value], name: &str) {
    if world.runtime == Runtime::Smol && std::env::var_os("RECORD").is_some() {
        let log = fs::read_to_string(world.sandbox.log_folder().join("audit.jsonl")).unwrap();
        let wanted = |line: &&str| lines.contains(&serde_json::from_str(line).unwrap());
        fs::write(example(name), log.lines().filter(wanted).map(|line| line.to_owned() + "\n").collect::<String>()).unwrap();
    }
}

/// The day. What a person tries comes last: it is not what the machine is for.
fn day(world: &World, machine: &Machine, number: usize) {
    let mut boot = world.client(&root(), "/usr/bin/python3");
    let directory = world.sandbox.directory().join(format!("cloud-init-{number}"));
    let path = directory.join("bin");
    fs::create_dir_all(&path).unwrap();
    std::os::unix::fs::symlink(world.runtime.binary(), path.join("azure-proxy-agent")).unwrap();
    boot.arg("/usr/local/sbin/cloud-init").arg(&directory).arg("true");
    boot.env_clear().env("PATH", &path).env("PYTHONPATH", &machine.cloud_init).env("PYTHONDONTWRITEBYTECODE", "1");
    assert!(run(&mut boot).contains("result=success|agent=Cloud-Init/"));
    let waagent = |what: &str| {
        let mut command = world.client(&root(), "/usr/bin/python3");
        command.args(["-u", "/usr/local/sbin/waagent", "-run-exthandlers", what]);
        run(&mut command);
    };
    waagent("start");
    for hour in 0..HOURS {
        waagent("round");
        let mut shop = world.client(&user("shop"), "/opt/shop/bin/shop");
        shop.arg(format!("{TOKEN}https%3A%2F%2Fvault.azure.net"));
        if hour % 2 == 0 {
            shop.arg(format!("{TOKEN}https%3A%2F%2Fstorage.azure.com%2F&client_id=5d0b6c3e-0000-4000-8000-000000000001"));
        }
        if hour == 0 {
            shop.arg("http://169.254.169.254/metadata/instance/compute?api-version=2021-02-01");
        }
        run(&mut shop);
        let mut telegraf = world.client(&user("telegraf"), "/usr/bin/curl");
        telegraf.args(["-sS", "-m", "60", "--fail"]).args(METADATA).args(["-o", "/dev/null", "-o", "/dev/null"]);
        telegraf.arg("http://169.254.169.254/metadata/instance/compute/vmId?api-version=2021-02-01&format=text");
        telegraf.arg("http://169.254.169.254/metadata/instance/network?api-version=2021-02-01");
        run(&mut telegraf);
        if hour % 3 == 0 {
            let mut telegraf = world.client(&user("telegraf"), "/usr/bin/curl");
            telegraf.args(["-sS", "-m", "60", "--fail"]).args(METADATA).arg(format!("{TOKEN}https%3A%2F%2Fmonitor.azure.com%2F"));
            run(&mut telegraf);
        }
    }
    alice(world);
}

/// A person looks around: at what is there, what is not, and where only root may look.
fn alice(world: &World) {
    for url in [
        "http://169.254.169.254/metadata/instance?api-version=2021-02-01",
        "http://169.254.169.254/metadata/secrets?api-version=2021-02-01",
        "http://168.63.129.16/machine?comp=goalstate",
    ] {
        let mut curl = world.client(&user("alice"), "/usr/bin/curl");
        curl.args(["-sS", "-m", "60", "-o", "/dev/null"]).args(METADATA).arg(url);
        run(&mut curl);
    }
}

fn rules_learn(world: &World, log: &Path, out: &Path) -> String {
    let mut learn = Command::new(world.runtime.binary());
    learn.args(["rules", "learn", "--mode", "enforce", "--out"]).arg(out).arg("--from").arg(log);
    let output = learn.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stderr).unwrap()
}

/// and the one thing that is refused on both days is what the floor refuses.
fn what_was_learned_from_a_day_lets_the_day_happen_again(runtime: Runtime) {
    let Some(machine) = machine() else { return };
    let prepare = |sandbox: &Sandbox| {
        Accounts::cover(sandbox, &USERS, &[]);
        furnish(sandbox, &machine);
    };
    let host = HostOptions { mode: Mode::Audit, rules: Some(audit_all()), ..HostOptions::default() };
    let world = World::with_sandbox(runtime, host, prepare, |_, options| options);
    day(&world, &machine, 1);
    let recorded =
        world.audit_lines(1, |line| line["userName"] == "alice" && line["port"] == 80 && line["ip"] == "168.63.129.16");
    assert_eq!((&recorded[0]["decision"], &recorded[0]["reason"]), (&json!("deny"), &json!("elevation")));
    let lines = world.audit().len();
    record(&world, &world.audit(), "day.jsonl");
    let log = world.sandbox.log_folder().join("audit.jsonl");

    let out = world.sandbox.directory().join("learned");
    let report = rules_learn(&world, &log, &out);
    assert!(report.contains("  shop: user shop, /opt/shop/bin/shop\n"), "{report}");
    assert!(report.contains("alice with /usr/bin/curl to WireServer: only root gets there, whatever rules say"), "{report}");
    let document = |name: &str| -> Value { serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap() };
    // The host plug-in has the WireServer's document (W-41).
    set(&world, json!({"imds": document("imds.json"), "wireserver": document("wireserver.json")}));
    day(&world, &machine, 2);
    let again = world.audit_lines(2 * lines, |_| true).split_off(lines);
    let denied: Vec<&Value> = again.iter().filter(|line| line["decision"] != "allow").collect();
    assert!(matches!(denied[..], [one] if one["reason"] == "elevation"), "{denied:#?}");
    assert!(again.iter().all(|line| line["rule"].is_null() || line["rule"]["mode"] == "enforce"), "{again:#?}");

    // What the owner of the worked example made of it.
    let edited: Value = serde_json::from_slice(&fs::read(example("imds-enforced.json")).unwrap()).unwrap();
    set(&world, json!({"imds": edited, "wireserver": document("wireserver.json")}));
    let mut shop = world.client(&user("shop"), "/opt/shop/bin/shop");
    run(shop.arg(format!("{TOKEN}https%3A%2F%2Fvault.azure.net")));
    alice(&world);
    let third = world.audit_lines(2 * lines + 4, |_| true).split_off(2 * lines);
    let decided: Vec<(&str, &str)> =
        third.iter().map(|line| (line["userName"].as_str().unwrap(), line["decision"].as_str().unwrap())).collect();
    assert_eq!(decided, [("shop", "allow"), ("alice", "deny"), ("alice", "deny"), ("alice", "deny")]);
    record(&world, &third, "enforced.jsonl");
}
