//! The only source of variation: a generator that the caller seeds (`SplitMix64`; Steele, Lea and Flood, 2014).
//!
//! The seed is hashed before it becomes the state. Every `SplitMix64` walks one and the same circle of states in steps
//! of one constant, so seeds that are multiples of that constant (node ids times it, say) would give each member the
//! stream of another, one step ahead: members that never stop drawing the same election timeouts.

use core::time::Duration;

/// How far apart two states of a stream are.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Keeps seed 0 from being its own hash.
const SEED_SALT: u64 = 0x5261_6674_5365_6564;

/// Spreads every bit over all 64; no two numbers come to the same.
pub(crate) fn mixed(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(mixed(seed ^ SEED_SALT))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
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

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_streams_of_members_are_no_shifts_of_each_other() {
        // Node ids times the step of the generator: once the default seeds of the driver.
        let streams = (0..5_u64).map(|id| {
            let mut rng = Rng::new(id.wrapping_mul(STEP));
            (0..1000).map(|_| rng.next()).collect::<BTreeSet<_>>()
        });
        let all: BTreeSet<u64> = streams.flatten().collect();
        assert_eq!(all.len(), 5000, "no number of one stream is in another");
    }
}
