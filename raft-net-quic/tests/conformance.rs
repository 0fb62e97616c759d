//! The transport goes through the kit that every transport has to pass.

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use common::{Cluster, PATIENCE};
use raft_core::NodeId;
use raft_net_quic::{Endpoint, EndpointConfig, PeerAddress, QuicTransport};
use raft_node::testing::{TestNetwork, check_transport};

struct OnLoopback {
    cluster: Cluster,
    addresses: BTreeMap<NodeId, SocketAddr>,
}

impl OnLoopback {
    /// Two ports that are free now.
    fn new() -> OnLoopback {
        let sockets = [1, 2].map(|node| (NodeId(node), UdpSocket::bind("127.0.0.1:0").unwrap()));
        let address = |(node, socket): &(NodeId, UdpSocket)| (*node, socket.local_addr().unwrap());
        let addresses = sockets.iter().map(address).collect();
        OnLoopback { cluster: Cluster::new(), addresses }
    }
}

impl TestNetwork for OnLoopback {
    type Transport = QuicTransport;

    async fn plug(&mut self, node: NodeId) -> QuicTransport {
        let started = Instant::now();
        let endpoint = loop {
            let listen = self.addresses[&node];
            let config = EndpointConfig { listen, ..self.cluster.config(node.0) };
            match Endpoint::bind(config) {
                Ok(endpoint) => break endpoint,
                // The old socket is released by its tasks a moment after the drop.
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        let others = self.addresses.iter().filter(|(other, _)| **other != node);
        endpoint.transport(others.map(|(other, at)| (*other, PeerAddress::from(*at))).collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quic_transport_keeps_what_a_transport_promises() {
    check_transport(OnLoopback::new).await;
}
