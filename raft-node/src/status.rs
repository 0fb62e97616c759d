//! A node seen from outside: what its core says, and whether it is well.

use std::fmt;
use std::sync::Arc;

use raft_core::{CommitReason, Index, Instant, LeadershipReason, Status};

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// What the core says.
    pub raft: Status,
    /// Whether the node serves.
    pub health: Health,
}

/// Why a node does what it does, for an operator. As text, it is a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The time on the node's own clock, from its start: what the times in the reasons are to be compared with.
    pub now: Instant,
    /// Why it leads, or does not.
    pub leadership: LeadershipReason,
    /// The last entry of its log.
    pub last: Index,
    /// What that entry waits for.
    pub commit: CommitReason,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explanation { now, leadership, last, commit } = self;
        write!(f, "{leadership}; the last entry, {last}: {commit} (at {now} on its clock)")
    }
}

/// Whether a node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It does.
    Ok,
    /// It takes part, but nothing that it says counts, because of the store that it runs on: its data is blank, or is not what the group
    /// admitted it with ([`StoreStanding`](raft_core::StoreStanding)). The group takes it back by itself once it has a leader.
    Uncounted {
        /// What is wrong with it, and what becomes of that.
        why: Arc<str>,
    },
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
            Health::Ok | Health::Uncounted { .. } | Health::Suspect { .. } => None,
            Health::Stopped => Some("it was shut down".into()),
            Health::Failed { why } => Some(Arc::clone(why)),
        }
    }

    /// Why nothing that it says counts, in words; `None` if it does.
    pub fn why_uncounted(&self) -> Option<Arc<str>> {
        match self {
            Health::Uncounted { why } => Some(Arc::clone(why)),
            _ => None,
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
