//! Questions, which do not go through the log, and their answers.

use std::sync::Arc;

use bytes::Bytes;

use crate::scan::Scan;
#[cfg(feature = "node")]
use crate::scan::{ScanEnded, ScanPage};

/// A question to the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// One key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// A page of keys in their order.
    Range {
        /// The first key wanted.
        start: Bytes,
        /// The first key not wanted any more; `None` for no end.
        end: Option<Bytes>,
        /// The most records wanted. Pages are also bounded by [`Query::PAGE_BYTES_MAX`].
        limit: u32,
        /// Leave the values away.
        keys_only: bool,
    },
    /// Numbers about the state.
    Stats,
    /// To read all keys from `start` on as they are now, with as many [`Query::ScanPage`] as it takes, while writes go on.
    Scan {
        /// The first key wanted.
        start: Bytes,
        /// How many bytes may be put aside for it, of what is overwritten before it was read: with more, it ends.
        kept_bytes_max: usize,
    },
    /// The next page of a scan.
    ScanPage(Scan),
}

impl Query {
    /// About how many bytes of keys and values a page holds at most; one record always fits.
    pub const PAGE_BYTES_MAX: usize = 1 << 20;
    /// The most records in a page.
    pub const PAGE_RECORDS_MAX: u32 = 4096;
}

/// The answer to a [`Query`].
#[cfg(feature = "node")]
#[derive(Debug)]
pub enum Answer {
    /// To [`Query::Get`].
    Value(Option<Record>),
    /// To [`Query::Range`].
    Page {
        /// The records, in the order of their keys.
        records: Vec<KeyRecord>,
        /// Whether there are more in the range: ask again from right after the last key.
        has_more: bool,
    },
    /// To [`Query::Stats`].
    Stats(Stats),
    /// To [`Query::Scan`].
    Scan(Scan),
    /// To [`Query::ScanPage`].
    Scanned(Result<ScanPage, ScanEnded>),
}

/// What is known of a key (etcd's data model).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its value.
    pub value: Arc<[u8]>,
    /// The revision at which it was created.
    pub create_revision: u64,
    /// The revision at which it was last modified.
    pub mod_revision: u64,
    /// How often it was modified since its creation, which counts as 1.
    pub version: u64,
}

/// A key with its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key.
    pub key: Arc<[u8]>,
    /// What is known of it; the value is empty if only keys were asked for.
    pub record: Record,
}

/// Numbers about the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The last log index that it includes.
    pub applied: u64,
    /// The last revision.
    pub revision: u64,
    /// How many keys there are.
    pub keys: u64,
    /// How many sessions are open.
    pub sessions: u64,
    /// A digest of all keys and records: equal states have equal digests, however they came about.
    pub digest: u128,
}
