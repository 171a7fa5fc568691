//! What a person would call it.

use super::endpoints::{self, Endpoint};
use super::{What, Who};
use crate::advise::recording::{Caller, Program};
use std::collections::{BTreeMap, BTreeSet};

/// The purpose of what is at an endpoint that we do not know.
pub(super) const OTHER: &str = "other";

/// Programs that are something else with every script: a rule for them means all scripts of the user.
const INTERPRETERS: [&str; 10] = ["python", "perl", "ruby", "node", "bash", "dash", "sh", "java", "php", "pwsh"];

/// Whether the program at that path runs whatever it is told to.
pub(super) fn is_interpreter(path: &str) -> bool {
    let name = last(path).trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    INTERPRETERS.contains(&name)
}

/// Last component of a path.
fn last(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// What an interpreter was told to run, by the first words of its command line.
pub(super) fn script(caller: &Caller) -> Option<String> {
    let Program::Path(path) = &caller.program else { return None };
    if !is_interpreter(path) {
        return None;
    }
    let mut words = caller.command_line.split_ascii_whitespace().skip(1);
    let word = loop {
        match words.next()? {
            // The text of the program itself, or its standard input.
            "-c" | "-e" | "-" => return None,
            "-m" | "-jar" => break words.next()?,
            word if word.starts_with('-') => {}
            word => break word,
        }
    };
    let name = last(word);
    let name = [".py", ".pl", ".rb", ".js", ".mjs", ".sh", ".jar", ".java", ".php"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    // Cut or redacted words are no names.
    (!name.is_empty() && !name.contains(['*', '\u{FFFD}', '.'])).then(|| slug(name))
}

/// Letters, digits, points and dashes.
pub(super) fn slug(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(60) {
        let c = if c.is_alphanumeric() || matches!(c, '.' | '_') { c } else { '-' };
        if c != '-' || !(out.is_empty() || out.ends_with('-')) {
            out.push(c);
        }
    }
    let end = out.trim_end_matches(['-', '.']).len();
    out.truncate(end);
    if out.is_empty() { "x".to_owned() } else { out }
}

/// Name and purpose of a privilege at an endpoint that we know.
pub(super) fn of_endpoint(endpoint: &Endpoint, constraints: &BTreeMap<String, String>) -> (String, &'static str) {
    let mut own: Vec<&str> = endpoint.by.iter().filter_map(|name| constraints.get(*name)).map(String::as_str).collect();
    let mut name = endpoint.name.to_owned();
    let mut purpose = endpoint.purpose;
    if let Some(value) = own.pop() {
        match (endpoints::component(value), endpoint.by) {
            (_, ["resource", ..]) => {
                let audience = endpoints::resource(value).map_or_else(|| slug(host(value)), str::to_owned);
                name = format!("{name}-{audience}");
            }
            (Some((_, known, what)), _) => (name, purpose) = (known.to_owned(), what),
            (None, _) => name = slug(value),
        }
    }
    let others = constraints.iter().filter(|(name, _)| !endpoint.by.contains(&name.as_str()));
    (others.fold(name, |name, (_, value)| format!("{name}-{}", slug(value))), purpose)
}

/// Name of a privilege at any other path.
pub(super) fn of_path(segments: &[String], constraints: &BTreeMap<String, String>) -> String {
    // All paths of IMDS begin with it.
    let segments = segments.strip_prefix(&["metadata".to_owned()]).filter(|rest| !rest.is_empty()).unwrap_or(segments);
    let name = if segments.is_empty() { "root".to_owned() } else { slug(&segments.join("-")) };
    constraints.values().fold(name, |name, value| format!("{name}-{}", slug(host(value))))
}

fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().filter(|host| !host.is_empty()).unwrap_or(rest)
}

/// Value of a constraint as a document has it: in the usual spelling, if there is one.
pub(super) fn value(name: &str, value: &str) -> String {
    let known = matches!(name, "comp" | "type").then(|| endpoints::component(value)).flatten();
    known.map_or_else(|| super::observe::escaped(value, b"%+"), |(spelling, ..)| spelling.to_owned())
}

/// Hands out names, each once.
#[derive(Debug, Default)]
pub(super) struct Taken(BTreeSet<String>);

impl Taken {
    pub(super) fn name(&mut self, wish: &str) -> String {
        let numbered = (2u32..).map(|n| format!("{wish}-{n}"));
        let name = std::iter::once(wish.to_owned()).chain(numbered).find(|name| !self.0.contains(name));
        let name = name.unwrap_or_default();
        self.0.insert(name.clone());
        name
    }
}

/// Name of an identity: the program or the one or two scripts that it runs; with the user, unless that is root.
pub(super) fn of_identity(who: &Who, scripts: &BTreeSet<String>) -> String {
    let scripts: Vec<&str> = scripts.iter().map(String::as_str).collect();
    let program = who.program.as_deref().map(|path| match scripts.as_slice() {
        [one] => (*one).to_owned(),
        [one, other] => format!("{one}-and-{other}"),
        _ => slug(last(path)),
    });
    match (who.user.as_deref(), program) {
        (Some("root") | None, Some(program)) => program,
        (Some(user), Some(program)) if slug(user) == program => program,
        (Some(user), Some(program)) => format!("{}-{program}", slug(user)),
        (Some(user), None) => format!("{}-any-program", slug(user)),
        (None, None) => "everyone".to_owned(),
    }
}

/// Name of a role by what it is good for; `None` if that is too much, or nobody knows.
pub(super) fn of_role(purposes: &BTreeSet<&str>) -> Option<String> {
    let purposes: Vec<&str> = purposes.iter().copied().collect();
    match purposes.as_slice() {
        purposes if purposes.contains(&OTHER) => None,
        [one] => Some((*one).to_owned()),
        [one, other] => Some(format!("{one}-and-{other}")),
        _ => None,
    }
}

/// A rule in words.
pub(super) fn in_words(path: &str, what: &What) -> String {
    let query = what.constraints.iter().map(|(name, val)| format!("{name}={}", value(name, val)));
    let query: Vec<String> = query.collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}
