//! Counters of one node. They only ever rise, and reading them disturbs nobody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a node has done since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Batches proposed at this node's handle and taken by the driver.
    pub batches_proposed: u64,
    /// Commands in them.
    pub commands_proposed: u64,
    /// Batches answered by the state machine.
    pub batches_answered: u64,
    /// Requests turned away because too much was waiting.
    pub busy: u64,
    /// Queries answered, linearizable and local.
    pub queries_answered: u64,
    /// Entries applied to the state machine.
    pub entries_applied: u64,
    /// Bytes of entries applied.
    pub bytes_applied: u64,
    /// Times the driver woke and drained its inputs.
    pub drains: u64,
    /// Inputs handled by the core.
    pub inputs: u64,
    /// Messages sent to peers.
    pub messages_sent: u64,
    /// Messages received from peers.
    pub messages_received: u64,
    /// Messages from peers, or reports of the driver's own parts, that the core refused as against the rules.
    pub inputs_refused: u64,
    /// Writes of the core made durable.
    pub writes: u64,
    /// Durable commits of the log store; `writes / write_groups` is how well group commit works.
    pub write_groups: u64,
    /// Entries made durable.
    pub entries_written: u64,
    /// Compactions of the log.
    pub compactions: u64,
    /// Checkpoints that became durable.
    pub checkpoints: u64,
    /// Snapshots received from a leader and installed.
    pub snapshots_installed: u64,
    /// How long durable commits took.
    pub write_latency: LatencyHistogram,
    /// How many entries each durable commit held, as if an entry were a microsecond.
    pub write_entries: LatencyHistogram,
}

/// A coarse histogram: each bucket is at most a quarter wider than its lower bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// Bucket `i` counts values from `lower_bound(i)` up to `lower_bound(i + 1)`, in microseconds.
    pub buckets: Vec<u64>,
}

impl LatencyHistogram {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The lowest value that falls into bucket `bucket`, in microseconds.
    pub fn lower_bound(bucket: usize) -> u64 {
        if bucket < 4 {
            return bucket as u64;
        }
        let (octave, quarter) = (bucket / 4 + 1, bucket % 4);
        (4 + quarter as u64) << (octave - 2)
    }

    /// An upper bound of the value that `per_mille` of a thousand values do not exceed; zero if nothing was recorded.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let wanted = (self.count() * per_mille.min(1000)).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return Duration::from_micros(Self::lower_bound(bucket + 1));
            }
        }
        Duration::ZERO
    }
}

/// The recording side of a [`LatencyHistogram`].
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; Self::BUCKETS],
}

impl Histogram {
    /// Up to about 2^34: hours, in microseconds.
    const BUCKETS: usize = 132;

    fn bucket(value: u64) -> usize {
        if value < 4 {
            return value as usize;
        }
        let octave = value.ilog2() as usize;
        let quarter = (value >> (octave - 2)) as usize & 3;
        ((octave - 1) * 4 + quarter).min(Self::BUCKETS - 1)
    }

    pub(crate) fn record(&self, value: u64) {
        self.buckets[Self::bucket(value)].fetch_add(1, Relaxed);
    }

    fn snapshot(&self) -> LatencyHistogram {
        LatencyHistogram { buckets: self.buckets.iter().map(|b| b.load(Relaxed)).collect() }
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The recording side of [`Metrics`], shared by all parts of a node.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
            pub(crate) write_latency: Histogram,
            pub(crate) write_entries: Histogram,
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Metrics {
                Metrics {
                    $($name: self.$name.load(Relaxed),)*
                    write_latency: self.write_latency.snapshot(),
                    write_entries: self.write_entries.snapshot(),
                }
            }
        }
    };
}

counters!(
    batches_proposed,
    commands_proposed,
    batches_answered,
    busy,
    queries_answered,
    entries_applied,
    bytes_applied,
    drains,
    inputs,
    messages_sent,
    messages_received,
    inputs_refused,
    writes,
    write_groups,
    entries_written,
    compactions,
    checkpoints,
    snapshots_installed,
);

/// Adds to a counter; none of them orders anything.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_bucket_whose_bounds_hold_it() {
        for value in (0..5000).chain((12..34).map(|shift| (1 << shift) + 17)) {
            let bucket = Histogram::bucket(value);
            assert!(LatencyHistogram::lower_bound(bucket) <= value, "{value} in {bucket}");
            assert!(value < LatencyHistogram::lower_bound(bucket + 1), "{value} in {bucket}");
        }
        assert_eq!(Histogram::bucket(u64::MAX), Histogram::BUCKETS - 1);
    }

    #[test]
    fn quantiles_bound_what_was_recorded() {
        let histogram = Histogram::default();
        for value in 1..=1000 {
            histogram.record(value);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 1000);
        let median = snapshot.quantile(500).as_micros();
        assert!((500..=640).contains(&median), "{median}");
        assert_eq!(LatencyHistogram::default().quantile(990), Duration::ZERO);
    }
}
