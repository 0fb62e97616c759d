//! The checkers' own truth about configurations: which ones may follow each other (dissertation §4), computed here and not asked of
//! the core.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{CommitGroups, Index, LogPosition, Membership, NodeId, Term};

use crate::Violation;
use crate::checker::broken;

/// Every configuration that was seen, and those that are committed.
#[derive(Clone, Debug)]
pub(crate) struct Configurations {
    seen: BTreeMap<(Index, Term), Membership>,
    /// The founding one has index 0.
    committed: BTreeMap<Index, Membership>,
    /// What committed changes did, until it is counted.
    effects: Vec<&'static str>,
}

impl Configurations {
    pub(crate) fn new(founding: Membership) -> Configurations {
        Configurations {
            seen: BTreeMap::new(),
            committed: BTreeMap::from([(Index(0), founding)]),
            effects: Vec::new(),
        }
    }

    pub(crate) fn founding(&self) -> &Membership {
        &self.committed[&Index(0)]
    }

    /// The latest committed one at or before `index`.
    pub(crate) fn committed_at(&self, index: Index) -> &Membership {
        let before = self.committed.range(..=index).next_back();
        before.map_or(self.founding(), |(_, membership)| membership)
    }

    pub(crate) fn latest(&self) -> (Index, &Membership) {
        let (at, membership) = self.committed.last_key_value().expect("the founding one is there");
        (*at, membership)
    }

    pub(crate) fn on_committed(&mut self, position: LogPosition) {
        if let Some(membership) = self.seen.get(&(position.index, position.term)) {
            let membership = membership.clone();
            self.note_effects(&membership);
            self.committed.insert(position.index, membership);
        }
    }

    /// What was removed must be able to come back, and who is replaced must be so under one roof: that such things came to pass is counted.
    fn note_effects(&mut self, membership: &Membership) {
        let (_, latest) = self.latest();
        let returns = |node: NodeId| {
            !latest.contains(node) && self.committed.values().any(|before| before.contains(node))
        };
        let returned = membership.members().filter(|node| returns(*node)).count();
        let settled = self.committed.values().rev().find(|before| !before.is_joint());
        let replaces = settled.is_some_and(|before| {
            !membership.is_joint()
                && membership.voters.difference(&before.voters).next().is_some()
                && before.voters.difference(&membership.voters).next().is_some()
        });
        self.effects.extend(std::iter::repeat_n("removed nodes that returned", returned));
        self.effects.extend(replaces.then_some("voters replaced"));
    }

    /// What committed changes did since the last time.
    pub(crate) fn take_effects(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.effects)
    }

    /// A configuration in an entry, and the one before it in the same log, with its place. `has_committed` says whether an entry of this
    /// term is committed. Returns what kind of step it is, when it is seen first.
    pub(crate) fn on_entry(
        &mut self,
        node: NodeId,
        position: LogPosition,
        membership: &Membership,
        before: (Index, &Membership),
        has_committed: bool,
    ) -> Result<Option<&'static str>, Violation> {
        if self.seen.contains_key(&(position.index, position.term)) {
            return Ok(None);
        }
        self.seen.insert((position.index, position.term), membership.clone());
        let kind = match kind_of_step(before.1, membership) {
            Ok(kind) => kind,
            Err(why) => {
                return broken(
                    "configurations change by simple or joint steps",
                    format!(
                        "node {node} appends {membership:?} at {position} after {:?}: {why}",
                        before.1
                    ),
                );
            }
        };
        let stays = |node: &NodeId| before.1.is_voter(*node) && membership.is_voter(*node);
        let mut recorded = before.1.stores.iter().filter(|(node, _)| stays(node));
        if let Some((voter, store)) =
            recorded.find(|(voter, store)| membership.stores.get(voter) != Some(store))
        {
            return broken(
                "voters stay on their stores",
                format!(
                    "node {node} appends {membership:?} at {position}: node {voter} was admitted on {store:?}, and goes on voting"
                ),
            );
        }
        let latest = self.latest().0;
        // A record of stores changes no majority, as long as it leaves those of other voters alone.
        let is_record = kind == STORES_RECORDED
            && before.1.stores.iter().all(|(voter, store)| {
                !before.1.is_voter(*voter) || membership.stores.get(voter) == Some(store)
            });
        if before.0 > latest && !is_record {
            return broken(
                "one change at a time",
                format!(
                    "node {node} appends a configuration at {position}, with that of {} not committed (the latest that is: {latest})",
                    before.0
                ),
            );
        }
        if before.1.voters != membership.voters && !has_committed {
            return broken(
                "no change before an own commit",
                format!(
                    "node {node} appends a configuration at {position}, with nothing of its term committed"
                ),
            );
        }
        Ok(Some(kind))
    }
}

const STORES_RECORDED: &str = "stores recorded";

/// What kind of step leads from one configuration to another.
fn kind_of_step(old: &Membership, new: &Membership) -> Result<&'static str, &'static str> {
    let members: BTreeSet<NodeId> = new.members().collect();
    let are_listed = new.witnesses.iter().chain(new.stores.keys()).all(|n| members.contains(n));
    if !are_listed || !new.learners.is_disjoint(&new.voters) {
        return Err("it contradicts itself");
    }
    let votes = |membership: &Membership, n: &NodeId| {
        membership.voters.contains(n) || membership.outgoing.contains(n)
    };
    if !new.witnesses.iter().all(|n| votes(new, n)) {
        return Err("a witness does not vote");
    }
    for node in old.members().filter(|node| members.contains(node)) {
        if old.is_witness(node) != new.is_witness(node) {
            return Err("a witness becomes a full member, or the other way round");
        }
    }
    if old.is_joint() {
        let leaves = new.outgoing.is_empty() && new.voters == old.voters;
        let stays = Membership { stores: new.stores.clone(), ..old.clone() } == *new;
        return match (leaves, stays) {
            (true, _) => Ok("joint configurations left"),
            (_, true) => Ok(STORES_RECORDED),
            _ => Err("a joint one is only left"),
        };
    }
    if new.is_joint() {
        let begins = new.outgoing == old.voters;
        return if begins {
            Ok("joint configurations begun")
        } else {
            Err("it leaves another one")
        };
    }
    let moved = old.voters.symmetric_difference(&new.voters).count();
    match moved {
        0 if old.learners == new.learners => Ok(STORES_RECORDED),
        0 => Ok("learners changed"),
        1 => Ok("voters changed one at a time"),
        _ => Err("more than one voter comes or goes at once"),
    }
}

/// More than half.
fn has_majority(set: &BTreeSet<NodeId>, holds: impl Fn(NodeId) -> bool) -> bool {
    set.iter().filter(|node| holds(**node)).count() > set.len() / 2
}

/// Whether those for which `holds` are enough to commit: a majority of each half, and enough zones of the incoming one.
pub(crate) fn may_commit(
    membership: &Membership,
    groups: Option<&CommitGroups>,
    holds: impl Fn(NodeId) -> bool,
) -> bool {
    let halves = has_majority(&membership.voters, &holds)
        && (membership.outgoing.is_empty() || has_majority(&membership.outgoing, &holds));
    let Some(groups) = groups.filter(|_| halves) else { return halves };
    let (mut all, mut there) = (BTreeSet::<u64>::new(), BTreeSet::<u64>::new());
    for node in &membership.voters {
        let zone = groups.zones.get(node).filter(|_| !membership.witnesses.contains(node));
        all.extend(zone);
        there.extend(zone.filter(|_| holds(*node)));
    }
    there.len() >= groups.zones_min.min(all.len())
}
