//! The file beneath redb: redb's own backend, on a file whose blocks exist before they are written.

use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// How much is filled with zeros by one call.
const FILL_STEP_BYTES: usize = 256 << 10;

/// How a file is opened to be read and written: what it holds is for its owner alone, if it is made.
pub(crate) fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// A file that redb works on. Clones are the same open file.
#[derive(Clone, Debug)]
pub(crate) struct LogFile {
    inner: Arc<FileBackend>,
    fill_bytes: u64,
}

impl LogFile {
    /// Opens the file, and creates it if need be. As it grows to `fill_bytes`, it is filled with zeros: a block that was written
    /// before is cheaper to fsync than one that the file system has yet to allocate. Beyond, it grows sparsely, since filling
    /// would hold up a write for too long.
    pub(crate) fn open(path: &Path, fill_bytes: u64) -> io::Result<LogFile> {
        let file = owner_only().create(true).truncate(false).open(path)?;
        let inner = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(LogFile { inner: Arc::new(inner), fill_bytes })
    }
}

impl StorageBackend for LogFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let mut filled = self.inner.len()?;
        self.inner.set_len(len)?;
        let zeros = vec![0; FILL_STEP_BYTES];
        while filled < len.min(self.fill_bytes) {
            let step = zeros.len().min((len - filled) as usize);
            self.inner.write(filled, &zeros[..step])?;
            filled += step as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
