//! The sans-I/O core of the Azure proxy agent: bytes, time and answers in; bytes, deadlines and effects out.
//!
//! It parses HTTP, attributes, decides, signs and negotiates keys, and it never touches a socket, a file, a clock, a thread or a
//! random number. Two shells (`runtime-blocking`, `runtime-smol`) run it for real; the `replay` module runs it from a text file.

#![forbid(unsafe_code)]

pub mod admission;
#[cfg(feature = "advise")]
pub mod advise;
pub mod agent;
pub mod authz;
pub mod conn;
pub mod durable;
pub mod effect;
pub mod exchange;
pub mod http;
pub mod identity;
mod json;
pub mod keeper;
pub mod limits;
pub mod policy;
pub mod refusals;
#[cfg(feature = "replay")]
pub mod replay;
pub mod report;
#[cfg(test)]
mod seeded;
pub mod sign;
pub mod suggest;
pub mod telemetry;
pub mod time;
