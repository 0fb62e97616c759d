//! Where in the journal the next record goes. Numbers only; no I/O.

use std::collections::VecDeque;

/// A record that must not be overwritten yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) sequence: u64,
    /// Its first block, counted from the first after the journal's header.
    pub(crate) start: u64,
    pub(crate) blocks: u64,
}

/// The blocks of a journal as a ring of records, each in one piece.
#[derive(Debug)]
pub(crate) struct Ring {
    blocks: u64,
    /// In order; the newest is always among them.
    live: VecDeque<Span>,
}

impl Ring {
    /// A ring of `blocks` whose live records are `live`: at least one.
    pub(crate) fn new(blocks: u64, live: impl IntoIterator<Item = Span>) -> Ring {
        Ring { blocks, live: live.into_iter().collect() }
    }

    /// The sequence number of the newest record.
    pub(crate) fn last(&self) -> u64 {
        self.live.back().map_or(0, |span| span.sequence)
    }

    /// Where a record of that many blocks fits without touching a live one.
    fn place(&self, head: u64, blocks: u64) -> Option<u64> {
        let Some(tail) = self.live.front().map(|span| span.start) else {
            return (blocks <= self.blocks).then_some(0);
        };
        if head > tail {
            if head + blocks <= self.blocks {
                return Some(head);
            }
            // `head == tail` would say that the ring is empty.
            return (blocks < tail).then_some(0);
        }
        (head + blocks < tail).then_some(head)
    }

    fn head(&self) -> u64 {
        self.live.back().map_or(0, |span| span.start + span.blocks)
    }

    /// Where the next record goes. Another one of a single block still fits after it, so that there always is room for a
    /// record that frees the others.
    pub(crate) fn next(&self, blocks: u64) -> Option<u64> {
        let start = self.place(self.head(), blocks)?;
        self.place(start + blocks, 1).is_some().then_some(start)
    }

    /// The same, but with room for another record of `reserve` blocks after it.
    pub(crate) fn next_leaving(&self, blocks: u64, reserve: u64) -> Option<u64> {
        let start = self.place(self.head(), blocks)?;
        self.place(start + blocks, reserve).is_some().then_some(start)
    }

    /// Where a record goes that frees all others: one block that is always left.
    pub(crate) fn next_that_frees(&self) -> Option<u64> {
        self.place(self.head(), 1)
    }

    /// Notes a record that was made durable, and that those before `oldest` are no longer needed.
    pub(crate) fn push(&mut self, span: Span, oldest: u64) {
        self.live.push_back(span);
        let needed = oldest.min(span.sequence);
        while self.live.front().is_some_and(|first| first.sequence < needed) {
            self.live.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_record_touches_a_live_one_and_a_single_block_is_left() {
        for blocks in [4, 5, 15, 64] {
            let first = Span { sequence: 1, start: 0, blocks: 1 };
            let mut ring = Ring::new(blocks, [first]);
            let mut luck = blocks;
            let mut needed = 1;
            for _ in 0..5000 {
                luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let wanted = 1 + (luck >> 33) % (blocks / 2);
                let sequence = ring.last() + 1;
                let (start, blocks_taken) = if let Some(start) = ring.next(wanted) {
                    (start, wanted)
                } else {
                    needed = sequence + 1;
                    (ring.next_that_frees().expect("always room"), 1)
                };
                let span = Span { sequence, start, blocks: blocks_taken };
                assert!(start + blocks_taken <= blocks);
                for live in &ring.live {
                    let apart =
                        start + blocks_taken <= live.start || live.start + live.blocks <= start;
                    assert!(apart, "{span:?} over {live:?}");
                }
                ring.push(span, needed);
            }
            assert!(ring.last() == 5001);
        }
    }
}
