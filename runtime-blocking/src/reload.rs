//! SIGHUP: what can change while the agent runs, and what cannot.

use crate::config::Config;
use crate::logging;
use std::time::Duration;

/// The configuration in force, and what follows it while the agent runs.
#[derive(Debug)]
pub struct Reload {
    config: Config,
    log: logging::Handle,
}

impl Reload {
    /// `config` is what the agent was started with.
    #[must_use]
    pub fn new(config: Config, log: logging::Handle) -> Self {
        Self { config, log }
    }

    /// Lets go of the log files, reads the configuration again, applies what can be applied, and says in the log what needs a restart. A
    /// configuration that cannot be used changes nothing. Returns the time between polls.
    pub fn run(&mut self) -> Duration {
        self.log.reopen();
        match Config::load(Some(&self.config.path)) {
            Ok((config, warnings)) => {
                for warning in &warnings {
                    log::warn!("{warning}");
                }
                self.apply(&config);
            }
            Err(e) => log::error!("The configuration was not read anew, the one before stays in force: {e}"),
        }
        self.config.poll_interval
    }

    fn apply(&mut self, new: &Config) {
        let fixed = self.config.fixed_members(new);
        if !fixed.is_empty() {
            log::warn!("To have effect, changes of these members need a restart: {}", fixed.join(", "));
        }
        // Member by member: what did not take effect stays different, and is said again next time.
        self.config.poll_interval = new.poll_interval;
        self.config.file_level = new.file_level;
        self.config.system_level = new.system_level;
        self.config.event_level = new.event_level;
        self.log.apply(&self.config);
        log::info!("The configuration was read anew");
    }
}
