//! The storage thread: owns the log store, commits in groups, compacts when nothing is waiting: by [`WriteOrder`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::LogStore;
use crate::feedback::{Feedback, Reporter, WorkerResult, with_causes};
use crate::handover::Handover;
use crate::metrics::{Counters, count};
use crate::order::{StoreJob, WriteOrder};

/// A compaction waits for a moment without writes, but not longer than this: under a steady load there is no such moment.
const COMPACTION_PATIENCE: Duration = Duration::from_secs(1);

/// Runs until the queue is closed and empty, or the store fails. The queue is closed then, so that nothing piles up.
pub(crate) fn run<L: LogStore>(
    store: L,
    queue: &Arc<Handover<StoreJob>>,
    reporter: &Reporter,
    counters: &Counters,
) -> WorkerResult {
    let _close = CloseOnDrop(Arc::clone(queue));
    let order = WriteOrder::new(COMPACTION_PATIENCE);
    let mut thread = StorageThread { store, order, reporter, counters };
    let origin = Instant::now();
    let mut taken = VecDeque::new();
    while queue.take_all(&mut taken) {
        let started = Instant::now();
        for job in taken.drain(..) {
            thread.order.take(job, since(origin, started));
        }
        let ended = thread.write(started)?;
        thread.compact(since(origin, ended), queue.fill().items > 0)?;
    }
    Ok(())
}

/// A moment in the order's terms.
fn since(origin: Instant, now: Instant) -> raft_core::Instant {
    raft_core::Instant(micros(now.duration_since(origin)))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

struct StorageThread<'a, L> {
    store: L,
    order: WriteOrder,
    reporter: &'a Reporter,
    counters: &'a Counters,
}

impl<L: LogStore> StorageThread<'_, L> {
    /// One durable commit for all writes that came together. A failure is final and never repeated: a second fsync may
    /// claim success for pages that the first one lost (scenario 40). When it ended.
    fn write(&mut self, started: Instant) -> Result<Instant, Arc<str>> {
        let writes = self.order.group().len();
        if writes == 0 {
            return Ok(started);
        }
        let entries: usize = self.order.group().iter().map(|write| write.entries.len()).sum();
        let store = &mut self.store;
        let durable = self.order.commit(|group| store.write(group));
        let tickets = durable.map_err(|error| Arc::from(with_causes(&error)))?.collect();
        let ended = Instant::now();
        self.counters.write_latency.record(micros(ended.duration_since(started)));
        self.counters.write_entries.record(entries as u64);
        count(&self.counters.writes, writes as u64);
        count(&self.counters.write_groups, 1);
        count(&self.counters.entries_written, entries as u64);
        // During a shutdown nobody listens any more; the writes that are queued are finished all the same.
        self.reporter.report(Feedback::Persisted(tickets));
        Ok(ended)
    }

    /// Carries out the compaction that is due, if it may be.
    fn compact(&mut self, now: raft_core::Instant, writes_wait: bool) -> WorkerResult {
        let Some(through) = self.order.compaction(now, writes_wait) else { return Ok(()) };
        if let Err(error) = self.store.compact(through) {
            self.order.fail();
            return Err(with_causes(&error).into());
        }
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
