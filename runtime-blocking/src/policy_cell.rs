//! Where the newest policy is: the only state that connections and agent share.

use azure_proxy_agent_core::policy::Policy;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Written by the agent loop, read by connections. A reader that has the newest policy pays one atomic load to know it.
#[derive(Debug, Default)]
pub struct PolicyCell {
    newest: RwLock<Arc<Policy>>,
    /// Number of publications; grows with each, so that a reader sees that its copy is old.
    published: AtomicU64,
}

impl PolicyCell {
    /// Replaces the policy.
    pub fn publish(&self, policy: Arc<Policy>) {
        let mut newest = self.newest.write().unwrap_or_else(PoisonError::into_inner);
        *newest = policy;
        self.published.fetch_add(1, Ordering::Release);
    }

    /// A reader's own copy.
    #[must_use]
    pub fn view(&self) -> PolicyView {
        let published = self.published.load(Ordering::Acquire);
        PolicyView { policy: Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner)), published }
    }
}

/// A policy, and which publication it is.
#[derive(Debug, Clone)]
pub struct PolicyView {
    policy: Arc<Policy>,
    published: u64,
}

impl PolicyView {
    /// The newest policy of `cell`.
    pub fn refresh(&mut self, cell: &PolicyCell) -> &Arc<Policy> {
        if self.published != cell.published.load(Ordering::Acquire) {
            *self = cell.view();
        }
        &self.policy
    }
}
