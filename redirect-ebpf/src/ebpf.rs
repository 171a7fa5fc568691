//! The redirector that runs: loaded, attached, and watched.

use crate::attach::{EGRESS, Links};
use crate::cgroup::{Cgroup, resolve_cgroup};
use crate::error::RedirectError;
use crate::layout::{COUNTERS, Config, LAYOUT, target_bits, target_index, target_mode};
use crate::load::{LoadOptions, Maps, step};
use crate::redirector::Redirector;
use crate::store::Store;
use crate::sys::monotonic_ns;
use crate::takeover;
use azure_proxy_agent_core::identity::{Destination, KernelRecord, PerDestination, TargetMode};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Redirection by the kernel. With pins, everything stays in force when it is dropped: a restart is not the end of the product
/// (S-03), [`detach`](crate::detach) is. Without, dropping detaches everything.
#[derive(Debug)]
pub struct EbpfRedirector {
    maps: Maps,
    /// What the maps must hold; set at loading.
    config: Config,
    state: Mutex<State>,
    options: LoadOptions,
    /// Number of the step of the ladder.
    step: usize,
    /// First part of [`Redirector::describe`].
    summary: String,
}

/// What changes after loading. Never locked on the way of a connection.
#[derive(Debug)]
struct State {
    links: Links,
    wanted: PerDestination<TargetMode>,
    /// Where they are pinned. Last: it holds the lock.
    store: Option<Store>,
}

impl EbpfRedirector {
    /// Loads the programs and attaches them, with all endpoints switched off, or takes over what an earlier agent left in
    /// [`LoadOptions::pins`], with the endpoints as they were. The calling thread's network namespace is the one whose connections
    /// will be redirected: that of the listener.
    ///
    /// Needs `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON` (or root); none of them afterwards on Linux 5.19 and later.
    ///
    /// # Errors
    /// The reason, in words for the operator; nothing that was not there before stays loaded or attached then (S-05).
    /// [`RedirectError::Busy`]: another agent holds the pins. That nothing can be pinned is no error: see
    /// [`describe`](Redirector::describe).
    pub fn load(options: &LoadOptions) -> Result<Self, RedirectError> {
        let cgroup = Cgroup::open(resolve_cgroup(options.cgroup_root.as_deref())?)?;
        let mut summary = format!("eBPF on {}: ", cgroup.path.display());
        let (store, why_not) = open_store(options)?;
        let ready = takeover::bring_up(options, cgroup, store.as_ref())?;
        let config = read_config(&ready.maps)?;
        summary += &options.object.as_ref().map_or_else(|| "embedded object".to_owned(), |p| p.display().to_string());
        summary = format!("{summary}, {}", step(ready.step).name);
        match (&store, why_not) {
            (Some(store), _) => summary = format!("{summary}, {}, pinned in {}", ready.how, store.dir().display()),
            (None, Some(why)) => summary = format!("{summary}, not pinned: {why}; the redirect ends with the agent"),
            (None, None) => {}
        }
        let wanted = targets(&ready.maps)?;
        let state = Mutex::new(State { links: ready.links, wanted, store });
        Ok(Self { maps: ready.maps, config, state, options: options.clone(), step: ready.step, summary })
    }

    /// What the kernel half has counted since its maps were made.
    ///
    /// # Errors
    /// The kernel refused the look-up.
    pub fn counters(&self) -> Result<Counters, RedirectError> {
        let mut n = [0; COUNTERS as usize];
        for (i, n) in (0..).zip(&mut n) {
            *n = self.maps.counters.get(i).map_err(|source| map_error(self.maps.counters.name(), source))?.unwrap_or(0);
        }
        let [redirected, direct, exempt, foreign_refused, foreign_passed, no_memory, handed_over, bind_refused, ..] = n;
        let [.., egress_dropped, given_up, foreign_lost] = n;
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
            given_up,
            foreign_lost,
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
        // Who switches an endpoint on lives: without this, the first seconds could count as given up.
        self.heartbeat()?;
        Destination::ALL.into_iter().try_for_each(|destination| self.put(destination, *modes.get(destination)))
    }

    fn check(&self) -> Result<(), RedirectError> {
        let mut state = self.state();
        let State { links, wanted, store } = &mut *state;
        if let Some(store) = store {
            store.recover(self.options.layout.unwrap_or(LAYOUT))?;
            for map in store.pin_maps(&self.maps)? {
                log::warn!("eBPF: map {map} had been unpinned by somebody else; pinned it again");
            }
        }
        let repaired = links.repair(store.as_ref(), |hook| takeover::reload(&self.options, self.step, &self.maps, hook))?;
        for program in &repaired {
            log::warn!("eBPF: program {program} had been detached, replaced or unpinned by somebody else; put it right");
        }
        if let Some(store) = store.as_ref().filter(|_| !repaired.is_empty()) {
            let fingerprint = self.options.fingerprint(&self.options.bytes()?);
            store.record(takeover::record(fingerprint, self.step, links))?;
        }
        self.repair_maps(wanted)
    }

    fn heartbeat(&self) -> Result<(), RedirectError> {
        let map = &self.maps.heartbeat;
        map.set(0, monotonic_ns()).map_err(|source| map_error(map.name(), source))
    }

    fn next_foreign(&self) -> Result<Option<KernelRecord>, RedirectError> {
        let notes = &self.maps.foreign;
        loop {
            match notes.pop().map_err(|source| map_error(notes.name(), source))? {
                None => return Ok(None),
                // Anything else than a note was not written by our programs.
                Some(record) => match record.to_foreign_note() {
                    Some(note) => return Ok(Some(note)),
                    None => log::warn!("eBPF: map {} holds something that is no note", notes.name()),
                },
            }
        }
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
    /// Let through unseen: endpoint in `audit`, and no heartbeat for 40 seconds (S-03).
    pub given_up: u64,
    /// Connections from other network namespaces that could not be noted, because nobody took the notes out in time (S-08).
    pub foreign_lost: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "redirected {}, direct {}, own {}, other namespaces refused {} passed {} (not noted {}), handed over {}, given up {}, \
             no memory {}, port guard {}, backstop {}",
            self.redirected,
            self.direct,
            self.exempt,
            self.foreign_refused,
            self.foreign_passed,
            self.foreign_lost,
            self.handed_over,
            self.given_up,
            self.no_memory,
            self.bind_refused,
            self.egress_dropped
        )
    }
}

/// The place to pin in; otherwise why there is none, if one was wanted.
fn open_store(options: &LoadOptions) -> Result<(Option<Store>, Option<String>), RedirectError> {
    let Some(root) = &options.pins else { return Ok((None, None)) };
    match Store::open(root, options.layout.unwrap_or(LAYOUT), options.crash_at) {
        Ok(store) => Ok((Some(store), None)),
        Err(e @ RedirectError::Busy { .. }) => Err(e),
        Err(e) => {
            log::warn!("eBPF: nothing is pinned, so the redirect ends with the agent: {e}");
            Ok((None, Some(e.to_string())))
        }
    }
}

/// What is in force.
fn targets(maps: &Maps) -> Result<PerDestination<TargetMode>, RedirectError> {
    let mut bits = [0; Destination::ALL.len()];
    for destination in Destination::ALL {
        let found = maps.targets.get(target_index(destination)).map_err(|source| map_error(maps.targets.name(), source))?;
        if let Some(slot) = bits.get_mut(target_index(destination) as usize) {
            *slot = found.unwrap_or(0);
        }
    }
    let [imds, wireserver, hostga] = bits.map(target_mode);
    Ok(PerDestination { imds, wireserver, hostga })
}

fn read_config(maps: &Maps) -> Result<Config, RedirectError> {
    let config = maps.config.get(0).map_err(|source| map_error(maps.config.name(), source))?;
    config.ok_or(RedirectError::Layout { map: "config" })
}

fn map_error(map: &'static str, source: std::io::Error) -> RedirectError {
    RedirectError::Map { map, source }
}
