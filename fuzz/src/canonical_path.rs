//! Canonicalization is total and idempotent, and a warm scratch gives what a fresh one gives.

use azure_proxy_agent_core::authz::canonical::{Scratch, check};

/// The input is a request target.
pub fn run(target: &[u8]) {
    let mut scratch = Scratch::new();
    let once = form(target, &mut scratch);
    // Leftovers of an earlier request do not show.
    assert_eq!(form(target, &mut scratch), once);
    let Ok((text, segments, parameters)) = once else { return };
    assert!(segments.iter().all(|s| !matches!(s.as_slice(), b"." | b"..") && !s.contains(&b'/')), "{segments:?}");
    let again = form(text.as_bytes(), &mut Scratch::new());
    assert_eq!(again, Ok((text, segments, parameters)), "canonicalized twice");
}

type Form = (String, Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

fn form(target: &[u8], scratch: &mut Scratch) -> Result<Form, String> {
    let canonical = check(b"GET", target, scratch).map_err(|e| e.code().to_owned())?;
    let segments = canonical.segments().map(<[u8]>::to_vec).collect();
    let parameters = canonical.parameters().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    Ok((canonical.to_string(), segments, parameters))
}
