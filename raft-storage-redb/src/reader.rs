//! Reading entries while the log is being written: redb's read transactions see one state of the file, whole.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use raft_core::{Entries, Entry, Index};
use raft_node::{LogReader, ReadError, StorageError};
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::error::{damaged, storage_error};
use crate::format::Chunk;
use crate::overlay::Overlay;
use crate::tables::LOG;

/// What a store shares with its readers.
#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` only while it is being closed.
    database: Option<Database>,
    pub(crate) path: PathBuf,
    /// Entries up to here are compacted, though their rows may still be there.
    pub(crate) base: AtomicU64,
    pub(crate) overlay: RwLock<Overlay>,
}

impl Shared {
    pub(crate) fn new(database: Database, path: PathBuf, base: Index) -> Shared {
        Shared { database: Some(database), path, base: base.0.into(), overlay: RwLock::default() }
    }

    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        Ok(self.database.as_ref().ok_or(redb::StorageError::DatabaseClosed)?.begin_write()?)
    }

    fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(self.database.as_ref().ok_or(redb::StorageError::DatabaseClosed)?.begin_read()?)
    }
}

impl Drop for Shared {
    /// Closing a damaged file may panic too; then it stays as after a crash.
    fn drop(&mut self) {
        let database = self.database.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::error!(path = %self.path.display(), "the log file is damaged: it could not be closed");
        }
    }
}

/// Reads entries from the file of a [`RedbLogStore`](crate::RedbLogStore), from any thread. The file stays open, and locked,
/// until the store and all its readers are gone.
#[derive(Clone, Debug)]
pub struct RedbLogReader {
    pub(crate) shared: Arc<Shared>,
}

impl LogReader for RedbLogReader {
    fn read(&self, first: Index, last: Index, budget_bytes: usize) -> Result<Entries, ReadError> {
        if first.0 <= self.shared.base.load(Ordering::Acquire) || last < first {
            return Err(ReadError::NotThere { first });
        }
        let path = &self.shared.path;
        // redb is hardened against damaged files, but does not promise never to panic on one.
        catch_unwind(AssertUnwindSafe(|| self.read_rows(first, last, budget_bytes))).unwrap_or_else(
            |_| Err(damaged(path, format!("no row for entry {first} can be found")).into()),
        )
    }
}

impl RedbLogReader {
    fn read_rows(
        &self,
        first: Index,
        last: Index,
        mut budget: usize,
    ) -> Result<Entries, ReadError> {
        let path: &Path = &self.shared.path;
        // Both of one moment: what has left the overlay is in what redb shows.
        let (transaction, cut, tail) = {
            let overlay = self.shared.overlay.read().unwrap_or_else(PoisonError::into_inner);
            let (cut, tail) = overlay.view(first, last);
            let needs_rows = cut.is_none_or(|cut| first < cut);
            let transaction = if needs_rows { Some(self.shared.begin_read()) } else { None };
            (transaction, cut, tail)
        };
        let Some(transaction) = transaction else {
            if tail.first().is_none_or(|entry| entry.index != first) {
                return Err(ReadError::NotThere { first });
            }
            return Ok(fitting(tail, budget, true));
        };
        let transaction = transaction.map_err(|e| reading(path, e))?;
        let last = cut.map_or(last, |cut| last.min(cut.prev()));
        let log = transaction.open_table(LOG).map_err(|e| reading(path, e))?;
        let start = match log.range(..=first.0).map_err(|e| reading(path, e))?.next_back() {
            Some(row) => row.map_err(|e| reading(path, e))?.0.value(),
            None => return Err(ReadError::NotThere { first }),
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut wanted = first;
        for row in log.range(start..=last.0).map_err(|e| reading(path, e))? {
            let (key, row) = row.map_err(|e| reading(path, e))?;
            let bad = |fault: &dyn std::fmt::Display| {
                damaged(path, format!("the chunk of entry {} is malformed: {fault}", key.value()))
            };
            let chunk = Chunk::parse(row.value()).map_err(|fault| bad(&fault))?;
            if chunk.first().0 != key.value() {
                return Err(bad(&"it begins elsewhere").into());
            }
            if entries.is_empty() && chunk.last() < wanted {
                return Err(ReadError::NotThere { first });
            }
            if !(chunk.first()..=chunk.last()).contains(&wanted)
                || (!entries.is_empty() && chunk.first() != wanted)
            {
                return Err(damaged(path, format!("entry {wanted} is missing")).into());
            }
            let to = chunk.last().min(last);
            let all = chunk
                .decode_into(wanted, to, &mut budget, &mut entries)
                .map_err(|fault| bad(&fault))?;
            if !all || to == last {
                break;
            }
            wanted = to.next();
        }
        let is_whole = entries.last().is_some_and(|entry| entry.index == last);
        let mut entries = Entries::try_from_vec(entries)
            .map_err(|fault| damaged(path, format!("from entry {first} on: {fault}")))?;
        if is_whole && tail.first().is_some_and(|entry| entry.index == last.next()) {
            entries.extend(fitting(tail, budget, false));
        }
        Ok(entries)
    }
}

/// As many as fit; one at least, if `one`.
fn fitting(mut entries: Entries, mut budget: usize, one: bool) -> Entries {
    let mut is_first = one;
    let beyond = entries.iter().find(|entry| {
        let fits = entry.size_bytes() <= budget || std::mem::take(&mut is_first);
        budget = budget.saturating_sub(entry.size_bytes());
        is_first = false;
        !fits
    });
    if let Some(index) = beyond.map(|entry| entry.index) {
        entries.truncate_from(index);
    }
    entries
}

fn reading(path: &Path, error: impl Into<redb::Error>) -> StorageError {
    storage_error(path, "reading", error)
}
