//! A node seen from outside: what its core says, and whether it is well.

use std::sync::Arc;

use raft_core::Status;

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// What the core says.
    pub raft: Status,
    /// Whether the node serves.
    pub health: Health,
}

/// Whether a node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Ok,
    /// It was shut down in good order.
    Stopped,
    /// It has failed, for good: only a restart of the process can help, after the cause is removed.
    Failed {
        /// What happened.
        why: Arc<str>,
    },
}

impl Health {
    /// Whether the node serves.
    pub fn is_ok(&self) -> bool {
        *self == Health::Ok
    }

    /// Why it does not serve, in words; `None` if it does.
    pub fn why_stopped(&self) -> Option<Arc<str>> {
        match self {
            Health::Ok => None,
            Health::Stopped => Some("it was shut down".into()),
            Health::Failed { why } => Some(Arc::clone(why)),
        }
    }
}
