//! The sequential service that clients believe in, as a model for [`linearizability`](crate::linearizability): a map with one revision for all keys. Histories are
//! judged against it without their indexes.

use std::collections::BTreeMap;

use raft_kv::WriteOutcome;

use crate::history::{Answer, Ask, Expected, KEYS_MAX, Seen};
use crate::linearizability::Model;

/// What the service is to its clients: a map of keys with one revision for all, which counts every change.
pub(crate) struct Service {
    facts: Facts,
}

impl Service {
    /// The service of which clients were told this.
    pub(crate) fn told<'a>(answers: impl Iterator<Item = (&'a Ask, &'a Answer)>) -> Service {
        let mut facts = Facts::default();
        answers.for_each(|(ask, answer)| facts.note(ask, answer));
        facts.known.sort_unstable();
        facts.known.dedup();
        Service { facts }
    }
}

/// What all answers together say of the writes that nobody was told of. It decides nothing: what it rules out could not be explained later either. But a wrong
/// guess is seen at once, and not only when a client reads that key again.
#[derive(Debug, Default)]
struct Facts {
    /// The revisions whose writes are known, in order. All others are of writes that nobody was told of.
    known: Vec<u64>,
    /// Which key a revision is of, known or not.
    keys: BTreeMap<u64, u8>,
    /// Of each key, its known writes.
    writes: [BTreeMap<u64, Written>; KEYS_MAX as usize],
}

#[derive(Clone, Copy, Debug)]
enum Written {
    Put,
    /// Read afterwards.
    Read {
        create_revision: u64,
        version: u64,
    },
    Deleted,
}

impl Facts {
    fn note(&mut self, ask: &Ask, answer: &Answer) {
        let key = ask.keys().start;
        match answer {
            Answer::Read(found) => {
                for (key, Seen { create_revision, mod_revision, version, .. }) in found {
                    self.keys.insert(*create_revision, *key);
                    let (create_revision, version) = (*create_revision, *version);
                    let read = Written::Read { create_revision, version };
                    self.note_write(*mod_revision, *key, read);
                }
            }
            Answer::Written(WriteOutcome::Put { revision }) => {
                if !self.writes[key as usize].contains_key(revision) {
                    self.note_write(*revision, key, Written::Put);
                }
            }
            Answer::Written(WriteOutcome::Deleted { revision }) => {
                self.note_write(*revision, key, Written::Deleted);
            }
            Answer::Written(WriteOutcome::CompareFailed { mod_revision: Some(revision) }) => {
                self.keys.insert(*revision, key);
            }
            Answer::Written(_) | Answer::Opened => {}
        }
    }

    fn note_write(&mut self, revision: u64, key: u8, written: Written) {
        self.known.push(revision);
        self.keys.insert(revision, key);
        if let Some(writes) = self.writes.get_mut(key as usize) {
            writes.insert(revision, written);
        }
    }

    /// How many revisions between these two are of writes that nobody was told of.
    fn unknown_between(&self, low: u64, high: u64) -> u64 {
        let below = |revision: u64| self.known.partition_point(|known| *known < revision) as u64;
        (high - low - 1).saturating_sub(below(high) - below(low + 1))
    }

    /// Whether a write that nobody was told of may have made these contents of this key, and what is known of all keys may come after that.
    fn allow(&self, after: &Contents, key: u8) -> bool {
        let revision = after.revision;
        self.known.binary_search(&revision).is_err()
            && self.keys.get(&revision).is_none_or(|owner| *owner == key)
            && (0..KEYS_MAX as usize).all(|key| self.may_follow(revision, key, after.keys[key]))
    }

    /// Whether what is read of a key next may come of what it holds at this revision.
    fn may_follow(&self, revision: u64, key: usize, held: Option<Seen>) -> bool {
        for (puts, (at, written)) in (1..).zip(self.writes[key].range(revision + 1..)) {
            let (create_revision, version) = match *written {
                Written::Put => continue,
                Written::Deleted => return true,
                Written::Read { create_revision, version } => (create_revision, version),
            };
            if create_revision > revision {
                // Created anew in between.
                return true;
            }
            return held.is_some_and(|held| {
                let missing = version.checked_sub(held.version + puts);
                held.create_revision == create_revision
                    && missing.is_some_and(|it| it <= self.unknown_between(revision, *at))
            });
        }
        true
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Contents {
    revision: u64,
    keys: [Option<Seen>; KEYS_MAX as usize],
}

impl Contents {
    #[cfg(test)]
    pub(crate) fn read(&self, keys: std::ops::Range<u8>) -> Vec<(u8, Seen)> {
        keys.filter_map(|key| self.keys[key as usize].map(|seen| (key, seen))).collect()
    }

    /// Whether that is what is read of these keys.
    fn reads_as(&self, keys: std::ops::Range<u8>, found: &[(u8, Seen)]) -> bool {
        let held = keys.filter_map(|key| self.keys[key as usize].map(|seen| (key, seen)));
        held.eq(found.iter().copied())
    }

    /// What a write would do: set or remove a key, or nothing but to tell its client so.
    fn decide(&self, ask: &Ask) -> Result<(u8, Option<u64>), WriteOutcome> {
        let (key, value) = match *ask {
            Ask::Put { key, value } => (key, Some(value)),
            Ask::Cas { key, value, .. } => (key, value),
            Ask::Delete { key } => (key, None),
            Ask::Open | Ask::Get { .. } | Ask::Range { .. } => return Err(WriteOutcome::NotFound),
        };
        let before = self.keys[key as usize];
        if let Ask::Cas { expect, .. } = *ask {
            let is_met = match expect {
                Expected::Absent => before.is_none(),
                Expected::Value(expected) => before.is_some_and(|it| it.value == expected),
                Expected::Revision(expected) => {
                    before.is_some_and(|it| it.mod_revision == expected)
                }
            };
            if !is_met {
                let mod_revision = before.map(|it| it.mod_revision);
                return Err(WriteOutcome::CompareFailed { mod_revision });
            }
        }
        if value.is_none() && before.is_none() {
            return Err(WriteOutcome::NotFound);
        }
        Ok((key, value))
    }

    /// Carries out a write, and says what its client is told.
    pub(crate) fn write(&mut self, ask: &Ask) -> WriteOutcome {
        let (key, value) = match self.decide(ask) {
            Ok(change) => change,
            Err(outcome) => return outcome,
        };
        let before = self.keys[key as usize];
        self.revision += 1;
        let revision = self.revision;
        self.keys[key as usize] = value.map(|value| Seen {
            value,
            create_revision: before.map_or(revision, |it| it.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |it| it.version + 1),
        });
        match value {
            Some(_) => WriteOutcome::Put { revision },
            None => WriteOutcome::Deleted { revision },
        }
    }
}

impl Model for Service {
    type State = Contents;
    type Input = Ask;
    /// `None`: others saw its effect, and nobody was told of it.
    type Output = Option<Answer>;

    fn initial(&self) -> Contents {
        Contents::default()
    }

    fn step(
        &self,
        before: &Contents,
        ask: &Ask,
        told: Option<&Option<Answer>>,
    ) -> Option<Contents> {
        if let Some(Some(Answer::Read(found))) = told {
            return before.reads_as(ask.keys(), found).then(|| before.clone());
        }
        let mut after = before.clone();
        let outcome = after.write(ask);
        let fits = match told {
            Some(Some(answer)) => *answer == Answer::Written(outcome),
            // Without an effect it may as well never have happened.
            Some(None) | None => {
                after.revision > before.revision && self.facts.allow(&after, ask.keys().start)
            }
        };
        fits.then_some(after)
    }

    fn fits(&self, state: &Contents, ask: &Ask, told: Option<&Option<Answer>>) -> bool {
        match told {
            Some(Some(Answer::Read(found))) => state.reads_as(ask.keys(), found),
            Some(Some(answer)) if answer.revision().is_none() => {
                state.decide(ask).is_err_and(|outcome| *answer == Answer::Written(outcome))
            }
            _ => self.step(state, ask, told).is_some(),
        }
    }

    fn changes_nothing(&self, _: &Ask, told: &Option<Answer>) -> bool {
        told.as_ref().is_some_and(|answer| answer.revision().is_none())
    }

    fn position(&self, _: &Ask, told: &Option<Answer>) -> Option<u64> {
        told.as_ref()?.revision()
    }
}

impl Answer {
    /// The revision that a write made.
    fn revision(&self) -> Option<u64> {
        match self {
            Answer::Written(
                WriteOutcome::Put { revision } | WriteOutcome::Deleted { revision },
            ) => Some(*revision),
            _ => None,
        }
    }
}
