//! Who says something: what events are sorted by (T-02d, T-02g).

/// A part of the agent and what it was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The operation that reports (T-02d).
    pub task: &'static str,
    /// The component that reports (T-02g).
    pub component: &'static str,
}

/// The agent as a whole.
pub(super) const AGENT: Source = Source { task: "agent", component: "proxy_agent" };
/// Start-up milestones of the listener.
pub(super) const LISTENER: Source = Source { task: "start", component: "proxy_listener" };
/// Start-up milestones and faults of the redirector.
pub(super) const REDIRECTOR: Source = Source { task: "start", component: "redirector" };
/// Messages of the key module (W-83).
pub(super) const KEY_KEEPER: Source = Source { task: "poll_secure_channel_status", component: "key_keeper" };
/// Rules that came into force.
pub(super) const RULES: Source = Source { task: "update_rules", component: "key_keeper" };
/// The task that writes the status document.
pub(super) const STATUS: Source = Source { task: "loop_status", component: "proxy_agent_status" };
/// Resident memory (FS-57).
pub(super) const MEMORY: Source = Source { task: "memory_usage", component: "proxy_agent_status" };
