//! How long writes are unavailable: a write is begun every few milliseconds, and the longest time between two acknowledgements counts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::client::Client;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// A write begins this often.
const INTERVAL: Duration = Duration::from_millis(5);
/// No more writes than these are under way; more begin when some have ended.
const IN_FLIGHT: usize = 512;

/// What the writes showed so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writes {
    /// How many were acknowledged.
    pub(crate) acknowledged: u64,
    /// How many failed, or ended in doubt.
    pub(crate) failed: u64,
    /// When the last one was acknowledged; the start if none was.
    pub(crate) last: Instant,
    /// The longest time between two acknowledgements.
    pub(crate) longest_gap: Duration,
}

/// Writes in the background until dropped.
pub(crate) struct Writer {
    writes: Arc<Mutex<Writes>>,
    tasks: JoinSet<()>,
}

impl Writer {
    /// Starts to write under `prefix`.
    pub(crate) fn start(client: Client, prefix: &'static str) -> Writer {
        let writes = Arc::new(Mutex::new(Writes {
            acknowledged: 0,
            failed: 0,
            last: Instant::now(),
            longest_gap: Duration::ZERO,
        }));
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&writes);
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut puts = JoinSet::new();
            for number in 0_u64.. {
                ticks.tick().await;
                while puts.try_join_next().is_some() {}
                if puts.len() >= IN_FLIGHT {
                    puts.join_next().await;
                }
                let (client, writes) = (client.clone(), Arc::clone(&shared));
                puts.spawn(async move {
                    let key = Bytes::from(format!("{prefix}{:03}", number % 1000));
                    let put = client.put(key, Bytes::from(number.to_string())).await;
                    note(&writes, put.is_ok());
                });
            }
        });
        Writer { writes, tasks }
    }

    /// What they showed so far.
    pub(crate) fn writes(&self) -> Writes {
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops, and waits until nothing is under way from here.
    pub(crate) async fn stop(mut self) -> Writes {
        self.tasks.shutdown().await;
        self.writes()
    }
}

fn note(writes: &Mutex<Writes>, acknowledged: bool) {
    let mut writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
    if !acknowledged {
        writes.failed += 1;
        return;
    }
    let now = Instant::now();
    // How long the first one took says nothing about a gap.
    if writes.acknowledged > 0 {
        writes.longest_gap = writes.longest_gap.max(now.duration_since(writes.last));
    }
    writes.last = now;
    writes.acknowledged += 1;
}
