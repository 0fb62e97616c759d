//! Elections: paper §5.2 and §5.4.1, pre-votes after dissertation §9.6, and the protection from disturbers of
//! dissertation §4.2.3.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use core::time::Duration;

use crate::lease::Lease;
use crate::peers::Peers;
use crate::progress::Peer;
use crate::rng::Rng;
use crate::role::{Answer, Candidate, Leader, PreCandidate, Proposals, Reads, Role, Votes};
use crate::snapshots::Incoming;
use crate::{
    Body, Config, Index, Instant, LogPosition, Message, NodeId, PeerFault, Raft, StorageHealth,
    StoreStamp, Term,
};

/// How long a member waits for a leader: one to two election timeouts, drawn at random (paper §5.2), and one more for
/// each step that its priority lies below the highest. So those of high priority get the first chance, and nobody waits
/// for ever.
pub(crate) fn patience(config: &Config, rng: &mut Rng) -> Duration {
    rng.jittered(config.election_timeout) + priority_delay(config)
}

/// How much of that is due to a low priority.
pub(crate) fn priority_delay(config: &Config) -> Duration {
    let steps = Config::PRIORITY_MAX.saturating_sub(config.priority);
    let steps = if mutated!(PriorityIgnored) { 0 } else { u32::from(steps) };
    let steps = if mutated!(LowPriorityWaitsForEver) { steps * 1_000 } else { steps };
    // Nearly every member has the highest priority.
    if steps == 0 { Duration::ZERO } else { config.election_timeout * steps }
}

/// By how much terms may rise from one start of a member to the next, beside one for each millisecond in between: that
/// is how far elsewhere a group may have got while this member was away, and far more than elections lead to. (Each takes
/// an election timeout, and a majority.)
const TERM_RISE_MAX: u64 = 1 << 40;

impl Raft {
    /// Sorts a message by its term, before anything else is believed of it (paper §5.1).
    pub(crate) fn on_message(
        &mut self,
        from: NodeId,
        store: Option<StoreStamp>,
        message: Message,
    ) -> Result<(), PeerFault> {
        let Message { term, body } = message;
        if from == self.config.id {
            return Err(PeerFault::OwnId);
        }
        if term == Term(0) || term > Term::MAX {
            return Err(PeerFault::ImpossibleTerm { term });
        }
        if term > self.term && term > self.believable_term() {
            return Err(PeerFault::TermTooFar { term, believable: self.believable_term() });
        }
        self.note_store(from, term, store)?;
        match body {
            Body::PreVote { last } => self.on_pre_vote(from, term, last),
            Body::PreVoteResponse { granted } => {
                self.on_pre_vote_response(from, term, granted);
                Ok(())
            }
            Body::Vote { last, transfer } => self.on_vote(from, term, last, transfer),
            Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::SnapshotOffer { .. }
            | Body::TimeoutNow => self.on_leader_message(from, term, body),
            _ if self.meets_term(term) => self.on_answer(from, body),
            _ => Ok(()),
        }
    }

    /// What is said within the current term, to whoever started it.
    fn on_answer(&mut self, from: NodeId, body: Body) -> Result<(), PeerFault> {
        match body {
            Body::VoteResponse { granted } => self.on_vote_response(from, granted),
            Body::AppendResponse(outcome) => return self.on_append_response(from, outcome),
            Body::HeartbeatResponse { read_context } => {
                return self.on_heartbeat_response(from, read_context);
            }
            Body::SnapshotResponse { position, outcome } => {
                return self.on_snapshot_response(from, position, outcome);
            }
            Body::ReadIndex { context } => self.on_read_index(from, context),
            Body::ReadIndexResponse { context, index } => {
                self.on_read_index_response(from, context, index);
            }
            Body::Forward { id, commands } => self.on_forward(from, id, commands),
            Body::ForwardResponse { id, outcome } => self.on_forward_response(from, id, outcome),
            // Sorted out before.
            Body::PreVote { .. }
            | Body::PreVoteResponse { .. }
            | Body::Vote { .. }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::SnapshotOffer { .. }
            | Body::TimeoutNow => {}
        }
        Ok(())
    }

    /// The highest term that elections can have led to, as far as this member can tell. A group that is in a term
    /// without a successor has had its last election; so no message may lead there, nor any number of them.
    pub(crate) fn believable_term(&self) -> Term {
        if self.is_newcomer() {
            return Term::MAX;
        }
        let (began_in, since) = self.began;
        let millis = self.now.micros_since(since) / 1_000;
        Term(began_in.0.saturating_add(TERM_RISE_MAX).saturating_add(millis)).min(Term::MAX)
    }

    /// Whether it joins a group of which it knows nothing, nor how old that is.
    pub(crate) fn is_newcomer(&self) -> bool {
        self.term == Term(0) && self.log.last() == Index(0) && self.membership().is_empty()
    }

    /// Follows a higher term; says whether `term` is the current one. An answer of an older term is nobody's any more.
    fn meets_term(&mut self, term: Term) -> bool {
        if term > self.term && !mutated!(HigherTermOfAnAnswerIgnored) {
            self.become_follower(term, None);
        }
        term == self.term || mutated!(AnswerOfAnEarlierTermCounts)
    }

    /// The next time to wait for, if nothing is heard until then.
    pub(crate) fn next_election_deadline(&mut self) -> Instant {
        self.now + patience(&self.config, &mut self.rng)
    }

    /// Whether it may become a candidate: a full voter, on the store that it was admitted with, that is not being
    /// replaced by a snapshot.
    pub(crate) fn can_campaign(&self) -> bool {
        let (id, membership) = (self.config.id, self.log.membership());
        (membership.is_voter(id) || mutated!(LearnerCampaigns))
            && ((!membership.is_witness(id) && !self.config.is_witness)
                || mutated!(WitnessCampaigns))
            && (!self.incoming.as_ref().is_some_and(Incoming::is_installing)
                || mutated!(CampaignWhileInstalling))
            && self.may_campaign()
            && self.term.next().is_some()
    }

    pub(crate) fn on_election_timeout(&mut self) {
        let is_stalled = self.health == StorageHealth::Stalled && !mutated!(StalledMemberCampaigns);
        let next_term = self.term.next().filter(|_| self.can_campaign() && !is_stalled);
        let Some(next_term) = next_term else {
            self.become_follower(self.term, None);
            return;
        };
        self.incoming = None;
        if mutated!(NoPreVote) {
            return self.campaign(false);
        }
        let election_deadline = self.next_election_deadline();
        let mut votes = Votes::default();
        votes.note(self.config.id, Answer::Granted);
        self.transition(Role::PreCandidate(PreCandidate { votes, election_deadline }));
        let last = self.log.last_position();
        for peer in self.other_voters() {
            self.outbox.push(
                self.term_dependency(),
                peer,
                Message { term: next_term, body: Body::PreVote { last } },
            );
        }
        self.count_pre_votes();
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let membership = self.log.membership();
        membership
            .members()
            .filter(|&node| node != self.config.id && membership.is_voter(node))
            .collect()
    }

    fn on_pre_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last: LogPosition,
    ) -> Result<(), PeerFault> {
        if last.term >= term {
            return Err(PeerFault::PositionFromTheFuture { position: last, term });
        }
        let could_vote =
            term > self.term || (term == self.term && self.vote.is_none_or(|vote| vote == from));
        let granted = could_vote
            && (last.is_up_to_date_with(self.log.last_position())
                || mutated!(PreVoteForAShorterLog))
            && self.may_vote_for(last)
            && !self.has_promised_another(from);
        // Nothing changes here, the election timer least of all (scenario 7). A refusal carries our own term, so that
        // whoever lags behind in terms learns of it (scenarios 4 and 5).
        if granted && mutated!(PreVotePutsOffTheElection) {
            self.become_follower(self.term, None);
        }
        let answer_term = if granted { term } else { self.term };
        if answer_term > Term(0) {
            self.outbox.push(
                self.term_dependency(),
                from,
                Message { term: answer_term, body: Body::PreVoteResponse { granted } },
            );
        }
        Ok(())
    }

    fn on_pre_vote_response(&mut self, from: NodeId, term: Term, granted: bool) {
        if !granted && term > self.term && !mutated!(TermOfARefusalIgnored) {
            self.become_follower(term, None);
            return;
        }
        let answer = self.answer_of(from, granted);
        // A refusal carries the voter's own term, so that one of an earlier round can not be told from one of this.
        if let Role::PreCandidate(candidate) = &mut self.role
            && let Some(answer) = answer
            && (!granted || Some(term) == self.term.next())
        {
            candidate.votes.note(from, answer);
            self.count_pre_votes();
        }
    }

    /// What an answer to a request for votes amounts to; `None` if it comes from no voter. Whoever asks keeps one for
    /// each voter at most.
    fn answer_of(&self, from: NodeId, granted: bool) -> Option<Answer> {
        let membership = self.log.membership();
        if !membership.is_voter(from) && !mutated!(StrangersAnswersKept) {
            return None;
        }
        Some(match self.stores.uncounted(membership, from) {
            _ if !granted => Answer::Refused,
            None => Answer::Granted,
            Some(because) => Answer::Uncounted(because),
        })
    }

    fn count_pre_votes(&mut self) {
        let Role::PreCandidate(candidate) = &self.role else { return };
        if self.electorate().has_quorum(|node| candidate.votes.has_granted(node)) {
            self.campaign(false);
        }
    }

    /// Raises the term and asks for votes. They leave, and its own vote counts, once the vote for itself is durable.
    pub(crate) fn campaign(&mut self, transfer: bool) {
        let Some(term) = self.term.next() else { return };
        self.term = term;
        self.vote = Some(self.config.id);
        self.outbox.clear();
        self.incoming = None;
        let election_deadline = self.next_election_deadline();
        let own_vote = self.log.next_ticket();
        self.transition(Role::Candidate(Candidate {
            votes: Votes::default(),
            own_vote,
            election_deadline,
        }));
        let last = self.log.last_position();
        for peer in self.other_voters() {
            self.send(peer, Body::Vote { last, transfer });
        }
    }

    fn on_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last: LogPosition,
        transfer: bool,
    ) -> Result<(), PeerFault> {
        if last.term >= term {
            return Err(PeerFault::PositionFromTheFuture { position: last, term });
        }
        if term > self.term {
            if !transfer && self.has_promised_another(from) {
                return Ok(());
            }
            self.become_follower(term, None);
        }
        let granted = term == self.term
            && (self.vote.is_none_or(|vote| vote == from) || mutated!(VoteTwiceInATerm))
            && self.leader().is_none()
            && (last.is_up_to_date_with(self.log.last_position()) || mutated!(VoteForAShorterLog))
            && self.may_vote_for(last)
            && ((transfer && !mutated!(PromiseHoldsBackATransfer))
                || !self.has_promised_another(from));
        if granted {
            // A pre-candidate gives up its own plans; the timer starts anew for everybody who votes (paper §5.2).
            self.become_follower(term, None);
            self.vote = Some(from);
        }
        self.send(from, Body::VoteResponse { granted });
        Ok(())
    }

    fn on_vote_response(&mut self, from: NodeId, granted: bool) {
        let answer = self.answer_of(from, granted);
        if let Role::Candidate(candidate) = &mut self.role
            && let Some(answer) = answer
        {
            candidate.votes.note(from, answer);
            self.count_votes();
        }
    }

    pub(crate) fn count_own_vote(&mut self) {
        let id = self.config.id;
        if let Role::Candidate(candidate) = &mut self.role
            && (self.log.is_write_durable(candidate.own_vote)
                || mutated!(OwnVoteCountedBeforeDurable))
            && !candidate.votes.has_granted(id)
        {
            candidate.votes.note(id, Answer::Granted);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let Role::Candidate(candidate) = &self.role else { return };
        // Without its own durable vote it could lead a term in which it votes for another after a restart.
        let votes = &candidate.votes;
        let has_voted = votes.has_granted(self.config.id);
        if has_voted && self.electorate().has_quorum(|node| votes.has_granted(node)) {
            self.become_leader();
        }
    }

    fn become_leader(&mut self) {
        let now = self.now;
        let next = self.log.last().next();
        let id = self.config.id;
        let membership = self.log.membership();
        let peers: Peers = membership
            .members()
            .filter(|&node| node != id)
            .map(|node| {
                let is_witness = membership.is_witness(node);
                (node, Peer { is_witness, ..Peer::new(next, now) })
            })
            .collect();
        self.transition(Role::Leader(Leader {
            peers,
            term_start: next,
            heartbeat_deadline: now + self.config.heartbeat_interval,
            quorum_deadline: now + self.config.election_timeout,
            proposals: Proposals::default(),
            reads: Reads::default(),
            lease: Lease::default(),
            change: None,
            transfer: None,
            passed_over: BTreeSet::new(),
            forwarded: BTreeMap::new(),
        }));
        // The entry of its own that lets it commit what its predecessors left (paper §8, dissertation §6.4).
        let first = self.first_payload();
        if !mutated!(NoEntryOfItsOwn) {
            self.log.append_payload(self.term, first);
        }
        self.leave_if_stalled();
    }

    /// Steps down if no quorum was heard from within an election timeout (dissertation §6.2): a leader that is cut off
    /// must not keep its clients waiting.
    pub(crate) fn check_quorum(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let is_heard = |node| self.is_heard(leader, node);
        if self.log.membership().has_quorum(is_heard) || mutated!(NoCheckQuorum) {
            let until = self.now + self.config.election_timeout / 2;
            if let Role::Leader(leader) = &mut self.role {
                leader.quorum_deadline = until;
            }
        } else {
            self.become_follower(self.term, None);
        }
    }

    /// Whether a leader's member counts, and was heard from within an election timeout.
    pub(crate) fn is_heard(&self, leader: &Leader, node: NodeId) -> bool {
        let window = self.config.election_timeout;
        node == self.config.id
            || (self.stores.counts(self.log.membership(), node)
                && leader.peers.get(node).is_some_and(|peer| !peer.is_silent(self.now, window)))
    }
}
