//! What the tests of this crate share: a cluster's certificates, and nodes on loopback.
#![allow(dead_code)] // each test file uses a part

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use raft_core::{Body, Message, NodeId, StoreId, StoreStamp, Term};
use raft_net_quic::pki::ClusterCa;
use raft_net_quic::{
    ClientEndpoint, ClusterId, Endpoint, EndpointConfig, Limits, NetError, PeerAddress,
    QuicTransport,
};
use raft_node::{Delivery, Inbox, PeerMessage, Transport};
use tokio::sync::mpsc::Receiver;

/// Long enough for any machine; nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub(crate) ca: ClusterCa,
    pub(crate) id: ClusterId,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        let id = ClusterId::random().unwrap();
        Cluster { ca: ClusterCa::generate(id).unwrap(), id }
    }

    pub(crate) fn config(&self, node: u64) -> EndpointConfig {
        let identity = self.ca.issue_node(NodeId(node), &[]).unwrap();
        EndpointConfig::new(([127, 0, 0, 1], 0).into(), identity, NodeId(node), self.id)
    }

    pub(crate) fn bind(&self, node: u64) -> Endpoint {
        Endpoint::bind(self.config(node)).unwrap()
    }

    pub(crate) fn client(&self) -> ClientEndpoint {
        ClientEndpoint::new(self.ca.issue_client("tester").unwrap(), self.id).unwrap()
    }

    /// Two nodes, 1 and 2, that know each other.
    pub(crate) fn pair(&self, limits: &Limits) -> (Running, Running) {
        let bind = |node| {
            let limits = limits.clone();
            Endpoint::bind(EndpointConfig { limits, ..self.config(node) }).unwrap()
        };
        let (one, two) = (bind(1), bind(2));
        let addresses = [one.local_addr(), two.local_addr()];
        (Running::start(one, &[(2, addresses[1])]), Running::start(two, &[(1, addresses[0])]))
    }
}

/// An endpoint with a started transport.
pub(crate) struct Running {
    pub(crate) endpoint: Endpoint,
    pub(crate) transport: QuicTransport,
    pub(crate) inbox: Receiver<Delivery>,
}

/// Every start is another life.
static LIVES: AtomicU64 = AtomicU64::new(1);

impl Running {
    pub(crate) fn start(endpoint: Endpoint, peers: &[(u64, std::net::SocketAddr)]) -> Running {
        let peers: BTreeMap<_, _> = peers
            .iter()
            .map(|(node, address)| (NodeId(*node), PeerAddress::from(*address)))
            .collect();
        let mut transport = endpoint.transport(peers);
        let (inbox, receiver) = Inbox::channel(64);
        let life = LIVES.fetch_add(1, Ordering::Relaxed);
        transport.start(inbox, StoreStamp { id: StoreId(7), life, nonce: 1 }).unwrap();
        Running { endpoint, transport, inbox: receiver }
    }

    pub(crate) fn send(&mut self, to: u64, message: PeerMessage) {
        self.transport.send(NodeId(to), message);
        self.transport.flush();
    }

    /// The next message, past reports of lost connections.
    pub(crate) async fn message(&mut self) -> (NodeId, PeerMessage) {
        let next = async {
            loop {
                match self.inbox.recv().await {
                    Some(Delivery::Message { from, message, .. }) => return (from, message),
                    Some(Delivery::Unreachable(_)) => {}
                    None => panic!("the transport is gone"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("no message came")
    }

    /// Waits until the connection to a peer is reported as lost.
    pub(crate) async fn unreachable(&mut self) -> NodeId {
        let next = async {
            loop {
                if let Some(Delivery::Unreachable(node)) = self.inbox.recv().await {
                    return node;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("nothing was reported")
    }
}

pub(crate) fn heartbeat(context: u64) -> PeerMessage {
    let body = Body::HeartbeatResponse { read_context: context };
    PeerMessage::Raft(Message { term: Term(1), body })
}

/// Sends to `to` again and again until it arrives: messages before the connection stands are lost, which is allowed.
pub(crate) async fn until_connected(from: &mut Running, to: &mut Running, node: u64) {
    let send = async {
        loop {
            from.send(node, heartbeat(0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = send => {}
        _ = to.message() => {}
    }
}

/// Waits until a node can be reached with an outcome that is not merely "not yet".
pub(crate) async fn connect_error(client: &ClientEndpoint, node: u64, address: &str) -> NetError {
    match tokio::time::timeout(PATIENCE, client.connect(NodeId(node), address)).await.unwrap() {
        Ok(_) => panic!("connected to node {node} at {address}"),
        Err(error) => error,
    }
}
