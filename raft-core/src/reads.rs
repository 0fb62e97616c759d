//! Linearizable reads without writing to the log: `ReadIndex`, dissertation §6.4, at the leader and at others.

use crate::role::{Leader, Question, Questions, ReadRound, Reader, Reads, Role};
use crate::{Action, Body, Index, NodeId, Raft, ReadAt, ReadId, Refusal, Resolution};

impl Raft {
    pub(crate) fn on_read(&mut self, id: ReadId, at: ReadAt) {
        if let Err(reason) = self.queue_read(id, at) {
            self.actions.push_back(Action::Resolve(Resolution::ReadRefused { id, reason }));
        }
    }

    fn queue_read(&mut self, id: ReadId, at: ReadAt) -> Result<(), Refusal> {
        let (hint, max) = (self.leader(), self.config.waiting_reads_max);
        let has_room = |waiting: usize| {
            if waiting < max { Ok(()) } else { Err(Refusal::TooManyReads { waiting }) }
        };
        let is_witness = self.config.is_witness;
        match &mut self.role {
            Role::Leader(leader) => {
                has_room(leader.reads.len())?;
                leader.reads.waiting.push(Reader::Here(id));
                Ok(())
            }
            Role::Follower(_) if is_witness && !mutated!(WitnessAnswersReads) => {
                Err(Refusal::WitnessHasNoState { leader: hint })
            }
            Role::Follower(follower) if at == ReadAt::AnyMember && hint.is_some() => {
                has_room(follower.questions.len())?;
                follower.questions.waiting.push(id);
                Ok(())
            }
            _ => Err(Refusal::NotLeader { leader: hint }),
        }
    }

    /// Asks, for all reads that wait, in one round of heartbeats, whether this is still the leader. Not before an entry
    /// of its own term is committed: until then its commit index may lie behind its predecessor's (scenario 20).
    pub(crate) fn start_read_rounds(&mut self) {
        if matches!(&self.role, Role::Leader(leader) if !leader.reads.waiting.is_empty()) {
            self.answer_reads_by_lease();
            self.start_read_round();
        }
    }

    fn start_read_round(&mut self) {
        let commit = self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        let Leader { reads, term_start, .. } = leader;
        let is_own = commit >= *term_start || mutated!(ReadBeforeOwnTermCommit);
        let is_ready = is_own && reads.rounds.len() < Reads::ROUNDS_MAX;
        if reads.waiting.is_empty() || !is_ready {
            return;
        }
        let readers = core::mem::take(&mut reads.waiting);
        self.broadcast_heartbeat();
        let Role::Leader(leader) = &mut self.role else { return };
        let context = leader.reads.last_context;
        leader.reads.rounds.push_back(ReadRound { context, index: commit, readers });
        self.finish_reads();
    }

    /// Answers the rounds that a quorum has confirmed. An answer to a context confirms the earlier ones too.
    pub(crate) fn finish_reads(&mut self) {
        let id = self.config.id;
        loop {
            let Role::Leader(leader) = &mut self.role else { return };
            let Leader { peers, reads, .. } = leader;
            let Some(round) = reads.rounds.front() else { return };
            let membership = self.log.membership();
            let has_answered = |node| {
                let peer = peers.get(node);
                node == id
                    || (self.stores.counts(membership, node)
                        && peer.is_some_and(|peer| peer.read_context >= round.context))
            };
            if !membership.has_quorum(has_answered) && !mutated!(ReadWithoutAQuorum) {
                return;
            }
            if let Some(ReadRound { index, readers, .. }) = reads.rounds.pop_front() {
                self.answer(readers, index);
            }
        }
    }

    /// Answers everything that waits at once, if there is a lease.
    pub(crate) fn answer_reads_by_lease(&mut self) {
        let commit = self.commit;
        let Role::Leader(leader) = &self.role else { return };
        let is_own = commit >= leader.term_start || mutated!(LeaseReadBeforeOwnTermCommit);
        if leader.reads.waiting.is_empty() || !is_own {
            return;
        }
        let has_lease = self.lease_until().is_some();
        let Role::Leader(leader) = &mut self.role else { return };
        if has_lease {
            let readers = core::mem::take(&mut leader.reads.waiting);
            self.answer(readers, commit);
        }
    }

    fn answer(&mut self, readers: alloc::vec::Vec<Reader>, index: Index) {
        for reader in readers {
            match reader {
                Reader::Here(id) => self.actions.push_back(ready(id, index)),
                Reader::Peer { node, context } => {
                    let index = Some(index);
                    self.send(node, Body::ReadIndexResponse { context, index });
                }
            }
        }
    }

    /// Leader: another member asks for an index.
    pub(crate) fn on_read_index(&mut self, from: NodeId, context: u64) {
        let max = self.config.waiting_reads_max;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.peers.contains(from) && leader.reads.len() < max {
            leader.reads.waiting.push(Reader::Peer { node: from, context });
        } else {
            self.send(from, Body::ReadIndexResponse { context, index: None });
        }
    }

    /// Follower: asks the leader for an index, for all reads that wait. Contexts are unique, across restarts too: an old
    /// answer must never pass for a new one (scenario 21).
    pub(crate) fn ask_for_index(&mut self) {
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(leader) = follower.leader else { return };
        let Questions { waiting, asked } = &mut follower.questions;
        if waiting.is_empty() || asked.len() >= Questions::ASKED_MAX {
            return;
        }
        let deadline = self.now + self.config.election_timeout;
        let mut context = self.nonce.context(self.questions_asked);
        if mutated!(QuestionsOfAllLivesAlike) {
            context = self.questions_asked;
        }
        asked.push_back(Question { context, reads: core::mem::take(waiting), deadline });
        self.questions_asked += 1;
        self.send(leader, Body::ReadIndex { context });
    }

    /// Follower: the leader has named the index, in the term in which it was asked (a new term drops all questions).
    pub(crate) fn on_read_index_response(
        &mut self,
        from: NodeId,
        context: u64,
        index: Option<Index>,
    ) {
        let Role::Follower(follower) = &mut self.role else { return };
        if follower.leader != Some(from) {
            return;
        }
        let asked = &mut follower.questions.asked;
        let Some(place) = asked.iter().position(|question| question.context == context) else {
            return;
        };
        let Some(question) = asked.remove(place) else { return };
        for id in question.reads {
            let silent = Refusal::LeaderSilent { leader: from };
            let refused = || Action::Resolve(Resolution::ReadRefused { id, reason: silent });
            self.actions.push_back(index.map_or_else(refused, |index| ready(id, index)));
        }
    }

    /// Follower: gives up questions that were not answered in time.
    pub(crate) fn give_up_questions(&mut self) {
        let now = self.now;
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(leader) = follower.leader else { return };
        let reason = Refusal::LeaderSilent { leader };
        while follower
            .questions
            .asked
            .front()
            .is_some_and(|question| now >= question.deadline && !mutated!(QuestionsNeverGivenUp))
        {
            let Some(question) = follower.questions.asked.pop_front() else { return };
            self.actions.extend(
                question
                    .reads
                    .into_iter()
                    .map(|id| Action::Resolve(Resolution::ReadRefused { id, reason })),
            );
        }
    }
}

fn ready(id: ReadId, index: Index) -> Action {
    Action::Resolve(Resolution::ReadReady { id, index })
}
