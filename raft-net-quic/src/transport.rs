//! [`raft_node::Transport`] over the links. Called by the driver's task, so nothing here waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::{NodeId, StoreStamp};
use raft_node::{Inbox, PeerMessage, SizeLimit, Transport, TransportError};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::error;

use crate::config::PeerAddress;
use crate::endpoint::Guard;
use crate::link::{Dialer, Link};
use crate::wire::{Encoder, WireLimits};

/// More than a frame holds beside its commands or data. What the table of an append or of a forwarded batch takes for each command is less
/// than the core counts for it.
pub(crate) const FRAME_OVERHEAD_BYTES: usize = 4 << 10;

/// Carries the driver's messages to its peers. Made by [`Endpoint::transport`](crate::Endpoint::transport). Dropping it
/// ends the connections to peers.
#[derive(Debug)]
pub struct QuicTransport {
    peers: Peers,
    encoder: Encoder,
    /// Those with something queued since the last flush.
    touched: Vec<Arc<Link>>,
    /// The socket lives as long as this.
    _guard: Arc<Guard>,
}

impl QuicTransport {
    pub(crate) fn new(peers: Peers, guard: Arc<Guard>) -> QuicTransport {
        let frame_bytes_max = peers.table.dialer.limits.peer_frame_bytes_max;
        QuicTransport {
            peers,
            encoder: Encoder::new(WireLimits { frame_bytes_max }),
            touched: Vec::new(),
            _guard: guard,
        }
    }

    /// A handle to change who the peers are and where, while the transport runs.
    pub fn peers(&self) -> Peers {
        self.peers.clone()
    }
}

impl Transport for QuicTransport {
    fn start(&mut self, inbox: Inbox, own: StoreStamp) -> Result<(), TransportError> {
        let runtime = Handle::try_current().map_err(|error| TransportError {
            message: "the QUIC transport must be started within a tokio runtime".into(),
            source: Some(Box::new(error)),
        })?;
        self.peers.table.start(inbox, own, runtime);
        Ok(())
    }

    fn size_limit(&self) -> Option<SizeLimit> {
        let frame_bytes_max = self.peers.table.dialer.limits.peer_frame_bytes_max;
        let bytes_max = frame_bytes_max.saturating_sub(FRAME_OVERHEAD_BYTES);
        Some(SizeLimit { bytes_max, setting: "the transport's peer_frame_bytes_max" })
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        let Some(link) = self.peers.table.link(to) else { return };
        match self.encoder.encode(&message) {
            Ok(frame) => link.push(message.class(), frame),
            // The limits of the core and of the transport do not fit together: nothing that a retry would mend.
            Err(error) => {
                error!(peer = %to, %error, "a message can not be encoded, and was dropped");
                return;
            }
        }
        if !self.touched.iter().any(|touched| Arc::ptr_eq(touched, &link)) {
            self.touched.push(link);
        }
    }

    fn flush(&mut self) {
        for link in self.touched.drain(..) {
            link.flush();
        }
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.peers.table.stop();
    }
}

/// Who the peers are, and where. May be changed at any time, from anywhere.
#[derive(Clone, Debug)]
pub struct Peers {
    pub(crate) table: Arc<PeerTable>,
}

impl Peers {
    pub(crate) fn new(dialer: Arc<Dialer>, peers: BTreeMap<NodeId, PeerAddress>) -> Peers {
        let table = PeerTable { dialer, state: Mutex::default() };
        let all = Peers { table: Arc::new(table) };
        for (node, address) in peers {
            all.insert(node, address);
        }
        all
    }

    /// Adds a peer, or changes where it is: the address holds from the next attempt to connect on. This node itself is ignored.
    pub fn insert(&self, node: NodeId, address: PeerAddress) {
        if node != self.table.dialer.me {
            self.table.insert(node, address);
        }
    }

    /// Removes a peer: its connections are closed, and new ones refused.
    pub fn remove(&self, node: NodeId) {
        self.table.remove(node);
    }

    /// Who they are.
    pub fn list(&self) -> Vec<NodeId> {
        self.table.lock().links.keys().copied().collect()
    }
}

#[derive(Debug)]
pub(crate) struct PeerTable {
    dialer: Arc<Dialer>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    started: Option<Started>,
    links: BTreeMap<NodeId, Running>,
}

#[derive(Clone, Debug)]
struct Started {
    inbox: Inbox,
    own: StoreStamp,
    runtime: Handle,
}

#[derive(Debug)]
struct Running {
    link: Arc<Link>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.link.hang_up();
    }
}

/// Who may deliver as a peer.
pub(crate) enum Admission {
    /// This is its link, and here it delivers.
    Admitted(Arc<Link>, Inbox),
    /// The transport has not started, or has ended: who the peers are is not to be told then.
    NotReady,
    /// It is not a peer.
    Unknown,
}

impl PeerTable {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.lock().links.get(&node).map(|running| Arc::clone(&running.link))
    }

    pub(crate) fn admit(&self, node: NodeId) -> Admission {
        let state = self.lock();
        match (state.links.get(&node), &state.started) {
            (_, None) => Admission::NotReady,
            (None, Some(_)) => Admission::Unknown,
            (Some(running), Some(started)) => {
                Admission::Admitted(Arc::clone(&running.link), started.inbox.clone())
            }
        }
    }

    /// Whether a peer was last reached at this address, which is also what it dials from.
    pub(crate) fn is_address_of_peer(&self, address: SocketAddr) -> bool {
        self.lock().links.values().any(|running| running.link.was_reached_at(address))
    }

    fn start(&self, inbox: Inbox, own: StoreStamp, runtime: Handle) {
        let started = Started { inbox, own, runtime };
        let mut state = self.lock();
        for running in state.links.values_mut() {
            self.run(running, &started);
        }
        state.started = Some(started);
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.started = None;
        state.links.clear();
    }

    fn insert(&self, node: NodeId, address: PeerAddress) {
        let mut state = self.lock();
        if let Some(running) = state.links.get(&node) {
            running.link.set_address(address);
            return;
        }
        let link = Arc::new(Link::new(node, address, &self.dialer.limits));
        let mut running = Running { link, tasks: Vec::new() };
        if let Some(started) = &state.started {
            self.run(&mut running, started);
        }
        state.links.insert(node, running);
    }

    fn remove(&self, node: NodeId) {
        self.lock().links.remove(&node);
    }

    fn run(&self, running: &mut Running, started: &Started) {
        let Started { inbox, own, runtime } = started;
        let run = Arc::clone(&running.link).run(Arc::clone(&self.dialer), inbox.clone(), *own);
        let report = Arc::clone(&running.link).report(inbox.clone());
        running.tasks =
            vec![runtime.spawn(run).abort_handle(), runtime.spawn(report).abort_handle()];
    }
}
