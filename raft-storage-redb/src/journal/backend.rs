//! The backend that redb works on: the file, and in front of its syncs the journal.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use redb::{BackendError, StorageBackend};

use super::BLOCK_BYTES;
use super::checkpoint::Checkpoint;
use super::record::{RECORD_HEADER_BYTES, Record};
use super::recover::Recovered;
use super::ring::{Ring, Span};

/// Which part of the journal a record may take. A commit larger than that is written through.
const RECORD_PART: u64 = 8;
/// No record is larger than this. Beyond, writing every byte twice costs more than a second sync.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// After how large a part of the journal the file is synced in the background.
const CHECKPOINT_PART: u64 = 4;
/// How much of the buffer of records is kept.
const KEPT_BYTES: usize = 256 << 10;

/// Where the file is synced when the journal fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoints {
    /// By a thread.
    Background,
    /// By the commit that fills it: for tests that need one order of events.
    #[cfg(test)]
    Inline,
}

/// A file with a journal.
#[derive(Debug)]
pub(crate) struct Journaled<M, J> {
    file: Arc<Checkpoint<M>>,
    writer: Mutex<Writer<J>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Writer<J> {
    journal: J,
    id: [u8; 16],
    ring: Ring,
    record: Record,
    record_bytes_max: usize,
    /// More was written than a record holds.
    overflown: bool,
    /// How many blocks were written since the file was last asked to be synced.
    since_request: u64,
    request_blocks: u64,
    inline: bool,
    failed: bool,
}

impl<M: StorageBackend, J: StorageBackend> Journaled<M, J> {
    pub(crate) fn new(
        file: M,
        journal: J,
        recovered: Recovered,
        checkpoints: Checkpoints,
    ) -> io::Result<Journaled<M, J>> {
        let Recovered { id, blocks, ring, stamp } = recovered;
        let file = Arc::new(Checkpoint::new(file, stamp));
        let thread = match checkpoints {
            Checkpoints::Background => {
                let file = file.clone();
                let named = std::thread::Builder::new().name("log-checkpoint".into());
                Some(named.spawn(move || file.work())?)
            }
            #[cfg(test)]
            Checkpoints::Inline => None,
        };
        let part = (blocks / RECORD_PART).max(1) * BLOCK_BYTES as u64;
        let writer = Writer {
            journal,
            id,
            ring,
            record: Record::default(),
            record_bytes_max: part.min(RECORD_BYTES_MAX) as usize,
            overflown: false,
            since_request: 0,
            request_blocks: (blocks / CHECKPOINT_PART).max(1),
            inline: thread.is_none(),
            failed: false,
        };
        Ok(Journaled { file, writer: Mutex::new(writer), thread: Mutex::new(thread) })
    }

    fn writer(&self) -> MutexGuard<'_, Writer<J>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M, J> Journaled<M, J> {
    fn stop_thread(&self) {
        self.file.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join(); // it does not panic; and if it did, nothing waits for what it did
        }
    }
}

impl<M, J> Drop for Journaled<M, J> {
    /// redb has called `close`, unless it panicked: then the file stays as after a crash.
    fn drop(&mut self) {
        self.stop_thread();
    }
}

impl<J: StorageBackend> Writer<J> {
    fn check(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to the log file or its journal failed"));
        }
        Ok(())
    }

    /// Makes durable what was written since the last call.
    fn commit<M: StorageBackend>(&mut self, file: &Checkpoint<M>) -> io::Result<()> {
        if self.overflown {
            // Everything is in the file; the record says that no earlier one is needed. Should the power go in between, the
            // earlier ones are replayed over parts of this commit: it was not acknowledged.
            file.run(self.ring.last(), false)?;
            self.record.clear();
            return self.free(file.done()?);
        }
        let blocks = self.record.bytes.len().div_ceil(BLOCK_BYTES) as u64;
        let mut start = self.ring.next(blocks);
        if start.is_none() {
            let last = self.ring.last();
            if self.inline {
                file.run(last, false)?
            } else {
                file.wait(last)?
            }
            let record = std::mem::take(&mut self.record);
            self.free(file.done()?)?;
            self.record = record;
            start = self.ring.next(blocks);
        }
        let start = start.ok_or_else(|| io::Error::other("the journal has no room"))?;
        self.put(start, file.done()? + 1)?;
        self.since_request += blocks;
        if self.since_request >= self.request_blocks {
            self.since_request = 0;
            let last = self.ring.last();
            if self.inline { file.run(last, false)? } else { file.request(last) }
        }
        Ok(())
    }

    /// Writes a record that says that the file needs none of those before it.
    fn free(&mut self, done: u64) -> io::Result<()> {
        let start = self.ring.next_that_frees();
        let start = start.ok_or_else(|| io::Error::other("the journal has no room"))?;
        // The record is empty, so if none before it is needed, it is not needed either.
        let oldest = if done == self.ring.last() { done + 2 } else { done + 1 };
        self.put(start, oldest)
    }

    /// Writes the record, and syncs it.
    fn put(&mut self, start: u64, oldest: u64) -> io::Result<()> {
        let sequence = self.ring.last() + 1;
        self.record.seal(&self.id, sequence, oldest);
        self.journal.write((1 + start) * BLOCK_BYTES as u64, &self.record.bytes)?;
        self.journal.sync_data()?;
        let blocks = (self.record.bytes.len() / BLOCK_BYTES) as u64;
        self.ring.push(Span { sequence, start, blocks }, oldest);
        self.record.clear();
        self.record.bytes.shrink_to(KEPT_BYTES);
        Ok(())
    }

    /// Notes a change whose bytes are in the file now, as long as there is room for it in a record.
    fn note(&mut self, bytes: usize, push: impl FnOnce(&mut Record)) {
        if self.overflown || self.record.bytes_with(bytes) > self.record_bytes_max {
            self.overflown = true;
            self.record.clear();
            return;
        }
        push(&mut self.record);
    }
}

impl<M: StorageBackend, J: StorageBackend> StorageBackend for Journaled<M, J> {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut writer = self.writer();
        writer.check()?;
        let outcome = self.file.file.set_len(len);
        writer.failed |= outcome.is_err();
        writer.note(0, |record| record.push_length(len));
        outcome
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut writer = self.writer();
        writer.check()?;
        if writer.record.is_empty() && !writer.overflown {
            return Ok(()); // all that was written is durable
        }
        let outcome = writer.commit(&self.file);
        writer.failed |= outcome.is_err();
        writer.overflown = false;
        outcome
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut writer = self.writer();
        writer.check()?;
        let outcome = self.file.file.write(offset, data);
        writer.failed |= outcome.is_err();
        writer.note(data.len(), |record| record.push_write(offset, data));
        outcome
    }

    /// Syncs the file, and stamps it as one that does not need its journal.
    fn close(&self) -> Result<(), io::Error> {
        self.stop_thread();
        let writer = self.writer();
        let all_durable = !writer.failed && writer.record.bytes.len() == RECORD_HEADER_BYTES;
        let outcome = if all_durable && !writer.overflown {
            // The pages first: a stamp that says so must not be there before them.
            self.file
                .run(writer.ring.last(), false)
                .and_then(|()| self.file.run(writer.ring.last(), true))
        } else {
            Ok(())
        };
        let closed = writer.journal.close();
        outcome.and(self.file.file.close()).and(closed)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.file.query_lock_range(start, end)
    }
}
