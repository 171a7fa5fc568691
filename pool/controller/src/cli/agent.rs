//! Agents: which there are, and asking them to update.

use super::client::{self, Client};
use super::table::Table;
use super::{Done, Failure, at, items, word};
use clap::Subcommand;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Commands about agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Agents, with version and state.
    List {
        /// Which pool.
        pool: String,
        /// Only this state: online, offline, updating, "update failed", "update overdue".
        #[arg(long)]
        state: Option<String>,
        /// Only names that have this part.
        #[arg(long)]
        name: Option<String>,
        /// Only this version.
        #[arg(long = "agent-version")]
        version: Option<String>,
    },
    /// Ask agents to update, whatever the policy is.
    Update {
        /// Which pool.
        pool: String,
        /// Which agents.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        agents: Vec<String>,
        /// All that are behind.
        #[arg(long)]
        all: bool,
        /// To this release instead of the newest.
        #[arg(long)]
        to: Option<String>,
        /// Also to a lower version, and where there is no way back (administrators).
        #[arg(long)]
        force: bool,
    },
    /// Forget an agent.
    Remove {
        /// Which pool.
        pool: String,
        /// Which agent.
        agent: String,
    },
}

pub(super) fn run(client: &Client, command: &AgentCommand) -> Result<Done, Failure> {
    Ok(match command {
        AgentCommand::List { pool, state, name, version } => {
            let mut all = Vec::new();
            let mut cursor = Some("0".to_owned());
            while let Some(from) = cursor {
                let mut query = format!("/agents?limit=1000&cursor={from}");
                for (key, value) in [("state", state), ("q", name), ("version", version)] {
                    if let Some(value) = value {
                        query += &format!("&{key}={}", client::segment(value));
                    }
                }
                let page = client.get(&at(pool, &query))?;
                all.extend(items(&page).cloned());
                cursor = page["next"].as_str().map(String::from);
            }
            let mut table = Table::new(["AGENT", "VERSION", "STATE", "JOB", "DETAIL"]);
            for agent in &all {
                let job = agent["job"].as_i64().map_or(String::new(), |job| job.to_string());
                let behind = if agent["behind"] == true { " (behind)" } else { "" };
                table.row([
                    word(agent, "name"),
                    format!("{}{behind}", word(agent, "version")),
                    word(agent, "state"),
                    job,
                    word(agent, "detail"),
                ]);
            }
            Done::new(json!({ "items": all }), table.to_string())
        }
        AgentCommand::Update { pool, agents, all, to, force } => {
            let mut body = json!({ "agents": agents, "all": all, "force": force });
            if let Some(to) = to {
                body["to"] = json!(to);
            }
            let value = client.send("POST", &at(pool, "/agents/update"), &body, None)?;
            let asked = value["asked"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|a| format!("{} is asked to update to {}\n", word(a, "agent"), word(a, "to")));
            let refused =
                value["refused"].as_array().into_iter().flatten().map(|a| format!("{}: {}\n", word(a, "agent"), word(a, "why")));
            let text: String = asked.chain(refused).collect();
            let code = if value["refused"].as_array().is_some_and(|refused| !refused.is_empty()) {
                ExitCode::from(1)
            } else {
                ExitCode::SUCCESS
            };
            let text = if text.is_empty() { "no agent is behind\n".into() } else { text };
            Done { value, text, code }
        }
        AgentCommand::Remove { pool, agent } => {
            let value = client.send("DELETE", &at(pool, &format!("/agents/{}", client::segment(agent))), &Value::Null, None)?;
            Done::new(value, format!("agent {agent} is forgotten\n"))
        }
    })
}
