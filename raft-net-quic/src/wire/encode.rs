//! From messages to bytes.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    AppendOutcome, Body as CoreBody, Entries, ForwardId, ForwardOutcome, Payload, SnapshotOutcome,
};
use raft_node::{PeerMessage, SnapshotChunk};
use rkyv::rancor;

use super::schema::{Body, Head, Kind, KindRun, Members, Run, Table};
use super::{FORWARDED_MAX, MEMBERS_MAX, WireError, WireLimits};
use crate::framing::PREFIX_BYTES;

/// A message as it goes on the wire, length prefix included.
#[derive(Clone, Debug)]
pub struct Frame {
    head: Bytes,
    rest: Rest,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Rest {
    Nothing,
    Data(Bytes),
    Entries(Arc<Block>),
}

impl Frame {
    /// How many bytes it takes on the wire.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: there is at least the prefix.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The bytes in order, shared.
    pub fn parts(self) -> impl Iterator<Item = Bytes> {
        let (data, block) = match self.rest {
            Rest::Nothing => (None, None),
            Rest::Data(data) => (Some(data), None),
            Rest::Entries(block) => (None, Some(block)),
        };
        let count = block.as_ref().map_or(0, |block| block.chunks.len());
        let chunks = (0..count).filter_map(move |at| block.as_ref()?.chunks.get(at).cloned());
        std::iter::once(self.head).chain(data).chain(chunks)
    }
}

/// Encoded entries: table, then payloads.
#[derive(Debug)]
struct Block {
    chunks: Vec<Bytes>,
    bytes: usize,
}

/// How many blocks are remembered: a leader's peers are a few appends apart.
const REMEMBERED: usize = 4;

/// Blocks larger than this are not remembered, so that what is kept alive stays small.
const REMEMBERED_BYTES_MAX: usize = 4 << 20;

/// Payloads from this size on are passed on as they are; smaller ones are copied together, which is cheaper than a chunk each.
const SHARE_FROM: usize = 4 << 10;

/// Encodes messages. Remembers the last blocks of entries, so that what goes to several peers is encoded once.
#[derive(Debug)]
pub struct Encoder {
    limits: WireLimits,
    remembered: Vec<(Entries, Arc<Block>)>,
    oldest: usize,
}

impl Encoder {
    /// An encoder of frames within `limits`.
    pub fn new(limits: WireLimits) -> Encoder {
        Encoder { limits, remembered: Vec::with_capacity(REMEMBERED), oldest: 0 }
    }

    /// Encodes a message.
    ///
    /// # Errors
    /// [`WireError::TooMany`] if it exceeds what a receiver takes.
    pub fn encode(&mut self, message: &PeerMessage) -> Result<Frame, WireError> {
        let (head, rest) = match message {
            PeerMessage::Raft(message) => {
                let rest = match &message.body {
                    CoreBody::Append { entries, .. } if !entries.is_empty() => {
                        Rest::Entries(self.block(entries)?)
                    }
                    CoreBody::Forward { commands, .. } => Rest::Data(commands.concat().into()),
                    _ => Rest::Nothing,
                };
                (Head { term: message.term.0, body: raft_body(&message.body)? }, rest)
            }
            PeerMessage::Snapshot(frame) => {
                let position = frame.position.into();
                let mut rest = Rest::Nothing;
                let body = match &frame.chunk {
                    SnapshotChunk::Data { offset, data, checksum } => {
                        at_most(
                            "bytes of snapshot data",
                            data.len(),
                            SnapshotChunk::DATA_BYTES_MAX,
                        )?;
                        rest = Rest::Data(data.clone());
                        Body::StreamData { position, offset: *offset, checksum: *checksum }
                    }
                    SnapshotChunk::End { size_bytes, digest } => {
                        Body::StreamEnd { position, size_bytes: *size_bytes, digest: *digest }
                    }
                    SnapshotChunk::Ack { offset } => Body::StreamAck { position, offset: *offset },
                    SnapshotChunk::Abort => Body::StreamAbort { position },
                };
                (Head { term: frame.term.0, body }, rest)
            }
        };
        self.frame(&head, rest)
    }

    /// Puts the prefixes before the head.
    fn frame(&self, head: &Head, rest: Rest) -> Result<Frame, WireError> {
        let start = PREFIX_BYTES + HEAD_LENGTH_BYTES;
        let mut buffer = Vec::with_capacity(128);
        buffer.resize(start, 0);
        let mut buffer = rkyv::api::high::to_bytes_in::<_, rancor::Error>(head, buffer)
            .map_err(|error| invalid("head", &error))?;
        let head_bytes = buffer.len() - start;
        let rest_bytes = match &rest {
            Rest::Nothing => 0,
            Rest::Data(data) => data.len(),
            Rest::Entries(block) => block.bytes,
        };
        let length = HEAD_LENGTH_BYTES + head_bytes + rest_bytes;
        at_most("bytes in a frame", length, self.limits.frame_bytes_max)?;
        buffer[..PREFIX_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
        buffer[PREFIX_BYTES..start].copy_from_slice(&(head_bytes as u32).to_le_bytes());
        Ok(Frame { head: buffer.into(), rest, bytes: PREFIX_BYTES + length })
    }

    /// The block of these entries, remembered or new.
    fn block(&mut self, entries: &Entries) -> Result<Arc<Block>, WireError> {
        if let Some((_, block)) = self.remembered.iter().find(|(known, _)| same(known, entries)) {
            return Ok(Arc::clone(block));
        }
        at_most("entries in a frame", entries.len(), self.limits.entries_max())?;
        let block = Arc::new(block(entries)?);
        if block.bytes <= REMEMBERED_BYTES_MAX {
            let item = (entries.clone(), Arc::clone(&block));
            if self.remembered.len() < REMEMBERED {
                self.remembered.push(item);
            } else {
                self.remembered[self.oldest] = item;
                self.oldest = (self.oldest + 1) % REMEMBERED;
            }
        }
        Ok(block)
    }
}

/// The bytes of the head's length.
pub(super) const HEAD_LENGTH_BYTES: usize = 4;
/// The bytes of the table's length.
pub(super) const TABLE_LENGTH_BYTES: usize = 4;

/// Whether two runs are the very same memory. Exact, because the remembered run keeps its memory from being reused: unlike the
/// entries' positions, which name their content only within one log (paper §5.3, log matching).
fn same(one: &Entries, other: &Entries) -> bool {
    let spans = |entries: &Entries| -> Vec<(usize, usize)> {
        entries.slices().map(|slice| (slice.as_ptr().addr(), slice.len())).collect()
    };
    // The first entries differ in almost every case; no need to look further then.
    let first = |entries: &Entries| entries.slices().next().map(|slice| slice.as_ptr().addr());
    first(one) == first(other) && spans(one) == spans(other)
}

fn block(entries: &Entries) -> Result<Block, WireError> {
    let mut table = Table {
        first: entries.first().map_or(0, |entry| entry.index.0),
        runs: Vec::new(),
        kinds: Vec::new(),
        lengths: Vec::with_capacity(entries.len()),
    };
    let mut small: Vec<u8> = Vec::new();
    let mut payloads: Vec<Bytes> = Vec::new();
    for entry in entries.iter() {
        let (kind, length) = match &entry.payload {
            Payload::Empty => (Kind::Empty, 0),
            Payload::Withheld => (Kind::Withheld, 0),
            Payload::Command(command) => {
                if command.len() < SHARE_FROM {
                    small.extend_from_slice(command);
                } else {
                    if !small.is_empty() {
                        payloads.push(std::mem::take(&mut small).into());
                    }
                    payloads.push(command.clone());
                }
                (Kind::Command, command.len())
            }
            Payload::Membership(membership) => {
                at_most("members", membership.len(), MEMBERS_MAX)?;
                let bytes = rkyv::to_bytes::<rancor::Error>(&Members::from(&**membership))
                    .map_err(|error| invalid("configuration", &error))?;
                small.extend_from_slice(&bytes);
                (Kind::Membership, bytes.len())
            }
        };
        let length = u32::try_from(length).map_err(|_| WireError::TooMany {
            what: "bytes in an entry",
            count: length,
            max: u32::MAX as usize,
        })?;
        table.lengths.push(length);
        match table.runs.last_mut() {
            Some(run) if run.term == entry.term.0 => run.count += 1,
            _ => table.runs.push(Run { term: entry.term.0, count: 1 }),
        }
        match table.kinds.last_mut() {
            Some(run) if run.kind == kind => run.count += 1,
            _ => table.kinds.push(KindRun { kind, count: 1 }),
        }
    }
    if !small.is_empty() {
        payloads.push(small.into());
    }
    let mut head = vec![0; TABLE_LENGTH_BYTES];
    head.reserve(table.lengths.len() * 4 + 64);
    let mut head = rkyv::api::high::to_bytes_in::<_, rancor::Error>(&table, head)
        .map_err(|error| invalid("table of entries", &error))?;
    let table_bytes = (head.len() - TABLE_LENGTH_BYTES) as u32;
    head[..TABLE_LENGTH_BYTES].copy_from_slice(&table_bytes.to_le_bytes());
    let mut chunks = vec![Bytes::from(head)];
    chunks.append(&mut payloads);
    let bytes = chunks.iter().map(Bytes::len).sum();
    Ok(Block { chunks, bytes })
}

fn raft_body(body: &CoreBody) -> Result<Body, WireError> {
    Ok(match body {
        CoreBody::PreVote { last } => Body::PreVote { last: (*last).into() },
        CoreBody::PreVoteResponse { granted } => Body::PreVoteResponse { granted: *granted },
        CoreBody::Vote { last, transfer } => {
            Body::Vote { last: (*last).into(), transfer: *transfer }
        }
        CoreBody::VoteResponse { granted } => Body::VoteResponse { granted: *granted },
        CoreBody::Append { prev, commit, .. } => {
            Body::Append { prev: (*prev).into(), commit: commit.0 }
        }
        CoreBody::AppendResponse(AppendOutcome::Accepted { matched }) => {
            Body::AppendAccepted { matched: matched.0 }
        }
        CoreBody::AppendResponse(AppendOutcome::Witnessed { matched }) => {
            Body::AppendWitnessed { matched: matched.0 }
        }
        CoreBody::AppendResponse(AppendOutcome::Rejected { prev, hint }) => {
            Body::AppendRejected { prev: prev.0, hint: (*hint).into() }
        }
        CoreBody::Heartbeat { commit, read_context } => {
            Body::Heartbeat { commit: commit.0, read_context: *read_context }
        }
        CoreBody::HeartbeatResponse { read_context } => {
            Body::HeartbeatResponse { read_context: *read_context }
        }
        CoreBody::TimeoutNow => Body::TimeoutNow,
        CoreBody::ReadIndex { context } => Body::ReadIndex { context: *context },
        CoreBody::ReadIndexResponse { context, index: Some(index) } => {
            Body::ReadIndexAnswered { context: *context, index: index.0 }
        }
        CoreBody::ReadIndexResponse { context, index: None } => {
            Body::ReadIndexRefused { context: *context }
        }
        CoreBody::Forward { id: ForwardId { nonce, sequence }, commands } => {
            at_most("forwarded commands", commands.len(), FORWARDED_MAX)?;
            let lengths = commands.iter().map(|command| command.len() as u32).collect();
            Body::Forward { nonce: *nonce, sequence: *sequence, lengths }
        }
        CoreBody::ForwardResponse { id: ForwardId { nonce, sequence }, outcome } => {
            let (nonce, sequence) = (*nonce, *sequence);
            match outcome {
                ForwardOutcome::Appended { first, count } => {
                    Body::ForwardAppended { nonce, sequence, first: first.0, count: *count }
                }
                ForwardOutcome::Refused(refusal) => {
                    Body::ForwardRefused { nonce, sequence, refusal: refusal.into() }
                }
            }
        }
        CoreBody::SnapshotOffer { snapshot } => {
            at_most("members", snapshot.membership.len(), MEMBERS_MAX)?;
            Body::SnapshotOffer {
                position: snapshot.position.into(),
                members: (&*snapshot.membership).into(),
            }
        }
        CoreBody::SnapshotResponse { position, outcome } => {
            let position = (*position).into();
            match outcome {
                SnapshotOutcome::Wanted => Body::SnapshotWanted { position },
                SnapshotOutcome::Matched(matched) => {
                    Body::SnapshotMatched { position, matched: matched.0 }
                }
                SnapshotOutcome::Failed => Body::SnapshotFailed { position },
            }
        }
    })
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), WireError> {
    if count > max {
        return Err(WireError::TooMany { what, count, max });
    }
    Ok(())
}

fn invalid(what: &'static str, error: &rancor::Error) -> WireError {
    WireError::Invalid { what, reason: error.to_string() }
}
