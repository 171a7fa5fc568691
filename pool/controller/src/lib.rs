//! The controller of pools: an HTTP API over `pool-core` and a database, its page, and its command line.

#![forbid(unsafe_code)]

pub mod api;
pub mod auth;
pub mod cli;
pub mod engine;
pub mod metrics;
pub mod problem;
pub mod serve;
pub mod statistics;
pub mod store;
pub mod tasks;
pub mod web;
