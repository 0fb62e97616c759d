//! From bytes to messages. Everything is checked before it is believed; payloads are slices of the frame.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    AppendOutcome, Body as CoreBody, Entries, Entry, ForwardId, ForwardOutcome, Index, LogPosition,
    Membership, Message, Payload, SnapshotMeta, SnapshotOutcome, Term,
};
use raft_node::{PeerMessage, SnapshotChunk, SnapshotFrame};
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::{Portable, rancor};

use super::encode::{HEAD_LENGTH_BYTES, TABLE_LENGTH_BYTES};
use super::schema::{ArchivedBody, ArchivedHead, ArchivedKind, ArchivedMembers, ArchivedTable};
use super::{FORWARDED_MAX, WireError, WireLimits};

/// Decodes the frame whose length prefix is already taken off.
///
/// # Errors
/// [`WireError`]; the frame is then to be dropped whole, and its sender not to be trusted any further.
pub fn decode(mut frame: Bytes, limits: WireLimits) -> Result<PeerMessage, WireError> {
    let head = take_sized(&mut frame, HEAD_LENGTH_BYTES, "head")?;
    let head: &ArchivedHead = access(&head, "head")?;
    let term = Term(head.term.to_native());
    let message = match &head.body {
        ArchivedBody::StreamData { .. }
        | ArchivedBody::StreamEnd { .. }
        | ArchivedBody::StreamAck { .. }
        | ArchivedBody::StreamAbort { .. } => {
            PeerMessage::Snapshot(snapshot_frame(term, &head.body, &mut frame)?)
        }
        body => PeerMessage::Raft(Message { term, body: raft_body(body, &mut frame, limits)? }),
    };
    if !frame.is_empty() {
        return Err(WireError::Trailing { bytes: frame.len() });
    }
    Ok(message)
}

/// Takes a part that is preceded by its length in four bytes.
fn take_sized(
    frame: &mut Bytes,
    length_bytes: usize,
    what: &'static str,
) -> Result<Bytes, WireError> {
    let truncated = WireError::Truncated { what };
    let Some((prefix, rest)) = frame.split_first_chunk::<4>() else { return Err(truncated) };
    let length = u32::from_le_bytes(*prefix) as usize;
    if rest.len() < length {
        return Err(truncated);
    }
    let mut part = frame.split_to(length_bytes + length);
    Ok(part.split_off(length_bytes))
}

fn access<'a, T>(bytes: &'a [u8], what: &'static str) -> Result<&'a T, WireError>
where
    T: Portable + for<'b> CheckBytes<HighValidator<'b, rancor::Error>>,
{
    rkyv::access::<T, rancor::Error>(bytes)
        .map_err(|error| WireError::Invalid { what, reason: error.to_string() })
}

fn raft_body(
    body: &ArchivedBody,
    frame: &mut Bytes,
    limits: WireLimits,
) -> Result<CoreBody, WireError> {
    use ArchivedBody as A;
    let response = |position: &_, outcome| CoreBody::SnapshotResponse {
        position: LogPosition::from(position),
        outcome,
    };
    Ok(match body {
        A::PreVote { last } => CoreBody::PreVote { last: last.into() },
        A::PreVoteResponse { granted } => CoreBody::PreVoteResponse { granted: *granted },
        A::Vote { last, transfer } => CoreBody::Vote { last: last.into(), transfer: *transfer },
        A::VoteResponse { granted } => CoreBody::VoteResponse { granted: *granted },
        A::Append { prev, commit } => CoreBody::Append {
            prev: prev.into(),
            entries: entries(frame, limits)?,
            commit: Index(commit.to_native()),
        },
        A::AppendAccepted { matched } => CoreBody::AppendResponse(AppendOutcome::Accepted {
            matched: Index(matched.to_native()),
        }),
        A::AppendWitnessed { matched } => CoreBody::AppendResponse(AppendOutcome::Witnessed {
            matched: Index(matched.to_native()),
        }),
        A::AppendRejected { prev, hint } => CoreBody::AppendResponse(AppendOutcome::Rejected {
            prev: Index(prev.to_native()),
            hint: hint.into(),
        }),
        A::Heartbeat { commit, read_context } => CoreBody::Heartbeat {
            commit: Index(commit.to_native()),
            read_context: read_context.to_native(),
        },
        A::HeartbeatResponse { read_context } => {
            CoreBody::HeartbeatResponse { read_context: read_context.to_native() }
        }
        A::TimeoutNow => CoreBody::TimeoutNow,
        A::ReadIndex { context } => CoreBody::ReadIndex { context: context.to_native() },
        A::ReadIndexAnswered { context, index } => CoreBody::ReadIndexResponse {
            context: context.to_native(),
            index: Some(Index(index.to_native())),
        },
        A::ReadIndexRefused { context } => {
            CoreBody::ReadIndexResponse { context: context.to_native(), index: None }
        }
        A::Forward { nonce, sequence, lengths } => CoreBody::Forward {
            id: ForwardId { nonce: nonce.to_native(), sequence: sequence.to_native() },
            commands: commands(lengths, frame)?,
        },
        A::ForwardAppended { nonce, sequence, first, count } => CoreBody::ForwardResponse {
            id: ForwardId { nonce: nonce.to_native(), sequence: sequence.to_native() },
            outcome: ForwardOutcome::Appended {
                first: Index(first.to_native()),
                count: count.to_native(),
            },
        },
        A::ForwardRefused { nonce, sequence, refusal } => CoreBody::ForwardResponse {
            id: ForwardId { nonce: nonce.to_native(), sequence: sequence.to_native() },
            outcome: ForwardOutcome::Refused(refusal.into()),
        },
        A::SnapshotOffer { position, members } => CoreBody::SnapshotOffer {
            snapshot: SnapshotMeta {
                position: position.into(),
                membership: Arc::new(members.try_into()?),
            },
        },
        A::SnapshotWanted { position } => response(position, SnapshotOutcome::Wanted),
        A::SnapshotMatched { position, matched } => {
            response(position, SnapshotOutcome::Matched(Index(matched.to_native())))
        }
        A::SnapshotFailed { position } => response(position, SnapshotOutcome::Failed),
        A::StreamData { .. }
        | A::StreamEnd { .. }
        | A::StreamAck { .. }
        | A::StreamAbort { .. } => {
            return Err(WireError::Table {
                reason: "a snapshot frame where a message was expected",
            });
        }
    })
}

/// Forwarded commands: what is left of the frame.
fn commands(
    lengths: &[rkyv::rend::unaligned::u32_ule],
    frame: &mut Bytes,
) -> Result<Vec<Bytes>, WireError> {
    let count = lengths.len();
    if count > FORWARDED_MAX {
        return Err(WireError::TooMany { what: "forwarded commands", count, max: FORWARDED_MAX });
    }
    let mut commands = Vec::with_capacity(count);
    for length in lengths {
        let length = length.to_native() as usize;
        if frame.len() < length {
            return Err(WireError::Truncated { what: "forwarded commands" });
        }
        commands.push(frame.split_to(length));
    }
    Ok(commands)
}

fn snapshot_frame(
    term: Term,
    body: &ArchivedBody,
    frame: &mut Bytes,
) -> Result<SnapshotFrame, WireError> {
    use ArchivedBody as A;
    let (position, chunk) = match body {
        A::StreamData { position, offset, checksum } => {
            let data = std::mem::take(frame);
            let max = SnapshotChunk::DATA_BYTES_MAX;
            if data.len() > max {
                let count = data.len();
                return Err(WireError::TooMany { what: "bytes of snapshot data", count, max });
            }
            let (offset, checksum) = (offset.to_native(), checksum.to_native());
            (position, SnapshotChunk::Data { offset, data, checksum })
        }
        A::StreamEnd { position, size_bytes, digest } => {
            (position, SnapshotChunk::End { size_bytes: size_bytes.to_native(), digest: *digest })
        }
        A::StreamAck { position, offset } => {
            (position, SnapshotChunk::Ack { offset: offset.to_native() })
        }
        A::StreamAbort { position } => (position, SnapshotChunk::Abort),
        _ => {
            return Err(WireError::Table {
                reason: "a message where a snapshot frame was expected",
            });
        }
    };
    Ok(SnapshotFrame { term, position: position.into(), chunk })
}

/// The entries of an append: what is left of the frame.
fn entries(frame: &mut Bytes, limits: WireLimits) -> Result<Entries, WireError> {
    if frame.is_empty() {
        return Ok(Entries::new());
    }
    let table = take_sized(frame, TABLE_LENGTH_BYTES, "table of entries")?;
    let table: &ArchivedTable = access(&table, "table of entries")?;
    let count = table.lengths.len();
    let max = limits.entries_max();
    if count > max {
        return Err(WireError::TooMany { what: "entries in a frame", count, max });
    }
    let mut terms = table
        .runs
        .iter()
        .flat_map(|run| std::iter::repeat_n(run.term.to_native(), run.count.to_native() as usize));
    let mut kinds = table
        .kinds
        .iter()
        .flat_map(|run| std::iter::repeat_n(&run.kind, run.count.to_native() as usize));
    let mut index = Some(table.first.to_native());
    let mut entries = Vec::with_capacity(count);
    for length in table.lengths.iter() {
        let (Some(term), Some(kind)) = (terms.next(), kinds.next()) else {
            return Err(WireError::Table { reason: "more lengths than terms or kinds" });
        };
        let Some(at) = index else {
            return Err(WireError::Table { reason: "the indexes pass the largest one" });
        };
        let length = length.to_native() as usize;
        if frame.len() < length {
            return Err(WireError::Truncated { what: "payloads" });
        }
        let payload = payload(kind, frame.split_to(length))?;
        entries.push(Entry { term: Term(term), index: Index(at), payload });
        index = at.checked_add(1);
    }
    if terms.next().is_some() || kinds.next().is_some() {
        return Err(WireError::Table { reason: "more terms or kinds than lengths" });
    }
    Ok(Entries::try_from_vec(entries)?)
}

fn payload(kind: &ArchivedKind, bytes: Bytes) -> Result<Payload, WireError> {
    Ok(match kind {
        ArchivedKind::Empty if bytes.is_empty() => Payload::Empty,
        ArchivedKind::Withheld if bytes.is_empty() => Payload::Withheld,
        ArchivedKind::Empty | ArchivedKind::Withheld => {
            return Err(WireError::Table { reason: "an empty entry has a payload" });
        }
        ArchivedKind::Command => Payload::Command(bytes),
        ArchivedKind::Membership => {
            let members = access::<ArchivedMembers>(&bytes, "configuration")?;
            Payload::Membership(Membership::try_from(members)?.into())
        }
    })
}
