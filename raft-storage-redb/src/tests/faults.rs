//! Each fault of the virtual disk: that it happens, and what the store makes of it. What can be masked is masked; what can be seen is an
//! error with a name, after which nothing is acknowledged any more.

use std::path::PathBuf;

use raft_core::NodeId;
use raft_node::testing::CrashingDisk;
use raft_node::{LogReader, LogStore};

use super::model::{Model, Step, check};
use crate::testing::{self, DiskFault, DiskFile, Rot, VirtualDisk};
use crate::{OpenError, Options, RedbLogStore};

const STEP: Step = Step {
    truncate: None,
    reset: None,
    append: 9,
    size: 100,
    new_term: true,
    hard_state: true,
    compact: None,
};

fn options() -> Options {
    Options {
        cache_bytes: 64 << 10,
        journal_bytes: 64 << 10,
        ..Options::new(PathBuf::from("log"), [1; 16], NodeId(1))
    }
}

fn open(disk: &VirtualDisk) -> RedbLogStore {
    testing::open(disk, &options()).expect("opened")
}

/// A disk with some durable writes.
fn filled(seed: u64) -> (VirtualDisk, RedbLogStore, Model) {
    let disk = VirtualDisk::new(seed);
    testing::create(&disk, &options(), [2; 16]).expect("made");
    let mut store = open(&disk);
    let mut model = Model::default();
    for _ in 0..3 + seed % 7 {
        store.write(&[model.write(&STEP)]).expect("written");
    }
    (disk, store, model)
}

/// One write that fails; what the store may hold afterwards.
fn fail_a_write(store: &mut RedbLogStore, model: &Model) -> [Model; 2] {
    let mut next = model.clone();
    let write = next.write(&STEP);
    let error = store.write(&[write]).expect_err("the fault strikes");
    assert!(!error.message.is_empty());
    let again = store.write(&[next.clone().write(&STEP)]).expect_err("a failure is final");
    assert!(again.message.contains("an earlier write"), "{again}");
    [model.clone(), next]
}

/// Opens the log; if it is refused for what it holds, it must be as it was before, byte for byte.
fn open_or_leave(disk: &VirtualDisk) -> Result<RedbLogStore, OpenError> {
    let bytes = || [disk.bytes(DiskFile::Log), disk.bytes(DiskFile::Journal)];
    let before = bytes();
    let opened = testing::open(disk, &options());
    if opened.as_ref().is_err_and(|error| !matches!(error, OpenError::Io { .. })) {
        assert!(bytes() == before, "a refused start has changed the log");
    }
    opened
}

fn check_one_of(disk: &VirtualDisk, allowed: &[Model]) {
    let mut store = open(disk);
    let restored = store.restore().expect("restored");
    let found = allowed.iter().find(|model| model.restored() == restored);
    check(&mut store, found.expect("one of the states that are allowed"));
}

#[test]
fn a_failed_write_or_sync_or_a_full_disk_is_final_and_loses_nothing() {
    for (fault, name) in [
        (DiskFault::WriteError, "write errors"),
        (DiskFault::SyncError, "sync errors"),
        (DiskFault::Full, "full disks"),
    ] {
        for seed in 0..20 {
            let (disk, mut store, model) = filled(seed);
            disk.arm(fault, 0);
            let allowed = fail_a_write(&mut store, &model);
            assert_eq!(disk.fired().count(name), 1);
            // The process starts again; what a sync refused to make durable is still read.
            disk.kill_process();
            check_one_of(&disk, &allowed);
            // Then the power goes: now as before, the same is there.
            let again = open(&disk).restore().expect("restored");
            disk.lose_power();
            check_one_of(&disk, &allowed);
            assert_eq!(open(&disk).restore().expect("restored"), again);
        }
    }
}

#[test]
fn what_a_failed_sync_left_in_the_cache_is_durable_before_anything_rests_on_it() {
    for seed in 0..20 {
        for after in 0..12 {
            let (disk, mut store, model) = filled(seed);
            disk.arm(DiskFault::SyncError, 0);
            let allowed = fail_a_write(&mut store, &model);
            // The process starts again on what is only cached, and the power goes while it opens the log.
            disk.kill_process();
            disk.arm(DiskFault::PowerLoss, after);
            let _ = testing::open(&disk, &options());
            disk.lose_power();
            check_one_of(&disk, &allowed);
        }
    }
}

#[test]
fn a_full_disk_says_so() {
    let (disk, mut store, mut model) = filled(1);
    disk.arm(DiskFault::Full, 0);
    let error = store.write(&[model.write(&STEP)]).expect_err("full");
    assert!(error.message.contains("free space"), "{error}");
    let error = testing::open(&disk, &options()).expect_err("still full");
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[test]
fn a_failed_read_is_an_error_and_no_more_is_written() {
    let (disk, store, model) = filled(3);
    drop(store);
    disk.lose_power();
    for after in 0..40 {
        disk.arm(DiskFault::ReadError, after);
        match testing::open(&disk, &options()) {
            Err(error) => assert!(matches!(error, OpenError::Io { .. }), "{error}"),
            Ok(store) => {
                let (reader, last) = (store.reader(), model.last());
                let read = reader.read(model.base.index.next(), last, usize::MAX);
                assert!(read.is_ok() || disk.fired().count("read errors") > 0);
            }
        }
        disk.lose_power();
    }
    assert!(disk.fired().count("read errors") >= 10);
    check(&mut open(&disk), &model);
}

#[test]
fn what_a_lying_sync_lost_is_refused_or_older_but_whole() {
    let (mut refused, mut older, mut masked) = (0, 0, 0);
    for seed in 0..60 {
        let (disk, mut store, mut model) = filled(seed);
        let mut states = vec![model.clone()];
        disk.lie(true);
        for _ in 0..=seed % 20 {
            store.write(&[model.write(&STEP)]).expect("acknowledged");
            states.push(model.clone());
        }
        assert!(disk.fired().count("syncs that lied") > 0);
        disk.lose_power();
        match open_or_leave(&disk) {
            Err(OpenError::Damaged { .. } | OpenError::JournalMismatch { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok(mut store) => {
                let restored = store.restore().expect("restored");
                let found = states.iter().position(|state| state.restored() == restored);
                let found = found.expect("a state that it once had");
                check(&mut store, &states[found]);
                if found + 1 == states.len() {
                    masked += 1;
                } else {
                    older += 1;
                }
            }
        }
    }
    assert!(refused > 0 && older > 0 && masked > 0, "{refused} {older} {masked}");
}

/// Whoever starts a node again that refused to start must not get an emptier log for it.
fn stays_refused(disk: &VirtualDisk, model: &Model, loses_power: bool) {
    for _ in 0..3 {
        if loses_power {
            disk.lose_power();
        }
        if let Ok(mut store) = testing::open(disk, &options()) {
            assert_eq!(store.restore().expect("restored"), model.restored(), "refused before");
        }
    }
}

#[test]
fn what_rots_is_refused_or_healed() {
    let (mut refused, mut healed, mut unseen) = (0, 0, 0);
    for rot in Rot::ALL {
        for seed in 0..100 {
            let (disk, mut store, mut model) = filled(seed);
            let before = model.clone();
            store.write(&[model.write(&STEP)]).expect("written");
            disk.lose_power();
            if seed % 2 == 0 {
                // The records of the journal were written over the file again, and are not needed any more.
                drop(open(&disk));
                disk.lose_power();
            }
            let Some(what) = disk.rot(rot) else { continue };
            match open_or_leave(&disk) {
                Err(OpenError::Io { source, .. }) => panic!("{rot:?}, {what:?}: {source}"),
                Err(_) => {
                    stays_refused(&disk, &model, seed % 4 < 2);
                    refused += 1;
                }
                Ok(mut store) => {
                    let restored = store.restore().expect("restored");
                    if restored == before.restored()
                        && what.iter().any(|at| at.0 == DiskFile::Journal)
                    {
                        // The record of the last write looks like one that was under way when the power went.
                        unseen += 1;
                        continue;
                    }
                    assert_eq!(restored, model.restored(), "seed {seed}: {rot:?} {what:?}");
                    let read =
                        store.reader().read(model.base.index.next(), model.last(), usize::MAX);
                    match read {
                        Ok(read) => {
                            assert!(
                                read.iter().eq(&model.entries),
                                "seed {seed}: {rot:?} {what:?}"
                            );
                            healed += 1;
                        }
                        Err(_) => refused += 1,
                    }
                }
            }
        }
    }
    assert!(refused > 50 && healed > 50 && unseen < 5, "{refused} {healed} {unseen}");
}

struct Crashing(VirtualDisk);

impl CrashingDisk for Crashing {
    type Store = RedbLogStore;

    fn open(&mut self) -> RedbLogStore {
        open(&self.0)
    }

    fn lose_power(&mut self) {
        self.0.lose_power();
    }

    fn lose_power_after(&mut self, operations: u64) {
        self.0.arm(DiskFault::PowerLoss, operations);
    }
}

#[test]
fn it_keeps_every_promise_about_crashes() {
    let mut seed = 0;
    raft_node::testing::check_log_store_crashes(move || {
        seed += 1;
        let disk = VirtualDisk::new(seed);
        testing::create(&disk, &options(), [2; 16]).expect("made");
        Crashing(disk)
    });
}

#[test]
fn the_same_seed_leaves_the_same() {
    let left = |seed| {
        let (disk, mut store, mut model) = filled(seed);
        disk.arm(DiskFault::PowerLoss, seed % 5);
        let _ = store.write(&[model.write(&STEP)]);
        disk.lose_power();
        drop(open(&disk));
        (disk.bytes(DiskFile::Log), disk.bytes(DiskFile::Journal))
    };
    for seed in 0..10 {
        assert!(left(seed) == left(seed), "seed {seed}");
    }
}
