//! The redirector that runs: loaded, attached, and watched.

use crate::attach::{EGRESS, Links};
use crate::cgroup::resolve_cgroup;
use crate::error::RedirectError;
use crate::layout::{COUNTERS, Config, target_bits, target_index};
use crate::load::{self, LoadOptions, Maps};
use crate::redirector::Redirector;
use azure_proxy_agent_core::identity::{Destination, KernelRecord, PerDestination, TargetMode};
use std::fmt;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Redirection by the kernel. Detaches everything when dropped.
#[derive(Debug)]
pub struct EbpfRedirector {
    maps: Maps,
    /// What the maps must hold; set at loading.
    config: Config,
    state: Mutex<State>,
    /// First part of [`Redirector::describe`].
    summary: String,
}

/// What changes after loading. Never locked on the way of a connection.
#[derive(Debug)]
struct State {
    links: Links,
    wanted: PerDestination<TargetMode>,
}

impl EbpfRedirector {
    /// Loads the programs and attaches them, with all endpoints switched off. The calling thread's network namespace is the one
    /// whose connections will be redirected: that of the listener.
    ///
    /// Needs `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON` (or root); none of them afterwards on Linux 5.19 and later.
    ///
    /// # Errors
    /// The reason, in words for the operator; nothing stays loaded or attached then (S-05).
    pub fn load(options: &LoadOptions) -> Result<Self, RedirectError> {
        let cgroup = resolve_cgroup(options.cgroup_root.as_deref())?;
        let directory = open(&cgroup)?;
        let loaded = load::load(options)?;
        let config = read_config(&loaded.maps)?;
        let links = Links::attach(loaded.programs, directory)?;
        let object = options.object.as_ref().map_or_else(|| "embedded object".to_owned(), |p| p.display().to_string());
        let summary = format!("eBPF on {}: {object}, {}", cgroup.display(), loaded.step.name);
        let state = Mutex::new(State { links, wanted: PerDestination::default() });
        Ok(Self { maps: loaded.maps, config, state, summary })
    }

    /// What the kernel half has counted since it was loaded.
    ///
    /// # Errors
    /// The kernel refused the look-up.
    pub fn counters(&self) -> Result<Counters, RedirectError> {
        let mut n = [0; COUNTERS as usize];
        for (i, n) in (0..).zip(&mut n) {
            *n = self.maps.counters.get(i).map_err(|source| map_error(self.maps.counters.name(), source))?.unwrap_or(0);
        }
        let [redirected, direct, exempt, foreign_refused, foreign_passed, no_memory, handed_over, bind_refused, egress_dropped] =
            n;
        Ok(Counters {
            redirected,
            direct,
            exempt,
            foreign_refused,
            foreign_passed,
            no_memory,
            handed_over,
            bind_refused,
            egress_dropped,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between two system calls leaves nothing half-changed here that `check` would not find.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, destination: Destination, mode: TargetMode) -> Result<(), RedirectError> {
        self.maps
            .targets
            .set(target_index(destination), target_bits(mode))
            .map_err(|source| map_error(self.maps.targets.name(), source))
    }

    fn repair_maps(&self, wanted: &PerDestination<TargetMode>) -> Result<(), RedirectError> {
        let config = read_config(&self.maps)?;
        if config != self.config {
            log::warn!("eBPF: map config was changed by somebody else; restoring it");
            self.maps.config.set(0, self.config).map_err(|source| map_error(self.maps.config.name(), source))?;
        }
        for destination in Destination::ALL {
            let (index, mode) = (target_index(destination), *wanted.get(destination));
            let found = self.maps.targets.get(index).map_err(|source| map_error(self.maps.targets.name(), source))?;
            if found != Some(target_bits(mode)) {
                log::warn!("eBPF: target {} was changed by somebody else; restoring it", destination.name());
                self.put(destination, mode)?;
            }
        }
        Ok(())
    }
}

impl Redirector for EbpfRedirector {
    fn identify(&self, accepted: BorrowedFd<'_>) -> Result<Option<KernelRecord>, RedirectError> {
        let storage = &self.maps.peer_who;
        let record = storage.get(accepted).map_err(|source| map_error(storage.name(), source))?;
        Ok(record.and_then(|r| r.to_kernel_record()))
    }

    fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        let storage = &self.maps.sk_exempt;
        storage.set(socket, 1).map_err(|source| map_error(storage.name(), source))
    }

    fn set_targets(&self, modes: PerDestination<TargetMode>) -> Result<(), RedirectError> {
        let mut state = self.state();
        state.wanted = modes;
        Destination::ALL.into_iter().try_for_each(|destination| self.put(destination, *modes.get(destination)))
    }

    fn check(&self) -> Result<(), RedirectError> {
        let mut state = self.state();
        for program in state.links.repair()? {
            log::warn!("eBPF: program {program} had been detached or replaced by somebody else; attached it again");
        }
        self.repair_maps(&state.wanted)
    }

    fn heartbeat(&self) -> Result<(), RedirectError> {
        Ok(())
    }

    fn next_foreign(&self) -> Result<Option<KernelRecord>, RedirectError> {
        Ok(None)
    }

    fn describe(&self) -> String {
        let state = self.state();
        let backstop = if state.links.has(EGRESS) { "on" } else { "off" };
        let counters = self.counters().map_or_else(|e| e.to_string(), |c| c.to_string());
        format!("{}, {} programs, egress backstop {backstop}; {counters}", self.summary, state.links.count())
    }
}

/// What the kernel half counts: guarded traffic only, so that other traffic pays nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections sent to the listener.
    pub redirected: u64,
    /// Connections made to the listener itself.
    pub direct: u64,
    /// The agent's own connections to guarded endpoints.
    pub exempt: u64,
    /// Refused: from another network namespace, endpoint in `enforce` (S-08).
    pub foreign_refused: u64,
    /// Let through unseen: from another network namespace, endpoint in `audit` (S-08).
    pub foreign_passed: u64,
    /// Refused because the kernel had no memory for the record.
    pub no_memory: u64,
    /// Records that reached an accepted socket.
    pub handed_over: u64,
    /// Attempts of others to take the listener's port.
    pub bind_refused: u64,
    /// Packets dropped by the backstop.
    pub egress_dropped: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "redirected {}, direct {}, own {}, other namespaces refused {} passed {}, handed over {}, no memory {}, port guard \
             {}, backstop {}",
            self.redirected,
            self.direct,
            self.exempt,
            self.foreign_refused,
            self.foreign_passed,
            self.handed_over,
            self.no_memory,
            self.bind_refused,
            self.egress_dropped
        )
    }
}

fn open(cgroup: &PathBuf) -> Result<OwnedFd, RedirectError> {
    File::open(cgroup).map(OwnedFd::from).map_err(|source| RedirectError::Cgroup { path: cgroup.clone(), source })
}

fn read_config(maps: &Maps) -> Result<Config, RedirectError> {
    let config = maps.config.get(0).map_err(|source| map_error(maps.config.name(), source))?;
    config.ok_or(RedirectError::Layout { map: "config" })
}

fn map_error(map: &'static str, source: std::io::Error) -> RedirectError {
    RedirectError::Map { map, source }
}
