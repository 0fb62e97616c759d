//! Traces: they keep the published spec's rules, a damaged one does not, and one seed always writes the same.

use raft_sim::trace::{self, Line, Name, Options, RoleName};

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

#[test]
fn one_seed_always_writes_the_same_bytes() {
    let options = Options { membership: true, ..Options::new(5) };
    let once = trace::run(&options).expect("it runs").to_json();
    assert_eq!(once, trace::run(&options).expect("it runs").to_json());
    assert_ne!(once, trace::run(&Options { seed: 6, ..options }).expect("it runs").to_json());
    let summary = trace::check_json(&once).expect("it can be read back");
    assert_eq!(summary.lines, 1000);
}

#[test]
fn groups_of_other_sizes_keep_the_rules() {
    for nodes in [1, 2, 4, 5, 7] {
        for membership in [false, true] {
            let options = Options { nodes, membership, ..Options::new(nodes) };
            let run = trace::run(&options).unwrap_or_else(|error| panic!("{nodes}: {error}"));
            trace::check(&run.lines).unwrap_or_else(|fault| panic!("{nodes} nodes: {fault}"));
        }
    }
}

#[test]
fn a_long_run_keeps_the_rules() {
    let options = Options { events: 20_000, membership: true, ..Options::new(3) };
    let run = trace::run(&options).expect("it runs");
    trace::check(&run.lines).expect("it keeps the rules");
}

/// Damages the first line that `pick` finds, and expects the rule by which the trace is refused to say `why`.
fn refused(pick: impl Fn(&Line) -> bool, damage: impl Fn(&mut Vec<Line>, usize), why: &str) {
    let mut lines = trace::run(&Options::new(1)).expect("it runs").lines;
    let at = lines.iter().position(pick).expect("such a line");
    damage(&mut lines, at);
    let fault = trace::check(&lines).expect_err(why);
    assert!(fault.what.contains(why), "{fault}; expected: {why}");
}

fn is(name: Name) -> impl Fn(&Line) -> bool {
    move |line| line.event.name == name
}

#[test]
fn a_damaged_trace_is_refused_by_the_rule_that_it_breaks() {
    let bump = |lines: &mut Vec<Line>, at: usize| lines[at].event.state.term += 1;
    refused(is(Name::BecomeCandidate), bump, "term is");
    refused(is(Name::Ready), bump, "term is");
    let drop_line = |lines: &mut Vec<Line>, at: usize| drop(lines.remove(at));
    refused(is(Name::Ready), drop_line, "nobody sent");
    refused(is(Name::BecomeLeader), drop_line, "role is");
    refused(is(Name::Replicate), drop_line, "by the rules it is");
    refused(is(Name::Commit), drop_line, "commit is");
    let twice = |lines: &mut Vec<Line>, at: usize| {
        let line = lines[at].clone();
        lines.insert(at, line);
    };
    refused(is(Name::BecomeLeader), twice, "another than a candidate");
    refused(is(Name::ReceiveRequestVoteRequest), twice, "term is");
    refused(is(Name::Commit), |lines, at| lines[at].event.state.commit += 1, "commit is");
    refused(is(Name::Commit), |lines, at| lines[at].event.state.commit -= 1, "commit is");
    refused(
        is(Name::Ready),
        |lines, at| "9".clone_into(&mut lines[at].event.state.vote),
        "vote is",
    );
    refused(is(Name::Ready), |lines, at| lines[at].event.conf[0].truncate(2), "conf is");
    refused(is(Name::Ready), |lines, at| lines[at].event.role = RoleName::Leader, "role is");
    let beyond = |lines: &mut Vec<Line>, at: usize| {
        if let Some(msg) = &mut lines[at].event.msg {
            msg.entries = msg.entries.map(|count| count + 1);
        }
    };
    refused(is(Name::SendAppendEntriesRequest), beyond, "beyond the leader's log");
    refused(is(Name::ReceiveAppendEntriesRequest), beyond, "nobody sent");
    let null = |lines: &mut Vec<Line>, at: usize| "01".clone_into(&mut lines[at].event.nid);
    refused(is(Name::Ready), null, "is no id");
}

#[test]
fn a_leader_without_a_quorum_is_refused() {
    // The first candidate hears only itself.
    let is_answer = |line: &Line| {
        let msg = line.event.msg.as_ref();
        is(Name::ReceiveRequestVoteResponse)(line) && msg.is_some_and(|msg| msg.from != msg.to)
    };
    let mute = |lines: &mut Vec<Line>, _: usize| lines.retain(|line| !is_answer(line));
    refused(is(Name::BecomeLeader), mute, "without a quorum");
}

#[test]
fn a_restart_that_forgets_is_refused() {
    let mut lines = trace::run(&Options::new(1)).expect("it runs").lines;
    let restart = lines.iter().rposition(is(Name::InitState)).expect("a restart");
    lines[restart].event.state.commit -= 1;
    let fault = trace::check(&lines).expect_err("it forgot");
    assert!(fault.what.contains("commit is"), "{fault}");
}

/// A leader must not commit before a quorum of its voters has an entry of its own term, whatever was acknowledged (paper figure 8).
#[test]
fn an_entry_of_an_earlier_term_is_not_committed_by_counting() {
    let mut seen = 0;
    for seed in 1..=20 {
        let lines = trace::run(&Options::new(seed)).expect("it runs").lines;
        // A new leader's peers acknowledge what it found before they acknowledge its own entry: there, a commit is told too early.
        for at in 0..lines.len() {
            let event = &lines[at].event;
            let Some(msg) = event.msg.as_ref().filter(|msg| msg.reject == Some(false)) else {
                continue;
            };
            let is_election =
                |line: &&Line| is(Name::BecomeLeader)(line) && line.event.nid == event.nid;
            let found = lines[..at].iter().rfind(is_election).map(|line| line.event.log);
            let is_ack = event.name == Name::ReceiveAppendEntriesResponse
                && event.role == RoleName::Leader
                && msg.from != msg.to
                && msg.index > Some(event.state.commit)
                && msg.index <= found;
            if !is_ack {
                continue;
            }
            let mut early = lines[at].clone();
            early.event.name = Name::Commit;
            early.event.msg = None;
            early.event.state.commit = msg.index.unwrap_or(0);
            let mut damaged = lines.clone();
            damaged.insert(at + 1, early);
            let fault = trace::check(&damaged).expect_err("commits too early");
            assert_eq!(fault.line, at + 2, "seed {seed}: {fault}");
            seen += 1;
        }
    }
    assert!(seen > 0, "no such moment in twenty runs");
}

#[test]
fn what_is_no_trace_is_refused_with_its_line() {
    let good = trace::run(&Options { events: 10, ..Options::new(1) }).expect("it runs").to_json();
    let faulty = |text: String| trace::check_json(&text).expect_err("refused").line;
    assert_eq!(faulty("{}".to_owned()), 1);
    assert_eq!(faulty(format!("{good}not json\n")), 11);
    assert_eq!(faulty(good.replacen("\"term\":1", "\"term\":null", 1)), 1);
    assert_eq!(faulty(good.replacen("\"term\":1", "\"term\":4294967295", 1)), 1);
    assert_eq!(faulty(format!("{}\n", "x".repeat(100_000))), 1);
    let none = Options { nodes: 0, ..Options::new(1) };
    assert!(trace::run(&none).is_err());
}
