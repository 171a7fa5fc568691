//! placeholder
#[cfg(test)]
pub(crate) mod scratch;
