//! The search itself.

use rustc_hash::FxHashSet;

use super::{Limits, Model, NotLinearizable, Operation};
use crate::Rng;

/// Looks for an order of the operations that respects real time and explains every answer.
///
/// # Errors
/// [`NotLinearizable`]: there is none, or it was not found within the limits.
pub fn check<M: Model>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    limits: Limits,
) -> Result<(), NotLinearizable> {
    let backwards = |operation: &Operation<_, _>| {
        operation.result.as_ref().is_some_and(|(at, _)| *at < operation.call)
    };
    if let Some(operation) = history.iter().position(backwards) {
        return Err(NotLinearizable::AnsweredBeforeAsked { operation });
    }
    Search::new(model, history, limits).run()
}

/// Whether this order of (some of) the operations is a linearization: it respects real time, explains every answer in it, and holds all
/// operations that were answered. Linear in their number. Whoever has a guess (from a log, or a clock) tries it before [`check`]; where
/// the guess comes from does not matter, since it proves itself or fails.
pub fn is_linearization<M: Model>(
    model: &M,
    history: &[Operation<M::Input, M::Output>],
    order: &[usize],
) -> bool {
    let mut is_taken = vec![false; history.len()];
    let mut state = model.initial();
    let mut latest_call = 0;
    for &operation in order {
        let Some(Operation { call, input, result }) = history.get(operation) else { return false };
        latest_call = latest_call.max(*call);
        // Who was answered before somebody ahead of it had even asked comes too late.
        let is_late = result.as_ref().is_some_and(|(at, _)| *at < latest_call);
        if is_late || std::mem::replace(&mut is_taken[operation], true) {
            return false;
        }
        let Some(next) = model.step(&state, input, result.as_ref().map(|(_, output)| output))
        else {
            return false;
        };
        state = next;
    }
    history.iter().zip(is_taken).all(|(operation, is_taken)| is_taken || operation.result.is_none())
}

/// Sorts what is in order but for a few places, or is two such runs: a stable sort merges them, an unstable one would begin anew.
fn merge_runs<T: Ord>(items: &mut [T]) {
    items.sort();
}

/// A place in the list of events. Place 0 is before the first event, and after the last.
type Place = usize;

#[derive(Clone, Copy, Debug)]
struct Event {
    operation: usize,
    is_call: bool,
    /// Of a call: the place of its answer, if it has one.
    answer: Option<Place>,
    before: Place,
    after: Place,
}

/// Which operations are tried at a place in the order. What was answered comes first: it must be taken soon. Who never had an answer can always wait, and is
/// tried when nothing else fits: at first those that let something fit that must be taken, then all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Answered,
    Helpful,
    Others,
}

/// What was taken at a place in the order.
struct Step<S> {
    call: Place,
    turn: Turn,
    /// The state before; `None` if it is still that one.
    before: Option<S>,
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Input, M::Output>],
    limits: Limits,
    /// Calls and answers in order of time, linked, so that what is taken can be lifted out and put back.
    events: Vec<Event>,
    /// How many answers are still in the list: when none is, everything known is explained.
    answers_left: usize,
    taken: Taken,
    /// The operations whose answers say where they stand among each other, in that order, and how many of them are taken.
    ranked: Vec<(u64, usize)>,
    ranked_taken: usize,
    /// What each operation's answer says of that.
    ranks: Vec<Option<u64>>,
    /// What must be taken next, while [`Turn::Helpful`] lasts.
    wanted: [Option<usize>; 2],
    /// What was taken, in order.
    order: Vec<Step<M::State>>,
    /// Sets of operations that were taken, with the state that they led to, and from which nothing led on.
    dead_ends: FxHashSet<(Taken, M::State)>,
    best: Vec<usize>,
    steps: u64,
}

/// A set of operations, by the sum of the random numbers of its members: as large as one number however long the history is. That two of the sets that one
/// search meets have the same of 2^128 will not happen; if it did, an order could be overlooked, but no wrong one be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Taken(u128);

impl Taken {
    fn flip(&mut self, operation: usize) {
        let mut rng = Rng::new(operation as u64);
        self.0 ^= u128::from(rng.draw()) << 64 | u128::from(rng.draw());
    }
}

impl<'a, M: Model> Search<'a, M> {
    fn new(
        model: &'a M,
        history: &'a [Operation<M::Input, M::Output>],
        limits: Limits,
    ) -> Search<'a, M> {
        // Of equal times calls come first: operations that touch are taken as concurrent.
        let calls = history.iter().enumerate().map(|(at, operation)| (operation.call, 0, at));
        let answers = history.iter().enumerate().filter_map(|(at, operation)| {
            operation.result.as_ref().map(|(time, _)| (*time, 1, at))
        });
        let mut times: Vec<(u64, u8, usize)> = calls.chain(answers).collect();
        merge_runs(&mut times);
        let count = times.len();
        let head = Event {
            operation: 0,
            is_call: false,
            answer: None,
            before: count,
            after: 1 % (count + 1),
        };
        let mut events = vec![head];
        for (place, (_, kind, operation)) in (1..).zip(times) {
            let after = if place == count { 0 } else { place + 1 };
            let is_call = kind == 0;
            events.push(Event { operation, is_call, answer: None, before: place - 1, after });
        }
        let mut answers_left = 0;
        let mut place_of_call = vec![0; history.len()];
        for place in 1..events.len() {
            let Event { operation, is_call, .. } = events[place];
            if is_call {
                place_of_call[operation] = place;
            } else {
                events[place_of_call[operation]].answer = Some(place);
                answers_left += 1;
            }
        }
        let ranks: Vec<Option<u64>> = history
            .iter()
            .map(|Operation { input, result, .. }| {
                let (_, output) = result.as_ref()?;
                let is_read = model.changes_nothing(input, output);
                model.position(input, output).filter(|_| !is_read)
            })
            .collect();
        let mut ranked: Vec<(u64, usize)> =
            (0..).zip(&ranks).filter_map(|(at, rank)| Some(((*rank)?, at))).collect();
        merge_runs(&mut ranked);
        Search {
            model,
            history,
            limits,
            events,
            answers_left,
            taken: Taken(0),
            ranked,
            ranked_taken: 0,
            ranks,
            wanted: [None; 2],
            order: Vec::new(),
            dead_ends: FxHashSet::default(),
            best: Vec::new(),
            steps: 0,
        }
    }

    fn run(mut self) -> Result<(), NotLinearizable> {
        let mut state = self.model.initial();
        self.take_reads(&state)?;
        let (mut turn, mut place) = (Turn::Answered, self.events[0].after);
        while self.answers_left > 0 {
            let event = self.events[place];
            if place != 0 && event.is_call {
                if self.steps >= self.limits.steps_max {
                    return Err(NotLinearizable::OutOfSteps { steps: self.steps });
                }
                match self.try_next(event.operation, turn, &state) {
                    Some(next) => {
                        let before = Some(std::mem::replace(&mut state, next));
                        self.order.push(Step { call: place, turn, before });
                        self.lift(place);
                        self.take_reads(&state)?;
                        (turn, place) = (Turn::Answered, self.events[0].after);
                    }
                    None => place = event.after,
                }
                continue;
            }
            // An answer: what it answers must be taken before anything that comes later.
            if let Some(next) = self.next_turn(turn) {
                (turn, place) = (next, self.events[0].after);
                continue;
            }
            // It was not, so this order is a dead end.
            if self.best.len() < self.order.len() || self.best.is_empty() {
                self.best = self.order.iter().map(|it| self.events[it.call].operation).collect();
            }
            let Some((last, before)) = self.give_up(state) else {
                let stuck_at = self.candidates();
                return Err(NotLinearizable::Impossible { explained: self.best, stuck_at });
            };
            state = before;
            (turn, place) = (last.turn, self.events[last.call].after);
            if turn == Turn::Helpful {
                self.wanted = self.find_wanted();
            }
        }
        Ok(())
    }

    fn next_turn(&mut self, turn: Turn) -> Option<Turn> {
        match turn {
            Turn::Answered => {
                self.wanted = self.find_wanted();
                Some(Turn::Helpful)
            }
            Turn::Helpful => Some(Turn::Others),
            Turn::Others => None,
        }
    }

    /// What holds everything up: who is answered first, and who is the next by rank.
    fn find_wanted(&self) -> [Option<usize>; 2] {
        let mut place = self.events[0].after;
        while place != 0 && self.events[place].is_call {
            place = self.events[place].after;
        }
        let first = (place != 0).then_some(self.events[place].operation);
        let next = self.ranked.get(self.ranked_taken).map(|(_, operation)| *operation);
        [first, next.filter(|next| Some(*next) != first)]
    }

    /// Takes every operation that fits now and never changes anything. Nothing is lost by that: in any order that has it later, it can be
    /// moved to here.
    fn take_reads(&mut self, state: &M::State) -> Result<(), NotLinearizable> {
        let mut place = self.events[0].after;
        while place != 0 && self.events[place].is_call {
            let Event { operation, after, .. } = self.events[place];
            if self.is_read(operation) {
                if self.steps >= self.limits.steps_max {
                    return Err(NotLinearizable::OutOfSteps { steps: self.steps });
                }
                self.steps += 1;
                let Operation { input, result, .. } = &self.history[operation];
                let output = result.as_ref().map(|(_, output)| output);
                if self.model.fits(state, input, output) {
                    self.taken.flip(operation);
                    self.order.push(Step { call: place, turn: Turn::Answered, before: None });
                    self.lift(place);
                    // An answer that went with it may have stood between.
                    place = self.events[0].after;
                    continue;
                }
            }
            place = after;
        }
        Ok(())
    }

    fn is_read(&self, operation: usize) -> bool {
        let Operation { input, result, .. } = &self.history[operation];
        result.as_ref().is_some_and(|(_, output)| self.model.changes_nothing(input, output))
    }

    /// Puts back the last operation for which there is an alternative, and all that came after it: from what it led to, `state`, nothing leads on. With the state
    /// before it.
    fn give_up(&mut self, state: M::State) -> Option<(Step<M::State>, M::State)> {
        loop {
            let mut last = self.order.pop()?;
            if let Some(before) = last.before.take() {
                self.dead_ends.insert((self.taken, state));
                self.put_back(last.call);
                return Some((last, before));
            }
            self.put_back(last.call);
        }
    }

    /// The state after this operation, if it is its turn, it fits, and it was not tried in an equal situation.
    fn try_next(&mut self, operation: usize, turn: Turn, state: &M::State) -> Option<M::State> {
        let is_answered = self.history[operation].result.is_some();
        let next_rank = self.ranked.get(self.ranked_taken).map(|(rank, _)| *rank);
        let comes_later = self.ranks[operation].is_some_and(|rank| next_rank != Some(rank));
        if is_answered != (turn == Turn::Answered) || comes_later {
            return None;
        }
        let next = self.step(operation, state)?;
        if !is_answered && next == *state {
            // It may as well never have happened.
            return None;
        }
        if turn == Turn::Helpful {
            let wanted = self.wanted;
            wanted.into_iter().flatten().find_map(|wanted| self.step(wanted, &next))?;
        }
        self.taken.flip(operation);
        let situation = (self.taken, next);
        if self.dead_ends.contains(&situation) {
            self.taken.flip(operation);
            return None;
        }
        self.ranked_taken += usize::from(self.ranks[operation].is_some());
        Some(situation.1)
    }

    fn step(&mut self, operation: usize, state: &M::State) -> Option<M::State> {
        self.steps += 1;
        let Operation { input, result, .. } = &self.history[operation];
        self.model.step(state, input, result.as_ref().map(|(_, output)| output))
    }

    /// The operations that could have come right after the best order.
    fn candidates(&self) -> Vec<usize> {
        let left = |at: &usize| !self.best.contains(at);
        let answered =
            |at: usize| self.history[at].result.as_ref().map_or(u64::MAX, |(time, _)| *time);
        let first_answer = (0..self.history.len()).filter(left).map(answered).min().unwrap_or(0);
        (0..self.history.len())
            .filter(left)
            .filter(|at| self.history[*at].call <= first_answer)
            .collect()
    }

    /// Takes a call and its answer out of the list.
    fn lift(&mut self, call: Place) {
        self.unlink(call);
        if let Some(answer) = self.events[call].answer {
            self.unlink(answer);
            self.answers_left -= 1;
        }
    }

    /// Puts back what [`Search::lift`] took out last.
    fn put_back(&mut self, call: Place) {
        if let Some(answer) = self.events[call].answer {
            self.relink(answer);
            self.answers_left += 1;
        }
        self.relink(call);
        let operation = self.events[call].operation;
        self.ranked_taken -= usize::from(self.ranks[operation].is_some());
        self.taken.flip(operation);
    }

    fn unlink(&mut self, place: Place) {
        let Event { before, after, .. } = self.events[place];
        self.events[before].after = after;
        self.events[after].before = before;
    }

    fn relink(&mut self, place: Place) {
        let Event { before, after, .. } = self.events[place];
        self.events[before].after = place;
        self.events[after].before = place;
    }
}
