//! What a sweep must have shown before it may pass: that everything happened often enough, and that a seed decides everything.
//!
//! A world that does nothing breaks nothing. So each kind of fault, recovery, role, snapshot step and change of the group has a floor, and a
//! sweep in which one of them fired less often fails, although no seed did.

use anyhow::bail;
use raft_sim::{Case, Coverage};

/// Below this many seeds chance decides too much, and no floor is asked for.
pub(super) const SEEDS_MIN: u64 = 1_000;

/// How often each kind must fire in 1,000 seeds: about a quarter of what it does. Rarer than that are only kinds that a proof counts.
const FLOORS: &[(&str, u64)] = &[
    // Faults of the network.
    ("bridge partitions", 100),
    ("clogged links", 90),
    ("connections lost", 100),
    ("flapping links", 100),
    ("isolated leaders", 100),
    ("messages cut off", 20_000),
    ("messages dropped", 60_000),
    ("messages duplicated", 60_000),
    ("messages late", 30_000),
    ("messages of a lost type", 1000),
    ("messages replayed", 500),
    ("refusals repeated that were overtaken", 80),
    ("one-way partitions", 100),
    ("partitions", 100),
    ("slow links", 85),
    ("types lost", 100),
    ("chunks of a lost type", 35),
    ("chunks replayed", 10),
    ("answers lost", 1000),
    // Faults of processes and clocks.
    ("clock steps", 50),
    ("clock steps of hours", 13),
    ("crashes", 900),
    ("crashes in a joint configuration", 13),
    ("crashes in a loop", 200),
    ("crashes in recovery", 40),
    ("crashes between two actions", 17),
    ("crashes in the middle of an install", 6),
    ("real stores: openings that failed", 140),
    ("real stores: openings that a fault came too late for", 11),
    ("power losses", 40),
    ("processes killed", 12),
    ("crashes that lost writes", 50),
    ("pauses", 100),
    ("power losses of all", 70),
    ("suspensions", 95),
    ("echoes of earlier lives refused", 100),
    ("messages of an earlier life replayed", 300),
    ("chunks of an earlier life replayed", 25),
    ("slow fetches", 100),
    ("asked to make a witness a member", 20),
    // Recoveries.
    ("restarts", 900),
    ("networks healed", 800),
    ("processes that went on", 200),
    ("disk stalls that ended", 130),
    // Faults of disks.
    ("disk stalls", 100),
    ("disk stalls of one to ten seconds", 45),
    ("disks wiped", 55),
    ("fetches failed", 3000),
    ("fsync lies found", 65),
    ("full disks", 18),
    ("slow writes", 1000),
    ("write errors", 24),
    ("completions out of order", 1000),
    ("writes that overtook others", 1900),
    // Faults of the disks beneath real stores, in one seed of eight.
    ("crashes of real stores that kept what was under way", 18),
    ("crashes of real stores that lost what was under way", 12),
    ("fetches from real stores", 8000),
    ("real disks: bit flips", 9),
    ("real disks: full", 12),
    ("real disks: garbage in pages", 10),
    ("real disks: misdirected writes", 8),
    ("real disks: power losses in a call", 60),
    ("real disks: power losses that kept a part", 20),
    ("real disks: read errors", 30),
    ("real disks: stale pages", 8),
    ("real disks: stalls", 18),
    ("real disks: sync errors", 25),
    ("real disks: syncs that lied", 140),
    ("real disks: torn sectors", 40),
    ("real disks: write errors", 34),
    ("real disks: zeroed pages", 9),
    ("real stores that failed", 28),
    ("real stores that found what they lost", 11),
    // Roles.
    ("became candidate", 1000),
    ("became follower", 1000),
    ("became leader", 800),
    ("became learner", 230),
    ("became outsider", 230),
    ("became pre-candidate", 1000),
    ("became witness", 30),
    ("witness starts", 200),
    ("stores recorded", 200),
    ("stores rejected", 65),
    ("own stores found rejected", 10),
    ("transfers asked for", 500),
    // Replication.
    ("appends rejected", 20_000),
    ("batches abandoned", 10_000),
    ("batches appended", 60_000),
    ("batches forwarded", 2000),
    ("batches refused", 40_000),
    ("entries applied", 400_000),
    ("fetches", 70_000),
    ("truncations", 100),
    ("writes", 200_000),
    // Snapshots.
    ("checkpoints", 20_000),
    ("compactions", 10_000),
    ("installs failed", 10),
    ("log resets", 500),
    ("snapshots installed", 500),
    ("snapshots offered", 1000),
    ("snapshots received", 500),
    ("jobs done at once", 50_000),
    ("streams begun", 1000),
    ("streams broken", 95),
    ("streams that went on where others had stopped", 35),
    ("chunks damaged", 140),
    ("chunks damaged before their checksum was made", 35),
    ("chunks duplicated", 1400),
    ("chunks lost", 1600),
    ("digests damaged", 23),
    ("snapshots not received", 50),
    ("snapshots that did not fit their digest", 35),
    ("snapshots that gave way to others while they arrived", 370),
    ("compactions during a send", 1300),
    ("crashes with a snapshot half received", 13),
    ("streams superseded", 2),
    // Membership.
    ("asked to add a learner", 800),
    ("asked to add a voter", 200),
    ("asked to add a witness", 100),
    ("asked in haste", 400),
    ("asked to add and promote at once", 55),
    ("asked to make a former witness a member", 8),
    ("asked to promote who is silent", 6),
    ("asked to replace a voter", 180),
    ("asked to remove and add at once", 100),
    ("asked to remove, add and remove at once", 100),
    ("transfers asked for to who leaves", 3),
    ("asked to demote", 100),
    ("asked to promote", 1000),
    ("asked to remove", 700),
    ("configurations in effect", 4000),
    ("configurations rolled back", 10),
    ("joint configurations begun", 100),
    ("joint configurations left", 100),
    ("learners changed", 100),
    ("voters changed one at a time", 200),
    ("leaders that were removed", 55),
    ("removed nodes that returned", 100),
    ("voters replaced", 75),
    // Clients, and what was judged.
    ("converged", 900),
    ("reads answered", 100_000),
    ("reads answered elsewhere", 7000),
    ("reads refused", 100_000),
    ("requests abandoned", 55),
    ("requests answered", 100_000),
    ("requests done", 500),
    ("requests judged", 100_000),
    ("requests judged with an unknown outcome", 2000),
    ("requests of clients", 300_000),
    ("requests refused", 1000),
    ("requests sent again", 200_000),
    ("sessions expired", 500),
    ("histories explained by search alone", 900),
    // What members lied about when a run was over.
    ("groups that began to tell stores apart", 55),
    ("leaders with a lease that stood still", 24),
    ("members without a store that lost their logs", 40),
    ("stores that lost what they had acknowledged", 40),
    ("stores that repeated a life", 40),
    // What must be refused, in whatever state a member is.
    ("passed over: answers of strangers", 10),
    ("passed over: refusals after the vote", 3),
    ("refused at start: BrokenMembership", 500),
    ("refused at start: BrokenTerms", 500),
    ("refused at start: CommitBeyondLog", 500),
    ("refused at start: FoundedAsAnotherKind", 200),
    ("refused at start: MachineBehindLog", 50),
    ("refused at start: TermBeyondHardState", 130),
    ("refused at start: WitnessStore", 5),
    ("refused: AcknowledgedTooMuch", 800),
    ("refused: AppliedOutOfRange", 2000),
    ("refused: BrokenRun", 300),
    ("refused: CommandForWitness", 20),
    ("refused: CommandsMissing", 700),
    ("refused: EntryFromTheFuture", 280),
    ("refused: ImpossibleMembership", 270),
    ("refused: ImpossibleSnapshot", 1100),
    ("refused: ImpossibleTerm", 2000),
    ("refused: OverwritesCommitted", 120),
    ("refused: OwnId", 2000),
    ("refused: PositionFromTheFuture", 2000),
    ("refused: SecondLeader", 1600),
    ("refused: UnexpectedSnapshot", 1900),
    ("refused: UnknownReadContext", 800),
    ("refused: UnknownTicket", 2000),
    ("refused: WithheldCommand", 280),
    ("refused: WrongMembership", 1700),
    // Budgets that a member came near to: none that is never reached shows anything.
    ("polls of witnesses with a log that was cut", 30_000),
    ("polls with a log that was cut", 700_000),
    ("polls with as many reads as may wait", 40_000),
    ("polls with messages withheld", 13_000),
    ("polls with more in memory than the tail's budget", 160_000),
];

/// What may happen in so many of 1,000 seeds at most: about three times of what does.
const CEILINGS: &[(&str, u64)] = &[
    // Proved too, but by whoever made the guess; what neither explains has failed.
    ("histories explained by a guess", 45),
    // Cores that had an excuse. That they would have converged but for a leader outside is proved.
    ("convergence hindered by a leader outside", 16),
    ("cores made unable by a leader outside", 2),
    // By the checkers' own reckoning no nodes are able, and indeed all together did nothing.
    ("no core is able", 45),
    ("unable: no quorum", 27),
    ("unable: too few zones", 12),
    ("unable: who has the longest log can not lead", 12),
    ("unable: nobody can lead", 3),
    ("unable: a joint configuration is left to nobody", 0),
    // By that reckoning it was not certain, and they went on.
    ("cores that went on, though that was not certain", 14),
];

/// A kind that fired too rarely.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shortfall {
    what: &'static str,
    count: u64,
    floor: u64,
}

/// How often `what` must have fired in so many seeds; `None` if there is no floor.
pub(super) fn floor(what: &str, seeds: u64) -> Option<u64> {
    if seeds < SEEDS_MIN {
        return None;
    }
    let (_, floor) = FLOORS.iter().find(|(name, _)| *name == what)?;
    Some(floor.saturating_mul(seeds) / 1_000)
}

/// Every kind that fired less often than its floor.
pub(super) fn shortfalls(coverage: &Coverage, seeds: u64) -> Vec<Shortfall> {
    let all = FLOORS.iter().filter_map(|&(what, _)| {
        let (count, floor) = (coverage.count(what), floor(what, seeds)?);
        (count < floor).then_some(Shortfall { what, count, floor })
    });
    all.collect()
}

/// Every kind that fired more often than it may, in words.
fn excesses(coverage: &Coverage, seeds: u64) -> Vec<String> {
    let all = CEILINGS.iter().filter_map(|(what, ceiling)| {
        let (count, ceiling) = (coverage.count(what), ceiling.saturating_mul(seeds) / 1_000);
        (seeds >= SEEDS_MIN && count > ceiling)
            .then(|| format!("{what}: {count}, at most {ceiling}"))
    });
    all.collect()
}

/// The kinds with a floor that never fired.
#[cfg(test)]
pub(super) fn never(coverage: &Coverage) -> Vec<&'static str> {
    let all = FLOORS.iter().filter(|(what, _)| coverage.count(what) == 0);
    all.map(|(what, _)| *what).collect()
}

/// Fails if a kind fired too rarely, or too often.
pub(super) fn check_coverage(coverage: &Coverage, seeds: u64) -> anyhow::Result<()> {
    let excesses = excesses(coverage, seeds);
    if !excesses.is_empty() {
        bail!("{seeds} seeds did too much of: {}", excesses.join("; "));
    }
    let short = shortfalls(coverage, seeds);
    if short.is_empty() {
        return Ok(());
    }
    let short: Vec<String> = short
        .iter()
        .map(|Shortfall { what, count, floor }| format!("{what}: {count}, at least {floor}"))
        .collect();
    bail!("{seeds} seeds did not do enough of: {}", short.join("; "));
}

/// Runs every case twice, and fails if two runs of one differ in any action. `run` gives a hash over all that a run does.
pub(super) fn check_determinism(
    cases: impl Iterator<Item = Case>,
    run: impl Fn(&Case) -> u64,
) -> anyhow::Result<u64> {
    let mut done = 0;
    let mut differing = Vec::new();
    for case in cases {
        if run(&case) != run(&case) {
            differing.push(case.seed);
        }
        done += 1;
    }
    if differing.is_empty() {
        return Ok(done);
    }
    bail!(
        "seeds that do not do the same twice: {differing:?}; compare two runs of `cargo xtask sim --seed {} --verbose`",
        differing[0]
    );
}
