//! placeholder
pub mod accounts;
pub mod console;
pub mod files;
pub mod keystore;
pub mod logfile;
pub mod notify;
#[cfg(test)]
pub(crate) mod scratch;
mod sys;
