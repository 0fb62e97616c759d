//! Why: answers in types, for an operator who asks why nobody leads here, why an index is not committed, or why something was refused.
//!
//! Each answer is computed from the same state that the rules look at, and changes nothing. It is not a log, nor a history: it says what
//! holds now.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::progress::{Peer, Progress};
use crate::quorum::zones_reached;
use crate::role::{Leader, Role};
use crate::snapshots::Incoming;
use crate::{Index, Instant, NodeId, Raft, Refusal, RoleKind, StorageHealth, StoreId, Term};

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
    },
    /// It follows a leader.
    Follows {
        /// The leader.
        leader: NodeId,
        /// When it gives that leader up, if nothing more is heard; `None` if it may not campaign itself.
        until: Option<Instant>,
    },
    /// It knows of no leader, and waits before it campaigns.
    Waits {
        /// Until when.
        until: Instant,
    },
    /// It knows of no leader, and may not campaign itself.
    MayNotCampaign(CampaignObstacle),
    /// It asks whether it could be elected, and has not raised its term (dissertation §9.6).
    AsksForPreVotes {
        /// Who would vote for it, itself included.
        granted: Vec<NodeId>,
        /// The voters that refused or have not answered. They refuse who lacks entries that they have, and while they hear a leader.
        missing: Vec<NodeId>,
        /// When it tries anew.
        until: Instant,
    },
    /// It campaigns (paper §5.2).
    Campaigns {
        /// Who voted for it, itself only once its own vote is durable.
        granted: Vec<NodeId>,
        /// The voters that refused or have not answered.
        missing: Vec<NodeId>,
        /// When it tries anew.
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
        /// Whether its own state machine has applied it.
        is_applied: bool,
    },
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
        /// Whether two configurations have to agree.
        is_joint: bool,
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
        since: Duration,
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
    /// The request itself is at fault, or what was in the way is gone: the refusal says all.
    Request,
}

impl Raft {
    /// Why this member leads, or why it does not.
    pub fn explain_leadership(&self) -> LeadershipReason {
        match &self.role {
            Role::Leader(leader) => {
                let heard = self.voters().filter(|&node| self.is_heard(leader, node)).collect();
                let missing = self.voters().filter(|&node| !self.is_heard(leader, node));
                LeadershipReason::Leads {
                    since: leader.term_start,
                    heard,
                    missing: missing.map(|node| self.missing(leader, node)).collect(),
                    transfer_to: leader.transfer.map(|transfer| transfer.to),
                }
            }
            Role::Follower(follower) => {
                let obstacle = self.campaign_obstacle();
                match (follower.leader, obstacle) {
                    (Some(leader), obstacle) => {
                        let until = obstacle.is_none().then_some(follower.election_deadline);
                        LeadershipReason::Follows { leader, until }
                    }
                    (None, Some(obstacle)) => LeadershipReason::MayNotCampaign(obstacle),
                    (None, None) => LeadershipReason::Waits { until: follower.election_deadline },
                }
            }
            Role::PreCandidate(candidate) => {
                let (granted, missing) = self.divide(&candidate.granted);
                let until = candidate.election_deadline;
                LeadershipReason::AsksForPreVotes { granted, missing, until }
            }
            Role::Candidate(candidate) => {
                let (granted, missing) = self.divide(&candidate.granted);
                let until = candidate.election_deadline;
                LeadershipReason::Campaigns { granted, missing, until }
            }
        }
    }

    /// Why `index` is committed, or is not.
    pub fn explain_commit(&self, index: Index) -> CommitReason {
        if index <= self.commit {
            return CommitReason::Committed { is_applied: index <= self.applied };
        }
        let Role::Leader(leader) = &self.role else {
            return CommitReason::NotLeader { leader: self.leader(), commit: self.commit };
        };
        if index > self.log.last() {
            return CommitReason::NotInTheLog { last: self.log.last() };
        }
        let membership = self.log.membership();
        let has = |node: NodeId| self.counted(leader, node) >= index;
        let have: Vec<NodeId> = self.voters().filter(|&node| has(node)).collect();
        let missing = self.voters().filter(|&node| !has(node));
        let missing: Vec<Missing> = missing.map(|node| self.missing(leader, node)).collect();
        if !membership.has_quorum(has) {
            let is_joint = membership.is_joint();
            return CommitReason::WaitsForVoters { have, missing, is_joint };
        }
        if let Some(groups) = &self.config.commit_groups
            && zones_reached(membership, groups, |node| self.counted(leader, node))
                .is_some_and(|reached| reached < index)
        {
            let speaks =
                |node: &&NodeId| membership.voters.contains(node) && !membership.is_witness(**node);
            let zones: BTreeSet<u64> = have
                .iter()
                .filter(speaks)
                .filter_map(|node| groups.zones.get(node))
                .copied()
                .collect();
            let have = zones.into_iter().collect();
            return CommitReason::WaitsForZones { have, zones_min: groups.zones_min, missing };
        }
        match self.log.term_at(index) {
            Some(term) if term < self.term => {
                CommitReason::EarlierTerm { term, waits_for: leader.term_start }
            }
            // A quorum has it; the next drain says so.
            _ => CommitReason::Committed { is_applied: false },
        }
    }

    /// What stands behind a refusal, as far as it still holds.
    pub fn explain_refusal(&self, refusal: &Refusal) -> RefusalReason {
        match refusal {
            Refusal::NotLeader { .. }
            | Refusal::LeaderSilent { .. }
            | Refusal::WitnessHasNoState { .. }
            | Refusal::NoTransferTarget => {
                RefusalReason::Leadership(Box::new(self.explain_leadership()))
            }
            Refusal::QuotaExceeded { .. } => self.waits_for(self.commit.next()),
            Refusal::TooManyReads { .. } | Refusal::NotSettled => match &self.role {
                Role::Leader(leader) if self.commit < leader.term_start => {
                    self.waits_for(leader.term_start)
                }
                _ => RefusalReason::Leadership(Box::new(self.explain_leadership())),
            },
            Refusal::ChangePending { at } => self.waits_for(*at),
            Refusal::TransferInProgress { to: node }
            | Refusal::TransferTimedOut { to: node }
            | Refusal::NotCaughtUp { node, .. } => match &self.role {
                Role::Leader(leader) if leader.peers.contains(*node) => {
                    RefusalReason::Member(self.missing(leader, *node))
                }
                _ => RefusalReason::Leadership(Box::new(self.explain_leadership())),
            },
            Refusal::EmptyBatch
            | Refusal::BatchTooLarge { .. }
            | Refusal::CannotLead { .. }
            | Refusal::NoChange
            | Refusal::AlreadyMember { .. }
            | Refusal::StoreLacksCommands { .. }
            | Refusal::NotALearner { .. }
            | Refusal::NotAVoter { .. }
            | Refusal::NotAMember { .. }
            | Refusal::NobodyCouldLead => RefusalReason::Request,
        }
    }

    fn waits_for(&self, index: Index) -> RefusalReason {
        RefusalReason::Commit { index, because: Box::new(self.explain_commit(index)) }
    }

    fn voters(&self) -> impl Iterator<Item = NodeId> {
        let membership = self.log.membership();
        membership.members().filter(|&node| membership.is_voter(node))
    }

    fn divide(&self, granted: &BTreeSet<NodeId>) -> (Vec<NodeId>, Vec<NodeId>) {
        self.voters().partition(|node| granted.contains(node))
    }

    /// The same as the rule of `check_quorum`.
    fn is_heard(&self, leader: &Leader, node: NodeId) -> bool {
        node == self.config.id
            || (self.stores.counts(self.log.membership(), node)
                && leader.peers.get(node).is_some_and(|peer| !self.is_silent(peer)))
    }

    fn is_silent(&self, peer: &Peer) -> bool {
        self.now.since(peer.last_contact) >= self.config.election_timeout
    }

    /// The same as the rule of `advance_commit`.
    fn counted(&self, leader: &Leader, node: NodeId) -> Index {
        if node == self.config.id {
            self.log.durable()
        } else if self.stores.counts(self.log.membership(), node) {
            leader.peers.get(node).map_or(Index(0), |peer| peer.matched)
        } else {
            Index(0)
        }
    }

    fn missing(&self, leader: &Leader, node: NodeId) -> Missing {
        let Some(peer) = leader.peers.get(node) else {
            return Missing { node, matched: self.log.durable(), because: MissingReason::OwnDisk };
        };
        let membership = self.log.membership();
        let because = if self.stores.is_strange(membership, node) {
            MissingReason::StoreDoesNotCount
        } else if self.is_silent(peer) {
            MissingReason::Silent { since: self.now.since(peer.last_contact) }
        } else if !self.stores.counts(membership, node) {
            MissingReason::StoreNotRecorded
        } else {
            match peer.progress {
                Progress::Snapshot { .. } => MissingReason::NeedsSnapshot,
                _ if peer.fetching.is_some() => MissingReason::Fetching,
                Progress::Probe { .. } => MissingReason::Probing,
                Progress::Replicate { .. } if peer.matched == self.log.last() => {
                    MissingReason::UpToDate
                }
                Progress::Replicate { next, .. }
                    if peer.is_witness && next > self.last_for_witnesses(leader) =>
                {
                    MissingReason::AwaitsFullVoters
                }
                Progress::Replicate { .. } => MissingReason::Streaming,
            }
        };
        Missing { node, matched: peer.matched, because }
    }

    /// The same as the rules of `can_campaign` and `on_election_timeout`, one at a time.
    fn campaign_obstacle(&self) -> Option<CampaignObstacle> {
        let (id, membership) = (self.config.id, self.log.membership());
        if !membership.is_voter(id) {
            Some(CampaignObstacle::NotAVoter { role: self.role_kind() })
        } else if membership.is_witness(id) || self.config.is_witness {
            Some(CampaignObstacle::Witness)
        } else if self.incoming.as_ref().is_some_and(Incoming::is_installing) {
            Some(CampaignObstacle::InstallingSnapshot)
        } else if let Some(stamp) = self.config.store
            && !self.may_campaign()
        {
            let admitted = membership.stores.get(&id).copied();
            Some(CampaignObstacle::StoreNotAdmitted { own: stamp.id, admitted })
        } else if self.health == StorageHealth::Stalled {
            Some(CampaignObstacle::StorageStalled)
        } else if !self.can_campaign() {
            Some(CampaignObstacle::NoTermLeft)
        } else {
            None
        }
    }
}

/// Numbers with commas between them.
struct List<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, item) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { node, matched, because } = self;
        write!(f, "node {node} (has {matched}: {because})")
    }
}

impl fmt::Display for MissingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MissingReason::OwnDisk => f.write_str("this node's own disk is still writing"),
            MissingReason::StoreDoesNotCount => {
                f.write_str("it runs on a store that it was not admitted with")
            }
            MissingReason::StoreNotRecorded => {
                f.write_str("its store is not recorded yet: it has not been heard from, or a change is under way")
            }
            MissingReason::Silent { since } => write!(f, "not heard from for {since:?}"),
            MissingReason::Probing => f.write_str("the leader looks for where their logs agree"),
            MissingReason::NeedsSnapshot => f.write_str("it needs a snapshot first"),
            MissingReason::Fetching => {
                f.write_str("what it needs is being read from the leader's disk")
            }
            MissingReason::AwaitsFullVoters => {
                f.write_str("a witness: it gets entries once enough full voters have them")
            }
            MissingReason::Streaming => f.write_str("entries are on their way to it"),
            MissingReason::UpToDate => f.write_str("it has the whole log"),
        }
    }
}

impl fmt::Display for CampaignObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CampaignObstacle::NotAVoter { role } => {
                write!(f, "the configuration does not list it as a voter (it is a {role})")
            }
            CampaignObstacle::Witness => f.write_str("it is a witness, which has no commands"),
            CampaignObstacle::InstallingSnapshot => {
                f.write_str("its state is being replaced by a snapshot")
            }
            CampaignObstacle::StoreNotAdmitted { own, admitted: Some(admitted) } => write!(
                f,
                "it runs on store {own}, and was admitted with store {admitted}: promote it again once it has caught up"
            ),
            CampaignObstacle::StoreNotAdmitted { own, admitted: None } => {
                write!(f, "its store {own} is not recorded: it may have been wiped")
            }
            CampaignObstacle::StorageStalled => f.write_str("its disk does not answer"),
            CampaignObstacle::NoTermLeft => f.write_str("there is no higher term"),
        }
    }
}

impl fmt::Display for LeadershipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LeadershipReason::Leads { since, heard, missing, transfer_to } => {
                write!(f, "leads since index {since}; heard from: {}", List(heard))?;
                if !missing.is_empty() {
                    write!(f, "; missing: {}", List(missing))?;
                }
                match transfer_to {
                    Some(to) => write!(f, "; is handing over to node {to}"),
                    None => Ok(()),
                }
            }
            LeadershipReason::Follows { leader, until: Some(until) } => {
                write!(f, "follows node {leader}, and gives it up at {until} if nothing is heard")
            }
            LeadershipReason::Follows { leader, until: None } => {
                write!(f, "follows node {leader}, and may not campaign itself")
            }
            LeadershipReason::Waits { until } => {
                write!(f, "knows of no leader, and campaigns at {until}")
            }
            LeadershipReason::MayNotCampaign(obstacle) => {
                write!(f, "knows of no leader, and may not campaign: {obstacle}")
            }
            LeadershipReason::AsksForPreVotes { granted, missing, until } => write!(
                f,
                "asks whether it could be elected; yes: {}; no, or no answer: {}; tries anew at {until}",
                List(granted),
                List(missing)
            ),
            LeadershipReason::Campaigns { granted, missing, until } => write!(
                f,
                "campaigns; votes: {}; refused, or no answer: {}; tries anew at {until}",
                List(granted),
                List(missing)
            ),
        }
    }
}

impl fmt::Display for CommitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitReason::Committed { is_applied: true } => f.write_str("committed and applied"),
            CommitReason::Committed { is_applied: false } => {
                f.write_str("committed, and not applied here yet")
            }
            CommitReason::NotInTheLog { last } => write!(f, "not in the log, which ends at {last}"),
            CommitReason::NotLeader { leader: Some(leader), commit } => write!(
                f,
                "committed up to {commit} as far as this node knows: ask the leader, node {leader}"
            ),
            CommitReason::NotLeader { leader: None, commit } => write!(
                f,
                "committed up to {commit} as far as this node knows, and no leader is known"
            ),
            CommitReason::EarlierTerm { term, waits_for } => write!(
                f,
                "a quorum has it, but it is of term {term}: it is committed along with index {waits_for}"
            ),
            CommitReason::WaitsForVoters { have, missing, is_joint } => {
                let half = if *is_joint { " in one half of the joint configuration" } else { "" };
                write!(f, "too few voters have it{half}: {}; missing: ", List(have))?;
                List(missing).fmt(f)
            }
            CommitReason::WaitsForZones { have, zones_min, missing } => write!(
                f,
                "it must be in {zones_min} zones, and is in: {}; missing: {}",
                List(have),
                List(missing)
            ),
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusalReason::Leadership(because) => write!(f, "this node {because}"),
            RefusalReason::Commit { index, because } => write!(f, "index {index}: {because}"),
            RefusalReason::Member(missing) => missing.fmt(f),
            RefusalReason::Request => f.write_str("the request itself has to change"),
        }
    }
}
