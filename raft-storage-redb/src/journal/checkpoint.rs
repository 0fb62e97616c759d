//! Syncing the file from time to time, so that records of the journal may be overwritten; on a thread of its own, so that
//! no commit waits for it.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::stamp::Stamp;

/// The file, and how far it is synced.
#[derive(Debug)]
pub(crate) struct Checkpoint<M> {
    pub(crate) file: M,
    /// One sync at a time: the operating system reports a page that it could not write to one of them only, and that one
    /// must have been noted before another is believed.
    stamp: Mutex<Stamp>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Up to which record the file should be synced.
    wanted: u64,
    /// Up to which it is.
    done: u64,
    failed: bool,
    stop: bool,
}

impl<M: StorageBackend> Checkpoint<M> {
    pub(crate) fn new(file: M, stamp: Stamp) -> Checkpoint<M> {
        let done = stamp.synced;
        Checkpoint {
            file,
            stamp: Mutex::new(stamp),
            progress: Mutex::new(Progress { wanted: done, done, ..Progress::default() }),
            changed: Condvar::new(),
        }
    }

    /// Up to which record the file is synced.
    pub(crate) fn done(&self) -> io::Result<u64> {
        let progress = self.progress();
        if progress.failed {
            return Err(io::Error::other("an earlier sync of the log file failed"));
        }
        Ok(progress.done)
    }

    /// Syncs the file, which holds everything up to the record `through`, and stamps it.
    pub(crate) fn run(&self, through: u64, closed: bool) -> io::Result<()> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let through = through.max(self.done()?);
        *stamp = Stamp { number: stamp.number + 1, synced: through, closed, ..*stamp };
        let outcome = stamp.write(&self.file).and_then(|()| self.file.sync_data());
        let mut progress = self.progress();
        match &outcome {
            Ok(()) => progress.done = through,
            Err(_) => progress.failed = true,
        }
        self.changed.notify_all();
        outcome
    }

    /// Asks the thread to sync the file, which holds everything up to the record `through`.
    pub(crate) fn request(&self, through: u64) {
        let mut progress = self.progress();
        progress.wanted = progress.wanted.max(through);
        self.changed.notify_all();
    }

    /// Waits until the thread has synced the file up to the record `through`.
    pub(crate) fn wait(&self, through: u64) -> io::Result<()> {
        self.request(through);
        let mut progress = self.progress();
        while progress.done < through && !progress.failed {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        drop(progress);
        self.done().map(drop)
    }

    /// What the thread does until it is told to stop, or a sync fails.
    pub(crate) fn work(&self) {
        loop {
            let mut progress = self.progress();
            while !progress.stop && progress.wanted <= progress.done {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
            if progress.stop {
                return;
            }
            let through = progress.wanted;
            drop(progress);
            if let Err(error) = self.run(through, false) {
                tracing::error!(%error, "the log file could not be synced in the background");
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
