//! What a client and a service make of the other side's silence, of lost connections, and of nonsense.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use common::{Cluster, PATIENCE, bind, report};
use raft_core::{NodeId, RoleKind};
use raft_kv::client::{Client, ClientConfig};
use raft_kv::protocol::{
    Fault, FrameBuilder, Reply, ReplyBody, RequestBody, decode_replies, decode_requests,
};
use raft_kv::{Command, Response, SessionId, Write, WriteOutcome};
use raft_net_quic::pki::ClusterCa;
use raft_net_quic::{ClientEndpoint, ClusterId, Endpoint, ServiceStream};

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes far too long")
}

fn frame(bodies: &[RequestBody]) -> Bytes {
    let mut frame = FrameBuilder::new();
    for (id, body) in (0..).zip(bodies) {
        frame.push_request(id, body);
    }
    frame.take()
}

async fn ask(stream: ServiceStream, bodies: &[RequestBody]) -> Vec<Reply> {
    let (mut reader, mut writer) = stream.split();
    writer.send(frame(bodies)).await.unwrap();
    let mut replies = Vec::new();
    while replies.len() < bodies.len() {
        replies.extend(decode_replies(&reader.next().await.unwrap().unwrap()).unwrap());
    }
    replies.sort_by_key(|reply| reply.id);
    replies
}

/// The connection is dropped right after a write is sent; whether that try arrives or not, the write is applied once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_sent_again_over_another_connection_is_applied_once() {
    patiently(async {
        let cluster = Cluster::start(1).await;
        let leader = cluster.leader().await;
        let address = cluster.addresses[&leader].clone();
        let identity = || cluster.ca.issue_client("tester").unwrap();
        let endpoint = ClientEndpoint::new(identity(), cluster.id).unwrap();
        let session = SessionId(7);
        let open = RequestBody::Command(Command::OpenSession { session }.encode());
        let replies = ask(endpoint.connect(leader, &address).await.unwrap(), &[open]).await;
        assert_eq!(replies[0].body, ReplyBody::Response(Response::SessionOpened));

        let put = |sequence| {
            let write = Write::Put { key: b"k", value: b"v" };
            let command = Command::Write { session, sequence, acked_below: 0, write };
            RequestBody::Command(command.encode())
        };
        for _ in 0..10 {
            let other = ClientEndpoint::new(identity(), cluster.id).unwrap();
            let (_, mut writer) = other.connect(leader, &address).await.unwrap().split();
            writer.send(frame(&[put(0)])).await.unwrap();
        }
        let stream = endpoint.connect(leader, &address).await.unwrap();
        let replies = ask(stream, &[put(0), put(0), put(1)]).await;
        assert_eq!(replies[0].body, replies[1].body);
        let revision = |reply: &Reply| match reply.body {
            ReplyBody::Response(Response::Written(WriteOutcome::Put { revision })) => revision,
            ref other => panic!("{other:?}"),
        };
        assert_eq!(revision(&replies[2]), revision(&replies[0]) + 1);
        let record = cluster.client().get("k").await.unwrap().unwrap();
        assert_eq!(record.version, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_by_itself_and_a_broken_frame_ends_its_stream() {
    patiently(async {
        let cluster = Cluster::start(1).await;
        let leader = cluster.leader().await;
        let address = cluster.addresses[&leader].clone();
        let identity = cluster.ca.issue_client("tester").unwrap();
        let endpoint = ClientEndpoint::new(identity, cluster.id).unwrap();
        let too_long = Write::Put { key: b"k", value: &vec![0; 2 << 20] };
        let session = SessionId(7);
        let too_long = Command::Write { session, sequence: 0, acked_below: 0, write: too_long };
        let bodies = [
            RequestBody::Command(Bytes::from_static(b"nonsense")),
            RequestBody::Command(too_long.encode()),
            RequestBody::Get { key: Bytes::new() },
            RequestBody::Status,
        ];
        let replies = ask(endpoint.connect(leader, &address).await.unwrap(), &bodies).await;
        assert!(matches!(replies[0].body, ReplyBody::Failed(Fault::Malformed { .. })));
        assert!(matches!(replies[1].body, ReplyBody::Failed(Fault::Refused { .. })));
        assert!(matches!(replies[2].body, ReplyBody::Failed(Fault::Refused { .. })));
        assert!(matches!(replies[3].body, ReplyBody::Status(_)));

        let (mut reader, mut writer) = endpoint.connect(leader, &address).await.unwrap().split();
        writer.send(Bytes::from_static(&[1, 255, 255, 255, 255])).await.unwrap();
        assert!(!matches!(reader.next().await, Ok(Some(_))));
    })
    .await;
}

/// A node that says it leads, sends its first command to node 10, and takes all others.
async fn scripted(endpoint: Endpoint, ten: String) {
    let redirects = Arc::new(AtomicBool::new(true));
    while let Some(stream) = endpoint.accept_service().await {
        let (mut reader, mut writer) = stream.split();
        let (ten, redirects) = (ten.clone(), Arc::clone(&redirects));
        tokio::spawn(async move {
            while let Ok(Some(frame)) = reader.next().await {
                let mut answer = FrameBuilder::new();
                for request in decode_requests(&frame).unwrap() {
                    let body = match request.body.unwrap() {
                        RequestBody::Status => ReplyBody::Status(Box::new(report(
                            9,
                            RoleKind::Leader,
                            5,
                            Some(NodeId(9)),
                        ))),
                        RequestBody::Command(_) if redirects.swap(false, Ordering::Relaxed) => {
                            ReplyBody::Failed(Fault::NotLeader {
                                leader: Some((NodeId(10), Some(ten.clone()))),
                            })
                        }
                        RequestBody::Command(bytes) => {
                            ReplyBody::Response(match Command::decode(&bytes).unwrap() {
                                Command::OpenSession { .. } => Response::SessionOpened,
                                Command::Write { .. } => {
                                    Response::Written(WriteOutcome::Put { revision: 5 })
                                }
                            })
                        }
                        other => panic!("{other:?}"),
                    };
                    answer.push_reply(&Reply { id: request.id, body });
                }
                writer.send(answer.take()).await.unwrap();
            }
        });
    }
}

async fn a_client_leaves(ten: impl FnOnce(&ClusterCa, ClusterId) -> (String, Option<Endpoint>)) {
    let id = ClusterId::random().unwrap();
    let ca = ClusterCa::generate(id).unwrap();
    let nine = bind(&ca, id, 9);
    let (address, kept) = ten(&ca, id);
    let nodes = [(NodeId(9), nine.local_addr().to_string())].into();
    tokio::spawn(scripted(nine, address));
    let config = ClientConfig::new(ca.issue_client("tester").unwrap(), id, nodes);
    let client = Client::new(ClientConfig { request_timeout: PATIENCE, ..config }).unwrap();
    assert_eq!(client.put("a", "1").await.unwrap(), 5);
    drop(kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_answers_nothing_is_left_for_another() {
    patiently(a_client_leaves(|ca, id| {
        // It accepts connections, and nobody reads its streams.
        let ten = bind(ca, id, 10);
        (ten.local_addr().to_string(), Some(ten))
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_not_be_reached_is_left_for_another() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    patiently(a_client_leaves(|_, _| (address, None))).await;
}
