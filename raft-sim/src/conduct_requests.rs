//! Rules of conduct on proposals and reads: what they rest on, and that they keep to their quotas.

use raft_core::{Index, Resolution};

use crate::checker::broken;
use crate::watch::Leading;
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn watch_resolution(
        &mut self,
        node: usize,
        resolution: &Resolution,
    ) -> Result<(), Violation> {
        let max = self.plan.config.uncommitted_bytes_max;
        let leads = self.nodes[node].claims_to_lead();
        let it = &mut self.nodes[node];
        let id = it.id;
        match resolution {
            Resolution::Appended { id: batch, first, count, .. } => {
                if it.watch.has_echo && !leads {
                    return broken(
                        "answers to an earlier life are nobody's",
                        format!("node {id} takes one for batch {batch:?}"),
                    );
                }
                let bytes = it.watch.settle(*batch);
                let Some(leading) = it.watch.leading.as_mut().filter(|_| leads) else {
                    return Ok(());
                };
                if let Some(request) = leading.transfer.filter(|request| request.0 < batch.0) {
                    return broken(
                        "no proposals while leadership is handed over",
                        format!("node {id} takes batch {batch:?} after request {request:?}"),
                    );
                }
                leading.batches.push_back((first.plus(count.saturating_sub(1)), bytes));
                let sum = |leading: &Leading| {
                    leading.batches.iter().map(|(_, bytes)| *bytes).sum::<usize>()
                };
                if leading.batches.len() > 64 || sum(leading) > max {
                    let commit = it.raft.as_ref().map_or(Index(0), |raft| raft.status().commit);
                    leading.batches.retain(|(last, _)| *last > commit);
                }
                if sum(leading) > max {
                    return broken(
                        "uncommitted proposals keep to their quota",
                        format!("node {id} has {} bytes of {max}", sum(leading)),
                    );
                }
            }
            Resolution::Refused { id: batch, .. } | Resolution::Abandoned { id: batch } => {
                it.watch.settle(*batch);
            }
            Resolution::ReadReady { id: read, .. } => {
                let asked = it.watch.reads.remove(read);
                let is_witness = it.is_witness;
                if is_witness {
                    return broken(
                        "witnesses answer no reads",
                        format!("node {id} answers {read:?}"),
                    );
                }
                let it = &self.nodes[node];
                let (Some(asked), Some(leading), Some(raft)) = (asked, &it.watch.leading, &it.raft)
                else {
                    return Ok(());
                };
                let is_covered = it.watch.had_lease
                    || leading.is_confirmed(id, raft.membership(), asked)
                    || leading.is_confirmed(id, it.log.membership(), asked)
                    || self.has_lease(node, it.watch.told);
                if leads && !is_covered {
                    return broken(
                        "reads rest on a quorum's word or a lease",
                        format!("node {id} answers {read:?} of {asked} with neither"),
                    );
                }
            }
            Resolution::ReadRefused { id: read, .. } => {
                it.watch.reads.remove(read);
            }
            Resolution::RequestDone { id: request }
            | Resolution::RequestRefused { id: request, .. }
            | Resolution::RequestAbandoned { id: request } => {
                if let Some(leading) =
                    it.watch.leading.as_mut().filter(|it| it.transfer == Some(*request))
                {
                    leading.transfer = None;
                }
            }
        }
        Ok(())
    }

    /// Whether a node leads a group of its own, in which it has committed something.
    fn leads_itself(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        if !it.claims_to_lead() {
            return false;
        }
        let known = it.membership();
        known.voters.len() == 1
            && known.is_voter(it.id)
            && !known.is_joint()
            && it.log.term_at(it.claimed) == Some(it.log.hard_state.term)
    }

    /// Who is alone needs nobody's word for its leadership, and nobody will ever give it (dissertation §6.4).
    pub(crate) fn judge_lone_reads(&self, node: usize) -> Result<(), Violation> {
        if !self.leads_itself(node) {
            return Ok(());
        }
        let it = &self.nodes[node];
        let first = it.watch.leading.as_ref().map(|leading| leading.first_read);
        match self.ledger.last_read_of(it.id).filter(|last| Some(*last) >= first) {
            Some(last) => broken(
                "who is alone answers reads at once",
                format!("node {} leaves {last:?} unanswered", it.id),
            ),
            None => Ok(()),
        }
    }

    /// A batch was proposed to who does not lead, and is passed on: not more of them than the quota has room for.
    pub(crate) fn judge_forwarded(
        &mut self,
        node: usize,
        batch: raft_core::ProposalId,
    ) -> Result<(), Violation> {
        let max = self.plan.config.uncommitted_bytes_max;
        let it = &mut self.nodes[node];
        let is_waiting = self.ledger.is_asked(it.id, batch);
        let Some(bytes) =
            it.watch.batches.get(&batch).copied().filter(|_| is_waiting && !it.poll_scheduled)
        else {
            return Ok(());
        };
        it.watch.forwarded.insert(batch, bytes);
        it.watch.forwarded_bytes += bytes;
        if it.watch.forwarded_bytes > max {
            return broken(
                "proposals that are passed on keep to their quota",
                format!("node {} has {} bytes of {max} under way", it.id, it.watch.forwarded_bytes),
            );
        }
        Ok(())
    }
}
