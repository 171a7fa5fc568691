//! Who a rule means: selectors, and finding the identities that are the caller's.

use super::compile::CompiledIdentity;
use super::decision::IdentityId;
use super::document::Identity;
use crate::identity::Claims;
use core::cmp::Ordering;
use core::iter::once;
use std::collections::BTreeSet;

/// The selectors of an identity; an absent one is not checked. Compared on bytes, exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selectors {
    user: Option<Box<str>>,
    group: Option<Box<str>>,
    exe: Option<Box<str>>,
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
    fn match_caller(&self, claims: &Claims) -> bool {
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

    /// The selector by which an identity is looked up, likely the most telling first.
    fn key(&self) -> Key<'_> {
        match self {
            Self { exe: Some(exe), .. } => Key::Exe(exe.as_bytes()),
            Self { user: Some(user), .. } => Key::User(user.as_bytes()),
            Self { process: Some(process), .. } => Key::Process(process.as_bytes()),
            Self { group: Some(group), .. } => Key::Group(group.as_bytes()),
            Self { exe: None, user: None, process: None, group: None } => Key::Anyone,
        }
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

impl Key<'_> {
    fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Key::User(a), Key::User(b)) | (Key::Group(a), Key::Group(b)) | (Key::Process(a), Key::Process(b)) => a.cmp(b),
            (Key::Exe(a), Key::Exe(b)) => compare_paths(a, b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

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

/// The identities of a privilege, sorted by key: finding the caller's costs a few binary searches, however many there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Assigned(Box<[IdentityId]>);

impl Assigned {
    pub(super) fn new(ids: BTreeSet<IdentityId>, identities: &[CompiledIdentity]) -> Self {
        let key = |id: &IdentityId| identities.get(id.0 as usize).map_or(Key::Anyone, |identity| identity.selectors.key());
        let mut ids: Box<[IdentityId]> = ids.into_iter().collect();
        ids.sort_by(|a, b| key(a).compare(key(b)));
        Self(ids)
    }

    /// The first identity that is the caller's.
    pub(super) fn find(&self, identities: &[CompiledIdentity], claims: &Claims) -> Option<IdentityId> {
        if self.0.is_empty() {
            return None;
        }
        let selectors = |id: &IdentityId| identities.get(id.0 as usize).map(|identity| &identity.selectors);
        let keys = once(Key::Anyone)
            .chain(once(Key::User(claims.user_name.as_bytes())))
            .chain(claims.user_groups.iter().map(|group| Key::Group(group.as_bytes())))
            .chain(claims.process_name().map(Key::Process))
            .chain(claims.exe_path().map(Key::Exe));
        for key in keys {
            let before = |id: &IdentityId| selectors(id).is_some_and(|s| s.key().compare(key) == Ordering::Less);
            let first = self.0.partition_point(before);
            let same = |id: &&IdentityId| selectors(id).is_some_and(|s| s.key().compare(key) == Ordering::Equal);
            let candidates = self.0.get(first..).unwrap_or_default().iter().take_while(same);
            let found = candidates.copied().find(|id| selectors(id).is_some_and(|s| s.match_caller(claims)));
            if found.is_some() {
                return found;
            }
        }
        None
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
