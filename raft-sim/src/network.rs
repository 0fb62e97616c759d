//! The network: what becomes of each message between its sender and its receiver.

use std::collections::VecDeque;

use raft_core::{AppendOutcome, Body, Input, Message, NodeId};

use raft_node::{SnapshotChunk, SnapshotFrame};

use crate::Machine;
use crate::chaos::NO_EFFECT;
use crate::event::{Envelope, Event};
use crate::node::index_of;
use crate::timeline::{Kind, Moment, Passage};
use crate::world::World;

/// The way from one node to another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// Nothing gets through.
    pub(crate) is_cut: bool,
    /// The same, by a fault of its own that comes and goes.
    pub(crate) is_down: bool,
    /// How many times as long everything takes, beyond once.
    pub(crate) slowness: u64,
    /// Everything waits until then, and arrives at once.
    pub(crate) clogged_until: u64,
    /// When the latest chunk of a snapshot arrives.
    pub(crate) chunk_at: u64,
}

/// All links, and what was sent over them.
#[derive(Debug)]
pub(crate) struct Network {
    /// `links[from][to]`.
    links: Vec<Vec<Link>>,
    /// The type of messages that is lost, by its place in [`kind_of`].
    pub(crate) lost_kind: Option<u64>,
    /// Some of what was sent in the past, and to whom, to be repeated.
    archive: Vec<(usize, Kept)>,
    /// The latest refusals of appends.
    refusals: VecDeque<(usize, Envelope)>,
    /// The next refusal that was overtaken by an acceptance arrives again.
    pub(crate) repeats_refusal: bool,
}

/// Something that was sent, kept to arrive again.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    Message(Envelope),
    /// A chunk of a snapshot, as it was sent.
    Frame(Passage, SnapshotFrame),
}

impl Kept {
    /// Its arrival.
    fn arrives(self, to: usize) -> Event {
        match self {
            Kept::Message(envelope) => Event::Deliver { to, envelope },
            Kept::Frame(way, frame) => Event::Frame { to, way, frame, is_sound: true },
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Kept::Message(_) => "messages replayed",
            Kept::Frame(..) => "chunks replayed",
        }
    }
}

/// How many old messages are kept.
const ARCHIVE_MAX: usize = 64;
/// How many refusals are.
const REFUSALS_MAX: usize = 32;
/// How many copies of a refusal arrive.
const COPIES: usize = 5;

impl Network {
    pub(crate) fn new(nodes: usize) -> Network {
        Network {
            links: vec![vec![Link::default(); nodes]; nodes],
            lost_kind: None,
            archive: Vec::new(),
            refusals: VecDeque::new(),
            repeats_refusal: false,
        }
    }

    pub(crate) fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from][to]
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from][to].is_cut || self.links[from][to].is_down
    }

    /// Cuts every link from a node for which `from` holds to one for which `to` does.
    pub(crate) fn cut(&mut self, from: impl Fn(usize) -> bool, to: impl Fn(usize) -> bool) {
        for (source, row) in self.links.iter_mut().enumerate() {
            for (target, link) in row.iter_mut().enumerate() {
                link.is_cut |= from(source) && to(target);
            }
        }
    }

    /// Whether this type of messages, by its number, is lost.
    pub(crate) fn is_lost_type(&self, number: u64) -> bool {
        self.lost_kind == Some(number)
    }

    /// Ends all faults of the network.
    pub(crate) fn heal(&mut self) {
        self.lost_kind = None;
        for link in self.links.iter_mut().flatten() {
            *link = Link { is_down: link.is_down, ..Link::default() };
        }
    }
}

/// How many types of messages there are.
pub(crate) const KINDS: u64 = 19;

/// Their names, in the order of their numbers.
pub(crate) const KIND_NAMES: [&str; KINDS as usize] = [
    "PreVotes",
    "PreVoteReplies",
    "Votes",
    "VoteReplies",
    "Appends",
    "AppendReplies",
    "Heartbeats",
    "HeartbeatReplies",
    "TimeoutNows",
    "ReadIndexes",
    "ReadIndexReplies",
    "Forwards",
    "ForwardReplies",
    "SnapshotOffers",
    "SnapshotReplies",
    "snapshot chunks",
    "ends of snapshots",
    "acknowledgements of chunks",
    "ends of streams",
];

/// The type of what streams send, as a number below [`KINDS`].
pub(crate) fn frame_type(chunk: &SnapshotChunk) -> u64 {
    match chunk {
        SnapshotChunk::Data { .. } => 15,
        SnapshotChunk::End { .. } => 16,
        SnapshotChunk::Ack { .. } => 17,
        SnapshotChunk::Abort => 18,
    }
}

/// The type of a message, as a number below [`KINDS`].
fn kind_of(body: &Body) -> u64 {
    match body {
        Body::PreVote { .. } => 0,
        Body::PreVoteResponse { .. } => 1,
        Body::Vote { .. } => 2,
        Body::VoteResponse { .. } => 3,
        Body::Append { .. } => 4,
        Body::AppendResponse(_) => 5,
        Body::Heartbeat { .. } => 6,
        Body::HeartbeatResponse { .. } => 7,
        Body::TimeoutNow => 8,
        Body::ReadIndex { .. } => 9,
        Body::ReadIndexResponse { .. } => 10,
        Body::Forward { .. } => 11,
        Body::ForwardResponse { .. } => 12,
        Body::SnapshotOffer { .. } => 13,
        Body::SnapshotResponse { .. } => 14,
    }
}

impl<M: Machine> World<'_, M> {
    pub(crate) fn transmit(&mut self, node: usize, to: NodeId, message: Message) {
        let to = index_of(to);
        let it = &self.nodes[node];
        let store = self.plan.has_stores.then_some(it.store);
        let way = Passage { number: self.messages, from: it.id, to: self.nodes[to].id };
        let envelope = Envelope { number: way.number, from: it.id, store, message };
        self.messages += 1;
        // Answers to what was passed on are rare, and told apart by what only they carry.
        let is_answer = matches!(envelope.message.body, Body::ForwardResponse { .. });
        if self.is_faulty(node, to) && self.rng.chance(if is_answer { 300 } else { 20 }) {
            self.keep_for_later(to, Kept::Message(envelope.clone()));
        }
        if let Some((counted, why)) = self.why_lost(node, to, &envelope.message) {
            self.coverage.hit(counted);
            let kind = Kind::Lost(way);
            self.observe(|at| Moment::of_message(at, kind, &envelope.message, Some(why)));
            return;
        }
        self.observe(|at| Moment::of_message(at, Kind::Sent(way), &envelope.message, None));
        if self.is_faulty(node, to) && self.rng.chance(self.plan.network.duplicate) {
            self.coverage.hit("messages duplicated");
            let delay = self.message_delay(node, to);
            self.at(delay, Event::Deliver { to, envelope: envelope.clone() });
        }
        let delay = self.message_delay(node, to);
        let refusal = self.overtaken_refusal(to, &envelope);
        self.at(delay, Event::Deliver { to, envelope });
        if let Some(refusal) = refusal {
            self.repeat_refusal(to, &refusal, delay);
        }
    }

    /// The refusal, by the same member about the same place, that an acceptance has overtaken, if one is to be repeated.
    fn overtaken_refusal(&mut self, to: usize, envelope: &Envelope) -> Option<Envelope> {
        let Body::AppendResponse(outcome) = &envelope.message.body else { return None };
        let network = &mut self.network;
        match outcome {
            AppendOutcome::Rejected { .. } => {
                if network.refusals.len() >= REFUSALS_MAX {
                    network.refusals.pop_front();
                }
                network.refusals.push_back((to, envelope.clone()));
                None
            }
            AppendOutcome::Accepted { matched } | AppendOutcome::Witnessed { matched } => {
                let is_overtaken = |(target, refusal): &&(usize, Envelope)| {
                    let place = match &refusal.message.body {
                        Body::AppendResponse(AppendOutcome::Rejected { prev, .. }) => Some(prev),
                        _ => None,
                    };
                    let (old, new) = (&refusal.message, &envelope.message);
                    (*target, refusal.from, refusal.store) == (to, envelope.from, envelope.store)
                        && (old.term, place) == (new.term, Some(matched))
                };
                let found = network.refusals.iter().filter(|_| network.repeats_refusal);
                let found = found.rev().find(is_overtaken)?.1.clone();
                if !self.is_faulty(index_of(envelope.from), to) {
                    return None;
                }
                self.network.repeats_refusal = false;
                Some(found)
            }
        }
    }

    /// Right after what overtook it, and after the connection is reported as lost: so that it is about the place that is asked about next.
    fn repeat_refusal(&mut self, to: usize, refusal: &Envelope, delay: u64) {
        self.coverage.hit("refusals repeated that were overtaken");
        let (life, input) = (self.nodes[to].life, Input::Unreachable(refusal.from));
        self.at(delay + 1, Event::Tell { node: to, life, input });
        for _ in 0..COPIES {
            self.at(delay + 2, Event::Deliver { to, envelope: refusal.clone() });
        }
    }

    /// Why a message does not get through, if it does not: as it is counted, and in words.
    fn why_lost(
        &mut self,
        from: usize,
        to: usize,
        message: &Message,
    ) -> Option<(&'static str, &'static str)> {
        if self.network.is_cut(from, to) {
            return Some(("messages cut off", "cut off"));
        }
        if self.is_faulty(from, to) && self.network.is_lost_type(kind_of(&message.body)) {
            return Some(("messages of a lost type", "its type is"));
        }
        let is_dropped = self.is_faulty(from, to) && self.rng.chance(self.plan.network.drop);
        is_dropped.then_some(("messages dropped", "dropped"))
    }

    /// Whether the link loses, repeats and delays: when faults are over, only outside the core.
    pub(crate) fn is_faulty(&self, from: usize, to: usize) -> bool {
        let is_within = self.core.contains(&from) && self.core.contains(&to);
        !(self.calm && is_within)
    }

    pub(crate) fn message_delay(&mut self, from: usize, to: usize) -> u64 {
        if !self.is_faulty(from, to) {
            return self.takes(from, self.plan.network.delay_us);
        }
        let mut delay = self.rng.around(self.plan.network.delay_us);
        if self.plan.network.is_exponential {
            // Doubles with every coin that shows heads: a long tail, in integers.
            let doublings = self.rng.draw().trailing_zeros().min(8);
            delay = (delay / 2) << doublings;
        }
        if self.rng.chance(self.plan.network.straggle) {
            self.coverage.hit("messages late");
            delay += self.rng.below(self.plan.network.straggle_us);
        }
        let now = self.now_us();
        let link = *self.network.link(from, to);
        delay += delay * link.slowness;
        delay.max(link.clogged_until.saturating_sub(now))
    }

    pub(crate) fn keep_for_later(&mut self, to: usize, kept: Kept) {
        let kept = (to, kept);
        if self.network.archive.len() < ARCHIVE_MAX {
            self.network.archive.push(kept);
        } else {
            let place = self.rng.below(ARCHIVE_MAX as u64) as usize;
            self.network.archive[place] = kept;
        }
    }

    /// What was sent to an earlier life of a node reaches this one.
    pub(crate) fn replay_to(&mut self, node: usize) {
        let kept: Vec<(usize, Kept)> =
            self.network.archive.iter().filter(|(to, _)| *to == node).cloned().collect();
        for (to, kept) in kept {
            self.coverage.hit(match kept {
                Kept::Message(_) => "messages of an earlier life replayed",
                Kept::Frame(..) => "chunks of an earlier life replayed",
            });
            let delay = self.rng.below(self.plan.election_us());
            self.at(delay, kept.arrives(to));
        }
    }

    /// Old messages arrive again, also across restarts of both ends.
    pub(crate) fn replay(&mut self) {
        self.network.repeats_refusal = true;
        if self.network.archive.is_empty() {
            self.coverage.hit(NO_EFFECT);
            return;
        }
        let count = self.rng.between(1, 8);
        for _ in 0..count {
            let place = self.rng.below(self.network.archive.len() as u64) as usize;
            let (to, kept) = self.network.archive[place].clone();
            self.coverage.hit(kept.name());
            let delay = self.rng.around(self.plan.network.delay_us);
            self.at(delay, kept.arrives(to));
        }
    }
}
