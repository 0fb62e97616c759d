//! Changes of the configuration, and what becomes of a configuration by one (dissertation §4). Pure arithmetic: the
//! rules of when a change may happen are in [`reconfigure`](crate::reconfigure).

use alloc::vec::Vec;

use crate::{Membership, NodeId, Refusal};

/// Steps that take effect together. Any number of voters may come and go in one change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MembershipChange {
    /// The steps, in order.
    pub steps: Vec<ChangeStep>,
}

/// One step of a [`MembershipChange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeStep {
    /// A new member that receives the log without voting (dissertation §4.2.1). The usual way to begin.
    AddLearner(NodeId),
    /// A learner becomes a voter. Refused until it has caught up.
    Promote(NodeId),
    /// A new member that votes at once, with an empty log: until it has caught up it is one voter more that can not
    /// help to commit. For founding and for emergencies; [`ChangeStep::AddLearner`] and [`ChangeStep::Promote`] are
    /// safer for availability. Where stores are told apart it is refused if the others were no quorum without it.
    AddVoter(NodeId),
    /// A new member that votes and keeps terms, but no commands. It must be set up as one
    /// ([`Config::is_witness`](crate::Config::is_witness)): a store that lacks commands never becomes that of a full
    /// member.
    AddWitness(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A member of any kind leaves.
    Remove(NodeId),
}

impl ChangeStep {
    /// The member that it is about.
    pub fn node(self) -> NodeId {
        match self {
            ChangeStep::AddLearner(node)
            | ChangeStep::Promote(node)
            | ChangeStep::AddVoter(node)
            | ChangeStep::AddWitness(node)
            | ChangeStep::Demote(node)
            | ChangeStep::Remove(node) => node,
        }
    }
}

impl From<ChangeStep> for MembershipChange {
    fn from(step: ChangeStep) -> MembershipChange {
        MembershipChange { steps: alloc::vec![step] }
    }
}

impl MembershipChange {
    /// The configuration that follows `current` (which must be simple): a simple one if at most one voter comes or
    /// goes, since then any two majorities overlap (dissertation §4.1); otherwise a joint one (dissertation §4.3).
    ///
    /// # Errors
    /// [`Refusal`] names the first step that does not fit, or says that the result is no change, or has no voter that could lead.
    pub fn apply_to(&self, current: &Membership) -> Result<Membership, Refusal> {
        let mut target = current.clone();
        for &step in &self.steps {
            let node = step.node();
            let adds = matches!(step, ChangeStep::AddLearner(_) | ChangeStep::AddVoter(_));
            if adds && current.is_witness(node) {
                return Err(Refusal::StoreLacksCommands { node });
            }
            if matches!(step, ChangeStep::AddWitness(_)) && current.contains(node) {
                return Err(Refusal::AlreadyMember { node });
            }
            take_step(&mut target, step)?;
        }
        for node in target.voters.intersection(&current.voters) {
            // Whatever the steps did to it in between, who goes on voting does so on the same store: from one store to
            // another a member comes only by way of being a learner (see `stores`).
            if let Some(store) = current.stores.get(node)
                && !mutated!(VoterChangesItsStore)
            {
                target.stores.insert(*node, *store);
            }
        }
        target.retain_members();
        let can_lead = target.voters.iter().any(|node| !target.is_witness(*node));
        if !can_lead && !mutated!(NobodyLeftToLead) {
            return Err(Refusal::NobodyCouldLead);
        }
        if target == *current {
            return Err(Refusal::NoChange);
        }
        let replaced = target.voters.symmetric_difference(&current.voters).count();
        if replaced > 1 && !mutated!(TwoVotersInOneStep) {
            target.outgoing.clone_from(&current.voters);
            // Who leaves as a witness stays one for as long as it votes.
            let leaving = current.witnesses.iter().filter(|node| target.outgoing.contains(node));
            target.witnesses.extend(leaving.copied().collect::<Vec<_>>());
            for node in &target.outgoing {
                if let Some(store) = current.stores.get(node) {
                    target.stores.insert(*node, *store);
                }
            }
        }
        Ok(target)
    }
}

fn take_step(target: &mut Membership, step: ChangeStep) -> Result<(), Refusal> {
    let node = step.node();
    match step {
        ChangeStep::AddLearner(_) | ChangeStep::AddVoter(_) | ChangeStep::AddWitness(_) => {
            if target.contains(node) {
                return Err(Refusal::AlreadyMember { node });
            }
            if matches!(step, ChangeStep::AddLearner(_)) {
                target.learners.insert(node);
            } else {
                target.voters.insert(node);
            }
            if matches!(step, ChangeStep::AddWitness(_)) {
                target.witnesses.insert(node);
            }
        }
        ChangeStep::Promote(_) => {
            if !target.learners.remove(&node) {
                return Err(Refusal::NotALearner { node });
            }
            target.voters.insert(node);
        }
        ChangeStep::Demote(_) => {
            // A witness could not become a learner: it lacks the commands.
            if target.is_witness(node) || !target.voters.remove(&node) {
                return Err(Refusal::NotAVoter { node });
            }
            target.learners.insert(node);
        }
        ChangeStep::Remove(_) => {
            if !target.voters.remove(&node) && !target.learners.remove(&node) {
                return Err(Refusal::NotAMember { node });
            }
            target.witnesses.remove(&node);
            target.stores.remove(&node);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
        proptest::collection::btree_set((1u64..8).prop_map(NodeId), 0..6)
    }

    fn step() -> impl Strategy<Value = ChangeStep> {
        (0u8..6, (1u64..8).prop_map(NodeId)).prop_map(|(kind, node)| match kind {
            0 => ChangeStep::AddLearner(node),
            1 => ChangeStep::Promote(node),
            2 => ChangeStep::AddVoter(node),
            3 => ChangeStep::AddWitness(node),
            4 => ChangeStep::Demote(node),
            _ => ChangeStep::Remove(node),
        })
    }

    proptest! {
        /// Every majority of the old configuration meets every quorum of the new one: that is what makes a change safe
        /// (dissertation §4.1 and §4.3).
        #[test]
        fn quorums_of_neighbours_overlap(
            voters in nodes(), learners in nodes(), witnesses in nodes(), steps in proptest::collection::vec(step(), 1..5),
            one in nodes(), other in nodes(),
        ) {
            let mut current = Membership { voters, learners, witnesses, ..Membership::default() };
            current.learners = current.learners.difference(&current.voters).copied().collect();
            current.witnesses = current.witnesses.intersection(&current.voters).copied().collect();
            prop_assume!(current.is_valid());
            if let Ok(next) = (MembershipChange { steps }).apply_to(&current) {
                prop_assert!(next.is_valid(), "{next:?}");
                prop_assert!(next.left().is_valid());
                prop_assert!(!next.left().is_joint());
                for (this, that) in [(&current, &next), (&next, &next.left())] {
                    if this.has_quorum(|n| one.contains(&n)) && that.has_quorum(|n| other.contains(&n)) {
                        prop_assert!(!one.is_disjoint(&other), "{this:?} and {that:?} decide apart");
                    }
                }
            }
        }
    }

    #[test]
    fn one_voter_is_a_simple_change_and_two_are_a_joint_one() {
        let current = Membership::of_voters([1, 2, 3].map(NodeId));
        let one = MembershipChange::from(ChangeStep::AddVoter(NodeId(4))).apply_to(&current);
        assert!(!one.expect("it fits").is_joint());
        let steps = [ChangeStep::AddVoter(NodeId(4)), ChangeStep::Remove(NodeId(1))].to_vec();
        let two = MembershipChange { steps }.apply_to(&current).expect("it fits");
        assert_eq!(two.outgoing, current.voters);
        assert_eq!(two.left(), Membership::of_voters([2, 3, 4].map(NodeId)));
    }

    #[test]
    fn steps_that_do_not_fit_are_refused_by_name() {
        let mut current = Membership::of_voters([1, 2].map(NodeId));
        current.learners.insert(NodeId(3));
        current.witnesses.insert(NodeId(2));
        let refused = |step| MembershipChange::from(step).apply_to(&current).expect_err("refused");
        let n = NodeId;
        assert_eq!(refused(ChangeStep::AddVoter(n(3))), Refusal::AlreadyMember { node: n(3) });
        assert_eq!(refused(ChangeStep::Promote(n(1))), Refusal::NotALearner { node: n(1) });
        assert_eq!(refused(ChangeStep::Demote(n(3))), Refusal::NotAVoter { node: n(3) });
        assert_eq!(refused(ChangeStep::Demote(n(2))), Refusal::NotAVoter { node: n(2) });
        assert_eq!(refused(ChangeStep::Remove(n(9))), Refusal::NotAMember { node: n(9) });
        assert_eq!(refused(ChangeStep::Remove(n(1))), Refusal::NobodyCouldLead);
        let nothing = MembershipChange::default().apply_to(&current);
        assert_eq!(nothing, Err(Refusal::NoChange));
    }
}
