//! The handle that applications hold: requests in, answers out. Nothing here decides anything about the protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use raft_core::{MembershipChange, NodeId, ReadAt, SnapshotMeta};
use tokio::sync::{mpsc, oneshot, watch};

use crate::apply::ApplyWork;
use crate::error::{CheckpointFailed, ProposeError, ReadFailed, RequestError, ShutdownError};
use crate::handover::Handover;
use crate::metrics::{Counters, Metrics, count};
use crate::state_machine::StateMachine;
use crate::status::{Explanation, NodeStatus};

/// A running node. Clones share it. When the last one is dropped, the node shuts down by itself, as by
/// [`NodeHandle::shutdown`].
pub struct NodeHandle<M: StateMachine> {
    shared: Arc<Shared<M>>,
}

impl<M: StateMachine> Clone for NodeHandle<M> {
    fn clone(&self) -> Self {
        NodeHandle { shared: Arc::clone(&self.shared) }
    }
}

impl<M: StateMachine> std::fmt::Debug for NodeHandle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// What all clones of a handle share.
pub(crate) struct Shared<M: StateMachine> {
    pub(crate) requests: mpsc::Sender<Request<M>>,
    pub(crate) applier: Arc<Handover<ApplyWork<M>>>,
    pub(crate) status: watch::Receiver<NodeStatus>,
    /// Closed when everything of the node has ended. Apart from the status, which changes all the time.
    pub(crate) ended: watch::Receiver<()>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) proposals: Arc<Budget>,
    pub(crate) queries: Arc<Budget>,
}

/// What a handle asks of the driver.
pub(crate) enum Request<M: StateMachine> {
    Propose { commands: Vec<Bytes>, waiter: ProposalWaiter<M> },
    Read(ReadWaiter<M>, ReadAt),
    Administer(AdminRequest, AdminWaiter),
    Explain(ExplainWaiter),
}

/// What concerns the group itself.
pub(crate) enum AdminRequest {
    Change(MembershipChange),
    Transfer(Option<NodeId>),
}

/// Somebody who waits for an administrative request. Dropped without an answer, it says that the node has stopped.
pub(crate) struct AdminWaiter {
    pub(crate) reply: oneshot::Sender<Result<(), RequestError>>,
    pub(crate) _permit: Permit,
}

/// Somebody who asks why. Dropped without an answer, it says that the node has stopped.
pub(crate) struct ExplainWaiter {
    pub(crate) reply: oneshot::Sender<Explanation>,
    pub(crate) _permit: Permit,
}

/// Somebody who waits for a batch. Dropped without an answer, it says that the node has stopped.
pub(crate) struct ProposalWaiter<M: StateMachine> {
    pub(crate) reply: oneshot::Sender<Result<Vec<M::Response>, ProposeError>>,
    pub(crate) _permit: Permit,
}

/// Somebody who waits for answers to queries. Dropped without an answer, it says that the node has stopped.
pub(crate) struct ReadWaiter<M: StateMachine> {
    pub(crate) queries: Vec<M::Query>,
    pub(crate) reply: oneshot::Sender<Result<Vec<M::Answer>, ReadFailed>>,
    pub(crate) _permit: Permit,
}

impl<M: StateMachine> NodeHandle<M> {
    pub(crate) fn new(shared: Shared<M>) -> NodeHandle<M> {
        NodeHandle { shared: Arc::new(shared) }
    }

    /// Replicates a command and returns the state machine's response once it is committed and applied here.
    ///
    /// Dropping the future does not take the proposal back.
    ///
    /// # Errors
    /// [`ProposeError`]; only [`ProposeError::OutcomeUnknown`] and [`ProposeError::Stopped`] leave open whether the command took effect.
    pub async fn propose(&self, command: Bytes) -> Result<M::Response, ProposeError> {
        let mut responses = self.propose_batch(vec![command]).await?;
        // The apply thread answers a batch only with one response per command.
        responses.pop().ok_or(ProposeError::OutcomeUnknown)
    }

    /// Replicates commands as one batch: they are appended one right after the other, or not at all. One response per
    /// command, in order. Cheaper than one by one: all costs of the driver are per batch.
    ///
    /// # Errors
    /// As [`NodeHandle::propose`], for the batch as a whole.
    pub async fn propose_batch(
        &self,
        commands: Vec<Bytes>,
    ) -> Result<Vec<M::Response>, ProposeError> {
        let bytes = commands.iter().map(|command| command.len() + 64).sum();
        let Some(permit) = Budget::acquire(&self.shared.proposals, 1, bytes) else {
            return Err(self.count_busy(ProposeError::Busy));
        };
        let (reply, answer) = oneshot::channel();
        let waiter = ProposalWaiter { reply, _permit: permit };
        match self.ask(Request::Propose { commands, waiter }, answer).await {
            Ok(result) => result,
            Err(Unanswered::Busy) => Err(ProposeError::Busy),
            Err(Unanswered::Stopped { why }) => Err(ProposeError::Stopped { why }),
        }
    }

    /// Answers a query linearizably: from a state that includes everything that was acknowledged before this call
    /// (`ReadIndex`, dissertation §6.4). Only at the leader.
    ///
    /// # Errors
    /// [`ReadFailed`]; a read changes nothing, so it can always be repeated.
    pub async fn read(&self, query: M::Query) -> Result<M::Answer, ReadFailed> {
        let mut answers = self.read_batch(vec![query]).await?;
        answers.pop().ok_or(ReadFailed::Busy)
    }

    /// Answers several queries linearizably, all from one state. One answer per query, in order.
    ///
    /// # Errors
    /// As [`NodeHandle::read`].
    pub async fn read_batch(&self, queries: Vec<M::Query>) -> Result<Vec<M::Answer>, ReadFailed> {
        self.read_batch_at(queries, ReadAt::Leader).await
    }

    /// As [`NodeHandle::read_batch`], at any member that has a state machine: one that does not lead asks the leader only for an index, and
    /// answers from its own state. Just as linearizable, and the leader has less to do.
    ///
    /// # Errors
    /// As [`NodeHandle::read`].
    pub async fn read_batch_here(
        &self,
        queries: Vec<M::Query>,
    ) -> Result<Vec<M::Answer>, ReadFailed> {
        self.read_batch_at(queries, ReadAt::AnyMember).await
    }

    async fn read_batch_at(
        &self,
        queries: Vec<M::Query>,
        at: ReadAt,
    ) -> Result<Vec<M::Answer>, ReadFailed> {
        let (waiter, answer) = self.read_waiter(queries)?;
        match self.ask(Request::Read(waiter, at), answer).await {
            Ok(result) => result,
            Err(Unanswered::Busy) => Err(ReadFailed::Busy),
            Err(Unanswered::Stopped { why }) => Err(ReadFailed::Stopped { why }),
        }
    }

    /// Answers a query from whatever this node has applied, which may be stale. At any member, without the network.
    ///
    /// # Errors
    /// [`ReadFailed::Busy`] and [`ReadFailed::Stopped`].
    pub async fn query_local(&self, query: M::Query) -> Result<M::Answer, ReadFailed> {
        let (waiter, answer) = self.read_waiter(vec![query])?;
        // A push that comes too late drops the waiter, which is the answer.
        let _ = self.shared.applier.push(ApplyWork::Query(waiter), 0);
        match answer.await {
            Ok(result) => result?.pop().ok_or(ReadFailed::Busy),
            Err(_) => Err(ReadFailed::Stopped { why: self.why_stopped().await }),
        }
    }

    /// Changes who belongs to the group, and waits until that is committed to its end, a joint configuration left (dissertation §4). Only at the
    /// leader; one change at a time.
    ///
    /// The transport must be able to reach new members before they are added.
    ///
    /// # Errors
    /// [`RequestError`]; after [`RequestError::OutcomeUnknown`] the status shows which configuration is in effect.
    pub async fn change_membership(
        &self,
        change: impl Into<MembershipChange>,
    ) -> Result<(), RequestError> {
        self.administer(AdminRequest::Change(change.into())).await
    }

    /// Hands leadership to another member, or to whom the leader thinks best, and waits until that one leads (dissertation §3.10). Only at the
    /// leader. Proposals are refused meanwhile, for an election timeout at most.
    ///
    /// # Errors
    /// [`RequestError`]; if it was refused, this node leads on.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), RequestError> {
        self.administer(AdminRequest::Transfer(to)).await
    }

    /// Why this node leads or does not, and what the last entry of its log waits for. Changes nothing; answered from the node's own knowledge.
    ///
    /// # Errors
    /// [`RequestError::Busy`] and [`RequestError::Stopped`].
    pub async fn explain(&self) -> Result<Explanation, RequestError> {
        let Some(permit) = Budget::acquire(&self.shared.queries, 1, 0) else {
            return Err(self.count_busy(RequestError::Busy));
        };
        let (reply, answer) = oneshot::channel();
        let waiter = ExplainWaiter { reply, _permit: permit };
        Ok(self.ask(Request::Explain(waiter), answer).await?)
    }

    async fn administer(&self, request: AdminRequest) -> Result<(), RequestError> {
        let Some(permit) = Budget::acquire(&self.shared.proposals, 1, 0) else {
            return Err(self.count_busy(RequestError::Busy));
        };
        let (reply, answer) = oneshot::channel();
        let waiter = AdminWaiter { reply, _permit: permit };
        self.ask(Request::Administer(request, waiter), answer).await?
    }

    /// Makes everything applied so far durable in the state machine, now, and waits for it. For backups and dumps; the
    /// node makes checkpoints by itself as the log grows.
    ///
    /// # Errors
    /// [`CheckpointFailed`].
    pub async fn checkpoint(&self) -> Result<SnapshotMeta, CheckpointFailed> {
        let Some(permit) = Budget::acquire(&self.shared.queries, 1, 0) else {
            return Err(self.count_busy(CheckpointFailed::Busy));
        };
        let (reply, answer) = oneshot::channel();
        let _ = self.shared.applier.push(ApplyWork::Checkpoint { reply, _permit: permit }, 0);
        match answer.await {
            Ok(result) => result,
            Err(_) => Err(CheckpointFailed::Stopped { why: self.why_stopped().await }),
        }
    }

    /// The node as of a few milliseconds ago at most; a change of role or health shows at once. Cheap.
    pub fn status(&self) -> NodeStatus {
        self.shared.status.borrow().clone()
    }

    /// Follows the status.
    pub fn watch_status(&self) -> watch::Receiver<NodeStatus> {
        self.shared.status.clone()
    }

    /// What the node has done since it started.
    pub fn metrics(&self) -> Metrics {
        self.shared.counters.snapshot()
    }

    /// Stops the node in good order: hands leadership over if it leads and somebody can take it (which takes an election timeout at most),
    /// takes no more requests, finishes the writes that are queued, joins all threads and closes the stores. Whoever still waits is told that the node has stopped. May be called again, and from any clone.
    ///
    /// # Errors
    /// If the node had failed before, or fails now.
    pub async fn shutdown(&self) -> Result<(), ShutdownError> {
        // The receiver is gone only if the node has stopped already.
        let _ = self.shared.stop.send(true);
        self.stopped().await;
        match self.shared.status.borrow().health.clone() {
            crate::Health::Failed { why } => Err(ShutdownError { why }),
            _ => Ok(()),
        }
    }

    /// Resolves when the node has stopped for whatever reason and all its threads have ended.
    pub async fn stopped(&self) {
        let mut ended = self.shared.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Puts a request to the driver, and waits for what it answers.
    async fn ask<T>(
        &self,
        request: Request<M>,
        answer: oneshot::Receiver<T>,
    ) -> Result<T, Unanswered> {
        match self.shared.requests.try_send(request) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(self.count_busy(Unanswered::Busy));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(Unanswered::Stopped { why: self.why_stopped().await });
            }
        }
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(Unanswered::Stopped { why: self.why_stopped().await }),
        }
    }

    fn read_waiter(&self, queries: Vec<M::Query>) -> Result<PendingRead<M>, ReadFailed> {
        let Some(permit) = Budget::acquire(&self.shared.queries, queries.len().max(1), 0) else {
            return Err(self.count_busy(ReadFailed::Busy));
        };
        let (reply, answer) = oneshot::channel();
        Ok((ReadWaiter { queries, reply, _permit: permit }, answer))
    }

    fn count_busy<E>(&self, error: E) -> E {
        count(&self.shared.counters.busy, 1);
        error
    }

    /// Waits until the reason is published: a waiter may be dropped a moment before.
    async fn why_stopped(&self) -> Arc<str> {
        let mut status = self.shared.status.clone();
        let published = status.wait_for(|status| status.health.why_stopped().is_some()).await;
        let why = published.ok().and_then(|status| status.health.why_stopped());
        why.unwrap_or_else(|| "its task was cancelled with its runtime".into())
    }
}

/// Why the driver gave no answer of its own.
enum Unanswered {
    Busy,
    Stopped { why: Arc<str> },
}

impl From<Unanswered> for RequestError {
    fn from(unanswered: Unanswered) -> RequestError {
        match unanswered {
            Unanswered::Busy => RequestError::Busy,
            Unanswered::Stopped { why } => RequestError::Stopped { why },
        }
    }
}

type PendingRead<M> =
    (ReadWaiter<M>, oneshot::Receiver<Result<Vec<<M as StateMachine>::Answer>, ReadFailed>>);

/// How much may wait for an answer, all queues together: what makes every queue between the parts of a node bounded.
#[derive(Debug)]
pub(crate) struct Budget {
    units_max: usize,
    bytes_max: usize,
    units: AtomicUsize,
    bytes: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(units_max: usize, bytes_max: usize) -> Arc<Budget> {
        let (units, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Budget { units_max, bytes_max, units, bytes })
    }

    /// Takes from the budget; `None` if that would exceed it. A request larger than all of it passes when nothing else waits, so that its
    /// real fault can be named further on.
    fn acquire(budget: &Arc<Budget>, units: usize, bytes: usize) -> Option<Permit> {
        let units_before = budget.units.fetch_add(units, Ordering::Relaxed);
        let bytes_before = budget.bytes.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { budget: Arc::clone(budget), units, bytes };
        let fits = |before: usize, taken: usize, max: usize| {
            before == 0 || before.saturating_add(taken) <= max
        };
        (fits(units_before, units, budget.units_max) && fits(bytes_before, bytes, budget.bytes_max))
            .then_some(permit)
    }
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    units: usize,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.units.fetch_sub(self.units, Ordering::Relaxed);
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_refuses_what_exceeds_it_and_takes_back_what_is_dropped() {
        let budget = Budget::new(2, 100);
        let first = Budget::acquire(&budget, 1, 60).expect("fits");
        assert!(Budget::acquire(&budget, 1, 60).is_none(), "too many bytes");
        let second = Budget::acquire(&budget, 1, 40).expect("fits exactly");
        assert!(Budget::acquire(&budget, 1, 0).is_none(), "too many units");
        drop((first, second));
        assert!(Budget::acquire(&budget, 1, 500).is_some(), "alone, anything passes");
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
    }
}
