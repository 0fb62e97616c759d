//! What is done with each action of a core, and how the checkers see it.

use raft_core::{
    Action, AppendOutcome, Body, Entry, Event as CoreEvent, Index, Input, LogPosition, Membership,
    Message, NodeId, Payload, Persist, RoleKind, SnapshotOutcome, Term,
};
use raft_node::order::{Job, MachineJob, StoreJob, StreamId};

use crate::checker::broken;
use crate::event::{Event, FetchRequest};
use crate::mutants::mutated;
use crate::node::index_of;
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn perform(&mut self, node: usize, action: Action) -> Result<(), Violation> {
        self.mix(self.now_us() << 8 | node as u64);
        self.mix_whole(&action);
        if let Action::Resolve(resolution) = action {
            self.on_resolution(node, resolution)?;
        }
        match Job::from(action) {
            Job::Store(StoreJob::Write(write)) => self.on_persist(node, write),
            Job::Store(StoreJob::Compact(through)) => self.on_compact(node, through),
            Job::Machine(job) => self.on_machine_job(node, job),
            Job::Send { to, message } => self.on_send(node, to, message),
            Job::Fetch { peer, first, last, budget_bytes } => {
                let watch = &mut self.nodes[node].watch;
                watch.attend(peer);
                if let Some(leading) = &mut watch.leading {
                    leading.fetching.insert(peer);
                }
                self.mix(first.0 << 20 | last.0);
                let mut delay = self.takes(node, self.plan.disk.write_us);
                if !self.is_spared(node) && self.rng.chance(self.plan.disk.stall) {
                    delay += self.rng.below(self.plan.fault_us);
                    self.coverage.hit("slow fetches");
                }
                let fetch = FetchRequest { peer, first, last, budget_bytes };
                let life = self.nodes[node].life;
                self.at(delay, Event::Fetch { node, life, fetch });
                Ok(())
            }
            Job::Receive { from, term, snapshot } => {
                self.expect_snapshot(node, (from, term), snapshot)
            }
            // The ledger has been told.
            Job::Answer(_) => Ok(()),
            Job::Tell(event) => self.on_core_event(node, event),
        }
    }

    /// What a machine is to do is handed over once the core is polled dry.
    fn on_machine_job(&mut self, node: usize, job: MachineJob) -> Result<(), Violation> {
        match &job {
            MachineJob::Apply(apply) => {
                self.mix(apply.first.0 << 20 | apply.last.0);
                let it = &self.nodes[node];
                if it.disk.last().index < apply.last {
                    return broken(
                        "what is applied is durable here",
                        format!("node {} is to apply {} of {}", it.id, apply.last, it.disk.last()),
                    );
                }
                self.on_commit_claim(node, apply.last)?;
            }
            MachineJob::Install(meta) => {
                self.checker.on_snapshot_position(self.nodes[node].id, meta)?;
            }
            MachineJob::Stream { to, term, snapshot } => {
                self.watch_stream(node, *to, snapshot)?;
                let id = StreamId { peer: *to, term: *term, position: snapshot.position };
                self.nodes[node].driver.sending.begin(id, ());
            }
            MachineJob::Expect { .. } | MachineJob::Abandon(_) | MachineJob::Read { .. } => {}
        }
        self.nodes[node].driver.fresh.push(job);
        Ok(())
    }

    fn on_core_event(&mut self, node: usize, event: CoreEvent) -> Result<(), Violation> {
        match event {
            CoreEvent::RoleChanged { role, term } => {
                self.mix(term.0);
                let it = &self.nodes[node];
                if it.claims_to_lead() && !it.membership().is_voter(it.id) {
                    self.coverage.hit("leaders that were removed");
                }
                self.nodes[node].role = role;
                self.coverage.hit(role_name(role));
                self.watch_role(node, role, term)?;
                if role == RoleKind::Leader {
                    let it = &self.nodes[node];
                    self.checker.on_elected(it.id, term, &it.disk)?;
                    self.on_leading(node, term)?;
                } else {
                    self.nodes[node].driver.sending.let_go();
                }
            }
            CoreEvent::MembershipChanged { .. } => self.coverage.hit("configurations in effect"),
            CoreEvent::StoreRejected { node: whose, .. } if whose == self.nodes[node].id => {
                self.coverage.hit("own stores found rejected");
                self.nodes[node].watch.knows_rejection = true;
            }
            CoreEvent::StoreRejected { .. } => self.coverage.hit("stores rejected"),
            CoreEvent::LeaderChanged { .. } => {}
        }
        Ok(())
    }

    fn on_leading(&mut self, node: usize, term: Term) -> Result<(), Violation> {
        let it = &self.nodes[node];
        if self.checker.on_leader(it.id, term, &it.log)? {
            self.coverage.hit("leaders");
        }
        Ok(())
    }

    fn on_persist(&mut self, node: usize, write: Persist) -> Result<(), Violation> {
        self.mix(write.ticket.0 << 20 | write.entries.len() as u64);
        self.mix(write.truncate_from.map_or(0, |index| index.0));
        // What is committed by now decides which configurations may follow.
        let commit = write.hard_state.map_or(Index(0), |hard_state| hard_state.commit);
        let before = commit.min(self.nodes[node].log.last().index);
        if write.reset.is_none() && write.truncate_from.is_none_or(|from| from > before) {
            let proposed = write.entries.iter().filter_map(|entry| match &entry.payload {
                Payload::Membership(membership) => Some(&**membership),
                _ => None,
            });
            self.on_commit(node, before, proposed.last())?;
        }
        let it = &self.nodes[node];
        let steps = self.checker.on_write(it.id, &write, &it.log)?;
        self.judge_promotions(node, &write)?;
        self.watch_write(node, &write)?;
        self.nodes[node].watch.holdings.note_write(&write);
        let it = &self.nodes[node];
        for step in steps {
            self.coverage.hit(step);
        }
        self.coverage.hit("writes");
        if write.truncate_from.is_some_and(|from| from <= it.log.last().index) {
            self.coverage.hit("truncations");
            let from = write.truncate_from.unwrap_or_default();
            if it.log.memberships().any(|(at, _)| at.index >= from) {
                self.coverage.hit("configurations rolled back");
            }
        }
        if write.reset.is_some() {
            self.coverage.hit("log resets");
        }
        let it = &mut self.nodes[node];
        if let Err(error) = it.log.write(&write) {
            return broken("writes fit the log", format!("node {}: {error}", it.id));
        }
        if mutated!(PersistedReportedAtOnce) {
            let (life, input) = (self.nodes[node].life, Input::Persisted(write.ticket));
            self.at(0, Event::Tell { node, life, input });
        }
        self.enqueue(node, StoreJob::Write(write));
        self.on_commit_claim(node, commit)
    }

    /// Nobody is promoted whose log is blank, let alone caught up (dissertation §4.2.1). A disk may be wiped just then, where disks are wiped.
    pub(crate) fn judge_promotions(&self, node: usize, write: &Persist) -> Result<(), Violation> {
        let it = &self.nodes[node];
        if self.plan.has_stores || !it.claims_to_lead() {
            return Ok(());
        }
        let mut before = it.log.membership();
        for entry in write.entries.iter() {
            let Payload::Membership(next) = &entry.payload else { continue };
            let is_blank = |id: NodeId| self.nodes[index_of(id)].disk.last().index == Index(0);
            if let Some(silent) =
                self.silent_among(node, next.voters.intersection(&before.learners))
            {
                return broken(
                    "who is promoted was heard lately",
                    format!("node {} promotes node {silent}", it.id),
                );
            }
            let mut promoted = next.voters.intersection(&before.learners);
            if let Some(blank) = promoted.find(|id| !next.is_witness(**id) && is_blank(**id)) {
                return broken(
                    "who is promoted has caught up",
                    format!("node {} promotes node {blank}, whose log is blank", it.id),
                );
            }
            before = next;
        }
        Ok(())
    }

    /// Who of these has not answered a leader for an election timeout. Only since it leads, and the group is as it is, does it know.
    fn silent_among<'a>(
        &self,
        node: usize,
        mut all: impl Iterator<Item = &'a NodeId>,
    ) -> Option<&'a NodeId> {
        let watch = &self.nodes[node].watch;
        let leading = watch.leading.as_ref().filter(|_| self.plan.coalesce == 0)?;
        all.find(|id| {
            let answered = leading.answered_at.get(id).copied().unwrap_or_default();
            let known = answered.max(leading.since).max(leading.changed.unwrap_or_default());
            watch.told.since(known) >= self.plan.config.election_timeout
        })
    }

    fn on_compact(&mut self, node: usize, through: LogPosition) -> Result<(), Violation> {
        self.mix(through.index.0);
        self.judge_compaction(node, through.index)?;
        let it = &mut self.nodes[node];
        let kept =
            it.checkpoint.as_ref().map_or(Index(0), |checkpoint| checkpoint.meta.position.index);
        // A witness has no machine to take one.
        let has_machine = !it.is_witness;
        if has_machine && through.index > kept {
            return broken(
                "compaction waits for a checkpoint",
                format!("node {} compacts through {through}; its machine has {kept}", it.id),
            );
        }
        if has_machine
            && it.checkpoint.as_ref().is_some_and(|held| held.meta.membership.voters.is_empty())
        {
            return broken(
                "snapshots that replace the log tell of a group",
                format!(
                    "node {} compacts through {through}, and its machine knows of no configuration",
                    it.id
                ),
            );
        }
        let reserve = self.plan.config.retained_entries;
        if has_machine && through.index.plus(reserve) > kept {
            return broken(
                "compaction leaves a reserve",
                format!(
                    "node {} compacts through {through} of {kept}, with {reserve} to keep",
                    it.id
                ),
            );
        }
        if let Err(error) = it.log.compact(through) {
            return broken("writes fit the log", format!("node {}: {error}", it.id));
        }
        self.coverage.hit("compactions");
        if it.driver.outgoing.values().any(|stream| it.driver.sending.get(stream.id).is_some()) {
            self.coverage.hit("compactions during a send");
        }
        self.enqueue(node, StoreJob::Compact(through));
        Ok(())
    }

    /// A node takes everything through `index` for committed.
    pub(crate) fn on_commit_claim(&mut self, node: usize, index: Index) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        it.claimed = index.max(it.claimed);
        let watch = &mut it.watch;
        if watch.leading.is_some() {
            watch.told_commit = watch.told_commit.max(index);
        } else if index > watch.told_commit.max(watch.restored_commit) {
            return broken(
                "followers commit what was compared",
                format!(
                    "node {} takes {index} for committed; it was told {}",
                    it.id, watch.told_commit
                ),
            );
        }
        self.on_commit(node, index, None)
    }

    fn on_commit(
        &mut self,
        node: usize,
        index: Index,
        proposed: Option<&Membership>,
    ) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let graves = self.graves.iter().map(|(id, store, disk)| (*id, *store, disk));
        let disks = self.nodes.iter().map(|other| (other.id, other.store.id, &other.disk));
        // Where stores are recorded, others do not count.
        let in_force = || std::iter::once(it.log.membership()).chain(proposed);
        let counts = |id: NodeId, store: raft_core::StoreId| {
            !self.plan.has_stores
                || in_force().any(|known| known.stores.get(&id).is_none_or(|own| *own == store))
        };
        let disks = disks
            .chain(graves)
            .filter(|(id, store, _)| counts(*id, *store))
            .map(|(id, _, disk)| (id, disk));
        let groups = self.plan.config.commit_groups.as_ref();
        let is_new = self.checker.on_commit(it.id, index, (&it.log, proposed), groups, &disks)?;
        if is_new {
            for effect in self.checker.take_effects() {
                self.coverage.hit(effect);
            }
            let term = it.log.hard_state.term;
            self.judge_leases(node, term)?;
        }
        Ok(())
    }

    /// Leases never overlap a newer leader's commits: nobody else may still believe in a lease of an earlier term.
    pub(crate) fn judge_leases(&self, node: usize, term: Term) -> Result<(), Violation> {
        if self.plan.config.lease.is_none() || self.is_beyond_drift {
            return Ok(());
        }
        let now = self.now_us();
        for other in &self.nodes {
            let Some(raft) = other.raft.as_ref().filter(|_| other.claims_to_lead()) else {
                continue;
            };
            let status = raft.status();
            // A machine that is suspended answers nobody, and is told so before it goes on.
            let is_frozen = other.frozen_at.is_some();
            if status.term < term
                && !is_frozen
                && status.lease_until.is_some_and(|until| other.clock.local(now) < until)
            {
                return broken(
                    "leases end before a newer leader commits",
                    format!(
                        "node {} has a lease in term {} until {:?} ({:?} now), while node {} commits in term {term}",
                        other.id,
                        status.term,
                        status.lease_until,
                        other.clock.local(now),
                        self.nodes[node].id
                    ),
                );
            }
        }
        Ok(())
    }

    fn on_send(&mut self, node: usize, to: NodeId, message: Message) -> Result<(), Violation> {
        let from = self.nodes[node].id;
        self.mix(to.0 << 32 | message.term.0);
        self.checker.on_send(from, to, &message, &self.nodes[node].disk)?;
        self.judge_size(to, &message)?;
        self.watch_send(node, to, &message)?;
        match &message.body {
            Body::Append { prev, entries, commit } => {
                self.mix(prev.index.0 << 20 | entries.len() as u64);
                self.on_leading(node, message.term)?;
                self.on_commit_claim(node, *commit)?;
                let mut before = prev.term;
                for entry in entries.iter() {
                    self.checker.on_entry(from, entry, before)?;
                    before = entry.term;
                }
            }
            Body::Heartbeat { commit, .. } => {
                self.on_leading(node, message.term)?;
                self.on_commit_claim(node, *commit)?;
            }
            Body::SnapshotOffer { snapshot } => {
                self.on_leading(node, message.term)?;
                self.checker.on_snapshot_position(from, snapshot)?;
                self.coverage.hit("snapshots offered");
            }
            Body::AppendResponse(
                AppendOutcome::Accepted { matched } | AppendOutcome::Witnessed { matched },
            )
            | Body::SnapshotResponse { outcome: SnapshotOutcome::Matched(matched), .. } => {
                self.mix(matched.0);
                let leader = (to, &self.nodes[index_of(to)].log);
                let disk = &self.nodes[node].disk;
                self.checker.on_acknowledge(from, message.term, *matched, disk, leader)?;
            }
            Body::ReadIndexResponse { index: Some(index), .. } => {
                self.on_commit_claim(node, *index)?;
            }
            Body::AppendResponse(AppendOutcome::Rejected { .. }) => {
                self.coverage.hit("appends rejected");
            }
            _ => {}
        }
        self.transmit(node, to, message);
        Ok(())
    }

    /// No message holds more than it may, and none to a witness holds a command.
    pub(crate) fn judge_size(&self, to: NodeId, message: &Message) -> Result<(), Violation> {
        let Body::Append { entries, .. } = &message.body else { return Ok(()) };
        let max = self.plan.config.append_bytes_max;
        // What is read from disk may end with the entry that goes beyond.
        let bytes = entries.size_bytes() - entries.last().map_or(0, Entry::size_bytes);
        if entries.len() > 1 && bytes > max {
            return broken(
                "appends keep to their budget",
                format!("an append to node {to} holds {bytes} bytes of {max}, and one entry more"),
            );
        }
        let is_witness = self.nodes[index_of(to)].is_witness;
        let has_command = |entry: &Entry| matches!(entry.payload, Payload::Command(_));
        if is_witness && entries.iter().any(has_command) {
            return broken("witnesses get no commands", format!("node {to} gets some"));
        }
        Ok(())
    }
}

/// What is counted when a node takes a role.
fn role_name(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Follower => "became follower",
        RoleKind::Learner => "became learner",
        RoleKind::Witness => "became witness",
        RoleKind::Outsider => "became outsider",
        RoleKind::PreCandidate => "became pre-candidate",
        RoleKind::Candidate => "became candidate",
        RoleKind::Leader => "became leader",
    }
}
