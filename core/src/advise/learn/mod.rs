//! From a recording to the rules that a person would have written for it.
//!
//! Each request becomes one rule: who (user and program), and what (a path with everything below it, and the parameters that say what is
//! asked for). At endpoints that we know (`endpoints`) the path is the table's, elsewhere the one that was asked for, up to a segment
//! that a machine made up. Then rules that a wider one of the same recording contains go, and at last those that nothing needs: the
//! daemon's own decision says which. What is wider than what was seen is told in the notes; so is whatever nobody can learn.
//!
//! The host plug-in has no document of its own: it takes the WireServer's (W-41). So what it was asked for is learned into that one.
//!
//! Parameters that choose nothing an owner would guard are left free: `api-version` and `format` shape the answer, and an update of a
//! client changes them; `incarnation`, nonces and hashes change by themselves; `client_id`, `object_id` and `msi_res_id` choose among the
//! machine's identities ([`Options::keep`] holds them, or any other, to the values that were seen).

mod build;
mod endpoints;
mod names;
mod observe;
mod report;
#[cfg(test)]
mod tests;

pub(super) use endpoints::SELECTIVE;
pub use report::{Grant, Learned, LeftOut, Lesson, Why};

use super::recording::Recorded;
use crate::authz::Mode;
use crate::identity::Destination;
use crate::time::Wall;
use build::Builder;
use endpoints::Endpoint;
use observe::Ask;
use std::collections::{BTreeMap, BTreeSet};

/// What to learn, and how to write it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Only requests since then.
    pub since: Option<Wall>,
    /// Only requests of that account.
    pub user: Option<String>,
    /// Only requests to that endpoint.
    pub destination: Option<Destination>,
    /// Rules that fewer requests support are left out.
    pub min_count: u64,
    /// The mode of the documents.
    pub mode: Mode,
    /// Whether what no rule matches is allowed: rules then only keep others from what they name.
    pub default_allow: bool,
    /// Write local rule files, which have no mode.
    pub local: bool,
    /// The id of the documents; `learned-<destination>` if it is not given.
    pub id: Option<String>,
    /// One identity for a program, whoever runs it.
    pub merge_users: bool,
    /// Learn also what rules denied in mode enforce.
    pub denied: bool,
    /// Parameters that are held to the values that were seen, beside those that say what is asked for.
    pub keep: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            since: None,
            user: None,
            destination: None,
            min_count: 1,
            mode: Mode::Audit,
            default_allow: false,
            local: false,
            id: None,
            merge_users: false,
            denied: false,
            keep: Vec::new(),
        }
    }
}

impl Options {
    /// Whose document decides about requests to an endpoint: the host plug-in has the WireServer's, but not its local file (W-41).
    fn document_of(&self, destination: Destination) -> Destination {
        let own = self.local || self.destination == Some(Destination::HostGaPlugin);
        match destination {
            Destination::HostGaPlugin if !own => Destination::WireServer,
            destination => destination,
        }
    }
}

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who {
    /// The account; `None`: whoever runs the program.
    user: Option<String>,
    /// The executable; `None`: whatever the user runs.
    program: Option<String>,
}

impl Who {
    /// Whether everybody whom `other` means is meant.
    fn covers(&self, other: &Self) -> bool {
        (self.user.is_none() || self.user == other.user) && (self.program.is_none() || self.program == other.program)
    }
}

/// What a rule allows, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct What {
    segments: Vec<String>,
    constraints: BTreeMap<String, String>,
}

impl What {
    /// Whether everything that `other` allows is allowed.
    fn covers(&self, other: &Self) -> bool {
        other.segments.starts_with(&self.segments)
            && self.constraints.iter().all(|(name, value)| other.constraints.get(name) == Some(value))
    }
}

/// How a rule came about, and how it is written.
#[derive(Debug, Clone)]
struct Origin {
    /// The path, as a person would write it.
    path: String,
    name: String,
    purpose: &'static str,
    /// The rule says more than the table or the requests did.
    wider: Option<String>,
    /// It is for an endpoint of the table.
    known: bool,
}

/// Rules of one destination under construction.
type Rules = BTreeMap<(Who, What), Vec<Ask>>;

/// More different paths than this in one place are one rule for all of them.
const SIBLINGS: usize = 4;

/// A path as recorded, with `*` for what a machine made up.
pub(super) fn lasting_path(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let lasting = segments.map(|segment| if endpoints::is_volatile(segment) { "*" } else { segment });
    format!("/{}", lasting.collect::<Vec<_>>().join("/"))
}

/// Learns from the requests of a recording.
#[must_use]
pub fn learn(requests: &[Recorded], options: &Options) -> Lesson {
    let mut lesson = Lesson::default();
    let mut observed: BTreeMap<Destination, Rules> = BTreeMap::new();
    let mut origins: BTreeMap<(Destination, What), Origin> = BTreeMap::new();
    let mut observer = observe::Observer::new(options);
    for request in requests.iter().filter(|request| observe::is_meant(request, options)) {
        lesson.requests += 1;
        match observer.observe(request) {
            Ok((asked, who, what, origin)) => {
                let destination = options.document_of(asked);
                origins.entry((destination, what.clone())).or_insert(origin);
                let asks = observed.entry(destination).or_default().entry((who, what)).or_default();
                // Rules can tell users apart even where this one does not.
                match asks.iter_mut().find(|ask| ask.caller.user == request.caller.user && ask.to == asked) {
                    Some(ask) => ask.again(request),
                    None => asks.push(Ask::new(request, asked)),
                }
            }
            Err(why) => lesson.leave_out(request, why),
        }
    }
    for (destination, rules) in observed {
        let rules = gather(destination, rules, &mut origins);
        let rules = dominant(rules);
        let (rules, rare) = frequent(rules, options.min_count);
        for ask in rare.iter().flatten() {
            lesson.leave_out_many(destination, ask, Why::Rare(options.min_count));
        }
        if !rules.is_empty() {
            lesson.documents.push(Builder { destination, options, origins: &origins }.build(rules));
        }
    }
    lesson
}

/// Many different paths in one place, at endpoints that we do not know, become one rule for the place: never if an endpoint that we know
/// lies there.
fn gather(destination: Destination, rules: Rules, origins: &mut BTreeMap<(Destination, What), Origin>) -> Rules {
    let mut places: BTreeMap<(Who, What), BTreeSet<What>> = BTreeMap::new();
    for (who, what) in rules.keys() {
        let known = origins.get(&(destination, what.clone())).is_some_and(|origin| origin.known);
        if let Some((_, parent)) = what.segments.split_last().filter(|(_, parent)| !known && !parent.is_empty()) {
            let place = What { segments: parent.to_vec(), constraints: what.constraints.clone() };
            places.entry((who.clone(), place)).or_default().insert(what.clone());
        }
    }
    places.retain(|(_, place), paths| paths.len() > SIBLINGS && !Endpoint::any_below(destination, &place.segments));
    if destination == Destination::WireServer {
        places.retain(|(_, place), _| !Endpoint::any_below(Destination::HostGaPlugin, &place.segments));
    }
    let mut out = Rules::new();
    for ((who, what), asks) in rules {
        let place = places.iter().find(|((whose, _), paths)| *whose == who && paths.contains(&what));
        let Some(((_, place), paths)) = place else {
            out.entry((who, what)).or_default().extend(asks);
            continue;
        };
        if let Some(origin) = origins.get(&(destination, what)).cloned() {
            let path = origin.path.rsplit_once('/').map_or("/", |(parent, _)| parent);
            let wider = format!("everything below {path}: {} different paths were asked for", paths.len());
            let name = names::of_path(&place.segments, &place.constraints);
            let origin = Origin { path: path.to_owned(), name, wider: Some(wider), ..origin };
            origins.entry((destination, place.clone())).or_insert(origin);
        }
        out.entry((who, place.clone())).or_default().extend(asks);
    }
    out
}

/// Without rules that another one contains: their requests are the other's.
fn dominant(rules: Rules) -> Rules {
    let keys: Vec<(Who, What)> = rules.keys().cloned().collect();
    let mut out = Rules::new();
    for (key, asks) in rules {
        let (who, what) = &key;
        // Two that contain each other are equal, and keys are not.
        let wider = |(by, of): &&(Who, What)| by.covers(who) && of.covers(what);
        let widest = keys
            .iter()
            .filter(wider)
            .min_by_key(|(by, of)| (by.program.is_some(), by.user.is_some(), of.segments.len(), of.constraints.len()));
        out.entry(widest.cloned().unwrap_or(key)).or_default().extend(asks);
    }
    out
}

/// Those that enough requests support, and the requests of the others.
fn frequent(rules: Rules, least: u64) -> (Rules, Vec<Vec<Ask>>) {
    let mut rare = Vec::new();
    let mut out = Rules::new();
    for (key, asks) in rules {
        if asks.iter().map(|ask| ask.requests).sum::<u64>() < least {
            rare.push(asks);
        } else {
            out.insert(key, asks);
        }
    }
    (out, rare)
}
