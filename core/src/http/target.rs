//! Request targets (RFC 9112 section 3.2): which bytes they may have, and their parts. Nothing is decoded here.

/// The parts of a request target that matter. Borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// What is forwarded and signed: everything but the fragment.
    pub whole: &'a [u8],
    /// The raw path: without authority and query; never empty for origin-form.
    pub path: &'a [u8],
    /// The raw query without `?`; `None` if there is none.
    pub query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    /// Splits a target and checks its bytes (PX-40). Accepts origin-form, absolute-form and `*`; cuts off a fragment (W-54).
    ///
    /// `None` if a byte is not allowed where it stands, or the form is none of these.
    #[must_use]
    pub fn parse(target: &'a [u8]) -> Option<Self> {
        let whole = match target.iter().position(|b| *b == b'#') {
            Some(at) => {
                let (whole, fragment) = target.split_at(at);
                fragment.iter().all(u8::is_ascii_graphic).then_some(whole)?
            }
            None => target,
        };
        if whole == b"*" {
            return Some(Self { whole, path: whole, query: None });
        }
        let rest = if whole.first() == Some(&b'/') { whole } else { after_authority(whole)? };
        let (path, query) = match rest.iter().position(|b| *b == b'?') {
            Some(at) => (rest.get(..at)?, Some(rest.get(at + 1..)?)),
            None => (rest, None),
        };
        let fine = path.iter().all(|b| path_byte(*b)) && query.unwrap_or_default().iter().all(|b| query_byte(*b));
        fine.then_some(Self { whole, path, query })
    }
}

/// Whether a target without fragment is exactly this path, and has no query; an empty query counts as none (PX-46).
#[must_use]
pub fn is_exactly(whole: &[u8], path: &[u8]) -> bool {
    whole.strip_suffix(b"?").unwrap_or(whole) == path
}

/// The text after `scheme://authority` of an absolute-form target.
fn after_authority(target: &[u8]) -> Option<&[u8]> {
    let colon = target.iter().position(|b| *b == b':')?;
    let (scheme, rest) = target.split_at(colon);
    let rest = rest.strip_prefix(b"://")?;
    let scheme_fine = scheme.first()?.is_ascii_alphabetic()
        && scheme.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    (scheme_fine && !authority.is_empty() && authority.iter().all(|b| authority_byte(*b))).then_some(rest)
}

const fn path_byte(b: u8) -> bool {
    matches!(b, 0x21 | 0x22 | 0x24..=0x3B | 0x3D | 0x40..=0x5F | 0x61..=0x7E)
}

const fn query_byte(b: u8) -> bool {
    matches!(b, 0x21 | 0x24..=0x3B | 0x3D | 0x3F..=0x7E)
}

/// RFC 3986 section 3.2 without judging further: what the bytes mean is the canonicalizer's business.
const fn authority_byte(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let t = Target::parse(b"/a/b?c=d?e").unwrap();
        assert_eq!((t.path, t.query), (&b"/a/b"[..], Some(&b"c=d?e"[..])));
        let t = Target::parse(b"http://169.254.169.254:80?x").unwrap();
        assert_eq!((t.path, t.query), (&b""[..], Some(&b"x"[..])));
        assert_eq!(Target::parse(b"*").unwrap().path, b"*");
        for bad in ["", "a/b", "example.com:443", "http:/x", "http:///x", "1http://a/x", "**", "http://a b/"] {
            assert_eq!(Target::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn fragment_is_cut_w54() {
        assert_eq!(Target::parse(b"/a?b#c?d").unwrap().whole, b"/a?b");
        assert_eq!(Target::parse(b"/#").unwrap().whole, b"/");
    }

    #[test]
    fn bytes_px40() {
        for b in 0..=255u8 {
            let path = Target::parse(&[b'/', b, b'x']).is_some();
            let expected = b == b'?' || b == b'#' || path_byte(b);
            assert_eq!(path, expected, "path byte {b:#x}");
            let query = Target::parse(&[b'/', b'?', b, b'x']).is_some();
            assert_eq!(query, b == b'#' || query_byte(b), "query byte {b:#x}");
        }
        assert!(!path_byte(b'`') && !path_byte(b'<') && path_byte(b'"') && !query_byte(b'"') && query_byte(b'`'));
    }

    #[test]
    fn local_endpoints_match_exactly_px46() {
        let is = |t: &str| is_exactly(Target::parse(t.as_bytes()).unwrap().whole, b"/provision");
        assert!(is("/provision") && is("/provision?"));
        assert!(!is("/provision?a") && !is("/provision/") && !is("/Provision") && !is("http://h/provision"));
    }
}
