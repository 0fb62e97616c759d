//! Majority arithmetic: the only place where votes and acknowledgements are counted.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::{CommitGroups, Index, Membership, NodeId};

/// Whether more than half of `voters` agree. An empty set has no majority.
pub(crate) fn is_majority(voters: &BTreeSet<NodeId>, agrees: impl Fn(NodeId) -> bool) -> bool {
    let agreeing = voters.iter().filter(|&&node| agrees(node)).count();
    agreeing * 2 + usize::from(mutated!(HalfIsAMajority)) > voters.len()
}

/// The highest value that a majority of `voters` has reached, given what each has reached.
///
/// Sorts before it picks: a scan in the order of the set commits with too few (scenario 11).
fn majority_reached<T: Copy + Ord + Default>(
    voters: &BTreeSet<NodeId>,
    reached: impl Fn(NodeId) -> T,
) -> T {
    // Nearly every group fits; this is asked after every acknowledgement.
    let mut few = [T::default(); 8];
    let mut many = Vec::new();
    let all = if let Some(few) = few.get_mut(..voters.len()) {
        few
    } else {
        many.resize(voters.len(), T::default());
        &mut many[..]
    };
    for (place, &node) in all.iter_mut().zip(voters) {
        *place = reached(node);
    }
    if !mutated!(QuorumUnsorted) {
        all.sort_unstable();
    }
    // With n voters sorted upwards, the n/2 + 1 from this place on have all reached it.
    all.get((voters.len().wrapping_sub(1)) / 2).copied().unwrap_or_default()
}

/// The highest value (an index, a time) that a quorum of `membership` has reached: the lower of the two halves' while it is joint
/// (dissertation §4.3).
pub(crate) fn quorum_reached<T: Copy + Ord + Default>(
    membership: &Membership,
    reached: impl Fn(NodeId) -> T,
) -> T {
    let incoming = majority_reached(&membership.voters, &reached);
    if membership.outgoing.is_empty() || mutated!(OutgoingHalfNotAsked) {
        incoming
    } else {
        incoming.min(majority_reached(&membership.outgoing, &reached))
    }
}

/// The highest index that voters in enough zones have, commands and all: in `zones_min` of them, or in all that there
/// are if there are fewer. `None` if no voter has a zone. While the configuration is joint the incoming half is asked
/// alone: its zones are the ones that keep the entry when the joint configuration is left, and who is replaced because
/// it is lost can not be waited for.
pub(crate) fn zones_reached(
    membership: &Membership,
    groups: &CommitGroups,
    reached: impl Fn(NodeId) -> Index,
) -> Option<Index> {
    let leaving =
        if mutated!(ZonesOfWhoLeaves) { membership.outgoing.clone() } else { BTreeSet::new() };
    let mut best: BTreeMap<u64, Index> = BTreeMap::new();
    for &node in membership.voters.union(&leaving) {
        if let Some(zone) = groups.zones.get(&node)
            && (!membership.is_witness(node) || mutated!(WitnessSpeaksForItsZone))
        {
            let entry = best.entry(*zone).or_default();
            *entry = (*entry).max(reached(node));
        }
    }
    let mut reached: Vec<Index> = best.into_values().collect();
    reached.sort_unstable_by(|one, other| other.cmp(one));
    let wanted = groups.zones_min.min(reached.len());
    reached.get(wanted.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Counted the obvious way: more of each half inside than outside.
    fn is_quorum(membership: &Membership, agrees: impl Fn(NodeId) -> bool) -> bool {
        let has_half = |half: &BTreeSet<NodeId>| {
            let inside = half.iter().filter(|&&node| agrees(node)).count();
            let outside = half.iter().filter(|&&node| !agrees(node)).count();
            inside > outside
        };
        has_half(&membership.voters)
            && (membership.outgoing.is_empty() || has_half(&membership.outgoing))
    }

    fn brute_force(membership: &Membership, reached: &BTreeMap<NodeId, Index>) -> Index {
        let has = |index: Index, node| reached.get(&node).is_some_and(|&it| it >= index);
        let candidates = reached.values().copied();
        candidates
            .filter(|&index| is_quorum(membership, |node| has(index, node)))
            .max()
            .unwrap_or_default()
    }

    fn membership(voters: BTreeSet<u64>, outgoing: BTreeSet<u64>) -> Membership {
        Membership {
            voters: voters.into_iter().map(NodeId).collect(),
            outgoing: outgoing.into_iter().map(NodeId).collect(),
            ..Membership::default()
        }
    }

    proptest! {
        #[test]
        fn quorum_index_equals_brute_force(
            voters in proptest::collection::btree_set(1u64..8, 0..6),
            outgoing in proptest::collection::btree_set(1u64..8, 0..6),
            reached in proptest::collection::btree_map(1u64..8, 0u64..20, 0..8),
        ) {
            let membership = membership(voters, outgoing);
            let reached: BTreeMap<NodeId, Index> =
                reached.into_iter().map(|(n, i)| (NodeId(n), Index(i))).collect();
            let got = quorum_reached(
                &membership,
                |n| reached.get(&n).copied().unwrap_or(Index(0)));
            prop_assert_eq!(got, brute_force(&membership, &reached));
        }

        #[test]
        fn a_quorum_is_a_majority_of_each_half(
            voters in proptest::collection::btree_set(1u64..8, 0..6),
            outgoing in proptest::collection::btree_set(1u64..8, 0..6),
            agreeing in proptest::collection::btree_set(1u64..8, 0..8),
        ) {
            let membership = membership(voters, outgoing);
            let agrees = |node: NodeId| agreeing.contains(&node.0);
            prop_assert_eq!(membership.has_quorum(agrees), is_quorum(&membership, agrees));
        }

        /// Why majorities are safe (paper §5.2; dissertation §4.3 for joint ones): two quorums share a voter, also one
        /// of the joint configuration and one of either half alone.
        #[test]
        fn two_quorums_share_a_voter(
            voters in proptest::collection::btree_set(1u64..8, 1..6),
            outgoing in proptest::collection::btree_set(1u64..8, 0..6),
            one in proptest::collection::btree_set(1u64..8, 0..8),
            other in proptest::collection::btree_set(1u64..8, 0..8),
        ) {
            let joint = membership(voters.clone(), outgoing.clone());
            let halves = [voters.clone(), outgoing].map(|half| membership(half, BTreeSet::new()));
            let has = |membership: &Membership, set: &BTreeSet<u64>| membership.has_quorum(|node| set.contains(&node.0));
            let overlap = |membership: &Membership| one.intersection(&other).any(|&node| membership.is_voter(NodeId(node)));
            for second in [&joint, &halves[0], &halves[1]] {
                if has(&joint, &one) && has(second, &other) && !second.is_empty() {
                    prop_assert!(overlap(&joint));
                }
            }
        }
    }

    #[test]
    fn five_voters_with_uneven_progress_commit_only_what_three_have() {
        // scenario 11 (openraft 1802): an unsorted scan commits at 2 of 5.
        let membership = Membership::of_voters((1..=5).map(NodeId));
        let reached = [9, 1, 9, 2, 3];
        let index =
            quorum_reached(&membership, |n| Index(reached[usize::try_from(n.0).unwrap() - 1]));
        assert_eq!(index, Index(3));
    }
}
