//! Those whom the accepting side has to refuse before it knows them, and what must not count twice. Tests only; `docs/src/security.md` lists
//! these rows with all others.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection};
use raft_core::{Body, Message, NodeId, Term};
use raft_node::{Delivery, PeerMessage};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UdpSocket;

use crate::accept_tests::{CLUSTER, World, hello, world, world_with};
use crate::client::dial;
use crate::error::lost;
use crate::hello::introduce;
use crate::identity::node_dns_name;
use crate::pki::{Usage, provider};
use crate::wire::{Encoder, WireLimits};
use crate::{CloseCode, Limits, NetError, tls, tuning};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a client of TLS says that shows this chain, or none.
fn config(
    world: &World,
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> ClientConfig {
    let roots = world.ca.issue_client("roots").unwrap().roots();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((chain, key)) => builder.with_client_auth_cert(vec![chain], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"raft/1".to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    config.transport_config(tuning::dialing(&Limits::default()));
    config
}

async fn connect(world: &World, config: ClientConfig) -> Connection {
    let name = node_dns_name(NodeId(1), CLUSTER);
    let connecting = world.socket.connect_with(config, world.endpoint.local_addr(), &name);
    connecting.unwrap().await.unwrap()
}

async fn refusal(
    world: &World,
    shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> String {
    let connection = connect(world, config(world, shown)).await;
    match introduce(&connection, &hello(2), "node 1").await {
        Err(NetError::Refused { code: CloseCode::Certificate, reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_nobody_gets_in() {
    let reason = refusal(&world(), None).await;
    assert!(reason.contains("none was presented"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_out_of_its_time_is_refused() {
    let world = world();
    for years in [(2020, 2021), (2100, 2120)] {
        let odd = world.ca.issue_odd(NodeId(2), years, Usage::Both);
        let reason = refusal(&world, Some(odd)).await;
        assert!(reason.contains("expired or is not valid yet"), "{years:?}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_servers_alone_dials_nobody() {
    let world = world();
    let odd = world.ca.issue_odd(NodeId(2), (2020, 2120), Usage::ServerOnly);
    let reason = refusal(&world, Some(odd)).await;
    assert!(reason.contains("does not accept this certificate"), "{reason}");
}

/// One that begins its hello and goes to sleep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_does_not_end_is_not_waited_for() {
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let world = world_with(limits);
    let identity = world.ca.issue_client("slow").unwrap();
    let dialing = tls::client(&identity, tuning::dialing(&Limits::default())).unwrap();
    let connection = connect(&world, dialing).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(b"RAF").await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("in time");
    assert!(matches!(lost("it", &closed), NetError::Refused { .. }), "{closed}");
}

/// A proxy keeps every datagram of a peer, and sends all of them once more: nothing is delivered twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_are_sent_again_deliver_nothing_again() {
    let mut world = world();
    let server = world.endpoint.local_addr();
    let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = front.local_addr().unwrap();
    let (kept, mut seen) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    let (front, back) = (Arc::new(front), Arc::new(back));
    let proxy = (Arc::clone(&front), Arc::clone(&back));
    let proxying = tokio::spawn(async move {
        let (front, back) = proxy;
        let (mut client, mut there, mut here) = (None, vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                Ok((bytes, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    let _ = kept.send(there[..bytes].to_vec());
                    let _ = back.send_to(&there[..bytes], server).await;
                }
                Ok((bytes, _)) = back.recv_from(&mut here) => {
                    if let Some(client) = client {
                        let _ = front.send_to(&here[..bytes], client).await;
                    }
                }
            }
        }
    });
    let two = world.ca.issue_node(NodeId(2), &[]).unwrap();
    let dialing = tls::client(&two, tuning::dialing(&Limits::default())).unwrap();
    let (connection, _) = dial(&world.socket, &dialing, &at.to_string(), &hello(2)).await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    // The class: control.
    stream.write_all(&[1]).await.unwrap();
    let mut send = async |term: u64| {
        let message =
            Message { term: Term(term), body: Body::HeartbeatResponse { read_context: term } };
        let mut encoder = Encoder::new(WireLimits { frame_bytes_max: 1 << 20 });
        let frame = encoder.encode(&PeerMessage::Raft(message)).unwrap();
        for part in frame.parts() {
            stream.write_all(&part).await.unwrap();
        }
    };
    send(7).await;
    assert_eq!(term_of(world.inbox.recv().await), Some(7));
    while let Ok(datagram) = seen.try_recv() {
        back.send_to(&datagram, server).await.unwrap();
    }
    send(8).await;
    assert_eq!(term_of(world.inbox.recv().await), Some(8), "and not the first once more");
    assert!(connection.close_reason().is_none());
    proxying.abort();
}

fn term_of(delivery: Option<Delivery>) -> Option<u64> {
    match delivery? {
        Delivery::Message { message: PeerMessage::Raft(message), .. } => Some(message.term.0),
        _ => None,
    }
}
