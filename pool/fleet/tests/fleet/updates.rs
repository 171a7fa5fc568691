//! Updates that go well, fail, go back, and are cut off.

use crate::support::{Fleet, releases, v};
use fleet::controller::{Options, one_task};
use fleet::machine::Machine;
use fleet::releases::Build;
use rustix::fs::{FlockOperation, fcntl_lock};
use serde_json::{Value, json};
use std::fs::{self, File};

fn alone(config: &Value) -> Fleet {
    Fleet::with(&Options::new("p"), &["a"], config)
}

/// It says why, runs what it had, and is good for jobs.
fn assert_usable(fleet: &Fleet, version: &str, words: &str) {
    let agent = fleet.controllers.await_agent("a", "update failed", version).unwrap();
    let detail = agent["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{words}: {detail}");
    assert_eq!(agent["level"], "warning", "{agent}");
    let machine = fleet.machine("a");
    assert_eq!((machine.installed().unwrap(), machine.package().unwrap()), (version.into(), format!("installed {version}")));
    let state = fleet.controllers.job(&one_task("CheckHealth", &Value::Null)).unwrap();
    assert!(state["state"] == "succeeded" && state["result"].as_str().unwrap().contains("\"healthy\":true"), "{state}");
}

/// What the pool shows is not yet of the next update: it must be asked for before it is looked at.
fn ask(fleet: &Fleet, to: &str, force: bool) {
    fleet.controllers.ask_for_update("a", Some(to), force).unwrap();
    fleet::until("the update to end", || {
        let agent = fleet.controllers.agent("a").ok()?;
        (agent["state"] != "updating").then_some(())
    })
    .unwrap();
}

fn in_namespace(machine: &Machine, words: &[&str]) {
    let done = machine.sandbox().command(words[0]).args(&words[1..]).status().unwrap();
    assert!(done.success(), "{words:?}");
}

/// Each reason, at once, in words; the agent stays online and works.
#[test]
fn an_agent_that_cannot_update_says_why_and_stays_usable() {
    let fleet = alone(&json!({}));
    let machine = fleet.machine("a");
    let first = fleet.publish(1, Build::Good);
    let root = machine.path("root").display().to_string();

    // A read-only file system.
    in_namespace(machine, &["mount", "--bind", &root, &root]);
    in_namespace(machine, &["mount", "-o", "remount,bind,ro", &root]);
    machine.configure(&json!({})).unwrap();
    ask(&fleet, &first, false);
    assert_usable(&fleet, &v(0), "root/usr/sbin is read-only");
    in_namespace(machine, &["umount", "--lazy", &root]);

    // Missing rights: not even root may write there.
    machine.configure(&json!({ "installFolders": ["/proc/sys/kernel/random"] })).unwrap();
    ask(&fleet, &first, false);
    assert_usable(&fleet, &v(0), "no right to write to /proc/sys/kernel/random: ");

    // Not enough disk.
    machine.configure(&json!({ "installFolders": [], "spareBytes": 1u64 << 60 })).unwrap();
    ask(&fleet, &first, false);
    assert_usable(&fleet, &v(0), "not enough disk: ");
    machine.configure(&json!({ "spareBytes": 0 })).unwrap();

    // Signed by somebody else.
    let package = releases().package(2, Build::Good).unwrap();
    fleet.controllers.publish(&v(2), &package, Some(&"0".repeat(128))).unwrap();
    ask(&fleet, &v(2), false);
    assert_usable(&fleet, &v(0), "bad signature: the release is signed with none of the keys");

    // Another package manager is at work: its lock is held, as apt does.
    let lock =
        File::options().write(true).create(true).truncate(false).open(machine.path("root/var/lib/dpkg/lock-frontend")).unwrap();
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    ask(&fleet, &first, false);
    assert_usable(&fleet, &v(0), "the package manager is busy: dpkg: error: dpkg frontend lock was locked by another process");
    drop(lock);

    // It works out in the end, and the next one fails in the middle: unpacked, and not configured. Back.
    ask(&fleet, &first, false);
    fleet.controllers.await_agent("a", "online", &first).unwrap();
    let third = fleet.publish(3, Build::WontConfigure);
    ask(&fleet, &third, false);
    assert_usable(&fleet, &first, "the package manager failed: ");
    assert!(fleet.controllers.agent("a").unwrap()["detail"].as_str().unwrap().ends_with(&format!("; went back to {first}")));
}

/// A job asks one agent after the other, and fails in clear words when all have tried.
#[test]
fn a_job_fails_when_every_agent_has_tried_in_vain() {
    let fleet = Fleet::with(&Options::new("p"), &["a", "b", "c"], &json!({ "keys": [] }));
    let first = fleet.publish(1, Build::Good);
    let state = fleet.controllers.job(&fleet.demanding("1.1.0", &first)).unwrap();
    let mut lines: Vec<&str> = state["error"].as_str().unwrap().lines().collect();
    let first_line = format!(
        "Task `CheckHealth` version 1.1.0 requires agent version {first}, and every agent that could run this job has tried to update in vain."
    );
    assert_eq!(lines.remove(0), first_line);
    // In the order in which they registered.
    lines.sort_unstable();
    let why = "no release can be trusted: the updater's configuration has no public key (`keys`)";
    assert_eq!(lines, ["a", "b", "c"].map(|name| format!("Agent `{name}`: {why}")));
    assert_eq!(fleet.controllers.job(&one_task("CheckHealth", &Value::Null)).unwrap()["state"], "succeeded");
}

/// A download goes on where it broke off; what is wrong is not installed; what does not become ready is taken back; back by force only.
#[test]
fn an_update_resumes_verifies_goes_back_and_refuses_downgrades() {
    let fleet = alone(&json!({}));
    let machine = fleet.machine("a");
    let first = fleet.publish(1, Build::Good);
    let size = fs::metadata(releases().package(1, Build::Good).unwrap()).unwrap().len();
    machine.door.break_after(Some(usize::try_from(size * 2 / 5).unwrap()));
    machine.door.listen();
    ask(&fleet, &first, false);
    fleet.controllers.await_agent("a", "online", &first).unwrap();
    machine.door.break_after(None);
    let said = machine.door.said().to_ascii_lowercase();
    // Each request, from its path on.
    let of_first = said.split("get /").filter(|request| request.contains(&format!("/releases/{first}/file ")));
    let ranges: Vec<u64> =
        of_first.filter_map(|request| request.split_once("range: bytes=")?.1.split('-').next()?.parse().ok()).collect();
    assert!(ranges.len() >= 2 && ranges.is_sorted() && ranges[0] > 0, "{ranges:?}");
    assert_eq!(machine.status().unwrap()["keptPackage"], first.as_str());

    // It begins with something else than the release: caught.
    let second = fleet.publish(2, Build::Good);
    machine.door.set_trap("/update/accept");
    fleet.controllers.ask_for_update("a", None, false).unwrap();
    fleet::until("the updater to accept", || machine.door.has_caught().then_some(())).unwrap();
    let sum = machine.stored()["work"]["to"]["sha256"].as_str().unwrap().to_owned();
    fs::write(machine.path(&format!("updater/packages/{sum}.part")), [7; 1000]).unwrap();
    machine.door.clear_trap();
    assert_usable(&fleet, &first, "what came has the SHA-256 ");

    // It installs, and never becomes ready: the one before comes back, and works.
    machine.configure(&json!({ "readyWithin": 1 })).unwrap();
    let third = fleet.publish(3, Build::NeverReady);
    ask(&fleet, &third, false);
    assert_usable(&fleet, &first, &format!("version {third} was not ready within 1 s: "));
    assert!(fleet.controllers.agent("a").unwrap()["detail"].as_str().unwrap().ends_with(&format!("; went back to {first}")));
    assert_eq!(machine.curl("http://169.254.169.254/metadata/versions").unwrap(), 200);
    machine.configure(&json!({ "readyWithin": 60 })).unwrap();

    ask(&fleet, &second, false);
    fleet.controllers.await_agent("a", "online", &second).unwrap();
    let body = json!({ "agents": ["a"], "to": first });
    let (status, problem) = fleet.controllers.call("POST", "/agents/update", &body, None).unwrap();
    assert_eq!(
        (status, problem["detail"].as_str().unwrap()),
        (409, format!("agent `a` runs {second}, and {first} is lower: force it if you mean it").as_str())
    );
    ask(&fleet, &first, true);
    fleet.controllers.await_agent("a", "online", &first).unwrap();
    assert_eq!(machine.package().unwrap(), format!("installed {first}"));
}

/// The power is cut at each step, everything on the machine is gone, and comes back.
#[test]
fn an_update_survives_a_power_cut_at_each_step() {
    let fleet = alone(&json!({}));
    let machine = fleet.machine("a");
    let (first, second) = (fleet.publish(1, Build::Good), fleet.publish(2, Build::Good));
    ask(&fleet, &first, false);
    fleet.controllers.await_agent("a", "online", &first).unwrap();
    let cut = |words: &str, to: &str| {
        machine.door.set_trap(words);
        fleet.controllers.ask_for_update("a", Some(to), true).unwrap();
        fleet::until(words, || machine.door.has_caught().then_some(())).unwrap();
        machine.cut_power().unwrap();
        machine.door.clear_trap();
        machine.boot().unwrap();
    };
    let mut targets = [&second, &first].into_iter().cycle();
    for step in ["accepted", "downloading", "verifying", "installing", "restarting", "awaitingReady"] {
        let to = targets.next().unwrap();
        // The first step is over with the word that it is accepted; the others report when they begin.
        let words = if step == "accepted" { "/update/accept".to_owned() } else { format!("\"step\":\"{step}\"") };
        cut(&words, to);
        fleet.controllers.await_agent("a", "online", to).unwrap();
        assert_eq!(machine.package().unwrap(), format!("installed {to}"), "{step}");
        assert_eq!(machine.installed().unwrap(), *to, "{step}");
    }
    machine.configure(&json!({ "readyWithin": 1 })).unwrap();
    let third = fleet.publish(3, Build::NeverReady);
    let before = machine.installed().unwrap();
    machine.door.set_trap("\"step\":\"rollingBack\"");
    fleet.controllers.ask_for_update("a", Some(&third), false).unwrap();
    fleet::until("the way back", || machine.door.has_caught().then_some(())).unwrap();
    machine.cut_power().unwrap();
    machine.door.clear_trap();
    // Now it must become ready in the time that a busy machine needs.
    machine.configure(&json!({ "readyWithin": 60 })).unwrap();
    machine.boot().unwrap();
    assert_usable(&fleet, &before, &format!("; went back to {before}"));
}
