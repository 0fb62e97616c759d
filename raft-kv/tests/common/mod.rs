//! What the tests over the network share: a cluster of nodes in this process, over QUIC on loopback.
#![allow(dead_code)] // each test file uses a part

pub(crate) mod relay;

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::{Index, Membership, NodeId, RoleKind, Term};
use raft_kv::client::{Client, ClientConfig, NodeReport};
use raft_kv::service::{ServiceOptions, serve};
use raft_kv::{KvMachine, StateFileOptions};
use raft_net_quic::pki::ClusterCa;
use raft_net_quic::{ClusterId, Endpoint, EndpointConfig, Limits, PeerAddress};
use raft_node::testing::MemoryDisk;
use raft_node::{Node, NodeConfig, NodeHandle, NodeStatus};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Long enough for any machine; nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) ca: ClusterCa,
    pub(crate) id: ClusterId,
    pub(crate) nodes: BTreeMap<NodeId, Running>,
    pub(crate) addresses: BTreeMap<NodeId, String>,
    _folder: TempDir,
}

/// One node with its service.
pub(crate) struct Running {
    pub(crate) endpoint: Endpoint,
    pub(crate) handle: NodeHandle<KvMachine>,
    stop: oneshot::Sender<()>,
}

impl Cluster {
    /// Starts `size` nodes.
    pub(crate) async fn start(size: u64) -> Cluster {
        Cluster::start_with(size, Limits::default(), |_| {}).await
    }

    /// Starts `size` nodes whose endpoints have these limits, with other settings of the service.
    pub(crate) async fn start_with(
        size: u64,
        limits: Limits,
        set: impl Fn(&mut ServiceOptions),
    ) -> Cluster {
        let id = ClusterId::random().unwrap();
        let ca = ClusterCa::generate(id).unwrap();
        let folder = TempDir::new().unwrap();
        let ids: Vec<NodeId> = (1..=size).map(NodeId).collect();
        let bind = |node: NodeId| {
            let identity = ca.issue_node(node, &[]).unwrap();
            let listen = ([127, 0, 0, 1], 0).into();
            let config = EndpointConfig::new(listen, identity, node, id);
            let limits = limits.clone();
            (node, Endpoint::bind(EndpointConfig { limits, ..config }).unwrap())
        };
        let endpoints: BTreeMap<NodeId, Endpoint> = ids.iter().copied().map(bind).collect();
        let addresses: BTreeMap<NodeId, String> =
            endpoints.iter().map(|(node, e)| (*node, e.local_addr().to_string())).collect();
        let mut nodes = BTreeMap::new();
        for (node, endpoint) in endpoints {
            let mut config = NodeConfig::new(node);
            config.raft.forward_proposals = true;
            config.founding = Some(Membership::of_voters(ids.iter().copied()));
            config.scratch_dir = folder.path().join(format!("scratch-{node}"));
            let peers = addresses.iter().map(|(n, a)| (*n, PeerAddress::from(a.clone())));
            let transport = endpoint.transport(peers.collect());
            let file = folder.path().join(format!("state-{node}.redb"));
            let machine = KvMachine::open(&StateFileOptions::new(file, id.0, node)).unwrap();
            let store = MemoryDisk::new().open();
            let handle = Node::start(config, store, transport, machine).await.unwrap();
            let (stop, stopped) = oneshot::channel();
            let mut options = ServiceOptions::new(addresses.clone());
            set(&mut options);
            let serving = serve(endpoint.clone(), handle.clone(), options, async {
                let _ = stopped.await;
            });
            tokio::spawn(serving);
            nodes.insert(node, Running { endpoint, handle, stop });
        }
        let cluster = Cluster { ca, id, nodes, addresses, _folder: folder };
        cluster.is_founded().await;
        cluster
    }

    /// Waits until every member has the record of all members' stores: before that, the loss of one founder may stop
    /// the group (decision 17), which is not what these tests are about.
    async fn is_founded(&self) {
        for node in self.nodes.values() {
            let mut status = node.handle.watch_status();
            let all = |status: &NodeStatus| {
                let raft = &status.raft;
                self.nodes.keys().all(|id| raft.membership.stores.contains_key(id))
                    && raft.commit == raft.last
            };
            status.wait_for(all).await.unwrap();
        }
    }

    /// How to reach it.
    pub(crate) fn config(&self) -> ClientConfig {
        let identity = self.ca.issue_client("tester").unwrap();
        let config = ClientConfig::new(identity, self.id, self.addresses.clone());
        ClientConfig { request_timeout: PATIENCE, ..config }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.config()).unwrap()
    }

    /// Who leads, once somebody does.
    pub(crate) async fn leader(&self) -> NodeId {
        let (_, some) = self.nodes.iter().next().unwrap();
        let mut status = some.handle.watch_status();
        let known = status.wait_for(|status| status.raft.leader.is_some()).await.unwrap();
        known.raft.leader.unwrap()
    }

    /// Stops a node as if its process ended: nobody is told anything but that the connections are gone.
    pub(crate) async fn stop(&mut self, node: NodeId) {
        let Running { endpoint, handle, stop } = self.nodes.remove(&node).unwrap();
        endpoint.close().await;
        let _ = stop.send(());
        handle.shutdown().await.unwrap();
    }
}

/// An endpoint of a node that is played by a test.
pub(crate) fn bind(ca: &ClusterCa, id: ClusterId, node: u64) -> Endpoint {
    let identity = ca.issue_node(NodeId(node), &[]).unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    Endpoint::bind(EndpointConfig::new(listen, identity, NodeId(node), id)).unwrap()
}

/// What such a node may say of itself.
pub(crate) fn report(node: u64, role: RoleKind, term: u64, leader: Option<NodeId>) -> NodeReport {
    NodeReport {
        node: NodeId(node),
        role,
        term: Term(term),
        leader,
        commit: Index(0),
        applied: Index(0),
        last: Index(0),
        durable: Index(0),
        address: String::new(),
        failure: None,
        suspicion: None,
        uncounted: None,
        stall: None,
        explanation: None,
        notice: None,
        stats: None,
        pid: 1,
        uptime: Duration::ZERO,
        version: String::new(),
        peers: Vec::new(),
    }
}
