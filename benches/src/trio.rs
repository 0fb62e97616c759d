//! Three cores of one group in one thread: an honest driver that costs as little as it can, so that what is measured is the core.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Action, Apply, Config, Entries, Entry, Index, Input, Instant, LogPosition, Membership, Message,
    NodeId, Payload, Persist, ProposalId, Raft, Resolution, Restored, SnapshotMeta, Term,
};

/// What the in-memory log does with the entries that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Copies each entry into a vector of its own, as raft-rs's `MemStorage` does.
    Copies,
    /// Keeps the shared runs that it is handed.
    Shared,
    /// Forgets them: for logs so long that keeping them would be what is measured.
    Nothing,
}

/// An in-memory log.
#[derive(Debug)]
struct Store {
    keep: Keep,
    /// The entries from `base + 1` on, if copies are kept.
    copies: VecDeque<Entry>,
    /// The same as runs, if these are kept.
    runs: VecDeque<Entries>,
}

impl Store {
    fn write(&mut self, persist: &Persist) {
        let cut = persist.truncate_from;
        match self.keep {
            Keep::Copies => {
                if let Some(from) = cut {
                    let kept = self.copies.partition_point(|entry| entry.index < from);
                    self.copies.truncate(kept);
                }
                for slice in persist.entries.slices() {
                    self.copies.extend(slice.iter().cloned());
                }
            }
            Keep::Shared => {
                if let Some(from) = cut {
                    self.runs.retain_mut(|run| {
                        run.truncate_from(from);
                        !run.is_empty()
                    });
                }
                if !persist.entries.is_empty() {
                    self.runs.push_back(persist.entries.clone());
                }
            }
            Keep::Nothing => {}
        }
    }

    fn compact(&mut self, through: Index) {
        let kept = self.copies.partition_point(|entry| entry.index <= through);
        self.copies.drain(..kept);
        while self.runs.front().and_then(Entries::last).is_some_and(|last| last.index <= through) {
            self.runs.pop_front();
        }
    }
}

#[derive(Debug)]
struct Host {
    raft: Raft,
    store: Store,
    applied: Index,
    applied_bytes: u64,
}

/// Three voters; the first is the leader.
#[derive(Debug)]
pub struct Trio {
    hosts: Vec<Host>,
    network: VecDeque<(usize, usize, Message)>,
    now: Instant,
    proposals: u64,
    appended: Index,
}

impl Trio {
    /// Founds a group and elects its first member.
    ///
    /// # Panics
    /// If the core refuses what is right.
    pub fn new(keep: Keep) -> Trio {
        let membership = Membership::of_voters((1..=3).map(NodeId));
        let hosts = (1..=3)
            .map(|id| {
                let mut config = Config::new(NodeId(id));
                config.retained_entries = 0;
                let founding = Restored::founding(membership.clone());
                let raft = Raft::new(config, id, Instant(0), founding).expect("a sound start");
                let store = Store { keep, copies: VecDeque::new(), runs: VecDeque::new() };
                Host { raft, store, applied: Index(0), applied_bytes: 0 }
            })
            .collect();
        let mut trio = Trio {
            hosts,
            network: VecDeque::new(),
            now: Instant(0),
            proposals: 0,
            appended: Index(0),
        };
        trio.now = trio.hosts[0].raft.poll_timeout().expect("a voter waits");
        trio.handle(0, Input::Timeout);
        trio.settle();
        assert_eq!(trio.hosts[0].raft.leader(), Some(NodeId(1)), "the first is elected");
        trio
    }

    /// Proposes a batch at the leader, and pumps until it is committed and applied there, and nobody has anything to say.
    ///
    /// # Panics
    /// If that does not come about.
    pub fn commit(&mut self, commands: Vec<Bytes>) {
        let expected = self.last().plus(commands.len() as u64);
        self.proposals += 1;
        self.now = self.now + Duration::from_micros(1);
        self.handle(0, Input::Propose { id: ProposalId(self.proposals), commands });
        self.settle();
        assert_eq!(self.appended, expected, "the batch was refused");
        assert_eq!(self.hosts[0].applied, expected, "the batch was not committed");
    }

    /// Lets a heartbeat interval pass: the leader's round of heartbeats, and their answers.
    ///
    /// # Panics
    /// If the leader waits for nothing, which a leader never does.
    pub fn heartbeat(&mut self) {
        self.now = self.next_heartbeat();
        self.handle(0, Input::Timeout);
        self.settle();
    }

    /// When the leader's next heartbeats are due.
    ///
    /// # Panics
    /// If the leader waits for nothing, which a leader never does.
    pub fn next_heartbeat(&self) -> Instant {
        self.hosts[0].raft.poll_timeout().expect("a leader waits")
    }

    /// Compacts all three logs as far as they are applied.
    ///
    /// # Panics
    /// If the core refuses it.
    pub fn compact(&mut self) {
        self.heartbeat();
        for number in 0..self.hosts.len() {
            let host = &self.hosts[number];
            let position = LogPosition { index: host.applied, term: Term(1) };
            let membership = host.raft.membership().clone();
            self.handle(
                number,
                Input::SnapshotTaken(SnapshotMeta { position, membership: membership.into() }),
            );
        }
        self.settle();
    }

    /// The last index of the leader's log: at rest, all of it is applied.
    pub fn last(&self) -> Index {
        self.hosts[0].applied
    }

    /// Bytes of commands applied at the leader.
    pub fn applied_bytes(&self) -> u64 {
        self.hosts[0].applied_bytes
    }

    /// How many entries the leader's store keeps.
    pub fn kept(&self) -> usize {
        let store = &self.hosts[0].store;
        store.copies.len() + store.runs.iter().map(Entries::len).sum::<usize>()
    }

    /// The cores alone, the leader first: what a process keeps of a group, without what this driver adds.
    pub fn into_cores(self) -> impl Iterator<Item = Raft> {
        self.hosts.into_iter().map(|host| host.raft)
    }

    fn handle(&mut self, host: usize, input: Input) {
        self.hosts[host].raft.handle(self.now, input).expect("honest inputs are taken");
        self.drain(host);
    }

    fn settle(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            let from = NodeId(from as u64 + 1);
            self.handle(to, Input::Message { from, store: None, message });
        }
    }

    fn drain(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        while let Some(action) = host.raft.poll_action() {
            match action {
                Action::Persist(persist) => {
                    host.store.write(&persist);
                    let done = Input::Persisted(persist.ticket);
                    host.raft.handle(self.now, done).expect("a known ticket");
                }
                Action::Send { to, message } => {
                    self.network.push_back((number, to.0 as usize - 1, message));
                }
                Action::Apply(apply) => {
                    host.apply(&apply);
                    let done = Input::Applied(apply.last);
                    host.raft.handle(self.now, done).expect("applied what was handed out");
                }
                Action::Compact { through } => host.store.compact(through.index),
                Action::Resolve(Resolution::Appended { first, count, .. }) => {
                    self.appended = Index(first.0 + count - 1);
                }
                Action::Event(_) => {}
                other => unreachable!("nothing here asks for {other:?}"),
            }
        }
    }
}

impl Host {
    fn apply(&mut self, apply: &Apply) {
        for slice in apply.entries.slices() {
            for entry in slice {
                if let Payload::Command(command) = &entry.payload {
                    self.applied_bytes += black_box(command).len() as u64;
                }
            }
        }
        self.applied = apply.last;
    }
}
