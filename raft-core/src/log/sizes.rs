//! The log's *sizes*: about how many bytes of entries lie between two indexes, from one mark for every so many bytes. So
//! what the log may hold can be bounded in bytes, and costs little memory however long the log is.
//!
//! What was written before this start is not known; it is taken to be like what was written since, on average.

use alloc::collections::VecDeque;

use crate::{Entry, Index};

/// A mark stands where at least so many bytes were appended since the one before, and before each entry that is larger.
/// In between, entries are taken to be of equal size.
const STEP_BYTES: u64 = 64 << 10;

#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Entries up to here were written before this start, or are gone.
    unknown_to: Index,
    /// Indexes, and what the entries after `unknown_to` up to there count together. Rising in both.
    marks: VecDeque<(Index, u64)>,
    last: Index,
    /// What all entries after `unknown_to` count.
    total: u64,
}

impl Sizes {
    /// Of a log that ends at `last`, and of whose entries no size is known.
    pub(crate) fn unknown(last: Index) -> Sizes {
        Sizes { unknown_to: last, marks: VecDeque::new(), last, total: 0 }
    }

    /// `bytes` of entries are appended, which end at `last`.
    pub(crate) fn append(&mut self, last: Index, bytes: usize) {
        let before = self.marks.back().map_or(self.unknown_to, |mark| mark.0);
        if bytes as u64 >= STEP_BYTES && before < self.last {
            // A large entry must not make those before it look large.
            self.marks.push_back((self.last, self.total));
        }
        self.total = self.total.saturating_add(bytes as u64);
        self.last = last;
        if self.total - self.marks.back().map_or(0, |mark| mark.1) >= STEP_BYTES {
            self.marks.push_back((last, self.total));
        }
    }

    /// The same of several entries, which count `bytes` together: one by one if they are large.
    pub(crate) fn append_all(
        &mut self,
        last: Index,
        bytes: usize,
        each: impl Iterator<Item = usize>,
    ) {
        if (bytes as u64) < STEP_BYTES {
            return self.append(last, bytes);
        }
        let mut index = self.last;
        for bytes in each {
            index = index.next();
            self.append(index, bytes);
        }
    }

    pub(crate) fn truncate_from(&mut self, index: Index) {
        let last = index.prev();
        if last >= self.last {
            return;
        }
        self.total = u64::try_from(self.sum_at(last)).unwrap_or(0);
        while self.marks.back().is_some_and(|mark| mark.0 > last) {
            self.marks.pop_back();
        }
        self.last = last;
        self.unknown_to = self.unknown_to.min(last);
    }

    /// Nothing before `base` is asked for any more.
    pub(crate) fn compact(&mut self, base: Index) {
        while self.marks.get(1).is_some_and(|second| second.0 <= base) {
            self.marks.pop_front();
        }
        // A burst's room is given back: an idle group must stay small.
        if self.marks.capacity() > 4 * self.marks.len() {
            self.marks.shrink_to_fit();
        }
    }

    /// About how many bytes lie after `index`.
    pub(crate) fn after(&self, index: Index) -> u64 {
        u64::try_from(i128::from(self.total) - self.sum_at(index)).unwrap_or(u64::MAX)
    }

    /// The lowest index, not below `base`, after which entries up to `end` count no more than `budget_bytes`.
    pub(crate) fn floor(&self, base: Index, end: Index, budget_bytes: u64) -> Index {
        let limit = self.sum_at(end).saturating_sub(i128::from(budget_bytes));
        lowest(base, end, |index| self.sum_at(index) >= limit)
    }

    /// The highest index, not beyond `end`, up to which entries after `start` count no more than `budget_bytes`.
    pub(crate) fn ceiling(&self, start: Index, end: Index, budget_bytes: u64) -> Index {
        if self.after(start) <= budget_bytes {
            return end;
        }
        let limit = self.sum_at(start).saturating_add(i128::from(budget_bytes));
        lowest(start, end, |index| self.sum_at(index.next()) > limit)
    }

    /// What the entries after `unknown_to` count up to `index`; negative before it.
    fn sum_at(&self, index: Index) -> i128 {
        let known = self.last.0.saturating_sub(self.unknown_to.0);
        if index <= self.unknown_to {
            let mean = self.total.checked_div(known).unwrap_or(0);
            return -i128::from(self.unknown_to.0 - index.0) * i128::from(mean);
        }
        // Nearly every question is about the end.
        let before = match self.marks.back() {
            Some(mark) if mark.0 <= index => self.marks.len(),
            _ => self.marks.partition_point(|mark| mark.0 <= index),
        };
        let low = before.checked_sub(1).and_then(|number| self.marks.get(number));
        let (from, sum) = low.copied().unwrap_or((self.unknown_to, 0));
        let (to, high) = self.marks.get(before).copied().unwrap_or((self.last, self.total));
        let width = u128::from(to.0.saturating_sub(from.0).max(1));
        let part = u128::from(index.0.min(to.0).saturating_sub(from.0));
        let between = u128::from(high.saturating_sub(sum)) * part / width;
        i128::from(sum) + i128::try_from(between).unwrap_or(i128::MAX / 2)
    }
}

/// The lowest index from `low` to `high` for which something holds that holds for all after it; `high` if for none.
fn lowest(low: Index, high: Index, holds: impl Fn(Index) -> bool) -> Index {
    let (mut low, mut high) = (low.0, high.0);
    while low < high {
        let middle = u64::midpoint(low, high);
        if holds(Index(middle)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Index(high)
}

/// What a command counts.
pub(crate) fn command_bytes(command: &bytes::Bytes) -> usize {
    command.len() + Entry::OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// Appends, truncations and compactions, beside a list of all sizes.
        #[test]
        fn sums_are_right_to_a_step(
            steps in proptest::collection::vec((0u8..6, 1usize..400_000, 0usize..40), 1..60),
            budget in 0u64..4_000_000,
        ) {
            let mut sizes = Sizes::unknown(Index(0));
            let (mut plain, mut base): (Vec<usize>, usize) = (Vec::new(), 0);
            let mut cuts = 1;
            for (kind, bytes, pick) in steps {
                match kind {
                    0 => {
                        let from = base + 1 + pick % (plain.len() - base + 1);
                        sizes.truncate_from(Index(from as u64));
                        plain.truncate(from - 1);
                        cuts += 1;
                    }
                    1 => {
                        base += pick % (plain.len() - base + 1);
                        sizes.compact(Index(base as u64));
                    }
                    2 => {
                        let all: Vec<usize> = (0..pick).map(|number| bytes / (number + 1)).collect();
                        plain.extend(&all);
                        sizes.append_all(Index(plain.len() as u64), all.iter().sum(), all.into_iter());
                    }
                    _ => {
                        plain.push(bytes);
                        sizes.append(Index(plain.len() as u64), bytes);
                    }
                }
                let (last, low) = (Index(plain.len() as u64), Index(base as u64));
                let slack = cuts * 2 * i128::from(STEP_BYTES);
                for index in base..=plain.len() {
                    let right: usize = plain[index..].iter().sum();
                    let about = i128::from(sizes.after(Index(index as u64)));
                    prop_assert!((about - right as i128).abs() <= slack, "{index}: {about}, not {right}");
                }
                let floor = sizes.floor(low, last, budget);
                prop_assert!(floor >= low && floor <= last);
                prop_assert!(sizes.after(floor) <= budget || floor == last);
                prop_assert!(floor == low || sizes.after(floor.prev()) > budget);
                let ceiling = sizes.ceiling(low, last, budget);
                prop_assert!(ceiling >= low && ceiling <= last);
            }
        }
    }

    #[test]
    fn what_was_written_before_is_taken_to_be_like_what_came_since() {
        let mut sizes = Sizes::unknown(Index(1_000));
        assert_eq!(sizes.after(Index(0)), 0, "nothing is known of anything");
        for index in 1_001..=1_010 {
            sizes.append(Index(index), 100_000);
        }
        assert_eq!(sizes.after(Index(990)), 2_000_000);
        assert_eq!(sizes.floor(Index(0), Index(1_010), 1_500_000), Index(995));
        sizes.truncate_from(Index(996));
        assert_eq!((sizes.after(Index(0)), sizes.last), (0, Index(995)));
    }
}
