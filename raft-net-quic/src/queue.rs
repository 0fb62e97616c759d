//! What waits to be written to one peer in one class of traffic: bounded in messages and bytes. Pushed to by the driver, which
//! must never wait; emptied by the class's writer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::QueueLimits;
use crate::wire::Frame;

/// Which message goes when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// The oldest: newer ones say more (votes, heartbeats).
    DropOldest,
    /// The newest: the older ones are needed first.
    DropNewest,
}

/// What became of a pushed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits, perhaps in place of older ones.
    Taken,
    /// It was dropped, the first one since the queue last took something: worth a report.
    DroppedFirst,
    /// It was dropped, as others before it.
    Dropped,
}

#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    when_full: WhenFull,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    dropping: bool,
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits, when_full: WhenFull) -> Queue {
        Queue { limits, when_full, state: Mutex::default(), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writer is there.
    pub(crate) fn open(&self) {
        let mut state = self.lock();
        state.open = true;
        state.dropping = false;
    }

    /// The writer is gone: forgets what waits, and takes nothing until it is open again.
    pub(crate) fn close(&self) {
        *self.lock() = State { dropping: true, ..State::default() };
    }

    /// Queues a frame if there is a writer and room. A frame larger than the whole queue is taken when it is alone.
    pub(crate) fn push(&self, frame: Frame) -> Pushed {
        let mut state = self.lock();
        let room = |state: &State| {
            state.frames.is_empty()
                || (state.frames.len() < self.limits.messages
                    && state.bytes + frame.len() <= self.limits.bytes)
        };
        if state.open && self.when_full == WhenFull::DropOldest {
            while !room(&state) {
                if let Some(oldest) = state.frames.pop_front() {
                    state.bytes -= oldest.len();
                }
            }
        }
        if !state.open || !room(&state) {
            let first = !std::mem::replace(&mut state.dropping, true);
            return if first { Pushed::DroppedFirst } else { Pushed::Dropped };
        }
        state.dropping = false;
        state.bytes += frame.len();
        state.frames.push_back(frame);
        Pushed::Taken
    }

    /// Wakes the writer if there is something to write.
    pub(crate) fn flush(&self) {
        if !self.lock().frames.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Waits until something waits, then moves all of it to `batch`.
    pub(crate) async fn take(&self, batch: &mut Vec<Frame>) {
        loop {
            {
                let mut state = self.lock();
                if !state.frames.is_empty() {
                    batch.extend(state.frames.drain(..));
                    state.bytes = 0;
                    return;
                }
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_core::{Body, Message, Term};
    use raft_node::PeerMessage;

    use super::*;
    use crate::wire::{Encoder, WireLimits};

    fn frame(term: u64) -> Frame {
        let message =
            Message { term: Term(term), body: Body::HeartbeatResponse { read_context: term } };
        Encoder::new(WireLimits { frame_bytes_max: 1 << 20 })
            .encode(&PeerMessage::Raft(message))
            .unwrap()
    }

    fn bytes_of(frame: Frame) -> Vec<u8> {
        frame.parts().flat_map(|part| part.to_vec()).collect()
    }

    async fn left(queue: &Queue) -> Vec<Vec<u8>> {
        let mut batch = Vec::new();
        queue.take(&mut batch).await;
        batch.into_iter().map(bytes_of).collect()
    }

    #[tokio::test]
    async fn a_full_queue_drops_the_end_that_matters_less() {
        let limits = QueueLimits { messages: 2, bytes: 1 << 20 };
        let oldest = Queue::new(limits, WhenFull::DropOldest);
        let newest = Queue::new(limits, WhenFull::DropNewest);
        oldest.open();
        newest.open();
        let pushed: Vec<_> = (1..=4).map(|term| oldest.push(frame(term))).collect();
        assert_eq!(pushed, [Pushed::Taken; 4]);
        let pushed: Vec<_> = (1..=4).map(|term| newest.push(frame(term))).collect();
        assert_eq!(pushed, [Pushed::Taken, Pushed::Taken, Pushed::DroppedFirst, Pushed::Dropped]);
        assert_eq!(left(&oldest).await, [bytes_of(frame(3)), bytes_of(frame(4))]);
        assert_eq!(left(&newest).await, [bytes_of(frame(1)), bytes_of(frame(2))]);
        assert_eq!(newest.push(frame(5)), Pushed::Taken, "there is room again");
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_queue_passes_alone() {
        let queue = Queue::new(QueueLimits { messages: 8, bytes: 1 }, WhenFull::DropNewest);
        assert_eq!(queue.push(frame(1)), Pushed::DroppedFirst, "nobody writes yet");
        queue.open();
        assert_eq!(queue.push(frame(1)), Pushed::Taken);
        assert_eq!(queue.push(frame(2)), Pushed::DroppedFirst);
        assert_eq!(left(&queue).await.len(), 1);
    }
}
