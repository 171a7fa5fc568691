//! Everything of the agent that blocks, for both runtimes: host effects, the pump, command line and configuration; and the daemon on
//! threads. `runtime-smol` may use what is public here.
//!
//! In reading order: [`start`] (from `main` to a running daemon), [`serve`] (the accept loop and one connection on a thread),
//! [`pump`] (one turn of a connection, without waiting), [`agent_loop`] (the agent machine), [`host`] (effects as system calls).

pub mod agent_loop;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dial;
pub mod fetch;
pub mod host;
pub mod listener;
pub mod logging;
pub mod machine;
mod memory;
pub mod policy_cell;
pub mod poller;
pub mod pulse;
pub mod pump;
pub mod records;
mod redirection;
mod redirector;
pub mod reload;
#[cfg(feature = "replay")]
pub mod replay;
pub mod serve;
mod signals;
pub mod staging;
pub mod start;
pub mod status_client;
pub mod telemetry;
mod wait;
pub mod workers;
