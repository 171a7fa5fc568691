//! How many client connections there may be, and how many of them one user may have (PX-14a): a flood by one user must not take
//! the others' places (S-54), and one person with many user ids (subordinate ones, as for containers without root) must not take
//! those of the machine's own services.

use crate::limits::Limits;
use crate::time::Mono;
use core::time::Duration;
use std::collections::BTreeMap;

/// One place in so many is for root alone.
const RESERVED: usize = 16;

/// Whose place a connection takes. A direct connection of a known user counts twice: as one of all direct ones, which are one user
/// (PX-14a), and as one of that user's. Otherwise one user could hold all places. Root's count as root's only: nobody can take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The user id, where the kernel has told.
    pub user: Option<u32>,
    /// The connection was not redirected, or nobody knows.
    pub direct: bool,
}

impl Holder {
    fn classes(self) -> impl Iterator<Item = Class> {
        let direct = self.direct && !self.is_root();
        self.user.map(Class::User).into_iter().chain(direct.then_some(Class::Direct))
    }

    fn is_root(self) -> bool {
        self.user == Some(0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    User(u32),
    Direct,
}

/// The verdict about one more connection.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It has a place; [`Admission::release`] gives it back.
    Yes,
    /// Close it. `log`: say so (at most once per second).
    No {
        /// Whether this refusal is to be logged.
        log: bool,
        /// How many refusals were not logged since the last that was.
        unlogged: u64,
    },
}

/// Counts the places.
#[derive(Debug)]
pub struct Admission {
    total: usize,
    per_user: BTreeMap<Class, usize>,
    max_total: usize,
    max_per_user: usize,
    last_log: Option<Mono>,
    unlogged: u64,
}

impl Admission {
    /// Nobody is here yet.
    #[must_use]
    pub const fn new(limits: &Limits) -> Self {
        Self {
            total: 0,
            per_user: BTreeMap::new(),
            max_total: limits.connections,
            max_per_user: limits.connections_per_user,
            last_log: None,
            unlogged: 0,
        }
    }

    /// One more connection of this holder.
    pub fn admit(&mut self, now: Mono, holder: Holder) -> Admitted {
        let full = |class| self.per_user.get(&class).is_some_and(|here| *here >= self.max_per_user);
        let places = if holder.is_root() { self.max_total } else { self.max_total - self.max_total / RESERVED };
        if self.total >= places || holder.classes().any(full) {
            let log = self.last_log.is_none_or(|last| now.since(last) >= Duration::from_secs(1));
            let unlogged = self.unlogged;
            if log {
                (self.last_log, self.unlogged) = (Some(now), 0);
            } else {
                self.unlogged += 1;
            }
            return Admitted::No { log, unlogged };
        }
        self.total += 1;
        for class in holder.classes() {
            *self.per_user.entry(class).or_insert(0) += 1;
        }
        Admitted::Yes
    }

    /// A connection that was admitted has ended.
    pub fn release(&mut self, holder: Holder) {
        self.total = self.total.saturating_sub(1);
        for class in holder.classes() {
            if let Some(count) = self.per_user.get_mut(&class) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.per_user.remove(&class);
                }
            }
        }
    }

    /// Connections that have a place.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn user(uid: u32) -> Holder {
        Holder { user: Some(uid), direct: false }
    }

    const UNKNOWN: Holder = Holder { user: None, direct: true };

    /// S-54, S-55
    #[test]
    fn half_of_the_places_for_one_user_px14a() {
        let mut a = Admission::new(&Limits { connections: 4, connections_per_user: 2, ..Limits::DEFAULT });
        let second = 1_000_000_000;
        assert_eq!(a.admit(Mono(0), user(1)), Admitted::Yes);
        assert_eq!(a.admit(Mono(0), user(1)), Admitted::Yes);
        assert_eq!(a.admit(Mono(1), user(1)), Admitted::No { log: true, unlogged: 0 });
        assert_eq!(a.admit(Mono(2), user(1)), Admitted::No { log: false, unlogged: 0 });
        assert_eq!(a.admit(Mono(3), UNKNOWN), Admitted::Yes);
        assert_eq!(a.admit(Mono(3), user(0)), Admitted::Yes);
        assert_eq!(a.admit(Mono(second + 2), user(0)), Admitted::No { log: true, unlogged: 1 });
        a.release(user(1));
        assert_eq!(a.admit(Mono(5), user(0)), Admitted::Yes);
        assert_eq!(a.total(), 4);
    }

    /// S-54
    #[test]
    fn many_users_together_leave_places_to_root() {
        let mut a = Admission::new(&Limits { connections: 32, connections_per_user: 16, ..Limits::DEFAULT });
        let admitted = (0..100).filter(|n| a.admit(Mono(0), user(1000 + n % 10)) == Admitted::Yes).count();
        assert_eq!(admitted, 30);
        assert!(matches!(a.admit(Mono(0), UNKNOWN), Admitted::No { .. }));
        assert_eq!(a.admit(Mono(0), user(0)), Admitted::Yes);
        assert_eq!(a.admit(Mono(0), Holder { user: Some(0), direct: true }), Admitted::Yes);
        assert!(matches!(a.admit(Mono(0), user(0)), Admitted::No { .. }));
    }

    #[test]
    fn direct_connections_do_not_double_a_users_share() {
        let mut a = Admission::new(&Limits { connections: 8, connections_per_user: 2, ..Limits::DEFAULT });
        let direct = |uid| Holder { user: Some(uid), direct: true };
        assert_eq!(a.admit(Mono(0), user(1)), Admitted::Yes);
        assert_eq!(a.admit(Mono(0), direct(1)), Admitted::Yes);
        assert!(matches!(a.admit(Mono(0), direct(1)), Admitted::No { .. }));
        assert!(matches!(a.admit(Mono(0), user(1)), Admitted::No { .. }));
        assert_eq!(a.admit(Mono(0), direct(2)), Admitted::Yes);
        assert!(matches!(a.admit(Mono(0), direct(3)), Admitted::No { .. }), "all direct ones are one user");
        a.release(direct(1));
        assert_eq!(a.admit(Mono(0), direct(3)), Admitted::Yes);
        assert_eq!(a.admit(Mono(0), user(1)), Admitted::Yes);
        assert_eq!(a.total(), 4);
    }
}
