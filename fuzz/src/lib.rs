//! What the fuzz targets do with their bytes. Each module has one function `run`; it panics where core breaks a promise.
//!
//! `fuzz_targets/` gives them to libFuzzer (`make fuzz`); `tests/seeds.rs` gives them the repository's own fixtures, corpora and
//! vectors, mutated by a fixed generator, on every CI run.
#![forbid(unsafe_code)]

pub mod canonical_path;
pub mod chunked;
pub mod conn_ops;
pub mod head;
pub mod replay_format;
pub mod rules_json;

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

    /// Whether there is nothing left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
