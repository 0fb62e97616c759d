//! Snapshots and compaction: paper §7. The core decides who needs which snapshot; drivers carry the data.

use crate::progress::{Hold, Peer, Progress};
use crate::role::Role;
use crate::{
    Action, Body, CallerFault, Index, LogPosition, Message, NodeId, PeerFault, Raft, SnapshotMeta,
    SnapshotOutcome,
};

/// A snapshot on its way into this node.
#[derive(Debug)]
pub(crate) struct Incoming {
    snapshot: SnapshotMeta,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The driver collects its data. Can be given up at any time.
    Receiving,
    /// The state machine is being replaced. Nothing else may touch it.
    Installing,
}

impl Incoming {
    pub(crate) fn is_installing(&self) -> bool {
        self.phase == Phase::Installing
    }
}

/// Whether a snapshot has no configuration: a member that was added gets the log from its start, but not the configuration with which the group was founded.
fn tells_nobodys_group(meta: &SnapshotMeta) -> bool {
    meta.membership.voters.is_empty()
}

/// Whether a snapshot that was found at the start is one for others too. If it tells nobody's group, it only holds what is applied; unless the log was cut there already.
pub(crate) fn can_be_offered(meta: &SnapshotMeta, log: &crate::log::Log) -> bool {
    !tells_nobodys_group(meta)
        || log.base().index >= meta.position.index
        || mutated!(SnapshotOfNobodysGroupOffered)
}

impl Raft {
    /// The state machine has a durable snapshot: the log before it may go, but for a reserve for followers that lag.
    pub(crate) fn on_snapshot_taken(&mut self, meta: SnapshotMeta) -> Result<(), CallerFault> {
        let position = meta.position;
        let before = self.snapshot.as_ref().map_or(Index(0), |snapshot| snapshot.position.index);
        if position.index < before {
            // A report that was overtaken by a newer snapshot, or by one that was installed meanwhile.
            return Ok(());
        }
        let is_applied = position.index <= self.applied || mutated!(SnapshotBeyondAppliedBelieved);
        if !is_applied || !self.log.contains(position) {
            return Err(CallerFault::ImpossibleSnapshot { position });
        }
        if meta.membership != *self.log.membership_as_of(position.index)
            && !mutated!(SnapshotOfALaterConfiguration)
        {
            // Only the configuration as of there, which is committed (scenario 31).
            return Err(CallerFault::WrongMembership { position });
        }
        if tells_nobodys_group(&meta) && !mutated!(SnapshotOfNobodysGroupOffered) {
            // From before the entry that added this member. Who began from it would know of no group.
            return Ok(());
        }
        self.snapshot = Some(meta);
        self.compact_up_to(self.compactable(position.index));
        Ok(())
    }

    /// How far the log may go once a snapshot holds everything up to `index`: a reserve stays, and what a follower
    /// still needs that replicates or is being given a snapshot, as long as it does not lag too far.
    fn compactable(&self, index: Index) -> Index {
        let reserve = if mutated!(NothingRetained) { 0 } else { self.config.retained_entries };
        let reserved = Index(index.0.saturating_sub(reserve));
        let reserved = reserved.max(self.log.floor_within(index, self.config.retained_bytes));
        let Role::Leader(leader) = &self.role else { return reserved };
        let window = self.config.election_timeout;
        let is_heard = |peer: &&Peer| !peer.is_silent(self.now, window);
        let peers = leader.peers.iter().map(|(_, peer)| peer).filter(is_heard);
        let needs = peers.filter_map(|peer| peer.needs_log_after(self.now));
        let slowest = needs.min().unwrap_or(reserved);
        let budget = Index(reserved.0.saturating_sub(self.config.compaction_lag_max));
        let lag_bytes = self.config.compaction_lag_bytes_max;
        let budget = budget.max(self.log.floor_within(reserved, lag_bytes));
        if mutated!(SlowFollowerOutrun) {
            return reserved;
        }
        reserved.min(if mutated!(SlowFollowerHoldsTheLog) { slowest } else { slowest.max(budget) })
    }

    /// Witness: there is nothing to apply. What is committed counts as applied, and the log is cut as if a machine had
    /// taken a snapshot.
    pub(crate) fn pass_over_commands(&mut self) {
        let last = self.commit.min(self.log.durable());
        if last <= self.handed {
            return;
        }
        self.handed = last;
        self.applied = last;
        let kept = self.config.retained_entries.max(1);
        if last.0 - self.log.base().index.0 >= kept.saturating_mul(2)
            && let Some(term) = self.log.term_at(last)
        {
            let membership = self.log.membership_as_of(last).clone();
            let position = LogPosition { index: last, term };
            self.snapshot = Some(SnapshotMeta { position, membership });
            self.compact_up_to(Index(last.0 - kept));
        }
    }

    fn compact_up_to(&mut self, index: Index) {
        if index > self.log.base().index && index <= self.log.durable() {
            let through = self.log.compact(index);
            self.actions.push_back(Action::Compact { through });
        }
    }

    /// Leader: the peer needs entries that are gone.
    pub(crate) fn offer_snapshot(&mut self, to: NodeId) {
        let now = self.now;
        let Some(snapshot) = self.snapshot.clone() else { return };
        let Some(peer) = self.peer_mut(to) else { return };
        let offered = Some(snapshot.position);
        let hold = match &peer.progress {
            // It may be installing an earlier one, and goes on from there then.
            Progress::Snapshot { hold, .. } => *hold,
            _ => Hold::new(snapshot.position.index, now),
        };
        peer.progress = Progress::Snapshot { offered, offered_at: now, streaming: false, hold };
        self.send_now(to, Body::SnapshotOffer { snapshot });
    }

    /// Leader: repeats offers that were not answered, or whose stream failed.
    pub(crate) fn repeat_snapshot_offers(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let unanswered: alloc::vec::Vec<NodeId> = leader
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer.progress, Progress::Snapshot { offered: None, .. }))
            .map(|(node, _)| node)
            .collect();
        for node in unanswered {
            self.offer_snapshot(node);
        }
    }

    pub(crate) fn on_snapshot_response(
        &mut self,
        from: NodeId,
        position: LogPosition,
        outcome: SnapshotOutcome,
    ) -> Result<(), PeerFault> {
        let (now, term, last) = (self.now, self.term, self.log.last());
        let (latest, base) = (self.snapshot.clone(), self.log.base().index);
        let Some(peer) = self.peer_mut(from) else { return Ok(()) };
        if let SnapshotOutcome::Matched(matched) = outcome
            && matched > last
        {
            return Err(PeerFault::AcknowledgedTooMuch { matched, last });
        }
        peer.last_contact = now;
        if let SnapshotOutcome::Matched(matched) = outcome {
            peer.on_matched(matched, now, core::time::Duration::ZERO);
            if matched >= base
                && matches!(peer.progress, Progress::Snapshot { .. })
                && !mutated!(EarlierSnapshotNotEnough)
            {
                // It has less than was offered, but enough for the log to go on from there.
                peer.probe(matched.next());
            }
            return Ok(());
        }
        let Progress::Snapshot { offered, offered_at, streaming, hold } = &mut peer.progress else {
            return Ok(());
        };
        if *offered != Some(position) && !mutated!(AnswerToAnEarlierOfferBelieved) {
            return Ok(());
        }
        match (outcome, latest.filter(|snapshot| snapshot.position == position)) {
            (SnapshotOutcome::Wanted, Some(snapshot))
                if !*streaming || mutated!(SnapshotStreamedTwice) =>
            {
                *streaming = true;
                *hold = Hold::new(position.index, now);
                self.actions.push_back(Action::StreamSnapshot { to: from, term, snapshot });
            }
            (SnapshotOutcome::Wanted, Some(_)) => {}
            // A newer one was taken meanwhile: offer that (scenario 38).
            (SnapshotOutcome::Wanted, None) if !mutated!(NewerSnapshotNotOffered) => {
                *offered = None;
            }
            _ => {
                *streaming = false;
                *offered_at = now;
            }
        }
        Ok(())
    }

    /// The driver streams no more. Unless the receiver reports success, the latest snapshot is offered again after a
    /// while (scenario 45).
    pub(crate) fn on_snapshot_stream_ended(&mut self, to: NodeId, position: LogPosition) {
        let now = self.now;
        if let Some(peer) = self.peer_mut(to)
            && let Progress::Snapshot { offered, .. } = &peer.progress
            && (*offered == Some(position) || mutated!(EarlierStreamEndsTheLater))
        {
            peer.on_stream_ended(now);
        }
    }

    /// Follower: takes the offer, unless it has all that already.
    pub(crate) fn on_snapshot_offer(&mut self, from: NodeId, snapshot: SnapshotMeta) {
        let position = snapshot.position;
        if self.incoming.as_ref().is_some_and(Incoming::is_installing) {
            // Answered when the installation is over.
            return;
        }
        if position.index <= self.commit || self.log.contains(position) {
            // What a snapshot includes is committed, so the log matches at least up to there.
            self.learn_commit(position.index);
            self.note_verified(self.commit);
            let matched = self.commit.min(self.log.durable());
            if matched >= position.index {
                let outcome = SnapshotOutcome::Matched(matched);
                let body = Body::SnapshotResponse { position, outcome };
                let is_witness = self.config.is_witness;
                self.send(from, if is_witness { self.accepted(matched) } else { body });
            }
            // If it is not durable yet, the acknowledgement of appends will say so when it is.
            return;
        }
        if self.config.is_witness {
            self.skip_to(from, snapshot);
            return;
        }
        self.incoming = Some(Incoming { snapshot: snapshot.clone(), phase: Phase::Receiving });
        let term = self.term;
        self.actions.push_back(Action::ReceiveSnapshot { from, term, snapshot });
        self.send(from, Body::SnapshotResponse { position, outcome: SnapshotOutcome::Wanted });
    }

    /// Witness: a snapshot is its position and configuration; there is nothing to stream.
    fn skip_to(&mut self, from: NodeId, snapshot: SnapshotMeta) {
        let position = snapshot.position;
        self.log.reset(&snapshot);
        self.incoming = None;
        self.commit = position.index;
        self.handed = position.index;
        self.applied = position.index;
        self.snapshot = Some(snapshot);
        self.is_unverified = false;
        self.note_verified(position.index);
        let message = Message { term: self.term, body: self.accepted(position.index) };
        self.outbox.push(Some(self.log.next_ticket()), from, message);
    }

    pub(crate) fn on_snapshot_received(&mut self, meta: &SnapshotMeta) {
        let position = meta.position;
        let outcome = match &mut self.incoming {
            // A second copy, from an offer that was repeated just before the first arrived.
            Some(incoming) if incoming.is_installing() && incoming.snapshot == *meta => {
                return;
            }
            Some(incoming)
                if incoming.snapshot == *meta
                    && (position.index > self.commit || mutated!(SnapshotInstalledOverNewer)) =>
            {
                incoming.phase = Phase::Installing;
                self.actions.push_back(Action::InstallSnapshot(meta.clone()));
                return;
            }
            // Appends have caught up meanwhile; installing it would throw the machine back.
            _ if position.index <= self.commit => {
                SnapshotOutcome::Matched(self.commit.min(self.log.durable()))
            }
            // Given up by a campaign, or replaced by another offer: an older one perhaps, that came again late, whose snapshot had arrived before and is being
            // installed by now.
            _ => SnapshotOutcome::Failed,
        };
        self.incoming = self.incoming.take().filter(|incoming| incoming.snapshot != *meta);
        self.answer_leader(position, outcome);
    }

    fn answer_leader(&mut self, position: LogPosition, outcome: SnapshotOutcome) {
        let Role::Follower(follower) = &self.role else { return };
        if let Some(leader) = follower.leader {
            // If it says that the log matches, the log must be durable first.
            let until = Some(self.log.next_ticket())
                .filter(|_| self.log.has_unsaved() && !mutated!(InstalledReportedBeforeDurable));
            let message =
                Message { term: self.term, body: Body::SnapshotResponse { position, outcome } };
            self.outbox.push(until.or(self.term_dependency()), leader, message);
        }
    }

    pub(crate) fn on_snapshot_installed(&mut self, meta: SnapshotMeta) -> Result<(), CallerFault> {
        let position = meta.position;
        self.check_installing(&meta)?;
        self.incoming = None;
        let keeps_the_log = self.log.contains(position)
            || (mutated!(SnapshotKeepsAConflictingLog) && position.index <= self.log.last());
        let matched = if keeps_the_log {
            position.index.min(self.log.durable())
        } else {
            // Also a log that has another entry there goes whole (scenario 34): none of it is committed beyond.
            self.log.reset(&meta);
            position.index
        };
        self.commit = self.commit.max(position.index);
        self.handed = position.index;
        self.applied = position.index;
        self.snapshot = Some(meta);
        self.is_unverified = false;
        self.note_verified(position.index);
        self.answer_leader(position, SnapshotOutcome::Matched(matched));
        Ok(())
    }

    /// It was not received. If it is being installed, that was another copy: the leader had not heard yet that one had arrived.
    pub(crate) fn on_snapshot_failed(&mut self, meta: &SnapshotMeta) {
        if self.incoming.as_ref().is_some_and(|incoming| {
            (!incoming.is_installing() || mutated!(LateCopyFailsTheInstallation))
                && incoming.snapshot == *meta
        }) {
            self.incoming = None;
            self.answer_leader(meta.position, SnapshotOutcome::Failed);
        }
    }

    pub(crate) fn on_snapshot_install_failed(
        &mut self,
        meta: &SnapshotMeta,
    ) -> Result<(), CallerFault> {
        self.check_installing(meta)?;
        self.incoming = None;
        self.answer_leader(meta.position, SnapshotOutcome::Failed);
        Ok(())
    }

    fn check_installing(&self, meta: &SnapshotMeta) -> Result<(), CallerFault> {
        match &self.incoming {
            Some(incoming) if incoming.is_installing() && incoming.snapshot == *meta => Ok(()),
            _ => Err(CallerFault::UnexpectedSnapshot { position: meta.position }),
        }
    }

    fn note_verified(&mut self, index: Index) {
        if let Role::Follower(follower) = &mut self.role {
            follower.acks.verified = follower.acks.verified.max(index);
        }
    }

    fn send_now(&mut self, to: NodeId, body: Body) {
        let message = Message { term: self.term, body };
        self.actions.push_back(Action::Send { to, message });
    }
}
