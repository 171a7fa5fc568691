//! placeholder
pub mod files;
pub mod logfile;
#[cfg(test)]
pub(crate) mod scratch;
