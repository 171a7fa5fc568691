//! `RotateLogs`: what the log files have so far is rolled away under the agent's own names, so that it keeps its own number of them.

use super::Tasks;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The agent's logs.
const LOGS: [&str; 3] = ["ProxyAgent.log", "ProxyAgent.Connection.log", "audit.jsonl"];

impl Tasks<'_> {
    pub(super) fn rotate_logs(&self) -> Result<Value, String> {
        let agent = self.agent_config()?;
        if agent.log_folder.is_empty() {
            return Err("the agent's log files are turned off (logFolder)".into());
        }
        let folder = std::path::Path::new(&agent.log_folder);
        let stamp = stamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut rotated = Vec::new();
        for name in LOGS {
            let path = folder.join(name);
            if std::fs::metadata(&path).is_ok_and(|data| data.len() > 0) {
                let rolled = format!("{name}.{stamp}.log");
                // Not over a file that is there: hard links do not replace.
                std::fs::hard_link(&path, folder.join(&rolled)).map_err(|e| format!("{}: {e}", path.display()))?;
                std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                rotated.push(rolled);
            }
        }
        let said = self.runner.run(&self.config.reload, Duration::from_secs(60))?;
        if !said.is_ok() {
            return Err(format!("the files were renamed, but the agent was not told (it notices by itself): {}", said.words()));
        }
        Ok(json!({ "rotated": rotated }))
    }
}

/// As the agent names rolled files: `2026-11-22T00.00.00.001-N`, UTC.
fn stamp(since: Duration) -> String {
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil from days: Howard Hinnant, http://howardhinnant.github.io/date_algorithms.html
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (d, m) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = era * 400 + year + u64::from(m <= 2);
    let (h, min, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{y:04}-{m:02}-{d:02}T{h:02}.{min:02}.{s:02}.{:03}-{}", since.subsec_millis(), since.as_nanos())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_sort_by_time_and_have_the_agents_form() {
        let at = |seconds: u64| super::stamp(std::time::Duration::from_millis(seconds * 1000 + 7));
        assert_eq!(at(0), "1970-01-01T00.00.00.007-7000000");
        assert!(at(1_709_251_199).starts_with("2024-02-29T23.59.59.007-"));
        assert!(at(1_798_761_599).starts_with("2026-12-31T23.59.59.007-"));
    }
}
