//! The store: one transaction, one fdatasync, per group of writes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raft_core::{Entry, Index, LogPosition, Membership, Persist, RestoredLog, SnapshotMeta};
use raft_node::{LogStore, StorageError};
use redb::{ReadableDatabase, ReadableTable, Table, WriteTransaction};

use crate::chunking::next_cut;
use crate::error::{damaged, misuse, storage_error};
use crate::format::{self, Chunk, Head, Identity, NumberedState};
use crate::plan::{self, Additions, Plan};
use crate::reader::{RedbLogReader, Shared};
use crate::tables::{HEAD_KEY, LOG, MEMBERSHIPS, META, RowFault, TERMS, Tables, remove_from};

/// How many rows that a compaction left behind one write takes away: more than it adds, so that the file stops growing,
/// and few enough that no write is slow for it.
const PURGED_ROWS_PER_WRITE: usize = 16;
/// The same in bytes.
const PURGED_BYTES_PER_WRITE: usize = 4 << 20;

/// A durable log in a redb file. See the crate's documentation.
#[derive(Debug)]
pub struct RedbLogStore {
    shared: Arc<Shared>,
    identity: Identity,
    /// As the driver sees the log; ahead of the file only in what a compaction forgot.
    shape: RestoredLog,
    sequence: u64,
    /// The number of the commit that is under way, for the journal: see `Journaled::expected`.
    expected: Arc<AtomicU64>,
    /// The head row says less than `shape`: the base has moved.
    head_is_stale: bool,
    /// Rows at or below the base may still be there.
    purging: bool,
    /// Whether an earlier call failed. A failed fsync may have lost pages silently, so that is final.
    poisoned: bool,
    /// Kept to encode chunks into.
    row: Vec<u8>,
}

/// Why a transaction could not be carried out.
enum WriteFault {
    Redb(redb::Error),
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for WriteFault {
    fn from(error: E) -> WriteFault {
        WriteFault::Redb(error.into())
    }
}

impl RedbLogStore {
    /// Takes over an open database whose identity was checked.
    pub(crate) fn new(
        database: redb::Database,
        path: PathBuf,
        identity: Identity,
        expected: Arc<AtomicU64>,
    ) -> Result<RedbLogStore, RowFault> {
        let (shape, state) = {
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            let tables = Tables {
                meta: transaction.open_table(META).map_err(redb::Error::from)?,
                log: transaction.open_table(LOG).map_err(redb::Error::from)?,
                terms: transaction.open_table(TERMS).map_err(redb::Error::from)?,
                memberships: transaction.open_table(MEMBERSHIPS).map_err(redb::Error::from)?,
            };
            tables.restore()?
        };
        // redb goes back to the commit before the last if it finds the last one damaged, which no loss of power explains.
        let known = expected.swap(state.sequence, Ordering::Relaxed);
        if state.sequence < known {
            return Err(RowFault::Contradiction(format!(
                "its last commit is number {}, but number {known} was durable",
                state.sequence
            )));
        }
        let shared = Arc::new(Shared::new(database, path, shape.base.index));
        Ok(RedbLogStore {
            shared,
            identity,
            shape,
            sequence: state.sequence,
            expected,
            head_is_stale: false,
            purging: true,
            poisoned: false,
            row: Vec::new(),
        })
    }

    /// The random identity that the file got when it was created: another file, even of the same node, has another.
    pub fn store_id(&self) -> [u8; 16] {
        self.identity.store
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    fn check_usable(&self) -> Result<(), StorageError> {
        if !self.poisoned {
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

    /// Runs a transaction; any failure poisons the store.
    fn transact(
        &mut self,
        change: impl FnOnce(&mut RedbLogStore, &WriteTransaction) -> Result<(), WriteFault>,
    ) -> Result<(), StorageError> {
        self.poisoned = true;
        self.expected.store(self.sequence + 1, Ordering::Relaxed);
        let shared = self.shared.clone();
        let path = &shared.path;
        // redb is hardened against damaged files, but does not promise never to panic on one.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let transaction = shared.begin_write()?;
            change(self, &transaction)?;
            transaction.commit()?;
            Ok(())
        }));
        if !matches!(outcome, Ok(Ok(()))) {
            // What redb may still write while it closes is no commit of the log.
            self.expected.store(self.sequence, Ordering::Relaxed);
        }
        match outcome {
            Ok(Ok(())) => {
                self.poisoned = false;
                Ok(())
            }
            Ok(Err(WriteFault::Redb(error))) => Err(storage_error(path, "writing", error)),
            Ok(Err(WriteFault::Damaged(what))) => Err(damaged(path, what)),
            Err(_) => Err(damaged(path, "a write met rows that make no sense")),
        }
    }

    fn carry_out(
        &mut self,
        transaction: &WriteTransaction,
        plan: &Plan,
        added: &Additions,
    ) -> Result<(), WriteFault> {
        let state = NumberedState {
            sequence: self.sequence + 1,
            hard_state: plan.hard_state.unwrap_or(self.shape.hard_state),
        };
        if plan.reset.is_some() {
            transaction.delete_table(LOG)?;
            transaction.delete_table(TERMS)?;
            transaction.delete_table(MEMBERSHIPS)?;
            transaction.open_table(MEMBERSHIPS)?;
            transaction.open_table(TERMS)?;
        }
        {
            let mut log = transaction.open_table(LOG)?;
            if let Some(from) = plan.truncate_from {
                self.truncate(transaction, &mut log, from)?;
            }
            self.append(&mut log, plan, &state)?;
            if self.purging && plan.reset.is_none() {
                self.purge(transaction, &mut log)?;
            }
        }
        if !added.terms.is_empty() {
            let mut terms = transaction.open_table(TERMS)?;
            for run in &added.terms {
                terms.insert(run.first.0, run.term.0)?;
            }
        }
        if !added.memberships.is_empty() {
            let mut memberships = transaction.open_table(MEMBERSHIPS)?;
            for (index, membership) in &added.memberships {
                let row = format::encode_membership_row(membership);
                memberships.insert(index.0, row.as_slice())?;
            }
        }
        // A write that appends carries the hard state in its chunk; so it touches one table only.
        if plan.entries.is_empty() || plan.reset.is_some() || self.head_is_stale {
            let base = plan.reset.clone().unwrap_or_else(|| SnapshotMeta {
                position: self.shape.base,
                membership: self.shape.base_membership.clone(),
            });
            write_head(transaction, &Head { state, base })?;
        }
        Ok(())
    }

    fn append(
        &mut self,
        log: &mut Table<'_, u64, &'static [u8]>,
        plan: &Plan,
        state: &NumberedState,
    ) -> Result<(), WriteFault> {
        let entries: Vec<&Entry> = plan.entries.iter().collect();
        let mut left: usize = entries.iter().map(|entry| format::encoded_bytes(entry)).sum();
        let mut rest = entries.as_slice();
        while let Some(first) = rest.first() {
            let (chunk, after) = rest.split_at(next_cut(rest, left));
            left -= chunk.iter().map(|entry| format::encoded_bytes(entry)).sum::<usize>();
            let carried = after.is_empty().then_some(state);
            format::encode_chunk(&mut self.row, chunk.iter().copied(), carried);
            log.insert(first.index.0, self.row.as_slice())?;
            rest = after;
        }
        // One huge group must not be held for ever.
        self.row.shrink_to(1 << 20);
        Ok(())
    }

    /// Takes away everything from `from` on. The chunk that it cuts through is written anew.
    fn truncate(
        &mut self,
        transaction: &WriteTransaction,
        log: &mut Table<'_, u64, &'static [u8]>,
        from: Index,
    ) -> Result<(), WriteFault> {
        let cut = match log.range(..from.0)?.next_back() {
            Some(row) => {
                let (key, row) = row?;
                cut_chunk(row.value(), key.value(), from)?
            }
            None => None,
        };
        remove_from(log, from.0)?;
        if let Some(kept) = cut {
            format::encode_chunk(&mut self.row, kept.iter(), None);
            log.insert(kept[0].index.0, self.row.as_slice())?;
        }
        if self.shape.terms.last().is_some_and(|run| run.first >= from) {
            transaction.open_table(TERMS)?.retain_in(from.0.., |_, _| false)?;
        }
        if self.shape.memberships.last().is_some_and(|(index, _)| *index >= from) {
            transaction.open_table(MEMBERSHIPS)?.retain_in(from.0.., |_, _| false)?;
        }
        Ok(())
    }

    /// Takes away some of the rows that lie wholly at or below the base.
    fn purge(
        &mut self,
        transaction: &WriteTransaction,
        log: &mut Table<'_, u64, &'static [u8]>,
    ) -> Result<(), WriteFault> {
        let base = self.shape.base.index;
        let mut bytes = 0;
        for _ in 0..PURGED_ROWS_PER_WRITE {
            let Some((key, last, length)) = first_row(log)? else { break };
            if last > base {
                break;
            }
            log.remove(key)?;
            bytes += length;
            if bytes > PURGED_BYTES_PER_WRITE {
                return Ok(());
            }
        }
        if first_row(log)?.is_some_and(|(_, last, _)| last <= base) {
            return Ok(());
        }
        self.purging = false;
        // Of the runs of terms, the one that holds the first entry after the base stays.
        let mut terms = transaction.open_table(TERMS)?;
        let border = match terms.range(..=base.next().0)?.next_back() {
            Some(run) => run?.0.value(),
            None => 0,
        };
        let stale = terms.first()?.is_some_and(|(first, _)| first.value() < border);
        if stale {
            terms.retain_in(..border, |_, _| false)?;
        }
        drop(terms);
        let mut memberships = transaction.open_table(MEMBERSHIPS)?;
        let stale = memberships.first()?.is_some_and(|(index, _)| index.value() <= base.0);
        if stale {
            memberships.retain_in(..=base.0, |_, _| false)?;
        }
        Ok(())
    }
}

/// The first row of the log: its key, its last index, its length.
fn first_row(
    log: &Table<'_, u64, &'static [u8]>,
) -> Result<Option<(u64, Index, usize)>, WriteFault> {
    let Some((key, row)) = log.first()? else { return Ok(None) };
    let (_, last) = format::peek_span(row.value()).map_err(|fault| {
        WriteFault::Damaged(format!("the chunk of entry {} is malformed: {fault}", key.value()))
    })?;
    Ok(Some((key.value(), last, row.value().len())))
}

/// The entries of a chunk that stand before `from`, if it also holds others.
fn cut_chunk(row: &[u8], key: u64, from: Index) -> Result<Option<Vec<Entry>>, WriteFault> {
    let bad =
        |fault| WriteFault::Damaged(format!("the chunk of entry {key} is malformed: {fault}"));
    let chunk = Chunk::parse(row).map_err(bad)?;
    if chunk.last() < from {
        return Ok(None);
    }
    let (mut kept, mut unlimited) = (Vec::new(), usize::MAX);
    chunk.decode_into(chunk.first(), from.prev(), &mut unlimited, &mut kept).map_err(bad)?;
    Ok(Some(kept))
}

pub(crate) fn write_head(transaction: &WriteTransaction, head: &Head) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(HEAD_KEY, head.encode().as_slice())?;
    Ok(())
}

impl LogStore for RedbLogStore {
    type Reader = RedbLogReader;

    fn restore(&mut self) -> Result<RestoredLog, StorageError> {
        self.check_usable()?;
        Ok(self.shape.clone())
    }

    fn found(&mut self, membership: &Membership) -> Result<(), StorageError> {
        self.check_usable()?;
        let empty = self.shape.base == LogPosition::ORIGIN && self.shape.last == Index(0);
        if !empty || !self.shape.base_membership.is_empty() {
            return Err(misuse(self.path(), "a log that is not empty was to be founded"));
        }
        let state =
            NumberedState { sequence: self.sequence + 1, hard_state: self.shape.hard_state };
        let base = SnapshotMeta { position: self.shape.base, membership: membership.clone() };
        self.transact(|_, transaction| Ok(write_head(transaction, &Head { state, base })?))?;
        self.sequence = state.sequence;
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
        self.transact(|store, transaction| store.carry_out(transaction, &plan, &added))?;
        self.sequence += 1;
        if plan.entries.is_empty() || plan.reset.is_some() || self.head_is_stale {
            self.head_is_stale = false;
        }
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
            self.head_is_stale = true;
            self.purging = true;
            self.shared.base.store(self.shape.base.index.0, Ordering::Release);
        }
        Ok(())
    }

    fn reader(&self) -> RedbLogReader {
        RedbLogReader { shared: self.shared.clone() }
    }
}
