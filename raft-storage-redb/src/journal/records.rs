//! The records of an open journal: those of pages and those of writes of the log, in one order. What it is not: it does not know what
//! either of them holds.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::BLOCK_BYTES;
use super::durable::{self, CommitNumber, Durable};
use super::record::{Note, Record};
use super::ring::{Ring, Span};

/// How much of a buffer of records is kept.
const KEPT_BYTES: usize = 256 << 10;
/// How many single blocks must be left besides the largest record of pages: to announce a commit and to end it, and the same at the
/// next start.
const RESERVED_BLOCKS: u64 = 4;

/// The journal and where its next record goes.
#[derive(Debug)]
pub(crate) struct Records<J>(Mutex<State<J>>);

#[derive(Debug)]
pub(super) struct State<J> {
    pub(super) journal: J,
    id: [u8; 16],
    pub(super) ring: Ring,
    /// The last commit of redb that is durable.
    commit: Durable<CommitNumber>,
    /// What redb writes goes straight to the file.
    writes_through: bool,
    /// The records of writes that redb's file does not hold yet: the number of the write, the number of the record.
    unsettled: VecDeque<(u64, u64)>,
    /// How many blocks were written since the last checkpoint began.
    pub(super) since_start: u64,
    failed: bool,
}

impl<J: StorageBackend> Records<J> {
    pub(super) fn new(
        journal: J,
        id: [u8; 16],
        ring: Ring,
        commit: Durable<CommitNumber>,
        writes_through: bool,
        unsettled: VecDeque<(u64, u64)>,
    ) -> Records<J> {
        Records(Mutex::new(State {
            journal,
            id,
            ring,
            commit,
            writes_through,
            unsettled,
            since_start: 0,
            failed: false,
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<J>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a write of the log durable. `synced`: up to which record the file is synced. `false` if there is no room for it.
    pub(super) fn append(
        &self,
        write: u64,
        record: &mut Record,
        page_blocks_max: u64,
        synced: Durable<u64>,
    ) -> io::Result<bool> {
        let mut state = self.state();
        let blocks = record.blocks();
        let reserve = page_blocks_max + RESERVED_BLOCKS;
        let Some(start) = state.ring.next_leaving(blocks, reserve) else { return Ok(false) };
        let number = state.ring.last() + 1;
        state.unsettled.push_back((write, number));
        state.put(record, start, synced, None)?;
        Ok(true)
    }
}

impl<J> State<J> {
    /// Whether redb holds all that the journal does, as far as is known.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && !self.failed
    }
}

impl<J: StorageBackend> State<J> {
    /// Notes a commit of redb: the records that follow say so, and the writes that it holds need no record of their own any more.
    pub(super) fn committed(&mut self, commit: Durable<CommitNumber>) {
        self.commit = self.commit.max(commit);
        let through = self.commit.get().0;
        while self.unsettled.front().is_some_and(|(number, _)| *number <= through) {
            self.unsettled.pop_front();
        }
    }

    /// The next record announces that what redb writes goes straight to the file, or ends that.
    pub(super) fn set_writes_through(&mut self, writes_through: bool) {
        self.writes_through = writes_through;
    }

    /// Writes the record, and syncs it. `synced`: up to which record the file is synced; it may need the pages of all later ones.
    /// `commits`: the commit of redb whose last pages stand in this record.
    pub(super) fn put(
        &mut self,
        record: &mut Record,
        start: u64,
        synced: Durable<u64>,
        commits: Option<CommitNumber>,
    ) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to the journal failed"));
        }
        self.failed = true;
        let sequence = self.ring.last() + 1;
        let place = record.blocks();
        let oldest = synced.get() + 1;
        // If this record is found whole, so is the commit that it completes.
        let commit = self.commit.get().max(commits.unwrap_or_default());
        record.push_note(Note { sequence: commit.0, writes_through: self.writes_through });
        record.push_pages(oldest);
        let needed = self.unsettled.front().map_or(oldest, |(_, number)| oldest.min(*number));
        record.seal(&self.id, sequence, needed);
        if (record.bytes.len() / BLOCK_BYTES) as u64 != place {
            return Err(io::Error::other(
                "a record is larger than the place that was found for it",
            ));
        }
        self.journal.write((1 + start) * BLOCK_BYTES as u64, &record.bytes)?;
        let commit = durable::sync(&self.journal, commit)?;
        let blocks = (record.bytes.len() / BLOCK_BYTES) as u64;
        self.ring.push(Span { sequence, start, blocks }, needed);
        self.committed(commit);
        self.since_start += blocks;
        record.clear();
        record.bytes.shrink_to(KEPT_BYTES);
        self.failed = false;
        Ok(())
    }
}
