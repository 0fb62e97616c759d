//! The storage thread: owns the log store, commits in groups, compacts when nothing is waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use raft_core::{LogPosition, Persist};

use crate::LogStore;
use crate::feedback::{Feedback, Reporter, WorkerResult, with_causes};
use crate::handover::Handover;
use crate::metrics::{Counters, count};

/// What the driver hands to the storage thread.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all of them are writes
pub(crate) enum StorageWork {
    Persist(Persist),
    Compact(LogPosition),
}

/// A compaction waits for a moment without writes, but not longer than this: under a steady load there is no such moment.
const COMPACTION_PATIENCE: Duration = Duration::from_secs(1);

/// Runs until the queue is closed and empty, or the store fails. The queue is closed then, so that nothing piles up.
pub(crate) fn run<L: LogStore>(
    store: L,
    queue: &Arc<Handover<StorageWork>>,
    reporter: &Reporter,
    counters: &Counters,
) -> WorkerResult {
    let _close = CloseOnDrop(Arc::clone(queue));
    let mut thread = StorageThread { store, compaction: None, reporter, counters };
    let mut taken = VecDeque::new();
    let mut writes = Vec::new();
    while queue.take_all(&mut taken) {
        for work in taken.drain(..) {
            match work {
                StorageWork::Persist(persist) => writes.push(persist),
                // A later compaction includes an earlier one.
                StorageWork::Compact(through) => {
                    let since = thread.compaction.map_or_else(Instant::now, |(_, since)| since);
                    thread.compaction = Some((through, since));
                }
            }
        }
        thread.write(&mut writes)?;
        thread.compact(queue.fill().items > 0)?;
    }
    Ok(())
}

struct StorageThread<'a, L> {
    store: L,
    /// The compaction that is due, and since when.
    compaction: Option<(LogPosition, Instant)>,
    reporter: &'a Reporter,
    counters: &'a Counters,
}

impl<L: LogStore> StorageThread<'_, L> {
    /// One durable commit for all writes that came together. A failure is final and never repeated: a second fsync may
    /// claim success for pages that the first one lost (scenario 40).
    fn write(&mut self, writes: &mut Vec<Persist>) -> WorkerResult {
        if writes.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        self.store.write(writes).map_err(|error| Arc::from(with_causes(&error)))?;
        let entries: usize = writes.iter().map(|write| write.entries.len()).sum();
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.write_latency.record(micros);
        self.counters.write_entries.record(entries as u64);
        count(&self.counters.writes, writes.len() as u64);
        count(&self.counters.write_groups, 1);
        count(&self.counters.entries_written, entries as u64);
        let tickets = writes.drain(..).map(|write| write.ticket).collect();
        // During a shutdown nobody listens any more; the writes that are queued are finished all the same.
        self.reporter.report(Feedback::Persisted(tickets));
        Ok(())
    }

    /// Carries out the due compaction, unless writes wait and it is not overdue.
    fn compact(&mut self, writes_wait: bool) -> WorkerResult {
        let Some((through, since)) = self.compaction else { return Ok(()) };
        if writes_wait && since.elapsed() < COMPACTION_PATIENCE {
            return Ok(());
        }
        self.compaction = None;
        self.store.compact(through).map_err(|error| Arc::from(with_causes(&error)))?;
        self.counters.compactions.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// Closes a queue when its taker ends in whatever way: what is pushed later is dropped, and so are those who wait in it.
pub(crate) struct CloseOnDrop<T>(pub(crate) Arc<Handover<T>>);

impl<T> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        self.0.close_and_clear();
    }
}
