//! The conformance kit for transports: what the driver relies on, checked from outside between two members.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Body, Entries, Entry, Index, LogPosition, Message, NodeId, Payload, StoreId, StoreStamp, Term,
    TrafficClass,
};
use tokio::sync::mpsc::Receiver;

use crate::{Delivery, Inbox, PeerMessage, SnapshotChunk, SnapshotFrame, Transport};

/// A network of members 1 and 2, as [`check_transport`] needs it.
pub trait TestNetwork {
    /// What is put to the test.
    type Transport: Transport;

    /// A transport of this member, which knows the other one, and is not started yet. Called again for a member whose earlier transport was
    /// dropped, it is that member's next process: reachable where the other member looks for it.
    fn plug(&mut self, node: NodeId) -> impl Future<Output = Self::Transport>;
}

/// Puts a [`Transport`] through what its documentation promises: messages arrive unchanged, from whom they are (node and life), and in the order of
/// their class; none is too large that a driver sends; nothing blocks or grows while nobody takes what arrives; and a peer that went away, or that is
/// unknown, does no harm and is reached again when it returns.
///
/// `network` makes a network of its own for each check. Needs a tokio runtime with time and I/O.
///
/// # Panics
/// On the first promise that is broken, saying which. That is its purpose: call it from a test.
pub async fn check_transport<N: TestNetwork>(mut network: impl FnMut() -> N) {
    messages_arrive_unchanged_and_in_order(&mut network()).await;
    large_messages_arrive(&mut network()).await;
    a_flood_that_nobody_takes_neither_blocks_nor_breaks_anything(&mut network()).await;
    an_unknown_peer_and_a_driver_that_is_gone_do_no_harm(&mut network()).await;
    a_peer_that_returns_is_reached_again(&mut network()).await;
}

/// Long enough for any machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a message that may be lost is repeated.
const REPEAT: Duration = Duration::from_millis(5);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const TERM: Term = Term(3);

/// A member with its transport started.
struct Plugged<T> {
    node: NodeId,
    transport: T,
    inbox: Receiver<Delivery>,
    /// The last ping sent; each has a number of its own.
    pings: u64,
    own: StoreStamp,
    /// The latest life of each sender.
    lives: BTreeMap<NodeId, u64>,
}

/// The stamp of a process of this node: another life each time.
fn stamp(node: NodeId) -> StoreStamp {
    static LIVES: AtomicU64 = AtomicU64::new(1);
    let life = LIVES.fetch_add(1, Ordering::Relaxed);
    StoreStamp { id: StoreId(node.0 << 32 | 7), life, nonce: life << 40 | 9 }
}

impl<T: Transport> Plugged<T> {
    async fn start<N: TestNetwork<Transport = T>>(
        network: &mut N,
        node: NodeId,
        inbox_messages_max: usize,
    ) -> Plugged<T> {
        let mut transport = network.plug(node).await;
        let (inbox, receiver) = Inbox::channel(inbox_messages_max);
        let own = stamp(node);
        transport.start(inbox, own).expect("a sound transport starts");
        Plugged { node, transport, inbox: receiver, pings: 0, own, lives: BTreeMap::new() }
    }

    fn send_all(&mut self, to: NodeId, messages: &[PeerMessage]) {
        for message in messages {
            self.transport.send(to, message.clone());
        }
        self.transport.flush();
    }

    /// The next message; reports of lost connections are skipped.
    async fn message(&mut self) -> (NodeId, PeerMessage) {
        loop {
            match self.inbox.recv().await {
                Some(Delivery::Message { from, store, message }) => {
                    let store = store.expect("a message has its sender's stamp");
                    assert_eq!(store.id, stamp(from).id, "the stamp is the sender's");
                    let before = self.lives.insert(from, store.life);
                    assert!(
                        before.is_none_or(|before| before <= store.life),
                        "nothing of an earlier life of node {from} comes after a later one"
                    );
                    return (from, message);
                }
                Some(Delivery::Unreachable(_)) => {}
                None => panic!("the transport of node {} let go of its inbox", self.node),
            }
        }
    }

    /// Repeats a message until it arrives, and returns what came before it. Without a connection messages are lost, which is allowed.
    async fn reach(&mut self, other: &mut Plugged<T>) -> Vec<PeerMessage> {
        self.pings += 1;
        let (to, wanted) = (other.node, ping(self.pings));
        let mut before = Vec::new();
        let reached = async {
            let mut repeat = tokio::time::interval(REPEAT);
            loop {
                tokio::select! {
                    _ = repeat.tick() => self.send_all(to, std::slice::from_ref(&wanted)),
                    (from, message) = other.message() => {
                        assert_eq!(from, self.node, "a message has the sender's id");
                        if message == wanted {
                            assert_eq!(other.lives.get(&from), Some(&self.own.life), "the life");
                            break;
                        }
                        if !is_ping(&message) {
                            before.push(message);
                        }
                    }
                }
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("node {} does not reach node {to}", self.node));
        before
    }

    /// Takes messages until there are so many, apart from pings.
    async fn take(&mut self, count: usize) -> Vec<PeerMessage> {
        let mut taken = Vec::new();
        let all = async {
            while taken.len() < count {
                let (_, message) = self.message().await;
                if !is_ping(&message) {
                    taken.push(message);
                }
            }
        };
        let done = tokio::time::timeout(PATIENCE, all).await.is_ok();
        assert!(done, "of {count} messages over a sound network {} arrived", taken.len());
        taken
    }
}

async fn pair<N: TestNetwork>(
    network: &mut N,
    inbox_messages_max: usize,
) -> (Plugged<N::Transport>, Plugged<N::Transport>) {
    let mut one = Plugged::start(network, ONE, inbox_messages_max).await;
    let mut two = Plugged::start(network, TWO, inbox_messages_max).await;
    one.reach(&mut two).await;
    two.reach(&mut one).await;
    (one, two)
}

fn ping(number: u64) -> PeerMessage {
    let body = Body::HeartbeatResponse { read_context: number };
    PeerMessage::Raft(Message { term: TERM, body })
}

fn is_ping(message: &PeerMessage) -> bool {
    matches!(message, PeerMessage::Raft(Message { body: Body::HeartbeatResponse { .. }, .. }))
}

fn position(index: u64) -> LogPosition {
    LogPosition { index: Index(index), term: TERM }
}

fn vote(index: u64) -> PeerMessage {
    PeerMessage::Raft(Message {
        term: TERM,
        body: Body::Vote { last: position(index), transfer: false },
    })
}

fn append(prev: u64, size: usize) -> PeerMessage {
    let payload = Payload::Command(Bytes::from(vec![prev as u8; size]));
    let entry = Entry { term: TERM, index: Index(prev + 1), payload };
    let entries = Entries::try_from_vec(vec![entry]).expect("one entry is a run");
    let body = Body::Append { prev: position(prev), entries, commit: Index(prev) };
    PeerMessage::Raft(Message { term: TERM, body })
}

fn chunk(offset: u64, size: usize) -> PeerMessage {
    let data = Bytes::from(vec![offset as u8; size]);
    let chunk = SnapshotChunk::Data { offset, data, checksum: offset };
    PeerMessage::Snapshot(SnapshotFrame { term: TERM, position: position(5), chunk })
}

fn by_class(messages: &[PeerMessage]) -> BTreeMap<u8, Vec<&PeerMessage>> {
    let mut classes: BTreeMap<u8, Vec<&PeerMessage>> = BTreeMap::new();
    for message in messages {
        let class = match message.class() {
            TrafficClass::Control => 0,
            TrafficClass::Append => 1,
            TrafficClass::Bulk => 2,
        };
        classes.entry(class).or_default().push(message);
    }
    classes
}

async fn messages_arrive_unchanged_and_in_order<N: TestNetwork>(network: &mut N) {
    let (mut one, mut two) = pair(network, 1024).await;
    let sent: Vec<PeerMessage> = (0..40)
        .flat_map(|number| [vote(number), append(number, 100), chunk(number, 100)])
        .collect();
    one.send_all(TWO, &sent);
    two.send_all(ONE, &sent);
    for member in [&mut two, &mut one] {
        let received = member.take(sent.len()).await;
        assert!(
            by_class(&received) == by_class(&sent),
            "the messages of a class arrive unchanged, once, and in order"
        );
    }
}

async fn large_messages_arrive<N: TestNetwork>(network: &mut N) {
    let (mut one, mut two) = pair(network, 64).await;
    // As large as a driver with its usual settings makes them.
    for message in [append(1, 1 << 20), chunk(1, SnapshotChunk::DATA_BYTES_MAX)] {
        one.send_all(TWO, std::slice::from_ref(&message));
        assert!(two.take(1).await == [message], "a large message arrives unchanged");
    }
}

async fn a_flood_that_nobody_takes_neither_blocks_nor_breaks_anything<N: TestNetwork>(
    network: &mut N,
) {
    let (mut one, mut two) = pair(network, 4).await;
    let flood: Vec<PeerMessage> = (0..20_000).map(|number| append(number, 1000)).collect();
    // Were `send` to wait for room, it would wait for ever: this task is the one that makes room.
    one.send_all(TWO, &flood);
    let mut arrived = one.reach(&mut two).await;
    // What still is under way may come after a message of another class.
    arrived.extend(one.reach(&mut two).await);
    let mut rest = flood.iter();
    for message in &arrived {
        assert!(rest.any(|sent| sent == message), "what arrives of a flood arrives in order, once");
    }
}

async fn an_unknown_peer_and_a_driver_that_is_gone_do_no_harm<N: TestNetwork>(network: &mut N) {
    let (mut one, mut two) = pair(network, 64).await;
    one.send_all(NodeId(99), &[vote(1), append(1, 10)]);
    one.reach(&mut two).await;
    // The driver ends before its transport does.
    let (_, nowhere) = tokio::sync::mpsc::channel(1);
    drop(std::mem::replace(&mut two.inbox, nowhere));
    for number in 0..100 {
        one.send_all(TWO, &[vote(number), append(number, 1000)]);
        tokio::task::yield_now().await;
    }
    two.send_all(ONE, &[vote(7)]);
    drop(two);
    for number in 0..100 {
        one.send_all(TWO, &[vote(number), append(number, 1000)]);
        tokio::task::yield_now().await;
    }
}

async fn a_peer_that_returns_is_reached_again<N: TestNetwork>(network: &mut N) {
    let (mut one, two) = pair(network, 64).await;
    drop(two);
    for number in 0..10 {
        one.send_all(TWO, &[append(number, 1000)]);
        tokio::time::sleep(REPEAT).await;
    }
    let mut two = Plugged::start(network, TWO, 64).await;
    one.reach(&mut two).await;
    two.reach(&mut one).await;
}
