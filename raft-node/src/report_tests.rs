//! The order in which the core is told what was applied, by the apply thread and by the driver itself.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use raft_core::{Config, Index, Input, Instant, Membership, NodeId, ProposalId, Raft, Restored};
use tokio::sync::watch;

use crate::apply::{self, Applier, ApplierParts};
use crate::driver::{Driver, Out, StatusPublisher, Waiting};
use crate::feedback::{Feedback, Reporter};
use crate::metrics::Counters;
use crate::node::driver_settings;
use crate::order::{ChunkSettings, Sending, StoreJob};
use crate::queues::Queues;
use crate::testing::{Counter, MemoryDisk};
use crate::watchdog::Watchdog;
use crate::{Inbox, LogStore, NodeConfig, PeerMessage, Transport, TransportError, standing};

const ME: NodeId = NodeId(1);

struct Nowhere;

impl Transport for Nowhere {
    fn start(&mut self, _: Inbox, _: raft_core::StoreStamp) -> Result<(), TransportError> {
        Ok(())
    }

    fn send(&mut self, _: NodeId, _: PeerMessage) {}
}

/// A driver that nobody runs, of a group of one, with an apply thread and a storage lane that is worked off by hand.
struct Rig {
    driver: Driver<Counter, Nowhere>,
    /// For the apply thread.
    reporter: Reporter,
}

impl Rig {
    fn new() -> Rig {
        let config = NodeConfig::new(ME);
        let membership = Membership::of_voters([ME]);
        let restored = Restored::founding(membership.clone());
        let raft = Raft::new(config.raft.clone(), 7, Instant(0), restored).expect("restored");
        let (reporter, feedback) = Reporter::channel(64);
        let (queues, counters) = (Queues::new(), Arc::new(Counters::default()));
        let stream = ChunkSettings {
            chunk_bytes_max: 1,
            bytes_per_second: None,
            window_bytes: 1,
            stall_timeout: config.storage_stall,
            resend_after: config.storage_stall,
        };
        let applier = Applier::new(ApplierParts {
            machine: Counter::new(),
            log: Box::new(MemoryDisk::default().open().reader()),
            queue: Arc::clone(&queues.applier),
            counters: Arc::clone(&counters),
            restored: None,
            base_membership: membership,
            replay_bytes: config.replay_bytes,
            checkpoint_log_bytes: config.checkpoint_log_bytes,
            stream,
            reporter: reporter.clone(),
        });
        let (sender, _) = watch::channel(standing::first(raft.status()));
        let published = tokio::time::Instant::now();
        let driver = Driver {
            raft,
            tape: None,
            origin: published,
            transport: Nowhere,
            queues,
            feedback,
            applier: Arc::new(Mutex::new(applier)),
            settings: driver_settings(&config),
            counters,
            requests: Waiting::new(),
            streams: Sending::default(),
            status: StatusPublisher {
                sender: sender.into(),
                published,
                stale: false,
                urgent: true,
            },
            watchdog: Watchdog::new(config.storage_stall),
            out: Out::new(),
        };
        Rig { driver, reporter }
    }

    /// The disk has done what it was given.
    fn persist(&mut self) {
        while self.driver.queues.storage.fill().items > 0 {
            let mut jobs = std::collections::VecDeque::new();
            self.driver.queues.storage.take_all(&mut jobs);
            let tickets = jobs.into_iter().filter_map(|job| match job {
                StoreJob::Write(write) => Some(write.ticket),
                StoreJob::Compact(_) => None,
            });
            self.driver.on_feedback(Feedback::Persisted(tickets.collect())).expect("no failure");
            self.driver.act().expect("no failure");
        }
    }

    fn propose(&mut self, commands: u64) {
        let commands = (0..commands).map(|_| Counter::add(1)).collect();
        self.driver.handle(Input::Propose { id: ProposalId(0), commands });
        self.driver.act().expect("no failure");
        self.persist();
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_apply_thread_reported_is_not_overtaken_by_what_the_driver_applies() {
    let mut rig = Rig::new();
    tokio::time::advance(Config::new(ME).election_timeout * 4).await;
    rig.driver.handle(Input::Timeout);
    rig.driver.act().expect("no failure");
    rig.persist();
    assert!(rig.driver.raft.status().role == raft_core::RoleKind::Leader);

    let queue = Arc::clone(&rig.driver.queues.applier);
    let (applier, reporter) = (Arc::clone(&rig.driver.applier), rig.reporter.clone());
    let lane = Arc::clone(&queue);
    let thread = std::thread::spawn(move || apply::run(&applier, &lane, &reporter));
    // Too much for the driver: the thread does it, after the entry of the new term, and its reports wait.
    rig.propose(1000);
    while !queue.is_idle() {
        std::thread::yield_now();
    }
    assert_eq!(rig.driver.feedback.len(), 2, "the reports of the thread wait");
    // Little, which the driver does itself.
    rig.propose(1);
    while let Ok(feedback) = rig.driver.feedback.try_recv() {
        rig.driver.on_feedback(feedback).expect("no failure");
    }
    assert_eq!(rig.driver.counters.inputs_refused.load(Relaxed), 0, "the core refused a report");
    assert_eq!(rig.driver.raft.status().applied, Index(1002));
    queue.close();
    thread.join().expect("no panic").expect("no failure");
}
