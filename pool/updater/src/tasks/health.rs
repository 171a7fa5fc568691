//! `CheckHealth`: ready, status fresh, configuration and rules valid.

use super::{RULE_FILES, Tasks};
use serde_json::{Value, json};

/// A status document that is older than this is kept up to date by nobody, seconds.
const FRESH: u64 = 300;

impl Tasks<'_> {
    pub(super) fn check_health(&self) -> Result<Value, String> {
        let version = self.agent(&["--version"])?.out.trim().to_owned();
        let ready = self.agent(&["--status"])?;
        let config = self.config.agent_config.display().to_string();
        let configuration = self.agent(&["--check-config", "--config", &config])?;
        let agent = self.agent_config();
        let status = agent.as_ref().map_err(String::clone).and_then(|agent| self.status(agent));
        let mut rules = Vec::new();
        if let Ok(agent) = &agent {
            for (destination, name) in RULE_FILES {
                let path = agent.rules().join(name);
                if path.exists() {
                    let (valid, why) = self.check_rules(destination, &path).unwrap_or_else(|why| (false, why));
                    rules.push(json!({ "file": name, "valid": valid, "why": why }));
                }
            }
        }
        let fresh = status.as_ref().is_ok_and(|(_, age)| *age < FRESH);
        let success = status.as_ref().is_ok_and(|(status, _)| status["proxyAgentStatus"]["status"] == "SUCCESS");
        let valid = rules.iter().all(|file| file["valid"] == true);
        Ok(json!({
            "healthy": ready.is_ok() && fresh && success && configuration.is_ok() && valid,
            "version": version,
            "ready": ready.is_ok(),
            "readyWords": if ready.is_ok() { String::new() } else { ready.words() },
            "statusFresh": fresh,
            "statusAgeSeconds": status.as_ref().ok().map(|(_, age)| *age),
            "statusSuccess": success,
            "statusWords": status.as_ref().err(),
            "configurationValid": configuration.is_ok(),
            "configurationWords": if configuration.is_ok() { String::new() } else { configuration.words() },
            "rules": rules,
        }))
    }
}
