//! Service streams, and who is refused and how.

mod common;

use bytes::Bytes;
use common::{Cluster, PATIENCE, Running, connect_error, heartbeat, until_connected};
use raft_core::NodeId;
use raft_net_quic::{ClientEndpoint, Endpoint, EndpointConfig, Limits, NetError, PeerIdentity};

/// Answers every frame with itself.
fn echo(endpoint: Endpoint) {
    tokio::spawn(async move {
        while let Some(stream) = endpoint.accept_service().await {
            assert_eq!(stream.peer, PeerIdentity::Client { name: "tester".into() });
            let (mut reader, mut writer) = stream.split();
            tokio::spawn(async move {
                let mut frames = Vec::new();
                while let Ok(true) = reader.next_batch(&mut frames).await {
                    writer.send_all(&mut frames).await.unwrap();
                    frames.clear();
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_pipelined_and_streams_share_a_connection() {
    let cluster = Cluster::new();
    let endpoint = cluster.bind(1);
    let address = endpoint.local_addr().to_string();
    echo(endpoint.clone());
    let client = cluster.client();
    let mut tasks = tokio::task::JoinSet::new();
    for stream in 0..4_u8 {
        let stream_of = client.connect(NodeId(1), &address).await.unwrap();
        assert_eq!(stream_of.peer, PeerIdentity::Node(NodeId(1)));
        tasks.spawn(async move {
            let (mut reader, mut writer) = stream_of.split();
            let frame = |i: usize| Bytes::from(vec![stream ^ i as u8; (i * 37) % 5_000]);
            let sender = async {
                for i in 0..500 {
                    let whole = frame(i);
                    let mut parts =
                        [whole.slice(..whole.len() / 2), whole.slice(whole.len() / 2..)];
                    writer.send_parts(&mut parts).await.unwrap();
                }
                writer.finish().unwrap();
            };
            let receiver = async {
                for i in 0..500 {
                    assert_eq!(reader.next().await.unwrap().unwrap(), frame(i), "{i}");
                }
                assert_eq!(reader.next().await.unwrap(), None);
            };
            tokio::join!(sender, receiver);
        });
    }
    tokio::time::timeout(PATIENCE, tasks.join_all()).await.unwrap();
    client.close().await;
    endpoint.close().await;
    assert!(endpoint.accept_service().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversize_frame_is_refused_on_both_sides() {
    let cluster = Cluster::new();
    let limits = Limits { service_frame_bytes_max: 1_000, ..Limits::default() };
    let endpoint = Endpoint::bind(EndpointConfig { limits, ..cluster.config(1) }).unwrap();
    let client = cluster.client();
    let address = endpoint.local_addr().to_string();
    let (_, mut writer) = client.connect(NodeId(1), &address).await.unwrap().split();
    let error = writer.send(vec![0; 9 << 20].into()).await.unwrap_err();
    assert!(matches!(error, NetError::FrameTooLarge { bytes, .. } if bytes == 9 << 20), "{error}");
    writer.send(vec![0; 1_001].into()).await.unwrap();
    let (mut reader, _) = endpoint.accept_service().await.unwrap().split();
    let error = reader.next().await.unwrap_err();
    assert!(matches!(error, NetError::FrameTooLarge { bytes: 1_001, max: 1_000 }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_tells_the_client_what_is_wrong() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let endpoint = cluster.bind(1);
    let address = endpoint.local_addr().to_string();

    // Another cluster's client does not trust the server.
    let stranger = other.client();
    let error = connect_error(&stranger, 1, &address).await;
    assert!(matches!(error, NetError::WrongCertificate { .. }), "{error}");
    assert!(!error.is_transient());

    // The right cluster, the wrong node.
    let client = cluster.client();
    let error = connect_error(&client, 2, &address).await;
    assert!(matches!(error, NetError::WrongNode { expected: NodeId(2), .. }), "{error}");

    // Nobody there: a socket that does not answer.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let limits =
        Limits { connect_timeout: std::time::Duration::from_millis(50), ..Limits::default() };
    let identity = cluster.ca.issue_client("hasty").unwrap();
    let hasty = ClientEndpoint::with_limits(&identity, cluster.id, limits).unwrap();
    let error = connect_error(&hasty, 1, &silent.local_addr().unwrap().to_string()).await;
    assert!(matches!(error, NetError::Unreachable { node: NodeId(1), .. }), "{error}");
    assert!(error.is_transient());
    let error = connect_error(&client, 1, "no-such-host.invalid:1").await;
    assert!(matches!(error, NetError::Resolve { .. }), "{error}");

    // The client itself is told before it says anything that its certificate is of another cluster.
    let identity = other.ca.issue_client("x").unwrap();
    let error = ClientEndpoint::new(identity, cluster.id).unwrap_err();
    assert!(matches!(error, NetError::NotMyCertificate { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_binds_under_another_name() {
    let cluster = Cluster::new();
    for (identity, says) in [
        (cluster.ca.issue_node(NodeId(2), &[]).unwrap(), "node 2"),
        (cluster.ca.issue_client("tester").unwrap(), "client \"tester\""),
        (Cluster::new().ca.issue_node(NodeId(1), &[]).unwrap(), "belongs to cluster"),
    ] {
        let config = EndpointConfig { identity, ..cluster.config(1) };
        let error = Endpoint::bind(config).unwrap_err();
        assert!(matches!(error, NetError::NotMyCertificate { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_no_peer_gets_services_but_delivers_nothing() {
    let cluster = Cluster::new();
    let one = cluster.bind(1);
    let address = one.local_addr();
    let mut one = Running::start(one, &[]);
    let stranger = cluster.bind(3);
    let mut stranger = Running::start(stranger, &[(1, address)]);
    for _ in 0..20 {
        stranger.send(1, heartbeat(1));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(one.inbox.try_recv().is_err());
    // Once it is a peer, it is let in.
    one.transport.peers().insert(NodeId(3), stranger.endpoint.local_addr().into());
    until_connected(&mut stranger, &mut one, 1).await;

    let identity = cluster.ca.issue_node(NodeId(4), &[]).unwrap();
    let as_client = ClientEndpoint::new(identity, cluster.id).unwrap();
    let stream = as_client.connect(NodeId(1), &address.to_string()).await.unwrap();
    let (_, mut writer) = stream.split();
    writer.send(Bytes::from_static(b"x")).await.unwrap();
    let accepted = one.endpoint.accept_service().await.unwrap();
    assert_eq!(accepted.peer, PeerIdentity::Node(NodeId(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_certificate_is_used_from_the_next_connection_on() {
    let cluster = Cluster::new();
    let endpoint = cluster.bind(1);
    let address = endpoint.local_addr().to_string();
    endpoint.replace_identity(&cluster.ca.issue_node(NodeId(1), &[]).unwrap()).unwrap();
    cluster.client().connect(NodeId(1), &address).await.unwrap();
    let wrong = cluster.ca.issue_node(NodeId(2), &[]).unwrap();
    assert!(matches!(endpoint.replace_identity(&wrong), Err(NetError::NotMyCertificate { .. })));
}

/// A node is killed: nobody is told. Started again on the same address, it ends its predecessor's connections at the first packet,
/// long before they are found to be idle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_ends_the_connections_of_its_predecessor() {
    let cluster = Cluster::new();
    // Connections are never idle here, so that only a reset can end one.
    let limits = Limits { idle_timeout: PATIENCE * 100, ..Limits::default() };
    let config = EndpointConfig { limits: limits.clone(), ..cluster.config(1) };
    let (started, address) = std::sync::mpsc::channel();
    let (kill, killed) = std::sync::mpsc::channel::<()>();
    let first_config = config.clone();
    // As good as a process: nothing of it says anything any more once its runtime is gone.
    let process = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let endpoint = runtime.block_on(async { Endpoint::bind(first_config).unwrap() });
        started.send(endpoint.local_addr()).unwrap();
        let _ = killed.recv();
        runtime.shutdown_timeout(PATIENCE);
    });
    let listen = address.recv().unwrap();
    let identity = cluster.ca.issue_client("tester").unwrap();
    let client = ClientEndpoint::with_limits(&identity, cluster.id, limits).unwrap();
    let stream = client.connect(NodeId(1), &listen.to_string()).await.unwrap();
    let (mut reader, _writer) = stream.split();
    drop(kill);
    process.join().unwrap();

    let second = Endpoint::bind(EndpointConfig { listen, ..config }).unwrap();
    let ended =
        tokio::time::timeout(PATIENCE, reader.next()).await.expect("it waits for a time-out");
    let error = ended.unwrap_err();
    assert!(matches!(error, NetError::ConnectionLost { .. }), "{error}");
    client.connect(NodeId(1), &listen.to_string()).await.unwrap();
    drop(second);
}
