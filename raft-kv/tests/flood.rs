//! The attacks of the flood program, in the small, on a node whose limits are small: what is held stays within the limits, the deadlines
//! hold, and everybody else gets answers meanwhile. Nothing here measures how fast.

#[allow(dead_code)] // the program uses the rest
#[path = "../examples/flood/attacks.rs"]
mod attacks;
mod common;

use std::time::Duration;

use attacks::{At, Target, range_requests, status_requests};
use common::{Cluster, PATIENCE};
use raft_core::NodeId;
use raft_kv::client::{Client, ClientConfig};
use raft_net_quic::testing::{connection, quinn};
use raft_net_quic::{BudgetLimits, ClientEndpoint, Limits};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const NODE: NodeId = NodeId(1);
const MIB: usize = 1 << 20;

/// Small limits, of which each test sets those that it is about.
fn limits() -> Limits {
    Limits {
        received: BudgetLimits { connection: 64 << 10, certificate: 2 * MIB, all: 3 * MIB },
        unsent: BudgetLimits { connection: 64 << 10, certificate: 6 * MIB, all: 12 * MIB },
        ..Limits::default()
    }
}

struct World {
    cluster: Cluster,
    limits: Limits,
    /// Of the certificate that attacks.
    target: Target,
}

impl World {
    async fn new(limits: Limits) -> World {
        let cluster = Cluster::start_with(1, limits.clone(), |_| {}).await;
        let identity = cluster.ca.issue_client("attacker").unwrap();
        let nodes = cluster.addresses.clone();
        let target = Target { identity, cluster: cluster.id, nodes };
        World { cluster, limits, target }
    }

    fn at(&self) -> At {
        let address = self.cluster.addresses[&NODE].clone();
        At { target: self.target.clone(), node: NODE, address, until: Instant::now() + PATIENCE }
    }

    /// A client with the attacker's certificate: an operator who has no other.
    fn operator(&self) -> Client {
        let Target { identity, cluster, nodes } = self.target.clone();
        Client::new(ClientConfig {
            request_timeout: PATIENCE,
            ..ClientConfig::new(identity, cluster, nodes)
        })
        .unwrap()
    }

    /// A connection of the attacker's, as soon as there is a place for it.
    async fn raw(&self, endpoint: &ClientEndpoint) -> quinn::Connection {
        loop {
            match connection(endpoint, NODE, &self.cluster.addresses[&NODE]).await {
                Ok(connection) => return connection,
                Err(error) if error.is_transient() => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn endpoint(&self) -> ClientEndpoint {
        ClientEndpoint::new(self.target.identity.clone(), self.cluster.id).unwrap()
    }

    /// Another client writes and reads, and an operator asks how the node is, whether with a certificate of its own or with the attacker's.
    async fn others_are_served(&self) {
        let other = self.cluster.client();
        let value = vec![1; 100 << 10];
        other.put("k", value.clone()).await.unwrap();
        assert_eq!(other.get("k").await.unwrap().unwrap().value[..], value);
        assert_eq!(other.range("k", Some("k0".into()), 10, false).await.unwrap().records.len(), 1);
        for client in [other, self.operator()] {
            let report = client.status(NODE).await.unwrap();
            assert!(report.is_serving_leader() && report.stats.is_some());
            client.close().await;
        }
    }

    fn held(&self) -> (usize, usize) {
        let load = self.cluster.nodes[&NODE].endpoint.load();
        assert!(load.received_bytes <= self.limits.received.all, "{load:?}");
        assert!(load.unsent_bytes <= self.limits.unsent.all, "{load:?}");
        (load.received_bytes, load.unsent_bytes)
    }

    async fn until(&self, what: &str, is_so: impl Fn((usize, usize)) -> bool) {
        let started = Instant::now();
        while !is_so(self.held()) {
            assert!(started.elapsed() < PATIENCE, "{what}: {:?}", self.held());
            tokio::task::yield_now().await;
        }
    }
}

fn spawn(attack: impl Future<Output = anyhow::Result<String>> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move { drop(attack.await) })
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes far too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_keep_nobody_out() {
    let limits = Limits { connections_max: 12, connections_per_certificate_max: 8, ..limits() };
    within(async {
        let world = World::new(limits).await;
        let (endpoint, mut held) = (world.endpoint(), Vec::new());
        for _ in 0..8 {
            held.push(world.raw(&endpoint).await);
        }
        // One more takes the place of the oldest, as none of them has asked for anything in time.
        world.raw(&endpoint).await;
        let closed = held[0].closed().await.to_string();
        assert!(closed.contains("needs the place"), "{closed}");
        world.others_are_served().await;
        assert!(world.cluster.nodes[&NODE].endpoint.load().connections <= 12);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_never_become_a_frame_are_stopped_and_keep_nobody_out() {
    let frame_timeout = Duration::from_millis(300);
    let limits = Limits { streams_per_certificate_max: 4, frame_timeout, ..limits() };
    within(async {
        let world = World::new(limits).await;
        let endpoint = world.endpoint();
        let connection = world.raw(&endpoint).await;
        let mut streams = Vec::new();
        for _ in 0..20 {
            let (mut send, recv) = connection.open_bi().await.unwrap();
            send.write_all(&[7]).await.unwrap();
            streams.push((send, recv));
        }
        world.others_are_served().await;
        // Four at a time have a place, and lose it in time.
        for (send, _recv) in &mut streams {
            let stopped = send.stopped().await.unwrap().expect("stopped with a code");
            assert_eq!(stopped.into_inner(), 6, "busy");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_frames_take_no_more_than_a_certificates_share() {
    let limits = Limits { frame_timeout: Duration::from_millis(500), ..limits() };
    within(async {
        let world = World::new(limits).await;
        let at = world.at();
        let attack = spawn(async move { at.unfinished_frames(32, 8 << 20).await });
        world.until("it takes what it gets", |(received, _)| received > MIB).await;
        world.others_are_served().await;
        world.until("the deadline frees it", |(received, _)| received < MIB).await;
        attack.abort();
    })
    .await;
}

/// Answers that nobody reads: the client is not read from further, and after a while its streams are reset.
async fn unread(frame: bytes::Bytes) {
    let limits = Limits { unread_timeout: Duration::from_millis(500), ..limits() };
    within(async {
        let world = World::new(limits).await;
        world.cluster.client().put("key", vec![3; 500 << 10]).await.unwrap();
        let at = world.at();
        let attack = spawn(async move { at.unread(&frame, 16, 4).await });
        world.until("answers pile up", |(_, unsent)| unsent > MIB).await;
        world.others_are_served().await;
        world.until("and are thrown away", |(_, unsent)| unsent == 0).await;
        attack.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_that_nobody_reads_take_no_more_than_a_certificates_share() {
    unread(status_requests(4_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_nobody_reads_take_no_more_than_a_certificates_share() {
    unread(range_requests(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_do_not_keep_small_ones_waiting() {
    within(async {
        let world = World::new(Limits::default()).await;
        let at = world.at();
        let attack = spawn(async move { at.large_values(16, MIB).await });
        world.until("they arrive", |(received, _)| received > MIB).await;
        let other = world.cluster.client();
        for key in 0..100 {
            other.put(format!("small-{key}"), "x").await.unwrap();
        }
        world.others_are_served().await;
        attack.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_short_clients_is_served_and_unseats_nobody() {
    within(async {
        let cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let before = cluster.nodes[&leader].handle.status().raft;
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..60 {
            let client = cluster.client();
            clients.spawn(async move {
                let result = client.put(format!("short-{number}"), "x").await;
                client.close().await;
                result
            });
        }
        assert!(clients.join_all().await.iter().all(Result::is_ok));
        let after = cluster.nodes[&leader].handle.status().raft;
        assert_eq!((after.role, after.term), (before.role, before.term));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_go_on_keep_nobody_out() {
    let limits = Limits { handshakes_max: 8, handshakes_per_address_max: 4, ..limits() };
    within(async {
        let world = World::new(limits).await;
        let at = world.at();
        let attack = spawn(async move { at.half_open(100).await });
        for _ in 0..5 {
            world.others_are_served().await;
        }
        assert!(!attack.is_finished());
        attack.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_changes_nothing() {
    within(async {
        let world = World::new(limits()).await;
        world.at().garbage(3_000).await.unwrap();
        world.others_are_served().await;
    })
    .await;
}
