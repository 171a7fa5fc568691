//! What the metrics tell of an engine: counts since the start, and how long things take.

use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper limits of the buckets, milliseconds. What takes longer is in one more.
const LIMITS: [f64; 12] = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0];

/// How often something took how long.
#[derive(Debug, Default, Clone)]
pub struct Histogram {
    buckets: [u64; LIMITS.len() + 1],
    micros: u64,
}

impl Histogram {
    /// It took this long, `times` times.
    pub fn add(&mut self, took: Duration, times: u64) {
        let milliseconds = took.as_secs_f64() * 1000.0;
        let at = LIMITS.iter().position(|limit| milliseconds <= *limit).unwrap_or(LIMITS.len());
        if let Some(count) = self.buckets.get_mut(at) {
            *count += times;
        }
        self.micros += u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_mul(times);
    }

    /// As Prometheus reads it.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut impl Write, name: &str, pool: &str) -> fmt::Result {
        let mut sum = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            sum += count;
            let limit = LIMITS.get(at).map_or_else(|| "+Inf".to_owned(), |limit| (limit / 1000.0).to_string());
            writeln!(out, "{name}_bucket{{pool=\"{pool}\",le=\"{limit}\"}} {sum}")?;
        }
        let seconds = self.micros as f64 / 1e6;
        writeln!(out, "{name}_sum{{pool=\"{pool}\"}} {seconds}\n{name}_count{{pool=\"{pool}\"}} {sum}")
    }
}

/// Counts since the start.
#[derive(Debug, Default, Clone)]
pub struct Counts {
    /// Transactions.
    pub batches: u64,
    /// Operations.
    pub operations: u64,
    /// Transactions that failed.
    pub failures: u64,
    /// Agents that wait on a long poll now; the engine's handles fill it in.
    pub polls: u64,
    /// One pass of decisions.
    pub decisions: Histogram,
    /// One transaction, from asking for the pool's lock until it is stored.
    pub transactions: Histogram,
    /// One job given to an agent: from the arrival of what made that possible until it is stored.
    pub dispatches: Histogram,
}

/// Counts that an engine and its handles share.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<Counts>);

impl Statistics {
    /// As they are now.
    #[must_use]
    pub fn read(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts something.
    pub fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;
    use std::time::Duration;

    #[test]
    fn a_histogram_counts_in_each_bucket_what_took_at_most_so_long() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_millis(2), 3);
        histogram.add(Duration::from_secs(9), 1);
        let mut out = String::new();
        histogram.write(&mut out, "t", "p").unwrap();
        assert!(out.contains("t_bucket{pool=\"p\",le=\"0.001\"} 0\nt_bucket{pool=\"p\",le=\"0.002\"} 3\n"), "{out}");
        assert!(out.contains("le=\"5\"} 3\nt_bucket{pool=\"p\",le=\"+Inf\"} 4\n"), "{out}");
        assert!(out.ends_with("t_sum{pool=\"p\"} 9.006\nt_count{pool=\"p\"} 4\n"), "{out}");
    }
}
