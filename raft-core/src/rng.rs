//! The only source of variation: a generator that the caller seeds (`SplitMix64`; Steele, Lea and Flood, 2014).

use core::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A duration from `base` up to, and not including, twice `base` (paper §5.2: randomized election timeouts).
    pub(crate) fn jittered(&mut self, base: Duration) -> Duration {
        if mutated!(ElectionTimeoutsNotRandom) {
            return base;
        }
        let micros = u64::try_from(base.as_micros()).unwrap_or(u64::MAX).max(1);
        base.saturating_add(Duration::from_micros(self.next() % micros))
    }
}
