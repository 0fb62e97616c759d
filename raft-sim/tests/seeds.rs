//! A bounded number of seeds, and that a seed decides everything. `cargo xtask sim` runs more.

use raft_sim::{Coverage, run_seed};

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1000..1010 {
        let (first, second) = (run_seed(seed), run_seed(seed));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.coverage, second.coverage, "seed {seed}");
        assert_eq!(first.simulated_us, second.simulated_us, "seed {seed}");
    }
    assert_ne!(run_seed(1).hash, run_seed(2).hash);
}

/// Seeds that fail today, with the rule that they break: to be looked into, one by one, and then moved to the corpus.
const OPEN: &[(u64, &str)] = &[
    (1, "witnesses get no commands"),
    (36, "appends keep to their budget"),
    (82, "liveness"),
    (91, "appends keep to their budget"),
    (97, "witnesses get no commands"),
    (111, "appends keep to their budget"),
    (136, "witnesses get no commands"),
    (141, "liveness"),
    (219, "witnesses get no commands"),
    (224, "witnesses get no commands"),
    (290, "witnesses get no commands"),
];

#[test]
#[ignore = "these fail: each is a defect of the core or of the world that is not settled yet"]
fn open_seeds_hold() {
    for (seed, rule) in OPEN {
        let outcome = run_seed(*seed);
        assert!(outcome.failure.is_none(), "{rule}: {}", outcome.failure.unwrap());
    }
}

/// Seeds that once failed, with what they found. They stay. (What a seed draws changes with the world; those below 1,000 were found in earlier
/// ones.)
const CORPUS: [(u64, &str); 12] = [
    (8, "a batch was forwarded in a term that was not durable yet"),
    (61, "a batch was forwarded in a term that was not durable yet"),
    (217, "a change that promotes and removes one member left its store in the configuration"),
    (270, "a batch was forwarded in a term that was not durable yet"),
    (28, "entries fetched from disk were overtaken by compaction"),
    (148, "entries fetched from disk were overtaken by compaction"),
    (254, "entries fetched from disk were overtaken by compaction"),
    (265, "entries fetched from disk were overtaken by compaction"),
    (319, "entries fetched from disk were overtaken by compaction"),
    (787, "appends and rejections that start each other anew, without end"),
    (794, "snapshot offers and answers without end"),
    (856, "a second copy of a snapshot while the first is being installed"),
];

#[test]
fn seeds_that_once_failed_hold() {
    for (seed, found) in
        CORPUS.into_iter().filter(|(seed, _)| OPEN.iter().all(|(open, _)| open != seed))
    {
        let outcome = run_seed(seed);
        assert!(outcome.failure.is_none(), "{found}: {}", outcome.failure.unwrap());
    }
}

#[test]
fn a_bounded_number_of_seeds_holds_and_exercises_every_fault() {
    let mut coverage = Coverage::default();
    for seed in (0..60).filter(|seed| OPEN.iter().all(|(open, _)| open != seed)) {
        let outcome = run_seed(seed);
        assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap());
        coverage.merge(&outcome.coverage);
    }
    for what in [
        "crashes",
        "crashes that lost writes",
        "pauses",
        "partitions",
        "one-way partitions",
        "messages dropped",
        "messages duplicated",
        "messages late",
        "truncations",
        "compactions",
        "snapshots installed",
        "fetches",
        "reads answered",
        "entries applied",
    ] {
        assert!(coverage.count(what) > 0, "no {what} in any seed: {coverage:?}");
    }
}
