//! Redaction of command lines (identity.md section 4).
/// Turns a raw argument vector into the text of I-32 to I-33a, redacted.
#[must_use]
pub fn command_line(_raw: Option<&[u8]>) -> Box<str> {
    "undefined".into()
}
