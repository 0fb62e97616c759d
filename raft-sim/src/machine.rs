//! The replicated state machines that simulated nodes run.

use raft_core::{Entry, LogPosition, Membership, Payload};

/// A deterministic state machine whose snapshot is a clone of it.
pub trait Machine: Clone + Default {
    /// Applies one committed entry.
    fn apply(&mut self, entry: &Entry);
    /// A digest of the whole state. Equal states must have equal digests.
    fn digest(&self) -> u64;
}

/// The smallest machine that tells histories apart: a running hash over everything applied.
#[derive(Clone, Debug, Default)]
pub struct HashMachine {
    digest: u64,
}

impl Machine for HashMachine {
    fn apply(&mut self, entry: &Entry) {
        self.digest = mix(mix(self.digest, entry.index.0), payload_hash(&entry.payload));
    }

    fn digest(&self) -> u64 {
        self.digest
    }
}

/// A machine and how far it is.
#[derive(Clone, Debug)]
pub(crate) struct Progress<M> {
    pub(crate) applied: LogPosition,
    /// The configuration as of there.
    pub(crate) membership: Membership,
    pub(crate) state: M,
}

impl<M: Default> Progress<M> {
    /// Nothing applied yet, in a group with this configuration.
    pub(crate) fn founding(membership: Membership) -> Progress<M> {
        Progress { applied: LogPosition::ORIGIN, membership, state: M::default() }
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
        Payload::Command(command) => command.iter().fold(2, |hash, &b| mix(hash, u64::from(b))),
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
