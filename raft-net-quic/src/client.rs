//! The dialing side of services: one connection per node, shared by the streams that are opened to it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quinn::{ClientConfig, Connection};
use raft_core::NodeId;

use crate::config::Limits;
use crate::error::{CloseCode, NetError, dial_failure, lost};
use crate::hello::{Hello, Role, VERSIONS, introduce};
use crate::identity::{ClusterId, PeerIdentity, node_dns_name};
use crate::pki::Identity;
use crate::service::ServiceStream;
use crate::{tls, tuning};

/// Opens service streams to nodes. Holds nothing but the client's certificate, a UDP port of its own, and the connections that are
/// open; they are shared by all streams to the same node and address.
#[derive(Debug)]
pub struct ClientEndpoint {
    quinn: quinn::Endpoint,
    config: ClientConfig,
    identity: PeerIdentity,
    cluster: ClusterId,
    limits: Limits,
    connections: Mutex<HashMap<(NodeId, String), Connection>>,
}

impl ClientEndpoint {
    /// Opens an endpoint with default [`Limits`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As for [`ClientEndpoint::with_limits`].
    #[allow(clippy::needless_pass_by_value)] // an endpoint is given its identity, as `EndpointConfig` is
    pub fn new(identity: Identity, cluster: ClusterId) -> Result<ClientEndpoint, NetError> {
        Self::with_limits(&identity, cluster, Limits::default())
    }

    /// Opens an endpoint. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`NetError::NotMyCertificate`] if the certificate is not of this cluster, [`NetError::Bind`] if no socket can be opened.
    pub fn with_limits(
        identity: &Identity,
        cluster: ClusterId,
        limits: Limits,
    ) -> Result<ClientEndpoint, NetError> {
        let who = identity.names(cluster).map_err(|fault| NetError::NotMyCertificate {
            wanted: "a client".into(),
            cluster,
            found: fault.to_string(),
        })?;
        let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        // A machine without IPv6 still has IPv4.
        let socket = tuning::socket(v6).or_else(|_| tuning::socket(v4))?;
        let quinn =
            tuning::open(socket, None).map_err(|source| NetError::Bind { address: v6, source })?;
        let config = tls::client(identity, tuning::dialing(&limits))?;
        let connections = Mutex::default();
        Ok(ClientEndpoint { quinn, config, identity: who, cluster, limits, connections })
    }

    /// Opens a stream to `node` at `address` (`host:port`), over the connection that is open already or a new one. Returns only when
    /// the node has proved to be that node of this cluster, and has accepted this client.
    ///
    /// # Errors
    /// [`NetError::Unreachable`] and [`NetError::Resolve`]: nobody answers; try again, or elsewhere. [`NetError::WrongCertificate`],
    /// [`NetError::WrongNode`]: somebody else answers. [`NetError::Refused`]: the node does not want us, and says why.
    pub async fn connect(&self, node: NodeId, address: &str) -> Result<ServiceStream, NetError> {
        let limit = self.limits.connect_timeout;
        let attempt = async {
            if let Some(connection) = self.open_connection(node, address) {
                // It may have died meanwhile; then a new one is made.
                if let Ok(stream) = self.open_stream(node, &connection).await {
                    return Ok(stream);
                }
            }
            let connection = self.dial(node, address).await?;
            self.lock().insert((node, address.to_owned()), connection.clone());
            self.open_stream(node, &connection).await
        };
        within(limit, node, address, attempt).await
    }

    /// Closes every connection, and waits until the other sides know or a moment has passed.
    pub async fn close(&self) {
        self.lock().clear();
        self.quinn.close(CloseCode::Shutdown.code(), b"the client is done");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.quinn.wait_idle()).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(NodeId, String), Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_connection(&self, node: NodeId, address: &str) -> Option<Connection> {
        let mut connections = self.lock();
        connections.retain(|_, connection| connection.close_reason().is_none());
        connections.get(&(node, address.to_owned())).cloned()
    }

    async fn open_stream(
        &self,
        node: NodeId,
        connection: &Connection,
    ) -> Result<ServiceStream, NetError> {
        let peer = PeerIdentity::Node(node);
        let (send, recv) =
            connection.open_bi().await.map_err(|error| lost(&peer.to_string(), &error))?;
        Ok(ServiceStream::new(peer, send, recv, self.limits.service_frame_bytes_max))
    }

    async fn dial(&self, node: NodeId, address: &str) -> Result<Connection, NetError> {
        let claimed = match self.identity {
            PeerIdentity::Node(node) => node,
            PeerIdentity::Client { .. } => NodeId(0),
        };
        let hello = Hello {
            versions: VERSIONS,
            role: Role::Service,
            cluster: self.cluster,
            claimed,
            target: node,
            incarnation: 0,
            store: None,
        };
        let (connection, _) = dial(&self.quinn, &self.config, address, &hello).await?;
        Ok(connection)
    }
}

impl Drop for ClientEndpoint {
    fn drop(&mut self) {
        self.quinn.close(CloseCode::Shutdown.code(), b"the client is gone");
    }
}

/// Resolves, connects, checks who answers, and says hello.
pub(crate) async fn dial(
    quinn: &quinn::Endpoint,
    config: &ClientConfig,
    address: &str,
    hello: &Hello,
) -> Result<(Connection, crate::hello::Welcome), NetError> {
    let node = hello.target;
    let unreachable =
        |reason: String| NetError::Unreachable { node, address: address.into(), reason };
    let local = quinn.local_addr().map_err(|error| unreachable(error.to_string()))?;
    let remote = resolve(address, local).await?;
    let name = node_dns_name(node, hello.cluster);
    let connecting =
        quinn.connect_with(config.clone(), remote, &name).map_err(|error| match error {
            quinn::ConnectError::EndpointStopping => NetError::Closed,
            other => unreachable(other.to_string()),
        })?;
    let connection = connecting.await.map_err(|error| dial_failure(node, address, &error))?;
    let welcome = introduce(&connection, hello, &format!("node {node} at {address}")).await?;
    Ok((connection, welcome))
}

async fn resolve(address: &str, local: SocketAddr) -> Result<SocketAddr, NetError> {
    let failed = |reason: String| NetError::Resolve { address: address.into(), reason };
    let mut found =
        tokio::net::lookup_host(address).await.map_err(|error| failed(error.to_string()))?;
    // An IPv6 socket reaches both families, an IPv4 socket its own.
    found.find(|remote| local.is_ipv6() || remote.is_ipv4()).ok_or_else(|| {
        failed("it has no address of the family that this endpoint listens on".into())
    })
}

/// Bounds an attempt to connect.
pub(crate) async fn within<T>(
    limit: Duration,
    node: NodeId,
    address: &str,
    attempt: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
        Err(NetError::Unreachable {
            node,
            address: address.into(),
            reason: format!("no answer within {limit:?}"),
        })
    })
}
