//! Linearizable reads without writing to the log: `ReadIndex`, dissertation §6.4.

use crate::role::{Leader, ReadRound, Reads, Role};
use crate::{Action, Index, Raft, ReadId, Refusal, Resolution};

impl Raft {
    pub(crate) fn on_read(&mut self, id: ReadId) {
        let hint = self.leader();
        if let Role::Leader(leader) = &mut self.role {
            leader.reads.waiting.push(id);
        } else {
            let reason = Refusal::NotLeader { leader: hint };
            self.actions.push_back(Action::Resolve(Resolution::ReadRefused { id, reason }));
        }
    }

    /// Asks, for all reads that wait, in one round of heartbeats, whether this is still the leader. Not before an entry of its own term is
    /// committed: until then its commit index may lie behind its predecessor's (scenario 20).
    pub(crate) fn start_read_rounds(&mut self) {
        let commit = self.commit;
        let Role::Leader(leader) = &mut self.role else { return };
        let Leader { reads, term_start, .. } = leader;
        let is_ready = commit >= *term_start && reads.rounds.len() < Reads::ROUNDS_MAX;
        if reads.waiting.is_empty() || !is_ready {
            return;
        }
        reads.last_context += 1;
        let round = ReadRound {
            context: reads.last_context,
            index: commit,
            reads: core::mem::take(&mut reads.waiting),
        };
        reads.rounds.push_back(round);
        self.broadcast_heartbeat();
        self.finish_reads();
    }

    /// Answers the rounds that a quorum has confirmed. An answer to a context confirms the earlier ones too.
    pub(crate) fn finish_reads(&mut self) {
        let id = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        let Leader { peers, reads, .. } = leader;
        while let Some(round) = reads.rounds.front() {
            let has_answered = |node| {
                node == id
                    || peers.get(&node).is_some_and(|peer| peer.read_context >= round.context)
            };
            if !self.log.membership().has_quorum(has_answered) {
                return;
            }
            let Some(ReadRound { index, reads: ids, .. }) = reads.rounds.pop_front() else {
                return;
            };
            self.actions.extend(ids.into_iter().map(|id| ready(id, index)));
        }
    }
}

fn ready(id: ReadId, index: Index) -> Action {
    Action::Resolve(Resolution::ReadReady { id, index })
}
