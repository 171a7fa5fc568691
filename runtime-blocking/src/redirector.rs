//! The part of the agent that needs privileges, in a process of its own: eBPF, and looking at other processes.
//!
//! Under the packaged units the process that parses what callers and host send has no capability at all. What needs one is done by
//! `azure-proxy-agent redirector` ([`server`]), which systemd starts when the daemon connects to its socket ([`client`]), and which ends
//! with the daemon: it reads its own configuration, loads and repairs the programs, keeps their lock, and answers questions about
//! connections by their descriptors. What the daemon can ask of it is [`wire::Request`], and no more: it cannot name a program, a file or a
//! cgroup to load, open or attach to. Started in any other way the daemon does all of that itself.
//!
//! ```text
//! callers, host ── HTTP ── daemon (no capabilities) ── one SOCK_SEQPACKET for each question under way ── redirector (eBPF, ptrace)
//! ```

pub(crate) mod client;
mod said;
pub(crate) mod server;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

/// Names the socket of the redirector for the daemon, as `NOTIFY_SOCKET` names the service manager's.
pub(crate) const VARIABLE: &str = "REDIRECTOR_SOCKET";
