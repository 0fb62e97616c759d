//! The driver's task: owns the core, drains every waiting input, then carries out what the core wants done.
//!
//! It decides nothing about the protocol, and it never waits but for input.
//!
//! # Why no queue can grow without bound, and nothing can deadlock
//!
//! The worker threads (storage, apply, fetch, snapshots) wait for the driver: their reports go through one bounded channel, and a full
//! one makes them wait. So the driver must never wait for them, or both could wait for each other. It does not: pushing to a
//! [`Handover`] never waits, the transport's `send` does not block by contract, and waiters are answered through one-shot channels.
//! Reports are taken in every round, whatever else is going on, so every worker gets on.
//!
//! What the driver pushes is bounded all the same:
//! * *storage*: when more waits there than is configured, the driver stops to take requests and messages, which are what makes the
//!   core write, until a report says that a write is done. One round takes a bounded number of inputs, so the excess is bounded. Timers go
//!   on; what they write is a hard state per election timeout.
//! * *apply*: entries by the core (`apply_entries_max`); batches, reads and queries by the permits that each holds from the moment when a handle takes
//!   it until it is answered.
//! * *fetch* and *streams*: one per peer, by the core. *Received frames*: dropped while too many wait; the sender repeats them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft_core::{
    Event, HandleError, Input, Instant, NodeId, PeerFault, ProposalId, Raft, ReadAt, ReadId,
    RequestId, RoleKind, SnapshotMeta, Term,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;

use crate::apply::{Applier, ApplyWork};
use crate::error::{ProposeError, ReadFailed, RequestError};
use crate::feedback::{Feedback, WorkerResult};
use crate::fetch::FetchWork;
use crate::handle::{AdminRequest, AdminWaiter, ProposalWaiter, ReadWaiter, Request};
use crate::handover::Fill;
use crate::metrics::{Counters, count};
use crate::order::{self, Answer, Job, MachineJob, Sending, StoreJob, StreamId};
use crate::queues::Queues;
use crate::snapshot_receive::{ReceiveWork, received_file};
use crate::snapshot_send::{StreamControl, StreamGuard};
use crate::status::{Explanation, Health, NodeStatus};
use crate::tape::Tape;
use crate::watchdog::Watchdog;
use crate::{
    Delivery, PeerMessage, SnapshotChunk, SnapshotFrame, StateMachine, Transport, standing,
};

/// Where the driver's inputs come from.
pub(crate) struct Sources<M: StateMachine> {
    pub(crate) requests: mpsc::Receiver<Request<M>>,
    pub(crate) inbox: mpsc::Receiver<Delivery>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// What the driver needs of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct DriverSettings {
    pub(crate) waiting_writes: Fill,
    pub(crate) received_bytes_max: usize,
    pub(crate) drain_max: usize,
    pub(crate) scratch_dir: PathBuf,
    pub(crate) status_interval: Duration,
}

pub(crate) struct Driver<M: StateMachine, T> {
    pub(crate) raft: Raft,
    /// Records what the core is told, if that is wanted.
    pub(crate) tape: Option<Tape>,
    /// The origin of the core's time.
    pub(crate) origin: tokio::time::Instant,
    pub(crate) transport: T,
    pub(crate) queues: Queues<M>,
    /// What the worker threads report.
    pub(crate) feedback: mpsc::Receiver<Feedback>,
    /// The apply thread's, which the driver borrows while that thread sleeps.
    pub(crate) applier: Arc<Mutex<Applier<M>>>,
    pub(crate) settings: DriverSettings,
    pub(crate) counters: Arc<Counters>,
    pub(crate) requests: Waiting<M>,
    /// The snapshots that are being streamed.
    pub(crate) streams: Sending<StreamGuard>,
    pub(crate) status: StatusPublisher,
    pub(crate) watchdog: Watchdog,
    pub(crate) out: Out<M>,
}

/// Requests that the core has not answered yet.
pub(crate) struct Waiting<M: StateMachine> {
    next_id: u64,
    proposals: HashMap<ProposalId, ProposalWaiter<M>>,
    reads: HashMap<ReadId, Vec<ReadWaiter<M>>>,
    /// The reads that came in this round, for the leader only and for any member: one question to the core is enough for all.
    new_reads: [Vec<ReadWaiter<M>>; 2],
    administrative: HashMap<RequestId, AdminWaiter>,
    /// The transfer that a shutdown waits for.
    farewell: Option<RequestId>,
}

/// What one round hands to the threads, collected so that each queue is locked once.
pub(crate) struct Out<M: StateMachine> {
    storage: Vec<StoreJob>,
    storage_bytes: usize,
    applier: Vec<ApplyWork<M>>,
}

/// Publishes the status, not too often.
pub(crate) struct StatusPublisher {
    pub(crate) sender: Arc<watch::Sender<NodeStatus>>,
    pub(crate) published: tokio::time::Instant,
    /// Something has changed since.
    pub(crate) stale: bool,
    /// Something that must show at once.
    pub(crate) urgent: bool,
}

/// What ended a wait.
enum Woken<M: StateMachine> {
    Stop,
    Feedback(Option<Feedback>),
    Delivery(Option<Delivery>),
    Request(Option<Request<M>>),
    Time,
}

impl<M: StateMachine, T: Transport> Driver<M, T> {
    /// Runs until the node is to stop (`Ok`), or a part of it has failed.
    pub(crate) async fn run(mut self, mut sources: Sources<M>) -> WorkerResult {
        let mut sleep = Box::pin(tokio::time::sleep_until(self.origin));
        let mut inbox_open = true;
        let mut is_leaving = false;
        self.act()?;
        loop {
            self.arm(&mut sleep);
            let takes = !self.is_throttled();
            let woken = tokio::select! {
                biased; // every round drains all of them, so none can starve another
                _ = sources.stop.wait_for(|stop| *stop), if !is_leaving => Woken::Stop,
                feedback = self.feedback.recv() => Woken::Feedback(feedback),
                delivery = sources.inbox.recv(), if takes && inbox_open => Woken::Delivery(delivery),
                request = sources.requests.recv(), if takes && !is_leaving => Woken::Request(request),
                () = &mut sleep => Woken::Time,
            };
            count(&self.counters.drains, 1);
            match woken {
                // The last handle is gone, or somebody asked for it.
                Woken::Stop | Woken::Request(None) => {
                    is_leaving = true;
                    self.say_farewell();
                }
                Woken::Feedback(None) => return Err("all worker threads are gone".into()),
                Woken::Delivery(None) => inbox_open = false,
                Woken::Feedback(Some(feedback)) => self.on_feedback(feedback)?,
                Woken::Delivery(Some(delivery)) => self.on_delivery(delivery),
                Woken::Request(Some(request)) => self.on_request(request),
                Woken::Time => {}
            }
            self.drain(&mut sources, takes)?;
            self.act()?;
            if is_leaving && self.requests.farewell.is_none() {
                return Ok(());
            }
        }
    }

    /// Takes everything that waits, up to a bound.
    fn drain(&mut self, sources: &mut Sources<M>, takes: bool) -> WorkerResult {
        self.take_reports(self.settings.drain_max)?;
        if takes {
            for _ in 0..self.settings.drain_max {
                let Ok(delivery) = sources.inbox.try_recv() else { break };
                self.on_delivery(delivery);
            }
            for _ in 0..self.settings.drain_max {
                let Ok(request) = sources.requests.try_recv() else { break };
                self.on_request(request);
            }
        }
        for at in [ReadAt::Leader, ReadAt::AnyMember] {
            let waiters = std::mem::take(&mut self.requests.new_reads[at as usize]);
            if !waiters.is_empty() {
                let id = ReadId(self.requests.next_id());
                self.requests.reads.insert(id, waiters);
                self.handle(Input::Read { id, at });
            }
        }
        if let Some(health) = self.watchdog.look() {
            self.handle(Input::StorageHealth(health));
        }
        if self.raft.config().lease.is_some() && self.watchdog.was_suspended() {
            self.handle(Input::ClockSuspect);
        }
        // After the messages: what a leader said before its time was up still counts.
        if self.raft.poll_timeout().is_some_and(|at| at <= self.now()) {
            self.handle(Input::Timeout);
        }
        self.take_back();
        Ok(())
    }

    /// Takes reports that wait: this many at most.
    fn take_reports(&mut self, max: usize) -> WorkerResult {
        for _ in 0..max {
            let Ok(feedback) = self.feedback.try_recv() else { break };
            self.on_feedback(feedback)?;
        }
        Ok(())
    }

    pub(crate) fn on_feedback(&mut self, feedback: Feedback) -> WorkerResult {
        match feedback {
            Feedback::Persisted(tickets) => {
                self.watchdog.on_persisted(tickets.len());
                for ticket in tickets {
                    self.handle(Input::Persisted(ticket));
                }
            }
            Feedback::Input(input) => self.handle(input),
            Feedback::Frame { to, frame } => self.send(to, PeerMessage::Snapshot(frame)),
            Feedback::Failed(why) => return Err(why),
        }
        Ok(())
    }

    fn on_delivery(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Message { from, store, message } => {
                count(&self.counters.messages_received, 1);
                match message {
                    PeerMessage::Raft(message) => {
                        self.handle(Input::Message { from, store, message });
                    }
                    PeerMessage::Snapshot(frame) => self.on_frame(from, frame),
                }
            }
            Delivery::Unreachable(peer) => self.handle(Input::Unreachable(peer)),
        }
    }

    /// Routes a frame: answers to the stream that they belong to, everything else to the receiving thread.
    fn on_frame(&mut self, from: NodeId, frame: SnapshotFrame) {
        let id = StreamId { peer: from, term: frame.term, position: frame.position };
        match (&frame.chunk, self.streams.get(id)) {
            (SnapshotChunk::Ack { offset }, Some(stream)) => stream.0.on_ack(*offset),
            (SnapshotChunk::Abort, Some(stream)) => stream.0.on_abort(),
            // An answer to a stream that has ended, or has not begun: the stream will ask again.
            (SnapshotChunk::Ack { .. }, None) => {}
            _ => {
                let bytes = match &frame.chunk {
                    SnapshotChunk::Data { data, .. } => data.len() + FRAME_OVERHEAD_BYTES,
                    _ => FRAME_OVERHEAD_BYTES,
                };
                if self.queues.receiver.fill().bytes < self.settings.received_bytes_max {
                    let _ = self.queues.receiver.push(ReceiveWork::Frame { from, frame }, bytes);
                }
            }
        }
    }

    fn on_request(&mut self, request: Request<M>) {
        match request {
            Request::Propose { commands, waiter } => {
                let id = ProposalId(self.requests.next_id());
                count(&self.counters.batches_proposed, 1);
                count(&self.counters.commands_proposed, commands.len() as u64);
                self.requests.proposals.insert(id, waiter);
                self.handle(Input::Propose { id, commands });
            }
            Request::Explain(waiter) => {
                let last = self.raft.status().last;
                // Who asked may have gone.
                let _ = waiter.reply.send(Explanation {
                    now: self.now(),
                    leadership: self.raft.explain_leadership(),
                    last,
                    commit: self.raft.explain_commit(last),
                });
            }
            Request::Read(waiter, at) => self.requests.new_reads[at as usize].push(waiter),
            Request::Administer(request, waiter) => {
                let id = RequestId(self.requests.next_id());
                self.requests.administrative.insert(id, waiter);
                self.handle(match request {
                    AdminRequest::Change(change) => Input::ChangeMembership { id, change },
                    AdminRequest::Transfer(to) => Input::TransferLeadership { id, to },
                });
            }
        }
    }

    /// A leader that is to stop hands over first, so that nobody has to wait for a timeout.
    fn say_farewell(&mut self) {
        let id = RequestId(self.requests.next_id());
        self.requests.farewell = Some(id);
        self.handle(Input::TransferLeadership { id, to: None });
    }

    fn settle(&mut self, id: RequestId, result: Result<(), RequestError>) {
        if self.requests.farewell == Some(id) {
            self.requests.farewell = None;
        } else if let Some(waiter) = self.requests.administrative.remove(&id) {
            // Who asked may have gone.
            let _ = waiter.reply.send(result);
        }
    }

    pub(crate) fn handle(&mut self, input: Input) {
        count(&self.counters.inputs, 1);
        self.status.stale = true;
        let now = self.now();
        if let Some(tape) = &mut self.tape {
            tape.record(now, &input);
        }
        let Err(error) = self.raft.handle(now, input) else { return };
        count(&self.counters.inputs_refused, 1);
        match error {
            HandleError::Caller(_) => tracing::error!(%error, "a mistake in the driver"),
            HandleError::Peer { fault, .. } if contradicts(&fault) => {
                tracing::error!(%error, "a peer contradicts what the group has agreed on");
                self.status.suspect(&error.to_string());
            }
            HandleError::Peer { .. } => tracing::warn!(%error, "a peer's message was refused"),
        }
    }

    /// Carries out everything that the core wants done, until it wants nothing more.
    pub(crate) fn act(&mut self) -> WorkerResult {
        loop {
            self.collect_actions();
            // The disk first: it takes longest. A queue that is closed drops what it is given: its thread has failed, and has said so.
            if !self.out.storage.is_empty() {
                let bytes = std::mem::take(&mut self.out.storage_bytes);
                let _ = self.queues.storage.push_all(self.out.storage.drain(..), bytes);
            }
            self.out.storage.clear();
            self.transport.flush();
            if !self.apply()? {
                break;
            }
        }
        self.publish_status();
        Ok(())
    }

    /// Takes the core's actions, and puts each into the lane that it belongs to.
    fn collect_actions(&mut self) {
        while let Some(action) = self.raft.poll_action() {
            match Job::from(action) {
                Job::Store(job) => {
                    if let StoreJob::Write(persist) = &job {
                        self.out.storage_bytes += persist.entries.size_bytes();
                        self.watchdog.on_persist();
                    }
                    self.out.storage.push(job);
                }
                Job::Machine(job) => self.on_machine_job(job),
                Job::Send { to, message } => self.send(to, PeerMessage::Raft(message)),
                Job::Fetch { peer, first, last, budget_bytes } => {
                    let work = FetchWork { peer, first, last, budget_bytes };
                    let _ = self.queues.fetcher.push(work, 0);
                }
                Job::Receive { from, term, snapshot } => {
                    let work = ReceiveWork::Begin { from, term, snapshot };
                    let _ = self.queues.receiver.push(work, FRAME_OVERHEAD_BYTES);
                }
                Job::Answer(answer) => self.answer(answer),
                Job::Tell(event) => self.on_event(event),
            }
        }
        if let Some(tape) = &mut self.tape {
            tape.drained();
        }
    }

    /// Gives a job of the machine's lane what it needs: who waits for it, and where its data lies.
    fn on_machine_job(&mut self, job: MachineJob) {
        let work = match job {
            MachineJob::Apply(span) => ApplyWork::Apply(span),
            MachineJob::Install(snapshot) => {
                let file = received_file(&self.settings.scratch_dir, snapshot.position);
                ApplyWork::Install { snapshot, file }
            }
            MachineJob::Stream { to, term, snapshot } => self.stream(to, term, snapshot),
            MachineJob::Expect { id, first, count, term } => {
                let Some(waiter) = self.requests.proposals.remove(&id) else { return };
                ApplyWork::Expect { id, first, count, term, waiter }
            }
            MachineJob::Abandon(id) => match self.requests.proposals.remove(&id) {
                Some(waiter) => {
                    let _ = waiter.reply.send(Err(ProposeError::OutcomeUnknown));
                    return;
                }
                None => ApplyWork::Abandon(id),
            },
            MachineJob::Read { id, index } => {
                let Some(waiters) = self.requests.reads.remove(&id) else { return };
                ApplyWork::Read { index, waiters }
            }
        };
        self.out.applier.push(work);
    }

    /// Hands the applier what it is to do. Little of it is done here, if the apply thread has worked off everything before: waking a
    /// thread, and being woken by it, takes longer. Whether the core was told something.
    fn apply(&mut self) -> Result<bool, Arc<str>> {
        // Who waits for an entry is told to the applier along with that entry: before, a thread would be woken for nothing.
        let has_work =
            self.out.applier.iter().rev().any(|work| !matches!(work, ApplyWork::Expect { .. }));
        if !has_work {
            return Ok(false);
        }
        let applier = Arc::clone(&self.applier);
        let are_small = self.out.applier.iter().map(ApplyWork::is_small);
        // Nobody else pushes what has to be done in order.
        let is_mine = order::may_do_itself(are_small, || self.queues.applier.is_idle());
        let applier = is_mine.then(|| applier.try_lock());
        let Some(Ok(mut applier)) = applier else {
            let _ = self.queues.applier.push_all(self.out.applier.drain(..), 0);
            return Ok(false);
        };
        // The thread sleeps, but what it reported may still wait: the core is told of it first.
        let waiting = self.feedback.len();
        self.take_reports(waiting)?;
        for work in self.out.applier.drain(..) {
            applier.work(work)?;
        }
        if applier.is_checkpoint_due() {
            let _ = self.queues.applier.push(ApplyWork::StartCheckpoint, 0);
        }
        let mut was_told = waiting > 0;
        for input in applier.reports() {
            was_told = true;
            self.handle(input);
        }
        Ok(was_told)
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        count(&self.counters.messages_sent, 1);
        self.transport.send(to, message);
    }

    fn stream(&mut self, to: NodeId, term: Term, snapshot: SnapshotMeta) -> ApplyWork<M> {
        let control = Arc::new(StreamControl::default());
        let id = StreamId { peer: to, term, position: snapshot.position };
        self.streams.begin(id, StreamGuard(Arc::clone(&control)));
        ApplyWork::Stream { to, term, snapshot, control }
    }

    /// Answers who waits for nothing but this.
    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Refused { id, reason } => {
                if let Some(waiter) = self.requests.proposals.remove(&id) {
                    let error = ProposeError::from(reason);
                    if error == ProposeError::Busy {
                        count(&self.counters.busy, 1);
                    }
                    let _ = waiter.reply.send(Err(error));
                }
            }
            Answer::ReadRefused { id, reason } => {
                for waiter in self.requests.reads.remove(&id).into_iter().flatten() {
                    let _ = waiter.reply.send(Err(ReadFailed::from(reason)));
                }
            }
            Answer::Done(id) => self.settle(id, Ok(())),
            Answer::RequestRefused { id, reason } => self.settle(id, Err(reason.into())),
            Answer::RequestAbandoned(id) => self.settle(id, Err(RequestError::OutcomeUnknown)),
        }
    }

    fn on_event(&mut self, event: Event) {
        self.status.urgent = true;
        match event {
            Event::RoleChanged { role, term } => {
                tracing::info!(%role, %term, "role changed");
                if role != RoleKind::Leader {
                    self.streams.let_go();
                }
            }
            Event::LeaderChanged { leader, term } => {
                tracing::info!(leader = leader.map(|leader| leader.0), %term, "leader changed");
            }
            Event::MembershipChanged { at } => {
                tracing::info!(%at, membership = ?self.raft.membership(), "membership changed");
            }
            // The status says so, and why.
            Event::StoreRejected { node, .. } if node == self.raft.config().id => {}
            Event::StoreRejected { node, store } => {
                tracing::warn!(%node, %store, "a member runs on another store than it was admitted with, or on one that went back in time: \
                    it does not count until it was filled and promoted; a witness is removed");
            }
        }
    }

    fn is_throttled(&self) -> bool {
        let (fill, max) = (self.queues.storage.fill(), self.settings.waiting_writes);
        fill.items >= max.items || fill.bytes >= max.bytes
    }

    /// The core's time: microseconds since the start, by tokio's clock, so that tests can stop it.
    fn now(&self) -> Instant {
        let micros = self.origin.elapsed().as_micros();
        Instant(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Sets the alarm to whatever comes first: the core's deadline, or that of a status to publish.
    fn arm(&self, sleep: &mut std::pin::Pin<Box<Sleep>>) {
        let core = self.raft.poll_timeout().map(|at| self.origin + Duration::from_micros(at.0));
        let status =
            self.status.stale.then(|| self.status.published + self.settings.status_interval);
        let watchdog = self.watchdog.deadline();
        let far = tokio::time::Instant::now() + Duration::from_secs(3600);
        let deadline = [core, status, watchdog].into_iter().flatten().min().unwrap_or(far).min(far);
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
    }

    fn publish_status(&mut self) {
        let StatusPublisher { sender, published, stale, urgent } = &mut self.status;
        let is_due = *stale && published.elapsed() >= self.settings.status_interval;
        if !*urgent && !is_due {
            return;
        }
        (*published, *stale, *urgent) = (tokio::time::Instant::now(), false, false);
        let raft = self.raft.status();
        sender.send_if_modified(|status| {
            let changed = status.raft != raft;
            let standing = raft.standing;
            status.raft = raft;
            standing::follow(&mut status.health, standing) || changed
        });
    }
}

/// Whether a fault shows that a member has forgotten what it promised, is there twice, or would end all elections; others
/// are only mistakes of a peer.
fn contradicts(fault: &PeerFault) -> bool {
    matches!(
        fault,
        PeerFault::OwnId
            | PeerFault::SecondLeader { .. }
            | PeerFault::OverwritesCommitted { .. }
            | PeerFault::AcknowledgedTooMuch { .. }
            | PeerFault::ImpossibleTerm { .. }
            | PeerFault::TermTooFar { .. }
    )
}

impl StatusPublisher {
    /// Remembers the first reason to doubt the group, and shows it at once.
    fn suspect(&self, why: &str) {
        self.sender.send_if_modified(|status| {
            let is_new = status.health.is_ok();
            if is_new {
                status.health = Health::Suspect { why: why.into() };
            }
            is_new
        });
    }
}

/// What a frame counts for beside its data.
const FRAME_OVERHEAD_BYTES: usize = 256;

impl<M: StateMachine> Waiting<M> {
    pub(crate) fn new() -> Waiting<M> {
        let (proposals, reads) = (HashMap::new(), HashMap::new());
        Waiting {
            next_id: 0,
            proposals,
            reads,
            new_reads: [Vec::new(), Vec::new()],
            administrative: HashMap::new(),
            farewell: None,
        }
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl<M: StateMachine> Out<M> {
    pub(crate) fn new() -> Out<M> {
        Out { storage: Vec::new(), storage_bytes: 0, applier: Vec::new() }
    }
}
