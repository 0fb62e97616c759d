//! One member in a script's world: its core, its clock, its disk, its state machine, and the work that its driver would do.

use std::collections::{BTreeSet, VecDeque};

use raft_core::{
    Apply, Config, Entries, Entry, HardState, Index, Instant, LogPosition, Membership, NodeId,
    Payload, Persist, Raft, Refusal, Restored, RestoredLog, SnapshotMeta, StoreStamp,
};

use super::life::{Life, Relived};
use super::parse::Result;

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) base: LogPosition,
    pub(crate) base_membership: Membership,
    pub(crate) entries: Vec<Entry>,
    /// The state machine's durable snapshot.
    pub(crate) snapshot: Option<SnapshotMeta>,
    /// Which store this is, if stores are told apart.
    pub(crate) store: Option<StoreStamp>,
}

impl Disk {
    pub(crate) fn founding(membership: Membership) -> Disk {
        Disk { base_membership: membership, ..Disk::default() }
    }

    pub(crate) fn write(&mut self, persist: &Persist) {
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

    pub(crate) fn last(&self) -> Index {
        self.entries.last().map_or(self.base.index, |entry| entry.index)
    }

    /// The configuration as of `index`.
    pub(crate) fn membership_at(&self, index: Index) -> Membership {
        let until = self.entries.iter().take_while(|entry| entry.index <= index);
        let latest = until.filter_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(membership.clone()),
            _ => None,
        });
        latest.last().map_or_else(|| self.base_membership.clone(), |it| (*it).clone())
    }

    pub(crate) fn position_at(&self, index: Index) -> Option<LogPosition> {
        let entry = self.entries.iter().find(|entry| entry.index == index);
        entry.map(Entry::position).or(Some(self.base).filter(|base| base.index == index))
    }

    pub(crate) fn compact(&mut self, through: LogPosition) {
        self.base_membership = self.membership_at(through.index);
        self.entries.retain(|entry| entry.index > through.index);
        self.base = through;
    }

    pub(crate) fn restored(&self) -> Restored {
        let (base, membership) = (self.base, self.base_membership.clone());
        let log = RestoredLog::describe(self.hard_state, base, membership, &self.entries);
        Restored { log, snapshot: self.snapshot.clone() }
    }

    /// The entries from `first` to `last`, up to `budget_bytes` but at least one.
    pub(crate) fn read(&self, first: Index, last: Index, budget_bytes: usize) -> Entries {
        let mut read: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.iter().filter(|e| e.index >= first && e.index <= last) {
            bytes += entry.size_bytes();
            if !read.is_empty() && bytes > budget_bytes {
                break;
            }
            read.push(entry.clone());
        }
        Entries::try_from_vec(read).expect("a disk holds a run")
    }
}

/// Work that a driver does, and that a script can hold until it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Writes,
    Fetches,
    Applies,
    Installs,
}

/// An entry fetch that waits to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    pub(crate) peer: NodeId,
    pub(crate) first: Index,
    pub(crate) last: Index,
    pub(crate) budget_bytes: usize,
}

pub(crate) struct Node {
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) config: Config,
    /// Its own clock: scripts let time pass at some nodes and not at others.
    pub(crate) clock: Instant,
    pub(crate) disk: Disk,
    /// A copy of the disk that `restore` puts back.
    pub(crate) copy: Disk,
    /// How often it was started: each start draws other random numbers.
    pub(crate) starts: u64,
    /// One for each start, with what the core was told since.
    pub(crate) lives: Vec<Life>,
    /// What is not done until the script says so.
    pub(crate) held: BTreeSet<Work>,
    /// Writes that were not reported as durable yet, and whether the disk has them already.
    pub(crate) writes: Vec<(Persist, bool)>,
    pub(crate) fetches: VecDeque<Fetch>,
    pub(crate) applies: VecDeque<Apply>,
    pub(crate) installs: VecDeque<SnapshotMeta>,
    /// The reason for which it refused something last, in any of its lives.
    pub(crate) refusal: Option<Refusal>,
    /// What the state machine has applied, since its beginning or since a snapshot that this world knows nothing of.
    pub(crate) machine: Vec<Entry>,
}

impl Node {
    pub(crate) fn new(config: Config, disk: Disk) -> Node {
        Node {
            raft: None,
            config,
            clock: Instant(0),
            disk,
            copy: Disk::default(),
            starts: 0,
            lives: Vec::new(),
            held: BTreeSet::new(),
            writes: Vec::new(),
            fetches: VecDeque::new(),
            applies: VecDeque::new(),
            installs: VecDeque::new(),
            refusal: None,
            machine: Vec::new(),
        }
    }

    /// Stops it and loses everything that is not on the disk.
    pub(crate) fn crash(&mut self) {
        self.raft = None;
        self.writes.clear();
        self.fetches.clear();
        self.applies.clear();
        self.installs.clear();
        self.machine.clear();
    }

    /// Lives each of its lives again: how much that was, for each.
    pub(crate) fn relive(&self) -> Result<Vec<Relived>> {
        let last = self.lives.len().saturating_sub(1);
        let lives = self.lives.iter().enumerate();
        lives.map(|(at, life)| life.replay(self.raft.as_ref().filter(|_| at == last))).collect()
    }

    /// The disk as it will be when all writes are carried out.
    pub(crate) fn disk_to_be(&self) -> Disk {
        let mut disk = self.disk.clone();
        for (write, is_written) in &self.writes {
            if !is_written {
                disk.write(write);
            }
        }
        disk
    }
}
