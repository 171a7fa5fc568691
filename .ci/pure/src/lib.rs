//! See Cargo.toml.
#![no_std]
pub use azure_proxy_agent_core;
