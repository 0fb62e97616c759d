//! When the configuration may change, and what follows from it: dissertation §4.
//!
//! A configuration is in effect as soon as its entry is appended, committed or not, and is rolled back if the entry is
//! overwritten (scenarios 26 and 30). One change at a time; a joint configuration is left by itself once it is
//! committed, by whichever leader finds it so (scenario 27).

use crate::progress::Peer;
use crate::role::Role;
use crate::{
    Action, Body, ChangeStep, Event, Index, Instant, Membership, MembershipChange, Message, NodeId,
    Payload, Raft, Refusal, RequestId, Resolution,
};

/// A peer that is no member any more. It is served until it knows that, so that it does not wait for a leader for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    /// The entry that removed it.
    pub(crate) at: Index,
    /// How long it is waited for.
    pub(crate) until: Instant,
}

/// For how many election timeouts a removed peer is served, so that it may learn that it was removed.
const FAREWELL_TIMEOUTS: u32 = 10;

impl Raft {
    pub(crate) fn on_change(&mut self, id: RequestId, change: &MembershipChange) {
        match self.check_change(change) {
            Ok(next) => {
                self.forget_by(change, &next);
                self.append_membership(next);
                if let Role::Leader(leader) = &mut self.role {
                    leader.change = Some(id);
                }
            }
            Err(reason) => {
                self.actions.push_back(Action::Resolve(Resolution::RequestRefused { id, reason }));
            }
        }
    }

    /// What was known of the stores of those whom a change concerns: who is promoted starts with a clean record, and
    /// who is added as a stranger.
    fn forget_by(&mut self, change: &MembershipChange, next: &Membership) {
        for step in &change.steps {
            let node = step.node();
            if self.log.membership().is_voter(node)
                && next.is_voter(node)
                && !mutated!(VoterChangesItsStore)
            {
                // Removed and added again at once, it is who it was.
                continue;
            }
            self.forgive(node);
            let adds = matches!(
                step,
                ChangeStep::AddLearner(_) | ChangeStep::AddVoter(_) | ChangeStep::AddWitness(_)
            );
            // A step may be undone by a later one.
            if adds && (next.contains(node) || mutated!(RemovedPeerForgotten)) {
                self.forget(node);
            }
        }
    }

    pub(crate) fn check_change(&self, change: &MembershipChange) -> Result<Membership, Refusal> {
        self.check_settled()?;
        for step in &change.steps {
            match *step {
                ChangeStep::Promote(node)
                    if self.log.membership().learners.contains(&node)
                        && !mutated!(PromotedBeforeCaughtUp) =>
                {
                    self.check_caught_up(node)?;
                }
                ChangeStep::AddLearner(node) | ChangeStep::AddVoter(node)
                    if self.log.ever_lists_witness(node) && !mutated!(WitnessBecomesAMember) =>
                {
                    return Err(Refusal::StoreLacksCommands { node });
                }
                _ => {}
            }
        }
        let mut next = change.apply_to(self.log.membership())?;
        for step in &change.steps {
            // A learner is admitted with the store that it has now. Of others that is not known: what was heard of them
            // may be of an earlier stay in the group.
            if let ChangeStep::Promote(node) = *step
                && next.contains(node)
                && (self.log.membership().learners.contains(&node)
                    || mutated!(StoreOfAnEarlierStayRecorded))
                && let Some(stamp) = self.stores.seen(node)
            {
                next.stores.insert(node, stamp.id);
            }
        }
        self.check_electable(&next)?;
        Ok(next)
    }

    /// Where stores are told apart, a member votes only once its log records its own (rule 4 of
    /// [`stores`](crate::stores)). If a change made a quorum depend on one that does not vote yet, and this leader went
    /// down before it told that one, nobody could be elected any more.
    fn check_electable(&self, next: &Membership) -> Result<(), Refusal> {
        let Role::Leader(leader) = &self.role else { return Ok(()) };
        if self.config.store.is_none() || mutated!(QuorumOfWhoCanNotVote) {
            return Ok(());
        }
        let (current, at) = (self.log.membership(), self.log.membership_at());
        let matched = |node| leader.peers.get(node).map_or(Index(0), |peer| peer.matched);
        let votes = |node| {
            let is_told = matched(node) >= at && current.stores.contains_key(&node);
            node == self.config.id || (is_told && self.stores.counts(current, node))
        };
        if next.has_quorum(votes) {
            return Ok(());
        }
        match next.members().find(|node| next.is_voter(*node) && !votes(*node)) {
            Some(node) => {
                let behind = self.log.last().0.saturating_sub(matched(node).0);
                Err(Refusal::NotCaughtUp { node, behind })
            }
            None => Ok(()),
        }
    }

    /// Whether the configuration can be changed now: this leads, has committed in its own term (scenario 25: two leaders' single
    /// changes, none committed, may have disjoint majorities), and no other change is under way.
    pub(crate) fn check_settled(&self) -> Result<(), Refusal> {
        let Role::Leader(leader) = &self.role else {
            return Err(Refusal::NotLeader { leader: self.leader() });
        };
        if let Some(transfer) = leader.transfer {
            return Err(Refusal::TransferInProgress { to: transfer.to });
        }
        if self.commit < leader.term_start && !mutated!(ChangeBeforeOwnTermCommit) {
            return Err(Refusal::NotSettled);
        }
        let at = self.log.membership_at();
        let is_settled = at <= self.commit && !self.log.membership().is_joint();
        if !is_settled && !mutated!(TwoChangesAtATime) {
            return Err(Refusal::ChangePending { at });
        }
        Ok(())
    }

    /// The configuration whose quorum elects: the latest in the log, committed or not (scenario 26). If it had to be
    /// committed first, a candidate could need the vote of the very leader that died before it said so.
    pub(crate) fn electorate(&self) -> &Membership {
        if mutated!(ConfigurationElectsOnceCommitted) {
            return self.log.membership_as_of(self.commit);
        }
        self.log.membership()
    }

    fn check_caught_up(&self, node: NodeId) -> Result<(), Refusal> {
        let last = self.log.last();
        let Role::Leader(leader) = &self.role else { return Ok(()) };
        let peer = leader.peers.get(node);
        let behind = last.0.saturating_sub(peer.map_or(0, |peer| peer.matched.0));
        let patience = self.config.election_timeout;
        if peer.is_some_and(|peer| peer.is_caught_up(self.now, patience)) {
            return Ok(());
        }
        Err(Refusal::NotCaughtUp { node, behind })
    }

    pub(crate) fn append_membership(&mut self, next: Membership) {
        self.log.append_payload(self.term, Payload::Membership(next.into()));
        self.on_membership_changed();
    }

    /// Brings everything that depends on the configuration in step with the log's, if that has changed.
    #[inline]
    pub(crate) fn on_membership_changed(&mut self) {
        let version = self.log.membership_version();
        if self.membership_version != version {
            self.membership_version = version;
            if !mutated!(ShrunkQuorumNotNoticed) {
                // Who counts is another matter now: it may be that a quorum has more already.
                (self.may_commit, self.is_stale) = (true, true);
            }
            self.follow_membership();
        }
    }

    fn follow_membership(&mut self) {
        let at = self.log.membership_at();
        self.actions.push_back(Action::Event(Event::MembershipChanged { at }));
        if !mutated!(RoleByConfigurationNotTold) {
            self.tell_role();
        }
        self.follow_demotions();
        self.report_own_store();
        let (id, now, next) = (self.config.id, self.now, self.log.last().next());
        let until = now + self.config.election_timeout * FAREWELL_TIMEOUTS;
        let membership = self.log.membership();
        let Role::Leader(leader) = &mut self.role else { return };
        for node in membership.members().filter(|node| *node != id) {
            let peer = leader.peers.get_or_insert_with(node, || Peer::new(next, now));
            peer.leaving = None;
            peer.is_witness = membership.is_witness(node);
        }
        for (node, peer) in leader.peers.iter_mut() {
            if !membership.contains(node) && peer.leaving.is_none() {
                peer.leaving = Some(Leaving { at, until });
            }
        }
        self.end_transfer_to_who_can_not_lead();
        if !mutated!(ReadsOfALargerQuorumWaitOn) {
            // The same of reads: who is alone now gets no answer more that would finish them.
            self.finish_reads();
        }
    }

    /// Leader: what follows from the commit index. Leaves a joint configuration, answers who asked for a change, and
    /// makes way if it was removed.
    pub(crate) fn advance_change(&mut self) {
        self.record_stores();
        let Role::Leader(leader) = &mut self.role else { return };
        let is_committed =
            self.commit >= leader.term_start && self.log.membership_at() <= self.commit;
        let is_early = mutated!(JointLeftBeforeCommitted) && self.log.membership().is_joint();
        if !is_committed && !is_early {
            return;
        }
        let membership = self.log.membership();
        if membership.is_joint() && !mutated!(JointNeverLeft) {
            let next = membership.left();
            self.append_membership(next);
            return;
        }
        if let Some(id) = leader.change.take() {
            self.actions.push_back(Action::Resolve(Resolution::RequestDone { id }));
        }
        let may_lead = membership.voters.contains(&self.config.id);
        if may_lead || mutated!(RemovedLeaderStays) {
            self.demote_strangers();
        } else {
            let membership = membership.clone();
            self.retire(&membership);
        }
    }

    /// A leader that is no voter any more steps down (dissertation §4.2.2, scenario 28). Before that it lets everybody
    /// know what is committed, and asks the best of the voters to take over, so that nobody has to wait for a timeout.
    fn retire(&mut self, membership: &Membership) {
        let (last, term) = (self.log.last(), self.term);
        self.broadcast_heartbeat();
        let Role::Leader(leader) = &self.role else { return };
        let able =
            |node: &NodeId| membership.voters.contains(node) && !membership.is_witness(*node);
        let heir = leader
            .peers
            .iter()
            .find(|(node, peer)| able(node) && peer.matched == last)
            .map(|(node, _)| node);
        if let Some(to) = heir {
            let message = Message { term, body: Body::TimeoutNow };
            self.actions.push_back(Action::Send { to, message });
        }
        self.become_follower(term, None);
    }

    /// Lets go of removed peers that know it by now, or that never will.
    pub(crate) fn dismiss_leaving_peers(&mut self) {
        let (now, commit) = (self.now, self.commit);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.peers.retain(|peer| {
            let Some(leaving) = peer.leaving.filter(|leaving| leaving.at <= commit) else {
                return true;
            };
            let knows = peer.told_commit >= leaving.at && peer.matched >= leaving.at;
            !knows && now < leaving.until && !mutated!(RemovedMemberNotTold)
        });
    }
}
