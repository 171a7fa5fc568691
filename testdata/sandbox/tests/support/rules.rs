//! Documents from the host, and accounts of the sandbox's own for them to name.

use std::fs;
use std::path::PathBuf;

use sandbox::Sandbox;
use serde_json::{Value, json};

use super::World;

/// Sets the host's documents, and waits until the agent has read them.
pub(crate) fn set(world: &World, documents: Value) {
    world.host.host().set_rules(Some(documents));
    read(world);
}

/// Waits until the agent has read what the host says now.
pub(crate) fn read(world: &World) {
    // The first poll may be under way.
    for _ in 0..2 {
        let before = polls(world);
        world.wait("the agent asks for the rules", || (polls(world) > before).then_some(()));
    }
}

/// How often the agent has asked for them.
pub(crate) fn polls(world: &World) -> usize {
    world.host.host().records.all().iter().filter(|record| record.target == "/secure-channel/status").count()
}

/// A document in which each identity has the privilege of its own name, and nobody has any other.
pub(crate) fn each_its_own(id: &str, mode: &str, pairs: &[(Value, Value)]) -> Value {
    let names: Vec<&Value> = pairs.iter().map(|(identity, _)| &identity["name"]).collect();
    json!({"defaultAccess": "deny", "mode": mode, "id": id, "rules": {
        "privileges": pairs.iter().map(|(_, privilege)| privilege).collect::<Vec<_>>(),
        "roles": pairs.iter().zip(&names).map(|((_, p), name)| json!({"name": name, "privileges": [p["name"]]})).collect::<Vec<_>>(),
        "identities": pairs.iter().map(|(identity, _)| identity).collect::<Vec<_>>(),
        "roleAssignments": names.iter().map(|name| json!({"role": name, "identities": [name]})).collect::<Vec<_>>(),
    }})
}

/// `/etc/passwd` and `/etc/group` as the sandbox sees them: the machine's, and what a test adds and takes away.
#[derive(Debug)]
pub(crate) struct Accounts {
    files: [(PathBuf, String); 2],
}

impl Accounts {
    /// Covers the machine's files inside the sandbox. Before the agent starts.
    pub(crate) fn cover(sandbox: &Sandbox, users: &[(u32, &str)], groups: &[(u32, &str, &str)]) -> Self {
        let files = ["passwd", "group"].map(|name| {
            let (machines, own) = (format!("/etc/{name}"), sandbox.directory().join(name));
            let text = fs::read_to_string(&machines).unwrap();
            fs::write(&own, &text).unwrap();
            let mounted = sandbox.command("mount").arg("--bind").arg(&own).arg(&machines).status().unwrap();
            assert!(mounted.success());
            (own, text)
        });
        let accounts = Self { files };
        accounts.set(users, groups);
        accounts
    }

    /// The accounts that there are from now on, by number and name; and the groups, with their members. Each account has a group of
    /// its own.
    pub(crate) fn set(&self, users: &[(u32, &str)], groups: &[(u32, &str, &str)]) {
        let passwd: String = users.iter().map(|(uid, name)| format!("{name}:x:{uid}:{uid}::/:/bin/sh\n")).collect();
        let own: String = users.iter().map(|(uid, name)| format!("{name}:x:{uid}:\n")).collect();
        let more: String = groups.iter().map(|(gid, name, members)| format!("{name}:x:{gid}:{members}\n")).collect();
        for ((file, machines), added) in self.files.iter().zip([passwd, own + &more]) {
            // Written in place: another file would not be the one that is mounted.
            fs::write(file, format!("{machines}{added}")).unwrap();
        }
    }
}
