//! The work of one frame: one proposal for its commands, one ReadIndex round for its reads, the rest by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{NodeId, RoleKind, StorageHealth};
use raft_net_quic::{Held, Owner};
use raft_node::{ProposeError, ReadFailed};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::fair::Pass;
use super::stream::Done;
use super::{Shared, dump};
use crate::command::Command;
use crate::limits::check_key;
use crate::protocol::{
    Fault, NodeReport, PeerReport, Reply, ReplyBody, Request, RequestBody, ServeAt,
};
use crate::query::{Answer, KeyRecord, Query};

/// How many gets are answered at a time.
const GETS_AT_ONCE: usize = 1024;
/// How many ranges are answered at a time: a page holds many records, and all of them wait in memory until they are written.
const RANGES_AT_ONCE: usize = 4;
/// How many statuses are answered at a time.
const STATUSES_AT_ONCE: usize = 16;
/// About what an answer takes in memory beside what it holds, and as much again for its bytes on the way out.
const REPLY_BYTES: usize = 128;
/// What a page takes at most: its keys and values, and what its records take beside them.
const PAGE_BYTES: usize = Query::PAGE_BYTES_MAX + Query::PAGE_RECORDS_MAX as usize * RECORD_BYTES;
const RECORD_BYTES: usize = 96;
/// What a status takes, but for its texts.
const STATUS_BYTES: usize = 1 << 10;
/// What a get costs the node, counted as bytes of an answer.
const GET_COST: usize = 256;
/// How long a status waits for the driver to explain itself: less than a client waits for the status.
const EXPLAIN_TIMEOUT: Duration = Duration::from_millis(250);

/// Why a node is said to stall.
const STALL: &str =
    "its log store answers later than it should; a leader makes way if another can take over";
/// In the order of [`Parts::reads`].
const AT: [ServeAt; 2] = [ServeAt::Leader, ServeAt::AnyMember];

/// What goes on by itself.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Commands that are proposed together.
#[derive(Default)]
struct Proposal {
    at: ServeAt,
    ids: Vec<u64>,
    commands: Vec<Bytes>,
}

/// A frame's requests, by what they need.
#[derive(Default)]
pub(super) struct Parts {
    /// Proposals; more than one only if the frame is large, or asks both of the leader and of anybody.
    commands: Vec<Proposal>,
    /// Gets and numbers: for the leader, and for any member.
    reads: [Vec<(u64, Query)>; 2],
    ranges: [Vec<(u64, Query)>; 2],
    statuses: Vec<u64>,
    dumps: Vec<(u64, ServeAt, Bytes)>,
    refused: Vec<Reply>,
}

impl Parts {
    /// Sorts requests, and refuses what will never do.
    pub(super) fn of(requests: Vec<Request>, shared: &Shared) -> Parts {
        let mut parts = Parts::default();
        let mut proposed_bytes = usize::MAX;
        for Request { id, at, body } in requests {
            match body.map_err(|error| Fault::Malformed { why: error.to_string() }) {
                Ok(RequestBody::Command(command)) => match check_command(&command) {
                    Ok(()) => {
                        let bytes = command.len() + 64;
                        proposed_bytes = proposed_bytes.saturating_add(bytes);
                        let is_same = parts.commands.last().is_some_and(|last| last.at == at);
                        if !is_same || proposed_bytes > shared.options.proposal_bytes_max {
                            parts.commands.push(Proposal { at, ..Proposal::default() });
                            proposed_bytes = bytes;
                        }
                        if let Some(proposal) = parts.commands.last_mut() {
                            proposal.ids.push(id);
                            proposal.commands.push(command);
                        }
                    }
                    Err(fault) => parts.refuse(id, fault),
                },
                Ok(RequestBody::Get { key }) => match check_key(&key) {
                    Ok(()) => parts.reads[at as usize].push((id, Query::Get { key })),
                    Err(limit) => parts.refuse(id, Fault::Refused { why: limit.to_string() }),
                },
                Ok(RequestBody::Range { start, end, limit, keys_only }) => {
                    let range = Query::Range { start, end, limit, keys_only };
                    parts.ranges[at as usize].push((id, range));
                }
                Ok(RequestBody::Stats) => parts.reads[at as usize].push((id, Query::Stats)),
                Ok(RequestBody::Status) => parts.statuses.push(id),
                Ok(RequestBody::Dump { start }) => parts.dumps.push((id, at, start)),
                Err(fault) => parts.refuse(id, fault),
            }
        }
        parts
    }

    fn refuse(&mut self, id: u64, fault: Fault) {
        self.refused.push(Reply { id, body: ReplyBody::Failed(fault) });
    }

    /// The work, to be polled in this order.
    pub(super) fn into_work(self, shared: &Arc<Shared>, out: &Out) -> Vec<Work> {
        let Parts { commands, reads, ranges, statuses, dumps, refused } = self;
        let mut work: Vec<Work> = Vec::new();
        if !commands.is_empty() {
            work.push(Box::pin(propose(Arc::clone(shared), commands, out.clone())));
        }
        for (at, (reads, ranges)) in AT.into_iter().zip(reads.into_iter().zip(ranges)) {
            if !reads.is_empty() {
                work.push(Box::pin(read(Arc::clone(shared), at, reads, out.clone())));
            }
            if !ranges.is_empty() {
                work.push(Box::pin(read_ranges(Arc::clone(shared), at, ranges, out.clone())));
            }
        }
        if !statuses.is_empty() {
            work.push(Box::pin(tell_status(Arc::clone(shared), statuses, out.clone())));
        }
        for (id, at, start) in dumps {
            work.push(Box::pin(dump::run(Arc::clone(shared), id, at, start, out.clone())));
        }
        if !refused.is_empty() {
            let out = out.clone();
            work.push(Box::pin(async move {
                let bytes = refused.iter().map(|reply| reply_bytes(&reply.body)).sum();
                let held = out.owner.unsent().take(bytes).await;
                out.send(refused, held).await;
            }));
        }
        work
    }
}

/// About what an answer takes until it is sent.
pub(super) fn reply_bytes(body: &ReplyBody) -> usize {
    REPLY_BYTES
        + match body {
            ReplyBody::Value(record) => record.as_ref().map_or(0, |record| record.value.len()),
            ReplyBody::Page { records, .. } => {
                let bytes = |one: &KeyRecord| one.key.len() + one.record.value.len();
                records.iter().map(|one| bytes(one) + RECORD_BYTES).sum()
            }
            ReplyBody::Status(report) => report_bytes(report),
            ReplyBody::Failed(_) => REPLY_BYTES,
            ReplyBody::Response(_) | ReplyBody::Stats(_) => 0,
        }
}

fn report_bytes(report: &NodeReport) -> usize {
    let texts = [&report.failure, &report.suspicion, &report.explanation];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    STATUS_BYTES + 2 * texts
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

/// Where replies go, and whose they are.
#[derive(Clone)]
pub(super) struct Out {
    pub(super) done: mpsc::Sender<Done>,
    pub(super) slot: Arc<Slot>,
    pub(super) owner: Owner,
}

/// What a frame takes until the last of its answers is out.
pub(super) struct Slot {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _held: Held,
}

impl Out {
    /// Whoever is not there any more gets no reply.
    pub(super) async fn send(&self, replies: Vec<Reply>, held: Held) {
        let _ = self.done.send(Done { replies, held, _slot: Arc::clone(&self.slot) }).await;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.done.is_closed()
    }

    pub(super) async fn fail(&self, ids: impl ExactSizeIterator<Item = u64>, fault: &Fault) {
        let held = self.owner.unsent().take(ids.len() * 2 * REPLY_BYTES).await;
        let failed = |id| Reply { id, body: ReplyBody::Failed(fault.clone()) };
        self.send(ids.map(failed).collect(), held).await;
    }

    /// Answers with what there is room for; the rest is to be asked for again, when the client has taken some of what it has.
    async fn answer(&self, ids: Vec<u64>, bodies: impl Iterator<Item = ReplyBody>, mut held: Held) {
        let mut left = held.bytes();
        let answer = |(id, body): (u64, ReplyBody)| {
            let bytes = reply_bytes(&body);
            let is_there = bytes <= left || held.try_grow(bytes - left);
            left = if is_there { left.saturating_sub(bytes) } else { left };
            Reply { id, body: if is_there { body } else { ReplyBody::Failed(Fault::Busy) } }
        };
        let replies: Vec<Reply> = ids.into_iter().zip(bodies).map(answer).collect();
        // What was set apart and not needed is given back at once.
        drop(held.split(left));
        self.send(replies, held).await;
    }
}

async fn propose(shared: Arc<Shared>, batches: Vec<Proposal>, out: Out) {
    for Proposal { at, ids, commands } in batches {
        // A node that may pass proposals on does it for those only who ask for it: the others find the leader, and are served
        // sooner. A status that is behind costs nobody more than a detour.
        if let Some(elsewhere) = shared.leads_elsewhere().filter(|_| at == ServeAt::Leader) {
            out.fail(ids.into_iter(), &elsewhere).await;
            continue;
        }
        // First of all: who does not read its answers is not served further.
        let held = out.owner.unsent().take(ids.len() * REPLY_BYTES).await;
        let cost = commands.iter().map(|command| command.len() + 64).sum();
        let pass = shared.proposals.pass(&out.owner, cost).await;
        let result = shared.node.propose_batch(commands).await;
        drop(pass);
        match result {
            Ok(responses) => {
                out.answer(ids, responses.into_iter().map(ReplyBody::Response), held).await;
            }
            Err(error) => {
                drop(held);
                out.fail(ids.into_iter(), &shared.propose_fault(error)).await;
            }
        }
    }
}

async fn read(shared: Arc<Shared>, at: ServeAt, mut gets: Vec<(u64, Query)>, out: Out) {
    while !gets.is_empty() {
        let rest = gets.split_off(gets.len().min(GETS_AT_ONCE));
        let batch = std::mem::replace(&mut gets, rest);
        let held = out.owner.unsent().take(batch.len() * REPLY_BYTES).await;
        if out.is_closed() {
            return;
        }
        let pass = shared.reads.pass(&out.owner, batch.len() * GET_COST).await;
        read_batch(&shared, (at, batch), &out, held, pass).await;
    }
}

async fn read_ranges(shared: Arc<Shared>, at: ServeAt, mut ranges: Vec<(u64, Query)>, out: Out) {
    while !ranges.is_empty() {
        let rest = ranges.split_off(ranges.len().min(RANGES_AT_ONCE));
        let batch = std::mem::replace(&mut ranges, rest);
        let held = out.owner.unsent().take(batch.len() * PAGE_BYTES).await;
        if out.is_closed() {
            return;
        }
        let pass = shared.reads.pass(&out.owner, batch.len() * Query::PAGE_BYTES_MAX).await;
        read_batch(&shared, (at, batch), &out, held, pass).await;
    }
}

async fn read_batch(
    shared: &Shared,
    (at, batch): (ServeAt, Vec<(u64, Query)>),
    out: &Out,
    held: Held,
    pass: Pass,
) {
    let (ids, queries): (Vec<u64>, Vec<Query>) = batch.into_iter().unzip();
    let result = shared.read(at, queries).await;
    drop(pass);
    match result {
        Ok(answers) => out.answer(ids, answers.into_iter().map(answered), held).await,
        Err(error) => {
            drop(held);
            out.fail(ids.into_iter(), &shared.read_fault(error)).await;
        }
    }
}

fn answered(answer: Answer) -> ReplyBody {
    match answer {
        Answer::Value(record) => ReplyBody::Value(record),
        Answer::Page { records, has_more } => ReplyBody::Page { records, has_more },
        Answer::Stats(stats) => ReplyBody::Stats(stats),
        // Never asked for here.
        Answer::Scan(_) | Answer::Scanned(_) => {
            ReplyBody::Failed(Fault::Failed { why: "an answer to another question".into() })
        }
    }
}

async fn tell_status(shared: Arc<Shared>, ids: Vec<u64>, out: Out) {
    for ids in ids.chunks(STATUSES_AT_ONCE) {
        let bytes = ids.len() * (REPLY_BYTES + STATUS_BYTES);
        let held = out.owner.unsent().take(bytes).await;
        if out.is_closed() {
            return;
        }
        let pass = shared.reads.pass(&out.owner, bytes).await;
        let report = Box::new(shared.report().await);
        drop(pass);
        let bodies = ids.iter().map(|_| ReplyBody::Status(report.clone()));
        out.answer(ids.to_vec(), bodies, held).await;
    }
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
            stall: (raft.storage != StorageHealth::Healthy).then(|| STALL.to_owned()),
            explanation,
            notice: self.options.notice.clone(),
            stats,
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            version: self.options.version.clone(),
            peers: peers.map(|peer| PeerReport { node: peer.id, matched: peer.matched }).collect(),
        }
    }

    /// Reads at the leader, or here with the leader's word for how far to read.
    pub(super) async fn read(
        &self,
        at: ServeAt,
        queries: Vec<Query>,
    ) -> Result<Vec<Answer>, ReadFailed> {
        match at {
            ServeAt::Leader => self.node.read_batch(queries).await,
            ServeAt::AnyMember => self.node.read_batch_here(queries).await,
        }
    }

    /// That another node leads, if this one does not.
    fn leads_elsewhere(&self) -> Option<Fault> {
        let status = self.status.borrow();
        let raft = &status.raft;
        (raft.role != RoleKind::Leader).then(|| self.not_leader(raft.leader))
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
