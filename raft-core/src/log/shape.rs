//! The log's *shape*: which term each index has, and where the configurations are. It is all that decisions need,
//! and its size depends on the number of leaders, not of entries.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::entry::Kinds;
use crate::{
    Entries, Entry, Index, LogPosition, Membership, NodeId, Payload, RestoreError, RestoredLog,
    SnapshotMeta, Term, TermRun,
};

/// Positions from `base` (compacted through) to `last`, as runs of equal terms.
#[derive(Clone, Debug)]
pub(crate) struct LogShape {
    base: LogPosition,
    base_membership: Arc<Membership>,
    /// Rising in term and in first index; the first starts right after `base`.
    runs: VecDeque<TermRun>,
    last: Index,
    /// Configurations after `base`, in the order of their indexes.
    memberships: VecDeque<(Index, Arc<Membership>)>,
    /// Rises whenever the configuration in effect changes.
    membership_version: u64,
}

impl LogShape {
    /// Believes what a log store reports, once it is consistent in itself: indexes from a file that rotted must not get
    /// any further (scenario 46).
    pub(crate) fn restore(restored: RestoredLog) -> Result<LogShape, RestoreError> {
        let RestoredLog { base, base_membership, terms, last, memberships, .. } = restored;
        let mut previous = TermRun { term: base.term, first: base.index };
        for (position, run) in terms.iter().enumerate() {
            let starts_right = if position == 0 {
                run.first == base.index.next() && run.term >= base.term && run.term > Term(0)
            } else {
                run.first > previous.first && run.term > previous.term
            };
            if (!starts_right || run.first > last) && !mutated!(RestoredTermsUnchecked) {
                return Err(RestoreError::BrokenTerms { at: run.first });
            }
            previous = *run;
        }
        if last < base.index || (terms.is_empty() && last != base.index) {
            return Err(RestoreError::BrokenTerms { at: last });
        }
        if !base_membership.is_empty() && !base_membership.is_valid() {
            return Err(RestoreError::BrokenMembership { at: base.index });
        }
        let mut at = base.index;
        for (index, membership) in &memberships {
            let is_wrong = *index <= at || *index > last || !membership.is_valid();
            if is_wrong && !mutated!(RestoredMembershipUnchecked) {
                return Err(RestoreError::BrokenMembership { at: *index });
            }
            at = *index;
        }
        Ok(LogShape {
            base,
            base_membership: Arc::new(base_membership),
            runs: terms.into(),
            last,
            memberships: memberships.into_iter().map(|(at, one)| (at, Arc::new(one))).collect(),
            membership_version: 0,
        })
    }

    pub(crate) fn base(&self) -> LogPosition {
        self.base
    }

    pub(crate) fn last(&self) -> Index {
        self.last
    }

    pub(crate) fn last_position(&self) -> LogPosition {
        LogPosition {
            index: self.last,
            term: self.runs.back().map_or(self.base.term, |run| run.term),
        }
    }

    /// The term at `index`: known from the base to the end.
    #[inline]
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        // Nearly every question is about the last run.
        match self.runs.back() {
            Some(run) if run.first <= index && index <= self.last => Some(run.term),
            _ => self.earlier_term_at(index),
        }
    }

    fn earlier_term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        self.runs.get(after.checked_sub(1)?).map(|run| run.term)
    }

    #[inline]
    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The highest position at or below `bound.index` whose term is at most `bound.term`: the last place where a log
    /// that has `bound` may still agree with this one. Never below the base.
    pub(crate) fn may_agree_up_to(&self, bound: LogPosition) -> LogPosition {
        let limit = bound.index.min(self.last);
        for (position, run) in self.runs.iter().enumerate().rev() {
            if run.first <= limit && run.term <= bound.term {
                let end = self.runs.get(position + 1).map_or(self.last, |next| next.first.prev());
                return LogPosition { index: end.min(limit), term: run.term };
            }
        }
        self.base
    }

    /// Appends `count` entries of one term without configurations among them.
    pub(crate) fn append_run(&mut self, first: Index, term: Term, count: u64) {
        debug_assert_eq!(first, self.last.next(), "entries are appended without a gap");
        if self.last_position().term != term || self.runs.is_empty() {
            self.runs.push_back(TermRun { term, first });
        }
        self.last = self.last.plus(count);
    }

    pub(crate) fn append(&mut self, index: Index, term: Term, payload: &Payload) {
        self.append_run(index, term, 1);
        if let Payload::Membership(membership) = payload {
            self.memberships.push_back((index, membership.clone()));
            self.membership_version += 1;
        }
    }

    pub(crate) fn append_all(&mut self, entries: &Entries) {
        if let (Some(first), Some(last)) = (entries.first(), entries.last())
            && first.term == last.term
            && !entries.kinds().may_include(Kinds::MEMBERSHIP)
        {
            self.append_run(first.index, first.term, last.index.0 - first.index.0 + 1);
            return;
        }
        for entry in entries.iter() {
            self.append(entry.index, entry.term, &entry.payload);
        }
    }

    /// Forgets `index` and after, configurations included (scenario 30).
    pub(crate) fn truncate_from(&mut self, index: Index) {
        debug_assert!(index > self.base.index, "what is compacted can not be truncated");
        while self.runs.back().is_some_and(|run| run.first >= index) {
            self.runs.pop_back();
        }
        while self.memberships.back().is_some_and(|(at, _)| *at >= index)
            && !mutated!(TruncationKeepsConfiguration)
        {
            self.memberships.pop_back();
            self.membership_version += 1;
        }
        self.last = self.last.min(index.prev());
    }

    /// Forgets everything through `index`, which becomes the base.
    pub(crate) fn compact(&mut self, index: Index) {
        let Some(term) = self.term_at(index) else { return };
        while self.memberships.front().is_some_and(|(at, _)| *at <= index) {
            if let Some((_, membership)) = self.memberships.pop_front() {
                self.base_membership = membership;
            }
        }
        while self.runs.get(1).is_some_and(|next| next.first <= index.next()) {
            self.runs.pop_front();
        }
        if index == self.last {
            self.runs.clear();
        } else if let Some(first) = self.runs.front_mut() {
            first.first = index.next();
        }
        self.base = LogPosition { index, term };
    }

    /// Replaces the whole log by a snapshot.
    pub(crate) fn reset(&mut self, snapshot: &SnapshotMeta) {
        self.base = snapshot.position;
        self.base_membership = snapshot.membership.clone();
        self.runs.clear();
        self.memberships.clear();
        self.membership_version += 1;
        self.last = snapshot.position.index;
    }

    /// The configuration in effect: the latest in the log, committed or not (dissertation §4.1; scenario 26).
    pub(crate) fn membership(&self) -> &Membership {
        self.memberships.back().map_or(&self.base_membership, |(_, membership)| membership)
    }

    /// The index of the configuration in effect: its entry's, or the base's.
    pub(crate) fn membership_at(&self) -> Index {
        self.memberships.back().map_or(self.base.index, |(at, _)| *at)
    }

    /// The configurations after `index`, each with the one before it.
    pub(crate) fn membership_steps(
        &self,
        index: Index,
    ) -> impl Iterator<Item = (&Membership, &Membership)> {
        let earlier = core::iter::once(&self.base_membership)
            .chain(self.memberships.iter().map(|(_, membership)| membership));
        let steps = earlier.zip(&self.memberships).filter(move |(_, (at, _))| *at > index);
        steps.map(|(before, (_, now))| (&**before, &**now))
    }

    pub(crate) fn membership_version(&self) -> u64 {
        self.membership_version
    }

    /// The configuration as of `index`, which must not lie before the base.
    pub(crate) fn membership_as_of(&self, index: Index) -> &Arc<Membership> {
        let latest = self.memberships.iter().rev().find(|(at, _)| *at <= index);
        latest.map_or(&self.base_membership, |(_, membership)| membership)
    }

    /// Whether any configuration that is known lists this node as a witness: then its store may lack commands.
    pub(crate) fn ever_lists_witness(&self, node: NodeId) -> bool {
        self.base_membership.is_witness(node)
            || self.memberships.iter().any(|(_, membership)| membership.is_witness(node))
    }

    /// Whether the latest configuration of this log that lists the node at all lists it as a witness.
    pub(crate) fn last_lists_witness(&self, node: NodeId) -> bool {
        let later = self.memberships.iter().rev().map(|(_, membership)| &**membership);
        let mut all = later.chain([&*self.base_membership]);
        all.find(|membership| membership.contains(node)).is_some_and(|it| it.is_witness(node))
    }

    /// The entries from `first` to `last`, without their commands: what a witness gets. Up to `budget_bytes`, but at least one.
    pub(crate) fn without_commands(
        &self,
        first: Index,
        last: Index,
        mut budget_bytes: usize,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut index = first;
        while let Some(term) =
            self.term_at(index).filter(|_| index <= last && index > self.base.index)
        {
            let configuration = self.memberships.iter().find(|(at, _)| *at == index);
            let payload = configuration.map_or(Payload::Withheld, |(_, membership)| {
                Payload::Membership(membership.clone())
            });
            let entry = Entry { term, index, payload };
            let size = entry.size_bytes();
            if size > budget_bytes && !entries.is_empty() {
                break;
            }
            budget_bytes = budget_bytes.saturating_sub(size);
            entries.push(entry);
            index = index.next();
        }
        entries
    }

    pub(crate) fn runs(&self) -> impl DoubleEndedIterator<Item = &TermRun> {
        self.runs.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same log, kept the obvious way.
    #[derive(Default)]
    struct Naive {
        base: LogPosition,
        terms: Vec<u64>,
    }

    impl Naive {
        fn last(&self) -> u64 {
            self.base.index.0 + self.terms.len() as u64
        }

        fn term_at(&self, index: u64) -> Option<Term> {
            if index == self.base.index.0 {
                return Some(self.base.term);
            }
            let offset = index.checked_sub(self.base.index.0 + 1)?;
            self.terms.get(usize::try_from(offset).unwrap()).map(|&t| Term(t))
        }
    }

    proptest! {
        #[test]
        fn shape_equals_a_naive_log(steps in proptest::collection::vec((0u8..4, 0u64..40, 0u64..3), 1..80)) {
            let mut shape = LogShape::restore(RestoredLog::default()).unwrap();
            let mut naive = Naive::default();
            for (kind, pick, rise) in steps {
                match kind {
                    0 | 1 => {
                        let term = naive.term_at(naive.last()).unwrap().0.max(1) + rise.saturating_sub(1);
                        shape.append(Index(naive.last() + 1), Term(term), &Payload::Empty);
                        naive.terms.push(term);
                    }
                    2 => {
                        let from = naive.base.index.0 + 1 + pick % (naive.terms.len() as u64 + 1);
                        shape.truncate_from(Index(from));
                        naive.terms.truncate(usize::try_from(from - naive.base.index.0 - 1).unwrap());
                    }
                    _ => {
                        let through = naive.base.index.0 + pick % (naive.terms.len() as u64 + 1);
                        let term = naive.term_at(through).unwrap();
                        shape.compact(Index(through));
                        let gone = usize::try_from(through - naive.base.index.0).unwrap();
                        naive.terms.drain(..gone);
                        naive.base = LogPosition { index: Index(through), term };
                    }
                }
                prop_assert_eq!(shape.last().0, naive.last());
                for index in 0..naive.last() + 3 {
                    prop_assert_eq!(shape.term_at(Index(index)), if index < naive.base.index.0 { None } else { naive.term_at(index) });
                    for term in 0..8 {
                        let bound = LogPosition { index: Index(index), term: Term(term) };
                        let expected = (naive.base.index.0 + 1..=index.min(naive.last())).rev()
                            .find(|&i| naive.term_at(i).unwrap() <= bound.term)
                            .map_or(naive.base, |i| LogPosition { index: Index(i), term: naive.term_at(i).unwrap() });
                        prop_assert_eq!(shape.may_agree_up_to(bound), expected);
                    }
                }
            }
        }
    }
}
