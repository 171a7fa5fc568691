//! stub
use super::{Allowed, CanonError, Denial, Document, Request, Scratch};
use crate::identity::Claims;
/// What a document does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is denied by rule.
    Disabled,
    /// Denials are recorded only.
    Audit,
    /// Denials are denials.
    Enforce,
}
/// A remark about a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {}
/// A compiled document.
#[derive(Debug)]
pub struct Rules {
    mode: Mode,
}
impl Rules {
    /// Compiles a document.
    #[must_use]
    pub fn compile(_document: &Document) -> (Self, Vec<Finding>) {
        (Self { mode: Mode::Enforce }, Vec::new())
    }
    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }
    pub(super) fn verdict(&self, _claims: &Claims, _request: Request<'_>, _scratch: &mut Scratch) -> Result<Allowed, Denial> {
        Err(Denial::Canonical(CanonError::Scheme))
    }
}
