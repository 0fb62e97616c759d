//! What a client does when it reaches some nodes and others not, or nobody for a while; and when its caller has had enough.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::relay::Relay;
use common::{Cluster, PATIENCE, bind, report};
use raft_core::{NodeId, RoleKind};
use raft_kv::client::{Client, ClientConfig, ClientError, ExpectKey};
use raft_kv::protocol::{Fault, FrameBuilder, Reply, ReplyBody, RequestBody, decode_requests};
use raft_kv::{Command, Response, WriteOutcome};
use raft_net_quic::pki::ClusterCa;
use raft_net_quic::{ClusterId, Endpoint};

/// A client behind wires that can be cut, one to each node.
async fn behind_wires(
    cluster: &Cluster,
    request_timeout: Duration,
) -> (Client, BTreeMap<NodeId, Relay>) {
    let mut wires = BTreeMap::new();
    for (node, address) in &cluster.addresses {
        wires.insert(*node, Relay::to(address).await);
    }
    let nodes = wires.iter().map(|(node, wire)| (*node, wire.address.clone())).collect();
    let config = ClientConfig { nodes, request_timeout, ..cluster.config() };
    (Client::new(config).unwrap(), wires)
}

/// Scenario: the leader is well, and has the other nodes; only the client does not reach it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_reach_the_leader_is_served_by_the_others() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (client, wires) = behind_wires(&cluster, PATIENCE).await;
    wires[&leader].cut(true);
    let created = client.put("a", "1").await.unwrap();
    let record = client.get("a").await.unwrap().unwrap();
    assert_eq!((record.version, &record.value[..]), (1, &b"1"[..]));
    let expect = ExpectKey::ModRevision(created);
    let swapped = client.compare_and_set("a", expect, Some(Bytes::from("2"))).await.unwrap();
    assert_eq!(swapped, WriteOutcome::Put { revision: created + 1 });
    assert_eq!(client.range("", None, 10, false).await.unwrap().records.len(), 1);
    assert_eq!(client.stats().await.unwrap().keys, 1);
    let mut dump = client.dump("");
    assert_eq!(dump.next().await.unwrap().unwrap().len(), 1);
    assert!(dump.next().await.is_none());
    // With the wire mended it goes back to the leader: the others are not needed any more.
    for (node, wire) in &wires {
        wire.cut(*node != leader);
    }
    assert_eq!(client.delete("a").await.unwrap(), Some(created + 2));
}

/// The wire is cut while writes are under way: some were applied whose answers are lost. Each counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_were_under_way_to_the_leader_are_repeated_elsewhere_and_count_once() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (client, wires) = behind_wires(&cluster, PATIENCE).await;
    client.put("a", "0").await.unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for number in 1..=200 {
        let client = client.clone();
        puts.spawn(async move { client.put("a", number.to_string()).await });
        if number == 100 {
            tokio::task::yield_now().await;
            wires[&leader].cut(true);
        }
    }
    for put in puts.join_all().await {
        put.unwrap();
    }
    assert_eq!(client.get("a").await.unwrap().unwrap().version, 201);
}

/// Scenario: every packet is lost for longer than any connection lasts, and nobody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_back_soon_after_a_long_silence() {
    let cluster = Cluster::start(3).await;
    let (client, wires) = behind_wires(&cluster, PATIENCE).await;
    client.put("a", "1").await.unwrap();
    for wire in wires.values() {
        wire.cut(true);
    }
    let error = client.with_timeout(Duration::from_secs(5)).get("a").await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    for wire in wires.values() {
        wire.cut(false);
    }
    client.with_timeout(Duration::from_secs(10)).get("a").await.unwrap().unwrap();
}

/// A follower: it tells of one leader until it has sent somebody there who then comes back to ask, and of another from then on.
async fn following(
    endpoint: Endpoint,
    first: (u64, String),
    second: (u64, String),
    has_sent: Arc<AtomicBool>,
) {
    let later = Arc::new(AtomicBool::new(false));
    while let Some(stream) = endpoint.accept_service().await {
        let (mut reader, mut writer) = stream.split();
        let (later, has_sent) = (Arc::clone(&later), Arc::clone(&has_sent));
        let (first, second) = (first.clone(), second.clone());
        tokio::spawn(async move {
            while let Ok(Some(frame)) = reader.next().await {
                let mut answer = FrameBuilder::new();
                for request in decode_requests(&frame).unwrap() {
                    if matches!(request.body, Ok(RequestBody::Status)) {
                        later.store(has_sent.load(Ordering::Relaxed), Ordering::Relaxed);
                    }
                    let is_later = later.load(Ordering::Relaxed);
                    let (leader, address) = if is_later { second.clone() } else { first.clone() };
                    let body = if let Ok(RequestBody::Status) = request.body {
                        let term = 5 + u64::from(is_later);
                        let leader = Some(NodeId(leader));
                        ReplyBody::Status(Box::new(report(8, RoleKind::Follower, term, leader)))
                    } else {
                        has_sent.store(true, Ordering::Relaxed);
                        let leader = Some((NodeId(leader), Some(address)));
                        ReplyBody::Failed(Fault::NotLeader { leader })
                    };
                    answer.push_reply(&Reply { id: request.id, body });
                }
                if writer.send(answer.take()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Takes every write.
async fn taking(endpoint: Endpoint) {
    while let Some(stream) = endpoint.accept_service().await {
        let (mut reader, mut writer) = stream.split();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = reader.next().await {
                let mut answer = FrameBuilder::new();
                for request in decode_requests(&frame).unwrap() {
                    let Ok(RequestBody::Command(command)) = request.body else { continue };
                    let response = match Command::decode(&command).unwrap() {
                        Command::OpenSession { .. } => Response::SessionOpened,
                        Command::Write { .. } => {
                            Response::Written(WriteOutcome::Put { revision: 5 })
                        }
                    };
                    let body = ReplyBody::Response(response);
                    answer.push_reply(&Reply { id: request.id, body });
                }
                writer.send(answer.take()).await.unwrap();
            }
        });
    }
}

/// The leader was deposed, and says nothing any more, though its connection is well. The only node that was configured tells of its successor,
/// of which the client knows nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_leader_is_left_when_another_node_tells_of_a_later_one() {
    let id = ClusterId::random().unwrap();
    let ca = ClusterCa::generate(id).unwrap();
    let [eight, nine, ten] = [8, 9, 10].map(|node| bind(&ca, id, node));
    let address = |endpoint: &Endpoint| endpoint.local_addr().to_string();
    let nodes = [(NodeId(8), address(&eight))].into();
    let (first, second) = ((9, address(&nine)), (10, address(&ten)));
    tokio::spawn(following(eight, first, second, Arc::default()));
    tokio::spawn(taking(ten));
    let config = ClientConfig::new(ca.issue_client("tester").unwrap(), id, nodes);
    let client = Client::new(ClientConfig { request_timeout: PATIENCE, ..config }).unwrap();
    assert_eq!(client.put("a", "1").await.unwrap(), 5);
    drop(nine);
}

/// A client whose only node is silent.
fn unheard() -> (Client, std::net::UdpSocket) {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let id = ClusterId::random().unwrap();
    let ca = ClusterCa::generate(id).unwrap();
    let nodes = [(NodeId(1), silent.local_addr().unwrap().to_string())].into();
    let config = ClientConfig::new(ca.issue_client("tester").unwrap(), id, nodes);
    let request_timeout = Duration::MAX;
    (Client::new(ClientConfig { request_timeout, ..config }).unwrap(), silent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_client_fails_whatever_is_asked_of_it() {
    let (client, _silent) = unheard();
    let other = client.clone();
    let waiting = tokio::spawn(async move { other.get("a").await });
    client.with_timeout(Duration::from_millis(1)).get("a").await.unwrap_err();
    client.close().await;
    let closed = async {
        assert!(matches!(waiting.await.unwrap(), Err(ClientError::Closed)));
        assert!(matches!(client.get("a").await, Err(ClientError::Closed)));
        assert!(matches!(client.clone().put("a", "1").await, Err(ClientError::Closed)));
        assert!(matches!(client.status(NodeId(1)).await, Err(ClientError::Closed)));
        let dumped = client.dump("").next().await.unwrap();
        assert!(matches!(dumped, Err(ClientError::Closed)));
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("a closed client lets its caller wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_may_have_a_time_out_of_its_own() {
    let (client, _silent) = unheard();
    let brief = Duration::from_millis(10);
    let error = client.with_timeout(brief).get("a").await.unwrap_err();
    let ClientError::Timeout { after, maybe_applied: false, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(after, brief);
}
