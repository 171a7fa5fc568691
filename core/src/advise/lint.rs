//! Whether a rules document says what its author means: what is wrong with it, where, and what to do.
//!
//! Everything that is wrong is found at once, with its place; whether a document is *taken* is nevertheless asked of those who take it
//! (`authz`), and what it would do is asked of the real decision.

mod code;
mod identities;
mod lockout;
mod names;
mod older;
mod privileges;
mod shape;
#[cfg(test)]
mod tests;
mod tree;
mod values;

pub use code::{Code, Severity};

use crate::authz::{Document, LocalRules, RuleLists};
use crate::identity::Destination;
use core::ops::Range;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tree::{At, Node};

/// Largest document. Bytes. A local file may not be larger, and a remote one comes in an answer that may not (W-07).
pub const MAX_BYTES: usize = 1024 * 1024;

/// So many lints of one code and severity are kept; of the others there is the number.
const MOST: usize = 100;
/// Longest message. Characters: names may be as long as a document.
const LONGEST: usize = 600;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The host's.
    Remote,
    /// The rule file of the machine's owner.
    Local,
}

impl Form {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
        }
    }

    /// What it looks like: a local file has no mode, and names that nothing else has.
    #[must_use]
    pub fn guess(bytes: &[u8], file_name: &str) -> Self {
        if destination_of_file(file_name).is_some() {
            return Self::Local;
        }
        let Some(text) = core::str::from_utf8(bytes.strip_prefix(BOM).unwrap_or(bytes)).ok() else { return Self::Remote };
        let root = Node::read(text);
        let is_object = matches!(root.value, tree::Value::Object(_));
        if is_object && root.member("mode").is_none() && shape::wrapper(&root).is_none() { Self::Local } else { Self::Remote }
    }
}

/// The destination whose local file has that name.
#[must_use]
pub fn destination_of_file(file_name: &str) -> Option<Destination> {
    Destination::ALL.into_iter().find(|destination| LocalRules::file_name(*destination) == Some(file_name))
}

/// The endpoint that the paths of a document are about, if they tell.
#[must_use]
pub fn guess_destination(bytes: &[u8]) -> Option<Destination> {
    let text = core::str::from_utf8(bytes.strip_prefix(BOM).unwrap_or(bytes)).ok()?;
    let root = Node::read(text);
    let at = At::default().member("rules").member("privileges");
    let tree::Value::Array(privileges) = &root.get(&at)?.value else { return None };
    let paths = privileges.iter().filter_map(|privilege| privilege.member("path")?.node.text());
    paths.filter_map(|path| endpoint_of(&path.to_ascii_lowercase())).next()
}

/// The endpoint that has a path which no other has.
fn endpoint_of(path: &str) -> Option<Destination> {
    match path.trim_start_matches('/').split('/').next()? {
        "metadata" => Some(Destination::Imds),
        "machine" => Some(Destination::WireServer),
        "vmsettings" | "extensionartifact" | "vmagentlog" => Some(Destination::HostGaPlugin),
        _ => None,
    }
}

/// What is known of a document besides its text.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What it is.
    pub form: Form,
    /// Whom it is for, if that is known: then what only matters there is looked at, too.
    pub destination: Option<Destination>,
    /// The machine that it is for, if this is it.
    pub machine: Option<&'a dyn Machine>,
}

/// What a machine knows about its accounts and programs. `None`: it cannot tell.
pub trait Machine {
    /// The user id of an account.
    fn user(&self, name: &str) -> Option<Account>;
    /// The id of a group.
    fn group(&self, name: &str) -> Option<Account>;
    /// What is at an absolute path.
    fn program(&self, path: &str) -> Option<Program>;
}

/// An answer about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Nobody has it.
    Missing,
    /// Its id.
    Id(u32),
}

/// An answer about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Nothing is there.
    Missing,
    /// Something that cannot be run.
    NotRunnable,
    /// A program whose real path is another one: a link is on the way.
    LinkTo(String),
    /// A program.
    Here,
}

/// Something about a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lint {
    /// What kind of thing.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What it is: a sentence without full stop, names quoted and escaped.
    pub message: String,
    /// Where: `rules.privileges[3].path`; empty for the document as a whole.
    pub place: String,
    /// Its bytes in the file; `None` if it is not at a place.
    pub span: Option<Range<usize>>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// All that there is to say about a document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// In the order of the text.
    pub lints: Vec<Lint>,
    /// How many there are besides, of codes of which there are very many.
    pub omitted: usize,
}

impl Report {
    /// How many there are of a severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.lints.iter().filter(|lint| lint.severity == severity).count()
    }
}

/// Looks at a document.
#[must_use]
pub fn lint(bytes: &[u8], options: &Options<'_>) -> Report {
    let mut linter = Linter { base: 0, root: Node::read(""), options: *options, lints: Vec::new(), counts: BTreeMap::new() };
    linter.document(bytes);
    let omitted = linter.counts.values().map(|count| count.saturating_sub(MOST)).sum();
    let mut lints = linter.lints;
    // The worst first where the place is the same; stable, so that the rest stays in the order in which it was found.
    lints.sort_by_key(|lint| (lint.span.as_ref().map(|span| span.start), core::cmp::Reverse(lint.severity)));
    Report { lints, omitted }
}

struct Linter<'o> {
    /// Bytes before the text: the byte order mark.
    base: usize,
    root: Node,
    options: Options<'o>,
    lints: Vec<Lint>,
    counts: BTreeMap<(Code, Severity), usize>,
}

/// The members that mean something, as written. Both forms have one shape, but for what is required.
#[derive(Debug)]
struct Draft {
    default_access: Option<String>,
    mode: Option<String>,
    id: Option<String>,
    rules: Option<RuleLists>,
}

impl Linter<'_> {
    fn document(&mut self, bytes: &[u8]) {
        if bytes.len() > MAX_BYTES {
            let what = format!("the document is larger than {MAX_BYTES} bytes");
            return self.bytes(Code::TooLarge, 0..0, what, "no larger one is taken; is this a rules document?");
        }
        let rest = bytes.strip_prefix(BOM).unwrap_or(bytes);
        self.base = bytes.len() - rest.len();
        let text = match core::str::from_utf8(rest) {
            Ok(text) => text,
            Err(e) => {
                let at = self.base + e.valid_up_to();
                let what = format!("not UTF-8: the byte at offset {at} belongs to no character");
                return self.bytes(Code::NotUtf8, at..at + 1, what, "save it as UTF-8 text");
            }
        };
        if let Err(e) = serde_json::from_str::<IgnoredAny>(text) {
            return self.syntax(text, &e);
        }
        self.root = Node::read(text);
        self.shape();
        if self.is_wrong() {
            return;
        }
        if let Some(draft) = self.draft(text) {
            self.values(&draft);
            self.names(&draft);
            self.identities(&draft);
            self.privileges(&draft);
        }
        // What was found is for people; whether it is taken is not decided here.
        match self.taken(text) {
            // Where nothing is allowed at all, that has been said.
            Ok(_) if self.lints.iter().any(|lint| lint.code == Code::FaultyPrivilege) => {}
            Ok(document) => self.lockouts(&document),
            Err((at, what)) if !self.is_wrong() => {
                let at = self.base + at;
                self.bytes(Code::Refused, at..at + 1, what, "look the form up in docs/rules.md");
            }
            Err(_) => {}
        }
    }

    /// Reads it as the agent does; if that fails, where and why.
    fn taken(&self, text: &str) -> Result<Document, (usize, String)> {
        let refused = |e: serde_json::Error| (offset(text, &e).saturating_sub(1), words(&e));
        match self.options.form {
            Form::Remote => serde_json::from_str(text).map_err(refused),
            Form::Local => {
                LocalRules::parse(text.as_bytes()).map_err(|e| {
                    let lines = text.split_inclusive('\n').take(e.place.map_or(1, |place| place.line) - 1);
                    (lines.map(str::len).sum(), e.to_string())
                })?;
                serde_json::from_str(text).and_then(|file| alone(&file)).map_err(refused)
            }
        }
    }

    fn draft(&self, text: &str) -> Option<Draft> {
        let member = |name: &str| self.root.member(name).and_then(|member| member.node.text()).map(str::to_owned);
        let rules = match self.root.member("rules") {
            Some(rules) => serde_json::from_str(text.get(rules.node.span.clone())?).ok()?,
            None => None,
        };
        Some(Draft { default_access: member("defaultAccess"), mode: member("mode"), id: member("id"), rules })
    }

    fn syntax(&mut self, text: &str, error: &serde_json::Error) {
        let what = words(error);
        let at = offset(text, error).saturating_sub(1);
        let before = text.as_bytes().get(..at).unwrap_or_default().trim_ascii_end().last();
        let hint = match what.as_str() {
            _ if matches!(text.as_bytes().get(at), Some(b'/' | b'#')) => "comments are not JSON",
            _ if before == Some(&b',') && matches!(text.as_bytes().get(at), Some(b'}' | b']')) => "remove the comma before this",
            w if w.starts_with("EOF") && text.trim().is_empty() => "the document is empty",
            w if w.starts_with("EOF") => "it ends too early: is a brace, a bracket or a quote missing at its end?",
            w if w.starts_with("expected `,`") => "is a comma missing before this?",
            w if w.starts_with("key must be a string") => "names stand in double quotes",
            w if w.starts_with("trailing characters") => "remove what follows the closing brace",
            w if w.starts_with("control character") => "a string ends on the line on which it begins; write \\n and \\t",
            _ => "it must be plain JSON: double quotes, no comments, no comma after the last one",
        };
        let at = self.base + at;
        self.bytes(Code::NotJson, at..at + 1, what, hint);
    }

    fn is_wrong(&self) -> bool {
        self.lints.iter().any(|lint| lint.severity == Severity::Error)
    }

    /// Something about bytes that are no JSON, or about the document as a whole.
    fn bytes(&mut self, code: Code, span: Range<usize>, message: String, hint: &str) {
        let (place, severity) = (String::new(), Severity::Error);
        self.lints.push(Lint { code, severity, message, place, span: Some(span), hint: Some(hint.to_owned()) });
    }

    /// Something at a place.
    fn at(&mut self, severity: Severity, code: Code, at: &At, message: String, hint: impl Into<Option<String>>) {
        // To look for a place costs more than to count.
        let span = if self.is_full(severity, code) { 0..0 } else { self.root.find(at) };
        self.here(severity, code, at, span, message, hint);
    }

    /// Whether there are so many of the kind that further ones are only counted.
    fn is_full(&self, severity: Severity, code: Code) -> bool {
        self.counts.get(&(code, severity)).is_some_and(|count| *count >= MOST)
    }

    /// The same, of bytes that are known: of two members of one name, a place is that of the last.
    fn here(
        &mut self,
        severity: Severity,
        code: Code,
        at: &At,
        span: Range<usize>,
        message: String,
        hint: impl Into<Option<String>>,
    ) {
        let full = self.is_full(severity, code);
        *self.counts.entry((code, severity)).or_default() += 1;
        if full {
            return;
        }
        let span = self.base + span.start..self.base + span.end;
        let mut message = message;
        if let Some((end, _)) = message.char_indices().nth(LONGEST) {
            message.truncate(end);
            message.push('…');
        }
        self.lints.push(Lint { code, severity, message, place: at.to_string(), span: Some(span), hint: hint.into() });
    }

    fn error(&mut self, code: Code, at: &At, message: String, hint: impl Into<Option<String>>) {
        self.at(Severity::Error, code, at, message, hint);
    }

    fn warn(&mut self, code: Code, at: &At, message: String, hint: impl Into<Option<String>>) {
        self.at(Severity::Warning, code, at, message, hint);
    }

    fn note(&mut self, code: Code, at: &At, message: String, hint: impl Into<Option<String>>) {
        self.at(Severity::Info, code, at, message, hint);
    }

    /// Something that makes a local file invalid, and of which a remote document only bears the consequences.
    fn strict(&mut self, remote: Severity, code: Code, at: &At, message: String, hint: impl Into<Option<String>>) {
        let severity = if self.is_local() { Severity::Error } else { remote };
        self.at(severity, code, at, message, hint);
    }

    fn is_local(&self) -> bool {
        self.options.form == Form::Local
    }
}

/// What a local rule file comes to where the host's document says as little as possible.
fn alone(file: &Map<String, Value>) -> Result<Document, serde_json::Error> {
    let mut document = Map::new();
    let member = |name: &str| file.get(name).filter(|value| !value.is_null()).cloned();
    let access = member("defaultAccess").and_then(|word| Some(word.as_str()?.trim().to_owned()));
    document.insert("defaultAccess".into(), access.unwrap_or_else(|| "allow".into()).into());
    document.insert("mode".into(), "enforce".into());
    document.insert("id".into(), "".into());
    if let Some(Value::Object(mut rules)) = member("rules") {
        for list in ["privileges", "roles", "identities", "roleAssignments"] {
            let value = rules.entry(list).or_insert(Value::Null);
            if value.is_null() {
                *value = Value::Array(Vec::new());
            }
        }
        document.insert("rules".into(), Value::Object(rules));
    }
    serde_json::from_value(Value::Object(document))
}

/// How far the JSON library had read. Bytes.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    (lines.map(str::len).sum::<usize>() + error.column()).min(text.len())
}

/// What the JSON library says, without the place.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
}

/// A hint.
fn hint(text: &str) -> Option<String> {
    Some(text.to_owned())
}
