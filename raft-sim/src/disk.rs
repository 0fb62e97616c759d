//! The disks: what becomes durable when, what a power loss leaves, and how disks fail.
//!
//! The store's own guarantees are modelled, not what lies below them: writes become durable in order, each as a whole. Torn pages and
//! flipped bits befall real stores only, in one seed of eight; here, a store that finds that it lost something says so.

use std::time::Duration;

use raft_core::{
    Entries, Input, Instant, Membership, NodeId, Persist, StorageHealth, StoreId, StoreStamp,
    Ticket,
};
use raft_node::order::{MachineJob, StoreJob};

use crate::chaos::NO_EFFECT;
use crate::checker::broken;
use crate::event::{Event, FetchRequest};
use crate::image::describe;
use crate::machine::Progress;
use crate::mutants::mutated;
use crate::node::{Driver, Node};
use crate::timeline::Mark;
use crate::world::World;
use crate::{Image, Machine, Violation};

/// Whether what a later write adds to the log counts only once this is durable too.
fn touches_the_log(job: &StoreJob) -> bool {
    match job {
        StoreJob::Write(write) => {
            !write.entries.is_empty() || write.truncate_from.is_some() || write.reset.is_some()
        }
        StoreJob::Compact(_) => false,
    }
}

/// Makes one write durable.
fn write_to(disk: &mut Image, write: &Persist) -> Result<(), String> {
    if mutated!(ResetKeepsOldEntries) && write.reset.is_some() {
        return disk.write(&Persist { reset: None, ..write.clone() });
    }
    let vote = disk.hard_state.vote;
    let result = disk.write(write);
    if mutated!(VoteNotWritten) {
        disk.hard_state.vote = vote;
    }
    result
}

impl<M: Machine> World<'_, M> {
    pub(crate) fn on_fetch(&mut self, node: usize, fetch: FetchRequest) -> Result<(), Violation> {
        let lost = !self.is_spared(node) && self.rng.chance(self.plan.disk.fetch_loss);
        let skipped = u64::from(mutated!(FetchStartsLate));
        let found: Option<Entries> = if lost {
            None
        } else {
            let first = fetch.first.plus(skipped);
            match self.read(node, first, &fetch)? {
                Ok(found) => found,
                Err(error) => return self.fail_stop(node, &error),
            }
        };
        self.coverage.hit(if found.is_some() { "fetches" } else { "fetches failed" });
        self.tell(
            node,
            match found {
                Some(entries) => Input::Fetched { peer: fetch.peer, entries },
                None => Input::FetchFailed { peer: fetch.peer },
            },
        )
    }

    pub(crate) fn enqueue(&mut self, node: usize, job: StoreJob) {
        let ticket = match &job {
            // What cuts or replaces the log overlaps what it follows: its report would say that that is durable too.
            StoreJob::Write(write) if write.truncate_from.is_none() && write.reset.is_none() => {
                Some(write.ticket)
            }
            _ => None,
        };
        let queue = &mut self.nodes[node].driver.queue;
        let is_held_back = queue.iter().any(touches_the_log);
        queue.push_back(job);
        if queue.len() == 1 {
            self.schedule_flush(node);
        }
        if let Some(ticket) = ticket.filter(|_| is_held_back) {
            self.overtake(node, ticket);
        }
    }

    /// Now and then a write is finished before those that wait before it. It counts only once they are finished too, and then it does.
    fn overtake(&mut self, node: usize, ticket: Ticket) {
        let chance = self.plan.disk.overtaking;
        let is_modelled = self.nodes[node].real.is_none();
        if !is_modelled || self.is_spared(node) || chance == 0 || !self.rng.chance(chance) {
            return;
        }
        self.coverage.hit("writes that overtook others");
        let it = &mut self.nodes[node];
        it.driver.overtaking.insert(ticket);
        let (life, input) = (it.life, Input::Persisted(ticket));
        let delay = self.rng.below(self.plan.disk.write_us + 1);
        self.at(delay, Event::Tell { node, life, input });
    }

    /// How many of the jobs that wait are finished along with the first `count`: those after them that were finished before.
    fn count_finished(&self, node: usize, count: u64) -> u64 {
        let Driver { queue, overtaking, .. } = &self.nodes[node].driver;
        let mut finished = count;
        for (place, job) in (1..).zip(queue).skip(count as usize) {
            match job {
                StoreJob::Write(write) if overtaking.contains(&write.ticket) => finished = place,
                job if touches_the_log(job) => break,
                _ => {}
            }
        }
        finished
    }

    /// The disk finishes some of what waits: one or several writes at a time, as a group commit does.
    pub(crate) fn on_flush(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].stalled_until > self.now_us() {
            self.schedule_flush(node);
            return Ok(());
        }
        let waiting = self.nodes[node].driver.queue.len() as u64;
        let count = self.rng.between(1, waiting.max(1));
        if let Err(error) = self.commit(node, count)? {
            return self.fail_stop(node, &error);
        }
        if !self.nodes[node].driver.queue.is_empty() {
            self.schedule_flush(node);
        }
        Ok(())
    }

    /// The first of what waits, carried out as one commit. The inner error is the disk's.
    fn commit(&mut self, node: usize, count: u64) -> Result<Result<(), String>, Violation> {
        let now = Instant(self.now_us());
        let count = self.count_finished(node, count);
        let it = &mut self.nodes[node];
        let Driver { queue, writes, .. } = &mut it.driver;
        for job in queue.drain(..queue.len().min(count as usize)) {
            writes.take(job, now);
        }
        let (disk, real) = (&mut it.disk, &mut it.real);
        let mut written = Ok(());
        let durable = writes.commit(|group| {
            if let Some(real) = real {
                real.commit(group)?;
            }
            written = group.iter().try_for_each(|write| write_to(disk, write));
            Ok::<(), String>(())
        });
        let tickets = match durable.map(Vec::from_iter) {
            Ok(tickets) => tickets,
            Err(error) => return Ok(Err(error)),
        };
        if let Err(error) = written {
            return broken("writes fit the log", format!("disk of node {node}: {error}"));
        }
        let is_told_before = mutated!(PersistedReportedAtOnce);
        for ticket in tickets.into_iter().filter(|_| !is_told_before) {
            if self.nodes[node].driver.overtaking.remove(&ticket) {
                continue;
            }
            let spread = if self.is_spared(node) { 0 } else { self.plan.disk.notice_us };
            let delay = self.rng.below(spread + 1);
            let at = self.now_us() + delay;
            let it = &mut self.nodes[node];
            let life = it.life;
            let latest = it.notified_at.max(at);
            if std::mem::replace(&mut it.notified_at, latest) > at {
                self.coverage.hit("completions out of order");
            }
            self.at(delay, Event::Tell { node, life, input: Input::Persisted(ticket) });
        }
        self.compact(node)
    }

    /// The commit of what waits fails. Whether it is durable is unknown: the node stops for good, and starts again from what there is.
    pub(crate) fn fail_write(&mut self, node: usize) -> Result<(), Violation> {
        let now = Instant(self.now_us());
        let waiting = self.nodes[node].driver.queue.len() as u64;
        let kept = self.rng.below(waiting + 1) as usize;
        let Node { driver: Driver { queue, writes, .. }, disk, .. } = &mut self.nodes[node];
        for job in queue.drain(..) {
            writes.take(job, now);
        }
        let fails = |group: &[Persist]| {
            // What was written before may be there all the same, and nobody is told.
            let _ = group.iter().take(kept).try_for_each(|write| write_to(disk, write));
            Err(())
        };
        let durable = writes.commit(fails).map(Vec::from_iter).unwrap_or_default();
        if durable.is_empty() {
            return self.crash_for_a_while(node);
        }
        // By a seeded bug only.
        durable.into_iter().try_for_each(|ticket| self.tell(node, Input::Persisted(ticket)))
    }

    /// Carries out the compaction that is due, if it may be.
    fn compact(&mut self, node: usize) -> Result<Result<(), String>, Violation> {
        let now = Instant(self.now_us());
        let it = &mut self.nodes[node];
        let writes_wait = !it.driver.queue.is_empty();
        let Some(through) = it.driver.writes.compaction(now, writes_wait) else {
            return Ok(Ok(()));
        };
        if let Some(real) = &mut it.real
            && let Err(error) = real.compact(through)
        {
            it.driver.writes.fail();
            return Ok(Err(error));
        }
        let applied = it.machine.applied;
        let through = if mutated!(CompactedPastTheCheckpoint) { applied } else { through };
        match it.disk.compact(through) {
            Ok(()) => Ok(Ok(())),
            Err(error) => broken("writes fit the log", format!("disk of node {node}: {error}")),
        }
    }

    pub(crate) fn schedule_flush(&mut self, node: usize) {
        let mut delay = self.takes(node, self.plan.disk.write_us);
        if !self.is_spared(node) && self.rng.chance(self.plan.disk.stall) {
            delay += self.rng.below(self.plan.fault_us);
            self.coverage.hit("slow writes");
        }
        delay = delay.max(self.nodes[node].stalled_until.saturating_sub(self.now_us()));
        let life = self.nodes[node].life;
        self.at(delay, Event::Flush { node, life });
    }

    /// A disk does nothing for a while; its driver notices, and notices when it is over.
    pub(crate) fn stall(&mut self, node: usize) -> Result<(), Violation> {
        if !self.nodes[node].is_running() {
            return Ok(());
        }
        let lasts = if self.rng.chance(300) {
            self.coverage.hit("disk stalls of one to ten seconds");
            self.rng.between(1_000_000, 10_000_000)
        } else {
            self.rng.around(self.plan.fault_us).min(self.plan.election_us() * 10)
        };
        let until = self.now_us() + lasts;
        let it = &mut self.nodes[node];
        it.stalled_until = it.stalled_until.max(until);
        self.coverage.hit("disk stalls");
        if self.nodes[node].real.is_some() {
            self.coverage.hit("real disks: stalls");
        }
        let life = self.nodes[node].life;
        let over = Input::StorageHealth(StorageHealth::Healthy);
        self.at(lasts, Event::Tell { node, life, input: over });
        self.tell(node, Input::StorageHealth(StorageHealth::Stalled))?;
        self.judge_stalled_leader(node)
    }

    /// Loses what is not durable: a crash keeps any prefix of the writes that were under way.
    pub(crate) fn crash(&mut self, node: usize) -> Result<(), Violation> {
        self.nodes[node].is_looping = false;
        let must_be_replaced = self.crash_real_store(node)?;
        let waiting = self.nodes[node].driver.queue.len() as u64;
        let kept = match self.rng.below(3) {
            0 => 0,
            1 => waiting,
            _ => self.rng.between(0, waiting),
        };
        if kept > 0 {
            // Whoever would be told is gone.
            let _ = self.commit(node, kept)?;
        }
        if kept < waiting {
            self.coverage.hit("crashes that lost writes");
        }
        let (finish_checkpoint, finish_install) = (self.rng.chance(300), self.rng.chance(500));
        let it = &mut self.nodes[node];
        if mutated!(DurableEntryLostInACrash) {
            it.disk.entries.pop();
        }
        let done = it.checkpointing.take();
        if let (true, Some(done)) = (finish_checkpoint, done) {
            let newer = it
                .checkpoint
                .as_ref()
                .is_none_or(|old| old.meta.position.index < done.meta.position.index);
            if newer {
                it.checkpoint = Some(done);
            }
        }
        // A crash in the middle of an installation leaves the old state or the new one, whole.
        if let (true, Some(MachineJob::Install(meta))) = (finish_install, it.driver.jobs.front())
            && it.received_at(meta).is_some()
        {
            it.checkpoint = it.received_at(meta).cloned();
            if let Some(held) = it.checkpoint.as_mut().filter(|_| mutated!(InstallationNotAtomic)) {
                held.data = it.machine.state.checkpoint(&held.meta);
            }
        }
        self.leave_partial(node);
        let it = &mut self.nodes[node];
        it.driver = Driver::new(None, Membership::default(), (Duration::ZERO, 0));
        it.received.clear();
        it.raft = None;
        it.poll_scheduled = false;
        it.wake_at = None;
        it.paused_until = 0;
        it.frozen_at = None;
        if it.dies_after.take().is_some_and(|left| left > 0) {
            // It died of something else.
            self.coverage.hit(NO_EFFECT);
        }
        if it.disk.membership().is_joint() {
            self.coverage.hit("crashes in a joint configuration");
        }
        let line = format!("crashes, leaving {}", describe(&self.nodes[node].disk));
        self.forget_clients_of(node);
        self.coverage.hit("crashes");
        self.mark(Mark::Crash, Some(node), || line);
        if must_be_replaced { self.replace_disk(node) } else { Ok(()) }
    }

    /// Replaces a node's disk by an empty one. For one that [may be wiped](World::may_be_wiped).
    pub(crate) fn wipe(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].raft.is_some() {
            self.crash(node)?;
        }
        self.replace_disk(node)
    }

    /// Whether its disk may be lost: where stores are told apart, and the others can do without it.
    pub(crate) fn may_be_wiped(&self, node: usize) -> bool {
        self.plan.has_stores && self.can_lose(node)
    }

    /// The disk of a node that is down is lost, and another one put in its place.
    pub(crate) fn replace_disk(&mut self, node: usize) -> Result<(), Violation> {
        self.found_real_store(node, &Membership::default())?;
        let id = self.nodes[node].id;
        let fresh = Image::founding(Membership::default());
        let store = StoreStamp { id: StoreId(self.rng.draw()), life: 0, nonce: 0 };
        let store =
            if mutated!(WipedDiskKeepsItsIdentity) { self.nodes[node].store } else { store };
        let sessions_max = self.plan.client.sessions_max;
        let it = &mut self.nodes[node];
        let lost = std::mem::replace(&mut it.disk, fresh);
        let old = std::mem::replace(&mut it.store, store);
        it.checkpoint = None;
        it.partial = None;
        it.machine = Progress::founding(Membership::default(), sessions_max);
        self.graves.push((id, old.id, lost));
        self.checker.on_wipe(id);
        self.coverage.hit("disks wiped");
        self.mark(Mark::Wipe, Some(node), || "its disk is wiped".to_owned());
        let down = self.rng.around(self.plan.fault_us);
        self.at(down, Event::Restart { node });
        Ok(())
    }

    /// Whether the group can do without this node's disk: in every configuration that may be in effect, a quorum remains without it and
    /// without the others that do not count.
    pub(crate) fn can_lose(&self, node: usize) -> bool {
        let id = self.nodes[node].id;
        let mut all = self.live_memberships().peekable();
        all.peek().is_some()
            && all.all(|membership| {
                let remains = |voter: NodeId| voter != id && self.is_counted(&membership, voter);
                membership.has_quorum(remains)
            })
    }
}
