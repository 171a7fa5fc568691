//! The connection machine from outside: stored fixtures, hostile messages, every cut, and random schedules.
//!
//! One binary for all (linking is the slow part). `BLESS=1 cargo test … replay_fixtures_come_out` writes fresh
//! outputs into the fixtures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is the report")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "test data is in files; the purity gate is for the library"
)]

mod faults;
mod powercut;
mod replay;
mod rules;
mod sim;
mod smuggling;
mod split;
mod support;
