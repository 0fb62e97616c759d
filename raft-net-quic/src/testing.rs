//! What an attacker needs that an honest client must not have: connections past the pool, and datagrams without a connection. For
//! tests and the flood program only (feature `testing`).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use quinn::Connection;
use raft_core::NodeId;

pub use quinn;

use crate::client::ClientEndpoint;
use crate::error::NetError;

/// A connection of its own, that has said hello as a client does. Streams on it carry whatever the caller writes.
///
/// # Errors
/// As for [`ClientEndpoint::connect`].
pub async fn connection(
    endpoint: &ClientEndpoint,
    node: NodeId,
    address: &str,
) -> Result<Connection, NetError> {
    endpoint.dial(node, address).await
}

/// Makes first datagrams of handshakes that never go on.
#[derive(Debug)]
pub struct Openings {
    endpoint: ClientEndpoint,
    sink: UdpSocket,
    at: SocketAddr,
}

impl Openings {
    /// They are made with the certificate of `endpoint`, which is not used for anything else.
    ///
    /// # Errors
    /// If no socket can be opened.
    pub fn new(endpoint: ClientEndpoint) -> std::io::Result<Openings> {
        let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        sink.set_nonblocking(true)?;
        let at = sink.local_addr()?;
        Ok(Openings { endpoint, sink, at })
    }

    /// The next one, for a handshake with `node`. No two are equal.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn next(&self, node: NodeId) -> std::io::Result<Vec<u8>> {
        let connecting = self.endpoint.begin(node, self.at).map_err(std::io::Error::other)?;
        let mut datagram = vec![0; 2048];
        loop {
            match self.sink.recv(&mut datagram) {
                Ok(bytes) => {
                    datagram.truncate(bytes);
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error),
            }
        }
        drop(connecting);
        // Whatever the endpoint says to end it would be taken for the next one.
        tokio::task::yield_now().await;
        while self.sink.recv(&mut [0; 2048]).is_ok() {}
        Ok(datagram)
    }
}
