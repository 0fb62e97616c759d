//! A small world for tests by hand: cores, obedient disks, and a network whose messages a test may look at, drop and reorder.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod checker;
pub mod maker;
pub mod one;
mod recorded;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::ProptestConfig;
use raft_core::{
    Action, Apply, Body, Config, Entries, Entry, Event, HardState, Index, Input, Instant,
    LogPosition, Membership, MembershipChange, Message, NodeId, Payload, Persist, ProposalId,
    ReadAt, ReadId, RequestId, Resolution, Restored, RestoredLog, SnapshotMeta, StoreId,
    StoreStamp, Term,
};

pub use recorded::Recorded;

/// A disk that holds what was persisted.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub base: LogPosition,
    pub base_membership: Membership,
    pub entries: Vec<Entry>,
    /// The state machine's durable snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// Which store it is, and how often it was opened; told to others if the cluster tells stores apart.
    pub store: u64,
    pub lives: u64,
}

/// The same cases in every run, unless `PROPTEST_RNG_SEED` says otherwise.
pub fn cases(count: u32) -> ProptestConfig {
    let rng_seed = match ProptestConfig::default().rng_seed {
        proptest::test_runner::RngSeed::Random => proptest::test_runner::RngSeed::Fixed(2014),
        fixed @ proptest::test_runner::RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig { rng_seed, failure_persistence: None, ..ProptestConfig::with_cases(count) }
}

impl Disk {
    pub fn write(&mut self, persist: &Persist) {
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(reset) = &persist.reset {
            self.entries.clear();
            self.base = reset.position;
            self.base_membership = (*reset.membership).clone();
        }
        if let Some(from) = persist.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        for entry in persist.entries.iter() {
            assert_eq!(entry.index, self.last().next(), "a write leaves a gap");
            self.entries.push(entry.clone());
        }
    }

    pub fn last(&self) -> Index {
        self.entries.last().map_or(self.base.index, |entry| entry.index)
    }

    pub fn restored(&self) -> Restored {
        let (base, membership) = (self.base, self.base_membership.clone());
        let log = RestoredLog::describe(self.hard_state, base, membership, &self.entries);
        Restored { log, snapshot: self.snapshot.clone() }
    }

    /// The configuration as of an index.
    pub fn membership_at(&self, index: Index) -> &Membership {
        let before = self.entries.iter().rev().filter(|entry| entry.index <= index);
        let mut memberships = before.filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(&**membership),
            _ => None,
        });
        memberships.next().unwrap_or(&self.base_membership)
    }

    pub fn read(&self, first: Index, last: Index) -> Entries {
        let wanted =
            self.entries.iter().filter(|entry| entry.index >= first && entry.index <= last);
        Entries::try_from_vec(wanted.cloned().collect()).expect("a disk holds a run")
    }
}

pub struct Host {
    pub raft: Recorded,
    pub disk: Disk,
    /// Writes that were handed out and not carried out; used while `holds_writes`.
    pub pending_writes: VecDeque<Persist>,
    pub holds_writes: bool,
    pub is_up: bool,
    pub applied: Vec<Entry>,
    pub resolutions: Vec<Resolution>,
    pub events: Vec<Event>,
}

pub struct Cluster {
    pub now: Instant,
    pub hosts: BTreeMap<u64, Host>,
    pub network: VecDeque<(NodeId, NodeId, Message)>,
    pub cut: Vec<(u64, u64)>,
    pub configure: fn(&mut Config),
    /// Whether members say which store they run on.
    pub has_stores: bool,
    next_id: u64,
}

pub fn commands(texts: &[&str]) -> Vec<Bytes> {
    texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()
}

impl Cluster {
    pub fn new(size: u64) -> Cluster {
        Cluster::configured(size, |_| ())
    }

    pub fn configured(size: u64, configure: fn(&mut Config)) -> Cluster {
        let membership = Membership::of_voters((1..=size).map(NodeId));
        let mut cluster = Cluster {
            now: Instant(0),
            hosts: BTreeMap::new(),
            network: VecDeque::new(),
            cut: Vec::new(),
            configure,
            has_stores: false,
            next_id: 0,
        };
        for id in 1..=size {
            let disk = Disk { base_membership: membership.clone(), ..Disk::default() };
            cluster.start(id, disk);
        }
        cluster
    }

    pub fn start(&mut self, id: u64, mut disk: Disk) {
        let mut config = Config::new(NodeId(id));
        (self.configure)(&mut config);
        let seed = id + 1_000 * disk.lives;
        disk.lives += 1;
        if self.has_stores {
            config.store =
                Some(StoreStamp { id: StoreId(disk.store), life: disk.lives, nonce: disk.lives });
        }
        let raft = Recorded::new(config, seed, self.now, disk.restored());
        let applied = Vec::new();
        let host = Host {
            raft,
            disk,
            pending_writes: VecDeque::new(),
            holds_writes: false,
            is_up: true,
            applied,
            resolutions: Vec::new(),
            events: Vec::new(),
        };
        self.hosts.insert(id, host);
        self.drain(id);
    }

    /// Loses everything that was not written, and starts again.
    pub fn restart(&mut self, id: u64) {
        let disk = self.host(id).disk.clone();
        // What an earlier life said would carry its stamp: there is none on this network, so that it is lost if stamps matter.
        let has_stores = self.has_stores;
        self.network.retain(|(from, to, _)| to.0 != id && (from.0 != id || !has_stores));
        self.start(id, disk);
    }

    pub fn host(&mut self, id: u64) -> &mut Host {
        self.hosts.get_mut(&id).expect("a host")
    }

    pub fn handle(&mut self, id: u64, input: Input) {
        let now = self.now;
        self.host(id).raft.handle(now, input).expect("honest inputs are taken");
        self.drain(id);
    }

    pub fn drain(&mut self, id: u64) {
        let now = self.now;
        while let Some(action) = self.host(id).raft.poll_action() {
            let host = self.hosts.get_mut(&id).expect("a host");
            match action {
                Action::Persist(persist) => {
                    host.pending_writes.push_back(persist);
                    if !host.holds_writes {
                        self.write_all(id);
                    }
                }
                Action::Send { to, message } => self.network.push_back((NodeId(id), to, message)),
                Action::Fetch { peer, first, last, .. } => {
                    let entries = host.disk.read(first, last);
                    let input = if entries.is_empty() {
                        Input::FetchFailed { peer }
                    } else {
                        Input::Fetched { peer, entries }
                    };
                    host.raft.handle(now, input).expect("a fetch is answered");
                }
                Action::Apply(Apply { first, last, entries }) => {
                    let front_end = entries.first().map_or(last, |entry| entry.index.prev());
                    let front = host.disk.read(first, front_end);
                    host.applied.extend(front.iter().chain(entries.iter()).cloned());
                    host.raft.handle(now, Input::Applied(last)).expect("applied");
                }
                Action::Compact { through } => {
                    let membership = host.disk.membership_at(through.index).clone();
                    host.disk.entries.retain(|entry| entry.index > through.index);
                    host.disk.base = through;
                    host.disk.base_membership = membership;
                }
                Action::StreamSnapshot { to, snapshot, .. } => {
                    // Streams at once and whole, if both ends are up.
                    let position = snapshot.position;
                    if self.hosts[&to.0].is_up && !self.cut.contains(&(id, to.0)) {
                        let receiver = self.hosts.get_mut(&to.0).expect("a host");
                        let _ = receiver.raft.handle(now, Input::SnapshotReceived(snapshot));
                        self.drain(to.0);
                    }
                    self.handle(id, Input::SnapshotStreamEnded { to, position });
                }
                Action::ReceiveSnapshot { .. } => {}
                Action::InstallSnapshot(meta) => {
                    host.disk.snapshot = Some(meta.clone());
                    host.applied.clear();
                    host.raft.handle(now, Input::SnapshotInstalled(meta)).expect("installed");
                }
                Action::Resolve(resolution) => host.resolutions.push(resolution),
                Action::Event(event) => host.events.push(event),
            }
        }
    }

    /// Carries out the writes that a host holds.
    pub fn write_all(&mut self, id: u64) {
        let now = self.now;
        while let Some(persist) = self.host(id).pending_writes.pop_front() {
            let host = self.host(id);
            host.disk.write(&persist);
            host.raft.handle(now, Input::Persisted(persist.ticket)).expect("a known ticket");
        }
        self.drain(id);
    }

    pub fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.hosts[&to.0].is_up && !self.cut.contains(&(from.0, to.0)) {
            let store = self.hosts[&from.0].raft.config().store;
            self.handle(to.0, Input::Message { from, store, message });
        }
    }

    /// Delivers until nobody has anything to say.
    pub fn settle(&mut self) {
        let mut budget = 100_000;
        while let Some((from, to, message)) = self.network.pop_front() {
            self.deliver(from, to, message);
            budget -= 1;
            assert!(budget > 0, "the cluster never falls silent: {:?}", self.network);
        }
    }

    /// Lets time pass in steps of 10 ms, delivering everything in between.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + Duration::from_millis(10);
            for id in self.ids() {
                if self.hosts[&id].is_up {
                    self.handle(id, Input::Timeout);
                }
            }
            self.settle();
        }
    }

    pub fn ids(&self) -> Vec<u64> {
        self.hosts.keys().copied().collect()
    }

    /// Makes this host campaign now: everybody else's patience outlasts its own.
    pub fn elect(&mut self, id: u64) {
        let deadline = self.host(id).raft.poll_timeout().expect("a voter waits");
        let host = self.host(id);
        host.raft.handle(deadline, Input::Timeout).expect("time passes");
        self.now = self.now.max(deadline);
        self.drain(id);
        self.settle();
        assert_eq!(self.leader(), Some(id), "node {id} was to be elected");
    }

    pub fn leader(&self) -> Option<u64> {
        self.hosts
            .iter()
            .filter(|(_, host)| {
                host.is_up && host.raft.status().leader == Some(host.raft.status().id)
            })
            .max_by_key(|(_, host)| host.raft.status().term)
            .map(|(&id, _)| id)
    }

    pub fn propose(&mut self, id: u64, texts: &[&str]) -> ProposalId {
        self.next_id += 1;
        let proposal = ProposalId(self.next_id);
        self.handle(id, Input::Propose { id: proposal, commands: commands(texts) });
        proposal
    }

    pub fn read(&mut self, id: u64) -> ReadId {
        self.read_at(id, ReadAt::Leader)
    }

    /// The id of the next read, if nothing else is asked for before.
    pub fn next_read_id(&self) -> ReadId {
        ReadId(self.next_id + 1)
    }

    pub fn read_at(&mut self, id: u64, at: ReadAt) -> ReadId {
        self.next_id += 1;
        let read = ReadId(self.next_id);
        self.handle(id, Input::Read { id: read, at });
        read
    }

    pub fn change(&mut self, id: u64, change: MembershipChange) -> RequestId {
        self.next_id += 1;
        let request = RequestId(self.next_id);
        self.handle(id, Input::ChangeMembership { id: request, change });
        request
    }

    pub fn transfer(&mut self, id: u64, to: Option<NodeId>) -> RequestId {
        self.next_id += 1;
        let request = RequestId(self.next_id);
        self.handle(id, Input::TransferLeadership { id: request, to });
        request
    }

    /// The commands that a host has applied since it started, as text.
    pub fn applied(&mut self, id: u64) -> Vec<String> {
        let texts = self.host(id).applied.iter().filter_map(|entry| match &entry.payload {
            Payload::Command(command) => Some(String::from_utf8_lossy(command).into_owned()),
            _ => None,
        });
        texts.collect()
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.ids() {
            if other != id {
                self.cut.push((id, other));
                self.cut.push((other, id));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn term(&self, id: u64) -> Term {
        self.hosts[&id].raft.status().term
    }

    pub fn commit(&self, id: u64) -> Index {
        self.hosts[&id].raft.status().commit
    }
}

pub fn append(prev: (u64, u64), entries: &[(u64, u64)], commit: u64) -> Body {
    let entries = entries
        .iter()
        .map(|&(index, term)| Entry {
            term: Term(term),
            index: Index(index),
            payload: Payload::Empty,
        })
        .collect();
    Body::Append {
        prev: LogPosition { index: Index(prev.0), term: Term(prev.1) },
        entries: Entries::try_from_vec(entries).expect("a run"),
        commit: Index(commit),
    }
}

impl Cluster {
    /// Elects a node without letting it replicate: the appends that it made on the way are dropped.
    pub fn elect_silently(&mut self, id: u64) {
        let deadline = self.host(id).raft.poll_timeout().expect("a voter waits");
        self.now = self.now.max(deadline);
        self.handle(id, Input::Timeout);
        while let Some((from, to, message)) = self.network.pop_front() {
            if !matches!(message.body, Body::Append { .. } | Body::Heartbeat { .. }) {
                self.deliver(from, to, message);
            }
        }
        assert_eq!(self.leader(), Some(id), "node {id} was to be elected");
    }
}
