//! stub
/// Why a request has no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanonError {
    /// x
    Scheme,
}
impl CanonError {
    /// Stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        "CANON_SCHEME"
    }
}
/// Working memory of canonicalization.
#[derive(Debug, Default)]
pub struct Scratch {}
