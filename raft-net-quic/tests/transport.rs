//! Two nodes on loopback: everything arrives, in spite of clogged classes and restarts.

mod common;

use bytes::Bytes;
use common::{Cluster, Running, heartbeat, until_connected};
use raft_core::{
    AppendOutcome, Body, Entries, Entry, Index, LogPosition, Membership, Message, NodeId, Payload,
    SnapshotMeta, SnapshotOutcome, StoreId, Term, TrafficClass,
};
use raft_net_quic::{Endpoint, EndpointConfig, Limits, PeerAddress, QueueLimits};
use raft_node::{PeerMessage, SnapshotChunk, SnapshotFrame, Transport};

fn at(index: u64) -> LogPosition {
    LogPosition { index: Index(index), term: Term(3) }
}

fn entries(first: u64, sizes: &[usize]) -> Entries {
    let entry = |(size, index): (&usize, u64)| Entry {
        term: Term(3),
        index: Index(index),
        payload: Payload::Command(vec![index as u8; *size].into()),
    };
    Entries::try_from_vec(sizes.iter().zip(first..).map(entry).collect()).unwrap()
}

fn bulk(offset: u64) -> PeerMessage {
    let data = Bytes::from(vec![offset as u8; SnapshotChunk::DATA_BYTES_MAX]);
    let chunk = SnapshotChunk::Data { offset, data, checksum: 9 };
    PeerMessage::Snapshot(SnapshotFrame { term: Term(3), position: at(5), chunk })
}

fn every_kind() -> Vec<PeerMessage> {
    let membership = Membership {
        voters: [NodeId(1), NodeId(2)].into(),
        outgoing: [NodeId(3)].into(),
        learners: [NodeId(u64::MAX)].into(),
        witnesses: [NodeId(2)].into(),
        stores: [(NodeId(1), StoreId(u64::MAX))].into(),
    };
    let mut mixed: Vec<Entry> = entries(6, &[0, 1, 300, 5_000, 200_000]).iter().cloned().collect();
    mixed.push(Entry { term: Term(4), index: Index(11), payload: Payload::Empty });
    let payload = Payload::Membership(membership.clone().into());
    mixed.push(Entry { term: Term(4), index: Index(12), payload });
    let append = |entries| Body::Append { prev: at(5), entries, commit: Index(4) };
    let response = |outcome| Body::SnapshotResponse { position: at(5), outcome };
    let bodies = [
        Body::PreVote { last: at(5) },
        Body::PreVoteResponse { granted: true },
        Body::Vote { last: at(5), transfer: false },
        Body::VoteResponse { granted: false },
        append(Entries::new()),
        append(Entries::try_from_vec(mixed).unwrap()),
        Body::AppendResponse(AppendOutcome::Accepted { matched: Index(8) }),
        Body::AppendResponse(AppendOutcome::Rejected { prev: Index(8), hint: at(7) }),
        Body::Heartbeat { commit: Index(8), read_context: 77 },
        Body::HeartbeatResponse { read_context: 77 },
        Body::SnapshotOffer {
            snapshot: SnapshotMeta { position: at(5), membership: membership.into() },
        },
        response(SnapshotOutcome::Wanted),
        response(SnapshotOutcome::Matched(Index(5))),
        response(SnapshotOutcome::Failed),
    ];
    let chunks = [
        SnapshotChunk::End { size_bytes: 1 << 40, digest: [7; 32] },
        SnapshotChunk::Ack { offset: 12 },
        SnapshotChunk::Abort,
    ];
    let snapshot = |chunk| SnapshotFrame { term: Term(3), position: at(5), chunk };
    bodies
        .into_iter()
        .map(|body| PeerMessage::Raft(Message { term: Term(3), body }))
        .chain(chunks.into_iter().map(|chunk| PeerMessage::Snapshot(snapshot(chunk))))
        .chain([bulk(1)])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_message_arrives_in_order_within_its_class() {
    let (mut one, mut two) = Cluster::new().pair(&Limits::default());
    until_connected(&mut one, &mut two, 2).await;
    let sent = every_kind();
    for message in &sent {
        one.transport.send(NodeId(2), message.clone());
    }
    one.transport.flush();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let (from, message) = two.message().await;
        assert_eq!(from, NodeId(1));
        if message != heartbeat(0) {
            received.push(message);
        }
    }
    for class in [TrafficClass::Control, TrafficClass::Append, TrafficClass::Bulk] {
        let of = |all: &[PeerMessage]| {
            all.iter().filter(|message| message.class() == class).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(&received), of(&sent), "{class:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_passes_bulk_and_appends_that_clog_the_way() {
    let limits = Limits {
        bulk_queue: QueueLimits { messages: 1024, bytes: 256 << 20 },
        append_queue: QueueLimits { messages: 1024, bytes: 256 << 20 },
        ..Limits::default()
    };
    let (mut one, mut two) = Cluster::new().pair(&limits);
    until_connected(&mut one, &mut two, 2).await;
    // Far more than any window: the receiver takes none of it, so both classes stand still.
    for offset in 0..200 {
        one.transport.send(NodeId(2), bulk(offset));
        let body = Body::Append {
            prev: at(offset),
            entries: entries(offset + 1, &[256 << 10]),
            commit: Index(0),
        };
        one.transport.send(NodeId(2), PeerMessage::Raft(Message { term: Term(3), body }));
    }
    one.transport.flush();
    while two.message().await.1 == heartbeat(0) {}
    one.send(2, heartbeat(42));
    let mut before = 0;
    while two.message().await.1 != heartbeat(42) {
        before += 1;
    }
    // What the inbox held, and the readers had in hand, could not be passed.
    assert!(before < 200, "{before} of 400 large messages came first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_appends_are_reported_once() {
    let limits =
        Limits { append_queue: QueueLimits { messages: 2, bytes: 1 << 20 }, ..Limits::default() };
    let (mut one, mut two) = Cluster::new().pair(&limits);
    until_connected(&mut one, &mut two, 2).await;
    while one.inbox.try_recv().is_ok() {}
    let body = Body::Append { prev: at(5), entries: entries(6, &[100]), commit: Index(0) };
    let append = PeerMessage::Raft(Message { term: Term(3), body });
    // The driver does not yield here, but writers run on other threads: so many at once can not be kept up with.
    for _ in 0..2_000 {
        one.transport.send(NodeId(2), append.clone());
    }
    one.transport.flush();
    assert_eq!(one.unreachable().await, NodeId(2));
    one.send(2, heartbeat(42));
    while two.message().await.1 != heartbeat(42) {}
    assert!(one.inbox.try_recv().is_err(), "one report for one episode");
}

/// Known failure 19: back-off that outlives the outage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_reached_again_at_once() {
    let cluster = Cluster::new();
    let long = std::time::Duration::from_secs(600);
    // With such waits only a cleared back-off can pass the test.
    let limits = Limits { backoff_min: long, backoff_max: long, ..Limits::default() };
    let (mut one, mut two) = {
        let bind = |node: u64| {
            let config = EndpointConfig { limits: limits.clone(), ..cluster.config(node) };
            Endpoint::bind(config).unwrap()
        };
        let (one, two) = (bind(1), bind(2));
        let addresses = [one.local_addr(), two.local_addr()];
        (Running::start(one, &[(2, addresses[1])]), Running::start(two, &[(1, addresses[0])]))
    };
    until_connected(&mut one, &mut two, 2).await;
    until_connected(&mut two, &mut one, 1).await;
    let address = two.endpoint.local_addr();
    two.endpoint.close().await;
    drop(two);
    assert_eq!(one.unreachable().await, NodeId(2));

    let started = std::time::Instant::now();
    let endpoint = loop {
        // The old socket is released by its tasks a moment after the drop.
        let config = EndpointConfig { listen: address, ..cluster.config(2) };
        match Endpoint::bind(config) {
            Ok(endpoint) => break endpoint,
            Err(error) => assert!(started.elapsed() < common::PATIENCE, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let mut two = Running::start(endpoint, &[(1, one.endpoint.local_addr())]);
    until_connected(&mut one, &mut two, 2).await;
    until_connected(&mut two, &mut one, 1).await;
}

/// A process that is killed says nothing. Its successor's first call shows that the old connection leads nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_replaces_a_peer_that_vanished_without_a_word() {
    let cluster = Cluster::new();
    let silent = std::time::Duration::from_secs(600);
    let limits = Limits { idle_timeout: silent, ..Limits::default() };
    let (mut one, mut two) = cluster.pair(&limits);
    until_connected(&mut one, &mut two, 2).await;
    // The successor appears elsewhere, while the old process still holds its end open and is silent, as a lost machine would.
    let successor = cluster.bind(2);
    one.transport.peers().insert(NodeId(2), PeerAddress::from(successor.local_addr()));
    let mut successor = Running::start(successor, &[(1, one.endpoint.local_addr())]);
    assert_eq!(one.unreachable().await, NodeId(2));
    until_connected(&mut one, &mut successor, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_may_come_and_go_while_the_transport_runs() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.bind(1), cluster.bind(2));
    let addresses = [one.local_addr(), two.local_addr()];
    let mut one = Running::start(one, &[]);
    let mut two = Running::start(two, &[(1, addresses[0])]);
    one.transport.peers().insert(NodeId(2), addresses[1].into());
    assert_eq!(one.transport.peers().list(), [NodeId(2)]);
    until_connected(&mut one, &mut two, 2).await;
    until_connected(&mut two, &mut one, 1).await;
    one.transport.peers().remove(NodeId(2));
    assert_eq!(two.unreachable().await, NodeId(1));
}
