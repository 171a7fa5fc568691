//! Tasks and features, and the agent versions that they need.

use super::client::{self, Client};
use super::table::Table;
use super::{Done, Failure, at, items, word};
use clap::Subcommand;
use serde_json::{Value, json};

/// Commands about tasks and features.
#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// All tasks and features of a pool.
    List {
        /// Which pool.
        pool: String,
    },
    /// Make a task known, or change what it needs.
    Task {
        /// Which pool.
        pool: String,
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// The agent version that it needs.
        #[arg(long)]
        minimum: Option<String>,
    },
    /// Make a feature known, or change what it needs.
    Feature {
        /// Which pool.
        pool: String,
        /// Its name.
        name: String,
        /// The agent version that it needs.
        minimum: String,
    },
}

pub(super) fn run(client: &Client, command: &CatalogCommand) -> Result<Done, Failure> {
    let minimum = |value: &Value| value["minimumAgentVersion"].as_str().map_or("any".to_owned(), String::from);
    Ok(match command {
        CatalogCommand::List { pool } => {
            let (tasks, features) = (client.get(&at(pool, "/tasks"))?, client.get(&at(pool, "/features"))?);
            let mut table = Table::new(["KIND", "NAME", "VERSION", "NEEDS AGENT"]);
            for task in items(&tasks) {
                table.row(["task".into(), word(task, "name"), word(task, "version"), minimum(task)]);
            }
            for feature in items(&features) {
                table.row(["feature".into(), word(feature, "name"), String::new(), minimum(feature)]);
            }
            Done::new(json!({ "tasks": tasks["items"], "features": features["items"] }), table.to_string())
        }
        CatalogCommand::Task { pool, name, version, minimum } => {
            let path = at(pool, &format!("/tasks/{}/{}", client::segment(name), client::segment(version)));
            let body = minimum.as_ref().map_or(json!({}), |minimum| json!({ "minimumAgentVersion": minimum }));
            Done::new(client.send("PUT", &path, &body, None)?, format!("task {name} {version} is known\n"))
        }
        CatalogCommand::Feature { pool, name, minimum } => {
            let path = at(pool, &format!("/features/{}", client::segment(name)));
            Done::new(
                client.send("PUT", &path, &json!({ "minimumAgentVersion": minimum }), None)?,
                format!("feature {name} is known\n"),
            )
        }
    })
}
