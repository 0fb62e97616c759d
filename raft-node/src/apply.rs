//! The applier: owns the state machine, applies what is committed, and answers whoever waits for it. On a thread of its own, or, for
//! small work of a quick machine while that thread sleeps, on the driver's task (see [`ApplyWork::is_small`]).
//!
//! Nothing here decides what is committed; that is the core's. What comes before what is [`MachineOrder`]'s.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use raft_core::{
    Apply, Entry, Index, Input, LogPosition, Membership, NodeId, ProposalId, SnapshotMeta, Term,
};
use tokio::sync::oneshot;

use crate::error::{CheckpointFailed, ProposeError};
use crate::feedback::{Reporter, WorkerResult, with_causes};
use crate::handle::{Permit, ProposalWaiter, ReadWaiter};
use crate::handover::Handover;
use crate::metrics::{Counters, count};
use crate::order::{
    self, Batch, CheckpointEvery, ChunkSettings, MachineOrder, Offered, WaitingBatches,
    WaitingReads,
};
use crate::snapshot_send::{self, StreamControl};
use crate::storage::CloseOnDrop;
use crate::{LogReader, MachineError, StateMachine};

/// What is handed to the apply thread. All of it is bounded by permits of the handle, or by the core.
pub(crate) enum ApplyWork<M: StateMachine> {
    /// A batch is in the log at this place; answer it when it is applied.
    Expect { id: ProposalId, first: Index, count: u64, term: Term, waiter: ProposalWaiter<M> },
    /// Its leader leads no more.
    Abandon(ProposalId),
    /// Committed entries.
    Apply(Apply),
    /// Queries to answer once `index` is applied.
    Read { index: Index, waiters: Vec<ReadWaiter<M>> },
    /// A query to answer now.
    Query(ReadWaiter<M>),
    /// A checkpoint on demand.
    Checkpoint { reply: CheckpointReply, _permit: Permit },
    /// A checkpoint has become due on the driver's task, which starts none.
    StartCheckpoint,
    /// The running checkpoint has ended.
    CheckpointDone { meta: SnapshotMeta, result: Result<(), MachineError> },
    /// Stream the latest snapshot to a peer, if it is this one.
    Stream { to: NodeId, term: Term, snapshot: SnapshotMeta, control: Arc<StreamControl> },
    /// Replace the state by the snapshot in this file.
    Install { snapshot: SnapshotMeta, file: PathBuf },
}

/// Somebody who waits for a checkpoint.
pub(crate) type CheckpointReply = oneshot::Sender<Result<SnapshotMeta, CheckpointFailed>>;

impl<M: StateMachine> ApplyWork<M> {
    /// Whether the driver may do it itself: the machine says that it is quick, and it is [little](order::is_small).
    pub(crate) fn is_small(&self) -> bool {
        match self {
            ApplyWork::Expect { .. } | ApplyWork::Abandon(_) => true,
            ApplyWork::Apply(span) => M::IS_QUICK && order::is_small(span),
            ApplyWork::Read { waiters, .. } => {
                let mut queries = waiters.iter().flat_map(|waiter| &waiter.queries);
                order::are_few(queries.clone().count()) && queries.all(M::is_quick)
            }
            _ => false,
        }
    }
}

/// What the applier starts with.
pub(crate) struct ApplierParts<M: StateMachine> {
    pub(crate) machine: M,
    pub(crate) log: Box<dyn LogReader>,
    pub(crate) queue: Arc<Handover<ApplyWork<M>>>,
    pub(crate) counters: Arc<Counters>,
    /// What the machine's durable state includes.
    pub(crate) restored: Option<SnapshotMeta>,
    /// The configuration as of the log's base, for a machine that starts empty.
    pub(crate) base_membership: Membership,
    pub(crate) replay_bytes: usize,
    pub(crate) checkpoint_log_bytes: u64,
    pub(crate) stream: ChunkSettings,
    /// For the threads that stream to peers.
    pub(crate) reporter: Reporter,
}

/// The apply thread. Runs until the queue is closed and worked off, or the machine fails.
pub(crate) fn run<M: StateMachine>(
    applier: &Mutex<Applier<M>>,
    queue: &Arc<Handover<ApplyWork<M>>>,
    reporter: &Reporter,
) -> WorkerResult {
    let _close = CloseOnDrop(Arc::clone(queue));
    let mut taken = VecDeque::new();
    while queue.take_all(&mut taken) {
        let mut applier = applier.lock().map_err(|_| "the state machine has panicked")?;
        for work in taken.drain(..) {
            applier.work(work)?;
            applier.start_due_checkpoint()?;
            for input in applier.reports() {
                reporter.input(input);
            }
        }
    }
    let mut applier = applier.lock().map_err(|_| "the state machine has panicked")?;
    applier.streams.drain(..).for_each(|stream| drop(stream.join()));
    Ok(())
}

/// The machine, and who waits for it. Whoever has it does not wait for the driver: it collects what the driver is to be told.
pub(crate) struct Applier<M: StateMachine> {
    machine: M,
    log: Box<dyn LogReader>,
    queue: Arc<Handover<ApplyWork<M>>>,
    counters: Arc<Counters>,
    /// What the core is to be told.
    reports: Vec<Input>,
    reporter: Reporter,
    replay_bytes: usize,
    stream: ChunkSettings,
    /// How far the machine is, and what may be done with it next.
    order: MachineOrder<CheckpointReply, PathBuf>,
    batches: WaitingBatches<M::Response, ProposalWaiter<M>>,
    reads: WaitingReads<ReadWaiter<M>>,
    /// The threads that stream to peers.
    streams: Vec<JoinHandle<()>>,
    /// Reused for every slice.
    responses: Vec<M::Response>,
}

impl<M: StateMachine> Applier<M> {
    pub(crate) fn new(parts: ApplierParts<M>) -> Applier<M> {
        let every = CheckpointEvery::Bytes(parts.checkpoint_log_bytes);
        let order = MachineOrder::new(parts.restored, parts.base_membership.into(), every);
        Applier {
            machine: parts.machine,
            log: parts.log,
            queue: parts.queue,
            counters: parts.counters,
            reports: Vec::new(),
            reporter: parts.reporter,
            replay_bytes: parts.replay_bytes,
            stream: parts.stream,
            order,
            batches: WaitingBatches::new(),
            reads: WaitingReads::new(),
            streams: Vec::new(),
            responses: Vec::new(),
        }
    }

    /// What the core is to be told of what was done.
    pub(crate) fn reports(&mut self) -> std::vec::Drain<'_, Input> {
        self.reports.drain(..)
    }

    /// Whether so much was applied that a checkpoint is to be started.
    pub(crate) fn is_checkpoint_due(&self) -> bool {
        self.order.is_checkpoint_due()
    }

    fn start_due_checkpoint(&mut self) -> WorkerResult {
        if self.is_checkpoint_due() { self.start_checkpoint() } else { Ok(()) }
    }

    /// Does one piece of work. An error is final: the state is not to be used any more.
    pub(crate) fn work(&mut self, work: ApplyWork<M>) -> WorkerResult {
        match work {
            ApplyWork::Expect { id, first, count, term, waiter } => {
                let batch = Batch { id, first, count, term, responses: Vec::new(), waiter };
                let applied = self.order.applied().index;
                self.batches.expect(batch, applied, &mut answer_batch);
            }
            ApplyWork::Abandon(id) => {
                if let Some(waiter) = self.batches.abandon(id) {
                    answer_batch::<M>((waiter, None));
                }
            }
            ApplyWork::Apply(span) => self.apply(&span)?,
            ApplyWork::Read { index, waiters } => {
                let applied = self.order.applied().index;
                if let Some(waiters) = self.reads.expect(index, waiters, applied) {
                    self.answer(waiters);
                }
            }
            ApplyWork::Query(waiter) => self.answer(vec![waiter]),
            ApplyWork::Checkpoint { reply, _permit } => self.checkpoint_on_demand(reply),
            // Started once the work is done, as every checkpoint that is due.
            ApplyWork::StartCheckpoint => {}
            ApplyWork::CheckpointDone { meta, result } => self.on_checkpoint_done(meta, result)?,
            ApplyWork::Stream { to, term, snapshot, control } => {
                self.stream(to, term, &snapshot, control);
            }
            ApplyWork::Install { snapshot, file } => {
                self.order.order_install(snapshot, file).map_err(out_of_order)?;
                self.install();
            }
        }
        Ok(())
    }

    /// Applies a span: first what has to be read from the log, then what came with it.
    fn apply(&mut self, span: &Apply) -> WorkerResult {
        self.order.begin(span).map_err(out_of_order)?;
        while let Some((first, last)) = self.order.next_read(span) {
            let read = self.log.read(first, last, self.replay_bytes);
            let entries = read.map_err(|error| {
                Arc::from(format!("committed entries can not be read: {}", with_causes(&error)))
            })?;
            self.order.check_read((first, last), &entries).map_err(out_of_order)?;
            entries.slices().try_for_each(|slice| self.apply_slice(slice))?;
            self.reports.push(Input::Applied(self.order.applied().index));
        }
        if !span.entries.is_empty() {
            span.entries.slices().try_for_each(|slice| self.apply_slice(slice))?;
            self.reports.push(Input::Applied(self.order.applied().index));
        }
        Ok(())
    }

    fn apply_slice(&mut self, entries: &[Entry]) -> WorkerResult {
        let Some(last) = entries.last() else { return Ok(()) };
        self.responses.clear();
        self.machine
            .apply(entries, &mut self.responses)
            .map_err(|error| Arc::from(with_causes(&error)))?;
        let applied = self.order.on_applied(entries);
        if self.responses.len() != applied.commands {
            let (given, commands) = (self.responses.len(), applied.commands);
            return Err(format!(
                "the state machine gave {given} responses to {commands} commands up to entry {}: it must give one for each",
                last.index
            )
            .into());
        }
        count(&self.counters.entries_applied, entries.len() as u64);
        count(&self.counters.bytes_applied, applied.bytes);
        let counters = &self.counters;
        self.batches.resolve(entries, &mut self.responses, &mut |outcome| {
            count(&counters.batches_answered, 1);
            answer_batch(outcome);
        });
        self.answer_reads();
        Ok(())
    }

    /// Answers the reads whose index has come.
    fn answer_reads(&mut self) {
        while let Some(waiters) = self.reads.next_ready(self.order.applied().index) {
            self.answer(waiters);
        }
    }

    fn answer(&self, waiters: Vec<ReadWaiter<M>>) {
        for waiter in waiters {
            // Whoever has given up needs no answer.
            if waiter.reply.is_closed() {
                continue;
            }
            count(&self.counters.queries_answered, waiter.queries.len() as u64);
            let answers = waiter.queries.into_iter().map(|query| self.machine.query(query));
            drop(waiter.reply.send(Ok(answers.collect())));
        }
    }

    fn checkpoint_on_demand(&mut self, reply: CheckpointReply) {
        if self.order.applied() == LogPosition::ORIGIN {
            drop(reply.send(Err(CheckpointFailed::NothingApplied)));
        } else if let Some((reply, latest)) = self.order.demand_checkpoint(reply) {
            drop(reply.send(Ok(latest)));
        }
    }

    fn start_checkpoint(&mut self) -> WorkerResult {
        let meta = self.order.start_checkpoint();
        let queue = Arc::clone(&self.queue);
        let reported = meta.clone();
        // May be called on any thread, even this one: pushing never waits. After the end of this thread nobody is told.
        let done = crate::CheckpointDone::new(move |result| {
            let _ = queue.push(ApplyWork::CheckpointDone { meta: reported, result }, 0);
        });
        let started = self.machine.checkpoint(meta, done);
        started.map_err(|error| Arc::from(with_causes(&error)))
    }

    fn on_checkpoint_done(
        &mut self,
        meta: SnapshotMeta,
        result: Result<(), MachineError>,
    ) -> WorkerResult {
        result.map_err(|error| Arc::from(with_causes(&error)))?;
        count(&self.counters.checkpoints, 1);
        for reply in self.order.on_checkpoint_done(&meta) {
            drop(reply.send(Ok(meta.clone())));
        }
        self.reports.push(Input::SnapshotTaken(meta));
        self.install();
        Ok(())
    }

    /// Opens the latest snapshot and starts to stream it, if it is the one that the core offered.
    fn stream(
        &mut self,
        to: NodeId,
        term: Term,
        wanted: &SnapshotMeta,
        control: Arc<StreamControl>,
    ) {
        self.streams.retain(|stream| !stream.is_finished());
        let source = self.machine.open_snapshot().unwrap_or_else(|error| {
            tracing::warn!(%to, %error, "the snapshot can not be opened");
            None
        });
        match (order::offered(wanted, source.as_ref().map(|source| &source.meta)), source) {
            (Offered::Stream, Some(source)) => {
                let stream = snapshot_send::Stream { to, term, source, control };
                let reporter = self.reporter.clone();
                match snapshot_send::spawn(stream, self.stream.clone(), reporter) {
                    Ok(thread) => return self.streams.push(thread),
                    Err(error) => {
                        tracing::warn!(%to, %error, "no thread to stream a snapshot");
                    }
                }
            }
            (Offered::Superseded(newer), _) => {
                tracing::debug!(%to, position = %newer.position, "a newer snapshot is there");
                self.reports.push(Input::SnapshotTaken(newer));
            }
            _ => tracing::warn!(%to, "the state machine has no snapshot to stream"),
        }
        self.reports.push(Input::SnapshotStreamEnded { to, position: wanted.position });
    }

    /// Replaces the state by a received snapshot, if one is to be installed and nothing is in its way.
    fn install(&mut self) {
        let Some((snapshot, file)) = self.order.take_install() else { return };
        let installed = std::fs::File::open(&file)
            .map_err(|error| {
                let message = format!("the received snapshot {} can not be read", file.display());
                MachineError { message, source: Some(Box::new(error)) }
            })
            .and_then(|data| {
                let mut data = std::io::BufReader::with_capacity(256 << 10, data);
                self.machine.install_snapshot(snapshot.clone(), &mut data)
            });
        // Installed or malformed: it is of no more use.
        drop(std::fs::remove_file(file));
        if let Err(error) = installed {
            let why = with_causes(&error);
            tracing::warn!(position = %snapshot.position, why, "a snapshot was not installed");
            self.reports.push(Input::SnapshotInstallFailed(snapshot));
            return;
        }
        self.order.on_installed(snapshot.clone());
        count(&self.counters.snapshots_installed, 1);
        self.batches.skip_through(snapshot.position.index, &mut answer_batch);
        self.answer_reads();
        self.reports.push(Input::SnapshotInstalled(snapshot));
    }
}

/// The core broke its word, or this node lost its place: nothing can be applied any more.
#[allow(clippy::needless_pass_by_value)] // what `map_err` gives
fn out_of_order(error: order::OutOfOrder) -> Arc<str> {
    error.to_string().into()
}

/// Tells a waiter how its batch ended. Whoever has given up needs no answer.
fn answer_batch<M: StateMachine>(
    (waiter, responses): (ProposalWaiter<M>, Option<Vec<M::Response>>),
) {
    drop(waiter.reply.send(responses.ok_or(ProposeError::OutcomeUnknown)));
}
