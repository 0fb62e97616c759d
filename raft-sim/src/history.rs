//! What clients asked and were told, with times: the input of the index-blind check. Nothing here knows of logs or indexes.

use crate::Violation;
use crate::checker::broken;
use crate::linearizability::{Limits, Model, Operation, check, is_linearization};

/// The most keys that clients use.
pub(crate) const KEYS_MAX: u8 = 8;
/// Histories that are no longer than this are also checked as a whole, all keys together.
const WHOLE_MAX: usize = 400;
/// How long one search may be. A run that needs more counts as failed.
const LIMITS: Limits = Limits { steps_max: 2_000_000 };

/// What a client asks. Keys are small numbers; values are numbers, each written by one request only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Opens a session.
    Open,
    /// Reads a key.
    Get {
        /// The key.
        key: u8,
    },
    /// Reads all keys from `from` to before `to`.
    Range {
        /// The first key.
        from: u8,
        /// The first key not read any more.
        to: u8,
    },
    /// Sets a key.
    Put {
        /// The key.
        key: u8,
        /// Its new value.
        value: u64,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: u8,
    },
    /// Sets or removes a key if it is as expected.
    Cas {
        /// The key.
        key: u8,
        /// What it must be.
        expect: Expected,
        /// Its new value; `None` removes it.
        value: Option<u64>,
    },
}

/// What a compare-and-set demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is no such key.
    Absent,
    /// It has this value.
    Value(u64),
    /// It was last modified at this revision.
    Revision(u64),
}

/// What is read of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its value.
    pub value: u64,
    /// The revision of its creation.
    pub create_revision: u64,
    /// The revision of its last modification.
    pub mod_revision: u64,
    /// How often it was modified, its creation included.
    pub version: u64,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The keys that were found.
    Read(Vec<(u8, Seen)>),
    /// What a write did.
    Written(raft_kv::WriteOutcome),
    /// The session is open.
    Opened,
}

/// One request as its client saw it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What was asked.
    pub ask: Ask,
    /// When it was asked first.
    pub call: u64,
    /// When it was answered, and what.
    pub result: Option<(u64, Answer)>,
    /// Nothing came of it, and the client knows that.
    pub is_refused: bool,
    /// Where it may stand in the order of all requests. A guess, which is tried first; the verdict does not rest on it.
    pub guess: Option<u64>,
}

pub(crate) fn key_bytes(key: u8) -> [u8; 2] {
    [b'k', key]
}

/// The number that a value begins with.
pub(crate) fn value_number(value: &[u8]) -> u64 {
    value.get(..8).and_then(|head| head.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Ask {
    /// The keys that it concerns.
    fn keys(&self) -> std::ops::Range<u8> {
        match *self {
            Ask::Open => 0..0,
            Ask::Get { key }
            | Ask::Put { key, .. }
            | Ask::Delete { key }
            | Ask::Cas { key, .. } => key..key + 1,
            Ask::Range { from, to } => from..to,
        }
    }

    fn is_read(&self) -> bool {
        matches!(self, Ask::Get { .. } | Ask::Range { .. })
    }

    /// The value that it writes, if it does.
    fn writes(&self) -> Option<u64> {
        match *self {
            Ask::Put { value, .. } => Some(value),
            Ask::Cas { value, .. } => value,
            _ => None,
        }
    }
}

/// A key's value and the revision of its last modification, 0 if that is not known; `None` if there is no such key.
type Held = Option<(u64, u64)>;

/// What one key's part of a request was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Held(Held),
    Done {
        revision: u64,
    },
    NotFound,
    CompareFailed(Option<u64>),
    /// It did take effect, but nobody was told how.
    Unknown,
}

impl Told {
    fn changes_nothing(&self) -> bool {
        matches!(self, Told::Held(_) | Told::NotFound | Told::CompareFailed(_))
    }
}

/// One key of the map, one step on. `None` if a map could not have answered that.
fn step(held: Held, ask: &Ask, told: &Told) -> Option<Held> {
    let written = |value: u64, told: &Told| match told {
        Told::Done { revision } => Some(Some((value, *revision))),
        Told::Unknown => Some(Some((value, 0))),
        _ => None,
    };
    let removed = |told: &Told| match told {
        Told::Done { .. } if held.is_some() => Some(None),
        Told::NotFound if held.is_none() => Some(None),
        Told::Unknown => Some(None),
        _ => None,
    };
    match *ask {
        Ask::Open => Some(held),
        Ask::Get { .. } | Ask::Range { .. } => {
            let fits = match (held, told) {
                (None, Told::Held(None)) => true,
                (Some((value, revision)), Told::Held(Some((seen, at)))) => {
                    value == *seen && (revision == 0 || revision == *at)
                }
                _ => false,
            };
            fits.then_some(held)
        }
        Ask::Put { value, .. } => written(value, told),
        Ask::Delete { .. } => removed(told),
        Ask::Cas { expect, value, .. } => {
            // `None`: it can not be told, because the revision is not known.
            let is_met = match (expect, held) {
                (Expected::Absent, _) => Some(held.is_none()),
                (_, None) => Some(false),
                (Expected::Value(expected), Some((value, _))) => Some(value == expected),
                (Expected::Revision(_), Some((_, 0))) => None,
                (Expected::Revision(expected), Some((_, at))) => Some(at == expected),
            };
            match told {
                Told::CompareFailed(found) => {
                    let fits = match (held, found) {
                        (None, None) => true,
                        (Some((_, at)), Some(found)) => at == 0 || at == *found,
                        _ => false,
                    };
                    (fits && is_met != Some(true)).then_some(held)
                }
                Told::Unknown if is_met == Some(false) => Some(held),
                _ if is_met == Some(false) => None,
                told => value.map_or_else(|| removed(told), |value| written(value, told)),
            }
        }
    }
}

/// One key by itself. Operations on different keys do not concern each other, and what holds of a range read as a whole holds of each of its
/// keys; that a range is of one moment, the oracle and the whole-map check judge.
struct OneKey;

impl Model for OneKey {
    type State = Held;
    type Input = Ask;
    type Output = Told;

    fn initial(&self) -> Held {
        None
    }

    fn step(&self, held: &Held, ask: &Ask, told: Option<&Told>) -> Option<Held> {
        step(*held, ask, told.unwrap_or(&Told::Unknown))
    }

    fn changes_nothing(&self, _: &Ask, told: &Told) -> bool {
        told.changes_nothing()
    }
}

/// All keys together.
struct WholeMap;

impl Model for WholeMap {
    type State = [Held; KEYS_MAX as usize];
    type Input = Ask;
    type Output = Vec<Told>;

    fn initial(&self) -> Self::State {
        [None; KEYS_MAX as usize]
    }

    fn step(&self, map: &Self::State, ask: &Ask, told: Option<&Vec<Told>>) -> Option<Self::State> {
        let mut next = *map;
        for (place, key) in ask.keys().enumerate() {
            let told = told.map_or(&Told::Unknown, |told| &told[place]);
            next[key as usize] = step(map[key as usize], ask, told)?;
        }
        Some(next)
    }

    fn changes_nothing(&self, _: &Ask, told: &Vec<Told>) -> bool {
        told.iter().all(Told::changes_nothing)
    }
}

/// What a request was told of one of its keys.
fn told_of(key: u8, answer: &Answer) -> Told {
    use raft_kv::WriteOutcome as Outcome;
    match answer {
        Answer::Read(found) => {
            let seen = found.iter().find(|(at, _)| *at == key);
            Told::Held(seen.map(|(_, seen)| (seen.value, seen.mod_revision)))
        }
        Answer::Written(Outcome::Put { revision } | Outcome::Deleted { revision }) => {
            Told::Done { revision: *revision }
        }
        Answer::Written(Outcome::NotFound) => Told::NotFound,
        Answer::Written(Outcome::CompareFailed { mod_revision }) => {
            Told::CompareFailed(*mod_revision)
        }
        Answer::Opened => Told::Unknown,
    }
}

/// By when somebody had seen this value. Each is written by one request only, which therefore took effect before.
fn first_seen(history: &[Request], value: u64) -> Option<u64> {
    let saw = |request: &&Request| match (&request.ask, &request.result) {
        (_, Some((_, Answer::Read(found)))) => found.iter().any(|(_, seen)| seen.value == value),
        (
            Ask::Cas { expect: Expected::Value(expected), .. },
            Some((_, Answer::Written(outcome))),
        ) => *expected == value && !matches!(outcome, raft_kv::WriteOutcome::CompareFailed { .. }),
        _ => false,
    };
    let times = history.iter().filter(saw).filter_map(|request| request.result.as_ref());
    times.map(|(at, _)| *at).min()
}

/// One request with what is known of it: `None` if it can be left away, because it changes nothing that anybody saw.
struct Known<'a> {
    request: &'a Request,
    /// When its effect was there at the latest, and the answer if there was one.
    by: Option<(u64, Option<&'a Answer>)>,
}

fn effective_by<'a>(
    history: &[Request],
    request: &'a Request,
) -> Option<(u64, Option<&'a Answer>)> {
    match &request.result {
        Some((at, answer)) => Some((*at, Some(answer))),
        None => {
            request.ask.writes().and_then(|value| first_seen(history, value)).map(|at| (at, None))
        }
    }
}

fn known(history: &[Request]) -> Vec<Known<'_>> {
    let concerns = history.iter().filter(|request| {
        let is_open = request.ask == Ask::Open;
        !request.is_refused && !is_open && (request.result.is_some() || !request.ask.is_read())
    });
    concerns.map(|request| Known { request, by: effective_by(history, request) }).collect()
}

/// Judges a history without its indexes: an order must be found that respects real time and explains every answer. How many
/// operations, and how many of them with unknown outcomes, were judged. If the search `is_plain`, guesses are left aside.
///
/// # Errors
/// If no order explains the answers, or none is found within the limits.
pub fn judge(history: &[Request], is_plain: bool) -> Result<(u64, u64), Violation> {
    let known = known(history);
    for key in 0..KEYS_MAX {
        let of_key = |it: &&Known<'_>| it.request.ask.keys().contains(&key);
        let told =
            |_: &Ask, answer: Option<&Answer>| answer.map_or(Told::Unknown, |it| told_of(key, it));
        explain(&format!("key {key}"), &OneKey, known.iter().filter(of_key), told, is_plain)?;
    }
    let has_ranges = known.iter().any(|it| matches!(it.request.ask, Ask::Range { .. }));
    if has_ranges && known.len() <= WHOLE_MAX {
        let told = |ask: &Ask, answer: Option<&Answer>| -> Vec<Told> {
            let of = |key| answer.map_or(Told::Unknown, |it| told_of(key, it));
            ask.keys().map(of).collect()
        };
        explain("the whole map", &WholeMap, known.iter(), told, is_plain)?;
    }
    let open = known.iter().filter(|it| it.by.is_none()).count();
    Ok((known.len() as u64, open as u64))
}

/// First by the guess. Then without those whose effect nobody saw: if that can be explained, so can the whole, in which they never happened. Only
/// otherwise with them, each open to infinity.
fn explain<'a, M: Model<Input = Ask>>(
    what: &str,
    model: &M,
    known: impl Iterator<Item = &'a Known<'a>> + Clone,
    told: impl Fn(&Ask, Option<&Answer>) -> M::Output,
    is_plain: bool,
) -> Result<(), Violation> {
    let operation = |it: &Known<'_>| Operation {
        call: it.request.call,
        input: it.request.ask,
        result: it.by.map(|(at, answer)| (at, told(&it.request.ask, answer))),
    };
    let all: Vec<_> = known.clone().map(operation).collect();
    if !is_plain && is_linearization(model, &all, &guess(known.clone())) {
        return Ok(());
    }
    let certain: Vec<_> = known.filter(|it| it.by.is_some()).map(operation).collect();
    if check(model, &certain, LIMITS).is_ok() {
        return Ok(());
    }
    match check(model, &all, LIMITS) {
        Ok(()) => Ok(()),
        Err(error) => broken("linearizability", format!("{what}: {error}")),
    }
}

/// The order that is tried first.
fn guess<'a>(known: impl Iterator<Item = &'a Known<'a>>) -> Vec<usize> {
    let mut order: Vec<(u64, bool, u64, usize)> = known
        .enumerate()
        .filter_map(|(at, Known { request, .. })| {
            Some((request.guess?, request.ask.is_read(), request.call, at))
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(.., at)| at).collect()
}
