//! Messages on their way out. A message that depends on a write is withheld until that write is durable, so that a
//! driver may send whatever it polls, at once.

use alloc::collections::VecDeque;

use crate::{Message, NodeId, Ticket};

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Withheld>,
}

#[derive(Debug)]
struct Withheld {
    until: Option<Ticket>,
    to: NodeId,
    message: Message,
}

/// Gives back the room of a queue that a burst made at least twice as long as it usually is. For quiet moments: it may have to grow
/// again.
pub(crate) fn shrink<T>(queue: &mut VecDeque<T>, usual: usize) {
    if queue.capacity() >= 2 * usual && queue.len() <= usual {
        queue.shrink_to(if queue.is_empty() { 0 } else { usual });
    }
}

impl Outbox {
    pub(crate) fn push(&mut self, until: Option<Ticket>, to: NodeId, message: Message) {
        self.queue.push_back(Withheld { until, to, message });
    }

    /// The next message that may leave. Order is kept: what waits holds back what was made after it.
    pub(crate) fn pop(&mut self, is_durable: impl Fn(Ticket) -> bool) -> Option<(NodeId, Message)> {
        if self.queue.front()?.until.is_none_or(is_durable) {
            self.queue.pop_front().map(|withheld| (withheld.to, withheld.message))
        } else {
            None
        }
    }

    /// Gives back what a burst made of its room.
    pub(crate) fn shrink(&mut self) {
        shrink(&mut self.queue, 4);
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Drops what has not left. Done when the term changes: nobody is owed a message of a past term.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }
}
