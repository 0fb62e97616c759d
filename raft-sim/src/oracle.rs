//! A second opinion on every answer: a naive map that replays the log in the order of its indexes. Beside it a machine of the real kind that
//! replays the whole log and never sees a snapshot, and the book of who wrote what: each session's request once.

use std::collections::BTreeMap;

use raft_core::{Entry, Index, NodeId, Payload};
use raft_kv::{Command, Response, SessionId, WriteOutcome};
use rustc_hash::FxHashMap;

use crate::checker::broken;
use crate::history::{Answer, Ask, Expected, KEYS_MAX, Seen};
use crate::machine::fresh;
use crate::{Machine, Violation};

/// One outcome, and one revision.
const APPLIED_ONCE: &str = "each session's request is applied once";

/// A write's name: its session, and its number there.
pub(crate) type Name = (SessionId, u64);

/// The name of the request in a command. A session's opening stands before its first write.
pub(crate) fn name_of(entry: &Entry) -> Option<Name> {
    let Payload::Command(command) = &entry.payload else { return None };
    match Command::decode(command).ok()? {
        Command::OpenSession { session } => Some((session, 0)),
        Command::Write { session, sequence, .. } => Some((session, sequence + 1)),
    }
}

/// What a naive session knows: nothing is ever forgotten but what was acknowledged. One that the machines have forgotten is closed.
#[derive(Clone, Debug, Default)]
struct Session {
    /// Where it was used last; `None` if it is closed.
    used_at: Option<Index>,
    acked_below: u64,
    outcomes: FxHashMap<u64, (Index, WriteOutcome)>,
}

/// The replay.
#[derive(Debug)]
pub(crate) struct Oracle<M> {
    applied: Index,
    revision: u64,
    sessions: BTreeMap<SessionId, Session>,
    sessions_max: u64,
    /// What each key was after each index at which it changed.
    keys: Vec<Vec<(Index, Option<Seen>)>>,
    /// The answers to the commands at each index, from 1 on.
    answers: Vec<Option<Response>>,
    /// The real machine, over the whole log.
    whole: M,
    /// Digests of it, from index 1 on.
    digests: Vec<u64>,
    /// What some machine answered to each write.
    outcomes: FxHashMap<Name, WriteOutcome>,
    /// Who made each revision.
    made: FxHashMap<u64, Name>,
}

impl<M: Machine> Oracle<M> {
    /// Of machines that keep at most so many sessions open.
    pub(crate) fn new(sessions_max: u64) -> Oracle<M> {
        Oracle {
            applied: Index(0),
            revision: 0,
            sessions: BTreeMap::new(),
            sessions_max,
            keys: vec![Vec::new(); KEYS_MAX as usize],
            answers: Vec::new(),
            whole: fresh(sessions_max),
            digests: Vec::new(),
            outcomes: FxHashMap::default(),
            made: FxHashMap::default(),
        }
    }

    /// A node's machine has applied an entry. `asked` is what a client meant by its command.
    ///
    /// # Errors
    /// The violation.
    pub(crate) fn on_applied(
        &mut self,
        node: NodeId,
        entry: &Entry,
        (name, asked): (Option<Name>, Option<Ask>),
        (response, digest): (Option<Response>, u64),
    ) -> Result<(), Violation> {
        if let (Some(name), Some(Response::Written(outcome))) = (name, response) {
            self.on_written(node, name, outcome)?;
        }
        if entry.index == self.applied.next() {
            self.applied = entry.index;
            let answer = name.zip(asked).map(|(name, asked)| self.replay(entry, name, asked));
            self.answers.push(answer);
            let _ = self.whole.apply(entry);
            self.digests.push(self.whole.digest());
        }
        let place = entry.index.0 as usize - 1;
        let (Some(expected), Some(whole)) = (self.answers.get(place), self.digests.get(place))
        else {
            return broken(
                "entries are applied in order",
                format!("node {node} applies {}, but nobody applied what is before", entry.index),
            );
        };
        // A machine that only hashes answers nothing.
        if response.is_some() && expected.is_some() && response != *expected {
            return broken(
                "answers are those of a map",
                format!(
                    "node {node} answers {response:?} to {asked:?} at {}; a map would have answered {expected:?}",
                    entry.index
                ),
            );
        }
        if digest != *whole {
            return broken(
                "snapshot and tail equal a full replay",
                format!(
                    "node {node} has another state after {} than a replay of the whole log",
                    entry.index
                ),
            );
        }
        Ok(())
    }

    /// Each session's request takes effect once, whichever copies of it are applied wherever: it has one outcome, and makes one revision.
    fn on_written(
        &mut self,
        node: NodeId,
        name: Name,
        outcome: WriteOutcome,
    ) -> Result<(), Violation> {
        let first = *self.outcomes.entry(name).or_insert(outcome);
        if first != outcome {
            return broken(
                APPLIED_ONCE,
                format!(
                    "node {node} answers {outcome:?} to {name:?}, which was answered {first:?}"
                ),
            );
        }
        if let WriteOutcome::Put { revision } | WriteOutcome::Deleted { revision } = outcome {
            let made_by = *self.made.entry(revision).or_insert(name);
            if made_by != name {
                return broken(
                    APPLIED_ONCE,
                    format!("node {node}: revision {revision} is of {name:?} and of {made_by:?}"),
                );
            }
        }
        Ok(())
    }

    /// What a map with sessions would answer to the command at this index.
    fn replay(&mut self, entry: &Entry, name: Name, asked: Ask) -> Response {
        let (id, number) = name;
        if asked == Ask::Open {
            self.open(id, entry.index);
            return Response::SessionOpened;
        }
        let sequence = number - 1;
        let acked_below = match &entry.payload {
            Payload::Command(command) => match Command::decode(command) {
                Ok(Command::Write { acked_below, .. }) => acked_below,
                _ => 0,
            },
            _ => 0,
        };
        let open = self.sessions.get_mut(&id).filter(|session| session.used_at.is_some());
        let Some(session) = open else { return Response::SessionExpired };
        session.used_at = Some(entry.index);
        session.acked_below = session.acked_below.max(acked_below.min(sequence));
        if sequence < session.acked_below {
            return Response::SessionExpired;
        }
        if let Some((_, outcome)) = session.outcomes.get(&sequence) {
            return Response::Written(*outcome);
        }
        let outcome = self.write(entry.index, asked);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.outcomes.insert(sequence, (entry.index, outcome));
        }
        Response::Written(outcome)
    }

    /// Opens a session. If there are too many, those that were used least recently make room: one in sixteen, and one at least.
    fn open(&mut self, id: SessionId, index: Index) {
        let mut others: Vec<(Index, SessionId)> = self
            .sessions
            .iter()
            .filter_map(|(other, session)| Some((session.used_at?, *other)))
            .collect();
        if others.len() as u64 >= self.sessions_max {
            let kept = self.sessions_max - self.sessions_max.div_ceil(16);
            let too_many = (others.len() as u64 - kept) as usize;
            others.retain(|(_, other)| *other != id);
            others.sort_unstable();
            for (_, forgotten) in others.iter().take(too_many) {
                self.sessions.entry(*forgotten).or_default().used_at = None;
            }
        }
        self.sessions.entry(id).or_default().used_at = Some(index);
    }

    fn write(&mut self, index: Index, asked: Ask) -> WriteOutcome {
        let (key, value) = match asked {
            Ask::Put { key, value } => (key, Some(value)),
            Ask::Cas { key, expect, value } => {
                let now = self.key_at(key, index);
                let is_met = match expect {
                    Expected::Absent => now.is_none(),
                    Expected::Value(expected) => now.is_some_and(|it| it.value == expected),
                    Expected::Revision(expected) => {
                        now.is_some_and(|it| it.mod_revision == expected)
                    }
                };
                if !is_met {
                    let mod_revision = now.map(|it| it.mod_revision);
                    return WriteOutcome::CompareFailed { mod_revision };
                }
                (key, value)
            }
            Ask::Delete { key } => (key, None),
            Ask::Open | Ask::Get { .. } | Ask::Range { .. } => return WriteOutcome::NotFound,
        };
        let before = self.key_at(key, index);
        if value.is_none() && before.is_none() {
            return WriteOutcome::NotFound;
        }
        self.revision += 1;
        let revision = self.revision;
        let after = value.map(|value| Seen {
            value,
            create_revision: before.map_or(revision, |it| it.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |it| it.version + 1),
        });
        self.keys[key as usize].push((index, after));
        if after.is_some() {
            WriteOutcome::Put { revision }
        } else {
            WriteOutcome::Deleted { revision }
        }
    }

    fn key_at(&self, key: u8, index: Index) -> Option<Seen> {
        let changes = &self.keys[key as usize];
        let count = changes.partition_point(|(at, _)| *at <= index);
        changes[..count].last().and_then(|(_, seen)| *seen)
    }

    /// What a read at this index must be told.
    fn read_at(&self, ask: Ask, index: Index) -> Answer {
        let keys = match ask {
            Ask::Get { key } => key..key + 1,
            Ask::Range { from, to } => from..to,
            _ => 0..0,
        };
        let found = keys.filter_map(|key| self.key_at(key, index).map(|seen| (key, seen)));
        Answer::Read(found.collect())
    }

    /// Where a write took effect.
    pub(crate) fn effect_of(&self, (session, number): Name) -> Option<Index> {
        let outcomes = &self.sessions.get(&session)?.outcomes;
        outcomes.get(&number.checked_sub(1)?).map(|(at, _)| *at)
    }

    /// Where a write changed something.
    pub(crate) fn change_of(&self, (session, number): Name) -> Option<Index> {
        let outcomes = &self.sessions.get(&session)?.outcomes;
        let (at, outcome) = outcomes.get(&number.checked_sub(1)?)?;
        matches!(outcome, WriteOutcome::Put { .. } | WriteOutcome::Deleted { .. }).then_some(*at)
    }

    /// A client is told something, of the state at `index`. `floor` is the highest index that any client knew of before it asked.
    ///
    /// # Errors
    /// If the answer is not the one of that index, or the request took effect before it was asked. The index at which it took effect otherwise.
    pub(crate) fn on_told(
        &self,
        (ask, name): (Ask, Option<Name>),
        answer: &Answer,
        index: Index,
        floor: Index,
    ) -> Result<Index, Violation> {
        let mut effect = index;
        let mut is_in_order = index >= floor;
        match answer {
            Answer::Read(_) => {
                let expected = self.read_at(ask, index);
                if *answer != expected {
                    return broken(
                        "reads are those of their index",
                        format!(
                            "{ask:?} at {index} is answered {answer:?}; a map would answer {expected:?}"
                        ),
                    );
                }
            }
            Answer::Written(_) => {
                effect = name.and_then(|name| self.effect_of(name)).unwrap_or(index);
                is_in_order = effect > floor;
            }
            Answer::Opened => {}
        }
        if !is_in_order {
            return broken(
                "real time is kept",
                format!(
                    "{ask:?} takes effect at {effect}; {floor} was known to a client before it was asked"
                ),
            );
        }
        Ok(effect)
    }
}
