//! How a member must behave beside being safe: whom it may vote for and when, on what a lease and a read rest, to whom leadership may be handed, what must be
//! answered in time, what may not be sent. Judged by what the world itself saw (`watch`); most of it shows long before it does harm.

use raft_core::{
    Body, ChangeStep, Entries, Entry, Index, Input, Instant, LogPosition, Membership, Message,
    NodeId, Payload, Persist, Raft, ReplicationKind, Resolution, RoleKind, SnapshotMeta,
    StorageHealth, StoreStamp, Term,
};

use crate::checker::broken;
use crate::node::index_of;
use crate::watch::{Leading, Leaving, Question};
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    /// Before a core is told something.
    pub(crate) fn watch_input(&mut self, node: usize, input: &Input, now: Instant) {
        let election = self.plan.config.election_timeout;
        let heartbeat = self.plan.config.heartbeat_interval;
        let has_leases = self.plan.config.lease.is_some();
        let is_polled = !self.nodes[node].poll_scheduled;
        let has_stores = self.plan.has_stores;
        let it = &mut self.nodes[node];
        let (id, own, term) = (it.id, it.log.last(), it.log.hard_state.term);
        let leads = it.raft.as_ref().is_some_and(|raft| raft.leader() == Some(id));
        let is_paused = has_leases && now.since(it.watch.told) > heartbeat * 2;
        let forgets = is_paused || matches!(input, Input::ClockSuspect);
        if let Some(leading) = it.watch.leading.as_mut().filter(|_| forgets) {
            leading.floor = now;
        }
        let watch = &mut it.watch;
        if now.since(watch.told) > election {
            // It was away: what waited begins to count anew.
            for (due, _) in &mut watch.questions_to_read {
                *due = now + election * 4;
            }
        }
        watch.told = now;
        match input {
            Input::Message { from, store, message } => {
                watch.note_message(*from, *store, message, now, own);
                let is_plain = is_polled && !has_stores && message.term > term;
                let knows_as_leader = watch.heard.is_some_and(|(leader, _)| leader == *from);
                match message.body {
                    Body::PreVote { last } => {
                        let is_owed = is_plain && knows_as_leader && !leads;
                        watch.owes_pre_vote =
                            (is_owed && last.is_up_to_date_with(own)).then_some(*from);
                    }
                    Body::Vote { last, transfer: true }
                        if is_plain && last.is_up_to_date_with(own) =>
                    {
                        watch.owes_vote = Some((*from, message.term));
                    }
                    _ => {}
                }
            }
            Input::Propose { id: batch, commands } => {
                let bytes = commands.iter().map(|one| one.len() + Entry::OVERHEAD_BYTES).sum();
                watch.batches.insert(*batch, bytes);
                watch.questions.push_back((now + election + heartbeat, Question::Batch(*batch)));
            }
            Input::Read { id: read, .. } => {
                watch.reads.insert(*read, now);
                watch.questions_to_read.push_back((now + election * 4, *read));
            }
            Input::ChangeMembership { change, .. } => {
                if let Some(leading) = &mut watch.leading {
                    leading.added.extend(change.steps.iter().filter_map(|step| match step {
                        ChangeStep::AddVoter(node) => Some(*node),
                        _ => None,
                    }));
                }
            }
            Input::TransferLeadership { id: request, .. } => {
                let within = election + heartbeat * 2;
                watch.questions.push_back((now + within, Question::Transfer(*request)));
                if let Some(leading) = watch.leading.as_mut().filter(|it| it.transfer.is_none()) {
                    leading.transfer = Some(*request);
                }
            }
            Input::StorageHealth(health) => {
                watch.is_stalled = *health == StorageHealth::Stalled;
                watch.knows_stall &= watch.is_stalled;
            }
            Input::Unreachable(peer) | Input::FetchFailed { peer } => watch.serve_anew(*peer),
            _ => {}
        }
    }

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
        let is_another = it.watch.stamps.get(&from).is_some_and(|before| before.id != stamp.id);
        if is_another && term < raft.status().term {
            // What was said in an earlier term tells of no other store.
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

    /// After it was told.
    pub(crate) fn watch_handled(
        &mut self,
        node: usize,
        heard: Option<(NodeId, Term)>,
        (now, is_checked): (Instant, bool),
    ) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let Some(raft) = &it.raft else { return Ok(()) };
        if let Some((from, term)) = heard
            && term >= it.log.hard_state.term
            && raft.leader() == Some(from)
        {
            it.watch.heard = Some((from, now));
        }
        if self.plan.config.lease.is_none() || it.watch.leading.is_none() {
            return Ok(());
        }
        let has_lease = self.has_lease(node, now);
        self.nodes[node].watch.had_lease |= has_lease;
        let it = &self.nodes[node];
        let claimed = |raft: &Raft| raft.lease_until().is_some_and(|until| now < until);
        if is_checked && !has_lease && it.raft.as_ref().is_some_and(claimed) {
            return broken(
                "leases rest on fresh promises",
                format!("node {} believes in its lease, which no quorum's answers bear out", it.id),
            );
        }
        Ok(())
    }

    /// Whether a leader has a lease by the world's own books.
    fn has_lease(&self, node: usize, now: Instant) -> bool {
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

    /// Once a core has nothing more to say.
    pub(crate) fn watch_drained(&mut self, node: usize) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let watch = &mut it.watch;
        watch.owes_pre_vote = None;
        watch.owes_vote = None;
        watch.had_lease = false;
        watch.has_echo = false;
        watch.knows_stall = watch.is_stalled;
        watch.unsettled.clear();
        watch.heard_before = watch.heard;
        if let Some(leading) = &mut watch.leading {
            leading.note_poll();
            leading.serving.values_mut().for_each(crate::serving::Serving::settle);
        }
        let told = watch.told;
        self.judge_farewells(node, told)?;
        self.judge_hearing(node, told)?;
        while let Some((due, question)) = self.nodes[node].watch.questions.front().copied() {
            if due > told {
                break;
            }
            let it = &mut self.nodes[node];
            it.watch.questions.pop_front();
            let waits = match question {
                Question::Batch(batch) => self.ledger.is_asked(it.id, batch),
                Question::Transfer(request) => self.ledger.is_requested(it.id, request),
            };
            if waits {
                return broken(
                    "questions are answered in time",
                    format!("node {} has not answered {question:?}", it.id),
                );
            }
        }
        while let Some((due, read)) = self.nodes[node].watch.questions_to_read.front().copied() {
            if due > told {
                break;
            }
            let it = &mut self.nodes[node];
            it.watch.questions_to_read.pop_front();
            // A leader's reads may wait for as long as it is believed to lead.
            if !it.claims_to_lead() && self.ledger.is_reading(it.id, read) {
                return broken(
                    "questions are answered in time",
                    format!("node {} has not answered {read:?}", it.id),
                );
            }
        }
        Ok(())
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
        let end = it.log.last().index;
        it.watch.leading = leads.then(|| Leading::new(term, now, end));
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

    /// A write, before the log is changed by it.
    pub(crate) fn watch_write(&mut self, node: usize, write: &Persist) -> Result<(), Violation> {
        self.judge_vote(node, write)?;
        let it = &mut self.nodes[node];
        let moves =
            write.entries.iter().any(|entry| matches!(entry.payload, Payload::Membership(_)));
        if moves {
            it.watch.stamps.clear();
            it.watch.streams.clear();
            if let Some(leading) = &mut it.watch.leading {
                leading.forget_acknowledgements();
                leading.changed = Some(it.watch.told);
            }
        }
        if let Some(new) = write.hard_state
            && new.commit > it.log.hard_state.commit.max(it.watch.restored_commit)
            && self.plan.has_stores
            && !it.watch.has_compared
            && write.reset.is_none()
        {
            return broken(
                "nothing is taken for committed before the logs were compared",
                format!("node {} takes {} for committed", it.id, new.commit),
            );
        }
        let told = it.watch.told;
        let mut before = it.log.membership();
        let mut changed = false;
        let Some(leading) = &mut it.watch.leading else { return Ok(()) };
        for entry in write.entries.iter() {
            let Payload::Membership(next) = &entry.payload else { continue };
            changed |= !next.voters.is_subset(&before.voters);
            let is_settled = it.log.hard_state.term == leading.term;
            if let Some(early) =
                leading.promoted_too_early(before, next).filter(|node| is_settled && *node != it.id)
            {
                return broken(
                    "who is promoted has caught up",
                    format!("node {} promotes node {early} at {}", it.id, entry.index),
                );
            }
            leading.note_change(before, next, entry.index);
            leading.leaving.retain(|gone| !next.contains(gone.node));
            for gone in before.members().filter(|node| !next.contains(*node)) {
                let (at, began) = (entry.index, told);
                leading.leaving.push(Leaving { node: gone, at, began, since: None, spoken: 0 });
            }
            before = next;
        }
        let next = before.clone();
        if changed { self.judge_electable(node, &next) } else { Ok(()) }
    }

    fn judge_vote(&mut self, node: usize, write: &Persist) -> Result<(), Violation> {
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
        // Who was asked again meanwhile may have been asked for a transfer.
        if to == id || asked.is_none_or(|asked| asked.transfer) {
            return Ok(());
        }
        // Who hears a leader after its start owes nothing to those before: that one could not lead otherwise.
        let is_early = watch.may_have_promised
            && watch.heard_before.is_none()
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

    pub(crate) fn watch_send(
        &mut self,
        node: usize,
        to: NodeId,
        message: &Message,
    ) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let (id, life, told) = (it.id, it.life, it.watch.told);
        let last = it.log.last();
        if let Some(leading) = &mut it.watch.leading {
            for gone in leading.leaving.iter_mut().filter(|gone| gone.node == to) {
                gone.spoken += 1;
            }
        }
        match &message.body {
            Body::Heartbeat { read_context, .. } => {
                let Some(leading) = &mut it.watch.leading else { return Ok(()) };
                leading.note_beat(*read_context, told);
                if leading.term == message.term && last.term != message.term {
                    return broken(
                        "leaders begin with an entry of their own",
                        format!(
                            "node {id} leads term {} with a log that ends at {last}",
                            message.term
                        ),
                    );
                }
            }
            Body::PreVoteResponse { granted: false } if it.watch.owes_pre_vote == Some(to) => {
                return broken(
                    "who led may ask for votes",
                    format!(
                        "node {id} refuses the pre-vote of node {to}, whom it took for the leader"
                    ),
                );
            }
            Body::ReadIndex { context } => {
                let first = *it.watch.contexts.entry(*context).or_insert(life);
                if first != life {
                    return broken(
                        "questions of two lives are told apart",
                        format!(
                            "node {id} asks with context {context} in lives {first} and {life}"
                        ),
                    );
                }
            }
            Body::Forward { id: batch, .. } => it.watch.nonce = Some(batch.nonce),
            Body::TimeoutNow => {
                if let Some(leading) = &mut it.watch.leading {
                    leading.is_forsworn = true;
                }
                return self.judge_handover(node, to, message.term);
            }
            Body::Append { entries, prev, .. } => {
                return self.judge_append(node, to, (message.term, *prev), entries);
            }
            _ => {}
        }
        Ok(())
    }

    /// What a leader sends is in its log, is safe from being lost where that matters, and is news.
    fn judge_append(
        &mut self,
        node: usize,
        to: NodeId,
        (term, prev): (Term, LogPosition),
        entries: &Entries,
    ) -> Result<(), Violation> {
        self.judge_serving(
            node,
            to,
            (prev.index, entries.last().map_or(prev.index, |it| it.index)),
        )?;
        let it = &self.nodes[node];
        let (id, last) = (it.id, it.log.last());
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
        let it = &self.nodes[node];
        if is_witness && end.index > it.disk.last().index && it.log.membership().is_witness(to) {
            return broken(
                "witnesses have nothing that the leader may lose",
                format!(
                    "node {id} sends {} to node {to}, with {} on its disk",
                    end.index,
                    it.disk.last()
                ),
            );
        }
        if let Some(leading) = it.watch.leading.as_ref().filter(|_| self.plan.has_stores)
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

    /// How a peer is served: see [`serving`](crate::serving).
    fn judge_serving(
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
        let mut watch = std::mem::take(&mut self.nodes[node].watch);
        let told = watch.told;
        let verdict = watch.leading.as_mut().map_or(Ok(()), |leading| {
            let serving = leading.serving.entry(to).or_default();
            let (own, peer) = (&self.nodes[node].log, &self.nodes[index_of(to)].log);
            serving.judge_search(own, peer)?;
            serving.on_append(span, told, patience)
        });
        self.nodes[node].watch = watch;
        let id = self.nodes[node].id;
        verdict.or_else(|(rule, what)| broken(rule, format!("node {id} to node {to}: {what}")))
    }

    /// Leadership goes to who can lead, and has the whole log.
    fn judge_handover(&self, node: usize, to: NodeId, term: Term) -> Result<(), Violation> {
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
    fn judge_farewells(&mut self, node: usize, told: Instant) -> Result<(), Violation> {
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
    fn judge_hearing(&self, node: usize, told: Instant) -> Result<(), Violation> {
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

    /// A stream of the same snapshot is begun once at a time.
    pub(crate) fn watch_stream(
        &mut self,
        node: usize,
        to: NodeId,
        snapshot: &SnapshotMeta,
    ) -> Result<(), Violation> {
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

    pub(crate) fn watch_resolution(
        &mut self,
        node: usize,
        resolution: &Resolution,
    ) -> Result<(), Violation> {
        let max = self.plan.config.uncommitted_bytes_max;
        let leads = self.nodes[node].claims_to_lead();
        let it = &mut self.nodes[node];
        let id = it.id;
        match resolution {
            Resolution::Appended { id: batch, first, count, .. } => {
                if it.watch.has_echo && !leads {
                    return broken(
                        "answers to an earlier life are nobody's",
                        format!("node {id} takes one for batch {batch:?}"),
                    );
                }
                let bytes = it.watch.settle(*batch);
                let Some(leading) = it.watch.leading.as_mut().filter(|_| leads) else {
                    return Ok(());
                };
                if let Some(request) = leading.transfer.filter(|request| request.0 < batch.0) {
                    return broken(
                        "no proposals while leadership is handed over",
                        format!("node {id} takes batch {batch:?} after request {request:?}"),
                    );
                }
                leading.batches.push_back((first.plus(count.saturating_sub(1)), bytes));
                let sum = |leading: &Leading| {
                    leading.batches.iter().map(|(_, bytes)| *bytes).sum::<usize>()
                };
                if leading.batches.len() > 64 || sum(leading) > max {
                    let commit = it.raft.as_ref().map_or(Index(0), |raft| raft.status().commit);
                    leading.batches.retain(|(last, _)| *last > commit);
                }
                if sum(leading) > max {
                    return broken(
                        "uncommitted proposals keep to their quota",
                        format!("node {id} has {} bytes of {max}", sum(leading)),
                    );
                }
            }
            Resolution::Refused { id: batch, .. } | Resolution::Abandoned { id: batch } => {
                it.watch.settle(*batch);
            }
            Resolution::ReadReady { id: read, .. } => {
                let asked = it.watch.reads.remove(read);
                let is_witness = it.is_witness;
                if is_witness {
                    return broken(
                        "witnesses answer no reads",
                        format!("node {id} answers {read:?}"),
                    );
                }
                let it = &self.nodes[node];
                let (Some(asked), Some(leading), Some(raft)) = (asked, &it.watch.leading, &it.raft)
                else {
                    return Ok(());
                };
                let is_covered = it.watch.had_lease
                    || leading.is_confirmed(id, raft.membership(), asked)
                    || leading.is_confirmed(id, it.log.membership(), asked)
                    || self.has_lease(node, it.watch.told);
                if leads && !is_covered {
                    return broken(
                        "reads rest on a quorum's word or a lease",
                        format!("node {id} answers {read:?} of {asked} with neither"),
                    );
                }
            }
            Resolution::ReadRefused { id: read, .. } => {
                it.watch.reads.remove(read);
            }
            Resolution::RequestDone { id: request }
            | Resolution::RequestRefused { id: request, .. }
            | Resolution::RequestAbandoned { id: request } => {
                if let Some(leading) =
                    it.watch.leading.as_mut().filter(|it| it.transfer == Some(*request))
                {
                    leading.transfer = None;
                }
            }
        }
        Ok(())
    }

    /// A batch was proposed to who does not lead, and is passed on: not more of them than the quota has room for.
    pub(crate) fn judge_forwarded(
        &mut self,
        node: usize,
        batch: raft_core::ProposalId,
    ) -> Result<(), Violation> {
        let max = self.plan.config.uncommitted_bytes_max;
        let it = &mut self.nodes[node];
        let is_waiting = self.ledger.is_asked(it.id, batch);
        let Some(bytes) =
            it.watch.batches.get(&batch).copied().filter(|_| is_waiting && !it.poll_scheduled)
        else {
            return Ok(());
        };
        it.watch.forwarded.insert(batch, bytes);
        it.watch.forwarded_bytes += bytes;
        if it.watch.forwarded_bytes > max {
            return broken(
                "proposals that are passed on keep to their quota",
                format!("node {} has {} bytes of {max} under way", it.id, it.watch.forwarded_bytes),
            );
        }
        Ok(())
    }
}
