//! What can happen in the world, and the order in which it does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use raft_core::{Index, Input, LogPosition, Message, NodeId, StoreStamp, Term};
use raft_node::SnapshotFrame;

use crate::timeline::Passage;

/// Something that will happen at a time.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A message reaches a node, whichever life that is in.
    Deliver { to: usize, envelope: Envelope },
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
    /// It may be time for a node's stream to this peer to go on.
    StreamTurn { node: usize, life: u64, peer: NodeId },
    /// A snapshot's chunk reaches a node, whichever life that is in. Sound: not damaged so that its checksum would tell.
    Frame { to: usize, way: Passage, frame: SnapshotFrame, is_sound: bool },
    /// A leader's driver reports that a stream has ended.
    StreamEnded { node: usize, life: u64, term: Term, to: NodeId, position: LogPosition },
    /// A node comes back.
    Restart { node: usize },
    /// A node in a crash loop goes down again, and comes back for this many times more.
    CrashAgain { node: usize, life: u64, times: u64 },
    /// A node that came back goes down before it has got far.
    CrashInRecovery { node: usize, life: u64 },
    /// A stopped node goes on.
    Resume { node: usize },
    /// A link goes up or down, and will again this many times.
    Flap { from: usize, to: usize, times: u64 },
    /// The network heals.
    Heal,
    /// The next fault.
    Fault,
    /// A client does something.
    Client,
    /// The operator does something.
    Operate,
    /// The operator does one thing more, without waiting for what it asked for.
    OperateInHaste,
}

/// A message with what its transport knows of the sender.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    /// Which of all messages; a repeated one keeps it. For those who look on.
    pub(crate) number: u64,
    pub(crate) from: NodeId,
    pub(crate) store: Option<StoreStamp>,
    pub(crate) message: Message,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchRequest {
    pub(crate) peer: NodeId,
    pub(crate) first: Index,
    pub(crate) last: Index,
    pub(crate) budget_bytes: usize,
}

impl Event {
    /// The node whose process must run for this event to happen.
    pub(crate) fn waits_for(&self) -> Option<usize> {
        match self {
            Event::Deliver { to, .. } | Event::Frame { to, .. } => Some(*to),
            Event::Wake { node, .. }
            | Event::Poll { node, .. }
            | Event::Tell { node, .. }
            | Event::Work { node, .. }
            | Event::Checkpointed { node, .. }
            | Event::Fetch { node, .. }
            | Event::StreamTurn { node, .. }
            | Event::StreamEnded { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// What lies ahead, in the order of its times; what was scheduled first comes first among equals.
///
/// Events are large, and a heap moves what it holds again and again: it holds their places only.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// The time, the number of the event, and its place.
    ahead: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl Agenda {
    pub(crate) fn push(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.ahead.push(Reverse((at, self.scheduled, place)));
    }

    /// When the next event happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.ahead.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next event, and when it happens.
    pub(crate) fn pop(&mut self) -> Option<(u64, Event)> {
        let Reverse((at, _, place)) = self.ahead.pop()?;
        self.free.push(place);
        Some((at, self.events[place].take()?))
    }

    pub(crate) fn len(&self) -> usize {
        self.ahead.len()
    }
}
