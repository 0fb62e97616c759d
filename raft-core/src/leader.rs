//! The sending side of replication: proposals, the commit rule, and what each peer gets next (paper §5.3, §5.4).

use alloc::vec::Vec;

use bytes::Bytes;

use crate::forward::batch_bytes;
use crate::outbox::shrink;
use crate::progress::{Peer, Progress, Sent};
use crate::quorum::{quorum_reached, zones_reached};
use crate::role::{Leader, Role};
use crate::{
    Action, AppendOutcome, Body, Config, Entries, Index, Instant, LogPosition, Membership, Message,
    NodeId, PeerFault, ProposalId, Raft, Refusal, Resolution,
};

impl Raft {
    pub(crate) fn on_propose(&mut self, id: ProposalId, commands: Vec<Bytes>) {
        let is_leader = matches!(self.role, Role::Leader(_));
        let outcome = if !is_leader && self.config.forward_proposals {
            // Answered when the leader answers.
            self.forward(id, commands).map(|()| None)
        } else {
            self.append_batch(Some(id), commands).map(Some)
        };
        let term = self.term;
        let resolution = match outcome {
            Ok(None) => return,
            Ok(Some((first, count))) => Resolution::Appended { id, first, count, term },
            Err(reason) => Resolution::Refused { id, reason },
        };
        self.actions.push_back(Action::Resolve(resolution));
    }

    /// Appends a batch of proposals; `id` is `None` if another member will answer its proposer.
    pub(crate) fn append_batch(
        &mut self,
        id: Option<ProposalId>,
        commands: Vec<Bytes>,
    ) -> Result<(Index, u64), Refusal> {
        let leader_hint = self.leader();
        let Role::Leader(leader) = &mut self.role else {
            return Err(Refusal::NotLeader { leader: leader_hint });
        };
        if let Some(transfer) = leader.transfer.filter(|_| !mutated!(ProposalsDuringATransfer)) {
            return Err(Refusal::TransferInProgress { to: transfer.to });
        }
        let max_bytes = self.config.uncommitted_bytes_max;
        let bytes = batch_bytes(&commands, &self.config)?;
        let uncommitted_bytes = leader.proposals.bytes();
        if uncommitted_bytes + bytes > max_bytes && !mutated!(QuotaNotChecked) {
            return Err(Refusal::QuotaExceeded { uncommitted_bytes, max_bytes });
        }
        let count = commands.len() as u64;
        let first = self.log.append_commands(self.term, commands, bytes);
        leader.proposals.push(id, self.log.last(), bytes);
        Ok((first, count))
    }

    /// Commits what a quorum has, if it is of this term: entries of earlier terms are never committed by counting, only
    /// along with one of our own (paper §5.4.2, figure 8; scenario 10). The leader counts itself only as far as its own
    /// disk is.
    pub(crate) fn advance_commit(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        if !core::mem::take(&mut self.may_commit) || self.commit == self.log.last() {
            return;
        }
        let commit = self.commit;
        let membership = self.log.membership();
        // Where two voters are needed, one of them is a peer. So it is when the leader's own write completes first.
        let needs_peers = membership.voters.len() > 1;
        if needs_peers && leader.peers.iter().all(|(_, peer)| peer.matched <= commit) {
            return;
        }
        let reached = |node: NodeId| {
            if node == self.config.id && mutated!(LeaderCountsItselfBeforeDurable) {
                self.log.last()
            } else {
                self.counts_up_to(leader, membership, node)
            }
        };
        let mut index = quorum_reached(membership, reached);
        if let Some(groups) = &self.config.commit_groups
            && !mutated!(ZonesNotAsked)
            && let Some(in_zones) = zones_reached(membership, groups, reached)
        {
            index = index.min(in_zones);
        }
        let is_own =
            self.log.term_at(index) == Some(self.term) || mutated!(EarlierTermCommittedByCounting);
        if index > self.commit && is_own {
            self.commit = index;
            let Role::Leader(leader) = &mut self.role else { return };
            leader.proposals.release_through(if mutated!(QuotaLeaks) { Index(0) } else { index });
        }
    }

    /// Up to where a voter has the log for good: what it acknowledged, if that counts, or what is on the leader's own disk.
    #[inline]
    pub(crate) fn counts_up_to(
        &self,
        leader: &Leader,
        membership: &Membership,
        node: NodeId,
    ) -> Index {
        if node == self.config.id {
            self.log.durable()
        } else if self.stores.counts(membership, node) {
            leader.peers.get(node).map_or(Index(0), |peer| peer.matched)
        } else {
            Index(0)
        }
    }

    /// Gives every peer what it may have now.
    pub(crate) fn make_appends(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let last = self.log.last();
        // By number, since sending changes the peers; it neither adds nor removes one.
        for number in 0..leader.peers.len() {
            let Role::Leader(leader) = &self.role else { return };
            if let Some((node, peer)) = leader.peers.nth(number)
                && peer.next_to_send(last).is_some()
                && self.may_have_entries(node)
            {
                self.make_appends_to(node);
            }
        }
    }

    fn make_appends_to(&mut self, to: NodeId) {
        loop {
            let (last, base) = (self.log.last(), self.log.base().index);
            let Role::Leader(leader) = &self.role else { return };
            let Some(peer) = leader.peers.get(to) else { return };
            let is_witness = peer.is_witness;
            let last = if is_witness { self.last_for_witnesses(leader) } else { last };
            let Some(next) = peer.next_to_send(last) else { return };
            if next <= base && !mutated!(CompactedEntriesFetched) {
                // The log can no more say which term stands before `next`: only the snapshot helps.
                self.offer_snapshot(to);
                return;
            }
            let Some(budget) = peer.append_budget(&self.config) else { return };
            let entries = if is_witness && !mutated!(WitnessGetsCommands) {
                self.log.without_commands(next, last, budget)
            } else {
                self.log.slice(next, last, budget)
            };
            if entries.is_empty() && next <= last {
                // It is not in memory any more.
                let end = self.log.tail_first().prev();
                self.fetch(to, next, end, budget);
                return;
            }
            let is_all = entries.ends().is_none_or(|(_, end)| end >= last);
            self.send_append(to, next, entries);
            if is_all {
                return;
            }
        }
    }

    /// How far witnesses may have the log: as far as it would be committed if all of them had it, and no further than
    /// some full voter who stays. They complete a quorum of full voters, and need nothing before that; a witness alone
    /// with an entry that is lost would let nobody be elected. So such an entry is on this disk too, or, if this leader
    /// is on its way out and takes its disk along, on that of another.
    pub(crate) fn last_for_witnesses(&self, leader: &Leader) -> Index {
        let (last, durable) = (self.log.last(), self.log.durable());
        if mutated!(WitnessAheadOfTheLeadersDisk) {
            return last;
        }
        if mutated!(WitnessAheadOfWhoStays) {
            return durable;
        }
        let membership = self.log.membership();
        let reached = |node| {
            if membership.is_witness(node) {
                last
            } else {
                self.counts_up_to(leader, membership, node)
            }
        };
        let full = membership.voters.iter().filter(|node| !membership.is_witness(**node));
        let best = full.map(|node| reached(*node)).max().unwrap_or(durable);
        quorum_reached(membership, reached).min(best)
    }

    fn fetch(&mut self, to: NodeId, first: Index, last: Index, budget_bytes: usize) {
        let Some(peer) = self.peer_mut(to) else { return };
        if peer.fetching.is_none() {
            peer.fetching = Some(first);
            self.actions.push_back(Action::Fetch { peer: to, first, last, budget_bytes });
        }
    }

    fn send_append(&mut self, to: NodeId, next: Index, entries: Entries) {
        let Some(prev_term) = self.log.term_at(next.prev()) else { return };
        let prev = LogPosition { index: next.prev(), term: prev_term };
        let sent_last = entries.last().map_or(prev.index, |entry| entry.index);
        let bytes = entries.size_bytes();
        let (now, term, commit) = (self.now, self.term, self.commit);
        let Some(peer) = self.peer_mut(to) else { return };
        peer.told_commit = peer.told_commit.max(commit.min(peer.matched));
        match &mut peer.progress {
            Progress::Probe { outstanding, .. } => {
                *outstanding = Some(Sent { last: sent_last, bytes, at: now });
            }
            Progress::Replicate { next, in_flight } => {
                *next = sent_last.next();
                in_flight.add(sent_last, bytes, now);
            }
            Progress::Snapshot { .. } => return,
        }
        let message = Message { term, body: Body::Append { prev, entries, commit } };
        self.actions.push_back(Action::Send { to, message });
    }

    pub(crate) fn on_fetched(&mut self, to: NodeId, entries: Entries) {
        let owns = self.log.owns(&entries);
        let base = self.log.base().index;
        let Some(peer) = self.peer_mut(to) else { return };
        let Some(first) = peer.fetching.take() else { return };
        let is_wanted = peer.next() == Some(first) && first > base;
        let starts_right = entries.first().is_some_and(|entry| entry.index == first);
        if !is_wanted {
            // The world moved on while the disk was read: the peer has got on, or the log was compacted.
            return;
        }
        if (!owns || !starts_right) && !mutated!(FetchedEntriesUnchecked) {
            // Read under an earlier leadership, and overwritten since; or not what was asked for. Read anew, but not in
            // a tight loop.
            self.on_fetch_failed(to);
            return;
        }
        let Role::Leader(leader) = &self.role else { return };
        if self.may_have_entries(to)
            && leader.peers.get(to).is_some_and(|peer| peer.append_budget(&self.config).is_some())
        {
            self.send_append(to, first, entries);
        }
    }

    pub(crate) fn on_fetch_failed(&mut self, to: NodeId) {
        let now = self.now;
        if let Some(peer) = self.peer_mut(to) {
            peer.fetching = None;
            if let Some(next) = peer.next() {
                // Tried again at the next heartbeat, not at once: a disk that fails once may fail for a while.
                peer.probe_later(next, now);
            }
        }
    }

    pub(crate) fn on_append_response(
        &mut self,
        from: NodeId,
        outcome: AppendOutcome,
    ) -> Result<(), PeerFault> {
        let (now, last, write_time) = (self.now, self.log.last(), self.log.write_time());
        if !matches!(self.role, Role::Leader(_)) {
            return Ok(());
        }
        if let AppendOutcome::Accepted { matched } | AppendOutcome::Witnessed { matched } = outcome
            && matched > last
            && !mutated!(AckBeyondTheLogBelieved)
        {
            return Err(PeerFault::AcknowledgedTooMuch { matched, last });
        }
        let Some(peer) = self.peer_mut(from) else { return Ok(()) };
        if let AppendOutcome::Witnessed { matched } = outcome
            && !peer.is_witness
            && !mutated!(CommandsMissingBelieved)
        {
            return Err(PeerFault::CommandsMissing { matched });
        }
        peer.last_contact = now;
        match outcome {
            AppendOutcome::Accepted { matched } | AppendOutcome::Witnessed { matched } => {
                peer.on_matched(matched, now, write_time);
                peer.catch_up.on_matched(matched, last, now);
            }
            AppendOutcome::Rejected { prev, hint } => self.on_rejection(from, prev, hint),
        }
        Ok(())
    }

    fn on_rejection(&mut self, from: NodeId, rejected: Index, hint: LogPosition) {
        // Of who was removed no stores are noted any more: it may be on another one.
        let has_store = self.log.membership().contains(from) && self.stores.seen(from).is_some();
        let now = self.now;
        let Some(peer) = self.peer_mut(from) else { return };
        let has_forgotten = rejected <= peer.owed && !mutated!(LossOfWhatWasAcknowledgedForgiven);
        // Within one life a store keeps what it acknowledged: such an answer is older than the acknowledgement.
        let is_kept = has_store && !has_forgotten && !mutated!(LateRejectionTakesBack);
        let denies = hint.index.min(rejected.prev()) < peer.matched;
        let mut is_asked_again = false;
        let matched = match &peer.progress {
            // It denies what it acknowledged. It may be an old answer: only what it says twice is believed.
            Progress::Probe { next, .. }
                if next.prev() == rejected && denies && !has_forgotten && !peer.is_doubted =>
            {
                peer.is_doubted = true;
                is_asked_again = true;
                peer.matched
            }
            // Only an answer to the outstanding probe counts; even below what it once acknowledged, since a disk that lost
            // data must be filled again (scenario 35).
            Progress::Probe { next, .. }
                if next.prev() == rejected || mutated!(StaleRejectionBelieved) =>
            {
                if !is_kept && !mutated!(LostLogNotBelieved) {
                    peer.matched = peer.matched.min(hint.index);
                }
                peer.matched
            }
            // Something in the middle of the stream was lost. Below what it acknowledged since, the answer is an old one.
            Progress::Replicate { .. } if rejected > peer.matched => peer.matched,
            _ => return,
        };
        if has_forgotten {
            self.on_forgotten(from);
        }
        let bound = LogPosition { index: hint.index.min(rejected.prev()), term: hint.term };
        let agreed = self.log.may_agree_up_to(bound);
        let agreed = if agreed.index <= bound.index && agreed.term <= bound.term {
            agreed.index
        } else {
            // Not even the base agrees: the probe goes below it, where only the snapshot helps.
            self.log.base().index.prev()
        };
        let next = agreed.max(matched).next();
        let Some(peer) = self.peer_mut(from) else { return };
        if next <= rejected || is_asked_again || mutated!(ProbeRepeatedAtOnce) {
            peer.probe(next);
        } else {
            // Nothing was learned. Asked the same at once, it would say the same, and each copy of an answer would
            // beget another question.
            peer.probe_later(next, now);
        }
    }

    pub(crate) fn on_heartbeat_response(
        &mut self,
        from: NodeId,
        read_context: u64,
    ) -> Result<(), PeerFault> {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return Ok(()) };
        if read_context > leader.reads.last_context && !mutated!(UnknownReadContextBelieved) {
            return Err(PeerFault::UnknownReadContext { read_context });
        }
        if let Some(peer) = leader.peers.get_mut(from) {
            peer.last_contact = now;
            peer.read_context = peer.read_context.max(read_context);
            if let Some(sent_at) = leader.lease.sent_at(read_context) {
                let sent_at = if mutated!(LeaseFromTheAnswer) { now } else { sent_at };
                peer.lease_from = peer.lease_from.max(sent_at);
            }
            self.finish_reads();
            self.answer_reads_by_lease();
        }
        Ok(())
    }

    /// The connection broke: what was under way is taken for lost, and is looked for again from the next heartbeat on.
    pub(crate) fn on_unreachable(&mut self, node: NodeId) {
        let now = self.now;
        let Some(peer) = self.peer_mut(node) else { return };
        match &mut peer.progress {
            Progress::Probe { .. } => {}
            Progress::Replicate { .. } if mutated!(BrokenConnectionIgnored) => {}
            Progress::Replicate { .. } => {
                peer.probe_later(peer.matched.next(), now);
            }
            Progress::Snapshot { .. } => peer.on_stream_ended(now),
        }
    }

    pub(crate) fn on_heartbeat_time(&mut self) {
        let (now, interval) = (self.now, self.config.heartbeat_interval);
        let patience = self.config.election_timeout;
        let Role::Leader(leader) = &mut self.role else { return };
        if mutated!(NoHeartbeats) {
            return;
        }
        leader.heartbeat_deadline = now + interval;
        // A group that was busy once must not hold the room that it needed then for ever.
        leader.proposals.shrink();
        self.outbox.shrink();
        // A heartbeat is an action for each peer.
        shrink(&mut self.actions, leader.peers.len() + 2);
        self.log.shrink();
        let last = self.log.last();
        let mut silent = Vec::new();
        for (node, peer) in leader.peers.iter_mut() {
            if let Progress::Replicate { in_flight, .. } = &mut peer.progress {
                in_flight.shrink();
            }
            peer.repeat_what_is_lost(now, interval, patience);
            peer.catch_up.on_matched(peer.matched, last, now);
            if peer.has_waited(now, interval * HEARTBEATS_UNTIL_ASKED)
                && !mutated!(LostEndOfAStreamNotAskedFor)
            {
                silent.push(node);
            }
        }
        for node in silent {
            self.ask_for_end(node);
        }
        self.repeat_snapshot_offers();
        self.broadcast_heartbeat();
        self.dismiss_leaving_peers();
        self.repeat_or_end_transfer();
        self.leave_if_stalled();
    }

    /// Asks a peer whether it has what was streamed to it, by an append that ends there and holds nothing. If all is
    /// well it says nothing new; what was lost it rejects, so that it is sent again. (What was lost in the middle shows
    /// by itself, at the next append.)
    fn ask_for_end(&mut self, to: NodeId) {
        let (term, commit) = (self.term, self.commit);
        let Some(next) = self.peer_mut(to).and_then(|peer| peer.next()) else { return };
        let Some(prev_term) = self.log.term_at(next.prev()) else { return };
        let prev = LogPosition { index: next.prev(), term: prev_term };
        let message =
            Message { term, body: Body::Append { prev, entries: Entries::new(), commit } };
        self.actions.push_back(Action::Send { to, message });
    }

    /// Lets every peer hear from the leader. The commit index is bounded by what that peer acknowledged, so that it means
    /// the same entries there.
    pub(crate) fn broadcast_heartbeat(&mut self) {
        let (commit, now, window) = (self.commit, self.now, self.config.election_timeout);
        let has_leases = self.config.lease.is_some();
        let Role::Leader(leader) = &mut self.role else { return };
        // Each round has a context of its own, so that its answers tell when it left.
        leader.reads.last_context += u64::from(!mutated!(ReadContextReused));
        let read_context = leader.reads.last_context;
        if has_leases {
            leader.lease.note_sent(read_context, now, window);
        }
        let mut beats: Vec<(NodeId, Index)> = Vec::with_capacity(leader.peers.len());
        for (node, peer) in leader.peers.iter_mut() {
            let bound = if mutated!(HeartbeatCommitUnbounded) { commit } else { peer.matched };
            let commit = commit.min(bound);
            peer.told_commit = peer.told_commit.max(commit);
            beats.push((node, commit));
        }
        for (to, commit) in beats {
            self.send(to, Body::Heartbeat { commit, read_context });
        }
    }

    pub(crate) fn peer_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        match &mut self.role {
            Role::Leader(leader) => leader.peers.get_mut(node),
            _ => None,
        }
    }
}

/// An answer to an append is missed after so many heartbeat intervals.
const HEARTBEATS_UNTIL_ASKED: u32 = 2;

impl Peer {
    /// Whether an append of its stream has waited for that long.
    fn has_waited(&self, now: Instant, patience: core::time::Duration) -> bool {
        match &self.progress {
            Progress::Replicate { in_flight, .. } => {
                in_flight.oldest().is_some_and(|at| now.since(at) >= patience)
            }
            _ => false,
        }
    }

    /// The next index to send; `None` while a snapshot is on its way.
    fn next(&self) -> Option<Index> {
        match &self.progress {
            Progress::Probe { next, .. } | Progress::Replicate { next, .. } => Some(*next),
            Progress::Snapshot { .. } => None,
        }
    }

    /// The most bytes of entries in the next append; `None` if none may leave now.
    fn append_budget(&self, config: &Config) -> Option<usize> {
        let max = config.append_bytes_max;
        match &self.progress {
            Progress::Replicate { in_flight, .. } => in_flight
                .has_room(config.in_flight_messages_max, config.in_flight_bytes_max)
                .then(|| in_flight.budget_bytes(max)),
            Progress::Probe { outstanding, .. } => {
                (outstanding.is_none() && self.fetching.is_none()).then_some(max)
            }
            Progress::Snapshot { .. } => None,
        }
    }

    /// Where the next append starts, if one may leave: a probe leaves even if there is nothing new.
    fn next_to_send(&self, last: Index) -> Option<Index> {
        match &self.progress {
            Progress::Probe { next, outstanding: None } => Some(*next),
            Progress::Replicate { next, .. } if *next <= last => Some(*next),
            _ => None,
        }
    }

    /// At a heartbeat: lets go again what has waited too long for an answer.
    fn repeat_what_is_lost(
        &mut self,
        now: Instant,
        interval: core::time::Duration,
        patience: core::time::Duration,
    ) {
        let matched = self.matched;
        match &mut self.progress {
            Progress::Probe { outstanding, .. } => {
                *outstanding = outstanding.filter(|sent| now.since(sent.at) < interval);
            }
            Progress::Replicate { in_flight, .. } => {
                if in_flight.oldest().is_some_and(|at| now.since(at) >= patience) {
                    self.probe(matched.next());
                }
            }
            Progress::Snapshot { offered, offered_at, streaming, .. } => {
                // Whatever became of an offer, there is another: a trigger that is dropped once must not be the last
                // (scenario 38).
                // A slow link gets as long as it needs (scenario 45).
                let is_streaming = *streaming && !mutated!(SlowStreamOfferedAgain);
                let is_over = !is_streaming && now.since(*offered_at) >= patience;
                if is_over && !mutated!(LostOfferNotRepeated) {
                    *offered = None;
                }
            }
        }
    }
}
