//! The log's *tail*: recent entries with their payloads, for the disk, the peers and the state machine, in shared slices and
//! within a budget of bytes. What is older is on disk only.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::{Entries, Entry, Index, Payload, Term};

#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Sealed batches, each consecutive to the one before. None is empty.
    batches: VecDeque<Entries>,
    /// Entries of this drain, which the next look at the tail seals into one batch: a batch is what the
    /// disk and the peers see, so it should be as large as the drain was.
    staged: Vec<Entry>,
    /// The size of the sealed batches.
    size_bytes: usize,
}

/// A batch of at least so many commands is sealed as it is: it is large enough, and need not be moved once more.
const SEALED_AT_ONCE: usize = 64;

/// The staging area is kept for the next drain unless it is larger than this.
const STAGED_CAPACITY_MAX: usize = 1024;

impl Tail {
    /// Gives back the room that a burst took, beside its entries.
    pub(crate) fn shrink(&mut self) {
        crate::outbox::shrink(&mut self.batches, 4);
    }

    /// Appends one entry.
    pub(crate) fn stage(&mut self, term: Term, index: Index, payload: Payload) {
        self.staged.push(Entry { term, index, payload });
    }

    /// Appends commands from `first` on, which count `bytes` together.
    pub(crate) fn stage_all(
        &mut self,
        term: Term,
        first: Index,
        commands: Vec<Bytes>,
        bytes: usize,
    ) {
        if commands.len() >= SEALED_AT_ONCE {
            self.seal();
            self.push(Entries::of_commands(term, first, commands, bytes));
            return;
        }
        self.staged.extend(commands.into_iter().zip(first.0..).map(|(command, index)| Entry {
            term,
            index: Index(index),
            payload: Payload::Command(command),
        }));
    }

    /// Appends a run that continues the tail, sharing it.
    pub(crate) fn extend(&mut self, entries: Entries) {
        self.seal();
        self.push(entries);
    }

    fn push(&mut self, entries: Entries) {
        if !entries.is_empty() {
            self.size_bytes += entries.size_bytes();
            self.batches.push_back(entries);
        }
    }

    #[inline]
    pub(crate) fn seal(&mut self) {
        if !self.staged.is_empty() {
            self.seal_staged();
        }
    }

    fn seal_staged(&mut self) {
        let batch = Entries::from_run(self.staged.drain(..));
        if self.staged.capacity() > STAGED_CAPACITY_MAX {
            self.staged.shrink_to(STAGED_CAPACITY_MAX);
        }
        self.push(batch);
    }

    /// The first index in memory. `None` if nothing is.
    pub(crate) fn first(&self) -> Option<Index> {
        let sealed = self.batches.front().and_then(Entries::first);
        sealed.or(self.staged.first()).map(|entry| entry.index)
    }

    /// The size of all entries here.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes + self.staged.iter().map(Entry::size_bytes).sum::<usize>()
    }

    pub(crate) fn clear(&mut self) {
        *self = Tail::default();
    }

    pub(crate) fn truncate_from(&mut self, index: Index) {
        self.seal();
        while let Some(mut batch) = self.batches.pop_back() {
            self.size_bytes -= batch.size_bytes();
            batch.truncate_from(index);
            if !batch.is_empty() {
                self.push(batch);
                break;
            }
        }
    }

    /// Drops whole batches from the front while the tail is over its budget, as long as they end at or before `releasable`.
    #[inline]
    pub(crate) fn evict(&mut self, budget_bytes: usize, releasable: Index) {
        if self.size_bytes > budget_bytes {
            self.drop_from_front(budget_bytes, releasable);
        }
    }

    fn drop_from_front(&mut self, budget_bytes: usize, releasable: Index) {
        while self.size_bytes > budget_bytes {
            match self.batches.front() {
                Some(batch) if batch.last().is_some_and(|last| last.index <= releasable) => {
                    self.size_bytes -= batch.size_bytes();
                    self.batches.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Drops whole batches that end at or before `index`, and the room that they needed.
    pub(crate) fn release(&mut self, index: Index) {
        self.evict(0, index);
        self.batches.shrink_to(2 * self.batches.len());
    }

    /// The number of the batch that `index` is in, if it is in one at all. Searches from the end in widening steps:
    /// nearly every question is about what was appended last, and there may be a hundred thousand batches, most of them
    /// long out of the cache.
    fn batch_of(&self, index: Index) -> usize {
        let starts_after = |number: usize| {
            self.batches
                .get(number)
                .and_then(Entries::first)
                .is_none_or(|entry| entry.index > index)
        };
        let count = self.batches.len();
        if count > 0 && !starts_after(count - 1) {
            return count - 1;
        }
        let (mut high, mut step) = (count, 1);
        while step <= count && starts_after(count - step) {
            high = count - step;
            step *= 2;
        }
        let mut low = count.saturating_sub(step);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if starts_after(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        low
    }

    /// The entries from `first` to `last` (inclusive) that are in memory, from `first` on, up to `budget_bytes` but at least one.
    /// Empty if `first` is not in memory.
    pub(crate) fn slice(&mut self, first: Index, last: Index, budget_bytes: usize) -> Entries {
        self.seal();
        // Nearly always the latest batch as a whole is wanted: by the disk, by each peer, and by the leader's state
        // machine. A follower's wants the one before, since it learns of a commit with the next append.
        let count = self.batches.len();
        for number in [count.wrapping_sub(1), count.wrapping_sub(2)] {
            if let Some(batch) = self.batches.get(number)
                && batch.ends() == Some((first, last))
                && batch.size_bytes() <= budget_bytes
            {
                return batch.clone();
            }
        }
        self.slice_anywhere(first, last, budget_bytes)
    }

    #[inline(never)]
    fn slice_anywhere(&self, first: Index, last: Index, budget_bytes: usize) -> Entries {
        let number = self.batch_of(first);
        let mut result = Entries::new();
        let Some(batch) = self.batches.get(number) else { return result };
        let Some((start, end)) = batch.ends() else { return result };
        if start > first {
            return result;
        }
        if (start, end) == (first, last) && batch.size_bytes() <= budget_bytes {
            return batch.clone();
        }
        let mut left = budget_bytes;
        for batch in self.batches.range(number..) {
            if batch.first().is_none_or(|entry| entry.index > last) {
                break;
            }
            let mut piece = batch.clone();
            piece.drop_before(first);
            piece.truncate_from(last.next());
            if piece.size_bytes() <= left {
                left -= piece.size_bytes();
                result.extend(piece);
                continue;
            }
            if let Some(cut) = cut_to_budget(&piece, left, result.is_empty()) {
                piece.truncate_from(cut);
            }
            result.extend(piece);
            break;
        }
        result
    }

    /// The end of `first..=last` that is in memory.
    pub(crate) fn end_of(&mut self, first: Index, last: Index) -> Entries {
        let entries = self.slice(first, last, usize::MAX);
        if !entries.is_empty() {
            return entries;
        }
        match self.first() {
            Some(start) if start > first && start <= last => self.slice(start, last, usize::MAX),
            _ => entries,
        }
    }
}

/// Where a piece must be cut to stay within `left`. One entry always fits if nothing was taken before.
fn cut_to_budget(piece: &Entries, mut left: usize, nothing_before: bool) -> Option<Index> {
    for (position, entry) in piece.iter().enumerate() {
        let size = entry.size_bytes();
        if size > left && !(nothing_before && position == 0) {
            return Some(entry.index);
        }
        left = left.saturating_sub(size);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn entry(index: u64, size: usize) -> Entry {
        Entry {
            term: Term(1),
            index: Index(index),
            payload: Payload::Command(Bytes::from(alloc::vec![0; size])),
        }
    }

    #[test]
    fn a_burst_does_not_hold_its_memory_for_ever() {
        let mut tail = Tail::default();
        for index in 1..=4 * STAGED_CAPACITY_MAX as u64 {
            tail.stage(Term(1), Index(index), Payload::Empty);
        }
        assert!(tail.staged.capacity() > STAGED_CAPACITY_MAX);
        tail.seal();
        assert!(tail.staged.capacity() <= STAGED_CAPACITY_MAX);
        assert_eq!(tail.first(), Some(Index(1)));
    }

    proptest! {
        #[test]
        fn slices_equal_those_of_a_plain_vector(
            batches in proptest::collection::vec(proptest::collection::vec(0usize..200, 1..6), 1..6),
            first in 1u64..30, length in 0u64..30, budget in 0usize..2000,
        ) {
            let mut tail = Tail::default();
            let mut plain = Vec::new();
            for (number, sizes) in batches.iter().enumerate() {
                let run: Vec<Entry> = sizes.iter().zip(plain.len() as u64 + 1..).map(|(&s, i)| entry(i, s)).collect();
                plain.extend(run.clone());
                if number % 2 == 0 {
                    tail.extend(Entries::from_run(run));
                } else {
                    for e in run {
                        tail.stage(e.term, e.index, e.payload);
                    }
                }
            }
            let last = first + length;
            let mut expected: Vec<Entry> = Vec::new();
            let mut used = 0;
            for e in plain.iter().filter(|e| e.index.0 >= first && e.index.0 <= last) {
                if !expected.is_empty() && used + e.size_bytes() > budget {
                    break;
                }
                used += e.size_bytes();
                expected.push(e.clone());
            }
            let got = tail.slice(Index(first), Index(last), budget);
            prop_assert!(got.iter().eq(expected.iter()), "{:?} {:?}", got, expected);

            tail.truncate_from(Index(first));
            plain.retain(|e| e.index.0 < first);
            let rest = tail.slice(Index(1), Index(100), usize::MAX);
            prop_assert!(rest.iter().eq(plain.iter()));
            prop_assert_eq!(tail.size_bytes, rest.size_bytes());
        }
    }
}
