//! The tasks, carried out by the agent's own command line and files. Each gives a result: JSON.

mod diagnostics;
mod health;
mod logs;
mod rules;

use crate::command::{Runner, Said};
use crate::config::Config;
use crate::store::Folder;
use pool_core::job::{Spec, TaskCall};
use pool_core::pool::Ended;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest result of a job that a pool takes, bytes.
const LONGEST_RESULT: usize = 1 << 20;

/// What tasks need.
#[derive(Debug)]
pub struct Tasks<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The state folder.
    pub folder: &'a Folder,
    /// Runs commands.
    pub runner: &'a Runner,
}

/// Where the agent has its files.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AgentConfig {
    log_folder: String,
    latch_key_folder: PathBuf,
    #[serde(default = "default_status_folder")]
    status_folder: PathBuf,
}

fn default_status_folder() -> PathBuf {
    "/var/log/azure-proxy-agent".into()
}

impl AgentConfig {
    /// The folder of local rule files.
    fn rules(&self) -> PathBuf {
        self.latch_key_folder.parent().map_or_else(|| "/rules".into(), |parent| parent.join("rules"))
    }
}

/// The local rule files, and what `rules check` calls their endpoints.
const RULE_FILES: [(&str, &str); 2] = [("imds", "IMDS_Rules.json"), ("wireserver", "WireServer_Rules.json")];

impl Tasks<'_> {
    /// Does the tasks of a job in their order; the first that fails ends it. `stop` is looked at between them.
    #[must_use]
    pub fn perform(&self, spec: &Spec, stop: &AtomicBool) -> Ended {
        let mut results = Vec::new();
        for call in &spec.tasks {
            if stop.load(Ordering::Relaxed) {
                return Ended::Badly { why: format!("task `{}` was not begun, because the job was taken back", call.name) };
            }
            match self.call(call) {
                Ok(result) => results.push(json!({ "task": call.name, "version": call.version, "result": result })),
                Err(why) => return Ended::Badly { why: format!("task `{}` version {}: {why}", call.name, call.version) },
            }
        }
        let result = Value::Array(results).to_string();
        if result.len() > LONGEST_RESULT {
            return Ended::Badly { why: format!("the results have {} bytes; at most {LONGEST_RESULT} are taken", result.len()) };
        }
        Ended::Well { result }
    }

    fn call(&self, call: &TaskCall) -> Result<Value, String> {
        let version = call.version.to_string();
        let known = version.split('.').next() == Some("1");
        match call.name.as_str() {
            "ApplyRules" if known => self.apply_rules(&call.input),
            "CollectDiagnostics" if known => self.collect_diagnostics(),
            "RotateLogs" if known => self.rotate_logs(),
            "CheckHealth" if known => self.check_health(),
            "ApplyRules" | "CollectDiagnostics" | "RotateLogs" | "CheckHealth" => {
                Err("this updater knows version 1 of it only; update the package azure-proxy-agent-updater".into())
            }
            _ => Err("this updater does not know it; it knows ApplyRules, CollectDiagnostics, RotateLogs and CheckHealth".into()),
        }
    }

    /// What a crash left half done is undone, before the job's end is told.
    pub fn undo(&self) {
        if let Err(why) = self.undo_rules() {
            crate::log(&format!("an interrupted ApplyRules could not be undone: {why}"));
        }
    }

    fn agent(&self, arguments: &[&str]) -> Result<Said, String> {
        let program = self.config.agent.display().to_string();
        let words: Vec<String> = core::iter::once(program.as_str()).chain(arguments.iter().copied()).map(String::from).collect();
        self.runner.run(&words, crate::install::BRIEF)
    }

    fn agent_config(&self) -> Result<AgentConfig, String> {
        let path = &self.config.agent_config;
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The agent's status document, and how old it is in seconds by its file's time.
    fn status(&self, agent: &AgentConfig) -> Result<(Value, u64), String> {
        let path = agent.status_folder.join("status.json");
        let said = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = std::fs::read_to_string(&path).map_err(|e| said(&e))?;
        let modified = std::fs::metadata(&path).and_then(|data| data.modified()).map_err(|e| said(&e))?;
        let age = modified.elapsed().map_or(0, |age| age.as_secs());
        serde_json::from_str(&text).map(|status| (status, age)).map_err(|e| said(&e))
    }

    /// What `rules check` says of a local rule file: whether the agent takes it, and what is wrong.
    fn check_rules(&self, destination: &str, path: &std::path::Path) -> Result<(bool, String), String> {
        let path = path.display().to_string();
        let said = self.agent(&["rules", "check", "--local", "--dest", destination, "--json", &path])?;
        let document: Value = serde_json::from_str(&said.out).unwrap_or(Value::Null);
        let findings = document["files"][0]["findings"].as_array();
        let errors = findings.into_iter().flatten().filter(|finding| finding["severity"] == "error");
        let words: Vec<String> = errors
            .map(|finding| {
                let text = |member: &str| finding[member].as_str().unwrap_or_default().to_owned();
                format!("line {}, {}: {}", finding["line"], text("place"), text("message"))
            })
            .collect();
        match said.code {
            Some(0) => Ok((true, String::new())),
            Some(1) if words.is_empty() => Ok((false, said.words())),
            Some(1) => Ok((false, words.join("; "))),
            _ => Err(format!("the agent could not check it: {}", said.words())),
        }
    }
}

#[cfg(test)]
mod tests;
