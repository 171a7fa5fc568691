//! What somebody should know about a document.

use super::CanonError;
use super::document::Document;
use core::fmt;

/// Something about a document that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The mode word is unknown and counts as `disabled`.
    UnknownMode {
        /// The word.
        word: Box<str>,
    },
    /// Not all four lists are present: there are no privileges, only default access.
    IncompleteLists,
    /// A role assignment names a role that is not defined, and is skipped.
    UndefinedRole {
        /// The role's name.
        role: Box<str>,
    },
    /// A privilege has no canonical form: the whole document has no privileges and denies.
    FaultyPrivilege {
        /// The privilege's name.
        privilege: Box<str>,
        /// Where the fault is.
        part: Part,
        /// What it is.
        error: CanonError,
    },
    /// A member is not known and changes nothing.
    UnknownMember {
        /// Where it is.
        element: Element,
        /// Its name.
        member: Box<str>,
    },
    /// An identity has members, but no selector that we know: it matches everyone, which is hardly what was meant.
    Everyone {
        /// The identity's name.
        identity: Box<str>,
        /// A member that is not known.
        member: Box<str>,
    },
    /// A selector can be equal to nothing: its identity matches nobody.
    FaultySelector {
        /// The identity's name.
        identity: Box<str>,
        /// The selector.
        selector: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// Where something is in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// At the top.
    Document,
    /// In `rules`.
    Rules,
    /// In the privilege of that name.
    Privilege(Box<str>),
    /// In the role of that name.
    Role(Box<str>),
    /// In the identity of that name.
    Identity(Box<str>),
    /// In that role assignment, counted from 0.
    Assignment(usize),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document => f.write_str("the document"),
            Self::Rules => f.write_str("rules"),
            Self::Privilege(name) => write!(f, "privilege {name:?}"),
            Self::Role(name) => write!(f, "role {name:?}"),
            Self::Identity(name) => write!(f, "identity {name:?}"),
            Self::Assignment(at) => write!(f, "role assignment {at}"),
        }
    }
}

/// Notes every member that means nothing to us.
pub(super) fn unknown_members(document: &Document, findings: &mut Vec<Finding>) {
    let mut note = |unknown: &super::Unknown, element: &dyn Fn() -> Element| {
        findings.extend(unknown.names().map(|name| Finding::UnknownMember { element: element(), member: name.into() }));
    };
    note(&document.unknown, &|| Element::Document);
    let Some(lists) = &document.rules else { return };
    note(&lists.unknown, &|| Element::Rules);
    for privilege in lists.privileges.iter().flatten() {
        note(&privilege.unknown, &|| Element::Privilege(privilege.name.as_str().into()));
    }
    for role in lists.roles.iter().flatten() {
        note(&role.unknown, &|| Element::Role(role.name.as_str().into()));
    }
    for identity in lists.identities.iter().flatten() {
        note(&identity.unknown, &|| Element::Identity(identity.name.as_str().into()));
    }
    for (at, assignment) in lists.role_assignments.iter().flatten().enumerate() {
        note(&assignment.unknown, &|| Element::Assignment(at));
    }
}

/// A part of a privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its path.
    Path,
    /// The name of a query parameter.
    ParameterName,
    /// The value of a query parameter.
    ParameterValue,
}

impl Finding {
    /// How loudly to say it.
    #[must_use]
    pub const fn level(&self) -> log::Level {
        match self {
            Self::IncompleteLists | Self::UnknownMember { .. } => log::Level::Warn,
            Self::UnknownMode { .. }
            | Self::UndefinedRole { .. }
            | Self::FaultyPrivilege { .. }
            | Self::Everyone { .. }
            | Self::FaultySelector { .. } => log::Level::Error,
        }
    }
}

/// One line; names are quoted and escaped, because they come from outside (SEC-07).
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMode { word } => write!(f, "unknown mode {word:?} counts as disabled"),
            Self::IncompleteLists => f.write_str("not all four rule lists are present: only default access counts"),
            Self::UndefinedRole { role } => write!(f, "role assignment names the undefined role {role:?}"),
            Self::FaultyPrivilege { privilege, part, error } => {
                let part = match part {
                    Part::Path => "path",
                    Part::ParameterName => "name of a query parameter",
                    Part::ParameterValue => "value of a query parameter",
                };
                write!(f, "privilege {privilege:?}: its {part} has no canonical form ({error}); all requests are denied")
            }
            Self::UnknownMember { element, member } => {
                write!(f, "{element}: the member {member:?} is not known and changes nothing")
            }
            Self::Everyone { identity, member } => {
                write!(f, "identity {identity:?} matches everyone: {member:?} is no selector that is known, and it has no other")
            }
            Self::FaultySelector { identity, selector, expected } => {
                write!(f, "identity {identity:?} matches nobody: its {selector} is not {expected}")
            }
        }
    }
}
