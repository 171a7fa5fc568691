//! The controller of pools: an HTTP API over `pool-core` and a database.

#![forbid(unsafe_code)]

pub mod api;
pub mod auth;
pub mod engine;
pub mod problem;
pub mod store;
pub mod tasks;
