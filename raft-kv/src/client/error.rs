//! What a client's caller has to deal with.

use std::time::Duration;

use raft_net_quic::NetError;

use crate::limits::LimitExceeded;

/// Why a request was not answered. What can be mended by trying again was tried until the time was up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration names no node.
    #[error("no node is known: configure the address of at least one")]
    NoNodes,
    /// The time is up.
    #[error(
        "no answer within {after:?}{}; last seen: {last_seen}",
        if *.maybe_applied { ", and the write may have been applied: read the key to find out" } else { "" }
    )]
    Timeout {
        /// How long it was tried.
        after: Duration,
        /// Of a write: whether it was ever sent, so that it may have been applied, or still may be.
        maybe_applied: bool,
        /// What happened last.
        last_seen: String,
    },
    /// The cluster has forgotten the session while a write was being repeated: it may have been applied at an earlier try.
    #[error(
        "the cluster has forgotten this client's session, so whether the write was applied can not be told: read the key to find out"
    )]
    OutcomeUnknown,
    /// A key or a value breaks a limit. Nothing was changed.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The cluster will never accept the request. Nothing was changed.
    #[error("the request was refused: {why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// A node could not do what it was asked.
    #[error("the node failed: {why}")]
    NodeFailed {
        /// What happened.
        why: String,
    },
    /// Every node that is known refused this client's certificate, or showed one that is not to be trusted. Nothing was changed; trying
    /// again is of no use before somebody corrects the configuration.
    #[error("no node and this client accept each other; node {node}: {why}")]
    Credentials {
        /// The last node that was tried.
        node: raft_core::NodeId,
        /// What is wrong with whose credentials.
        why: String,
    },
    /// The network can not be used, or a node can not be reached.
    #[error(transparent)]
    Network(#[from] NetError),
    /// The answer belongs to another question.
    #[error(
        "the answer does not fit the question: the client's and the node's versions may differ too much"
    )]
    WrongAnswer,
    /// The node is not among those configured.
    #[error("node {node} is not known: configure its address")]
    UnknownNode {
        /// The node.
        node: raft_core::NodeId,
    },
    /// The system gave no random numbers.
    #[error("the system's randomness failed: {0}")]
    Randomness(String),
    /// The client was closed, or its task has ended with its runtime. A write that was under way may have been applied.
    #[error("the client is closed: make a new one within a running runtime")]
    Closed,
}

/// Why a node could not be asked, or did not answer.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) why: String,
    /// No try will succeed before somebody has corrected a certificate or an address.
    pub(super) is_credentials: bool,
}

impl From<&NetError> for Trouble {
    fn from(error: &NetError) -> Trouble {
        Trouble { why: error.to_string(), is_credentials: error.is_credentials() }
    }
}

impl From<NetError> for Trouble {
    fn from(error: NetError) -> Trouble {
        Trouble::from(&error)
    }
}

impl From<&ClientError> for Trouble {
    fn from(error: &ClientError) -> Trouble {
        match error {
            ClientError::Network(error) => error.into(),
            other => other.to_string().into(),
        }
    }
}

impl From<String> for Trouble {
    fn from(why: String) -> Trouble {
        Trouble { why, is_credentials: false }
    }
}

impl From<&str> for Trouble {
    fn from(why: &str) -> Trouble {
        why.to_owned().into()
    }
}
