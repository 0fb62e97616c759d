//! What an endpoint is told: where to listen, who it is, and every limit. Not how QUIC is tuned (see `tuning`).

use std::net::SocketAddr;
use std::time::Duration;

use raft_core::NodeId;

use crate::budget::BudgetLimits;
use crate::identity::ClusterId;
use crate::pki::Identity;

/// How to open an [`Endpoint`](crate::Endpoint).
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Where to listen (UDP). Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// This node's certificate, key and CA.
    pub identity: Identity,
    /// Which node this is; the certificate must say the same.
    pub me: NodeId,
    /// Of which cluster; the certificate must say the same.
    pub cluster: ClusterId,
    /// Bounds on everything.
    pub limits: Limits,
}

impl EndpointConfig {
    /// A configuration with default limits.
    pub fn new(listen: SocketAddr, identity: Identity, me: NodeId, cluster: ClusterId) -> Self {
        EndpointConfig { listen, identity, me, cluster, limits: Limits::default() }
    }
}

/// Where a peer is: `host:port`. The host is resolved anew at each connection attempt, so that a machine may move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress(pub String);

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> PeerAddress {
        PeerAddress(address.to_string())
    }
}

impl From<&str> for PeerAddress {
    fn from(address: &str) -> PeerAddress {
        PeerAddress(address.into())
    }
}

impl From<String> for PeerAddress {
    fn from(address: String) -> PeerAddress {
        PeerAddress(address)
    }
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Bounds. Each is there so that nobody outside decides how much memory or how many tasks this process has.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest frame between peers, in bytes; default 16 MiB. Must be at least what the core may put into one append.
    pub peer_frame_bytes_max: usize,
    /// The largest frame of a service stream, in bytes; default 8 MiB.
    pub service_frame_bytes_max: usize,
    /// How many connections of clients may be open; default 1,024. Peers do not count. When all are taken, a certificate that has fewer than
    /// others gets a place of the one that has most.
    pub connections_max: usize,
    /// How many of them may be of one certificate; default 256. A new one takes the place of one that does nothing.
    pub connections_per_certificate_max: usize,
    /// How many service streams may be open beside the first of each connection, which is always there; default 4,096.
    pub streams_max: usize,
    /// How many of them may be of one certificate; default 1,024. Further ones wait.
    pub streams_per_certificate_max: usize,
    /// How many service streams one connection may have open; default 256.
    pub streams_per_connection_max: u32,
    /// How many handshakes may be under way before it is known whose they are; default 256. The oldest makes room for the newest; from an
    /// eighth on, addresses have to be proved. Known addresses of peers do not count.
    pub handshakes_max: usize,
    /// How many of them may come from one IP address; default 128.
    pub handshakes_per_address_max: usize,
    /// What may be held of requests, from the first byte of a frame until it is answered; default 64 KiB for each connection, 80 MiB for each
    /// certificate, 160 MiB for all. What a certificate may have must hold the largest frame.
    pub received: BudgetLimits,
    /// What may be held of answers that the other side has not taken yet; default 64 KiB for each connection, 32 MiB for each certificate,
    /// 64 MiB for all.
    pub unsent: BudgetLimits,
    /// How many accepted service streams may wait for [`Endpoint::accept_service`](crate::Endpoint::accept_service); default 1,024.
    pub services_waiting_max: usize,
    /// How long a handshake (TLS and hello) may take on the accepting side; default 5 s.
    pub handshake_timeout: Duration,
    /// How long a frame of a service stream may take from its first byte to its last, and a new stream to its first frame; default 10 s.
    pub frame_timeout: Duration,
    /// How long answers may lie there without the other side taking any of them; default 30 s. Then the stream is reset.
    pub unread_timeout: Duration,
    /// How long an attempt to connect may take on the dialing side; default 2 s.
    pub connect_timeout: Duration,
    /// A connection that hears nothing for so long is dead; default 3 s. The smaller of both sides' values holds.
    pub idle_timeout: Duration,
    /// After so much silence a sign of life is sent; default 500 ms.
    pub keep_alive: Duration,
    /// The first wait before another attempt to connect to a peer; default 20 ms. Doubles each time.
    pub backoff_min: Duration,
    /// The longest wait before another attempt; default 2 s.
    pub backoff_max: Duration,
    /// What may wait for one peer in the class `Control`; the oldest is dropped when full.
    pub control_queue: QueueLimits,
    /// What may wait for one peer in the class `Append`; the newest is dropped when full, and the peer reported as unreachable.
    pub append_queue: QueueLimits,
    /// What may wait for one peer in the class `Bulk`; the newest is dropped when full.
    pub bulk_queue: QueueLimits,
}

/// How much may wait in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// How many messages.
    pub messages: usize,
    /// How many bytes, encoded.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            peer_frame_bytes_max: 16 << 20,
            service_frame_bytes_max: 8 << 20,
            connections_max: 1024,
            connections_per_certificate_max: 256,
            streams_max: 4096,
            streams_per_certificate_max: 1024,
            streams_per_connection_max: 256,
            handshakes_max: 256,
            handshakes_per_address_max: 128,
            received: BudgetLimits { connection: 64 << 10, certificate: 80 << 20, all: 160 << 20 },
            unsent: BudgetLimits { connection: 64 << 10, certificate: 32 << 20, all: 64 << 20 },
            services_waiting_max: 1024,
            handshake_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(10),
            unread_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_millis(500),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            control_queue: QueueLimits { messages: 256, bytes: 4 << 20 },
            append_queue: QueueLimits { messages: 4096, bytes: 64 << 20 },
            bulk_queue: QueueLimits { messages: 64, bytes: 20 << 20 },
        }
    }
}
