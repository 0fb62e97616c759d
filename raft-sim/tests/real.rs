//! Seeds whose nodes have the real log store, on virtual disks that fail: the store keeps its word, and every fault of a disk happens.

use raft_sim::{Coverage, Plan, Rng, run_seed};

fn has_real_stores(seed: u64) -> bool {
    Plan::draw(&mut Rng::new(seed)).disk.has_real_stores
}

#[test]
fn one_seed_in_eight_has_real_stores() {
    let count = (0..1600).filter(|seed| has_real_stores(*seed)).count();
    assert!((160..240).contains(&count), "{count}");
}

#[test]
fn real_stores_keep_their_word_whatever_their_disks_do() {
    let mut coverage = Coverage::default();
    for seed in (0..).filter(|seed| has_real_stores(*seed)).take(60) {
        let outcome = run_seed(seed);
        // Other rules have their own tests.
        if let Some(failure) = outcome.failure {
            assert!(!failure.violation.rule.contains("real store"), "{failure}");
            assert!(failure.violation.rule != "no panic", "{failure}");
        }
        coverage.merge(&outcome.coverage);
    }
    for what in [
        "fetches from real stores",
        "power losses",
        "processes killed",
        "real stores: openings that a fault came too late for",
        "real stores: openings that failed",
        "crashes of real stores that kept what was under way",
        "crashes of real stores that lost what was under way",
        "real stores that failed",
        "real disks: write errors",
        "real disks: sync errors",
        "real disks: read errors",
        "real disks: full",
        "real disks: torn sectors",
        "real disks: power losses in a call",
        "real disks: power losses that kept a part",
        "real disks: stalls",
    ] {
        assert!(coverage.count(what) > 0, "never happened: {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in (5000..).filter(|seed| has_real_stores(*seed)).take(4) {
        let (first, second) = (run_seed(seed), run_seed(seed));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.coverage, second.coverage, "seed {seed}");
    }
}
