//! The search itself.

use std::collections::HashSet;

use super::{Limits, Model, NotLinearizable, Operation};

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

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Input, M::Output>],
    limits: Limits,
    /// Calls and answers in order of time, linked, so that what is taken can be lifted out and put back.
    events: Vec<Event>,
    /// How many answers are still in the list: when none is, everything known is explained.
    answers_left: usize,
    taken: Taken,
    /// What was taken, in order, with the state before it.
    order: Vec<(Place, M::State)>,
    /// Sets of operations that were taken, with the state that they led to.
    seen: HashSet<(Taken, M::State)>,
    best: Vec<usize>,
    steps: u64,
}

/// A set of operations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Taken(Box<[u64]>);

impl Taken {
    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
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
        times.sort_unstable();
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
        let taken = Taken(vec![0; history.len().div_ceil(64)].into());
        Search {
            model,
            history,
            limits,
            events,
            answers_left,
            taken,
            order: Vec::new(),
            seen: HashSet::new(),
            best: Vec::new(),
            steps: 0,
        }
    }

    fn run(mut self) -> Result<(), NotLinearizable> {
        let mut state = self.model.initial();
        self.take_reads(&state)?;
        let mut place = self.events[0].after;
        while self.answers_left > 0 {
            let event = self.events[place];
            if place != 0 && event.is_call {
                if self.steps >= self.limits.steps_max {
                    return Err(NotLinearizable::OutOfSteps { steps: self.steps });
                }
                match self.try_next(event.operation, &state) {
                    Some(next) => {
                        self.order.push((place, std::mem::replace(&mut state, next)));
                        self.lift(place);
                        self.take_reads(&state)?;
                        place = self.events[0].after;
                    }
                    None => place = event.after,
                }
                continue;
            }
            // An answer: what it answers must have been taken before anything that comes later. It was not, so this order is a dead end.
            if self.best.len() < self.order.len() || self.best.is_empty() {
                self.best = self.order.iter().map(|(at, _)| self.events[*at].operation).collect();
            }
            let Some((last, before)) = self.give_up() else {
                let stuck_at = self.candidates();
                return Err(NotLinearizable::Impossible { explained: self.best, stuck_at });
            };
            state = before;
            place = self.events[last].after;
        }
        Ok(())
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
                if self.model.step(state, input, output).is_some() {
                    self.taken.flip(operation);
                    self.order.push((place, state.clone()));
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

    /// Puts back the last operation for which there is an alternative, with the state before it, and all that came after it.
    fn give_up(&mut self) -> Option<(Place, M::State)> {
        loop {
            let (last, before) = self.order.pop()?;
            self.put_back(last);
            if !self.is_read(self.events[last].operation) {
                return Some((last, before));
            }
        }
    }

    /// The state after this operation, if it fits and was not tried in an equal situation.
    fn try_next(&mut self, operation: usize, state: &M::State) -> Option<M::State> {
        self.steps += 1;
        let Operation { input, result, .. } = &self.history[operation];
        let next = self.model.step(state, input, result.as_ref().map(|(_, output)| output))?;
        self.taken.flip(operation);
        if self.seen.insert((self.taken.clone(), next.clone())) {
            return Some(next);
        }
        self.taken.flip(operation);
        None
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
        self.taken.flip(self.events[call].operation);
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
