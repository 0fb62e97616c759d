//! Right histories are accepted, wrong ones are not, and a slow and obvious checker agrees.

use proptest::prelude::*;

use super::{Limits, Model, NotLinearizable, Operation, check, partition};

/// A map of small keys to registers.
struct Registers;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    Read(u8),
    Write(u8, u8),
    /// Key, expected, new: answered with 1 if it was done.
    Exchange(u8, u8, u8),
}

impl Ask {
    fn key(&self) -> u8 {
        match self {
            Ask::Read(key) | Ask::Write(key, _) | Ask::Exchange(key, ..) => *key,
        }
    }

    /// What a sequential system does: the answer, and the state afterwards.
    fn carry_out(&self, state: &mut [u8; 3]) -> u8 {
        match *self {
            Ask::Read(key) => state[key as usize],
            Ask::Write(key, value) => {
                state[key as usize] = value;
                0
            }
            Ask::Exchange(key, expected, value) => {
                let is_done = state[key as usize] == expected;
                if is_done {
                    state[key as usize] = value;
                }
                u8::from(is_done)
            }
        }
    }
}

impl Model for Registers {
    type State = [u8; 3];
    type Input = Ask;
    type Output = u8;

    fn initial(&self) -> [u8; 3] {
        [0; 3]
    }

    fn step(&self, state: &[u8; 3], input: &Ask, output: Option<&u8>) -> Option<[u8; 3]> {
        let mut next = *state;
        let answer = input.carry_out(&mut next);
        output.is_none_or(|seen| *seen == answer).then_some(next)
    }

    fn changes_nothing(&self, input: &Ask, output: &u8) -> bool {
        match input {
            Ask::Read(_) => true,
            Ask::Write(..) => false,
            Ask::Exchange(..) => *output == 0,
        }
    }
}

type History = Vec<Operation<Ask, u8>>;

fn told(call: u64, answered: u64, input: Ask, output: u8) -> Operation<Ask, u8> {
    Operation { call, input, result: Some((answered, output)) }
}

fn never_told(call: u64, input: Ask) -> Operation<Ask, u8> {
    Operation { call, input, result: None }
}

fn verdict(history: &[Operation<Ask, u8>]) -> Result<(), NotLinearizable> {
    check(&Registers, history, Limits::default())
}

/// A log: each append is told where its entry stands.
struct Log;

impl Model for Log {
    type State = u64;
    type Input = ();
    type Output = u64;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, length: &u64, (): &(), told: Option<&u64>) -> Option<u64> {
        told.is_none_or(|place| place == length).then_some(length + 1)
    }

    fn position(&self, (): &(), told: &u64) -> Option<u64> {
        Some(*told)
    }
}

/// Many thousand appends of which any could be next by time alone, the last of them first in the history; some were never answered.
#[test]
fn positions_that_answers_tell_leave_a_long_search_no_choice() {
    let append = |place: u64| Operation { call: 0, input: (), result: Some((1 << 40, place)) };
    let lost = Operation { call: 0, input: (), result: None };
    let places = (0..5_000u64).rev().filter(|place| !place.is_multiple_of(1_000));
    let mut history: Vec<_> = places.map(append).collect();
    history.extend(vec![lost; 5]);
    let limits = Limits { steps_max: 50_000 };
    assert_eq!(check(&Log, &history, limits), Ok(()));
    // One of those that were never answered too few.
    history.pop();
    assert!(check(&Log, &history, limits).is_err());
    // Two that were told the same.
    let twice = [append(0), append(0)];
    assert!(matches!(check(&Log, &twice, limits), Err(NotLinearizable::Impossible { .. })));
    // The later was told the lower.
    let later = Operation { call: 20, input: (), result: Some((30, 0)) };
    let wrong = [Operation { result: Some((10, 1)), ..append(1) }, later];
    assert!(matches!(check(&Log, &wrong, limits), Err(NotLinearizable::Impossible { .. })));
}

#[test]
fn nothing_is_linearizable() {
    assert_eq!(verdict(&[]), Ok(()));
}

#[test]
fn a_stale_read_is_found() {
    let history = [told(0, 1, Ask::Write(0, 1), 0), told(2, 3, Ask::Read(0), 0)];
    let expected = NotLinearizable::Impossible { explained: vec![0], stuck_at: vec![1] };
    assert_eq!(verdict(&history), Err(expected));
}

#[test]
fn a_lost_write_is_found() {
    let history = [
        told(0, 1, Ask::Write(0, 1), 0),
        told(2, 3, Ask::Write(0, 2), 0),
        told(4, 5, Ask::Read(0), 1),
    ];
    assert!(verdict(&history).is_err());
}

#[test]
fn a_request_applied_twice_is_found() {
    // Only one write of 1 was ever asked for, and yet it is seen again after 2 had replaced it.
    let history = [
        told(0, 1, Ask::Write(0, 1), 0),
        told(2, 3, Ask::Write(0, 2), 0),
        told(4, 5, Ask::Read(0), 2),
        told(6, 7, Ask::Read(0), 1),
    ];
    assert!(verdict(&history).is_err());
}

#[test]
fn two_winners_of_one_exchange_are_found() {
    let history = [told(0, 9, Ask::Exchange(0, 0, 1), 1), told(0, 9, Ask::Exchange(0, 0, 2), 1)];
    assert!(verdict(&history).is_err());
}

#[test]
fn an_unknown_outcome_may_show_late_or_never_but_not_before_its_call() {
    let late = [
        never_told(0, Ask::Write(0, 7)),
        told(50, 60, Ask::Read(0), 0),
        told(70, 80, Ask::Read(0), 7),
    ];
    assert_eq!(verdict(&late), Ok(()));
    assert_eq!(verdict(&late[..2]), Ok(()));
    let early = [told(0, 1, Ask::Read(0), 7), never_told(5, Ask::Write(0, 7))];
    assert!(verdict(&early).is_err());
    let undone = [late[0].clone(), told(50, 60, Ask::Read(0), 7), told(70, 80, Ask::Read(0), 0)];
    assert!(verdict(&undone).is_err(), "what took effect stays");
}

#[test]
fn too_long_a_search_is_a_failure() {
    let history: History = (0..30).map(|value| told(0, 99, Ask::Write(0, value), 0)).collect();
    let limits = Limits { steps_max: 10 };
    let expected = Err(NotLinearizable::OutOfSteps { steps: 10 });
    assert_eq!(check(&Registers, &history, limits), expected);
}

#[test]
fn an_answer_before_the_question_is_named() {
    let expected = Err(NotLinearizable::AnsweredBeforeAsked { operation: 0 });
    assert_eq!(verdict(&[told(5, 4, Ask::Read(0), 0)]), expected);
}

#[test]
fn a_long_history_of_one_key_is_quick() {
    // A thousand writes and reads by eight clients at once: without the memory of situations this would never end.
    let mut history = History::new();
    for round in 0..128u64 {
        let value = (round % 250) as u8 + 1;
        for client in 0..7 {
            let before = if round == 0 { 0 } else { ((round - 1) % 250) as u8 + 1 };
            let seen = if client % 2 == 0 { value } else { before };
            history.push(told(round * 10 + 1, round * 10 + 8, Ask::Read(0), seen));
        }
        history.push(told(round * 10 + 1, round * 10 + 8, Ask::Write(0, value), 0));
    }
    assert_eq!(verdict(&history), Ok(()));
}

/// Tries every order.
fn brute_force(history: &[Operation<Ask, u8>], state: [u8; 3], left: &mut Vec<usize>) -> bool {
    if left.iter().all(|at| history[*at].result.is_none()) {
        return true;
    }
    let first_answer = left
        .iter()
        .filter_map(|at| history[*at].result.as_ref().map(|(time, _)| *time))
        .min()
        .unwrap_or(u64::MAX);
    for position in 0..left.len() {
        let at = left[position];
        let Operation { call, input, result } = &history[at];
        if *call > first_answer {
            continue;
        }
        let output = result.as_ref().map(|(_, output)| output);
        if let Some(next) = Registers.step(&state, input, output) {
            left.remove(position);
            let found = brute_force(history, next, left);
            left.insert(position, at);
            if found {
                return true;
            }
        }
    }
    false
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (0u8..2).prop_map(Ask::Read),
        (0u8..2, 0u8..3).prop_map(|(key, value)| Ask::Write(key, value)),
        (0u8..2, 0u8..3, 0u8..3).prop_map(|(key, old, new)| Ask::Exchange(key, old, new)),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_trying_every_order(
        asked in proptest::collection::vec((0u64..20, 0u64..12, ask(), 0u8..3, 0u8..5), 0..7),
    ) {
        let history: History = asked
            .into_iter()
            .map(|(call, takes, input, output, known)| {
                let result = (known > 0).then_some((call + takes, output));
                Operation { call, input, result }
            })
            .collect();
        let mut left = (0..history.len()).collect();
        let expected = brute_force(&history, [0; 3], &mut left);
        prop_assert_eq!(verdict(&history).is_ok(), expected, "{:?}", history);
        let parts = partition(&history, Ask::key);
        let in_parts = parts.values().all(|part| verdict(part).is_ok());
        prop_assert_eq!(in_parts, expected, "locality: {:?}", history);
    }

    #[test]
    fn what_a_sequential_system_did_is_accepted(
        asked in proptest::collection::vec((ask(), 0u64..40, 0u64..40, 0u8..8), 0..40),
    ) {
        // Each operation takes effect at a moment of its own, somewhere between its call and its answer.
        let mut state = [0; 3];
        let mut history = History::new();
        for (moment, (input, early, late, known)) in (0u64..).zip(asked) {
            let at = 100 + moment * 10;
            let output = input.carry_out(&mut state);
            let result = (known > 0).then_some((at + late, output));
            history.push(Operation { call: at - early, input, result });
        }
        prop_assert_eq!(verdict(&history), Ok(()));
    }
}
