//! Budgets of bytes with owners: a connection, the certificate that it was opened with, and all of them together. Knows nothing of what the
//! bytes are, nor of QUIC.
//!
//! Every connection has a small share that nobody can take from it. What it takes beyond that counts against its certificate's share, and
//! against what there is for all. So one certificate cannot use up what the others need, and one connection cannot keep another of the same
//! certificate from a small request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// How many bytes may be held at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// What every connection always has for itself.
    pub connection: usize,
    /// What the connections of one certificate may take beyond that, together.
    pub certificate: usize,
    /// What all connections may take beyond their own shares, together.
    pub all: usize,
}

impl BudgetLimits {
    pub(crate) const NONE: BudgetLimits =
        BudgetLimits { connection: usize::MAX, certificate: usize::MAX, all: usize::MAX };
}

/// What all share.
#[derive(Debug)]
pub(crate) struct Pool {
    limits: BudgetLimits,
    /// Taken beyond the connections' own shares. Every change of any number of this pool is made under this lock.
    shared: Mutex<usize>,
    freed: Notify,
}

/// A certificate's part of a pool.
#[derive(Debug)]
pub(crate) struct Purse {
    pool: Arc<Pool>,
    /// Taken beyond its connections' own shares.
    shared: AtomicUsize,
    /// One of those that wait watches the pool, the others wait for their turn.
    turn: tokio::sync::Mutex<()>,
}

/// A connection's part of a pool: what bytes are taken from.
#[derive(Debug)]
pub struct Budget {
    purse: Arc<Purse>,
    used: AtomicUsize,
    waiting: AtomicUsize,
}

impl Pool {
    pub(crate) fn new(limits: BudgetLimits) -> Arc<Pool> {
        Arc::new(Pool { limits, shared: Mutex::new(0), freed: Notify::new() })
    }

    /// What is held beyond the connections' own shares.
    pub(crate) fn shared(&self) -> usize {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Purse {
    pub(crate) fn new(pool: &Arc<Pool>) -> Arc<Purse> {
        let turn = tokio::sync::Mutex::new(());
        Arc::new(Purse { pool: Arc::clone(pool), shared: AtomicUsize::new(0), turn })
    }
}

impl Budget {
    pub(crate) fn new(purse: &Arc<Purse>) -> Arc<Budget> {
        let (used, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Budget { purse: Arc::clone(purse), used, waiting })
    }

    /// One that never refuses, for the side that trusts the other.
    pub(crate) fn unlimited() -> Arc<Budget> {
        Budget::new(&Purse::new(&Pool::new(BudgetLimits::NONE)))
    }

    /// Takes bytes if they are there.
    pub fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let mut held = self.nothing();
        held.try_grow(bytes).then_some(held)
    }

    /// Takes bytes, and waits for them if need be: in turn with whoever waits on behalf of the same certificate. Cancel safe.
    pub async fn take(self: &Arc<Self>, bytes: usize) -> Held {
        let mut held = self.nothing();
        held.grow(bytes).await;
        held
    }

    /// Holds nothing yet.
    pub fn nothing(self: &Arc<Self>) -> Held {
        Held { budget: Arc::clone(self), bytes: 0 }
    }

    /// How many bytes the connection holds.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether the connection is beyond its own share: then little at a time is better.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() >= self.purse.pool.limits.connection
    }

    fn is_unlimited(&self) -> bool {
        self.purse.pool.limits == BudgetLimits::NONE
    }

    fn charge(&self, bytes: usize) -> bool {
        if self.is_unlimited() {
            return true;
        }
        let Purse { pool, shared, .. } = &*self.purse;
        let mut all = pool.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.load(Ordering::Relaxed);
        let own = pool.limits.connection;
        let more = (used + bytes).saturating_sub(own) - used.saturating_sub(own);
        let of_certificate = shared.load(Ordering::Relaxed);
        let fits = |used: usize, max: usize| used.saturating_add(more) <= max;
        // More than there ever is passes alone, so that its real fault can be named further on.
        let is_alone = used == 0 && of_certificate == 0 && *all <= pool.limits.all / 2;
        let has_room = fits(of_certificate, pool.limits.certificate) && fits(*all, pool.limits.all);
        if more > 0 && !has_room && !is_alone {
            return false;
        }
        *all += more;
        shared.store(of_certificate + more, Ordering::Relaxed);
        self.used.store(used + bytes, Ordering::Relaxed);
        true
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 || self.is_unlimited() {
            return;
        }
        let Purse { pool, shared, .. } = &*self.purse;
        let mut all = pool.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.load(Ordering::Relaxed);
        let own = pool.limits.connection;
        let less = used.saturating_sub(own) - (used - bytes).saturating_sub(own);
        *all -= less;
        shared.fetch_sub(less, Ordering::Relaxed);
        self.used.store(used - bytes, Ordering::Relaxed);
        drop(all);
        // Also when only the own share has more room: somebody of this connection may wait.
        if less > 0 || self.waiting.load(Ordering::Relaxed) > 0 {
            pool.freed.notify_waiters();
        }
    }
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more if it is there.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let was_there = self.budget.charge(bytes);
        if was_there {
            self.bytes += bytes;
        }
        was_there
    }

    /// Takes more, and waits for it if need be. Cancel safe: then nothing more is held.
    pub async fn grow(&mut self, bytes: usize) {
        // Nobody overtakes who waits already.
        if self.budget.waiting.load(Ordering::Relaxed) == 0 && self.try_grow(bytes) {
            return;
        }
        let budget = Arc::clone(&self.budget);
        let _waiting = Waiting::new(&budget.waiting);
        // A small share is each connection's own: it does not queue behind what others of the certificate wait for.
        let fits_own = budget.used() + bytes <= budget.purse.pool.limits.connection;
        let _turn = if fits_own { None } else { Some(budget.purse.turn.lock().await) };
        loop {
            let freed = budget.purse.pool.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.try_grow(bytes) {
                return;
            }
            freed.await;
        }
    }

    /// Parts with some of it; with all of it, if that is less.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Held {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Held { budget: Arc::clone(&self.budget), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    const LIMITS: BudgetLimits = BudgetLimits { connection: 10, certificate: 100, all: 150 };

    fn is_ready<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
    }

    #[test]
    fn a_certificate_cannot_take_what_others_need() {
        let pool = Pool::new(LIMITS);
        let (greedy, modest) = (Purse::new(&pool), Purse::new(&pool));
        let (first, second) = (Budget::new(&greedy), Budget::new(&greedy));
        let all = first.try_take(110).expect("its own share and the certificate's");
        assert!(first.try_take(1).is_none());
        assert!(second.try_take(11).is_none(), "the certificate's share is gone");
        let _small = second.try_take(10).expect("a connection's own share stays its own");
        let other = Budget::new(&modest);
        let held = other.try_take(60).expect("another certificate has its share");
        assert!(other.try_take(1).is_none(), "but not more than there is for all");
        drop(all);
        assert!(other.try_take(1).is_some());
        drop(held);
    }

    #[test]
    fn who_waits_is_served_in_turn_and_own_shares_do_not_wait() {
        let pool = Pool::new(LIMITS);
        let purse = Purse::new(&pool);
        let (first, second) = (Budget::new(&purse), Budget::new(&purse));
        let all = first.try_take(110).expect("there");
        let mut large = pin!(second.take(50));
        assert!(!is_ready(large.as_mut()));
        let third = Budget::new(&purse);
        assert!(is_ready(pin!(third.take(5))), "a small share is there for each connection");
        let mut later = pin!(third.take(60));
        assert!(!is_ready(later.as_mut()));
        drop(all);
        assert!(!is_ready(later.as_mut()), "it came later");
        assert!(is_ready(large.as_mut()));
    }

    #[test]
    fn more_than_there_ever_is_passes_alone() {
        let pool = Pool::new(LIMITS);
        let budget = Budget::new(&Purse::new(&pool));
        let held = budget.try_take(1_000).expect("alone");
        assert!(budget.try_take(1).is_none());
        drop(held);
        assert_eq!((budget.used(), *pool.shared.lock().unwrap()), (0, 0));
    }

    proptest! {
        /// Whatever is taken, split and given back: the sums stay within the limits, and nothing is left at the end.
        #[test]
        fn the_sums_hold(steps in prop::collection::vec((0..4_usize, 0..60_usize, 0..3_u8), 1..200)) {
            let pool = Pool::new(LIMITS);
            let purses = [Purse::new(&pool), Purse::new(&pool)];
            let budgets: Vec<_> = (0..4).map(|i| Budget::new(&purses[i / 2])).collect();
            let mut held: Vec<Held> = Vec::new();
            for (of, bytes, what) in steps {
                match what {
                    0 => held.extend(budgets[of].try_take(bytes)),
                    1 if !held.is_empty() => drop(held.remove(bytes % held.len())),
                    2 if !held.is_empty() => {
                        let at = bytes % held.len();
                        let part = held[at].split(bytes);
                        held.push(part);
                    }
                    _ => {}
                }
                let used: usize = budgets.iter().map(|budget| budget.used()).sum();
                prop_assert_eq!(used, held.iter().map(Held::bytes).sum::<usize>());
                for purse in &purses {
                    prop_assert!(purse.shared.load(Ordering::Relaxed) <= LIMITS.certificate);
                }
                prop_assert!(*pool.shared.lock().unwrap() <= LIMITS.all);
            }
            held.clear();
            prop_assert_eq!(*pool.shared.lock().unwrap(), 0);
        }
    }
}
