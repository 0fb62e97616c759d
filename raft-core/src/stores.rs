//! Which store each member runs on, and whether it counts: a member whose disk was wiped, or put back from a copy, has
//! forgotten votes and acknowledgements that others rely on.
//!
//! # The rules
//!
//! 1. The configuration records the store with which a member was admitted ([`Membership::stores`]). The first leader
//!    of a group records the stores of those who voted for it in its first entry, and the others' when it hears of
//!    them. A group that did not tell stores apart records all its voters' at once, when all are known.
//! 2. Once any is recorded, a voter is a member *on its recorded store*. The votes and acknowledgements of a member
//!    whose store is not recorded do not count, though it is counted in what a majority is of; nor do those from
//!    another store than the recorded one, or from one that demonstrably lost what it had acknowledged in an earlier
//!    life, or that began the same life twice. Who counts votes or acknowledgements judges by its own configuration;
//!    and who is not recorded there itself does not campaign.
//! 3. The leader makes a learner of a voter on another store, and tells so by the configuration itself; once it has
//!    caught up it can be promoted again ([`Raft::returned_learner`] names it). At that member itself observers are told as soon as the configuration there
//!    says so: it can not know otherwise.
//! 4. A voter that does not count is sent no entries, only heartbeats, until it is recorded or a learner.
//! 5. A member that knows no configuration, as after a wipe, does not vote for a candidate whose log is blank: such a
//!    candidate has no record by which to judge.
//!
//! # Why that is safe
//!
//! Majorities are always of all voters, so two of them share a member; and what the rules ensure is that it is on the
//! same store both times. To record a member that was not recorded changes nothing for those that were, and it has
//! acknowledged nothing that counted. From one store to another a member comes only by way of being a learner, which is
//! two changes of the configuration, each with its own majority.
//!
//! So a wiped member, which can not know that it was wiped, elects nobody over a log that it may once have
//! acknowledged; and one that is blank because it has not received anything yet helps to elect whoever recorded it.
//!
//! # What is left
//!
//! Rule 4 is about the founding. If a member that does not count held the first entry, it would refuse its vote to the
//! blank members and not be able to lead them either; should the first leader be lost, the others could be stuck for
//! ever. As it is, whoever holds an entry counts. A group founded by a bare majority is stuck only if one of these
//! founders is lost after all of them had the first entry, and before any other member was recorded, which takes the
//! leader one message from it.
//!
//! A group that did not tell stores apart is as little protected as it was until all its voters are recorded, and its
//! logs hold that.
//!
//! What no protocol can tell apart is a group of which a majority has blank disks, and one that is being founded.

use alloc::collections::BTreeMap;

use crate::progress::CatchUp;
use crate::role::Role;
use crate::{
    Action, ChangeStep, Event, Index, LogPosition, Membership, NodeId, Payload, PeerFault, Raft,
    StoreId, StoreStamp, Term, UncountedReason,
};

/// The stores that members were heard to run on. Volatile; what is recorded is in the configuration.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    seen: BTreeMap<NodeId, Seen>,
    /// Members that lost what they had acknowledged, on the store that they were admitted with.
    forgetful: BTreeMap<NodeId, StoreStamp>,
    /// Learners that were voters until their store was another one, with the store that they had been admitted with.
    demoted: BTreeMap<NodeId, StoreId>,
    /// The place of the latest configuration that all this is in step with.
    known_at: Index,
    /// The version of the configuration that records whatever is known of this.
    recorded_in: Option<u64>,
    /// The version of the configuration in which nobody is left to be made a learner.
    settled_in: Option<u64>,
    /// What observers here were told last of this member's own store.
    told: Option<Rejection>,
}

/// Why a member does not count by its own configuration, or did not when it was made a learner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// The store that it was admitted with, which is not its own.
    pub(crate) admitted: StoreId,
    /// Whether it is a learner for that, and its own store is recorded.
    pub(crate) is_demoted: bool,
}

/// How a member stands with its group for the store that it runs on, as far as its own log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreStanding {
    /// Nothing speaks against its store, or stores are not told apart.
    #[default]
    Accepted,
    /// Its log is blank and names no group. That is as it should be for a member that is about to be added; otherwise its
    /// store was emptied. It votes for nobody until the group has filled its log.
    Blank,
    /// It runs on another store than the recorded one, and its log does not know yet what the group makes of that. What
    /// it says does not count.
    Rejected {
        /// The recorded one.
        admitted: StoreId,
    },
    /// The group made a learner of it, because it came back on another store. It is to be promoted once it is in step.
    Demoted {
        /// The store that it had been admitted with.
        admitted: StoreId,
    },
}

/// What a member said of its store last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    stamp: StoreStamp,
    /// In which term, as of here.
    term: Term,
}

impl Stores {
    /// Whether what `node` says counts towards a quorum (rule 2).
    #[inline]
    pub(crate) fn counts(&self, membership: &Membership, node: NodeId) -> bool {
        let is_recorded = membership.stores.is_empty()
            || membership.stores.contains_key(&node)
            || mutated!(UnrecordedStoreCounts);
        is_recorded && !self.is_strange(membership, node)
    }

    /// Whether `node` runs on another store than the recorded one, or on one that has forgotten.
    #[inline]
    pub(crate) fn is_strange(&self, membership: &Membership, node: NodeId) -> bool {
        if self.seen.is_empty() {
            // Stores are not told apart in this group.
            return false;
        }
        let Some(seen) = self.seen(node) else { return false };
        let is_another = membership.stores.get(&node).is_some_and(|admitted| *admitted != seen.id);
        (is_another && !mutated!(StrangeStoreCounts)) || self.forgetful.contains_key(&node)
    }

    /// Why a vote of `node` does not count; `None` if it does.
    pub(crate) fn uncounted(
        &self,
        membership: &Membership,
        node: NodeId,
    ) -> Option<UncountedReason> {
        if self.counts(membership, node) {
            None
        } else if self.is_strange(membership, node) {
            Some(UncountedReason::StoreDoesNotCount)
        } else {
            Some(UncountedReason::StoreNotRecorded)
        }
    }

    /// Something was learned that the configuration may not say.
    fn is_news(&mut self) {
        self.recorded_in = None;
        self.settled_in = None;
    }

    pub(crate) fn seen(&self, node: NodeId) -> Option<StoreStamp> {
        self.seen.get(&node).map(|seen| seen.stamp)
    }
}

impl Raft {
    /// Looks at the stamp of a message before the message is believed.
    pub(crate) fn note_store(
        &mut self,
        from: NodeId,
        term: Term,
        stamp: Option<StoreStamp>,
    ) -> Result<(), PeerFault> {
        let Some(stamp) = stamp.filter(|_| self.log.membership().contains(from)) else {
            return Ok(());
        };
        // What was said in an earlier term may come from a store that is long gone.
        let is_old = term < self.term && !mutated!(StoreOfAnEarlierTermBelieved);
        if is_old && self.stores.seen(from).is_some_and(|known| known.id != stamp.id) {
            return Ok(());
        }
        let before = self.stores.seen.get(&from).copied();
        let said_in = if term < self.term { before.map_or(term, |it| it.term) } else { self.term };
        if before.is_none_or(|before| before.stamp != stamp || before.term != said_in) {
            self.stores.seen.insert(from, Seen { stamp, term: said_in });
            self.stores.is_news();
        }
        let before = before.map(|before| before.stamp);
        let Some(before) = before.filter(|before| *before != stamp) else {
            if before.is_none() {
                self.report_store(from, stamp);
            }
            return Ok(());
        };
        let is_rolled_back = before.id == stamp.id && before.life > stamp.life;
        if is_rolled_back && !mutated!(LifeOfAStoreGoesBack) {
            self.stores.seen.insert(from, Seen { stamp: before, term: said_in });
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
            self.stores.is_news();
            let event = Event::StoreRejected { node: from, store: stamp.id };
            self.actions.push_back(Action::Event(event));
        }
    }

    fn report_store(&mut self, node: NodeId, stamp: StoreStamp) {
        if self.stores.is_strange(self.log.membership(), node) {
            self.actions.push_back(Action::Event(Event::StoreRejected { node, store: stamp.id }));
        }
    }

    /// What the configuration in effect has against this member's own store. A store that was put back from a copy is
    /// recorded as it was, so that the configuration can not tell why its member was demoted.
    pub(crate) fn own_rejection(&self) -> Option<Rejection> {
        let (own, id) = (self.config.store?.id, self.config.id);
        let membership = self.log.membership();
        if let Some(&admitted) = membership.stores.get(&id).filter(|admitted| **admitted != own) {
            return Some(Rejection { admitted, is_demoted: false });
        }
        if !membership.learners.contains(&id) || membership.is_voter(id) {
            return None;
        }
        // Rule 3: it is demoted and recorded on its store in one step. Whoever was demoted for another reason stays on
        // the recorded one.
        let steps = self.log.membership_steps(Index(0));
        let demotions = steps.filter(|(before, now)| before.is_voter(id) && !now.is_voter(id));
        let (before, now) = demotions.last()?;
        let (admitted, recorded) = (before.stores.get(&id)?, now.stores.get(&id)?);
        (admitted != recorded).then_some(Rejection { admitted: *admitted, is_demoted: true })
    }

    /// How this member stands for the store that it runs on.
    pub fn store_standing(&self) -> StoreStanding {
        if self.config.store.is_none() {
            return StoreStanding::Accepted;
        }
        if self.log.membership().is_empty() {
            return StoreStanding::Blank;
        }
        match self.own_rejection() {
            None => StoreStanding::Accepted,
            Some(Rejection { admitted, is_demoted: true }) => StoreStanding::Demoted { admitted },
            Some(Rejection { admitted, is_demoted: false }) => StoreStanding::Rejected { admitted },
        }
    }

    /// Leader: a learner that was a voter until it came back on another store, and that is in step again, so that
    /// [`ChangeStep::Promote`](crate::ChangeStep::Promote) would be accepted now. The core does not promote by itself: a
    /// driver that knows of nothing against it does.
    ///
    /// Known of demotions is what the log tells and what this member saw: where all that could lead were started since, and
    /// had the log before compacted away, nobody knows any more, and an operator has to promote the learner.
    pub fn returned_learner(&self) -> Option<NodeId> {
        if self.stores.demoted.is_empty() || self.check_settled().is_err() {
            return None;
        }
        let may_vote = |node: &NodeId| {
            let recorded = self.log.membership().stores.get(node);
            let seen = self.stores.seen(*node).map(|stamp| stamp.id);
            seen.is_some() && recorded == seen.as_ref() && self.is_heard_of_store(*node)
        };
        let may_promote = |node: &NodeId| {
            let change = ChangeStep::Promote(*node).into();
            may_vote(node) && self.check_change(&change).is_ok()
        };
        self.stores.demoted.keys().copied().find(may_promote)
    }

    /// A member that was wiped can not know it by itself: where its configuration says so, observers here are told, once.
    pub(crate) fn report_own_store(&mut self) {
        let rejection = self.own_rejection().filter(|_| !mutated!(StoreRejectionNotTold));
        if core::mem::replace(&mut self.stores.told, rejection) == rejection {
            return;
        }
        if let Some(stamp) = self.config.store.filter(|_| rejection.is_some()) {
            let event = Event::StoreRejected { node: self.config.id, store: stamp.id };
            self.actions.push_back(Action::Event(event));
        }
    }

    /// Rule 5: whether this member may vote for a log that ends at `last`.
    pub(crate) fn may_vote_for(&self, last: LogPosition) -> bool {
        self.config.store.is_none()
            || last.index > Index(0)
            || self.log.membership().is_voter(self.config.id)
            || mutated!(WipedOutsiderFounds)
    }

    /// Rule 2: whether its own vote would count.
    pub(crate) fn may_campaign(&self) -> bool {
        let Some(stamp) = self.config.store else { return true };
        let recorded = &self.log.membership().stores;
        recorded.is_empty()
            || recorded.get(&self.config.id) == Some(&stamp.id)
            || mutated!(WipedStoreCampaigns)
    }

    /// Rule 4: whether a peer may be sent entries.
    pub(crate) fn may_have_entries(&self, node: NodeId) -> bool {
        let membership = self.log.membership();
        self.stores.counts(membership, node)
            || !membership.is_voter(node)
            || mutated!(EntriesForWhoDoesNotCount)
    }

    /// Whether a member said in this term on which store it is. What it said before may be of one that is long gone: by
    /// that it does not count, but nothing is written down.
    fn is_heard_of_store(&self, node: NodeId) -> bool {
        let seen = self.stores.seen.get(&node);
        seen.is_some_and(|seen| seen.term == self.term) || mutated!(StoreOfAnEarlierTermRecorded)
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

    /// The configuration with the stores that were seen: of members of which none is recorded, and of learners, who do
    /// not vote and may change theirs. `None` if that changes nothing, or if it is too early to record any (rule 1).
    fn with_seen_stores(&self) -> Option<Membership> {
        let own = self.config.store?;
        let mut next = self.log.membership().clone();
        for node in self.log.membership().members() {
            let is_own = node == self.config.id;
            let seen = self.stores.seen(node).filter(|_| self.is_heard_of_store(node));
            let Some(stamp) = Some(own).filter(|_| is_own).or(seen) else { continue };
            if !next.stores.contains_key(&node) || !next.is_voter(node) {
                next.stores.insert(node, stamp.id);
            }
        }
        let is_recorded = |node| next.stores.contains_key(&node);
        let is_founding = self.log.last() == Index(0);
        let is_first = self.log.membership().stores.is_empty();
        let are_enough = !is_first
            || (is_founding && next.has_quorum(is_recorded))
            || next.members().filter(|node| next.is_voter(*node)).all(is_recorded)
            || mutated!(FirstRecordsTooEarly);
        (are_enough && next != *self.log.membership()).then_some(next)
    }

    /// Leader: records stores that are not recorded. That changes no majority, so it need not wait for an earlier
    /// configuration to be committed; and it must not, since that may need the one that is to be recorded (its zone,
    /// where commitment asks for zones; or a joint configuration, of which it is half).
    pub(crate) fn record_stores(&mut self) {
        if self.config.store.is_none() {
            return;
        }
        let version = Some(self.log.membership_version());
        let Role::Leader(leader) = &self.role else { return };
        let is_known = self.stores.recorded_in == version;
        let must_wait = mutated!(NoRecordWhileJoint) && self.log.membership().is_joint();
        if is_known || leader.transfer.is_some() || must_wait {
            return;
        }
        match self.with_seen_stores() {
            Some(next) => self.append_membership(next),
            None => self.stores.recorded_in = version,
        }
    }

    /// Leader, when nothing else is being changed: makes a learner of a voter on another store.
    pub(crate) fn demote_strangers(&mut self) {
        if self.config.store.is_none() {
            return;
        }
        let version = Some(self.log.membership_version());
        if self.stores.settled_in == version || self.check_settled().is_err() {
            return;
        }
        let membership = self.log.membership();
        let rejected = membership
            .voters
            .iter()
            .copied()
            .find(|node| {
                *node != self.config.id
                    && self.stores.is_strange(membership, *node)
                    && self.is_heard_of_store(*node)
            })
            .filter(|_| !mutated!(StrangeStoreNotDemoted));
        let demoted = rejected.and_then(|node| Some((node, self.demoted(node)?)));
        let Some((node, next)) = demoted else {
            self.stores.settled_in = version;
            return;
        };
        let admitted = self.log.membership().stores.get(&node).copied();
        self.append_membership(next);
        // A store that has forgotten is recorded as it was: the log does not tell why its member is a learner.
        if let Some(admitted) = admitted.filter(|_| self.log.membership().learners.contains(&node))
        {
            self.stores.demoted.insert(node, admitted);
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

    /// Whom the group has promoted since it was demoted counts again, also here; and who was demoted for its store is
    /// remembered.
    pub(crate) fn follow_demotions(&mut self) {
        let after = self.stores.known_at.min(self.log.membership_at().prev());
        self.stores.known_at = self.log.membership_at();
        let Stores { forgetful, demoted, .. } = &mut self.stores;
        for (before, now) in self.log.membership_steps(after) {
            forgetful.retain(|node, _| !(now.is_voter(*node) && before.learners.contains(node)));
            let left = before.voters.iter().filter(|node| now.learners.contains(node));
            for node in left.filter(|node| !now.is_voter(**node)) {
                let (had, has) = (before.stores.get(node), now.stores.get(node));
                if let Some(had) = had.filter(|_| has.is_some() && had != has) {
                    demoted.insert(*node, *had);
                }
            }
        }
        let now = self.log.membership();
        demoted.retain(|node, _| now.learners.contains(node) && !now.is_voter(*node));
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
