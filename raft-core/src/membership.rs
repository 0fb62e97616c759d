//! Who belongs to the group, and with which rights.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::quorum;
use crate::{NodeId, StoreId};

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
    /// Members that receive the log and do not vote (dissertation §4.2.1). While the configuration is joint, an
    /// outgoing voter may be listed here too: it votes until the joint configuration is left.
    pub learners: BTreeSet<NodeId>,
    /// Those of the voters that keep the log's terms but not its commands, and have no state machine. They are set up so
    /// ([`Config::is_witness`](crate::Config::is_witness)): this list only has to agree.
    ///
    /// Why that is safe: every rule of elections and of commitment looks at positions (index and term) only, and a
    /// witness has all of them, durably. So whatever a quorum with a witness in it has committed, no candidate that
    /// lacks it gets that witness's vote (paper §5.4.1). The price is availability, not safety: if the other holders of
    /// an entry are gone, nobody can be elected. So leaders send witnesses only what these would complete a quorum for.
    pub witnesses: BTreeSet<NodeId>,
    /// The store that each member was admitted with, where one is recorded. A member that comes back on another store
    /// does not count.
    pub stores: BTreeMap<NodeId, StoreId>,
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

    /// Whether `node` votes without keeping commands.
    pub fn is_witness(&self, node: NodeId) -> bool {
        self.witnesses.contains(&node)
    }

    /// Whether `node` is a member of any kind.
    pub fn contains(&self, node: NodeId) -> bool {
        self.is_voter(node) || self.learners.contains(&node)
    }

    /// Whether two configurations decide together.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Every member once, in the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        let all: BTreeSet<NodeId> =
            self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect();
        all.into_iter()
    }

    /// How many facts it lists; a measure of its size.
    pub fn len(&self) -> usize {
        self.voters.len()
            + self.outgoing.len()
            + self.learners.len()
            + self.witnesses.len()
            + 2 * self.stores.len()
    }

    /// Whether it has no members at all.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty() && self.outgoing.is_empty() && self.learners.is_empty()
    }

    /// Whether it can be a configuration of a group: it has a voter that keeps commands (in each half), nobody is
    /// listed twice in ways that contradict, and witnesses and stores belong to members.
    pub fn is_valid(&self) -> bool {
        let can_lead = |half: &BTreeSet<NodeId>| half.iter().any(|node| !self.is_witness(*node));
        can_lead(&self.voters)
            && (self.outgoing.is_empty() || can_lead(&self.outgoing))
            && self.learners.is_disjoint(&self.voters)
            && self.learners.is_disjoint(&self.witnesses)
            && self.witnesses.iter().all(|node| self.is_voter(*node))
            && self.stores.keys().all(|node| self.contains(*node))
    }

    /// Whether the nodes for which `agrees` holds form a quorum: a majority of each half that has voters.
    /// A configuration without voters has no quorum.
    pub fn has_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        !self.voters.is_empty()
            && quorum::is_majority(&self.voters, &agrees)
            && (self.outgoing.is_empty()
                || mutated!(OutgoingHalfNotAsked)
                || quorum::is_majority(&self.outgoing, &agrees))
    }

    /// This configuration once its joint phase is over (dissertation §4.3, from `C_old,new` to `C_new`).
    #[must_use]
    pub fn left(&self) -> Membership {
        let mut next = Membership { outgoing: BTreeSet::new(), ..self.clone() };
        next.retain_members();
        next
    }

    /// Drops what is recorded of nodes that are no members any more.
    pub(crate) fn retain_members(&mut self) {
        let Membership { voters, outgoing, learners, .. } = &*self;
        let (voters, outgoing, learners) = (voters.clone(), outgoing.clone(), learners.clone());
        let votes = |node: &NodeId| voters.contains(node) || outgoing.contains(node);
        self.witnesses.retain(votes);
        self.stores.retain(|node, _| votes(node) || learners.contains(node));
    }
}
