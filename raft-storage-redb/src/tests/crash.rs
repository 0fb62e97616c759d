//! Loss of power at any write, with any part of what was not yet synced lost: what was acknowledged survives.

use std::collections::HashSet;
use std::path::PathBuf;

use proptest::prelude::*;
use raft_core::{NodeId, Persist};
use raft_node::{LogReader as _, LogStore};
use redb::StorageBackend;

use super::disk::Machine;
use super::model::{Model, check, steps};
use crate::format::Identity;
use crate::journal::Checkpoints;
use crate::open::initialize;
use crate::testing::{DiskFault, DiskFile, VirtualDisk};
use crate::{Options, RedbLogStore};

fn options() -> Options {
    Options { cache_bytes: 1 << 20, ..Options::new(PathBuf::from("memory"), [1; 16], NodeId(1)) }
}

fn new_machine(journal_bytes: u64) -> Machine {
    let disk = VirtualDisk::new(journal_bytes);
    let identity = Identity { cluster: [1; 16], node: NodeId(1), store: [2; 16] };
    initialize(disk.file(DiskFile::Log), &identity).expect("initialized");
    Machine::new(disk, journal_bytes)
}

fn open(machine: &Machine) -> RedbLogStore {
    machine.open_log(&options()).expect("opened after a crash")
}

/// Whether it holds what the model does. The shape alone does not tell: a write may replace entries by others of the same place and term.
fn shows(store: &mut RedbLogStore, model: &Model) -> bool {
    if store.restore().expect("restored") != model.restored() {
        return false;
    }
    let (first, last) = (model.base.index.next(), model.last());
    model.entries.is_empty()
        || store.reader().read(first, last, usize::MAX).expect("read").iter().eq(&model.entries)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives_the_loss_of_power(
        groups in steps(),
        mut luck in any::<u64>(),
        journal_blocks in prop::sample::select(vec![16u64, 40, 100, 400]),
        checkpoints in prop::sample::select(vec![Checkpoints::Inline, Checkpoints::InlineWhenFull]),
    ) {
        let machine = Machine { checkpoints, ..new_machine(journal_blocks * 4096) };
        let mut store = open(&machine);
        let mut model = Model::default();
        let mut luck = move || {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            luck >> 33
        };
        for group in &groups {
            let writes: Vec<Persist> = group.iter().map(|step| model.write(step)).collect();
            store.write(&writes).expect("written");
            let found = machine.after_power_loss();
            check(&mut open(&found), &model);

            // The next write is under way when the power goes: all of it is there, or nothing. And the power goes again, during
            // the replay.
            let mut next = model.clone();
            let writes: Vec<Persist> = group.iter().map(|step| next.write(step)).collect();
            let dying_machine = machine.copy();
            let mut dying = open(&dying_machine);
            dying_machine.set_fuse(luck() % 24);
            let acknowledged = dying.write(&writes).is_ok();
            dying_machine.set_fuse(0);
            if !acknowledged {
                prop_assert!(dying.write(&writes).is_err(), "a failed write is final");
            }
            let found = dying_machine.after_power_loss();
            found.set_fuse(luck() % 24);
            drop(found.open_log(&options()));
            let found = found.after_power_loss();
            let mut after = open(&found);
            let survivor = if acknowledged || shows(&mut after, &next) { &next } else { &model };
            check(&mut after, survivor);
        }
    }
}

#[test]
fn a_failed_sync_of_either_file_is_final() {
    for breaks_journal in [true, false] {
        let machine = new_machine(16 * 4096);
        let mut store = open(&machine);
        let mut model = Model::default();
        let step = super::model::Step {
            truncate: None,
            reset: None,
            append: 39,
            size: 300,
            new_term: true,
            hard_state: true,
            compact: None,
        };
        let broken = if breaks_journal { DiskFile::Journal } else { DiskFile::Log };
        machine.disk.arm_on(broken, DiskFault::SyncError, 0);
        let refused = (0..100).any(|_| store.write(&[model.write(&step)]).is_err());
        assert!(refused, "the journal is small, so the file is synced soon");
        assert!(store.write(&[model.write(&step)]).is_err());
    }
}

#[test]
fn a_group_of_writes_is_one_sync() {
    let machine = new_machine(16 << 20);
    let mut store = open(&machine);
    let mut model = Model::default();
    let step = super::model::Step {
        truncate: None,
        reset: None,
        append: 9,
        size: 100,
        new_term: true,
        hard_state: true,
        compact: None,
    };
    let mut grown = HashSet::new();
    let of_the_file = machine.disk.syncs(DiskFile::Log);
    for _ in 0..50 {
        let before = (
            machine.disk.syncs(DiskFile::Journal),
            machine.disk.file(DiskFile::Log).len().expect("there"),
        );
        store
            .write(&[model.write(&step), model.write(&step), model.write(&step)])
            .expect("written");
        let after = (
            machine.disk.syncs(DiskFile::Journal),
            machine.disk.file(DiskFile::Log).len().expect("there"),
        );
        if before.1 == after.1 {
            assert_eq!(after.0 - before.0, 1);
        } else {
            grown.insert(after.1);
        }
    }
    assert_eq!(machine.disk.syncs(DiskFile::Log), of_the_file, "the journal is far from full");
    // Only the few writes that make the file larger sync twice.
    assert!(grown.len() <= 3, "{grown:?}");
}
