//! The end of a run: a random quorum (the core) is healed, every other fault becomes permanent, and the core must elect, commit and
//! converge within 20 election timeouts.
//!
//! It may be kept from that by a leader outside: one that a quorum hears, late or one way, stays in office, and may not reach (or not well) who is to
//! converge. That is proved, not assumed: such a leader was heard, and once the core is cut off from everybody outside, it converges in as many election
//! timeouts again. The same is asked of a core that was served by a leader outside: it must be able to do without. Nobody but a leader has that excuse. And such a
//! leader may go on with a witness of the core alone, which then refuses its vote to all that are left (that is a witness's price), or with another configuration: then
//! it is checked that the core is not able any more, and that it does nothing once it is alone.
//!
//! Where no nodes are able, by the checkers' own reckoning of quorums, zones and logs over every set of nodes, all sound ones are healed, and cut off from the
//! rest: as long as the reckoning says so, it is shown that they do not go on. What it says is counted.

use std::collections::BTreeSet;

use raft_core::{Body, LogPosition, Membership, Message, NodeId, ProposalId};

use crate::Image;
use crate::chaos::NO_EFFECT;
use crate::checker::broken;
use crate::node::{Node, index_of};
use crate::real::Real;
use crate::timeline::Mark;
use crate::world::World;
use crate::{Machine, Violation};

/// How many election timeouts the core has.
const TIMEOUTS: u64 = 20;

/// How many sets of nodes are looked at: all of as many as seeds draw. A plan file may have more nodes.
const SUBSETS_MAX: usize = 1 << 12;

/// A time that no run reaches.
const FOR_EVER: u64 = 1 << 60;

/// Why nodes may not be able to go on by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unable {
    /// None of them that all configurations count is a voter that could lead.
    NobodyCanLead,
    /// A joint configuration would be left for one without anybody to lead it.
    JointIsLeftToNobody,
    /// Those whose stores count are no quorum.
    NoQuorum,
    /// They are in too few zones.
    TooFewZones,
    /// Somebody who votes and can not lead has what none has that can.
    LongestLogCanNotLead,
}

impl Unable {
    fn name(self) -> &'static str {
        match self {
            Unable::NobodyCanLead => "unable: nobody can lead",
            Unable::JointIsLeftToNobody => "unable: a joint configuration is left to nobody",
            Unable::NoQuorum => "unable: no quorum",
            Unable::TooFewZones => "unable: too few zones",
            Unable::LongestLogCanNotLead => "unable: who has the longest log can not lead",
        }
    }
}

impl<M: Machine> World<'_, M> {
    /// Every configuration that may be in effect: the latest committed one, and those that some log has beyond it.
    pub(crate) fn live_memberships(&self) -> impl Iterator<Item = Membership> + '_ {
        let (at, committed) = self.checker.latest_membership();
        let committed = committed.clone();
        let logs = self.nodes.iter().flat_map(|node| [&node.log, &node.disk]);
        let later = logs.flat_map(Image::memberships);
        let later = later
            .filter(move |(position, _)| {
                position.index > at && self.checker.may_be_committed(*position)
            })
            .map(|(_, membership)| membership.clone());
        std::iter::once(committed).chain(later)
    }

    /// Whether a voter's votes and acknowledgements count: its store is the one that it was admitted with, and it knows that.
    pub(crate) fn is_counted(&self, membership: &Membership, voter: NodeId) -> bool {
        let node = &self.nodes[index_of(voter)];
        if !self.plan.has_stores {
            return true;
        }
        let own = node.store.id;
        let known = node.disk.membership();
        let is_founding =
            self.checker.committed().0 == 0 && known.contains(voter) && known.stores.is_empty();
        let knows = known.stores.get(&voter) == Some(&own);
        // Once stores are recorded, who has none on record counts no more than who has another.
        let is_recorded =
            membership.stores.is_empty() || membership.stores.get(&voter) == Some(&own);
        is_recorded && (knows || is_founding)
    }

    /// Why these nodes alone need not be able to go on. They must be, if they are a quorum of every configuration that may be in effect, also by zones; and one
    /// of them that can lead has all that the others have.
    fn why_unable(&self, core: &BTreeSet<usize>, memberships: &[Membership]) -> Option<Unable> {
        let ends = |is_able: &dyn Fn(NodeId) -> bool| -> LogPosition {
            let nodes = core.iter().map(|node| &self.nodes[*node]);
            // What is being written when faults end will be durable.
            let end = |node: &Node<M>| match node.raft {
                Some(_) => node.log.last(),
                None => node.disk.last(),
            };
            let ends = nodes.filter(|node| is_able(node.id)).map(end);
            ends.max_by_key(|end| (end.term, end.index)).unwrap_or(LogPosition::ORIGIN)
        };
        let can_lead = |id: NodeId| {
            let known = self.nodes[index_of(id)].disk.membership();
            known.is_voter(id)
                && !known.is_witness(id)
                && memberships.iter().all(|live| live.is_voter(id) && self.is_counted(live, id))
        };
        let votes = |id: NodeId| memberships.iter().any(|live| live.is_voter(id));
        if !memberships.iter().all(|live| live.members().any(can_lead)) {
            return Some(Unable::NobodyCanLead);
        }
        // A joint configuration is left only for one that has somebody to lead it: witnesses get nothing that no full voter who stays has.
        let is_left_to_somebody = memberships.iter().filter(|live| live.is_joint()).all(|live| {
            let full = live.voters.iter().filter(|id| !live.is_witness(**id));
            full.into_iter().any(|id| core.contains(&index_of(*id)))
        });
        if !is_left_to_somebody {
            return Some(Unable::JointIsLeftToNobody);
        }
        let end = ends(&can_lead);
        let is_quorum = |membership: &Membership| {
            membership.has_quorum(|voter: NodeId| {
                core.contains(&index_of(voter))
                    && self.is_counted(membership, voter)
                    && !self.is_afraid(voter, end)
            })
        };
        if !memberships.iter().all(is_quorum) {
            return Some(Unable::NoQuorum);
        }
        if !memberships.iter().all(|membership| self.has_zones(membership, core)) {
            return Some(Unable::TooFewZones);
        }
        let has_all = end.is_up_to_date_with(ends(&votes));
        (!has_all).then_some(Unable::LongestLogCanNotLead)
    }

    /// Whether a blank member refuses its vote to who has a log: while no stores are recorded, it can not know that it was not wiped.
    fn is_afraid(&self, voter: NodeId, end: LogPosition) -> bool {
        let disk = &self.nodes[index_of(voter)].disk;
        self.plan.has_stores
            && disk.membership().stores.is_empty()
            && disk.last().index.0 == 0
            && end.index.0 > 0
    }

    /// Commit groups: enough zones must have a voter in the core, of those that stay. Its store need not be recorded yet: a leader records
    /// what it sees.
    fn has_zones(&self, membership: &Membership, core: &BTreeSet<usize>) -> bool {
        let Some(groups) = &self.plan.config.commit_groups else { return true };
        let zones = |is_there: &dyn Fn(NodeId) -> bool| -> BTreeSet<u64> {
            let voters = membership.voters.iter().copied();
            let voters = voters.filter(|node| !membership.is_witness(*node) && is_there(*node));
            voters.filter_map(|node| groups.zones.get(&node).copied()).collect()
        };
        let is_stranger = |node: NodeId| {
            let admitted = membership.stores.get(&node);
            admitted.is_some_and(|store| *store != self.nodes[index_of(node)].store.id)
        };
        let there = zones(&|node| core.contains(&index_of(node)) && !is_stranger(node));
        there.len() >= groups.zones_min.min(zones(&|_| true).len())
    }

    /// Adds nodes in random order until they are able to go on; then, now and then, some more. If no nodes are able: why all together are not, that are sound.
    fn draw_core(&mut self) -> Result<BTreeSet<usize>, (Unable, BTreeSet<usize>)> {
        let memberships: Vec<Membership> = self.live_memberships().collect();
        // A disk that rots goes on to: it is no part of the core.
        let is_sound = |node: &usize| !self.nodes[*node].real.as_ref().is_some_and(Real::is_rotten);
        let mut order: Vec<usize> = (0..self.nodes.len()).filter(is_sound).collect();
        for place in (1..order.len()).rev() {
            let other = self.rng.below(place as u64 + 1) as usize;
            order.swap(place, other);
        }
        let everybody = self.rng.chance(300);
        let (mut core, mut able) = (BTreeSet::new(), None);
        for node in order {
            core.insert(node);
            // More are not always able: a longer log may be that of somebody who can not lead.
            if self.why_unable(&core, &memberships).is_none() {
                able = Some(core.clone());
                if !everybody && self.rng.chance(700) {
                    break;
                }
            }
        }
        let able = able.or_else(|| self.find_core(&core, &memberships));
        able.ok_or_else(|| {
            let why = self.why_unable(&core, &memberships).unwrap_or(Unable::NoQuorum);
            (why, core)
        })
    }

    /// Some of these nodes that are able to go on, if any are.
    fn find_core(
        &self,
        among: &BTreeSet<usize>,
        memberships: &[Membership],
    ) -> Option<BTreeSet<usize>> {
        let subsets = (1..1_u64 << among.len()).take(SUBSETS_MAX);
        let chosen = subsets.map(|subset| {
            let places = among.iter().zip(0..).filter(|(_, place)| subset >> place & 1 == 1);
            places.map(|(node, _)| *node).collect()
        });
        let mut chosen = chosen.filter(|core| self.why_unable(core, memberships).is_none());
        chosen.next()
    }

    /// Ends all faults within the core, and makes all others permanent.
    pub(crate) fn calm_down(&mut self) -> Result<(), Violation> {
        let drawn = self.draw_core();
        self.calm = true;
        let core = match drawn {
            Ok(core) => core,
            Err((why, core)) => {
                self.unable = Some(why);
                self.is_severed = true;
                core
            }
        };
        let ids: Vec<String> = core.iter().map(|node| (node + 1).to_string()).collect();
        let line = format!("faults are over within {}; all others stay", ids.join(" "));
        self.mark(Mark::Calm, None, || line);
        self.core.clone_from(&core);
        self.heal_real_disks();
        for &from in &core {
            for &to in &core {
                *self.network.link(from, to) = crate::network::Link::default();
            }
        }
        let outside: Vec<usize> = (0..self.nodes.len()).filter(|n| !core.contains(n)).collect();
        for node in outside {
            self.shut_out(node)?;
        }
        for node in core {
            if self.nodes[node].dies_after.take().is_some() {
                self.coverage.hit(NO_EFFECT);
            }
            self.heal_streams(node);
            self.nodes[node].paused_until = 0;
            self.resume(node)?;
            if self.nodes[node].stalled_until > self.now_us() {
                self.nodes[node].stalled_until = 0;
                let healthy = raft_core::Input::StorageHealth(raft_core::StorageHealth::Healthy);
                self.coverage.hit("disk stalls that ended");
                self.tell(node, healthy)?;
            }
            if !self.nodes[node].driver.queue.is_empty() {
                self.schedule_flush(node);
            }
            if self.nodes[node].raft.is_none() {
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// The fate of a node outside the core, for ever: whatever has befallen it already; and down, cut off in one direction or in both, or merely in a
    /// bad network.
    fn shut_out(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now_us();
        let it = &mut self.nodes[node];
        for until in [&mut it.paused_until, &mut it.stalled_until] {
            if *until > now {
                *until = FOR_EVER;
            }
        }
        for other in 0..self.nodes.len() {
            for (from, to) in [(node, other), (other, node)] {
                let clogged = &mut self.network.link(from, to).clogged_until;
                if *clogged > now {
                    *clogged = FOR_EVER;
                }
            }
        }
        match self.rng.below(5) {
            0 if self.nodes[node].raft.is_some() => return self.crash(node),
            1 => self.network.cut(|from| from == node, |to| to != node),
            2 => self.network.cut(|from| from != node, |to| to == node),
            3 => {
                self.network.cut(|from| from == node, |to| to != node);
                self.network.cut(|from| from != node, |to| to == node);
            }
            _ => {}
        }
        Ok(())
    }

    /// Liveness: within 20 election timeouts a leader is there, a new write and a new read are answered, and every machine of the core that
    /// is a member has applied that write.
    pub(crate) fn converge(&mut self) -> Result<(), Violation> {
        if let Some(why) = self.unable {
            return self.stand_still(why);
        }
        let begun = self.now_us();
        let (marker, reads) = (ProposalId(self.next_id), self.reads_answered);
        let is_over = move |world: &Self| world.core_has_converged(marker, reads);
        if self.run_until(begun + TIMEOUTS * self.plan.election_us(), is_over)? {
            let timeouts = self.timeouts_since(begun);
            self.coverage.highest("slowest convergence, in election timeouts", timeouts);
            if self.core_leads() {
                self.coverage.hit("converged");
                return Ok(());
            }
            self.coverage.hit("cores that a leader outside served");
            if self.is_cleared_alone()? {
                return Ok(());
            }
        } else if self.outside_leader_heard_at > begun && self.is_cleared_alone()? {
            self.coverage.hit("convergence hindered by a leader outside");
            return Ok(());
        }
        let why = self.what_blocks();
        broken(
            "liveness",
            format!(
                "{TIMEOUTS} election timeouts after the last fault: new write acknowledged {}, new read answered {}, known committed {}; core {:?}; {why}",
                self.ledger.acknowledged() >= Some(marker),
                self.reads_answered > reads,
                self.ledger.floor(),
                self.core
            ),
        )
    }

    /// Whether somebody in the core claims to lead.
    fn core_leads(&self) -> bool {
        self.core.iter().any(|node| self.nodes[*node].claims_to_lead())
    }

    /// A leader outside served the core, which shows nothing of the core itself, or kept it from converging. The proof: cut off from everybody outside, the core elects
    /// a leader of its own and converges in as many election timeouts. Or it is not able any more, since the leader went on with a witness of the core, or with
    /// another configuration; then it does nothing.
    fn is_cleared_alone(&mut self) -> Result<bool, Violation> {
        self.say(|| "the core is cut off from everybody outside".to_owned());
        self.is_severed = true;
        let (marker, reads) = (ProposalId(self.next_id), self.reads_answered);
        let severed = self.now_us();
        let deadline = severed + TIMEOUTS * self.plan.election_us();
        let is_over =
            move |world: &Self| world.core_leads() && world.core_has_converged(marker, reads);
        if self.run_until(deadline, is_over)? {
            self.coverage.hit("converged");
            let timeouts = self.timeouts_since(severed);
            self.coverage.highest("slowest convergence once alone, in election timeouts", timeouts);
            return Ok(true);
        }
        let memberships: Vec<Membership> = self.live_memberships().collect();
        let is_unable = self.why_unable(&self.core, &memberships).is_some();
        let does_nothing = self.ledger.acknowledged() < Some(marker);
        if is_unable && does_nothing {
            self.coverage.hit("cores made unable by a leader outside");
        }
        Ok(is_unable && does_nothing)
    }

    /// No nodes are able, by the reckoning of quorums. All that are sound together may have the luck to go on all the same; if they do not, some must have become
    /// able meanwhile, and then they go on, or still none are.
    fn stand_still(&mut self, why: Unable) -> Result<(), Violation> {
        let mut is_able = false;
        loop {
            let marker = ProposalId(self.next_id);
            let deadline = self.now_us() + TIMEOUTS * self.plan.election_us();
            if self.run_until(deadline, |world| world.ledger.acknowledged() >= Some(marker))? {
                self.coverage.hit("cores that went on, though that was not certain");
                return Ok(());
            }
            if is_able {
                let what = self.what_blocks();
                return broken("liveness", format!("who became able does not go on: {what}"));
            }
            let memberships: Vec<Membership> = self.live_memberships().collect();
            is_able = self.find_core(&self.core, &memberships).is_some();
            if !is_able {
                self.coverage.hit("no core is able");
                self.coverage.hit(why.name());
                return Ok(());
            }
        }
    }

    fn timeouts_since(&self, begun: u64) -> u64 {
        (self.now_us() - begun).div_ceil(self.plan.election_us())
    }

    /// Whether the core no longer hears this node; notes it if it hears a leader outside.
    pub(crate) fn is_unheard(&mut self, from: NodeId, to: usize, message: &Message) -> bool {
        let leads = matches!(
            message.body,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::SnapshotOffer { .. }
        );
        let is_inward =
            self.calm && self.core.contains(&to) && !self.core.contains(&index_of(from));
        if is_inward && leads && message.term >= self.nodes[to].log.hard_state.term {
            self.outside_leader_heard_at = self.now_us();
        }
        is_inward && self.is_severed
    }

    fn core_has_converged(&self, marker: ProposalId, reads: u64) -> bool {
        let floor = self.ledger.floor();
        let (_, membership) = self.checker.latest_membership();
        let has_applied = |node: &usize| {
            let it = &self.nodes[*node];
            let id = it.id;
            !membership.contains(id)
                || membership.is_witness(id)
                || !self.is_served(membership, id)
                || it.machine.applied.index >= floor
        };
        self.ledger.acknowledged() >= Some(marker)
            && self.reads_answered > reads
            && !membership.is_joint()
            && !self.core.iter().any(|node| self.is_to_be_demoted(membership, *node))
            && self.core.iter().all(has_applied)
    }

    /// Whether a member is owed convergence: learners and voters alike, unless a voter's store is rejected and can not be demoted.
    fn is_served(&self, membership: &Membership, id: NodeId) -> bool {
        membership.learners.contains(&id) || self.is_counted(membership, id)
    }

    /// Whether a voter is there on another store than the recorded one, and the group can do without its vote.
    fn is_to_be_demoted(&self, membership: &Membership, node: usize) -> bool {
        let it = &self.nodes[node];
        let recorded = membership.stores.get(&it.id);
        self.plan.has_stores
            && membership.voters.contains(&it.id)
            && membership.voters.iter().filter(|id| !membership.is_witness(**id)).count() > 1
            && recorded.is_some_and(|recorded| *recorded != it.store.id)
    }

    /// What every node says of itself.
    fn what_blocks(&self) -> String {
        let states = self.nodes.iter().enumerate().map(|(place, node)| match &node.raft {
            Some(raft) => {
                let cut: Vec<usize> = (0..self.nodes.len())
                    .filter(|&to| self.network.is_cut(place, to))
                    .map(|to| to + 1)
                    .collect();
                let status = raft.status();
                format!(
                    "applied by machine {}, cut off from {cut:?}: {status:?}",
                    node.machine.applied
                )
            }
            None => format!("node {} is down", node.id),
        });
        states.collect::<Vec<String>>().join(";\n    ")
    }
}
