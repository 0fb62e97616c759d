//! Watches what the core can not see: a disk that hangs, and a clock that stood still.

use std::time::{Duration, SystemTime};

use raft_core::StorageHealth;
use tokio::time::Instant;

/// Watches the storage thread and the clock.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// A write that takes longer is reported.
    patience: Duration,
    /// How many writes are under way.
    writes: usize,
    /// Since when the storage thread has had something to do and has finished nothing.
    since: Option<Instant>,
    health: StorageHealth,
    /// The two clocks when they were last compared.
    compared: (Instant, SystemTime),
}

/// A machine that was suspended for less than this is not noticed. Setting the clock forward looks the same; it costs nothing but a
/// few reads without a lease.
const SUSPENSION_MIN: Duration = Duration::from_millis(20);

impl Watchdog {
    pub(crate) fn new(patience: Duration) -> Watchdog {
        Watchdog {
            patience,
            writes: 0,
            since: None,
            health: StorageHealth::Healthy,
            compared: (Instant::now(), SystemTime::now()),
        }
    }

    pub(crate) fn on_persist(&mut self) {
        self.writes += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn on_persisted(&mut self, writes: usize) {
        self.writes = self.writes.saturating_sub(writes);
        self.since = (self.writes > 0).then(Instant::now);
    }

    /// When to look again at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let since = self.since.filter(|_| self.health == StorageHealth::Healthy)?;
        Some(since + self.patience)
    }

    /// The disk's health, if it has changed.
    pub(crate) fn look(&mut self) -> Option<StorageHealth> {
        let is_stalled = self.since.is_some_and(|since| since.elapsed() >= self.patience);
        let health = if is_stalled { StorageHealth::Stalled } else { StorageHealth::Healthy };
        let has_changed = health != self.health;
        if has_changed {
            tracing::warn!(?health, writes = self.writes, "the log store's health has changed");
        }
        self.health = health;
        has_changed.then_some(health)
    }

    /// Whether the machine may have been suspended since the last call: the time of day went on, the clock that deadlines are measured
    /// with did not.
    pub(crate) fn was_suspended(&mut self) -> bool {
        let now = (Instant::now(), SystemTime::now());
        let (steady, of_day) = std::mem::replace(&mut self.compared, now);
        let steady = now.0.duration_since(steady);
        let of_day = now.1.duration_since(of_day).unwrap_or(Duration::ZERO);
        of_day > steady + SUSPENSION_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_hangs_is_reported_once_and_so_is_its_end() {
        let mut watchdog = Watchdog::new(Duration::from_secs(1));
        assert_eq!(watchdog.deadline(), None);
        watchdog.on_persist();
        watchdog.on_persist();
        let deadline = watchdog.deadline().expect("a write is under way");
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(watchdog.look(), None);
        // Progress counts, even if not everything is done.
        watchdog.on_persisted(1);
        assert!(watchdog.deadline() > Some(deadline));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(watchdog.look(), Some(StorageHealth::Stalled));
        assert_eq!((watchdog.look(), watchdog.deadline()), (None, None));
        watchdog.on_persisted(1);
        assert_eq!(watchdog.look(), Some(StorageHealth::Healthy));
        assert_eq!(watchdog.look(), None);
    }
}
