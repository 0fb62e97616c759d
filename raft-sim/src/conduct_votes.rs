//! Rules of conduct on campaigns, votes and stores: who may campaign, and when; whom a member may vote for; who may speak for a store.

use raft_core::{Index, Membership, NodeId, Payload, Persist, Raft, RoleKind, StoreStamp, Term};

use crate::checker::broken;
use crate::node::index_of;
use crate::watch::{Asked, Leading};
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    /// Messages of an earlier start of a store are refused.
    pub(crate) fn judge_stamp(
        &mut self,
        node: usize,
        stamp: Option<(NodeId, Term, StoreStamp)>,
    ) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let (Some((from, term, stamp)), Some(raft)) = (stamp, &it.raft) else { return Ok(()) };
        if !raft.membership().contains(from) {
            it.watch.stamps.remove(&from);
            return Ok(());
        }
        let is_known = it.watch.stamps.get(&from).is_some_and(|before| before.id == stamp.id);
        if !is_known && term < raft.status().term {
            // What was said in an earlier term tells of no other store; and of which the core knows, these books need not know any more.
            return Ok(());
        }
        let before = it.watch.stamps.insert(from, stamp);
        match before.filter(|before| before.id == stamp.id && before.life > stamp.life) {
            Some(before) => broken(
                "messages of earlier lives are refused",
                format!("node {} believes {stamp:?} of node {from} after {before:?}", it.id),
            ),
            None => Ok(()),
        }
    }

    pub(crate) fn watch_role(
        &mut self,
        node: usize,
        role: RoleKind,
        term: Term,
    ) -> Result<(), Violation> {
        let election = self.plan.config.election_timeout;
        let steps = raft_core::Config::PRIORITY_MAX - self.plan.priorities[node];
        let it = &mut self.nodes[node];
        let now = it.watch.told;
        let leads = role == RoleKind::Leader;
        if it.watch.leading.is_some() {
            let commit = it.raft.as_ref().map_or(Index(0), |raft| raft.status().commit);
            it.watch.told_commit = it.watch.told_commit.max(commit);
        }
        let first_read = raft_core::ReadId(self.next_id);
        it.watch.leading = leads.then(|| Leading::new(term, now).asked_from(first_read));
        it.watch.has_compared |= leads;
        it.watch.streams.clear();
        if matches!(role, RoleKind::PreCandidate | RoleKind::Candidate) && it.driver.has_install() {
            return broken(
                "nobody campaigns while its log is replaced",
                format!("node {} does, in term {term}", it.id),
            );
        }
        if role != RoleKind::PreCandidate {
            return Ok(());
        }
        let since = it.watch.heard_before.map_or(it.watch.started, |(_, at)| at);
        let waited = now.since(since);
        if waited < election * (1 + u32::from(steps)) {
            return broken(
                "nobody campaigns before its time",
                format!("node {} does so {waited:?} after it heard a leader", it.id),
            );
        }
        let is_prompt = waited < (election + election / 2000) * (1 + u32::from(steps));
        self.prompt_campaigns = if is_prompt { self.prompt_campaigns + 1 } else { 0 };
        if self.prompt_campaigns > 4 {
            return broken(
                "elections are spread over time",
                format!(
                    "node {} is the fifth in a row that campaigns after just {waited:?}",
                    it.id
                ),
            );
        }
        if it.watch.knows_stall {
            return broken(
                "nobody campaigns on a disk that stalls",
                format!("node {} does, in term {term}", it.id),
            );
        }
        Ok(())
    }

    pub(crate) fn judge_vote(&mut self, node: usize, write: &Persist) -> Result<(), Violation> {
        let election = self.plan.config.election_timeout;
        let it = &self.nodes[node];
        let (id, watch, old) = (it.id, &it.watch, it.log.hard_state);
        let Some(new) = write.hard_state else { return Ok(()) };
        if let Some((owed, term)) = watch.owes_vote.filter(|(_, term)| *term == new.term)
            && new.vote != Some(owed)
        {
            return broken(
                "who was asked to take over gets the votes",
                format!("node {id} refuses its vote of term {term} to node {owed}"),
            );
        }
        let is_new = new.vote.is_some() && (new.vote, new.term) != (old.vote, old.term);
        let Some(to) = new.vote.filter(|_| is_new) else { return Ok(()) };
        let asked = watch.asked.filter(|asked| asked.from == to && asked.term == new.term);
        let is_log_as_it_was = write.reset.is_none() && write.truncate_from.is_none();
        if let Some(asked) =
            asked.filter(|asked| is_log_as_it_was && !asked.last.is_up_to_date_with(asked.own))
        {
            return broken(
                "votes go to logs that lack nothing",
                format!(
                    "node {id}, whose log ends at {}, votes for node {to}: {}",
                    asked.own, asked.last
                ),
            );
        }
        let changes =
            write.entries.iter().any(|entry| matches!(entry.payload, Payload::Membership(_)));
        if self.plan.has_stores && is_log_as_it_was && !changes {
            let recorded = &it.log.membership().stores;
            let is_other = !recorded.is_empty() && recorded.get(&id) != Some(&it.store.id);
            // It may vote: who asked for the vote judges whether it counts.
            if is_other && to == id {
                return broken(
                    "who may have been wiped does not campaign",
                    format!("node {id} on {:?} campaigns; recorded is {recorded:?}", it.store),
                );
            }
        }
        let is_blank = |asked: Asked| asked.last.index == Index(0);
        let knows_no_group = !changes && is_log_as_it_was && !it.log.membership().is_voter(id);
        if self.plan.has_stores && to != id && asked.is_some_and(is_blank) && knows_no_group {
            return broken(
                "who may have been wiped founds nothing",
                format!(
                    "node {id}, which knows of no group, votes for node {to} and its blank log"
                ),
            );
        }
        // Who was asked again meanwhile may have been asked for a transfer.
        if to == id || asked.is_none_or(|asked| asked.transfer) {
            return Ok(());
        }
        // Who hears a leader after its start owes nothing to those before: that one could not lead otherwise.
        let is_early = watch.may_have_promised
            && watch.heard_before.is_none()
            && watch.heard.is_none()
            && watch.told.since(watch.started) < election;
        let is_promised = watch
            .heard_before
            .filter(|_| watch.heard.is_none_or(|(leader, _)| leader != to))
            .is_some_and(|(leader, at)| leader != to && watch.told.since(at) < election);
        if is_early || is_promised {
            return broken(
                "promises to leaders are kept",
                format!(
                    "node {id} votes for node {to}; it heard {:?}, started at {}, and it is {}",
                    watch.heard, watch.started, watch.told
                ),
            );
        }
        Ok(())
    }

    /// A leader writes down on which stores members are. What they said in an earlier term may be of stores that are long gone.
    pub(crate) fn judge_recorded_stores(
        &self,
        node: usize,
        (before, next): (&Membership, &Membership),
        term: Term,
    ) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let recorded = next
            .stores
            .iter()
            .filter(|(id, store)| **id != it.id && before.stores.get(id) != Some(store));
        for (id, store) in recorded {
            if !it.watch.has_spoken_from(*id, *store, term) {
                return broken(
                    "stores are recorded as they were heard of",
                    format!(
                        "node {} records {store:?} of node {id}, which has not spoken from it in term {term}",
                        it.id
                    ),
                );
            }
        }
        Ok(())
    }

    /// Who was wiped can not know it: where its configuration records another store for it, it is told so.
    pub(crate) fn judge_own_store(&mut self, node: usize) -> Result<(), Violation> {
        if !self.plan.has_stores {
            return Ok(());
        }
        let it = &mut self.nodes[node];
        if !std::mem::take(&mut it.watch.has_moved) {
            return Ok(());
        }
        let recorded = it.log.membership().stores.get(&it.id);
        let is_other = recorded.is_some_and(|recorded| *recorded != it.store.id);
        if is_other && !it.watch.knows_rejection {
            return broken(
                "who is on another store is told so",
                format!("node {} on {:?} knows nothing; recorded is {recorded:?}", it.id, it.store),
            );
        }
        it.watch.knows_rejection &= is_other;
        Ok(())
    }

    /// Who looks on knows what a node does, by elections and by configurations.
    pub(crate) fn judge_role(&self, node: usize) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let Some(role) = it.raft.as_ref().map(Raft::role_kind) else { return Ok(()) };
        if role == it.role {
            return Ok(());
        }
        broken(
            "observers are told of every role",
            format!("node {} is a {role}; what was told last is {}", it.id, it.role),
        )
    }

    /// The store of a witness lacks commands: who was one, as far as the leader's log goes back, becomes no full member.
    pub(crate) fn judge_former_witnesses(
        &self,
        node: usize,
        next: &Membership,
    ) -> Result<(), Violation> {
        let it = &self.nodes[node];
        match next.members().find(|id| !next.is_witness(*id) && it.log.ever_lists_witness(*id)) {
            Some(former) => broken(
                "who was a witness becomes no full member",
                format!("node {} makes a member of node {former}: {next:?}", it.id),
            ),
            None => Ok(()),
        }
    }

    /// Where stores are told apart, a leader changes the group only so that a quorum knows that it may vote.
    pub(crate) fn judge_electable(&self, node: usize, next: &Membership) -> Result<(), Violation> {
        if next.stores.is_empty() || !self.nodes[node].claims_to_lead() {
            return Ok(());
        }
        let leader = self.nodes[node].id;
        let knows = |id: NodeId| {
            let other = &self.nodes[index_of(id)];
            let known = |image: &crate::Image| {
                image.memberships().any(|(_, known)| known.stores.contains_key(&id))
                    || image.base_membership.stores.contains_key(&id)
            };
            id == leader
                || known(&other.disk)
                || self.graves.iter().any(|(grave, _, disk)| *grave == id && known(disk))
        };
        if next.has_quorum(knows) {
            return Ok(());
        }
        broken(
            "a quorum knows that it may vote",
            format!("node {leader} changes the group to {next:?}"),
        )
    }
}
