//! What the core may allocate: in the steady state a number of times per batch, however many entries the batch has; and little per idle
//! group. Counting is deterministic, so these are tests and not benchmarks.

use benches::counting::{Counting, count};
use benches::trio::{Keep, Trio};
use bytes::Bytes;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PAYLOAD: &[u8] = &[7; 256];

/// How often the three cores and their driver allocate, from a batch's being proposed to its being applied, at most of many.
fn allocations_per_batch(trio: &mut Trio, batch: usize) -> u64 {
    // Payloads that allocate nothing, and a vector that is counted for nobody: these are the caller's.
    let proposals: Vec<Vec<Bytes>> =
        (0..256).map(|_| vec![Bytes::from_static(PAYLOAD); batch]).collect();
    proposals
        .into_iter()
        .map(|commands| {
            let before = count().calls;
            trio.commit(commands);
            count().calls - before
        })
        .max()
        .unwrap_or_default()
}

#[test]
fn a_batch_costs_as_many_allocations_however_many_entries_it_has() {
    let mut trio = Trio::new(Keep::Nothing);
    // Warm: windows open, queues as long as they get, the tail at its budget.
    allocations_per_batch(&mut trio, 1024);
    trio.compact();
    let [one, sixty_four, thousand, eight_thousand] =
        [1, 64, 1024, 8192].map(|batch| allocations_per_batch(&mut trio, batch));
    println!(
        "allocations per batch of 1, 64, 1,024, 8,192: {one}, {sixty_four}, {thousand}, {eight_thousand}"
    );
    // The invariants, which are checked after every input under debug assertions, allocate too.
    let one_max = if cfg!(debug_assertions) { 24 } else { 12 };
    assert!(one <= one_max, "a batch of one costs {one} allocations");
    assert!(sixty_four <= one, "64 entries cost {sixty_four} allocations, one {one}");
    // A large batch may leave as several appends, and a queue may double: more than for one, and far from one per entry.
    assert!(thousand <= 2 * one + 8, "1,024 entries cost {thousand} allocations, one {one}");
    assert!(eight_thousand <= 8192 / 40, "8,192 entries cost {eight_thousand} allocations");
}

/// The mean of what one member of a group holds in memory, over so many groups, after `live` of each group's life.
fn bytes_per_member(groups: usize, member: usize, live: impl Fn(&mut Trio)) -> u64 {
    let mut kept = Vec::with_capacity(groups);
    let before = count().live_bytes;
    for _ in 0..groups {
        let mut trio = Trio::new(Keep::Nothing);
        live(&mut trio);
        kept.extend(trio.into_cores().nth(member));
    }
    let held = count().live_bytes - before;
    assert_eq!(kept.len(), groups);
    held / groups as u64 + size_of::<raft_core::Raft>() as u64
}

#[test]
fn an_idle_member_holds_less_than_four_kibibytes() {
    const GROUPS: usize = 10_000;
    let heartbeats = |trio: &mut Trio| (0..3).for_each(|_| trio.heartbeat());
    let busy_once = |trio: &mut Trio| {
        for _ in 0..8 {
            trio.commit(vec![Bytes::from_static(PAYLOAD); 1024]);
        }
        trio.compact();
        heartbeats(trio);
    };
    let leader = bytes_per_member(GROUPS, 0, heartbeats);
    let follower = bytes_per_member(GROUPS, 1, heartbeats);
    // What a burst leaves behind once it is compacted (the tail keeps it within its budget); a hundredth of the groups tells as much.
    let leader_after = bytes_per_member(GROUPS / 100, 0, busy_once);
    let follower_after = bytes_per_member(GROUPS / 100, 1, busy_once);
    println!("bytes per idle group: leader {leader}, follower {follower}");
    println!(
        "the same after 8,192 entries, compacted: leader {leader_after}, follower {follower_after}"
    );
    assert!(leader < 4096, "a leader holds {leader} bytes");
    assert!(follower < 4096, "a follower holds {follower} bytes");
    // Neither its entries nor the room of its queues are kept. A mark of the log's size in bytes is.
    assert!(leader_after < 4224, "a leader holds {leader_after} bytes after a burst");
    assert!(follower_after < 4096, "a follower holds {follower_after} bytes after a burst");
}
