//! The tasks that every pool knows from the start: what `azure-proxy-agent-updater` carries out by the agent's own command line and files.

use pool_core::catalog::Task;
use pool_core::version::Version;

/// Name, version, and the agent version from which on they work.
const TASKS: &[(&str, &str, &str)] = &[
    // Deliver a local authorization rules document.
    ("ApplyRules", "1.0.0", "0.1.0"),
    // Status, checks and recent audit records as one archive, without secrets.
    ("CollectDiagnostics", "1.0.0", "0.1.0"),
    // Begin new log files.
    ("RotateLogs", "1.0.0", "0.1.0"),
    // Ready, status fresh, configuration and rules valid.
    ("CheckHealth", "1.0.0", "0.1.0"),
];

/// The catalogue of a new pool.
#[must_use]
pub fn built_in() -> Vec<Task> {
    let version = |text: &str| text.parse::<Version>().ok();
    TASKS
        .iter()
        .filter_map(|(name, own, minimum)| {
            Some(Task { name: (*name).into(), version: version(own)?, minimum_agent_version: version(minimum) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_built_in_task_has_its_versions() {
        let tasks = super::built_in();
        assert_eq!(tasks.len(), super::TASKS.len());
        assert!(tasks.iter().all(|task| task.minimum_agent_version.is_some()));
    }
}
