//! The world of a traced run: a clock, a network that loses, delays and parts, and disks that a crash catches in the middle of a write.
//! Everything follows from one seed.
//!
//! Each node takes one input at a time, writes to its disk what comes of it, and only then speaks: that is how the schema's `Ready` works.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use raft_core::{
    Action, Config, Index, Input, Instant, Membership, Message, NodeId, Raft, Restored, Term,
};

use super::event::{Line, Name};
use super::node::{Node, Shot};
use super::options::{Options, Run, Tally, TraceError};
use super::trouble::Trouble;
use crate::Rng;

pub(super) enum Happening {
    Deliver { from: NodeId, to: NodeId, number: u64, message: Message },
    Restart(NodeId),
    Heal,
    Propose,
    Change,
}

pub(super) struct World {
    pub(super) options: Options,
    pub(super) rng: Rng,
    now: u64,
    sequence: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) lines: Vec<Line>,
    pub(super) tally: Tally,
    /// Nodes that nobody reaches.
    pub(super) parted: BTreeSet<NodeId>,
    /// What was sent on each link, and the latest of it that arrived.
    links: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    /// Acknowledgements that the schema's nodes have sent: from whom to whom, in which term, up to where.
    replies: BTreeMap<(NodeId, NodeId, Term, Index), u32>,
    pub(super) troubles: VecDeque<Trouble>,
    pub(super) trouble_at: usize,
    /// Who is to crash as soon as it has something to write.
    pub(super) doomed: Option<NodeId>,
    pub(super) next_id: u64,
    pub(super) requests: u64,
}

/// Runs one seed until the trace has as many lines as asked for.
///
/// # Errors
/// [`TraceError`]: only wrong options, or a bug in the core or here, make one.
pub fn run(options: &Options) -> Result<Run, TraceError> {
    let Options { nodes, events, .. } = *options;
    if !(1..=9).contains(&nodes) || !(1..=1_000_000).contains(&events) {
        return Err(TraceError::Options { nodes, events });
    }
    let mut world = World::new(*options);
    world.found()?;
    let steps_max = events.saturating_mul(100) + 100_000;
    for _ in 0..steps_max {
        if world.lines.len() >= events {
            world.lines.truncate(events);
            return Ok(Run { lines: world.lines, tally: world.tally });
        }
        world.step()?;
    }
    Err(TraceError::Stuck { lines: world.lines.len() })
}

impl World {
    fn new(options: Options) -> World {
        let mut rng = Rng::new(options.seed);
        let trouble_at = options.events.min(1000) / 8 + rng.below(40) as usize;
        World {
            options,
            rng,
            now: 0,
            sequence: 0,
            agenda: BTreeMap::new(),
            nodes: BTreeMap::new(),
            lines: Vec::new(),
            tally: Tally::default(),
            parted: BTreeSet::new(),
            links: BTreeMap::new(),
            replies: BTreeMap::new(),
            troubles: VecDeque::from([Trouble::CrashLeader, Trouble::PartLeader]),
            trouble_at,
            doomed: None,
            next_id: options.nodes + 1,
            requests: 0,
        }
    }

    fn found(&mut self) -> Result<(), TraceError> {
        let membership = Membership::of_voters((1..=self.options.nodes).map(NodeId));
        for id in membership.voters.clone() {
            self.nodes.insert(id, Node::new(id, Node::founding_disk(&membership)));
            self.start(id)?;
        }
        for id in membership.voters.clone() {
            self.settle(id)?;
        }
        self.at(10_000, Happening::Propose);
        if self.options.membership {
            self.at(300_000, Happening::Change);
        }
        Ok(())
    }

    pub(super) fn at(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), happening);
    }

    pub(super) fn push(&mut self, line: Line) {
        self.lines.push(line);
    }

    pub(super) fn node(&mut self, id: NodeId) -> Result<&mut Node, TraceError> {
        let unknown = TraceError::Inexpressible { node: id, what: "a node that nobody started" };
        self.nodes.get_mut(&id).ok_or(unknown)
    }

    pub(super) fn shot(&self, id: NodeId) -> Option<Shot> {
        self.nodes.get(&id)?.shot()
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.parted.contains(&from) || self.parted.contains(&to)
    }

    /// One thing happens: the next on the agenda, or a node's timer.
    fn step(&mut self) -> Result<(), TraceError> {
        self.make_trouble()?;
        let timers = self
            .nodes
            .values()
            .filter_map(|node| Some((node.raft.as_ref()?.poll_timeout()?.0, node.id)));
        let timer = timers.min();
        let planned = self.agenda.first_key_value().map(|(key, _)| *key);
        match (timer, planned) {
            (Some((at, id)), planned) if planned.is_none_or(|(then, _)| at <= then) => {
                self.now = self.now.max(at);
                self.fire_timer_if_due(id)
            }
            (_, Some(key)) => {
                self.now = self.now.max(key.0);
                match self.agenda.remove(&key) {
                    Some(happening) => self.happen(happening),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), TraceError> {
        match happening {
            Happening::Deliver { from, to, number, message } => {
                self.deliver((from, to), number, message)
            }
            Happening::Restart(id) => {
                self.start(id)?;
                self.tally.restarts += 1;
                self.settle(id)
            }
            Happening::Heal => {
                self.parted.clear();
                Ok(())
            }
            Happening::Propose => {
                let pause = self.rng.between(15_000, 90_000);
                self.at(pause, Happening::Propose);
                self.propose()
            }
            Happening::Change => {
                let pause = self.rng.between(100_000, 400_000);
                self.at(pause, Happening::Change);
                self.change()
            }
        }
    }

    /// Builds a node's core from its disk, and writes what that holds.
    pub(super) fn start(&mut self, id: NodeId) -> Result<(), TraceError> {
        let (seed, now) = (self.rng.draw(), Instant(self.now));
        let node = self.node(id)?;
        node.lose_memory();
        node.lives += 1;
        let config = Config {
            election_timeout: Duration::from_millis(300),
            heartbeat_interval: Duration::from_millis(100),
            append_bytes_max: 400,
            ..Config::new(id)
        };
        let restored = Restored { log: node.disk.restored(), snapshot: None };
        let raft = Raft::new(config, seed, now, restored)
            .map_err(|source| TraceError::Restore { node: id, source })?;
        node.raft = Some(raft);
        node.durable = node.shot();
        if let Some(shot) = node.shot() {
            self.push(shot.line(Name::InitState, None, None));
        }
        Ok(())
    }

    pub(super) fn fire_timer_if_due(&mut self, id: NodeId) -> Result<(), TraceError> {
        let now = Instant(self.now);
        let due = self.nodes.get(&id).and_then(|node| node.raft.as_ref()?.poll_timeout());
        if due.is_none_or(|due| due > now) {
            return Ok(());
        }
        self.tell(id, Input::Timeout)?;
        self.settle(id)
    }

    pub(super) fn feed(&mut self, id: NodeId, input: Input) -> Result<(), TraceError> {
        let now = Instant(self.now);
        let Some(raft) = self.node(id)?.raft.as_mut() else { return Ok(()) };
        raft.handle(now, input).map_err(|source| TraceError::Core { node: id, source })
    }

    /// Feeds an input that no message's line tells of.
    fn tell(&mut self, id: NodeId, input: Input) -> Result<(), TraceError> {
        let Some(pre) = self.shot(id) else { return Ok(()) };
        self.feed(id, input)?;
        self.note_roles(&pre, false)
    }

    /// Does everything that a node wants done, until it wants no more: what it decides, then its disk, then the network.
    pub(super) fn settle(&mut self, id: NodeId) -> Result<(), TraceError> {
        loop {
            self.drain(id)?;
            // A lost write that overwrites entries can not be told: the schema's node has forgotten them by then.
            let persists = &self.node(id)?.persists;
            let overwrites = persists.iter().any(|persist| persist.truncate_from.is_some());
            if self.doomed == Some(id) && !self.node(id)?.persists.is_empty() && !overwrites {
                self.tally.lost_writes += 1;
                self.crash(id)?;
                return Ok(());
            }
            let Some(shot) = self.shot(id) else { return Ok(()) };
            let node = self.node(id)?;
            let changed = node.durable.as_ref().is_none_or(|durable| {
                (durable.term, durable.vote, durable.commit, durable.last, &durable.voters)
                    != (shot.term, shot.vote, shot.commit, shot.last, &shot.voters)
            });
            let is_ready = node.is_dirty || changed || !node.persists.is_empty();
            let persists = node.write_all().map_err(|what| TraceError::Disk { node: id, what })?;
            if is_ready {
                node.is_dirty = false;
                node.durable = Some(shot.clone());
                let replies = std::mem::take(&mut node.replies);
                self.push(shot.line(Name::Ready, None, None));
                for (to, term, matched) in replies {
                    *self.replies.entry((id, to, term, matched)).or_default() += 1;
                }
            }
            for (to, message) in std::mem::take(&mut self.node(id)?.outgoing) {
                self.transmit(id, to, message);
            }
            self.hear_itself(id)?;
            if persists.is_empty() {
                return Ok(());
            }
            for persist in persists {
                self.tell(id, Input::Persisted(persist.ticket))?;
            }
        }
    }

    /// Polls a node until it has nothing more to say; notes what it decided by that.
    fn drain(&mut self, id: NodeId) -> Result<(), TraceError> {
        loop {
            let Some(pre) = self.shot(id) else { return Ok(()) };
            let node = self.node(id)?;
            let mut answers = Vec::new();
            let mut sends = Vec::new();
            while let Some(action) = node.raft.as_mut().and_then(Raft::poll_action) {
                match action {
                    Action::Persist(persist) => {
                        let written = node.log.write(&persist);
                        written.map_err(|what| TraceError::Disk { node: id, what })?;
                        node.persists.push(persist);
                    }
                    Action::Send { to, message } => sends.push((to, message)),
                    Action::Fetch { peer, first, last, budget_bytes } => {
                        answers.push(match node.disk.read(first, last, budget_bytes) {
                            Some(entries) => Input::Fetched { peer, entries },
                            None => Input::FetchFailed { peer },
                        });
                    }
                    Action::Apply(apply) => answers.push(Input::Applied(apply.last)),
                    Action::Resolve(_) | Action::Event(_) => {}
                    _ => {
                        return Err(TraceError::Inexpressible { node: id, what: "a snapshot" });
                    }
                }
            }
            self.note_decisions(&pre, sends)?;
            if answers.is_empty() {
                return Ok(());
            }
            for input in answers {
                self.tell(id, input)?;
            }
        }
    }

    pub(super) fn has_reply(&self, (from, to): (NodeId, NodeId), term: Term, at: Index) -> bool {
        self.replies.contains_key(&(from, to, term, at))
    }

    /// Whether the schema's leader still has this acknowledgement to hear; takes it if so.
    pub(super) fn take_reply(
        &mut self,
        (from, to): (NodeId, NodeId),
        term: Term,
        matched: Index,
    ) -> bool {
        let key = (from, to, term, matched);
        let Some(count) = self.replies.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.replies.remove(&key);
        }
        true
    }

    fn transmit(&mut self, from: NodeId, to: NodeId, message: Message) {
        let link = self.links.entry((from, to)).or_default();
        link.0 += 1;
        let number = link.0;
        if self.is_cut(from, to) || self.rng.chance(40) {
            self.tally.lost += 1;
            return;
        }
        let straggles = self.rng.chance(60);
        let delay = self.rng.between(500, 15_000)
            + if straggles { self.rng.between(10_000, 150_000) } else { 0 };
        self.at(delay, Happening::Deliver { from, to, number, message });
    }

    pub(super) fn send_later(
        &mut self,
        (from, to): (NodeId, NodeId),
        number: u64,
        message: Message,
    ) {
        self.at(20_000, Happening::Deliver { from, to, number, message });
    }

    pub(super) fn note_order(&mut self, link: (NodeId, NodeId), number: u64) {
        let (_, latest) = self.links.entry(link).or_default();
        if number < *latest {
            self.tally.reordered += 1;
        }
        *latest = number.max(*latest);
    }
}
