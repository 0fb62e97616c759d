//! One UDP socket for everything: peers in both directions, and services.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use raft_core::NodeId;
use tokio::sync::{mpsc, watch};

use crate::accounts::{Accounts, Load};
use crate::config::{EndpointConfig, Limits, PeerAddress};
use crate::door::Door;
use crate::error::{CloseCode, NetError};
use crate::identity::{ClusterId, PeerIdentity};
use crate::link::Dialer;
use crate::pki::Identity;
use crate::reset::ResetKeys;
use crate::service::ServiceStream;
use crate::transport::{PeerTable, Peers, QuicTransport};
use crate::untrusted::Throttle;
use crate::{accept, tls, tuning};

/// How long the others have to learn that this node is closing.
const FAREWELL: Duration = Duration::from_millis(100);

/// A node's place on the network. Cheap to clone; all clones are the same endpoint. It lives until the last clone and the transport
/// are dropped, or [`Endpoint::close`] is called.
#[derive(Clone, Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
    guard: Arc<Guard>,
}

/// What the endpoint's tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) services: mpsc::Sender<ServiceStream>,
    waiting: tokio::sync::Mutex<mpsc::Receiver<ServiceStream>>,
    peers: Mutex<Option<Arc<PeerTable>>>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) door: Arc<Door>,
    /// For lines about refusals.
    pub(crate) refusals: Throttle,
    /// Becomes true when nothing more is accepted.
    pub(crate) closed: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn limits(&self) -> &Limits {
        &self.dialer.limits
    }

    pub(crate) fn peers(&self) -> Option<Arc<PeerTable>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Closes the socket when nobody needs it any more; the tasks alone do not keep it open.
#[derive(Debug)]
pub(crate) struct Guard(quinn::Endpoint);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close(CloseCode::Shutdown.code(), b"the node is shutting down");
    }
}

impl Endpoint {
    /// Opens the socket and accepts connections from now on. Must be called within a tokio runtime. Peers are refused, to
    /// try again at once, until [`Endpoint::transport`] is made and started.
    ///
    /// # Errors
    /// [`NetError::NotMyCertificate`] if the certificate is not node `me`'s of this cluster, [`NetError::Bind`] if the socket can not
    /// be opened, [`NetError::Tls`] if the certificate can not be used.
    pub fn bind(config: EndpointConfig) -> Result<Endpoint, NetError> {
        let EndpointConfig { listen, identity, me, cluster, limits } = config;
        check_identity(&identity, me, cluster)?;
        let server = tls::server(&identity, tuning::accepting(&limits))?;
        let client = tls::client(&identity, tuning::dialing(&limits))?;
        let socket = tuning::socket(listen)?;
        let resets = ResetKeys::derive(&identity, me, cluster)?;
        let quinn = tuning::open(socket, Some(server), Some(resets))
            .map_err(|source| NetError::Bind { address: listen, source })?;
        let (services, waiting) = mpsc::channel(limits.services_waiting_max.max(1));
        let (accounts, door) = (Accounts::new(&limits), Door::new(&limits));
        let dialer = Arc::new(Dialer {
            quinn: quinn.clone(),
            config: RwLock::new(client),
            me,
            cluster,
            incarnation: incarnation()?,
            limits,
        });
        let shared = Arc::new(Shared {
            dialer,
            services,
            waiting: tokio::sync::Mutex::new(waiting),
            peers: Mutex::default(),
            accounts,
            door,
            refusals: Throttle::default(),
            closed: watch::Sender::new(false),
        });
        tokio::spawn(accept::run(Arc::clone(&shared)));
        Ok(Endpoint { shared, guard: Arc::new(Guard(quinn)) })
    }

    /// The address that it listens on, with the port that the system chose.
    ///
    /// # Panics
    /// Never: the socket is open as long as this is.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.dialer.quinn.local_addr().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into())
    }

    /// What clients have open here, and how much of its budgets they use ([`Limits::received`], [`Limits::unsent`]).
    pub fn load(&self) -> Load {
        self.shared.accounts.load()
    }

    /// The transport for the driver, with its first peers; itself among them is ignored. To be made once: a later one takes the
    /// earlier one's place.
    pub fn transport(&self, peers: BTreeMap<NodeId, PeerAddress>) -> QuicTransport {
        let peers = Peers::new(Arc::clone(&self.shared.dialer), peers);
        *self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::clone(&peers.table));
        QuicTransport::new(peers, Arc::clone(&self.guard))
    }

    /// The next stream that a client or a peer has opened; `None` once the endpoint is closed. May be called from several tasks.
    pub async fn accept_service(&self) -> Option<ServiceStream> {
        let mut waiting = self.shared.waiting.lock().await;
        tokio::select! {
            stream = waiting.recv() => stream,
            () = closed(self.shared.closed.subscribe()) => None,
        }
    }

    /// Uses another certificate from the next connection on; those that are open stay.
    ///
    /// # Errors
    /// [`NetError::NotMyCertificate`] and [`NetError::Tls`] as for [`Endpoint::bind`]; the old certificate then stays in use.
    pub fn replace_identity(&self, identity: &Identity) -> Result<(), NetError> {
        let dialer = &self.shared.dialer;
        check_identity(identity, dialer.me, dialer.cluster)?;
        let server = tls::server(identity, tuning::accepting(&dialer.limits))?;
        let client = tls::client(identity, tuning::dialing(&dialer.limits))?;
        dialer.quinn.set_server_config(Some(server));
        *dialer.config.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    /// Closes every connection, and gives the other sides 100 ms to learn of it.
    pub async fn close(&self) {
        let quinn = &self.shared.dialer.quinn;
        quinn.close(CloseCode::Shutdown.code(), b"the node is shutting down");
        // A connection counts as open until its last packets can not arrive any more. Of one that was just being made to a
        // node that is down, that is a second; nobody is there who could learn anything from it.
        let _ = tokio::time::timeout(FAREWELL, quinn.wait_idle()).await;
    }
}

async fn closed(mut state: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is as closed as it gets.
    let _ = state.wait_for(|closed| *closed).await;
}

fn check_identity(identity: &Identity, me: NodeId, cluster: ClusterId) -> Result<(), NetError> {
    let wrong =
        |found: String| NetError::NotMyCertificate { wanted: format!("node {me}"), cluster, found };
    match identity.names(cluster) {
        Ok(PeerIdentity::Node(node)) if node == me => Ok(()),
        Ok(other) => Err(wrong(format!("the certificate is that of {other}"))),
        Err(fault) => Err(wrong(fault.to_string())),
    }
}

/// A number that no other start of any endpoint has had. Never zero.
fn incarnation() -> Result<u64, NetError> {
    let mut bytes = [0; 8];
    crate::pki::provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| NetError::Tls { reason: "the system's randomness failed".into() })?;
    Ok(u64::from_le_bytes(bytes).max(1))
}
