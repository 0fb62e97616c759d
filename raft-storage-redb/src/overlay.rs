//! What is durable in the journal and not in redb yet, for readers and for whoever brings it there.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{Entries, Index};

use crate::plan::Logged;

/// The writes that redb lacks, and what they make of the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    pending: VecDeque<(Arc<Logged>, u64)>,
    blocks: u64,
    /// From here on, nothing in redb counts. Set as soon as a write touches entries.
    cut: Option<Index>,
    /// The entries from there on, in one run.
    tail: Entries,
}

impl Overlay {
    /// Adds a write, whose record has so many blocks.
    pub(crate) fn push(&mut self, write: Arc<Logged>, blocks: u64) {
        self.show(&write);
        self.blocks += blocks;
        self.pending.push_back((write, blocks));
    }

    fn show(&mut self, write: &Logged) {
        if let Some(through) = write.compacted {
            self.tail.drop_before(through.index.next());
            if self.tail.is_empty() {
                self.cut = self.cut.map(|cut| cut.max(through.index.next()));
            }
        }
        if let Some(snapshot) = &write.plan.reset {
            self.tail = Entries::new();
            self.cut = Some(snapshot.position.index.next());
        }
        if let Some(from) = write.plan.truncate_from {
            self.tail.truncate_from(from);
            self.cut = Some(self.cut.map_or(from, |cut| cut.min(from)));
        }
        if let Some(first) = write.plan.entries.first() {
            self.cut = Some(self.cut.unwrap_or(first.index));
            self.tail.extend(write.plan.entries.clone());
        }
    }

    /// How many blocks the records have.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The writes, in order.
    pub(crate) fn pending(&self) -> Vec<Arc<Logged>> {
        self.pending.iter().map(|(write, _)| write.clone()).collect()
    }

    /// redb holds the first `count` writes now.
    pub(crate) fn settled(&mut self, count: usize) {
        self.pending.drain(..count);
        self.blocks = self.pending.iter().map(|(_, blocks)| blocks).sum();
        (self.cut, self.tail) = (None, Entries::new());
        let pending = std::mem::take(&mut self.pending);
        for (write, _) in &pending {
            self.show(write);
        }
        self.pending = pending;
    }

    /// Where redb's entries end, and those that follow there, up to `last`.
    pub(crate) fn view(&self, first: Index, last: Index) -> (Option<Index>, Entries) {
        let mut tail = Entries::new();
        if self.cut.is_some_and(|cut| cut <= last) {
            tail = self.tail.clone();
            tail.drop_before(first);
            tail.truncate_from(last.next());
        }
        (self.cut, tail)
    }
}
