//! Pools: policy, what was done, where jobs pile up.

use super::client::Client;
use super::table::{self, Table};
use super::{Done, Failure, at, count, items, word};
use clap::Subcommand;
use serde_json::{Value, json};

/// Commands about pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// All pools.
    List,
    /// Make one.
    Create {
        /// Its name.
        name: String,
    },
    /// One pool at a glance, with the versions that jobs wait for.
    Show {
        /// Which.
        pool: String,
    },
    /// May jobs make agents update?
    Policy {
        /// Which pool.
        pool: String,
        /// `normal` or `no-update`.
        #[arg(value_parser = ["normal", "no-update"])]
        mode: String,
        /// Shown with every job that fails for it; at most 400 characters.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Deadlines, and how long is kept what has ended: shows them, or changes those that are given (30s, 10m, 24h, 90d).
    Settings {
        /// Which pool.
        pool: String,
        /// What is to change.
        #[command(flatten)]
        changes: SettingsChanges,
    },
    /// What was done, by whom, newest first.
    Audit {
        /// Which pool.
        pool: String,
        /// How many lines.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

/// Settings of a pool that are to change.
#[derive(Debug, clap::Args)]
pub struct SettingsChanges {
    /// An agent is offline after this time without a word.
    #[arg(long, value_parser = table::milliseconds)]
    offline_after: Option<u64>,
    /// An agent says within this time that it begins.
    #[arg(long, value_parser = table::milliseconds)]
    begin_within: Option<u64>,
    /// An agent is back from an update within this time, or overdue.
    #[arg(long, value_parser = table::milliseconds)]
    update_within: Option<u64>,
    /// A job whose agent was not heard of for this time has failed.
    #[arg(long, value_parser = table::milliseconds)]
    lost_after: Option<u64>,
    /// A job that ended is forgotten after this time.
    #[arg(long, value_parser = table::milliseconds)]
    keep_jobs: Option<u64>,
    /// An idempotency key is good for this time.
    #[arg(long, value_parser = table::milliseconds)]
    keep_keys: Option<u64>,
}

impl SettingsChanges {
    /// The API's names for them.
    const fn members(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("offlineAfter", self.offline_after),
            ("beginWithin", self.begin_within),
            ("updateWithin", self.update_within),
            ("lostAfter", self.lost_after),
            ("keepJobs", self.keep_jobs),
            ("keepKeys", self.keep_keys),
        ]
    }
}

pub(super) fn run(client: &Client, command: &PoolCommand) -> Result<Done, Failure> {
    Ok(match command {
        PoolCommand::List => {
            let value = client.get("/pools")?;
            let text = items(&value).map(|pool| format!("{}\n", word(pool, "name"))).collect();
            Done::new(value, text)
        }
        PoolCommand::Create { name } => {
            let value = client.send("POST", "/pools", &json!({ "name": name }), None)?;
            Done::new(value, format!("pool {name} is there\n"))
        }
        PoolCommand::Show { pool } => {
            let value = client.get(&at(pool, ""))?;
            let text = glance(&value);
            Done::new(value, text)
        }
        PoolCommand::Policy { pool, mode, reason } => {
            if mode == "normal" && reason.is_some() {
                return Err(Failure::Call("a reason is for no-update".into()));
            }
            let body = match (mode.as_str(), reason) {
                ("normal", _) => json!({ "mode": "normal" }),
                (_, None) => json!({ "mode": "noUpdate" }),
                (_, Some(reason)) => json!({ "mode": "noUpdate", "reason": reason }),
            };
            let value = client.send("PUT", &at(pool, "/policy"), &body, None)?;
            let text = glance(&value);
            Done::new(value, text)
        }
        PoolCommand::Settings { pool, changes } => {
            let mut value = client.get(&at(pool, ""))?["settings"].clone();
            let changes = changes.members();
            if changes.iter().any(|(_, new)| new.is_some()) {
                for (member, new) in changes {
                    if let Some(new) = new {
                        value[member] = new.into();
                    }
                }
                value = client.send("PUT", &at(pool, "/settings"), &value, None)?;
            }
            let mut table = Table::new(["SETTING", "VALUE"]);
            for (member, _) in changes {
                table.row([member.into(), value[member].as_u64().map_or_else(String::new, table::duration)]);
            }
            Done::new(value, table.to_string())
        }
        PoolCommand::Audit { pool, limit } => {
            let value = client.get(&at(pool, &format!("/audit?limit={limit}")))?;
            let mut table = Table::new(["WHEN", "WHO", "WHAT", "HOW"]);
            for line in items(&value) {
                table.row([table::time(line["at"].as_u64()), word(line, "actor"), word(line, "action"), word(line, "detail")]);
            }
            Done::new(value, table.to_string())
        }
    })
}

/// A pool in a few lines, and where its jobs pile up.
fn glance(value: &Value) -> String {
    let mut text = format!("pool       {}\n", word(value, "name"));
    let policy = match (value["policy"]["mode"].as_str(), value["policy"]["reason"].as_str()) {
        (Some("noUpdate"), Some(reason)) => format!("no-update: {reason}"),
        (Some("noUpdate"), None) => "no-update".into(),
        _ => "normal".into(),
    };
    text += &format!("policy     {policy}\n");
    let counts = |member: &str| {
        let words: Vec<String> =
            value[member].as_object().into_iter().flatten().map(|(state, n)| format!("{n} {state}")).collect();
        if words.is_empty() { "none".into() } else { words.join(", ") }
    };
    text += &format!("agents     {}\n", counts("states"));
    if let (Some(newest), Some(behind)) = (value["newestRelease"].as_str(), value["behind"].as_u64()) {
        text += &format!(
            "release    {newest} is the newest; {} not run it\n",
            if behind == 1 { "1 agent does".into() } else { format!("{behind} agents do") }
        );
    }
    text += &format!("jobs       {}\n", counts("jobs"));
    for demanded in value["funnel"]["demanded"].as_array().into_iter().flatten() {
        let n = |member: &str| demanded[member].as_u64().unwrap_or(0);
        text += &format!(
            "waiting    {} for agents of {} or later ({} of {}), the oldest for {} s; {}\n",
            count(n("waiting"), "job"),
            word(demanded, "version"),
            n("satisfying"),
            count(n("agents"), "agent"),
            n("longestWait") / 1000,
            if n("idleBelow") == 1 { "1 other sits idle".into() } else { format!("{} others sit idle", n("idleBelow")) }
        );
    }
    text
}
