//! Log entries, and runs of them that are shared between the disk, every peer and the state machine
//! without being copied.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use bytes::Bytes;

use crate::{Index, LogPosition, Membership, Term};

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// Its place in the log.
    pub index: Index,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, which lets it commit its predecessors' (dissertation §6.4, paper §8).
    Empty,
    /// A command for the state machine. The core never looks inside.
    Command(Bytes),
    /// A new configuration, effective as soon as it is appended (dissertation §4.1).
    /// Shared, so that an entry is no larger for it.
    Membership(Arc<Membership>),
    /// A command whose content was left out, since its receiver is a witness (see [`Membership::witnesses`]).
    Withheld,
}

impl Entry {
    /// The entry's coordinates.
    pub fn position(&self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }

    /// What the entry counts towards byte budgets: its payload and a fixed overhead.
    pub fn size_bytes(&self) -> usize {
        self.payload.size_bytes()
    }

    /// What an entry costs in memory beyond its payload, about; counted so that empty commands are not free.
    pub const OVERHEAD_BYTES: usize = 64;
}

impl Payload {
    /// What an entry that holds this counts: see [`Entry::size_bytes`].
    pub(crate) fn size_bytes(&self) -> usize {
        Entry::OVERHEAD_BYTES
            + match self {
                Payload::Empty | Payload::Withheld => 0,
                Payload::Command(command) => command.len(),
                Payload::Membership(membership) => 8 * membership.len(),
            }
    }
}

/// A run of entries with consecutive indexes, cheap to clone and to cut: the entries themselves are shared.
#[derive(Clone, Default)]
pub struct Entries {
    parts: Parts,
    /// What is asked of a run at each of its stations, and would be too long to count each time.
    sums: Sums,
}

/// What a run holds as a whole, in one word, since runs are moved a lot: the sum of [`Entry::size_bytes`], and in the
/// lowest bits the [`Kinds`] of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums(u64);

impl Sums {
    const ZERO: Sums = Sums(0);

    fn new(bytes: usize, kinds: Kinds) -> Sums {
        // No memory holds so many bytes that the shift loses one.
        Sums((bytes as u64) << Kinds::BITS | kinds.0)
    }

    fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Sums {
        entries.fold(Sums::ZERO, |sums, entry| {
            sums.and(Sums::new(entry.size_bytes(), Kinds::of(&entry.payload)))
        })
    }

    fn and(self, other: Sums) -> Sums {
        let kinds = Kinds(self.kinds().0 | other.kinds().0);
        Sums::new(self.bytes() + other.bytes(), kinds)
    }

    fn bytes(self) -> usize {
        usize::try_from(self.0 >> Kinds::BITS).unwrap_or(usize::MAX)
    }

    fn kinds(self) -> Kinds {
        Kinds(self.0 & Kinds::ALL)
    }
}

/// A set of kinds of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u64);

impl Kinds {
    const BITS: u32 = 4;
    const ALL: u64 = (1 << Kinds::BITS) - 1;
    const EMPTY: Kinds = Kinds(1);
    pub(crate) const COMMAND: Kinds = Kinds(2);
    pub(crate) const MEMBERSHIP: Kinds = Kinds(4);
    pub(crate) const WITHHELD: Kinds = Kinds(8);

    fn of(payload: &Payload) -> Kinds {
        match payload {
            Payload::Empty => Kinds::EMPTY,
            Payload::Command(_) => Kinds::COMMAND,
            Payload::Membership(_) => Kinds::MEMBERSHIP,
            Payload::Withheld => Kinds::WITHHELD,
        }
    }

    pub(crate) fn may_include(self, kind: Kinds) -> bool {
        self.0 & kind.0 != 0
    }
}

/// Nearly every run is one piece, which needs no vector: cloning it allocates nothing.
#[derive(Clone, Default)]
enum Parts {
    #[default]
    None,
    One(Part),
    /// At least one.
    Many(Vec<Part>),
}

/// A piece of one shared batch. Never empty.
#[derive(Clone)]
struct Part {
    batch: Arc<[Entry]>,
    start: usize,
    end: usize,
}

impl Part {
    #[inline]
    fn as_slice(&self) -> &[Entry] {
        &self.batch[self.start..self.end]
    }

    #[inline]
    fn first(&self) -> &Entry {
        &self.batch[self.start]
    }

    #[inline]
    fn last(&self) -> &Entry {
        &self.batch[self.end - 1]
    }

    /// The first and the last index.
    #[inline]
    fn ends(&self) -> (Index, Index) {
        let first = self.first().index;
        // The last index may be the last that there is.
        (first, Index(first.0 + (self.end - self.start - 1) as u64))
    }

    /// How many of its entries are before `index`.
    fn count_before(&self, index: Index) -> usize {
        let distance = index.0.saturating_sub(self.first().index.0);
        let count = usize::try_from(distance).unwrap_or(usize::MAX);
        count.min(self.end - self.start)
    }

    fn keep_from(&mut self, index: Index) -> bool {
        self.start += self.count_before(index);
        self.start < self.end
    }

    fn keep_before(&mut self, index: Index) -> bool {
        self.end = self.start + self.count_before(index);
        self.start < self.end
    }
}

impl Parts {
    fn as_slice(&self) -> &[Part] {
        match self {
            Parts::None => &[],
            Parts::One(part) => core::slice::from_ref(part),
            Parts::Many(parts) => parts,
        }
    }

    fn push(&mut self, part: Part) {
        *self = match core::mem::take(self) {
            Parts::None => Parts::One(part),
            Parts::One(first) => Parts::Many(alloc::vec![first, part]),
            Parts::Many(mut parts) => {
                parts.push(part);
                Parts::Many(parts)
            }
        };
    }

    /// Cuts each part, and drops those of which nothing is left.
    fn retain_mut(&mut self, mut cut: impl FnMut(&mut Part) -> bool) {
        let is_some_left = match self {
            Parts::None => false,
            Parts::One(part) => cut(part),
            Parts::Many(parts) => {
                parts.retain_mut(cut);
                !parts.is_empty()
            }
        };
        if !is_some_left {
            *self = Parts::None;
        }
    }
}

/// Why a vector of entries is not a run of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARun {
    /// An index does not follow the one before it.
    #[error("entry {found} follows entry {after}: indexes of a log run are consecutive")]
    Gap {
        /// The index of the entry before.
        after: Index,
        /// The index that stands where `after + 1` should.
        found: Index,
    },
    /// A term is lower than the one before it.
    #[error(
        "entry {at} has term {term}, lower than its predecessor's: terms never fall along a log"
    )]
    FallingTerm {
        /// The offending entry.
        at: Index,
        /// Its term.
        term: Term,
    },
    /// Index 0 or term 0, which no entry has.
    #[error("an entry has index 0 or term 0, which no entry of a log has")]
    Zero,
}

impl Entries {
    /// No entries.
    pub const fn new() -> Entries {
        Entries { parts: Parts::None, sums: Sums::ZERO }
    }

    /// Checks that `entries` is a run (consecutive indexes from 1 on, terms that never fall) and shares it.
    ///
    /// # Errors
    /// [`NotARun`] names the first entry that does not fit.
    pub fn try_from_vec(entries: Vec<Entry>) -> Result<Entries, NotARun> {
        if let Some(first) = entries.first()
            && (first.index.0 == 0 || first.term.0 == 0)
        {
            return Err(NotARun::Zero);
        }
        for pair in entries.windows(2) {
            if pair[0].index.0.checked_add(1) != Some(pair[1].index.0) {
                return Err(NotARun::Gap { after: pair[0].index, found: pair[1].index });
            }
            if pair[1].term < pair[0].term {
                return Err(NotARun::FallingTerm { at: pair[1].index, term: pair[1].term });
            }
        }
        Ok(Self::from_run(entries))
    }

    /// Shares entries that are known to be a run.
    pub(crate) fn from_run(entries: impl IntoIterator<Item = Entry>) -> Entries {
        let batch: Arc<[Entry]> = entries.into_iter().collect();
        let sums = Sums::of(batch.iter());
        Self::whole(batch, sums)
    }

    /// Shares commands of one term from `first` on, which are known to count `bytes` together ([`Entry::size_bytes`]).
    pub(crate) fn of_commands(
        term: Term,
        first: Index,
        commands: Vec<Bytes>,
        bytes: usize,
    ) -> Entries {
        let batch: Arc<[Entry]> = commands
            .into_iter()
            .zip(first.0..)
            .map(|(command, index)| Entry {
                term,
                index: Index(index),
                payload: Payload::Command(command),
            })
            .collect();
        let sums = Sums::new(bytes, Kinds::COMMAND);
        debug_assert_eq!(sums, Sums::of(batch.iter()), "what the commands count is known");
        Self::whole(batch, sums)
    }

    fn whole(batch: Arc<[Entry]>, sums: Sums) -> Entries {
        let end = batch.len();
        let parts = if end == 0 { Parts::None } else { Parts::One(Part { batch, start: 0, end }) };
        Entries { parts, sums }
    }

    /// The kinds of payload that are in the run.
    pub(crate) fn kinds(&self) -> Kinds {
        self.sums.kinds()
    }

    fn parts(&self) -> &[Part] {
        self.parts.as_slice()
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        // Indexes are consecutive.
        self.ends().map_or(0, |(first, last)| (last.0 - first.0) as usize + 1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        matches!(self.parts, Parts::None)
    }

    /// The first entry.
    #[inline]
    pub fn first(&self) -> Option<&Entry> {
        match &self.parts {
            Parts::None => None,
            Parts::One(part) => Some(part.first()),
            Parts::Many(parts) => parts.first().map(Part::first),
        }
    }

    /// The last entry.
    #[inline]
    pub fn last(&self) -> Option<&Entry> {
        match &self.parts {
            Parts::None => None,
            Parts::One(part) => Some(part.last()),
            Parts::Many(parts) => parts.last().map(Part::last),
        }
    }

    /// The first and the last index.
    #[inline]
    pub(crate) fn ends(&self) -> Option<(Index, Index)> {
        match &self.parts {
            Parts::None => None,
            Parts::One(part) => Some(part.ends()),
            Parts::Many(parts) => Some((parts.first()?.ends().0, parts.last()?.ends().1)),
        }
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slices().flatten()
    }

    /// The shared slices that make up the run, in order; none is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[Entry]> {
        self.parts().iter().map(Part::as_slice)
    }

    /// The sum of [`Entry::size_bytes`].
    pub fn size_bytes(&self) -> usize {
        self.sums.bytes()
    }

    /// The entry at `index`, if it is in the run.
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let part = self.parts().iter().rev().find(|part| part.first().index <= index)?;
        part.as_slice().get(part.count_before(index))
    }

    /// Appends a run that continues this one.
    ///
    /// # Panics
    /// If `other` does not start right after the last entry: a mistake of the caller, never of a peer.
    pub fn extend(&mut self, other: Entries) {
        if let (Some(last), Some(first)) = (self.last(), other.first()) {
            assert_eq!(
                last.index.0.checked_add(1),
                Some(first.index.0),
                "a run of entries must be continued by its successor"
            );
        }
        self.sums = self.sums.and(other.sums);
        match other.parts {
            Parts::None => {}
            Parts::One(part) => self.parts.push(part),
            Parts::Many(parts) => parts.into_iter().for_each(|part| self.parts.push(part)),
        }
    }

    /// Keeps only entries at `index` and after.
    pub fn drop_before(&mut self, index: Index) {
        if self.first().is_some_and(|first| first.index < index) {
            self.parts.retain_mut(|part| part.keep_from(index));
            self.sums = Sums::of(self.iter());
        }
    }

    /// Keeps only entries before `index`.
    pub fn truncate_from(&mut self, index: Index) {
        if self.last().is_some_and(|last| last.index >= index) {
            self.parts.retain_mut(|part| part.keep_before(index));
            self.sums = Sums::of(self.iter());
        }
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Entries {
    /// Equal if the entries are, however they are shared.
    fn eq(&self, other: &Entries) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Entries {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn run(first: u64, count: u64, term: u64) -> Vec<Entry> {
        (first..first + count)
            .map(|i| Entry { term: Term(term), index: Index(i), payload: Payload::Empty })
            .collect()
    }

    #[test]
    fn a_run_is_checked_before_it_is_believed() {
        let mut gap = run(1, 3, 1);
        gap[2].index = Index(5);
        assert_eq!(
            Entries::try_from_vec(gap),
            Err(NotARun::Gap { after: Index(2), found: Index(5) })
        );
        let mut falling = run(1, 3, 2);
        falling[1].term = Term(1);
        assert_eq!(
            Entries::try_from_vec(falling),
            Err(NotARun::FallingTerm { at: Index(2), term: Term(1) })
        );
        assert_eq!(Entries::try_from_vec(run(0, 1, 1)), Err(NotARun::Zero));
        assert_eq!(Entries::try_from_vec(run(1, 1, 0)), Err(NotARun::Zero));
        let mut wrapping = run(1, 2, 1);
        wrapping[0].index = Index(u64::MAX);
        wrapping[1].index = Index(0);
        assert!(Entries::try_from_vec(wrapping).is_err());
        assert_eq!(Entries::try_from_vec(vec![]), Ok(Entries::new()));
    }

    #[test]
    fn cutting_at_any_index_equals_cutting_a_plain_vector() {
        for cut in 0..14 {
            let mut entries = Entries::from_run(run(3, 4, 1));
            entries.extend(Entries::from_run(run(7, 3, 2)));
            let plain: Vec<Entry> = entries.iter().cloned().collect();

            let mut front = entries.clone();
            front.truncate_from(Index(cut));
            assert!(front.iter().eq(plain.iter().filter(|e| e.index < Index(cut))));

            let mut back = entries.clone();
            back.drop_before(Index(cut));
            assert!(back.iter().eq(plain.iter().filter(|e| e.index >= Index(cut))));

            assert_eq!(entries.get(Index(cut)), plain.iter().find(|e| e.index == Index(cut)));
        }
    }
}
