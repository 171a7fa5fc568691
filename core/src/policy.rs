//! The immutable snapshot that a request is decided by.

use crate::authz::{Rules, Shadow};
use crate::identity::{Claims, Destination, Needs, PerDestination};
use crate::sign::Signer;
use crate::time::HostClock;
use std::sync::Arc;

/// Number of a published [`Policy`]; grows by one with each. Every decision and record carries it (SEC-09).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// Everything that a decision depends on, as one value: a request pins the policy that is newest when its head is complete and
/// uses it to the end. So guid and key, rules and switches can never be torn apart (S-32, W-61).
///
/// Only [`Agent`](crate::agent::Agent) makes policies after the first; shells swap an `Arc<Policy>` and nothing else.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Which one this is.
    pub epoch: Epoch,
    /// Compiled authorization documents; an endpoint without one is open to whoever passes the elevation gate (PX-68).
    pub rules: PerDestination<Option<Arc<Rules>>>,
    /// What the older matcher is asked about, if differences to it are to be logged. Decides nothing.
    pub shadow: Option<Arc<Shadow>>,
    /// Guid and key as one value; `None` while no key is latched: requests are then forwarded unsigned (W-68).
    pub signer: Option<Arc<Signer>>,
    /// Whether the agent knows what the host wants: a status was read and followed, to the key that it asks for. Nothing is redirected
    /// by this agent before that (W-111), but an earlier one's redirect may be in force (S-03): what comes by it waits.
    pub settled: bool,
    /// The host's clock (W-72).
    pub host_clock: HostClock,
}

impl Policy {
    /// What some rule asks for that is found out about callers only on demand.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.documents().fold(Needs::default(), |needs, rules| needs | rules.needs())
    }

    /// Whether the hash of this caller's executable could make a difference.
    #[must_use]
    pub fn would_compare_exe_hash(&self, claims: &Claims) -> bool {
        self.documents().any(|rules| rules.would_compare_exe_hash(claims))
    }

    fn documents(&self) -> impl Iterator<Item = &Rules> {
        Destination::ALL.into_iter().filter_map(|destination| self.rules.get(destination).as_deref())
    }
}
