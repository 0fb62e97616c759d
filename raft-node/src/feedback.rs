//! What the worker threads tell the driver, and how they end.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft_core::{Input, NodeId, Ticket};
use tokio::sync::mpsc;

use crate::SnapshotFrame;

/// One report of a worker thread.
#[derive(Debug)]
pub(crate) enum Feedback {
    /// These writes are durable.
    Persisted(Vec<Ticket>),
    /// A fact for the core.
    Input(Input),
    /// A part of a snapshot stream to send.
    Frame { to: NodeId, frame: SnapshotFrame },
    /// A worker has failed for good, and so has the node.
    Failed(Arc<str>),
}

/// The workers' end of the channel to the driver. See `driver.rs` for why waiting here can not end in a deadlock.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    sender: mpsc::Sender<Feedback>,
}

impl Reporter {
    pub(crate) fn channel(capacity: usize) -> (Reporter, mpsc::Receiver<Feedback>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Reporter { sender }, receiver)
    }

    /// Reports, waiting while the channel is full. `false` once the driver is gone. Never from a task.
    pub(crate) fn report(&self, feedback: Feedback) -> bool {
        self.sender.blocking_send(feedback).is_ok()
    }

    /// Reports a fact for the core.
    pub(crate) fn input(&self, input: Input) -> bool {
        self.report(Feedback::Input(input))
    }
}

/// How a worker thread ended: with an error, the node has failed.
pub(crate) type WorkerResult = Result<(), Arc<str>>;

/// Runs a worker on a thread of its own. An error that it returns, or a panic in it, is reported to the driver and final.
pub(crate) fn spawn_worker(
    name: String,
    reporter: Reporter,
    run: impl FnOnce(&Reporter) -> WorkerResult + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<WorkerResult>> {
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        // What the panicking code may have left half done is dropped, never used again.
        let result = catch_unwind(AssertUnwindSafe(|| run(&reporter))).unwrap_or_else(|panic| {
            Err(format!("{name} panicked: {}", panic_text(&*panic)).into())
        });
        if let Err(why) = &result {
            reporter.report(Feedback::Failed(Arc::clone(why)));
        }
        result
    })
}

/// What a panic said, as far as it can be told.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)")
}

/// An error with all its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
