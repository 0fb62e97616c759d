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
    /// It does, and it has seen a peer do what no correct member of the group can do: somewhere acknowledged entries may have been lost.
    /// Stays until the process is restarted.
    Suspect {
        /// Who did what.
        why: Arc<str>,
    },
    /// It was shut down in good order.
    Stopped,
    /// It has failed, for good: only a restart of the process can help, after the cause is removed.
    Failed {
        /// What happened.
        why: Arc<str>,
    },
}

impl Health {
    /// Whether the node serves, and nothing speaks against it.
    pub fn is_ok(&self) -> bool {
        *self == Health::Ok
    }

    /// Why it does not serve, in words; `None` if it does.
    pub fn why_stopped(&self) -> Option<Arc<str>> {
        match self {
            Health::Ok | Health::Suspect { .. } => None,
            Health::Stopped => Some("it was shut down".into()),
            Health::Failed { why } => Some(Arc::clone(why)),
        }
    }

    /// Which peer broke the rules, in words; `None` if none was seen to.
    pub fn suspicion(&self) -> Option<Arc<str>> {
        match self {
            Health::Suspect { why } => Some(Arc::clone(why)),
            _ => None,
        }
    }
}
