//! A log store in memory, over a disk that can fail, stall and lose its power.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, Payload, Persist, RestoredLog,
    StoreId, StoreStamp,
};

use crate::{LogReader, LogStore, ReadError, StorageError};

/// The disk under a [`MemoryLog`]: it outlives the node, and does to it what disks do. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    id: StoreId,
    lives: u64,
    log: Log,
    /// A compaction that a loss of power would undo.
    compaction: Option<LogPosition>,
    failure: Option<String>,
    panics: bool,
    held: bool,
    /// How many stores were opened; those before the last are dead.
    opened: u64,
    write_calls: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            id: new_id(),
            lives: 0,
            log: Log::default(),
            compaction: None,
            failure: None,
            panics: false,
            held: false,
            opened: 0,
            write_calls: 0,
        }
    }
}

/// An id that no other disk of this process has.
fn new_id() -> StoreId {
    static IDS: AtomicU64 = AtomicU64::new(1);
    StoreId(IDS.fetch_add(1, Ordering::Relaxed))
}

/// A whole log.
#[derive(Clone, Debug, Default)]
struct Log {
    hard_state: HardState,
    base: LogPosition,
    base_membership: Membership,
    entries: Entries,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Opens the log on this disk. Stores opened before are cut off, as if their process had been killed: their calls fail.
    pub fn open(&self) -> MemoryLog {
        let mut state = self.lock();
        state.opened += 1;
        MemoryLog { disk: self.clone(), session: state.opened }
    }

    /// Another disk with what is durable on this one, as a backup that is put back. It knows that it is a copy, so it is
    /// another store.
    #[must_use]
    pub fn copied(&self) -> MemoryDisk {
        let copy = MemoryDisk::new();
        copy.lock().log = self.lock().log.clone();
        copy
    }

    /// Loses the power: whatever was not durable is gone, and stores that are open are cut off.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.compaction = None;
        state.opened += 1;
        state.held = false;
        drop(state);
        self.shared.wake.notify_all();
    }

    /// From now on, every write fails with this message.
    pub fn fail_writes(&self, message: &str) {
        self.lock().failure = Some(message.to_owned());
    }

    /// From now on, every write panics.
    pub fn panic_on_write(&self) {
        self.lock().panics = true;
    }

    /// Stalls: writes wait until [`MemoryDisk::release_writes`].
    pub fn hold_writes(&self) {
        self.lock().held = true;
    }

    /// Ends a stall.
    pub fn release_writes(&self) {
        self.lock().held = false;
        self.shared.wake.notify_all();
    }

    /// How often a store was asked to write: the number of groups, not of writes.
    pub fn write_calls(&self) -> u64 {
        self.lock().write_calls
    }

    /// Every entry that would survive a loss of power.
    pub fn durable_entries(&self) -> Entries {
        self.lock().log.entries.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the store of this session is still alive.
    fn session(&self, session: u64) -> Result<MutexGuard<'_, State>, StorageError> {
        alive(self.lock(), session)
    }
}

fn alive(
    state: MutexGuard<'_, State>,
    session: u64,
) -> Result<MutexGuard<'_, State>, StorageError> {
    if state.opened == session { Ok(state) } else { Err(failed("the power was lost")) }
}

fn failed(message: &str) -> StorageError {
    StorageError { message: message.to_owned(), source: None }
}

/// A [`LogStore`] on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryLog {
    disk: MemoryDisk,
    session: u64,
}

/// The reader of a [`MemoryLog`].
#[derive(Debug)]
pub struct MemoryLogReader {
    disk: MemoryDisk,
}

impl LogStore for MemoryLog {
    type Reader = MemoryLogReader;

    fn restore(&mut self) -> Result<RestoredLog, StorageError> {
        let state = self.disk.session(self.session)?;
        let mut log = state.log.clone();
        log.compact(state.base());
        Ok(log.restored())
    }

    fn begin_life(&mut self) -> Result<StoreStamp, StorageError> {
        let mut state = self.disk.session(self.session)?;
        state.lives += 1;
        Ok(StoreStamp { id: state.id, life: state.lives, nonce: 0 })
    }

    fn found(&mut self, membership: &Membership) -> Result<(), StorageError> {
        self.disk.session(self.session)?.log.base_membership = membership.clone();
        Ok(())
    }

    fn write(&mut self, writes: &[Persist]) -> Result<(), StorageError> {
        let mut state = self.disk.session(self.session)?;
        state.write_calls += 1;
        while state.held {
            let waited = self.disk.shared.wake.wait(state);
            state = alive(waited.unwrap_or_else(PoisonError::into_inner), self.session)?;
        }
        assert!(!state.panics, "the disk was told to panic");
        if let Some(failure) = &state.failure {
            return Err(failed(failure));
        }
        let through = state.base();
        state.log.compact(through);
        state.compaction = None;
        writes.iter().try_for_each(|write| state.log.apply(write))
    }

    /// Not durable on purpose: a crash may bring back what was compacted.
    fn compact(&mut self, through: LogPosition) -> Result<(), StorageError> {
        let mut state = self.disk.session(self.session)?;
        if through.index > state.base().index {
            state.compaction = Some(through);
        }
        Ok(())
    }

    fn reader(&self) -> MemoryLogReader {
        MemoryLogReader { disk: self.disk.clone() }
    }
}

impl LogReader for MemoryLogReader {
    fn read(&self, first: Index, last: Index, budget_bytes: usize) -> Result<Entries, ReadError> {
        let state = self.disk.lock();
        let (base, mut entries) = (state.base(), state.log.entries.clone());
        drop(state);
        if first <= base.index || entries.get(first).is_none() {
            return Err(ReadError::NotThere { first });
        }
        entries.drop_before(first);
        entries.truncate_from(last.next());
        let mut bytes = 0;
        let end = entries.iter().find_map(|entry| {
            let is_over = bytes >= budget_bytes && entry.index > first;
            bytes += entry.size_bytes();
            is_over.then_some(entry.index)
        });
        entries.truncate_from(end.unwrap_or(last.next()));
        Ok(entries)
    }
}

impl State {
    /// What the log is compacted through, durably or not.
    fn base(&self) -> LogPosition {
        self.compaction.unwrap_or(self.log.base)
    }
}

impl Log {
    fn last(&self) -> Index {
        self.entries.last().map_or(self.base.index, |entry| entry.index)
    }

    fn apply(&mut self, write: &Persist) -> Result<(), StorageError> {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(reset) = &write.reset {
            self.base = reset.position;
            self.base_membership = (*reset.membership).clone();
            self.entries = Entries::new();
        }
        if let Some(from) = write.truncate_from {
            self.entries.truncate_from(from);
        }
        match write.entries.first() {
            Some(first) if first.index != self.last().next() => {
                Err(failed(&format!("entry {} can not follow {}", first.index, self.last())))
            }
            _ => {
                self.entries.extend(write.entries.clone());
                Ok(())
            }
        }
    }

    fn compact(&mut self, through: LogPosition) {
        if through.index <= self.base.index {
            return;
        }
        self.base_membership = self.membership_at(through.index);
        self.entries.drop_before(through.index.next());
        self.base = through;
    }

    fn memberships(&self) -> impl Iterator<Item = (Index, Membership)> {
        self.entries.iter().filter_map(|entry: &Entry| match &entry.payload {
            Payload::Membership(membership) => Some((entry.index, (**membership).clone())),
            _ => None,
        })
    }

    fn membership_at(&self, index: Index) -> Membership {
        let before = self.memberships().take_while(|(at, _)| *at <= index).last();
        before.map_or_else(|| self.base_membership.clone(), |(_, membership)| membership)
    }

    fn restored(&self) -> RestoredLog {
        RestoredLog::describe(
            self.hard_state,
            self.base,
            self.base_membership.clone(),
            self.entries.iter(),
        )
    }
}
