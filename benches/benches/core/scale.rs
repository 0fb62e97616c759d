//! What an entry costs as the log grows, and as idle groups are added to the process: it should be the same.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use benches::trio::{Keep, Trio};
use bytes::Bytes;

use crate::compare::median;

const BATCH: usize = 64;
const ROUNDS: usize = 21;

fn batch() -> Vec<Bytes> {
    vec![Bytes::from_static(&[7; 256]); BATCH]
}

/// The cost per entry at several lengths of a log that is never compacted, measured in turns. The stores keep nothing: keeping ten million
/// entries would be what is measured.
pub(crate) fn print_growth() {
    const BATCHES: usize = 32;
    const LENGTHS: [u64; 4] = [10_000, 100_000, 1_000_000, 10_000_000];
    println!("cost per entry as the log grows; batches of {BATCH}, 256 bytes, nothing compacted");
    println!("| entries in the log | ns per entry, median of {ROUNDS} rounds in turns |");
    println!("| ---: | ---: |");
    let mut trios = LENGTHS.map(|length| {
        let mut trio = Trio::new(Keep::Nothing);
        while trio.last().0 < length {
            trio.commit(batch());
        }
        trio
    });
    let mut samples = [const { Vec::new() }; LENGTHS.len()];
    for _ in 0..ROUNDS {
        for (trio, samples) in trios.iter_mut().zip(&mut samples) {
            let proposals: Vec<_> = (0..BATCHES).map(|_| batch()).collect();
            let begun = Instant::now();
            for commands in proposals {
                trio.commit(commands);
            }
            samples.push(begun.elapsed().as_nanos() as f64 / (BATCHES * BATCH) as f64);
        }
    }
    for (length, samples) in LENGTHS.into_iter().zip(samples) {
        println!("| {length} | {:.1} |", median(samples));
    }
}

/// Idle groups of three, all in this thread, whose heartbeats come when they are due.
struct Idle {
    groups: Vec<Trio>,
    due: BinaryHeap<Reverse<(raft_core::Instant, usize)>>,
}

impl Idle {
    fn new(count: usize) -> Idle {
        let groups: Vec<Trio> = (0..count).map(|_| Trio::new(Keep::Nothing)).collect();
        let due = groups.iter().enumerate();
        let due = due.map(|(number, group)| Reverse((group.next_heartbeat(), number))).collect();
        Idle { groups, due }
    }

    /// Runs the heartbeats that are due by `now`; says how many.
    fn advance(&mut self, now: raft_core::Instant) -> u64 {
        let mut count = 0;
        while let Some(&Reverse((at, number))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            self.groups[number].heartbeat();
            self.due.push(Reverse((self.groups[number].next_heartbeat(), number)));
            count += 1;
        }
        count
    }
}

/// The cost per entry of one busy group beside idle ones, and what the idle ones cost.
pub(crate) fn print_idle_groups() {
    const BATCHES: usize = 256;
    const COUNTS: [usize; 4] = [0, 1, 100, 10_000];
    // The busy group's pace on the clock of all: 2,000 batches a second.
    const PACE: Duration = Duration::from_micros(500);
    println!("one busy group beside idle ones, three cores each; batches of {BATCH}, 256 bytes");
    println!(
        "| idle groups | ns per entry of the busy group, median of {ROUNDS} rounds in turns | ns per heartbeat round of an idle group |"
    );
    println!("| ---: | ---: | ---: |");
    let mut worlds = COUNTS.map(|count| (Trio::new(Keep::Nothing), Idle::new(count)));
    let mut clock = raft_core::Instant(10_000_000);
    // All the groups' first heartbeats in the new time, which are not measured.
    for (_, idle) in &mut worlds {
        idle.advance(clock);
    }
    let mut samples = [const { (Vec::new(), Vec::new()) }; COUNTS.len()];
    for _ in 0..ROUNDS {
        let begun_at = clock;
        for ((busy, idle), (busy_samples, idle_samples)) in worlds.iter_mut().zip(&mut samples) {
            clock = begun_at;
            let proposals: Vec<_> = (0..BATCHES).map(|_| batch()).collect();
            let (mut busy_time, mut idle_time, mut beats) = (Duration::ZERO, Duration::ZERO, 0);
            for commands in proposals {
                let begun = Instant::now();
                busy.commit(commands);
                let between = Instant::now();
                clock = clock + PACE;
                beats += idle.advance(clock);
                busy_time += between - begun;
                idle_time += between.elapsed();
            }
            busy.compact();
            busy_samples.push(busy_time.as_nanos() as f64 / (BATCHES * BATCH) as f64);
            if beats > 0 {
                idle_samples.push(idle_time.as_nanos() as f64 / beats as f64);
            }
        }
    }
    for (count, (busy, idle)) in COUNTS.into_iter().zip(samples) {
        let idle = if idle.is_empty() { "–".into() } else { format!("{:.0}", median(idle)) };
        println!("| {count} | {:.1} | {idle} |", median(busy));
    }
}
