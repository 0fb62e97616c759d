//! What clients ask.

use bytes::Bytes;

use super::{FrameBuilder, RawItem, decode_items, put_option, read_bool, read_option};
use crate::codec::{Malformed, Put, Reader};

/// One request of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's number for it; the reply carries the same.
    pub id: u64,
    /// Who may serve it.
    pub at: ServeAt,
    /// What is asked, or why that can not be read: then only this request is refused, and not the frame.
    pub body: Result<RequestBody, Malformed>,
}

/// Who may serve a request. The answer is as linearizable from one as from the other; a status is always of the node that is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServeAt {
    /// The leader, which needs no other node's word to hand the request on: the quick way.
    #[default]
    Leader,
    /// Whoever is asked: a follower passes a write on to the leader, and asks it for the index that a read needs. For clients that
    /// do not reach the leader.
    AnyMember,
}

impl ServeAt {
    /// The kind of a request that is to be served so.
    pub(crate) fn kind(self, kind: u8) -> u8 {
        match self {
            ServeAt::Leader => kind,
            ServeAt::AnyMember => kind | kind::AT_ANY_MEMBER,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// A [`Command`](crate::Command) for the log, as its bytes. They are not looked at here.
    Command(Bytes),
    /// One key, linearizably.
    Get {
        /// The key.
        key: Bytes,
    },
    /// A page of keys, linearizably.
    Range {
        /// The first key wanted.
        start: Bytes,
        /// The first key not wanted any more; `None` for no end.
        end: Option<Bytes>,
        /// The most records wanted.
        limit: u32,
        /// Leave the values away.
        keys_only: bool,
    },
    /// Numbers about the state, linearizably.
    Stats,
    /// How the asked node is, whatever it is.
    Status,
    /// Everything from `start` on, as of one moment not before the request.
    Dump {
        /// The first key wanted.
        start: Bytes,
    },
}

pub(crate) mod kind {
    pub(crate) const COMMAND: u8 = 1;
    pub(super) const GET: u8 = 2;
    pub(super) const RANGE: u8 = 3;
    pub(super) const STATS: u8 = 4;
    pub(super) const STATUS: u8 = 5;
    pub(super) const DUMP: u8 = 6;
    /// Added to a kind: any member may serve it.
    pub(super) const AT_ANY_MEMBER: u8 = 0x80;
}

impl FrameBuilder {
    /// Appends a request for the leader.
    pub fn push_request(&mut self, id: u64, body: &RequestBody) {
        self.push_request_at(id, ServeAt::Leader, body);
    }

    /// Appends a request, and says who may serve it.
    pub fn push_request_at(&mut self, id: u64, at: ServeAt, body: &RequestBody) {
        let kind = |kind| at.kind(kind);
        match body {
            RequestBody::Command(command) => {
                self.push(id, kind(kind::COMMAND), |out| out.put(command));
            }
            RequestBody::Get { key } => self.push(id, kind(kind::GET), |out| out.put(key)),
            RequestBody::Range { start, end, limit, keys_only } => {
                self.push(id, kind(kind::RANGE), |out| {
                    out.put_bytes(start);
                    put_option(out, end.as_ref(), |out, end| out.put_bytes(end));
                    out.put_u32(*limit);
                    out.put_u8(u8::from(*keys_only));
                });
            }
            RequestBody::Stats => self.push(id, kind(kind::STATS), |_| ()),
            RequestBody::Status => self.push(id, kind(kind::STATUS), |_| ()),
            RequestBody::Dump { start } => self.push(id, kind(kind::DUMP), |out| out.put(start)),
        }
    }
}

/// Reads a frame of requests. Commands and keys are slices of it, not copies.
///
/// # Errors
/// If the frame as a whole makes no sense; a request that makes none is reported in its place.
pub fn decode_requests(frame: &Bytes) -> Result<Vec<Request>, Malformed> {
    decode_items(frame, |item| {
        let at = match item.kind & kind::AT_ANY_MEMBER {
            0 => ServeAt::Leader,
            _ => ServeAt::AnyMember,
        };
        Ok(Request { id: item.id, at, body: decode_body(frame, &item) })
    })
}

fn decode_body(frame: &Bytes, item: &RawItem<'_>) -> Result<RequestBody, Malformed> {
    let mut reader = Reader::new(item.payload);
    let body = match item.kind & !kind::AT_ANY_MEMBER {
        kind::COMMAND => return Ok(RequestBody::Command(frame.slice_ref(item.payload))),
        kind::GET => return Ok(RequestBody::Get { key: frame.slice_ref(item.payload) }),
        kind::DUMP => return Ok(RequestBody::Dump { start: frame.slice_ref(item.payload) }),
        kind::RANGE => RequestBody::Range {
            start: frame.slice_ref(reader.bytes("a range's start")?),
            end: read_option(&mut reader, "a range's end", |reader| {
                Ok(frame.slice_ref(reader.bytes("a range's end")?))
            })?,
            limit: reader.u32("a range's limit")?,
            keys_only: read_bool(&mut reader, "a range's flag")?,
        },
        kind::STATS => RequestBody::Stats,
        kind::STATUS => RequestBody::Status,
        _ => return Err(Malformed::UnknownTag { what: "request", tag: item.kind }),
    };
    reader.finish()?;
    Ok(body)
}
