//! A small world in which the agent can be run for real without touching the machine around it.
//!
//! One network namespace with nothing but `lo`, on which the platform's addresses are configured; one mount namespace with
//! its own cgroup2 and bpffs mounts; two cgroups, `vm` for the agent and its clients and `host` for what plays the host.
//! eBPF programs are attached to `vm` and see nobody else. Everything disappears with its owner, however that ends.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! use sandbox::{HostOptions, Sandbox};
//! let sandbox = Sandbox::enter()?;
//! let host = sandbox.start_host(HostOptions::default())?;
//! let answer = sandbox.command("curl").args(["-s", "http://169.254.169.254/metadata/versions"]).output()?;
//! assert_eq!(host.host().records.all().len(), 1);
//! # drop(answer); Ok(())
//! # }
//! ```

pub mod agent;
mod guard;
pub mod join;
mod sandbox;
pub mod supervisor;
pub mod sys;
pub mod user;
mod world;

pub use agent::{Agent, AgentOptions, Ready};
pub use azure_host_sim::faults::Failure;
pub use azure_host_sim::{Endpoint, Host, Mode, Options as HostOptions, Record, Server, Version};
pub use sandbox::{IMDS, Sandbox, WIRESERVER};
pub use supervisor::{Store, Supervisor};
pub use user::User;
