//! Random writes, truncations, resets, compactions and reopenings, compared with a plain vector.

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, NodeId, Payload, Persist,
    RestoredLog, SnapshotMeta, Term, Ticket,
};
use raft_node::{LogReader, LogStore, ReadError};

use crate::{Options, RedbLogStore};

/// What one write does, as random numbers that are made to fit the log.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) truncate: Option<u8>,
    pub(super) reset: Option<u8>,
    pub(super) append: u8,
    pub(super) size: u16,
    pub(super) new_term: bool,
    pub(super) hard_state: bool,
    pub(super) compact: Option<u8>,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step =
        (
            prop::option::weighted(0.2, any::<u8>()),
            prop::option::weighted(0.05, any::<u8>()),
            0u8..40,
            0u16..600,
            prop::bool::weighted(0.2),
            any::<bool>(),
            prop::option::weighted(0.2, any::<u8>()),
        )
            .prop_map(|(truncate, reset, append, size, new_term, hard_state, compact)| {
                Step { truncate, reset, append, size, new_term, hard_state, compact }
            });
    prop::collection::vec(prop::collection::vec(step, 1..4), 1..10)
}

/// The naive log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) hard_state: HardState,
    pub(super) base: LogPosition,
    pub(super) base_membership: Membership,
    pub(super) entries: Vec<Entry>,
    term: u64,
}

impl Model {
    pub(super) fn last(&self) -> Index {
        self.base.index.plus(self.entries.len() as u64)
    }

    /// Carries out a step, and says which write does the same.
    pub(super) fn write(&mut self, step: &Step) -> Persist {
        self.term = self.term.max(1) + u64::from(step.new_term);
        let reset = step.reset.map(|ahead| SnapshotMeta {
            position: LogPosition {
                index: self.last().plus(u64::from(ahead) % 9),
                term: Term(self.term),
            },
            membership: Membership::of_voters([NodeId(u64::from(ahead)), NodeId(7)]).into(),
        });
        if let Some(snapshot) = &reset {
            self.base = snapshot.position;
            self.base_membership = (*snapshot.membership).clone();
            self.entries.clear();
        }
        let truncate_from = step.truncate.map(|from| {
            let keep = usize::from(from) % (self.entries.len() + 1);
            self.entries.truncate(keep);
            self.last().next()
        });
        let first = self.last().next().0;
        let appended: Vec<Entry> = (first..first + u64::from(step.append))
            .map(|index| Entry {
                term: Term(self.term),
                index: Index(index),
                payload: match index % 17 {
                    0 => Payload::Empty,
                    1 => Payload::Membership(Membership::of_voters([NodeId(index)]).into()),
                    _ => Payload::Command(Bytes::from(vec![index as u8; usize::from(step.size)])),
                },
            })
            .collect();
        self.entries.extend(appended.iter().cloned());
        let hard_state = step.hard_state.then_some(HardState {
            term: Term(self.term),
            vote: first.is_multiple_of(2).then_some(NodeId(first)),
            commit: Index(first),
        });
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        let entries = Entries::try_from_vec(appended).expect("a run");
        Persist { ticket: Ticket(first), hard_state, reset, truncate_from, entries }
    }

    pub(super) fn compact(&mut self, at: u8) -> Option<LogPosition> {
        let gone = usize::from(at) % (self.entries.len() + 1);
        let through = self.entries.get(gone.checked_sub(1)?)?.position();
        for entry in self.entries.drain(..gone) {
            if let Payload::Membership(membership) = entry.payload {
                self.base_membership = (*membership).clone();
            }
        }
        self.base = through;
        Some(through)
    }

    pub(super) fn restored(&self) -> RestoredLog {
        RestoredLog::describe(
            self.hard_state,
            self.base,
            self.base_membership.clone(),
            &self.entries,
        )
    }
}

/// Everything that the store says equals what the model says.
pub(super) fn check(store: &mut RedbLogStore, model: &Model) {
    assert_eq!(store.restore().expect("restored"), model.restored());
    let reader = store.reader();
    let (first, last) = (model.base.index.next(), model.last());
    for beyond in [model.base.index, last.next()] {
        let read = reader.read(beyond, beyond.plus(3), 1000);
        assert!(matches!(read, Err(ReadError::NotThere { .. })), "{beyond}: {read:?}");
    }
    if model.entries.is_empty() {
        return;
    }
    let all = reader.read(first, last, usize::MAX).expect("read");
    assert!(all.iter().eq(&model.entries));
    let middle = model.entries.len() / 2;
    let some = reader.read(model.entries[middle].index, last, 1000).expect("read");
    assert!(some.iter().eq(&model.entries[middle..middle + some.len()]));
    assert!(some.len() == 1 || some.size_bytes() <= 1000);
    let next = model.entries.get(middle + some.len());
    assert!(next.is_none_or(|next| some.size_bytes() + next.size_bytes() > 1000));
}

pub(super) fn options(folder: &tempfile::TempDir) -> Options {
    Options {
        prefill_bytes: 0,
        journal_bytes: 256 << 10,
        ..Options::new(folder.path().join("log"), [3; 16], NodeId(1))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_what_a_plain_vector_holds(groups in steps()) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = RedbLogStore::open(options(&folder)).expect("opened");
        let (mut model, mut has_compacted) = (Model::default(), false);
        for group in &groups {
            // A compaction reaches the file with the next write that is not empty.
            let group: Vec<Step> = group
                .iter()
                .map(|step| Step { hard_state: step.hard_state || has_compacted, ..step.clone() })
                .collect();
            let writes: Vec<Persist> = group.iter().map(|step| model.write(step)).collect();
            store.write(&writes).expect("written");
            check(&mut store, &model);
            drop(store);
            store = RedbLogStore::open(options(&folder)).expect("opened again");
            check(&mut store, &model);
            has_compacted = false;
            if let Some(through) = group[0].compact.and_then(|at| model.compact(at)) {
                has_compacted = true;
                store.compact(through).expect("compacted");
                check(&mut store, &model);
            }
        }
    }
}

#[test]
fn a_founded_log_says_so_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let membership = Membership::of_voters([NodeId(1), NodeId(2)]);
    let mut store = RedbLogStore::open(options(&folder)).expect("opened");
    let id = store.store_id();
    store.found(&membership).expect("founded");
    drop(store);
    let mut store = RedbLogStore::open(options(&folder)).expect("opened again");
    assert_eq!(store.restore().expect("restored").base_membership, membership);
    assert_eq!(store.store_id(), id);
    assert!(store.found(&membership).is_err());
}

#[test]
fn large_groups_and_rows_past_the_base_are_purged_a_few_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = RedbLogStore::open(options(&folder)).expect("opened");
    let mut model = Model::default();
    let step = Step {
        truncate: None,
        reset: None,
        append: 255,
        size: 9000,
        new_term: false,
        hard_state: false,
        compact: None,
    };
    for _ in 0..8 {
        store.write(&[model.write(&step), model.write(&step)]).expect("written");
    }
    let through = model.entries[4000].position();
    model.base = through;
    model.base_membership = model
        .entries
        .drain(..=4000)
        .filter_map(|entry| match entry.payload {
            Payload::Membership(membership) => Some((*membership).clone()),
            _ => None,
        })
        .last()
        .expect("some");
    store.compact(through).expect("compacted");
    let small = Step { append: 1, size: 10, ..step };
    for _ in 0..20 {
        store.write(&[model.write(&small)]).expect("written");
        check(&mut store, &model);
    }
    drop(store);
    check(&mut RedbLogStore::open(options(&folder)).expect("opened again"), &model);
}

#[test]
fn it_keeps_every_promise_of_a_log_store() {
    let folder = tempfile::tempdir().expect("a folder");
    raft_node::testing::check_log_store(move |number| {
        let path = folder.path().join(number.to_string());
        let options = Options { path, ..options(&folder) };
        RedbLogStore::open(options).expect("opened")
    });
}
