//! The work of one frame: one proposal for its commands, one ReadIndex round for its reads, the rest by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;
use raft_node::{ProposeError, ReadFailed};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::stream::Done;
use super::{Shared, dump};
use crate::command::Command;
use crate::limits::check_key;
use crate::protocol::{Fault, NodeReport, PeerReport, Reply, ReplyBody, Request, RequestBody};
use crate::query::{Answer, Query};

/// How many ranges are answered at a time: a page holds many records, and all of them wait in memory until they are written.
const RANGES_AT_ONCE: usize = 16;
/// How long a status waits for the driver to explain itself: less than a client waits for the status.
const EXPLAIN_TIMEOUT: Duration = Duration::from_millis(250);

/// What goes on by itself.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A frame's requests, by what they need.
#[derive(Default)]
pub(super) struct Parts {
    /// Proposals; more than one only if the frame is large.
    commands: Vec<(Vec<u64>, Vec<Bytes>)>,
    reads: Vec<(u64, Query)>,
    ranges: Vec<(u64, Query)>,
    statuses: Vec<u64>,
    dumps: Vec<(u64, Bytes)>,
    refused: Vec<Reply>,
}

impl Parts {
    /// Sorts requests, and refuses what will never do.
    pub(super) fn of(requests: Vec<Request>, shared: &Shared) -> Parts {
        let mut parts = Parts::default();
        let mut proposed_bytes = usize::MAX;
        for Request { id, body } in requests {
            match body.map_err(|error| Fault::Malformed { why: error.to_string() }) {
                Ok(RequestBody::Command(command)) => match check_command(&command) {
                    Ok(()) => {
                        let bytes = command.len() + 64;
                        proposed_bytes = proposed_bytes.saturating_add(bytes);
                        if proposed_bytes > shared.options.proposal_bytes_max {
                            parts.commands.push(Default::default());
                            proposed_bytes = bytes;
                        }
                        if let Some((ids, commands)) = parts.commands.last_mut() {
                            ids.push(id);
                            commands.push(command);
                        }
                    }
                    Err(fault) => parts.refuse(id, fault),
                },
                Ok(RequestBody::Get { key }) => match check_key(&key) {
                    Ok(()) => parts.reads.push((id, Query::Get { key })),
                    Err(limit) => parts.refuse(id, Fault::Refused { why: limit.to_string() }),
                },
                Ok(RequestBody::Range { start, end, limit, keys_only }) => {
                    parts.ranges.push((id, Query::Range { start, end, limit, keys_only }));
                }
                Ok(RequestBody::Stats) => parts.reads.push((id, Query::Stats)),
                Ok(RequestBody::Status) => parts.statuses.push(id),
                Ok(RequestBody::Dump { start }) => parts.dumps.push((id, start)),
                Err(fault) => parts.refuse(id, fault),
            }
        }
        parts
    }

    fn refuse(&mut self, id: u64, fault: Fault) {
        self.refused.push(Reply { id, body: ReplyBody::Failed(fault) });
    }

    /// The work, to be polled in this order.
    pub(super) fn into_work(
        self,
        shared: &Arc<Shared>,
        done: &mpsc::Sender<Done>,
        room: &Arc<OwnedSemaphorePermit>,
    ) -> Vec<Work> {
        let Parts { commands, reads, mut ranges, statuses, dumps, refused } = self;
        let out = Out { done: done.clone(), room: Arc::clone(room) };
        let mut work: Vec<Work> = Vec::new();
        if !commands.is_empty() {
            work.push(Box::pin(propose(Arc::clone(shared), commands, out.clone())));
        }
        if !reads.is_empty() {
            let shared = Arc::clone(shared);
            work.push(Box::pin(read(shared, vec![reads], out.clone())));
        }
        if !ranges.is_empty() {
            let mut batches = Vec::new();
            while !ranges.is_empty() {
                let rest = ranges.split_off(ranges.len().min(RANGES_AT_ONCE));
                batches.push(std::mem::replace(&mut ranges, rest));
            }
            work.push(Box::pin(read(Arc::clone(shared), batches, out.clone())));
        }
        if !statuses.is_empty() {
            work.push(Box::pin(tell_status(Arc::clone(shared), statuses, out.clone())));
        }
        for (id, start) in dumps {
            work.push(Box::pin(dump::run(Arc::clone(shared), id, start, out.clone())));
        }
        if !refused.is_empty() {
            work.push(Box::pin(async move { out.send(refused).await }));
        }
        work
    }
}

fn check_command(bytes: &Bytes) -> Result<(), Fault> {
    match Command::decode(bytes) {
        Ok(Command::OpenSession { .. }) => Ok(()),
        Ok(Command::Write { write, .. }) => {
            write.check().map_err(|limit| Fault::Refused { why: limit.to_string() })
        }
        Err(error) => Err(Fault::Malformed { why: error.to_string() }),
    }
}

/// Where replies go.
#[derive(Clone)]
pub(super) struct Out {
    done: mpsc::Sender<Done>,
    room: Arc<OwnedSemaphorePermit>,
}

impl Out {
    /// Whoever is not there any more gets no reply.
    pub(super) async fn send(&self, replies: Vec<Reply>) {
        let _ = self.done.send(Done { replies, _room: Arc::clone(&self.room) }).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.done.is_closed()
    }

    async fn fail(&self, ids: impl Iterator<Item = u64>, fault: &Fault) {
        self.send(ids.map(|id| Reply { id, body: ReplyBody::Failed(fault.clone()) }).collect())
            .await;
    }
}

async fn propose(shared: Arc<Shared>, batches: Vec<(Vec<u64>, Vec<Bytes>)>, out: Out) {
    for (ids, commands) in batches {
        match shared.node.propose_batch(commands).await {
            Ok(responses) => {
                let bodies = responses.into_iter().map(ReplyBody::Response);
                out.send(
                    ids.into_iter().zip(bodies).map(|(id, body)| Reply { id, body }).collect(),
                )
                .await;
            }
            Err(error) => out.fail(ids.into_iter(), &shared.propose_fault(error)).await,
        }
    }
}

async fn read(shared: Arc<Shared>, batches: Vec<Vec<(u64, Query)>>, out: Out) {
    for batch in batches {
        let (ids, queries): (Vec<u64>, Vec<Query>) = batch.into_iter().unzip();
        match shared.node.read_batch(queries).await {
            Ok(answers) => {
                let bodies = answers.into_iter().map(answered);
                out.send(
                    ids.into_iter().zip(bodies).map(|(id, body)| Reply { id, body }).collect(),
                )
                .await;
            }
            Err(error) => out.fail(ids.into_iter(), &shared.read_fault(error)).await,
        }
    }
}

fn answered(answer: Answer) -> ReplyBody {
    match answer {
        Answer::Value(record) => ReplyBody::Value(record),
        Answer::Page { records, has_more } => ReplyBody::Page { records, has_more },
        Answer::Stats(stats) => ReplyBody::Stats(stats),
        // Never asked for here.
        Answer::Checkpoint(_) => {
            ReplyBody::Failed(Fault::Failed { why: "an answer to another question".into() })
        }
    }
}

async fn tell_status(shared: Arc<Shared>, ids: Vec<u64>, out: Out) {
    let report = Box::new(shared.report().await);
    let replies =
        ids.into_iter().map(|id| Reply { id, body: ReplyBody::Status(report.clone()) }).collect();
    out.send(replies).await;
}

impl Shared {
    /// How this node is, without asking any other.
    async fn report(&self) -> NodeReport {
        let stats = match self.node.query_local(Query::Stats).await {
            Ok(Answer::Stats(stats)) => Some(stats),
            _ => None,
        };
        // A node that waits for its disk takes no questions; the rest of the report is told all the same.
        let explained = tokio::time::timeout(EXPLAIN_TIMEOUT, self.node.explain()).await;
        let explained = explained.ok().and_then(Result::ok);
        let status = self.node.status();
        let raft = status.raft;
        let store = raft.store.map(|store| format!("; on store {store}")).unwrap_or_default();
        let explanation = explained.map(|why| format!("{why}{store}"));
        let address = self.options.addresses.get(&raft.id).unwrap_or(&self.listening).clone();
        let peers = raft.peers.iter();
        NodeReport {
            node: raft.id,
            role: raft.role,
            term: raft.term,
            leader: raft.leader,
            commit: raft.commit,
            applied: raft.applied,
            last: raft.last,
            durable: raft.durable,
            address,
            failure: status.health.why_stopped().map(|why| why.to_string()),
            suspicion: status.health.suspicion().map(|why| why.to_string()),
            uncounted: status.health.why_uncounted().map(|why| why.to_string()),
            explanation,
            stats,
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            version: self.options.version.clone(),
            peers: peers.map(|peer| PeerReport { node: peer.id, matched: peer.matched }).collect(),
        }
    }

    fn not_leader(&self, leader: Option<NodeId>) -> Fault {
        let address = |leader| self.options.addresses.get(&leader).cloned();
        Fault::NotLeader { leader: leader.map(|leader| (leader, address(leader))) }
    }

    pub(super) fn propose_fault(&self, error: ProposeError) -> Fault {
        match error {
            ProposeError::NotLeader { leader } => self.not_leader(leader),
            ProposeError::Busy => Fault::Busy,
            ProposeError::Refused(refusal) => Fault::Refused { why: refusal.to_string() },
            ProposeError::OutcomeUnknown => Fault::OutcomeUnknown,
            ProposeError::Stopped { why } => Fault::Stopped { why: why.to_string() },
        }
    }

    pub(super) fn read_fault(&self, error: ReadFailed) -> Fault {
        match error {
            ReadFailed::NotLeader { leader } => self.not_leader(leader),
            ReadFailed::Busy => Fault::Busy,
            ReadFailed::Stopped { why } => Fault::Stopped { why: why.to_string() },
        }
    }
}
