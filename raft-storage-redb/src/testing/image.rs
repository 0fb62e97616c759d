//! What a file holds, page by page, as one of the two states that a [`VirtualDisk`](super::VirtualDisk) keeps of it. Bytes only; no faults.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What is read ahead, remembered, and goes astray as a whole.
pub(super) const PAGE_BYTES: usize = 4096;

pub(super) type Page = [u8; PAGE_BYTES];

/// A sparse file: pages that are not there are zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) pages: BTreeMap<u64, Arc<Page>>,
    pub(super) length: u64,
}

/// A write within one page.
#[derive(Clone, Debug)]
pub(super) struct PageWrite {
    pub(super) page: u64,
    pub(super) start: usize,
    pub(super) data: Box<[u8]>,
}

impl Image {
    pub(super) fn holding(bytes: &[u8]) -> Image {
        let mut image = Image { length: bytes.len() as u64, ..Image::default() };
        for write in split(0, bytes) {
            image.write(&write);
        }
        image
    }

    pub(super) fn page(&self, number: u64) -> Page {
        self.pages.get(&number).map_or([0; PAGE_BYTES], |page| **page)
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let start = (at % PAGE_BYTES as u64) as usize;
            let count = (PAGE_BYTES - start).min(out.len() - done);
            let into = &mut out[done..done + count];
            match self.pages.get(&(at / PAGE_BYTES as u64)) {
                Some(page) => into.copy_from_slice(&page[start..start + count]),
                None => into.fill(0),
            }
            done += count;
        }
    }

    pub(super) fn write(&mut self, write: &PageWrite) {
        let page = self.pages.entry(write.page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        Arc::make_mut(page)[write.start..write.start + write.data.len()]
            .copy_from_slice(&write.data);
    }

    /// Makes the file longer, with zeros, or cuts it.
    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            let border = length / PAGE_BYTES as u64;
            let rest = (length % PAGE_BYTES as u64) as usize;
            self.pages.retain(|number, _| *number < border || *number == border && rest > 0);
            if let Some(page) = self.pages.get_mut(&border) {
                Arc::make_mut(page)[rest..].fill(0);
            }
        }
        self.length = length;
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        self.read(0, &mut bytes);
        bytes
    }
}

/// A write as writes to single pages.
pub(super) fn split(offset: u64, data: &[u8]) -> impl Iterator<Item = PageWrite> + '_ {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == data.len() {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let count = (PAGE_BYTES - start).min(data.len() - done);
        let data = data[done..done + count].into();
        done += count;
        Some(PageWrite { page: at / PAGE_BYTES as u64, start, data })
    })
}
