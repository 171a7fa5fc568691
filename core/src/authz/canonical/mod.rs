//! The canonical form of a request (rules.md section 6), by which it is matched. Only decisions use it: what is forwarded and
//! signed is the original target.
//!
//! Total: every input has a canonical form or an error, and an error denies. All work is done in a [`Scratch`] that is reused,
//! so that a warm one allocates nothing.

mod authority;
mod decode;
mod path;
pub(super) mod query;
#[cfg(feature = "advise")]
mod trace;

#[cfg(test)]
mod tests;

pub(super) use query::component;
#[cfg(feature = "advise")]
pub use trace::{Step, trace};

use crate::identity::Destination;
use crate::sign::target::{Form, Target};
use core::fmt;
use path::Path;
use query::Query;

/// Methods that have a canonical form (R-161, PX-19); compared exactly.
pub const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];

/// Capacity in bytes that a scratch keeps from one request to the next.
const KEPT: usize = 4096;

/// Why a request has no canonical form. In the order of the stages that find them: the first stage that fails decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CanonError {
    /// Neither origin form nor `http`.
    Scheme,
    /// Method not on the list.
    Method,
    /// User information in the authority.
    UserInfo,
    /// Malformed host.
    Host,
    /// Malformed port.
    Port,
    /// `%` without two hex digits.
    Percent,
    /// Overlong UTF-8.
    Overlong,
    /// Not UTF-8.
    Utf8,
    /// Control character.
    Control,
    /// Not ASCII, in a path.
    NonAscii,
    /// `?` in a decoded path.
    EmbeddedQuery,
    /// `..` above the root.
    Underflow,
    /// A host might read the path in more than one way.
    Ambiguous,
}

impl CanonError {
    /// The code that goes into logs; a contract with those who read them.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Scheme => "CANON_SCHEME",
            Self::Method => "CANON_METHOD",
            Self::UserInfo => "CANON_USERINFO",
            Self::Host => "CANON_HOST",
            Self::Port => "CANON_PORT",
            Self::Percent => "CANON_PCT",
            Self::Overlong => "CANON_OVERLONG",
            Self::Utf8 => "CANON_UTF8",
            Self::Control => "CANON_CTRL",
            Self::NonAscii => "CANON_NON_ASCII",
            Self::EmbeddedQuery => "CANON_EMBQ",
            Self::Underflow => "CANON_UNDERFLOW",
            Self::Ambiguous => "CANON_AMBIGUOUS",
        }
    }
}

impl fmt::Display for CanonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl core::error::Error for CanonError {}

/// Working memory, and the canonical form of the request that was looked at last. One per connection or thread.
#[derive(Debug, Default)]
pub struct Scratch {
    path: Path,
    query: Query,
    destination: Option<Destination>,
}

impl Scratch {
    /// Empty; grows with the first requests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives memory back that an unusually large request made it take.
    pub fn trim(&mut self) {
        self.path.trim(KEPT);
        self.query.trim(KEPT);
    }
}

/// The canonical form of a request.
#[derive(Debug, Clone, Copy)]
pub struct Canonical<'a> {
    scratch: &'a Scratch,
}

impl<'a> Canonical<'a> {
    /// The path's segments after the root.
    pub fn segments(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.scratch.path.segments()
    }

    /// Whether the raw path ended with a slash. Takes no part in decisions.
    #[must_use]
    pub const fn trailing_slash(&self) -> bool {
        self.scratch.path.trailing_slash()
    }

    /// Names and values of the parameters, in order of appearance. A decision takes them as a set.
    pub fn parameters(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.scratch.query.pairs()
    }

    /// What the authority of an absolute-form target says; `None` is `unknown`. Recorded, never used to choose a
    /// document.
    #[must_use]
    pub const fn destination(&self) -> Option<Destination> {
        self.scratch.destination
    }

    /// Whether a host that decodes twice, takes `\` for a slash or drops final dots would see another path.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.segments().any(|s| s.iter().any(|b| matches!(b, b'%' | b'\\')) || matches!(s, [.., b'.' | b' ']))
    }

    pub(super) const fn path(&self) -> &'a Path {
        &self.scratch.path
    }

    pub(super) const fn query(&self) -> &'a Query {
        &self.scratch.query
    }
}

/// The canonical form as a target in origin form: canonicalizing it again gives the same form.
impl fmt::Display for Canonical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut any = false;
        for segment in self.segments() {
            any = true;
            f.write_char('/')?;
            escape(f, segment, b"#?;")?;
        }
        if !any || self.trailing_slash() {
            f.write_char('/')?;
        }
        let mut separator = '?';
        for (name, value) in self.parameters() {
            f.write_char(separator)?;
            separator = '&';
            escape(f, name, b"#&=+")?;
            f.write_char('=')?;
            escape(f, value, b"#&=+")?;
        }
        Ok(())
    }
}

/// Writes text with controls, blanks, percent signs and `special` percent-encoded.
fn escape(f: &mut fmt::Formatter<'_>, text: &[u8], special: &[u8]) -> fmt::Result {
    // Canonical text is UTF-8, or there was an error.
    for character in core::str::from_utf8(text).unwrap_or_default().chars() {
        match u8::try_from(character) {
            Ok(byte) if byte <= b' ' || byte == 0x7F || byte == b'%' || special.contains(&byte) => write!(f, "%{byte:02X}")?,
            _ => fmt::Write::write_char(f, character)?,
        }
    }
    Ok(())
}

/// Brings a request into its canonical form, without the check for ambiguity.
///
/// # Errors
/// The error of the first stage that fails.
pub fn check<'a>(method: &[u8], target: &[u8], scratch: &'a mut Scratch) -> Result<Canonical<'a>, CanonError> {
    scratch.trim();
    let target = Target::split(target);
    scratch.path.clear();
    scratch.query.clear();
    scratch.destination = None;
    let authority = match target.form {
        Form::Origin | Form::Asterisk => None,
        Form::Absolute { scheme, authority } if scheme.eq_ignore_ascii_case(b"http") => Some(authority),
        Form::Absolute { .. } | Form::Other => return Err(CanonError::Scheme),
    };
    if !METHODS.iter().any(|m| m.as_bytes() == method) {
        return Err(CanonError::Method);
    }
    if let Some(authority) = authority {
        scratch.destination = authority::classify(authority)?;
    }
    scratch.path.read(target.path)?;
    scratch.query.read(target.query.unwrap_or_default())?;
    Ok(Canonical { scratch })
}

/// Brings the path of a privilege into canonical form: the joined segments, each after a slash.
pub(super) fn privilege_path(raw: &str) -> Result<Box<[u8]>, CanonError> {
    let mut path = Path::default();
    path.read(raw.as_bytes())?;
    Ok(path.joined().into())
}
