//! Redirection and identity: all BPF of the Azure proxy agent, and all that touches it.
//!
//! The kernel half (`bpf/`) writes down who calls `connect()` towards a guarded endpoint, sends the connection to the agent's
//! listener, and puts the note on the accepted socket, where [`Redirector::identify`] reads it by file descriptor. This half
//! loads, attaches, watches and detaches it ([`EbpfRedirector`]), and confirms against `/proc` what the kernel noted
//! ([`verify`]). It decides nothing about requests.
//!
//! [`MemoryRedirector`] is the same seam without a kernel, for tests and replay without privileges.

mod attach;
mod caps;
mod cgroup;
mod ebpf;
mod error;
mod kernel_types;
mod layout;
mod load;
mod memory;
mod object;
mod pins;
mod redirector;
mod store;
mod sys;
mod takeover;
pub mod verify;

pub use azure_proxy_agent_core::identity::TargetMode;
pub use cgroup::{Hierarchy, find_cgroup2, resolve_cgroup};
pub use ebpf::{Counters, EbpfRedirector};
pub use error::RedirectError;
pub use load::LoadOptions;
pub use memory::MemoryRedirector;
pub use pins::{Detached, Pins, detach};
pub use redirector::Redirector;
pub use sys::netns_cookie;
