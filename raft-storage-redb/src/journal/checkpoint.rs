//! Bringing into the file what stands in the journal, and syncing it, so that records may be overwritten; on a thread of its
//! own, so that no commit waits for it.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use redb::StorageBackend;

use super::durable::{self, Durable};
use super::overlay::{Overlay, write_blocks};
use super::stamp::Stamp;

/// The file, what it lacks, and how far it is synced.
#[derive(Debug)]
pub(crate) struct Checkpoint<M> {
    pub(crate) file: M,
    pub(crate) overlay: RwLock<Overlay>,
    stamp: Mutex<Stamp>,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Without a thread, whoever starts a checkpoint carries it out.
    inline: bool,
}

#[derive(Debug)]
struct Progress {
    /// Up to which record the blocks go that were handed over, if some are on their way.
    under_way: Option<u64>,
    /// Up to which record the file is synced.
    done: Durable<u64>,
    failed: bool,
    stop: bool,
}

fn failed() -> io::Error {
    io::Error::other("an earlier write or sync of the log file failed")
}

impl<M: StorageBackend> Checkpoint<M> {
    /// `stamp` stands in the file, synced up to `done`.
    pub(crate) fn new(file: M, stamp: Stamp, done: Durable<u64>, inline: bool) -> Checkpoint<M> {
        let progress = Progress { under_way: None, done, failed: false, stop: false };
        Checkpoint {
            file,
            overlay: RwLock::default(),
            stamp: Mutex::new(stamp),
            progress: Mutex::new(progress),
            changed: Condvar::new(),
            inline,
        }
    }

    /// Up to which record the file is synced.
    pub(crate) fn done(&self) -> io::Result<Durable<u64>> {
        let progress = self.progress();
        if progress.failed { Err(failed()) } else { Ok(progress.done) }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.progress().under_way.is_none()
    }

    /// Hands over all that the file lacks, which is what the records up to `through` hold. Only when idle.
    pub(crate) fn start(&self, through: u64) -> io::Result<()> {
        self.overlay.write().unwrap_or_else(PoisonError::into_inner).hand_over();
        let mut progress = self.progress();
        progress.under_way = Some(through);
        drop(progress);
        self.changed.notify_all();
        if self.inline { self.carry_out(through) } else { Ok(()) }
    }

    /// Waits until nothing is on its way.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut progress = self.progress();
        while progress.under_way.is_some() && !progress.failed {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.failed { Err(failed()) } else { Ok(()) }
    }

    /// Writes to the file what it lacks, without a sync. Only when idle.
    pub(crate) fn write_out(&self) -> io::Result<()> {
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        overlay.hand_over();
        write_blocks(&self.file, &overlay.leaving(), self.file.len()?)?;
        overlay.left();
        Ok(())
    }

    /// Syncs the file, which holds everything up to the record `through`, and stamps it. Only when idle. `fact` is what else the sync
    /// makes durable.
    pub(crate) fn sync<T>(&self, through: u64, closed: bool, fact: T) -> io::Result<Durable<T>> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        *stamp = Stamp { number: stamp.number + 1, synced: through, closed, ..*stamp };
        let outcome = stamp
            .write(&self.file)
            .and_then(|()| durable::sync(&self.file, (through, fact)))
            .map(Durable::split);
        let mut progress = self.progress();
        match outcome {
            Ok((done, fact)) => {
                progress.done = done;
                Ok(fact)
            }
            Err(error) => {
                progress.failed = true;
                Err(error)
            }
        }
    }

    fn carry_out(&self, through: u64) -> io::Result<()> {
        let outcome = self.write_leaving().and_then(|()| self.sync(through, false, ()).map(drop));
        let mut progress = self.progress();
        progress.failed |= outcome.is_err();
        progress.under_way = None;
        drop(progress);
        self.changed.notify_all();
        outcome
    }

    fn write_leaving(&self) -> io::Result<()> {
        let blocks = self.overlay.read().unwrap_or_else(PoisonError::into_inner).leaving();
        write_blocks(&self.file, &blocks, self.file.len()?)?;
        self.overlay.write().unwrap_or_else(PoisonError::into_inner).left();
        Ok(())
    }

    /// What the thread does until it is told to stop, or fails.
    pub(crate) fn work(&self) {
        loop {
            let mut progress = self.progress();
            while !progress.stop && progress.under_way.is_none() {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(through) = progress.under_way.filter(|_| !progress.stop) else { return };
            drop(progress);
            if let Err(error) = self.carry_out(through) {
                tracing::error!(%error, "the log file could not be written in the background");
                return;
            }
        }
    }
}

impl<M> Checkpoint<M> {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop(&self) {
        self.progress().stop = true;
        self.changed.notify_all();
    }
}
