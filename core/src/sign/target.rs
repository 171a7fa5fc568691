//! The parts of a request target (RFC 9112 section 3.2). One splitter for signing and authorization: what is authorized and what
//! is signed must never be cut at different places (SEC-05).

/// A request target in its parts, all raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Which form it has.
    pub(crate) form: Form<'a>,
    /// The path; may be empty in absolute form.
    pub(crate) path: &'a [u8],
    /// What follows the first `?`, if there is one.
    pub(crate) query: Option<&'a [u8]>,
}

/// The form of a request target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form<'a> {
    /// Begins with a slash.
    Origin,
    /// Begins with `scheme://authority`.
    Absolute {
        /// Before the colon.
        scheme: &'a [u8],
        /// Between the two slashes and the path.
        authority: &'a [u8],
    },
    /// A lone `*`.
    Asterisk,
    /// None of these: no request that we forward has such a target.
    Other,
}

impl<'a> Target<'a> {
    /// Splits a target. Total: anything has parts, also what no parser lets through. A fragment is cut off first (W-54): who reads
    /// requests does so too, but what is signed and authorized must not depend on it.
    pub(crate) fn split(target: &'a [u8]) -> Self {
        let target = target.split(|b| *b == b'#').next().unwrap_or_default();
        let (form, rest) = match target {
            [b'/', ..] => (Form::Origin, target),
            b"*" => (Form::Asterisk, target),
            _ => Self::absolute(target).unwrap_or((Form::Other, target)),
        };
        match rest.iter().position(|b| *b == b'?') {
            Some(at) => {
                let (path, query) = rest.split_at(at);
                Self { form, path, query: query.get(1..) }
            }
            None => Self { form, path: rest, query: None },
        }
    }

    fn absolute(target: &'a [u8]) -> Option<(Form<'a>, &'a [u8])> {
        let colon = target.iter().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')))?;
        let (scheme, rest) = target.split_at(colon);
        let rest = rest.strip_prefix(b"://")?;
        scheme.first().filter(|b| b.is_ascii_alphabetic())?;
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        Some((Form::Absolute { scheme, authority }, rest))
    }

    /// The path as it is signed: an empty one is the root (W-54).
    pub(crate) const fn path_or_root(&self) -> &'a [u8] {
        if self.path.is_empty() { b"/" } else { self.path }
    }
}

#[cfg(test)]
mod tests {
    use super::{Form, Target};

    #[test]
    fn forms_of_w54() {
        let t = Target::split(b"/a?b?c");
        assert_eq!((t.form, t.path, t.query), (Form::Origin, &b"/a"[..], Some(&b"b?c"[..])));
        let t = Target::split(b"http://h:80?x");
        assert_eq!(t.form, Form::Absolute { scheme: b"http", authority: b"h:80" });
        assert_eq!((t.path, t.path_or_root(), t.query), (&b""[..], &b"/"[..], Some(&b"x"[..])));
        assert_eq!(Target::split(b"*").form, Form::Asterisk);
        for other in [&b"h:80"[..], b"http:/a", b"://h/", b"1http://h/", b"", b"a?b://c", b"*x"] {
            assert_eq!(Target::split(other).form, Form::Other, "{}", other.escape_ascii());
        }
        let t = Target::split(b"http://h#/a?b");
        assert_eq!((t.form, t.path, t.query), (Form::Absolute { scheme: b"http", authority: b"h" }, &b""[..], None));
        assert_eq!(Target::split(b"/a#?b").path, b"/a");
        // A slash first: never absolute, whatever follows.
        assert_eq!(Target::split(b"/http://h/").form, Form::Origin);
    }
}
