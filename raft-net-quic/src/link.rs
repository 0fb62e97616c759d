//! The way to one peer: the queues of what it is to get, and the task that keeps a connection to it and writes them. Each node dials for
//! what it sends itself, so there is one connection per direction, and neither side has to agree on which one survives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ClientConfig, Connection};
use raft_core::{NodeId, StoreStamp, TrafficClass};
use raft_node::{Delivery, Inbox};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::client::{dial, within};
use crate::config::{Limits, PeerAddress};
use crate::error::{CloseCode, NetError, lost};
use crate::framing::{Gather, PREFIX_BYTES};
use crate::hello::{Hello, Role, VERSIONS, Welcome};
use crate::identity::ClusterId;
use crate::queue::{Pushed, Queue, WhenFull};
use crate::service::write_failed;
use crate::wire::Frame;

/// What every dialed connection has in common.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) quinn: quinn::Endpoint,
    /// Replaceable, for new certificates.
    pub(crate) config: RwLock<ClientConfig>,
    pub(crate) me: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: u64,
    pub(crate) limits: Limits,
}

/// The classes of traffic, with the byte that their streams begin with and quinn's priority (higher goes first).
pub(crate) const CLASSES: [(TrafficClass, u8, i32); 3] =
    [(TrafficClass::Control, 1, 2), (TrafficClass::Append, 2, 1), (TrafficClass::Bulk, 3, 0)];

/// A connection attempt younger than this is not given up when the peer calls: it is likely about to succeed.
const PATIENCE: Duration = Duration::from_millis(50);

/// A connection that lasted so long was a success: the back-off starts over.
const LASTING: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Link {
    node: NodeId,
    address: Mutex<PeerAddress>,
    /// Where it was when it was dialed last.
    resolved: Mutex<Option<SocketAddr>>,
    control: Queue,
    append: Queue,
    bulk: Queue,
    /// The peer has connected to us, so it is there.
    called: Notify,
    /// The incarnation that it had then.
    caller: AtomicU64,
    /// The connection on which it sends to us: at most one.
    call: Mutex<Call>,
    /// An append was dropped, which the core should know.
    dropped: Notify,
}

/// Nothing that is dropped for its size would ever be sent again in parts.
fn warn_of_smaller_frames(peer: NodeId, welcome: &Welcome, limits: &Limits) {
    let (theirs, ours) = (welcome.frame_bytes_max as usize, limits.peer_frame_bytes_max);
    if theirs < ours {
        warn!(
            %peer, theirs, ours,
            "the peer takes smaller frames than this node sends, so that a large command may never reach it: set peer_frame_bytes_max alike on all nodes"
        );
    }
}

#[derive(Debug, Default)]
struct Call {
    connection: Option<Connection>,
    /// The store of the process that connected last.
    store: Option<StoreStamp>,
}

impl Link {
    pub(crate) fn new(node: NodeId, address: PeerAddress, limits: &Limits) -> Link {
        Link {
            node,
            address: Mutex::new(address),
            resolved: Mutex::default(),
            control: Queue::new(limits.control_queue, WhenFull::DropOldest),
            append: Queue::new(limits.append_queue, WhenFull::DropNewest),
            bulk: Queue::new(limits.bulk_queue, WhenFull::DropNewest),
            called: Notify::new(),
            caller: AtomicU64::new(0),
            call: Mutex::default(),
            dropped: Notify::new(),
        }
    }

    fn queue(&self, class: TrafficClass) -> &Queue {
        match class {
            TrafficClass::Control => &self.control,
            TrafficClass::Append => &self.append,
            TrafficClass::Bulk => &self.bulk,
        }
    }

    fn queues(&self) -> [&Queue; 3] {
        [&self.control, &self.append, &self.bulk]
    }

    /// Queues a frame, or drops it. Never waits.
    pub(crate) fn push(&self, class: TrafficClass, frame: Frame) {
        let pushed = self.queue(class).push(frame);
        if pushed == Pushed::DroppedFirst && class == TrafficClass::Append {
            self.dropped.notify_one();
        }
    }

    /// Wakes the writers that have something to write.
    pub(crate) fn flush(&self) {
        for queue in self.queues() {
            queue.flush();
        }
    }

    /// The peer has connected to us in this incarnation. It has one connection at a time, so an earlier one is dead, or about to be.
    ///
    /// # Errors
    /// The life of the peer's store that has connected already, if it is a later one: then this process is an old one, or a
    /// copy of the node, and must not be heard any more.
    pub(crate) fn on_call(
        &self,
        connection: &Connection,
        incarnation: u64,
        store: Option<StoreStamp>,
    ) -> Result<(), StoreStamp> {
        let mut call = self.lock_call();
        if let (Some(known), Some(store)) = (call.store, store)
            && known.id == store.id
            && known.life > store.life
        {
            return Err(known);
        }
        let earlier = call.connection.replace(connection.clone());
        call.store = store.or(call.store);
        drop(call);
        if let Some(earlier) = earlier {
            let reason = b"the same node has connected again";
            earlier.close(CloseCode::Superseded.code(), reason);
        }
        self.caller.store(incarnation, Ordering::Release);
        self.called.notify_one();
        Ok(())
    }

    /// The peer's connection has ended.
    pub(crate) fn on_call_ended(&self, connection: &Connection) {
        let call = &mut self.lock_call().connection;
        if call.as_ref().is_some_and(|known| known.stable_id() == connection.stable_id()) {
            *call = None;
        }
    }

    /// Nobody takes what the peer sends any more: it was removed, or the transport has ended.
    pub(crate) fn hang_up(&self) {
        if let Some(connection) = self.lock_call().connection.take() {
            connection
                .close(CloseCode::Shutdown.code(), b"this node takes no more messages from it");
        }
    }

    fn lock_call(&self) -> MutexGuard<'_, Call> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the next attempt to connect on, the peer is there.
    pub(crate) fn set_address(&self, address: PeerAddress) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
        self.called.notify_one();
    }

    fn address(&self) -> String {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Whether it was there when it was dialed last.
    pub(crate) fn was_reached_at(&self, address: SocketAddr) -> bool {
        let canonical = |at: SocketAddr| (at.ip().to_canonical(), at.port());
        let resolved = *self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.is_some_and(|resolved| canonical(resolved) == canonical(address))
    }

    /// Tells the core of dropped appends; apart from everything else, because the inbox may make it wait.
    pub(crate) async fn report(self: Arc<Self>, inbox: Inbox) {
        loop {
            self.dropped.notified().await;
            if !inbox.deliver(Delivery::Unreachable(self.node)).await {
                return;
            }
        }
    }

    /// Keeps a connection to the peer for ever.
    pub(crate) async fn run(self: Arc<Self>, dialer: Arc<Dialer>, inbox: Inbox, own: StoreStamp) {
        let limits = &dialer.limits;
        let mut backoff = Backoff::new(limits.backoff_min, limits.backoff_max);
        // What is wrong is said once, until it changes for the better: a peer that is down is not news every two seconds.
        let (mut missed, mut told) = (false, false);
        loop {
            match self.connect(&dialer, own).await {
                Ok((connection, welcome)) => {
                    let at = Some(connection.remote_address());
                    *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = at;
                    let peer = self.node;
                    info!(%peer, address = %connection.remote_address(), "connected to peer");
                    (missed, told) = (true, false);
                    warn_of_smaller_frames(peer, &welcome, limits);
                    let since = Instant::now();
                    let error = self.serve(&connection, &welcome).await;
                    self.queues().into_iter().for_each(Queue::close);
                    info!(%peer, %error, "lost the connection to peer");
                    if !inbox.deliver(Delivery::Unreachable(self.node)).await {
                        return;
                    }
                    if since.elapsed() >= LASTING {
                        backoff.reset();
                    }
                }
                Err(NetError::Closed) => return,
                Err(error) if !missed && error.is_transient() => {
                    missed = true;
                    info!(peer = %self.node, %error, "cannot reach peer yet; trying on");
                }
                Err(error) if told || error.is_transient() => {
                    debug!(peer = %self.node, %error, "cannot connect to peer");
                }
                Err(error) => {
                    told = true;
                    warn!(peer = %self.node, %error, "cannot connect to peer");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => {}
                () = self.called.notified() => backoff.reset(),
            }
        }
    }

    /// Makes one attempt; starts it over if the peer calls meanwhile: packets of ours that were lost while it was down would only be
    /// repeated after a while.
    async fn connect(
        &self,
        dialer: &Dialer,
        own: StoreStamp,
    ) -> Result<(Connection, Welcome), NetError> {
        let hello = Hello {
            versions: VERSIONS,
            role: Role::Peer,
            cluster: dialer.cluster,
            claimed: dialer.me,
            target: self.node,
            incarnation: dialer.incarnation,
            store: Some(own),
        };
        loop {
            let address = self.address();
            let config = dialer.config.read().unwrap_or_else(PoisonError::into_inner).clone();
            let started = Instant::now();
            let attempt = within(
                dialer.limits.connect_timeout,
                self.node,
                &address,
                dial(&dialer.quinn, &config, &address, &hello),
            );
            tokio::pin!(attempt);
            loop {
                tokio::select! {
                    result = &mut attempt => return result,
                    () = self.called.notified() => {
                        if started.elapsed() >= PATIENCE {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Writes what is queued until the connection ends, and says why it did.
    async fn serve(self: &Arc<Self>, connection: &Connection, welcome: &Welcome) -> NetError {
        let mut writers = JoinSet::new();
        for (class, tag, priority) in CLASSES {
            let (link, connection) = (Arc::clone(self), connection.clone());
            let max = welcome.frame_bytes_max as usize;
            writers.spawn(async move { link.write(class, tag, priority, &connection, max).await });
        }
        let by = format!("node {}", self.node);
        loop {
            tokio::select! {
                error = connection.closed() => return lost(&by, &error),
                Some(ended) = writers.join_next() => {
                    connection.close(CloseCode::Shutdown.code(), b"a stream ended");
                    return match ended {
                        Ok(Err(error)) => error,
                        _ => NetError::ConnectionLost { reason: "a writer ended".into() },
                    };
                }
                () = self.called.notified() => {
                    // A new process calls: the one that this connection led to is gone, and will not say so.
                    let caller = self.caller.load(Ordering::Acquire);
                    if caller != 0 && caller != welcome.incarnation {
                        connection.close(CloseCode::Superseded.code(), b"the peer has restarted");
                        return NetError::ConnectionLost {
                            reason: "the peer has restarted".into(),
                        };
                    }
                }
            }
        }
    }

    /// Writes one class: everything that waits, in one go.
    async fn write(
        &self,
        class: TrafficClass,
        tag: u8,
        priority: i32,
        connection: &Connection,
        frame_bytes_max: usize,
    ) -> Result<(), NetError> {
        let by = format!("node {}", self.node);
        let mut stream = connection.open_uni().await.map_err(|error| lost(&by, &error))?;
        // Fails only on a stream that is closed already; the write will say so.
        let _ = stream.set_priority(priority);
        stream.write_all(&[tag]).await.map_err(|error| write_failed(&by, error))?;
        let queue = self.queue(class);
        queue.open();
        let mut gather = Gather::new();
        let mut batch = Vec::new();
        loop {
            queue.take(&mut batch).await;
            for frame in batch.drain(..) {
                let bytes = frame.len() - PREFIX_BYTES;
                if bytes > frame_bytes_max {
                    warn!(
                        peer = %self.node, bytes, max = frame_bytes_max,
                        "a message is larger than the peer takes, and was dropped: raise the peer's limit on frames"
                    );
                    continue;
                }
                frame.parts().for_each(|part: Bytes| gather.part(part));
            }
            let written = stream.write_all_chunks(gather.chunks()).await;
            gather.clear();
            written.map_err(|error| write_failed(&by, error))?;
        }
    }
}
