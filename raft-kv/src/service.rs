//! The service: what clients ask over QUIC is put to the node, many requests at once. Not about what requests mean (that is the state machine's
//! affair) nor about who may connect (the certificates decide that).
//!
//! All commands of a frame are one proposal, and all reads of a frame one ReadIndex round. Frames are answered as they finish, not
//! in their order. A client that sends more than [`ServiceOptions::frames_in_flight_max`], or more than its share of what may be received
//! and of what may wait to be sent ([`Limits`](raft_net_quic::Limits)), is read from no further until its answers are out. What is put to the
//! node takes turns by certificate and connection (`fair`).
//!
//! A client that does not reach the leader may ask any member ([`ServeAt::AnyMember`](crate::protocol::ServeAt::AnyMember)). Reads are then
//! served there; writes are passed on to the leader if the node's configuration has
//! [`forward_proposals`](raft_core::Config::forward_proposals).

mod dump;
mod fair;
mod frame;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::NodeId;
use raft_net_quic::{Endpoint, Throttle};
use raft_node::{NodeHandle, NodeStatus};
use tokio::task::JoinSet;

use crate::KvMachine;
use fair::{Gate, Room};

/// Settings of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Where the members are (`host:port`, this one included), as told to clients that ask the wrong one.
    pub addresses: BTreeMap<NodeId, String>,
    /// The version that a status shows.
    pub version: String,
    /// Something about this node's configuration that its status tells; none unless set.
    pub notice: Option<String>,
    /// How many frames of one stream may be worked on at a time; default 1,024.
    pub frames_in_flight_max: u32,
    /// How many bytes of commands go into one proposal; must be well below the node's quota. Default 4 MiB.
    pub proposal_bytes_max: usize,
    /// How many dumps may be under way at a time, over all clients, half of them of one certificate; further ones are told that the node is
    /// busy. Default 4.
    pub dumps_max: usize,
    /// How many bytes a dump may hold in memory, of what is overwritten before it was sent; a reader that is so much slower than the
    /// writes is told to start again. Default 64 MiB.
    pub dump_kept_bytes_max: usize,
    /// How long the reader of a dump may take nothing of it, until the dump is ended; default 20 s.
    pub dump_stall_timeout: Duration,
    /// How long a shutdown waits for answers to get out; default 1 s.
    pub drain_timeout: Duration,
}

impl ServiceOptions {
    /// The defaults.
    pub fn new(addresses: BTreeMap<NodeId, String>) -> ServiceOptions {
        ServiceOptions {
            addresses,
            version: env!("CARGO_PKG_VERSION").into(),
            notice: None,
            frames_in_flight_max: 1024,
            proposal_bytes_max: 4 << 20,
            dumps_max: 4,
            dump_kept_bytes_max: 64 << 20,
            dump_stall_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(1),
        }
    }
}

/// What all streams share.
struct Shared {
    node: NodeHandle<KvMachine>,
    status: tokio::sync::watch::Receiver<NodeStatus>,
    options: ServiceOptions,
    started: Instant,
    listening: String,
    dumps: dump::Dumps,
    /// Turns of what is proposed, by bytes.
    proposals: Arc<Gate>,
    /// Turns of what is read, by about the bytes of the answers.
    reads: Arc<Gate>,
    /// For lines about frames that make no sense.
    nonsense: Throttle,
}

/// A mebibyte is written and replicated in some milliseconds. Alone, several at a time keep disks and network busy.
const PROPOSALS: Room =
    Room { connection: 128 << 10, certificate: 1 << 20, alone: 8 << 20, in_company: 1 << 20 };
/// A page of a range is a mebibyte, and keeps the thread that applies commands from them for about a millisecond.
const READS: Room =
    Room { connection: 256 << 10, certificate: 1 << 20, alone: 8 << 20, in_company: 2 << 20 };

/// Serves until `shutdown` resolves or the endpoint is closed. Must be called within a tokio runtime.
pub async fn serve(
    endpoint: Endpoint,
    node: NodeHandle<KvMachine>,
    options: ServiceOptions,
    shutdown: impl Future<Output = ()>,
) {
    let drain_timeout = options.drain_timeout;
    let shared = Arc::new(Shared {
        status: node.watch_status(),
        node,
        started: Instant::now(),
        listening: endpoint.local_addr().to_string(),
        dumps: dump::Dumps::new(options.dumps_max),
        proposals: Gate::new(PROPOSALS),
        reads: Gate::new(READS),
        nonsense: Throttle::default(),
        options,
    });
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let mut streams = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = streams.join_next() => {}
            // How many there are is bounded by the endpoint.
            stream = endpoint.accept_service() => {
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
