//! A view of a core from outside, for operators and tests.

use alloc::vec::Vec;

use crate::{Index, Membership, NodeId, RoleKind, Term};

/// A core at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who it is.
    pub id: NodeId,
    /// What it does.
    pub role: RoleKind,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// The last index that its log is compacted through.
    pub base: Index,
    /// The last index in its log.
    pub last: Index,
    /// The last index of its log that is durable here.
    pub durable: Index,
    /// The last index known to be committed.
    pub commit: Index,
    /// The last index that the state machine has applied.
    pub applied: Index,
    /// The configuration in effect: the latest in the log (dissertation §4.1).
    pub membership: Membership,
    /// Of a leader: every other member's progress, in the order of ids. Empty at others.
    pub peers: Vec<PeerStatus>,
}

/// How far a peer is, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// The last index known to be durable there.
    pub matched: Index,
    /// How it is being served.
    pub replication: ReplicationKind,
}

/// How a leader serves a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationKind {
    /// Looking for where the logs agree, one message at a time.
    Probe,
    /// Streaming entries.
    Replicate,
    /// Waiting for it to install a snapshot.
    Snapshot,
}
