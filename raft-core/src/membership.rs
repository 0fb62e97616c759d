//! Who belongs to the group, and with which rights.

use alloc::collections::BTreeSet;

use crate::NodeId;
use crate::quorum;

/// A configuration of the group (dissertation §4).
///
/// While `outgoing` is empty this is a simple configuration: a majority of `voters` decides. While it is not, the
/// group is in *joint consensus* (dissertation §4.3): a majority of `voters` **and** a majority of `outgoing` decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The voters of the configuration, or of the incoming one while it is joint.
    pub voters: BTreeSet<NodeId>,
    /// The voters of the configuration that is being left; empty unless joint.
    pub outgoing: BTreeSet<NodeId>,
    /// Members that receive the log and do not vote (dissertation §4.2.1).
    pub learners: BTreeSet<NodeId>,
}

impl Membership {
    /// A simple configuration of voters alone.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        Membership { voters: voters.into_iter().collect(), ..Membership::default() }
    }

    /// Whether `node` votes in the incoming or the outgoing half.
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Whether `node` is a member of any kind.
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Every member once, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        let all: BTreeSet<NodeId> =
            self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect();
        all.into_iter()
    }

    /// How many (role, member) pairs it lists; a measure of its size.
    pub fn len(&self) -> usize {
        self.voters.len() + self.outgoing.len() + self.learners.len()
    }

    /// Whether it has no members at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the nodes for which `agrees` holds form a quorum: a majority of each half that has voters.
    /// A configuration without voters has no quorum.
    pub fn has_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        !self.voters.is_empty()
            && quorum::is_majority(&self.voters, &agrees)
            && (self.outgoing.is_empty() || quorum::is_majority(&self.outgoing, &agrees))
    }
}
