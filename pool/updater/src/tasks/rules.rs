//! `ApplyRules`: a local rules document, which the agent's own check must find good before it takes the place of the old one, and which gives that
//! back if the running agent does not take it.

use super::{AgentConfig, RULE_FILES, Tasks};
use crate::store::replace;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Longest file that the agent takes.
const LONGEST: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Input {
    /// `imds` or `wireserver`.
    destination: String,
    document: Value,
}

/// What was there before, while it is not known whether the agent takes the new one.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    path: PathBuf,
    /// Absent if there was no file.
    content: Option<String>,
}

impl Tasks<'_> {
    pub(super) fn apply_rules(&self, input: &str) -> Result<Value, String> {
        let input: Input = serde_json::from_str(input)
            .map_err(|e| format!("the input is not {{\"destination\": \"imds\" or \"wireserver\", \"document\": {{…}}}}: {e}"))?;
        let name = RULE_FILES.iter().find(|(destination, _)| *destination == input.destination).map(|(_, name)| *name);
        let name =
            name.ok_or_else(|| format!("there are local rules for imds and wireserver, not for `{}`", input.destination))?;
        let text = serde_json::to_string_pretty(&input.document).map_err(|e| e.to_string())? + "\n";
        if text.len() > LONGEST {
            return Err(format!("the document has {} bytes; the agent takes {LONGEST}", text.len()));
        }
        // Where nobody else looks: the agent watches its own folder.
        let candidate = self.folder.path().join(name);
        replace(&candidate, text.as_bytes()).map_err(|e| format!("{}: {e}", candidate.display()))?;
        let checked = self.check_rules(&input.destination, &candidate);
        let _ = fs::remove_file(&candidate);
        let (valid, why) = checked?;
        if !valid {
            return Err(format!("nothing was changed, because the agent would not take this document: {why}"));
        }
        let agent = self.agent_config()?;
        let path = agent.rules().join(name);
        let old = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(format!("nothing was changed: {}: {e}", path.display())),
        };
        let changed = old.as_deref() != Some(&text);
        let mut complaint_before = None;
        if changed {
            complaint_before = self.complaint(&agent, &path);
            self.write_rules(&path, old, &text)?;
        }
        let seen = self.await_rules(&agent, &path, complaint_before.as_deref());
        match seen {
            Ok(seen) => {
                self.forget_before()?;
                Ok(json!({ "file": path, "changed": changed, "seenByAgent": seen }))
            }
            Err(why) => match self.undo_rules() {
                Ok(()) => Err(format!("the agent rejected it, and the file is again as it was: {why}")),
                Err(e) => Err(format!("the agent rejected it: {why}; and the file could not be put back: {e}")),
            },
        }
    }

    fn before(&self) -> PathBuf {
        self.folder.path().join("rules-before.json")
    }

    pub(super) fn write_rules(&self, path: &Path, old: Option<String>, text: &str) -> Result<(), String> {
        let before = Before { path: path.to_owned(), content: old };
        let said = |e: io::Error| format!("nothing was changed: {}: {e}", path.display());
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !folder.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(said)?;
        }
        replace(&self.before(), &serde_json::to_vec(&before).map_err(|e| e.to_string())?).map_err(said)?;
        replace(path, text.as_bytes()).map_err(|e| {
            let _ = fs::remove_file(self.before());
            said(e)
        })
    }

    fn forget_before(&self) -> Result<(), String> {
        match fs::remove_file(self.before()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(format!("{}: {e}", self.before().display())),
            _ => Ok(()),
        }
    }

    /// Puts back what was there before, if a change was under way.
    pub(super) fn undo_rules(&self) -> Result<(), String> {
        let text = match fs::read(self.before()) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e.to_string()),
        };
        let before: Before = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        let back = match &before.content {
            Some(content) => replace(&before.path, content.as_bytes()),
            None => fs::remove_file(&before.path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }),
        };
        back.map_err(|e| format!("{}: {e}", before.path.display()))?;
        self.forget_before()
    }

    /// What the running agent says is wrong with this file.
    fn complaint(&self, agent: &AgentConfig, path: &Path) -> Option<String> {
        let name = path.display().to_string();
        let (status, _) = self.status(agent).ok()?;
        let message = status["proxyAgentStatus"]["keyLatchStatus"]["message"].as_str().unwrap_or_default();
        message.split_once(&name).map(|(_, rest)| format!("{name}{rest}"))
    }

    /// Gives the agent time to look at the file. Whether it was seen to run meanwhile; what it says is wrong, if it does. What it said before is about the file
    /// before, until the time is up: its status follows what it does by a second.
    fn await_rules(&self, agent: &AgentConfig, path: &Path, before: Option<&str>) -> Result<bool, String> {
        let deadline = Instant::now() + Duration::from_secs(self.config.rules_within);
        loop {
            let over = Instant::now() >= deadline;
            match self.complaint(agent, path) {
                Some(why) if over || before != Some(&why) => return Err(why),
                _ if over => return Ok(self.status(agent).is_ok_and(|(_, age)| age < 120)),
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}
