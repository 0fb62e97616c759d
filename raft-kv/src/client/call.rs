//! A request as its caller made it.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{ClientError, Page};
use crate::command::{Expect, Write, WriteOutcome};
use crate::limits::LimitExceeded;
use crate::protocol::RequestBody;
use crate::query::{Record, Stats};

/// What a compare-and-set demands of a key: [`Expect`], with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectKey {
    /// There is no such key.
    Absent,
    /// It has exactly this value.
    Value(Bytes),
    /// It was last modified at this revision.
    ModRevision(u64),
}

impl ExpectKey {
    fn borrow(&self) -> Expect<'_> {
        match self {
            ExpectKey::Absent => Expect::Absent,
            ExpectKey::Value(value) => Expect::Value(value),
            ExpectKey::ModRevision(revision) => Expect::ModRevision(*revision),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
    CompareAndSet { key: Bytes, expect: ExpectKey, value: Option<Bytes> },
    Get { key: Bytes },
    Range { start: Bytes, end: Option<Bytes>, limit: u32, keys_only: bool },
    Stats,
}

impl Op {
    /// The write, if it is one.
    pub(super) fn write(&self) -> Option<Write<'_>> {
        Some(match self {
            Op::Put { key, value } => Write::Put { key, value },
            Op::Delete { key } => Write::Delete { key },
            Op::CompareAndSet { key, expect, value } => {
                Write::CompareAndSet { key, expect: expect.borrow(), value: value.as_deref() }
            }
            Op::Get { .. } | Op::Range { .. } | Op::Stats => return None,
        })
    }

    pub(super) fn check(&self) -> Result<(), LimitExceeded> {
        self.write().map_or(Ok(()), |write| write.check())
    }

    /// The read, if it is one.
    pub(super) fn read(&self) -> Option<RequestBody> {
        Some(match self {
            Op::Get { key } => RequestBody::Get { key: key.clone() },
            Op::Range { start, end, limit, keys_only } => RequestBody::Range {
                start: start.clone(),
                end: end.clone(),
                limit: *limit,
                keys_only: *keys_only,
            },
            Op::Stats => RequestBody::Stats,
            Op::Put { .. } | Op::Delete { .. } | Op::CompareAndSet { .. } => return None,
        })
    }
}

/// What a caller gets.
#[derive(Debug)]
pub(super) enum Answered {
    Written(WriteOutcome),
    Value(Option<Record>),
    Page(Page),
    Stats(Stats),
}

/// A request on its way from the caller to the client's task.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) reply: oneshot::Sender<Result<Answered, ClientError>>,
    pub(super) deadline: Instant,
    /// How long it may take in all, until `deadline`.
    pub(super) timeout: Duration,
}
