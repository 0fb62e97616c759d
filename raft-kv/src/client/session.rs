//! The client's session: which writes have which numbers, and below which number all are answered.

use std::collections::VecDeque;

use crate::command::SessionId;
use crate::session::WINDOW_MAX;

/// The present session.
#[derive(Debug, Default)]
pub(super) struct Session {
    state: State,
    /// All numbers below are answered or given up.
    acked_below: u64,
    /// Whether number `acked_below + i`, which was given out, is answered or given up.
    done: VecDeque<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Opening(SessionId),
    Open(SessionId),
}

impl Session {
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// A new session was asked for.
    pub(super) fn opening(&mut self, id: SessionId) {
        *self = Session { state: State::Opening(id), ..Session::default() };
    }

    /// The session is open. `false` if it is another one.
    pub(super) fn opened(&mut self, id: SessionId) -> bool {
        let is_this = self.state == State::Opening(id);
        if is_this {
            self.state = State::Open(id);
        }
        is_this
    }

    /// The session is of no use any more.
    pub(super) fn close(&mut self, id: SessionId) {
        if self.state == State::Open(id) || self.state == State::Opening(id) {
            *self = Session::default();
        }
    }

    /// Opening it did not succeed. Does nothing once it is open.
    pub(super) fn give_up_opening(&mut self, id: SessionId) {
        if self.state == State::Opening(id) {
            *self = Session::default();
        }
    }

    /// Whether a number can be had.
    pub(super) fn has_room(&self) -> bool {
        matches!(self.state, State::Open(_)) && (self.done.len() as u64) < WINDOW_MAX
    }

    /// A number for a write; `None` if the session is not open, or too far ahead of what was answered.
    pub(super) fn number(&mut self) -> Option<(SessionId, u64)> {
        let State::Open(id) = self.state else { return None };
        if !self.has_room() {
            return None;
        }
        let number = self.acked_below + self.done.len() as u64;
        self.done.push_back(false);
        Some((id, number))
    }

    /// What a write of session `id` may say about lower numbers.
    pub(super) fn acked_below(&self, id: SessionId) -> u64 {
        if self.state == State::Open(id) { self.acked_below } else { 0 }
    }

    /// A write is answered, or given up: it will not be sent again.
    pub(super) fn finish(&mut self, (id, number): (SessionId, u64)) {
        if self.state != State::Open(id) {
            return;
        }
        let offset = number.checked_sub(self.acked_below).map(|offset| offset as usize);
        if let Some(done) = offset.and_then(|offset| self.done.get_mut(offset)) {
            *done = true;
        }
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.acked_below += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId(7);

    #[test]
    fn only_what_is_answered_without_gaps_is_acknowledged() {
        let mut session = Session::default();
        assert_eq!(session.number(), None);
        session.opening(ID);
        assert!(!session.opened(SessionId(8)));
        assert!(session.opened(ID));
        let numbers: Vec<_> = (0..3).filter_map(|_| session.number()).collect();
        assert_eq!(numbers, [(ID, 0), (ID, 1), (ID, 2)]);
        session.finish((ID, 1));
        assert_eq!(session.acked_below(ID), 0);
        session.finish((ID, 0));
        assert_eq!(session.acked_below(ID), 2);
        session.finish((ID, 0));
        session.finish((SessionId(8), 2));
        assert_eq!(session.acked_below(ID), 2);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut session = Session::default();
        session.opening(ID);
        session.opened(ID);
        for _ in 0..WINDOW_MAX {
            assert!(session.number().is_some());
        }
        assert_eq!(session.number(), None);
        session.finish((ID, 0));
        assert_eq!(session.number(), Some((ID, WINDOW_MAX)));
    }
}
