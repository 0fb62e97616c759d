//! The client: finds the leader, pipelines requests to it, and repeats them until they are answered or their time is up. A write is
//! applied once, however often it had to be sent. Not about what keys and values mean.
//!
//! One task does all the work of a [`Client`]: whatever is asked while it sends goes into its next frame. Many callers that share one
//! client, or many requests of one caller at a time, are therefore what makes it fast.

mod call;
mod dump;
mod error;
mod link;
mod pending;
mod search;
mod session;
mod status;
mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;
use raft_net_quic::pki::Identity;
use raft_net_quic::{ClientEndpoint, ClusterId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::command::WriteOutcome;
use crate::limits::{check_key, check_value};
use crate::query::{KeyRecord, Record, Stats};
use call::{Answered, Call, Op};

pub use call::ExpectKey;
pub use dump::Dump;
pub use error::ClientError;

pub use crate::protocol::{NodeReport, PeerReport};

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The client's certificate and key, and the cluster's CA.
    pub identity: Identity,
    /// The cluster.
    pub cluster: ClusterId,
    /// Where its members are, `host:port`. One suffices; others are learned when they lead.
    pub nodes: BTreeMap<NodeId, String>,
    /// How long a request is repeated before it is given up; default 10 s.
    pub request_timeout: Duration,
    /// How many requests may be under way; further ones wait. Default 4,096.
    pub in_flight_max: usize,
}

impl ClientConfig {
    /// The defaults.
    pub fn new(
        identity: Identity,
        cluster: ClusterId,
        nodes: BTreeMap<NodeId, String>,
    ) -> ClientConfig {
        let request_timeout = Duration::from_secs(10);
        ClientConfig { identity, cluster, nodes, request_timeout, in_flight_max: 4096 }
    }
}

/// What a range yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The records, in the order of their keys.
    pub records: Vec<KeyRecord>,
    /// Whether there are more: ask again from right after the last key.
    pub has_more: bool,
}

/// A client of a cluster. Clones share one connection and one session. Its work ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    calls: mpsc::Sender<Call>,
    closing: Arc<watch::Sender<bool>>,
    request_timeout: Duration,
    endpoint: Arc<ClientEndpoint>,
    known: Arc<Known>,
}

/// Where nodes are and who leads, as far as is known.
#[derive(Debug)]
struct Known {
    nodes: Mutex<(BTreeMap<NodeId, String>, Option<NodeId>)>,
}

impl Known {
    fn nodes(&self) -> BTreeMap<NodeId, String> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn leader(&self) -> Option<NodeId> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).0.get(&node).cloned()
    }

    /// An address that was given at the start stays: it is how *this* machine reaches the node.
    fn learn(&self, node: NodeId, address: String) {
        let mut known = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        known.0.entry(node).or_insert(address);
    }

    fn set_leader(&self, leader: Option<NodeId>) {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).1 = leader;
    }
}

/// When a time is up that begins now; a time without end is up in a year.
fn deadline_in(timeout: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    Instant::now() + timeout.min(LONGEST)
}

impl Client {
    /// Starts a client. Connects when something is asked. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::NoNodes`], and [`ClientError::Network`] if the certificate does not fit or no socket can be opened.
    pub fn new(config: ClientConfig) -> Result<Client, ClientError> {
        if config.nodes.is_empty() {
            return Err(ClientError::NoNodes);
        }
        let endpoint = Arc::new(ClientEndpoint::new(config.identity, config.cluster)?);
        let known = Arc::new(Known { nodes: Mutex::new((config.nodes, None)) });
        let in_flight_max = config.in_flight_max.max(1);
        let (calls, asked) = mpsc::channel(in_flight_max);
        let (closing, is_closed) = watch::channel(false);
        let worker = worker::Worker::new(
            asked,
            is_closed,
            Arc::clone(&endpoint),
            Arc::clone(&known),
            config.request_timeout,
            in_flight_max,
        )?;
        tokio::spawn(worker.run());
        let closing = Arc::new(closing);
        Ok(Client { calls, closing, request_timeout: config.request_timeout, endpoint, known })
    }

    /// The same client, with another time-out for the calls made on what is returned: `client.with_timeout(wait).put(…)`. Costs
    /// next to nothing; connection and session are shared.
    #[must_use]
    pub fn with_timeout(&self, request_timeout: Duration) -> Client {
        Client { request_timeout, ..self.clone() }
    }

    /// Sets a key, and returns the revision since when it has the value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<u64, ClientError> {
        let (key, value) = (key.into(), value.into());
        check_key(&key)?;
        check_value(&value)?;
        match self.call(Op::Put { key, value }).await? {
            Answered::Written(WriteOutcome::Put { revision }) => Ok(revision),
            _ => Err(ClientError::WrongAnswer),
        }
    }

    /// Removes a key, and returns the revision since when it is gone; `None` if there was no such key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Option<u64>, ClientError> {
        let key = key.into();
        check_key(&key)?;
        match self.call(Op::Delete { key }).await? {
            Answered::Written(WriteOutcome::Deleted { revision }) => Ok(Some(revision)),
            Answered::Written(WriteOutcome::NotFound) => Ok(None),
            _ => Err(ClientError::WrongAnswer),
        }
    }

    /// Sets a key, or removes it (`None`), if it is as expected.
    ///
    /// # Errors
    /// [`ClientError`]; a key that is not as expected is an outcome and no error.
    pub async fn compare_and_set(
        &self,
        key: impl Into<Bytes>,
        expect: ExpectKey,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, ClientError> {
        let key = key.into();
        let op = Op::CompareAndSet { key, expect, value };
        op.check()?;
        match self.call(op).await? {
            Answered::Written(outcome) => Ok(outcome),
            _ => Err(ClientError::WrongAnswer),
        }
    }

    /// Reads a key, linearizably; `None` if there is no such key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Record>, ClientError> {
        let key = key.into();
        check_key(&key)?;
        match self.call(Op::Get { key }).await? {
            Answered::Value(record) => Ok(record),
            _ => Err(ClientError::WrongAnswer),
        }
    }

    /// Reads a page of keys from `start` up to, but without, `end` (`None` for no end), linearizably.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn range(
        &self,
        start: impl Into<Bytes>,
        end: Option<Bytes>,
        limit: u32,
        keys_only: bool,
    ) -> Result<Page, ClientError> {
        match self.call(Op::Range { start: start.into(), end, limit, keys_only }).await? {
            Answered::Page(page) => Ok(page),
            _ => Err(ClientError::WrongAnswer),
        }
    }

    /// Numbers about the state, linearizably.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        match self.call(Op::Stats).await? {
            Answered::Stats(stats) => Ok(stats),
            _ => Err(ClientError::WrongAnswer),
        }
    }

    /// Closes the connections, so that nodes need not wait to notice. Requests that are under way, and all that come later, on this
    /// client or a clone of it, fail with [`ClientError::Closed`] at once.
    pub async fn close(&self) {
        let _ = self.closing.send_replace(true);
        self.endpoint.close().await;
    }

    fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }

    async fn call(&self, op: Op) -> Result<Answered, ClientError> {
        let (reply, answer) = oneshot::channel();
        if self.is_closed() {
            return Err(ClientError::Closed);
        }
        let timeout = self.request_timeout;
        let call = Call { op, reply, deadline: deadline_in(timeout), timeout };
        match self.calls.try_send(call) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(call)) => self.queue(call).await?,
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ClientError::Closed),
        }
        answer.await.unwrap_or(Err(ClientError::Closed))
    }

    /// Waits for room.
    async fn queue(&self, call: Call) -> Result<(), ClientError> {
        match tokio::time::timeout(self.request_timeout, self.calls.send(call)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ClientError::Closed),
            Err(_) => Err(ClientError::Timeout {
                after: self.request_timeout,
                maybe_applied: false,
                last_seen: "too many requests were waiting before it".into(),
            }),
        }
    }
}
