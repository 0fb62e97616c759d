//! Handing leadership over: dissertation §3.10.
//!
//! The leader takes no more proposals, brings the target's log up to its own, and tells it to campaign at once. If the
//! target has not taken over within an election timeout, the leader goes on as if nothing had been, but for its lease
//! (see [`lease`](crate::lease)).

use crate::progress::Progress;
use crate::role::{Leader, Role};
use crate::{
    Action, Body, Instant, NodeId, Raft, Refusal, RequestId, Resolution, StorageHealth,
    TransferObstacle, UncountedReason,
};

/// A transfer that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// Who asked; `None` if the leader decided so itself.
    pub(crate) id: Option<RequestId>,
    pub(crate) to: NodeId,
    pub(crate) deadline: Instant,
    /// Whether the target was told.
    pub(crate) is_told: bool,
}

impl Raft {
    pub(crate) fn on_transfer(&mut self, id: RequestId, to: Option<NodeId>) {
        if to == Some(self.config.id) && matches!(self.role, Role::Leader(_)) {
            self.actions.push_back(Action::Resolve(Resolution::RequestDone { id }));
            return;
        }
        match self.choose_target(to) {
            Ok(to) => self.start_transfer(Some(id), to),
            Err(reason) => {
                self.actions.push_back(Action::Resolve(Resolution::RequestRefused { id, reason }));
            }
        }
    }

    fn choose_target(&self, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        let Role::Leader(leader) = &self.role else {
            return Err(Refusal::NotLeader { leader: self.leader() });
        };
        if let Some(transfer) = leader.transfer {
            return Err(Refusal::TransferInProgress { to: transfer.to });
        }
        if let Some(to) = to {
            return self.check_target(leader, to).map(|()| to);
        }
        let able = leader.peers.iter();
        let able = able.filter(|(node, _)| self.transfer_obstacle(leader, *node).is_none());
        // Who did not take over when it was asked to comes last. Of equals the lowest id, so that the choice is the
        // same everywhere.
        let best = able.max_by_key(|(node, peer)| {
            (!leader.passed_over.contains(node), peer.matched, core::cmp::Reverse(*node))
        });
        best.map(|(node, _)| node).ok_or(Refusal::NoTransferTarget)
    }

    fn check_target(&self, leader: &Leader, to: NodeId) -> Result<(), Refusal> {
        match self.transfer_obstacle(leader, to) {
            None => Ok(()),
            Some(
                TransferObstacle::NotAVoter
                | TransferObstacle::Witness
                | TransferObstacle::StoreDoesNotCount
                | TransferObstacle::StoreNotRecorded,
            ) => Err(Refusal::CannotLead { node: to }),
            Some(
                TransferObstacle::Silent { .. }
                | TransferObstacle::Probing
                | TransferObstacle::NeedsSnapshot
                | TransferObstacle::TooFarBehind { .. },
            ) => {
                let matched = leader.peers.get(to).map_or(0, |peer| peer.matched.0);
                let behind = self.log.last().0.saturating_sub(matched);
                Err(Refusal::NotCaughtUp { node: to, behind })
            }
        }
    }

    /// Why a member could not take over soon. Only a full voter can, that counts, was heard from, and is in step.
    pub(crate) fn transfer_obstacle(
        &self,
        leader: &Leader,
        to: NodeId,
    ) -> Option<TransferObstacle> {
        if let Some(obstacle) = self.lead_obstacle(to) {
            return Some(obstacle);
        }
        match self.stores.uncounted(self.log.membership(), to) {
            None => {}
            Some(UncountedReason::StoreDoesNotCount) => {
                return Some(TransferObstacle::StoreDoesNotCount);
            }
            Some(_) => return Some(TransferObstacle::StoreNotRecorded),
        }
        let Some(peer) = leader.peers.get(to) else { return Some(TransferObstacle::NotAVoter) };
        let behind = self.log.last().0.saturating_sub(peer.matched.0);
        let max = self.config.transfer_lag_max;
        let obstacle = if peer.is_silent(self.now, self.config.election_timeout) {
            let silent_for = self.now.since(peer.last_contact);
            Some(TransferObstacle::Silent { silent_for })
        } else {
            match peer.progress {
                Progress::Probe { .. } => Some(TransferObstacle::Probing),
                Progress::Snapshot { .. } => Some(TransferObstacle::NeedsSnapshot),
                Progress::Replicate { .. } => {
                    (behind > max).then_some(TransferObstacle::TooFarBehind { behind, max })
                }
            }
        };
        obstacle.filter(|_| !mutated!(TransferToALaggard))
    }

    /// Why the configuration does not let a member lead.
    fn lead_obstacle(&self, node: NodeId) -> Option<TransferObstacle> {
        let membership = self.log.membership();
        if !membership.is_voter(node) && !mutated!(TransferToALearner) {
            Some(TransferObstacle::NotAVoter)
        } else if membership.is_witness(node) && !mutated!(TransferToAWitness) {
            Some(TransferObstacle::Witness)
        } else {
            None
        }
    }

    /// Leader, after a change of the configuration: a joint one is left even during a transfer, and may take the
    /// target's vote away.
    pub(crate) fn end_transfer_to_who_can_not_lead(&mut self) {
        let transfer = match &self.role {
            Role::Leader(leader) => leader.transfer,
            _ => None,
        };
        let Some(Transfer { id, to, .. }) =
            transfer.filter(|it| self.lead_obstacle(it.to).is_some())
        else {
            return;
        };
        if mutated!(TransferOutlivesTheTargetsVote) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer = None;
        }
        if let Some(id) = id {
            let reason = Refusal::CannotLead { node: to };
            self.actions.push_back(Action::Resolve(Resolution::RequestRefused { id, reason }));
        }
    }

    fn start_transfer(&mut self, id: Option<RequestId>, to: NodeId) {
        let deadline = self.now + self.config.election_timeout;
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer = Some(Transfer { id, to, deadline, is_told: false });
        }
        self.tell_target();
    }

    /// Tells the target to campaign, once it has the whole log.
    pub(crate) fn tell_target(&mut self) {
        let (last, term) = (self.log.last(), self.term);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let to = transfer.to;
        let is_ready = leader.peers.get(to).is_some_and(|peer| peer.matched == last);
        let is_ready = is_ready || mutated!(TransferBeforeTheTargetHasTheLog);
        if is_ready && !transfer.is_told {
            transfer.is_told = true;
            leader.lease.forswear();
            let message = crate::Message { term, body: Body::TimeoutNow };
            self.actions.push_back(Action::Send { to, message });
        }
    }

    /// At each heartbeat: says it again, in case it was lost; gives up when the time is over.
    pub(crate) fn repeat_or_end_transfer(&mut self) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        if now < transfer.deadline || mutated!(TransferNeverEnds) {
            transfer.is_told = false;
            self.tell_target();
            return;
        }
        let Transfer { id, to, .. } = *transfer;
        leader.transfer = None;
        if leader.passed_over.len() + 1 >= leader.peers.len() {
            // All had their turn.
            leader.passed_over.clear();
        }
        leader.passed_over.insert(to);
        if let Some(id) = id {
            let reason = Refusal::TransferTimedOut { to };
            self.actions.push_back(Action::Resolve(Resolution::RequestRefused { id, reason }));
        }
    }

    /// A leader whose disk stalls makes way for one whose disk does not.
    pub(crate) fn leave_if_stalled(&mut self) {
        if self.health == StorageHealth::Stalled
            && !mutated!(StalledLeaderStays)
            && let Ok(to) = self.choose_target(None)
        {
            self.start_transfer(None, to);
        }
    }

    pub(crate) fn on_storage_health(&mut self, health: StorageHealth) {
        self.health = health;
        self.leave_if_stalled();
    }

    /// The leader says that it is our turn: no pre-vote, and no promise holds the voters back.
    pub(crate) fn on_timeout_now(&mut self) {
        let is_stalled = self.health == StorageHealth::Stalled && !mutated!(StalledMemberCampaigns);
        if self.can_campaign() && !is_stalled {
            self.campaign(true);
        }
    }

    /// Settles a transfer whose leader has stepped down, as soon as it is known who leads.
    #[inline]
    pub(crate) fn settle_handover(&mut self) {
        if let Some(transfer) = self.handed_over {
            self.settle(transfer);
        }
    }

    fn settle(&mut self, transfer: Transfer) {
        let Some(id) = transfer.id else {
            self.handed_over = None;
            return;
        };
        let resolution = match self.leader() {
            Some(leader) if leader == transfer.to => Resolution::RequestDone { id },
            None if self.now < transfer.deadline => return,
            _ => Resolution::RequestAbandoned { id },
        };
        self.handed_over = None;
        self.actions.push_back(Action::Resolve(resolution));
    }
}
