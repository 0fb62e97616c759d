//! What somebody with a certificate, but without manners, gets from the accepting side. Tests only.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use quinn::Connection;
use raft_core::{Body, Message, NodeId, StoreId, StoreStamp, Term};
use raft_node::{Delivery, Inbox, PeerMessage, Transport};
use tokio::sync::mpsc::Receiver;

use crate::client::dial;
use crate::hello::{Hello, Role, VERSIONS};
use crate::pki::{ClusterCa, Identity};
use crate::transport::QuicTransport;
use crate::{
    CloseCode, ClusterId, Endpoint, EndpointConfig, Limits, NetError, PeerAddress, tls, tuning,
};

pub(crate) const CLUSTER: ClusterId = ClusterId([5; 16]);

pub(crate) struct World {
    pub(crate) ca: ClusterCa,
    pub(crate) endpoint: Endpoint,
    _transport: QuicTransport,
    pub(crate) inbox: Receiver<Delivery>,
    pub(crate) socket: quinn::Endpoint,
}

/// Node 1, which has a peer 2 (that never answers), and a socket to bother it from.
pub(crate) fn world() -> World {
    world_with(Limits::default())
}

pub(crate) fn world_with(limits: Limits) -> World {
    let ca = ClusterCa::generate(CLUSTER).unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let identity = ca.issue_node(NodeId(1), &[]).unwrap();
    let config = EndpointConfig::new(listen, identity, NodeId(1), CLUSTER);
    let config = EndpointConfig { limits, ..config };
    let endpoint = Endpoint::bind(config).unwrap();
    let mut transport =
        endpoint.transport(BTreeMap::from([(NodeId(2), PeerAddress::from("127.0.0.1:1"))]));
    let (inbox, receiver) = Inbox::channel(8);
    transport.start(inbox, stamp(1)).unwrap();
    let socket = quinn::Endpoint::client(listen).unwrap();
    World { ca, endpoint, _transport: transport, inbox: receiver, socket }
}

fn stamp(life: u64) -> StoreStamp {
    StoreStamp { id: StoreId(7), life, nonce: 9 }
}

pub(crate) fn hello(claimed: u64) -> Hello {
    Hello {
        versions: VERSIONS,
        role: Role::Peer,
        cluster: CLUSTER,
        claimed: NodeId(claimed),
        target: NodeId(1),
        incarnation: 1,
        store: Some(stamp(1)),
    }
}

impl World {
    async fn dial(&self, identity: &Identity, hello: Hello) -> Result<Connection, NetError> {
        let config = tls::client(identity, tuning::dialing(&Limits::default())).unwrap();
        let address = self.endpoint.local_addr().to_string();
        dial(&self.socket, &config, &address, &hello).await.map(|(connection, _)| connection)
    }

    async fn refusal(&self, identity: &Identity, hello: Hello) -> (CloseCode, String) {
        match self.dial(identity, hello).await {
            Err(NetError::Refused { code, reason, .. }) => (code, reason),
            other => panic!("not refused: {other:?}"),
        }
    }

    /// As `refusal`, for a hello that contradicts the server's certificate: an honest side would end it before the server could.
    async fn late_refusal(&self, identity: &Identity, hello: Hello) -> (CloseCode, String) {
        let config = tls::client(identity, tuning::dialing(&Limits::default())).unwrap();
        let name = crate::identity::node_dns_name(NodeId(1), CLUSTER);
        let connecting = self.socket.connect_with(config, self.endpoint.local_addr(), &name);
        let connection = connecting.unwrap().await.unwrap();
        match crate::hello::introduce(&connection, &hello, "node 1").await {
            Err(NetError::Refused { code, reason, .. }) => (code, reason),
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Writes bytes as node 2 would write a class of messages, and waits for the verdict.
    async fn verdict_on(&self, connection: &Connection, bytes: &[u8]) -> (CloseCode, String) {
        let mut stream = connection.open_uni().await.unwrap();
        // The verdict may come while this is being written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.finish();
        let closed = tokio::time::timeout(Duration::from_secs(20), connection.closed());
        match crate::error::lost("it", &closed.await.unwrap()) {
            NetError::Refused { code, reason, .. } => (code, reason),
            other => panic!("not refused: {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_who_its_certificate_says_and_nobody_else() {
    let world = world();
    let of = |node| world.ca.issue_node(NodeId(node), &[]).unwrap();
    let two = of(2);

    let (code, reason) = world.refusal(&world.ca.issue_client("c").unwrap(), hello(2)).await;
    assert_eq!(code, CloseCode::NotAllowed);
    assert!(reason.contains("client \"c\"") && reason.contains("does not make a peer"), "{reason}");

    let (code, reason) = world.refusal(&of(3), hello(2)).await;
    assert_eq!(code, CloseCode::Identity);
    assert!(reason.contains("node 3") && reason.contains("it says that it is node 2"), "{reason}");

    let (code, reason) = world.refusal(&of(3), hello(3)).await;
    assert_eq!(code, CloseCode::NotAllowed);
    assert!(reason.contains("not a peer of node 1"), "{reason}");

    let (code, reason) = world.late_refusal(&two, Hello { target: NodeId(9), ..hello(2) }).await;
    assert_eq!(code, CloseCode::WrongNode);
    assert!(reason.contains("wants node 9, and this is node 1"), "{reason}");

    let cluster = ClusterId([6; 16]);
    let (code, reason) = world.late_refusal(&two, Hello { cluster, ..hello(2) }).await;
    assert_eq!(code, CloseCode::Identity);
    assert!(reason.contains("belongs to cluster"), "{reason}");

    let (code, reason) = world.refusal(&two, Hello { versions: (7, 9), ..hello(2) }).await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(reason.contains("7 to 9"), "{reason}");

    world.dial(&two, hello(2)).await.unwrap();
}

/// A CA that was made for another cluster, or a second CA of the same name: TLS refuses, and the dialing side learns it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_ca_is_refused_by_the_server() {
    let world = world();
    let other = ClusterCa::generate(CLUSTER).unwrap();
    // It trusts the right CA, but shows the wrong certificate.
    let two = other.issue_node(NodeId(2), &[]).unwrap().trusting(world.ca.cert_pem());
    let (code, reason) = world.refusal(&two, hello(2)).await;
    assert_eq!(code, CloseCode::Certificate);
    assert!(reason.contains("not signed by the cluster's CA"), "{reason}");
    // It trusts the wrong CA.
    let two = other.issue_node(NodeId(2), &[]).unwrap();
    let error = world.dial(&two, hello(2)).await.unwrap_err();
    assert!(matches!(error, NetError::WrongCertificate { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_messages_end_the_connection_with_a_reason() {
    let mut world = world();
    let two = world.ca.issue_node(NodeId(2), &[]).unwrap();
    for (bytes, says) in [
        (&[9][..], "unknown traffic class 9"),
        (&[1, 0xff, 0xff, 0xff, 0xff], "a frame of 4294967295 bytes"),
        (&[1, 2, 0, 0, 0, 0, 0], "the frame ends within its head"),
        (&[1, 5, 0, 0, 0, 1, 0, 0, 0, 0], "the head is not valid"),
        (&[1, 5, 0, 0, 0], "within a frame"),
    ] {
        let connection = world.dial(&two, hello(2)).await.unwrap();
        let (code, reason) = world.verdict_on(&connection, bytes).await;
        assert_eq!(code, CloseCode::Protocol, "{reason}");
        assert!(reason.contains(says), "{reason}");
    }
    assert!(world.inbox.try_recv().is_err(), "nothing of it was believed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connection_of_a_peer_takes_the_firsts_place() {
    let world = world();
    let two = world.ca.issue_node(NodeId(2), &[]).unwrap();
    let first = world.dial(&two, hello(2)).await.unwrap();
    let second = world.dial(&two, hello(2)).await.unwrap();
    let error = crate::error::lost("it", &first.closed().await);
    assert!(matches!(error, NetError::Refused { code: CloseCode::Superseded, .. }), "{error}");
    assert!(second.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_life_of_a_store_is_refused_once_a_later_one_has_connected() {
    let world = world();
    let two = world.ca.issue_node(NodeId(2), &[]).unwrap();
    let of_life = |life| Hello { store: Some(stamp(life)), ..hello(2) };
    let first = world.dial(&two, of_life(4)).await.unwrap();
    let second = world.dial(&two, of_life(5)).await.unwrap();
    let error = crate::error::lost("it", &first.closed().await);
    assert!(matches!(error, NetError::Refused { code: CloseCode::Superseded, .. }), "{error}");
    let (code, reason) = world.refusal(&two, of_life(4)).await;
    assert_eq!(code, CloseCode::NotAllowed);
    assert!(reason.contains("a later start of it (0000000000000007 (life 5))"), "{reason}");
    assert!(second.close_reason().is_none());
    // Another store is no earlier life: the disk was replaced.
    let other = StoreStamp { id: StoreId(8), life: 1, nonce: 1 };
    world.dial(&two, Hello { store: Some(other), ..hello(2) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_carry_the_stamp_of_their_connection_or_none_of_version_1() {
    let mut world = world();
    let two = world.ca.issue_node(NodeId(2), &[]).unwrap();
    let message = PeerMessage::Raft(Message { term: Term(1), body: Body::TimeoutNow });
    let limits = crate::wire::WireLimits { frame_bytes_max: 512 };
    for (versions, store) in [((1, 1), None), (VERSIONS, Some(stamp(3)))] {
        let connection = world.dial(&two, Hello { versions, store, ..hello(2) }).await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[1]).await.unwrap();
        let frame = crate::wire::Encoder::new(limits).encode(&message).unwrap();
        for part in frame.parts() {
            stream.write_all(&part).await.unwrap();
        }
        let delivery = world.inbox.recv().await.unwrap();
        let Delivery::Message { from: NodeId(2), store: told, message: got } = delivery else {
            panic!("{delivery:?}")
        };
        assert_eq!((told, got), (store, message.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever arrives on a stream, in whatever pieces, the frames' memory stays within the limit, and nothing panics.
    #[test]
    fn any_stream_of_bytes_yields_messages_or_an_error(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..32),
    ) {
        let limits = crate::wire::WireLimits { frame_bytes_max: 512 };
        let mut assembler = crate::framing::Assembler::new(512);
        for piece in pieces {
            assembler.push(Bytes::from(piece));
            while let Ok(Some(frame)) = assembler.pop() {
                prop_assert!(frame.len() <= 512);
                let _ = crate::wire::decode(frame, limits);
            }
        }
    }
}

/// A transport that has not started, or has ended, knows no peers: its node must not tell them to be added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_takes_no_peers_nobody_is_called_a_stranger() {
    let world = world();
    drop(world.endpoint.transport(BTreeMap::new()));
    let two = world.ca.issue_node(NodeId(2), &[]).unwrap();
    let (code, reason) = world.refusal(&two, hello(2)).await;
    assert_eq!(code, CloseCode::NotReady, "{reason}");
    assert!(code.is_transient() && reason.contains("starting or stopping"), "{reason}");
}
