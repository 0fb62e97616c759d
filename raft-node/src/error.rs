//! Everything that can go wrong at the handle, by name. Failures of the three traits are defined with them.

use std::sync::Arc;

use raft_core::{NodeId, Refusal, RestoreError};

use crate::{MachineError, StorageError, TransportError};

/// Why a proposal was not answered by the state machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead. Nothing was changed; propose it there.
    #[error("not the leader{}", hint(*.leader))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// A queue or the quota of uncommitted bytes is full. Nothing was changed; try again a little later.
    #[error("too much is waiting already: try again a little later")]
    Busy,
    /// The batch can never be accepted as it is. Nothing was changed.
    #[error("the proposal was refused: {0}")]
    Refused(Refusal),
    /// Leadership was lost after the batch was appended: it may or may not be applied, in whole. Propose it again only if that does
    /// no harm.
    #[error(
        "leadership was lost while the proposal was under way: it may or may not have been applied; repeat it only if that does no harm"
    )]
    OutcomeUnknown,
    /// The node has stopped. If the batch was under way, it may or may not be applied.
    #[error("the node has stopped: {why}")]
    Stopped {
        /// Why it stopped.
        why: Arc<str>,
    },
}

/// Why a membership change or a transfer of leadership was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// This node does not lead. Nothing was changed; ask there.
    #[error("not the leader{}", hint(*.leader))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Too much is waiting. Nothing was changed; try again a little later.
    #[error("too much is waiting already: try again a little later")]
    Busy,
    /// The leader refused. Nothing was changed, or leadership came back.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Leadership was lost before the request was settled: the status shows what came of it.
    #[error(
        "leadership was lost while the request was under way: look at the status to see what came of it"
    )]
    OutcomeUnknown,
    /// The node has stopped.
    #[error("the node has stopped: {why}")]
    Stopped {
        /// Why it stopped.
        why: Arc<str>,
    },
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> RequestError {
        match refusal {
            Refusal::NotLeader { leader } => RequestError::NotLeader { leader },
            other => RequestError::Refused(other),
        }
    }
}

/// Why a query was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadFailed {
    /// This node does not lead, or no longer: ask there.
    #[error("not the leader{}", hint(*.leader))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Too many queries are waiting; try again a little later.
    #[error("too much is waiting already: try again a little later")]
    Busy,
    /// The node has stopped.
    #[error("the node has stopped: {why}")]
    Stopped {
        /// Why it stopped.
        why: Arc<str>,
    },
}

/// Why no checkpoint could be made on demand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFailed {
    /// Nothing has been applied yet, so there is nothing to save.
    #[error("nothing has been applied yet: wait until the node has heard from a leader")]
    NothingApplied,
    /// Too much is waiting; try again a little later.
    #[error("too much is waiting already: try again a little later")]
    Busy,
    /// The node has stopped.
    #[error("the node has stopped: {why}")]
    Stopped {
        /// Why it stopped.
        why: Arc<str>,
    },
}

/// Why a node did not start. Nothing is running afterwards.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting can not work.
    #[error("the configuration can not work: {0}")]
    Config(String),
    /// The log store could not be read or founded.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state machine could not be restored.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// What the log store and the state machine hold does not fit together, or the protocol's settings can not work.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The network could not start.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The folder for incoming snapshots, or a thread, could not be made.
    #[error("could not {what}: {source}")]
    System {
        /// What was attempted.
        what: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The application's code panicked while it was being restored.
    #[error("the log store or the state machine panicked while it was being restored: {0}")]
    Panicked(String),
}

/// The node had failed before, or while, it was shut down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node did not stop in good order: {why}")]
pub struct ShutdownError {
    /// Why it failed.
    pub why: Arc<str>,
}

fn hint(leader: Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!(": try node {leader}"),
        None => ", and none is known at the moment".into(),
    }
}

impl From<Refusal> for ProposeError {
    fn from(refusal: Refusal) -> ProposeError {
        match refusal {
            Refusal::NotLeader { leader } => ProposeError::NotLeader { leader },
            Refusal::TransferInProgress { to } => ProposeError::NotLeader { leader: Some(to) },
            Refusal::QuotaExceeded { .. } => ProposeError::Busy,
            other => ProposeError::Refused(other),
        }
    }
}

impl From<Refusal> for ReadFailed {
    fn from(refusal: Refusal) -> ReadFailed {
        match refusal {
            Refusal::NotLeader { leader } | Refusal::WitnessHasNoState { leader } => {
                ReadFailed::NotLeader { leader }
            }
            // The others concern proposals; should a read ever meet one, waiting is the remedy.
            _ => ReadFailed::Busy,
        }
    }
}
