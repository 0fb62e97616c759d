//! The machines: applying, answering, checkpoints, and snapshots on their way. What comes before what is `raft_node::order`'s.

use raft_core::{Apply, Entry, Input, Payload};
use raft_node::order::{self, Batch, MachineJob, OutOfOrder};

use crate::checker::broken;
use crate::event::Event;
use crate::machine::Progress;
use crate::mutants::mutated;
use crate::node::Snapshot;
use crate::world::{World, has_quick_machines};
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    /// Hands over to a node's machine what its core was polled for; or, if that is little, the machine quick and nothing before it under way, does it at once,
    /// as the driver does.
    pub(crate) fn hand_over(&mut self, node: usize) -> Result<(), Violation> {
        let driver = &mut self.nodes[node].driver;
        if driver.fresh.is_empty() {
            return Ok(());
        }
        let was_idle = driver.jobs.is_empty();
        if has_quick_machines(self.seed)
            && order::may_do_itself(driver.fresh.iter().map(is_small), || was_idle)
        {
            for job in std::mem::take(&mut driver.fresh) {
                self.coverage.hit("jobs done at once");
                self.work(node, job)?;
            }
            return self.report(node);
        }
        driver.jobs.extend(driver.fresh.drain(..));
        if was_idle {
            self.work_on(node)?;
            return self.report(node);
        }
        Ok(())
    }

    /// Does what takes no time, up to the next job that does.
    fn work_on(&mut self, node: usize) -> Result<(), Violation> {
        while let Some(job) = self.nodes[node].driver.jobs.pop_front() {
            if matches!(job, MachineJob::Apply(_) | MachineJob::Install(_)) {
                self.nodes[node].driver.jobs.push_front(job);
                self.schedule_work(node);
                break;
            }
            self.work(node, job)?;
        }
        Ok(())
    }

    fn schedule_work(&mut self, node: usize) {
        let is_install =
            matches!(self.nodes[node].driver.jobs.front(), Some(MachineJob::Install(_)));
        let more = if is_install && !self.is_spared(node) { self.plan.install_us } else { 0 };
        let delay = self.takes(node, self.plan.apply_us) + self.rng.below(more + 1);
        let life = self.nodes[node].life;
        self.at(delay, Event::Work { node, life });
    }

    pub(crate) fn on_work(&mut self, node: usize) -> Result<(), Violation> {
        let Some(job) = self.nodes[node].driver.jobs.pop_front() else { return Ok(()) };
        self.work(node, job)?;
        self.work_on(node)?;
        self.report(node)
    }

    /// Tells the core what was done, in order: what more is done meanwhile is told after it.
    fn report(&mut self, node: usize) -> Result<(), Violation> {
        if std::mem::replace(&mut self.nodes[node].driver.is_reporting, true) {
            return Ok(());
        }
        while let Some(input) = self.nodes[node].driver.reports.pop_front() {
            self.tell(node, input)?;
        }
        self.nodes[node].driver.is_reporting = false;
        Ok(())
    }

    fn work(&mut self, node: usize, job: MachineJob) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let applied = it.driver.machine.applied().index;
        match job {
            MachineJob::Apply(apply) => self.apply(node, &apply)?,
            MachineJob::Install(meta) => {
                if let Err(error) = it.driver.machine.order_install(meta, ()) {
                    return self.is_out_of_order(node, &error);
                }
                self.install(node)?;
            }
            MachineJob::Stream { to, term, snapshot } => self.stream(node, (to, term), &snapshot),
            MachineJob::Expect { id, first, count, term } => {
                let waiter = self.clients.batches.get(&id).cloned().unwrap_or_default();
                let batch = Batch { id, first, count, term, responses: Vec::new(), waiter };
                // Who will not learn it hears nothing.
                it.driver.batches.expect(batch, applied, &mut drop);
            }
            MachineJob::Abandon(id) => drop(it.driver.batches.abandon(id)),
            MachineJob::Read { id, index } => {
                let asked = self.clients.reads.remove(&id).into_iter().collect();
                if let Some(ready) = it.driver.reads.expect(index, asked, applied) {
                    self.answer_reads(node, &ready)?;
                }
            }
        }
        self.maybe_checkpoint(node);
        Ok(())
    }

    fn is_out_of_order(&self, node: usize, error: &OutOfOrder) -> Result<(), Violation> {
        let what = format!("node {}: {error}", self.nodes[node].id);
        match error {
            OutOfOrder::Backwards { .. } => broken("the machine never goes back", what),
            OutOfOrder::Gap { .. } | OutOfOrder::Installing { .. } => {
                broken("entries are applied in order", what)
            }
            OutOfOrder::OtherEntries { .. } => broken("entries to apply can be read", what),
        }
    }

    fn apply(&mut self, node: usize, apply: &Apply) -> Result<(), Violation> {
        if let Err(error) = self.nodes[node].driver.machine.begin(apply) {
            return self.is_out_of_order(node, &error);
        }
        let budget = self.plan.config.append_bytes_max.max(1000);
        while let Some((first, last)) = self.nodes[node].driver.machine.next_read(apply) {
            let it = &self.nodes[node];
            let Some(entries) = it.disk.read(first, last, budget) else {
                return broken(
                    "entries to apply can be read",
                    format!("entry {first} is neither handed to node {} nor on its disk", it.id),
                );
            };
            if let Err(error) = it.driver.machine.check_read((first, last), &entries) {
                return self.is_out_of_order(node, &error);
            }
            entries.slices().try_for_each(|slice| self.apply_slice(node, slice))?;
            self.on_applied(node);
        }
        if !apply.entries.is_empty() {
            apply.entries.slices().try_for_each(|slice| self.apply_slice(node, slice))?;
            self.on_applied(node);
        }
        if mutated!(AppliedPastCommit) {
            self.apply_one_more(node)?;
        }
        Ok(())
    }

    fn on_applied(&mut self, node: usize) {
        let driver = &mut self.nodes[node].driver;
        driver.reports.push_back(Input::Applied(driver.machine.applied().index));
    }

    fn apply_slice(&mut self, node: usize, entries: &[Entry]) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        let mut responses = Vec::with_capacity(entries.len());
        for entry in entries {
            let it = &mut self.nodes[node];
            if it.machine.applied.index.next() != entry.index {
                let applied = it.machine.applied;
                return broken(
                    "entries are applied in order",
                    format!("node {id} applies {}, with {applied} applied", entry.index),
                );
            }
            if entry.payload == Payload::Withheld {
                return broken(
                    "machines get every command",
                    format!(
                        "node {id} is to apply entry {}, whose command it never got",
                        entry.index
                    ),
                );
            }
            let response = it.machine.state.apply(entry);
            it.machine.applied = entry.position();
            if let Payload::Membership(membership) = &entry.payload {
                it.machine.membership = (**membership).clone();
            }
            let digest = it.machine.state.digest();
            self.checker.on_applied(id, entry.position(), digest)?;
            if matches!(entry.payload, Payload::Command(_)) {
                responses.push(response);
            }
            self.on_response(node, entry, response, digest)?;
        }
        self.coverage.add("entries applied", entries.len() as u64);
        let driver = &mut self.nodes[node].driver;
        driver.machine.on_applied(entries);
        let last = driver.machine.applied().index;
        let mut answered = Vec::new();
        driver.batches.resolve(entries, &mut responses, &mut |ended| answered.push(ended));
        for (requests, responses) in answered {
            self.answer_batch(node, &requests, (last, responses))?;
        }
        self.answer_ready_reads(node)
    }

    fn answer_ready_reads(&mut self, node: usize) -> Result<(), Violation> {
        loop {
            let driver = &mut self.nodes[node].driver;
            let applied = driver.machine.applied().index;
            let Some(ready) = driver.reads.next_ready(applied) else { return Ok(()) };
            self.answer_reads(node, &ready)?;
        }
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
        let it = &mut self.nodes[node];
        if !it.driver.machine.is_checkpoint_due() {
            return;
        }
        let life = it.life;
        let mut meta = it.driver.machine.start_checkpoint();
        if mutated!(CheckpointOfALaterConfiguration) {
            meta.membership = it.membership().clone().into();
        }
        let data = it.machine.state.checkpoint(&meta);
        it.checkpointing = Some(Snapshot { meta, data });
        let delay = self.takes(node, self.plan.disk.write_us * 4);
        self.at(delay, Event::Checkpointed { node, life });
    }

    pub(crate) fn on_checkpointed(&mut self, node: usize) -> Result<(), Violation> {
        let Some(mut snapshot) = self.nodes[node].checkpointing.take() else { return Ok(()) };
        if mutated!(CheckpointCutAtAnotherPlace) {
            let meta = snapshot.meta.clone();
            snapshot.data = self.nodes[node].machine.state.checkpoint(&meta);
        }
        let it = &mut self.nodes[node];
        let meta = snapshot.meta.clone();
        it.checkpoint = Some(snapshot);
        it.driver.machine.on_checkpoint_done(&meta).for_each(drop);
        it.driver.reports.push_back(Input::SnapshotTaken(meta));
        self.coverage.hit("checkpoints");
        self.install(node)?;
        self.maybe_checkpoint(node);
        self.report(node)
    }

    /// What was received, or was not, is reported in order.
    pub(crate) fn report_receipt(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        let (now, delay) = (self.now_us(), self.report_delay(node));
        let it = &mut self.nodes[node];
        let at = it.driver.receipt_at.max(now + delay);
        let is_next = it.driver.receipt_at < now;
        it.driver.receipt_at = at;
        if is_next && at == now {
            return self.tell(node, input);
        }
        let life = it.life;
        self.at(at - now, Event::Tell { node, life, input });
        Ok(())
    }

    /// What becomes of streams is reported at once, or, where they take long, after a while: a large snapshot has to be checked and closed.
    pub(crate) fn report_delay(&mut self, node: usize) -> u64 {
        let most = self.plan.network.stream_us * 3;
        if self.is_spared(node) || most == 0 { 0 } else { self.rng.below(most + 1) }
    }

    /// Replaces the state by a received snapshot, if one is to be installed and nothing is in its way.
    fn install(&mut self, node: usize) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let Some((meta, ())) = it.driver.machine.take_install() else { return Ok(()) };
        let id = it.id;
        if it.checkpointing.is_some() {
            return broken(
                "a machine does one thing at a time",
                format!("node {id} installs {} while it makes a checkpoint", meta.position),
            );
        }
        let received = it.received_at(&meta).cloned();
        let Some(snapshot) = received else {
            return broken(
                "only received snapshots are installed",
                format!("node {id} is told to install {}", meta.position),
            );
        };
        if !self.is_spared(node) && self.rng.chance(self.plan.network.stream_loss / 5) {
            self.coverage.hit("installs failed");
            self.nodes[node].driver.reports.push_back(Input::SnapshotInstallFailed(meta));
            return Ok(());
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
        it.received.retain(|held| held.meta.position.index > meta.position.index);
        it.driver.machine.on_installed(meta.clone());
        // Who will not learn the response hears nothing.
        it.driver.batches.skip_through(meta.position.index, &mut drop);
        it.driver.reports.push_back(Input::SnapshotInstalled(meta));
        self.answer_ready_reads(node)
    }
}

/// Whether a quick machine does it at once.
fn is_small(job: &MachineJob) -> bool {
    match job {
        MachineJob::Apply(span) => order::is_small(span),
        MachineJob::Expect { .. } | MachineJob::Abandon(_) | MachineJob::Read { .. } => true,
        MachineJob::Install(_) | MachineJob::Stream { .. } => false,
    }
}
