//! The measured loop, and the table of ratios.

use std::time::{Duration, Instant};

use benches::trio::{Keep, Trio};
use bytes::Bytes;

pub(crate) const BATCHES: [usize; 3] = [1, 64, 1024];
pub(crate) const PAYLOADS: [usize; 2] = [16, 256];

/// One side of the comparison.
pub(crate) trait Side {
    fn commit(&mut self, commands: Vec<Bytes>);
    fn compact(&mut self);
    fn applied_bytes(&self) -> u64;
}

impl Side for Trio {
    fn commit(&mut self, commands: Vec<Bytes>) {
        Trio::commit(self, commands);
    }

    fn compact(&mut self) {
        Trio::compact(self);
    }

    fn applied_bytes(&self) -> u64 {
        Trio::applied_bytes(self)
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Side for crate::theirs::Trio {
    fn commit(&mut self, commands: Vec<Bytes>) {
        crate::theirs::Trio::commit(self, commands);
    }

    fn compact(&mut self) {
        crate::theirs::Trio::compact(self);
    }

    fn applied_bytes(&self) -> u64 {
        crate::theirs::Trio::applied_bytes(self)
    }
}

/// Commits `count` batches; the time without that of making payloads and of compacting what is applied.
pub(crate) fn measure(side: &mut impl Side, batch: usize, payload: usize, count: u64) -> Duration {
    /// Entries between two stops of the clock, about: enough for the clock to cost nothing, few enough for memory.
    const CHUNK: usize = 16 << 10;
    let mut left = usize::try_from(count).expect("a count that fits");
    let mut elapsed = Duration::ZERO;
    let (before, expected) = (side.applied_bytes(), (left * batch * payload) as u64);
    while left > 0 {
        let batches = left.min((CHUNK / batch).max(1));
        left -= batches;
        let proposals: Vec<Vec<Bytes>> = (0..batches).map(|_| commands(batch, payload)).collect();
        let begun = Instant::now();
        for commands in proposals {
            side.commit(commands);
        }
        elapsed += begun.elapsed();
        side.compact();
    }
    assert_eq!(side.applied_bytes() - before, expected, "everything proposed was applied");
    elapsed
}

/// A batch of commands as a transport hands them over: slices of one frame.
fn commands(batch: usize, payload: usize) -> Vec<Bytes> {
    let frame = Bytes::from(vec![7; batch * payload]);
    (0..batch).map(|at| frame.slice(at * payload..(at + 1) * payload)).collect()
}

pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Entries a second of both sides, in turns, and the ratio of the medians.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn print_ratios<S: Side>(make: &impl Fn() -> S) {
    const ROUNDS: usize = 9;
    println!("entries/s, medians of {ROUNDS} rounds in turns; three cores, one thread");
    println!(
        "| batch | payload | raft-core | raft-rs | ratio | raft-core, shared runs kept | ratio |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for batch in BATCHES {
        for payload in PAYLOADS {
            let count = (64 << 10) / (batch.max(4));
            let mut samples = [const { Vec::new() }; 3];
            let (mut copies, mut shared, mut theirs) =
                (Trio::new(Keep::Copies), Trio::new(Keep::Shared), make());
            let rate = |elapsed: Duration| (count * batch) as f64 / elapsed.as_secs_f64();
            for _ in 0..ROUNDS {
                samples[0].push(rate(measure(&mut copies, batch, payload, count as u64)));
                samples[1].push(rate(measure(&mut theirs, batch, payload, count as u64)));
                samples[2].push(rate(measure(&mut shared, batch, payload, count as u64)));
            }
            let [copies, theirs, shared] = samples.map(median);
            println!(
                "| {batch} | {payload} | {copies:.0} | {theirs:.0} | {:.1} | {shared:.0} | {:.1} |",
                copies / theirs,
                shared / theirs
            );
        }
    }
}
