//! The log as the core holds it: its [shape](shape), its [sizes](sizes), its [tail](tail), and what of it is [durable](writes).
//!
//! ```text
//!  base           first in the tail      durable              last
//!   ├───────────────┼──────────────────────┼───────────────────┤
//!   │ on disk       │ on disk and          │ being written, or │
//!   │               │ in the tail          │ staged for it     │
//! ```
//!
//! What is committed, and what is applied, are not its business (the crate's documentation draws them beside it).
//! Nothing here decides anything: this is bookkeeping that cannot contradict itself.

mod shape;
mod sizes;
mod tail;
mod writes;

use alloc::sync::Arc;
use core::time::Duration;

use bytes::Bytes;

use crate::{
    Entries, Entry, HardState, Index, Instant, LogPosition, Membership, NodeId, Payload, Persist,
    RestoreError, RestoredLog, SnapshotMeta, Term, TermRun, Ticket,
};
use shape::LogShape;
use sizes::{Sizes, command_bytes};
use tail::Tail;
use writes::Writes;

#[derive(Debug)]
pub(crate) struct Log {
    shape: LogShape,
    sizes: Sizes,
    tail: Tail,
    writes: Writes,
    unsaved: Unsaved,
    /// The last index that is durable here; brought up to date by whatever changes it, since it is asked for much more often.
    durable: Index,
}

/// What the next write must carry.
#[derive(Debug, Default)]
struct Unsaved {
    reset: Option<SnapshotMeta>,
    truncate_from: Option<Index>,
    append_from: Option<Index>,
}

impl Unsaved {
    fn touches_from(&self) -> Option<Index> {
        if self.reset.is_some() {
            return Some(Index(1));
        }
        match (self.truncate_from, self.append_from) {
            (Some(truncate), Some(append)) => Some(truncate.min(append)),
            (truncate, append) => truncate.or(append),
        }
    }
}

impl Log {
    pub(crate) fn restore(restored: RestoredLog) -> Result<Log, RestoreError> {
        let shape = LogShape::restore(restored)?;
        Ok(Log {
            durable: shape.last(),
            sizes: Sizes::unknown(shape.last()),
            shape,
            tail: Tail::default(),
            writes: Writes::default(),
            unsaved: Unsaved::default(),
        })
    }

    pub(crate) fn base(&self) -> LogPosition {
        self.shape.base()
    }

    pub(crate) fn last(&self) -> Index {
        self.shape.last()
    }

    pub(crate) fn last_position(&self) -> LogPosition {
        self.shape.last_position()
    }

    /// The last index that is durable here.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    fn find_durable(&mut self) {
        self.durable = self.durable_end();
    }

    fn durable_end(&self) -> Index {
        let saved = self.writes.durable_end(self.last());
        let unwritten = self.unsaved.touches_from().filter(|_| !mutated!(UnwrittenCountsAsDurable));
        unwritten.map_or(saved, |from| saved.min(from.prev()))
    }

    /// What is appended is not durable, and changes nothing of what is.
    fn note_appended(&mut self) {
        if mutated!(UnwrittenCountsAsDurable) {
            self.find_durable();
        }
        debug_assert_eq!(self.durable, self.durable_end(), "an append makes nothing durable");
    }

    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        self.shape.term_at(index)
    }

    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        self.shape.contains(position)
    }

    pub(crate) fn may_agree_up_to(&self, bound: LogPosition) -> LogPosition {
        self.shape.may_agree_up_to(bound)
    }

    pub(crate) fn membership(&self) -> &Membership {
        self.shape.membership()
    }

    /// The snapshot that a member without a state machine may be said to have: everything before the log.
    pub(crate) fn base_snapshot(&self) -> SnapshotMeta {
        let position = self.base();
        SnapshotMeta { position, membership: self.membership_as_of(position.index).clone() }
    }

    /// The configurations after `index`, each with the one before it, as far as the log goes back.
    pub(crate) fn membership_steps(
        &self,
        index: Index,
    ) -> impl Iterator<Item = (&Membership, &Membership)> {
        self.shape.membership_steps(index)
    }

    pub(crate) fn membership_at(&self) -> Index {
        self.shape.membership_at()
    }

    pub(crate) fn membership_version(&self) -> u64 {
        self.shape.membership_version()
    }

    pub(crate) fn membership_as_of(&self, index: Index) -> &Arc<Membership> {
        self.shape.membership_as_of(index)
    }

    pub(crate) fn ever_lists_witness(&self, node: NodeId) -> bool {
        self.shape.ever_lists_witness(node)
    }

    pub(crate) fn last_lists_witness(&self, node: NodeId) -> bool {
        self.shape.last_lists_witness(node)
    }

    /// The entries from `first` to `last`, up to `budget_bytes` but at least one, without their commands.
    pub(crate) fn without_commands(
        &self,
        first: Index,
        last: Index,
        budget_bytes: usize,
    ) -> Entries {
        Entries::from_run(self.shape.without_commands(first, last, budget_bytes))
    }

    pub(crate) fn runs(&self) -> impl DoubleEndedIterator<Item = &TermRun> {
        self.shape.runs()
    }

    /// Appends entries of a leader's own making; returns the index of the first.
    pub(crate) fn append_payload(&mut self, term: Term, payload: Payload) -> Index {
        let index = self.last().next();
        self.shape.append(index, term, &payload);
        self.sizes.append(index, payload.size_bytes());
        self.tail.stage(term, index, payload);
        self.unsaved.append_from.get_or_insert(index);
        self.note_appended();
        index
    }

    /// Appends a batch of commands, which count `bytes` together; returns the index of the first.
    pub(crate) fn append_commands(
        &mut self,
        term: Term,
        commands: alloc::vec::Vec<Bytes>,
        bytes: usize,
    ) -> Index {
        let (first, count) = (self.last().next(), commands.len() as u64);
        if count > 0 {
            self.shape.append_run(first, term, count);
            self.sizes.append_all(self.shape.last(), bytes, commands.iter().map(command_bytes));
            self.tail.stage_all(term, first, commands, bytes);
            self.unsaved.append_from.get_or_insert(first);
            self.note_appended();
        }
        first
    }

    /// Appends a leader's entries, which start right after the end.
    pub(crate) fn append_entries(&mut self, entries: Entries) {
        if let Some((first, _)) = entries.ends() {
            self.unsaved.append_from.get_or_insert(first);
            self.shape.append_all(&entries);
            let each = entries.iter().map(Entry::size_bytes);
            self.sizes.append_all(self.shape.last(), entries.size_bytes(), each);
            self.tail.extend(entries);
            self.note_appended();
        }
    }

    /// Forgets `index` and after.
    pub(crate) fn truncate_from(&mut self, index: Index) {
        self.shape.truncate_from(index);
        self.sizes.truncate_from(index);
        self.tail.truncate_from(index);
        let earliest = self.unsaved.truncate_from.map_or(index, |before| before.min(index));
        self.unsaved.truncate_from = Some(earliest).filter(|_| !mutated!(TruncationNotPersisted));
        self.unsaved.append_from = self.unsaved.append_from.filter(|from| *from < index);
        self.find_durable();
    }

    /// Replaces everything by a snapshot.
    pub(crate) fn reset(&mut self, snapshot: &SnapshotMeta) {
        self.shape.reset(snapshot);
        self.sizes = Sizes::unknown(snapshot.position.index);
        self.tail.clear();
        self.unsaved = Unsaved { reset: Some(snapshot.clone()), ..Unsaved::default() };
        self.find_durable();
    }

    /// Forgets everything through `index`, on which nothing here depends any more; returns the new base.
    pub(crate) fn compact(&mut self, index: Index) -> LogPosition {
        self.shape.compact(index);
        self.sizes.compact(index);
        // Nobody is sent these any more, and they are applied: a group that was busy once must not hold them for ever.
        self.tail.release(index.min(self.durable()));
        self.shape.base()
    }

    /// The lowest index after which entries up to `end` count no more than `budget_bytes`, about.
    pub(crate) fn floor_within(&self, end: Index, budget_bytes: u64) -> Index {
        self.sizes.floor(self.base().index, end, budget_bytes)
    }

    /// The highest index up to `end` up to which entries after `start` count no more than `budget_bytes`, about.
    pub(crate) fn ceiling_within(&self, start: Index, end: Index, budget_bytes: u64) -> Index {
        self.sizes.ceiling(start, end, budget_bytes)
    }

    /// Whether the log waits to be written.
    #[inline]
    pub(crate) fn has_unsaved(&self) -> bool {
        let Unsaved { reset, truncate_from, append_from } = &self.unsaved;
        append_from.is_some() || truncate_from.is_some() || reset.is_some()
    }

    /// The ticket that the next write will have.
    pub(crate) fn next_ticket(&self) -> Ticket {
        self.writes.next_ticket()
    }

    /// Takes everything that waits to be written, as one write.
    pub(crate) fn take_unsaved(&mut self, hard_state: Option<HardState>, now: Instant) -> Persist {
        let unsaved = core::mem::take(&mut self.unsaved);
        let ticket = self.writes.issue(unsaved.touches_from(), now);
        // What is durable stays the same: what was not written yet is now being written.
        if mutated!(UnwrittenCountsAsDurable) {
            self.find_durable();
        }
        debug_assert_eq!(self.durable, self.durable_end(), "handing out a write changes nothing");
        let last = self.last();
        let entries = unsaved
            .append_from
            .map(|from| self.tail.slice(from, last, usize::MAX))
            .unwrap_or_default();
        Persist {
            ticket,
            hard_state,
            reset: unsaved.reset.filter(|_| !mutated!(ResetNotPersisted)),
            truncate_from: unsaved.truncate_from,
            entries,
        }
    }

    pub(crate) fn complete_write(&mut self, ticket: Ticket, now: Instant) -> bool {
        let is_known = self.writes.complete(ticket, now);
        self.find_durable();
        is_known
    }

    /// How long a write takes, on average of late.
    pub(crate) fn write_time(&self) -> Duration {
        self.writes.mean_time()
    }

    pub(crate) fn is_write_durable(&self, ticket: Ticket) -> bool {
        self.writes.is_durable(ticket)
    }

    /// The first index in memory, or the one after the end.
    pub(crate) fn tail_first(&self) -> Index {
        self.tail.first().unwrap_or(self.last().next())
    }

    pub(crate) fn slice(&mut self, first: Index, last: Index, budget_bytes: usize) -> Entries {
        self.tail.slice(first, last, budget_bytes)
    }

    pub(crate) fn end_of(&mut self, first: Index, last: Index) -> Entries {
        self.tail.end_of(first, last)
    }

    /// Lets go of entries beyond the budget, applied or not, as soon as they can be read from the disk.
    pub(crate) fn evict(&mut self, budget_bytes: usize) {
        let releasable = self.durable();
        self.tail.evict(budget_bytes, releasable);
    }

    /// Gives back the room that a burst took, beside its entries.
    pub(crate) fn shrink(&mut self) {
        self.tail.shrink();
        self.writes.shrink();
    }

    /// How many bytes of entries are in memory.
    pub(crate) fn tail_bytes(&self) -> usize {
        self.tail.size_bytes()
    }

    /// Whether `entries`, read back from disk, are this log's.
    pub(crate) fn owns(&self, entries: &Entries) -> bool {
        !entries.is_empty()
            && entries.iter().map(Entry::position).all(|position| self.contains(position))
    }
}
