//! A script's world: the nodes, and the network between them. It drives each core as its contract says (handle, then drain), does the work that actions
//! ask for unless the script holds it, and prints everything that happens, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Display, Write as _};
use std::time::Duration;

use raft_core::{
    Action, Apply, Config, Entry, Index, Input, LogPosition, Membership, Message, NodeId, Raft,
    Refusal, Resolution, RoleKind, SnapshotMeta, StoreStamp, Term,
};

use super::life::Life;
use super::node::{Disk, Fetch, Node, Work};
use super::parse::{Result, input_name};
use super::print;

/// Something on the network.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) load: Load,
}

#[derive(Clone, Debug)]
pub(crate) enum Load {
    /// A message, and the store that its sender runs on.
    Message(Message, Option<StoreStamp>),
    /// The whole of a snapshot that is streamed.
    Snapshot(Term, SnapshotMeta),
}

impl Packet {
    /// The name by which scripts pick it.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.load {
            Load::Message(message, _) => print::body_name(&message.body),
            Load::Snapshot(..) => "Snapshot",
        }
    }
}

impl Display for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&match &self.load {
            Load::Message(message, _) => print::sent(self.from, self.to, message),
            Load::Snapshot(term, meta) => print::streamed(self.from, self.to, term.0, meta),
        })
    }
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) founding: Membership,
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) network: VecDeque<Packet>,
    /// Whether messages wait until the script delivers them.
    pub(crate) holds_network: bool,
    /// Links, in one direction each, that lose everything.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    pub(crate) out: String,
    /// Whether stores are told apart.
    pub(crate) has_stores: bool,
    /// What snapshots hold, by their position.
    snapshots: BTreeMap<(Index, Term), Vec<Entry>>,
    /// What was applied anywhere: state machine safety (paper figure 3) is checked in every script.
    applied: BTreeMap<Index, Entry>,
    /// Who led which term: election safety too.
    leaders: BTreeMap<Term, u64>,
    violation: Option<String>,
    last_id: u64,
}

/// A store's first stamp: 100 for node 1, 101 if it was wiped once it had started, and so on.
fn new_store(id: u64, starts: u64) -> StoreStamp {
    StoreStamp { id: raft_core::StoreId(100 * id + starts), life: 0, nonce: 0 }
}

/// Why something was refused, if it was.
fn refusal(answer: Resolution) -> Option<Refusal> {
    match answer {
        Resolution::Refused { reason, .. }
        | Resolution::ReadRefused { reason, .. }
        | Resolution::RequestRefused { reason, .. } => Some(reason),
        Resolution::Appended { .. }
        | Resolution::Abandoned { .. }
        | Resolution::ReadReady { .. }
        | Resolution::RequestDone { .. }
        | Resolution::RequestAbandoned { .. } => None,
    }
}

/// More deliveries or deadlines than any script needs: whoever reaches it goes in circles.
const STEPS_MAX: usize = 20_000;

impl World {
    pub(crate) fn line(&mut self, text: impl Display) {
        let _ = writeln!(self.out, "{text}");
    }

    pub(crate) fn node(&mut self, id: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(|| format!("there is no node {id}").into())
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adds a node, not yet started, whose disk holds this configuration and nothing else.
    pub(crate) fn add(&mut self, config: Config, membership: Membership) {
        let id = config.id.0;
        let mut disk = Disk::founding(membership);
        disk.store = self.has_stores.then(|| new_store(id, 0));
        self.nodes.insert(id, Node::new(config, disk));
    }

    /// Gives a node's store an identity, from its next start on.
    pub(crate) fn stamp(&mut self, id: u64) -> Result<()> {
        let node = self.node(id)?;
        node.disk.store.get_or_insert(new_store(id, 0));
        Ok(())
    }

    /// Loses a node's disk: what it starts on next is another store.
    pub(crate) fn wipe(&mut self, id: u64) -> Result<()> {
        let (founding, has_stores) = (self.founding.clone(), self.has_stores);
        let node = self.node(id)?;
        node.crash();
        node.disk = Disk::founding(founding);
        node.disk.store = has_stores.then(|| new_store(id, node.starts));
        Ok(())
    }

    /// Starts a node from its disk. The seed is fixed by its id and the number of its starts, so every run of a script is the same.
    pub(crate) fn start(&mut self, id: u64) -> Result<()> {
        let node = self.node(id)?;
        let restored = node.disk.restored();
        if let Some(stamp) = &mut node.disk.store {
            stamp.life += 1;
            stamp.nonce = node.starts;
        }
        node.config.store = node.disk.store;
        let seed = id + 1000 * node.starts;
        node.starts += 1;
        let life = Life::new(&node.config, seed, node.clock, &restored);
        let raft = Raft::new(node.config.clone(), seed, node.clock, restored)?;
        node.raft = Some(raft);
        node.lives.push(life);
        let snapshot = node.disk.snapshot.clone();
        let content = snapshot.and_then(|meta| {
            self.snapshots.get(&(meta.position.index, meta.position.term)).cloned()
        });
        self.node(id)?.machine = content.unwrap_or_default();
        self.drain(id);
        Ok(())
    }

    /// Gives a node one input, and does what comes of it at that node.
    pub(crate) fn handle(&mut self, id: u64, input: Input) {
        self.handle_only(id, input);
        self.drain(id);
    }

    fn handle_only(&mut self, id: u64, input: Input) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let name = input_name(&input);
        let (Some(raft), Some(life)) = (&mut node.raft, node.lives.last_mut()) else {
            self.line(format_args!("{id} is down"));
            return;
        };
        if let Err(error) = life.handle(raft, node.clock, input) {
            self.line(format_args!("{id} refuses {name}: {}", print::error(&error)));
        }
    }

    fn drain(&mut self, id: u64) {
        while let Some(node) = self.nodes.get_mut(&id) {
            let (Some(raft), Some(life)) = (&mut node.raft, node.lives.last_mut()) else { break };
            let actions = life.drain(raft);
            let (role, term) = (raft.role_kind(), raft.status().term);
            if role == RoleKind::Leader && *self.leaders.entry(term).or_insert(id) != id {
                self.violation = Some(format!("election safety: term {term} has two leaders"));
            }
            let is_idle = actions.is_empty();
            for action in actions {
                self.take(id, action);
            }
            if !self.work(id) && is_idle {
                break;
            }
        }
    }

    /// Prints an action and notes the work that it asks for.
    fn take(&mut self, id: u64, action: Action) {
        let text = print::action(id, &action);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match action {
            Action::Persist(write) => node.writes.push((write, false)),
            Action::Fetch { peer, first, last, budget_bytes } => {
                node.fetches.push_back(Fetch { peer, first, last, budget_bytes });
            }
            Action::Apply(apply) => node.applies.push_back(apply),
            Action::Compact { through } => node.disk.compact(through),
            Action::InstallSnapshot(meta) => node.installs.push_back(meta),
            Action::Send { to, message } => {
                let load = Load::Message(message, node.config.store);
                return self.post(Packet { from: id, to: to.0, load });
            }
            Action::StreamSnapshot { to, term, snapshot } => {
                let load = Load::Snapshot(term, snapshot);
                return self.post(Packet { from: id, to: to.0, load });
            }
            Action::Resolve(answer) => node.refusal = refusal(answer).or(node.refusal),
            Action::ReceiveSnapshot { .. } | Action::Event(_) => {}
        }
        self.line(text);
    }

    /// Puts a packet on the network. To a member that the script plays itself (`only=…`), it is just shown.
    fn post(&mut self, packet: Packet) {
        if self.is_lost(&packet) {
            return self.lose(&packet);
        }
        self.line(&packet);
        if self.nodes.contains_key(&packet.to) {
            self.network.push_back(packet);
        } else {
            self.end_stream(&packet);
        }
    }

    /// Tells the sender, if it was a snapshot, that the stream is over.
    fn end_stream(&mut self, packet: &Packet) {
        if let Load::Snapshot(_, meta) = &packet.load {
            let (to, position) = (NodeId(packet.to), meta.position);
            self.handle_only(packet.from, Input::SnapshotStreamEnded { to, position });
        }
    }

    fn is_lost(&self, packet: &Packet) -> bool {
        self.cut.contains(&(packet.from, packet.to))
            || self.nodes.get(&packet.to).is_some_and(|node| node.raft.is_none())
    }

    pub(crate) fn lose(&mut self, packet: &Packet) {
        self.line(format_args!("{packet} (lost)"));
        self.end_stream(packet);
    }

    /// Does what a driver would do at once, unless it is held. Whether there was anything.
    fn work(&mut self, id: u64) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let may = |work: Work| !node.held.contains(&work);
        if may(Work::Writes) && !node.writes.is_empty() {
            let tickets: Vec<u64> = node.writes.iter().map(|(write, _)| write.ticket.0).collect();
            for ticket in tickets {
                self.complete_write(id, ticket);
            }
        } else if may(Work::Fetches) && !node.fetches.is_empty() {
            self.answer_fetch(id, false);
        } else if may(Work::Installs) && !node.installs.is_empty() {
            self.finish_install(id, false);
        } else if may(Work::Applies) && !node.applies.is_empty() {
            self.finish_apply(id);
        } else {
            return false;
        }
        true
    }

    /// Reports a write as durable. The disk carries writes out in order, so those before it are on it too, reported or not.
    pub(crate) fn complete_write(&mut self, id: u64, ticket: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        for (write, is_written) in &mut node.writes {
            if write.ticket.0 <= ticket && !*is_written {
                node.disk.write(write);
                *is_written = true;
            }
        }
        node.writes.retain(|(write, _)| write.ticket.0 != ticket);
        self.handle_only(id, Input::Persisted(raft_core::Ticket(ticket)));
    }

    pub(crate) fn answer_fetch(&mut self, id: u64, fails: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(Fetch { peer, first, last, budget_bytes }) = node.fetches.pop_front() else {
            return;
        };
        let entries = node.disk.read(first, last, budget_bytes);
        let is_there = entries.first().is_some_and(|entry| entry.index == first);
        let input = if fails || !is_there {
            Input::FetchFailed { peer }
        } else {
            Input::Fetched { peer, entries }
        };
        self.handle_only(id, input);
    }

    pub(crate) fn finish_apply(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(Apply { first, last, entries }) = node.applies.pop_front() else { return };
        let front_end = entries.first().map_or(last, |entry| entry.index.prev());
        let front = node.disk.read(first, front_end, usize::MAX);
        let all: Vec<Entry> = front.iter().chain(entries.iter()).cloned().collect();
        let starts = all.first().map(|entry| entry.index);
        assert!(
            starts == Some(first) && all.last().map(|entry| entry.index) == Some(last),
            "what is to be applied is neither in memory nor on the disk"
        );
        for entry in &all {
            if self.applied.entry(entry.index).or_insert_with(|| entry.clone()) != entry {
                self.violation = Some(format!(
                    "state machine safety: node {id} applies {}",
                    print::entry(entry)
                ));
            }
        }
        node.machine.extend(all);
        self.handle_only(id, Input::Applied(last));
    }

    pub(crate) fn finish_install(&mut self, id: u64, fails: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(meta) = node.installs.pop_front() else { return };
        if fails {
            return self.handle_only(id, Input::SnapshotInstallFailed(meta));
        }
        let LogPosition { index, term } = meta.position;
        node.machine = self.snapshots.get(&(index, term)).cloned().unwrap_or_default();
        node.disk.snapshot = Some(meta.clone());
        self.handle_only(id, Input::SnapshotInstalled(meta));
    }

    /// The state machine takes a durable snapshot of what it has applied, or had applied at `index`.
    pub(crate) fn take_snapshot(&mut self, id: u64, index: Option<u64>) -> Result<()> {
        let node = self.node(id)?;
        let applied = node.raft.as_ref().ok_or("it is down")?.status().applied;
        let index = index.map_or(applied, Index);
        let position = node.disk.position_at(index).ok_or("it has no such entry")?;
        let meta = SnapshotMeta { position, membership: node.disk.membership_at(index).into() };
        let content = node.machine.iter().filter(|entry| entry.index <= index).cloned().collect();
        node.disk.snapshot = Some(meta.clone());
        self.snapshots.insert((position.index, position.term), content);
        self.handle(id, Input::SnapshotTaken(meta));
        Ok(())
    }

    pub(crate) fn deliver(&mut self, packet: Packet) {
        if self.is_lost(&packet) {
            return self.lose(&packet);
        }
        let Packet { from, to, load } = packet;
        match load {
            Load::Message(message, store) => {
                self.handle(to, Input::Message { from: NodeId(from), store, message });
            }
            Load::Snapshot(_, meta) => {
                let position = meta.position;
                self.handle(to, Input::SnapshotReceived(meta));
                self.handle(from, Input::SnapshotStreamEnded { to: NodeId(to), position });
            }
        }
    }

    /// Delivers, in order, until nobody has anything more to say.
    pub(crate) fn settle(&mut self) -> Result<()> {
        for _ in 0..STEPS_MAX {
            let Some(packet) = self.network.pop_front() else { return Ok(()) };
            self.deliver(packet);
        }
        Err("the nodes never fall silent".into())
    }

    /// What follows every command: deliveries, unless the network is held, and the safety checks.
    pub(crate) fn follow_up(&mut self) -> Result<String> {
        if !self.holds_network {
            self.settle()?;
        }
        match &self.violation {
            Some(violation) => Err(format!("{violation}\n{}", self.out).into()),
            None => Ok(std::mem::take(&mut self.out)),
        }
    }

    /// Lets time pass at these nodes, telling each when its deadlines come.
    pub(crate) fn tick(&mut self, millis: u64, ids: &[u64]) -> Result<()> {
        let mut left = Duration::from_millis(millis);
        for _ in 0..STEPS_MAX {
            let due = ids
                .iter()
                .filter_map(|id| Some((self.until_deadline(*id)?, *id)))
                .min()
                .filter(|(wait, _)| *wait <= left);
            let wait = due.map_or(left, |(wait, _)| wait);
            for id in ids {
                let node = self.node(*id)?;
                node.clock = node.clock + wait;
            }
            left -= wait;
            let Some((_, id)) = due else { return Ok(()) };
            self.handle(id, Input::Timeout);
            if !self.holds_network {
                self.settle()?;
            }
        }
        Err("time does not pass: a deadline never moves".into())
    }

    /// How long until a node's next deadline; `None` if it is down or waits for nothing.
    pub(crate) fn until_deadline(&self, id: u64) -> Option<Duration> {
        let node = self.nodes.get(&id)?;
        Some(node.raft.as_ref()?.poll_timeout()?.since(node.clock))
    }

    /// Lets time pass at one node until its next deadline.
    pub(crate) fn run_out(&mut self, id: u64) -> Result<()> {
        let wait = self.until_deadline(id).ok_or_else(|| format!("{id} waits for no deadline"))?;
        let node = self.node(id)?;
        node.clock = node.clock + wait;
        self.handle(id, Input::Timeout);
        Ok(())
    }

    /// Elects a node: the other voters have heard from no leader for an election timeout, and then its patience ends first.
    pub(crate) fn elect(&mut self, id: u64) -> Result<()> {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            let Some(deadline) = self.until_deadline(other) else { continue };
            let node = self.node(other)?;
            if node.raft.as_ref().is_some_and(|raft| raft.role_kind() != RoleKind::Leader) {
                let wait = node.config.election_timeout;
                node.clock =
                    node.clock + wait.min(deadline.saturating_sub(Duration::from_micros(1)));
            }
        }
        self.run_out(id)?;
        self.settle()?;
        let raft = self.node(id)?.raft.as_ref().ok_or("it is down")?;
        if raft.role_kind() != RoleKind::Leader {
            return Err(format!("{id} was not elected\n{}", self.out).into());
        }
        Ok(())
    }

    pub(crate) fn show_log(&mut self, id: u64, in_full: bool) -> Result<()> {
        let node = self.node(id)?;
        let durable = node.raft.as_ref().map(|raft| raft.status().durable);
        let disk = node.disk_to_be();
        let durable = durable.unwrap_or(disk.last()).0;
        let text = if in_full {
            let all: Vec<String> = disk.entries.iter().map(print::entry).collect();
            format!("base={} [{}] durable={durable}", disk.base, all.join(" "))
        } else {
            print::terms(disk.base, &disk.entries, durable)
        };
        self.line(format_args!("{id}: {text}"));
        Ok(())
    }
}
