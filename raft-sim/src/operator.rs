//! The operator: asks for membership changes and transfers of leadership, more often than anybody sensible would.

use std::collections::BTreeSet;

use raft_core::{ChangeStep, Input, Membership, MembershipChange, NodeId, RequestId};

use crate::event::Event;
use crate::node::index_of;
use crate::world::World;
use crate::{Machine, Violation};

/// What the operator keeps in mind.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    /// The nodes that were set up as witnesses.
    witnesses: BTreeSet<NodeId>,
}

/// More voters than this would only make runs slower.
const VOTERS_MAX: usize = 7;

impl Operator {
    pub(crate) fn new(witnesses: impl Iterator<Item = NodeId>) -> Operator {
        Operator { witnesses: witnesses.collect() }
    }

    /// Whether a step adds a node as what it was set up as.
    fn allows(&self, step: ChangeStep) -> bool {
        match step {
            ChangeStep::AddWitness(node) => self.witnesses.contains(&node),
            ChangeStep::AddLearner(node) | ChangeStep::AddVoter(node) => {
                !self.witnesses.contains(&node)
            }
            _ => true,
        }
    }
}

impl<M: Machine> World<'_, M> {
    pub(crate) fn on_operate(&mut self) -> Result<(), Violation> {
        let next = self.rng.around(self.plan.operate_every_us);
        self.at(next, Event::Operate);
        self.operate()
    }

    /// Asks somebody for something.
    pub(crate) fn operate(&mut self) -> Result<(), Violation> {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|&n| self.can_be_asked(n)).collect();
        let leaders: Vec<usize> =
            up.iter().copied().filter(|&n| self.nodes[n].claims_to_lead()).collect();
        let choices = if leaders.is_empty() || self.rng.chance(50) { up } else { leaders };
        if choices.is_empty() {
            return Ok(());
        }
        let node = self.rng.pick(&choices);
        let id = RequestId(self.next_id);
        let membership = self.nodes[node].membership().clone();
        let mut target = None;
        let input = if let Some(to) = self.draw_leaving_target(&membership) {
            self.coverage.hit("transfers asked for to who leaves");
            target = Some(to);
            Input::TransferLeadership { id, to: Some(to) }
        } else if self.rng.chance(self.plan.transfers) {
            self.coverage.hit("transfers asked for");
            let any = NodeId(self.rng.between(1, self.nodes.len() as u64));
            let to = self.rng.chance(600).then_some(any);
            target = to;
            Input::TransferLeadership { id, to }
        } else {
            let former = self.draw_former_witness(node, &membership);
            let hasty = former
                .or_else(|| self.draw_changed_mind(&membership))
                .or_else(|| self.draw_replacement(&membership))
                .or_else(|| self.draw_silent_learner(&membership));
            let steps = match hasty {
                Some(steps) => steps,
                None => match self.draw_steps(&membership) {
                    Some(steps) => steps,
                    None => return Ok(()),
                },
            };
            Input::ChangeMembership { id, change: MembershipChange { steps } }
        };
        if self.is_hasty() {
            self.coverage.hit("asked in haste");
            let soon = self.rng.around(self.plan.network.delay_us * 2);
            self.at(soon, Event::OperateInHaste);
        }
        self.next_id += 1;
        self.ledger.request(self.nodes[node].id, id);
        self.tell(node, input)?;
        self.judge_transfer(node, id, target)
    }

    /// All nodes, members or not.
    fn ids(&self) -> impl Iterator<Item = NodeId> + use<M> {
        (1..=self.nodes.len() as u64).map(NodeId)
    }

    /// Whether the operator loses its patience now. Who never does draws nothing.
    fn is_hasty(&mut self) -> bool {
        self.plan.haste > 0 && self.rng.chance(self.plan.haste)
    }

    /// In haste: a voter that has its vote only until the joint configuration is left.
    fn draw_leaving_target(&mut self, membership: &Membership) -> Option<NodeId> {
        let leaving: Vec<NodeId> =
            membership.outgoing.difference(&membership.voters).copied().collect();
        (!leaving.is_empty() && self.is_hasty()).then(|| self.rng.pick(&leaving))
    }

    /// In haste: nonsense, to make a full member of who was a witness. Only where it must be refused: a log that was cut may not tell any more.
    fn draw_former_witness(
        &mut self,
        node: usize,
        membership: &Membership,
    ) -> Option<Vec<ChangeStep>> {
        let log = &self.nodes[node].log;
        let former: Vec<NodeId> = self
            .ids()
            .filter(|id| !membership.contains(*id) && log.ever_lists_witness(*id))
            .collect();
        // A core that is yet to be polled may have cut its log already.
        let may_have_forgotten = self.nodes[node].poll_scheduled;
        if former.is_empty() || !self.is_hasty() || may_have_forgotten {
            return None;
        }
        self.coverage.hit("asked to make a former witness a member");
        Some(vec![ChangeStep::AddLearner(self.rng.pick(&former))])
    }

    /// In haste: a member is removed and added at once, and perhaps removed after all, or another one along with it; or an outsider is added and promoted.
    fn draw_changed_mind(&mut self, membership: &Membership) -> Option<Vec<ChangeStep>> {
        let members: Vec<NodeId> =
            membership.members().filter(|node| !membership.is_witness(*node)).collect();
        if members.len() < 2 || membership.is_joint() || !self.is_hasty() {
            return None;
        }
        let outside: Vec<NodeId> = self
            .ids()
            .filter(|node| !membership.contains(*node))
            .filter(|node| self.operator.allows(ChangeStep::AddLearner(*node)))
            .collect();
        if !outside.is_empty() && self.rng.chance(300) {
            self.coverage.hit("asked to add and promote at once");
            let node = self.rng.pick(&outside);
            return Some(vec![ChangeStep::AddLearner(node), ChangeStep::Promote(node)]);
        }
        let node = self.rng.pick(&members);
        let adds = if membership.is_voter(node) {
            ChangeStep::AddVoter(node)
        } else {
            ChangeStep::AddLearner(node)
        };
        let mut steps = vec![ChangeStep::Remove(node), adds];
        let is_removed = self.rng.chance(500);
        if is_removed {
            steps.push(ChangeStep::Remove(node));
        } else {
            let other = self.draw_step(membership);
            steps.extend(Some(other).filter(|step| self.operator.allows(*step)));
        }
        self.coverage.hit(if is_removed {
            "asked to remove, add and remove at once"
        } else {
            "asked to remove and add at once"
        });
        Some(steps)
    }

    /// In haste: a voter gives way to another node, in one change.
    fn draw_replacement(&mut self, membership: &Membership) -> Option<Vec<ChangeStep>> {
        let voters: Vec<NodeId> = membership.voters.iter().copied().collect();
        let others: Vec<NodeId> = self
            .ids()
            .filter(|node| !membership.is_voter(*node))
            .filter(|node| self.operator.allows(ChangeStep::AddVoter(*node)))
            .collect();
        if membership.is_joint() || voters.is_empty() || others.is_empty() || !self.is_hasty() {
            return None;
        }
        self.coverage.hit("asked to replace a voter");
        let (leaves, comes) = (self.rng.pick(&voters), self.rng.pick(&others));
        let adds = if membership.contains(comes) {
            ChangeStep::Promote(comes)
        } else {
            ChangeStep::AddVoter(comes)
        };
        let leaves = if self.rng.chance(500) {
            ChangeStep::Remove(leaves)
        } else {
            ChangeStep::Demote(leaves)
        };
        Some(vec![adds, leaves])
    }

    /// In haste: a learner is promoted that is down, or stands still.
    fn draw_silent_learner(&mut self, membership: &Membership) -> Option<Vec<ChangeStep>> {
        let is_silent = |node: &&NodeId| !self.nodes[index_of(**node)].is_running();
        let silent: Vec<NodeId> = membership.learners.iter().filter(is_silent).copied().collect();
        let tries = self.plan.haste > 0 && !silent.is_empty() && self.rng.chance(600);
        if !tries || membership.is_joint() {
            return None;
        }
        self.coverage.hit("asked to promote who is silent");
        Some(vec![ChangeStep::Promote(self.rng.pick(&silent))])
    }

    /// One step in most cases, several at once in others; now and then nonsense.
    fn draw_steps(&mut self, membership: &Membership) -> Option<Vec<ChangeStep>> {
        let witness = membership.witnesses.iter().next().filter(|_| self.rng.chance(100));
        if let Some(witness) = witness {
            // Nonsense: its store lacks what a full member must have.
            self.coverage.hit("asked to make a witness a member");
            return Some(vec![ChangeStep::Remove(*witness), ChangeStep::AddLearner(*witness)]);
        }
        let count = self.rng.pick(&[1, 1, 1, 1, 2, 2, 3, 4]);
        let mut steps = Vec::new();
        for _ in 0..count {
            let step = self.draw_step(membership);
            if self.operator.allows(step) {
                self.coverage.hit(match step {
                    ChangeStep::AddLearner(_) => "asked to add a learner",
                    ChangeStep::Promote(_) => "asked to promote",
                    ChangeStep::AddVoter(_) => "asked to add a voter",
                    ChangeStep::AddWitness(_) => "asked to add a witness",
                    ChangeStep::Demote(_) => "asked to demote",
                    ChangeStep::Remove(_) => "asked to remove",
                });
                steps.push(step);
            }
        }
        (!steps.is_empty()).then_some(steps)
    }

    fn draw_step(&mut self, membership: &Membership) -> ChangeStep {
        let any = NodeId(self.rng.between(1, self.nodes.len() as u64));
        let of = |world: &mut Self, set: Vec<NodeId>| {
            if set.is_empty() { any } else { world.rng.pick(&set) }
        };
        let voters: Vec<NodeId> = membership.voters.iter().copied().collect();
        let learners: Vec<NodeId> = membership.learners.iter().copied().collect();
        let outside: Vec<NodeId> = self.ids().filter(|node| !membership.contains(*node)).collect();
        let is_large = voters.len() >= VOTERS_MAX;
        let is_small = voters.len() <= 2;
        match self.rng.below(12) {
            2..=5 if !is_large => ChangeStep::Promote(of(self, learners)),
            6 if !is_large => ChangeStep::AddVoter(of(self, outside)),
            7 if !is_large => {
                let witnesses = outside.iter().filter(|id| self.operator.witnesses.contains(id));
                let witnesses = witnesses.copied().collect();
                ChangeStep::AddWitness(of(self, witnesses))
            }
            8 if !is_small => ChangeStep::Demote(of(self, voters)),
            9 | 10 if !is_small => ChangeStep::Remove(of(self, voters)),
            11 => ChangeStep::Remove(of(self, learners)),
            _ => ChangeStep::AddLearner(of(self, outside)),
        }
    }
}
