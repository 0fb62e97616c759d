//! Rules of conduct on leaders: on what a lease rests, what they send and stream, to whom they hand over, and when they make way.

use raft_core::{
    Entries, Entry, Index, Instant, LogPosition, Membership, NodeId, ReplicationKind, RoleKind,
    SnapshotMeta, Term,
};

use crate::checker::broken;
use crate::node::index_of;
use crate::world::World;
use crate::{Machine, Violation};

/// Within so many heartbeat intervals a leader does what can not be done at once.
const ATTENTION_HEARTBEATS: u32 = 4;

impl<M: Machine> World<'_, M> {
    /// Whether a leader has a lease by the world's own books.
    pub(crate) fn has_lease(&self, node: usize, now: Instant) -> bool {
        let it = &self.nodes[node];
        let (Some(lease), Some(raft), Some(leading)) =
            (self.plan.config.lease, &it.raft, &it.watch.leading)
        else {
            return false;
        };
        let share = u64::from(1_000_000 - lease.clock_drift_max_ppm.min(1_000_000));
        let window = self.plan.election_us() * share / 1_000_000;
        !it.watch.is_stalled && leading.is_promised(it.id, raft.membership(), (window, now))
    }

    /// What a leader sends is in its log, is safe from being lost where that matters, and is news.
    pub(crate) fn judge_append(
        &mut self,
        node: usize,
        to: NodeId,
        (term, prev): (Term, LogPosition),
        entries: &Entries,
    ) -> Result<(), Violation> {
        let end = entries.last().map_or(prev.index, |entry| entry.index);
        self.judge_serving(node, to, (prev.index, end))?;
        self.judge_begun_anew(node, to, prev.index)?;
        let it = &self.nodes[node];
        let (id, last, told) = (it.id, it.log.last(), it.watch.told);
        let (Some(first), Some(end)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        let is_own = |entry: &Entry| {
            entry.index <= it.log.base.index
                || entry.index > last.index
                || it.log.term_at(entry.index) == Some(entry.term)
        };
        if !is_own(first) || !is_own(end) {
            return broken(
                "leaders send what is in their logs",
                format!("node {id} sends {} to {}", first.position(), end.position()),
            );
        }
        let is_witness = self.nodes[index_of(to)].is_witness;
        if let Some(leading) = &mut self.nodes[node].watch.leading {
            leading.replicates.insert(to);
        }
        let it = &self.nodes[node];
        let membership = it.log.membership();
        let is_new =
            it.watch.leading.as_ref().is_none_or(|it| it.changed.is_some_and(|at| at >= told));
        let recorded = &membership.stores;
        let is_unrecorded = !recorded.is_empty() && !recorded.contains_key(&to);
        if self.plan.has_stores && membership.is_voter(to) && is_unrecorded && !is_new {
            return broken(
                "who does not count gets no entries",
                format!(
                    "node {id} sends {} to node {to}, whose store is recorded nowhere",
                    end.index
                ),
            );
        }
        if is_witness && membership.is_witness(to) && !self.completes_quorum(membership, end, term)
        {
            return broken(
                "witnesses get what they complete a quorum for",
                format!("node {id} sends {} to node {to}, and too few disks have that", end.index),
            );
        }
        // Of who was removed the store is not known any more: what it says twice is believed, even if both are old answers.
        let has_store = self.plan.has_stores && it.log.membership().contains(to);
        if let Some(leading) = it.watch.leading.as_ref().filter(|_| has_store)
            && let Some((Some(stamp), acked)) = leading.acked.get(&to)
            && *stamp == self.nodes[index_of(to)].store
            && leading.term == term
            && prev.index < *acked
        {
            return broken(
                "what was acknowledged is not sent again",
                format!("node {id} sends {} to node {to}, which acknowledged {acked}", first.index),
            );
        }
        Ok(())
    }

    /// What was under way when a connection broke is lost, as far as the leader knows: it begins anew after what was acknowledged.
    pub(crate) fn judge_begun_anew(
        &mut self,
        node: usize,
        to: NodeId,
        prev: Index,
    ) -> Result<(), Violation> {
        let is_judged = self.plan.coalesce == 0;
        let it = &mut self.nodes[node];
        let (id, unsettled) = (it.id, &it.watch.unsettled);
        let Some(leading) = it.watch.leading.as_mut() else { return Ok(()) };
        let most = leading.most.get(&to).copied().unwrap_or_default();
        if leading.broken.remove(&to) && is_judged && !unsettled.contains(&to) && prev > most {
            return broken(
                "what a broken connection lost is sent anew",
                format!("node {id} goes on after {prev}; node {to} has acknowledged {most}"),
            );
        }
        Ok(())
    }

    /// Whether an entry would be committed if all witnesses had it, and some full voter has it. Who lost a disk since, or follows a later leader, may have
    /// acknowledged it.
    fn completes_quorum(&self, membership: &Membership, entry: &Entry, term: Term) -> bool {
        let had = |voter: NodeId| {
            let disk = &self.nodes[index_of(voter)].disk;
            disk.base.index >= entry.index
                || disk.term_at(entry.index) == Some(entry.term)
                || disk.hard_state.term > term
                || self.graves.iter().any(|(it, ..)| *it == voter)
        };
        let is_full = |voter: &&NodeId| !membership.is_witness(**voter);
        membership.has_quorum(|voter| membership.is_witness(voter) || had(voter))
            && membership.voters.iter().filter(is_full).any(|voter| had(*voter))
    }

    /// A leader commits by counting only what is of its own term (paper §5.4.2), and all before along with it.
    pub(crate) fn judge_own_commit(
        &self,
        node: usize,
        term: Term,
        commit: Index,
    ) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let known = it.watch.told_commit.max(it.watch.restored_commit);
        let is_own = it.log.term_at(commit) == Some(term);
        if it.watch.leading.as_ref().is_none_or(|it| it.term != term) || commit <= known || is_own {
            return Ok(());
        }
        broken(
            "leaders commit by entries of their own term",
            format!(
                "node {} takes {commit}, of {:?}, for committed in term {term}; it knew {known}",
                it.id,
                it.log.term_at(commit)
            ),
        )
    }

    /// A log is not cut so far that a follower which replicates, and lags within the budget, needs a snapshot.
    pub(crate) fn judge_compaction(&self, node: usize, through: Index) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let config = &self.plan.config;
        let (Some(leading), Some(checkpoint), 0) =
            (&it.watch.leading, it.watch.holdings.checkpoint_of_leader(), self.plan.coalesce)
        else {
            return Ok(());
        };
        let reserved = checkpoint.0.saturating_sub(config.retained_entries);
        let waits_for = |peer: &NodeId, acked: Index| {
            let contact = leading.answered_at.get(peer).copied().unwrap_or_default();
            acked < through
                && acked.0.saturating_add(config.compaction_lag_max) >= reserved
                && leading.replicates.contains(peer)
                && it.log.membership().contains(*peer)
                && it.watch.told.since(contact) < config.election_timeout
        };
        match leading.most.iter().find(|(peer, acked)| waits_for(peer, **acked)) {
            Some((peer, acked)) => broken(
                "logs are not cut before slow followers",
                format!(
                    "node {} cuts its log through {through}; node {peer} has {acked}, and may lag by {}",
                    it.id, config.compaction_lag_max
                ),
            ),
            None => Ok(()),
        }
    }

    /// How a peer is served: see [`serving`](crate::serving).
    pub(crate) fn judge_serving(
        &mut self,
        node: usize,
        to: NodeId,
        span: (Index, Index),
    ) -> Result<(), Violation> {
        if self.plan.coalesce > 0 {
            // What is decided leaves so much later that its times tell nothing.
            return Ok(());
        }
        let patience = self.plan.config.heartbeat_interval / 2;
        let Ok([it, peer]) = self.nodes.get_disjoint_mut([node, index_of(to)]) else {
            return Ok(());
        };
        let (id, told) = (it.id, it.watch.told);
        let Some(leading) = &mut it.watch.leading else { return Ok(()) };
        let serving = leading.serving.entry(to).or_default();
        let found = serving.judge_search(&it.log, &peer.log);
        let verdict = found.and_then(|()| serving.on_append(span, told, patience));
        verdict.map_err(|it| Violation {
            detail: format!("node {id} to node {to}: {}", it.detail),
            ..it
        })
    }

    /// Nobody waits for a time-out where a heartbeat is enough: what is not answered is asked about, a broken connection is tried again, and who has an earlier snapshot
    /// is served on. Judged when heartbeats have left.
    pub(crate) fn judge_attention(&mut self, node: usize, told: Instant) -> Result<(), Violation> {
        let heartbeat = self.plan.config.heartbeat_interval;
        // What is decided leaves later there; and who does not count gets nothing.
        let is_judged = self.plan.coalesce == 0 && !self.plan.has_stores;
        let it = &mut self.nodes[node];
        let id = it.id;
        let members = it.log.membership();
        let Some(leading) = it.watch.leading.as_mut() else { return Ok(()) };
        if !std::mem::take(&mut leading.has_beaten) || !is_judged {
            return Ok(());
        }
        let owed = leading.owed.iter().find(|(peer, since)| {
            members.contains(**peer)
                && !leading.fetching.contains(peer)
                && told.since(**since) > heartbeat * ATTENTION_HEARTBEATS
        });
        if let Some((peer, since)) = owed {
            return broken(
                "who is owed something gets it soon",
                format!(
                    "node {id} owes node {peer} an append or an offer since {since}; it is {told}"
                ),
            );
        }
        let unanswered = leading.serving.iter().find(|(peer, serving)| {
            let attended = leading.attended.get(peer).copied().unwrap_or_default();
            leading.replicates.contains(peer)
                && !leading.fetching.contains(peer)
                && members.contains(**peer)
                && serving.waits_since().is_some_and(|since| {
                    told.since(since.max(attended)) > heartbeat * ATTENTION_HEARTBEATS
                })
        });
        match unanswered {
            Some((peer, _)) => broken(
                "what is not answered is asked about",
                format!("node {id} has asked node {peer} nothing for too long; it is {told}"),
            ),
            None => Ok(()),
        }
    }

    /// Leadership goes to who can lead, and has the whole log.
    pub(crate) fn judge_handover(
        &self,
        node: usize,
        to: NodeId,
        term: Term,
    ) -> Result<(), Violation> {
        let (it, target) = (&self.nodes[node], &self.nodes[index_of(to)]);
        let (membership, last) = (it.log.membership(), it.log.last());
        if !membership.is_voter(to) || membership.is_witness(to) {
            return broken(
                "leadership goes to voters",
                format!("node {} hands over to node {to} in {membership:?}", it.id),
            );
        }
        let disk = &target.disk;
        let is_behind = disk.hard_state.term == term
            && disk.base.index < last.index
            && disk.term_at(last.index) != Some(last.term);
        if is_behind && !self.plan.has_stores {
            return broken(
                "leadership goes to who has the log",
                format!(
                    "node {} hands over at {last} to node {to}, which has {}",
                    it.id,
                    disk.last()
                ),
            );
        }
        Ok(())
    }

    /// A leader that was asked to hand over: to somebody who is near, or to nobody.
    pub(crate) fn judge_transfer(
        &self,
        node: usize,
        request: raft_core::RequestId,
        to: Option<NodeId>,
    ) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let (Some(to), Some(leading)) = (to, &it.watch.leading) else { return Ok(()) };
        let is_accepted = it.claims_to_lead()
            && to != it.id
            && leading.transfer == Some(request)
            && self.ledger.is_requested(it.id, request);
        if !is_accepted || self.plan.has_stores || it.poll_scheduled {
            return Ok(());
        }
        let behind =
            it.log.last().index.0.saturating_sub(self.nodes[index_of(to)].disk.last().index.0);
        let contact = leading.contact.get(&to).copied().unwrap_or(leading.since);
        let silent = it.watch.told.since(contact);
        if behind > self.plan.config.transfer_lag_max || silent >= self.plan.config.election_timeout
        {
            return broken(
                "leadership goes to who is near",
                format!(
                    "node {} begins to hand over to node {to}, {behind} behind, silent for {silent:?}",
                    it.id
                ),
            );
        }
        Ok(())
    }

    /// A leader that was just told that its disk stalls makes way, if somebody is in step.
    pub(crate) fn judge_stalled_leader(&self, node: usize) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let (Some(raft), false) = (&it.raft, it.poll_scheduled) else { return Ok(()) };
        let status = raft.status();
        let now = it.watch.told;
        let able = status.peers.iter().find(|peer| {
            status.membership.is_voter(peer.id)
                && !status.membership.is_witness(peer.id)
                && peer.counts
                && peer.matched == status.last
                && peer.replication == ReplicationKind::Replicate
                && now.since(peer.last_contact) < self.plan.config.election_timeout
        });
        match able {
            Some(peer) if status.role == RoleKind::Leader && status.transfer_to.is_none() => {
                broken(
                    "leaders on stalled disks make way",
                    format!("node {} does not, though node {} could lead", it.id, peer.id),
                )
            }
            _ => Ok(()),
        }
    }

    /// Who is removed is told so: until it has the entry that removed it, or for a while.
    pub(crate) fn judge_farewells(&mut self, node: usize, told: Instant) -> Result<(), Violation> {
        let (election, heartbeat) =
            (self.plan.config.election_timeout, self.plan.config.heartbeat_interval);
        let it = &mut self.nodes[node];
        let (id, claimed) = (it.id, it.claimed);
        let Some(leading) = &mut it.watch.leading else { return Ok(()) };
        let acked = &leading.acked;
        leading.leaving.retain_mut(|gone| {
            if gone.since.is_none() && gone.at <= claimed {
                gone.since = Some(told);
                gone.spoken = 0;
            }
            let knows = acked.get(&gone.node).is_some_and(|(_, acked)| *acked >= gone.at);
            !knows && gone.spoken < 2 && told.since(gone.began) < election
        });
        let late = leading.leaving.iter().find(|gone| {
            gone.node != id && gone.since.is_some_and(|since| told.since(since) > heartbeat * 4)
        });
        match late {
            Some(gone) => broken(
                "who is removed is told so",
                format!("node {id} fell silent to node {}, removed at {}", gone.node, gone.at),
            ),
            None => Ok(()),
        }
    }

    /// A leader that hears no quorum steps down (dissertation §6.2).
    pub(crate) fn judge_hearing(&self, node: usize, told: Instant) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let (Some(leading), Some(raft), true) =
            (&it.watch.leading, &it.raft, self.messages.is_multiple_of(8))
        else {
            return Ok(());
        };
        let patience = self.plan.config.election_timeout * 2;
        let hears = |peer: NodeId| {
            let last = leading.contact.get(&peer).copied().unwrap_or(leading.since);
            peer == it.id || told.since(last.max(leading.since)) <= patience
        };
        // Who joined may have had no time to speak.
        if told.since(leading.since) <= patience
            || leading.changed.is_some_and(|at| told.since(at) <= patience)
            || raft.membership().has_quorum(hears)
        {
            return Ok(());
        }
        broken(
            "leaders that hear no quorum step down",
            format!("node {} leads term {} and hears too few", it.id, leading.term),
        )
    }

    /// A snapshot is only for who needs entries that are gone.
    pub(crate) fn judge_need(&mut self, node: usize, to: NodeId) -> Result<(), Violation> {
        let is_judged = self.plan.coalesce == 0 && !self.plan.has_stores;
        let it = &mut self.nodes[node];
        let (id, base) = (it.id, it.log.base.index);
        let Some(leading) = it.watch.leading.as_mut().filter(|_| is_judged) else { return Ok(()) };
        match leading.enough.remove(&to).filter(|matched| *matched >= base) {
            Some(matched) => broken(
                "snapshots are for who needs them",
                format!(
                    "node {id} goes on with one for node {to}, which has {matched}; its log begins after {base}"
                ),
            ),
            None => Ok(()),
        }
    }

    /// A stream of the same snapshot is begun once at a time.
    pub(crate) fn watch_stream(
        &mut self,
        node: usize,
        to: NodeId,
        snapshot: &SnapshotMeta,
    ) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        it.watch.attend(to);
        self.judge_need(node, to)?;
        let it = &mut self.nodes[node];
        if it.watch.unsettled.contains(&to)
            || it.watch.streams.insert((to, snapshot.position.index))
        {
            return Ok(());
        }
        broken(
            "a snapshot is streamed once at a time",
            format!("node {} streams {} to node {to} twice at once", it.id, snapshot.position),
        )
    }
}
