//! The archived structures. Their layout is the wire format: changing one means a new version (see `docs/wire-format.md`).
//! All integers are little-endian and unaligned, relative pointers 32 bits wide: fixed by the rkyv features of the workspace.
#![allow(missing_docs)] // rkyv's derives name the archived fields after these.

use raft_core::{Index, LogPosition, Membership, NodeId, Term};
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
    Vote { last: Position },
    VoteResponse { granted: bool },
    Append { prev: Position, commit: u64 },
    AppendAccepted { matched: u64 },
    AppendRejected { prev: u64, hint: Position },
    Heartbeat { commit: u64, read_context: u64 },
    HeartbeatResponse { read_context: u64 },
    SnapshotOffer { position: Position, members: Members },
    SnapshotWanted { position: Position },
    SnapshotMatched { position: Position, matched: u64 },
    SnapshotFailed { position: Position },
    StreamData { position: Position, offset: u64, checksum: u64 },
    StreamEnd { position: Position, size_bytes: u64, digest: [u8; 32] },
    StreamAck { position: Position, offset: u64 },
    StreamAbort { position: Position },
}

/// A configuration. Each list rises strictly.
#[derive(Archive, Serialize)]
pub(super) struct Members {
    pub(super) voters: Vec<u64>,
    pub(super) outgoing: Vec<u64>,
    pub(super) learners: Vec<u64>,
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
        }
    }
}

impl TryFrom<&ArchivedMembers> for Membership {
    type Error = WireError;

    fn try_from(members: &ArchivedMembers) -> Result<Membership, WireError> {
        let count = members.voters.len() + members.outgoing.len() + members.learners.len();
        if count > MEMBERS_MAX {
            return Err(WireError::TooMany { what: "members", count, max: MEMBERS_MAX });
        }
        let set = |ids: &[rkyv::rend::unaligned::u64_ule]| {
            if ids.windows(2).any(|pair| pair[0].to_native() >= pair[1].to_native()) {
                return Err(WireError::Membership);
            }
            Ok(ids.iter().map(|id| NodeId(id.to_native())).collect())
        };
        Ok(Membership {
            voters: set(&members.voters)?,
            outgoing: set(&members.outgoing)?,
            learners: set(&members.learners)?,
        })
    }
}
