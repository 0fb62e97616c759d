//! What the core tells the world to do, in the order in which it comes out of [`Raft::poll_action`](crate::Raft::poll_action).

use crate::{
    Entries, Index, LogPosition, Message, NodeId, ProposalId, ReadId, Refusal, RequestId,
    SnapshotMeta, StoreId, Term, Ticket,
};

/// One thing to do. A driver may start actions at once and in parallel, except that `Persist`s take effect in
/// order, and that everything that concerns the state machine (`Apply`, `InstallSnapshot`) does too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make durable, then answer [`Input::Persisted`](crate::Input::Persisted) with the ticket.
    Persist(Persist),
    /// Send to a peer, now: whatever the message depends on is already durable. May be lost, duplicated, reordered.
    Send {
        /// The receiver.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Read entries that are no longer in memory from the durable log; answer with [`Input::Fetched`](crate::Input::Fetched) or
    /// [`Input::FetchFailed`](crate::Input::FetchFailed). At most one fetch per peer is under way.
    Fetch {
        /// For whom; goes back in the answer.
        peer: NodeId,
        /// The first index wanted.
        first: Index,
        /// The last index wanted.
        last: Index,
        /// Stop once this many bytes ([`Entry::size_bytes`](crate::Entry::size_bytes)) are read, but read at least one entry.
        budget_bytes: usize,
    },
    /// Apply these committed entries to the state machine, in order, then answer [`Input::Applied`](crate::Input::Applied).
    Apply(Apply),
    /// The durable log may forget everything up to and including this position. Never urgent.
    Compact {
        /// The last position to forget; the log's new base.
        through: LogPosition,
    },
    /// Leader: stream the snapshot to a peer that wants it. If the state machine meanwhile has a newer one, tell the core
    /// ([`Input::SnapshotTaken`](crate::Input::SnapshotTaken)) and end the stream: the newer will be offered. Answer
    /// [`Input::SnapshotStreamEnded`](crate::Input::SnapshotStreamEnded) when it is over.
    StreamSnapshot {
        /// The receiver.
        to: NodeId,
        /// The leader's term, to tell this stream from one of an older leader.
        term: Term,
        /// What to stream.
        snapshot: SnapshotMeta,
    },
    /// Follower: expect this snapshot's data from this peer; answer
    /// [`Input::SnapshotReceived`](crate::Input::SnapshotReceived) or
    /// [`Input::SnapshotFailed`](crate::Input::SnapshotFailed). Repeated for the same snapshot when the leader offers
    /// it again: keep what has arrived.
    ReceiveSnapshot {
        /// The leader that streams it.
        from: NodeId,
        /// The leader's term.
        term: Term,
        /// What will arrive.
        snapshot: SnapshotMeta,
    },
    /// Follower: replace the state machine's state by the received snapshot, durably; then answer
    /// [`Input::SnapshotInstalled`](crate::Input::SnapshotInstalled) or
    /// [`Input::SnapshotInstallFailed`](crate::Input::SnapshotInstallFailed). No `Apply` comes out until the answer is in.
    InstallSnapshot(SnapshotMeta),
    /// The answer to a proposal or a read.
    Resolve(Resolution),
    /// Something that an observer may want to know. It tells of a decision, whose write may still be on its way.
    Event(Event),
}

/// A write, atomic as a whole: reset, then truncate, then append, together with the hard state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Goes back in [`Input::Persisted`](crate::Input::Persisted).
    pub ticket: Ticket,
    /// Term, vote and commit index to store; `None` if unchanged.
    pub hard_state: Option<HardState>,
    /// The whole log is replaced by this snapshot: forget every entry, and start after its position.
    pub reset: Option<SnapshotMeta>,
    /// Forget all entries at this index and after.
    pub truncate_from: Option<Index>,
    /// Append these; they start right after what is left.
    pub entries: Entries,
}

/// What a member must remember across restarts besides the log (paper figure 2, "persistent state").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term that it has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// A commit index that it knew of. Only an optimization (a restart applies up to here without waiting for a leader), so
    /// it never causes a write of its own.
    pub commit: Index,
}

/// Committed entries to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apply {
    /// The first index to apply.
    pub first: Index,
    /// The last index to apply.
    pub last: Index,
    /// Those of them that are still in memory: always a (possibly empty) *end* of `first..=last`. What is missing before it
    /// is to be read from the durable log.
    pub entries: Entries,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The batch is in the leader's log (here, or at the leader to which it was forwarded). It is committed when the
    /// entry applied at `first` has this `term`; so it will be, unless [`Resolution::Abandoned`] comes first.
    Appended {
        /// The batch.
        id: ProposalId,
        /// The index of its first command; the others follow.
        first: Index,
        /// How many commands.
        count: u64,
        /// The term in which it was appended.
        term: Term,
    },
    /// The batch was not appended and never will be. It is safe to propose it elsewhere.
    Refused {
        /// The batch.
        id: ProposalId,
        /// Why.
        reason: Refusal,
    },
    /// This node is no longer the leader that appended the batch: it may or may not be committed. Propose again only if
    /// commands are idempotent (or deduplicated by a session).
    Abandoned {
        /// The batch.
        id: ProposalId,
    },
    /// Once the state machine has applied `index`, it may answer the read: the answer is linearizable.
    ReadReady {
        /// The read.
        id: ReadId,
        /// What must be applied first.
        index: Index,
    },
    /// The read can not be served here.
    ReadRefused {
        /// The read.
        id: ReadId,
        /// Why.
        reason: Refusal,
    },
    /// An administrative request is done: the membership change is committed to its end, or the other member leads.
    RequestDone {
        /// The request.
        id: RequestId,
    },
    /// An administrative request was refused, or failed. What it asked for will not happen by this request.
    RequestRefused {
        /// The request.
        id: RequestId,
        /// Why.
        reason: Refusal,
    },
    /// This node lost leadership before the request was settled: look at the membership, or at who leads, to learn what
    /// came of it.
    RequestAbandoned {
        /// The request.
        id: RequestId,
    },
}

/// Something worth an observer's notice. Nothing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The role has changed: by an election, or by a configuration, now in effect, that gives this node another one.
    RoleChanged {
        /// The role now.
        role: RoleKind,
        /// The term now.
        term: Term,
    },
    /// The known leader has changed.
    LeaderChanged {
        /// The leader now, if one is known.
        leader: Option<NodeId>,
        /// The term now.
        term: Term,
    },
    /// Another configuration is in effect: see [`Raft::membership`](crate::Raft::membership). It may yet be rolled back.
    MembershipChanged {
        /// The index of its entry, or the log's base.
        at: Index,
    },
    /// A member runs on a store that the group does not know under its id: it was wiped, or put back from a copy. It does
    /// not count until it has become a learner and was promoted again.
    ///
    /// With its own id a member is told so of itself, once for each time that the configuration in effect there comes to
    /// record another store for it, or makes a learner of it because another was recorded. Whether a *recorded* store was
    /// put back from a copy only the others know.
    StoreRejected {
        /// The member; perhaps this one itself.
        node: NodeId,
        /// The store that it runs on.
        store: StoreId,
    },
}

/// A role without what belongs to it, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleKind {
    /// Follows, or waits for, a leader.
    Follower,
    /// A learner: follows, and never campaigns.
    Learner,
    /// A witness: votes, keeps the log's terms but not its commands, and never campaigns.
    Witness,
    /// Not a member, as far as it knows: it waits to be added, or was removed.
    Outsider,
    /// Asks whether a campaign would succeed.
    PreCandidate,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

impl core::fmt::Display for RoleKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(match self {
            RoleKind::Follower => "follower",
            RoleKind::Learner => "learner",
            RoleKind::Witness => "witness",
            RoleKind::Outsider => "outsider",
            RoleKind::PreCandidate => "pre-candidate",
            RoleKind::Candidate => "candidate",
            RoleKind::Leader => "leader",
        })
    }
}
