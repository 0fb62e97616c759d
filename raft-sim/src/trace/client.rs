//! The client: it proposes, and asks for changes of the membership.

use bytes::Bytes;
use raft_core::{ChangeStep, Index, Input, Membership, NodeId, ProposalId, RequestId};

use super::event::{Change, ChangeAction, ConfChange, Name, Prop, RoleName};
use super::node::Node;
use super::options::TraceError;
use super::world::World;
use crate::Image;

impl World {
    pub(super) fn propose(&mut self) -> Result<(), TraceError> {
        let Some(id) = self.leader() else { return Ok(()) };
        let Some(status) = self.node(id)?.status() else { return Ok(()) };
        if status.membership_at > status.commit {
            return Ok(());
        }
        self.fire_timer_if_due(id)?;
        let Some(pre) = self.shot(id) else { return Ok(()) };
        let count = self.rng.between(1, 3);
        let commands =
            (0..count).map(|_| Bytes::from(vec![0; self.rng.below(200) as usize])).collect();
        self.requests += 1;
        self.feed(id, Input::Propose { id: ProposalId(self.requests), commands })?;
        if let Some(post) = self.shot(id).filter(|post| post.last > pre.last) {
            self.note_entries(&pre, &post)?;
        }
        self.settle(id)
    }

    /// Asks the leader for a change of the membership, if it is the time for one.
    pub(super) fn change(&mut self) -> Result<(), TraceError> {
        let Some(id) = self.leader() else { return Ok(()) };
        self.fire_timer_if_due(id)?;
        let (Some(pre), Some(status)) = (self.shot(id), self.node(id)?.status()) else {
            return Ok(());
        };
        let node = self.node(id)?;
        let is_settled = status.commit == status.last
            && status.membership_at == node.conf_at
            && node.change_at == Index(0);
        if pre.role != RoleName::Leader || !is_settled {
            return Ok(());
        }
        let Some((step, action)) = self.draw_change(&status.membership) else { return Ok(()) };
        if matches!(step, ChangeStep::AddLearner(_) | ChangeStep::AddVoter(_)) {
            let joining = step.node();
            self.next_id += 1;
            let blank = Image::founding(Membership::default());
            self.nodes.insert(joining, Node::new(joining, blank));
            self.start(joining)?;
            self.settle(joining)?;
        }
        self.requests += 1;
        let request = RequestId(self.requests);
        self.feed(id, Input::ChangeMembership { id: request, change: step.into() })?;
        if let Some(post) = self.shot(id).filter(|post| post.last > pre.last) {
            self.tally.changes += 1;
            let changes = Some(vec![Change { nid: step.node().to_string(), action }]);
            let cc = ConfChange { changes, ..ConfChange::default() };
            self.push(pre.line(Name::ChangeConf, None, Some(Prop { cc })));
            self.node(id)?.change_at = post.last;
            self.acknowledge_itself(&post)?;
        }
        self.settle(id)
    }

    fn draw_change(&mut self, membership: &Membership) -> Option<(ChangeStep, ChangeAction)> {
        let voters: Vec<NodeId> = membership.voters.iter().copied().collect();
        let learners: Vec<NodeId> = membership.learners.iter().copied().collect();
        if !learners.is_empty() && self.rng.chance(600) {
            let learner = self.rng.pick(&learners);
            return Some((ChangeStep::Promote(learner), ChangeAction::AddNewServer));
        }
        let size = voters.len() + learners.len();
        if size < self.options.nodes as usize + 2 && self.rng.chance(600) {
            let joining = NodeId(self.next_id);
            return Some(if self.rng.chance(700) {
                (ChangeStep::AddLearner(joining), ChangeAction::AddLearner)
            } else {
                (ChangeStep::AddVoter(joining), ChangeAction::AddNewServer)
            });
        }
        let everybody: Vec<NodeId> = voters.iter().chain(&learners).copied().collect();
        let leaving = self.rng.pick(&everybody);
        let is_voter = membership.voters.contains(&leaving);
        let is_even = voters.len().is_multiple_of(2);
        if is_voter && (voters.len() < 3 || is_even && !self.is_calm()) {
            return None;
        }
        Some((ChangeStep::Remove(leaving), ChangeAction::RemoveServer))
    }
}
