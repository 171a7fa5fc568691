//! How many client connections there may be, and how many of them one user may have (PX-14a): a flood by one user must not take
//! the others' places (S-54).

use crate::limits::Limits;
use crate::time::Mono;
use core::time::Duration;
use std::collections::BTreeMap;

/// Whose place a connection takes: a user id, or the one class of all that were not redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Redirected connections of this user id.
    User(u32),
    /// Direct and unattributed connections count as one user.
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

    /// One more connection of this class.
    pub fn admit(&mut self, now: Mono, class: Class) -> Admitted {
        let here = self.per_user.get(&class).copied().unwrap_or(0);
        if self.total >= self.max_total || here >= self.max_per_user {
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
        *self.per_user.entry(class).or_insert(0) += 1;
        Admitted::Yes
    }

    /// A connection that was admitted has ended.
    pub fn release(&mut self, class: Class) {
        if let Some(count) = self.per_user.get_mut(&class) {
            self.total = self.total.saturating_sub(1);
            *count -= 1;
            if *count == 0 {
                self.per_user.remove(&class);
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

    #[test]
    fn half_of_the_places_for_one_user_px14a() {
        let mut a = Admission::new(&Limits { connections: 4, connections_per_user: 2, ..Limits::DEFAULT });
        let second = 1_000_000_000;
        assert_eq!(a.admit(Mono(0), Class::User(1)), Admitted::Yes);
        assert_eq!(a.admit(Mono(0), Class::User(1)), Admitted::Yes);
        assert_eq!(a.admit(Mono(1), Class::User(1)), Admitted::No { log: true, unlogged: 0 });
        assert_eq!(a.admit(Mono(2), Class::User(1)), Admitted::No { log: false, unlogged: 0 });
        assert_eq!(a.admit(Mono(3), Class::Direct), Admitted::Yes);
        assert_eq!(a.admit(Mono(3), Class::User(0)), Admitted::Yes);
        assert_eq!(a.admit(Mono(second + 2), Class::User(0)), Admitted::No { log: true, unlogged: 1 });
        a.release(Class::User(1));
        assert_eq!(a.admit(Mono(5), Class::User(0)), Admitted::Yes);
        assert_eq!(a.total(), 4);
    }
}
