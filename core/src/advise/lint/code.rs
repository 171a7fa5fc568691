//! The kinds of lints, by the words that programs know them by.

use core::fmt;
use core::str::FromStr;
use serde::{Serialize, Serializer};

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; it may well be meant.
    Info,
    /// It does what it says, which is hardly what is meant.
    Warning,
    /// The document is not taken, or does harm.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Makes the enum, its words and its list of one table.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        /// What kind of thing a lint is about. The words do not change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

codes! {
    /// Longer than any document that is taken.
    TooLarge = "too-large",
    /// Bytes that are no text.
    NotUtf8 = "not-utf8",
    /// Text that is no JSON.
    NotJson = "not-json",
    /// A value of another type than its member has.
    WrongType = "wrong-type",
    /// A required member that is not there.
    MissingMember = "missing-member",
    /// A member that is there twice.
    DuplicateMember = "duplicate-member",
    /// The agent refuses it for a reason that has no word here.
    Refused = "refused",
    /// A member that means nothing and is ignored.
    UnknownMember = "unknown-member",
    /// A member that means nothing in this form of document.
    IgnoredMember = "ignored-member",
    /// `defaultAccess` is neither `allow` nor `deny`.
    BadDefaultAccess = "bad-default-access",
    /// A mode that we do not know: nothing is denied.
    UnknownMode = "unknown-mode",
    /// The mode says that nothing is denied.
    ModeDisabled = "mode-disabled",
    /// A text that must not be blank is.
    Blank = "blank",
    /// Not all four lists are there: there are no privileges.
    IncompleteLists = "incomplete-lists",
    /// A name that is defined more than once.
    DuplicateName = "duplicate-name",
    /// A name that is not defined.
    UndefinedName = "undefined-name",
    /// A name that is in a list twice.
    RepeatedName = "repeated-name",
    /// A role without privileges, or an assignment without identities.
    EmptyList = "empty-list",
    /// Something that is defined and never used.
    UnusedName = "unused-name",
    /// A privilege that has no canonical form: nothing at all is allowed.
    FaultyPrivilege = "faulty-privilege",
    /// A privilege whose path or constraints no request can have.
    UnreachablePrivilege = "unreachable-privilege",
    /// A privilege that nobody is assigned to: it locks its path.
    UnassignedPrivilege = "unassigned-privilege",
    /// A privilege that changes nothing: a wider one has the same identities.
    CoveredPrivilege = "covered-privilege",
    /// A privilege that takes nothing away from those whom a wider one lets through.
    WiderPrivilege = "wider-privilege",
    /// A constraint with an empty name, which is ignored.
    IgnoredConstraint = "ignored-constraint",
    /// A path that another endpoint has.
    OtherEndpoint = "other-endpoint",
    /// A privilege that older agents read otherwise.
    ReadDifferently = "read-differently",
    /// An identity that matches everyone.
    MatchesEveryone = "matches-everyone",
    /// An identity that can match nobody.
    MatchesNobody = "matches-nobody",
    /// An identity that many callers can take on.
    WeakIdentity = "weak-identity",
    /// A text whose letters may be others than they look.
    LooksAlike = "looks-alike",
    /// An identity that is never elevated, for an endpoint that only elevated callers reach.
    NotElevated = "not-elevated",
    /// An account that this machine does not have.
    UnknownAccount = "unknown-account",
    /// A program that this machine does not have at this path.
    UnknownProgram = "unknown-program",
    /// The guest agent is refused what it needs.
    LocksOutGuestAgent = "locks-out-guest-agent",
    /// cloud-init is refused what it needs.
    LocksOutCloudInit = "locks-out-cloud-init",
    /// Whoever provisions ssh keys is refused what it needs.
    LocksOutSshKeys = "locks-out-ssh-keys",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Code {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|code| code.word() == word).ok_or(())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}
