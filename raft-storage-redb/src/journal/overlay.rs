//! What is durable in the journal, or about to be, and not yet in the file: whole blocks in memory, that reads look at first.
//! The same blocks are written again and again, so the file gets only the last version of each. Memory and reads; no syncs.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use redb::StorageBackend;

use super::BLOCK_BYTES;
use super::stamp::STAMPS_OFFSET;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// The largest single write to the file.
const RUN_BYTES_MAX: usize = 256 << 10;

pub(crate) type Blocks = HashMap<u64, Box<[u8; BLOCK_BYTES]>>;

/// The blocks that differ from the file.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// Written since the last hand-over.
    active: Blocks,
    /// On their way into the file; older than those in `active`.
    leaving: Arc<Blocks>,
}

impl Overlay {
    fn get(&self, number: u64) -> Option<&[u8; BLOCK_BYTES]> {
        self.active.get(&number).or_else(|| self.leaving.get(&number)).map(|block| &**block)
    }

    /// Reads what was written last.
    pub(crate) fn read(
        &self,
        file: &impl StorageBackend,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<()> {
        let numbers = offset / BLOCK..(offset + out.len() as u64).div_ceil(BLOCK);
        if !numbers.clone().all(|number| self.get(number).is_some()) {
            file.read(offset, out)?;
        }
        for number in numbers {
            if let Some(block) = self.get(number) {
                let (from, to) = overlap(number, offset, out.len());
                out[to].copy_from_slice(&block[from]);
            }
        }
        Ok(())
    }

    /// Keeps what is written. `file` gives the rest of a block of which only a part is.
    pub(crate) fn write(
        &mut self,
        file: &impl StorageBackend,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        for number in offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK) {
            let (into, from) = overlap(number, offset, data.len());
            if !self.active.contains_key(&number) {
                let mut block = Box::new([0; BLOCK_BYTES]);
                if into.len() < BLOCK_BYTES {
                    match self.leaving.get(&number) {
                        Some(older) => *block = **older,
                        None => read_up_to(file, number * BLOCK, &mut *block)?,
                    }
                }
                self.active.insert(number, block);
            }
            if let Some(block) = self.active.get_mut(&number) {
                block[into].copy_from_slice(&data[from]);
            }
        }
        Ok(())
    }

    /// Hands over all blocks; they are still read until `left` is called.
    pub(crate) fn hand_over(&mut self) {
        debug_assert!(self.leaving.is_empty());
        self.leaving = Arc::new(std::mem::take(&mut self.active));
    }

    pub(crate) fn leaving(&self) -> Arc<Blocks> {
        self.leaving.clone()
    }

    /// The blocks that were handed over are in the file.
    pub(crate) fn left(&mut self) {
        self.leaving = Arc::default();
    }

    /// Forgets what lies beyond the new end of the file.
    pub(crate) fn cut(&mut self, length: u64) {
        self.active.retain(|number, _| number * BLOCK < length);
    }
}

/// Which part of block `number`, and which part of the data, `offset..offset + length` of the file is.
fn overlap(
    number: u64,
    offset: u64,
    length: usize,
) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let start = (number * BLOCK).max(offset);
    let end = ((number + 1) * BLOCK).min(offset + length as u64);
    let of_block = (start - number * BLOCK) as usize..(end - number * BLOCK) as usize;
    (of_block, (start - offset) as usize..(end - offset) as usize)
}

fn read_up_to(file: &impl StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let there = file.len()?.saturating_sub(offset).min(out.len() as u64) as usize;
    if there == 0 { Ok(()) } else { file.read(offset, &mut out[..there]) }
}

/// Writes the blocks, those that are neighbours at once. Nothing is written beyond `length`, nor over the stamps.
pub(crate) fn write_blocks(
    file: &impl StorageBackend,
    blocks: &Blocks,
    length: u64,
) -> io::Result<()> {
    let mut numbers: Vec<u64> = blocks.keys().copied().collect();
    numbers.sort_unstable();
    let mut run: Vec<u8> = Vec::new();
    let mut start = 0;
    for number in numbers {
        let at = number * BLOCK;
        if start + run.len() as u64 != at || run.len() >= RUN_BYTES_MAX {
            flush(file, start, &run)?;
            run.clear();
            start = at;
        }
        let end = length.saturating_sub(at).min(BLOCK) as usize;
        if number == 0 {
            flush(file, 0, &blocks[&0][..end.min(STAMPS_OFFSET)])?;
            start = BLOCK;
            continue;
        }
        run.extend_from_slice(&blocks[&number][..end]);
    }
    flush(file, start, &run)
}

fn flush(file: &impl StorageBackend, offset: u64, run: &[u8]) -> io::Result<()> {
    if run.is_empty() { Ok(()) } else { file.write(offset, run) }
}
