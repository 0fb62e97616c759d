//! Both checks reject what is made wrong on purpose, and accept what is right.

use raft_core::{Entry, Index, NodeId, Payload, Term};
use raft_kv::{Command, Expect, Replica, Response, SessionId, Write, WriteOutcome};

use crate::history::{Answer, Ask, Expected, Proof, Request, Seen, judge, key_bytes};
use crate::oracle::{Oracle, name_of};

pub(crate) const KEY: u8 = 1;

pub(crate) fn seen(value: u64, revision: u64) -> Seen {
    Seen { value, create_revision: 1, mod_revision: revision, version: revision }
}

fn told(call: u64, at: u64, ask: Ask, answer: Answer) -> Request {
    Request { ask, call, result: Some((at, answer)), is_refused: false, guess: None }
}

pub(crate) fn put(call: u64, at: u64, value: u64, revision: u64) -> Request {
    let answer = Answer::Written(WriteOutcome::Put { revision });
    told(call, at, Ask::Put { key: KEY, value }, answer)
}

pub(crate) fn get(call: u64, at: u64, found: Option<(u64, u64)>) -> Request {
    let found = found.map(|(value, revision)| (KEY, seen(value, revision)));
    told(call, at, Ask::Get { key: KEY }, Answer::Read(found.into_iter().collect()))
}

fn unknown(call: u64, ask: Ask) -> Request {
    Request { ask, call, result: None, is_refused: false, guess: None }
}

fn is_right(history: &[Request]) -> bool {
    judge(history).is_ok()
}

#[test]
fn right_histories_are_accepted_without_indexes() {
    assert!(is_right(&[]));
    assert!(is_right(&[put(0, 1, 10, 1), get(2, 3, Some((10, 1)))]));
    // Concurrent: the read may see either.
    assert!(is_right(&[put(0, 1, 10, 1), put(2, 9, 11, 2), get(3, 4, Some((10, 1)))]));
    assert!(is_right(&[put(0, 1, 10, 1), put(2, 9, 11, 2), get(3, 4, Some((11, 2)))]));
    // Nobody was told of the second write; it may show late, or never.
    let lost = unknown(2, Ask::Put { key: KEY, value: 11 });
    assert!(is_right(&[put(0, 1, 10, 1), lost.clone(), get(5, 6, Some((10, 1)))]));
    assert!(is_right(&[
        put(0, 1, 10, 1),
        lost,
        get(5, 6, Some((10, 1))),
        get(7, 8, Some((11, 2)))
    ]));
    assert!(is_right(&[put(0, 1, 10, 1), unknown(2, Ask::Delete { key: KEY }), get(5, 6, None)]));
}

#[test]
fn wrong_histories_are_rejected_without_indexes() {
    let first = put(0, 1, 10, 1);
    let wrong: &[(&str, Vec<Request>)] = &[
        ("a stale read", vec![first.clone(), put(2, 3, 11, 2), get(4, 5, Some((10, 1)))]),
        ("a lost write", vec![first.clone(), get(4, 5, None)]),
        ("a read from the future", vec![get(0, 1, Some((10, 1))), put(2, 3, 10, 1)]),
        (
            "a write that was applied twice",
            vec![
                first.clone(),
                put(2, 3, 11, 2),
                get(4, 5, Some((11, 2))),
                get(6, 7, Some((10, 3))),
            ],
        ),
        (
            "a comparison that should have failed",
            vec![
                first.clone(),
                told(
                    2,
                    3,
                    Ask::Cas { key: KEY, expect: Expected::Value(9), value: Some(11) },
                    Answer::Written(WriteOutcome::Put { revision: 2 }),
                ),
            ],
        ),
        (
            "a comparison that should not have failed",
            vec![
                first.clone(),
                told(
                    2,
                    3,
                    Ask::Cas { key: KEY, expect: Expected::Revision(1), value: Some(11) },
                    Answer::Written(WriteOutcome::CompareFailed { mod_revision: Some(1) }),
                ),
            ],
        ),
        (
            "a refused write that shows",
            vec![
                first.clone(),
                Request { is_refused: true, ..unknown(2, Ask::Put { key: KEY, value: 11 }) },
                get(4, 5, Some((11, 2))),
            ],
        ),
        (
            "a delete of nothing",
            vec![told(
                0,
                1,
                Ask::Delete { key: KEY },
                Answer::Written(WriteOutcome::Deleted { revision: 1 }),
            )],
        ),
        (
            "two reads that see an unknown write come and go",
            vec![
                first,
                unknown(2, Ask::Put { key: KEY, value: 11 }),
                get(4, 5, Some((11, 2))),
                get(6, 7, Some((10, 1))),
            ],
        ),
    ];
    for (what, history) in wrong {
        assert!(!is_right(history), "{what}");
    }
}

#[test]
fn a_range_of_two_moments_is_rejected_as_a_whole() {
    let write = |call, at, key, value, revision| {
        told(call, at, Ask::Put { key, value }, Answer::Written(WriteOutcome::Put { revision }))
    };
    let range =
        |found: Vec<(u8, Seen)>| told(0, 9, Ask::Range { from: 1, to: 3 }, Answer::Read(found));
    let writes = [write(1, 2, 1, 10, 1), write(3, 4, 2, 20, 2)];
    let torn = [&writes[..], &[range(vec![(2, seen(20, 2))])]].concat();
    assert!(!is_right(&torn), "the second write without the first");
    let whole = [&writes[..], &[range(vec![(1, seen(10, 1))])]].concat();
    assert!(is_right(&whole));
}

/// What a service with eight keys answers to so many requests of ten clients, which are under way at the same time. Every `lost_every`-th answer is lost.
fn long_history(count: u64, lost_every: u64) -> Vec<Request> {
    let mut rng = crate::Rng::new(count ^ lost_every);
    let mut map = crate::service::Contents::default();
    let mut history = Vec::new();
    for number in 1..=count {
        let key = rng.below(8) as u8;
        let ask = match rng.below(10) {
            0..=3 => Ask::Put { key, value: number },
            4 => Ask::Delete { key },
            5 => {
                let held = map.read(key..key + 1).first().map_or(0, |(_, seen)| seen.value);
                Ask::Cas { key, expect: Expected::Value(held), value: Some(number) }
            }
            6..=7 => Ask::Range { from: key, to: 8 },
            _ => Ask::Get { key },
        };
        // Each takes effect at a moment of its own, between its call and its answer.
        let moment = number * 10;
        let call = moment - rng.below(50).min(moment);
        let answer = match ask {
            Ask::Get { key } => Answer::Read(map.read(key..key + 1)),
            Ask::Range { from, to } => Answer::Read(map.read(from..to)),
            write => Answer::Written(map.write(&write)),
        };
        let result = (number % lost_every != 0).then_some((moment + rng.below(50), answer));
        history.push(Request { ask, call, result, is_refused: false, guess: None });
    }
    history
}

#[test]
fn long_histories_of_a_whole_map_are_accepted_by_search_alone() {
    for (count, lost_every) in [(2_000, 50), (5_000, 100), (10_000, 200), (20_000, u64::MAX)] {
        let judged = judge(&long_history(count, lost_every)).expect("it was linearizable");
        assert_eq!(judged.by, Proof::Search, "{count}");
        assert!(judged.requests * 10 > count * 9, "{judged:?} of {count}");
    }
}

/// The range at `place` with one key as an earlier range saw it, if that makes it one of two moments: another key was changed after that key was.
fn torn(history: &[Request], earlier: usize, place: usize) -> Option<Answer> {
    let found = |at: usize| match &history[at].result {
        Some((_, Answer::Read(found))) => Some(found),
        _ => None,
    };
    let (old, new) = (found(earlier)?, found(place)?);
    let newest = new.iter().map(|(_, seen)| seen.mod_revision).max()?;
    let mut mixed = new.clone();
    let (then, now) = mixed.iter_mut().find_map(|now| {
        let then = old.iter().find(|(key, _)| *key == now.0)?;
        let is_older = then.1.mod_revision < now.1.mod_revision;
        (is_older && now.1.mod_revision < newest).then_some((*then, now))
    })?;
    *now = then;
    Some(Answer::Read(mixed))
}

/// Each key by itself may be right.
#[test]
fn a_torn_range_in_a_long_history_is_found() {
    let right = long_history(5_000, 1_000);
    let ranges: Vec<usize> =
        (0..right.len()).filter(|at| matches!(right[*at].ask, Ask::Range { .. })).collect();
    let pairs = ranges.windows(2).step_by(13);
    let torn = pairs.filter_map(|pair| Some((pair[1], torn(&right, pair[0], pair[1])?)));
    let torn: Vec<(usize, Answer)> = torn.take(12).collect();
    assert_eq!(torn.len(), 12, "so many can be torn");
    for (at, answer) in torn {
        let mut wrong = right.clone();
        // It may be of any time, and is still of two.
        let by = wrong[at].result.as_ref().map_or(0, |(by, _)| *by);
        wrong[at].call = 0;
        wrong[at].result = Some((by, answer));
        assert!(judge(&wrong).is_err(), "the range at {at} is torn");
    }
}

#[test]
fn what_is_wrong_in_a_long_history_is_found_wherever_it_is() {
    let right = long_history(5_000, 500);
    let reads = (0..right.len()).filter(|at| right[*at].ask.keys().len() == 1);
    let reads: Vec<usize> = reads
        .filter(
            |at| matches!(&right[*at].result, Some((_, Answer::Read(found))) if !found.is_empty()),
        )
        .collect();
    for &at in reads.iter().step_by(173) {
        let mut wrong = right.clone();
        let Some((_, Answer::Read(found))) = &mut wrong[at].result else { continue };
        found[0].1.version += 1;
        assert!(judge(&wrong).is_err(), "a version that never was, at {at}");
        let mut wrong = right.clone();
        let Some((_, answer)) = &mut wrong[at].result else { continue };
        *answer = Answer::Read(Vec::new());
        // Some other client may have removed it just then.
        let is_explained = judge(&wrong).is_ok();
        let (call, by) = (right[at].call, right[at].result.as_ref().map_or(0, |(by, _)| *by));
        let key = right[at].ask.keys().start;
        let removes = |it: &Request| {
            let is_concurrent =
                it.call <= by && it.result.as_ref().is_none_or(|(at, _)| *at >= call);
            it.ask.keys().contains(&key) && !it.ask.is_read() && is_concurrent
        };
        assert!(!is_explained || right.iter().any(removes), "a lost write at {at}");
    }
}

pub(crate) const SESSION: SessionId = SessionId(1);

fn entry(index: u64, command: &Command<'_>) -> Entry {
    Entry { term: Term(1), index: Index(index), payload: Payload::Command(command.encode()) }
}

pub(crate) fn write(index: u64, sequence: u64, write: Write<'_>) -> Entry {
    entry(index, &Command::Write { session: SESSION, sequence, acked_below: 0, write })
}

/// An oracle that saw: a session, key 1 = 10 at index 2, a failed comparison at 3, key 1 = 11 at 4.
pub(crate) fn oracle() -> (Oracle<Replica>, Replica) {
    let (mut oracle, mut machine) = (Oracle::new(10_000), Replica::default());
    let key = &key_bytes(KEY);
    let (ten, eleven, nine) = (10u64.to_le_bytes(), 11u64.to_le_bytes(), 9u64.to_le_bytes());
    let compare = Write::CompareAndSet { key, expect: Expect::Value(&nine), value: None };
    let cas = Ask::Cas { key: KEY, expect: Expected::Value(9), value: None };
    for (entry, ask) in [
        (entry(1, &Command::OpenSession { session: SESSION }), Ask::Open),
        (write(2, 0, Write::Put { key, value: &ten }), Ask::Put { key: KEY, value: 10 }),
        (write(3, 1, compare), cas),
        (write(4, 2, Write::Put { key, value: &eleven }), Ask::Put { key: KEY, value: 11 }),
    ] {
        let response = crate::Machine::apply(&mut machine, &entry);
        let digest = crate::Machine::digest(&machine);
        oracle
            .on_applied(NodeId(1), &entry, (name_of(&entry), Some(ask)), (response, digest))
            .unwrap();
    }
    (oracle, machine)
}

#[test]
fn the_oracle_rejects_wrong_answers_of_machines() {
    let (_, machine) = oracle();
    let digest = crate::Machine::digest(&machine);
    let key = &key_bytes(KEY);
    let ten = 10u64.to_le_bytes();
    let again = write(5, 0, Write::Put { key, value: &ten });
    let judged = |outcome: WriteOutcome, digest: u64| {
        let asked = (name_of(&again), Some(Ask::Put { key: KEY, value: 10 }));
        let response = Some(Response::Written(outcome));
        oracle().0.on_applied(NodeId(2), &again, asked, (response, digest)).map_err(|it| it.rule)
    };
    let twice = "each session's request is applied once";
    assert_eq!(judged(WriteOutcome::Put { revision: 3 }, digest), Err(twice));
    assert_eq!(judged(WriteOutcome::NotFound, digest), Err(twice));
    let replayed = "snapshot and tail equal a full replay";
    assert_eq!(judged(WriteOutcome::Put { revision: 1 }, digest), Err(replayed));
    let (_, mut whole) = oracle();
    crate::Machine::apply(&mut whole, &again);
    let digest = crate::Machine::digest(&whole);
    assert_eq!(judged(WriteOutcome::Put { revision: 1 }, digest), Ok(()));

    let nine = 9u64.to_le_bytes();
    let compare = Write::CompareAndSet { key, expect: Expect::Value(&nine), value: None };
    let cas = Ask::Cas { key: KEY, expect: Expected::Value(9), value: None };
    let entry = write(5, 3, compare);
    let wrong = Some(Response::Written(WriteOutcome::Deleted { revision: 3 }));
    let error = oracle()
        .0
        .on_applied(NodeId(1), &entry, (name_of(&entry), Some(cas)), (wrong, 0))
        .unwrap_err();
    assert_eq!(error.rule, "answers are those of a map");
}

#[test]
fn the_oracle_rejects_wrong_answers_to_clients() {
    let (oracle, _) = oracle();
    let get = (Ask::Get { key: KEY }, None);
    let read = |value, revision| Answer::Read(vec![(KEY, seen(value, revision))]);
    let rule = |judged: Result<Index, crate::Violation>| judged.map_err(|error| error.rule);
    assert_eq!(rule(oracle.on_told(get, &read(11, 2), Index(4), Index(4))), Ok(Index(4)));
    assert_eq!(rule(oracle.on_told(get, &read(10, 1), Index(3), Index(2))), Ok(Index(3)));
    let (time, state) = ("real time is kept", "reads are those of their index");
    assert_eq!(rule(oracle.on_told(get, &read(10, 1), Index(3), Index(4))), Err(time), "stale");
    assert_eq!(rule(oracle.on_told(get, &read(10, 1), Index(4), Index(4))), Err(state), "lost");
    assert_eq!(rule(oracle.on_told(get, &read(11, 2), Index(2), Index(0))), Err(state), "future");
    let written = Answer::Written(WriteOutcome::Put { revision: 2 });
    let put = (Ask::Put { key: KEY, value: 11 }, Some((SESSION, 3)));
    assert_eq!(rule(oracle.on_told(put, &written, Index(6), Index(3))), Ok(Index(4)));
    assert_eq!(rule(oracle.on_told(put, &written, Index(6), Index(5))), Err(time), "too early");
}
