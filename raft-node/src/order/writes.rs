//! Group commit: which writes become durable together, in which order they are reported, and when the log is cut.

use std::time::Duration;

use raft_core::{Instant, LogPosition, Persist, Ticket};

use super::StoreJob;
use super::mutants::mutated;

/// The order of everything that concerns one log store. Whoever owns the store owns this; it starts anew with every opening of the store.
///
/// Its promises:
/// 1. A group is every write that was [taken](WriteOrder::take) since the last commit, in the order in which they were polled: none is
///    left out, split, merged or overtaken. A store carries each out by itself (reset, then truncate, then append).
/// 2. No ticket is reported before the commit that its write belongs to has succeeded; then those of the group are, in order.
/// 3. After a commit has failed nothing is written, reported or compacted any more, the failed group included: a second fsync may claim
///    success for pages that the first one lost.
/// 4. A compaction follows all writes that were polled before it. It waits for a moment in which no write does, but not longer than the
///    patience; a later one includes it, and so does a reset to a later place.
///
/// ```
/// use raft_core::{Entries, Instant, Persist, Ticket};
/// use raft_node::order::{StoreJob, WriteOrder};
///
/// # fn write(_: &[Persist]) -> Result<(), std::io::Error> { Ok(()) }
/// # let write_of = |ticket| Persist {
/// #     ticket: Ticket(ticket), hard_state: None, reset: None, truncate_from: None, entries: Entries::new(),
/// # };
/// let mut order = WriteOrder::new(std::time::Duration::from_secs(1));
/// for ticket in [1, 2] {
///     order.take(StoreJob::Write(write_of(ticket)), Instant(0));
/// }
/// let durable = order.commit(|group| write(group))?; // one fsync for both
/// assert!(durable.eq([Ticket(1), Ticket(2)])); // for `Input::Persisted`
/// if let Some(through) = order.compaction(Instant(5), false) {
///     // `LogStore::compact`
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct WriteOrder {
    /// The writes of the next commit.
    group: Vec<Persist>,
    /// The compaction that is due, and since when.
    compaction: Option<(LogPosition, Instant)>,
    patience: Duration,
    has_failed: bool,
}

/// The tickets of writes that have become durable, in order: for `Input::Persisted`.
#[derive(Debug)]
pub struct Durable<'a>(std::vec::Drain<'a, Persist>);

impl Iterator for Durable<'_> {
    type Item = Ticket;

    fn next(&mut self) -> Option<Ticket> {
        self.0.next().map(|write| write.ticket)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Durable<'_> {}

impl WriteOrder {
    /// Nothing waits. A compaction waits for `patience` at most.
    pub fn new(patience: Duration) -> WriteOrder {
        WriteOrder { group: Vec::new(), compaction: None, patience, has_failed: false }
    }

    /// Takes the next job of the lane. `now` may be of any clock that does not go back.
    pub fn take(&mut self, job: StoreJob, now: Instant) {
        match job {
            _ if self.has_failed => {}
            StoreJob::Write(write) => {
                let reset = write.reset.as_ref().map(|snapshot| snapshot.position.index);
                if reset.is_some_and(|base| self.compaction.is_some_and(|it| it.0.index <= base)) {
                    self.compaction = None;
                }
                if mutated!(WritesOutOfOrder) {
                    self.group.insert(0, write);
                } else {
                    self.group.push(write);
                }
            }
            StoreJob::Compact(through) => {
                let since = self.compaction.map_or(now, |(_, since)| since);
                self.compaction = Some((through, since));
            }
        }
    }

    /// The writes of the next commit.
    pub fn group(&self) -> &[Persist] {
        &self.group
    }

    /// Commits the group: `write` makes all of it durable, or fails for good. The tickets to report, in order; dropped before its end, the
    /// rest is not reported. `write` is not called if there is nothing to write.
    ///
    /// # Errors
    /// That of `write`.
    pub fn commit<E>(
        &mut self,
        write: impl FnOnce(&[Persist]) -> Result<(), E>,
    ) -> Result<Durable<'_>, E> {
        if !self.group.is_empty() && !mutated!(ReportedThoughNotWritten) {
            let written = write(&self.group);
            if let Err(error) = written
                && !mutated!(FailedWriteReported)
            {
                self.group.clear();
                self.compaction = None;
                self.has_failed = true;
                return Err(error);
            }
        }
        Ok(Durable(self.group.drain(..)))
    }

    /// What to compact through now, if anything: call it after a commit. `writes_wait` says whether the next one has something to do.
    pub fn compaction(&mut self, now: Instant, writes_wait: bool) -> Option<LogPosition> {
        let (through, since) = self.compaction?;
        let may_wait = now.since(since) < self.patience;
        if !self.group.is_empty() || (writes_wait && may_wait) {
            return None;
        }
        self.compaction = None;
        Some(through)
    }

    /// A compaction failed: so has the store, for good.
    pub fn fail(&mut self) {
        self.group.clear();
        self.compaction = None;
        self.has_failed = true;
    }

    /// Whether something failed: nothing more will come out.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{Entries, Index, Membership, SnapshotMeta, Term};

    fn at(index: u64) -> LogPosition {
        LogPosition { index: Index(index), term: Term(1) }
    }

    fn write(ticket: u64, reset: Option<u64>) -> StoreJob {
        let reset = reset.map(|index| SnapshotMeta {
            position: at(index),
            membership: Membership::default().into(),
        });
        StoreJob::Write(Persist {
            ticket: Ticket(ticket),
            hard_state: None,
            reset,
            truncate_from: None,
            entries: Entries::new(),
        })
    }

    fn tickets(group: &[Persist]) -> Vec<u64> {
        group.iter().map(|write| write.ticket.0).collect()
    }

    fn commit(order: &mut WriteOrder) -> Vec<u64> {
        let mut written = Vec::new();
        let reported = order.commit(|group| {
            written = tickets(group);
            Ok::<(), ()>(())
        });
        let reported: Vec<u64> = reported.expect("a sound disk").map(|ticket| ticket.0).collect();
        assert_eq!(reported, written);
        reported
    }

    const PATIENCE: Duration = Duration::from_micros(10);

    #[test]
    fn what_came_together_is_committed_and_reported_together() {
        let mut order = WriteOrder::new(PATIENCE);
        assert_eq!(commit(&mut order), []);
        (1..=3).for_each(|ticket| order.take(write(ticket, None), Instant(0)));
        assert_eq!(commit(&mut order), [1, 2, 3]);
        assert_eq!(commit(&mut order), []);
    }

    #[test]
    fn nothing_comes_after_a_failure() {
        // scenario 40 (PostgreSQL's fsync)
        let mut order = WriteOrder::new(PATIENCE);
        order.take(write(1, None), Instant(0));
        order.take(StoreJob::Compact(at(1)), Instant(0));
        assert!(order.commit(|_| Err("fsync")).is_err());
        order.take(write(2, None), Instant(1));
        order.take(StoreJob::Compact(at(2)), Instant(1));
        let mut was_called = false;
        let reported = order.commit(|_| {
            was_called = true;
            Ok::<(), ()>(())
        });
        assert_eq!(reported.map(|tickets| tickets.len()), Ok(0));
        assert!(!was_called);
        assert_eq!(order.compaction(Instant(100), false), None);
        assert!(order.has_failed());
    }

    #[test]
    fn compactions_wait_for_a_quiet_moment_but_not_for_ever() {
        let mut order = WriteOrder::new(PATIENCE);
        order.take(StoreJob::Compact(at(1)), Instant(0));
        order.take(write(1, None), Instant(0));
        assert_eq!(order.compaction(Instant(50), false), None, "after the writes");
        commit(&mut order);
        assert_eq!(order.compaction(Instant(9), true), None);
        order.take(StoreJob::Compact(at(2)), Instant(9));
        assert_eq!(order.compaction(Instant(10), true), Some(at(2)), "the later, as of the first");
        assert_eq!(order.compaction(Instant(10), false), None);
        order.take(StoreJob::Compact(at(3)), Instant(11));
        assert_eq!(order.compaction(Instant(11), false), Some(at(3)));
    }

    #[test]
    fn a_reset_includes_compactions_before_it() {
        let mut order = WriteOrder::new(PATIENCE);
        order.take(StoreJob::Compact(at(3)), Instant(0));
        order.take(write(1, Some(7)), Instant(0));
        commit(&mut order);
        assert_eq!(order.compaction(Instant(100), false), None);
        order.take(write(2, Some(7)), Instant(0));
        order.take(StoreJob::Compact(at(9)), Instant(0));
        commit(&mut order);
        assert_eq!(order.compaction(Instant(100), false), Some(at(9)));
    }
}
