//! Who a rule means: selectors, and finding the identities that are the caller's.

use super::compile::CompiledIdentity;
use super::decision::IdentityId;
use super::document::Identity;
use crate::identity::{Claims, ExeHash, Needs};
use core::cmp::Ordering;
use core::fmt;
use core::iter::once;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// The selectors of an identity; an absent one is not checked. Compared on bytes, exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selectors {
    #[serde(rename = "userName", skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(rename = "groupName", skip_serializing_if = "Option::is_none")]
    group: Option<Box<str>>,
    #[serde(rename = "exePath", skip_serializing_if = "Option::is_none")]
    exe: Option<Box<str>>,
    #[serde(rename = "processName", skip_serializing_if = "Option::is_none")]
    process: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe_sha256: Option<Readable<ExeHash>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_path: Option<Readable<Cgroup>>,
}

/// A selector that must have a form; one that has not is equal to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Readable<T> {
    Good(T),
    Faulty(Box<str>),
}

impl<T> Readable<T> {
    fn read(text: &str, read: impl Fn(&str) -> Option<T>) -> Self {
        read(text).map_or_else(|| Self::Faulty(text.into()), Self::Good)
    }
}

impl<T: fmt::Display> fmt::Display for Readable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(selector) => selector.fmt(f),
            Self::Faulty(text) => write!(f, "{text:?} (matches nothing)"),
        }
    }
}

/// A control group, or it and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cgroup {
    /// From the root of the hierarchy.
    path: Box<str>,
    below: bool,
}

impl Cgroup {
    fn read(text: &str) -> Option<Self> {
        let (path, below) = text.strip_suffix("/*").map_or((text, false), |path| (path, true));
        (text.starts_with('/')).then(|| Self { path: path.into(), below })
    }

    fn key(&self) -> Key<'_> {
        let path = self.path.as_bytes();
        if self.below { Key::CgroupBelow(path) } else { Key::Cgroup(path) }
    }

    fn contains(&self, path: &[u8]) -> bool {
        let (ours, mut theirs) = (components(self.path.as_bytes()), components(path));
        ours.map(Some).all(|ours| theirs.next() == ours) && (self.below || theirs.next().is_none())
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}{}\"", self.path.escape_debug(), if self.below { "/*" } else { "" })
    }
}

impl Serialize for Cgroup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{}", self.path, if self.below { "/*" } else { "" }))
    }
}

impl Selectors {
    pub(super) fn of(identity: &Identity) -> Self {
        let boxed = |selector: &Option<String>| selector.as_deref().map(Box::from);
        Self {
            user: boxed(&identity.user_name),
            group: boxed(&identity.group_name),
            exe: boxed(&identity.exe_path),
            process: boxed(&identity.process_name),
            uid: identity.uid,
            gid: identity.gid,
            exe_sha256: identity.exe_sha256.as_deref().map(|text| Readable::read(text, ExeHash::from_hex)),
            cgroup_path: identity.cgroup_path.as_deref().map(|text| Readable::read(text, Cgroup::read)),
        }
    }

    /// Selectors that are equal to nothing, and what they would have to be.
    pub(super) fn faults(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let hash = matches!(self.exe_sha256, Some(Readable::Faulty(_))).then_some(("exeSha256", "64 hexadecimal digits"));
        let cgroup = matches!(self.cgroup_path, Some(Readable::Faulty(_))).then_some(("cgroupPath", "a path that begins with /"));
        hash.into_iter().chain(cgroup)
    }

    /// What has to be found out about callers for them.
    pub(super) const fn needs(&self) -> Needs {
        Needs {
            exe_hash: matches!(self.exe_sha256, Some(Readable::Good(_))),
            cgroup_path: matches!(self.cgroup_path, Some(Readable::Good(_))),
        }
    }

    /// Whether all selectors are equal to the caller's.
    pub(super) fn match_caller(&self, claims: &Claims) -> bool {
        let hash = match &self.exe_sha256 {
            Some(Readable::Good(hash)) => claims.exe_hash() == Some(hash),
            Some(Readable::Faulty(_)) => false,
            None => true,
        };
        hash && self.match_but_hash(claims)
    }

    /// Whether there is a hash to compare, and all other selectors are equal to the caller's.
    pub(super) fn lack_only_exe_hash(&self, claims: &Claims) -> bool {
        matches!(self.exe_sha256, Some(Readable::Good(_))) && self.match_but_hash(claims)
    }

    fn match_but_hash(&self, claims: &Claims) -> bool {
        let text = |selector: &Option<Box<str>>, caller: Option<&[u8]>| match selector {
            Some(selector) => caller == Some(selector.as_bytes()),
            None => true,
        };
        // The largest number is nobody's id for the kernel, and stands for an unknown one: equal to nothing, like all that is unknown.
        let number = |selector: Option<u32>, caller: u32| selector.is_none_or(|id| id == caller && id != u32::MAX);
        text(&self.user, Some(claims.user_name.as_bytes()))
            && number(self.uid, claims.user_id)
            && number(self.gid, claims.group_id)
            && self.group.as_ref().is_none_or(|group| claims.in_group(group.as_bytes()))
            && self
                .exe
                .as_ref()
                .is_none_or(|exe| claims.exe_path().is_some_and(|path| compare_paths(exe.as_bytes(), path) == Ordering::Equal))
            && text(&self.process, claims.process_name())
            && match &self.cgroup_path {
                Some(Readable::Good(cgroup)) => claims.cgroup_path().is_some_and(|path| cgroup.contains(path)),
                Some(Readable::Faulty(_)) => false,
                None => true,
            }
    }

    /// What an identity is looked up by under a rank; `None` if it has no such selector.
    fn key(&self, rank: u8) -> Option<Key<'_>> {
        fn text(selector: Option<&str>) -> Option<&[u8]> {
            selector.map(str::as_bytes)
        }
        match rank {
            Key::USER => text(self.user.as_deref()).map(Key::User),
            Key::GROUP => text(self.group.as_deref()).map(Key::Group),
            Key::PROCESS => text(self.process.as_deref()).map(Key::Process),
            Key::EXE => text(self.exe.as_deref()).map(Key::Exe),
            Key::UID => self.uid.map(Key::Uid),
            Key::GID => self.gid.map(Key::Gid),
            Key::EXE_HASH => match &self.exe_sha256 {
                Some(Readable::Good(hash)) => Some(Key::ExeHash(hash)),
                Some(Readable::Faulty(_)) | None => None,
            },
            Key::CGROUP | Key::CGROUP_BELOW => match &self.cgroup_path {
                Some(Readable::Good(cgroup)) => Some(cgroup.key()).filter(|key| key.rank() == rank),
                Some(Readable::Faulty(_)) | None => None,
            },
            Key::ANYONE => Some(Key::Anyone),
            _ => Some(Key::Nobody),
        }
    }

    /// What an identity may be looked up by: each selector, or nothing if there is none. Nobody looks for one that is nobody.
    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        let special = if self.faults().next().is_some() {
            Some(Key::Nobody)
        } else if (0..Key::ANYONE).all(|rank| self.key(rank).is_none()) {
            Some(Key::Anyone)
        } else {
            None
        };
        let ranks = if special.is_some() { 0..0 } else { 0..Key::ANYONE };
        special.into_iter().chain(ranks.filter_map(|rank| self.key(rank)))
    }
}

/// Members and values as in a document, or `everyone`.
impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Quoted<'a>(&'a str);
        impl fmt::Display for Quoted<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.0, f)
            }
        }
        fn text(selector: &Option<Box<str>>) -> Option<Quoted<'_>> {
            selector.as_deref().map(Quoted)
        }
        fn shown<T: fmt::Display>(selector: &Option<T>) -> Option<&dyn fmt::Display> {
            selector.as_ref().map(|selector| selector as &dyn fmt::Display)
        }
        let Self { user, group, exe, process, uid, gid, exe_sha256, cgroup_path } = self;
        let texts = [text(user), text(group), text(exe), text(process)];
        let [user, group, exe, process] = &texts;
        let mut separator = "";
        for (name, value) in [
            ("userName", shown(user)),
            ("groupName", shown(group)),
            ("exePath", shown(exe)),
            ("processName", shown(process)),
            ("uid", shown(uid)),
            ("gid", shown(gid)),
            ("exeSha256", shown(exe_sha256)),
            ("cgroupPath", shown(cgroup_path)),
        ] {
            if let Some(value) = value {
                write!(f, "{separator}{name} {value}")?;
                separator = ", ";
            }
        }
        if separator.is_empty() { f.write_str("everyone") } else { Ok(()) }
    }
}

/// What an identity is looked up by.
#[derive(Debug, Clone, Copy)]
enum Key<'a> {
    User(&'a [u8]),
    Group(&'a [u8]),
    Process(&'a [u8]),
    Exe(&'a [u8]),
    Uid(u32),
    Gid(u32),
    ExeHash(&'a ExeHash),
    Cgroup(&'a [u8]),
    CgroupBelow(&'a [u8]),
    Anyone,
    /// Never asked for.
    Nobody,
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Key::User(a), Key::User(b)) | (Key::Group(a), Key::Group(b)) | (Key::Process(a), Key::Process(b)) => a.cmp(b),
            (Key::Exe(a), Key::Exe(b)) => compare_paths(a, b),
            (Key::Uid(a), Key::Uid(b)) | (Key::Gid(a), Key::Gid(b)) => a.cmp(&b),
            (Key::ExeHash(a), Key::ExeHash(b)) => a.cmp(b),
            (Key::Cgroup(a), Key::Cgroup(b)) | (Key::CgroupBelow(a), Key::CgroupBelow(b)) => components(a).cmp(components(b)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl Key<'_> {
    const USER: u8 = 0;
    const GROUP: u8 = 1;
    const PROCESS: u8 = 2;
    const EXE: u8 = 3;
    const UID: u8 = 4;
    const GID: u8 = 5;
    const EXE_HASH: u8 = 6;
    const CGROUP: u8 = 7;
    const CGROUP_BELOW: u8 = 8;
    /// Behind all selectors.
    const ANYONE: u8 = 9;
    const NOBODY: u8 = 10;

    const fn rank(self) -> u8 {
        match self {
            Self::User(_) => Self::USER,
            Self::Group(_) => Self::GROUP,
            Self::Process(_) => Self::PROCESS,
            Self::Exe(_) => Self::EXE,
            Self::Uid(_) => Self::UID,
            Self::Gid(_) => Self::GID,
            Self::ExeHash(_) => Self::EXE_HASH,
            Self::Cgroup(_) => Self::CGROUP,
            Self::CgroupBelow(_) => Self::CGROUP_BELOW,
            Self::Anyone => Self::ANYONE,
            Self::Nobody => Self::NOBODY,
        }
    }
}

/// A set of identities that have something in common, each under the one of its selectors that is rarest in the set: finding
/// the caller's costs a few binary searches, however many there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Assigned {
    /// Ascending by key.
    entries: Box<[Entry]>,
    /// A bit for each rank of a key that is among them: nobody looks for others.
    ranks: u16,
}

/// An identity, and the rank of that of its [`Selectors::keys`] which it stands under.
#[derive(Debug, Clone, Copy)]
struct Entry {
    identity: IdentityId,
    rank: u8,
}

impl Entry {
    fn key<'i>(&self, identities: &'i [CompiledIdentity]) -> Key<'i> {
        let selectors = identities.get(self.identity.0 as usize).map(|identity| &identity.selectors);
        selectors.and_then(|selectors| selectors.key(self.rank)).unwrap_or(Key::Nobody)
    }
}

impl Assigned {
    /// Of these, each once.
    pub(super) fn new(ids: &[IdentityId], identities: &[CompiledIdentity]) -> Self {
        let selectors = |id: &IdentityId| identities.get(id.0 as usize).map(|identity| &identity.selectors);
        let mut frequency: BTreeMap<Key<'_>, usize> = BTreeMap::new();
        // Of one there is no rarest.
        if ids.len() > 1 {
            for key in ids.iter().filter_map(selectors).flat_map(Selectors::keys) {
                *frequency.entry(key).or_default() += 1;
            }
        }
        let rarest = |id: &IdentityId| selectors(id).and_then(|s| s.keys().min_by_key(|key| frequency.get(key).copied()));
        let entry = |id: &IdentityId| Entry { identity: *id, rank: rarest(id).map_or(Key::NOBODY, Key::rank) };
        let mut entries: Box<[Entry]> = ids.iter().map(entry).collect();
        entries.sort_by(|a, b| a.key(identities).cmp(&b.key(identities)));
        let ranks = entries.iter().fold(0, |ranks, entry| ranks | 1 << entry.rank);
        Self { entries, ranks }
    }

    /// The first identity that is the caller's.
    pub(super) fn find(&self, identities: &[CompiledIdentity], claims: &Claims) -> Option<IdentityId> {
        if self.entries.is_empty() {
            return None;
        }
        // Who means everyone comes last: the others say more.
        let keys = once(Key::User(claims.user_name.as_bytes()))
            .chain(claims.user_groups.iter().map(|group| Key::Group(group.as_bytes())))
            .chain(claims.process_name().map(Key::Process))
            .chain(claims.exe_path().map(Key::Exe))
            .chain([Key::Uid(claims.user_id), Key::Gid(claims.group_id)])
            .chain(claims.exe_hash().map(Key::ExeHash))
            .chain(claims.cgroup_path().map(Key::Cgroup))
            .chain(claims.cgroup_path().into_iter().flat_map(ancestors).map(Key::CgroupBelow))
            .chain(once(Key::Anyone));
        keys.filter(|key| self.ranks & 1 << key.rank() != 0).find_map(|key| {
            let first = self.entries.partition_point(|entry| entry.key(identities) < key);
            let candidates = self.entries.iter().skip(first).take_while(|entry| entry.key(identities) == key);
            candidates
                .map(|entry| entry.identity)
                .find(|id| identities.get(id.0 as usize).is_some_and(|identity| identity.selectors.match_caller(claims)))
        })
    }
}

/// The path itself, and whatever it lies in, the root last.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    once(path).chain(slashes.map(|(at, _)| path.get(..at).unwrap_or_default()))
}

/// What lies between slashes, and is not nothing or `.`.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|component| !matches!(*component, b"" | b"."))
}

/// Compares paths component by component: repeated slashes, `/./` and a final slash do not matter; `..` and links stay as they
/// are.
fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    a.starts_with(b"/").cmp(&b.starts_with(b"/")).then_with(|| components(a).cmp(components(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cmp::Ordering::{Equal, Greater, Less};

    #[test]
    fn paths_are_compared_by_component_r40() {
        for same in ["/usr/bin/curl", "//usr///bin/curl", "/usr/./bin/curl", "/usr/bin/curl/", "/./usr/bin/curl/."] {
            assert_eq!(compare_paths(b"/usr/bin/curl", same.as_bytes()), Equal, "{same}");
        }
        for other in ["usr/bin/curl", "/usr/bin/curl2", "/usr/bin/Curl", "/usr/lib/../bin/curl", "/usr/bin", ""] {
            assert_ne!(compare_paths(b"/usr/bin/curl", other.as_bytes()), Equal, "{other}");
        }
        assert_eq!(ancestors(b"/a/bc").collect::<Vec<_>>(), [&b"/a/bc"[..], b"/a", b""]);
        assert_eq!(ancestors(b"/").collect::<Vec<_>>(), [&b"/"[..], b""]);
        assert_eq!((compare_paths(b"/a/b", b"/a-b"), compare_paths(b"/b", b"/a")), (Less, Greater));
    }
}
