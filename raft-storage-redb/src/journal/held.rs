//! A file with changes that are only in memory: what it would be, without touching it. A log is opened on this first. If it is
//! refused, no byte of it has changed.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use redb::{BackendError, StorageBackend};

use super::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A file whose changes are held back.
#[derive(Debug)]
pub(crate) struct Held<M> {
    file: M,
    changes: RwLock<Changes>,
}

#[derive(Debug)]
struct Changes {
    blocks: HashMap<u64, Box<[u8; BLOCK_BYTES]>>,
    length: u64,
    /// Up to here the file's own bytes count, where no block is in the way. Beyond, there are zeros.
    kept: u64,
}

impl<M: StorageBackend> Held<M> {
    pub(crate) fn new(file: M) -> io::Result<Held<M>> {
        let length = file.len()?;
        let changes = Changes { blocks: HashMap::new(), length, kept: length };
        Ok(Held { file, changes: RwLock::new(changes) })
    }
}

impl Changes {
    /// A whole block, as it is read now.
    fn block(&self, file: &impl StorageBackend, number: u64) -> io::Result<[u8; BLOCK_BYTES]> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(**block);
        }
        let mut block = [0; BLOCK_BYTES];
        let there = self.kept.saturating_sub(number * BLOCK).min(BLOCK) as usize;
        if there > 0 {
            file.read(number * BLOCK, &mut block[..there])?;
        }
        Ok(block)
    }

    fn read(&self, file: &impl StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.length);
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let mut numbers = offset / BLOCK..end.div_ceil(BLOCK);
        if end <= self.kept && !numbers.clone().any(|number| self.blocks.contains_key(&number)) {
            return file.read(offset, out);
        }
        numbers.try_for_each(|number| {
            let (from, to) = overlap(number, offset, end);
            out[to].copy_from_slice(&self.block(file, number)?[from]);
            Ok(())
        })
    }

    fn write(&mut self, file: &impl StorageBackend, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(data.len() as u64);
        let Some(end) = end else { return Err(io::ErrorKind::InvalidInput.into()) };
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            let (into, from) = overlap(number, offset, end);
            let mut block = Box::new(self.block(file, number)?);
            block[into].copy_from_slice(&data[from]);
            self.blocks.insert(number, block);
        }
        self.length = self.length.max(end);
        Ok(())
    }

    fn set_length(&mut self, length: u64) {
        self.blocks.retain(|number, _| number * BLOCK < length);
        if let Some(block) = self.blocks.get_mut(&(length / BLOCK)) {
            block[(length % BLOCK) as usize..].fill(0);
        }
        self.kept = self.kept.min(length);
        self.length = length;
    }
}

/// Which part of block `number`, and which part of the data, `offset..end` of the file is.
fn overlap(number: u64, offset: u64, end: u64) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let start = (number * BLOCK).max(offset);
    let end = ((number + 1) * BLOCK).min(end);
    let of_block = (start - number * BLOCK) as usize..(end - number * BLOCK) as usize;
    (of_block, (start - offset) as usize..(end - offset) as usize)
}

impl<M: StorageBackend> StorageBackend for Held<M> {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.changes.read().unwrap_or_else(PoisonError::into_inner).length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        changes.read(&self.file, offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.changes.write().unwrap_or_else(PoisonError::into_inner).set_length(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(()) // nothing that is here has to outlive the process
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        changes.write(&self.file, offset, data)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DiskFile, VirtualDisk};

    #[test]
    fn it_reads_like_a_changed_file_and_leaves_the_file_alone() {
        for seed in 0..50u64 {
            let mut luck = seed;
            let mut draw = move |below: u64| {
                luck = luck
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (luck >> 33) % below
            };
            let before: Vec<u8> = (0..20_000u32).map(|at| (at / 7) as u8).collect();
            let disk = VirtualDisk::new(seed);
            disk.set_bytes(DiskFile::Log, &before);
            let held = Held::new(disk.file(DiskFile::Log)).expect("there");
            let mut expected = before.clone();
            for _ in 0..60 {
                if draw(4) == 0 {
                    let length = draw(40_000);
                    held.set_len(length).expect("set");
                    expected.resize(length as usize, 0);
                } else if !expected.is_empty() {
                    let at = draw(expected.len() as u64) as usize;
                    let end = (at + draw(9_000) as usize).min(expected.len());
                    expected[at..end].fill(seed as u8);
                    held.write(at as u64, &expected[at..end]).expect("written");
                }
                assert_eq!(held.len().expect("there"), expected.len() as u64);
                let from = draw(expected.len() as u64 + 1) as usize;
                let mut read = vec![1; expected.len() - from];
                held.read(from as u64, &mut read).expect("read");
                assert!(read == expected[from..], "seed {seed}");
                assert!(held.read(expected.len() as u64, &mut [0]).is_err());
            }
            assert!(disk.bytes(DiskFile::Log) == before);
        }
    }
}
