//! The agent machine's side of the seam: what it may be told and what it may ask for.

use super::rule_files::LookId;
use super::source::Source;
use super::status::{StatusDraft, StatusReader};
use crate::effect::LocalReply;
use crate::exchange::{FetchError, HostRequest, HostResponse};
use crate::identity::{Destination, PerDestination, TargetMode};
use crate::keeper::{FetchId, StoreError, StoreId, StoredKey};
use crate::policy::Policy;
use crate::sign::KeyGuid;
use crate::time::Mono;
use bytes::Bytes;
use core::time::Duration;
use std::sync::Arc;

/// Names a question of a connection ([`LocalQuery`](crate::effect::LocalQuery)), so that its reply finds it. The shell makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

/// One-shot requests of the agent to its shell: drain with `poll_effect` until `None` after each input, and carry them out in
/// order. None of them shows key material in its `Debug` form (SEC-08).
#[derive(Debug, Clone)]
pub enum AgentEffect {
    /// Call the host on a connection of its own that is exempt from the redirect (W-06); answered by [`AgentAnswer::Fetched`] within
    /// the limits of W-07. One at a time. An answer that comes after 40 s is ignored, as one to the two effects below.
    Fetch {
        /// Names the call.
        id: FetchId,
        /// What to send.
        request: HostRequest,
    },
    /// Read `<guid>.key` with [`StoredKey::from_json`]; answered by [`AgentAnswer::KeyLoaded`].
    LoadKey {
        /// Names the look.
        id: StoreId,
        /// Which key.
        guid: KeyGuid,
    },
    /// Write `<guid>.key`, mode 0600, through `<guid>.tmp`, synced before the rename (FS-29, FS-30); answered by
    /// [`AgentAnswer::KeyStored`].
    StoreKey {
        /// Names it.
        id: StoreId,
        /// What to write.
        key: StoredKey,
    },
    /// Look at a local rule file in the rules directory; answered by [`AgentAnswer::RulesSeen`].
    ReadRules {
        /// Names the look.
        id: LookId,
        /// Whose rules.
        of: Destination,
        /// The file's name.
        name: &'static str,
    },
    /// Replace a file as a whole (FS-29); answered by [`AgentAnswer::Written`].
    WriteState {
        /// Which.
        file: StateFile,
        /// The whole content.
        bytes: Bytes,
    },
    /// Write a snapshot of the rules into the status directory, mode 0640, through a temporary name, after removing
    /// [`surplus_snapshots`](super::surplus_snapshots); answered by [`AgentAnswer::SnapshotWritten`].
    Snapshot {
        /// Its name.
        name: Box<str>,
        /// The whole content.
        bytes: Bytes,
    },
    /// Take the events that wait to a file in the event folder, unless there are `files` of them (FS-80) already; answered by
    /// [`AgentAnswer::EventsWritten`].
    WriteEvents {
        /// Most files of generic events.
        files: u64,
    },
    /// Look how much memory is resident (FS-57); answered by [`AgentAnswer::Memory`] if that can be known.
    ReadMemory,
    /// Have the service manager limit this service's processor time, until the next boot (FS-100). Takes its time elsewhere; no answer:
    /// a limit that could not be set does no harm.
    LimitCpu {
        /// Of one processor.
        percent: u8,
    },
    /// Remove a file if it is there (FS-35). No answer.
    RemoveState(StateFile),
    /// Make the redirect so, check that it is attached, repair it (W-84, S-13); answered by [`AgentAnswer::Redirected`]. Comes
    /// in every iteration, also when nothing changed; one at a time, and never before [`AgentEvent::RedirectorReady`].
    Redirect(PerDestination<TargetMode>),
    /// Tell the kernel half that the agent lives, and take its notes about other network namespaces to the audit log (S-03, S-08).
    /// No answer: what does not work shows at the next [`Redirect`](Self::Redirect).
    Heartbeat,
    /// Complete the status document with [`StatusDraft::complete`] and the tables of the process's requests, and carry out the
    /// effect that this gives.
    Status {
        /// Who reads it.
        to: StatusReader,
        /// The agent's part of it.
        draft: Box<StatusDraft>,
    },
    /// Use this policy for every request whose head is complete from now on. No answer.
    Publish(Arc<Policy>),
    /// The answer to a local query. No answer.
    Reply {
        /// Whose question it was.
        to: QueryId,
        /// The answer.
        reply: LocalReply,
    },
    /// Say this in the agent log, and on the serial console if it is important (W-83, FS-36). One line; no answer.
    Notice {
        /// What it is as an event (T-06); `None` if it must not become one (T-17).
        source: Option<Source>,
        /// How bad it is.
        level: Level,
        /// Also to the console (FS-37).
        console: bool,
        /// One line, no secrets.
        text: Box<str>,
    },
}

const _: () = assert!(size_of::<AgentEffect>() <= 128);

/// The answer to an [`AgentEffect`].
#[derive(Debug, Clone)]
pub enum AgentAnswer {
    /// To [`AgentEffect::Fetch`].
    Fetched {
        /// Which call it was.
        id: FetchId,
        /// How it ended.
        result: Result<HostResponse, FetchError>,
    },
    /// To [`AgentEffect::LoadKey`]: `None` if there is no such file; an error if it cannot be read or is no key file (W-99).
    KeyLoaded {
        /// Which look it was.
        id: StoreId,
        /// What was found.
        result: Result<Option<StoredKey>, StoreError>,
    },
    /// To [`AgentEffect::StoreKey`].
    KeyStored {
        /// Which one it was.
        id: StoreId,
        /// Whether the file is there now, whatever happens to the machine.
        result: Result<(), StoreError>,
    },
    /// To [`AgentEffect::ReadRules`].
    RulesSeen {
        /// Which look it was.
        id: LookId,
        /// Whose rules.
        of: Destination,
        /// What is there.
        found: RuleFile,
    },
    /// To [`AgentEffect::WriteState`]; the error is a text for people.
    Written {
        /// Which.
        file: StateFile,
        /// Whether it is there now.
        result: Result<(), String>,
    },
    /// To [`AgentEffect::Snapshot`]; the error is a text for people.
    SnapshotWritten(Result<(), String>),
    /// To [`AgentEffect::WriteEvents`].
    EventsWritten(EventsWritten),
    /// To [`AgentEffect::ReadMemory`]. Bytes.
    Memory(u64),
    /// To [`AgentEffect::Redirect`]; the error is a text for people.
    Redirected(Result<(), String>),
}

/// What there is where a local rule file should be (rules.md section 4.2). Reasons are texts for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleFile {
    /// Nothing, or not even a directory for it.
    Missing,
    /// That cannot be told.
    Unknown(String),
    /// Something that must not be read, or cannot be.
    Unreadable {
        /// What it looks like from outside.
        stamp: FileStamp,
        /// Why.
        reason: String,
    },
    /// A file that became another one while it was read.
    Changing {
        /// What it looks like now.
        stamp: FileStamp,
    },
    /// A file that was the same before and after it was read, as a whole, at most
    /// [`LocalRules::MAX_BYTES`](crate::authz::LocalRules::MAX_BYTES).
    Read {
        /// What it looks like from outside.
        stamp: FileStamp,
        /// Its content.
        bytes: Bytes,
    },
}

/// What tells that a file is another one, or another content, than before (R-117, S-61).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStamp {
    /// When its content was changed, as it says: seconds and nanoseconds.
    pub modified: (i64, u64),
    /// When anything about it was changed, which cannot be set by hand.
    pub changed: (i64, u64),
    /// Bytes.
    pub size: u64,
    /// Its number on its device.
    pub inode: u64,
    /// Number of its device.
    pub device: u64,
}

/// What became of the events that waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsWritten {
    /// There were none.
    Nothing,
    /// They are in a file.
    Written {
        /// So many found no room in memory.
        dropped: u64,
    },
    /// There are as many files as there may be: they are dropped (FS-80).
    Full {
        /// So many are lost, with those that found no room in memory.
        dropped: u64,
    },
    /// They are kept; why, as a text for people.
    Failed(String),
}

/// What happened to the agent's other parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The listener is bound (PX-03, CLI-14).
    ListenerReady,
    /// It is not, and why (PX-02). May be followed by `ListenerReady` later.
    ListenerFailed(String),
    /// The kernel programs are loaded and attached, and the agent's own sockets are exempt (CLI-12).
    RedirectorReady,
    /// They are not, and why (S-05). May be followed by `RedirectorReady` later.
    RedirectorFailed(String),
    /// Something has changed in the directory of the local rule files.
    RulesChanged,
    /// A log file can no longer be written, and why, or (`None`) all of them are written again.
    Logs(Option<String>),
    /// The configuration was read anew: ask the host at once, and from now on this often (FS-08).
    Reload {
        /// As in [`AgentConfig`](super::AgentConfig).
        poll_interval: Duration,
    },
    /// The process is going to end: no new iteration begins. Queries are still answered; the redirect stays (S-03).
    Drain,
}

/// Files that only the agent writes, besides keys. Their places and modes are files.md sections 4 and 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateFile {
    /// `provisioned.tag` in the key directory, mode 0600 (FS-33).
    ProvisionedTag,
    /// `status.tag` in the key directory, mode 0600 (FS-34).
    StatusTag,
    /// [`AgentConfig::status_path`](super::AgentConfig::status_path), mode 0640 (FS-40).
    Status,
}

/// How bad a notice is (FS-18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something is odd.
    Warn,
    /// A milestone.
    Info,
    /// A detail.
    Debug,
}

/// When [`handle_timeout`](super::Agent::handle_timeout) wants to be called, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentDeadline {
    /// The moment.
    pub at: Mono,
    /// Which timer it is.
    pub timer: AgentTimer,
}

/// The timers of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentTimer {
    /// When to ask the host again (W-85, W-86).
    Poll,
    /// When to call provisioning finished with errors (W-75).
    Provision,
    /// When to pass on a notification that came too soon after another (PX-59).
    Notify,
    /// When to start the background tasks at the latest (W-76).
    Background,
    /// When to write the status file again, or another file (FS-40).
    Status,
    /// When to say again that the agent lives (S-03).
    Heartbeat,
    /// When to look at a local rule file again.
    Rules,
}
