//! Writes that stand in the journal and not in redb yet: their bytes, and who reads while they move.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, NodeId, Payload, Persist,
    SnapshotMeta, Term, Ticket,
};
use raft_node::{LogReader, LogStore};

use crate::format::{decode_write, encode_write};
use crate::plan::{Logged, Plan};
use crate::tables::RowFault;
use crate::{Options, RedbLogStore};

fn payload(index: u64) -> Bytes {
    Bytes::from(index.to_le_bytes().repeat(1 + index as usize % 40))
}

fn run(first: u64, count: u64, term: u64) -> Entries {
    let entries = (first..first + count).map(|index| Entry {
        term: Term(term),
        index: Index(index),
        payload: Payload::Command(payload(index)),
    });
    Entries::try_from_vec(entries.collect()).expect("a run")
}

fn logged() -> impl Strategy<Value = Logged> {
    let position = (1u64..1000, 1u64..9)
        .prop_map(|(index, term)| LogPosition { index: Index(index), term: Term(term) });
    let hard_state = (1u64..9, any::<Option<u64>>(), 0u64..99).prop_map(|(term, vote, commit)| {
        HardState { term: Term(term), vote: vote.map(NodeId), commit: Index(commit) }
    });
    (
        any::<u64>(),
        proptest::option::of(position.clone()),
        proptest::option::of(hard_state),
        proptest::option::of((position, 1u64..5)),
        proptest::option::of(1u64..1000),
        (1u64..1000, 0u64..6, 1u64..9),
    )
        .prop_map(
            |(sequence, compacted, hard_state, reset, truncate_from, (first, count, term))| {
                let reset = reset.map(|(position, voters)| SnapshotMeta {
                    position,
                    membership: Membership::of_voters((1..=voters).map(NodeId)).into(),
                });
                let truncate_from = truncate_from.map(Index);
                let entries = run(first, count, term);
                Logged {
                    sequence,
                    compacted,
                    plan: Plan { hard_state, reset, truncate_from, entries },
                }
            },
        )
}

fn encode(write: &Logged) -> Vec<u8> {
    let (mut bytes, mut row) = (Vec::new(), Vec::new());
    encode_write(&mut bytes, &mut row, write);
    bytes
}

proptest! {
    #[test]
    fn every_write_reads_back_and_no_part_of_one_does(write in logged()) {
        let bytes = encode(&write);
        prop_assert_eq!(decode_write(write.sequence, &bytes), Ok(write.clone()));
        for cut in 0..bytes.len() {
            prop_assert!(decode_write(write.sequence, &bytes[..cut]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert!(decode_write(write.sequence, &longer).is_err());
        for flag in [32, 64, 128] {
            let mut unknown = bytes.clone();
            unknown[2] |= flag;
            prop_assert!(decode_write(write.sequence, &unknown).is_err());
        }
    }

    #[test]
    fn forged_bytes_of_a_write_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), flags in 0u8..32, plain: bool,
    ) {
        let mut bytes = bytes;
        if plain && bytes.len() > 2 {
            bytes[..3].copy_from_slice(&[1, 0, flags]);
        }
        let _ = decode_write(1, &bytes);
    }
}

fn append(index: u64) -> Persist {
    Persist {
        ticket: Ticket(index),
        hard_state: None,
        reset: None,
        truncate_from: None,
        entries: run(index, 1, 1),
    }
}

/// A store whose journal is small: what is written moves into redb every 32 writes.
fn options(folder: &tempfile::TempDir) -> Options {
    let path = folder.path().join("log.redb");
    Options { journal_bytes: 1 << 20, prefill_bytes: 0, ..Options::new(path, [1; 16], NodeId(1)) }
}

#[test]
fn a_reader_sees_every_write_while_writes_move_into_the_file() {
    const WRITES: u64 = 1_000;
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = RedbLogStore::open(options(&folder)).expect("opened");
    let (written, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for step in [1, 7] {
            let reader = store.reader();
            let (written, done) = (&written, &done);
            scope.spawn(move || {
                let mut place = 0;
                while !done.load(Ordering::Acquire) {
                    let last = written.load(Ordering::Acquire);
                    if last == 0 {
                        continue;
                    }
                    place = (place + step) % last;
                    let first = Index(1 + place);
                    let entries = reader.read(first, Index(last), usize::MAX).expect("there");
                    assert_eq!(entries.first().map(|entry| entry.index), Some(first));
                    assert_eq!(entries.last().map(|entry| entry.index), Some(Index(last)));
                    for entry in entries.iter() {
                        assert_eq!(entry.payload, Payload::Command(payload(entry.index.0)));
                    }
                }
            });
        }
        for index in 1..=WRITES {
            store.write(&[append(index)]).expect("written");
            written.store(index, Ordering::Release);
        }
        done.store(true, Ordering::Release);
    });
    // Closed while a reader lives, and opened again.
    let reader = store.reader();
    drop(store);
    assert_eq!(reader.read(Index(WRITES), Index(WRITES), 1).map(|found| found.len()).ok(), Some(1));
    drop(reader);
    let mut store = RedbLogStore::open(options(&folder)).expect("opened again");
    assert_eq!(store.restore().expect("read").last, Index(WRITES));
}

#[test]
fn a_gap_between_the_file_and_the_writes_in_its_journal_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = RedbLogStore::open(options(&folder)).expect("opened");
    store.write(&[append(1)]).expect("written");
    let write = |sequence, index| {
        let plan = Plan { entries: run(index, 1, 1), ..Plan::default() };
        (sequence, encode(&Logged { sequence, compacted: None, plan }))
    };
    // Number 1 is the one above; an older one is passed over.
    for wrong in [vec![write(1, 9), write(3, 2)], vec![write(2, 5)]] {
        let refused = store.replay(wrong);
        assert!(matches!(refused, Err(RowFault::Contradiction(_))));
    }
}

/// A record once took one block more than was found for it, if it all but filled its blocks.
#[test]
fn records_of_every_length_stay_in_the_place_that_was_found_for_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { journal_bytes: 64 << 10, ..options(&folder) };
    let mut store = RedbLogStore::open(options.clone()).expect("opened");
    let journal = folder.path().join("log.redb.journal");
    let lengths = (3_850..4_100).chain(7_950..8_200).step_by(3);
    for (index, length) in (1..).zip(lengths) {
        let payload = Payload::Command(vec![7; length].into());
        let entry = Entry { term: Term(1), index: Index(index), payload };
        let entries = Entries::try_from_vec(vec![entry]).expect("one");
        store.write(&[Persist { entries, ..append(index) }]).expect("written");
        let found = std::fs::metadata(&journal).expect("there").len();
        assert_eq!(found, options.journal_bytes, "after {length} bytes");
    }
    let last = store.restore().expect("read").last;
    drop(store);
    let mut store = RedbLogStore::open(options).expect("opened again");
    assert_eq!(store.restore().expect("read").last, last);
}
