//! The receiving side of replication: paper §5.3 and figure 2, "`AppendEntries` RPC".

use crate::entry::Kinds;
use crate::lease::Promise;
use crate::role::{Acks, Role};
use crate::{
    AppendOutcome, Body, Entries, Index, LogPosition, NodeId, Payload, PeerFault, Raft,
    SnapshotMeta, Term,
};

impl Raft {
    /// Anything that only a leader says.
    pub(crate) fn on_leader_message(
        &mut self,
        from: NodeId,
        term: Term,
        body: Body,
    ) -> Result<(), PeerFault> {
        if term < self.term && !mutated!(LeaderOfAnEarlierTermBelieved) {
            // A leader of the past: our term tells it so.
            self.send(from, Body::HeartbeatResponse { read_context: 0 });
            return Ok(());
        }
        match &body {
            Body::Append { prev, entries, .. } => {
                check_entries(term, *prev, entries)?;
                self.check_against_commit(*prev, entries)?;
                self.check_commands(entries)?;
            }
            Body::SnapshotOffer { snapshot } => {
                check_offer(term, snapshot)?;
                self.check_against_commit(snapshot.position, &Entries::new())?;
            }
            _ => {}
        }
        self.follow(from, term)?;
        match body {
            Body::Append { prev, entries, commit } => self.on_append(from, prev, entries, commit),
            Body::Heartbeat { commit, read_context } => {
                self.on_heartbeat(from, commit, read_context);
            }
            Body::SnapshotOffer { snapshot } => self.on_snapshot_offer(from, snapshot),
            Body::TimeoutNow => self.on_timeout_now(),
            _ => {}
        }
        Ok(())
    }

    /// Recognizes `from` as the leader of `term`, and puts off the next election.
    fn follow(&mut self, from: NodeId, term: Term) -> Result<(), PeerFault> {
        let known = self.leader().filter(|_| term == self.term);
        if let Some(leader) =
            known.filter(|&leader| leader != from && !mutated!(SecondLeaderFollowed))
        {
            return Err(PeerFault::SecondLeader { term, leader });
        }
        let until = self.now + self.config.election_timeout;
        self.promise = Promise { to: Some(from), until };
        let election_deadline = self.next_election_deadline();
        match &mut self.role {
            Role::Follower(follower) if known.is_some() => {
                follower.election_deadline = election_deadline;
            }
            _ => self.become_follower(term, Some(from)),
        }
        Ok(())
    }

    fn on_append(
        &mut self,
        from: NodeId,
        prev: LogPosition,
        mut entries: Entries,
        leader_commit: Index,
    ) {
        let last = entries.last().map_or(prev, super::entry::Entry::position);
        let (mut prev, commit) = (prev, self.commit);
        if prev.index < commit {
            // What is committed here is in every leader's log (leader completeness, paper §5.4.3): it need not be compared.
            entries.drop_before(commit.next());
            prev =
                LogPosition { index: commit, term: self.log.term_at(commit).unwrap_or(prev.term) };
        }
        if !self.log.contains(prev) && !mutated!(PreviousEntryUnchecked) {
            let hint =
                self.log.may_agree_up_to(LogPosition { index: prev.index.prev(), term: prev.term });
            let hint = if mutated!(HintWithoutTerms) {
                LogPosition { index: prev.index.prev(), term: prev.term }
            } else {
                hint
            };
            self.send(
                from,
                Body::AppendResponse(AppendOutcome::Rejected { prev: prev.index, hint }),
            );
            return;
        }
        let matched = last.index.max(prev.index);
        self.is_unverified = false;
        self.append_new(entries);
        if let Role::Follower(follower) = &mut self.role {
            let acks = &mut follower.acks;
            acks.verified = acks.verified.max(matched);
            acks.is_due |= matched <= self.log.durable();
        }
        let bound = if mutated!(CommitBeyondWhatMatches) { self.log.last() } else { matched };
        self.learn_commit(leader_commit.min(bound));
    }

    /// A full member has every command of its log, and a witness none. So who says that it has an entry has what the
    /// group counts on, whatever its leader takes it for.
    fn check_commands(&self, entries: &Entries) -> Result<(), PeerFault> {
        let refused = if self.config.is_witness { Kinds::COMMAND } else { Kinds::WITHHELD };
        if !entries.kinds().may_include(refused) {
            return Ok(());
        }
        for entry in entries.iter() {
            let index = entry.index;
            match entry.payload {
                Payload::Withheld
                    if !self.config.is_witness && !mutated!(WithheldCommandBelieved) =>
                {
                    return Err(PeerFault::WithheldCommand { index });
                }
                Payload::Command(_)
                    if self.config.is_witness && !mutated!(CommandForAWitnessBelieved) =>
                {
                    return Err(PeerFault::CommandForWitness { index });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what contradicts a committed entry: no leader could send it.
    fn check_against_commit(&self, prev: LogPosition, entries: &Entries) -> Result<(), PeerFault> {
        if prev.index > self.commit {
            return Ok(());
        }
        let contradicts = |position: LogPosition| {
            position.index <= self.commit
                && !mutated!(CommittedEntryReplaced)
                && self.log.term_at(position.index).is_some_and(|term| term != position.term)
        };
        // By log matching the last committed position among the entries speaks for those before it.
        let last_committed =
            entries.get(self.commit.min(entries.last().map_or(Index(0), |entry| entry.index)));
        for position in
            [Some(prev), last_committed.map(super::entry::Entry::position)].into_iter().flatten()
        {
            if contradicts(position) {
                return Err(PeerFault::OverwritesCommitted { index: position.index });
            }
        }
        Ok(())
    }

    /// Appends what the log lacks. Only a real conflict truncates: a delayed append that matches must not (scenario 13).
    fn append_new(&mut self, mut entries: Entries) {
        let Some((first, _)) = entries.ends() else { return };
        if first > self.log.last() {
            // Nearly always: there is nothing to compare.
            self.log.append_entries(entries);
            return;
        }
        let fresh = entries
            .iter()
            .find(|entry| {
                mutated!(AppendTruncatesWhatMatches)
                    || self.log.term_at(entry.index) != Some(entry.term)
            })
            .map(|entry| entry.index);
        let Some(fresh) = fresh else { return };
        if fresh <= self.log.last() {
            self.log.truncate_from(fresh);
            if let Role::Follower(follower) = &mut self.role {
                // Cannot happen within one leader's term, since it never contradicts itself; kept so that acknowledgements never
                // outlive what they were for.
                follower.acks.verified = follower.acks.verified.min(fresh.prev());
            }
        }
        entries.drop_before(fresh);
        self.log.append_entries(entries);
    }

    fn on_heartbeat(&mut self, from: NodeId, commit: Index, read_context: u64) {
        // The leader bounds it by what this node acknowledged in this term, and that was durable: the entries up to
        // there are the leader's, even if this node has restarted since. Where stores are told apart that is not taken
        // on trust: the leader sees the new life and sends a probe, and what that confirms is believed.
        if !self.is_unverified || mutated!(CommitBelievedBeforeComparing) {
            self.learn_commit(commit);
        }
        self.send(from, Body::HeartbeatResponse { read_context });
    }

    /// Learns from the leader what is committed (paper §5.3); never goes back.
    pub(crate) fn learn_commit(&mut self, commit: Index) {
        let known = if mutated!(CommitGoesBack) { Index(0) } else { self.commit };
        self.commit = known.max(commit.min(self.log.last()));
        if let Role::Follower(follower) = &mut self.role
            && !follower.forwards.is_empty()
        {
            follower.forwards.release_through(self.commit);
        }
    }

    /// Says that its log equals the leader's up to `matched`. A witness always says that it is one: the group may take
    /// it for a full member.
    pub(crate) fn accepted(&self, matched: Index) -> Body {
        Body::AppendResponse(if self.config.is_witness {
            AppendOutcome::Witnessed { matched }
        } else {
            AppendOutcome::Accepted { matched }
        })
    }

    /// Acknowledges what is durable by now, once for all appends since the last time.
    pub(crate) fn make_acknowledgement(&mut self) {
        if self.term_dependency().is_some() && !mutated!(AcknowledgedBeforeItsTermIsDurable) {
            return;
        }
        let durable =
            if mutated!(AcknowledgedBeforeDurable) { self.log.last() } else { self.log.durable() };
        let term = self.term;
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(leader) = follower.leader else { return };
        let Acks { verified, acked, is_due } = &mut follower.acks;
        let matched = durable.min(*verified);
        if matched > *acked || *is_due {
            *is_due = false;
            *acked = matched;
            let body = self.accepted(matched);
            let message = crate::Message { term, body };
            self.actions.push_back(crate::Action::Send { to: leader, message });
        }
    }
}

/// Checks what can be checked of an append without looking at any state.
fn check_entries(term: Term, prev: LogPosition, entries: &Entries) -> Result<(), PeerFault> {
    if prev.term > term {
        return Err(PeerFault::PositionFromTheFuture { position: prev, term });
    }
    let Some((first, last)) = entries.first().zip(entries.last()) else { return Ok(()) };
    if prev.index.0.checked_add(1) != Some(first.index.0) || first.term < prev.term {
        return Err(PeerFault::BrokenRun { prev });
    }
    if last.index > Index::MAX {
        return Err(PeerFault::ImpossibleIndex { index: last.index });
    }
    if last.term > term {
        return Err(PeerFault::EntryFromTheFuture { entry_term: last.term, term });
    }
    let is_valid =
        |payload: &Payload| !matches!(payload, Payload::Membership(members) if !members.is_valid());
    if entries.kinds().may_include(Kinds::MEMBERSHIP)
        && !entries.iter().all(|entry| is_valid(&entry.payload))
    {
        return Err(PeerFault::ImpossibleMembership);
    }
    Ok(())
}

/// The same of a snapshot that is offered.
fn check_offer(term: Term, snapshot: &SnapshotMeta) -> Result<(), PeerFault> {
    let position = snapshot.position;
    if position.term > term {
        return Err(PeerFault::PositionFromTheFuture { position, term });
    }
    if position.index > Index::MAX {
        return Err(PeerFault::ImpossibleIndex { index: position.index });
    }
    if !snapshot.membership.is_valid() {
        return Err(PeerFault::ImpossibleMembership);
    }
    Ok(())
}
