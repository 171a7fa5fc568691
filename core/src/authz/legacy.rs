//! The older matcher, as deployed agents have it (rules.md section 3.1): it compares a lower-cased path by characters where the
//! canonical one goes by segments. Nothing is ever decided by it. It is kept so that what it would have said can be reported: for a
//! request, and for a rule that its author may have read the older way.

use super::decision::{Allowed, Decision, Denial};
use super::document::{self, Document};
use super::selector::Selectors;
use super::{Mode, Request};
use crate::identity::{Claims, Destination, PerDestination};
use crate::sign::target::Target;
use core::net::SocketAddrV4;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// Longest target in a line, as in a record (PX-96). Bytes, before escaping.
const LONGEST: usize = 4096;

/// The values of `canonicalRequestMode`. They change nothing about decisions; all but `Off` have differences to the older
/// matcher logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CanonicalMode {
    /// `off`, a missing member, or an unknown word.
    #[default]
    Off,
    /// `shadow`.
    Shadow,
    /// `enforce`.
    Enforce,
}

impl CanonicalMode {
    /// Reads the word, letter case and blanks around it ignored; `None` for one that we do not know.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Off, Self::Shadow, Self::Enforce].into_iter().find(|mode| word.trim().eq_ignore_ascii_case(mode.word()))
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }
}

/// A document as the older matcher reads it.
#[derive(Debug, Clone)]
pub struct Legacy {
    id: Box<str>,
    default_allow: bool,
    privileges: Box<[Privilege]>,
    roles: BTreeMap<Box<str>, Box<[Selectors]>>,
}

#[derive(Debug, Clone)]
struct Privilege {
    /// Lower-cased, otherwise as written.
    path: Box<str>,
    /// Names and values, both lower-cased.
    constraints: Box<[(Box<str>, Box<str>)]>,
    /// The roles that it is in.
    roles: Box<[Box<str>]>,
}

impl Legacy {
    /// Compiles a document. What has no canonical form is no fault here: it matches by its letters.
    #[must_use]
    pub fn compile(document: &Document) -> Self {
        let (privileges, roles) = document.rules.as_ref().and_then(compile_lists).unwrap_or_default();
        Self {
            id: document.id.as_str().into(),
            default_allow: document.default_access.eq_ignore_ascii_case("allow"),
            privileges,
            roles,
        }
    }

    /// Whether the older matcher would allow the request, whatever the mode is.
    #[must_use]
    pub fn allows(&self, claims: &Claims, request: Request<'_>) -> bool {
        let asked = Asked::new(request.target);
        let mut matched = false;
        for privilege in self.privileges.iter().filter(|privilege| asked.matches(privilege)) {
            matched = true;
            let mut callers = privilege.roles.iter().filter_map(|role| self.roles.get(role)).flatten();
            if callers.any(|selectors| selectors.match_caller(claims)) {
                return true;
            }
        }
        !matched && self.default_allow
    }
}

type Lists = (Box<[Privilege]>, BTreeMap<Box<str>, Box<[Selectors]>>);

fn compile_lists(lists: &document::RuleLists) -> Option<Lists> {
    // All four or none; of a name the last definition.
    let privileges = lists.privileges.as_ref()?.iter().map(|p| (&*p.name, p)).collect::<BTreeMap<_, _>>();
    let roles = lists.roles.as_ref()?.iter().map(|r| (&*r.name, r)).collect::<BTreeMap<_, _>>();
    let identities = lists.identities.as_ref()?.iter().map(|i| (&*i.name, i)).collect::<BTreeMap<_, _>>();
    let mut callers = BTreeMap::<&str, Vec<Selectors>>::new();
    for assignment in lists.role_assignments.as_ref()? {
        let named = assignment.identities.iter().filter_map(|name| identities.get(name.as_str()));
        callers.entry(&assignment.role).or_default().extend(named.map(|identity| Selectors::of(identity)));
    }
    let mut member_of = BTreeMap::<&str, Vec<Box<str>>>::new();
    for (name, role) in &roles {
        role.privileges.iter().for_each(|privilege| member_of.entry(privilege).or_default().push((*name).into()));
    }
    let lower = |text: &str| text.to_lowercase().into_boxed_str();
    let privileges = privileges.into_iter().map(|(name, privilege)| Privilege {
        path: lower(&privilege.path),
        constraints: privilege.query_parameters.iter().flat_map(|q| &q.0).map(|(n, v)| (lower(n), lower(v))).collect(),
        roles: member_of.remove(name).unwrap_or_default().into(),
    });
    let callers = callers.into_iter().filter(|(role, _)| roles.contains_key(role));
    Some((privileges.collect(), callers.map(|(role, callers)| (role.into(), callers.into())).collect()))
}

/// A request as the older matcher sees it.
struct Asked {
    path: String,
    /// The first value of each: those of the query come before those of a query inside the decoded path.
    parameters: BTreeMap<String, String>,
}

impl Asked {
    fn new(target: &[u8]) -> Self {
        // Scheme and authority do not matter.
        let target = Target::split(target);
        let path = if target.path.is_empty() { b"/" } else { target.path };
        let path = decode(path).into_owned();
        let (path, inner) = path.split_once('?').map_or((path.as_str(), ""), |(path, inner)| (path, inner));
        let mut parameters = BTreeMap::new();
        for query in [target.query.unwrap_or_default(), inner.as_bytes()] {
            for piece in query.split(|b| *b == b'&').filter(|piece| !piece.is_empty()) {
                let end = piece.iter().position(|b| *b == b'=').unwrap_or(piece.len());
                let (name, value) = piece.split_at(end);
                // A plus stays a plus.
                let lower = |raw: &[u8]| decode(raw).to_lowercase();
                parameters.entry(lower(name)).or_insert_with(|| lower(value.get(1..).unwrap_or_default()));
            }
        }
        Self { path: path.to_lowercase(), parameters }
    }

    fn matches(&self, privilege: &Privilege) -> bool {
        // Characters, not segments.
        self.path.starts_with(&*privilege.path)
            && privilege
                .constraints
                .iter()
                .all(|(name, value)| self.parameters.get(&**name).is_some_and(|first| **first == **value))
    }
}

/// Decodes once; invalid escapes stay as they are, invalid UTF-8 is replaced.
fn decode(raw: &[u8]) -> Cow<'_, str> {
    if !raw.contains(&b'%') {
        return String::from_utf8_lossy(raw);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        out.push(match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    high << 4 | low
                }
                _ => *first,
            },
            _ => *first,
        });
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// All documents in their older reading, for comparing decisions. There is none where nobody wants to know.
#[derive(Debug, Clone)]
pub struct Shadow {
    mode: CanonicalMode,
    documents: PerDestination<Option<Legacy>>,
}

impl Shadow {
    /// `None` if `mode` is off.
    #[must_use]
    pub fn new(mode: CanonicalMode, documents: &PerDestination<Option<Arc<Document>>>) -> Option<Self> {
        if mode == CanonicalMode::Off {
            return None;
        }
        // Where a document has no say, neither does its older reading.
        let consulted = |document: &Arc<Document>| matches!(Mode::parse(&document.mode), Some(Mode::Audit | Mode::Enforce));
        let compile = |document: Option<Arc<Document>>| document.filter(consulted).map(|document| Legacy::compile(&document));
        Some(Self { mode, documents: documents.clone().map(|_, document| compile(document)) })
    }

    /// The line for the log if a document decided, and the older matcher would have decided otherwise. It has no byte that
    /// could end it (SEC-07).
    #[must_use]
    pub fn divergence(&self, to: SocketAddrV4, claims: &Claims, request: Request<'_>, decision: Decision) -> Option<Box<str>> {
        let canonical = match decision {
            Decision::Allow(Allowed::Privilege(..) | Allowed::Default) => Ok(()),
            Decision::Audit(
                denial @ (Denial::Canonical(_) | Denial::NotAssigned(_) | Denial::ConflictingValues(_) | Denial::Default),
            )
            | Decision::Deny(
                denial @ (Denial::Canonical(_) | Denial::NotAssigned(_) | Denial::ConflictingValues(_) | Denial::Default),
            ) => Err(denial),
            // No document had a say.
            Decision::Allow(Allowed::Exempt | Allowed::NoDocument | Allowed::Disabled)
            | Decision::Audit(Denial::Destination | Denial::Elevation)
            | Decision::Deny(Denial::Destination | Denial::Elevation) => return None,
        };
        let legacy = self.documents.get(Destination::from_addr(to)?).as_ref()?;
        let allowed = legacy.allows(claims, request);
        if allowed == canonical.is_ok() {
            return None;
        }
        let mut line = format!("CANON_DIVERGENCE mode={} rule_set={} legacy=", self.mode.word(), Bare(&legacy.id));
        let older = if allowed { "allow" } else { "deny" };
        let _ = match canonical.map_err(|denial| denial.canonical_error()) {
            Ok(()) => write!(line, "{older} canon=allow"),
            Err(None) => write!(line, "{older} canon=deny"),
            Err(Some(error)) => write!(line, "{older} canon=error:{error}"),
        };
        let target = Target::split(request.target);
        let _ = write!(line, " uri=\"{}", target.path.get(..LONGEST).unwrap_or(target.path).escape_ascii());
        if let Some(query) = target.query {
            let room = LONGEST.saturating_sub(target.path.len());
            let _ = write!(line, "?{}", query.get(..room).unwrap_or(query).escape_ascii());
        }
        line.push('"');
        Some(line.into())
    }
}

/// A name without quotes, such that what follows it can be told from it.
struct Bare<'a>(&'a str);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            c if c.is_whitespace() || c.is_control() => write!(f, "{}", c.escape_unicode()),
            // Also what a terminal takes for a command, or a reader for the end of a line.
            c => write!(f, "{}", c.escape_debug()),
        })
    }
}

#[cfg(test)]
mod tests;
