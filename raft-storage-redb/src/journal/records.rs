//! The records of an open journal: those of pages and those of writes of the log, in one order. What it is not: it does not know what
//! either of them holds.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::BLOCK_BYTES;
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
    /// What the next record says of redb's commits.
    pub(super) note: Note,
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
        note: Note,
        unsettled: VecDeque<(u64, u64)>,
    ) -> Records<J> {
        Records(Mutex::new(State {
            journal,
            id,
            ring,
            note,
            unsettled,
            since_start: 0,
            failed: false,
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<J>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a write of the log durable. `done`: up to which record the file is synced. `false` if there is no room for it.
    pub(super) fn append(
        &self,
        write: u64,
        record: &mut Record,
        page_blocks_max: u64,
        done: u64,
    ) -> io::Result<bool> {
        let mut state = self.state();
        record.push_note(state.note);
        let blocks = record.blocks();
        let reserve = page_blocks_max + RESERVED_BLOCKS;
        let Some(start) = state.ring.next_leaving(blocks, reserve) else { return Ok(false) };
        let number = state.ring.last() + 1;
        state.unsettled.push_back((write, number));
        state.put(record, start, done + 1)?;
        Ok(true)
    }

    /// The writes up to this one are in redb, durable: the records that follow say so.
    pub(super) fn settled(&self, write: u64) {
        let mut state = self.state();
        while state.unsettled.front().is_some_and(|(number, _)| *number <= write) {
            state.unsettled.pop_front();
        }
    }
}

impl<J> State<J> {
    /// Whether redb holds all that the journal does, as far as is known.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && !self.failed
    }
}

impl<J: StorageBackend> State<J> {
    /// Writes the record, and syncs it. `oldest`: the first whose pages the file may need.
    pub(super) fn put(&mut self, record: &mut Record, start: u64, oldest: u64) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to the journal failed"));
        }
        self.failed = true;
        let sequence = self.ring.last() + 1;
        let place = record.blocks();
        record.push_pages(oldest);
        let needed = self.unsettled.front().map_or(oldest, |(_, number)| oldest.min(*number));
        record.seal(&self.id, sequence, needed);
        if (record.bytes.len() / BLOCK_BYTES) as u64 != place {
            return Err(io::Error::other(
                "a record is larger than the place that was found for it",
            ));
        }
        self.journal.write((1 + start) * BLOCK_BYTES as u64, &record.bytes)?;
        self.journal.sync_data()?;
        let blocks = (record.bytes.len() / BLOCK_BYTES) as u64;
        self.ring.push(Span { sequence, start, blocks }, needed);
        self.since_start += blocks;
        record.clear();
        record.bytes.shrink_to(KEPT_BYTES);
        self.failed = false;
        Ok(())
    }
}
