//! Jobs: submitted, followed to their end, taken back.

use super::client::Client;
use super::table::{self, Table};
use super::{Done, Failure, at, items, word};
use clap::Subcommand;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Commands about jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job.
    Submit {
        /// To which pool.
        pool: String,
        /// NAME@VERSION, or NAME@VERSION=FILE with the task's input. Repeatable.
        #[arg(long, required = true)]
        task: Vec<String>,
        /// A feature that it asks for. Repeatable.
        #[arg(long)]
        feature: Vec<String>,
        /// `key = value` or `key exists`. Repeatable.
        #[arg(long)]
        demand: Vec<String>,
        /// Sent again with the same key, it is the same job.
        #[arg(long)]
        idempotency_key: Option<String>,
        /// Wait this many seconds for its end.
        #[arg(long)]
        wait: Option<u64>,
    },
    /// Jobs, newest first.
    List {
        /// Which pool.
        pool: String,
        /// Only those that are `open`, or have `ended`.
        #[arg(long, value_parser = ["open", "ended"])]
        state: Option<String>,
        /// How many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// One job, with its error or result.
    Show {
        /// Which pool.
        pool: String,
        /// Its number.
        job: i64,
        /// Wait this many seconds for its end.
        #[arg(long)]
        wait: Option<u64>,
    },
    /// Take a job back.
    Cancel {
        /// Which pool.
        pool: String,
        /// Its number.
        job: i64,
    },
}

pub(super) fn run(client: &Client, command: &JobCommand) -> Result<Done, Failure> {
    Ok(match command {
        JobCommand::Submit { pool, task, feature, demand, idempotency_key, wait } => {
            let tasks = task.iter().map(|task| call(task)).collect::<Result<Vec<_>, _>>()?;
            let spec = json!({ "tasks": tasks, "features": feature, "demands": demand });
            let submitted = client.send("POST", &at(pool, "/jobs"), &spec, idempotency_key.as_deref())?;
            match (wait, submitted["id"].as_i64()) {
                (Some(wait), Some(id)) => shown(follow(client, pool, id, *wait)?, true),
                _ => shown(submitted, false),
            }
        }
        JobCommand::List { pool, state, limit } => {
            let state = state.as_ref().map_or(String::new(), |state| format!("&state={state}"));
            let value = client.get(&at(pool, &format!("/jobs?limit={limit}{state}")))?;
            let mut table = Table::new(["JOB", "STATE", "AGENT", "TASKS", "BY", "ERROR"]);
            for job in items(&value) {
                let tasks: Vec<String> = job["spec"]["tasks"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|task| format!("{}@{}", word(task, "name"), word(task, "version")))
                    .collect();
                let error = job["state"]["error"].as_str().unwrap_or("").lines().next().unwrap_or("").to_owned();
                table.row([
                    job["id"].to_string(),
                    word(&job["state"], "state"),
                    word(job, "agentName"),
                    tasks.join(" "),
                    word(job, "by"),
                    error,
                ]);
            }
            Done::new(value, table.to_string())
        }
        JobCommand::Show { pool, job, wait } => match wait {
            Some(wait) => shown(follow(client, pool, *job, *wait)?, true),
            None => shown(client.get(&at(pool, &format!("/jobs/{job}")))?, false),
        },
        JobCommand::Cancel { pool, job } => {
            let value = client.send("POST", &at(pool, &format!("/jobs/{job}/cancel")), &Value::Null, None)?;
            Done::new(value, format!("job {job} is taken back\n"))
        }
    })
}

/// `NAME@VERSION[=FILE]`.
fn call(text: &str) -> Result<Value, Failure> {
    let (task, file) = text.split_once('=').map_or((text, None), |(task, file)| (task, Some(file)));
    let (name, version) =
        task.split_once('@').ok_or_else(|| Failure::Call(format!("a task is NAME@VERSION[=FILE], not `{text}`")))?;
    let mut call = json!({ "name": name, "version": version });
    if let Some(file) = file {
        let input = std::fs::read_to_string(file).map_err(|e| Failure::Call(format!("{file}: {e}")))?;
        call["input"] = json!(input);
    }
    Ok(call)
}

/// Waits for the end of a job, in pieces that no proxy on the way finds too long.
fn follow(client: &Client, pool: &str, id: i64, seconds: u64) -> Result<Value, Failure> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let job = client.get(&at(pool, &format!("/jobs/{id}?wait={}", left.as_secs().clamp(1, 25))))?;
        let open = matches!(job["state"]["state"].as_str(), Some("queued" | "assigned" | "running"));
        if !open || left.is_zero() {
            return Ok(job);
        }
    }
}

/// A job for people; the exit code tells scripts how it ended, if they waited for it.
fn shown(job: Value, waited: bool) -> Done {
    let state = word(&job["state"], "state");
    let mut text = format!("job {} {state}", job["id"]);
    if let Some(agent) = job["agentName"].as_str() {
        text += &format!(" by {agent}");
    }
    text.push('\n');
    match job["waiting"]["for"].as_str() {
        Some("agent") => {
            text += &match (job["waiting"]["satisfying"].as_u64(), job["waiting"]["online"].as_u64()) {
                (Some(1), Some(0)) => "waits for the only agent that would do, which is offline\n".into(),
                (Some(1), _) => "waits for the only agent that would do, which is online\n".into(),
                _ => format!(
                    "waits for one of {} agents, {} of them online\n",
                    job["waiting"]["satisfying"], job["waiting"]["online"]
                ),
            }
        }
        Some("update") => text += &format!("waits for the update of agent {}\n", job["waiting"]["agent"]),
        Some(_) if job["waiting"]["agents"] == 1 => text += "waits for the only agent that could update\n",
        Some(_) => text += &format!("waits for one of {} agents that could update\n", job["waiting"]["agents"]),
        None => {}
    }
    for member in ["error", "result"] {
        if let Some(words) = job["state"][member].as_str().filter(|words| !words.is_empty()) {
            text += &format!("{}\n", table::printable(words));
        }
    }
    let code = match (state.as_str(), waited) {
        // A job that failed at once is no success either.
        ("failed" | "canceled", _) => ExitCode::from(1),
        ("succeeded", _) | (_, false) => ExitCode::SUCCESS,
        (_, true) => ExitCode::from(4),
    };
    Done { value: job, text, code }
}
