//! The store: one record of the journal, one fdatasync, per group of writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::thread::JoinHandle;

use raft_core::{Index, LogPosition, Membership, Persist, RestoredLog, StoreStamp};
use raft_node::{LogStore, SizeLimit, StorageError};

use crate::error::{misuse, storage_error};
use crate::format::{self, Identity};
use crate::journal::{Checkpoints, LogPart};
use crate::lives::Lives;
use crate::open::random_id;
use crate::overlay::Overlay;
use crate::plan::{self, Logged, Plan};
use crate::reader::{RedbLogReader, Shared};
use crate::settle::Settling;
use crate::tables::{RowFault, next_write, read_tables};

/// Part of the journal that writes may fill before redb gets them.
const SETTLE_PART: u64 = 8;
/// The same in blocks, at most.
const SETTLE_BLOCKS_MAX: u64 = 512;

/// A durable log in a redb file. See the crate's documentation.
#[derive(Debug)]
pub struct RedbLogStore {
    shared: Arc<Shared>,
    settling: Arc<Settling>,
    thread: Option<JoinHandle<()>>,
    checkpoints: Checkpoints,
    /// From how many blocks of writes that redb lacks it gets them.
    settle_blocks: u64,
    identity: Identity,
    lives: Lives,
    /// As the driver sees the log.
    shape: RestoredLog,
    sequence: u64,
    /// What the log was compacted through since the last write.
    compacted: Option<LogPosition>,
    /// Whether an earlier call failed. A failed fsync may have lost pages silently, so that is final.
    poisoned: bool,
    /// Kept to encode writes into.
    bytes: Vec<u8>,
    row: Vec<u8>,
}

impl RedbLogStore {
    /// Takes over an open database whose identity was checked.
    pub(crate) fn new(
        database: redb::Database,
        path: PathBuf,
        identity: Identity,
        expected: Arc<AtomicU64>,
        log: LogPart,
        mut lives: Lives,
    ) -> Result<RedbLogStore, RowFault> {
        let (shape, state, life) = read_tables(&database)?;
        lives.last = life;
        // It showed this much a moment ago, on a copy.
        let known = expected.load(Ordering::Relaxed);
        if state.sequence < known {
            return Err(RowFault::Contradiction(format!(
                "its last commit is number {}, but number {known} was durable",
                state.sequence
            )));
        }
        expected.store(state.sequence, Ordering::Relaxed);
        let LogPart { journal, writes, checkpoints } = log;
        let shared = Arc::new(Shared::new(database, path, shape.base.index));
        let settle_blocks = (journal.capacity() / SETTLE_PART).clamp(1, SETTLE_BLOCKS_MAX);
        let (sequence, settled) = (state.sequence, shape.clone());
        let settling = Settling::new(shared.clone(), journal, settled, sequence, expected);
        let mut store = RedbLogStore {
            shared,
            settling: Arc::new(settling),
            thread: None,
            checkpoints,
            settle_blocks,
            identity,
            lives,
            shape,
            sequence,
            compacted: None,
            // Until all is replayed: if it is refused, nothing of it is brought into the file.
            poisoned: true,
            bytes: Vec::new(),
            row: Vec::new(),
        };
        store.replay(writes)?;
        store.poisoned = false;
        if checkpoints == Checkpoints::Background {
            let settling = store.settling.clone();
            let thread = std::thread::Builder::new().name("log-settle".into());
            let thread = thread.spawn(move || settling.work());
            store.thread = Some(thread.map_err(redb::Error::Io)?);
        }
        Ok(store)
    }

    /// Brings into redb the writes that only the journal holds.
    pub(crate) fn replay(&mut self, writes: Vec<(u64, Vec<u8>)>) -> Result<(), RowFault> {
        if writes.is_empty() {
            return Ok(());
        }
        for (number, bytes) in writes {
            let next = next_write(&mut self.shape, self.sequence, number, &bytes)?;
            if let Some(write) = next {
                self.sequence = number;
                self.overlay().push(Arc::new(write), 0);
            }
        }
        let unusable = |error: StorageError| {
            let StorageError { message, source } = error;
            match source.and_then(|source| source.downcast::<redb::Error>().ok()) {
                Some(error) => RowFault::Redb(*error),
                None => RowFault::Contradiction(message),
            }
        };
        self.settling.settle(None).map_err(unusable)?;
        self.settling.journal.replayed().map_err(redb::Error::Io)?;
        self.shared.base.store(self.shape.base.index.0, Ordering::Release);
        Ok(())
    }

    fn overlay(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.shared.overlay.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The random identity that the file got when it was created, or when it was found to be a copy: another file, even of
    /// the same node, has another.
    pub fn store_id(&self) -> [u8; 16] {
        self.lives.last.map_or(self.identity.store, |life| life.store)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What brings writes into redb, for tests that do so while something else happens.
    #[cfg(test)]
    pub(crate) fn settling(&self) -> &Settling {
        &self.settling
    }

    fn check_usable(&self) -> Result<(), StorageError> {
        if !self.poisoned && !self.settling.has_failed() {
            return Ok(());
        }
        Err(StorageError {
            message: format!(
                "an earlier write to {} failed, so what the disk holds is uncertain and no further write is accepted; \
                 check the disk, then restart the node",
                self.path().display()
            ),
            source: None,
        })
    }

    /// Makes a write durable: as a record of the journal, or if it is too large for that, in redb.
    fn log(&mut self, write: Logged) -> Result<(), StorageError> {
        format::encode_write(&mut self.bytes, &mut self.row, &write);
        let blocks = self.settling.journal.blocks(self.bytes.len());
        let path = &self.shared.path;
        let waiting = self.overlay().blocks();
        let is_full = waiting + blocks > 2 * self.settle_blocks;
        let is_logged = !is_full
            && self
                .settling
                .journal
                .append(write.sequence, &self.bytes)
                .map_err(|error| storage_error(path, "writing", redb::Error::Io(error)))?;
        self.bytes.shrink_to(1 << 20);
        if !is_logged {
            return self.settling.settle(Some(write));
        }
        self.overlay().push(Arc::new(write), blocks);
        if waiting + blocks >= self.settle_blocks {
            match self.checkpoints {
                Checkpoints::Background => self.settling.wake(),
                #[cfg(any(test, feature = "testing"))]
                Checkpoints::Inline => self.settling.settle(None)?,
                #[cfg(test)]
                Checkpoints::InlineWhenFull => {}
            }
        }
        Ok(())
    }
}

impl Drop for RedbLogStore {
    /// Leaves a file that needs no journal, unless something failed.
    fn drop(&mut self) {
        self.settling.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic; and if it did, nothing waits for what it did
        }
        if !self.poisoned
            && !self.settling.has_failed()
            && let Err(error) = self.settling.settle(None)
        {
            tracing::error!(%error, "the log file could not be brought up to date: its journal is needed");
        }
    }
}

impl LogStore for RedbLogStore {
    type Reader = RedbLogReader;

    fn restore(&mut self) -> Result<RestoredLog, StorageError> {
        self.check_usable()?;
        Ok(self.shape.clone())
    }

    fn begin_life(&mut self) -> Result<StoreStamp, StorageError> {
        self.check_usable()?;
        let mut fresh = None;
        if self.lives.is_copy(self.identity.node, &self.shape) {
            let path = self.path();
            let drawn = random_id()
                .map_err(|error| storage_error(path, "naming", redb::Error::Io(error)))?;
            tracing::warn!(
                path = %path.display(),
                "the log file is a copy, which may lack what this node has acknowledged since it was made: from now on it is another \
                 store, and this node does not vote until the group has taken it back"
            );
            fresh = Some(drawn);
        }
        let next = self.lives.next(&self.identity, fresh);
        self.poisoned = true;
        self.settling.settle(None)?;
        self.settling.begin_life(self.sequence + 1, &next)?;
        self.poisoned = false;
        self.sequence += 1;
        self.lives.last = Some(next);
        Ok(next.stamp())
    }

    fn found(&mut self, membership: &Membership) -> Result<(), StorageError> {
        self.check_usable()?;
        let empty = self.shape.base == LogPosition::ORIGIN && self.shape.last == Index(0);
        if !empty || !self.shape.base_membership.is_empty() {
            return Err(misuse(self.path(), "a log that is not empty was to be founded"));
        }
        self.poisoned = true;
        self.settling.settle(None)?;
        self.settling.found(self.sequence + 1, membership)?;
        self.poisoned = false;
        self.sequence += 1;
        self.shape.base_membership = membership.clone();
        Ok(())
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), StorageError> {
        self.check_usable()?;
        let plan = Plan::merge(&self.shape, writes)
            .map_err(|misfit| misuse(self.path(), misfit))
            .inspect_err(|_| self.poisoned = true)?;
        if plan.is_empty() {
            return Ok(());
        }
        let added = plan.additions(&self.shape);
        let sequence = self.sequence + 1;
        self.poisoned = true;
        self.log(Logged { sequence, compacted: self.compacted, plan: plan.clone() })?;
        self.poisoned = false;
        self.compacted = None;
        self.sequence = sequence;
        plan.apply(&mut self.shape, added);
        self.shared.base.store(self.shape.base.index.0, Ordering::Release);
        Ok(())
    }

    /// Only remembers the new base: it reaches the file with the next write, and the rows go a few with each write from
    /// then on, so that no fsync is spent on it and no write waits for it.
    fn compact(&mut self, through: LogPosition) -> Result<(), StorageError> {
        self.check_usable()?;
        let moved = plan::compact(&mut self.shape, through)
            .map_err(|misfit| misuse(self.path(), misfit))
            .inspect_err(|_| self.poisoned = true)?;
        if moved {
            self.compacted = Some(through);
            self.shared.base.store(self.shape.base.index.0, Ordering::Release);
        }
        Ok(())
    }

    fn size_limit(&self) -> Option<SizeLimit> {
        let setting = "the largest payload of a row of the log file";
        Some(SizeLimit { bytes_max: format::PAYLOAD_BYTES_MAX, setting })
    }

    fn reader(&self) -> RedbLogReader {
        RedbLogReader { shared: self.shared.clone() }
    }
}
