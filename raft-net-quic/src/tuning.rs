//! How QUIC is tuned for few, busy, long-lived connections; and the socket beneath it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Limits;
use crate::error::NetError;
use crate::reset::ResetKeys;

/// The largest datagram looked for. Loopback and jumbo frames carry more than Ethernet's 1,452 bytes; discovery finds what the
/// path allows, and each datagram saved is a packet not sealed and acknowledged.
///
/// It must not be larger: quinn hands the kernel up to ten datagrams in one call (segmentation offload), the kernel refuses calls
/// beyond 65,507 bytes with `EMSGSIZE`, and quinn takes that for a failed probe and drops the datagrams silently. With 16 KiB, bursts
/// were lost until the connection timed out.
const DATAGRAM_BYTES_MAX: u16 = 6_500;

/// What quinn hands to the kernel at once: its `MAX_TRANSMIT_SEGMENTS`.
const DATAGRAMS_PER_CALL: u32 = 10;

const _: () = assert!(DATAGRAM_BYTES_MAX as u32 * DATAGRAMS_PER_CALL <= 65_507);

/// What one stream may have under way. A gigabit over 60 ms needs 7.5 MB.
const STREAM_WINDOW: u32 = 8 << 20;

/// What a peer's connection may have under way: more than its three streams together, so that a clogged class can take nothing
/// from another. On the sending side the same holds for the send window, since no stream can buffer more than its own window.
const PEER_WINDOW: u32 = 4 * STREAM_WINDOW;

/// What a connection may have under way until it is known whose it is: enough for a hello. A client's then grows with what there is for it
/// (see `accounts`).
const UNKNOWN_WINDOW: u32 = 64 << 10;

/// How many one-way streams a peer may have open: one for each class, and those of a predecessor that are being closed.
pub(crate) const PEER_STREAMS_MAX: u32 = 8;

/// Asked of the system, which may give less: a burst must fit while the process is not scheduled.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How many packets may wait for their acknowledgement (or QUIC's 25 ms). One at a time, as by default every second packet is
/// answered by one that holds nothing else, and with one request under way a fifth of all packets were that. Acknowledgements
/// still go along with whatever is sent anyway.
const UNACKNOWLEDGED_MAX: u32 = 10;

fn base(limits: &Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(UNACKNOWLEDGED_MAX));
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    config
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acknowledgements))
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok())
        .keep_alive_interval(Some(limits.keep_alive))
        // Members are near each other more often than not; a first packet that is lost is sent again after three of these.
        .initial_rtt(Duration::from_millis(100))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(u64::from(PEER_WINDOW))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    config
}

/// For the side that accepts.
pub(crate) fn accepting(limits: &Limits) -> Arc<TransportConfig> {
    let mut config = base(limits);
    config
        .receive_window(VarInt::from_u32(UNKNOWN_WINDOW))
        .send_window(u64::from(UNKNOWN_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_per_connection_max));
    Arc::new(config)
}

/// For the side that dials: the other opens no streams.
pub(crate) fn dialing(limits: &Limits) -> Arc<TransportConfig> {
    Arc::new(dialing_base(limits))
}

fn dialing_base(limits: &Limits) -> TransportConfig {
    let mut config = base(limits);
    config
        .receive_window(VarInt::from_u32(PEER_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    config
}

/// Once the other side is known to be a peer, it gets a peer's windows and streams.
pub(crate) fn promote_to_peer(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(PEER_WINDOW));
    // What it asks as a client of services is answered here too.
    connection.set_send_window(u64::from(STREAM_WINDOW));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(PEER_STREAMS_MAX));
}

/// For a client: it has no connection that others keep up for it, and every request waits for the first packet's answer. So a
/// first packet that was lost, because its node was just starting, is sent again after 90 ms, 180 ms, and so on.
pub(crate) fn dialing_as_client(limits: &Limits) -> Arc<TransportConfig> {
    let mut config = dialing_base(limits);
    config.initial_rtt(Duration::from_millis(30));
    Arc::new(config)
}

/// Puts quinn on a socket. Without a server's configuration it accepts nobody; without keys, nobody learns from a successor on the
/// same address that a connection is dead.
pub(crate) fn open(
    socket: UdpSocket,
    server: Option<ServerConfig>,
    resets: Option<ResetKeys>,
) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    if let Some(keys) = resets {
        keys.apply_to(&mut config);
    }
    // Can not fail: the size is within what QUIC allows (at least 1,200).
    let _ = config.max_udp_payload_size(DATAGRAM_BYTES_MAX);
    let runtime = Arc::new(quinn::TokioRuntime);
    #[cfg(unix)]
    return {
        let socket = Arc::new(crate::socket::Socket::new(socket)?);
        Endpoint::new_with_abstract_socket(config, server, socket, runtime)
    };
    #[cfg(not(unix))]
    return Endpoint::new(config, server, socket, runtime);
}

/// Opens the socket, with large buffers if the system gives them.
pub(crate) fn socket(address: SocketAddr) -> Result<UdpSocket, NetError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // One socket for both families; where the system can not, IPv6 alone is still of use.
            let _ = socket.set_only_v6(false);
        }
        // Smaller buffers cost throughput, not correctness.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        Ok(UdpSocket::from(socket))
    };
    open().map_err(|source| NetError::Bind { address, source })
}
