//! What the log looks like (without its payloads), and what a group of writes does to it as a whole: a later truncation
//! cancels earlier entries before anything reaches the file. Pure; knows neither redb nor bytes.

use std::sync::Arc;

use raft_core::{
    Entries, HardState, Index, LogPosition, Membership, Payload, Persist, RestoredLog,
    SnapshotMeta, Term, TermRun,
};

/// The net effect of a group of writes, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The hard state, if one was written.
    pub(crate) hard_state: Option<HardState>,
    /// Everything is forgotten and the log starts after this.
    pub(crate) reset: Option<SnapshotMeta>,
    /// What stood in the log from here on is forgotten. Never set together with `reset`, and never past the log's end.
    pub(crate) truncate_from: Option<Index>,
    /// What is appended then.
    pub(crate) entries: Entries,
}

/// A group of writes, as it stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// Rises by one with each.
    pub(crate) sequence: u64,
    /// What the log was compacted through since the one before, before this one's `plan`.
    pub(crate) compacted: Option<LogPosition>,
    /// What changes.
    pub(crate) plan: Plan,
}

/// Why a group of writes does not fit the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("entries from {first} on were to follow a log that ends at {last}")]
    Gap { first: Index, last: Index },
    #[error("the log was to be truncated from {from}, at or below its base {base}")]
    BelowBase { from: Index, base: Index },
    #[error("entry {at} has term {term}, lower than its predecessor's")]
    FallingTerm { at: Index, term: Term },
    #[error("the log was to be compacted through {through}, but its entry there has term {term}")]
    OtherTerm { through: LogPosition, term: Term },
    #[error("entry {at} has a payload of {bytes} bytes, more than a row holds")]
    TooLarge { at: Index, bytes: usize },
}

impl Plan {
    /// Merges `writes` into their net effect on `shape`.
    pub(crate) fn merge(shape: &RestoredLog, writes: &[Persist]) -> Result<Plan, Misfit> {
        let mut plan = Plan::default();
        for write in writes {
            plan.hard_state = write.hard_state.or(plan.hard_state);
            if let Some(snapshot) = &write.reset {
                plan = Plan {
                    hard_state: plan.hard_state,
                    reset: Some(snapshot.clone()),
                    ..Plan::default()
                };
            }
            if let Some(from) = write.truncate_from {
                plan.truncate(shape, from)?;
            }
            plan.append(shape, &write.entries)?;
        }
        Ok(plan)
    }

    /// The same as one write.
    pub(crate) fn to_persist(&self) -> Persist {
        Persist {
            ticket: raft_core::Ticket(0),
            hard_state: self.hard_state,
            reset: self.reset.clone(),
            truncate_from: self.truncate_from,
            entries: self.entries.clone(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hard_state.is_none()
            && self.reset.is_none()
            && self.truncate_from.is_none()
            && self.entries.is_empty()
    }

    fn base(&self, shape: &RestoredLog) -> LogPosition {
        self.reset.as_ref().map_or(shape.base, |snapshot| snapshot.position)
    }

    /// Where the log ends if only what is in the file counts, after `reset` and `truncate_from`.
    fn kept(&self, shape: &RestoredLog) -> LogPosition {
        match (&self.reset, self.truncate_from) {
            (Some(snapshot), _) => snapshot.position,
            (None, Some(from)) => position_at(shape, from.prev()),
            (None, None) => position_at(shape, shape.last),
        }
    }

    fn truncate(&mut self, shape: &RestoredLog, from: Index) -> Result<(), Misfit> {
        let base = self.base(shape).index;
        if from <= base {
            return Err(Misfit::BelowBase { from, base });
        }
        self.entries.truncate_from(from);
        if from <= self.kept(shape).index && self.reset.is_none() {
            self.truncate_from = Some(from);
        }
        Ok(())
    }

    fn append(&mut self, shape: &RestoredLog, entries: &Entries) -> Result<(), Misfit> {
        let Some(first) = entries.first() else { return Ok(()) };
        let end = self.entries.last().map_or_else(|| self.kept(shape), raft_core::Entry::position);
        if first.index != end.index.next() {
            return Err(Misfit::Gap { first: first.index, last: end.index });
        }
        if first.term < end.term {
            return Err(Misfit::FallingTerm { at: first.index, term: first.term });
        }
        if let Some(entry) = entries.iter().find(|entry| {
            matches!(&entry.payload, Payload::Command(command) if command.len() > crate::format::PAYLOAD_BYTES_MAX)
        }) {
            return Err(Misfit::TooLarge { at: entry.index, bytes: entry.size_bytes() });
        }
        self.entries.extend(entries.clone());
        Ok(())
    }

    /// The runs of terms and the configurations that the appended entries add.
    pub(crate) fn additions(&self, shape: &RestoredLog) -> Additions {
        let mut term = self.kept(shape).term;
        // Right after the base a run begins even if its term is the base's: the runs cover every entry.
        let mut begins = self.kept(shape).index == self.base(shape).index;
        let mut added = Additions::default();
        for entry in self.entries.iter() {
            if entry.term != term || begins {
                added.terms.push(TermRun { term: entry.term, first: entry.index });
                term = entry.term;
                begins = false;
            }
            if let Payload::Membership(membership) = &entry.payload {
                added.memberships.push((entry.index, (**membership).clone()));
            }
        }
        added
    }

    /// Changes `shape` as the plan says.
    pub(crate) fn apply(self, shape: &mut RestoredLog, added: Additions) {
        if let Some(hard_state) = self.hard_state {
            shape.hard_state = hard_state;
        }
        if let Some(snapshot) = self.reset {
            shape.base = snapshot.position;
            shape.base_membership = Arc::unwrap_or_clone(snapshot.membership);
            shape.last = snapshot.position.index;
            shape.terms.clear();
            shape.memberships.clear();
        }
        if let Some(from) = self.truncate_from {
            shape.last = from.prev();
            shape.terms.retain(|run| run.first < from);
            shape.memberships.retain(|(index, _)| *index < from);
        }
        if let Some(last) = self.entries.last() {
            shape.last = last.index;
        }
        shape.terms.extend(added.terms);
        shape.memberships.extend(added.memberships);
    }
}

/// What appended entries add to the shape.
#[derive(Debug, Default)]
pub(crate) struct Additions {
    pub(crate) terms: Vec<TermRun>,
    pub(crate) memberships: Vec<(Index, Membership)>,
}

/// The position at `index`, which is in the log or its base.
fn position_at(shape: &RestoredLog, index: Index) -> LogPosition {
    if index <= shape.base.index {
        return shape.base;
    }
    let runs = shape.terms.partition_point(|run| run.first <= index);
    let term = runs.checked_sub(1).map_or(shape.base.term, |run| shape.terms[run].term);
    LogPosition { index, term }
}

/// Moves the base of `shape` to `through`, as a compaction does. `false` if it is there already.
pub(crate) fn compact(shape: &mut RestoredLog, through: LogPosition) -> Result<bool, Misfit> {
    if through.index <= shape.base.index {
        return Ok(false);
    }
    let there = position_at(shape, through.index);
    if through.index <= shape.last && there.term != through.term {
        return Err(Misfit::OtherTerm { through, term: there.term });
    }
    let gone = shape.memberships.partition_point(|(index, _)| *index <= through.index);
    if let Some((_, membership)) = shape.memberships.drain(..gone).next_back() {
        shape.base_membership = membership;
    }
    shape.base = through;
    shape.last = shape.last.max(through.index);
    clip_terms(shape);
    Ok(true)
}

/// Drops runs of terms that end at or below the base, and lets the first one begin right after it.
pub(crate) fn clip_terms(shape: &mut RestoredLog) {
    let start = shape.base.index.next();
    let covering = shape.terms.partition_point(|run| run.first <= start);
    shape.terms.drain(..covering.saturating_sub(1));
    if shape.last <= shape.base.index {
        shape.terms.clear();
    } else if let Some(run) = shape.terms.first_mut() {
        run.first = run.first.max(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{Entry, Ticket};

    fn run(first: u64, count: u64, term: u64) -> Entries {
        let entries = (first..first + count)
            .map(|i| Entry { term: Term(term), index: Index(i), payload: Payload::Empty })
            .collect();
        Entries::try_from_vec(entries).expect("a run")
    }

    fn write(truncate_from: Option<u64>, entries: Entries) -> Persist {
        Persist {
            ticket: Ticket(1),
            hard_state: None,
            reset: None,
            truncate_from: truncate_from.map(Index),
            entries,
        }
    }

    #[test]
    fn a_later_truncation_cancels_earlier_entries() {
        let shape = RestoredLog::default();
        let writes = [write(None, run(1, 9, 1)), write(Some(4), run(4, 2, 2))];
        let plan = Plan::merge(&shape, &writes).expect("fits");
        assert_eq!(plan.truncate_from, None);
        assert_eq!(plan.entries.len(), 5);
        let added = plan.additions(&shape).terms;
        assert_eq!(
            added,
            [
                TermRun { term: Term(1), first: Index(1) },
                TermRun { term: Term(2), first: Index(4) }
            ]
        );
    }

    #[test]
    fn a_gap_a_falling_term_and_a_cut_below_the_base_are_refused() {
        let mut shape = RestoredLog::default();
        let plan = Plan::merge(&shape, &[write(None, run(1, 5, 2))]).expect("fits");
        let added = plan.additions(&shape);
        plan.apply(&mut shape, added);
        assert_eq!(compact(&mut shape, LogPosition { index: Index(2), term: Term(2) }), Ok(true));
        let refused = |write| Plan::merge(&shape, &[write]).expect_err("refused");
        assert!(matches!(refused(write(None, run(7, 1, 2))), Misfit::Gap { .. }));
        assert!(matches!(refused(write(None, run(6, 1, 1))), Misfit::FallingTerm { .. }));
        assert!(matches!(refused(write(Some(2), Entries::new())), Misfit::BelowBase { .. }));
        let other = LogPosition { index: Index(3), term: Term(1) };
        assert!(matches!(compact(&mut shape.clone(), other), Err(Misfit::OtherTerm { .. })));
    }
}
