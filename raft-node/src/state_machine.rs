//! The application: what the driver asks of it.

use std::io::Read;

use raft_core::{Entry, SnapshotMeta};

/// A deterministic state machine, fed by the log.
///
/// The driver owns it and calls it from one thread of its own (the *apply thread*), so it needs no locks. Two kinds fit:
/// one that applies straight to durable storage, and one that applies to memory and checkpoints in the background.
/// Either way the log is kept until a checkpoint reports that the entries are not needed any more.
///
/// Determinism is the application's duty: the same entries give the same state and responses on every member. No clocks, no randomness.
pub trait StateMachine: Send + 'static {
    /// What a command returns to whoever proposed it.
    type Response: Send + 'static;
    /// A question that changes nothing.
    type Query: Send + 'static;
    /// Its answer.
    type Answer: Send + 'static;

    /// Whether [`apply`](StateMachine::apply) takes microseconds and waits for nothing: no disk, no network, no lock that others hold for
    /// long. The driver then applies small batches itself while the apply thread has nothing to do, which saves a request two
    /// changes of threads. `false` unless the machine says otherwise; a machine that says so wrongly delays heartbeats.
    const IS_QUICK: bool = false;

    /// Whether answering this takes microseconds and waits for nothing, as [`IS_QUICK`](StateMachine::IS_QUICK) says of entries.
    fn is_quick(query: &Self::Query) -> bool {
        let _ = query;
        false
    }

    /// What the durable state includes; `None` if it starts empty. Called once, before anything else. Entries after it are applied again.
    ///
    /// # Errors
    /// If the state can not be read or is damaged.
    fn restore(&mut self) -> Result<Option<SnapshotMeta>, MachineError>;

    /// Applies committed entries, in order, without gaps. Pushes exactly one response per [`Payload::Command`](raft_core::Payload::Command), in order;
    /// other payloads get none. Command bytes were accepted by the leader's application but may come from an older version: a command
    /// that makes no sense must be answered by a response that says so, on every member alike, not by an error.
    ///
    /// # Errors
    /// Only when the machine can not go on (its own disk failed): final for this node.
    fn apply(
        &mut self,
        entries: &[Entry],
        responses: &mut Vec<Self::Response>,
    ) -> Result<(), MachineError>;

    /// Answers a question from the current state. Must be quick: entries wait meanwhile.
    fn query(&self, query: Self::Query) -> Self::Answer;

    /// Starts to make the current state durable, exactly as it is now, under `meta` (the last applied position and the committed
    /// configuration as of there), and returns without waiting for the disk. `done` is told when it is durable, from any thread.
    /// Only one checkpoint runs at a time.
    ///
    /// # Errors
    /// If it can not even be started; final for this node.
    fn checkpoint(&mut self, meta: SnapshotMeta, done: CheckpointDone) -> Result<(), MachineError>;

    /// Opens the latest durable checkpoint for streaming to a peer; `None` if there is none. Later checkpoints must not change what an open source yields.
    ///
    /// # Errors
    /// If it can not be opened.
    fn open_snapshot(&self) -> Result<Option<SnapshotSource>, MachineError>;

    /// Replaces the whole state by a snapshot that a peer's `open_snapshot` produced, durably (checkpointed under `meta`) when it returns.
    /// Never called while a checkpoint runs.
    /// After a crash in the middle, `restore` reports the old state or the new one, whole.
    ///
    /// # Errors
    /// If the data is malformed (the old state must stay) or the disk failed.
    fn install_snapshot(
        &mut self,
        meta: SnapshotMeta,
        data: &mut dyn Read,
    ) -> Result<(), MachineError>;
}

/// A snapshot, opened for reading.
pub struct SnapshotSource {
    /// What it includes.
    pub meta: SnapshotMeta,
    /// Its bytes, from the start. Two sources of the same snapshot yield the same bytes, so that a stream can resume.
    pub data: Box<dyn Read + Send>,
}

/// Tells the driver that a checkpoint is durable, or failed. Consume it exactly once; dropping it counts as a failure.
pub struct CheckpointDone {
    report: Option<Report>,
}

type Report = Box<dyn FnOnce(Result<(), MachineError>) + Send>;

impl CheckpointDone {
    /// Wraps what is to be told.
    pub fn new(report: impl FnOnce(Result<(), MachineError>) + Send + 'static) -> CheckpointDone {
        CheckpointDone { report: Some(Box::new(report)) }
    }

    /// The checkpoint is durable (`Ok`), or can not be (`Err`, final for this node).
    pub fn report(mut self, result: Result<(), MachineError>) {
        if let Some(report) = self.report.take() {
            report(result);
        }
    }
}

impl Drop for CheckpointDone {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(Err(MachineError::new("a checkpoint was dropped before it finished")));
        }
    }
}

/// A failure of the state machine.
#[derive(Debug, thiserror::Error)]
#[error("state machine: {message}")]
pub struct MachineError {
    /// What happened, to what, and what to do about it.
    pub message: String,
    /// The underlying error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl MachineError {
    /// A failure without a cause beneath it.
    pub fn new(message: impl Into<String>) -> MachineError {
        MachineError { message: message.into(), source: None }
    }
}
