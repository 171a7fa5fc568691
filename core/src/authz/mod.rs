//! Authorization.
/// A compiled document.
#[derive(Debug)]
pub struct Rules {}
