//! Facts about what is on the disk. Only a sync that returned makes one, so nothing can be called durable before it is.
//!
//! What it is not: it does not say that the fact is true. Whoever calls [`sync`] wrote what the fact tells of before the call.

use std::io;

use redb::StorageBackend;

/// The number of a commit of redb: that of the last write of the log that it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CommitNumber(pub(crate) u64);

/// A fact that survives the loss of power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Durable<T>(T);

/// Syncs the file, which makes `fact` durable. The fact is fixed before the sync begins: what happens meanwhile is no part of it.
pub(crate) fn sync<T>(file: &impl StorageBackend, fact: T) -> io::Result<Durable<T>> {
    file.sync_data()?;
    Ok(Durable(fact))
}

impl<T: Copy> Durable<T> {
    pub(crate) fn get(self) -> T {
        self.0
    }
}

impl<T, U> Durable<(T, U)> {
    /// One sync made both durable.
    pub(crate) fn split(self) -> (Durable<T>, Durable<U>) {
        (Durable(self.0.0), Durable(self.0.1))
    }
}
