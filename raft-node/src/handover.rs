//! A queue of which the taker takes everything at once: the hand-over from the driver to the threads that work for it.
//!
//! Group commit falls out of it: whatever is pushed while the storage thread writes is taken, whole, by its next call.
//! Pushing never waits. The bound is kept by the pushers: they either look at the [`Fill`] and stop to take what makes
//! more work, or hold a permit for whatever they push (see `driver.rs`). Model checked with loom, see the tests.

use std::collections::VecDeque;

#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

/// The queue. Shared by reference count; either side may close it.
pub(crate) struct Handover<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    bytes: usize,
    closed: bool,
    /// Whether the taker sleeps: a push wakes it only then, since waking costs a system call.
    waiting: bool,
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// The queue was closed; what was pushed is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

impl<T> Handover<T> {
    pub(crate) fn new() -> Handover<T> {
        let state = State { items: VecDeque::new(), bytes: 0, closed: false, waiting: false };
        Handover { state: Mutex::new(state), wake: Condvar::new() }
    }

    /// Adds an item that counts as `bytes`.
    pub(crate) fn push(&self, item: T, bytes: usize) -> Result<Fill, Closed> {
        self.push_all(std::iter::once(item), bytes)
    }

    /// Adds items that count as `bytes` together, under one lock.
    pub(crate) fn push_all(
        &self,
        items: impl Iterator<Item = T>,
        bytes: usize,
    ) -> Result<Fill, Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.items.extend(items);
        state.bytes = state.bytes.saturating_add(bytes);
        let fill = Fill { items: state.items.len(), bytes: state.bytes };
        let wake = std::mem::take(&mut state.waiting);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        Ok(fill)
    }

    /// How full the queue is. What the taker has taken does not count any more.
    pub(crate) fn fill(&self) -> Fill {
        let state = self.lock();
        Fill { items: state.items.len(), bytes: state.bytes }
    }

    /// Whether the taker sleeps and nothing waits: all that was pushed before is worked off. Stays so for as long as nobody pushes.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.waiting && state.items.is_empty()
    }

    /// Takes everything into `into`, which must be empty (its memory is reused). Waits for at least one item;
    /// `false` once the queue is closed and empty.
    pub(crate) fn take_all(&self, into: &mut VecDeque<T>) -> bool {
        debug_assert!(into.is_empty(), "what was taken before must be worked off");
        let mut state = self.lock();
        loop {
            if !state.items.is_empty() {
                state.take(into);
                return true;
            }
            if state.closed {
                return false;
            }
            state.waiting = true;
            state = self.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Takes no more pushes. What is in the queue can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Takes no more pushes, and drops what is in the queue.
    pub(crate) fn close_and_clear(&self) {
        let mut state = self.lock();
        state.closed = true;
        let items = std::mem::take(&mut state.items);
        state.bytes = 0;
        drop(state);
        // Outside of the lock: dropping an item may run anybody's code.
        drop(items);
        self.wake.notify_all();
    }

    /// No code of others runs under the lock, so that a poisoned one still guards a whole state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn take(&mut self, into: &mut VecDeque<T>) {
        std::mem::swap(&mut self.items, into);
        self.bytes = 0;
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    #[test]
    fn loom_nothing_is_lost_or_reordered_and_no_wake_up_is_missed() {
        loom::model(|| {
            let queue = Arc::new(Handover::new());
            let pushers: Vec<_> = [10, 20]
                .map(|base| {
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || {
                        queue.push(base, 1).expect("open");
                        queue.push(base + 1, 1).expect("open");
                    })
                })
                .into_iter()
                .collect();
            let mut got = Vec::new();
            let mut batch = VecDeque::new();
            while got.len() < 4 {
                assert!(queue.take_all(&mut batch), "it is not closed");
                got.extend(batch.drain(..));
            }
            for pusher in pushers {
                pusher.join().expect("no panic");
            }
            let of = |base: i32| got.iter().copied().filter(move |x| x / 10 * 10 == base);
            assert!(of(10).eq([10, 11]) && of(20).eq([20, 21]), "{got:?}");
            assert_eq!(queue.fill(), Fill::default());
        });
    }

    #[test]
    fn loom_an_idle_queue_has_been_worked_off() {
        loom::model(|| {
            let queue = Arc::new(Handover::new());
            let done = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
            let taker = {
                let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
                thread::spawn(move || {
                    let mut batch = VecDeque::new();
                    while queue.take_all(&mut batch) {
                        done.fetch_add(
                            batch.drain(..).count(),
                            loom::sync::atomic::Ordering::Relaxed,
                        );
                    }
                })
            };
            for pushed in 1..=2 {
                queue.push((), 0).expect("open");
                if queue.is_idle() {
                    assert_eq!(done.load(loom::sync::atomic::Ordering::Relaxed), pushed);
                }
            }
            queue.close();
            taker.join().expect("no panic");
        });
    }

    #[test]
    fn loom_closing_wakes_the_taker_and_keeps_what_was_pushed() {
        loom::model(|| {
            let queue = Arc::new(Handover::new());
            let pusher = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.push(1, 1).is_ok())
            };
            let closer = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.close())
            };
            let (mut got, mut batch) = (0, VecDeque::new());
            while queue.take_all(&mut batch) {
                got += batch.drain(..).count();
            }
            let pushed = pusher.join().expect("no panic");
            closer.join().expect("no panic");
            assert_eq!(got, usize::from(pushed), "exactly what was accepted arrives");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_before_closing_is_still_taken() {
        let queue = Handover::new();
        assert_eq!(queue.push_all([1, 2].into_iter(), 7), Ok(Fill { items: 2, bytes: 7 }));
        queue.close();
        assert_eq!(queue.push(3, 0), Err(Closed));
        let mut batch = VecDeque::new();
        assert!(queue.take_all(&mut batch));
        assert_eq!(batch, [1, 2]);
        batch.clear();
        assert!(!queue.take_all(&mut batch));
    }
}
