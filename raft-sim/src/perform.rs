//! What is done with each action of a core, and how the checkers see it.

use raft_core::{
    Action, AppendOutcome, Apply, Body, Entry, Event as CoreEvent, Index, Input, LogPosition,
    Message, NodeId, Payload, Persist, Resolution, SnapshotMeta, SnapshotOutcome, Term,
};

use crate::checker::broken;
use crate::machine::Progress;
use crate::world::{DiskOp, Event, FetchRequest, Job, Snapshot, World, index_of};
use crate::{Image, Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn perform(&mut self, node: usize, action: Action) -> Result<(), Violation> {
        let life = self.nodes[node].life;
        self.mix(self.now_us() << 8 | node as u64);
        match action {
            Action::Persist(write) => self.on_persist(node, write),
            Action::Send { to, message } => self.on_send(node, to, message),
            Action::Fetch { peer, first, last, budget_bytes } => {
                self.mix(first.0 << 20 | last.0);
                let delay = self.takes(self.plan.disk_us);
                let fetch = FetchRequest { peer, first, last, budget_bytes };
                self.at(delay, Event::Fetch { node, life, fetch });
                Ok(())
            }
            Action::Apply(apply) => {
                self.mix(apply.first.0 << 20 | apply.last.0);
                self.on_commit_claim(node, apply.last)?;
                self.queue_job(node, Job::Apply(apply));
                Ok(())
            }
            Action::Compact { through } => self.on_compact(node, through),
            Action::StreamSnapshot { to, snapshot, .. } => {
                self.stream(node, to, &snapshot);
                Ok(())
            }
            Action::ReceiveSnapshot { snapshot, .. } => {
                self.nodes[node].expecting = Some(snapshot);
                Ok(())
            }
            Action::InstallSnapshot(meta) => {
                self.checker.on_snapshot_position(self.nodes[node].id, &meta)?;
                self.queue_job(node, Job::Install(meta));
                Ok(())
            }
            Action::Resolve(resolution) => self.on_resolution(node, resolution),
            Action::Event(CoreEvent::RoleChanged { role, term }) => {
                self.mix(term.0);
                if role == raft_core::RoleKind::Leader {
                    self.on_leading(node, term)?;
                }
                Ok(())
            }
            Action::Event(_) => Ok(()),
        }
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
        let it = &self.nodes[node];
        self.checker.on_write(it.id, &write, &it.log)?;
        self.coverage.hit("writes");
        if write.truncate_from.is_some_and(|from| from <= it.log.last().index) {
            self.coverage.hit("truncations");
        }
        if write.reset.is_some() {
            self.coverage.hit("log resets");
        }
        let it = &mut self.nodes[node];
        if let Err(error) = it.log.write(&write) {
            return broken("writes fit the log", format!("node {}: {error}", it.id));
        }
        let commit = write.hard_state.map_or(Index(0), |hard_state| hard_state.commit);
        self.enqueue(node, DiskOp::Write(write));
        self.on_commit_claim(node, commit)
    }

    fn enqueue(&mut self, node: usize, op: DiskOp) {
        self.nodes[node].queue.push_back(op);
        if self.nodes[node].queue.len() == 1 {
            self.schedule_flush(node);
        }
    }

    fn on_compact(&mut self, node: usize, through: LogPosition) -> Result<(), Violation> {
        self.mix(through.index.0);
        let it = &mut self.nodes[node];
        let kept =
            it.checkpoint.as_ref().map_or(Index(0), |checkpoint| checkpoint.meta.position.index);
        if through.index > kept {
            return broken(
                "compaction waits for a checkpoint",
                format!("node {} compacts through {through}; its machine has {kept}", it.id),
            );
        }
        if let Err(error) = it.log.compact(through) {
            return broken("writes fit the log", format!("node {}: {error}", it.id));
        }
        self.coverage.hit("compactions");
        self.enqueue(node, DiskOp::Compact(through));
        Ok(())
    }

    fn on_commit_claim(&mut self, node: usize, index: Index) -> Result<(), Violation> {
        let it = &self.nodes[node];
        let disks = self.nodes.iter().map(|other| (other.id, &other.disk));
        self.checker.on_commit(it.id, index, &it.log, &disks)
    }

    fn on_send(&mut self, node: usize, to: NodeId, message: Message) -> Result<(), Violation> {
        let from = self.nodes[node].id;
        self.mix(to.0 << 32 | message.term.0);
        self.checker.on_send(from, to, &message, &self.nodes[node].disk)?;
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
            Body::AppendResponse(AppendOutcome::Rejected { .. }) => {
                self.coverage.hit("appends rejected");
            }
            _ => {}
        }
        self.transmit(node, to, message);
        Ok(())
    }

    fn transmit(&mut self, node: usize, to: NodeId, message: Message) {
        let (from, to) = (self.nodes[node].id, index_of(to));
        if self.blocked[node][to] {
            self.coverage.hit("messages cut off");
            return;
        }
        if !self.calm && self.rng.chance(self.plan.drop) {
            self.coverage.hit("messages dropped");
            return;
        }
        if !self.calm && self.rng.chance(self.plan.duplicate) {
            self.coverage.hit("messages duplicated");
            let delay = self.message_delay();
            self.at(delay, Event::Deliver { to, from, message: message.clone() });
        }
        let delay = self.message_delay();
        self.at(delay, Event::Deliver { to, from, message });
    }

    fn message_delay(&mut self) -> u64 {
        let usual = self.takes(self.plan.delay_us);
        if !self.calm && self.rng.chance(self.plan.straggle) {
            self.coverage.hit("messages late");
            return usual + self.rng.below(self.plan.straggle_us);
        }
        usual
    }

    fn on_resolution(&mut self, node: usize, resolution: Resolution) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        match resolution {
            Resolution::Appended { id: batch, first, count, term } => {
                self.mix(first.0 << 20 | count);
                self.coverage.hit("batches appended");
                self.ledger.on_appended(id, batch, first, count, term)
            }
            Resolution::Refused { id: batch, .. } => {
                self.coverage.hit("batches refused");
                self.ledger.on_refused(id, batch)
            }
            Resolution::Abandoned { id: batch } => {
                self.coverage.hit("batches abandoned");
                self.ledger.on_abandoned(id, batch)
            }
            Resolution::ReadReady { id: read, index } => {
                self.mix(index.0);
                self.coverage.hit("reads answered");
                self.count_read();
                self.on_commit_claim(node, index)?;
                self.ledger.on_read_ready(id, read, index)
            }
            Resolution::RequestDone { .. }
            | Resolution::RequestRefused { .. }
            | Resolution::RequestAbandoned { .. } => Ok(()),
            Resolution::ReadRefused { id: read, .. } => {
                self.coverage.hit("reads refused");
                self.ledger.on_read_refused(id, read)
            }
        }
    }

    fn queue_job(&mut self, node: usize, job: Job) {
        self.nodes[node].jobs.push_back(job);
        if self.nodes[node].jobs.len() == 1 {
            self.schedule_work(node);
        }
    }

    fn schedule_work(&mut self, node: usize) {
        let delay = self.takes(self.plan.apply_us);
        let life = self.nodes[node].life;
        self.at(delay, Event::Work { node, life });
    }

    pub(crate) fn on_work(&mut self, node: usize) -> Result<(), Violation> {
        let Some(job) = self.nodes[node].jobs.pop_front() else { return Ok(()) };
        if !self.nodes[node].jobs.is_empty() {
            self.schedule_work(node);
        }
        match job {
            Job::Apply(apply) => self.apply(node, &apply),
            Job::Install(meta) => self.install(node, meta),
        }
    }

    fn apply(&mut self, node: usize, apply: &Apply) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        if self.nodes[node].machine.applied.index.next() != apply.first {
            let applied = self.nodes[node].machine.applied;
            return broken(
                "entries are applied in order",
                format!("node {id} is told to apply from {}, with {applied} applied", apply.first),
            );
        }
        let mut index = apply.first;
        while index <= apply.last {
            let it = &mut self.nodes[node];
            let in_memory = apply.entries.get(index).cloned();
            let Some(entry) = in_memory.or_else(|| it.disk.get(index).cloned()) else {
                return broken(
                    "entries to apply can be read",
                    format!("entry {index} is neither handed to node {id} nor on its disk"),
                );
            };
            it.machine.state.apply(&entry);
            it.machine.applied = entry.position();
            let digest = it.machine.state.digest();
            self.checker.on_applied(id, entry.position(), digest)?;
            self.ledger.on_applied(id, index, entry.term, command_number(&entry))?;
            self.coverage.hit("entries applied");
            index = index.next();
        }
        self.maybe_checkpoint(node);
        self.tell(node, Input::Applied(apply.last))
    }

    fn maybe_checkpoint(&mut self, node: usize) {
        let every = self.plan.checkpoint_every;
        let it = &self.nodes[node];
        let last = it.checkpoint.as_ref().map_or(0, |c| c.meta.position.index.0);
        let due = every > 0 && it.machine.applied.index.0 >= last + every;
        if !due || it.checkpointing.is_some() {
            return;
        }
        let (life, progress) = (it.life, it.machine.clone());
        let meta = SnapshotMeta { position: progress.applied, membership: self.membership.clone() };
        self.nodes[node].checkpointing = Some(Snapshot { meta, progress });
        let delay = self.takes(self.plan.disk_us * 4);
        self.at(delay, Event::Checkpointed { node, life });
    }

    pub(crate) fn on_checkpointed(&mut self, node: usize) -> Result<(), Violation> {
        let Some(snapshot) = self.nodes[node].checkpointing.take() else { return Ok(()) };
        let newer = self.nodes[node]
            .checkpoint
            .as_ref()
            .is_none_or(|old| old.meta.position.index < snapshot.meta.position.index);
        if !newer {
            return Ok(());
        }
        let meta = snapshot.meta.clone();
        self.nodes[node].checkpoint = Some(snapshot);
        self.coverage.hit("checkpoints");
        self.tell(node, Input::SnapshotTaken(meta))
    }

    fn stream(&mut self, node: usize, to: NodeId, wanted: &SnapshotMeta) {
        let life = self.nodes[node].life;
        let delay = self.takes(self.plan.delay_us * 4);
        let Some(snapshot) =
            self.nodes[node].checkpoint.clone().filter(|held| held.meta == *wanted)
        else {
            self.coverage.hit("streams superseded");
            let input = Input::SnapshotStreamEnded { to };
            self.at(delay, Event::Tell { node, life, input });
            return;
        };
        let to = index_of(to);
        let lost = self.blocked[node][to] || (!self.calm && self.rng.chance(self.plan.stream_loss));
        self.at(delay, Event::Streamed { from: node, life, to, snapshot, lost });
    }

    /// A stream ends: with the whole snapshot at the receiver, or broken, which both ends notice (if they still live).
    pub(crate) fn on_streamed(
        &mut self,
        (from, life): (usize, u64),
        to: usize,
        snapshot: Snapshot<M>,
        lost: bool,
    ) -> Result<(), Violation> {
        let receiver = &mut self.nodes[to];
        let expected = receiver.raft.is_some()
            && receiver.paused_until <= self.now_us()
            && self.nodes[to].expecting.as_ref() == Some(&snapshot.meta);
        let arrived = expected && !lost && self.nodes[from].life == life;
        if expected {
            self.nodes[to].expecting = None;
        }
        if self.alive(from, life) {
            let input = Input::SnapshotStreamEnded { to: self.nodes[to].id };
            self.at(0, Event::Tell { node: from, life, input });
        }
        if arrived {
            self.coverage.hit("snapshots received");
            let meta = snapshot.meta.clone();
            self.nodes[to].received = Some(snapshot);
            return self.tell(to, Input::SnapshotReceived(meta));
        }
        self.coverage.hit("streams broken");
        if expected && self.rng.chance(500) {
            self.tell(to, Input::SnapshotFailed(snapshot.meta))?;
        }
        Ok(())
    }

    fn install(&mut self, node: usize, meta: SnapshotMeta) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        let received = self.nodes[node].received.clone().filter(|held| held.meta == meta);
        let Some(snapshot) = received else {
            return broken(
                "only received snapshots are installed",
                format!("node {id} is told to install {}", meta.position),
            );
        };
        if self.nodes[node].machine.applied.index > meta.position.index {
            let applied = self.nodes[node].machine.applied;
            return broken(
                "the machine never goes back",
                format!("node {id} installs {} over {applied}", meta.position),
            );
        }
        if !self.calm && self.rng.chance(self.plan.stream_loss / 5) {
            self.coverage.hit("installs failed");
            return self.tell(node, Input::SnapshotFailed(meta));
        }
        self.coverage.hit("snapshots installed");
        let Progress { applied, state } = &snapshot.progress;
        self.checker.on_applied(id, *applied, state.digest())?;
        let it = &mut self.nodes[node];
        it.machine = snapshot.progress.clone();
        it.checkpoint = Some(snapshot);
        it.checkpointing = None;
        self.tell(node, Input::SnapshotInstalled(meta))
    }
}

/// The number that the client gave a command.
fn command_number(entry: &Entry) -> Option<u64> {
    match &entry.payload {
        Payload::Command(command) => {
            command.get(..8).and_then(|head| head.try_into().ok()).map(u64::from_le_bytes)
        }
        _ => None,
    }
}

/// The whole of a disk, in one word for the timeline.
pub(crate) fn describe(disk: &Image) -> String {
    format!("{:?}, log {}..{}", disk.hard_state, disk.base, disk.last())
}
