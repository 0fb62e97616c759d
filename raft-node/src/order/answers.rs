//! Who waits for what is applied: batches, matched with it by (first index, count, term), and reads, by index.
//!
//! Knows nothing of state machines or threads, so that the rule "never a wrong success" can be tested alone.

use std::collections::{BTreeMap, VecDeque};

use raft_core::{Entry, Index, Payload, ProposalId, Term};

use super::mutants::mutated;

/// A batch that was appended and is not applied in whole yet.
#[derive(Debug)]
pub struct Batch<R, W> {
    /// Its name.
    pub id: ProposalId,
    /// The index of its first command; the others follow.
    pub first: Index,
    /// How many commands.
    pub count: u64,
    /// The term in which it was appended.
    pub term: Term,
    /// The responses so far: a batch may be applied in pieces.
    pub responses: Vec<R>,
    /// Who waits.
    pub waiter: W,
}

impl<R, W> Batch<R, W> {
    /// The next index that it waits for.
    fn next(&self) -> Index {
        self.first.plus(self.responses.len() as u64)
    }
}

/// How a batch ended: with all its responses, or unknown to this node.
pub type Outcome<R, W> = (W, Option<Vec<R>>);

/// All batches that somebody waits for, in the order of the log. `R` is a response, `W` who waits.
#[derive(Debug)]
pub struct WaitingBatches<R, W> {
    queue: VecDeque<Batch<R, W>>,
}

impl<R, W> Default for WaitingBatches<R, W> {
    fn default() -> WaitingBatches<R, W> {
        WaitingBatches::new()
    }
}

impl<R, W> WaitingBatches<R, W> {
    /// Nobody waits.
    pub fn new() -> WaitingBatches<R, W> {
        WaitingBatches { queue: VecDeque::new() }
    }

    /// Expects a batch. Older ones at its place or after it were replaced in the log: their outcome is unknown, and so is that
    /// of one that comes too late, at or before `applied`.
    pub fn expect(
        &mut self,
        batch: Batch<R, W>,
        applied: Index,
        ended: &mut impl FnMut(Outcome<R, W>),
    ) {
        if batch.first <= applied {
            return ended((batch.waiter, None));
        }
        while self.queue.back().is_some_and(|last| last.first >= batch.first) {
            if let Some(replaced) = self.queue.pop_back() {
                ended((replaced.waiter, None));
            }
        }
        self.queue.push_back(batch);
    }

    /// The leader that appended the batch leads no more. Nothing happens if it was answered before.
    pub fn abandon(&mut self, id: ProposalId) -> Option<W> {
        let place = self.queue.iter().position(|batch| batch.id == id)?;
        self.queue.remove(place).map(|batch| batch.waiter)
    }

    /// The state was replaced by a snapshot through `index`: whoever waits for something up to there will not learn its response.
    pub fn skip_through(&mut self, index: Index, ended: &mut impl FnMut(Outcome<R, W>)) {
        while self.queue.front().is_some_and(|batch| batch.next() <= index) {
            if let Some(batch) = self.queue.pop_front() {
                ended((batch.waiter, None));
            }
        }
    }

    /// Gives the responses of applied entries (one per command, in order) to those who wait. An entry of another term
    /// at a batch's place is another entry: the batch's outcome is unknown then, whatever the response says.
    pub fn resolve(
        &mut self,
        entries: &[Entry],
        responses: &mut Vec<R>,
        ended: &mut impl FnMut(Outcome<R, W>),
    ) {
        let mut responses = responses.drain(..);
        let (Some(low), Some(high)) = (entries.first(), entries.last()) else { return };
        let (low, high) = (low.index, high.index);
        // How many of the entries have had their responses consumed.
        let mut consumed = 0;
        while let Some(batch) = self.queue.front_mut() {
            if batch.next() > high {
                break;
            }
            let left = batch.count.saturating_sub(batch.responses.len() as u64);
            let start = batch.next().0.checked_sub(low.0).and_then(|s| usize::try_from(s).ok());
            let run = start.filter(|&start| start >= consumed).map(|start| {
                let end = start.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
                start..end.min(entries.len())
            });
            let is_its = |run: &std::ops::Range<usize>| {
                entries[run.clone()]
                    .iter()
                    .all(|entry| entry.term == batch.term && is_command(entry))
            };
            if let Some(run) = run.filter(is_its) {
                let skipped = entries[consumed..run.start].iter().filter(|e| is_command(e)).count();
                let skipped = if mutated!(ResponsesOfOthers) { 0 } else { skipped };
                responses.by_ref().take(skipped).for_each(drop);
                batch.responses.extend(responses.by_ref().take(run.len()));
                consumed = run.end;
                if batch.responses.len() as u64 == batch.count
                    && let Some(batch) = self.queue.pop_front()
                {
                    ended((batch.waiter, Some(batch.responses)));
                }
            } else if let Some(batch) = self.queue.pop_front() {
                ended((batch.waiter, None));
            }
        }
    }
}

/// All reads whose index is not applied yet, by it. `W` is who waits.
#[derive(Debug)]
pub struct WaitingReads<W> {
    by_index: BTreeMap<Index, Vec<W>>,
}

impl<W> Default for WaitingReads<W> {
    fn default() -> WaitingReads<W> {
        WaitingReads { by_index: BTreeMap::new() }
    }
}

impl<W> WaitingReads<W> {
    /// Nobody waits.
    pub fn new() -> WaitingReads<W> {
        WaitingReads::default()
    }

    /// Reads may be answered once `index` is applied: they are given back if it is.
    pub fn expect(&mut self, index: Index, waiters: Vec<W>, applied: Index) -> Option<Vec<W>> {
        if index <= applied || mutated!(ReadDoesNotWaitForItsIndex) {
            return Some(waiters);
        }
        self.by_index.entry(index).or_default().extend(waiters);
        None
    }

    /// The next reads whose index is applied; to be called until there are none.
    pub fn next_ready(&mut self, applied: Index) -> Option<Vec<W>> {
        let first = self.by_index.first_entry()?;
        (*first.key() <= applied).then(|| first.remove())
    }
}

/// Whether an entry gets a response.
fn is_command(entry: &Entry) -> bool {
    matches!(entry.payload, Payload::Command(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    type Ended = Vec<(&'static str, Option<Vec<u64>>)>;

    fn entry(index: u64, term: u64, command: bool) -> Entry {
        let payload = if command { Payload::Command(Bytes::new()) } else { Payload::Empty };
        Entry { term: Term(term), index: Index(index), payload }
    }

    fn batch(waiter: &'static str, first: u64, count: u64, term: u64) -> Batch<u64, &'static str> {
        let id = ProposalId(first * 100 + term);
        Batch { id, first: Index(first), count, term: Term(term), responses: Vec::new(), waiter }
    }

    /// Every command's response is its own index.
    fn apply(
        waiting: &mut WaitingBatches<u64, &'static str>,
        entries: &[Entry],
        ended: &mut Ended,
    ) {
        let commands = entries.iter().filter(|e| is_command(e));
        let mut responses = commands.map(|entry| entry.index.0).collect();
        waiting.resolve(entries, &mut responses, &mut |outcome| ended.push(outcome));
        assert!(responses.is_empty());
    }

    #[test]
    fn batches_are_answered_across_pieces_and_past_entries_without_responses() {
        let (mut waiting, mut ended) = (WaitingBatches::new(), Ended::new());
        for batch in [batch("a", 3, 3, 2), batch("b", 6, 1, 2), batch("c", 9, 1, 2)] {
            waiting.expect(batch, Index(0), &mut |outcome| ended.push(outcome));
        }
        apply(
            &mut waiting,
            &[entry(1, 2, true), entry(2, 2, false), entry(3, 2, true)],
            &mut ended,
        );
        assert!(ended.is_empty());
        apply(&mut waiting, &(4..=8).map(|i| entry(i, 2, true)).collect::<Vec<_>>(), &mut ended);
        assert_eq!(ended, [("a", Some(vec![3, 4, 5])), ("b", Some(vec![6]))]);
        apply(&mut waiting, &[entry(9, 2, true)], &mut ended);
        assert_eq!(ended.last(), Some(&("c", Some(vec![9]))));
    }

    #[test]
    fn an_entry_of_another_term_is_never_taken_for_the_batch() {
        let (mut waiting, mut ended) = (WaitingBatches::new(), Ended::new());
        for batch in [batch("a", 1, 2, 2), batch("b", 3, 1, 2)] {
            waiting.expect(batch, Index(0), &mut |outcome| ended.push(outcome));
        }
        apply(&mut waiting, &[entry(1, 2, true), entry(2, 3, true), entry(3, 3, true)], &mut ended);
        assert_eq!(ended, [("a", None), ("b", None)]);
    }

    #[test]
    fn a_batch_at_an_older_ones_place_replaces_it() {
        let (mut waiting, mut ended) = (WaitingBatches::new(), Ended::new());
        for batch in [batch("old", 5, 1, 2), batch("older", 6, 1, 2), batch("new", 5, 1, 4)] {
            waiting.expect(batch, Index(4), &mut |outcome| ended.push(outcome));
        }
        assert_eq!(ended, [("older", None), ("old", None)]);
        waiting.expect(batch("late", 4, 1, 4), Index(4), &mut |outcome| ended.push(outcome));
        assert_eq!(ended.last(), Some(&("late", None)));
        apply(&mut waiting, &[entry(5, 4, true)], &mut ended);
        assert_eq!(ended.last(), Some(&("new", Some(vec![5]))));
    }

    #[test]
    fn snapshots_and_lost_leadership_end_the_waiting() {
        let (mut waiting, mut ended) = (WaitingBatches::new(), Ended::new());
        for batch in [batch("a", 5, 2, 2), batch("b", 7, 1, 2), batch("c", 8, 1, 2)] {
            waiting.expect(batch, Index(4), &mut |outcome| ended.push(outcome));
        }
        assert_eq!(waiting.abandon(ProposalId(702)), Some("b"));
        assert_eq!(waiting.abandon(ProposalId(702)), None);
        waiting.skip_through(Index(6), &mut |outcome| ended.push(outcome));
        assert_eq!(ended, [("a", None)]);
        apply(&mut waiting, &[entry(7, 2, true), entry(8, 2, true)], &mut ended);
        assert_eq!(ended.last(), Some(&("c", Some(vec![8]))));
    }

    #[test]
    fn reads_wait_for_their_index() {
        let mut reads = WaitingReads::new();
        assert_eq!(reads.expect(Index(3), vec!["now"], Index(3)), Some(vec!["now"]));
        for (index, who) in [(5, "a"), (4, "b"), (5, "c"), (9, "d")] {
            assert_eq!(reads.expect(Index(index), vec![who], Index(3)), None);
        }
        assert_eq!(reads.next_ready(Index(3)), None);
        assert_eq!(reads.next_ready(Index(8)), Some(vec!["b"]));
        assert_eq!(reads.next_ready(Index(8)), Some(vec!["a", "c"]));
        assert_eq!(reads.next_ready(Index(8)), None);
    }
}
