//! How the answers are found: by the rules themselves where these are functions, and beside them one at a time where a
//! rule only says no.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::{
    CampaignObstacle, CommitReason, Lacks, LeadershipReason, Missing, MissingReason, NoTarget,
    RefusalReason, StalledLeader, Tally, UnappliedReason, Uncounted, UncountedReason, VotePromise,
};
use crate::election::priority_delay;
use crate::lease::Promise;
use crate::progress::Progress;
use crate::quorum::{is_majority, zones_reached};
use crate::role::{Answer, Leader, Role, Votes};
use crate::snapshots::Incoming;
use crate::{Index, NodeId, Raft, Refusal, StorageHealth};

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
                    stalled: self.stalled(leader),
                }
            }
            Role::Follower(follower) => {
                let (until, promise) = (follower.election_deadline, self.vote_promise());
                match (follower.leader, self.campaign_obstacle()) {
                    (Some(leader), obstacle) => {
                        LeadershipReason::Follows { leader, until, obstacle, promise }
                    }
                    (None, Some(because)) => LeadershipReason::MayNotCampaign { because, promise },
                    (None, None) => {
                        let priority_delay = priority_delay(&self.config);
                        LeadershipReason::Waits { until, priority_delay, promise }
                    }
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
            return CommitReason::Committed { unapplied: self.unapplied(index) };
        }
        let Role::Leader(leader) = &self.role else {
            return CommitReason::NotLeader { leader: self.leader(), commit: self.commit };
        };
        if index > self.log.last() {
            return CommitReason::NotInTheLog { last: self.log.last() };
        }
        let membership = self.log.membership();
        let reached = |node: NodeId| self.counts_up_to(leader, membership, node);
        let has = |node: NodeId| reached(node) >= index;
        let have: Vec<NodeId> = self.voters().filter(|&node| has(node)).collect();
        let missing = self.voters().filter(|&node| !has(node));
        let missing: Vec<Missing> = missing.map(|node| self.missing(leader, node)).collect();
        if !membership.has_quorum(has) {
            return CommitReason::WaitsForVoters { have, missing, lacks: self.lacks(has) };
        }
        if let Some(groups) = &self.config.commit_groups
            && zones_reached(membership, groups, reached).is_some_and(|reached| reached < index)
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
            _ => CommitReason::QuorumHasIt,
        }
    }

    /// What stands behind a refusal, as far as it still holds.
    pub fn explain_refusal(&self, refusal: &Refusal) -> RefusalReason {
        match refusal {
            Refusal::NotLeader { .. }
            | Refusal::LeaderSilent { .. }
            | Refusal::WitnessHasNoState { .. } => self.leadership(),
            Refusal::NoTransferTarget => match &self.role {
                Role::Leader(leader) => match self.no_targets(leader) {
                    Some(others) => RefusalReason::NobodyCanTakeOver { others },
                    None => RefusalReason::Gone,
                },
                _ => self.leadership(),
            },
            Refusal::QuotaExceeded { .. } => self.explain_quota(),
            Refusal::TooManyReads { .. } | Refusal::NotSettled => match &self.role {
                Role::Leader(leader) if self.commit < leader.term_start => {
                    self.waits_for(leader.term_start)
                }
                Role::Leader(_) if *refusal == Refusal::NotSettled => RefusalReason::Gone,
                _ => self.leadership(),
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
                _ => self.leadership(),
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

    fn leadership(&self) -> RefusalReason {
        RefusalReason::Leadership(Box::new(self.explain_leadership()))
    }

    fn explain_quota(&self) -> RefusalReason {
        let follower = match &self.role {
            Role::Leader(_) if self.commit == self.log.last() => return RefusalReason::Gone,
            Role::Leader(_) => return self.waits_for(self.commit.next()),
            Role::Follower(follower) if self.config.forward_proposals => follower,
            _ => return self.leadership(),
        };
        let forwards = &follower.forwards;
        match follower.leader {
            Some(_) if forwards.is_empty() => RefusalReason::Gone,
            Some(leader) => RefusalReason::Forwarded {
                leader,
                unanswered_bytes: forwards.unanswered_bytes(),
                until: forwards.deadline(),
                uncommitted_bytes: forwards.bytes() - forwards.unanswered_bytes(),
            },
            None => self.leadership(),
        }
    }

    /// The other voters, and why none of them can take over; `None` if one can.
    fn no_targets(&self, leader: &Leader) -> Option<Vec<NoTarget>> {
        let others = self.voters().filter(|&node| node != self.config.id);
        let no_target = |node| {
            let because = self.transfer_obstacle(leader, node)?;
            Some(NoTarget { node, because })
        };
        others.map(no_target).collect()
    }

    fn stalled(&self, leader: &Leader) -> Option<StalledLeader> {
        if self.health != StorageHealth::Stalled {
            return None;
        }
        let others = self.no_targets(leader).filter(|_| leader.transfer.is_none());
        Some(others.map_or(StalledLeader::MakesWay, |others| StalledLeader::Stays { others }))
    }

    fn unapplied(&self, index: Index) -> Option<UnappliedReason> {
        let (applied, durable) = (self.applied, self.log.durable());
        if index <= applied {
            None
        } else if self.incoming.as_ref().is_some_and(Incoming::is_installing) {
            Some(UnappliedReason::InstallingSnapshot)
        } else if index > durable {
            Some(UnappliedReason::OwnDisk { durable })
        } else {
            Some(UnappliedReason::MachineBehind { applied })
        }
    }

    /// Which half lacks whom, in a joint configuration.
    fn lacks(&self, agrees: impl Fn(NodeId) -> bool) -> Option<Lacks> {
        let membership = self.log.membership();
        let lack = |half: &BTreeSet<NodeId>| -> Vec<NodeId> {
            if is_majority(half, &agrees) {
                return Vec::new();
            }
            half.iter().copied().filter(|&node| !agrees(node)).collect()
        };
        let (incoming, outgoing) = (lack(&membership.voters), lack(&membership.outgoing));
        membership.is_joint().then_some(Lacks { incoming, outgoing })
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
        tally.lacks = self.lacks(|node| votes.has_granted(node));
        tally
    }

    fn vote_promise(&self) -> Option<VotePromise> {
        let Promise { to, until } = self.promise;
        self.promise.holds(self.now).then_some(match to {
            Some(leader) => VotePromise::ToLeader { leader, until },
            None => VotePromise::BeforeRestart { until },
        })
    }

    fn missing(&self, leader: &Leader, node: NodeId) -> Missing {
        let Some(peer) = leader.peers.get(node) else {
            return Missing { node, matched: self.log.durable(), because: MissingReason::OwnDisk };
        };
        let membership = self.log.membership();
        let because = if self.stores.is_strange(membership, node) {
            MissingReason::StoreDoesNotCount
        } else if peer.is_silent(self.now, self.config.election_timeout) {
            MissingReason::Silent { silent_for: self.now.since(peer.last_contact) }
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
