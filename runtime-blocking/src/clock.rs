//! The only place that asks a clock. Core gets the answer as a value.

use azure_proxy_agent_core::time::{Mono, Now, Wall};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Both clocks, now: `CLOCK_BOOTTIME` (keeps counting while the machine sleeps, W-73) and `CLOCK_REALTIME`.
#[must_use]
pub fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// `CLOCK_BOOTTIME` alone.
#[must_use]
pub fn mono() -> Mono {
    Mono(nanos(clock_gettime(ClockId::Boottime)))
}

/// `CLOCK_REALTIME` alone; a clock set before 1970 counts as 1970.
#[must_use]
pub fn wall() -> Wall {
    Wall(nanos(clock_gettime(ClockId::Realtime)))
}

/// `CLOCK_MONOTONIC`, which the service manager counts with. Microseconds.
#[must_use]
pub fn monotonic_micros() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic)) / 1000
}

/// The clock that connections use.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clocks.
    #[default]
    System,
    /// A wall clock that stands still until somebody sets it (nanoseconds since 1970), for replays: dates and signatures are then the
    /// fixture's.
    Frozen(Arc<AtomicU64>),
}

impl Clock {
    /// Both clocks, now.
    #[must_use]
    pub fn now(&self) -> Now {
        match self {
            Self::System => now(),
            Self::Frozen(wall) => Now { mono: mono(), wall: Wall(wall.load(Ordering::Acquire)) },
        }
    }
}

fn nanos(t: Timespec) -> u64 {
    let secs = u64::try_from(t.tv_sec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_does_not_go_back_and_wall_time_is_of_this_century() {
        let (a, b) = (now(), now());
        assert!(b.mono >= a.mono);
        assert!(a.wall.secs() > 946_684_800 && a.wall.secs() < 4_102_444_800);
    }

    /// W-73: a clock that counts while the machine sleeps. A time namespace whose boot clock is a day ahead of the monotonic one is a
    /// machine that has slept for a day.
    #[test]
    fn w73_sleep_counts() {
        const CHILD: &str = "CLOCK_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let awake = Mono(nanos(clock_gettime(ClockId::Monotonic)));
            println!("slept {}", mono().since(awake).as_secs());
            return;
        }
        let this = std::env::current_exe().expect("test binary");
        let run = |command: &mut std::process::Command| {
            let output = command
                .args(["--exact", "clock::tests::w73_sleep_counts", "--nocapture"])
                .env(CHILD, "1")
                .output()
                .expect("runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split_once("slept ").and_then(|(_, n)| n.lines().next()?.trim().parse::<u64>().ok())
        };
        let slept = run(&mut std::process::Command::new(&this)).expect("the time that this machine has slept");
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--time", "--boottime", "86400", "--"]).arg(&this);
        // Without root, or on a kernel without time namespaces, there is nothing to see.
        if let Some(later) = run(&mut unshare) {
            assert!((86_400..86_410).contains(&(later - slept)), "{later} {slept}");
        }
    }
}
