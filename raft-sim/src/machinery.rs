//! The machines: applying, checkpoints, and snapshots on their way.

use raft_core::{Apply, Input, NodeId, Payload, SnapshotMeta};

use crate::checker::broken;
use crate::event::Event;
use crate::machine::Progress;
use crate::mutants::mutated;
use crate::node::{Job, Snapshot, index_of};
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn queue_job(&mut self, node: usize, job: Job) {
        self.nodes[node].jobs.push_back(job);
        if self.nodes[node].jobs.len() == 1 {
            self.schedule_work(node);
        }
    }

    fn schedule_work(&mut self, node: usize) {
        let is_install = matches!(self.nodes[node].jobs.front(), Some(Job::Install(_)));
        let more = if is_install && !self.calm { self.plan.election_us() } else { 0 };
        let delay = self.takes(self.plan.apply_us) + self.rng.below(more + 1);
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
            if entry.payload == Payload::Withheld {
                return broken(
                    "machines get every command",
                    format!("node {id} is to apply entry {index}, whose command it never got"),
                );
            }
            let response = it.machine.state.apply(&entry);
            it.machine.applied = entry.position();
            if let Payload::Membership(membership) = &entry.payload {
                it.machine.membership = (**membership).clone();
            }
            let digest = it.machine.state.digest();
            self.checker.on_applied(id, entry.position(), digest)?;
            self.on_response(node, &entry, response, digest)?;
            self.coverage.hit("entries applied");
            index = index.next();
        }
        if mutated!(AppliedPastCommit) {
            self.apply_one_more(node)?;
        }
        self.answer_reads(node)?;
        self.maybe_checkpoint(node);
        self.tell(node, Input::Applied(apply.last))
    }

    /// For the seeded bug: the next entry on the disk, committed or not.
    fn apply_one_more(&mut self, node: usize) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let next = it.disk.get(it.machine.applied.index.next()).cloned();
        let Some(entry) = next else { return Ok(()) };
        it.machine.state.apply(&entry);
        let digest = it.machine.state.digest();
        let (id, position) = (it.id, entry.position());
        self.checker.on_applied(id, position, digest)
    }

    fn maybe_checkpoint(&mut self, node: usize) {
        let every = self.plan.checkpoint_every;
        let it = &mut self.nodes[node];
        let last = it.checkpoint.as_ref().map_or(0, |c| c.meta.position.index.0);
        let due = every > 0 && it.machine.applied.index.0 >= last + every;
        if !due || it.checkpointing.is_some() {
            return;
        }
        let life = it.life;
        let membership = if mutated!(CheckpointOfALaterConfiguration) {
            it.membership().clone()
        } else {
            it.machine.membership.clone()
        };
        let meta = SnapshotMeta { position: it.machine.applied, membership: membership.into() };
        let data = it.machine.state.checkpoint(&meta);
        it.checkpointing = Some(Snapshot { meta, data });
        let delay = self.takes(self.plan.disk.write_us * 4);
        self.at(delay, Event::Checkpointed { node, life });
    }

    pub(crate) fn on_checkpointed(&mut self, node: usize) -> Result<(), Violation> {
        let Some(mut snapshot) = self.nodes[node].checkpointing.take() else { return Ok(()) };
        if mutated!(CheckpointCutAtAnotherPlace) {
            let meta = snapshot.meta.clone();
            snapshot.data = self.nodes[node].machine.state.checkpoint(&meta);
        }
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

    pub(crate) fn stream(&mut self, node: usize, to: NodeId, wanted: &SnapshotMeta) {
        let life = self.nodes[node].life;
        let delay = self.takes(self.plan.network.delay_us * 4);
        let Some(snapshot) =
            self.nodes[node].checkpoint.clone().filter(|held| held.meta == *wanted)
        else {
            self.coverage.hit("streams superseded");
            self.nodes[node].watch.streams.remove(&(to, wanted.position.index));
            let input = Input::SnapshotStreamEnded { to };
            self.at(delay, Event::Tell { node, life, input });
            return;
        };
        let to = index_of(to);
        let lost = self.network.is_cut(node, to)
            || (!self.calm && self.rng.chance(self.plan.network.stream_loss));
        self.at(delay, Event::Streamed { from: node, life, to, snapshot, lost });
    }

    /// A stream ends: with the whole snapshot at the receiver, or broken, which both ends notice (if they still live).
    pub(crate) fn on_streamed(
        &mut self,
        (from, life): (usize, u64),
        to: usize,
        snapshot: Snapshot,
        lost: bool,
    ) -> Result<(), Violation> {
        let receiver = &self.nodes[to];
        let expected = receiver.is_running() && receiver.expecting.as_ref() == Some(&snapshot.meta);
        let lost = lost || (self.is_severed && !self.core.contains(&from));
        let is_whole = !lost && self.nodes[from].life == life;
        let arrived = expected && (is_whole || mutated!(BrokenStreamTakenForWhole));
        if expected {
            self.nodes[to].expecting = None;
        }
        if self.alive(from, life) {
            let place = (self.nodes[to].id, snapshot.meta.position.index);
            self.nodes[from].watch.streams.remove(&place);
            let input = Input::SnapshotStreamEnded { to: self.nodes[to].id };
            self.at(0, Event::Tell { node: from, life, input });
        }
        if arrived {
            self.coverage.hit("snapshots received");
            let mut snapshot = snapshot;
            if !is_whole {
                let meta = snapshot.meta.clone();
                snapshot.data = M::default().checkpoint(&meta);
            }
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
        if !self.calm && self.rng.chance(self.plan.network.stream_loss / 5) {
            self.coverage.hit("installs failed");
            return self.tell(node, Input::SnapshotFailed(meta));
        }
        self.coverage.hit("snapshots installed");
        let sessions_max = self.plan.client.sessions_max;
        let machine = match Progress::<M>::restore(&meta, &snapshot.data, sessions_max) {
            Ok(machine) => machine,
            Err(error) => return broken("snapshots can be read", format!("node {id}: {error}")),
        };
        self.checker.on_applied(id, machine.applied, machine.state.digest())?;
        let it = &mut self.nodes[node];
        let old = std::mem::replace(&mut it.machine, machine);
        if mutated!(InstalledWithoutItsState) {
            it.machine.state = old.state;
        }
        it.checkpoint = Some(snapshot);
        it.checkpointing = None;
        self.answer_reads(node)?;
        self.tell(node, Input::SnapshotInstalled(meta))
    }
}
