//! The command line: the powers of the API for people and scripts.

use crate::serve;
use clap::{Parser, Subcommand};
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

mod agent;
mod catalog;
mod client;
mod job;
mod pool;
mod release;
mod signing;
mod table;
mod token;

pub use agent::AgentCommand;
pub use catalog::CatalogCommand;
pub use job::JobCommand;
pub use pool::PoolCommand;
pub use release::ReleaseCommand;
pub use token::TokenCommand;

use client::{Client, Failure};

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
    /// Certificates (PEM) that the controller's must come from, instead of the well-known authorities.
    #[arg(long, global = true, env = "POOL_CA")]
    ca: Option<PathBuf>,
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

Exit codes: 0 done, 1 refused, or the job that is shown has failed, 2 wrong call, 3 no controller or no
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

/// Does a command that needs a controller elsewhere.
#[must_use]
pub fn run(cli: &Cli) -> ExitCode {
    if let Command::Completions { shell } = &cli.command {
        let mut command = <Cli as clap::CommandFactory>::command();
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut command, "azure-proxy-agent-pool", &mut script);
        // A reader that has gone (`| head`) has what it wants.
        let _ = std::io::stdout().write_all(&script);
        return ExitCode::SUCCESS;
    }
    let done = match &cli.command {
        Command::Release(ReleaseCommand::Keygen { key }) => signing::keygen(key).and_then(|done| print(&done, cli)),
        Command::Release(ReleaseCommand::Sign { file, version, key }) => {
            signing::sign(file, version, key).and_then(|done| print(&done, cli))
        }
        _ => Client::new(&cli.server, cli.token_file.as_deref(), cli.ca.as_deref()).and_then(|client| command(&client, cli)),
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
        Command::Pool(command) => pool::run(client, command)?,
        Command::Agent(command) => agent::run(client, command)?,
        Command::Job(command) => job::run(client, command)?,
        Command::Release(command) => release::run(client, command)?,
        Command::Catalog(command) => catalog::run(client, command)?,
        Command::Token(command) => token::run(client, command)?,
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

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value["items"].as_array().into_iter().flatten()
}

/// `1 agent`, `2 agents`.
fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn word(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or("").to_owned()
}
