//! The only source of chance: `SplitMix64` over one seed. Integers only, so that a seed means the same on every machine.

/// A pseudo-random generator. Not for cryptography.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed; close seeds give unrelated sequences.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A stream of chance of its own beside that of the seed, so that what is drawn from it leaves all else as it is. Any number will do for `stream` that no
    /// other begins with.
    pub(crate) fn beside(seed: u64, stream: u64) -> Rng {
        Rng::new(seed ^ (stream << 32))
    }

    /// Where it is: the seed, as long as nothing was drawn.
    pub(crate) fn state(&self) -> u64 {
        self.0
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True in `per_mille` of 1000 cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A number around `mean` (half of it to one and a half), and now and then, up to eight times as much.
    pub fn around(&mut self, mean: u64) -> u64 {
        let usual = mean / 2 + self.below(mean + 1);
        if self.chance(30) { usual * self.between(2, 8) } else { usual }
    }
}
