//! The log on disk: what the driver asks of it.

use raft_core::{Entries, Index, LogPosition, Membership, Persist, RestoredLog, StoreStamp};

use crate::SizeLimit;

/// A durable log. Every method blocks; the driver calls all of them from one thread of its own, so that an
/// implementation needs no locks. Readers are the exception: see [`LogStore::reader`].
pub trait LogStore: Send + 'static {
    /// What the reader type is; it lives on other threads.
    type Reader: LogReader;

    /// Reports what is durable. Called once, before anything else.
    ///
    /// # Errors
    /// If the store can not be read or is damaged.
    fn restore(&mut self) -> Result<RestoredLog, StorageError>;

    /// Begins a life: called once, right after `restore`, at each start of a node. A store has an id, drawn at random when it
    /// is made and kept as long as it exists; and it counts its lives. The new count is durable when this returns, whatever
    /// happens next: two starts never have the same. The `nonce` is the driver's to draw; what the store puts there does
    /// not count.
    ///
    /// By the id the group knows a member whose disk was wiped, and by the life one whose store went back in time; see
    /// [`StoreStamp`]. So a store that finds out that it is a copy of another (put back from a backup) takes a new id,
    /// unless it is told that the other is gone and was not used since.
    ///
    /// # Errors
    /// If it can not be written.
    fn begin_life(&mut self) -> Result<StoreStamp, StorageError>;

    /// Founds the log of a new group: records its first configuration as of index 0. Called at most once, right after
    /// `begin_life`, and only if the store is empty (no configuration, no entry). Durable when it returns.
    ///
    /// # Errors
    /// If it can not be written.
    fn found(&mut self, membership: &Membership) -> Result<(), StorageError>;

    /// Carries out the writes in order, as if one after the other, atomically as a whole. **When this returns `Ok`, all of them are
    /// durable**: they survive the loss of power. Several writes arrive together when they queued behind an earlier call (group commit).
    ///
    /// Each write: first `reset`, then `truncate_from`, then `entries`, together with `hard_state`.
    ///
    /// # Errors
    /// Any error is final: the driver stops and never calls again, since a failed fsync may have lost pages silently.
    fn write(&mut self, writes: &[Persist]) -> Result<(), StorageError>;

    /// Forgets everything up to and including `through`, which becomes the base; the configuration as of there is remembered. May be
    /// done lazily or in part, as long as what `restore` reports stays consistent, and need not be durable on return. A `through` at or
    /// before the base changes nothing (a snapshot may have replaced the log meanwhile).
    ///
    /// # Errors
    /// As for `write`.
    fn compact(&mut self, through: LogPosition) -> Result<(), StorageError>;

    /// The most bytes of a command that one entry can have here; `None` for as many as there may be. The driver does not start
    /// where the protocol's settings allow more.
    fn size_limit(&self) -> Option<SizeLimit> {
        None
    }

    /// A reader for other threads. It sees every write whose `write` call has returned.
    fn reader(&self) -> Self::Reader;
}

/// Reads entries while the log is being written.
pub trait LogReader: Send + 'static {
    /// Reads from `first` to `last` (both inclusive, at most to the end of the log), and stops early once `budget_bytes`
    /// ([`Entry::size_bytes`](raft_core::Entry::size_bytes)) are read; at least one entry is returned.
    ///
    /// # Errors
    /// [`ReadError::NotThere`] if `first` is compacted away or not yet written; others if the store is damaged.
    fn read(&self, first: Index, last: Index, budget_bytes: usize) -> Result<Entries, ReadError>;
}

/// A failure of the log store. Always final.
#[derive(Debug, thiserror::Error)]
#[error("log store: {message}")]
pub struct StorageError {
    /// What happened, to what, and what to do about it.
    pub message: String,
    /// The underlying error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The first entry is compacted away, or was never written.
    #[error("entry {first} is not in the log store")]
    NotThere {
        /// The index asked for.
        first: Index,
    },
    /// The store is damaged or unreadable.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
