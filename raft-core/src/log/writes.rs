//! Writes that were handed out and may not be durable yet.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::{Index, Instant, Ticket};

/// One [`Persist`](crate::Persist) on its way to the disk.
#[derive(Clone, Copy, Debug)]
struct Write {
    ticket: Ticket,
    /// The lowest index that it touches, by truncating or by appending.
    touches_from: Option<Index>,
    issued_at: Instant,
    done: bool,
}

/// The outstanding writes, oldest first. The front one is never done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    queue: VecDeque<Write>,
    last_ticket: Ticket,
    /// A mean in which each write counts an eighth of what is left by those after it, as in TCP's round trip (RFC
    /// 6298). In microseconds, since a duration's arithmetic shows at a million writes a second.
    mean_micros: u64,
}

impl Writes {
    /// Gives back the room that a burst took.
    pub(crate) fn shrink(&mut self) {
        crate::outbox::shrink(&mut self.queue, 4);
    }

    /// The ticket that the next write will have.
    pub(crate) fn next_ticket(&self) -> Ticket {
        Ticket(self.last_ticket.0 + 1)
    }

    pub(crate) fn issue(&mut self, touches_from: Option<Index>, now: Instant) -> Ticket {
        self.last_ticket = self.next_ticket();
        let write = Write { ticket: self.last_ticket, touches_from, issued_at: now, done: false };
        self.queue.push_back(write);
        self.last_ticket
    }

    /// Notes a completion, in whatever order they come (scenario 18). `false` if the ticket is not outstanding.
    pub(crate) fn complete(&mut self, ticket: Ticket, now: Instant) -> bool {
        let is_it = |write: &Write| write.ticket == ticket && !write.done;
        let place = match self.queue.front() {
            // Nearly always: a disk writes in order.
            Some(oldest) if is_it(oldest) => Some(0),
            _ => self.queue.iter().position(is_it),
        };
        let Some(write) = place.and_then(|place| self.queue.get_mut(place)) else { return false };
        write.done = place == Some(0) || !mutated!(OvertakingCompletionLost);
        let (place, issued_at) = (write.touches_from, write.issued_at);
        let micros = now.0.saturating_sub(issued_at.0);
        self.mean_micros = self.mean_micros - self.mean_micros / 8 + micros / 8;
        if mutated!(LateCompletionStabilizesARewrite) {
            self.queue.iter_mut().filter(|w| w.touches_from == place).for_each(|w| w.done = true);
        }
        while self.queue.front().is_some_and(|write| write.done) {
            self.queue.pop_front();
        }
        true
    }

    /// How long a write takes, from its being handed out to its being reported as durable.
    pub(crate) fn mean_time(&self) -> Duration {
        Duration::from_micros(self.mean_micros)
    }

    /// Whether this write and all before it are durable.
    pub(crate) fn is_durable(&self, ticket: Ticket) -> bool {
        if mutated!(DurableBeforeItsPredecessors) {
            return self.queue.iter().all(|write| write.ticket != ticket || write.done);
        }
        ticket <= self.last_ticket && self.queue.front().is_none_or(|write| write.ticket > ticket)
    }

    /// The end of the durable log, if the log in memory ends at `last`. An index that an outstanding write touches is
    /// not durable, whatever became of earlier writes to the same place: that is what keeps a late completion for an
    /// overwritten entry from stabilizing its successor (scenario 17).
    pub(crate) fn durable_end(&self, last: Index) -> Index {
        let mut end = last;
        for write in &self.queue {
            if let Some(from) = write.touches_from.filter(|_| !write.done) {
                end = end.min(from.prev());
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_completion_of_an_overwritten_entry_stabilizes_nothing() {
        // scenario 17, append ABA
        let mut writes = Writes::default();
        let first = writes.issue(Some(Index(5)), Instant(0));
        let second = writes.issue(Some(Index(5)), Instant(0));
        assert_eq!(writes.durable_end(Index(7)), Index(4));
        assert!(writes.complete(first, Instant(0)));
        assert_eq!(writes.durable_end(Index(7)), Index(4));
        assert!(writes.complete(second, Instant(0)));
        assert_eq!(writes.durable_end(Index(7)), Index(7));
    }

    #[test]
    fn completions_in_any_order_lose_no_progress() {
        // scenario 18
        let mut writes = Writes::default();
        let first = writes.issue(Some(Index(1)), Instant(0));
        let second = writes.issue(Some(Index(2)), Instant(0));
        assert!(writes.complete(second, Instant(0)));
        assert!(!writes.is_durable(second));
        assert_eq!(writes.durable_end(Index(2)), Index(0));
        assert!(writes.complete(first, Instant(0)));
        assert!(writes.is_durable(second));
        assert_eq!(writes.durable_end(Index(2)), Index(2));
        assert!(!writes.complete(first, Instant(0)));
    }
}
