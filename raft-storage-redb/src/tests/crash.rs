//! Loss of power at any write, with any part of what was not yet synced lost: what was acknowledged survives.

use std::collections::HashSet;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use raft_core::{NodeId, Persist};
use raft_node::LogStore;
use redb::{BackendError, StorageBackend};

use super::model::{Model, check, steps};
use crate::format::Identity;
use crate::open::initialize;
use crate::{Options, RedbLogStore};

/// A disk that keeps what was synced apart from what was only written.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    synced: Vec<u8>,
    cached: Vec<u8>,
    /// What was written since, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    syncs: usize,
    /// Fails every sync from now on.
    broken: bool,
}

impl Disk {
    /// What is found after the power was lost: of the unsynced sectors those for which `keeps` holds.
    fn after_power_loss(&self, mut keeps: impl FnMut() -> bool) -> Disk {
        let platters = self.0.lock().expect("no panic");
        let mut bytes = platters.synced.clone();
        bytes.resize(platters.synced.len().max(if keeps() { platters.cached.len() } else { 0 }), 0);
        for (offset, data) in &platters.unsynced {
            for (number, sector) in data.chunks(512).enumerate() {
                let at = offset + number * 512;
                if keeps() && at + sector.len() <= bytes.len() {
                    bytes[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        Disk(Arc::new(Mutex::new(Platters {
            cached: bytes.clone(),
            synced: bytes,
            ..Platters::default()
        })))
    }

    fn syncs(&self) -> usize {
        self.0.lock().expect("no panic").syncs
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.0.lock().expect("no panic").cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let platters = self.0.lock().expect("no panic");
        let offset = offset as usize;
        let bytes = platters.cached.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.lock().expect("no panic").cached.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut platters = self.0.lock().expect("no panic");
        if platters.broken {
            return Err(io::Error::other("the disk is broken"));
        }
        platters.synced = platters.cached.clone();
        platters.unsynced.clear();
        platters.syncs += 1;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut platters = self.0.lock().expect("no panic");
        let offset = offset as usize;
        platters.cached[offset..offset + data.len()].copy_from_slice(data);
        platters.unsynced.push((offset, data.to_vec()));
        Ok(())
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

fn options() -> Options {
    Options { cache_bytes: 1 << 20, ..Options::new(PathBuf::from("memory"), [1; 16], NodeId(1)) }
}

fn new_disk() -> Disk {
    let disk = Disk::default();
    let identity = Identity { cluster: [1; 16], node: NodeId(1), store: [2; 16] };
    initialize(disk.clone(), &identity).expect("initialized");
    disk
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_acknowledged_survives_the_loss_of_power(groups in steps(), mut luck in any::<u64>()) {
        let disk = new_disk();
        let mut store = RedbLogStore::open_backend(&options(), disk.clone()).expect("opened");
        let mut model = Model::default();
        let mut luck = || {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            luck >> 63 == 1
        };
        for group in &groups {
            let writes: Vec<Persist> = group.iter().map(|step| model.write(step)).collect();
            store.write(&writes).expect("written");
            let found = disk.after_power_loss(&mut luck);
            let mut after = RedbLogStore::open_backend(&options(), found).expect("opened after a crash");
            check(&mut after, &model);

            // The next write is under way when the power goes: all of it is there, or nothing.
            let mut next = model.clone();
            let writes: Vec<Persist> = group.iter().map(|step| next.write(step)).collect();
            let broken = disk.after_power_loss(|| true);
            let mut dying = RedbLogStore::open_backend(&options(), broken.clone()).expect("opened");
            broken.0.lock().expect("no panic").broken = true;
            if dying.write(&writes).is_ok() {
                continue; // nothing to write, or nothing that differs
            }
            prop_assert!(dying.write(&writes).is_err(), "a failed fsync is final");
            let found = broken.after_power_loss(&mut luck);
            let mut after = RedbLogStore::open_backend(&options(), found).expect("opened after a crash");
            let restored = after.restore().expect("restored");
            let survivor = if restored == next.restored() { &next } else { &model };
            check(&mut after, survivor);
        }
    }
}

#[test]
fn a_group_of_writes_is_one_sync() {
    let disk = new_disk();
    let mut store = RedbLogStore::open_backend(&options(), disk.clone()).expect("opened");
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
    for _ in 0..50 {
        let before = (disk.syncs(), disk.len().expect("there"));
        store
            .write(&[model.write(&step), model.write(&step), model.write(&step)])
            .expect("written");
        let after = (disk.syncs(), disk.len().expect("there"));
        if before.1 == after.1 {
            assert_eq!(after.0 - before.0, 1);
        } else {
            grown.insert(after.1);
        }
    }
    // Only the few writes that make the file larger sync twice.
    assert!(grown.len() <= 3, "{grown:?}");
}
