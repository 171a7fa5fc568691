//! Real processes on loopback: what is asked of the pool happens on the machine, or the pool says why not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "the rest is for tests of TLS")]
mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use support::{Machine, World};

#[test]
fn an_update_is_installed_and_one_that_never_becomes_ready_is_taken_back() {
    let world = World::new();
    world.publish("1.0.0", "ready=yes\n", None);
    let machine = Machine::new(&world, "m", &world.address, &json!({}));
    world.publish("2.0.0", "ready=yes\n", None);
    world.ask_for_update("m", None, false);
    world.await_agent("m", "online", "2.0.0");
    assert_eq!(machine.status()["keptPackage"], "2.0.0");
    assert_eq!(machine.status()["running"], true);

    // It installs, and does not become ready: back to the one before.
    world.publish("3.0.0", "ready=no\n", None);
    world.ask_for_update("m", None, false);
    let agent = world.await_agent("m", "update failed", "2.0.0");
    let why = agent["detail"].as_str().unwrap();
    assert!(
        why.contains("version 3.0.0 was not ready within 2 s: still provisioning (exit code 1); went back to 2.0.0"),
        "{agent}"
    );
    assert!(machine.read("installed").contains("version=2.0.0"));

    // The package manager fails in the middle: the same.
    world.publish("4.0.0", "ready=yes\nfail=yes\n", None);
    world.ask_for_update("m", None, false);
    let words =
        "the package manager failed: post-installation script returned error exit status 1 (exit code 1); went back to 2.0.0";
    support::until(words, || world.agent("m")["detail"].as_str()?.contains(words).then_some(()));

    // A lower version only by force.
    world.publish("1.5.0", "ready=yes\n", None);
    let body = json!({ "agents": ["m"], "to": "1.5.0", "force": false });
    let (status, answer) = world.call("POST", "/pools/p/agents/update", &body).unwrap();
    assert_eq!(status, 409, "{answer}");
    world.ask_for_update("m", Some("1.5.0"), true);
    world.await_agent("m", "online", "1.5.0");
    assert_eq!(machine.read("overlaps"), "");
}

#[test]
fn the_first_update_has_its_way_back_from_the_pool_or_is_refused_or_forced() {
    let world = World::new();
    let machine = Machine::new(&world, "m", &world.address, &json!({}));
    world.publish("2.0.0", "ready=no\n", None);
    world.ask_for_update("m", None, false);
    let agent = world.await_agent("m", "update failed", "1.0.0");
    let why = agent["detail"].as_str().unwrap();
    assert!(why.contains("there would be no way back: the package of 1.0.0, which runs, is neither kept"), "{why}");
    assert_eq!(machine.read("installations"), "");

    // Published, but not signed by whom the machine trusts: no way back either.
    world.publish("1.0.0", "ready=yes\n", Some(&"0".repeat(128)));
    world.ask_for_update("m", None, false);
    let words = "the package of 1.0.0, to go back to: bad signature";
    support::until(words, || world.agent("m")["detail"].as_str()?.contains(words).then_some(()));
    assert_eq!(machine.read("installations"), "");

    // Published as it should be.
    world.tool(&["release", "withdraw", "p", "1.0.0"]);
    world.publish("1.0.0", "ready=yes\n", None);
    world.ask_for_update("m", None, false);
    let words = "; went back to 1.0.0";
    support::until(words, || world.agent("m")["detail"].as_str()?.contains(words).then_some(()));
    assert_eq!(machine.status()["keptPackage"], "1.0.0");
    assert!(machine.read("installed").contains("version=1.0.0"));

    // An administrator forces it on another machine, and hears what that means.
    world.tool(&["release", "withdraw", "p", "1.0.0"]);
    let machine = Machine::new(&world, "n", &world.address, &json!({}));
    world.ask_for_update("n", None, true);
    let agent = world.await_agent("n", "update failed", "2.0.0");
    let why = agent["detail"].as_str().unwrap();
    assert!(why.contains("; going back was impossible: the package of 1.0.0 is not kept here"), "{why}");
    assert!(machine.read("installed").contains("version=2.0.0"));
}

#[test]
fn without_a_kept_package_the_pool_hears_that_there_is_no_way_back() {
    let world = World::new();
    let machine = Machine::new(&world, "m", &world.address, &json!({ "withoutWayBack": "goOn" }));
    world.publish("2.0.0", "ready=no\n", None);
    world.ask_for_update("m", None, false);
    let agent = world.await_agent("m", "update failed", "2.0.0");
    let why = agent["detail"].as_str().unwrap();
    assert!(why.contains("; going back was impossible: the package of 1.0.0 is not kept here"), "{why}");
    assert!(machine.read("installed").contains("version=2.0.0"));
}

#[test]
fn an_agent_that_cannot_update_says_why_at_once_and_stays_usable() {
    let world = World::new();
    let cases: [(&str, Value, &str, &str); 6] = [
        ("signature", json!({}), "2.0.0", "bad signature: the release is signed with none of the keys"),
        ("nokeys", json!({ "keys": [] }), "2.0.1", "no release can be trusted: the updater's configuration has no public key"),
        (
            "busy",
            json!({}),
            "2.0.1",
            "the package manager is busy: dpkg: error: dpkg frontend lock was locked by another process",
        ),
        ("full", json!({ "spareBytes": 1u64 << 60 }), "2.0.1", "not enough disk: "),
        ("readonly", json!({ "installFolders": ["/proc/sys/kernel/random"] }), "2.0.1", "/proc/sys/kernel/random"),
        ("large", json!({ "largestPackage": 10 }), "2.0.1", "at most 10 are taken"),
    ];
    world.publish("1.0.0", "ready=yes\n", None);
    world.publish("2.0.0", "ready=yes\n", Some(&"0".repeat(128)));
    world.publish("2.0.1", "ready=yes\n", None);
    for (name, config, to, words) in cases {
        let machine = Machine::new(&world, name, &world.address, &config);
        if name == "busy" {
            fs::write(machine.folder.join("busy"), "").unwrap();
        }
        world.ask_for_update(name, Some(to), false);
        let agent = world.await_agent(name, "update failed", "1.0.0");
        assert!(agent["detail"].as_str().unwrap().contains(words), "{agent}");
        assert_eq!(machine.read("installations"), "", "{name}");
        let state = world.job("CheckHealth", &Value::Null);
        assert_eq!(state["state"], "succeeded", "{state}");
        assert!(state["result"].as_str().unwrap().contains("\"version\":\"1.0.0\""), "{state}");
        world.ok("DELETE", &format!("/pools/p/agents/{name}"), &Value::Null);
    }
}

#[test]
fn tasks_give_results_and_rules_that_the_agent_would_not_take_change_nothing() {
    let world = World::new();
    let machine = Machine::new(&world, "m", &world.address, &json!({}));
    let apply = |id: &str| world.job("ApplyRules", &json!({ "destination": "imds", "document": { "id": id } }));
    let state = apply("one");
    assert_eq!(state["state"], "succeeded", "{state}");
    assert!(machine.read("lib/rules/IMDS_Rules.json").contains("\"one\""));
    let state = apply("bad");
    assert_eq!(
        state["error"],
        "task `ApplyRules` version 1.0.0: nothing was changed, because the agent would not take this document: line 1, id: it is bad"
    );
    assert!(machine.read("lib/rules/IMDS_Rules.json").contains("\"one\""));
    // The running agent says no: what was there comes back.
    let path = machine.folder.join("lib/rules/IMDS_Rules.json").display().to_string();
    let message = format!("fail-closed, because {path} cannot be used: too odd");
    let status = json!({ "proxyAgentStatus": { "status": "SUCCESS", "keyLatchStatus": { "message": message } } });
    fs::write(machine.folder.join("log/status.json"), status.to_string()).unwrap();
    let state = apply("two");
    assert!(state["error"].as_str().unwrap().contains("the file is again as it was"), "{state}");
    assert!(machine.read("lib/rules/IMDS_Rules.json").contains("\"one\""));
    for task in ["CollectDiagnostics", "CheckHealth"] {
        assert_eq!(world.job(task, &Value::Null)["state"], "succeeded");
    }
}

/// Between updater and controller: no answer gets more than this through before the connection breaks.
const THROUGH: usize = 100 << 10;

/// What passes upstream is kept.
fn breaking_proxy(to: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, to) = (listener.local_addr().unwrap().to_string(), to.to_owned());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, Ok(server)) = (client.unwrap(), TcpStream::connect(&to)) else { continue };
            let (up, seen) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), Arc::clone(&seen));
            thread::spawn(move || copy(up.0, up.1, usize::MAX, |bytes| seen.lock().unwrap().extend_from_slice(bytes)));
            thread::spawn(move || copy(server, client, THROUGH, |_| ()));
        }
    });
    (address, kept)
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut left: usize, mut see: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let n = n.min(left);
        see(&buffer[..n]);
        left -= n;
        if to.write_all(&buffer[..n]).is_err() || left == 0 {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let world = World::new();
    let (address, seen) = breaking_proxy(&world.address);
    let _machine = Machine::new(&world, "m", &address, &json!({ "withoutWayBack": "goOn" }));
    world.publish("2.0.0", &format!("ready=yes\n{}", "0123456789abcdef\n".repeat(20_000)), None);
    world.ask_for_update("m", None, false);
    world.await_agent("m", "online", "2.0.0");
    let seen = String::from_utf8_lossy(&seen.lock().unwrap()).to_ascii_lowercase();
    let ranges: Vec<u64> =
        seen.split("range: bytes=").skip(1).map(|rest| rest.split('-').next().unwrap().parse().unwrap()).collect();
    assert!(ranges.len() >= 3 && ranges.windows(2).all(|pair| pair[0] < pair[1]), "{ranges:?}");
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

#[test]
fn nothing_is_lost_or_done_twice_when_updaters_and_the_controller_are_killed() {
    let seed = 7;
    let mut random = Random(seed);
    let mut world = World::new();
    let mut machines: Vec<Machine> =
        ["a", "b"].iter().map(|name| Machine::new(&world, name, &world.address, &json!({ "withoutWayBack": "goOn" }))).collect();
    let versions: Vec<String> = (2..6).map(|n| format!("{n}.0.0")).collect();
    for version in &versions {
        world.publish(version, if version == "4.0.0" { "ready=no\n" } else { "ready=yes\n" }, None);
    }
    let mut jobs = Vec::new();
    for round in 0..60u64 {
        match random.below(10) {
            0..=3 => {
                let input = json!({ "destination": "imds", "document": { "id": format!("job-{round}") } }).to_string();
                let spec = json!({ "tasks": [{ "name": "ApplyRules", "version": "1.0.0", "input": input }] });
                // The controller is up whenever people ask; it may be killed right after.
                jobs.push((round, world.ok("POST", "/pools/p/jobs", &spec)["id"].as_i64().unwrap()));
            }
            4 | 5 => {
                let name = machines[random.below(2) as usize].name.clone();
                let to = &versions[random.below(4) as usize];
                let _ = world.call("POST", "/pools/p/agents/update", &json!({ "agents": [name], "to": to, "force": true }));
            }
            6..=8 => {
                let machine = &mut machines[random.below(2) as usize];
                machine.kill();
                machine.start();
            }
            _ => {
                world.kill_controller();
                world.start_controller();
            }
        }
        thread::sleep(std::time::Duration::from_millis(random.below(400)));
    }
    for (round, id) in &jobs {
        let state = support::until(&format!("job {id}"), || {
            let state = world.ok("GET", &format!("/pools/p/jobs/{id}?wait=5"), &Value::Null)["state"].clone();
            matches!(state["state"].as_str(), Some("succeeded" | "failed")).then_some(state)
        });
        let begun: usize =
            machines.iter().map(|m| m.read("checked").lines().filter(|line| *line == format!("job-{round}")).count()).sum();
        assert!(begun <= 1, "job {id} was begun {begun} times");
        if state["state"] == "succeeded" {
            assert_eq!(begun, 1, "job {id} succeeded without being done");
        } else {
            let error = state["error"].as_str().unwrap();
            assert!(error.contains("interrupted") || error.contains("stopped answering"), "{error}");
        }
    }
    for machine in &machines {
        let agent = support::until(&format!("{} comes to rest", machine.name), || {
            Some(world.agent(&machine.name)).filter(|agent| matches!(agent["state"].as_str(), Some("online" | "update failed")))
        });
        // What the pool believes is what is installed; and that is whole, and ready unless there was no way back.
        let installed = machine.read("installed");
        assert!(installed.starts_with(&format!("version={}\n", agent["version"].as_str().unwrap())), "{agent} {installed}");
        let stuck = agent["detail"].as_str().unwrap_or_default().contains("going back was impossible");
        assert!(installed.contains("ready=yes") || stuck, "{agent} {installed}");
        assert_eq!(machine.read("overlaps"), "", "two package managers at once");
    }
    assert!(jobs.len() > 10);
}
