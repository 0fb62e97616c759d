//! What two starts of one node must not have in common. The network is the test itself.

mod common;

use bytes::Bytes;
use common::{Disks, Journal, PATIENCE, command};
use raft_node::raft_core::{
    Body, ForwardId, ForwardOutcome, Index, Membership, Message, NodeId, Refusal, StoreStamp, Term,
};
use raft_node::{
    Delivery, Inbox, Node, NodeConfig, NodeHandle, PeerMessage, ProposeError, ReadFailed,
    Transport, TransportError,
};
use tokio::sync::{mpsc, oneshot};

const LEADER: NodeId = NodeId(2);

/// Carries what the node says to the test.
struct Wire {
    inbox: Option<oneshot::Sender<Inbox>>,
    said: mpsc::UnboundedSender<Body>,
}

impl Transport for Wire {
    fn start(&mut self, inbox: Inbox, _: StoreStamp) -> Result<(), TransportError> {
        self.inbox.take().map(|plug| plug.send(inbox).is_ok());
        Ok(())
    }

    fn send(&mut self, _: NodeId, message: PeerMessage) {
        if let PeerMessage::Raft(message) = message {
            let _ = self.said.send(message.body);
        }
    }
}

/// A follower whose leader is the test.
struct Follower {
    node: NodeHandle<Journal>,
    inbox: Inbox,
    said: mpsc::UnboundedReceiver<Body>,
}

impl Follower {
    /// Starts node 1 as any application would, and tells it who leads.
    async fn start(config: &NodeConfig, disks: &Disks) -> Follower {
        let (plug, inbox) = oneshot::channel();
        let (says, said) = mpsc::unbounded_channel();
        let wire = Wire { inbox: Some(plug), said: says };
        let node =
            Node::start(config.clone(), disks.log.open(), wire, Journal::on(disks)).await.unwrap();
        let mut follower = Follower { node, inbox: inbox.await.unwrap(), said };
        follower.hear(Body::Heartbeat { commit: Index(0), read_context: 1 }).await;
        follower.says(|body| matches!(body, Body::HeartbeatResponse { .. }).then_some(())).await;
        follower
    }

    async fn hear(&self, body: Body) {
        let message = PeerMessage::Raft(Message { term: Term(1), body });
        assert!(self.inbox.deliver(Delivery::Message { from: LEADER, store: None, message }).await);
    }

    async fn says<T>(&mut self, wanted: impl Fn(Body) -> Option<T>) -> T {
        let says = async {
            loop {
                if let Some(found) = wanted(self.said.recv().await.expect("the node lives")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, says).await.expect("it is said in time")
    }

    async fn asks_for_an_index(&mut self) -> u64 {
        let context = |body| match body {
            Body::ReadIndex { context } => Some(context),
            _ => None,
        };
        self.says(context).await
    }

    async fn forwards(&mut self) -> ForwardId {
        let forwarded = |body| match body {
            Body::Forward { id, .. } => Some(id),
            _ => None,
        };
        self.says(forwarded).await
    }

    fn read(&self) -> tokio::task::JoinHandle<Result<Vec<Vec<Bytes>>, ReadFailed>> {
        let node = self.node.clone();
        tokio::spawn(async move { node.read_batch_here(vec![()]).await })
    }

    fn propose(&self) -> tokio::task::JoinHandle<Result<usize, ProposeError>> {
        let node = self.node.clone();
        tokio::spawn(async move { node.propose(command("x")).await })
    }
}

fn settings(scratch: &tempfile::TempDir) -> NodeConfig {
    let mut config = NodeConfig::new(NodeId(1));
    config.founding = Some(Membership::of_voters([1, 2, 3].map(NodeId)));
    config.scratch_dir = scratch.path().into();
    config.raft.election_timeout = PATIENCE;
    config.raft.forward_proposals = true;
    config
}

#[tokio::test]
async fn an_index_that_an_earlier_start_asked_for_settles_no_read_of_this_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (config, disks) = (settings(&scratch), Disks::default());
    let mut earlier = Follower::start(&config, &disks).await;
    earlier.read();
    let old = earlier.asks_for_an_index().await;
    earlier.node.shutdown().await.unwrap();
    // Meanwhile others write, and are answered. The old index is from before that.
    let mut follower = Follower::start(&config, &disks).await;
    let read = follower.read();
    let new = follower.asks_for_an_index().await;
    follower.hear(Body::ReadIndexResponse { context: old, index: Some(Index(0)) }).await;
    follower.hear(Body::ReadIndexResponse { context: new, index: None }).await;
    let answer = read.await.unwrap();
    assert!(answer.is_err(), "a stale read: contexts {old:x} and {new:x}");
    follower.node.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_answer_to_an_earlier_start_acknowledges_no_proposal_of_this_one() {
    let scratch = tempfile::tempdir().unwrap();
    let (config, disks) = (settings(&scratch), Disks::default());
    let mut earlier = Follower::start(&config, &disks).await;
    earlier.propose();
    let old = earlier.forwards().await;
    earlier.node.shutdown().await.unwrap();
    let mut follower = Follower::start(&config, &disks).await;
    let proposal = follower.propose();
    let new = follower.forwards().await;
    assert_ne!(old, new, "one name for two batches");
    let appended = ForwardOutcome::Appended { first: Index(1), count: 1 };
    follower.hear(Body::ForwardResponse { id: old, outcome: appended }).await;
    let refused = ForwardOutcome::Refused(Refusal::NotLeader { leader: None });
    follower.hear(Body::ForwardResponse { id: new, outcome: refused }).await;
    assert_eq!(proposal.await.unwrap(), Err(ProposeError::NotLeader { leader: None }));
    follower.node.shutdown().await.unwrap();
}
