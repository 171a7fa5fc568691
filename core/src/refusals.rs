//! How much of the audit log requests may fill that never reach a host: a refusal costs its sender nothing, and the log is bounded, so
//! one user could roll away what it says of all others. Beyond a share they are counted instead of written. What reaches a host is
//! always written.

use crate::time::{Mono, Now, Wall};
use core::time::Duration;
use std::collections::BTreeMap;

/// Bytes of lines about refused requests that are written at once, and how many more become free per second.
#[derive(Debug, Clone, Copy)]
struct Share {
    burst: u64,
    per_second: u64,
}

/// Of one user: of the 50 MiB of the log (FS-62, FS-63) one user fills 2 % at once, and not half in six hours.
const USER: Share = Share { burst: 1024 * 1024, per_second: 1024 };
/// Of all together: whoever has many user ids (a range for user namespaces) needs hours to fill the log, too.
const ALL: Share = Share { burst: 8 * 1024 * 1024, per_second: 4096 };
/// Users that are remembered one by one.
const USERS: usize = 256;
/// How long a user's unwritten refusals are counted before the count is written.
const COUNT: Duration = Duration::from_secs(60);

/// Whose refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Those of a user id.
    User(u32),
    /// Those of callers that are not known.
    Unknown,
    /// Those of users that are too many to be told apart.
    Others,
}

/// Refusals that were not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suppressed {
    /// Whose.
    pub whose: Refused,
    /// How many.
    pub count: u64,
    /// When the first of them was.
    pub since: Wall,
}

/// Keeps account of it.
#[derive(Debug, Default)]
pub struct Refusals {
    users: BTreeMap<Refused, Account>,
    all: Bucket,
    /// How many accounts have something suppressed.
    owing: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Account {
    bucket: Bucket,
    count: u64,
    since: Now,
}

/// Bytes that were written and not worked off yet.
#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    level: u64,
    at: Mono,
}

impl Bucket {
    fn drain(&mut self, now: Mono, share: Share) {
        let seconds = now.since(self.at).as_secs();
        if seconds > 0 {
            self.level = self.level.saturating_sub(seconds.saturating_mul(share.per_second));
            self.at = now;
        }
    }

    fn has_room(&mut self, now: Mono, share: Share, bytes: u64) -> bool {
        self.drain(now, share);
        self.level.saturating_add(bytes) <= share.burst
    }
}

impl Refusals {
    /// Whether a line of so many bytes about a refused request is written; if not, it is counted. `user`: whose it is, if that is known.
    #[must_use]
    pub fn admit(&mut self, now: Now, user: Option<u32>, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let whose = self.place(now.mono, user.map_or(Refused::Unknown, Refused::User));
        let account = self.users.entry(whose).or_default();
        if account.bucket.has_room(now.mono, USER, bytes) && self.all.has_room(now.mono, ALL, bytes) {
            account.bucket.level += bytes;
            self.all.level += bytes;
            return true;
        }
        if account.count == 0 {
            account.since = now;
            self.owing += 1;
        }
        account.count += 1;
        false
    }

    /// A count that is due, and is forgotten by this: after a minute, or at the end (`all`).
    pub fn due(&mut self, now: Mono, all: bool) -> Option<Suppressed> {
        if self.owing == 0 {
            return None;
        }
        let is_due = |account: &Account| account.count > 0 && (all || now.since(account.since.mono) >= COUNT);
        let (whose, account) = self.users.iter_mut().find(|(_, account)| is_due(account))?;
        self.owing -= 1;
        Some(Suppressed { whose: *whose, count: core::mem::take(&mut account.count), since: account.since.wall })
    }

    /// The account for somebody: his own if there is one or room for it.
    fn place(&mut self, now: Mono, whose: Refused) -> Refused {
        if self.users.contains_key(&whose) || self.users.len() < USERS {
            return whose;
        }
        // Whoever has worked everything off is as good as forgotten.
        self.users.retain(|_, account| {
            account.bucket.drain(now, USER);
            account.bucket.level > 0 || account.count > 0
        });
        if self.users.len() < USERS { whose } else { Refused::Others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: Mono(seconds * 1_000_000_000), wall: Wall(seconds * 1_000_000_000) }
    }

    /// Invariant 8
    #[test]
    fn one_user_fills_his_share_and_no_more_s54() {
        let mut refusals = Refusals::default();
        let written = (0..100_000).filter(|_| refusals.admit(at(1), Some(1000), 1024)).count();
        assert_eq!(written, 1024);
        assert!(refusals.admit(at(1), Some(1001), 1024), "another user has a share of his own");
        assert!(refusals.admit(at(1), None, 1024));
        // An hour of it, ten thousand per second.
        let more = (2..3602).map(|s| (0..10_000).filter(|_| refusals.admit(at(s), Some(1000), 1024)).count()).sum::<usize>();
        assert!((3590..=3600).contains(&more), "{more}");
    }

    #[test]
    fn what_is_not_written_is_counted_and_told_once_a_minute() {
        let mut refusals = Refusals::default();
        while refusals.admit(at(1), Some(1000), 32 * 1024) {}
        for _ in 0..9 {
            assert!(!refusals.admit(at(1), Some(1000), 32 * 1024));
        }
        assert_eq!(refusals.due(at(60).mono, false), None);
        let suppressed = Suppressed { whose: Refused::User(1000), count: 10, since: at(1).wall };
        assert_eq!(refusals.due(at(61).mono, false), Some(suppressed));
        assert_eq!(refusals.due(at(61).mono, true), None);
        while refusals.admit(at(61), None, 32 * 1024) {}
        assert_eq!(refusals.due(at(62).mono, true).map(|s| (s.whose, s.count)), Some((Refused::Unknown, 1)));
    }

    #[test]
    fn many_user_ids_are_bounded_together_s54() {
        let mut refusals = Refusals::default();
        let mut written = 0;
        for user in 0..65_536 {
            for _ in 0..3 {
                written += 1024 * u64::from(refusals.admit(at(1), Some(user), 1024));
            }
        }
        assert!(written <= ALL.burst, "{written}");
        assert!(refusals.users.len() <= USERS + 1);
        let mut told = 0;
        while let Some(suppressed) = refusals.due(at(1).mono, true) {
            told += suppressed.count;
        }
        assert_eq!(told, 3 * 65_536 - written / 1024);
        // Later they are forgotten.
        assert!(refusals.admit(at(10_000), Some(1), 1024));
        assert!(refusals.admit(at(10_000), Some(70_000), 1024));
        assert!(refusals.users.contains_key(&Refused::User(70_000)));
    }
}
