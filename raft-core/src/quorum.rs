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
    scratch: &mut Vec<T>,
) -> T {
    scratch.clear();
    scratch.extend(voters.iter().map(|&node| reached(node)));
    if !mutated!(QuorumUnsorted) {
        scratch.sort_unstable();
    }
    // With n voters sorted upwards, the n/2 + 1 from this place on have all reached it.
    scratch.get((voters.len().wrapping_sub(1)) / 2).copied().unwrap_or_default()
}

/// The highest value (an index, a time) that a quorum of `membership` has reached: the lower of the two halves' while it is joint
/// (dissertation §4.3).
pub(crate) fn quorum_reached<T: Copy + Ord + Default>(
    membership: &Membership,
    reached: impl Fn(NodeId) -> T,
    scratch: &mut Vec<T>,
) -> T {
    let incoming = majority_reached(&membership.voters, &reached, scratch);
    if membership.outgoing.is_empty() || mutated!(OutgoingHalfNotAsked) {
        incoming
    } else {
        incoming.min(majority_reached(&membership.outgoing, &reached, scratch))
    }
}

/// The highest index that voters in enough zones have, commands and all: in `zones_min` of them, or in all that there are if there are fewer.
/// `None` if no voter has a zone.
pub(crate) fn zones_reached(
    membership: &Membership,
    groups: &CommitGroups,
    reached: impl Fn(NodeId) -> Index,
) -> Option<Index> {
    let mut best: BTreeMap<u64, Index> = BTreeMap::new();
    for node in membership.members() {
        if let Some(zone) = groups.zones.get(&node)
            && membership.is_voter(node)
            && !membership.is_witness(node)
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

    fn brute_force(membership: &Membership, reached: &BTreeMap<NodeId, Index>) -> Index {
        let mut candidates: Vec<Index> = reached.values().copied().collect();
        candidates.push(Index(0));
        candidates
            .into_iter()
            .filter(|&index| {
                index == Index(0)
                    || membership.has_quorum(|n| reached.get(&n).is_some_and(|&r| r >= index))
            })
            .max()
            .unwrap_or(Index(0))
    }

    proptest! {
        #[test]
        fn quorum_index_equals_brute_force(
            voters in proptest::collection::btree_set(1u64..8, 0..6),
            outgoing in proptest::collection::btree_set(1u64..8, 0..6),
            reached in proptest::collection::btree_map(1u64..8, 0u64..20, 0..8),
        ) {
            let membership = Membership {
                voters: voters.into_iter().map(NodeId).collect(),
                outgoing: outgoing.into_iter().map(NodeId).collect(),
                ..Membership::default()
            };
            let reached: BTreeMap<NodeId, Index> =
                reached.into_iter().map(|(n, i)| (NodeId(n), Index(i))).collect();
            let got = quorum_reached(
                &membership,
                |n| reached.get(&n).copied().unwrap_or(Index(0)),
                &mut Vec::new(),
            );
            prop_assert_eq!(got, brute_force(&membership, &reached));
        }
    }

    #[test]
    fn five_voters_with_uneven_progress_commit_only_what_three_have() {
        // scenario 11 (openraft 1802): an unsorted scan commits at 2 of 5.
        let membership = Membership::of_voters((1..=5).map(NodeId));
        let reached = [9, 1, 9, 2, 3];
        let index = quorum_reached(
            &membership,
            |n| Index(reached[usize::try_from(n.0).unwrap() - 1]),
            &mut Vec::new(),
        );
        assert_eq!(index, Index(3));
    }
}
