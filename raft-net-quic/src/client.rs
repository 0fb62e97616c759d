//! The dialing side of services: one connection per node, shared by the streams that are opened to it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quinn::{ClientConfig, Connection};
use raft_core::NodeId;
use tokio::task::JoinSet;

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
        let quinn = tuning::open(socket, None, None)
            .map_err(|source| NetError::Bind { address: v6, source })?;
        let config = tls::client(identity, tuning::dialing_as_client(&limits))?;
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

    /// The next stream to `node` at `address` goes over a new connection: over the one that is open, nothing was heard in time.
    /// Streams that are open stay as they are.
    pub fn forget(&self, node: NodeId, address: &str) {
        self.lock().remove(&(node, address.to_owned()));
    }

    /// Closes every connection, and returns as soon as the packets that say so are sent, or after 50 ms. It does not wait for
    /// them to arrive: if one is lost, the node notices by its idle time-out.
    pub async fn close(&self) {
        let open = std::mem::take(&mut *self.lock()).into_values();
        let open = open.filter(|connection| connection.close_reason().is_none());
        let before: Vec<(Connection, u64)> = open.map(|one| (one.clone(), sent(&one))).collect();
        self.quinn.close(CloseCode::Shutdown.code(), b"the client is done");
        if self.quinn.open_connections() == 0 {
            return;
        }
        let all_told = async {
            // At least one turn, for connections that were still being made.
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if before.iter().all(|(connection, before)| sent(connection) > *before) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, all_told).await;
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
        Ok(ServiceStream::dialed(peer, send, recv, self.limits.service_frame_bytes_max))
    }

    /// Begins a handshake with whoever is at `address`, and leaves it there.
    #[cfg(feature = "testing")]
    pub(crate) fn begin(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<quinn::Connecting, quinn::ConnectError> {
        let name = node_dns_name(node, self.cluster);
        self.quinn.connect_with(self.config.clone(), address, &name)
    }

    pub(crate) async fn dial(&self, node: NodeId, address: &str) -> Result<Connection, NetError> {
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

/// How many datagrams went out over a connection. Once it is closed, all that still goes out says so.
fn sent(connection: &Connection) -> u64 {
    connection.stats().udp_tx.datagrams
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
    let remotes = resolve(address, local).await?;
    let connection = connect_any(quinn, config, hello, address, &remotes).await?;
    let welcome = introduce(&connection, hello, &format!("node {node} at {address}")).await?;
    Ok((connection, welcome))
}

/// Connects to the first of a node's addresses that answers (RFC 8305): they are tried one after another, a moment apart, and none is
/// given up for the next. Says hello to nobody, so that a node that has several addresses sees one caller.
async fn connect_any(
    quinn: &quinn::Endpoint,
    config: &ClientConfig,
    hello: &Hello,
    address: &str,
    remotes: &[SocketAddr],
) -> Result<Connection, NetError> {
    let node = hello.target;
    let name = node_dns_name(node, hello.cluster);
    let mut attempts = JoinSet::new();
    let mut failure = None;
    for (number, remote) in (1..).zip(remotes) {
        match quinn.connect_with(config.clone(), *remote, &name) {
            Ok(connecting) => {
                attempts.spawn(connecting.into_future());
            }
            Err(quinn::ConnectError::EndpointStopping) => return Err(NetError::Closed),
            Err(error) => {
                let reason = error.to_string();
                let error = NetError::Unreachable { node, address: address.into(), reason };
                failure.get_or_insert(error);
            }
        }
        let is_last = number == remotes.len();
        let wait = if is_last { Duration::MAX } else { ATTEMPTS_APART };
        while let Ok(Some(ended)) = tokio::time::timeout(wait, attempts.join_next()).await {
            match ended {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => {
                    let error = dial_failure(node, address, &error);
                    // That somebody else answers there says more than that nobody does.
                    if failure.as_ref().is_none_or(NetError::is_transient) {
                        failure = Some(error);
                    }
                    if !is_last {
                        break;
                    }
                }
                // Nobody aborts it, and it does not panic.
                Err(_) => {}
            }
        }
    }
    Err(failure.unwrap_or(NetError::Closed))
}

/// How long an address has before the next one is tried too.
const ATTEMPTS_APART: Duration = Duration::from_millis(100);
/// No more addresses of one name are tried.
const ADDRESSES_MAX: usize = 8;
/// How long a client waits until its last packets are sent.
const FAREWELL: Duration = Duration::from_millis(50);

/// All addresses of a name that this socket reaches; the families take turns, beginning with that of the first.
async fn resolve(address: &str, local: SocketAddr) -> Result<Vec<SocketAddr>, NetError> {
    let failed = |reason: String| NetError::Resolve { address: address.into(), reason };
    let found =
        tokio::net::lookup_host(address).await.map_err(|error| failed(error.to_string()))?;
    // An IPv6 socket reaches both families, an IPv4 socket its own.
    let found: Vec<SocketAddr> =
        found.filter(|remote| local.is_ipv6() || remote.is_ipv4()).collect();
    if found.is_empty() {
        return Err(failed("it has no address of the family that this endpoint listens on".into()));
    }
    Ok(in_turns(&found))
}

fn in_turns(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_family = found.first().is_some_and(SocketAddr::is_ipv6);
    let (firsts, others): (Vec<_>, Vec<_>) =
        found.iter().partition::<Vec<SocketAddr>, _>(|remote| remote.is_ipv6() == first_family);
    let mut turns = Vec::new();
    let (mut firsts, mut others) = (firsts.into_iter(), others.into_iter());
    while turns.len() < ADDRESSES_MAX {
        let (first, other) = (firsts.next(), others.next());
        if first.is_none() && other.is_none() {
            break;
        }
        turns.extend(first.into_iter().chain(other));
    }
    turns.truncate(ADDRESSES_MAX);
    turns
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::ClusterCa;
    use crate::{Endpoint, EndpointConfig};

    #[test]
    fn the_families_take_turns_and_there_is_an_end() {
        let v4 = |host: u8| SocketAddr::from(([127, 0, 0, host], 7));
        let v6 = |host: u16| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, host], 7));
        let found = [v6(1), v6(2), v6(3), v4(1), v4(2)];
        assert_eq!(in_turns(&found), [v6(1), v4(1), v6(2), v4(2), v6(3)]);
        assert_eq!(in_turns(&[v4(1)]), [v4(1)]);
        assert!(in_turns(&[]).is_empty());
        let many: Vec<SocketAddr> = (0..100).map(v4).collect();
        assert_eq!(in_turns(&many), many[..ADDRESSES_MAX]);
    }

    #[tokio::test]
    async fn a_name_whose_first_addresses_are_silent_or_strangers_is_reached_by_a_later_one() {
        let cluster = ClusterId([5; 16]);
        let ca = ClusterCa::generate(cluster).unwrap();
        let node = |id: u64| {
            let identity = ca.issue_node(NodeId(id), &[]).unwrap();
            let listen = ([127, 0, 0, 1], 0).into();
            let config = EndpointConfig::new(listen, identity, NodeId(id), cluster);
            Endpoint::bind(config).unwrap()
        };
        let (wanted, stranger) = (node(1), node(2));
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let remotes = [silent.local_addr().unwrap(), stranger.local_addr(), wanted.local_addr()];
        let client = ClientEndpoint::new(ca.issue_client("tester").unwrap(), cluster).unwrap();
        let hello = Hello {
            versions: VERSIONS,
            role: Role::Service,
            cluster,
            claimed: NodeId(0),
            target: NodeId(1),
            incarnation: 0,
            store: None,
        };
        let connect = |remotes: Vec<SocketAddr>| {
            let (client, hello) = (&client, &hello);
            async move { connect_any(&client.quinn, &client.config, hello, "name", &remotes).await }
        };
        let connection = connect(remotes.to_vec()).await.unwrap();
        assert_eq!(connection.remote_address().port(), wanted.local_addr().port());
        // If nobody is the right one, that somebody else is there is what is told.
        let error = connect(vec![stranger.local_addr()]).await.unwrap_err();
        assert!(matches!(error, NetError::WrongNode { .. }), "{error}");
    }

    /// Time is virtual here: what counts is what it waits for, and not how fast it is.
    #[tokio::test(start_paused = true)]
    async fn closing_does_not_wait_for_a_node_that_is_down() {
        let cluster = ClusterId([5; 16]);
        let ca = ClusterCa::generate(cluster).unwrap();
        let client = ClientEndpoint::new(ca.issue_client("tester").unwrap(), cluster).unwrap();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let attempt = client.connect(NodeId(1), &address);
        let given_up = tokio::time::timeout(Duration::from_millis(10), attempt).await;
        assert!(given_up.is_err(), "somebody answered");
        assert_eq!(client.quinn.open_connections(), 1);
        let began = tokio::time::Instant::now();
        client.close().await;
        assert!(began.elapsed() <= FAREWELL, "{:?}", began.elapsed());
    }
}
