//! The pure state machine: an ordered map with revisions, and the sessions.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::codec::Malformed;
use crate::command::{Command, Expect, Response, SessionId, Write, WriteOutcome};
use crate::mutants::mutated;
use crate::query::{KeyRecord, Query, Record};
use crate::scan::{Scan, ScanEnded, ScanPage, Scans};
use crate::session::{Known, Session, Sessions};

/// The whole state. Values and keys are copied out of commands into allocations of their own: a slice of a network frame would
/// keep the whole frame alive.
#[derive(Debug, Default)]
pub(crate) struct State {
    map: BTreeMap<Arc<[u8]>, Record>,
    pub(crate) sessions: Sessions,
    pub(crate) revision: u64,
    /// The wrapping sum of all records' hashes: updated with every write, independent of the order of writes.
    pub(crate) digest: u128,
    /// What changed since the last checkpoint; `None` for keys that are gone. Only looked up here, and sorted before it is iterated.
    dirty: HashMap<Arc<[u8]>, Option<Record>>,
    scans: Scans,
}

/// Everything that changed since the last checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) records: HashMap<Arc<[u8]>, Option<Record>>,
    pub(crate) sessions: Vec<(SessionId, Option<Session>)>,
    pub(crate) revision: u64,
    pub(crate) digest: u128,
}

impl State {
    /// Applies one command, as it was decoded, which stands at `index` of the log.
    pub(crate) fn apply(
        &mut self,
        index: u64,
        command: Result<Command<'_>, Malformed>,
    ) -> Response {
        match command {
            Err(_) => Response::Malformed,
            Ok(Command::OpenSession { session }) => {
                self.sessions.open(session, index);
                Response::SessionOpened
            }
            Ok(Command::Write { session, sequence, acked_below, write }) => {
                if let Err(limit) = write.check() {
                    return Response::Refused(limit);
                }
                let known = self.sessions.look_up(session, sequence, acked_below, index);
                match known {
                    Known::Done(outcome) if !mutated!(RetryAppliedTwice) => {
                        Response::Written(outcome)
                    }
                    Known::New | Known::Done(_) => {
                        let outcome = self.write(&write);
                        self.sessions.remember(session, sequence, outcome);
                        Response::Written(outcome)
                    }
                    Known::Forgotten => Response::SessionExpired,
                    Known::TooFarAhead => Response::WindowExceeded,
                }
            }
        }
    }

    fn write(&mut self, write: &Write<'_>) -> WriteOutcome {
        match *write {
            Write::Put { key, value } => self.put(key, value),
            Write::Delete { key } => self.delete(key),
            Write::CompareAndSet { key, expect, value } => {
                let current = self.map.get(key);
                let is_met = match expect {
                    Expect::Absent => current.is_none(),
                    Expect::Value(expected) => {
                        let is_any = mutated!(CompareTakesAnyValue);
                        current.is_some_and(|record| is_any || *record.value == *expected)
                    }
                    Expect::ModRevision(revision) if mutated!(CompareLooksAtTheCreation) => {
                        current.is_some_and(|record| record.create_revision == revision)
                    }
                    Expect::ModRevision(revision) => {
                        current.is_some_and(|record| record.mod_revision == revision)
                    }
                };
                if !is_met {
                    let mod_revision = current.map(|record| record.mod_revision);
                    return WriteOutcome::CompareFailed { mod_revision };
                }
                match value {
                    Some(value) => self.put(key, value),
                    None => self.delete(key),
                }
            }
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> WriteOutcome {
        self.revision += 1;
        let revision = self.revision;
        let value: Arc<[u8]> = value.into();
        let record = if let Some(record) = self.map.get_mut(key) {
            self.scans.before_write(key, Some(record));
            self.digest = self.digest.wrapping_sub(hash(key, record));
            record.value = value;
            record.mod_revision = revision;
            record.version = if mutated!(VersionStartsAnew) { 1 } else { record.version + 1 };
            record.clone()
        } else {
            let record =
                Record { value, create_revision: revision, mod_revision: revision, version: 1 };
            self.scans.before_write(key, None);
            self.map.insert(key.into(), record.clone());
            record
        };
        self.digest = self.digest.wrapping_add(hash(key, &record));
        self.mark_dirty(key, Some(record));
        WriteOutcome::Put { revision }
    }

    fn delete(&mut self, key: &[u8]) -> WriteOutcome {
        let Some(record) = self.map.remove(key) else { return WriteOutcome::NotFound };
        self.scans.before_write(key, Some(&record));
        self.revision += 1;
        self.digest = self.digest.wrapping_sub(hash(key, &record));
        self.mark_dirty(key, None);
        WriteOutcome::Deleted { revision: self.revision }
    }

    fn mark_dirty(&mut self, key: &[u8], record: Option<Record>) {
        if record.is_none() && mutated!(DeleteForgottenByCheckpoint) {
            return;
        }
        if let Some(entry) = self.dirty.get_mut(key) {
            *entry = record;
        } else {
            self.dirty.insert(key.into(), record);
        }
    }

    /// Hands out what changed since the last time. Takes no longer than the sessions' number asks for.
    pub(crate) fn take_changes(&mut self) -> Changes {
        // As much will change again until the next time: growing the table step by step would stall the apply thread.
        let dirty = HashMap::with_capacity(self.dirty.len());
        Changes {
            records: std::mem::replace(&mut self.dirty, dirty),
            sessions: self.sessions.take_dirty(),
            revision: self.revision,
            digest: self.digest,
        }
    }

    /// A state from the records and sessions of a file or a snapshot; its digest is calculated, not believed.
    pub(crate) fn restore(
        records: Vec<(Arc<[u8]>, Record)>,
        sessions: Vec<(SessionId, Session)>,
        revision: u64,
    ) -> State {
        let mut state = State { revision, ..State::default() };
        for (key, record) in &records {
            state.digest = state.digest.wrapping_add(hash(key, record));
        }
        if mutated!(RevisionGoesBackOnRestore) {
            state.revision =
                records.iter().map(|(_, record)| record.mod_revision).max().unwrap_or(0);
        }
        state.map = records.into_iter().collect();
        for (id, session) in sessions {
            state.sessions.restore(id, session);
        }
        state
    }

    /// All records, in the order of their keys.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&Arc<[u8]>, &Record)> {
        self.map.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Record> {
        self.map.get(key).cloned()
    }

    /// Begins to read all keys from `start` on as they are now, putting aside no more than so many bytes of what is overwritten.
    pub(crate) fn scan(&self, start: &[u8], kept_bytes_max: usize) -> Scan {
        self.scans.begin(start, kept_bytes_max)
    }

    /// The next page of a scan.
    pub(crate) fn scan_page(&self, scan: &Scan) -> Result<ScanPage, ScanEnded> {
        scan.page(&self.map)
    }

    /// A page of the keys from `start` to before `end`, and whether there are more.
    pub(crate) fn range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        keys_only: bool,
    ) -> (Vec<KeyRecord>, bool) {
        if end.is_some_and(|end| end <= start) {
            return (Vec::new(), false);
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let limit = limit.min(Query::PAGE_RECORDS_MAX) as usize;
        let mut records = Vec::new();
        let mut bytes = 0;
        for (key, record) in self.map.range::<[u8], _>((Bound::Included(start), upper)) {
            let size = key.len() + if keys_only { 0 } else { record.value.len() };
            if records.len() >= limit
                || (!records.is_empty() && bytes + size > Query::PAGE_BYTES_MAX)
            {
                return (records, true);
            }
            bytes += size;
            let mut record = record.clone();
            if keys_only {
                record.value = Arc::default();
            }
            records.push(KeyRecord { key: Arc::clone(key), record });
        }
        (records, false)
    }
}

/// A record's share of the digest.
fn hash(key: &[u8], record: &Record) -> u128 {
    let revisions = record.create_revision.rotate_left(42)
        ^ record.version.rotate_left(21)
        ^ record.mod_revision;
    xxh3_128_with_seed(&record.value, xxh3_64_with_seed(key, revisions))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(9);

    fn opened() -> State {
        let mut state = State::default();
        let command = Command::OpenSession { session: SESSION }.encode();
        assert_eq!(state.apply(1, Command::decode(&command)), Response::SessionOpened);
        state
    }

    fn write(state: &mut State, sequence: u64, write: Write<'_>) -> Response {
        let command = Command::Write { session: SESSION, sequence, acked_below: 0, write };
        state.apply(sequence + 2, Command::decode(&command.encode()))
    }

    #[test]
    fn revisions_count_as_in_etcd() {
        let mut state = opened();
        write(&mut state, 0, Write::Put { key: b"a", value: b"1" });
        write(&mut state, 1, Write::Put { key: b"b", value: b"1" });
        write(&mut state, 2, Write::Put { key: b"a", value: b"2" });
        let a = state.get(b"a").unwrap();
        assert_eq!((a.create_revision, a.mod_revision, a.version, &*a.value), (1, 3, 2, &b"2"[..]));
        let gone = write(&mut state, 3, Write::Delete { key: b"a" });
        assert_eq!(gone, Response::Written(WriteOutcome::Deleted { revision: 4 }));
        let nothing = write(&mut state, 4, Write::Delete { key: b"a" });
        assert_eq!((nothing, state.revision), (Response::Written(WriteOutcome::NotFound), 4));
        write(&mut state, 5, Write::Put { key: b"a", value: b"3" });
        assert_eq!(state.get(b"a").unwrap().version, 1);
    }

    #[test]
    fn a_write_that_is_sent_again_is_applied_once() {
        let mut state = opened();
        let first = write(&mut state, 0, Write::Put { key: b"a", value: b"1" });
        write(&mut state, 1, Write::Put { key: b"a", value: b"2" });
        assert_eq!(write(&mut state, 0, Write::Put { key: b"a", value: b"1" }), first);
        assert_eq!(&*state.get(b"a").unwrap().value, b"2");
    }

    #[test]
    fn compare_and_set_changes_only_what_is_as_expected() {
        let mut state = opened();
        let cas = |state: &mut State, sequence, expect, value| {
            write(state, sequence, Write::CompareAndSet { key: b"a", expect, value })
        };
        let failed = |mod_revision| Response::Written(WriteOutcome::CompareFailed { mod_revision });
        assert_eq!(cas(&mut state, 0, Expect::Value(b"x"), Some(b"1")), failed(None));
        assert_eq!(
            cas(&mut state, 1, Expect::Absent, Some(b"1")),
            Response::Written(WriteOutcome::Put { revision: 1 })
        );
        assert_eq!(cas(&mut state, 2, Expect::Absent, Some(b"2")), failed(Some(1)));
        assert_eq!(
            cas(&mut state, 3, Expect::ModRevision(1), Some(b"2")),
            Response::Written(WriteOutcome::Put { revision: 2 })
        );
        assert_eq!(
            cas(&mut state, 4, Expect::Value(b"2"), None),
            Response::Written(WriteOutcome::Deleted { revision: 3 })
        );
    }

    #[test]
    fn limits_and_nonsense_change_nothing() {
        let mut state = opened();
        assert!(matches!(
            write(&mut state, 0, Write::Put { key: b"", value: b"1" }),
            Response::Refused(_)
        ));
        let long = vec![0; crate::limits::VALUE_BYTES_MAX + 1];
        assert!(matches!(
            write(&mut state, 1, Write::Put { key: b"a", value: &long }),
            Response::Refused(_)
        ));
        assert_eq!(state.apply(9, Command::decode(b"nonsense")), Response::Malformed);
        let unknown = Command::Write {
            session: SessionId(1),
            sequence: 0,
            acked_below: 0,
            write: Write::Put { key: b"a", value: b"1" },
        };
        assert_eq!(state.apply(10, Command::decode(&unknown.encode())), Response::SessionExpired);
        assert_eq!((state.revision, state.len(), state.digest), (0, 0, 0));
    }

    #[test]
    fn the_digest_follows_the_content_and_not_the_way() {
        let mut long_way = opened();
        for sequence in 0..100 {
            let key = [(sequence % 7) as u8 + 1];
            write(
                &mut long_way,
                sequence,
                Write::Put { key: &key, value: &sequence.to_le_bytes() },
            );
        }
        write(&mut long_way, 100, Write::Delete { key: &[3] });
        let records =
            long_way.map.iter().map(|(key, record)| (Arc::clone(key), record.clone())).collect();
        let restored = State::restore(records, Vec::new(), long_way.revision);
        assert_eq!(restored.digest, long_way.digest);
        write(&mut long_way, 101, Write::Put { key: &[4], value: b"other" });
        assert_ne!(restored.digest, long_way.digest);
    }

    #[test]
    fn pages_join_to_the_whole_range() {
        let mut state = opened();
        for sequence in 0..50u64 {
            write(&mut state, sequence, Write::Put { key: &[sequence as u8 + 1], value: b"v" });
        }
        let (mut got, mut start) = (Vec::new(), vec![10]);
        loop {
            let (page, has_more) = state.range(&start, Some(&[40]), 7, true);
            let last = page.last().unwrap().key.to_vec();
            got.extend(page.into_iter().map(|record| record.key[0]));
            if !has_more {
                break;
            }
            start = [last, vec![0]].concat();
        }
        assert_eq!(got, (10..40).collect::<Vec<u8>>());
        assert_eq!(state.range(&[9], Some(&[3]), 7, false), (Vec::new(), false));
    }
}
