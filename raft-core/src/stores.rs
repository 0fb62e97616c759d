//! Which store each member runs on, and whether it counts: a member whose disk was wiped, or put back from a copy, has forgotten votes and
//! acknowledgements that others rely on.
//!
//! # The rules
//!
//! 1. The configuration records the store with which a member was admitted ([`Membership::stores`]). The first leader records the
//!    stores of those who voted for it in its first entry, and the others' when it hears of them.
//! 2. Votes and acknowledgements from another store than the recorded one do not count; nor do those of a store that demonstrably lost what it
//!    had acknowledged in an earlier life, or that began the same life twice.
//! 3. The leader makes such a member a learner, and tells so by the configuration itself; once it has caught up it can be promoted again.
//! 4. A member votes, and campaigns, only if the configuration records its own store. Where none is recorded at all, one whose log is blank
//!    votes only for candidates whose log is blank too. So a wiped member, which can not know that it was wiped, elects nobody over a log
//!    that it may once have acknowledged: the log of a group that was founded with stores records them from its first entry on.
//!
//! What no protocol can tell apart is a group of which *every* member that can be reached has a blank disk, and one that is being founded.

use alloc::collections::BTreeMap;

use crate::progress::CatchUp;
use crate::role::Role;
use crate::{
    Action, Event, Index, LogPosition, Membership, NodeId, Payload, PeerFault, Raft, StoreStamp,
};

/// The stores that members were heard to run on. Volatile; what is recorded is in the configuration.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    seen: BTreeMap<NodeId, StoreStamp>,
    /// Members that lost what they had acknowledged, on the store that they were admitted with.
    forgetful: BTreeMap<NodeId, StoreStamp>,
    /// Whether the configuration agrees with all that, for this version of it.
    settled: Option<u64>,
}

impl Stores {
    /// Whether what `node` says counts towards a quorum.
    pub(crate) fn counts(&self, membership: &Membership, node: NodeId) -> bool {
        let Some(seen) = self.seen.get(&node) else { return true };
        (membership.stores.get(&node).is_none_or(|admitted| *admitted == seen.id)
            || mutated!(StrangeStoreCounts))
            && !self.forgetful.contains_key(&node)
    }

    pub(crate) fn seen(&self, node: NodeId) -> Option<StoreStamp> {
        self.seen.get(&node).copied()
    }
}

impl Raft {
    /// Looks at the stamp of a message before the message is believed.
    pub(crate) fn note_store(
        &mut self,
        from: NodeId,
        stamp: Option<StoreStamp>,
    ) -> Result<(), PeerFault> {
        let Some(stamp) = stamp.filter(|_| self.log.membership().contains(from)) else {
            return Ok(());
        };
        let before = self.stores.seen.insert(from, stamp);
        if before != Some(stamp) {
            self.stores.settled = None;
        }
        let Some(before) = before.filter(|before| *before != stamp) else {
            if before.is_none() {
                self.report_store(from, stamp);
            }
            return Ok(());
        };
        let is_rolled_back = before.id == stamp.id && before.life > stamp.life;
        if is_rolled_back && !mutated!(LifeOfAStoreGoesBack) {
            self.stores.seen.insert(from, before);
            return Err(PeerFault::RolledBackStore { life: stamp.life, seen: before.life });
        }
        let has_new_store = before.id != stamp.id;
        // Two starts in one life: the second knew nothing of the first. Which one this is does not matter, since neither counts.
        let has_life_again = !has_new_store && before.life == stamp.life;
        if has_life_again && !mutated!(LifeOfAStoreRepeated) {
            self.on_forgotten(from);
        }
        let (now, last) = (self.now, self.log.last());
        if let Some(peer) = self.peer_mut(from) {
            // What it acknowledged before, this life must still have, if it is the same store.
            peer.owed = if has_new_store { Index(0) } else { peer.owed.max(peer.matched) };
            if has_new_store {
                peer.matched = Index(0);
                peer.lease_from = crate::Instant(0);
                peer.read_context = 0;
                peer.probe(Index(1));
                peer.catch_up = CatchUp::new(last, now);
            } else if has_life_again {
                peer.matched = Index(0);
                peer.probe(last.next());
                peer.catch_up = CatchUp::new(last, now);
            } else {
                peer.compare_again();
            }
        }
        if has_new_store {
            self.stores.forgetful.remove(&from);
            self.report_store(from, stamp);
        }
        Ok(())
    }

    /// A peer's log lacks what it acknowledged in an earlier life of the same store: the store was put back from a copy.
    pub(crate) fn on_forgotten(&mut self, from: NodeId) {
        if let Some(stamp) = self.stores.seen(from)
            && self.stores.forgetful.insert(from, stamp).is_none()
        {
            self.stores.settled = None;
            let event = Event::StoreRejected { node: from, store: stamp.id };
            self.actions.push_back(Action::Event(event));
        }
    }

    fn report_store(&mut self, node: NodeId, stamp: StoreStamp) {
        if !self.stores.counts(self.log.membership(), node) {
            self.actions.push_back(Action::Event(Event::StoreRejected { node, store: stamp.id }));
        }
    }

    /// Rule 4: whether this member may vote for a log that ends at `last` (its own, if it campaigns).
    pub(crate) fn may_vote_for(&self, last: LogPosition) -> bool {
        let Some(stamp) = self.config.store else { return true };
        let recorded = &self.log.membership().stores;
        if recorded.is_empty() {
            // A group that is being founded, or one that has not told stores apart until now.
            // Who was not founded with it and knows no configuration has no say: it may be a member that was wiped.
            let is_founding =
                last.index == Index(0) && self.log.membership().is_voter(self.config.id);
            return self.log.last() > Index(0) || is_founding || mutated!(BlankStoreVotesForALog);
        }
        recorded.get(&self.config.id) == Some(&stamp.id) || mutated!(WipedStoreVotes)
    }

    /// The first entry of a leader (paper §8, dissertation §6.4): empty, unless it is the first that can record stores at all.
    pub(crate) fn first_payload(&self) -> Payload {
        let membership = self.log.membership();
        if self.config.store.is_none() || membership.is_joint() || !membership.stores.is_empty() {
            return Payload::Empty;
        }
        match self.with_seen_stores() {
            Some(next) => Payload::Membership(next.into()),
            None => Payload::Empty,
        }
    }

    /// The configuration with the stores that were seen: of members of which none is recorded, and of learners, who do not vote and may
    /// change theirs. `None` if that changes nothing.
    fn with_seen_stores(&self) -> Option<Membership> {
        let own = self.config.store?;
        let mut next = self.log.membership().clone();
        for node in self.log.membership().members() {
            let stamp = if node == self.config.id { Some(own) } else { self.stores.seen(node) };
            let Some(stamp) = stamp else { continue };
            if !next.stores.contains_key(&node) || !next.is_voter(node) {
                next.stores.insert(node, stamp.id);
            }
        }
        (next != *self.log.membership()).then_some(next)
    }

    /// Leader, when nothing else is being changed: records stores that are not recorded, and makes learners of voters that do not count.
    pub(crate) fn settle_stores(&mut self) {
        let version = Some(self.log.membership_version());
        let is_known = self.config.store.is_none() || self.stores.settled == version;
        if is_known || self.check_settled().is_err() {
            return;
        }
        let membership = self.log.membership();
        let rejected = membership
            .voters
            .iter()
            .copied()
            .find(|node| *node != self.config.id && !self.stores.counts(membership, *node))
            .filter(|_| !mutated!(StrangeStoreNotDemoted));
        let next = match rejected {
            Some(node) => self.demoted(node),
            None => self.with_seen_stores(),
        };
        match next {
            Some(next) => self.append_membership(next),
            None => self.stores.settled = version,
        }
    }

    fn demoted(&self, node: NodeId) -> Option<Membership> {
        let mut next = self.log.membership().clone();
        next.voters.remove(&node);
        if next.witnesses.remove(&node) {
            // A witness has no way back but a new id.
            next.stores.remove(&node);
        } else {
            next.learners.insert(node);
            if let Some(stamp) = self.stores.seen(node) {
                next.stores.insert(node, stamp.id);
            }
        }
        next.is_valid().then_some(next)
    }

    /// Leader: a member that is added starts as a stranger, even if it was a member before.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.stores.seen.remove(&node);
        if let Role::Leader(leader) = &mut self.role {
            leader.peers.remove(node);
        }
    }

    /// Whom the group has promoted since it was demoted counts again, also here.
    pub(crate) fn forgive_promoted(&mut self) {
        let (now, before) = (self.log.membership(), self.log.membership_before());
        self.stores
            .forgetful
            .retain(|node, _| !(now.is_voter(*node) && before.learners.contains(node)));
    }

    /// A learner that is promoted starts with a clean record.
    pub(crate) fn forgive(&mut self, node: NodeId) {
        self.stores.forgetful.remove(&node);
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(peer) = leader.peers.get_mut(node) {
            peer.owed = Index(0);
        }
    }
}
