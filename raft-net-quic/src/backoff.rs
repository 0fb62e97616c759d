//! How long to wait before another attempt to connect: doubling, with jitter, up to a bound.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    jitter: RandomState,
    count: u64,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff { min, max, next: min, jitter: RandomState::new(), count: 0 }
    }

    /// The other side is there again: start over.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }

    /// The next wait: between half and all of the current bound, so that nodes which lost each other at the same moment do not
    /// come back at the same moment.
    pub(crate) fn delay(&mut self) -> Duration {
        let bound = self.next.min(self.max);
        self.next = bound.saturating_mul(2);
        self.count += 1;
        let part = self.jitter.hash_one(self.count) % 512;
        bound.mul_f64((512 + part) as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_over() {
        let (min, max) = (Duration::from_millis(20), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max);
        let mut bound = min;
        for _ in 0..20 {
            let delay = backoff.delay();
            assert!(bound / 2 <= delay && delay <= bound, "{delay:?} of {bound:?}");
            bound = (bound * 2).min(max);
        }
        backoff.reset();
        assert!(backoff.delay() <= min);
    }
}
