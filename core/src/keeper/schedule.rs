//! When to ask the host: the constants of W-101 to W-109 and the rules of wire.md section 6.2, as plain functions.

use crate::limits::Limits;
use crate::time::{HostClock, Now, Wall};
use core::time::Duration;

/// W-101: between polls while the state is unknown.
const FAST_POLL: Duration = Duration::from_secs(1);
/// W-102: uptime up to which polls are fast.
const FAST_POLL_UNTIL: Duration = Duration::from_secs(300);
/// W-104: from the start of the provisioning clock to giving up.
pub(crate) const PROVISION_DEADLINE: Duration = Duration::from_secs(120);
/// W-105: uptime at which background tasks start at the latest.
pub(crate) const BACKGROUND_AT: Duration = Duration::from_secs(60);
/// W-106: age at which the host's time is taken again.
const CLOCK_REFRESH: Duration = Duration::from_secs(15 * 60);
/// W-73: drift between our two clocks that tells of a sleep or of a changed wall clock.
const CLOCK_DRIFT: Duration = Duration::from_secs(30);

/// After this long an answer that the keeper waits for counts as lost: the shell gives up every call to the host by itself before that.
pub(crate) const ANSWER_LIMIT: Duration =
    Duration::from_secs(Limits::DEFAULT.connect_timeout.as_secs() + Limits::DEFAULT.exchange_timeout.as_secs() + 5);

/// How long to wait before the next iteration (W-85, W-86).
pub(super) fn wait(unknown: bool, uptime: Duration, interval: Duration) -> Duration {
    if unknown && uptime < FAST_POLL_UNTIL { FAST_POLL } else { interval }
}

/// Spreads the retries of many machines: a small generator (splitmix64) that gives the same waits for the same seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `wait` and up to a tenth of it.
    pub(super) fn stretch(&mut self, wait: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        wait + wait / 10 * u32::try_from(z >> 48).unwrap_or(0) / 0x1_0000
    }
}

/// The host's clock, and when we last set ours by it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClockSync {
    clock: HostClock,
    /// Both of our clocks at the last update.
    set: Option<Now>,
}

impl ClockSync {
    /// The clock as requests use it.
    pub(super) const fn clock(&self) -> HostClock {
        self.clock
    }

    /// Whether an update is due (W-70, W-73).
    fn is_due(&self, now: Now) -> bool {
        let Some(set) = self.set else { return true };
        let elapsed = now.mono.since(set.mono);
        let expected = set.wall.plus(elapsed);
        elapsed > CLOCK_REFRESH || u128::from(now.wall.0.abs_diff(expected.0)) > CLOCK_DRIFT.as_nanos()
    }

    /// Takes the time of a successful status response, if it is due; whether the clock was set (W-70, W-71).
    pub(super) fn offer(&mut self, now: Now, host_date: Option<&[u8]>, date: Option<&[u8]>) -> bool {
        if !self.is_due(now) {
            return false;
        }
        // A host date that is not a date fails the update; one that is not even printable text counts as absent.
        let printable = |value: &&[u8]| value.iter().all(|b| matches!(b, b'\t' | 0x20..=0x7e));
        let Some(wall) = host_date.filter(printable).or(date).and_then(Wall::parse_http_date) else { return false };
        self.clock = HostClock::Synchronized { mono: now.mono, wall };
        self.set = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Mono;

    const SECOND: u64 = 1_000_000_000;
    const DATE: &[u8] = b"Tue, 06 Jan 2026 08:15:30 GMT";
    const OTHER: &[u8] = b"Tue, 06 Jan 2026 09:00:00 GMT";

    fn now(mono: u64, wall: u64) -> Now {
        Now { mono: Mono(mono * SECOND), wall: Wall(wall * SECOND) }
    }

    #[test]
    fn waiting_w85_w86() {
        let interval = Duration::from_secs(15);
        assert_eq!(wait(true, Duration::from_secs(299), interval), FAST_POLL);
        assert_eq!(wait(true, Duration::from_secs(300), interval), interval);
        assert_eq!(wait(false, Duration::ZERO, interval), interval);
    }

    #[test]
    fn retries_are_spread_and_never_early_w85_w86() {
        for wait in [FAST_POLL, Duration::from_secs(15), Duration::from_secs(u64::from(u32::MAX))] {
            let waits = |seed| {
                let mut jitter = Jitter::new(seed);
                [(); 100].map(|()| jitter.stretch(wait))
            };
            let (one, other) = (waits(1), waits(2));
            assert_eq!(one, waits(1), "the same seed, the same waits");
            assert_ne!(one, other);
            assert!(one.iter().chain(&other).all(|w| *w >= wait && *w <= wait + wait / 10), "at most a tenth longer");
            let spread = *one.iter().max().unwrap() - *one.iter().min().unwrap();
            assert!(spread > wait / 20, "{spread:?}");
        }
    }

    /// W-106
    #[test]
    fn host_time_is_taken_every_15_minutes_w70() {
        let mut sync = ClockSync::default();
        assert!(sync.offer(now(10, 1000), Some(DATE), None));
        assert!(!sync.offer(now(10 + 900, 1900), Some(OTHER), None), "exactly 15 minutes is not older");
        assert!(sync.offer(now(10 + 901, 1901), Some(OTHER), None));
    }

    #[test]
    fn sources_of_w71() {
        let set = |host: Option<&[u8]>, date| {
            let mut sync = ClockSync::default();
            sync.offer(now(1, 1), host, date).then(|| sync.clock().at(now(1, 1)))
        };
        assert_eq!(set(Some(DATE), Some(OTHER)), Wall::parse_http_date(DATE));
        assert_eq!(set(None, Some(OTHER)), Wall::parse_http_date(OTHER));
        assert_eq!(set(Some(b"yesterday"), Some(OTHER)), None, "an invalid host date is not replaced by Date");
        assert_eq!(set(Some(b"\xff"), Some(OTHER)), Wall::parse_http_date(OTHER), "unprintable counts as absent");
        assert_eq!(set(None, None), None);
    }

    #[test]
    fn clocks_that_disagree_force_an_update_w73() {
        for (mono, wall, due) in [(20, 1010, false), (20, 1040, false), (20, 1041, true), (20, 979, true), (20, 980, false)] {
            let mut sync = ClockSync::default();
            assert!(sync.offer(now(10, 1000), Some(DATE), None));
            assert_eq!(sync.offer(now(mono, wall), Some(OTHER), None), due, "{mono} {wall}");
        }
    }
}
