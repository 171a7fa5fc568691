//! The audit log, whatever happens to the agent: invariant 6, docs/audit.md. These tests need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

mod support;

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use sandbox::AgentOptions;
use serde_json::Value;
use support::wire::{Caller, IMDS};
use support::{Runtime, World, on_both_runtimes};

on_both_runtimes!(killed_under_load_each_request_is_audited_once);

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\nMetadata: true\r\n\r\n")
}

/// What callers learned.
#[derive(Default)]
struct Heard {
    /// Targets that the agent itself refused.
    refused: Mutex<Vec<String>>,
    answered: AtomicUsize,
    broken: AtomicUsize,
}

impl Heard {
    /// Asks on one connection until that breaks, then on the next.
    fn ask(&self, caller: &Caller, stop: &AtomicBool, mut target: impl FnMut(usize) -> String) {
        let mut number = 0;
        while !stop.load(Ordering::Acquire) {
            let ended: io::Result<()> = (|| {
                let mut wire = caller.try_connect(IMDS)?;
                while !stop.load(Ordering::Acquire) {
                    number += 1;
                    let target = target(number);
                    wire.try_send(get(&target))?;
                    let answer = wire.try_answer(false)?;
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    if answer.status == 403 && !answer.is_marked() {
                        self.refused.lock().unwrap().push(target);
                        // A refusal ends the connection, and there are bounds for how many are written down.
                        thread::sleep(Duration::from_millis(50));
                        return Ok(());
                    }
                    if !answer.is_marked() {
                        // Without an agent nothing is redirected, and this connection never will be.
                        thread::sleep(Duration::from_millis(10));
                        return Ok(());
                    }
                }
                Ok(())
            })();
            if ended.is_err() {
                self.broken.fetch_add(1, Ordering::Relaxed);
                // Perhaps nobody listens.
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Invariant 6: `kill -9` again and again under load. Every request that the host got signed, and every refusal that a caller got, is in
/// the audit log exactly once.
fn killed_under_load_each_request_is_audited_once(runtime: Runtime) {
    const KILLS: u64 = 8;
    let mut world = World::start(runtime);
    let caller = Caller::nobody(&world.sandbox);
    let (heard, stop) = (Heard::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let (caller, heard, stop) = (&caller, &heard, &stop);
        for n in 0..3 {
            scope.spawn(move || heard.ask(caller, stop, |i| format!("/test/bytes?n=10&k={n}-{i}")));
        }
        // There is always one at the host.
        scope.spawn(|| heard.ask(caller, stop, |i| format!("/test/slow?ms=150&n=10&k=slow-{i}")));
        scope.spawn(|| heard.ask(caller, stop, |i| format!("/a/../b?k=refused-{i}")));
        let mut random = std::process::id().into();
        for _ in 0..KILLS {
            thread::sleep(Duration::from_millis(150 + xorshift(&mut random) % 200));
            world.agent.kill().unwrap();
            world.agent = world.sandbox.start_agent(&AgentOptions::new(runtime.binary())).unwrap();
        }
        thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Release);
    });
    world.agent.stop().unwrap();
    let mut lines: HashMap<String, Vec<Value>> = HashMap::new();
    for line in world.audit() {
        if let Some(url) = line["url"].as_str() {
            lines.entry(url.to_owned()).or_default().push(line.clone());
        }
    }
    for (url, lines) in &lines {
        assert_eq!(lines.len(), 1, "{runtime}: {url} is there more than once: {lines:#?}");
    }
    // While there was no agent, requests went to the host directly, and were refused there.
    let signed: Vec<_> = world.seen().into_iter().filter(|r| r.verified == "signed").collect();
    let missing: Vec<_> = signed.iter().filter(|r| !lines.contains_key(&r.target)).collect();
    assert!(missing.is_empty(), "{runtime}: {} of {} requests are not audited: {missing:#?}", missing.len(), signed.len());
    let refused = heard.refused.into_inner().unwrap();
    let missing: Vec<_> = refused.iter().filter(|target| !lines.contains_key(*target)).collect();
    assert!(missing.is_empty(), "{runtime}: {} of {} refusals are not audited: {missing:?}", missing.len(), refused.len());
    let interrupted = lines.values().flatten().filter(|line| line["outcome"] == "interrupted").count();
    eprintln!(
        "{runtime}: {KILLS} kills: {} requests at the host, {} refused, {interrupted} interrupted, {} connections broken, {} answers",
        signed.len(),
        refused.len(),
        heard.broken.into_inner(),
        heard.answered.into_inner()
    );
    assert!(signed.len() > 200 && refused.len() > 5, "too little happened to prove anything");
    // The slow one was at the host when most of the kills came.
    assert!(interrupted > 0, "no request was interrupted");
    for line in lines.values().flatten().filter(|line| line["outcome"] == "interrupted") {
        assert_eq!((&line["decision"], &line["responseStatus"]), (&"allow".into(), &"".into()), "{line}");
    }
}

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
