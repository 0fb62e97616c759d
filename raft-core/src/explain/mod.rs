//! Why: answers in types, for an operator who asks why nobody leads here, why an index is not committed, or why
//! something was refused.
//!
//! Each answer is computed from the same state that the rules look at, and changes nothing. It is not a log, nor a
//! history: it says what holds now. How it is found is in `find`, its words are in `words`.

mod find;
mod words;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::{Index, Instant, NodeId, RoleKind, StoreId, Term};

/// Why a member leads, or why it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeadershipReason {
    /// It leads.
    Leads {
        /// Since when: the first index of its own term.
        since: Index,
        /// The voters, itself included, that were heard within an election timeout: while they are a quorum it goes on.
        heard: Vec<NodeId>,
        /// The other voters, with what is known of them.
        missing: Vec<Missing>,
        /// To whom it hands over.
        transfer_to: Option<NodeId>,
        /// Set while its own disk does not answer: then it makes way, if another can lead.
        stalled: Option<StalledLeader>,
    },
    /// It follows a leader.
    Follows {
        /// The leader.
        leader: NodeId,
        /// When it gives that leader up, if nothing more is heard.
        until: Instant,
        /// Why it may not campaign then; `None` if it may.
        obstacle: Option<CampaignObstacle>,
        /// To whom it owes its vote meanwhile.
        promise: Option<VotePromise>,
    },
    /// It knows of no leader, and waits before it campaigns.
    Waits {
        /// Until when.
        until: Instant,
        /// How much of that wait is due to its low [priority](crate::Config::priority); zero at the highest.
        priority_delay: Duration,
        /// To whom it owes its vote meanwhile.
        promise: Option<VotePromise>,
    },
    /// It knows of no leader, and may not campaign itself.
    MayNotCampaign {
        /// Why not.
        because: CampaignObstacle,
        /// To whom it owes its vote meanwhile.
        promise: Option<VotePromise>,
    },
    /// It asks whether it could be elected, and has not raised its term (dissertation §9.6).
    AsksForPreVotes {
        /// How the voters answered. They refuse who lacks entries that they have, and while they keep a
        /// [promise](VotePromise) to another.
        tally: Tally,
        /// When it tries anew.
        until: Instant,
    },
    /// It campaigns (paper §5.2).
    Campaigns {
        /// How the voters answered. They refuse who lacks entries that they have, and who comes after another candidate
        /// of the term. Who keeps a [promise](VotePromise) to another, and is in an earlier term, does not answer at
        /// all: its term is not to be raised.
        tally: Tally,
        /// When it tries anew.
        until: Instant,
    },
}

/// How the voters of the configuration in effect answered a member that asks for their votes, or whether it would get
/// them: each is in one of the lists, in the order of ids. In a joint configuration each half has to agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Who said yes, the member itself included.
    pub granted: Vec<NodeId>,
    /// Who said yes, and does not count.
    pub uncounted: Vec<Uncounted>,
    /// Who said no.
    pub refused: Vec<NodeId>,
    /// Who has not answered.
    pub silent: Vec<NodeId>,
    /// Which half lacks whose votes, while the configuration is joint.
    pub lacks: Option<Lacks>,
}

/// What the two halves of a joint configuration lack: both have to agree (dissertation §4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacks {
    /// The voters of the incoming half that do not agree; empty if its majority does.
    pub incoming: Vec<NodeId>,
    /// The voters of the outgoing half that do not agree; empty if its majority does.
    pub outgoing: Vec<NodeId>,
}

/// What a leader does whose disk does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StalledLeader {
    /// It hands over, or does so at its next heartbeat.
    MakesWay,
    /// Nobody can take over.
    Stays {
        /// The other voters, and why each can not.
        others: Vec<NoTarget>,
    },
}

/// A voter to which leadership can not be handed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTarget {
    /// The voter.
    pub node: NodeId,
    /// Why it can not take over.
    pub because: TransferObstacle,
}

/// Why a member can not take over leadership now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferObstacle {
    /// The configuration does not list it as a voter.
    NotAVoter,
    /// A witness has no commands to serve.
    Witness,
    /// It runs on a store that does not count.
    StoreDoesNotCount,
    /// Its store is not recorded yet, so that it does not count yet.
    StoreNotRecorded,
    /// It was not heard from for at least an election timeout.
    Silent {
        /// For how long.
        silent_for: Duration,
    },
    /// The leader is looking for where their logs agree.
    Probing,
    /// It needs a snapshot first.
    NeedsSnapshot,
    /// It lacks more entries than a member may to which leadership is handed.
    TooFarBehind {
        /// How many it lacks.
        behind: u64,
        /// How many it may lack ([`Config::transfer_lag_max`](crate::Config::transfer_lag_max)).
        max: u64,
    },
}

/// A voter whose vote was given, and does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncounted {
    /// The voter.
    pub node: NodeId,
    /// Why it does not count.
    pub because: UncountedReason,
}

/// Why a vote that was given does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UncountedReason {
    /// It is the candidate's own, and its disk is still writing it.
    NotDurable,
    /// The voter runs on a store that does not count.
    StoreDoesNotCount,
    /// The voter's store is not recorded yet, so that it does not count yet.
    StoreNotRecorded,
}

/// To whom a member owes it to vote for nobody else, and until when (dissertation §4.2.3): a leader may answer reads
/// under a lease for as long (§6.4.1). Until then it votes for nobody else, and would not, unless that leader hands
/// over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VotePromise {
    /// To a leader that it heard from.
    ToLeader {
        /// The leader.
        leader: NodeId,
        /// When it heard from it, and an election timeout more.
        until: Instant,
    },
    /// It may have owed it to a leader when it went down, and does not know any more. Only where leases are used.
    BeforeRestart {
        /// When it started, and an election timeout more.
        until: Instant,
    },
}

/// Why a member may not become a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CampaignObstacle {
    /// The configuration in effect does not list it as a voter.
    NotAVoter {
        /// What it is.
        role: RoleKind,
    },
    /// It was made a learner, since it runs on another store than the one that it was admitted with.
    DemotedForItsStore {
        /// The one that it runs on.
        own: StoreId,
        /// The one that it was admitted with.
        admitted: StoreId,
    },
    /// A witness has no commands to serve.
    Witness,
    /// Its state is being replaced by a snapshot.
    InstallingSnapshot,
    /// It runs on another store than the one that it was admitted with, so it may have forgotten votes and acknowledgements.
    StoreNotAdmitted {
        /// The one that it runs on.
        own: StoreId,
        /// The one that is recorded, if any.
        admitted: Option<StoreId>,
    },
    /// Its disk does not answer.
    StorageStalled,
    /// There is no higher term.
    NoTermLeft,
}

/// Why an index is committed, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitReason {
    /// It is committed, as far as this member knows.
    Committed {
        /// Why its own state machine has not applied it; `None` if it has.
        unapplied: Option<UnappliedReason>,
    },
    /// A quorum has it: it is committed as soon as [`Raft::poll_action`](crate::Raft::poll_action) is called.
    QuorumHasIt,
    /// No entry has this index here.
    NotInTheLog {
        /// The last index.
        last: Index,
    },
    /// Only the leader counts who has it.
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
        /// Up to where this member knows the log to be committed.
        commit: Index,
    },
    /// A quorum has it, but it is of an earlier term: it is committed along with the leader's first own entry (paper §5.4.2).
    EarlierTerm {
        /// Its term.
        term: Term,
        /// The leader's first own entry.
        waits_for: Index,
    },
    /// Too few voters have it durably. In a joint configuration, too few of at least one half.
    WaitsForVoters {
        /// Those that have it.
        have: Vec<NodeId>,
        /// Those that do not, and why.
        missing: Vec<Missing>,
        /// Which half lacks whom, while the configuration is joint.
        lacks: Option<Lacks>,
    },
    /// A quorum has it, but in too few zones.
    WaitsForZones {
        /// The zones in which it is, at voters that stay.
        have: Vec<u64>,
        /// In how many it must be.
        zones_min: usize,
        /// The voters without it, and why.
        missing: Vec<Missing>,
    },
}

/// Why what is committed is not applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnappliedReason {
    /// Only what is durable here is applied here.
    OwnDisk {
        /// Up to where it is.
        durable: Index,
    },
    /// The state machine is being replaced by a snapshot.
    InstallingSnapshot,
    /// The state machine is not that far.
    MachineBehind {
        /// Up to where it has applied the log.
        applied: Index,
    },
}

/// A voter that does not count yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The voter.
    pub node: NodeId,
    /// The last index known to be durable there.
    pub matched: Index,
    /// What keeps it.
    pub because: MissingReason,
}

/// What keeps a voter from counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissingReason {
    /// It is the leader itself, whose own disk is not that far.
    OwnDisk,
    /// It runs on a store that does not count.
    StoreDoesNotCount,
    /// Its store is not recorded yet, so that it does not count yet.
    StoreNotRecorded,
    /// It was not heard from for at least an election timeout.
    Silent {
        /// For how long.
        silent_for: Duration,
    },
    /// The leader is looking for where their logs agree.
    Probing,
    /// It needs a snapshot first.
    NeedsSnapshot,
    /// What it needs is being read from the leader's own disk.
    Fetching,
    /// It is a witness, which gets entries once enough full voters have them.
    AwaitsFullVoters,
    /// Entries are on their way to it.
    Streaming,
    /// It has the whole log: what is awaited is not an entry.
    UpToDate,
}

/// Why something was refused: what stands behind the refusal's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalReason {
    /// It depends on who leads.
    Leadership(Box<LeadershipReason>),
    /// It waits for this index to be committed.
    Commit {
        /// The index.
        index: Index,
        /// Why it is not yet.
        because: Box<CommitReason>,
    },
    /// It depends on one member.
    Member(Missing),
    /// Nobody can take over.
    NobodyCanTakeOver {
        /// The other voters, and why each can not.
        others: Vec<NoTarget>,
    },
    /// It waits for the leader, to which this member passed proposals on.
    Forwarded {
        /// The leader.
        leader: NodeId,
        /// The bytes that it has not answered.
        unanswered_bytes: usize,
        /// When the first of them are given up; `None` if all are answered.
        until: Option<Instant>,
        /// The bytes that are in the leader's log, and are not committed yet as far as this member knows.
        uncommitted_bytes: usize,
    },
    /// The request itself is at fault: the refusal says all.
    Request,
    /// What was in the way is there no more.
    Gone,
}
