//! Faults: what goes wrong, when, and for how long. What disks and networks do by themselves is in `disk` and `network`.

use raft_core::Input;
use raft_node::order::MachineJob;

use crate::event::Event;
use crate::mutants::mutated;
use crate::network::{KIND_NAMES, KINDS};
use crate::plan::Fault;
use crate::timeline::Mark;
use crate::world::World;
use crate::{Machine, Violation};

impl<M: Machine> World<'_, M> {
    pub(crate) fn on_fault(&mut self) -> Result<(), Violation> {
        let next = self.rng.around(self.plan.fault_every_us);
        self.at(next, Event::Fault);
        let mut at = self.rng.below(self.plan.weights.iter().sum());
        let kind = self.plan.weights.iter().position(|&weight| {
            let hit = at < weight;
            at = at.saturating_sub(weight);
            hit
        });
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match kind.and_then(|kind| Fault::ALL.get(kind)) {
            Some((fault, _)) => self.break_something(*fault, node),
            None => Ok(()),
        }
    }

    fn break_something(&mut self, fault: Fault, node: usize) -> Result<(), Violation> {
        self.coverage.hit("faults");
        match fault {
            Fault::Crash => {
                // In the middle of what must be whole, if there is anything of the kind.
                let installs = |node: &usize| {
                    let job = self.nodes[*node].driver.jobs.front();
                    matches!(job, Some(MachineJob::Install(_)))
                };
                let installing = (0..self.nodes.len()).find(installs);
                if installing.is_some() {
                    self.coverage.hit("crashes in the middle of an install");
                }
                let node = installing.unwrap_or(node);
                if self.nodes[node].raft.is_none() {
                    self.coverage.hit(NO_EFFECT);
                } else if installing.is_none() && self.rng.chance(500) {
                    // Later, in the middle of what it is told to do then.
                    let after = self.rng.between(1, 8);
                    if self.nodes[node].dies_after.replace(after).is_some() {
                        self.coverage.hit(NO_EFFECT);
                    }
                    return Ok(());
                }
                return self.crash_for_a_while(node);
            }
            Fault::Blackout => {
                let is_anybody_up = self.nodes.iter().any(|node| node.raft.is_some());
                self.count("power losses of all", is_anybody_up);
                return (0..self.nodes.len()).try_for_each(|node| self.crash_for_a_while(node));
            }
            Fault::CrashLoop => {
                let times = self.rng.between(1, 4);
                if self.nodes[node].raft.is_none() {
                    self.coverage.hit(NO_EFFECT);
                }
                return self.crash_in_loop(node, times);
            }
            Fault::WriteError | Fault::DiskFull | Fault::Wipe | Fault::FsyncLie
                if self.nodes[node].real.is_some() =>
            {
                return self.break_real_disk(fault, node);
            }
            Fault::WriteError | Fault::DiskFull => {
                let is_full = fault == Fault::DiskFull;
                return self.fail_some_write(if is_full { "full disks" } else { "write errors" });
            }
            Fault::Wipe | Fault::FsyncLie if !self.may_be_wiped(node) => {
                self.coverage.hit(NO_EFFECT);
            }
            // Wiped disks are counted where they are replaced.
            Fault::Wipe => return self.wipe(node),
            Fault::FsyncLie => {
                self.coverage.hit("fsync lies found");
                return self.wipe(node);
            }
            Fault::Stall => {
                if !self.nodes[node].is_running() {
                    self.coverage.hit(NO_EFFECT);
                }
                return self.stall(node);
            }
            Fault::Pause => self.pause(node, false),
            Fault::Freeze => self.pause(node, true),
            Fault::ClockStep => return self.step_clock(node),
            Fault::Unreachable => return self.lose_connections(node),
            Fault::Replay => self.replay(),
            Fault::Partition => self.partition(),
            Fault::OneWay => self.cut_one_way(),
            Fault::IsolateLeader => self.isolate_leader(),
            Fault::Bridge => self.bridge(),
            Fault::LoseType => self.lose_type(),
            Fault::Flap | Fault::SlowLink | Fault::Clog => self.spoil_link(fault, node),
        }
        Ok(())
    }

    /// Somebody's disk fails in the middle of what it writes, if anybody's writes.
    fn fail_some_write(&mut self, what: &'static str) -> Result<(), Violation> {
        let writes = |node: &usize| {
            let it = &self.nodes[*node];
            it.raft.is_some() && it.real.is_none() && !it.driver.queue.is_empty()
        };
        let writing: Vec<usize> = (0..self.nodes.len()).filter(writes).collect();
        self.count(what, !writing.is_empty());
        if writing.is_empty() {
            return Ok(());
        }
        let node = self.rng.pick(&writing);
        self.fail_write(node)
    }

    pub(crate) fn crash_for_a_while(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].raft.is_none() {
            return Ok(());
        }
        self.crash(node)?;
        let down = self.rng.around(self.plan.fault_us);
        self.at(down, Event::Restart { node });
        if self.rng.chance(self.plan.disk.crash_in_recovery) {
            let life = self.nodes[node].life + 1;
            let soon = down + self.rng.below(self.plan.disk.write_us * 2);
            self.at(soon, Event::CrashInRecovery { node, life });
        }
        Ok(())
    }

    /// Goes down soon after a start, unless faults are over for it.
    pub(crate) fn crash_in_recovery(&mut self, node: usize) -> Result<(), Violation> {
        if self.is_spared(node) {
            return Ok(());
        }
        self.coverage.hit("crashes in recovery");
        self.crash_shortly(node).map(drop)
    }

    /// Goes down now, and soon after each start for some times more: without end once faults are permanent, unless they are over for it.
    pub(crate) fn crash_in_loop(&mut self, node: usize, times: u64) -> Result<(), Violation> {
        if self.nodes[node].raft.is_none() || self.is_spared(node) {
            return Ok(());
        }
        self.coverage.hit("crashes in a loop");
        let down = self.crash_shortly(node)?;
        if times > 0 {
            self.nodes[node].is_looping = true;
            let times = if self.calm { times } else { times - 1 };
            let life = self.nodes[node].life + 1;
            let up = down + self.rng.around(self.plan.election_us() / 2);
            self.at(up, Event::CrashAgain { node, life, times });
        }
        Ok(())
    }

    /// A crash, and the time after which the node comes back: as long as a write takes.
    fn crash_shortly(&mut self, node: usize) -> Result<u64, Violation> {
        self.crash(node)?;
        let down = self.rng.around(self.plan.disk.write_us);
        self.at(down, Event::Restart { node });
        Ok(down)
    }

    /// A process stops for up to ten election timeouts; if its machine is suspended, its clock stops too.
    fn pause(&mut self, node: usize, freezes: bool) {
        let lasts = self.rng.around(self.plan.fault_us).min(10 * self.plan.election_us());
        let now = self.now_us();
        let it = &mut self.nodes[node];
        if it.raft.is_none() || it.paused_until > 0 {
            self.coverage.hit(NO_EFFECT);
            return;
        }
        it.paused_until = now + lasts;
        it.frozen_at = freezes.then(|| it.clock.local(now));
        self.at(lasts, Event::Resume { node });
        self.coverage.hit(if freezes { "suspensions" } else { "pauses" });
        let what = if freezes { "is suspended with its clock" } else { "is paused" };
        self.mark(Mark::Pause, Some(node), || format!("{what} for {lasts} us"));
    }

    /// What waited for a stopped process happens now, in the order in which it came.
    pub(crate) fn resume(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.now_us();
        let it = &mut self.nodes[node];
        if it.paused_until > now {
            return Ok(());
        }
        if it.paused_until > 0 {
            self.coverage.hit("processes that went on");
            self.mark(Mark::Resume, Some(node), || "goes on".to_owned());
        }
        let it = &mut self.nodes[node];
        it.paused_until = 0;
        let stash = std::mem::take(&mut it.stash);
        let frozen_at = it.frozen_at.take();
        for event in stash {
            self.at(0, event);
        }
        if let Some(frozen_at) = frozen_at {
            let it = &mut self.nodes[node];
            it.clock.offset = frozen_at.0 - now * it.clock.rate / 1000;
            it.wake_at = None;
            let local = it.clock.local(now);
            if let Some(leading) = &mut it.watch.leading {
                leading.floor = local;
            }
            if mutated!(SuspensionNotNoticed) {
                return Ok(());
            }
            return self.tell(node, Input::ClockSuspect);
        }
        Ok(())
    }

    /// A clock jumps forward. Leases rest on clocks that run evenly, so it does not where there are any.
    fn step_clock(&mut self, node: usize) -> Result<(), Violation> {
        if self.plan.config.lease.is_some() || !self.nodes[node].is_running() {
            self.coverage.hit(NO_EFFECT);
            return Ok(());
        }
        self.coverage.hit("clock steps");
        let step = self.rng.pick(&[1_000, 1_000_000, HOUR_US, 24 * HOUR_US]);
        let step = self.rng.between(1, step);
        if step >= HOUR_US {
            self.coverage.hit("clock steps of hours");
        }
        self.mark(Mark::Fault, Some(node), || format!("its clock jumps forward by {step} us"));
        self.nodes[node].clock.offset += step;
        self.nodes[node].wake_at = None;
        self.tell(node, Input::Timeout)
    }

    fn draw_sides(&mut self) -> Vec<bool> {
        (0..self.nodes.len()).map(|_| self.rng.chance(500)).collect()
    }

    /// Counts a fault by what it is, if it does anything.
    fn count(&mut self, what: &'static str, has_effect: bool) {
        self.coverage.hit(if has_effect { what } else { NO_EFFECT });
    }

    fn heal_later(&mut self, line: String) {
        let lasts = self.rng.around(self.plan.fault_us);
        self.at(lasts, Event::Heal);
        self.mark(Mark::Fault, None, || line);
    }

    fn partition(&mut self) {
        let sides = self.draw_sides();
        self.network.cut(|node| sides[node], |node| !sides[node]);
        self.network.cut(|node| !sides[node], |node| sides[node]);
        self.count("partitions", are_two(&sides, |_| true));
        self.heal_later(format!("partition: {}", two_sides(&sides, "|")));
    }

    fn cut_one_way(&mut self) {
        let sides = self.draw_sides();
        self.network.cut(|node| sides[node], |node| !sides[node]);
        self.count("one-way partitions", are_two(&sides, |_| true));
        self.heal_later(format!("one-way partition: {}", two_sides(&sides, "can not reach")));
    }

    fn isolate_leader(&mut self) {
        let Some(leader) = (0..self.nodes.len()).find(|&node| self.nodes[node].claims_to_lead())
        else {
            self.coverage.hit(NO_EFFECT);
            return;
        };
        self.network.cut(|node| node == leader, |node| node != leader);
        self.network.cut(|node| node != leader, |node| node == leader);
        let has_others = self.nodes.len() > 1;
        self.count("isolated leaders", has_others);
        self.heal_later(format!("leader {} is cut off", self.nodes[leader].id));
    }

    /// Two sides that can reach each other only through one node that reaches both.
    fn bridge(&mut self) {
        let sides = self.draw_sides();
        let middle = self.rng.below(self.nodes.len() as u64) as usize;
        let left = |node: usize| node != middle && sides[node];
        let right = |node: usize| node != middle && !sides[node];
        self.network.cut(left, right);
        self.network.cut(right, left);
        self.count("bridge partitions", are_two(&sides, |node| node != middle));
        self.heal_later(format!(
            "bridge over {} between {}",
            self.nodes[middle].id,
            two_sides(&sides, "|")
        ));
    }

    fn lose_type(&mut self) {
        let kind = self.rng.below(KINDS);
        self.network.lost_kind = Some(kind);
        self.coverage.hit("types lost");
        self.heal_later(format!("all {} are lost", KIND_NAMES[kind as usize]));
    }

    fn spoil_link(&mut self, fault: Fault, from: usize) {
        let to = self.rng.below(self.nodes.len() as u64) as usize;
        let lasts = self.rng.around(self.plan.fault_us);
        let is_link = from != to;
        match fault {
            Fault::Flap => {
                self.count("flapping links", is_link);
                let times = self.rng.between(2, 12);
                self.flap(from, to, times);
            }
            Fault::SlowLink => {
                self.count("slow links", is_link);
                self.network.link(from, to).slowness = self.rng.between(3, 30);
                self.heal_later(format!("the link from {} to {} is slow", from + 1, to + 1));
            }
            _ => {
                self.count("clogged links", is_link);
                self.network.link(from, to).clogged_until = self.now_us() + lasts;
                let line = format!("the link from {} to {} is clogged", from + 1, to + 1);
                self.mark(Mark::Fault, None, || format!("{line} for {lasts} us"));
            }
        }
    }

    /// A link goes down if it is up, and the other way round; when its time is over, it is up. In the liveness phase it flaps for ever, unless it is
    /// one of the core's.
    pub(crate) fn flap(&mut self, from: usize, to: usize, times: u64) {
        if !self.is_faulty(from, to) {
            return;
        }
        let times = if self.calm { times.max(2) } else { times };
        let link = self.network.link(from, to);
        if times == 0 {
            link.is_down = false;
            return;
        }
        link.is_down = !link.is_down;
        let state = if link.is_down { "down" } else { "up" };
        let line = format!("the link from {} to {} goes {state}", from + 1, to + 1);
        self.mark(Mark::Fault, None, || line);
        let lasts = self.rng.around(self.plan.election_us() / 3);
        self.at(lasts, Event::Flap { from, to, times: times - 1 });
    }

    pub(crate) fn heal(&mut self) {
        self.network.heal();
        self.coverage.hit("networks healed");
        self.mark(Mark::Heal, None, || "the network heals".to_owned());
    }

    fn lose_connections(&mut self, node: usize) -> Result<(), Violation> {
        let peer = self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id;
        if peer == self.nodes[node].id || !self.nodes[node].is_running() {
            self.coverage.hit(NO_EFFECT);
            return Ok(());
        }
        self.coverage.hit("connections lost");
        self.tell(node, Input::Unreachable(peer))
    }
}

/// In microseconds.
const HOUR_US: u64 = 3_600_000_000;

/// A fault that was drawn for nobody, for who is down already, or where it can not be.
pub(crate) const NO_EFFECT: &str = "faults without effect";

/// Whether of those that count there are some on either side.
fn are_two(sides: &[bool], counts: impl Fn(usize) -> bool) -> bool {
    let is_there =
        |of: bool| sides.iter().enumerate().any(|(node, side)| *side == of && counts(node));
    is_there(true) && is_there(false)
}

/// `1 2 | 3 4 5`.
fn two_sides(sides: &[bool], between: &str) -> String {
    let side = |of: bool| {
        let nodes = sides.iter().enumerate().filter(|(_, side)| **side == of);
        let ids: Vec<String> = nodes.map(|(place, _)| (place + 1).to_string()).collect();
        if ids.is_empty() { "nobody".to_owned() } else { ids.join(" ") }
    };
    format!("{} {between} {}", side(true), side(false))
}
