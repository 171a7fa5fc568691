//! The command line: the powers of the API for people and scripts.

use crate::serve;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod client;
mod signing;
mod table;

use client::{Client, Failure};
use table::Table;

/// Update control for fleets of agents: the controller and its command line.
#[derive(Debug, Parser)]
#[command(name = "azure-proxy-agent-pool", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// The controller.
    #[arg(long, global = true, env = "POOL_SERVER", default_value = "http://127.0.0.1:8440")]
    server: String,
    /// File with the token to use; POOL_TOKEN has it otherwise.
    #[arg(long, global = true, env = "POOL_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  azure-proxy-agent-pool serve --database pool.db
  export POOL_TOKEN_FILE=pool.admin-token
  azure-proxy-agent-pool pool create production
  azure-proxy-agent-pool pool policy production no-update --reason 'Change freeze until March'
  azure-proxy-agent-pool token create web7 --role register --pool production
  azure-proxy-agent-pool job submit production --task CheckHealth@1.0.0 --wait 60
  azure-proxy-agent-pool agent update production --all
  azure-proxy-agent-pool release sign agent.deb --release-version 0.2.0 --key release.key

Exit codes: 0 done, 1 refused or failed (a job that was waited for), 2 wrong call, 3 no controller or no
permission, 4 still waiting when --wait ended.";

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Be the controller.
    Serve(serve::Options),
    /// Pools: policy, deadlines, what was done, where jobs pile up.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Agents.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Jobs.
    #[command(subcommand)]
    Job(JobCommand),
    /// Releases that agents can update to.
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// Tasks and features, and the agent versions that they need.
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Tokens of people, and one-time tokens that register agents.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
}

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
    /// What was done, by whom, newest first.
    Audit {
        /// Which pool.
        pool: String,
        /// How many lines.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

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
        /// Also to a lower version (administrators).
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

/// Commands about releases.
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// All releases of a pool.
    List {
        /// Which pool.
        pool: String,
    },
    /// Offer a package to agents.
    Publish {
        /// To which pool.
        pool: String,
        /// The package file.
        file: PathBuf,
        /// Its version.
        #[arg(long = "release-version")]
        version: String,
        /// Ed25519 signature over the release, hexadecimal (pool/README.md says over what).
        #[arg(long)]
        signature: String,
        /// What is new.
        #[arg(long, default_value = "")]
        notes: String,
    },
    /// Take a release back.
    Withdraw {
        /// Which pool.
        pool: String,
        /// Which version.
        version: String,
    },
    /// Make a key that releases are signed with, and print its public half, for the updaters' configuration. Needs no controller.
    Keygen {
        /// The file to make (Ed25519, PKCS#8).
        #[arg(long)]
        key: PathBuf,
    },
    /// Print the signature of a package. Needs no controller: sign where the key is safe.
    Sign {
        /// The package file.
        file: PathBuf,
        /// Its version, as it will be published.
        #[arg(long = "release-version")]
        version: String,
        /// The file that keygen made.
        #[arg(long)]
        key: PathBuf,
    },
}

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

/// Does a command that needs a controller elsewhere.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    if let Command::Completions { shell } = &cli.command {
        let mut command = <Cli as clap::CommandFactory>::command();
        clap_complete::generate(*shell, &mut command, "azure-proxy-agent-pool", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let done = match &cli.command {
        Command::Release(ReleaseCommand::Keygen { key }) => signing::keygen(key).and_then(|done| print(&done, cli)),
        Command::Release(ReleaseCommand::Sign { file, version, key }) => {
            signing::sign(file, version, key).and_then(|done| print(&done, cli))
        }
        _ => Client::new(&cli.server, cli.token_file.as_deref()).and_then(|client| command(&client, cli)),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            match (&failure, cli.json) {
                (Failure::Problem { document, .. }, true) => eprintln!("{document}"),
                _ => eprintln!("azure-proxy-agent-pool: {failure}"),
            }
            failure.exit_code()
        }
    }
}

fn command(client: &Client, cli: &Cli) -> Result<ExitCode, Failure> {
    let done = match &cli.command {
        Command::Serve(_) | Command::Completions { .. } => return Ok(ExitCode::SUCCESS),
        Command::Pool(command) => pool(client, command)?,
        Command::Agent(command) => agent(client, command)?,
        Command::Job(command) => job(client, command)?,
        Command::Release(command) => release(client, command)?,
        Command::Catalog(command) => catalog(client, command)?,
        Command::Token(command) => token(client, command)?,
    };
    print(&done, cli)
}

fn print(done: &Done, cli: &Cli) -> Result<ExitCode, Failure> {
    let text = if cli.json { format!("{}\n", done.value) } else { done.text.clone() };
    // Whoever reads no further has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(done.code)
}

/// What to print, and how to end.
struct Done {
    value: Value,
    text: String,
    code: ExitCode,
}

impl Done {
    fn new(value: Value, text: String) -> Self {
        Self { value, text, code: ExitCode::SUCCESS }
    }
}

fn at(pool: &str, rest: &str) -> String {
    format!("/pools/{}{rest}", client::segment(pool))
}

fn pool(client: &Client, command: &PoolCommand) -> Result<Done, Failure> {
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
        text += &format!("release    {newest} is the newest; {behind} agents do not run it\n");
    }
    text += &format!("jobs       {}\n", counts("jobs"));
    for demanded in value["funnel"]["demanded"].as_array().into_iter().flatten() {
        let n = |member: &str| demanded[member].as_u64().unwrap_or(0);
        text += &format!(
            "waiting    {} jobs for agents of {} or later ({} of {} agents), the oldest for {} s; {} others sit idle\n",
            n("waiting"),
            word(demanded, "version"),
            n("satisfying"),
            n("agents"),
            n("longestWait") / 1000,
            n("idleBelow")
        );
    }
    text
}

fn agent(client: &Client, command: &AgentCommand) -> Result<Done, Failure> {
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

fn job(client: &Client, command: &JobCommand) -> Result<Done, Failure> {
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
            text += &format!(
                "waits for one of {} agents, {} of them online\n",
                job["waiting"]["satisfying"], job["waiting"]["online"]
            )
        }
        Some("update") => text += &format!("waits for the update of agent {}\n", job["waiting"]["agent"]),
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

fn release(client: &Client, command: &ReleaseCommand) -> Result<Done, Failure> {
    Ok(match command {
        ReleaseCommand::List { pool } => {
            let value = client.get(&at(pool, "/releases"))?;
            let mut table = Table::new(["VERSION", "FILE", "SIZE", "PUBLISHED", "SHA-256"]);
            for release in items(&value) {
                let published = table::time(release["published"].as_u64());
                table.row([
                    word(release, "version"),
                    word(release, "file"),
                    release["size"].to_string(),
                    published,
                    word(release, "sha256"),
                ]);
            }
            Done::new(value, table.to_string())
        }
        ReleaseCommand::Publish { pool, file, version, signature, notes } => {
            let content = std::fs::read(file).map_err(|e| Failure::Call(format!("{}: {e}", file.display())))?;
            let sha256 = crate::auth::hex(ring::digest::digest(&ring::digest::SHA256, &content).as_ref());
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            client.upload(&format!("/files/{sha256}"), &content)?;
            let body = json!({ "version": version, "file": name, "sha256": sha256, "signature": signature, "notes": notes });
            let value = client.send("POST", &at(pool, "/releases"), &body, None)?;
            Done::new(value, format!("{version} is offered to the agents of {pool}; no job's demands change by it\n"))
        }
        ReleaseCommand::Withdraw { pool, version } => {
            let value =
                client.send("DELETE", &at(pool, &format!("/releases/{}", client::segment(version))), &Value::Null, None)?;
            Done::new(value, format!("{version} is withdrawn\n"))
        }
        ReleaseCommand::Keygen { key } => signing::keygen(key)?,
        ReleaseCommand::Sign { file, version, key } => signing::sign(file, version, key)?,
    })
}

fn catalog(client: &Client, command: &CatalogCommand) -> Result<Done, Failure> {
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

fn token(client: &Client, command: &TokenCommand) -> Result<Done, Failure> {
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

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value["items"].as_array().into_iter().flatten()
}

fn word(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or("").to_owned()
}
