//! Tokens of people, and one-time tokens that register agents.

use super::client::{self, Client};
use super::table::{self, Table};
use super::{Done, Failure, items, word};
use clap::Subcommand;
use serde_json::{Value, json};

/// Commands about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// All tokens, without their secrets.
    List,
    /// Make a token; it is shown once.
    Create {
        /// Its name: who acts with it.
        name: String,
        /// What it may do.
        #[arg(long, value_parser = ["reader", "operator", "administrator", "register"])]
        role: String,
        /// The only pool that it is for.
        #[arg(long)]
        pool: Option<String>,
        /// Seconds until it expires.
        #[arg(long)]
        expires_in: Option<u32>,
    },
    /// Forget a token.
    Remove {
        /// Which.
        name: String,
    },
}

pub(super) fn run(client: &Client, command: &TokenCommand) -> Result<Done, Failure> {
    Ok(match command {
        TokenCommand::List => {
            let value = client.get("/tokens")?;
            let mut table = Table::new(["NAME", "ROLE", "POOL", "CREATED", "EXPIRES", "USED"]);
            for token in items(&value) {
                let time = |member: &str| table::time(token[member].as_u64());
                table.row([
                    word(token, "name"),
                    word(token, "role"),
                    word(token, "pool"),
                    time("created"),
                    time("expires"),
                    time("used"),
                ]);
            }
            Done::new(value, table.to_string())
        }
        TokenCommand::Create { name, role, pool, expires_in } => {
            let mut body = json!({ "name": name, "role": role });
            for (member, value) in
                [("pool", pool.as_ref().map(|pool| json!(pool))), ("expiresIn", expires_in.map(|seconds| json!(seconds)))]
            {
                if let Some(value) = value {
                    body[member] = value;
                }
            }
            let value = client.send("POST", "/tokens", &body, None)?;
            let text = format!("{}\n", word(&value, "token"));
            Done::new(value, text)
        }
        TokenCommand::Remove { name } => {
            let value = client.send("DELETE", &format!("/tokens/{}", client::segment(name)), &Value::Null, None)?;
            Done::new(value, format!("token {name} is good for nothing any more\n"))
        }
    })
}
