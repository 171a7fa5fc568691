//! Bringing the redirect up, and trying again when it cannot be (W-107, S-05).

use crate::agent_loop::CLAIM_AGAIN;
use crate::config::Config;
use crate::daemon::{Daemon, Message};
use crate::host::ports;
use crate::machine::Machine;
use crate::memory;
use azure_proxy_agent_core::agent::AgentEvent;
use redirect_ebpf::{EbpfRedirector, LoadOptions, RedirectError, Redirector};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Quick attempts, and the pause after each (W-107).
const QUICK: (u32, Duration) = (5, Duration::from_millis(10));
/// The pause between attempts after that (S-05).
const SLOW: Duration = Duration::from_secs(15);

/// Loads and attaches the kernel programs; keeps trying until it works. Only for who has the listener: a second agent must not
/// touch the redirect of the first (CLI-11). `tried` ends when it works, or when the quick attempts are over.
pub(crate) fn bring_up(daemon: &Daemon, machine: &Machine, config: &Config, tried: Sender<()>) {
    let mut tried = Some(tried);
    let options = load_options(config);
    // Another agent's key directory: its redirect is another agent's, too.
    while !machine.host.claim() {
        std::thread::sleep(CLAIM_AGAIN);
        if daemon.is_draining() {
            return;
        }
    }
    let mut attempt = 0;
    loop {
        attempt += 1;
        let loaded = match machine.asked() {
            None => load(&options),
            Some(redirector) => redirector.load().map(|remote| Arc::new(remote) as Arc<dyn Redirector>),
        };
        match loaded {
            Ok(redirector) => {
                // Also which step of the ladder an older kernel took.
                log::info!("Redirect: {}", redirector.describe());
                machine.set_redirector(redirector);
                daemon.mailbox.post(Message::Event(AgentEvent::RedirectorReady));
                return;
            }
            Err(e) => {
                if !is_quick(attempt) {
                    drop(tried.take());
                    let text = format!("Failed to start the redirector: {e}");
                    daemon.mailbox.post(Message::Event(AgentEvent::RedirectorFailed(text)));
                }
            }
        }
        std::thread::sleep(pause(attempt));
        if daemon.is_draining() {
            return;
        }
    }
}

/// Loads and attaches the programs in this process, and sees to the listener's port.
pub(crate) fn load(options: &LoadOptions) -> Result<Arc<dyn Redirector>, RedirectError> {
    let loaded = EbpfRedirector::load(options);
    // Parsing the object takes memory that is not needed again.
    memory::give_back();
    let loaded = loaded?;
    ports::reserve();
    Ok(Arc::new(loaded))
}

/// What takes part in loading, as the configuration says.
pub(crate) fn load_options(config: &Config) -> LoadOptions {
    LoadOptions {
        cgroup_root: Some(config.cgroup_root.clone()),
        object: config.ebpf_file.clone().filter(|path| path.exists()),
        egress_backstop: config.egress_backstop,
        pins: config.pin_folder.clone(),
        ..LoadOptions::default()
    }
}

/// Whether a failure is kept to ourselves, because another quick attempt follows.
const fn is_quick(attempt: u32) -> bool {
    attempt < QUICK.0
}

/// The pause after a failed attempt; the first one is 1.
const fn pause(attempt: u32) -> Duration {
    if is_quick(attempt) { QUICK.1 } else { SLOW }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w107_s05_five_attempts_in_a_hurry_and_then_one_every_15_s() {
        let pauses: Vec<u128> = (1..8).map(|attempt| pause(attempt).as_millis()).collect();
        assert_eq!(pauses, [10, 10, 10, 10, 15_000, 15_000, 15_000]);
        assert_eq!((1..8).find(|attempt| !is_quick(*attempt)), Some(5), "the fifth failure is told");
    }
}
