//! The backend that redb works on: the file, and in front of its syncs the journal.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use redb::{BackendError, StorageBackend};

use super::BLOCK_BYTES;
use super::checkpoint::Checkpoint;
use super::durable::CommitNumber;
use super::record::Record;
use super::records::Records;
use super::recover::Recovered;

/// Which part of the journal a record may take. A commit larger than that is written through.
const RECORD_PART: u64 = 8;
/// No record is larger than this. Beyond, writing every byte twice costs more than a second sync.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// After how large a part of the journal the file is brought up to date in the background.
const CHECKPOINT_PART: u64 = 4;
/// Every commit of redb writes its header, which is this long; nothing else does while the log is in use.
const REDB_HEADER_BYTES: u64 = 320;

/// Where the file is synced when the journal fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoints {
    /// By a thread.
    Background,
    /// By the commit that fills it: for tests that need one order of events.
    #[cfg(any(test, feature = "testing"))]
    Inline,
    /// The same, but only when there is no room left.
    #[cfg(test)]
    InlineWhenFull,
}

/// A file with a journal.
#[derive(Debug)]
pub(crate) struct Journaled<M, J> {
    file: Arc<Checkpoint<M>>,
    writer: Arc<Mutex<Writer<J>>>,
    records: Arc<Records<J>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    log: Option<LogPart>,
}

/// What the log uses of the journal.
#[derive(Debug)]
pub(crate) struct LogPart {
    pub(crate) journal: Arc<dyn LogJournal>,
    /// The writes that redb may lack, in order, with their numbers.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    pub(crate) checkpoints: Checkpoints,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // four facts that do not depend on each other
struct Writer<J> {
    records: Arc<Records<J>>,
    record: Record,
    record_bytes_max: usize,
    /// More was written than a record holds.
    overflown: bool,
    /// All goes to the file, without records: while what the journal holds is being brought into redb after a crash.
    is_direct: bool,
    /// Since the last sync, redb wrote its header: the sync is that of a commit.
    commits: bool,
    /// The number of the commit that is under way or was the last: who commits says so here.
    expected: Arc<AtomicU64>,
    start_blocks: u64,
    failed: bool,
}

/// The journal as the log uses it: beside redb, not through it.
pub(crate) trait LogJournal: std::fmt::Debug + Send + Sync {
    /// Makes a write durable, as one record. `false` if it is too large or there is no room: then nothing was done.
    fn append(&self, number: u64, write: &[u8]) -> io::Result<bool>;
    /// redb holds all that the journal held when it was opened.
    fn replayed(&self) -> io::Result<()>;
    /// How many blocks of a record count for one of that many bytes.
    fn blocks(&self, bytes: usize) -> u64;
    /// How many blocks there are.
    fn capacity(&self) -> u64;
}

#[derive(Debug)]
struct Handle<M, J> {
    file: Arc<Checkpoint<M>>,
    writer: Arc<Mutex<Writer<J>>>,
    records: Arc<Records<J>>,
    record_bytes_max: usize,
    blocks: u64,
    record: Mutex<Record>,
}

impl<M: StorageBackend, J: StorageBackend> LogJournal for Handle<M, J> {
    fn append(&self, number: u64, write: &[u8]) -> io::Result<bool> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.clear();
        if record.bytes_with(write.len()) > self.record_bytes_max {
            return Ok(false);
        }
        record.push_log_write(number, write);
        let pages = (self.record_bytes_max / BLOCK_BYTES) as u64;
        self.records.append(number, &mut record, pages, self.file.done()?)
    }

    fn replayed(&self) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut writer.is_direct) {
            return Ok(());
        }
        writer.change(|writer| writer.free(&self.file))
    }

    fn blocks(&self, bytes: usize) -> u64 {
        Record::default().bytes_with(bytes).div_ceil(BLOCK_BYTES) as u64
    }

    fn capacity(&self) -> u64 {
        self.blocks
    }
}

impl<M: StorageBackend, J: StorageBackend> Journaled<M, J> {
    pub(crate) fn new(
        file: M,
        journal: J,
        recovered: Recovered,
        checkpoints: Checkpoints,
    ) -> io::Result<Journaled<M, J>> {
        let Recovered { id, blocks, ring, stamp, synced, commit, unsettled, writes } = recovered;
        let is_direct = !writes.is_empty();
        let sequence = commit.get().0;
        let records = Arc::new(Records::new(journal, id, ring, commit, is_direct, unsettled));
        let inline = checkpoints != Checkpoints::Background;
        let file = Arc::new(Checkpoint::new(file, stamp, synced, inline));
        let thread = match checkpoints {
            Checkpoints::Background => {
                let file = file.clone();
                let named = std::thread::Builder::new().name("log-checkpoint".into());
                Some(named.spawn(move || file.work())?)
            }
            #[cfg(any(test, feature = "testing"))]
            _ => None,
        };
        let part = (blocks / RECORD_PART).max(1) * BLOCK_BYTES as u64;
        let writer = Writer {
            records: records.clone(),
            record: Record::default(),
            record_bytes_max: part.min(RECORD_BYTES_MAX) as usize,
            overflown: false,
            is_direct,
            commits: false,
            expected: Arc::new(AtomicU64::new(sequence)),
            start_blocks: match checkpoints {
                #[cfg(test)]
                Checkpoints::InlineWhenFull => u64::MAX,
                _ => (blocks / CHECKPOINT_PART).max(1),
            },
            failed: false,
        };
        let handle = Arc::new(Handle {
            file: file.clone(),
            record_bytes_max: writer.record_bytes_max,
            writer: Arc::new(Mutex::new(writer)),
            records: records.clone(),
            blocks,
            record: Mutex::default(),
        });
        let (writer, thread) = (handle.writer.clone(), Mutex::new(thread));
        let log = Some(LogPart { journal: handle, writes, checkpoints });
        Ok(Journaled { file, writer, records, thread, log })
    }

    /// What the log uses beside redb. Once.
    pub(crate) fn take_log_part(&mut self) -> Option<LogPart> {
        self.log.take()
    }

    /// Where whoever commits notes the number of the commit, before it, and takes it back if it fails. Each record says up to which of
    /// them it is durable; what the file had before is in it already.
    pub(crate) fn expected(&self) -> Arc<AtomicU64> {
        self.writer().expected.clone()
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
    /// Any failure is final: what the disk holds is uncertain then.
    fn change(&mut self, change: impl FnOnce(&mut Writer<J>) -> io::Result<()>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write to the log file or its journal failed"));
        }
        let outcome = change(self);
        self.failed = outcome.is_err();
        outcome
    }

    /// Makes durable what was written since the last call.
    fn commit<M: StorageBackend>(&mut self, file: &Checkpoint<M>) -> io::Result<()> {
        let commits = std::mem::take(&mut self.commits)
            .then(|| CommitNumber(self.expected.load(Ordering::Relaxed)));
        if self.is_direct || self.overflown {
            self.sync_through(file, commits)?;
        }
        if self.is_direct {
            return Ok(());
        }
        if self.overflown {
            // Everything is in the file; the record says that no earlier one is needed. Should the power go in between, the
            // earlier ones are replayed over parts of this commit: it was not acknowledged.
            self.record.clear();
            self.records.state().since_start = 0;
            return self.free(file);
        }
        // A cut that nobody synced may be on the disk all the same; the replay undoes it.
        self.record.push_length(file.file.len()?);
        let mut state = self.records.state();
        let blocks = self.record.blocks();
        let start =
            state.ring.next(blocks).ok_or_else(|| io::Error::other("the journal has no room"))?;
        state.put(&mut self.record, start, file.done()?, commits)?;
        if state.since_start >= self.start_blocks && file.is_idle() {
            state.since_start = 0;
            let through = state.ring.last();
            drop(state);
            file.start(through)?;
        }
        Ok(())
    }

    /// Syncs the file, which holds the pages of all records and of the commit. Writes of the log are appended meanwhile: their
    /// records must not say yet that the commit is durable.
    fn sync_through<M: StorageBackend>(
        &mut self,
        file: &Checkpoint<M>,
        commits: Option<CommitNumber>,
    ) -> io::Result<()> {
        let through = self.records.state().ring.last();
        match commits {
            Some(commit) => {
                let commit = file.sync(through, false, commit)?;
                self.records.state().committed(commit);
            }
            None => {
                file.sync(through, false, ())?;
            }
        }
        Ok(())
    }

    /// Sees to it that the journal has room for the largest record. Before the first change of a commit, so that the file
    /// gets no part of one that is not durable.
    fn make_room<M: StorageBackend>(&mut self, file: &Checkpoint<M>) -> io::Result<()> {
        let blocks = (self.record_bytes_max / BLOCK_BYTES) as u64;
        if self.records.state().ring.next_leaving(blocks, 2).is_some() {
            return Ok(());
        }
        file.wait()?;
        let through = self.records.state().ring.last();
        if file.done()?.get() < through {
            file.start(through)?;
            file.wait()?;
        }
        self.records.state().since_start = 0;
        self.free(file)
    }

    /// Writes a record that says up to which record the file is synced: it needs none of those, but for the writes that redb lacks.
    /// Records that were appended during that sync stay.
    fn free<M: StorageBackend>(&mut self, file: &Checkpoint<M>) -> io::Result<()> {
        let synced = file.done()?;
        let mut state = self.records.state();
        let start = state.ring.next_that_frees();
        let start = start.ok_or_else(|| io::Error::other("the journal has no room"))?;
        state.set_writes_through(false);
        state.put(&mut self.record, start, synced, None)
    }

    /// Writes a record that says that what follows goes straight to the file.
    fn announce<M: StorageBackend>(&mut self, file: &Checkpoint<M>) -> io::Result<()> {
        let mut state = self.records.state();
        let start =
            state.ring.next(1).ok_or_else(|| io::Error::other("the journal has no room"))?;
        state.set_writes_through(true);
        state.put(&mut self.record, start, file.done()?, None)
    }

    /// Says whether a change of `bytes` goes into the record. If it is too much for one, everything goes to the file from
    /// here to the end of the commit.
    fn has_room<M: StorageBackend>(
        &mut self,
        file: &Checkpoint<M>,
        bytes: usize,
    ) -> io::Result<bool> {
        if self.is_direct {
            self.overflown = true;
            return Ok(false);
        }
        if self.record.is_empty() && !self.overflown {
            self.make_room(file)?;
        }
        if !self.overflown && self.record.bytes_with(bytes) > self.record_bytes_max {
            file.wait()?;
            self.record.clear();
            self.announce(file)?;
            file.write_out()?;
            self.overflown = true;
        }
        Ok(!self.overflown)
    }

    fn write<M: StorageBackend>(
        &mut self,
        file: &Checkpoint<M>,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        self.commits |= offset < REDB_HEADER_BYTES;
        if !self.has_room(file, data.len())? {
            return file.file.write(offset, data);
        }
        self.record.push_write(offset, data);
        let mut overlay = file.overlay.write().unwrap_or_else(PoisonError::into_inner);
        overlay.write(&file.file, offset, data)
    }

    fn set_len<M: StorageBackend>(&mut self, file: &Checkpoint<M>, length: u64) -> io::Result<()> {
        if self.has_room(file, 0)? {
            self.record.push_length(length);
        }
        if length < file.file.len()? {
            // Blocks on their way must not make it longer again.
            file.wait()?;
            file.overlay.write().unwrap_or_else(PoisonError::into_inner).cut(length);
        }
        file.file.set_len(length)
    }
}

impl<M: StorageBackend, J: StorageBackend> StorageBackend for Journaled<M, J> {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let overlay = self.file.overlay.read().unwrap_or_else(PoisonError::into_inner);
        overlay.read(&self.file.file, offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.writer().change(|writer| writer.set_len(&self.file, len))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.writer().change(|writer| {
            if !writer.record.is_empty() || writer.overflown {
                writer.commit(&self.file)?;
                writer.overflown = false;
            }
            Ok(()) // all that was written is durable
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.writer().change(|writer| writer.write(&self.file, offset, data))
    }

    /// Brings the file up to date, and stamps it as one that does not need its journal.
    fn close(&self) -> Result<(), io::Error> {
        let mut writer = self.writer();
        let all_durable = writer.record.is_empty() && !writer.overflown;
        let outcome = writer.change(|writer| {
            self.file.wait()?;
            if all_durable && !writer.is_direct && self.records.state().is_settled() {
                let through = self.records.state().ring.last();
                self.file.write_out()?;
                // First the pages: a stamp that says that they are there must not be there before them.
                self.file.sync(through, false, ())?;
                self.file.sync(through, true, ())?;
            }
            Ok(())
        });
        self.stop_thread();
        let closed = self.records.state().journal.close();
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
