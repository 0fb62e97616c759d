//! What the service answers.

use raft_core::NodeId;

use super::{
    FrameBuilder, NodeReport, decode_items, put_option, put_text, read_bool, read_option, read_text,
};
use crate::codec::{Malformed, Put, Reader};
use crate::command::{Response, WriteOutcome};
use crate::limits::LimitExceeded;
use crate::query::{KeyRecord, Query, Record, Stats};

/// One reply of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's number.
    pub id: u64,
    /// The answer.
    pub body: ReplyBody,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    /// The state machine's response to a command.
    Response(Response),
    /// To a get.
    Value(Option<Record>),
    /// To a range; or a part of a dump, which has as many replies as it needs, all but the last with `has_more`.
    Page {
        /// The records, in the order of their keys.
        records: Vec<KeyRecord>,
        /// Whether more follow.
        has_more: bool,
    },
    /// Numbers about the state.
    Stats(Stats),
    /// How the node is.
    Status(Box<NodeReport>),
    /// There is no answer.
    Failed(Fault),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// This node does not lead. Nothing was changed; ask there.
    #[error("it does not lead{}", hint(.leader.as_ref()))]
    NotLeader {
        /// Who leads and where it is, as far as this node knows.
        leader: Option<(NodeId, Option<String>)>,
    },
    /// Too much is waiting. Nothing was changed; try again a little later.
    #[error("it is busy")]
    Busy,
    /// Leadership was lost meanwhile: a write may or may not be applied. The same write may be sent again.
    #[error("it lost leadership while the write was under way")]
    OutcomeUnknown,
    /// The node has stopped. A write that was under way may or may not be applied.
    #[error("it has stopped: {why}")]
    Stopped {
        /// Why.
        why: String,
    },
    /// The request makes no sense to this node, whose version may be older. Nothing was changed.
    #[error("it can not read the request: {why}")]
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// The request will never be accepted as it is. Nothing was changed.
    #[error("it refused the request: {why}")]
    Refused {
        /// Which limit it breaks.
        why: String,
    },
    /// The node could not read its own state. Nothing was changed.
    #[error("it failed: {why}")]
    Failed {
        /// What happened.
        why: String,
    },
}

fn hint(leader: Option<&(NodeId, Option<String>)>) -> String {
    leader.map_or(" and knows no leader".into(), |(leader, _)| format!("; node {leader} does"))
}

mod kind {
    pub(super) const RESPONSE: u8 = 1;
    pub(super) const VALUE: u8 = 2;
    pub(super) const PAGE: u8 = 3;
    pub(super) const STATS: u8 = 4;
    pub(super) const STATUS: u8 = 5;
    pub(super) const FAILED: u8 = 6;
}

impl FrameBuilder {
    /// Appends a reply.
    pub fn push_reply(&mut self, reply: &Reply) {
        let id = reply.id;
        match &reply.body {
            ReplyBody::Response(response) => {
                self.push(id, kind::RESPONSE, |out| put_response(out, *response));
            }
            ReplyBody::Value(record) => {
                self.push(id, kind::VALUE, |out| put_option(out, record.as_ref(), put_record));
            }
            ReplyBody::Page { records, has_more } => self.push(id, kind::PAGE, |out| {
                out.put_u8(u8::from(*has_more));
                out.put_u32(records.len() as u32);
                for KeyRecord { key, record } in records {
                    out.put_bytes(key);
                    put_record(out, record);
                }
            }),
            ReplyBody::Stats(stats) => self.push(id, kind::STATS, |out| put_stats(out, stats)),
            ReplyBody::Status(report) => self.push(id, kind::STATUS, |out| report.put_to(out)),
            ReplyBody::Failed(fault) => self.push(id, kind::FAILED, |out| put_fault(out, fault)),
        }
    }
}

/// Reads a frame of replies.
///
/// # Errors
/// If anything in it makes no sense: nothing on such a stream can be trusted further.
pub fn decode_replies(frame: &[u8]) -> Result<Vec<Reply>, Malformed> {
    decode_items(frame, |item| {
        let mut reader = Reader::new(item.payload);
        let body = read_body(&mut reader, item.kind)?;
        reader.finish()?;
        Ok(Reply { id: item.id, body })
    })
}

fn read_body(reader: &mut Reader<'_>, kind: u8) -> Result<ReplyBody, Malformed> {
    Ok(match kind {
        kind::RESPONSE => ReplyBody::Response(read_response(reader)?),
        kind::VALUE => ReplyBody::Value(read_option(reader, "a value", read_record)?),
        kind::PAGE => read_page(reader)?,
        kind::STATS => ReplyBody::Stats(read_stats(reader)?),
        kind::STATUS => ReplyBody::Status(Box::new(NodeReport::read_from(reader)?)),
        kind::FAILED => ReplyBody::Failed(read_fault(reader)?),
        tag => return Err(Malformed::UnknownTag { what: "reply", tag }),
    })
}

fn read_page(reader: &mut Reader<'_>) -> Result<ReplyBody, Malformed> {
    let has_more = read_bool(reader, "a page")?;
    let count = reader.u32("a page")?;
    if count > Query::PAGE_RECORDS_MAX {
        return Err(Malformed::Truncated { what: "a page that claims too many records" });
    }
    let mut records = Vec::new();
    for _ in 0..count {
        let key = reader.bytes("a key")?.into();
        records.push(KeyRecord { key, record: read_record(reader)? });
    }
    Ok(ReplyBody::Page { records, has_more })
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    out.put_u64(record.create_revision);
    out.put_u64(record.mod_revision);
    out.put_u64(record.version);
    out.put_bytes(&record.value);
}

fn read_record(reader: &mut Reader<'_>) -> Result<Record, Malformed> {
    Ok(Record {
        create_revision: reader.u64("a record")?,
        mod_revision: reader.u64("a record")?,
        version: reader.u64("a record")?,
        value: reader.bytes("a record's value")?.into(),
    })
}

pub(super) fn put_stats(out: &mut Vec<u8>, stats: &Stats) {
    out.put_u64(stats.applied);
    out.put_u64(stats.revision);
    out.put_u64(stats.keys);
    out.put_u64(stats.sessions);
    out.put_u128(stats.digest);
}

pub(super) fn read_stats(reader: &mut Reader<'_>) -> Result<Stats, Malformed> {
    Ok(Stats {
        applied: reader.u64("numbers")?,
        revision: reader.u64("numbers")?,
        keys: reader.u64("numbers")?,
        sessions: reader.u64("numbers")?,
        digest: reader.u128("a digest")?,
    })
}

fn put_response(out: &mut Vec<u8>, response: Response) {
    match response {
        Response::SessionOpened => out.put_u8(1),
        Response::Written(outcome) => {
            out.put_u8(2);
            outcome.put_to(out);
        }
        Response::SessionExpired => out.put_u8(3),
        Response::WindowExceeded => out.put_u8(4),
        Response::Refused(limit) => {
            out.put_u8(5);
            let (tag, bytes) = match limit {
                LimitExceeded::EmptyKey => (1, 0),
                LimitExceeded::KeyTooLong { bytes } => (2, bytes),
                LimitExceeded::ValueTooLong { bytes } => (3, bytes),
            };
            out.put_u8(tag);
            out.put_u64(bytes as u64);
        }
        Response::Malformed => out.put_u8(6),
    }
}

fn read_response(reader: &mut Reader<'_>) -> Result<Response, Malformed> {
    Ok(match reader.u8("a response")? {
        1 => Response::SessionOpened,
        2 => Response::Written(WriteOutcome::read_from(reader)?),
        3 => Response::SessionExpired,
        4 => Response::WindowExceeded,
        5 => {
            let tag = reader.u8("a limit")?;
            let bytes = usize::try_from(reader.u64("a limit")?).unwrap_or(usize::MAX);
            Response::Refused(match tag {
                1 => LimitExceeded::EmptyKey,
                2 => LimitExceeded::KeyTooLong { bytes },
                3 => LimitExceeded::ValueTooLong { bytes },
                tag => return Err(Malformed::UnknownTag { what: "limit", tag }),
            })
        }
        6 => Response::Malformed,
        tag => return Err(Malformed::UnknownTag { what: "response", tag }),
    })
}

fn put_fault(out: &mut Vec<u8>, fault: &Fault) {
    match fault {
        Fault::NotLeader { leader } => {
            out.put_u8(1);
            put_option(out, leader.as_ref(), |out, (leader, address)| {
                out.put_u64(leader.0);
                put_option(out, address.as_deref(), put_text);
            });
        }
        Fault::Busy => out.put_u8(2),
        Fault::OutcomeUnknown => out.put_u8(3),
        Fault::Stopped { why } => {
            out.put_u8(4);
            put_text(out, why);
        }
        Fault::Malformed { why } => {
            out.put_u8(5);
            put_text(out, why);
        }
        Fault::Refused { why } => {
            out.put_u8(6);
            put_text(out, why);
        }
        Fault::Failed { why } => {
            out.put_u8(7);
            put_text(out, why);
        }
    }
}

fn read_fault(reader: &mut Reader<'_>) -> Result<Fault, Malformed> {
    let tag = reader.u8("a fault")?;
    Ok(match tag {
        1 => Fault::NotLeader {
            leader: read_option(reader, "a leader", |reader| {
                let leader = NodeId(reader.u64("a leader")?);
                let address =
                    read_option(reader, "an address", |reader| read_text(reader, "an address"))?;
                Ok((leader, address))
            })?,
        },
        2 => Fault::Busy,
        3 => Fault::OutcomeUnknown,
        4..=7 => {
            let why = read_text(reader, "a reason")?;
            match tag {
                4 => Fault::Stopped { why },
                5 => Fault::Malformed { why },
                6 => Fault::Refused { why },
                _ => Fault::Failed { why },
            }
        }
        tag => return Err(Malformed::UnknownTag { what: "fault", tag }),
    })
}
