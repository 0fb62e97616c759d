//! Bringing into redb what stands in the journal: many writes of the log as one transaction, by a thread that no write waits for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use raft_core::{Entry, Index, Membership, RestoredLog, SnapshotMeta};
use raft_node::StorageError;
use redb::{ReadableTable, Table, WriteTransaction};

use crate::chunking::next_cut;
use crate::error::{damaged, storage_error};
use crate::format::{self, Chunk, Head, NumberedState};
use crate::journal::LogJournal;
use crate::lives::Life;
use crate::plan::{self, Additions, Logged, Misfit, Plan};
use crate::reader::Shared;
use crate::tables::{HEAD_KEY, LIFE_KEY, LOG, MEMBERSHIPS, META, TERMS, remove_from};

/// How many rows that a compaction left behind are taken away for one write: more than it adds, so that the file stops growing.
const PURGED_ROWS_PER_WRITE: usize = 16;
/// The same in bytes.
const PURGED_BYTES_PER_WRITE: usize = 4 << 20;
/// No transaction takes away more, in bytes.
const PURGED_BYTES_MAX: usize = 32 << 20;

/// What a store shares with the thread that settles.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) shared: Arc<Shared>,
    pub(crate) journal: Arc<dyn LogJournal>,
    settler: Mutex<Settler>,
    /// A transaction failed. What the disk holds is uncertain then, so that is final.
    failed: AtomicBool,
    orders: Mutex<Orders>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    wanted: bool,
    stop: bool,
}

/// The log as redb holds it.
#[derive(Debug)]
struct Settler {
    shape: RestoredLog,
    sequence: u64,
    /// The number of the commit that is under way, for the journal.
    expected: Arc<AtomicU64>,
    /// The head row says less than `shape`: the base has moved.
    head_is_stale: bool,
    /// Rows at or below the base may still be there.
    purging: bool,
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

impl Settling {
    pub(crate) fn new(
        shared: Arc<Shared>,
        journal: Arc<dyn LogJournal>,
        shape: RestoredLog,
        sequence: u64,
        expected: Arc<AtomicU64>,
    ) -> Settling {
        let settler = Settler {
            shape,
            sequence,
            expected,
            head_is_stale: false,
            purging: true,
            row: Vec::new(),
        };
        Settling {
            shared,
            journal,
            settler: Mutex::new(settler),
            failed: AtomicBool::new(false),
            orders: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Brings everything that waits into redb, and `more` after it, as one transaction.
    pub(crate) fn settle(&self, more: Option<Logged>) -> Result<(), StorageError> {
        let mut settler = self.settler.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.shared.overlay.read().unwrap_or_else(PoisonError::into_inner).pending();
        let count = waiting.len();
        let batch: Vec<Arc<Logged>> = waiting.into_iter().chain(more.map(Arc::new)).collect();
        let Some(last) = batch.last().map(|write| write.sequence) else { return Ok(()) };
        self.transact(&mut settler, last, |settler, transaction| {
            settler.carry_out_all(transaction, &batch)
        })?;
        self.shared.overlay.write().unwrap_or_else(PoisonError::into_inner).settled(count);
        Ok(())
    }

    /// Writes the configuration that the log begins with. Nothing waits.
    pub(crate) fn found(&self, sequence: u64, membership: &Membership) -> Result<(), StorageError> {
        let mut settler = self.settler.lock().unwrap_or_else(PoisonError::into_inner);
        self.transact(&mut settler, sequence, |settler, transaction| {
            settler.shape.base_membership = membership.clone();
            let state = NumberedState { sequence, hard_state: settler.shape.hard_state };
            let base = SnapshotMeta {
                position: settler.shape.base,
                membership: membership.clone().into(),
            };
            Ok(write_head(transaction, &Head { state, base })?)
        })
    }

    /// Writes the row of a start. Nothing waits.
    pub(crate) fn begin_life(&self, sequence: u64, life: &Life) -> Result<(), StorageError> {
        let mut settler = self.settler.lock().unwrap_or_else(PoisonError::into_inner);
        self.transact(&mut settler, sequence, |settler, transaction| {
            transaction.open_table(META)?.insert(LIFE_KEY, life.encode().as_slice())?;
            // A write of its own number: were it lost, that would show.
            let state = NumberedState { sequence, hard_state: settler.shape.hard_state };
            let base = SnapshotMeta {
                position: settler.shape.base,
                membership: settler.shape.base_membership.clone().into(),
            };
            Ok(write_head(transaction, &Head { state, base })?)
        })
    }

    /// Runs a transaction after which the file holds the writes up to `last`; any failure is final.
    fn transact(
        &self,
        settler: &mut Settler,
        last: u64,
        change: impl FnOnce(&mut Settler, &WriteTransaction) -> Result<(), WriteFault>,
    ) -> Result<(), StorageError> {
        let path = &self.shared.path;
        if self.has_failed() {
            return Err(damaged(path, "an earlier transaction failed"));
        }
        let expected = settler.expected.clone();
        // redb is hardened against damaged files, but does not promise never to panic on one.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let transaction = self.shared.begin_write()?;
            change(settler, &transaction)?;
            expected.store(last, Ordering::Relaxed);
            transaction.commit()?;
            Ok(())
        }));
        if !matches!(outcome, Ok(Ok(()))) {
            self.failed.store(true, Ordering::Release);
            // What redb may still write while it closes is no commit of the log.
            settler.expected.store(settler.sequence, Ordering::Relaxed);
        }
        match outcome {
            Ok(Ok(())) => {
                settler.sequence = last;
                Ok(())
            }
            Ok(Err(WriteFault::Redb(error))) => Err(storage_error(path, "writing", error)),
            Ok(Err(WriteFault::Damaged(what))) => Err(damaged(path, what)),
            Err(_) => Err(damaged(path, "a write met rows that make no sense")),
        }
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread settle.
    pub(crate) fn wake(&self) {
        self.orders().wanted = true;
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.orders().stop = true;
        self.changed.notify_one();
    }

    /// What the thread does until it is told to stop, or fails.
    pub(crate) fn work(&self) {
        loop {
            let mut orders = self.orders();
            while !orders.stop && !orders.wanted {
                orders = self.changed.wait(orders).unwrap_or_else(PoisonError::into_inner);
            }
            if orders.stop {
                return;
            }
            orders.wanted = false;
            drop(orders);
            if let Err(error) = self.settle(None) {
                tracing::error!(%error, "the log file could not be written in the background");
                return;
            }
        }
    }
}

fn misfit(misfit: Misfit) -> WriteFault {
    WriteFault::Damaged(format!("the writes in its journal do not fit it: {misfit}"))
}

impl Settler {
    fn carry_out_all(
        &mut self,
        transaction: &WriteTransaction,
        batch: &[Arc<Logged>],
    ) -> Result<(), WriteFault> {
        let mut rest = batch;
        while let Some(first) = rest.first() {
            if let Some(through) = first.compacted {
                plan::compact(&mut self.shape, through).map_err(misfit)?;
                self.head_is_stale = true;
                self.purging = true;
            }
            let run = 1 + rest[1..].iter().take_while(|write| write.compacted.is_none()).count();
            let (run, after) = rest.split_at(run);
            let writes: Vec<_> = run.iter().map(|write| write.plan.to_persist()).collect();
            let plan = Plan::merge(&self.shape, &writes).map_err(misfit)?;
            let added = plan.additions(&self.shape);
            self.carry_out(transaction, &plan, &added, run[run.len() - 1].sequence)?;
            self.head_is_stale = false;
            plan.apply(&mut self.shape, added);
            rest = after;
        }
        if self.purging {
            self.purge(transaction, batch.len())?;
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        transaction: &WriteTransaction,
        plan: &Plan,
        added: &Additions,
        sequence: u64,
    ) -> Result<(), WriteFault> {
        let state = NumberedState {
            sequence,
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
                membership: self.shape.base_membership.clone().into(),
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
    fn purge(&mut self, transaction: &WriteTransaction, writes: usize) -> Result<(), WriteFault> {
        let log = &mut transaction.open_table(LOG)?;
        let base = self.shape.base.index;
        let mut bytes = 0;
        for _ in 0..PURGED_ROWS_PER_WRITE * writes {
            let Some((key, last, length)) = first_row(log)? else { break };
            if last > base {
                break;
            }
            log.remove(key)?;
            bytes += length;
            if bytes > PURGED_BYTES_PER_WRITE.saturating_mul(writes).min(PURGED_BYTES_MAX) {
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
