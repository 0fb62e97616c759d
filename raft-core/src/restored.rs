//! What a member finds on its disk when it starts, and the checks that it passes before it is believed.

use alloc::vec::Vec;

use crate::{Entry, HardState, Index, LogPosition, Membership, Payload, SnapshotMeta, Term};

/// What the durable log store reports at start. Only metadata: entries stay on disk until somebody needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredLog {
    /// The last hard state written.
    pub hard_state: HardState,
    /// The position up to which the log is compacted; [`LogPosition::ORIGIN`] if it never was.
    pub base: LogPosition,
    /// The configuration as of `base`; of a group that has just been founded, its first configuration.
    pub base_membership: Membership,
    /// The terms of the entries after `base`: each run's term and first index, rising in both.
    pub terms: Vec<TermRun>,
    /// The last entry's index; `base.index` if there is none after it.
    pub last: Index,
    /// The configurations in entries after `base`, in the order of their indexes.
    pub memberships: Vec<(Index, Membership)>,
}

impl RestoredLog {
    /// The report of a store that keeps its entries one by one and can look at them all. Stores of large logs keep the
    /// runs of terms instead. `entries` are those after `base`, in order.
    pub fn describe<'a>(
        hard_state: HardState,
        base: LogPosition,
        base_membership: Membership,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> RestoredLog {
        let mut log = RestoredLog {
            hard_state,
            base,
            base_membership,
            last: base.index,
            ..RestoredLog::default()
        };
        for entry in entries {
            if log.terms.last().is_none_or(|run| run.term != entry.term) {
                log.terms.push(TermRun { term: entry.term, first: entry.index });
            }
            if let Payload::Membership(membership) = &entry.payload {
                log.memberships.push((entry.index, Membership::clone(membership)));
            }
            log.last = entry.index;
        }
        log
    }
}

/// A run of entries of one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermRun {
    /// The term of the run.
    pub term: Term,
    /// The index of its first entry. It ends where the next run, or the log, does.
    pub first: Index,
}

/// Everything that a member finds at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The log store's report.
    pub log: RestoredLog,
    /// What the state machine's durable state includes; `None` if it starts empty.
    pub snapshot: Option<SnapshotMeta>,
}

impl Restored {
    /// A member of a group that is being founded: nothing on disk, and this first configuration. Every founding member
    /// must start with the same one.
    pub fn founding(membership: Membership) -> Restored {
        Restored {
            log: RestoredLog { base_membership: membership, ..RestoredLog::default() },
            snapshot: None,
        }
    }
}
