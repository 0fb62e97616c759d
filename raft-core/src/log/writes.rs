//! Writes that were handed out and may not be durable yet.

use alloc::collections::VecDeque;

use crate::{Index, Ticket};

/// One [`Persist`](crate::Persist) on its way to the disk.
#[derive(Clone, Copy, Debug)]
struct Write {
    ticket: Ticket,
    /// The lowest index that it touches, by truncating or by appending.
    touches_from: Option<Index>,
    done: bool,
}

/// The outstanding writes, oldest first. The front one is never done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    queue: VecDeque<Write>,
    last_ticket: Ticket,
}

impl Writes {
    /// The ticket that the next write will have.
    pub(crate) fn next_ticket(&self) -> Ticket {
        Ticket(self.last_ticket.0 + 1)
    }

    pub(crate) fn issue(&mut self, touches_from: Option<Index>) -> Ticket {
        self.last_ticket = self.next_ticket();
        self.queue.push_back(Write { ticket: self.last_ticket, touches_from, done: false });
        self.last_ticket
    }

    /// Notes a completion, in whatever order they come (scenario 18). `false` if the ticket is not outstanding.
    pub(crate) fn complete(&mut self, ticket: Ticket) -> bool {
        let Some(write) = self.queue.iter_mut().find(|write| write.ticket == ticket && !write.done)
        else {
            return false;
        };
        write.done = true;
        let place = write.touches_from;
        if mutated!(LateCompletionStabilizesARewrite) {
            self.queue.iter_mut().filter(|w| w.touches_from == place).for_each(|w| w.done = true);
        }
        while self.queue.front().is_some_and(|write| write.done) {
            self.queue.pop_front();
        }
        true
    }

    /// Whether this write and all before it are durable.
    pub(crate) fn is_durable(&self, ticket: Ticket) -> bool {
        if mutated!(DurableBeforeItsPredecessors) {
            return self.queue.iter().all(|write| write.ticket != ticket || write.done);
        }
        ticket <= self.last_ticket && self.queue.front().is_none_or(|write| write.ticket > ticket)
    }

    /// The end of the durable log, if the log in memory ends at `last`. An index that an outstanding write touches is not durable,
    /// whatever became of earlier writes to the same place: that is what keeps a late completion for an overwritten entry from
    /// stabilizing its successor (scenario 17).
    pub(crate) fn durable_end(&self, last: Index) -> Index {
        let untouched =
            self.queue.iter().filter(|write| !write.done).filter_map(|write| write.touches_from);
        untouched.map(Index::prev).min().map_or(last, |end| end.min(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_completion_of_an_overwritten_entry_stabilizes_nothing() {
        // scenario 17, append ABA
        let mut writes = Writes::default();
        let first = writes.issue(Some(Index(5)));
        let second = writes.issue(Some(Index(5)));
        assert_eq!(writes.durable_end(Index(7)), Index(4));
        assert!(writes.complete(first));
        assert_eq!(writes.durable_end(Index(7)), Index(4));
        assert!(writes.complete(second));
        assert_eq!(writes.durable_end(Index(7)), Index(7));
    }

    #[test]
    fn completions_in_any_order_lose_no_progress() {
        // scenario 18
        let mut writes = Writes::default();
        let first = writes.issue(Some(Index(1)));
        let second = writes.issue(Some(Index(2)));
        assert!(writes.complete(second));
        assert!(!writes.is_durable(second));
        assert_eq!(writes.durable_end(Index(2)), Index(0));
        assert!(writes.complete(first));
        assert!(writes.is_durable(second));
        assert_eq!(writes.durable_end(Index(2)), Index(2));
        assert!(!writes.complete(first));
    }
}
