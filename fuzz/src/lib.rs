//! What the fuzz targets do with their bytes. Each module has one function `run`; it panics where core breaks a promise.
//!
//! `fuzz_targets/` gives them to libFuzzer (`make fuzz`); `tests/seeds.rs` gives them the repository's own fixtures, corpora and
//! vectors, mutated by a fixed generator, on every CI run.
#![forbid(unsafe_code)]

pub mod canonical;
pub mod chunked;
pub mod conn_ops;
pub mod documents;
pub mod head;
mod local_file;
pub mod matcher;
pub mod naive;
pub mod replay_format;

use azure_proxy_agent_core::authz::{Decision, Denial};
use azure_proxy_agent_core::identity::Claims;
use azure_proxy_agent_core::replay::ClaimsSpec;
use naive::{Outcome, Reason};

/// Takes choices from the front of the input and runs dry quietly: every input is a valid one.
#[derive(Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// The next byte; 0 when there are no more.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next `n` bytes, or what is left.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One of these.
    pub fn of<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[usize::from(self.byte()) % from.len()]
    }

    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One of the callers that fixtures know by name.
fn claims(name: &str) -> Claims {
    Claims::clone(&ClaimsSpec::builtin(name).expect("a known name"))
}

/// A decision in the terms of [`naive`].
fn outcome(decision: Decision) -> Outcome {
    let reason = |denial| match denial {
        Denial::Destination => panic!("only guarded endpoints were asked for"),
        Denial::Elevation => Reason::Elevation,
        Denial::Canonical(error) => Reason::Canonical(error.code()),
        Denial::NotAssigned(_) | Denial::ConflictingValues(_) => Reason::Locked,
        Denial::Default => Reason::Default,
    };
    match decision {
        Decision::Allow(_) => Outcome::Allow,
        Decision::Audit(denial) => Outcome::Audit(reason(denial)),
        Decision::Deny(denial) => Outcome::Deny(reason(denial)),
    }
}
