//! Provisioning: are listener, redirector and key latch ready, and what is said to whoever waits for it (cli.md section 2,
//! proxy.md section 4.1). Knows flags, ticks and times; the agent knows what they mean.

use crate::keeper::schedule::PROVISION_DEADLINE;
use crate::time::{Mono, Now, Wall};
use core::time::Duration;

/// At most one notification in this time is passed on (PX-59).
const NOTIFY_GAP: Duration = Duration::from_secs(1);

/// The three things that must be ready (CLI-12 to CLI-14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    Redirector,
    KeyLatch,
    Listener,
}

impl Flag {
    /// In the order of PX-57.
    pub(super) const ALL: [Self; 3] = [Self::Redirector, Self::KeyLatch, Self::Listener];
}

/// State of provisioning.
#[derive(Debug, Default)]
pub(super) struct Provision {
    /// By [`Flag`] as index.
    ready: [bool; 3],
    /// Wall-clock time of the last time it (re)finished, with or without errors.
    finished: Option<Wall>,
    /// Start of the provisioning clock; `None` once it fired or was not needed (W-75).
    clock: Option<Mono>,
    /// All flags were set; the redirect must be in line before that counts as finished (CLI-15).
    pending: bool,
    /// The last finish was a good one.
    good: bool,
    /// When the last notification was passed on.
    notified: Option<Mono>,
    /// The latest tick of those whose notification came too soon after that one (PX-59).
    owed: Option<i128>,
}

impl Provision {
    /// (Re)starts the clock of W-75.
    pub(super) const fn start_clock(&mut self, now: Now) {
        self.clock = Some(now.mono);
    }

    /// Sets a flag; if all are set now, finishing is pending (CLI-15: also when this one was set before).
    pub(super) const fn set(&mut self, flag: Flag) -> bool {
        self.ready[flag as usize] = true;
        self.pending = self.all_ready();
        self.pending
    }

    /// Takes a flag back.
    pub(super) const fn clear(&mut self, flag: Flag) {
        self.ready[flag as usize] = false;
        self.pending = false;
    }

    pub(super) const fn is_set(&self, flag: Flag) -> bool {
        self.ready[flag as usize]
    }

    const fn all_ready(&self) -> bool {
        matches!(self.ready, [true, true, true])
    }

    /// Begins anew (W-87).
    pub(super) const fn reset(&mut self, now: Now) {
        self.clear(Flag::KeyLatch);
        self.finished = None;
        self.start_clock(now);
    }

    /// The redirect is in line: finishes if that is pending. `Some(true)` if it was not finished without errors before.
    pub(super) const fn finish(&mut self, now: Now) -> Option<bool> {
        if !self.pending {
            return None;
        }
        let news = !self.good || self.finished.is_none();
        self.pending = false;
        self.good = true;
        self.clock = None;
        self.finished = Some(now.wall);
        Some(news)
    }

    /// When the clock fires.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.clock.map(|start| start + PROVISION_DEADLINE)
    }

    /// Fires the clock if it is time; whether provisioning is finished with errors now (CLI-15a).
    pub(super) fn fire(&mut self, now: Now) -> bool {
        if self.deadline().is_none_or(|at| now.mono < at) {
            return false;
        }
        self.clock = None;
        if self.all_ready() {
            return false;
        }
        self.good = false;
        self.finished = Some(now.wall);
        true
    }

    /// The answer to a caller whose question has this tick (PX-55); without `finished` time it is never yes (PX-56).
    pub(super) fn is_finished_for(&self, tick: i128, latched: bool) -> bool {
        self.finished.is_some_and(|finished| latched || i128::from(finished.0) >= tick)
    }

    /// Whether a notification of a caller with this tick may be passed on now (PX-59). If not, it is kept: a caller notifies once,
    /// and would wait for an answer that nobody seeks.
    pub(super) fn may_notify(&mut self, now: Now, tick: i128) -> bool {
        if self.notify_again_at().is_some_and(|at| now.mono < at) {
            self.owed = self.owed.max(Some(tick));
            return false;
        }
        self.owed = None;
        self.notified = Some(now.mono);
        true
    }

    fn notify_again_at(&self) -> Option<Mono> {
        self.notified.map(|last| last + NOTIFY_GAP)
    }

    /// When a notification that was kept is passed on.
    pub(super) fn owed_deadline(&self) -> Option<Mono> {
        self.owed.and(self.notify_again_at())
    }

    /// Whether a notification that was kept is to be passed on now. Not if whoever sent it has got an answer meanwhile.
    pub(super) fn must_notify(&mut self, now: Now, latched: bool) -> bool {
        if self.owed_deadline().is_none_or(|at| now.mono < at) {
            return false;
        }
        self.owed.take().is_some_and(|tick| !self.is_finished_for(tick, latched) && self.may_notify(now, tick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { mono: Mono(0) + Duration::from_secs(secs), wall: Wall(1_000_000_000_000 * secs) }
    }

    fn ready(now: Now) -> Provision {
        let mut p = Provision::default();
        for flag in Flag::ALL {
            p.set(flag);
        }
        assert_eq!(p.finish(now), Some(true));
        p
    }

    #[test]
    fn finished_is_a_matter_of_ticks_px55_px56() {
        let p = ready(at(5));
        let tick = i128::from(at(5).wall.0);
        assert!(p.is_finished_for(tick, false));
        assert!(!p.is_finished_for(tick + 1, false), "a fresh question of a disabled channel needs a fresh answer (CLI-24)");
        assert!(p.is_finished_for(tick + 1, true));
        for tick in [0, -1, i128::MIN] {
            assert!(p.is_finished_for(tick, false));
            assert!(!Provision::default().is_finished_for(tick, true), "PX-56: not before provisioning finished");
        }
    }

    #[test]
    fn finishing_needs_all_three_flags_cli15() {
        let mut p = Provision::default();
        assert!(!p.set(Flag::Listener));
        assert!(!p.set(Flag::KeyLatch));
        assert_eq!(p.finish(at(1)), None);
        assert!(p.set(Flag::Redirector));
        assert_eq!(p.finish(at(2)), Some(true));
        assert_eq!(p.finish(at(3)), None, "nothing new");
        assert!(p.set(Flag::KeyLatch), "a flag that was set already does it again");
        assert_eq!(p.finish(at(4)), Some(false));
        assert!(p.is_finished_for(i128::from(at(4).wall.0), false));
    }

    #[test]
    fn the_clock_fires_once_cli15a() {
        let mut p = Provision::default();
        p.start_clock(at(0));
        p.set(Flag::Listener);
        assert!(!p.fire(at(119)));
        assert!(p.fire(at(120)));
        assert!(!p.fire(at(500)));
        assert!(p.is_finished_for(i128::from(at(120).wall.0), false));
        p.set(Flag::KeyLatch);
        p.set(Flag::Redirector);
        assert_eq!(p.finish(at(600)), Some(true), "a late flag completes provisioning normally");
        p.reset(at(700));
        assert!(!p.is_finished_for(0, false));
        assert!(p.fire(at(820)), "W-87: may fire again");
    }

    #[test]
    fn one_notification_per_second_px59() {
        let mut p = ready(at(0));
        let later = |ms: u64| Now { mono: at(1).mono + Duration::from_millis(ms), wall: Wall(at(1).wall.0 + 1_000_000 * ms) };
        let tick = |now: Now| i128::from(now.wall.0);
        assert!(p.may_notify(later(0), tick(later(0))));
        assert_eq!(p.owed_deadline(), None);
        assert!(!p.may_notify(later(300), tick(later(300))));
        assert!(!p.may_notify(later(999), tick(later(200))));
        assert_eq!(p.owed_deadline(), Some(later(1000).mono));
        assert!(!p.must_notify(later(999), false));
        assert!(p.must_notify(later(1000), false), "kept, not lost: whoever sent it sends no other");
        assert!(!p.must_notify(later(3000), false), "once");
        assert!(p.may_notify(later(2000), 0));
        // Finished since: nobody waits.
        assert!(!p.may_notify(later(2100), tick(later(2100))));
        p.set(Flag::KeyLatch);
        p.finish(later(2200));
        assert!(!p.must_notify(later(3000), false));
        assert_eq!(p.owed_deadline(), None);
    }
}
