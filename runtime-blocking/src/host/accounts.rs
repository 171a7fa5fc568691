//! User id → account name and groups, by the system's name service (NSS), bounded in time and memory (I-30, I-31).
//!
//! The name service may be a directory server far away, which may hang, and which may itself need the metadata endpoint that we
//! guard. So every look-up runs in a thread of its own that we wait for at most two seconds; the answer of one that was given up
//! still arrives in the cache later.

use super::sys;
use azure_proxy_agent_core::identity::{AccountFacts, RawText};
use azure_proxy_agent_core::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is believed: an account (I-30).
const KEEP_FOUND: Duration = Duration::from_secs(60);
/// … and "no such account", a failure or a timeout (I-30).
const KEEP_UNKNOWN: Duration = Duration::from_secs(5);
/// Most user ids remembered (I-30).
const MAX_ENTRIES: usize = 1024;
/// How long a caller waits for the name service (I-31).
const PATIENCE: Duration = Duration::from_secs(2);
/// Most look-ups under way, hanging ones included; beyond that an unknown user id is I-14 at once.
const MAX_LOOKUPS: usize = 16;

type Lookup = dyn Fn(u32) -> io::Result<AccountFacts> + Send + Sync;

/// The account database behind a cache.
pub struct Accounts {
    lookup: Arc<Lookup>,
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A look-up has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    cache: BTreeMap<u32, Entry>,
    running: BTreeSet<u32>,
}

struct Entry {
    facts: AccountFacts,
    until: Mono,
    asked: Mono,
}

impl Entry {
    fn dated(&self, now: Mono) -> (AccountFacts, Mono) {
        (self.facts.clone(), if self.facts.name.is_some() { self.asked } else { now })
    }
}

impl Accounts {
    /// The system's account database.
    #[must_use]
    pub fn system() -> Self {
        Self::new(PATIENCE, ask_system)
    }

    fn new(patience: Duration, lookup: impl Fn(u32) -> io::Result<AccountFacts> + Send + Sync + 'static) -> Self {
        Self { lookup: Arc::new(lookup), shared: Arc::default(), patience }
    }

    /// Name and groups of a user id: from the cache, or asked for, within two seconds. Without an answer the user has no account
    /// (I-14).
    #[must_use]
    pub fn get(&self, uid: u32, now: Mono) -> AccountFacts {
        self.dated(uid, now).0
    }

    /// The same, and when the database was asked; for a user without account, when that was believed last.
    #[must_use]
    pub fn dated(&self, uid: u32, now: Mono) -> (AccountFacts, Mono) {
        let unknown = || (AccountFacts::default(), now);
        let mut state = self.shared.lock();
        if let Some(entry) = state.cache.get(&uid).filter(|e| e.until > now) {
            return entry.dated(now);
        }
        if !state.running.contains(&uid) && !self.start(&mut state, uid, now) {
            return unknown();
        }
        let give_up = Instant::now() + self.patience;
        while state.running.contains(&uid) {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!(
                    "The account database did not answer for user id {uid} within {:?}; the user counts as unknown.",
                    self.patience
                );
                // Spares the next callers the wait; the late answer will replace it.
                state.put(uid, AccountFacts::default(), now, now);
                return unknown();
            }
            state = self.shared.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.cache.get(&uid).map_or_else(unknown, |e| e.dated(now))
    }

    /// Starts a look-up; `false` if too many are under way or there are no more threads.
    fn start(&self, state: &mut State, uid: u32, now: Mono) -> bool {
        if state.running.len() >= MAX_LOOKUPS {
            log::warn!("{MAX_LOOKUPS} account look-ups are under way; user id {uid} counts as unknown.");
            return false;
        }
        let (lookup, shared, began) = (Arc::clone(&self.lookup), Arc::clone(&self.shared), Instant::now());
        let thread = std::thread::Builder::new().name("account".into()).spawn(move || {
            let facts = lookup(uid).unwrap_or_else(|e| {
                log::warn!("The account database failed for user id {uid}: {e}");
                AccountFacts::default()
            });
            let mut state = shared.lock();
            state.running.remove(&uid);
            // An answer is as old as its question: counted from there it can never be believed for longer than it should.
            state.put(uid, facts, now, now + began.elapsed());
            shared.ended.notify_all();
        });
        match thread {
            Ok(_detached) => state.running.insert(uid),
            Err(e) => {
                log::warn!("No thread for an account look-up: {e}");
                false
            }
        }
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("entries", &self.shared.lock().cache.len()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Look-ups do not panic while they hold the lock; should one, the state is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers what was found out about a question asked at `asked`; makes room if there is none.
    fn put(&mut self, uid: u32, facts: AccountFacts, asked: Mono, now: Mono) {
        let keep = if facts.name.is_some() { KEEP_FOUND } else { KEEP_UNKNOWN };
        // A late "unknown" would be stale before it is stored if it were counted from its question.
        let from = if facts.name.is_some() { asked } else { now };
        if !self.cache.contains_key(&uid) && self.cache.len() >= MAX_ENTRIES {
            self.cache.retain(|_, e| e.until > now);
            if self.cache.len() >= MAX_ENTRIES
                && let Some(soonest) = self.cache.iter().min_by_key(|(_, e)| e.until).map(|(uid, _)| *uid)
            {
                self.cache.remove(&soonest);
            }
        }
        self.cache.insert(uid, Entry { facts, until: from + keep, asked });
    }
}

/// Asks NSS: name by user id, all groups, their names ascending by group id, those without a name left out (I-05, I-15).
fn ask_system(uid: u32) -> io::Result<AccountFacts> {
    sys::account(uid)?.map_or_else(|| Ok(AccountFacts::default()), facts)
}

/// An account with its numbers.
#[derive(Debug)]
pub struct Numbered {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Name and groups.
    pub facts: AccountFacts,
}

/// The account of a name; `None` without one. For tools: without cache, without bound.
///
/// # Errors
/// The account database cannot be asked.
pub fn named(name: &str) -> io::Result<Option<Numbered>> {
    let Ok(name) = std::ffi::CString::new(name) else { return Ok(None) };
    numbered(sys::account_named(&name)?)
}

/// The account of a user id: likewise.
///
/// # Errors
/// Likewise.
pub fn of_uid(uid: u32) -> io::Result<Option<Numbered>> {
    numbered(sys::account(uid)?)
}

fn numbered(account: Option<sys::Account>) -> io::Result<Option<Numbered>> {
    let Some(account) = account else { return Ok(None) };
    let (uid, gid) = (account.uid, account.primary_group);
    Ok(Some(Numbered { uid, gid, facts: facts(account)? }))
}

/// The id of a group of that name; `None` if there is none. For tools: without cache, without bound.
///
/// # Errors
/// The account database cannot be asked.
pub fn group_named(name: &str) -> io::Result<Option<u32>> {
    std::ffi::CString::new(name).map_or(Ok(None), |name| sys::group_id(&name))
}

fn facts(account: sys::Account) -> io::Result<AccountFacts> {
    let mut ids = sys::group_ids(&account)?;
    ids.sort_unstable();
    ids.dedup();
    let mut groups = Vec::with_capacity(ids.len());
    for id in ids {
        if let Some(name) = sys::group_name(id)? {
            let name = RawText::from(name.into_bytes());
            // Two ids may bear one name.
            if !groups.contains(&name) {
                groups.push(name);
            }
        }
    }
    Ok(AccountFacts { name: Some(RawText::from(account.name.into_bytes())), groups })
}

#[cfg(test)]
mod tests;
