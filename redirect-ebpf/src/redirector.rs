//! The seam between the agent and the redirection.

use crate::error::RedirectError;
use azure_proxy_agent_core::identity::{KernelRecord, PerDestination, TargetMode};
use std::os::fd::BorrowedFd;

/// Attributes connections and steers them to the listener.
pub trait Redirector: Send + Sync {
    /// Who is on the other side of a connection that the listener accepted; `None` if the kernel has no record of it, which
    /// callers must treat as "unknown, refuse" (PX-23). Reading does not consume: the record lives as long as the socket.
    ///
    /// # Errors
    /// The descriptor is no socket, or the kernel refused the look-up.
    fn identify(&self, accepted: BorrowedFd<'_>) -> Result<Option<KernelRecord>, RedirectError>;

    /// Takes one of the agent's own sockets out of redirect and port guard (S-10). Before `connect()` or `bind()`; lasts until
    /// the socket is closed; not inherited by accepted sockets.
    ///
    /// # Errors
    /// The descriptor is no socket, or the kernel refused. The socket must not be used then.
    fn exempt(&self, socket: BorrowedFd<'_>) -> Result<(), RedirectError>;

    /// Switches the redirect of each endpoint. Connections that exist are not touched. Callers in other network namespaces are
    /// never redirected: they pass in `Audit` and get `EPERM` in `Enforce` (S-08).
    ///
    /// # Errors
    /// The kernel refused; some endpoints may have been switched. [`check`](Self::check) tries again.
    fn set_targets(&self, modes: PerDestination<TargetMode>) -> Result<(), RedirectError>;

    /// Whether everything is still attached and holds what was last set; repairs what is not (S-13). Call it at every poll.
    ///
    /// # Errors
    /// Something is wrong and could not be repaired: the reason for the status `STOPPED`.
    fn check(&self) -> Result<(), RedirectError>;

    /// Says that the agent lives: an endpoint in `Audit` is given up by the kernel half when this has not been said for a while
    /// (S-03). Every 10 seconds.
    ///
    /// # Errors
    /// The kernel refused.
    fn heartbeat(&self) -> Result<(), RedirectError>;

    /// The next note about a connection to a guarded endpoint from another network namespace: route `Passed` or `Refused` (S-08).
    /// `None`: there are no more. Taken out by reading; bounded, what did not fit was counted.
    ///
    /// # Errors
    /// The kernel refused the look-up.
    fn next_foreign(&self) -> Result<Option<KernelRecord>, RedirectError>;

    /// One line for the status: what is in force, and how it was reached.
    fn describe(&self) -> String;
}
