//! The stages of rules.md section 6 one by one, for people: what came in, what it became, where it failed. What decides is [`check`];
//! this asks it for the outcome and the parts that it is made of for what lies between.

use super::decode::percent;
use super::path::Path;
use super::{CanonError, Scratch, check, component};
use crate::sign::target::{Form, Target};
use serde::{Serialize, Serializer};

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its number in the specification.
    pub number: &'static str,
    /// What is done, in a few words.
    pub stage: &'static str,
    /// What came in. Bytes that are no printable text are escaped.
    #[serde(rename = "in")]
    pub before: String,
    /// What it became, or why the request has no canonical form. An error is the last step.
    #[serde(flatten, serialize_with = "outcome")]
    pub after: Result<String, CanonError>,
}

fn outcome<S: Serializer>(after: &Result<String, CanonError>, serializer: S) -> Result<S::Ok, S::Error> {
    match after {
        Ok(text) => serializer.collect_map([("out", text.as_str())]),
        Err(error) => serializer.collect_map([("error", error.code())]),
    }
}

/// Every stage that a request goes through, to its canonical form or to the error that it has instead; the check for ambiguity
/// is the last one.
#[must_use]
pub fn trace(method: &[u8], target: &[u8]) -> Vec<Step> {
    let mut scratch = Scratch::new();
    let outcome = check(method, target, &mut scratch);
    let (error, ambiguous) = (outcome.err(), outcome.is_ok_and(|canonical| canonical.is_ambiguous()));
    let canonical = outcome.map(|canonical| canonical.to_string()).unwrap_or_default();
    let parts = Target::split(target);
    // The two share errors.
    let in_query = Path::default().read(parts.path).is_ok();
    let mut trace = Trace { steps: Vec::new(), failing: error.map(|error| (number(error, in_query), error)) };

    let whole = target.split(|b| *b == b'#').next().unwrap_or_default();
    if whole.len() < target.len() {
        trace.step("W-54", "fragment cut off", target, show(whole));
    }
    let (form, authority) = match parts.form {
        Form::Origin => ("none: origin form".to_owned(), None),
        Form::Asterisk => ("none: asterisk form".to_owned(), None),
        Form::Absolute { scheme, authority } => (show(scheme), Some(authority)),
        Form::Other => (String::new(), None),
    };
    trace.step("R-160", "scheme", whole, form);
    trace.step("R-161", "method", method, show(method));
    if let Some(authority) = authority {
        trace.step("R-162", "authority without user information", authority, show(authority));
        trace.step("R-173", "host", authority, show(authority));
        trace.step("R-171", "port", authority, show(authority));
        let named = scratch.destination.map_or("unknown", crate::identity::Destination::name);
        trace.step("R-174", "endpoint that it names: recorded, not used", authority, named.to_owned());
    }
    trace.path(parts.path);
    if let Some(query) = parts.query {
        trace.query(query);
    }
    if error.is_none() {
        let after = if ambiguous { Err(CanonError::Ambiguous) } else { Ok(canonical.clone()) };
        trace.steps.push(Step { number: "R-84", stage: "one reading only", before: canonical, after });
    }
    trace.steps
}

/// The stage that an error comes from.
const fn number(error: CanonError, in_query: bool) -> &'static str {
    match error {
        CanonError::Scheme => "R-160",
        CanonError::Method => "R-161",
        CanonError::UserInfo => "R-162",
        CanonError::Port => "R-171",
        CanonError::Host => "R-173",
        CanonError::Percent | CanonError::Utf8 | CanonError::Control if in_query => "R-191",
        CanonError::Percent => "R-181",
        CanonError::Overlong | CanonError::Utf8 => "R-182",
        CanonError::Control => "R-183",
        CanonError::NonAscii => "R-184",
        CanonError::EmbeddedQuery => "R-185",
        CanonError::Underflow => "R-187",
        CanonError::Ambiguous => "R-84",
    }
}

struct Trace {
    steps: Vec<Step>,
    /// Where it ends, and why.
    failing: Option<(&'static str, CanonError)>,
}

impl Trace {
    /// Whether the stage that fails is among the steps.
    fn ended(&self) -> bool {
        self.steps.last().is_some_and(|step| step.after.is_err())
    }

    fn step(&mut self, number: &'static str, stage: &'static str, before: &[u8], after: String) {
        if !self.ended() {
            let after = match self.failing {
                Some((failing, error)) if failing == number => Err(error),
                _ => Ok(after),
            };
            self.steps.push(Step { number, stage, before: show(before), after });
        }
    }

    fn path(&mut self, raw: &[u8]) {
        let raw = if raw.is_empty() { b"/" } else { raw };
        let (mut decoded, mut path) = (Vec::new(), Path::default());
        let _ = percent(raw, b'+', &mut decoded);
        let _ = path.read(raw);
        self.step("R-181", "path percent-decoded once", raw, show(&decoded));
        self.step("R-182", "UTF-8", &decoded, show(&decoded));
        self.step("R-183", "no control characters", &decoded, show(&decoded));
        self.step("R-184", "ASCII only", &decoded, show(&decoded));
        self.step("R-185", "no question mark", &decoded, show(&decoded));
        let lower = decoded.to_ascii_lowercase();
        self.step("R-186", "letters to lower case", &decoded, show(&lower));
        let mut joined = path.joined().to_owned();
        if joined.is_empty() || path.trailing_slash() {
            joined.push(b'/');
        }
        self.step("R-187", "segments without parameters, . and ..", &lower, show(&joined));
    }

    fn query(&mut self, raw: &[u8]) {
        for piece in raw.split(|b| *b == b'&').filter(|piece| !piece.is_empty()) {
            if self.ended() {
                return;
            }
            let end = piece.iter().position(|b| *b == b'=').unwrap_or(piece.len());
            let (name, value) = piece.split_at(end);
            let (mut canonical_name, mut canonical_value) = (Vec::new(), Vec::new());
            let read = component(name, &mut canonical_name)
                .and_then(|()| component(value.get(1..).unwrap_or_default(), &mut canonical_value));
            let after = read.map(|()| {
                if canonical_name.is_empty() {
                    //
                    "dropped: no name".to_owned()
                } else {
                    format!("{} = {:?}", show(&canonical_name), String::from_utf8_lossy(&canonical_value))
                }
            });
            self.steps.push(Step { number: "R-191", stage: "parameter decoded once, to lower case", before: show(piece), after });
        }
    }
}

/// Text as it is, anything else escaped.
fn show(bytes: &[u8]) -> String {
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(text) => text.chars().flat_map(char::escape_debug).collect(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(method: &str, target: &str) -> (&'static str, Result<String, CanonError>) {
        let step = trace(method.as_bytes(), target.as_bytes()).pop().unwrap();
        (step.number, step.after)
    }

    /// the last step is what decides, and every error is at its stage.
    #[test]
    fn r160_to_r193_the_trace_ends_as_the_check_does() {
        for (method, target, number, code) in [
            ("GET", "ftp://h/", "R-160", "CANON_SCHEME"),
            ("BREW", "/", "R-161", "CANON_METHOD"),
            ("GET", "http://u@h/", "R-162", "CANON_USERINFO"),
            ("GET", "http://abc/", "R-173", "CANON_HOST"),
            ("GET", "http://h:z/", "R-171", "CANON_PORT"),
            ("GET", "/%", "R-181", "CANON_PCT"),
            ("GET", "/%C0", "R-182", "CANON_OVERLONG"),
            ("GET", "/%80", "R-182", "CANON_UTF8"),
            ("GET", "/%01", "R-183", "CANON_CTRL"),
            ("GET", "/%C3%A9", "R-184", "CANON_NON_ASCII"),
            ("GET", "/%3F", "R-185", "CANON_EMBQ"),
            ("GET", "/..", "R-187", "CANON_UNDERFLOW"),
            ("GET", "/?a=1&b=%", "R-191", "CANON_PCT"),
            ("GET", "/?a=%80", "R-191", "CANON_UTF8"),
            ("GET", "/?%01", "R-191", "CANON_CTRL"),
            ("GET", "/a.", "R-84", "CANON_AMBIGUOUS"),
        ] {
            let (stage, after) = last(method, target);
            assert_eq!((stage, after.unwrap_err().code()), (number, code), "{method} {target}");
        }
        let all = "http://169.254.169.254/Metadata/./x/../%49nstance;v=1//?API-Version=2021+02&&=x&F=%4A#frag";
        assert_eq!(last("GET", all), ("R-84", Ok("/metadata/instance/?api-version=2021%2002&f=j".into())));
    }

    /// whatever comes, the steps end in the outcome of the check, and only there is an error.
    #[test]
    fn r167_traces_of_anything_agree_with_the_check() {
        let pieces =
            ["/", "a", "B", "..", ".", ";x", "%2F", "%", "%80", "%41", "?", "&", "=", "#", "http://h", "%3F", "é", "\\", "+"];
        let mut state = 7u64;
        let mut scratch = Scratch::new();
        for _ in 0..20_000 {
            let mut target = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                target.push_str(pieces[usize::try_from(state >> 33).unwrap() % pieces.len()]);
            }
            let steps = trace(b"GET", target.as_bytes());
            let expected = match check(b"GET", target.as_bytes(), &mut scratch) {
                Ok(canonical) if canonical.is_ambiguous() => Err(CanonError::Ambiguous),
                Ok(canonical) => Ok(canonical.to_string()),
                Err(error) => Err(error),
            };
            assert_eq!(steps.last().unwrap().after, expected, "{target}: {steps:#?}");
            assert!(steps.iter().rev().skip(1).all(|step| step.after.is_ok()), "{target}: {steps:#?}");
        }
    }
}
