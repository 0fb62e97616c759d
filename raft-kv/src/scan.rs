//! Reading everything as of one moment, a page at a time, while writes go on. Not about ranges of the current state: those are
//! [`State::range`](crate::state::State::range).
//!
//! A scan holds neither a copy of the state nor pages of its file. Before a key that it has yet to hand out is written for the first
//! time, what the key holds is put aside; a page is made of that and of the state. What is put aside is bounded: a scan
//! whose reader is slower than the writes is ended, and says so.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::query::{KeyRecord, Query, Record};

/// About how many bytes of keys and values a page of a scan holds.
const PAGE_BYTES: usize = 256 << 10;
/// What a record that was put aside counts for, beside its key and its value.
const KEPT_OVERHEAD_BYTES: usize = 128;

/// A scan under way. Clones are the same scan; letting go of all of them ends it.
#[derive(Clone, Debug)]
pub struct Scan(Arc<Mutex<Progress>>);

impl PartialEq for Scan {
    fn eq(&self, other: &Scan) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Scan {}

/// A page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The records, in the order of their keys; none at the end, perhaps.
    pub records: Vec<KeyRecord>,
    /// Whether more follow.
    pub has_more: bool,
}

/// Why a scan can not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanEnded {
    /// More was overwritten in the meantime than may be put aside for it.
    #[error(
        "the dump was read too slowly: {kept_bytes_max} bytes of what it had yet to send were overwritten meanwhile; \
         start it again, and read it without a pause"
    )]
    TooSlow {
        /// How much may be put aside.
        kept_bytes_max: usize,
    },
    /// This node was filled by a snapshot of its leader: the state that was read is gone.
    #[error("the state of this node was replaced by a snapshot: start the dump again")]
    Replaced,
}

#[derive(Debug)]
struct Progress {
    /// Keys from here on have not been handed out.
    next: Arc<[u8]>,
    /// What keys from there on held when the scan began, of those that were written since; `None` if they did not exist.
    before: BTreeMap<Arc<[u8]>, Option<Record>>,
    kept_bytes: usize,
    kept_bytes_max: usize,
    ended: Option<ScanEnded>,
}

impl Progress {
    fn keep(&mut self, key: &[u8], current: Option<&Record>) {
        if *key < *self.next {
            return;
        }
        let Entry::Vacant(place) = self.before.entry(key.into()) else { return };
        place.insert(current.cloned());
        self.kept_bytes += kept_bytes(key, current);
        if self.kept_bytes > self.kept_bytes_max {
            self.end(ScanEnded::TooSlow { kept_bytes_max: self.kept_bytes_max });
        }
    }

    fn end(&mut self, why: ScanEnded) {
        self.ended.get_or_insert(why);
        self.before = BTreeMap::new();
        self.kept_bytes = 0;
    }

    /// Hands out the next records.
    fn page(&mut self, map: &BTreeMap<Arc<[u8]>, Record>) -> Result<ScanPage, ScanEnded> {
        if let Some(why) = self.ended {
            return Err(why);
        }
        let mut page = ScanPage::default();
        let mut bytes = 0;
        let mut current = map.range(Arc::clone(&self.next)..).peekable();
        loop {
            let now = current.peek().map(|(key, _)| &***key);
            let then = self.before.first_key_value().map(|(key, _)| &**key);
            let is_kept = match (now, then) {
                (None, None) => return Ok(page),
                (now, Some(then)) => now.is_none_or(|now| then <= now),
                (Some(_), None) => false,
            };
            if page.records.len() >= Query::PAGE_RECORDS_MAX as usize || bytes >= PAGE_BYTES {
                page.has_more = true;
                if let Some(last) = page.records.last() {
                    self.next = last.key.iter().copied().chain([0]).collect();
                }
                return Ok(page);
            }
            let found = if is_kept {
                let Some((key, record)) = self.before.pop_first() else { return Ok(page) };
                current.next_if(|(now, _)| **now == key);
                self.kept_bytes -= kept_bytes(&key, record.as_ref());
                record.map(|record| KeyRecord { key, record })
            } else {
                let found = current.next();
                found
                    .map(|(key, record)| KeyRecord { key: Arc::clone(key), record: record.clone() })
            };
            if let Some(found) = found {
                bytes += found.key.len() + found.record.value.len() + KEPT_OVERHEAD_BYTES;
                page.records.push(found);
            }
        }
    }
}

fn kept_bytes(key: &[u8], record: Option<&Record>) -> usize {
    key.len() + record.map_or(0, |record| record.value.len()) + KEPT_OVERHEAD_BYTES
}

impl Scan {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next page of a scan of this map.
    pub(crate) fn page(&self, map: &BTreeMap<Arc<[u8]>, Record>) -> Result<ScanPage, ScanEnded> {
        self.progress().page(map)
    }

    /// How many bytes are put aside for it.
    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> usize {
        self.progress().kept_bytes
    }
}

/// The scans of a state that are under way.
#[derive(Debug, Default)]
pub(crate) struct Scans(Mutex<Vec<Scan>>);

impl Scans {
    /// Begins one, of all keys from `start` on as they are now.
    pub(crate) fn begin(&self, start: &[u8], kept_bytes_max: usize) -> Scan {
        let scan = Scan(Arc::new(Mutex::new(Progress {
            next: start.into(),
            before: BTreeMap::new(),
            kept_bytes: 0,
            kept_bytes_max,
            ended: None,
        })));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scan.clone());
        scan
    }

    /// A key is about to be written: `current` is what it holds.
    #[inline]
    pub(crate) fn before_write(&mut self, key: &[u8], current: Option<&Record>) {
        let open = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !open.is_empty() {
            keep(open, key, current);
        }
    }
}

#[cold]
fn keep(open: &mut Vec<Scan>, key: &[u8], current: Option<&Record>) {
    open.retain(|scan| {
        // Nobody else holds it: its reader is gone.
        if Arc::strong_count(&scan.0) == 1 {
            return false;
        }
        let mut progress = scan.progress();
        progress.keep(key, current);
        progress.ended.is_none()
    });
}

impl Drop for Scans {
    /// The state is gone, and with it what the scans have not read.
    fn drop(&mut self) {
        for scan in self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            scan.progress().end(ScanEnded::Replaced);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, SessionId, Write};
    use crate::state::State;

    const SESSION: SessionId = SessionId(9);

    struct World {
        state: State,
        sequence: u64,
        luck: u64,
    }

    impl World {
        fn new(luck: u64) -> World {
            let mut world = World { state: State::default(), sequence: 0, luck };
            world.apply(&Command::OpenSession { session: SESSION });
            world
        }

        fn apply(&mut self, command: &Command<'_>) {
            let command = command.encode();
            self.state.apply(self.sequence + 1, Command::decode(&command));
        }

        fn below(&mut self, bound: u64) -> u64 {
            self.luck = self.luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (self.luck >> 33) % bound
        }

        fn write(&mut self, write: Write<'_>) {
            self.sequence += 1;
            let (sequence, acked_below) = (self.sequence, self.sequence);
            self.apply(&Command::Write { session: SESSION, sequence, acked_below, write });
        }

        fn write_something(&mut self, keys: u64, value_bytes: usize) {
            let key = format!("key {:04}", self.below(keys));
            let value = vec![self.below(256) as u8; value_bytes];
            if self.below(3) == 0 {
                self.write(Write::Delete { key: key.as_bytes() });
            } else {
                self.write(Write::Put { key: key.as_bytes(), value: &value });
            }
        }

        fn all(&self, from: &[u8]) -> Vec<KeyRecord> {
            let records = self.state.records().filter(|(key, _)| ***key >= *from);
            records
                .map(|(key, record)| KeyRecord { key: key.clone(), record: record.clone() })
                .collect()
        }
    }

    #[test]
    fn a_scan_shows_the_moment_at_which_it_began_whatever_is_written_meanwhile() {
        for seed in 0..40 {
            let mut world = World::new(seed);
            for _ in 0..600 {
                world.write_something(300, 3000);
            }
            let start = format!("key {:04}", world.below(100) * (seed % 2));
            let expected = world.all(start.as_bytes());
            let scan = world.state.scan(start.as_bytes(), usize::MAX);
            let mut found = Vec::new();
            loop {
                for _ in 0..world.below(200) {
                    world.write_something(400, 100);
                }
                let page = world.state.scan_page(&scan).unwrap();
                assert!(!page.records.is_empty() || !page.has_more);
                found.extend(page.records);
                if !page.has_more {
                    break;
                }
            }
            assert!(found == expected, "seed {seed}: {} of {}", found.len(), expected.len());
            assert_eq!(scan.kept_bytes(), 0, "seed {seed}");
        }
    }

    #[test]
    fn what_is_put_aside_is_bounded_and_a_scan_that_needs_more_is_ended() {
        let mut world = World::new(1);
        for number in 0..200 {
            world.write(Write::Put { key: format!("{number:03}").as_bytes(), value: &[1; 1000] });
        }
        let scan = world.state.scan(b"", 50_000);
        assert!(world.state.scan_page(&scan).is_ok_and(|page| !page.has_more));
        let scan = world.state.scan(b"", 50_000);
        for number in 0..200 {
            world.write(Write::Put { key: format!("{number:03}").as_bytes(), value: &[2; 1000] });
            assert!(scan.kept_bytes() <= 50_000, "{}", scan.kept_bytes());
        }
        let ended = ScanEnded::TooSlow { kept_bytes_max: 50_000 };
        assert_eq!(world.state.scan_page(&scan), Err(ended));
        assert_eq!(scan.kept_bytes(), 0);
    }

    #[test]
    fn a_scan_that_was_let_go_of_costs_nothing_and_one_of_a_state_that_is_gone_is_ended() {
        let mut world = World::new(1);
        let scan = world.state.scan(b"", 1000);
        let inner = Arc::downgrade(&scan.0);
        drop(scan);
        world.write(Write::Put { key: b"k", value: b"v" });
        assert!(inner.upgrade().is_none());
        let scan = world.state.scan(b"", 1000);
        let other = World::new(2);
        drop(world);
        assert_eq!(other.state.scan_page(&scan), Err(ScanEnded::Replaced));
    }
}
