//! From facts to claims.

use super::{KernelRecord, RawText, redact};
use crate::policy::Epoch;
use crate::time::Mono;
use core::cmp::Ordering;
use core::fmt;
use core::ops::BitOr;
use core::time::Duration;
use ring::digest::{Context, SHA256};
use serde::{Serialize, Serializer};

/// What could be established about the caller's executable after accept (I-27 to I-29).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExeFact {
    /// The process is still the one that connected, runs the same file, and the file at `path` in the agent's own mount
    /// namespace is that file.
    Verified(RawText),
    /// The same process and file, but `path` names another file (or none) in the agent's mount namespace (I-28).
    OtherMount(RawText),
    /// The process exited, executed another program since, or cannot be read (I-16).
    Gone,
}

/// Makes an [`ExeHash`].
pub struct ExeHasher(Context);

impl ExeHasher {
    /// Of nothing so far.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it is begun, not defaulted")]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Of that, too.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of everything.
    #[must_use]
    pub fn finish(self) -> ExeHash {
        let mut hash = [0; 32];
        // A SHA-256 is 32 bytes long.
        self.0.finish().as_ref().iter().zip(&mut hash).for_each(|(byte, to)| *to = *byte);
        ExeHash(hash)
    }
}

/// SHA-256 of an executable's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExeHash(pub [u8; 32]);

impl ExeHash {
    /// Reads 64 hexadecimal digits of either case.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
        let mut hash = [0; 32];
        if pairs.len() != hash.len() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(hash))
    }
}

/// 64 digits, lower-case.
impl fmt::Display for ExeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ExeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ExeHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Something about callers that is found out only when rules ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fact<T> {
    /// Nobody looked.
    #[default]
    NotAsked,
    /// It could not be established beyond doubt, or no rule could have made a difference of it.
    Unknown,
    /// This is it.
    Known(T),
}

impl<T> Fact<T> {
    /// What is known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(fact) => Some(fact),
            Self::NotAsked | Self::Unknown => None,
        }
    }

    /// Whether looking (again) may tell; `elsewhere`: it was looked for because of other rules.
    const fn is_open(&self, elsewhere: bool) -> bool {
        match self {
            Self::NotAsked => true,
            Self::Unknown => elsewhere,
            Self::Known(_) => false,
        }
    }
}

/// What rules ask for beyond what is found out about every caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// An identity has an `exeSha256`.
    pub exe_hash: bool,
    /// An identity has a `cgroupPath`.
    pub cgroup_path: bool,
}

impl BitOr for Needs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { exe_hash: self.exe_hash | other.exe_hash, cgroup_path: self.cgroup_path | other.cgroup_path }
    }
}

/// What was found out for them, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnDemand {
    /// When the account database was asked for name and groups.
    pub as_of: Mono,
    /// The policy for which the rest was looked for. What it had no use for, a later one may have.
    pub wanted_by: Epoch,
    /// Of the executable's content.
    pub exe_hash: Fact<ExeHash>,
    /// The cgroup of the kernel's record: its path from the root of the cgroup2 hierarchy, as in `/proc/PID/cgroup`.
    pub cgroup_path: Fact<RawText>,
}

/// What `/proc` said about the connecting process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its executable.
    pub exe: ExeFact,
    /// Its raw argument vector (NUL-separated, at most 64 KiB are read: I-33a); `None` if it cannot be read (I-17).
    pub cmdline: Option<Vec<u8>>,
}

/// What the account database said about a user id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccountFacts {
    /// Account name; `None` if there is no such account, or the look-up failed or took too long (I-14, I-31).
    pub name: Option<RawText>,
    /// Names of all groups of the account, ascending by group id, no repetition (I-05).
    pub groups: Vec<RawText>,
}

/// The caller's executable as rules may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executable {
    /// Attributed beyond doubt: selectors compare with this path.
    Known(RawText),
    /// A path in another mount namespace: reported with the prefix `mnt:`, matched by no selector (I-28).
    Elsewhere(RawText),
    /// Nothing is known: reported as the empty string, matched by no selector (I-16).
    Unknown,
}

/// How far the identity was confirmed after accept. Goes into the audit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// Kernel record, and `/proc` agrees: same process, same executable.
    Verified,
    /// Kernel record alone: the process has exited or executed another program meanwhile.
    KernelOnly,
}

/// The identity of a caller (identity.md section 1). Immutable; shared by `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Real user id in the initial user namespace (I-03).
    pub user_id: u32,
    /// Real group id in the initial user namespace.
    pub group_id: u32,
    /// Account name, `undefined` without an account (I-04, I-14).
    pub user_name: RawText,
    /// Group names (I-05).
    pub user_groups: Vec<RawText>,
    /// Process id in the initial pid namespace (I-06).
    pub process_id: u32,
    /// The executable (I-07, I-08).
    pub executable: Executable,
    /// Redacted command line (I-09, I-33).
    pub command_line: Box<str>,
    /// cgroup2 id of the connecting task.
    pub cgroup: u64,
    /// How far the identity was confirmed.
    pub confidence: Confidence,
    /// What only some rules ask for.
    pub on_demand: OnDemand,
}

impl Claims {
    /// How long name and groups are believed: a user who was removed, renamed or taken out of a group stops matching (I-30).
    pub const MAX_AGE: Duration = Duration::from_secs(60);

    /// Derives the identity from the kernel's record and what user space found.
    #[must_use]
    pub fn derive(record: &KernelRecord, process: ProcessFacts, account: AccountFacts) -> Self {
        let confidence = match process.exe {
            ExeFact::Gone => Confidence::KernelOnly,
            ExeFact::Verified(_) | ExeFact::OtherMount(_) => Confidence::Verified,
        };
        // A process that is gone or runs something else now: its present argument vector says nothing about the caller.
        let cmdline = match process.exe {
            ExeFact::Gone => None,
            _ => process.cmdline,
        };
        Self {
            user_id: record.uid,
            group_id: record.gid,
            user_name: account.name.unwrap_or_else(|| RawText::from("undefined")),
            user_groups: account.groups,
            process_id: record.tgid,
            executable: match process.exe {
                ExeFact::Verified(path) => Executable::Known(path),
                ExeFact::OtherMount(path) => Executable::Elsewhere(path),
                ExeFact::Gone => Executable::Unknown,
            },
            command_line: redact::command_line(cmdline.as_deref()),
            cgroup: record.task_cgroup,
            confidence,
            on_demand: OnDemand::default(),
        }
    }

    /// Adds what rules ask for.
    #[must_use]
    pub fn with(self, on_demand: OnDemand) -> Self {
        Self { on_demand, ..self }
    }

    /// Hash of the executable's content for comparison with an `exeSha256` selector; `None` matches nothing. What is in a file of
    /// another mount namespace whoever made that may decide anew with each read: it is as unknown as its path (I-28).
    #[must_use]
    pub const fn exe_hash(&self) -> Option<&ExeHash> {
        match &self.executable {
            Executable::Known(_) => self.on_demand.exe_hash.known(),
            Executable::Elsewhere(_) | Executable::Unknown => None,
        }
    }

    /// Path of the cgroup for comparison with a `cgroupPath` selector; `None` matches nothing.
    #[must_use]
    pub fn cgroup_path(&self) -> Option<&[u8]> {
        self.on_demand.cgroup_path.known().map(RawText::as_bytes)
    }

    /// Whether the account database must be asked again before the next decision.
    #[must_use]
    pub fn is_old(&self, now: Mono) -> bool {
        now.since(self.on_demand.as_of) > Self::MAX_AGE
    }

    /// Whether both are of one process of one user, as the kernel noted them.
    #[must_use]
    pub const fn is_same_process(&self, other: &Self) -> bool {
        self.user_id == other.user_id
            && self.group_id == other.group_id
            && self.process_id == other.process_id
            && self.cgroup == other.cgroup
    }

    /// Whether rules ask for something that nobody has looked for: not at all, or only for rules that are no longer in force.
    #[must_use]
    pub fn lacks(&self, needs: Needs, epoch: Epoch) -> bool {
        let found = &self.on_demand;
        needs.exe_hash && found.exe_hash.is_open(found.wanted_by != epoch)
            || needs.cgroup_path && found.cgroup_path.is_open(found.wanted_by != epoch)
    }

    /// Elevated: real user id 0 in the initial user namespace, nothing else (I-20).
    #[must_use]
    pub const fn is_elevated(&self) -> bool {
        self.user_id == 0
    }

    /// The executable's path for comparison with an `exePath` selector; `None` matches nothing.
    #[must_use]
    pub const fn exe_path(&self) -> Option<&[u8]> {
        match &self.executable {
            Executable::Known(path) => Some(path.as_bytes()),
            Executable::Elsewhere(_) | Executable::Unknown => None,
        }
    }

    /// Last component of the executable's path for comparison with a `processName` selector (I-07); `None` matches nothing.
    #[must_use]
    pub fn process_name(&self) -> Option<&[u8]> {
        self.exe_path().map(|path| path.rsplit(|b| *b == b'/').next().unwrap_or(path))
    }

    /// Whether the caller belongs to a group of that name.
    #[must_use]
    pub fn in_group(&self, name: &[u8]) -> bool {
        self.user_groups.iter().any(|g| g.as_bytes().cmp(name) == Ordering::Equal)
    }
}
