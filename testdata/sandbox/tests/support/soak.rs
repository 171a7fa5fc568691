//! How long the long scenarios take, and what they print at the end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use super::load::Evidence;

/// Lengths. In `make test` a few seconds each; `make soak` sets `SOAK` to the seconds of the longest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Soak {
    /// Of being killed again and again.
    pub(crate) kills: Duration,
    /// Upgrades in a row.
    pub(crate) switches: u32,
    /// Of one fault after the other.
    pub(crate) faults: Duration,
}

impl Soak {
    /// What the environment asks for.
    pub(crate) fn length() -> Self {
        match std::env::var("SOAK").ok().and_then(|s| s.parse().ok()) {
            Some(seconds) => {
                let faults = Duration::from_secs(seconds);
                Self { kills: faults / 10, switches: 20, faults }
            }
            None => Self { kills: Duration::from_secs(2), switches: 4, faults: Duration::from_secs(20) },
        }
    }

    /// Whether this is the long form.
    pub(crate) fn is_long() -> bool {
        std::env::var_os("SOAK").is_some()
    }
}

/// Prints what became of the clients' requests. In the short form it is seen only when the test fails.
pub(crate) fn table(title: &str, evidence: &Evidence) {
    let (allowed, denied) = (evidence.tally(true), evidence.tally(false));
    let count = |tally: &super::load::Tally, fresh, outcome: &str| tally.get(&(fresh, outcome.to_owned())).copied().unwrap_or(0);
    let outcomes: BTreeSet<&String> = allowed.keys().chain(denied.keys()).map(|(_, outcome)| outcome).collect();
    let mut text = format!("\n{title}\n  outcome   allowed: fresh  reused    denied: fresh  reused\n");
    for outcome in outcomes {
        let _ = writeln!(
            text,
            "  {outcome:8} {:>15} {:>7} {:>16} {:>7}",
            count(&allowed, true, outcome),
            count(&allowed, false, outcome),
            count(&denied, true, outcome),
            count(&denied, false, outcome)
        );
    }
    let (host, audit, interrupted) = evidence.totals();
    let _ = writeln!(text, "  {host} requests at the host, {audit} in the audit log, {interrupted} of them as interrupted");
    say(&text);
}

/// To the terminal in the long form, else to where the test's output goes.
pub(crate) fn say(text: &str) {
    if Soak::is_long() {
        let _ = std::io::stderr().write_all(text.as_bytes());
    } else {
        eprint!("{text}");
    }
}
