//! Measures this crate on loopback: appends of 256-byte entries one way, 256-byte ping-pong, and pipelined service requests.
//! Both ends run in this process. `cargo run --release -p raft-net-quic --example loopback`.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::{
    Body, Entries, Entry, Index, LogPosition, Message, NodeId, Payload, StoreId, StoreStamp, Term,
};
use raft_net_quic::pki::ClusterCa;
use raft_net_quic::{ClientEndpoint, ClusterId, Endpoint, EndpointConfig, PeerAddress};
use raft_node::{Delivery, Inbox, PeerMessage, Transport};
use tokio::sync::mpsc::Receiver;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ENTRY_BYTES: usize = 256;

fn append(first: u64, count: u64) -> Outcome<PeerMessage> {
    let entry = |index| Entry {
        term: Term(1),
        index: Index(index),
        payload: Payload::Command(Bytes::from_static(&[7; ENTRY_BYTES])),
    };
    let entries = Entries::try_from_vec((first..first + count).map(entry).collect())?;
    let prev = LogPosition { index: Index(first - 1), term: Term(1) };
    let body = Body::Append { prev, entries, commit: Index(0) };
    Ok(PeerMessage::Raft(Message { term: Term(1), body }))
}

fn bind(ca: &ClusterCa, node: u64) -> Outcome<Endpoint> {
    let identity = ca.issue_node(NodeId(node), &[])?;
    let listen = ([127, 0, 0, 1], 0).into();
    Ok(Endpoint::bind(EndpointConfig::new(listen, identity, NodeId(node), ca.cluster()))?)
}

/// Where messages come from: a store, in its first life.
fn stamp(id: u64) -> StoreStamp {
    StoreStamp { id: StoreId(id), life: 1, nonce: 0 }
}

async fn message(inbox: &mut Receiver<Delivery>) -> Outcome<Message> {
    loop {
        match inbox.recv().await {
            Some(Delivery::Message { message: PeerMessage::Raft(message), .. }) => {
                return Ok(message);
            }
            Some(_) => {}
            None => return Err("the transport is gone".into()),
        }
    }
}

async fn peers(ca: &ClusterCa) -> Outcome<()> {
    let ends = [bind(ca, 1)?, bind(ca, 2)?];
    let all: BTreeMap<NodeId, PeerAddress> =
        [1, 2].map(NodeId).into_iter().zip(ends.iter().map(|e| e.local_addr().into())).collect();
    let [mut one, mut two] = ends.map(|end| end.transport(all.clone()));
    let (inbox, mut at_one) = Inbox::channel(1024);
    one.start(inbox, stamp(1))?;
    let (inbox, mut at_two) = Inbox::channel(1024);
    two.start(inbox, stamp(2))?;
    // Connections, and the search for the largest datagram, take a moment.
    tokio::time::sleep(Duration::from_millis(500)).await;

    let mut times = Vec::new();
    for round in 1..=20_000 {
        let started = Instant::now();
        one.send(NodeId(2), append(round, 1)?);
        one.flush();
        message(&mut at_two).await?;
        two.send(NodeId(1), append(round, 1)?);
        two.flush();
        message(&mut at_one).await?;
        times.push(started.elapsed());
    }
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!("ping-pong of 1 entry: p50 {:?}, p99 {:?}", at(50), at(99));

    for batch in [16_u64, 256, 4096] {
        let rounds = (2_000_000 / batch).min(20_000);
        let window = (2 << 20) / (batch * 320) + 2;
        let (mut sent, mut received) = (0, 0);
        let message_of = append(1, batch)?;
        let started = Instant::now();
        while received < rounds {
            while sent < rounds && sent - received < window {
                one.send(NodeId(2), message_of.clone());
                sent += 1;
            }
            one.flush();
            message(&mut at_two).await?;
            received += 1;
            while let Ok(delivery) = at_two.try_recv() {
                received += u64::from(matches!(delivery, Delivery::Message { .. }));
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let entries = (rounds * batch) as f64;
        println!(
            "appends of {batch} entries: {:.0} MB/s, {:.0} entries/s",
            entries * ENTRY_BYTES as f64 / seconds / 1e6,
            entries / seconds
        );
    }
    Ok(())
}

async fn services(ca: &ClusterCa) -> Outcome<()> {
    let endpoint = bind(ca, 1)?;
    let address = endpoint.local_addr().to_string();
    tokio::spawn(async move {
        while let Some(stream) = endpoint.accept_service().await {
            let (mut reader, mut writer) = stream.split();
            tokio::spawn(async move {
                let mut frames = Vec::new();
                while let Ok(true) = reader.next_batch(&mut frames).await {
                    if writer.send_all(&mut frames).await.is_err() {
                        return;
                    }
                    frames.clear();
                }
            });
        }
    });
    let client = ClientEndpoint::new(ca.issue_client("bench")?, ca.cluster())?;
    let (mut reader, mut writer) = client.connect(NodeId(1), &address).await?.split();
    let frame = Bytes::from_static(&[7; ENTRY_BYTES]);
    for in_flight in [1_usize, 64, 1024] {
        let rounds = if in_flight == 1 { 20_000 } else { 1_000_000 };
        let (mut sent, mut received) = (0, 0);
        let mut got = Vec::new();
        let started = Instant::now();
        while received < rounds {
            let more = (in_flight - (sent - received)).min(rounds - sent);
            writer.send_all(&mut vec![frame.clone(); more]).await?;
            sent += more;
            reader.next_batch(&mut got).await?;
            received += got.len();
            got.clear();
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "echo of 256 bytes, {in_flight} in flight: {:.0}/s, {:.1} µs each round",
            rounds as f64 / seconds,
            seconds * 1e6 / rounds as f64 * in_flight as f64
        );
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let ca = ClusterCa::generate(ClusterId::random()?)?;
    peers(&ca).await?;
    services(&ca).await
}
