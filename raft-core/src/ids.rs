//! The newtypes that everything else is written in: who, when in the log, which term, which write.

use core::fmt;

/// Identifies one member of a group. Chosen by the operator, never reused for another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A leader's period of office, numbered upwards (paper §5.1). Term 0 is the time before the first
/// election: no leader ever has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// A position in the log. The first entry has index 1; index 0 is the position before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// Names one [`Persist`](crate::Persist) action. Tickets of one core rise strictly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The caller's own name for a batch of proposals; comes back in every [`Resolution`](crate::Resolution) of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// The caller's own name for a read; comes back in its [`Resolution`](crate::Resolution).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// The caller's own name for an administrative request (a membership change, a transfer); comes back in its
/// [`Resolution`](crate::Resolution).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Identifies one durable store: drawn at random when a store is made, and kept for as long as it exists. A member whose disk
/// was wiped comes back with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

/// Which store a member runs on, and for how many starts it has. Within one store `life` rises with every start,
/// durably, before the member says anything, and each start draws a `nonce` at random; so a lower life than was seen
/// before, or the same life with another nonce, betrays a store that was put back from a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreStamp {
    /// The store.
    pub id: StoreId,
    /// How many times a member was started on it.
    pub life: u64,
    /// Drawn at random by the driver at each start, and not kept.
    pub nonce: u64,
}

/// An entry's coordinates. By the log matching property (paper §5.3) they name it, and all before it,
/// uniquely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogPosition {
    /// The entry's index.
    pub index: Index,
    /// The term of the leader that created it.
    pub term: Term,
}

impl LogPosition {
    /// The position before the first entry.
    pub const ORIGIN: LogPosition = LogPosition { index: Index(0), term: Term(0) };

    /// Whether a log that ends here is at least as up-to-date as one that ends at `other` (paper §5.4.1).
    pub fn is_up_to_date_with(self, other: LogPosition) -> bool {
        if mutated!(UpToDateByLengthAlone) {
            return self.index >= other.index;
        }
        (self.term, self.index) >= (other.term, other.index)
    }
}

impl Term {
    /// The last term. No group ever reaches it by elections; what claims a later one is damaged, or lies.
    pub const MAX: Term = Term(u64::MAX >> 1);

    /// The term after this one; `None` past [`Term::MAX`].
    pub fn next(self) -> Option<Term> {
        self.0.checked_add(1).map(Term).filter(|term| *term <= Term::MAX)
    }
}

impl Index {
    /// The last index that a peer is believed to have reached. No log ever does; beyond, arithmetic might overflow somewhere.
    pub const MAX: Index = Index(u64::MAX >> 1);

    /// The index after this one. Saturates, so that no arithmetic on outside input can wrap.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0.saturating_add(1))
    }

    /// The index before this one; index 0 stays where it is.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }

    /// This index moved up by `count`, saturating.
    #[must_use]
    pub fn plus(self, count: u64) -> Index {
        Index(self.0.saturating_add(count))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for StoreStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (life {})", self.id, self.life)
    }
}
