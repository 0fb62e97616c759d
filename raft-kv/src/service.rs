//! The service: what clients ask over QUIC is put to the node, many requests at once. Not about what requests mean (that is the state machine's
//! affair) nor about who may connect (the certificates decide that).
//!
//! All commands of a frame are one proposal, and all reads of a frame one ReadIndex round. Frames are answered as they finish, not
//! in their order. A client that sends more than [`ServiceOptions::frames_in_flight_max`] or
//! [`ServiceOptions::bytes_in_flight_max`] is read from no further until its answers are out.

mod dump;
mod frame;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::NodeId;
use raft_net_quic::Endpoint;
use raft_node::NodeHandle;
use tokio::task::JoinSet;

use crate::KvMachine;

/// Settings of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Where the members are (`host:port`, this one included), as told to clients that ask the wrong one.
    pub addresses: BTreeMap<NodeId, String>,
    /// The version that a status shows.
    pub version: String,
    /// How many frames of one client may be worked on at a time; default 1,024.
    pub frames_in_flight_max: u32,
    /// How many bytes of requests of one client may be worked on at a time; default 64 MiB.
    pub bytes_in_flight_max: usize,
    /// How many bytes of commands go into one proposal; must be well below the node's quota. Default 4 MiB.
    pub proposal_bytes_max: usize,
    /// How many streams may be served at a time; further ones wait. Default 4,096.
    pub streams_max: usize,
    /// How many dumps may be under way at a time, over all clients; further ones are told that the node is busy. Default 4.
    pub dumps_max: usize,
    /// How long a shutdown waits for answers to get out; default 1 s.
    pub drain_timeout: Duration,
}

impl ServiceOptions {
    /// The defaults.
    pub fn new(addresses: BTreeMap<NodeId, String>) -> ServiceOptions {
        ServiceOptions {
            addresses,
            version: env!("CARGO_PKG_VERSION").into(),
            frames_in_flight_max: 1024,
            bytes_in_flight_max: 64 << 20,
            proposal_bytes_max: 4 << 20,
            streams_max: 4096,
            dumps_max: 4,
            drain_timeout: Duration::from_secs(1),
        }
    }
}

/// What all streams share.
struct Shared {
    node: NodeHandle<KvMachine>,
    options: ServiceOptions,
    started: Instant,
    listening: String,
    dumps: Arc<tokio::sync::Semaphore>,
}

/// Serves until `shutdown` resolves or the endpoint is closed. Must be called within a tokio runtime.
pub async fn serve(
    endpoint: Endpoint,
    node: NodeHandle<KvMachine>,
    options: ServiceOptions,
    shutdown: impl Future<Output = ()>,
) {
    let streams_max = options.streams_max.max(1);
    let drain_timeout = options.drain_timeout;
    let shared = Arc::new(Shared {
        node,
        started: Instant::now(),
        listening: endpoint.local_addr().to_string(),
        dumps: Arc::new(tokio::sync::Semaphore::new(options.dumps_max)),
        options,
    });
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut streams = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = streams.join_next() => {}
            stream = endpoint.accept_service(), if streams.len() < streams_max => {
                let Some(stream) = stream else { break };
                tracing::debug!(peer = %stream.peer, "a service stream was opened");
                streams.spawn(stream::run(stream, Arc::clone(&shared), stopping.clone()));
            }
        }
    }
    let _ = stop.send(true);
    let drained = async { while streams.join_next().await.is_some() {} };
    if tokio::time::timeout(drain_timeout, drained).await.is_err() {
        tracing::debug!("answers were still under way when the service stopped");
    }
}
