//! Replication throughput of the real stack: three nodes in this process, QUIC with mutual TLS over loopback, redb logs with
//! fsync, and the key-value machine; 256-byte values proposed at the leader by closed loops.
//!
//! `cargo bench` or `cargo bench -p benches --bench replication`. The three nodes and the load share this machine's cores, so the
//! figures are of the whole, not of one node. Comparisons with etcd: `cargo xtask compare`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use raft_core::{Membership, NodeId};
use raft_kv::{Command, KvMachine, SessionId, StateFileOptions, Write};
use raft_net_quic::{ClusterId, Endpoint, EndpointConfig, PeerAddress, pki::ClusterCa};
use raft_node::{Node, NodeConfig, NodeHandle};
use raft_storage_redb::{Options, RedbLogStore};

const VALUE_BYTES: usize = 256;
const KEYS: u64 = 10_000;

async fn start(folder: &Path) -> Vec<NodeHandle<KvMachine>> {
    let cluster = ClusterId::random().expect("random bytes");
    let ca = ClusterCa::generate(cluster).expect("a CA");
    let hosts = ["127.0.0.1".to_owned()];
    let ids: Vec<NodeId> = (1..=3).map(NodeId).collect();
    let endpoints: Vec<Endpoint> = ids
        .iter()
        .map(|&id| {
            let identity = ca.issue_node(id, &hosts).expect("a certificate");
            let listen = ([127, 0, 0, 1], 0).into();
            Endpoint::bind(EndpointConfig::new(listen, identity, id, cluster)).expect("a free port")
        })
        .collect();
    let peers: BTreeMap<NodeId, PeerAddress> = ids
        .iter()
        .zip(&endpoints)
        .map(|(&id, endpoint)| (id, endpoint.local_addr().into()))
        .collect();
    let mut nodes = Vec::new();
    for (&id, endpoint) in ids.iter().zip(&endpoints) {
        let home = folder.join(id.to_string());
        std::fs::create_dir_all(&home).expect("a folder");
        let store =
            RedbLogStore::open(Options::new(home.join("log.redb"), cluster.0, id)).expect("a log");
        let state = StateFileOptions::new(home.join("state.redb"), cluster.0, id);
        let machine = KvMachine::open(&state).expect("a state");
        let mut config = NodeConfig::new(id);
        config.founding = Some(Membership::of_voters(ids.iter().copied()));
        config.scratch_dir = home;
        let transport = endpoint.transport(peers.clone());
        nodes.push(Node::start(config, store, transport, machine).await.expect("a node"));
    }
    nodes
}

async fn leader(nodes: &[NodeHandle<KvMachine>]) -> NodeHandle<KvMachine> {
    loop {
        for node in nodes {
            let status = node.status();
            if status.raft.leader == Some(status.raft.id) {
                return node.clone();
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Each of `in_flight` loops writes one value, waits until it is committed and applied, and writes the next.
async fn closed_loops(
    leader: &NodeHandle<KvMachine>,
    session: SessionId,
    in_flight: u64,
    count: u64,
) -> Duration {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let left = Arc::new(AtomicU64::new(count));
    let begun = Instant::now();
    let loops: Vec<_> = (0..in_flight)
        .map(|_| {
            let (leader, left) = (leader.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                let value = [7u8; VALUE_BYTES];
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok()
                {
                    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
                    let key = format!("bench/{:012}", sequence.wrapping_mul(0x9E37_79B9) % KEYS);
                    let write = Write::Put { key: key.as_bytes(), value: &value };
                    let acked_below = sequence.saturating_sub(4 * in_flight);
                    let command = Command::Write { session, sequence, acked_below, write };
                    leader.propose(command.encode()).await.expect("a leader that stays");
                }
            })
        })
        .collect();
    for each in loops {
        each.await.expect("a loop that ends");
    }
    begun.elapsed()
}

fn replication(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let nodes = runtime.block_on(start(folder.path()));
    let leader = runtime.block_on(leader(&nodes));
    let session = SessionId(1);
    runtime.block_on(leader.propose(Command::OpenSession { session }.encode())).expect("a session");

    let mut group = criterion.benchmark_group("replication/three_nodes_quic_fsync_256_bytes");
    group.throughput(Throughput::Elements(1));
    group.sample_size(10);
    group.measurement_time(Duration::from_secs(4));
    for in_flight in [1, 64, 1024] {
        group.bench_function(BenchmarkId::new("put_in_flight", in_flight), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(closed_loops(&leader, session, in_flight, iterations))
            });
        });
    }
    group.finish();
    for node in nodes {
        let _ = runtime.block_on(node.shutdown());
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    replication(&mut criterion);
    criterion.final_summary();
}
