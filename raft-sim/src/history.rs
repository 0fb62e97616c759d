//! What clients asked and were told, with times: the input of the index-blind check. Nothing here knows of logs or indexes.

use std::collections::BTreeMap;

use raft_kv::WriteOutcome;

use crate::Violation;
use crate::checker::broken;
use crate::linearizability::{Limits, NotLinearizable, Operation, check, is_linearization};
use crate::service::Service;

/// The most keys that clients use.
pub(crate) const KEYS_MAX: u8 = 8;
/// How long the search may be; mostly it takes a step or two for each request.
const LIMITS: Limits = Limits { steps_max: 500_000 };

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    Written(WriteOutcome),
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
    /// Where it may stand in the order of all requests. A guess, which is tried where the search is too long; the verdict does not rest on it.
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
    pub(crate) fn keys(&self) -> std::ops::Range<u8> {
        match *self {
            Ask::Open => 0..0,
            Ask::Get { key }
            | Ask::Put { key, .. }
            | Ask::Delete { key }
            | Ask::Cas { key, .. } => key..key + 1,
            Ask::Range { from, to } => from..to,
        }
    }

    pub(crate) fn is_read(&self) -> bool {
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

/// When each value was seen at the latest, and the revision that it was seen with. Each is written by one request only, which therefore took effect before,
/// at that revision.
fn values_seen(history: &[Request]) -> BTreeMap<u64, (u64, Option<u64>)> {
    let mut seen: BTreeMap<u64, (u64, Option<u64>)> = BTreeMap::new();
    let mut note = |value: u64, at: u64, revision: Option<u64>| {
        let known = seen.entry(value).or_insert((at, revision));
        *known = (known.0.min(at), known.1.or(revision));
    };
    for request in history {
        match (&request.ask, &request.result) {
            (_, Some((at, Answer::Read(found)))) => {
                for (_, seen) in found {
                    note(seen.value, *at, Some(seen.mod_revision));
                }
            }
            (
                Ask::Cas { expect: Expected::Value(expected), .. },
                Some((at, Answer::Written(outcome))),
            ) if !matches!(outcome, WriteOutcome::CompareFailed { .. }) => {
                note(*expected, *at, None);
            }
            _ => {}
        }
    }
    seen
}

/// One request with what is known of it.
struct Known<'a> {
    request: &'a Request,
    /// When its effect was there at the latest, and the answer: its own, or the one that others' answers tell.
    by: Option<(u64, Option<Answer>)>,
}

fn effective_by(
    seen: &BTreeMap<u64, (u64, Option<u64>)>,
    request: &Request,
) -> Option<(u64, Option<Answer>)> {
    if let Some((at, answer)) = &request.result {
        return Some((*at, Some(answer.clone())));
    }
    let (at, revision) = seen.get(&request.ask.writes()?)?;
    let answer = revision.map(|revision| Answer::Written(WriteOutcome::Put { revision }));
    Some((*at, answer))
}

fn known(history: &[Request]) -> Vec<Known<'_>> {
    let seen = values_seen(history);
    let concerns = history.iter().filter(|request| {
        let is_open = request.ask == Ask::Open;
        !request.is_refused && !is_open && (request.result.is_some() || !request.ask.is_read())
    });
    concerns.map(|request| Known { request, by: effective_by(&seen, request) }).collect()
}

/// What was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Requests.
    pub requests: u64,
    /// Those whose outcome nobody knows.
    pub unknown: u64,
    /// How an order was found that explains all.
    pub by: Proof,
}

/// How an order of requests was found that explains their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By searching for one.
    Search,
    /// The search was too long: where many outcomes are unknown, too many orders are possible. The guess was one. It proves itself, wherever it comes from.
    Guess,
}

/// Judges a history without its indexes: one order of all requests, over all keys, must be found that respects real time and explains every answer, with all
/// that it says of revisions and versions.
///
/// # Errors
/// If no order explains the answers, or none is found within the limits and the guess is none: what was not proved does not hold.
pub fn judge(history: &[Request]) -> Result<Judged, Violation> {
    judge_within(history, LIMITS)
}

/// As [`judge`], with limits of the caller's own: where hundreds of requests are open at a time, each step
/// tries many of them.
///
/// # Errors
/// As for [`judge`].
pub fn judge_within(history: &[Request], limits: Limits) -> Result<Judged, Violation> {
    let known = known(history);
    let guess = guess(&known);
    let known_count = known.len() as u64;
    let unknown = known.iter().filter(|it| it.by.is_none()).count() as u64;
    let judged = |by| Judged { requests: known_count, unknown, by };
    let operation =
        |it: Known<'_>| Operation { call: it.request.call, input: it.request.ask, result: it.by };
    let all: Vec<_> = known.into_iter().map(operation).collect();
    let told = all.iter().filter_map(|it| Some((&it.input, it.result.as_ref()?.1.as_ref()?)));
    let service = Service::told(told);
    match check(&service, &all, limits) {
        Ok(()) => Ok(judged(Proof::Search)),
        Err(NotLinearizable::OutOfSteps { .. }) if is_linearization(&service, &all, &guess) => {
            Ok(judged(Proof::Guess))
        }
        Err(error) => broken("linearizability", error.to_string()),
    }
}

/// The order that the guesses give.
fn guess(known: &[Known<'_>]) -> Vec<usize> {
    let mut order: Vec<(u64, bool, u64, usize)> = known
        .iter()
        .enumerate()
        .filter_map(|(at, Known { request, .. })| {
            Some((request.guess?, request.ask.is_read(), request.call, at))
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(.., at)| at).collect()
}
