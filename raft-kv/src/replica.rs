//! One member's whole machine without I/O: the state, and what its state file would hold. For simulations and tests; a real node runs
//! `KvMachine`, which is the same state over a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::SnapshotMeta;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::command::{Command, Response, SessionId};
use crate::mutants::mutated;
use crate::query::{KeyRecord, Record};
use crate::session::Session;
use crate::state::{Changes, State};
use crate::stream::{Head, StreamError, StreamWriter, read_stream};

/// The key-value machine in memory. Checkpoints take the way of real ones: what has changed since the last one is put over the rows that
/// the last one left, and the snapshot is made of the rows.
#[derive(Debug, Default)]
pub struct Replica {
    state: State,
    records: BTreeMap<Arc<[u8]>, Record>,
    sessions: BTreeMap<SessionId, Vec<u8>>,
    /// The hash of each open session, and their wrapping sum.
    hashes: BTreeMap<SessionId, u128>,
    sessions_digest: u128,
    /// Where sessions are encoded to be hashed.
    scratch: Vec<u8>,
}

impl Replica {
    /// Applies the command at `index` of the log.
    pub fn apply(&mut self, index: u64, command: &[u8]) -> Response {
        let command = Command::decode(command);
        let session = match command {
            Ok(Command::OpenSession { session } | Command::Write { session, .. }) => Some(session),
            Err(_) => None,
        };
        let response = self.state.apply(index, command);
        if let Some(id) = session {
            self.hash_session(id);
        }
        if self.hashes.len() != self.state.sessions.len() {
            // Others were forgotten; as many as came, perhaps.
            self.hash_all_sessions();
        }
        response
    }

    /// Brings a session's hash up to date.
    fn hash_session(&mut self, id: SessionId) {
        let Some(session) = self.state.sessions.get(id) else { return };
        let after = hash(id, session, &mut self.scratch);
        let before = self.hashes.insert(id, after).unwrap_or(0);
        self.sessions_digest = self.sessions_digest.wrapping_sub(before).wrapping_add(after);
    }

    fn hash_all_sessions(&mut self) {
        let scratch = &mut self.scratch;
        let all = self.state.sessions.iter();
        self.hashes = all.map(|(id, session)| (id, hash(id, session, scratch))).collect();
        self.sessions_digest =
            self.hashes.values().fold(0, |sum: u128, hash| sum.wrapping_add(*hash));
    }

    /// Keeps at most so many sessions open, instead of as many as real nodes do, so that a simulation sees some forgotten. Equal on all members and in all
    /// their lives, since it decides whom they forget; to be set before any command is applied, and again after [`Replica::restore`].
    pub fn set_sessions_max(&mut self, max: usize) {
        self.state.sessions.set_max(max);
    }

    /// What is known of a key.
    pub fn get(&self, key: &[u8]) -> Option<Record> {
        if mutated!(ReadFromTheCheckpoint) {
            return self.records.get(key).cloned();
        }
        self.state.get(key)
    }

    /// A page of the keys from `start` to before `end`, and whether there are more.
    pub fn range(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> (Vec<KeyRecord>, bool) {
        self.state.range(start, end, limit, false)
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.state.len()
    }

    /// The last revision.
    pub fn revision(&self) -> u64 {
        self.state.revision
    }

    /// A digest of the whole state: of all keys, records and sessions, and of the revision.
    pub fn digest(&self) -> u128 {
        let records = self.state.digest.wrapping_add(u128::from(self.state.revision) << 17);
        records.wrapping_add(self.sessions_digest)
    }

    /// Takes a checkpoint, and returns it as the snapshot that would travel to another node.
    pub fn checkpoint(&mut self, meta: SnapshotMeta) -> Vec<u8> {
        let Changes { records, sessions, revision, digest } = self.state.take_changes();
        for (key, record) in records {
            match record {
                Some(record) => self.records.insert(key, record),
                None => self.records.remove(&key),
            };
        }
        for (id, session) in sessions {
            match session {
                Some(session) => self.sessions.insert(id, session.encode()),
                None => self.sessions.remove(&id),
            };
        }
        let mut out = Vec::new();
        let mut writer = StreamWriter::begin(&Head { meta, revision, digest }, &mut out);
        for (key, record) in &self.records {
            writer.put_record(key, record, &mut out);
        }
        for (id, session) in &self.sessions {
            writer.put_session(*id, session, &mut out);
        }
        writer.finish(&mut out);
        out
    }

    /// The machine as a snapshot leaves it.
    ///
    /// # Errors
    /// If the snapshot is malformed, or not the one of `meta`.
    pub fn restore(meta: &SnapshotMeta, snapshot: &[u8]) -> Result<Replica, StreamError> {
        let state = read_stream(snapshot)?.into_state(meta)?;
        let records = state.records().map(|(key, record)| (Arc::clone(key), record.clone()));
        let sessions = state.sessions.iter().map(|(id, session)| (id, session.encode()));
        let mut replica = Replica {
            records: records.collect(),
            sessions: sessions.collect(),
            state,
            ..Replica::default()
        };
        replica.hash_all_sessions();
        Ok(replica)
    }
}

fn hash(id: SessionId, session: &Session, scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    session.encode_into(scratch);
    xxh3_128_with_seed(scratch, (id.0 ^ (id.0 >> 64)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Write, WriteOutcome};
    use raft_core::{Index, LogPosition, Membership, NodeId, Term};

    fn meta(index: u64) -> SnapshotMeta {
        let position = LogPosition { index: Index(index), term: Term(1) };
        SnapshotMeta { position, membership: Membership::of_voters([NodeId(1)]).into() }
    }

    fn command(number: u64) -> bytes::Bytes {
        let session = SessionId(7);
        if number == 1 {
            return Command::OpenSession { session }.encode();
        }
        let key = &[1 + (number % 5) as u8][..];
        let value = &number.to_le_bytes();
        let write = if number.is_multiple_of(3) {
            Write::Delete { key }
        } else {
            Write::Put { key, value }
        };
        Command::Write { session, sequence: number - 2, acked_below: number / 2, write }.encode()
    }

    #[test]
    fn a_snapshot_and_the_tail_equal_a_full_replay() {
        let mut whole = Replica::default();
        let mut other = Replica::default();
        for number in 1..=60 {
            let answer = whole.apply(number, &command(number));
            assert_eq!(other.apply(number, &command(number)), answer);
            if number.is_multiple_of(7) {
                let snapshot = other.checkpoint(meta(number));
                other = Replica::restore(&meta(number), &snapshot).unwrap();
            }
            assert_eq!(other.digest(), whole.digest(), "after {number}");
        }
        assert_eq!(other.checkpoint(meta(60)), whole.checkpoint(meta(60)));
        let again = other.apply(61, &command(59));
        assert!(matches!(again, Response::Written(WriteOutcome::Put { .. })), "{again:?}");
        assert_ne!(other.digest(), whole.digest(), "the session's use counts");
    }

    /// With a small budget one session goes for each that comes: their number stays, and still the digest must change.
    #[test]
    fn a_snapshot_and_the_tail_equal_a_full_replay_also_when_sessions_are_forgotten() {
        for max in [1, 2, 3, 20] {
            let (mut whole, mut other) = (Replica::default(), Replica::default());
            whole.set_sessions_max(max);
            other.set_sessions_max(max);
            for number in 1..=100 {
                let session = SessionId(u128::from(number % 40));
                let open = Command::OpenSession { session }.encode();
                let write = Write::Put { key: b"k", value: b"v" };
                let put = Command::Write { session, sequence: 0, acked_below: 0, write }.encode();
                for (index, command) in [(2 * number, open), (2 * number + 1, put)] {
                    let answer = whole.apply(index, &command);
                    assert_eq!(other.apply(index, &command), answer);
                    assert_eq!(other.digest(), whole.digest(), "{max}: after {index}");
                    let snapshot = other.checkpoint(meta(index));
                    other = Replica::restore(&meta(index), &snapshot).unwrap();
                    other.set_sessions_max(max);
                    assert_eq!(other.digest(), whole.digest(), "{max}: from {index}");
                }
                assert!(whole.state.sessions.len() <= max);
            }
        }
    }

    #[test]
    fn a_snapshot_of_another_position_or_cut_short_is_refused() {
        let mut replica = Replica::default();
        replica.apply(1, &command(1));
        replica.apply(2, &command(2));
        let snapshot = replica.checkpoint(meta(2));
        assert!(Replica::restore(&meta(3), &snapshot).is_err());
        for cut in 0..snapshot.len() {
            assert!(Replica::restore(&meta(2), &snapshot[..cut]).is_err());
        }
    }
}
