//! The clients' own books: sessions, what was asked and is not answered, what was told. The real client does the same: numbers its writes,
//! sends them again when no answer comes, to whichever node, and says which answers it has.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::{Index, ProposalId, ReadId};
use raft_kv::{Command, Expect, SessionId, Write, WriteOutcome};
use rustc_hash::FxHashMap;

use crate::history::{Answer, Ask, Expected, KEYS_MAX, Request, key_bytes};
use crate::oracle::Name;
use crate::{ClientPlan, Rng};

/// One session as its client knows it.
#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    is_open: bool,
    /// Its next write's number.
    next: u64,
    /// What waits for an answer, by the number that names it: 0 opens the session, `n + 1` is write `n`.
    waiting: BTreeMap<u64, usize>,
}

/// All clients.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    sessions: Vec<Session>,
    sessions_begun: u64,
    keys: u8,
    /// How many writes of a session may wait for their answers.
    pipeline_max: usize,
    /// Sessions may be forgotten while their clients still use them.
    are_forgotten: bool,
    /// Everything ever asked.
    pub(crate) history: Vec<Request>,
    /// Beside each request: its name, if it is a write, and the floor when it was asked.
    names: Vec<(Option<Name>, Index)>,
    /// And how often it was sent, and when last.
    sent: Vec<(u32, u64)>,
    /// How long an answer is waited for before a write is sent again.
    patience_us: u64,
    by_name: FxHashMap<Name, usize>,
    pub(crate) batches: FxHashMap<ProposalId, Vec<usize>>,
    pub(crate) reads: FxHashMap<ReadId, usize>,
    /// The highest index that some client was told something of.
    pub(crate) floor: Index,
    /// Who was told last of each key: a value and its revision.
    pub(crate) heard: [(u64, u64); KEYS_MAX as usize],
}

impl Clients {
    pub(crate) fn new(plan: &ClientPlan) -> Clients {
        let mut clients = Clients {
            sessions: Vec::new(),
            sessions_begun: 0,
            keys: u8::try_from(plan.keys).unwrap_or(KEYS_MAX).clamp(1, KEYS_MAX),
            pipeline_max: usize::try_from(plan.pipeline_max).unwrap_or(usize::MAX),
            are_forgotten: plan.forgets_sessions(),
            history: Vec::new(),
            names: Vec::new(),
            sent: Vec::new(),
            patience_us: plan.patience_us,
            by_name: FxHashMap::default(),
            batches: FxHashMap::default(),
            reads: FxHashMap::default(),
            floor: Index(0),
            heard: [(0, 0); KEYS_MAX as usize],
        };
        for _ in 0..plan.sessions {
            let session = clients.new_session();
            clients.sessions.push(session);
        }
        clients
    }

    fn new_session(&mut self) -> Session {
        self.sessions_begun += 1;
        let id = SessionId(u128::from(self.sessions_begun));
        Session { id, is_open: false, next: 0, waiting: BTreeMap::new() }
    }

    fn ask(&mut self, ask: Ask, name: Option<Name>, now: u64) -> usize {
        let request = self.history.len();
        self.history.push(Request { ask, call: now, result: None, is_refused: false, guess: None });
        self.names.push((name, self.floor));
        self.sent.push((0, now));
        if let Some(name) = name {
            self.by_name.insert(name, request);
        }
        request
    }

    /// The request with this name.
    pub(crate) fn named(&self, name: Name) -> Option<usize> {
        self.by_name.get(&name).copied()
    }

    /// A request's name, and the highest index that a client knew of when it was asked.
    pub(crate) fn name(&self, request: usize) -> (Option<Name>, Index) {
        self.names[request]
    }

    /// A new read.
    pub(crate) fn begin_read(&mut self, rng: &mut Rng, now: u64) -> usize {
        let key = rng.below(u64::from(self.keys)) as u8;
        let ask = if rng.chance(250) {
            Ask::Range { from: key, to: self.keys }
        } else {
            Ask::Get { key }
        };
        self.ask(ask, None, now)
    }

    /// The next write to send: a new one, or one again that was not answered yet. Whether it was sent before. `None` if its client waits.
    pub(crate) fn next_write(&mut self, rng: &mut Rng, now: u64) -> Option<(usize, bool)> {
        let place = rng.below(self.sessions.len() as u64) as usize;
        let session = &self.sessions[place];
        let is_open = session.is_open;
        let oldest = session.waiting.values().next().copied();
        if self.are_forgotten && !is_open && oldest.is_some() {
            // Opened, forgotten and opened again by a late copy, a session would know nothing of its writes, and late copies of these would be applied twice:
            // each try takes an id of its own.
            self.sessions[place] = self.new_session();
            return Some(self.next_of(place, rng, now));
        }
        if let Some(oldest) = oldest
            && (!is_open || session.waiting.len() >= self.pipeline_max || rng.chance(100))
        {
            if self.sent[oldest].1 + self.patience_us > now {
                return None;
            }
            // With few clients nobody is: outcomes stay unknown only at the end.
            if self.pipeline_max > 1 && rng.chance(5) {
                // The client is killed, and another takes its place.
                self.sessions[place] = self.new_session();
            }
            return Some((oldest, true));
        }
        Some(self.next_of(place, rng, now))
    }

    /// What a session sends next that it did not send before: its opening, or a new write.
    fn next_of(&mut self, place: usize, rng: &mut Rng, now: u64) -> (usize, bool) {
        let Session { id, is_open, next, .. } = self.sessions[place];
        if !is_open {
            let request = self.ask(Ask::Open, Some((id, 0)), now);
            self.sessions[place].waiting.insert(0, request);
            return (request, false);
        }
        let ask = self.new_write(rng);
        let request = self.ask(ask, Some((id, next + 1)), now);
        let session = &mut self.sessions[place];
        session.next += 1;
        session.waiting.insert(next + 1, request);
        (request, false)
    }

    /// A client is told that its session is forgotten, by the answer to this write, and begins another. What else waited stays unknown; this write was
    /// not done, unless another copy of it was. False if nobody waits for this answer any more.
    pub(crate) fn lose_session(&mut self, request: usize) -> bool {
        let Some((id, number)) = self.names[request].0 else { return false };
        let Some(place) = self.sessions.iter().position(|session| session.id == id) else {
            return false;
        };
        if !self.sessions[place].waiting.contains_key(&number) {
            return false;
        }
        self.history[request].is_refused = self.sent[request].0 == 1;
        self.sessions[place] = self.new_session();
        true
    }

    fn new_write(&self, rng: &mut Rng) -> Ask {
        let key = rng.below(u64::from(self.keys)) as u8;
        let value = self.history.len() as u64 + 1;
        let (heard, revision) = self.heard[key as usize];
        match rng.below(20) {
            0..=8 => Ask::Put { key, value },
            9..=11 => Ask::Delete { key },
            kind => {
                let expect = match kind {
                    12..=15 => Expected::Value(heard),
                    16..=17 => Expected::Revision(revision),
                    _ => Expected::Absent,
                };
                Ask::Cas { key, expect, value: (!rng.chance(200)).then_some(value) }
            }
        }
    }

    /// A write's command, as it is sent now. Values are padded.
    pub(crate) fn command(&mut self, request: usize, (padding, now): (usize, u64)) -> Bytes {
        let sent = &mut self.sent[request];
        *sent = (sent.0 + 1, now);
        let Some((session, number)) = self.names[request].0 else { return Bytes::new() };
        let held = self.sessions.iter().find(|held| held.id == session);
        let acked_below = held.map_or(0, |held| {
            held.waiting.keys().next().map_or(held.next, |lowest| lowest.saturating_sub(1))
        });
        let padded = |value: u64| {
            let mut bytes = Vec::with_capacity(8 + padding);
            bytes.extend_from_slice(&value.to_le_bytes());
            bytes.resize(8 + padding, 0);
            bytes
        };
        let write = |write: Write<'_>| {
            let sequence = number.saturating_sub(1);
            Command::Write { session, sequence, acked_below, write }.encode()
        };
        match self.history[request].ask {
            Ask::Put { key, value } => {
                write(Write::Put { key: &key_bytes(key), value: &padded(value) })
            }
            Ask::Delete { key } => write(Write::Delete { key: &key_bytes(key) }),
            Ask::Cas { key, expect, value } => {
                let (wanted, value) = (
                    match expect {
                        Expected::Value(value) => padded(value),
                        _ => Vec::new(),
                    },
                    value.map(padded),
                );
                let expect = match expect {
                    Expected::Absent => Expect::Absent,
                    Expected::Value(_) => Expect::Value(&wanted),
                    Expected::Revision(revision) => Expect::ModRevision(revision),
                };
                let key = &key_bytes(key);
                write(Write::CompareAndSet { key, expect, value: value.as_deref() })
            }
            _ => Command::OpenSession { session }.encode(),
        }
    }

    /// The client has its answer. False if it is gone, or has it already.
    pub(crate) fn take_answer(&mut self, request: usize) -> bool {
        let Some((id, number)) = self.names[request].0 else {
            return self.history[request].result.is_none();
        };
        let Some(session) = self.sessions.iter_mut().find(|session| session.id == id) else {
            return false;
        };
        session.is_open |= number == 0;
        session.waiting.remove(&number).is_some()
    }

    /// Remembers what was told of a key, to compare with later.
    pub(crate) fn hear(&mut self, request: usize, answer: &Answer) {
        match (answer, self.history[request].ask) {
            (Answer::Read(found), _) => {
                for (key, seen) in found {
                    self.heard[*key as usize] = (seen.value, seen.mod_revision);
                }
            }
            (
                Answer::Written(WriteOutcome::Put { revision }),
                Ask::Put { key, value } | Ask::Cas { key, value: Some(value), .. },
            ) => self.heard[key as usize] = (value, *revision),
            _ => {}
        }
    }
}
