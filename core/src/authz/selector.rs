//! Who a rule means: selectors, and finding the identities that are the caller's.

use super::compile::CompiledIdentity;
use super::decision::IdentityId;
use super::document::Identity;
use crate::identity::Claims;
use core::cmp::Ordering;
use core::fmt;
use core::iter::once;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The selectors of an identity; an absent one is not checked. Compared on bytes, exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Selectors {
    #[serde(rename = "userName", skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(rename = "groupName", skip_serializing_if = "Option::is_none")]
    group: Option<Box<str>>,
    #[serde(rename = "exePath", skip_serializing_if = "Option::is_none")]
    exe: Option<Box<str>>,
    #[serde(rename = "processName", skip_serializing_if = "Option::is_none")]
    process: Option<Box<str>>,
}

impl Selectors {
    pub(super) fn of(identity: &Identity) -> Self {
        let boxed = |selector: &Option<String>| selector.as_deref().map(Box::from);
        Self {
            user: boxed(&identity.user_name),
            group: boxed(&identity.group_name),
            exe: boxed(&identity.exe_path),
            process: boxed(&identity.process_name),
        }
    }

    /// Whether all selectors are equal to the caller's.
    pub(super) fn match_caller(&self, claims: &Claims) -> bool {
        let text = |selector: &Option<Box<str>>, caller: Option<&[u8]>| match selector {
            Some(selector) => caller == Some(selector.as_bytes()),
            None => true,
        };
        text(&self.user, Some(claims.user_name.as_bytes()))
            && self.group.as_ref().is_none_or(|group| claims.in_group(group.as_bytes()))
            && self
                .exe
                .as_ref()
                .is_none_or(|exe| claims.exe_path().is_some_and(|path| compare_paths(exe.as_bytes(), path) == Ordering::Equal))
            && text(&self.process, claims.process_name())
    }

    /// What an identity may be looked up by: each selector, or nothing if there is none.
    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        fn key(selector: &Option<Box<str>>) -> Option<&[u8]> {
            selector.as_ref().map(|text| text.as_bytes())
        }
        let Self { user, group, exe, process } = self;
        let anyone = (user.is_none() && group.is_none() && exe.is_none() && process.is_none()).then_some(Key::Anyone);
        [anyone, key(user).map(Key::User), key(group).map(Key::Group), key(exe).map(Key::Exe), key(process).map(Key::Process)]
            .into_iter()
            .flatten()
    }
}

/// Members and values as in a document, or `everyone`.
impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, group, exe, process } = self;
        let members = [("userName", user), ("groupName", group), ("exePath", exe), ("processName", process)];
        let mut separator = "";
        for (name, value) in members.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value))) {
            write!(f, "{separator}{name} {value:?}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("everyone") } else { Ok(()) }
    }
}

/// What an identity is looked up by.
#[derive(Debug, Clone, Copy)]
enum Key<'a> {
    Anyone,
    User(&'a [u8]),
    Group(&'a [u8]),
    Process(&'a [u8]),
    Exe(&'a [u8]),
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Key::User(a), Key::User(b)) | (Key::Group(a), Key::Group(b)) | (Key::Process(a), Key::Process(b)) => a.cmp(b),
            (Key::Exe(a), Key::Exe(b)) => compare_paths(a, b),
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
    const fn rank(self) -> u8 {
        match self {
            Self::Anyone => 0,
            Self::User(_) => 1,
            Self::Group(_) => 2,
            Self::Process(_) => 3,
            Self::Exe(_) => 4,
        }
    }
}

/// A set of identities that privileges have in common, each under the one of its selectors that is rarest in the set: finding
/// the caller's costs a few binary searches, however many there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Assigned(Box<[Entry]>);

/// An identity, and which of its [`Selectors::keys`] it stands under.
#[derive(Debug, Clone, Copy)]
struct Entry {
    identity: IdentityId,
    key: u8,
}

impl Entry {
    fn key<'i>(&self, identities: &'i [CompiledIdentity]) -> Key<'i> {
        let selectors = identities.get(self.identity.0 as usize).map(|identity| &identity.selectors);
        selectors.and_then(|selectors| selectors.keys().nth(self.key.into())).unwrap_or(Key::Anyone)
    }
}

impl Assigned {
    pub(super) fn new(ids: &BTreeSet<IdentityId>, identities: &[CompiledIdentity]) -> Self {
        let keys = |id: &IdentityId| identities.get(id.0 as usize).into_iter().flat_map(|identity| identity.selectors.keys());
        let mut frequency: BTreeMap<Key<'_>, usize> = BTreeMap::new();
        for key in ids.iter().flat_map(keys) {
            *frequency.entry(key).or_default() += 1;
        }
        let rarest = |id: &IdentityId| (0u8..).zip(keys(id)).min_by_key(|(_, key)| frequency.get(key).copied());
        let mut entries: Box<[Entry]> =
            ids.iter().map(|id| Entry { identity: *id, key: rarest(id).map_or(0, |(at, _)| at) }).collect();
        entries.sort_by(|a, b| a.key(identities).cmp(&b.key(identities)));
        Self(entries)
    }

    /// All of them, in no order.
    pub(super) fn identities(&self) -> impl Iterator<Item = IdentityId> {
        self.0.iter().map(|entry| entry.identity)
    }

    /// The first identity that is the caller's.
    pub(super) fn find(&self, identities: &[CompiledIdentity], claims: &Claims) -> Option<IdentityId> {
        if self.0.is_empty() {
            return None;
        }
        // Who means everyone comes last: the others say more.
        let mut keys = once(Key::User(claims.user_name.as_bytes()))
            .chain(claims.user_groups.iter().map(|group| Key::Group(group.as_bytes())))
            .chain(claims.process_name().map(Key::Process))
            .chain(claims.exe_path().map(Key::Exe))
            .chain(once(Key::Anyone));
        keys.find_map(|key| {
            let first = self.0.partition_point(|entry| entry.key(identities) < key);
            let candidates = self.0.iter().skip(first).take_while(|entry| entry.key(identities) == key);
            candidates
                .map(|entry| entry.identity)
                .find(|id| identities.get(id.0 as usize).is_some_and(|identity| identity.selectors.match_caller(claims)))
        })
    }
}

/// Compares paths component by component: repeated slashes, `/./` and a final slash do not matter; `..` and links stay as they
/// are.
fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
        path.split(|b| *b == b'/').filter(|component| !matches!(*component, b"" | b"."))
    }
    a.starts_with(b"/").cmp(&b.starts_with(b"/")).then_with(|| components(a).cmp(components(b)))
}

#[cfg(test)]
mod tests {
    use super::compare_paths;
    use core::cmp::Ordering::{Equal, Greater, Less};

    #[test]
    fn paths_are_compared_by_component_r40() {
        for same in ["/usr/bin/curl", "//usr///bin/curl", "/usr/./bin/curl", "/usr/bin/curl/", "/./usr/bin/curl/."] {
            assert_eq!(compare_paths(b"/usr/bin/curl", same.as_bytes()), Equal, "{same}");
        }
        for other in ["usr/bin/curl", "/usr/bin/curl2", "/usr/bin/Curl", "/usr/lib/../bin/curl", "/usr/bin", ""] {
            assert_ne!(compare_paths(b"/usr/bin/curl", other.as_bytes()), Equal, "{other}");
        }
        assert_eq!((compare_paths(b"/a/b", b"/a-b"), compare_paths(b"/b", b"/a")), (Less, Greater));
    }
}
