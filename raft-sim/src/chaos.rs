//! Faults: crashes, pauses, partitions, lost connections; and the end of all faults.

use raft_core::Input;

use crate::perform::describe;
use crate::world::{Event, Job, World};
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn on_fault(&mut self) -> Result<(), Violation> {
        let next = self.rng.around(self.plan.fault_every_us);
        self.at(next, Event::Fault);
        let plan = &self.plan;
        let weights = [
            plan.crash,
            plan.blackout,
            plan.pause,
            plan.partition,
            plan.one_way,
            plan.isolate_leader,
            plan.unreachable,
        ];
        let mut at = self.rng.below(weights.iter().sum());
        let kind = weights.iter().position(|&weight| {
            let hit = at < weight;
            at = at.saturating_sub(weight);
            hit
        });
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match kind {
            Some(0) => self.crash_for_a_while(node),
            Some(1) => (0..self.nodes.len()).try_for_each(|node| self.crash_for_a_while(node)),
            Some(2) => {
                self.pause(node);
                Ok(())
            }
            Some(kind @ 3..=5) => {
                self.partition(kind);
                Ok(())
            }
            Some(_) => self.lose_connections(node),
            None => Ok(()),
        }
    }

    fn crash_for_a_while(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].raft.is_none() {
            return Ok(());
        }
        self.crash(node)?;
        let down = self.rng.around(self.plan.fault_us);
        self.at(down, Event::Restart { node });
        Ok(())
    }

    /// Loses what is not durable: a crash keeps any prefix of the writes that were under way.
    fn crash(&mut self, node: usize) -> Result<(), Violation> {
        let waiting = self.nodes[node].queue.len() as u64;
        let kept = match self.rng.below(3) {
            0 => 0,
            1 => waiting,
            _ => self.rng.between(0, waiting),
        };
        for _ in 0..kept {
            if let Some(op) = self.nodes[node].queue.pop_front() {
                self.carry_out(node, op)?;
            }
        }
        if kept < waiting {
            self.coverage.hit("crashes that lost writes");
        }
        let (finish_checkpoint, finish_install) = (self.rng.chance(300), self.rng.chance(500));
        let it = &mut self.nodes[node];
        it.queue.clear();
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
        if let (true, Some(Job::Install(meta))) = (finish_install, it.jobs.front())
            && it.received.as_ref().is_some_and(|held| held.meta == *meta)
        {
            it.checkpoint.clone_from(&it.received);
        }
        it.jobs.clear();
        it.expecting = None;
        it.received = None;
        it.raft = None;
        it.poll_scheduled = false;
        it.wake_at = None;
        let id = it.id;
        let line = format!("node {id} crashes, leaving {}", describe(&it.disk));
        self.ledger.on_crash(id);
        self.coverage.hit("crashes");
        self.say(|| line);
        Ok(())
    }

    fn pause(&mut self, node: usize) {
        let until = self.now_us() + self.rng.around(self.plan.fault_us);
        self.nodes[node].paused_until = until;
        self.at(until - self.now_us(), Event::Resume { node });
        self.coverage.hit("pauses");
        let line = format!("node {} stops until {until}", self.nodes[node].id);
        self.say(|| line);
    }

    /// What waited for a stopped process happens now, in the order in which it came.
    pub(crate) fn resume(&mut self, node: usize) {
        if self.nodes[node].paused_until > self.now_us() {
            return;
        }
        for event in std::mem::take(&mut self.nodes[node].stash) {
            self.at(0, event);
        }
    }

    fn partition(&mut self, kind: usize) {
        let count = self.nodes.len();
        let leader = (0..count).find(|&node| self.nodes[node].claims_to_lead());
        let sides: Vec<bool> = match leader {
            Some(leader) if kind == 5 => (0..count).map(|node| node == leader).collect(),
            _ => (0..count).map(|_| self.rng.chance(500)).collect(),
        };
        for (from, row) in self.blocked.iter_mut().enumerate() {
            for (to, blocked) in row.iter_mut().enumerate() {
                *blocked |= match kind {
                    4 => sides[from] && !sides[to],
                    _ => sides[from] != sides[to],
                };
            }
        }
        self.coverage.hit(if kind == 4 { "one-way partitions" } else { "partitions" });
        let lasts = self.rng.around(self.plan.fault_us);
        self.at(lasts, Event::Heal);
        let line = format!("partition (one-way {}): {sides:?}", kind == 4);
        self.say(|| line);
    }

    pub(crate) fn heal(&mut self) {
        for row in &mut self.blocked {
            row.fill(false);
        }
        self.say(|| "partitions heal".to_owned());
    }

    fn lose_connections(&mut self, node: usize) -> Result<(), Violation> {
        let peer = self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id;
        let it = &self.nodes[node];
        if peer == it.id || it.raft.is_none() || it.paused_until > self.now_us() {
            return Ok(());
        }
        self.coverage.hit("connections lost");
        self.tell(node, Input::Unreachable(peer))
    }

    /// Ends all faults: everybody is up and reachable.
    pub(crate) fn calm_down(&mut self) -> Result<(), Violation> {
        self.say(|| "faults are over".to_owned());
        self.calm = true;
        self.heal();
        for node in 0..self.nodes.len() {
            self.nodes[node].paused_until = 0;
            self.resume(node);
            if !self.nodes[node].queue.is_empty() {
                self.schedule_flush(node);
            }
            if self.nodes[node].raft.is_none() {
                self.start(node)?;
            }
        }
        Ok(())
    }
}
