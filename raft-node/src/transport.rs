//! The network between members: what the driver asks of it.

use raft_core::{NodeId, StoreStamp};
use tokio::sync::mpsc;

use crate::{PeerMessage, SizeLimit};

/// Carries messages between members. A message may be lost, duplicated or delayed; it must never be changed, and its
/// sender must be authenticated. All methods are called from the driver's task and must not block.
pub trait Transport: Send + 'static {
    /// Starts delivering to `inbox`. Called once, before the first `send`, from within a tokio runtime. `own` is the store
    /// that this node runs on: the transport tells it to every peer, and gives each message that it delivers the stamp of
    /// the process that sent it. Once a later life of a peer's store has connected, nothing of an earlier one is delivered.
    ///
    /// # Errors
    /// If it can not start.
    fn start(&mut self, inbox: Inbox, own: StoreStamp) -> Result<(), TransportError>;

    /// The most bytes of commands, or of a snapshot's data, that one message can have; `None` for as many as there may be. The
    /// driver does not start where the protocol's settings allow more.
    fn size_limit(&self) -> Option<SizeLimit> {
        None
    }

    /// Queues a message for a peer, or drops it if the peer is unknown, unreachable or slow: queues are bounded. Classes
    /// ([`PeerMessage::class`]) do not wait for each other. Within a class, order is kept while a connection lasts.
    fn send(&mut self, to: NodeId, message: PeerMessage);

    /// Called after the last message of one drain: a transport that buffers writes now.
    fn flush(&mut self) {}
}

/// What arrives from the network.
#[derive(Debug)]
pub enum Delivery {
    /// A message from an authenticated peer.
    Message {
        /// The sender.
        from: NodeId,
        /// The store that the sender runs on; `None` from a version that does not tell.
        store: Option<StoreStamp>,
        /// The message.
        message: PeerMessage,
    },
    /// The connection to a peer was lost: what was in flight may be lost too.
    Unreachable(NodeId),
}

/// Where a transport delivers. Bounded: a full inbox makes the network wait, not the memory grow.
#[derive(Clone, Debug)]
pub struct Inbox {
    sender: mpsc::Sender<Delivery>,
}

impl Inbox {
    /// An inbox, and the end that the driver reads.
    pub fn channel(capacity: usize) -> (Inbox, mpsc::Receiver<Delivery>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Inbox { sender }, receiver)
    }

    /// Delivers, waiting while the inbox is full. `false` once the driver is gone.
    pub async fn deliver(&self, delivery: Delivery) -> bool {
        self.sender.send(delivery).await.is_ok()
    }

    /// Delivers if there is room at once; `false` if not.
    pub fn try_deliver(&self, delivery: Delivery) -> bool {
        self.sender.try_send(delivery).is_ok()
    }
}

/// Why a transport could not start.
#[derive(Debug, thiserror::Error)]
#[error("transport: {message}")]
pub struct TransportError {
    /// What happened, to what, and what to do about it.
    pub message: String,
    /// The underlying error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}
