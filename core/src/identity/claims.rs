//! From facts to claims.

use super::{KernelRecord, RawText, redact};
use core::cmp::Ordering;

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
}

impl Claims {
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
        }
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
