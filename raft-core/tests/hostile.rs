//! What a damaged file, a damaged recording or a liar may say: numbers from the edges of what fits, and everything in
//! the wrong order. A core refuses it, by name; it never panics, its assertions included.
#![allow(missing_docs)]

mod common;

use common::maker::{BODIES, INPUTS, Maker};
use proptest::prelude::*;
use raft_core::recording::{Recorder, ReplayError, replay};
use raft_core::{
    Body, Config, Entries, Entry, HardState, Index, Input, Instant, LeaseConfig, LogPosition,
    Membership, Message, NodeId, Payload, Raft, Restored, RestoredLog, SnapshotMeta, Term,
};

/// Settings that work.
fn config(make: &mut Maker) -> Config {
    Config {
        retained_entries: make.number(),
        compaction_lag_max: make.number(),
        retained_bytes: make.number(),
        compaction_lag_bytes_max: make.number(),
        apply_bytes_max: make.number().max(1),
        apply_entries_max: make.number().max(1),
        tail_bytes_max: 1 + make.count() / 2,
        append_bytes_max: 1 + make.count() / 2,
        forward_proposals: make.flag(),
        transfer_lag_max: make.number(),
        lease: make.maybe(|_| LeaseConfig { clock_drift_max_ppm: 1000 }),
        is_witness: make.below(8) == 0,
        store: if make.flag() { None } else { Some(make.stamp()) },
        ..Config::new(NodeId(1))
    }
}

/// A disk that holds together more often than not.
fn restored(make: &mut Maker) -> Restored {
    if make.below(4) == 0 {
        return make.restored();
    }
    let membership = Membership::of_voters((1..=1 + make.below(3)).map(NodeId));
    if make.below(3) == 0 {
        return Restored::founding(membership);
    }
    let base = LogPosition { index: make.index(), term: make.term() };
    let mut entries: Vec<Entry> = Vec::new();
    let mut term = base.term.0;
    for index in (base.index.0..=u64::MAX).skip(1).take(make.below(6) as usize) {
        term = term.saturating_add(make.below(2)).max(1);
        entries.push(Entry { term: Term(term), index: Index(index), payload: Payload::Empty });
    }
    let mut log = RestoredLog::describe(HardState::default(), base, membership.clone(), &entries);
    log.hard_state.term = Term(term.saturating_add(make.below(2)));
    log.hard_state.commit = Index(base.index.0.max(make.number().min(log.last.0)));
    let position = base;
    let snapshot = make.maybe(|make| if make.flag() { make.snapshot().position } else { position });
    let snapshot =
        snapshot.map(|position| SnapshotMeta { position, membership: membership.into() });
    Restored { log, snapshot }
}

/// What is said from the second node, or by whom it will be.
fn input(make: &mut Maker) -> Input {
    if make.below(3) == 0 {
        let kind = make.bits().to_le_bytes()[0] % INPUTS;
        return make.input(kind);
    }
    let kind = make.bits().to_le_bytes()[0] % BODIES;
    let body = make.body(kind);
    let from = NodeId(2 + make.below(2));
    Input::Message { from, store: None, message: Message { term: make.term(), body } }
}

proptest! {
    #![proptest_config(common::cases(4_000))]

    #[test]
    fn whatever_a_recording_holds_its_replay_ends_in_order(seed: u64) {
        let mut make = Maker::close(seed);
        let (config, restored) = (config(&mut make), restored(&mut make));
        let mut now = Instant(make.number());
        let mut recorder = Recorder::new(&config, make.bits(), now, &restored);
        for _ in 0..make.below(60) {
            now = Instant(now.0.wrapping_add(make.below(700_000)));
            recorder.record(now, &input(&mut make));
            if make.flag() {
                recorder.drained();
            }
        }
        match replay(&recorder.take()) {
            Ok(_) | Err(ReplayError::Restore(_)) => {}
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
}

/// A run that ends with the last index that there is, or the one before.
fn last_runs() -> impl Iterator<Item = Entries> {
    [u64::MAX, u64::MAX - 1].into_iter().map(|end| {
        let entry = |index| Entry { term: Term(1), index: Index(index), payload: Payload::Empty };
        Entries::try_from_vec((end - 2..=end).map(entry).collect()).expect("a run")
    })
}

#[test]
fn a_run_at_the_end_of_all_indexes_is_a_run() {
    for run in last_runs() {
        let last = run.last().expect("three entries").index;
        assert_eq!((run.len(), run.get(last).map(|entry| entry.index)), (3, Some(last)));
        let (mut front, mut back) = (run.clone(), run.clone());
        front.truncate_from(last);
        back.drop_before(last);
        assert_eq!((front.len(), back.len()), (2, 1));
        front.extend(back);
        assert_eq!(front, run);
    }
}

#[test]
fn a_run_at_the_end_of_all_indexes_is_refused() {
    let restored = Restored::founding(Membership::of_voters([1, 2, 3].map(NodeId)));
    let mut raft = Raft::new(Config::new(NodeId(1)), 0, Instant(0), restored).expect("it starts");
    for entries in last_runs() {
        let before = entries.first().expect("three entries").index.prev();
        let prev = LogPosition { index: before, term: Term(1) };
        let body = Body::Append { prev, entries: entries.clone(), commit: Index(0) };
        let message = Message { term: Term(1), body };
        let input = Input::Message { from: NodeId(2), store: None, message };
        assert!(raft.handle(Instant(0), input).is_err());
        let _ = raft.handle(Instant(0), Input::Fetched { peer: NodeId(2), entries });
    }
}
