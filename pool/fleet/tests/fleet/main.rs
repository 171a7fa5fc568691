//! From end to end: real agents in network namespaces of their own, real controllers, real packages. These tests need root, and the daemon
//! (`cargo build` in the folder above `pool`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a failed expectation is the report")]

mod control;
mod storm;
mod support;
mod tasks;
mod updates;
