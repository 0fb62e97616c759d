//! What peers say to each other.

use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::{Entries, Index, LogPosition, Membership, Refusal, Term};

/// A message between two members. Every message carries its sender's term (paper §5.1), except that a pre-vote carries
/// the term that its sender *would* campaign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term; of a [`Body::PreVote`], the term that it would campaign in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// The content of a [`Message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// "Would you vote for me?" (dissertation §9.6). Binds nobody.
    PreVote {
        /// Where the sender's log ends.
        last: LogPosition,
    },
    /// The answer to a pre-vote: `term` is the asked-for term when granted, the answerer's own when not.
    PreVoteResponse {
        /// Whether the answerer would vote for the asker.
        granted: bool,
    },
    /// "Vote for me in this term" (paper §5.2).
    Vote {
        /// Where the candidate's log ends.
        last: LogPosition,
        /// Whether the leader itself asked for this election (dissertation §3.10): then nobody needs to be protected from it.
        transfer: bool,
    },
    /// The answer to a vote request.
    VoteResponse {
        /// Whether the vote was given. It is durable at the voter before this leaves.
        granted: bool,
    },
    /// Entries to append, or a probe for where the logs agree if there are none (paper §5.3).
    Append {
        /// The position right before the first entry.
        prev: LogPosition,
        /// The entries; each follows the one before it.
        entries: Entries,
        /// The leader's commit index.
        commit: Index,
    },
    /// The answer to an append.
    AppendResponse(AppendOutcome),
    /// "I am still here", sent on time even when appends are queued behind each other.
    Heartbeat {
        /// The highest index that the receiver may consider committed: the leader's commit index, at most what the
        /// receiver has acknowledged.
        commit: Index,
        /// Names the latest batch of reads that waits for this heartbeat's answer (dissertation §6.4).
        /// Rises strictly within a term, so that an old answer can never confirm a newer read.
        read_context: u64,
    },
    /// The answer to a heartbeat, with its `read_context`.
    HeartbeatResponse {
        /// The heartbeat's context.
        read_context: u64,
    },
    /// "Campaign now": the leader hands over (dissertation §3.10).
    TimeoutNow,
    /// "From which index on may I answer reads?": a read at a member that does not lead (dissertation §6.4).
    ReadIndex {
        /// The asker's name for the question; unique among all its questions, those of earlier starts too.
        context: u64,
    },
    /// The answer to [`Body::ReadIndex`]: the leader has proved that it leads, after the question came.
    ReadIndexResponse {
        /// The question.
        context: u64,
        /// The index; `None` if the question was refused.
        index: Option<Index>,
    },
    /// "Append these": proposals at a member that does not lead.
    Forward {
        /// The batch.
        id: ForwardId,
        /// The commands, in order.
        commands: Vec<Bytes>,
    },
    /// The answer to [`Body::Forward`].
    ForwardResponse {
        /// The batch.
        id: ForwardId,
        /// What came of it.
        outcome: ForwardOutcome,
    },
    /// "You need this snapshot; do you want it?" (paper §7). The data itself is streamed by the driver.
    SnapshotOffer {
        /// What is offered.
        snapshot: SnapshotMeta,
    },
    /// The answer to an offer.
    SnapshotResponse {
        /// The offered snapshot's last position.
        position: LogPosition,
        /// What the receiver makes of it.
        outcome: SnapshotOutcome,
    },
}

/// A batch of proposals that a member passes on to the leader. The name is unique among all batches that reach one
/// leader in one term: a leader takes each at most once, whatever the network repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId {
    /// Drawn at random by each start of the sender.
    pub nonce: u64,
    /// Rises with each batch of that start, from 1 on.
    pub sequence: u64,
}

/// What a leader makes of a forwarded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardOutcome {
    /// It is in the leader's log, in the term of the message.
    Appended {
        /// The index of its first command.
        first: Index,
        /// How many commands.
        count: u64,
    },
    /// It was not appended and never will be.
    Refused(Refusal),
}

/// What came of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The follower's log equals the leader's up to here, durably.
    Accepted {
        /// The last index that matches.
        matched: Index,
    },
    /// The same, from a witness: of commands it has only the positions. Also its answer to a snapshot, of which it needs no more.
    Witnessed {
        /// The last index that matches.
        matched: Index,
    },
    /// The entry before the appended ones is not in the follower's log.
    Rejected {
        /// The `prev` index of the rejected append; tells an answer from an older one.
        prev: Index,
        /// The highest position of the follower's log that may still agree with the leader's: at most `prev`, and of
        /// a term at most `prev`'s (the accelerated back-off of paper §5.3, one round trip per diverging term).
        hint: LogPosition,
    },
}

/// What came of a snapshot offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// "Send it": the leader's driver may stream the data.
    Wanted,
    /// It is installed and durable, or was not needed; the follower's log equals the leader's up to this index.
    Matched(Index),
    /// It could not be received or installed now; the leader may offer again later.
    Failed,
}

/// What a snapshot stands for: everything up to and including `position`, and the configuration as of there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot includes.
    pub position: LogPosition,
    /// The configuration as of that entry. It is always a committed one.
    pub membership: Arc<Membership>,
}

/// Which traffic a message belongs to. A transport keeps the classes apart, so that elections and heartbeats never wait
/// behind appends, nor appends behind snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficClass {
    /// Elections, heartbeats, and every answer without data: small and urgent.
    Control,
    /// Log entries, and their answers; forwarded proposals.
    Append,
    /// Snapshot data.
    Bulk,
}

impl Message {
    /// The traffic class of this message; the core itself never sends [`TrafficClass::Bulk`].
    pub fn class(&self) -> TrafficClass {
        match self.body {
            Body::Append { .. } | Body::AppendResponse(_) | Body::Forward { .. } => {
                TrafficClass::Append
            }
            _ => TrafficClass::Control,
        }
    }
}
