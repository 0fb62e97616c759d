//! A bounded number of seeds, and that a seed decides everything. `cargo xtask sim` runs more.

use std::path::Path;

use raft_sim::corpus::{self, Known};
use raft_sim::{Case, Coverage, run_seed};

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

fn known(name: &str) -> Vec<Known> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    corpus::read(&file).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn holds(known: &Known) {
    let failure = known.case.run(None).failure;
    assert!(failure.is_none(), "{}, {}: {}", known.name, known.found, failure.unwrap());
}

#[test]
fn runs_that_once_failed_hold() {
    let open = known("open.txt");
    let is_open = |known: &Known| open.iter().any(|open| open.case == known.case);
    let all = known("corpus.txt");
    assert!(all.len() >= 12, "they stay");
    all.iter().filter(|known| !is_open(known)).for_each(holds);
}

#[test]
fn sessions_that_are_forgotten_in_use_are_opened_anew_and_every_write_is_applied_once() {
    let all = (0..).filter(|seed| Case::of_seed(*seed).plan.client.forgets_sessions());
    let mut coverage = Coverage::default();
    for seed in all.take(20) {
        let outcome = run_seed(seed);
        assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap());
        coverage.merge(&outcome.coverage);
    }
    let expired = coverage.count("sessions expired");
    assert!(expired > 50, "{expired} is too few to show anything");
}

#[test]
fn a_bounded_number_of_seeds_holds_and_exercises_every_fault() {
    let mut coverage = Coverage::default();
    let open = known("open.txt");
    let is_open = |seed: u64| open.iter().any(|open| open.case == Case::of_seed(seed));
    for seed in (0..60).filter(|seed| !is_open(*seed)) {
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
