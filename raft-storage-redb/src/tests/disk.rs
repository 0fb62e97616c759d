//! A disk in memory that loses power: what was synced is there afterwards, of the rest any part.

use std::io;
use std::ops::Bound;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use raft_core::NodeId;
use redb::{BackendError, StorageBackend};

use crate::journal::record::{Owner, format_journal};
use crate::journal::recover::{Refusal, recover};
use crate::journal::stamp::read_stamps;
use crate::journal::{Checkpoints, Journaled};

/// A disk that keeps what was synced apart from what was only written.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    synced: Vec<u8>,
    cached: Vec<u8>,
    /// What was written since, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    syncs: usize,
    /// Fails every sync from now on.
    broken: bool,
    fuse: Option<Fuse>,
}

/// After how many more writes and syncs, on all disks that share it, the power goes.
#[derive(Clone, Debug)]
pub(super) struct Fuse(Arc<AtomicU64>);

impl Fuse {
    pub(super) fn new(operations: u64) -> Fuse {
        Fuse(Arc::new(AtomicU64::new(operations)))
    }

    fn burn(&self) -> io::Result<()> {
        let left = self.0.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("the power is gone"))
    }
}

impl Platters {
    fn burn(&self) -> io::Result<()> {
        self.fuse.as_ref().map_or(Ok(()), Fuse::burn)
    }
}

impl Disk {
    /// What is found after the power was lost: of the unsynced sectors those for which `keeps` holds.
    pub(super) fn after_power_loss(&self, mut keeps: impl FnMut() -> bool) -> Disk {
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
        Disk::holding(bytes)
    }

    /// The same disk with other content, all of it durable.
    pub(super) fn holding(bytes: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(Platters {
            cached: bytes.clone(),
            synced: bytes,
            ..Platters::default()
        })))
    }

    /// What reads see.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no panic").cached.clone()
    }

    pub(super) fn set_fuse(&self, fuse: Option<Fuse>) {
        self.0.lock().expect("no panic").fuse = fuse;
    }

    pub(super) fn break_syncs(&self) {
        self.0.lock().expect("no panic").broken = true;
    }

    pub(super) fn syncs(&self) -> usize {
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
        let mut platters = self.0.lock().expect("no panic");
        platters.burn()?;
        platters.cached.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut platters = self.0.lock().expect("no panic");
        platters.burn()?;
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
        // A write during which the power goes may be there in part.
        platters.burn()
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

/// A log file and its journal, on disks that lose power together.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) file: Disk,
    pub(super) journal: Disk,
    pub(super) owner: Owner,
    /// When the file is brought up to date.
    pub(super) checkpoints: Checkpoints,
}

impl Machine {
    /// With an empty file and a new journal.
    pub(super) fn new(file: Disk, journal_bytes: u64) -> Machine {
        let owner = Owner {
            cluster: [1; 16],
            node: NodeId(1),
            journal: [journal_bytes as u8 ^ 5; 16],
            bytes: journal_bytes,
        };
        let journal = Disk::default();
        format_journal(&journal, &owner).expect("formatted");
        Machine { file, journal, owner, checkpoints: Checkpoints::Inline }
    }

    /// Both after the power was lost and came back.
    pub(super) fn after_power_loss(&self, mut keeps: impl FnMut() -> bool) -> Machine {
        let file = self.file.after_power_loss(&mut keeps);
        let journal = self.journal.after_power_loss(&mut keeps);
        Machine { file, journal, ..self.clone() }
    }

    pub(super) fn set_fuse(&self, operations: Option<u64>) {
        let fuse = operations.map(Fuse::new);
        self.file.set_fuse(fuse.clone());
        self.journal.set_fuse(fuse);
    }

    /// What `RedbLogStore::open` does with files.
    pub(super) fn open(&self) -> Result<Journaled<Disk, Disk>, Refusal> {
        let stamped = read_stamps(&self.file)?;
        let recovered = recover(&self.file, &self.journal, &self.owner, stamped)?;
        let (file, journal) = (self.file.clone(), self.journal.clone());
        Ok(Journaled::new(file, journal, recovered, self.checkpoints)?)
    }
}
