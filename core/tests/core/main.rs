//! The connection machine from outside: stored fixtures, hostile messages, every cut, and random schedules.
//!
//! One binary for all (linking is the slow part). `BLESS=1 cargo test … replay` writes fresh outputs into the fixtures.

mod replay;
mod sim;
mod smuggling;
mod split;
mod support;
