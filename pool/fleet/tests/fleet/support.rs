//! What the tests share: a controller and machines, in a folder of their own.

use fleet::controller::{Controllers, Options};
use fleet::machine::Machine;
use fleet::releases::{Build, Releases};
use fleet::{Programs, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The pool.
pub(crate) const POOL: &str = "p";

/// A fleet. Dropping it ends all of it.
pub(crate) struct Fleet {
    pub(crate) machines: Vec<Machine>,
    pub(crate) controllers: Controllers,
    folder: PathBuf,
}

/// Packages, made once for all tests.
pub(crate) fn releases() -> &'static Releases {
    static RELEASES: OnceLock<Releases> = OnceLock::new();
    RELEASES.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fleet-releases");
        let _ = fs::remove_dir_all(&folder);
        Releases::new(&Programs::find().unwrap().agent, &folder).unwrap()
    })
}

/// The version of the `n`th release; 0: what machines begin with.
pub(crate) fn v(n: u8) -> String {
    releases().version(n)
}

impl Fleet {
    /// Three machines.
    pub(crate) fn new() -> Self {
        Self::with(&Options::new(POOL), &["a", "b", "c"], &json!({}))
    }

    pub(crate) fn with(options: &Options, names: &[&str], config: &Value) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("pool-fleet-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let programs = Programs::find().unwrap();
        let controllers = Controllers::start(&programs, &folder, options).unwrap();
        let machines: Result<Vec<Machine>> = thread::scope(|scope| {
            let start = |name| {
                let (programs, controllers) = (&programs, &controllers);
                scope.spawn(move || Machine::start(name, programs, controllers, releases(), config))
            };
            let started: Vec<_> = names.iter().copied().map(start).collect();
            started.into_iter().map(|machine| machine.join().unwrap()).collect()
        });
        let fleet = Self { machines: machines.unwrap(), controllers, folder };
        // What they run: the way back of their first update.
        fleet.publish(0, Build::Good);
        fleet
    }

    pub(crate) fn machine(&self, name: &str) -> &Machine {
        self.machines.iter().find(|machine| machine.name == name).unwrap()
    }

    /// Publishes the `n`th release.
    pub(crate) fn publish(&self, n: u8, build: Build) -> String {
        self.controllers.publish(&v(n), &releases().package(n, build).unwrap(), None).unwrap();
        v(n)
    }

    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        self.controllers.ok(method, path, body).unwrap()
    }

    /// `CheckHealth` in a version that needs this agent version.
    pub(crate) fn demanding(&self, task: &str, minimum: &str) -> Value {
        self.ok("PUT", &format!("/tasks/CheckHealth/{task}"), &json!({ "minimumAgentVersion": minimum }));
        json!({ "tasks": [{ "name": "CheckHealth", "version": task }] })
    }

    pub(crate) fn no_updates(&self, reason: Option<&str>) {
        let mut mode = json!({ "mode": "noUpdate" });
        if let Some(reason) = reason {
            mode["reason"] = json!(reason);
        }
        self.ok("PUT", "/policy", &mode);
    }

    /// Deadlines, in milliseconds.
    pub(crate) fn deadlines(&self, offline: u64, begin: u64, update: u64, lost: u64) {
        let settings = json!({ "offlineAfter": offline, "beginWithin": begin, "updateWithin": update, "lostAfter": lost });
        self.ok("PUT", "/settings", &settings);
    }

    /// The words of the audit table that say this, each with who did it: `actor action detail`.
    pub(crate) fn done(&self, action: &str) -> Vec<String> {
        let lines = self.controllers.audit().unwrap();
        let word = |line: &Value, member: &str| line[member].as_str().unwrap().to_owned();
        lines
            .iter()
            .filter(|line| line["action"] == action)
            .map(|line| format!("{}: {}", word(line, "actor"), word(line, "detail")))
            .collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.join("controller.log")).unwrap_or_default();
            eprintln!("controller: {log}");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
