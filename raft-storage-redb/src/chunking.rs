//! How a run of entries is cut into chunks. redb stores a large value in a page of a power of two bytes and writes the whole
//! page, so a chunk slightly above a power of two would cost twice its size. Runs are cut to fit.

use raft_core::Entry;

use crate::format::{CHUNK_OVERHEAD_BYTES, encoded_bytes};

/// A page is at least this large.
const PAGE_BYTES: usize = 4096;
/// What a leaf page of one row needs besides the value: its header, an offset, a key.
const LEAF_BYTES: usize = 32;
/// The largest page that chunks are cut to. A single entry may be larger: it has a chunk for itself.
const CHUNK_PAGE_BYTES_MAX: usize = 256 << 10;

/// How many of `entries` go into the next chunk: at least one. `left_bytes` is what all of them take, encoded.
pub(crate) fn next_cut(entries: &[&Entry], left_bytes: usize) -> usize {
    let overhead = CHUNK_OVERHEAD_BYTES + LEAF_BYTES;
    let needed = left_bytes + overhead;
    let page = needed.next_power_of_two();
    // Half a page is wasted at worst; an eighth of it, or two of the smallest, are not worth another row.
    if needed <= PAGE_BYTES
        || (page <= CHUNK_PAGE_BYTES_MAX && page - needed <= (page / 8).max(2 * PAGE_BYTES))
    {
        return entries.len();
    }
    let room = (page / 2).min(CHUNK_PAGE_BYTES_MAX) - overhead;
    let mut used = 0;
    let mut last_term = None;
    for (count, entry) in entries.iter().enumerate() {
        // A further run of terms takes twelve bytes.
        let run = if last_term.is_some_and(|term| term != entry.term) { 12 } else { 0 };
        used += encoded_bytes(entry) + run;
        last_term = Some(entry.term);
        if used > room {
            return count.max(1);
        }
    }
    entries.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_core::{Index, Payload, Term};

    fn cuts(sizes: &[usize]) -> Vec<usize> {
        let entries: Vec<Entry> = sizes
            .iter()
            .zip(1..)
            .map(|(size, index)| Entry {
                term: Term(1),
                index: Index(index),
                payload: Payload::Command(Bytes::from(vec![0; *size])),
            })
            .collect();
        let all: Vec<&Entry> = entries.iter().collect();
        let mut rest = &all[..];
        let mut cuts = Vec::new();
        while !rest.is_empty() {
            let left = rest.iter().map(|entry| encoded_bytes(entry)).sum();
            let cut = next_cut(rest, left);
            cuts.push(cut);
            rest = &rest[cut..];
        }
        cuts
    }

    #[test]
    fn little_stays_whole_and_much_is_cut_to_pages() {
        assert_eq!(cuts(&[256; 8]), [8]);
        assert_eq!(cuts(&[256; 62]), [62]);
        assert_eq!(cuts(&[256; 64]), [62, 2]);
        assert_eq!(cuts(&[256; 2048]), [1007, 1007, 34]);
        assert_eq!(cuts(&[1 << 20, 10, 1 << 20]), [1, 1, 1]);
    }
}
