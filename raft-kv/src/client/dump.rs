//! Reading everything, as of one moment.

use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::Trouble;
use super::{Client, ClientError, deadline_in};
use crate::protocol::{
    Fault, FrameBuilder, NodeReport, ReplyBody, RequestBody, ServeAt, decode_replies,
};
use crate::query::KeyRecord;

/// How many chunks may be received ahead.
const CHUNKS_AHEAD: usize = 2;
/// The wait before another try.
const RETRY: Duration = Duration::from_millis(50);

/// A dump under way. Dropping it ends it.
#[derive(Debug)]
pub struct Dump {
    chunks: mpsc::Receiver<Result<Vec<KeyRecord>, ClientError>>,
    _task: JoinSet<()>,
}

impl Dump {
    /// The next records, in the order of their keys; `None` at the end. After an error there is nothing more, and what was
    /// received is incomplete.
    pub async fn next(&mut self) -> Option<Result<Vec<KeyRecord>, ClientError>> {
        self.chunks.recv().await
    }
}

/// How one try ended.
enum End {
    /// For good.
    Complete,
    Failed(ClientError),
    /// Nothing was received; try again, perhaps elsewhere.
    Again {
        leader: Option<NodeId>,
        why: String,
    },
}

impl Client {
    /// Reads all records from `start` on, as of one moment that is not before this call. The leader makes a checkpoint and streams it;
    /// writes go on meanwhile.
    pub fn dump(&self, start: impl Into<Bytes>) -> Dump {
        let (out, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (client, start) = (self.clone(), start.into());
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = client.run_dump(start, &out).await {
                let _ = out.send(Err(error)).await;
            }
        });
        Dump { chunks, _task: task }
    }

    async fn run_dump(&self, start: Bytes, out: &Out) -> Result<(), ClientError> {
        let deadline = deadline_in(self.request_timeout);
        let mut leader = self.known.leader().map(|leader| (leader, ServeAt::Leader));
        loop {
            if self.is_closed() {
                return Err(ClientError::Closed);
            }
            let node = match leader {
                Some(leader) => Some(leader),
                None => self.ask_for_leader().await?,
            };
            let (hint, why) = match node {
                Some((node, at)) => {
                    match self.try_dump((node, at), start.clone(), out, deadline).await {
                        End::Complete => return Ok(()),
                        End::Failed(error) => return Err(error),
                        End::Again { leader, why } => (leader, format!("node {node}: {why}")),
                    }
                }
                None => (None, "no node leads".into()),
            };
            if Instant::now() >= deadline {
                let after = self.request_timeout;
                return Err(ClientError::Timeout { after, maybe_applied: false, last_seen: why });
            }
            leader = hint.map(|leader| (leader, ServeAt::Leader));
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whom to ask: the leader, or, if it does not answer, a member that knows it. The error is that no node accepts this client.
    async fn ask_for_leader(&self) -> Result<Option<(NodeId, ServeAt)>, ClientError> {
        let reports = self.status_all().await;
        if let Some(error) = refused_by_all(&reports) {
            return Err(error);
        }
        let reports: Vec<NodeReport> =
            reports.into_iter().filter_map(|(.., report)| report.ok()).collect();
        let latest = |wanted: &dyn Fn(&NodeReport) -> bool| {
            let those = reports.iter().filter(|report| wanted(report));
            those.max_by_key(|report| report.term).map(|report| report.node)
        };
        let leader = latest(&NodeReport::is_serving_leader).map(|node| (node, ServeAt::Leader));
        let knows_one = |report: &NodeReport| report.leader.is_some() && report.failure.is_none();
        Ok(leader.or_else(|| latest(&knows_one).map(|node| (node, ServeAt::AnyMember))))
    }

    async fn try_dump(
        &self,
        (node, at): (NodeId, ServeAt),
        start: Bytes,
        out: &Out,
        deadline: Instant,
    ) -> End {
        let again = |why: String| End::Again { leader: None, why };
        let Some(address) = self.known.address(node) else {
            return again("its address is not known".into());
        };
        let (mut reader, mut writer) = match self.endpoint.connect(node, &address).await {
            Ok(stream) => stream.split(),
            Err(error) => return again(error.to_string()),
        };
        let mut frame = FrameBuilder::new();
        frame.push_request_at(0, at, &RequestBody::Dump { start });
        if let Err(error) = writer.send(frame.take()).await {
            return again(error.to_string());
        }
        let mut is_first = true;
        let mut limit = deadline;
        loop {
            // Making the checkpoint may take as long as it needs, as long as the node says that it is at work.
            let Ok(received) = tokio::time::timeout_at(limit, reader.next()).await else {
                let what = if is_first {
                    "has not begun to send the dump, and says nothing"
                } else {
                    "sends nothing more of the dump"
                };
                return End::Failed(ClientError::Timeout {
                    after: self.request_timeout,
                    maybe_applied: false,
                    last_seen: format!("node {node} {what}"),
                });
            };
            limit = deadline_in(self.request_timeout);
            let frame = match received {
                Ok(Some(frame)) => frame,
                Ok(None) if is_first => return again("it closed the stream".into()),
                Ok(None) => return failed("it closed the stream in the middle of the dump"),
                Err(error) if is_first => return again(error.to_string()),
                Err(error) => return End::Failed(error.into()),
            };
            let Ok(replies) = decode_replies(&frame) else {
                return End::Failed(ClientError::WrongAnswer);
            };
            for reply in replies {
                match reply.body {
                    ReplyBody::Page { records, has_more } => {
                        is_first &= records.is_empty() && has_more;
                        if !records.is_empty() && out.send(Ok(records)).await.is_err() {
                            return End::Complete;
                        }
                        if !has_more {
                            return End::Complete;
                        }
                    }
                    ReplyBody::Failed(fault) if is_first => return self.faulted(fault, at),
                    ReplyBody::Failed(fault) => return failed(&fault.to_string()),
                    _ => return End::Failed(ClientError::WrongAnswer),
                }
            }
        }
    }

    /// What a fault before the first record means.
    fn faulted(&self, fault: Fault, at: ServeAt) -> End {
        let why = fault.to_string();
        match fault {
            Fault::NotLeader { leader: Some((leader, address)) } => {
                if let Some(address) = address {
                    self.known.learn(leader, address);
                }
                End::Again { leader: Some(leader), why }
            }
            Fault::NotLeader { leader: None }
            | Fault::Busy
            | Fault::OutcomeUnknown
            | Fault::Stopped { .. } => End::Again { leader: None, why },
            // A node of an earlier version, which serves at the leader only.
            Fault::Malformed { .. } if at == ServeAt::AnyMember => End::Again { leader: None, why },
            Fault::Malformed { why } | Fault::Refused { why } => {
                End::Failed(ClientError::Refused { why })
            }
            Fault::Failed { why } => End::Failed(ClientError::NodeFailed { why }),
        }
    }
}

type Out = mpsc::Sender<Result<Vec<KeyRecord>, ClientError>>;

fn refused_by_all(
    reports: &[(NodeId, String, Result<NodeReport, ClientError>)],
) -> Option<ClientError> {
    let mut last = None;
    for (node, _, report) in reports {
        let trouble = Trouble::from(report.as_ref().err()?);
        if !trouble.is_credentials {
            return None;
        }
        last = Some(ClientError::Credentials { node: *node, why: trouble.why });
    }
    last
}

fn failed(why: &str) -> End {
    End::Failed(ClientError::NodeFailed { why: why.into() })
}
