//! One member: a core when it is up, and everything around it: clock, disk, machine, driver.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use raft_core::{
    Index, Input, Instant, Membership, NodeId, Raft, RoleKind, SnapshotMeta, StoreId, StoreStamp,
    Ticket,
};
use raft_kv::Response;
use raft_node::order::{
    CheckpointEvery, MachineJob, MachineOrder, Receiving, Sending, StoreJob, WaitingBatches,
    WaitingReads, WriteOrder,
};

use crate::event::Event;
use crate::machine::Progress;
use crate::real::Real;
use crate::streams::{Incoming, Outgoing, Partial};
use crate::watch::Watch;
use crate::{Image, Machine};

/// A snapshot and its data.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) data: bytes::Bytes,
}

/// What a driver knows of the work that it has handed out. It goes with the process.
#[derive(Debug)]
pub(crate) struct Driver {
    /// What waits for the disk.
    pub(crate) queue: VecDeque<StoreJob>,
    /// Writes in it that were reported already: they overtook others, and are durable as soon as those are.
    pub(crate) overtaking: BTreeSet<Ticket>,
    pub(crate) writes: WriteOrder,
    /// What was polled for the machine, and is not handed over yet.
    pub(crate) fresh: Vec<MachineJob>,
    /// What waits for the machine. The first takes time, and is under way.
    pub(crate) jobs: VecDeque<MachineJob>,
    pub(crate) machine: MachineOrder<(), ()>,
    /// What the core is to be told of what was done with the machine.
    pub(crate) reports: VecDeque<Input>,
    pub(crate) is_reporting: bool,
    pub(crate) batches: WaitingBatches<Option<Response>, Vec<usize>>,
    pub(crate) reads: WaitingReads<usize>,
    pub(crate) sending: Sending<()>,
    pub(crate) outgoing: Outgoing,
    pub(crate) receiving: Receiving<Incoming>,
    /// When the last report of what was received, or was not, reaches the core.
    pub(crate) receipt_at: u64,
}

impl Driver {
    /// Nothing is under way. A compaction waits for writes no longer than `patience`; a checkpoint is made every so many entries, if that is not 0.
    pub(crate) fn new(
        restored: Option<SnapshotMeta>,
        base: Membership,
        (patience, every): (Duration, u64),
    ) -> Driver {
        let every =
            if every == 0 { CheckpointEvery::Demand } else { CheckpointEvery::Entries(every) };
        Driver {
            queue: VecDeque::new(),
            overtaking: BTreeSet::new(),
            writes: WriteOrder::new(patience),
            fresh: Vec::new(),
            jobs: VecDeque::new(),
            machine: MachineOrder::new(restored, base.into(), every),
            reports: VecDeque::new(),
            is_reporting: false,
            batches: WaitingBatches::new(),
            reads: WaitingReads::new(),
            sending: Sending::default(),
            outgoing: Outgoing::new(),
            receiving: Receiving::default(),
            receipt_at: 0,
        }
    }

    /// Whether the state is to be replaced by a snapshot.
    pub(crate) fn has_install(&self) -> bool {
        let mut all = self.jobs.iter().chain(&self.fresh);
        self.machine.has_install() || all.any(|job| matches!(job, MachineJob::Install(_)))
    }
}

/// The clock: `local = offset + true * rate / 1000`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) rate: u64,
    pub(crate) offset: u64,
}

impl Clock {
    pub(crate) fn local(self, now: u64) -> Instant {
        Instant(self.offset + now * self.rate / 1000)
    }

    pub(crate) fn global(self, at: Instant) -> u64 {
        (at.0.saturating_sub(self.offset).saturating_mul(1000)).div_ceil(self.rate)
    }
}

/// One member.
#[derive(Debug)]
pub(crate) struct Node<M> {
    pub(crate) id: NodeId,
    /// Whether it was set up as a witness: that belongs to its store, and never changes.
    pub(crate) is_witness: bool,
    pub(crate) raft: Option<Raft>,
    /// Counts starts, so that what was meant for an earlier life is not delivered to a later one.
    pub(crate) life: u64,
    /// The identity of its disk, and how often it was started on it.
    pub(crate) store: StoreStamp,
    /// Through where it took entries for committed, in this life.
    pub(crate) claimed: Index,
    /// What its core said last that it does. Clients ask this to find the leader; checkers never do.
    pub(crate) role: RoleKind,
    /// Until when its process is stopped; 0 if it runs.
    pub(crate) paused_until: u64,
    /// When its clock was stopped too.
    pub(crate) frozen_at: Option<Instant>,
    /// What a stopped process will find when it goes on.
    pub(crate) stash: Vec<Event>,
    pub(crate) clock: Clock,
    /// What a power loss would leave.
    pub(crate) disk: Image,
    /// What will be there once all writes are done: the log as the core knows it.
    pub(crate) log: Image,
    pub(crate) driver: Driver,
    /// The real log store that holds `disk`, in those seeds that have one.
    pub(crate) real: Option<Real>,
    /// The latest moment for which a notice of a finished write is due.
    pub(crate) notified_at: u64,
    /// After how many more actions its process dies, in the middle of whatever it does then.
    pub(crate) dies_after: Option<u64>,
    /// It is down and up again and again.
    pub(crate) is_looping: bool,
    /// Until when its disk does nothing.
    pub(crate) stalled_until: u64,
    pub(crate) checkpoint: Option<Snapshot>,
    pub(crate) checkpointing: Option<Snapshot>,
    pub(crate) machine: Progress<M>,
    /// The file of a snapshot that did not arrive whole.
    pub(crate) partial: Option<Partial>,
    /// Snapshots that arrived whole, and are not installed.
    pub(crate) received: Vec<Snapshot>,
    pub(crate) poll_scheduled: bool,
    pub(crate) wake_at: Option<u64>,
    pub(crate) watch: Watch,
}

impl<M: Machine> Node<M> {
    /// What was received of a snapshot, whole.
    pub(crate) fn received_at(&self, meta: &SnapshotMeta) -> Option<&Snapshot> {
        self.received.iter().find(|held| held.meta == *meta)
    }

    /// A node with an empty disk. `membership` is the founding configuration, or an empty one for a node that waits to be added.
    pub(crate) fn new(
        id: NodeId,
        store: StoreId,
        membership: &Membership,
        sessions_max: u64,
    ) -> Node<M> {
        Node {
            id,
            is_witness: membership.is_witness(id),
            raft: None,
            life: 0,
            store: StoreStamp { id: store, life: 0, nonce: 0 },
            claimed: Index(0),
            role: RoleKind::Follower,
            paused_until: 0,
            frozen_at: None,
            stash: Vec::new(),
            clock: Clock { rate: 1000, offset: 0 },
            disk: Image::founding(membership.clone()),
            log: Image::founding(membership.clone()),
            driver: Driver::new(None, membership.clone(), (Duration::ZERO, 0)),
            real: None,
            notified_at: 0,
            dies_after: None,
            is_looping: false,
            stalled_until: 0,
            checkpoint: None,
            checkpointing: None,
            machine: Progress::founding(membership.clone(), sessions_max),
            partial: None,
            received: Vec::new(),
            poll_scheduled: false,
            wake_at: None,
            watch: Watch::default(),
        }
    }

    /// Whether its core takes itself for the leader.
    pub(crate) fn claims_to_lead(&self) -> bool {
        self.raft.is_some() && self.role == RoleKind::Leader
    }

    /// Whether its process runs.
    pub(crate) fn is_running(&self) -> bool {
        self.raft.is_some() && self.paused_until == 0
    }

    /// The configuration that its log ends with: the one in effect at it.
    pub(crate) fn membership(&self) -> &Membership {
        self.log.membership()
    }
}

/// Nodes are numbered from 1 on.
pub(crate) fn index_of(id: NodeId) -> usize {
    id.0 as usize - 1
}
