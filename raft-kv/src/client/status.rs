//! Asking nodes how they are, one by one or all at once.

use std::time::Duration;

use raft_core::NodeId;
use raft_net_quic::{ClientEndpoint, FrameReader, FrameWriter, NetError, ServiceStream};
use tokio::task::JoinSet;

use super::{Client, ClientError};
use crate::protocol::{FrameBuilder, NodeReport, ReplyBody, RequestBody, decode_replies};

/// How long a node has to answer.
const PATIENCE: Duration = Duration::from_secs(1);

impl Client {
    /// Asks one node how it is.
    ///
    /// # Errors
    /// [`ClientError::UnknownNode`]; [`ClientError::Timeout`] after a second; [`ClientError::Network`].
    pub async fn status(&self, node: NodeId) -> Result<NodeReport, ClientError> {
        let address = self.known.address(node).ok_or(ClientError::UnknownNode { node })?;
        within(ask(&self.endpoint, node, &address)).await
    }

    /// Asks all nodes that are known how they are, at the same time, and gives them a second. In the order of their ids; whoever did not
    /// answer has the error in place of a report.
    pub async fn status_all(&self) -> Vec<(NodeId, String, Result<NodeReport, ClientError>)> {
        let mut asked = JoinSet::new();
        for (node, address) in self.known.nodes() {
            let endpoint = self.endpoint.clone();
            asked.spawn(async move {
                let result = within(ask(&endpoint, node, &address)).await;
                (node, address, result)
            });
        }
        let mut reports = asked.join_all().await;
        reports.sort_by_key(|(node, ..)| *node);
        reports
    }
}

async fn within<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(ClientError::Timeout {
            after: PATIENCE,
            maybe_applied: false,
            last_seen: "the node does not answer".into(),
        })
    })
}

async fn ask(
    endpoint: &ClientEndpoint,
    node: NodeId,
    address: &str,
) -> Result<NodeReport, ClientError> {
    let stream = endpoint.connect(node, address).await.map_err(|error| match error {
        NetError::Closed => ClientError::Closed,
        other => other.into(),
    })?;
    Asking::new(stream).ask().await
}

/// A stream for asking one node again and again.
pub(super) struct Asking {
    reader: FrameReader,
    writer: FrameWriter,
}

impl Asking {
    pub(super) fn new(stream: ServiceStream) -> Asking {
        let (reader, writer) = stream.split();
        Asking { reader, writer }
    }

    /// How the node is.
    pub(super) async fn ask(&mut self) -> Result<NodeReport, ClientError> {
        let mut frame = FrameBuilder::new();
        frame.push_request(0, &RequestBody::Status);
        self.writer.send(frame.take()).await?;
        let closed = || ClientError::NodeFailed { why: "it closed the stream".into() };
        let frame = self.reader.next().await?.ok_or_else(closed)?;
        let replies = decode_replies(&frame).map_err(|_| ClientError::WrongAnswer)?;
        match replies.into_iter().next().map(|reply| reply.body) {
            Some(ReplyBody::Status(report)) => Ok(*report),
            Some(ReplyBody::Failed(fault)) => {
                Err(ClientError::NodeFailed { why: fault.to_string() })
            }
            _ => Err(ClientError::WrongAnswer),
        }
    }
}
