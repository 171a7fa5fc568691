//! The part of a pool that runs on the machines: it asks its controller for work, and carries out jobs and updates of the agent.
//!
//! It has the rights that installing a package needs, and talks to its controller only. The proxy daemon knows nothing of it: what it has to know of that
//! it learns by the agent's own command line and files.
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | what to do next: pure, safe against a power cut at any point |
//! | [`daemon`] | does that, and stores it first |
//! | [`client`] | HTTP to the controller |
//! | [`install`] | the steps of an update |
//! | [`tasks`] | what jobs consist of |
//! | [`store`] | the state folder |
//! | [`command`] | other programs, with a deadline |
//! | [`config`] | the configuration |
//! | [`cli`] | the command line |

#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod command;
pub mod config;
pub mod daemon;
pub mod install;
pub mod machine;
pub mod store;
pub mod tasks;

/// A line for the journal.
pub(crate) fn log(text: &str) {
    eprintln!("azure-proxy-agent-updater: {text}");
}
