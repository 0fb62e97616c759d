//! The archived structures. Their layout is the wire format: changing one means a new version (see `docs/wire-format.md`).
//! All integers are little-endian and unaligned, relative pointers 32 bits wide: fixed by the rkyv features of the workspace.
#![allow(missing_docs)] // rkyv's derives name the archived fields after these.

use raft_core::{Index, LogPosition, Membership, NodeId, StoreId, Term};
use rkyv::{Archive, Serialize};

use super::{MEMBERS_MAX, WireError};

#[derive(Archive, Serialize)]
pub(super) struct Head {
    pub(super) term: u64,
    pub(super) body: Body,
}

#[derive(Archive, Serialize, Clone, Copy)]
pub(super) struct Position {
    pub(super) index: u64,
    pub(super) term: u64,
}

#[derive(Archive, Serialize)]
pub(super) enum Body {
    PreVote { last: Position },
    PreVoteResponse { granted: bool },
    Vote { last: Position, transfer: bool },
    VoteResponse { granted: bool },
    Append { prev: Position, commit: u64 },
    AppendAccepted { matched: u64 },
    AppendRejected { prev: u64, hint: Position },
    Heartbeat { commit: u64, read_context: u64 },
    HeartbeatResponse { read_context: u64 },
    TimeoutNow,
    ReadIndex { context: u64 },
    ReadIndexAnswered { context: u64, index: u64 },
    ReadIndexRefused { context: u64 },
    Forward { nonce: u64, sequence: u64, lengths: Vec<u32> },
    ForwardAppended { nonce: u64, sequence: u64, first: u64, count: u64 },
    ForwardRefused { nonce: u64, sequence: u64, refusal: Refusal },
    SnapshotOffer { position: Position, members: Members },
    SnapshotWanted { position: Position },
    SnapshotMatched { position: Position, matched: u64 },
    SnapshotFailed { position: Position },
    StreamData { position: Position, offset: u64, checksum: u64 },
    StreamEnd { position: Position, size_bytes: u64, digest: [u8; 32] },
    StreamAck { position: Position, offset: u64 },
    StreamAbort { position: Position },
    AppendWitnessed { matched: u64 },
}

/// Why a leader refuses a forwarded batch.
#[derive(Archive, Serialize)]
pub(super) enum Refusal {
    NotLeader { leader: Option<u64> },
    QuotaExceeded { uncommitted_bytes: u64, max_bytes: u64 },
    EmptyBatch,
    BatchTooLarge { bytes: u64, max_bytes: u64 },
    TransferInProgress { to: u64 },
}

/// A configuration. Each list rises strictly.
#[derive(Archive, Serialize)]
pub(super) struct Members {
    pub(super) voters: Vec<u64>,
    pub(super) outgoing: Vec<u64>,
    pub(super) learners: Vec<u64>,
    pub(super) witnesses: Vec<u64>,
    pub(super) stores: Vec<Store>,
}

/// A member, and the store that it was admitted with.
#[derive(Archive, Serialize)]
pub(super) struct Store {
    pub(super) node: u64,
    pub(super) store: u64,
}

/// Describes the payloads that follow it.
#[derive(Archive, Serialize)]
pub(super) struct Table {
    /// The index of the first entry.
    pub(super) first: u64,
    /// Terms and how many entries in a row have each.
    pub(super) runs: Vec<Run>,
    /// How many entries in a row are of one kind.
    pub(super) kinds: Vec<KindRun>,
    /// The length of each entry's payload.
    pub(super) lengths: Vec<u32>,
}

#[derive(Archive, Serialize)]
pub(super) struct Run {
    pub(super) term: u64,
    pub(super) count: u32,
}

#[derive(Archive, Serialize)]
pub(super) struct KindRun {
    pub(super) kind: Kind,
    pub(super) count: u32,
}

#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Empty,
    Command,
    Membership,
    Withheld,
}

impl From<LogPosition> for Position {
    fn from(position: LogPosition) -> Position {
        Position { index: position.index.0, term: position.term.0 }
    }
}

impl From<&ArchivedPosition> for LogPosition {
    fn from(position: &ArchivedPosition) -> LogPosition {
        LogPosition {
            index: Index(position.index.to_native()),
            term: Term(position.term.to_native()),
        }
    }
}

impl From<&Membership> for Members {
    fn from(membership: &Membership) -> Members {
        let ids = |set: &std::collections::BTreeSet<NodeId>| set.iter().map(|id| id.0).collect();
        Members {
            voters: ids(&membership.voters),
            outgoing: ids(&membership.outgoing),
            learners: ids(&membership.learners),
            witnesses: ids(&membership.witnesses),
            stores: membership
                .stores
                .iter()
                .map(|(node, store)| Store { node: node.0, store: store.0 })
                .collect(),
        }
    }
}

impl TryFrom<&ArchivedMembers> for Membership {
    type Error = WireError;

    fn try_from(members: &ArchivedMembers) -> Result<Membership, WireError> {
        let lists = [&members.voters, &members.outgoing, &members.learners, &members.witnesses];
        let count = lists.iter().map(|list| list.len()).sum::<usize>() + 2 * members.stores.len();
        if count > MEMBERS_MAX {
            return Err(WireError::TooMany { what: "members", count, max: MEMBERS_MAX });
        }
        let set = |ids: &[rkyv::rend::unaligned::u64_ule]| {
            if ids.windows(2).any(|pair| pair[0].to_native() >= pair[1].to_native()) {
                return Err(WireError::Membership);
            }
            Ok(ids.iter().map(|id| NodeId(id.to_native())).collect())
        };
        let nodes: Vec<u64> = members.stores.iter().map(|store| store.node.to_native()).collect();
        if nodes.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(WireError::Membership);
        }
        let ids = members.stores.iter().map(|store| StoreId(store.store.to_native()));
        Ok(Membership {
            voters: set(&members.voters)?,
            outgoing: set(&members.outgoing)?,
            learners: set(&members.learners)?,
            witnesses: set(&members.witnesses)?,
            stores: nodes.into_iter().map(NodeId).zip(ids).collect(),
        })
    }
}

impl From<&raft_core::Refusal> for Refusal {
    /// What a leader says of a forwarded batch. Other refusals are about other requests; they would say no more than that it is not taken here.
    fn from(refusal: &raft_core::Refusal) -> Refusal {
        use raft_core::Refusal as R;
        match *refusal {
            R::NotLeader { leader } => Refusal::NotLeader { leader: leader.map(|node| node.0) },
            R::QuotaExceeded { uncommitted_bytes, max_bytes } => Refusal::QuotaExceeded {
                uncommitted_bytes: uncommitted_bytes as u64,
                max_bytes: max_bytes as u64,
            },
            R::EmptyBatch => Refusal::EmptyBatch,
            R::BatchTooLarge { bytes, max_bytes } => {
                Refusal::BatchTooLarge { bytes: bytes as u64, max_bytes: max_bytes as u64 }
            }
            R::TransferInProgress { to } => Refusal::TransferInProgress { to: to.0 },
            _ => Refusal::NotLeader { leader: None },
        }
    }
}

impl From<&ArchivedRefusal> for raft_core::Refusal {
    fn from(refusal: &ArchivedRefusal) -> raft_core::Refusal {
        use ArchivedRefusal as A;
        let size = |bytes: &rkyv::rend::unaligned::u64_ule| {
            usize::try_from(bytes.to_native()).unwrap_or(usize::MAX)
        };
        match refusal {
            A::NotLeader { leader } => raft_core::Refusal::NotLeader {
                leader: leader.as_ref().map(|node| NodeId(node.to_native())),
            },
            A::QuotaExceeded { uncommitted_bytes, max_bytes } => {
                raft_core::Refusal::QuotaExceeded {
                    uncommitted_bytes: size(uncommitted_bytes),
                    max_bytes: size(max_bytes),
                }
            }
            A::EmptyBatch => raft_core::Refusal::EmptyBatch,
            A::BatchTooLarge { bytes, max_bytes } => {
                raft_core::Refusal::BatchTooLarge { bytes: size(bytes), max_bytes: size(max_bytes) }
            }
            A::TransferInProgress { to } => {
                raft_core::Refusal::TransferInProgress { to: NodeId(to.to_native()) }
            }
        }
    }
}
