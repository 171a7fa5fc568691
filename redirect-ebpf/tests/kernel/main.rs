//! The kernel half at work, on the running kernel. **Needs root**, a cgroup2 mount, and type information of the kernel.
//!
//! Every test runs in a process, a network namespace and a cgroup of its own (`sandbox.rs`): the guarded addresses exist there
//! on `lo`, and no packet can leave. Nothing is attached outside that cgroup.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]

#[macro_use]
mod sandbox;
mod backstop;
mod bpf;
mod cost;
mod guard;
mod identity;
mod lifecycle;
mod namespaces;
mod pins;
mod redirect;
mod takeover;
