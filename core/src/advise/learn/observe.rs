//! What one recorded request says about rules.

use super::endpoints::{Endpoint, SELECTIVE, is_volatile};
use super::{Options, Origin, What, Who, Why, names};
use crate::advise::recording::{Caller, Outcome, Program, Recorded};
use crate::authz::canonical::{self, Canonical};
use crate::authz::{CanonError, Request, Scratch, raw_path, traversal_guard};
use crate::identity::Destination;
use crate::sign;
use crate::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Requests that mean the same to the rules: one of them, and how many there were.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) to: Destination,
    pub(super) caller: Arc<Caller>,
    pub(super) method: String,
    pub(super) url: String,
    pub(super) requests: u64,
    /// Of them, those that the host answered with success or a redirect.
    pub(super) answered: u64,
    /// Of them, those that rules denied when they were recorded.
    pub(super) denied: u64,
    pub(super) first: Option<Wall>,
    pub(super) last: Option<Wall>,
    /// What interpreters ran.
    pub(super) scripts: BTreeSet<String>,
    pub(super) uids: BTreeSet<u32>,
}

impl Ask {
    pub(super) fn new(recorded: &Recorded, to: Destination) -> Self {
        let mut ask = Self {
            to,
            caller: Arc::clone(&recorded.caller),
            method: recorded.method.clone(),
            url: recorded.url.clone(),
            requests: 0,
            answered: 0,
            denied: 0,
            first: None,
            last: None,
            scripts: BTreeSet::new(),
            uids: BTreeSet::new(),
        };
        ask.again(recorded);
        ask
    }

    pub(super) fn again(&mut self, recorded: &Recorded) {
        self.requests += 1;
        self.answered += u64::from((200..400).contains(&recorded.status));
        self.denied += u64::from(matches!(recorded.decision, Outcome::Audit | Outcome::Deny));
        self.first = self.first.into_iter().chain(recorded.time).min();
        self.last = self.last.max(recorded.time);
        self.scripts.extend(names::script(&recorded.caller));
        self.uids.insert(recorded.caller.user_id);
    }

    pub(super) const fn request(&self) -> Request<'_> {
        Request { method: self.method.as_bytes(), target: self.url.as_bytes() }
    }
}

/// Whether the request is among those that shall be learned from.
pub(super) fn is_meant(recorded: &Recorded, options: &Options) -> bool {
    options.since.is_none_or(|since| recorded.time.is_none_or(|time| time >= since))
        && options.user.as_ref().is_none_or(|user| *user == recorded.caller.user)
        && options.destination.is_none_or(|wanted| recorded.destination().map(|asked| options.document_of(asked)) == Some(wanted))
}

pub(super) struct Observer<'o> {
    options: &'o Options,
    scratch: Scratch,
}

impl<'o> Observer<'o> {
    pub(super) fn new(options: &'o Options) -> Self {
        Self { options, scratch: Scratch::new() }
    }

    /// Whose request it is and which rule allows it.
    pub(super) fn observe(&mut self, recorded: &Recorded) -> Result<(Destination, Who, What, Origin), Why> {
        let caller = &*recorded.caller;
        let destination = recorded.destination().ok_or(Why::Destination)?;
        if !caller.known {
            return Err(Why::NoCaller);
        }
        let Request { method, target } = recorded.request();
        // What the proxy looks at before any rule, in its order (PX-19, PX-44, PX-66, PX-67).
        if !canonical::METHODS.iter().any(|known| known.as_bytes() == method) {
            return Err(Why::Method);
        }
        if traversal_guard(raw_path(target)) {
            return Err(Why::Traversal);
        }
        if caller.claims().is_elevated() {
            if sign::is_exempt(method, target) {
                return Err(Why::Exempt);
            }
        } else if destination.elevated_only() {
            return Err(Why::Elevation);
        }
        if recorded.may_be_cut() {
            return Err(Why::Shortened);
        }
        let canonical = canonical::check(method, target, &mut self.scratch).map_err(|error| Why::Canonical(error.code()))?;
        if canonical.is_ambiguous() {
            return Err(Why::Canonical(CanonError::Ambiguous.code()));
        }
        match recorded.decision {
            Outcome::Allow | Outcome::Audit => {}
            Outcome::Deny if self.options.denied => {}
            Outcome::Deny => return Err(Why::Denied),
            Outcome::Refused | Outcome::Passed => return Err(Why::Undecided),
        }
        let who = who(caller, self.options)?;
        let (what, origin) = what(destination, canonical, target, self.options)?;
        Ok((destination, who, what, origin))
    }
}

fn who(caller: &Caller, options: &Options) -> Result<Who, Why> {
    // What the log could not write as it is cannot be compared with either.
    let is_text = |text: &str| !text.trim().is_empty() && !text.contains(char::REPLACEMENT_CHARACTER);
    let program = match &caller.program {
        Program::Path(path) if is_text(path) => Some(path.clone()),
        _ => None,
    };
    if options.merge_users && program.is_some() {
        return Ok(Who { user: None, program });
    }
    if !is_text(&caller.user) {
        return Err(Why::Name);
    }
    Ok(Who { user: Some(caller.user.clone()), program })
}

fn what(destination: Destination, request: Canonical<'_>, target: &[u8], options: &Options) -> Result<(What, Origin), Why> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let asked: Vec<String> = request.segments().map(text).collect();
    let mut parameters: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, value) in request.parameters() {
        parameters.entry(text(name)).or_default().insert(text(value));
    }
    let endpoint = Endpoint::of(destination, &asked);
    let mut constraints = BTreeMap::new();
    let by = endpoint.map_or(&SELECTIVE[..], |endpoint| endpoint.by);
    for name in by.iter().copied().chain(options.keep.iter().map(String::as_str)) {
        let name = name.to_ascii_lowercase();
        let values = parameters.get(&name);
        // A rule that lets the parameter be anything would open the others too.
        if values.is_some_and(|values| values.len() > 1) {
            return Err(Why::Conflicting(name));
        }
        if let Some(value) = values.and_then(BTreeSet::first).filter(|value| !value.trim().is_empty()) {
            constraints.insert(name, value.clone());
        } else if let Some(first) = endpoint.and_then(|e| e.by.first()).filter(|first| **first == name) {
            return Err(Why::Incomplete(first));
        }
    }
    let Some(endpoint) = endpoint else {
        let end = asked.iter().position(|segment| is_volatile(segment)).unwrap_or(asked.len());
        let cut = asked.get(..end).unwrap_or_default();
        // Not so far up that something else is opened, too.
        let stays = cut.is_empty() || Endpoint::any_below(destination, cut);
        let segments = if stays { asked.clone() } else { cut.to_vec() };
        let path = spelled(&segments, target);
        let wider = (segments.len() < asked.len()).then(|| format!("everything below {path}: what follows looks made up"));
        let name = names::of_path(&segments, &constraints);
        return Ok((What { segments, constraints }, Origin { path, name, purpose: names::OTHER, wider, known: false }));
    };
    let segments = endpoint.segments().map(str::to_ascii_lowercase).collect();
    let (name, purpose) = names::of_endpoint(endpoint, &constraints);
    let origin = Origin { path: endpoint.path.to_owned(), name, purpose, wider: None, known: true };
    Ok((What { segments, constraints }, origin))
}

/// The path in the spelling of the request, if that is plain; in canonical form otherwise.
fn spelled(segments: &[String], target: &[u8]) -> String {
    let raw = String::from_utf8_lossy(raw_path(target));
    let pieces: Vec<&str> = raw.split('/').filter(|piece| !piece.is_empty()).collect();
    let same = pieces.len() >= segments.len() && segments.iter().zip(&pieces).all(|(s, p)| s.eq_ignore_ascii_case(p));
    let mut path = String::new();
    for (at, segment) in segments.iter().enumerate() {
        path.push('/');
        match pieces.get(at).filter(|_| same) {
            Some(piece) => path.push_str(piece),
            None => path.push_str(&escaped(segment, b"%#?;")),
        }
    }
    if path.is_empty() { "/".to_owned() } else { path }
}

/// Canonical text as a document has it, where it is decoded once more.
pub(super) fn escaped(text: &str, special: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(byte) if special.contains(&byte) => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(c),
        }
    }
    out
}
