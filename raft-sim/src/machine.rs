//! The replicated state machines that simulated nodes run: the real key-value machine, and one that only hashes.

use bytes::Bytes;
use raft_core::{Entry, LogPosition, Membership, Payload, SnapshotMeta};
use raft_kv::{Replica, Response};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::history::{Answer, Ask, Seen, key_bytes, value_number};

/// A deterministic state machine.
pub trait Machine: Default {
    /// Applies one committed entry. What the machine answers to its command, if it answers at all.
    fn apply(&mut self, entry: &Entry) -> Option<Response>;

    /// A digest of the whole state. Equal states must have equal digests.
    fn digest(&self) -> u64;

    /// Takes a checkpoint, in the form in which it would travel to another node.
    fn checkpoint(&mut self, meta: &SnapshotMeta) -> Bytes;

    /// The machine as a checkpoint left it.
    ///
    /// # Errors
    /// What is wrong with the checkpoint, in words.
    fn restore(meta: &SnapshotMeta, data: &[u8]) -> Result<Self, String>;

    /// Keeps at most so many sessions open. Told to every machine before it applies anything. Without effect on machines that know no sessions.
    fn set_sessions_max(&mut self, max: usize) {
        let _ = max;
    }

    /// Answers a question to the state as it is; `None` if the machine knows no questions.
    fn read(&self, ask: &Ask) -> Option<Answer>;
}

impl Machine for Replica {
    fn apply(&mut self, entry: &Entry) -> Option<Response> {
        match &entry.payload {
            Payload::Command(command) => Some(Replica::apply(self, entry.index.0, command)),
            _ => None,
        }
    }

    fn digest(&self) -> u64 {
        let digest = Replica::digest(self);
        (digest ^ (digest >> 64)) as u64
    }

    fn checkpoint(&mut self, meta: &SnapshotMeta) -> Bytes {
        Replica::checkpoint(self, meta.clone()).into()
    }

    fn restore(meta: &SnapshotMeta, data: &[u8]) -> Result<Replica, String> {
        Replica::restore(meta, data).map_err(|error| error.to_string())
    }

    fn set_sessions_max(&mut self, max: usize) {
        Replica::set_sessions_max(self, max);
    }

    fn read(&self, ask: &Ask) -> Option<Answer> {
        let seen = |record: &raft_kv::Record| Seen {
            value: value_number(&record.value),
            create_revision: record.create_revision,
            mod_revision: record.mod_revision,
            version: record.version,
        };
        match *ask {
            Ask::Get { key } => {
                let found = self.get(&key_bytes(key));
                Some(Answer::Read(found.iter().map(|record| (key, seen(record))).collect()))
            }
            Ask::Range { from, to } => {
                let (found, _) = self.range(&key_bytes(from), Some(&key_bytes(to)), u32::MAX);
                let keys = found
                    .iter()
                    .map(|row| (row.key.last().copied().unwrap_or(0), seen(&row.record)));
                Some(Answer::Read(keys.collect()))
            }
            _ => None,
        }
    }
}

/// The smallest machine that tells histories apart: a running hash over everything applied.
#[derive(Clone, Debug, Default)]
pub struct HashMachine {
    digest: u64,
}

impl Machine for HashMachine {
    fn apply(&mut self, entry: &Entry) -> Option<Response> {
        self.digest = mix(mix(self.digest, entry.index.0), payload_hash(&entry.payload));
        None
    }

    fn digest(&self) -> u64 {
        self.digest
    }

    fn checkpoint(&mut self, _: &SnapshotMeta) -> Bytes {
        Bytes::copy_from_slice(&self.digest.to_le_bytes())
    }

    fn restore(_: &SnapshotMeta, data: &[u8]) -> Result<HashMachine, String> {
        let digest = data.try_into().map(u64::from_le_bytes);
        digest.map(|digest| HashMachine { digest }).map_err(|_| "not eight bytes".to_owned())
    }

    fn read(&self, _: &Ask) -> Option<Answer> {
        None
    }
}

/// A machine and how far it is.
#[derive(Debug)]
pub(crate) struct Progress<M> {
    pub(crate) applied: LogPosition,
    /// The configuration as of there.
    pub(crate) membership: Membership,
    pub(crate) state: M,
}

/// A machine that keeps at most so many sessions open.
pub(crate) fn fresh<M: Machine>(sessions_max: u64) -> M {
    let mut machine = M::default();
    machine.set_sessions_max(usize::try_from(sessions_max).unwrap_or(usize::MAX));
    machine
}

impl<M: Machine> Progress<M> {
    /// Nothing applied yet, in a group with this configuration.
    pub(crate) fn founding(membership: Membership, sessions_max: u64) -> Progress<M> {
        Progress { applied: LogPosition::ORIGIN, membership, state: fresh(sessions_max) }
    }

    /// What a checkpoint leaves.
    pub(crate) fn restore(
        meta: &SnapshotMeta,
        data: &[u8],
        sessions_max: u64,
    ) -> Result<Progress<M>, String> {
        let mut state = M::restore(meta, data)?;
        state.set_sessions_max(usize::try_from(sessions_max).unwrap_or(usize::MAX));
        Ok(Progress { applied: meta.position, membership: (*meta.membership).clone(), state })
    }
}

/// Folds `value` into `hash` (FNV-1a over words, with a final shift so that low bits spread).
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    mixed ^ (mixed >> 29)
}

pub(crate) fn payload_hash(payload: &Payload) -> u64 {
    match payload {
        Payload::Empty => 1,
        Payload::Command(command) => xxh3_64_with_seed(command, 2),
        Payload::Membership(membership) => {
            let sets = [
                &membership.voters,
                &membership.outgoing,
                &membership.learners,
                &membership.witnesses,
            ];
            let nodes = sets
                .iter()
                .zip(1..)
                .flat_map(|(set, kind)| set.iter().map(move |n| mix(kind, n.0)));
            let stores = membership.stores.iter().map(|(node, store)| mix(node.0, store.0));
            nodes.chain(stores).fold(3, mix)
        }
        Payload::Withheld => 4,
    }
}
