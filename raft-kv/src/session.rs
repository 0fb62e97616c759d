//! Client sessions: what makes a retried write apply once (dissertation §6.3). Bounded in number and in memory; whoever is evicted is
//! the same on every node, because only the log decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::codec::{Malformed, Put, Reader};
use crate::command::{SessionId, WriteOutcome};
use crate::mutants::mutated;

/// The most sessions that are open; opening more closes those that were used least recently.
const SESSIONS_MAX: usize = 10_000;
/// How far a session's writes may be ahead of what its client acknowledged.
pub(crate) const WINDOW_MAX: u64 = 16_384;
/// The most outcomes kept over all sessions; each takes 24 bytes.
const OUTCOMES_MAX: usize = 2_000_000;

/// One client's writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// The log index of its latest command.
    used_at: u64,
    /// The client has the outcomes of all numbers below.
    acked_below: u64,
    /// The outcome of number `acked_below + i`, if that was applied.
    outcomes: VecDeque<Option<WriteOutcome>>,
}

/// What a session knows of a numbered write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was not applied yet.
    New,
    /// It was applied, with this outcome.
    Done(WriteOutcome),
    /// It was applied or given up long ago, or the session is not open.
    Forgotten,
    /// It is too far ahead.
    TooFarAhead,
}

/// All sessions.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    /// [`SESSIONS_MAX`], but in tests and simulations. Equal on all members, since it decides whom they forget.
    max: usize,
    open: BTreeMap<SessionId, Session>,
    outcomes: usize,
    /// What has changed since the last checkpoint.
    dirty: BTreeSet<SessionId>,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions::with_max(SESSIONS_MAX)
    }
}

impl Sessions {
    pub(crate) fn with_max(max: usize) -> Sessions {
        Sessions { max, open: BTreeMap::new(), outcomes: 0, dirty: BTreeSet::new() }
    }

    /// Before any is opened: all members forget the same ones only with the same number.
    pub(crate) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// All open sessions, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.open.iter().map(|(&id, session)| (id, session))
    }

    pub(crate) fn open(&mut self, id: SessionId, index: u64) {
        if self.open.len() >= self.max {
            self.evict(
                |sessions| sessions.open.len() > sessions.max - sessions.max.div_ceil(16),
                id,
            );
        }
        self.open.entry(id).or_default().used_at = index;
        self.dirty.insert(id);
    }

    /// Looks a write up, and forgets what the client has acknowledged.
    pub(crate) fn look_up(
        &mut self,
        id: SessionId,
        sequence: u64,
        acked_below: u64,
        index: u64,
    ) -> Known {
        let Some(session) = self.open.get_mut(&id) else { return Known::Forgotten };
        session.used_at = index;
        if !mutated!(SessionOfAWriteNotCheckpointed) {
            self.dirty.insert(id);
        }
        let acked_below =
            (acked_below + u64::from(mutated!(OutcomeForgottenTooEarly))).min(sequence);
        if acked_below > session.acked_below {
            let acked = usize::try_from(acked_below - session.acked_below).unwrap_or(usize::MAX);
            let gone = acked.min(session.outcomes.len());
            session.outcomes.drain(..gone);
            self.outcomes -= gone;
            session.acked_below = acked_below;
        }
        let Some(offset) = sequence.checked_sub(session.acked_below) else {
            return Known::Forgotten;
        };
        if offset >= WINDOW_MAX {
            return Known::TooFarAhead;
        }
        match session.outcomes.get(offset as usize) {
            Some(Some(outcome)) => Known::Done(*outcome),
            _ => Known::New,
        }
    }

    /// Remembers the outcome of a write that [`Sessions::look_up`] called new.
    pub(crate) fn remember(&mut self, id: SessionId, sequence: u64, outcome: WriteOutcome) {
        if mutated!(OutcomeNotRemembered) {
            return;
        }
        let Some(session) = self.open.get_mut(&id) else { return };
        let offset = sequence.saturating_sub(session.acked_below).min(WINDOW_MAX - 1) as usize;
        let grown = (offset + 1).saturating_sub(session.outcomes.len());
        session.outcomes.extend(std::iter::repeat_n(None, grown));
        session.outcomes[offset] = Some(outcome);
        self.outcomes += grown;
        if self.outcomes > OUTCOMES_MAX {
            self.evict(|sessions| sessions.outcomes > OUTCOMES_MAX - OUTCOMES_MAX / 16, id);
        }
    }

    /// Closes the sessions that were used least recently, but not `keep`, while there are too many.
    fn evict(&mut self, is_too_much: impl Fn(&Sessions) -> bool, keep: SessionId) {
        let mut by_use: Vec<(u64, SessionId)> = self
            .open
            .iter()
            .map(|(&id, session)| (session.used_at, id))
            .filter(|&(_, id)| id != keep)
            .collect();
        by_use.sort_unstable();
        for (_, id) in by_use {
            if !is_too_much(self) {
                break;
            }
            if let Some(session) = self.open.remove(&id) {
                self.outcomes -= session.outcomes.len();
                self.dirty.insert(id);
            }
        }
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.open.get(&id)
    }

    /// What changed since the last time, `None` for sessions that were closed.
    pub(crate) fn take_dirty(&mut self) -> Vec<(SessionId, Option<Session>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|id| (id, self.open.get(&id).cloned())).collect()
    }

    /// Puts a session in that a file or a snapshot held.
    pub(crate) fn restore(&mut self, id: SessionId, session: Session) {
        self.outcomes += session.outcomes.len();
        self.open.insert(id, session);
    }
}

impl Session {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Puts it at the end of `out`.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(20 + WriteOutcome::ENCODED_BYTES * self.outcomes.len());
        out.put_u64(self.used_at);
        out.put_u64(self.acked_below);
        out.put_u32(self.outcomes.len() as u32);
        for outcome in &self.outcomes {
            match outcome {
                None => out.put_u8(0),
                Some(outcome) => outcome.put_to(out),
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Session, Malformed> {
        let mut reader = Reader::new(bytes);
        let used_at = reader.u64("a session")?;
        let acked_below = reader.u64("a session")?;
        let count = reader.u32("a session")?;
        if u64::from(count) > WINDOW_MAX {
            return Err(Malformed::LeftOver { bytes: count as usize });
        }
        let mut outcomes = VecDeque::with_capacity(count as usize);
        for _ in 0..count {
            let is_present = reader.clone().u8("an outcome")? != 0;
            outcomes.push_back(if is_present {
                Some(WriteOutcome::read_from(&mut reader)?)
            } else {
                reader.u8("an outcome")?;
                None
            });
        }
        reader.finish()?;
        Ok(Session { used_at, acked_below, outcomes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);

    fn done(revision: u64) -> WriteOutcome {
        WriteOutcome::Put { revision }
    }

    #[test]
    fn a_write_is_new_once_and_remembered_until_it_is_acknowledged() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.look_up(A, 0, 0, 1), Known::Forgotten);
        sessions.open(A, 1);
        assert_eq!(sessions.look_up(A, 2, 0, 2), Known::New);
        sessions.remember(A, 2, done(7));
        assert_eq!(sessions.look_up(A, 2, 0, 3), Known::Done(done(7)));
        assert_eq!(sessions.look_up(A, 1, 0, 4), Known::New);
        sessions.remember(A, 1, done(8));
        assert_eq!(sessions.look_up(A, 3, 2, 5), Known::New);
        assert_eq!(sessions.look_up(A, 1, 2, 6), Known::Forgotten);
        assert_eq!(sessions.look_up(A, 2, 2, 7), Known::Done(done(7)));
        assert_eq!(sessions.look_up(A, WINDOW_MAX + 2, 2, 8), Known::TooFarAhead);
    }

    #[test]
    fn the_least_recently_used_sessions_make_room() {
        let mut sessions = Sessions::default();
        for number in 0..=SESSIONS_MAX as u64 {
            sessions.open(SessionId(u128::from(number)), number);
        }
        assert!(sessions.len() <= SESSIONS_MAX);
        assert_eq!(sessions.look_up(SessionId(0), 0, 0, 1), Known::Forgotten);
        assert_eq!(sessions.look_up(SessionId(SESSIONS_MAX as u128), 0, 0, 1), Known::New);
    }

    #[test]
    fn a_session_reads_back() {
        let mut sessions = Sessions::default();
        sessions.open(A, 1);
        sessions.look_up(A, 5, 3, 9);
        sessions.remember(A, 5, WriteOutcome::CompareFailed { mod_revision: Some(4) });
        let (_, session) = sessions.take_dirty().pop().unwrap();
        let session = session.unwrap();
        assert_eq!(Session::decode(&session.encode()), Ok(session.clone()));
        for cut in 0..session.encode().len() {
            assert!(Session::decode(&session.encode()[..cut]).is_err());
        }
    }
}
