//! Leases rest on clocks that do not run further apart than they are told. Within that bound no read is stale, whatever happens; beyond it some are, and
//! the checkers of stale reads say so. Without the second half the first would prove nothing.

use std::path::Path;

use raft_sim::{Case, Failure};

/// With so many seeds the plan is run, as it is and with clocks that run apart more.
const SEEDS: u64 = 40;

/// The rules that see a stale read: by the indexes that clients know of, by the log, and by what clients were told alone.
const STALE: [&str; 3] = ["no stale read", "real time is kept", "linearizability"];

fn failures(drift: u64) -> Vec<Failure> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/leases.toml");
    let text = std::fs::read_to_string(file).expect("the plan is there");
    let mut case = Case::from_text(&text).expect("it is a plan");
    assert!(!case.plan.is_beyond_drift(), "the plan keeps to its leases' bound");
    case.plan.drift = drift;
    let run = |seed| Case { seed, plan: case.plan.clone() }.run(None).failure;
    (0..SEEDS).filter_map(run).collect()
}

#[test]
fn within_the_bound_of_their_drift_leases_never_make_a_read_stale() {
    assert_eq!(failures(100), []);
    assert_eq!(failures(0), []);
}

#[test]
fn beyond_that_bound_reads_are_stale_and_nothing_else_breaks() {
    let failures = failures(1000);
    let is_stale = |failure: &&Failure| STALE.contains(&failure.violation.rule);
    let stale = failures.iter().filter(is_stale).count();
    assert!(stale > 0, "no seed of {SEEDS} has a stale read: {failures:?}");
    assert_eq!(stale, failures.len(), "other rules do not rest on clocks: {failures:?}");
}
