//! The event loop, and the driver: what a real driver does with threads, this does with one queue of events in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bytes::Bytes;
use raft_core::{
    Apply, Config, Entries, HandleError, Input, Instant, LogPosition, Membership, Message, NodeId,
    Persist, ProposalId, Raft, ReadId, Restored, RoleKind, SnapshotMeta, Ticket,
};

use crate::checker::broken;
use crate::machine::{Progress, mix};
use crate::{Checker, Coverage, Image, Ledger, Machine, Plan, Rng, Violation};

/// Something that will happen at a time.
#[derive(Clone, Debug)]
pub(crate) enum Event<M> {
    /// A message reaches a node, whichever life that is in.
    Deliver { to: usize, from: NodeId, message: Message },
    /// A node's deadline may have come.
    Wake { node: usize, life: u64 },
    /// A node stops collecting inputs and polls.
    Poll { node: usize, life: u64 },
    /// A node's disk finishes what waits first.
    Flush { node: usize, life: u64 },
    /// Something that only this life of the node waits for.
    Tell { node: usize, life: u64, input: Input },
    /// A node's machine finishes the job at the head of its queue.
    Work { node: usize, life: u64 },
    /// A node's checkpoint is durable.
    Checkpointed { node: usize, life: u64 },
    /// A fetch reaches the disk.
    Fetch { node: usize, life: u64, fetch: FetchRequest },
    /// A snapshot stream ends.
    Streamed { from: usize, life: u64, to: usize, snapshot: Snapshot<M>, lost: bool },
    /// A node comes back.
    Restart { node: usize },
    /// A stopped node goes on.
    Resume { node: usize },
    /// The network heals.
    Heal,
    /// The next fault.
    Fault,
    /// A client does something.
    Client,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchRequest {
    pub(crate) peer: NodeId,
    pub(crate) first: raft_core::Index,
    pub(crate) last: raft_core::Index,
    pub(crate) budget_bytes: usize,
}

/// A snapshot and its data.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot<M> {
    pub(crate) meta: SnapshotMeta,
    pub(crate) progress: Progress<M>,
}

/// What waits for a disk, in order.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // nearly all of them are writes
pub(crate) enum DiskOp {
    Write(Persist),
    Compact(LogPosition),
}

/// What waits for a machine, in order.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    Apply(Apply),
    Install(SnapshotMeta),
}

/// One member: a core when it is up, and everything around it.
#[derive(Debug)]
pub(crate) struct Node<M> {
    pub(crate) id: NodeId,
    pub(crate) raft: Option<Raft>,
    /// Counts starts, so that what was meant for an earlier life is not delivered to a later one.
    pub(crate) life: u64,
    pub(crate) paused_until: u64,
    /// What a stopped process will find when it goes on.
    pub(crate) stash: Vec<Event<M>>,
    /// The clock: `local = offset + true * rate / 1000`.
    pub(crate) rate: u64,
    pub(crate) offset: u64,
    /// What a power loss would leave.
    pub(crate) disk: Image,
    /// What will be there once `queue` is done: the log as the core knows it.
    pub(crate) log: Image,
    pub(crate) queue: VecDeque<DiskOp>,
    pub(crate) checkpoint: Option<Snapshot<M>>,
    pub(crate) checkpointing: Option<Snapshot<M>>,
    pub(crate) machine: Progress<M>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) expecting: Option<SnapshotMeta>,
    pub(crate) received: Option<Snapshot<M>>,
    pub(crate) poll_scheduled: bool,
    pub(crate) wake_at: Option<u64>,
}

impl<M: Machine> Node<M> {
    fn new(id: NodeId, membership: &Membership) -> Node<M> {
        Node {
            id,
            raft: None,
            life: 0,
            paused_until: 0,
            stash: Vec::new(),
            rate: 1000,
            offset: 0,
            disk: Image::founding(membership.clone()),
            log: Image::founding(membership.clone()),
            queue: VecDeque::new(),
            checkpoint: None,
            checkpointing: None,
            machine: Progress::default(),
            jobs: VecDeque::new(),
            expecting: None,
            received: None,
            poll_scheduled: false,
            wake_at: None,
        }
    }

    fn local(&self, now: u64) -> Instant {
        Instant(self.offset + now * self.rate / 1000)
    }

    fn global(&self, at: Instant) -> u64 {
        (at.0.saturating_sub(self.offset).saturating_mul(1000)).div_ceil(self.rate)
    }

    /// Whether its core takes itself for the leader. Clients ask this to find it; checkers never do.
    pub(crate) fn claims_to_lead(&self) -> bool {
        self.raft.as_ref().is_some_and(|raft| raft.status().role == RoleKind::Leader)
    }
}

struct Scheduled<M> {
    at: u64,
    order: u64,
    event: Event<M>,
}

impl<M> PartialEq for Scheduled<M> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl<M> Eq for Scheduled<M> {}
impl<M> PartialOrd for Scheduled<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<M> Ord for Scheduled<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One cluster in its world. See [`run_seed`](crate::run_seed).
pub struct World<'a, M> {
    seed: u64,
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    now: u64,
    order: u64,
    events: BinaryHeap<Reverse<Scheduled<M>>>,
    pub(crate) nodes: Vec<Node<M>>,
    /// `blocked[from][to]`: nothing gets through.
    pub(crate) blocked: Vec<Vec<bool>>,
    /// Faults are over: the liveness phase.
    pub(crate) calm: bool,
    pub(crate) checker: Checker,
    pub(crate) ledger: Ledger,
    pub(crate) coverage: Coverage,
    pub(crate) membership: Membership,
    next_id: u64,
    reads_answered: u64,
    hash: u64,
    timeline: Option<&'a mut dyn FnMut(&str)>,
}

/// More events than this at one moment mean that time stands still.
const EVENTS_AT_ONCE_MAX: u64 = 200_000;

/// After this many requests clients only read: logs stay short enough to be caught up with.
const REQUESTS_MAX: u64 = 2_000;

impl<'a, M: Machine> World<'a, M> {
    /// Draws a plan from `seed` and founds a cluster.
    pub fn new(seed: u64, timeline: Option<&'a mut dyn FnMut(&str)>) -> World<'a, M> {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let membership = Membership::of_voters((1..=plan.voters).map(NodeId));
        let count = plan.voters as usize;
        World {
            seed,
            rng,
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            nodes: membership.members().map(|id| Node::new(id, &membership)).collect(),
            blocked: vec![vec![false; count]; count],
            calm: false,
            checker: Checker::new(membership.clone()),
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            membership,
            next_id: 1,
            reads_answered: 0,
            hash: 0,
            timeline,
            plan,
        }
    }

    /// The virtual time.
    pub fn now_us(&self) -> u64 {
        self.now
    }

    /// A hash over every action so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What has happened so far.
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Runs the phase of faults, then the phase without.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn run(&mut self) -> Result<(), Violation> {
        let plan = format!("seed {}: {:?}", self.seed, self.plan);
        self.say(|| plan);
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        self.at(self.plan.request_every_us, Event::Client);
        if self.plan.fault_every_us > 0 {
            let first = self.rng.around(self.plan.fault_every_us);
            self.at(first, Event::Fault);
        }
        let end = self.plan.chaos_us;
        self.run_until(end, |_| false)?;
        self.calm_down()?;
        self.converge()
    }

    /// Liveness: within 20 election timeouts a leader is there, and a new write and a new read are answered, and every machine has
    /// applied that write.
    fn converge(&mut self) -> Result<(), Violation> {
        let timeout = self.plan.config.election_timeout.as_micros() as u64;
        let deadline = self.now + 20 * timeout;
        let marker = ProposalId(self.next_id);
        let reads = self.reads_answered;
        let done = self.run_until(deadline, |world| {
            let floor = world.ledger.floor();
            world.ledger.acknowledged() >= Some(marker)
                && world.reads_answered > reads
                && world.nodes.iter().all(|node| node.machine.applied.index >= floor)
        })?;
        if done {
            self.coverage.hit("converged");
            return Ok(());
        }
        let states: Vec<String> = self
            .nodes
            .iter()
            .map(|node| match &node.raft {
                Some(raft) => {
                    let mut status = raft.status();
                    status.membership = Membership::default();
                    format!("applied by machine {}: {status:?}", node.machine.applied)
                }
                None => format!("node {} is down", node.id),
            })
            .collect();
        broken(
            "liveness",
            format!(
                "20 election timeouts after the last fault: new write acknowledged {}, new read answered {}, known committed {}; {}",
                self.ledger.acknowledged() >= Some(marker),
                self.reads_answered > reads,
                self.ledger.floor(),
                states.join("; ")
            ),
        )
    }

    fn run_until(
        &mut self,
        deadline: u64,
        done: impl Fn(&World<'a, M>) -> bool,
    ) -> Result<bool, Violation> {
        let mut at_once = 0;
        loop {
            if done(self) {
                return Ok(true);
            }
            match self.events.peek() {
                Some(Reverse(next)) if next.at <= deadline => {}
                _ => {
                    self.now = deadline;
                    return Ok(false);
                }
            }
            let Some(Reverse(next)) = self.events.pop() else { return Ok(false) };
            at_once = if next.at > self.now { 0 } else { at_once + 1 };
            if at_once > EVENTS_AT_ONCE_MAX {
                return broken("time goes on", format!("endless events, such as {:?}", next.order));
            }
            self.now = next.at;
            self.coverage.hit("events");
            self.happen(next.event)?;
        }
    }

    /// Schedules an event `delay` from now.
    pub(crate) fn at(&mut self, delay: u64, event: Event<M>) {
        self.order += 1;
        let at = self.now + delay;
        self.events.push(Reverse(Scheduled { at, order: self.order, event }));
    }

    /// Writes to the timeline, if somebody reads it.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(timeline) = &mut self.timeline {
            timeline(&format!("{:>12} {}", self.now, line()));
        }
    }

    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = mix(self.hash, value);
    }

    fn happen(&mut self, event: Event<M>) -> Result<(), Violation> {
        // The kernel goes on while a process is stopped: its disk works, its timers and sockets wait.
        if let Some(node) = waits_for(&event) {
            let paused_until = self.nodes[node].paused_until;
            if paused_until > self.now {
                self.nodes[node].stash.push(event);
                return Ok(());
            }
        }
        match event {
            Event::Deliver { to, from, message } => self.on_deliver(to, from, message),
            Event::Wake { node, life } => self.on_wake(node, life),
            Event::Poll { node, life } if self.alive(node, life) => self.drain(node),
            Event::Flush { node, life } if self.alive(node, life) => self.on_flush(node),
            Event::Tell { node, life, input } if self.alive(node, life) => self.tell(node, input),
            Event::Work { node, life } if self.alive(node, life) => self.on_work(node),
            Event::Checkpointed { node, life } if self.alive(node, life) => {
                self.on_checkpointed(node)
            }
            Event::Fetch { node, life, fetch } if self.alive(node, life) => {
                self.on_fetch(node, fetch)
            }
            Event::Streamed { from, life, to, snapshot, lost } => {
                self.on_streamed((from, life), to, snapshot, lost)
            }
            Event::Restart { node } if self.nodes[node].raft.is_none() => self.start(node),
            Event::Resume { node } => {
                self.resume(node);
                Ok(())
            }
            Event::Heal => {
                self.heal();
                Ok(())
            }
            Event::Fault if !self.calm => self.on_fault(),
            Event::Client => self.on_client(),
            // Meant for a life that has ended, or for a phase that has.
            _ => Ok(()),
        }
    }

    pub(crate) fn alive(&self, node: usize, life: u64) -> bool {
        self.nodes[node].raft.is_some() && self.nodes[node].life == life
    }

    /// Starts a node from its disk.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), Violation> {
        let (seed, offset) = (self.rng.draw(), self.rng.below(1 << 40));
        let drift = self.plan.drift;
        let rate = 1000 - drift / 2 + self.rng.below(drift + 1);
        let now = self.now;
        let config = Config { id: self.nodes[node].id, ..self.plan.config.clone() };
        let it = &mut self.nodes[node];
        it.life += 1;
        it.rate = rate;
        it.offset = offset;
        it.paused_until = 0;
        it.log = it.disk.clone();
        it.machine = it.checkpoint.as_ref().map(|c| c.progress.clone()).unwrap_or_default();
        let restored = Restored {
            log: it.disk.restored(),
            snapshot: it.checkpoint.as_ref().map(|checkpoint| checkpoint.meta.clone()),
        };
        let line = format!("node {} starts, life {}, from {restored:?}", it.id, it.life);
        match Raft::new(config, seed, it.local(now), restored) {
            Ok(raft) => it.raft = Some(raft),
            Err(error) => return broken("a node can restart", format!("{line}: {error}")),
        }
        self.say(|| line);
        self.drain(node)
    }

    fn on_deliver(&mut self, to: usize, from: NodeId, message: Message) -> Result<(), Violation> {
        if self.nodes[to].raft.is_none() {
            return Ok(());
        }
        self.coverage.hit("messages delivered");
        self.tell(to, Input::Message { from, store: None, message })
    }

    fn on_wake(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if !self.alive(node, life) || self.nodes[node].wake_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        self.nodes[node].wake_at = None;
        self.tell(node, Input::Timeout)
    }

    /// Hands one input to a core, and polls it now or soon.
    pub(crate) fn tell(&mut self, node: usize, input: Input) -> Result<(), Violation> {
        let id = self.nodes[node].id;
        if self.timeline.is_some() {
            let line = format!("node {id} <- {input:?}");
            self.say(|| line);
        }
        let now = self.nodes[node].local(self.now);
        let Some(raft) = &mut self.nodes[node].raft else { return Ok(()) };
        match raft.handle(now, input) {
            Ok(()) => {}
            Err(error @ HandleError::Peer { .. }) => {
                return broken("honest peers", format!("node {id} says: {error}"));
            }
            Err(error @ HandleError::Caller(_)) => {
                return broken("an honest driver", format!("node {id} says: {error}"));
            }
        }
        if self.nodes[node].poll_scheduled {
            return Ok(());
        }
        if self.rng.chance(self.plan.coalesce) {
            self.nodes[node].poll_scheduled = true;
            let delay = self.takes(self.plan.delay_us / 2);
            let life = self.nodes[node].life;
            self.at(delay, Event::Poll { node, life });
            return Ok(());
        }
        self.drain(node)
    }

    /// Polls a core until it has nothing more to say, and does what it says.
    pub(crate) fn drain(&mut self, node: usize) -> Result<(), Violation> {
        self.nodes[node].poll_scheduled = false;
        let mut count = 0;
        while let Some(action) = self.nodes[node].raft.as_mut().and_then(Raft::poll_action) {
            count += 1;
            if count > 100_000 {
                return broken("polling ends", format!("endless actions, such as {action:?}"));
            }
            if self.timeline.is_some() {
                let line = format!("node {} -> {action:?}", self.nodes[node].id);
                self.say(|| line);
            }
            self.perform(node, action)?;
        }
        let it = &self.nodes[node];
        let Some(at) = it.raft.as_ref().and_then(Raft::poll_timeout) else { return Ok(()) };
        let wake_at = it.global(at).max(self.now + 1);
        if it.wake_at.is_none_or(|scheduled| scheduled > wake_at || scheduled <= self.now) {
            let life = it.life;
            self.nodes[node].wake_at = Some(wake_at);
            let late = if self.rng.chance(100) { self.takes(self.plan.delay_us / 2) } else { 0 };
            self.at(wake_at - self.now + late, Event::Wake { node, life });
        }
        Ok(())
    }

    /// How long something takes: `usual` while faults go on, and then so little of an election timeout that what has piled up is
    /// worked off before the liveness phase ends, one message and one entry at a time if the configuration says so.
    pub(crate) fn takes(&mut self, usual: u64) -> u64 {
        let quick = self.plan.config.election_timeout.as_micros() as u64 / 2000;
        let mean = if self.calm { usual.min(quick) } else { usual };
        self.rng.around(mean)
    }

    fn on_client(&mut self) -> Result<(), Violation> {
        let timeout = self.plan.config.election_timeout.as_micros() as u64;
        let pace = if self.calm { timeout / 5 } else { self.plan.request_every_us };
        let delay = self.rng.around(pace);
        self.at(delay, Event::Client);
        let up: Vec<usize> =
            (0..self.nodes.len()).filter(|&n| self.nodes[n].raft.is_some()).collect();
        let leaders: Vec<usize> =
            up.iter().copied().filter(|&n| self.nodes[n].claims_to_lead()).collect();
        let choices = if leaders.is_empty() || self.rng.chance(100) { up } else { leaders };
        if choices.is_empty() {
            return Ok(());
        }
        let node = self.rng.pick(&choices);
        if self.nodes[node].paused_until > self.now {
            return Ok(());
        }
        let reads = if self.calm { 300 } else { self.plan.reads };
        let number = self.next_id;
        let enough = !self.calm && number > REQUESTS_MAX;
        if enough || self.rng.chance(reads) {
            self.next_id += 1;
            self.ledger.read(self.nodes[node].id, ReadId(number));
            return self
                .tell(node, Input::Read { id: ReadId(number), at: raft_core::ReadAt::Leader });
        }
        let count = if self.calm { 1 } else { self.rng.between(1, self.plan.batch_max) };
        self.next_id += count;
        let numbers: Vec<u64> = (number..number + count).collect();
        let commands = numbers.iter().map(|&number| self.command(number)).collect();
        self.ledger.propose(self.nodes[node].id, ProposalId(number), numbers);
        self.tell(node, Input::Propose { id: ProposalId(number), commands })
    }

    /// A command: its number, and padding.
    fn command(&mut self, number: u64) -> Bytes {
        let padding = self.rng.below(self.plan.command_bytes_max) as usize;
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(8 + padding, 0);
        Bytes::from(bytes)
    }

    pub(crate) fn count_read(&mut self) {
        self.reads_answered += 1;
    }

    fn on_fetch(&mut self, node: usize, fetch: FetchRequest) -> Result<(), Violation> {
        let lost = !self.calm && self.rng.chance(self.plan.fetch_loss);
        let found: Option<Entries> = if lost {
            None
        } else {
            self.nodes[node].disk.read(fetch.first, fetch.last, fetch.budget_bytes)
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

    /// The disk finishes some of what waits: one or several writes at a time, as a group commit does.
    fn on_flush(&mut self, node: usize) -> Result<(), Violation> {
        let waiting = self.nodes[node].queue.len() as u64;
        let count = self.rng.between(1, waiting.max(1));
        for _ in 0..count {
            let Some(op) = self.nodes[node].queue.pop_front() else { break };
            if let Some(ticket) = self.carry_out(node, op)? {
                let spread = if self.calm { 0 } else { self.plan.notice_us };
                let delay = self.rng.below(spread + 1);
                let life = self.nodes[node].life;
                self.at(delay, Event::Tell { node, life, input: Input::Persisted(ticket) });
            }
        }
        if !self.nodes[node].queue.is_empty() {
            self.schedule_flush(node);
        }
        Ok(())
    }

    /// Makes one operation durable.
    pub(crate) fn carry_out(
        &mut self,
        node: usize,
        op: DiskOp,
    ) -> Result<Option<Ticket>, Violation> {
        let disk = &mut self.nodes[node].disk;
        let (result, ticket) = match op {
            DiskOp::Write(write) => (disk.write(&write), Some(write.ticket)),
            DiskOp::Compact(through) => (disk.compact(through), None),
        };
        match result {
            Ok(()) => Ok(ticket),
            Err(error) => broken("writes fit the log", format!("disk of node {node}: {error}")),
        }
    }

    pub(crate) fn schedule_flush(&mut self, node: usize) {
        let mut delay = self.takes(self.plan.disk_us);
        if !self.calm && self.rng.chance(self.plan.disk_stall) {
            delay += self.rng.below(self.plan.fault_us);
            self.coverage.hit("disk stalls");
        }
        let life = self.nodes[node].life;
        self.at(delay, Event::Flush { node, life });
    }
}

/// The node whose process must run for this event to happen.
fn waits_for<M>(event: &Event<M>) -> Option<usize> {
    match event {
        Event::Deliver { to, .. } => Some(*to),
        Event::Wake { node, .. }
        | Event::Poll { node, .. }
        | Event::Tell { node, .. }
        | Event::Work { node, .. }
        | Event::Checkpointed { node, .. }
        | Event::Fetch { node, .. } => Some(*node),
        _ => None,
    }
}

/// Nodes are numbered from 1 on.
pub(crate) fn index_of(id: NodeId) -> usize {
    id.0 as usize - 1
}
