//! How a member must behave beside being safe, judged by what the world itself saw (`watch`); most of it shows long before it does harm. Here is what is noted, and
//! when it is judged: before and after a core is told something, with each write and message, and once it has nothing more to say. The rules on campaigns, votes and
//! stores are in `conduct_votes`; on leaders, their leases and to whom they hand over in `conduct_leading`; on proposals, reads and other questions in
//! `conduct_requests`.

use raft_core::{
    Body, Entry, Index, Input, Instant, Message, NodeId, Payload, Persist, Raft, StorageHealth,
    Term,
};

use crate::checker::broken;
use crate::serving::Serving;
use crate::watch::{Leaving, Question};
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
        let is_member =
            matches!(input, Input::Unreachable(peer) if it.membership().contains(*peer));
        let (id, own, term) = (it.id, it.log.last(), it.log.hard_state.term);
        let held = it.checkpoint.as_ref().map_or(Index(0), |held| held.meta.position.index);
        let extent = (it.log.base.index, held);
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
                if let (Body::SnapshotResponse { position, outcome }, Some(leading)) =
                    (&message.body, &mut watch.leading)
                    && leading.term == message.term
                {
                    leading.note_snapshot_answer(*from, (*position, *outcome), extent, now);
                }
                if let Some(stamp) = *store {
                    watch.note_stamp((*from, stamp), message, is_polled.then_some(term));
                }
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
            Input::Unreachable(peer) => {
                // What was being streamed is lost too, as far as it knows.
                watch.streams.retain(|(to, _)| to != peer);
                if let Some(leading) = watch.leading.as_mut().filter(|_| is_member)
                    && leading.replicates.contains(peer)
                    && leading.serving.get(peer).is_some_and(Serving::is_in_the_middle)
                {
                    leading.owed.entry(*peer).or_insert(now);
                    leading.broken.insert(*peer);
                }
                watch.serve_anew(*peer);
            }
            Input::Fetched { peer, .. } => watch.note_fetched(*peer),
            Input::FetchFailed { peer } => {
                watch.note_fetched(*peer);
                watch.serve_anew(*peer);
            }
            _ => {}
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
        let told = watch.told;
        if let Some(leading) = &mut watch.leading {
            let has_lease =
                || it.raft.as_ref().and_then(Raft::lease_until).is_some_and(|it| told < it);
            if leading.hands_over && leading.transfer.is_some() && has_lease() {
                return broken(
                    "no leases while leadership is handed over",
                    format!(
                        "node {} believes in one, and goes on to {:?}",
                        it.id, leading.transfer
                    ),
                );
            }
            leading.hands_over = leading.transfer.is_some();
            leading.note_poll();
            leading.serving.values_mut().for_each(Serving::settle);
        }
        self.judge_role(node)?;
        self.judge_own_store(node)?;
        self.judge_lone_reads(node)?;
        self.judge_farewells(node, told)?;
        self.judge_attention(node, told)?;
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

    /// A write, before the log is changed by it.
    pub(crate) fn watch_write(&mut self, node: usize, write: &Persist) -> Result<(), Violation> {
        self.judge_vote(node, write)?;
        let it = &mut self.nodes[node];
        let moves =
            write.entries.iter().any(|entry| matches!(entry.payload, Payload::Membership(_)));
        it.watch.has_moved |= moves || write.reset.is_some() || write.truncate_from.is_some();
        if moves {
            it.watch.stamps.clear();
            it.watch.streams.clear();
            if let Some(leading) = &mut it.watch.leading {
                leading.forget_acknowledgements();
                leading.serving.values_mut().for_each(Serving::begin_anew);
                // Who goes, and comes back, is served from where it is then.
                leading.broken.clear();
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
        let it = &self.nodes[node];
        if it.watch.leading.is_some() {
            let mut before = it.log.membership();
            for entry in write.entries.iter() {
                let Payload::Membership(next) = &entry.payload else { continue };
                self.judge_recorded_stores(node, (before, next), entry.term)?;
                self.judge_former_witnesses(node, next)?;
                before = next;
            }
        }
        let it = &mut self.nodes[node];
        let told = it.watch.told;
        let mut before = it.log.membership();
        let mut changed = false;
        let Some(leading) = &mut it.watch.leading else { return Ok(()) };
        for entry in write.entries.iter() {
            let Payload::Membership(next) = &entry.payload else { continue };
            changed |= !next.voters.is_subset(&before.voters);
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
                leading.has_beaten = true;
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
            Body::SnapshotOffer { snapshot } => {
                if let Some(leading) = &mut it.watch.leading {
                    leading.attend(to, told);
                    leading.offered.insert(to, snapshot.position);
                    leading.replicates.remove(&to);
                }
                return self.judge_need(node, to);
            }
            Body::Forward { id: batch, .. } => it.watch.nonce = Some(batch.nonce),
            Body::TimeoutNow => {
                if let Some(leading) = &mut it.watch.leading {
                    leading.is_forsworn = true;
                }
                return self.judge_handover(node, to, message.term);
            }
            Body::Append { entries, prev, commit } => {
                if let Some(leading) = &mut it.watch.leading {
                    leading.attend(to, told);
                    leading.offered.remove(&to);
                    leading.enough.remove(&to);
                }
                self.judge_own_commit(node, message.term, *commit)?;
                return self.judge_append(node, to, (message.term, *prev), entries);
            }
            _ => {}
        }
        Ok(())
    }
}
