//! Snapshots on their way: both ends of `raft_node`'s chunk protocol ([`raft_node::order`]), and a network that loses, repeats, reorders and damages
//! chunks. The streams' clock is the world's.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use raft_core::{Input, Instant, LogPosition, NodeId, SnapshotMeta, Term};
use raft_node::order::{
    self, Arriving, ChunkReceiver, ChunkSender, ChunkSettings, Offered, ReceiveFailure, Received,
    StreamId, ToSend,
};
use raft_node::{SnapshotChunk, SnapshotFrame};

use crate::checker::broken;
use crate::event::Event;
use crate::mutants::mutated;
use crate::network::{Kept, frame_type};
use crate::node::{Snapshot, index_of};
use crate::timeline::{Kind, Moment, Passage};
use crate::world::World;
use crate::{Machine, Rng, Violation};

/// A snapshot that is larger than this is refused.
const SIZE_BYTES_MAX: u64 = 64 << 20;

/// What says that all has arrived, and fits.
const COMPLETE: SnapshotChunk = SnapshotChunk::Ack { offset: SnapshotChunk::ACK_COMPLETE };

/// The sending ends of a node's streams, by who is at the other end.
pub(crate) type Outgoing = BTreeMap<NodeId, Stream>;

/// The sending end of one stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    sender: ChunkSender<Source>,
    /// When it is polled next.
    wake_at: u64,
}

/// What has arrived of a snapshot: the file in which a driver would keep it.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) data: Vec<u8>,
    chunks: ChunkReceiver,
}

/// The file of a snapshot that did not arrive whole, named by its position. It is never synced.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    position: LogPosition,
    data: Vec<u8>,
}

impl Partial {
    /// What a crash leaves of it: a beginning, which may be damaged.
    fn after_crash(mut self, rng: &mut Rng) -> Partial {
        self.data.truncate(rng.below(self.data.len() as u64 + 1) as usize);
        if rng.chance(100) {
            flip_a_bit(&mut self.data, rng);
        }
        self
    }
}

/// What a machine reads its snapshot from. It may fail on the way.
#[derive(Debug)]
struct Source {
    data: Bytes,
    fails_after: Option<usize>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.data.len());
        let size = match &mut self.fails_after {
            Some(0) => return Err(io::Error::other("the disk can not read")),
            Some(left) => {
                let size = most.min(*left);
                *left -= size;
                size
            }
            None => most,
        };
        self.data.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}

fn flip_a_bit(data: &mut [u8], rng: &mut Rng) {
    if !data.is_empty() {
        let at = rng.below(data.len() as u64) as usize;
        data[at] ^= 1 << rng.below(8);
    }
}

impl<M: Machine> World<'_, M> {
    /// A machine begins to stream its snapshot, if it is the one that was offered.
    pub(crate) fn stream(
        &mut self,
        node: usize,
        (to, term): (NodeId, Term),
        wanted: &SnapshotMeta,
    ) {
        let id = StreamId { peer: to, term, position: wanted.position };
        let latest = self.nodes[node].checkpoint.clone();
        match (order::offered(wanted, latest.as_ref().map(|held| &held.meta)), latest) {
            (Offered::Stream, Some(snapshot)) => {
                return self.begin_stream(node, id, &snapshot.data);
            }
            (Offered::Superseded(newer), _) => {
                self.coverage.hit("streams superseded");
                self.nodes[node].driver.reports.push_back(Input::SnapshotTaken(newer));
            }
            _ => {}
        }
        let it = &mut self.nodes[node];
        it.watch.streams.remove(&(to, wanted.position.index));
        it.driver.reports.push_back(Input::SnapshotStreamEnded { to, position: wanted.position });
    }

    fn begin_stream(&mut self, node: usize, id: StreamId, data: &Bytes) {
        if self.nodes[node].driver.sending.get(id).is_none() {
            // It was let go of before it began.
            self.nodes[node].watch.streams.remove(&(id.peer, id.position.index));
            return;
        }
        let size = data.len() as u64;
        let is_faulty = self.is_faulty(node, index_of(id.peer));
        let is_to_fail = is_faulty && self.rng.chance(self.plan.network.stream_loss / 4);
        let fails_after = is_to_fail.then(|| self.rng.below(size + 1) as usize);
        let source = Source { data: data.clone(), fails_after };
        let plan = &self.plan.network;
        let slow = Some(plan.stream_us).filter(|us| is_faulty && *us > 0);
        let chunk_bytes = size.div_ceil(plan.chunks.max(1)).max(1);
        let settings = ChunkSettings {
            chunk_bytes_max: chunk_bytes as usize,
            window_bytes: chunk_bytes * plan.chunks_in_flight.max(1),
            bytes_per_second: slow.map(|us| (size * 1_000_000 / us).max(1)),
            resend_after: self.plan.config.election_timeout / 2,
            stall_timeout: self.plan.config.election_timeout * 4,
        };
        let now = self.now_us();
        let sender = ChunkSender::new(source, settings, Instant(now));
        self.coverage.hit("streams begun");
        let stream = Stream { id, sender, wake_at: now };
        self.nodes[node].driver.outgoing.insert(id.peer, stream);
        let life = self.nodes[node].life;
        self.at(0, Event::StreamTurn { node, life, peer: id.peer });
    }

    /// It may be time for a stream to go on.
    pub(crate) fn on_stream_turn(&mut self, node: usize, peer: NodeId) {
        let now = self.now_us();
        let stream = self.nodes[node].driver.outgoing.get(&peer);
        if stream.is_some_and(|stream| stream.wake_at <= now) {
            self.go_on(node, peer);
        }
    }

    /// Sends what a stream has to send.
    fn go_on(&mut self, node: usize, peer: NodeId) {
        let now = self.now_us();
        loop {
            let driver = &mut self.nodes[node].driver;
            let Some(stream) = driver.outgoing.get_mut(&peer) else { return };
            let id = stream.id;
            if driver.sending.get(id).is_none() {
                // It was let go of: nobody waits for it.
                driver.outgoing.remove(&peer);
                self.nodes[node].watch.streams.remove(&(peer, id.position.index));
                return;
            }
            match stream.sender.poll(Instant(now)) {
                ToSend::Chunk(chunk) => self.send_chunk(node, id, chunk),
                ToSend::WaitUntil(Instant(at)) => {
                    stream.wake_at = at.max(now + 1);
                    if at < u64::MAX {
                        let life = self.nodes[node].life;
                        let delay = at.max(now + 1) - now;
                        self.at(delay, Event::StreamTurn { node, life, peer });
                    }
                    return;
                }
                ToSend::Complete => {
                    self.end_stream(node, id);
                    return;
                }
                ToSend::Failed(failure) => {
                    self.coverage.hit("streams broken");
                    self.say(|| format!("the stream of {} to node {peer}: {failure}", id.position));
                    self.end_stream(node, id);
                    return;
                }
            }
        }
    }

    /// Faults are over at both ends of some of a node's streams: what it reads from does not fail any more.
    pub(crate) fn heal_streams(&mut self, node: usize) {
        let core = &self.core;
        let outgoing = &mut self.nodes[node].driver.outgoing;
        for (_, stream) in outgoing.iter_mut().filter(|(to, _)| core.contains(&index_of(**to))) {
            stream.sender.source_mut().fails_after = None;
        }
    }

    fn end_stream(&mut self, node: usize, id: StreamId) {
        let it = &mut self.nodes[node];
        let (life, StreamId { peer: to, term, position }) = (it.life, id);
        it.driver.outgoing.remove(&to);
        it.watch.streams.remove(&(to, position.index));
        if it.driver.sending.on_end(id) {
            let delay = self.report_delay(node);
            self.at(delay, Event::StreamEnded { node, life, term, to, position });
        }
    }

    /// Hands a chunk of the stream with this id to the network.
    fn send_chunk(&mut self, node: usize, id: StreamId, chunk: SnapshotChunk) {
        let frame = SnapshotFrame { term: id.term, position: id.position, chunk };
        let to = index_of(id.peer);
        self.mix_whole(&frame);
        let way = Passage { number: self.messages, from: self.nodes[node].id, to: id.peer };
        self.messages += 1;
        let plan = &self.plan.network;
        let (loss, repeat, damage) = (plan.drop, plan.duplicate, plan.damage);
        let is_faulty = self.is_faulty(node, to);
        if is_faulty && self.rng.chance(20) {
            self.keep_for_later(to, Kept::Frame(way, frame.clone()));
        }
        let is_of_lost_type = is_faulty && self.network.is_lost_type(frame_type(&frame.chunk));
        if is_of_lost_type {
            self.coverage.hit("chunks of a lost type");
        }
        if is_of_lost_type || self.network.is_cut(node, to) || (is_faulty && self.rng.chance(loss))
        {
            self.coverage.hit("chunks lost");
            self.observe(|at| Moment::of_frame(at, Kind::Lost(way), &frame, Some("dropped")));
            return;
        }
        self.observe(|at| Moment::of_frame(at, Kind::Sent(way), &frame, None));
        if is_faulty && self.rng.chance(repeat) {
            self.coverage.hit("chunks duplicated");
            let delay = self.message_delay(node, to);
            self.at(delay, Event::Frame { to, way, frame: frame.clone(), is_sound: true });
        }
        let mut frame = frame;
        let is_sound = !(is_faulty && self.rng.chance(damage) && self.damage(&mut frame.chunk));
        let now = self.now_us();
        let mut delay = self.message_delay(node, to);
        if !is_faulty {
            // One connection, which keeps order.
            delay = delay.max(self.network.link(node, to).chunk_at.saturating_sub(now));
        }
        self.network.link(node, to).chunk_at = now + delay;
        self.at(delay, Event::Frame { to, way, frame, is_sound });
    }

    /// A chunk is damaged on its way; now and then before its checksum is made, in the sender's memory. Whether its checksum tells that.
    fn damage(&mut self, chunk: &mut SnapshotChunk) -> bool {
        match chunk {
            SnapshotChunk::Data { data, checksum, .. } if !data.is_empty() => {
                let mut changed = data.to_vec();
                flip_a_bit(&mut changed, &mut self.rng);
                let is_early = self.rng.chance(200);
                if is_early {
                    *checksum = xxhash_rust::xxh3::xxh3_64(&changed);
                    self.coverage.hit("chunks damaged before their checksum was made");
                } else {
                    self.coverage.hit("chunks damaged");
                }
                *data = changed.into();
                !is_early
            }
            SnapshotChunk::End { digest, .. } => {
                flip_a_bit(digest, &mut self.rng);
                self.coverage.hit("digests damaged");
                false
            }
            _ => false,
        }
    }

    /// A frame reaches a node: it belongs to a stream at one of its ends, or to none.
    pub(crate) fn on_frame(
        &mut self,
        to: usize,
        way: Passage,
        (frame, is_sound): (&SnapshotFrame, bool),
    ) -> Result<(), Violation> {
        let from = index_of(way.from);
        let is_severed = self.is_severed && self.is_spared(to) && !self.core.contains(&from);
        if self.nodes[to].raft.is_none() || is_severed {
            let why = Some("nobody is there");
            self.observe(|at| Moment::of_frame(at, Kind::Lost(way), frame, why));
            return Ok(());
        }
        self.observe(|at| Moment::of_frame(at, Kind::Arrived(way), frame, None));
        let id = StreamId { peer: way.from, term: frame.term, position: frame.position };
        let now = Instant(self.now_us());
        let driver = &mut self.nodes[to].driver;
        let is_held = driver.sending.get(id).is_some();
        let stream = driver.outgoing.get_mut(&id.peer).filter(|stream| is_held && stream.id == id);
        match (&frame.chunk, stream) {
            (SnapshotChunk::Ack { offset }, Some(stream)) => stream.sender.on_ack(*offset, now),
            (SnapshotChunk::Abort, Some(stream)) => stream.sender.on_abort(),
            (SnapshotChunk::Ack { .. }, None) => return Ok(()),
            _ => return self.receive(to, id, (&frame.chunk, is_sound)),
        }
        self.go_on(to, id.peer);
        Ok(())
    }

    /// The core wants a snapshot: its driver asks for what is missing of it.
    pub(crate) fn expect_snapshot(
        &mut self,
        node: usize,
        from: (NodeId, Term),
        wanted: SnapshotMeta,
    ) -> Result<(), Violation> {
        let position = wanted.position;
        let can_open = self.can_keep(node);
        self.nodes[node].watch.expected = Some(StreamId { peer: from.0, term: from.1, position });
        let it = &mut self.nodes[node];
        let before = it.driver.receiving.arriving().map(|before| before.id.position);
        let partial =
            it.partial.take_if(|_| can_open).filter(|partial| partial.position == position);
        let open = |_: &SnapshotMeta| {
            if !can_open {
                return Err("its file can not be made");
            }
            let mut chunks = ChunkReceiver::new(SIZE_BYTES_MAX);
            let data = partial.map(|partial| partial.data).unwrap_or_default();
            let data = chunks.resume(&data).map(|()| data).unwrap_or_default();
            Ok(Incoming { data, chunks })
        };
        if it.driver.receiving.begin(from, wanted.clone(), open).is_err() {
            self.coverage.hit("snapshots not received");
            let id = StreamId { peer: from.0, term: from.1, position };
            self.send_chunk(node, id, SnapshotChunk::Abort);
            return self.report_receipt(node, Input::SnapshotFailed(wanted));
        }
        let it = &self.nodes[node];
        let has_some = it.driver.receiving.arriving().is_some_and(|it| !it.data.data.is_empty());
        if before.is_some_and(|before| before != position) {
            self.coverage.hit("snapshots that gave way to others while they arrived");
        }
        if has_some {
            self.coverage.hit("streams that went on where others had stopped");
        }
        self.acknowledge(node);
        Ok(())
    }

    /// Whether the disk on which a node keeps what arrives goes along with it this time.
    fn can_keep(&mut self, node: usize) -> bool {
        self.is_spared(node) || !self.rng.chance(self.plan.network.stream_loss / 10)
    }

    fn acknowledge(&mut self, node: usize) {
        let arriving = self.nodes[node].driver.receiving.arriving();
        if let Some((id, chunk)) = arriving.map(|it| (it.id, it.data.chunks.acknowledgement())) {
            self.send_chunk(node, id, chunk);
        }
    }

    /// A chunk of the stream with this id, for who receives.
    pub(crate) fn receive(
        &mut self,
        node: usize,
        id: StreamId,
        (chunk, is_sound): (&SnapshotChunk, bool),
    ) -> Result<(), Violation> {
        let can_keep = self.can_keep(node);
        let asked = self.nodes[node].watch.expected;
        let receiving = &mut self.nodes[node].driver.receiving;
        if !receiving.expects(id) {
            if receiving.was_completed(id) && matches!(chunk, SnapshotChunk::End { .. }) {
                self.send_chunk(node, id, COMPLETE);
            }
            return Ok(());
        }
        let Some(arriving) = receiving.arriving_mut() else { return Ok(()) };
        let Incoming { data, chunks } = &mut arriving.data;
        match chunks.on_chunk(chunk) {
            Received::Append(_) if !is_sound => {
                return broken(
                    "damaged chunks are not kept",
                    format!("node {} keeps one of {}", node + 1, id.position),
                );
            }
            Received::Append(_) if asked != Some(id) => {
                return broken(
                    "only the stream that was asked for is believed",
                    format!("node {} keeps a chunk of {id:?}; it asked for {asked:?}", node + 1),
                );
            }
            Received::Append(bytes) if can_keep => data.extend_from_slice(bytes),
            Received::Append(_) => return self.refuse_snapshot(node, false),
            Received::Acknowledge => {}
            Received::Whole => return self.take_snapshot(node),
            Received::Failed(_) if mutated!(BrokenStreamTakenForWhole) => {
                return self.take_snapshot(node);
            }
            Received::Failed(failure) => {
                if failure == ReceiveFailure::Corrupted {
                    self.coverage.hit("snapshots that did not fit their digest");
                }
                return self.refuse_snapshot(node, failure.keeps_what_arrived());
            }
            Received::Nothing => return Ok(()),
        }
        self.acknowledge(node);
        Ok(())
    }

    /// All has arrived.
    fn take_snapshot(&mut self, node: usize) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let Some(Arriving { id, snapshot: meta, data }) = it.driver.receiving.complete() else {
            return Ok(());
        };
        // As in files named by positions.
        it.received.retain(|held| held.meta.position != meta.position);
        it.received.push(Snapshot { meta: meta.clone(), data: data.data.into() });
        self.coverage.hit("snapshots received");
        self.send_chunk(node, id, COMPLETE);
        self.report_receipt(node, Input::SnapshotReceived(meta))
    }

    /// It can not go on: both ends hear of it.
    fn refuse_snapshot(&mut self, node: usize, keeps: bool) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let Some(Arriving { id, snapshot, data }) = it.driver.receiving.give_up() else {
            return Ok(());
        };
        let partial = Partial { position: snapshot.position, data: data.data };
        it.partial = keeps.then_some(partial);
        self.coverage.hit("snapshots not received");
        self.send_chunk(node, id, SnapshotChunk::Abort);
        self.report_receipt(node, Input::SnapshotFailed(snapshot))
    }

    /// A crash leaves a part of what was arriving.
    pub(crate) fn leave_partial(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let arriving = it.driver.receiving.give_up();
        if arriving.as_ref().is_some_and(|it| !it.data.data.is_empty()) {
            self.coverage.hit("crashes with a snapshot half received");
        }
        let arriving =
            arriving.map(|it| Partial { position: it.snapshot.position, data: it.data.data });
        // What is arriving has taken the place of what was kept.
        let left = arriving.or(it.partial.take());
        it.partial = left.map(|left| left.after_crash(&mut self.rng));
    }
}
