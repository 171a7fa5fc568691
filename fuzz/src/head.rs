//! Request and response heads: the verdict does not depend on how the bytes were cut, and every span lies in the head.

use azure_proxy_agent_core::http::head::Scanned;
use azure_proxy_agent_core::http::{HeadError, HeadScan, RequestHead, ResponseHead};
use azure_proxy_agent_core::limits::Limits;

const LIMITS: Limits = Limits { head: 2048, target: 512, fields: 20, response_head: 2048, ..Limits::DEFAULT };

/// The first byte is the step in which the rest arrives.
pub fn run(data: &[u8]) {
    let Some((step, raw)) = data.split_first() else { return };
    let step = usize::from(*step).max(1);
    for read in [request, response] {
        assert_eq!(read(raw, step), read(raw, raw.len().max(1)), "cut every {step} bytes");
    }
}

/// What becomes of a head: not all there yet, refused, or what was read of it.
type Verdict = Result<Option<String>, HeadError>;

fn request(raw: &[u8], step: usize) -> Verdict {
    let scan = |scan: &mut HeadScan, raw: &[u8]| scan.request(raw, &LIMITS);
    let Some(head) = in_steps(raw, step, scan)? else { return Ok(None) };
    let mut fields = Vec::new();
    let request = RequestHead::parse(head, &mut fields, LIMITS.fields)?;
    assert!(fields.len() <= LIMITS.fields && request.len == head.len());
    assert!(head.starts_with(request.method.get(head)) && !request.target.get(head).is_empty());
    assert!(!request.target.get(head).iter().any(|b| matches!(b, b' ' | b'\r' | b'\n')), "a target is one word");
    Ok(Some(format!("{request:?} {fields:?}")))
}

fn response(raw: &[u8], step: usize) -> Verdict {
    let scan = |scan: &mut HeadScan, raw: &[u8]| scan.response(raw, &LIMITS);
    let Some(head) = in_steps(raw, step, scan)? else { return Ok(None) };
    let response = ResponseHead::parse(head, raw.len().is_multiple_of(2), LIMITS.fields)?;
    assert!((100..600).contains(&response.status) && response.len == head.len());
    Ok(Some(format!("{response:?}")))
}

/// The head at the beginning of `raw`, which arrives `step` bytes at a time.
fn in_steps(
    raw: &[u8],
    step: usize,
    scan: impl Fn(&mut HeadScan, &[u8]) -> Result<Scanned, HeadError>,
) -> Result<Option<&[u8]>, HeadError> {
    let mut progress = HeadScan::default();
    let mut end = 0;
    loop {
        end = (end + step).min(raw.len());
        match scan(&mut progress, &raw[..end])? {
            Scanned::Complete(len) => return Ok(Some(&raw[..len])),
            Scanned::Partial if end == raw.len() => return Ok(None),
            Scanned::Partial => {}
        }
    }
}
