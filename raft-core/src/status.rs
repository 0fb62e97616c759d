//! A view of a core from outside, for operators and tests.

use alloc::vec::Vec;

use crate::role::Role;
use crate::{
    Index, Instant, Membership, NodeId, Raft, RoleKind, StorageHealth, StoreStamp, StoreStanding,
    Term,
};

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
    /// The index of the entry that holds it.
    pub membership_at: Index,
    /// How its durable store does.
    pub storage: StorageHealth,
    /// The store that it runs on; `None` if stores are not told apart.
    pub store: Option<StoreStamp>,
    /// What the group makes of that store, as far as this member's log tells.
    pub standing: StoreStanding,
    /// Until when it may answer reads without asking; `None` if it has no lease.
    pub lease_until: Option<Instant>,
    /// To whom it is handing leadership.
    pub transfer_to: Option<NodeId>,
    /// Of a leader: every other member's progress, in the order of ids. Empty at others.
    pub peers: Vec<PeerStatus>,
}

/// What a core holds that grows with its load, once it is polled to the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of recent entries ([`Entry::size_bytes`](crate::Entry::size_bytes)): at most
    /// [`Config::tail_bytes_max`](crate::Config::tail_bytes_max), and what is not reported as durable yet.
    pub tail_bytes: usize,
    /// Messages that wait for a write to be durable: none while no write is under way.
    pub withheld_messages: usize,
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
    /// What is under way to it; `None` unless entries are streamed.
    pub in_flight: Option<InFlightStatus>,
    /// When it was last heard from.
    pub last_contact: Instant,
    /// Whether it keeps up well enough to be promoted, if it is a learner.
    pub is_caught_up: bool,
    /// Whether what it says counts: `false` if its store is not the one that it was admitted with.
    pub counts: bool,
}

/// Appends under way to a peer, and how many may be: no more than the configuration allows, and no more than the
/// measured round trip shows to be of use. A peer that lags with all of it in use waits for the network or for its own
/// disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlightStatus {
    /// Messages that are not answered.
    pub messages: usize,
    /// How many there may be.
    pub messages_max: usize,
    /// Bytes of their entries.
    pub bytes: usize,
    /// The next message leaves only while there are fewer.
    pub bytes_max: usize,
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

impl Raft {
    /// What it holds in memory. Cheap: a driver may ask after every poll.
    pub fn memory(&self) -> Memory {
        Memory { tail_bytes: self.log.tail_bytes(), withheld_messages: self.outbox.len() }
    }

    /// A view of this member.
    pub fn status(&self) -> Status {
        let (now, patience) = (self.now, self.config.election_timeout);
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        };
        let peers = leader.into_iter().flat_map(|leader| leader.peers.iter());
        Status {
            id: self.config.id,
            role: self.role_kind(),
            term: self.term,
            vote: self.vote,
            leader: self.leader(),
            base: self.log.base().index,
            last: self.log.last(),
            durable: self.log.durable(),
            commit: self.commit,
            applied: self.applied,
            membership: self.log.membership().clone(),
            membership_at: self.log.membership_at(),
            storage: self.health,
            store: self.config.store,
            standing: self.store_standing(),
            lease_until: self.lease_until(),
            transfer_to: leader.and_then(|leader| leader.transfer).map(|transfer| transfer.to),
            peers: peers
                .map(|(id, peer)| PeerStatus {
                    id,
                    matched: peer.matched,
                    replication: peer.kind(),
                    in_flight: peer.in_flight_status(&self.config),
                    last_contact: peer.last_contact,
                    is_caught_up: peer.is_caught_up(now, patience),
                    counts: self.stores.counts(self.log.membership(), id),
                })
                .collect(),
        }
    }
}
