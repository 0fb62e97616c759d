//! The fetch thread: reads older entries from the log for peers that lag, so that neither core nor disk thread waits for it.

use std::collections::VecDeque;
use std::sync::Arc;

use raft_core::{Index, Input, NodeId};

use crate::feedback::{Reporter, WorkerResult, with_causes};
use crate::handover::Handover;
use crate::storage::CloseOnDrop;
use crate::{LogReader, ReadError};

/// What the driver hands to the fetch thread: at most one per peer is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchWork {
    pub(crate) peer: NodeId,
    pub(crate) first: Index,
    pub(crate) last: Index,
    pub(crate) budget_bytes: usize,
}

/// Runs until the queue is closed, or the store proves damaged.
pub(crate) fn run(
    log: &impl LogReader,
    queue: &Arc<Handover<FetchWork>>,
    reporter: &Reporter,
) -> WorkerResult {
    let _close = CloseOnDrop(Arc::clone(queue));
    let mut taken = VecDeque::new();
    while queue.take_all(&mut taken) {
        for FetchWork { peer, first, last, budget_bytes } in taken.drain(..) {
            match log.read(first, last, budget_bytes) {
                Ok(entries) => reporter.input(Input::Fetched { peer, entries }),
                Err(ReadError::NotThere { .. }) => reporter.input(Input::FetchFailed { peer }),
                Err(ReadError::Storage(error)) => return Err(with_causes(&error).into()),
            };
        }
    }
    Ok(())
}
