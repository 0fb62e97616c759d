//! What the world tells the core: one fact at a time.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::{
    Entries, Index, LogPosition, MembershipChange, Message, NodeId, ProposalId, ReadId, RequestId,
    SnapshotMeta, StoreStamp, Ticket,
};

/// One fact from the world, for [`Raft::handle`](crate::Raft::handle).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The time that [`Raft::poll_timeout`](crate::Raft::poll_timeout) asked for has come. Harmless at any other time.
    Timeout,
    /// A peer's message. `from` is who the transport has *proved* the sender to be.
    Message {
        /// The authenticated sender.
        from: NodeId,
        /// The store that it runs on, as it said when it connected; `None` if stores are not told apart in this group.
        store: Option<StoreStamp>,
        /// What it says; not believed before it is checked.
        message: Message,
    },
    /// Commands to append as one batch: all get consecutive indexes in one term, or all are refused.
    Propose {
        /// The caller's name for the batch.
        id: ProposalId,
        /// The commands, in order. An empty batch is refused.
        commands: Vec<Bytes>,
    },
    /// A linearizable read: answered with the index to wait for (dissertation §6.4).
    Read {
        /// The caller's name for the read.
        id: ReadId,
        /// Where it may be answered.
        at: ReadAt,
    },
    /// Change who belongs to the group (dissertation §4). Leader only; answered when the last configuration that this
    /// leads to is committed.
    ChangeMembership {
        /// The caller's name for the request.
        id: RequestId,
        /// What to change.
        change: MembershipChange,
    },
    /// Hand leadership over (dissertation §3.10). Leader only; answered when the other one leads, or when it failed.
    TransferLeadership {
        /// The caller's name for the request.
        id: RequestId,
        /// To whom; `None` leaves the choice to the leader.
        to: Option<NodeId>,
    },
    /// How the durable store does. The core believes it healthy until told otherwise.
    StorageHealth(StorageHealth),
    /// The clock that [`Raft::handle`](crate::Raft::handle) is given may have stood still for a while (a suspended
    /// machine, say): no lease that was won before can be trusted.
    ClockSuspect,
    /// The write with this ticket, and so every write handed out before it that it overlaps, is durable.
    /// Completions may arrive in any order.
    Persisted(Ticket),
    /// The answer to an [`Action::Fetch`](crate::Action::Fetch).
    Fetched {
        /// The peer for which the entries were fetched.
        peer: NodeId,
        /// The entries from the requested index on; at least one.
        entries: Entries,
    },
    /// An [`Action::Fetch`](crate::Action::Fetch) could not be served (for instance, because the log was compacted meanwhile).
    FetchFailed {
        /// The peer for which the entries were to be fetched.
        peer: NodeId,
    },
    /// The state machine has applied everything up to this index.
    Applied(Index),
    /// The state machine has a durable snapshot: the log up to there may be compacted, and it can be offered to peers.
    /// It must be at or below what was applied.
    SnapshotTaken(SnapshotMeta),
    /// A snapshot that an [`Action::ReceiveSnapshot`](crate::Action::ReceiveSnapshot) asked for has arrived whole and verified.
    SnapshotReceived(SnapshotMeta),
    /// The machine has durably replaced its state by the snapshot of an
    /// [`Action::InstallSnapshot`](crate::Action::InstallSnapshot).
    SnapshotInstalled(SnapshotMeta),
    /// A snapshot that an [`Action::ReceiveSnapshot`](crate::Action::ReceiveSnapshot) asked for could not be received.
    SnapshotFailed(SnapshotMeta),
    /// The snapshot of an [`Action::InstallSnapshot`](crate::Action::InstallSnapshot) could not be installed. Nothing
    /// was changed. (Not the same as
    /// [`Input::SnapshotFailed`]: another copy may be on its way, and fail, while the first is being installed.)
    SnapshotInstallFailed(SnapshotMeta),
    /// An [`Action::StreamSnapshot`](crate::Action::StreamSnapshot) is over, with success or without: what came of it
    /// is reported by the receiver. If that report is lost, or there is none, the snapshot is offered again.
    SnapshotStreamEnded {
        /// The peer to which it was streamed.
        to: NodeId,
        /// The snapshot that was streamed, by its position: another may be on its way already.
        position: LogPosition,
    },
    /// The transport lost its connection to this peer: what was in flight may be lost.
    Unreachable(NodeId),
}

/// Where a read may be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadAt {
    /// By the leader only: others refuse, and name it.
    #[default]
    Leader,
    /// By any member that has a state machine: it asks the leader for the index.
    AnyMember,
}

/// How a durable store does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StorageHealth {
    /// Writes become durable in the time that they usually take.
    #[default]
    Healthy,
    /// A write has waited for much longer than is usual. A leader gives up its lease, and its leadership if another can take it.
    Stalled,
}
