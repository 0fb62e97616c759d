//! Why: answers in types, for an operator who asks why nobody leads here, why an index is not committed, or why something was refused.
//!
//! Each answer is computed from the same state that the rules look at, and changes nothing. It is not a log, nor a history: it says what
//! holds now. Its words are in `words`.

mod words;

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::time::Duration;

use crate::lease::Promise;
use crate::progress::{Peer, Progress};
use crate::quorum::zones_reached;
use crate::role::{Answer, Leader, Role, Votes};
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
        /// How the voters answered. They refuse who lacks entries that they have, and while they keep a [promise](VotePromise) to another.
        tally: Tally,
        /// When it tries anew.
        until: Instant,
    },
    /// It campaigns (paper §5.2).
    Campaigns {
        /// How the voters answered. They refuse who lacks entries that they have, and who comes after another candidate of the term. Who keeps a
        /// [promise](VotePromise) to another, and is in an earlier term, does not answer at all: its term is not to be raised.
        tally: Tally,
        /// When it tries anew.
        until: Instant,
    },
}

/// How the voters of the configuration in effect answered a member that asks for their votes, or whether it would get them: each is in one of the
/// lists, in the order of ids. In a joint configuration each half has to agree.
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

/// To whom a member owes it to vote for nobody else, and until when (dissertation §4.2.3): a leader may answer reads under a lease for as long
/// (§6.4.1). Until then it votes for nobody else, and would not, unless that leader hands over.
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
    /// The request itself is at fault: the refusal says all.
    Request,
    /// What was in the way is there no more.
    Gone,
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
                let (until, promise) = (follower.election_deadline, self.vote_promise());
                match (follower.leader, self.campaign_obstacle()) {
                    (Some(leader), obstacle) => {
                        LeadershipReason::Follows { leader, until, obstacle, promise }
                    }
                    (None, Some(because)) => LeadershipReason::MayNotCampaign { because, promise },
                    (None, None) => LeadershipReason::Waits { until, promise },
                }
            }
            Role::PreCandidate(candidate) => LeadershipReason::AsksForPreVotes {
                tally: self.tally(&candidate.votes),
                until: candidate.election_deadline,
            },
            Role::Candidate(candidate) => LeadershipReason::Campaigns {
                tally: self.tally(&candidate.votes),
                until: candidate.election_deadline,
            },
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
            Refusal::QuotaExceeded { .. } => match &self.role {
                Role::Leader(_) if self.commit == self.log.last() => RefusalReason::Gone,
                _ => self.waits_for(self.commit.next()),
            },
            Refusal::TooManyReads { .. } | Refusal::NotSettled => match &self.role {
                Role::Leader(leader) if self.commit < leader.term_start => {
                    self.waits_for(leader.term_start)
                }
                Role::Leader(_) if *refusal == Refusal::NotSettled => RefusalReason::Gone,
                _ => RefusalReason::Leadership(Box::new(self.explain_leadership())),
            },
            Refusal::ChangePending { at } if *at > self.commit => self.waits_for(*at),
            // A joint configuration is committed, and not left yet.
            Refusal::ChangePending { .. } if self.log.membership().is_joint() => {
                self.waits_for(self.log.membership_at())
            }
            Refusal::ChangePending { .. } => RefusalReason::Gone,
            Refusal::TransferInProgress { to: node }
            | Refusal::TransferTimedOut { to: node }
            | Refusal::NotCaughtUp { node, .. } => match &self.role {
                Role::Leader(leader)
                    if leader.transfer.is_none()
                        && matches!(refusal, Refusal::TransferInProgress { .. }) =>
                {
                    RefusalReason::Gone
                }
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

    fn tally(&self, votes: &Votes) -> Tally {
        let mut tally = Tally::default();
        for (node, answer) in votes.iter() {
            match answer {
                Answer::Granted => tally.granted.push(node),
                Answer::Uncounted(because) => tally.uncounted.push(Uncounted { node, because }),
                Answer::Refused => tally.refused.push(node),
            }
        }
        for node in self.voters().filter(|&node| votes.of(node).is_none()) {
            if node == self.config.id {
                let because = UncountedReason::NotDurable;
                tally.uncounted.push(Uncounted { node, because });
            } else {
                tally.silent.push(node);
            }
        }
        tally.uncounted.sort_by_key(|uncounted| uncounted.node);
        tally
    }

    /// The same as the rule of `has_promised_another`.
    fn vote_promise(&self) -> Option<VotePromise> {
        let Promise { to, until } = self.promise;
        (self.now < until).then_some(match to {
            Some(leader) => VotePromise::ToLeader { leader, until },
            None => VotePromise::BeforeRestart { until },
        })
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
        let rejection = self.own_rejection().filter(|rejection| rejection.is_demoted);
        if let (Some(rejection), Some(stamp)) = (rejection, self.config.store) {
            let (own, admitted) = (stamp.id, rejection.admitted);
            Some(CampaignObstacle::DemotedForItsStore { own, admitted })
        } else if !membership.is_voter(id) {
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
