//! Which store this is and how often a node was started on it: a row that each start writes before it says anything, and by which a
//! copy of the file is told from the file. What follows from a new id is the group's affair.
//!
//! A copy holds what the file held when it was copied. If it is put back later, the node has forgotten votes and acknowledgements
//! that others rely on, and nothing in the file can show that: the copy is whole. But a copy is another *file*. So the row says of
//! which file it is (its inode and when that was made), and a start that finds another one takes a new id. Snapshots of a whole disk
//! are not found so; they are by their life, if a peer has seen a later one.

use std::path::Path;
use std::time::UNIX_EPOCH;

use raft_core::{Membership, NodeId, RestoredLog, StoreId, StoreStamp};

use crate::format::{Cursor, FORMAT_VERSION, Identity, Malformed, check_version, seal, unseal};

/// A file, as the operating system tells it from all others that there are or were on its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileMark {
    /// 0 if the system does not tell.
    pub(crate) inode: u64,
    /// When it was made, in nanoseconds since 1970; 0 if the file system does not remember.
    pub(crate) born: u64,
}

impl FileMark {
    #[cfg(unix)]
    pub(crate) fn of(path: &Path) -> std::io::Result<FileMark> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path)?;
        let since = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let born = since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
        Ok(FileMark { inode: metadata.ino(), born })
    }

    #[cfg(not(unix))]
    pub(crate) fn of(_: &Path) -> std::io::Result<FileMark> {
        let _ = UNIX_EPOCH;
        Ok(FileMark::default())
    }

    /// Whether the two are surely not one file.
    fn differs(self, other: FileMark) -> bool {
        let differ = |one: u64, two: u64| one != two && one != 0 && two != 0;
        differ(self.inode, other.inode) || differ(self.born, other.born)
    }
}

/// The row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) store: [u8; 16],
    /// How many times a node was started on it.
    pub(crate) count: u64,
    pub(crate) mark: FileMark,
}

impl Life {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(64);
        row.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        row.extend_from_slice(&self.store);
        for number in [self.count, self.mark.inode, self.mark.born] {
            row.extend_from_slice(&number.to_le_bytes());
        }
        seal(&mut row);
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Life, Malformed> {
        check_version(Cursor(row).u16()?)?;
        let mut cursor = Cursor(unseal(row)?);
        cursor.take(2)?;
        let (store, count) = (cursor.array()?, cursor.u64()?);
        let mark = FileMark { inode: cursor.u64()?, born: cursor.u64()? };
        cursor.finish()?;
        Ok(Life { store, count, mark })
    }

    /// The store and life as the core knows them; the nonce is the driver's.
    pub(crate) fn stamp(&self) -> StoreStamp {
        let id = u64::from_le_bytes(*self.store.first_chunk().unwrap_or(&[0; 8]));
        StoreStamp { id: StoreId(id), life: self.count, nonce: 0 }
    }
}

/// What a start finds, beside the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lives {
    /// The row of the last start; `None` in a file that is new, or of a version that did not count.
    pub(crate) last: Option<Life>,
    /// The file at this start.
    pub(crate) mark: FileMark,
    /// Whether a copy goes on as what it was copied from.
    pub(crate) adopts_copy: bool,
}

impl Lives {
    /// Whether the file is a copy of the one that the last start was on, and is to be another store.
    pub(crate) fn is_copy(&self, node: NodeId, log: &RestoredLog) -> bool {
        let is_other = self.last.is_some_and(|last| last.mark.differs(self.mark));
        // The only voter has nobody who could know better, or fill it.
        is_other && !self.adopts_copy && !is_alone(node, log)
    }

    /// The row of the next start. `fresh` is a new id, for a copy.
    pub(crate) fn next(&self, identity: &Identity, fresh: Option<[u8; 16]>) -> Life {
        let mark = self.mark;
        match (fresh, self.last) {
            (Some(store), _) => Life { store, count: 1, mark },
            (None, Some(last)) => Life { count: last.count.saturating_add(1), mark, ..last },
            (None, None) => Life { store: identity.store, count: 1, mark },
        }
    }
}

fn is_alone(node: NodeId, log: &RestoredLog) -> bool {
    let latest = log.memberships.last().map_or(&log.base_membership, |(_, latest)| latest);
    let Membership { voters, outgoing, .. } = latest;
    outgoing.is_empty() && voters.iter().eq([&node])
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { cluster: [1; 16], node: NodeId(2), store: [3; 16] };

    fn mark(inode: u64, born: u64) -> FileMark {
        FileMark { inode, born }
    }

    fn log_of(voters: &[u64]) -> RestoredLog {
        let base_membership = Membership::of_voters(voters.iter().copied().map(NodeId));
        RestoredLog { base_membership, ..RestoredLog::default() }
    }

    #[test]
    fn a_row_comes_back_and_every_flipped_bit_of_it_is_noticed() {
        let life = Life { store: [7; 16], count: 9, mark: mark(11, 13) };
        let row = life.encode();
        assert_eq!(row.len(), 50);
        assert_eq!(Life::decode(&row), Ok(life));
        for bit in 0..row.len() * 8 {
            let mut bad = row.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Life::decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..row.len() {
            assert!(Life::decode(&row[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_copy_is_another_file_unless_it_is_adopted_or_all_that_there_is() {
        let last = Life { store: [7; 16], count: 9, mark: mark(11, 13) };
        let lives = |mark, adopts_copy| Lives { last: Some(last), mark, adopts_copy };
        let three = log_of(&[1, 2, 3]);
        for same in [mark(11, 13), mark(11, 0), mark(0, 0)] {
            assert!(!lives(same, false).is_copy(NodeId(2), &three), "{same:?}");
        }
        for other in [mark(12, 13), mark(11, 14), mark(12, 0)] {
            assert!(lives(other, false).is_copy(NodeId(2), &three), "{other:?}");
            assert!(!lives(other, true).is_copy(NodeId(2), &three), "adopted");
            assert!(!lives(other, false).is_copy(NodeId(2), &log_of(&[2])), "the only voter");
        }
        let next = lives(mark(12, 14), false).next(&IDENTITY, Some([8; 16]));
        assert_eq!(next, Life { store: [8; 16], count: 1, mark: mark(12, 14) });
        let next = lives(mark(12, 14), true).next(&IDENTITY, None);
        assert_eq!(next, Life { store: [7; 16], count: 10, mark: mark(12, 14) });
        let first = Lives { last: None, mark: mark(1, 2), adopts_copy: false };
        assert!(!first.is_copy(NodeId(2), &three), "of a version that did not count");
        let next = first.next(&IDENTITY, None);
        assert_eq!(next, Life { store: [3; 16], count: 1, mark: mark(1, 2) });
    }
}
