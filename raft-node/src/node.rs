//! Starting a node, and seeing to it that it ends as a whole.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use raft_core::recording::Recorder;
use raft_core::{Config, Index, Instant, LogPosition, Raft, Restored, SnapshotMeta, StoreStamp};
use tokio::sync::{mpsc, watch};

use crate::apply::{self, Applier, ApplierParts};
use crate::config::{NodeConfig, RecordingConfig};
use crate::driver::{Driver, DriverSettings, Out, Sources, StatusPublisher, Waiting};
use crate::error::StartError;
use crate::feedback::{Reporter, WorkerResult, panic_text, spawn_worker};
use crate::handle::{Budget, NodeHandle, Shared};
use crate::handover::{Fill, Handover};
use crate::metrics::Counters;
use crate::order::{ChunkSettings, Sending};
use crate::queues::Queues;
use crate::status::{Health, NodeStatus};
use crate::tape::{self, Tape};
use crate::watchdog::Watchdog;
use crate::{
    Inbox, LogReader, LogStore, ReadError, SnapshotChunk, StateMachine, StorageError, Transport,
};
use crate::{fetch, snapshot_receive, standing, storage};

/// How many reports of worker threads may wait for the driver.
const FEEDBACK_MAX: usize = 1024;
/// When a part of a snapshot that is not acknowledged is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How much of the log is read at a time when it is checked at the start.
const TAIL_READ_BYTES: usize = 4 << 20;
/// How much of it is checked at most: about what there is to apply between two checkpoints. A longer tail would delay the start more
/// than the check is worth.
const TAIL_CHECKED_BYTES: usize = 256 << 20;

/// A member of a group, run by this process. See [`Node::start`].
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Restores the log and the machine, and starts to take part in the group. The node runs in tasks of the current tokio runtime (which needs its
    /// time driver) and in threads of its own, until it is shut down, the last handle is dropped, or it fails.
    ///
    /// # Errors
    /// [`StartError`]; nothing is running then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start<L: LogStore, T: Transport, M: StateMachine>(
        mut config: NodeConfig,
        store: L,
        mut transport: T,
        machine: M,
    ) -> Result<NodeHandle<M>, StartError> {
        config.validate([store.size_limit(), transport.size_limit()])?;
        let to_restore = config.clone();
        let restore = tokio::task::spawn_blocking(move || restore(&to_restore, store, machine));
        let Stores { store, own, machine, restored, recording } = match restore.await {
            Ok(result) => result?,
            Err(error) => return Err(StartError::Panicked(join_error_text(error))),
        };

        let origin = tokio::time::Instant::now();
        let base_membership = restored.log.base_membership.clone();
        let snapshot = restored.snapshot.clone();
        let (seed, start) = (config.seed.map_or_else(random, Ok)?, Instant(0));
        config.raft.store = Some(own);
        // The thread that writes it is started last: nothing that fails before leaves it behind.
        let recorder = recording.map(|file| {
            let recorder = Recorder::new(&config.raft, seed, start, &restored);
            (recorder, file)
        });
        let raft = Raft::new(config.raft.clone(), seed, start, restored)?;
        let (inbox, deliveries) = Inbox::channel(config.inbox_messages_max);
        transport.start(inbox, own)?;

        let (reporter, feedback) = Reporter::channel(FEEDBACK_MAX);
        let (counters, queues) = (Arc::new(Counters::default()), Queues::<M>::new());
        let mut workers = Workers { queues: queues.clone(), threads: Vec::new() };
        let machine = Restarted { machine, snapshot, base_membership };
        let applier = workers.spawn(&config, store, machine, &reporter, &counters)?;
        let tape = match recorder {
            Some((recorder, file)) => Some(workers.spawn_tape(&config, recorder, file, &reporter)?),
            None => None,
        };

        let (requests, taken) = mpsc::channel(config.waiting_batches_max);
        let (stop, stopping) = watch::channel(false);
        let (publisher, status) = watch::channel(standing::first(raft.status()));
        let publisher = Arc::new(publisher);
        let (end, ended) = watch::channel(());
        let driver = Driver {
            raft,
            tape,
            origin,
            transport,
            queues: queues.clone(),
            feedback,
            applier,
            settings: driver_settings(&config),
            counters: Arc::clone(&counters),
            requests: Waiting::new(),
            streams: Sending::default(),
            status: StatusPublisher {
                sender: Arc::clone(&publisher),
                published: origin,
                stale: false,
                urgent: true,
            },
            watchdog: Watchdog::new(config.storage_stall),
            out: Out::new(),
        };
        let sources = Sources { requests: taken, inbox: deliveries, stop: stopping };
        let running = tokio::spawn(driver.run(sources));
        tokio::spawn(supervise(running, workers, publisher, end));

        Ok(NodeHandle::new(Shared {
            requests,
            applier: queues.applier,
            status,
            ended,
            stop,
            counters,
            proposals: Budget::new(config.waiting_batches_max, config.waiting_bytes_max),
            queries: Budget::new(config.waiting_queries_max, usize::MAX),
        }))
    }
}

/// A number that no other start has. Each start needs one of its own; see [`Raft::new`].
fn random() -> Result<u64, StartError> {
    getrandom::u64().map_err(|error| {
        let what = "draw a random number from the operating system".to_owned();
        StartError::System { what, source: std::io::Error::other(error) }
    })
}

/// The restored log and machine, and what they report.
struct Stores<L, M> {
    store: L,
    /// The store, in this life.
    own: StoreStamp,
    machine: M,
    restored: Restored,
    /// The file of the recording, if there is to be one.
    recording: Option<File>,
}

/// A machine with what it starts from.
struct Restarted<M> {
    machine: M,
    snapshot: Option<SnapshotMeta>,
    base_membership: raft_core::Membership,
}

/// Everything at start that waits for a disk.
fn restore<L: LogStore, M: StateMachine>(
    config: &NodeConfig,
    mut store: L,
    mut machine: M,
) -> Result<Stores<L, M>, StartError> {
    make_scratch(&config.scratch_dir)?;
    let recording = config.recording.as_ref().map(make_recording).transpose()?;
    let mut log = store.restore()?;
    let nonce = config.seed.map_or_else(random, Ok)?;
    let own = StoreStamp { nonce, ..store.begin_life()? };
    let is_empty = log.base_membership.is_empty()
        && log.base == LogPosition::ORIGIN
        && log.last == LogPosition::ORIGIN.index;
    if let (true, Some(founding)) = (is_empty, &config.founding) {
        store.found(founding)?;
        log.base_membership = founding.clone();
    }
    let snapshot = machine.restore()?;
    let applied = snapshot.as_ref().map_or(Index(0), |meta| meta.position.index);
    check_tail(&store.reader(), applied.max(log.base.index), log.last)?;
    Ok(Stores { store, own, machine, restored: Restored { log, snapshot }, recording })
}

/// Reads once what will have to be applied: damage is to be told before the node says that it serves, not in the middle of it.
fn check_tail(log: &impl LogReader, after: Index, last: Index) -> Result<(), StorageError> {
    let (mut read, mut bytes) = (after, 0);
    while read < last && bytes < TAIL_CHECKED_BYTES {
        let first = read.next();
        match log.read(first, last, TAIL_READ_BYTES) {
            Ok(entries) => {
                read = entries.last().map_or(last, |entry| entry.index);
                bytes += entries.size_bytes();
            }
            Err(ReadError::Storage(error)) => return Err(error),
            Err(missing @ ReadError::NotThere { .. }) => {
                let message = format!(
                    "{missing}, though the log goes from {} to {last}; restore the log as it was",
                    after.next()
                );
                return Err(StorageError { message, source: None });
            }
        }
    }
    Ok(())
}

fn make_scratch(folder: &Path) -> Result<(), StartError> {
    std::fs::create_dir_all(folder).map_err(|source| {
        let what = format!("make the folder for incoming snapshots, {}", folder.display());
        StartError::System { what, source }
    })
}

fn make_recording(config: &RecordingConfig) -> Result<File, StartError> {
    tape::create(config).map_err(|source| {
        let what = format!("make the recording {}", config.file.display());
        StartError::System { what, source }
    })
}

pub(crate) fn driver_settings(config: &NodeConfig) -> DriverSettings {
    let window = usize::try_from(config.snapshot_window_bytes).unwrap_or(usize::MAX);
    DriverSettings {
        waiting_writes: Fill {
            items: config.waiting_writes_max,
            bytes: config.waiting_write_bytes_max,
        },
        // What a sender may have under way, twice: it may send it again.
        received_bytes_max: window.saturating_mul(2).saturating_add(1 << 20),
        drain_max: config.drain_max,
        scratch_dir: config.scratch_dir.clone(),
        status_interval: config.status_interval,
    }
}

/// The worker threads. Dropped, it closes their queues, so that they end by themselves.
struct Workers<M: StateMachine> {
    queues: Queues<M>,
    threads: Vec<JoinHandle<WorkerResult>>,
}

impl<M: StateMachine> Workers<M> {
    /// Starts them all. Returns the applier, which the driver has a part in.
    fn spawn<L: LogStore>(
        &mut self,
        config: &NodeConfig,
        store: L,
        machine: Restarted<M>,
        reporter: &Reporter,
        counters: &Arc<Counters>,
    ) -> Result<Arc<Mutex<Applier<M>>>, StartError> {
        let Config { id, .. } = config.raft;
        let (for_applier, for_fetcher) = (store.reader(), store.reader());

        let (queue, counted) = (Arc::clone(&self.queues.storage), Arc::clone(counters));
        self.spawn_one(format!("raft-{id}-storage"), reporter, move |reporter| {
            storage::run(store, &queue, reporter, &counted)
        })?;

        let applier = Applier::new(ApplierParts {
            machine: machine.machine,
            log: Box::new(for_applier),
            queue: Arc::clone(&self.queues.applier),
            counters: Arc::clone(counters),
            restored: machine.snapshot,
            base_membership: machine.base_membership,
            replay_bytes: config.replay_bytes,
            checkpoint_log_bytes: config.checkpoint_log_bytes,
            stream: ChunkSettings {
                chunk_bytes_max: SnapshotChunk::DATA_BYTES_MAX,
                bytes_per_second: config.snapshot_bytes_per_second,
                window_bytes: config.snapshot_window_bytes,
                stall_timeout: config.snapshot_stall_timeout,
                resend_after: RESEND_AFTER,
            },
            reporter: reporter.clone(),
        });
        let applier = Arc::new(Mutex::new(applier));
        let (queue, shared) = (Arc::clone(&self.queues.applier), Arc::clone(&applier));
        self.spawn_one(format!("raft-{id}-apply"), reporter, move |reporter| {
            apply::run(&shared, &queue, reporter)
        })?;

        let queue = Arc::clone(&self.queues.fetcher);
        self.spawn_one(format!("raft-{id}-fetch"), reporter, move |reporter| {
            fetch::run(&for_fetcher, &queue, reporter)
        })?;

        let queue = Arc::clone(&self.queues.receiver);
        let (scratch, max) = (config.scratch_dir.clone(), config.snapshot_bytes_max);
        self.spawn_one(format!("raft-{id}-receive"), reporter, move |reporter| {
            snapshot_receive::run(&scratch, max, &queue, reporter);
            Ok(())
        })?;
        Ok(applier)
    }

    /// The thread that writes a recording. It ends when the driver does.
    fn spawn_tape(
        &mut self,
        config: &NodeConfig,
        recorder: Recorder,
        file: File,
        reporter: &Reporter,
    ) -> Result<Tape, StartError> {
        let queue = Arc::new(Handover::new());
        // From here on its end closes the queue, also if the thread can not be started.
        let bytes_max = config.recording.as_ref().map_or(0, |recording| recording.bytes_max);
        let tape = Tape::new(recorder, Arc::clone(&queue), bytes_max);
        let name = format!("raft-{}-record", config.raft.id);
        self.spawn_one(name, reporter, move |_| {
            tape::run(file, &queue);
            Ok(())
        })?;
        Ok(tape)
    }

    fn spawn_one(
        &mut self,
        name: String,
        reporter: &Reporter,
        run: impl FnOnce(&Reporter) -> WorkerResult + Send + 'static,
    ) -> Result<(), StartError> {
        let what = format!("start the thread {name}");
        let thread = spawn_worker(name, reporter.clone(), run);
        self.threads.push(thread.map_err(|source| StartError::System { what, source })?);
        Ok(())
    }

    /// Takes no more work. The storage thread finishes the writes that are queued, the apply thread what is committed.
    fn close(&self) {
        self.queues.storage.close();
        self.queues.applier.close();
        self.queues.fetcher.close_and_clear();
        self.queues.receiver.close_and_clear();
    }

    /// Waits for all threads; the first failure, if there was one.
    fn join(mut self) -> WorkerResult {
        self.close();
        let results = self
            .threads
            .drain(..)
            .map(|thread| thread.join().unwrap_or_else(|panic| Err(panic_text(&*panic).into())));
        // All of them are joined, whatever the first one says.
        results.collect::<Vec<_>>().into_iter().collect()
    }
}

impl<M: StateMachine> Drop for Workers<M> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits for the driver's end, tells the world, and joins the threads. `end` is dropped last of all.
async fn supervise<M: StateMachine>(
    running: tokio::task::JoinHandle<WorkerResult>,
    workers: Workers<M>,
    status: Arc<watch::Sender<NodeStatus>>,
    end: watch::Sender<()>,
) {
    let ended = match running.await {
        Ok(result) => result,
        Err(error) => Err(format!("the driver panicked: {}", join_error_text(error)).into()),
    };
    // At once: those whose requests were dropped with the driver ask for it. The threads may take a while.
    publish_end(&status, &ended);
    let joined = tokio::task::spawn_blocking(move || workers.join()).await;
    if let (Ok(()), Ok(joined @ Err(_))) = (&ended, joined) {
        publish_end(&status, &joined);
    }
    drop(end);
}

fn publish_end(status: &watch::Sender<NodeStatus>, ended: &WorkerResult) {
    let health = match ended {
        Ok(()) => {
            tracing::info!("the node has stopped");
            Health::Stopped
        }
        Err(why) => {
            tracing::error!(%why, "the node has failed");
            Health::Failed { why: Arc::clone(why) }
        }
    };
    status.send_modify(|status| status.health = health);
}

fn join_error_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic_text(&*panic).to_owned(),
        Err(error) => error.to_string(),
    }
}
