//! The async driver: runs one `raft-core` over a [`LogStore`], a [`Transport`] and a [`StateMachine`].

mod log_store;
mod peer_message;
mod state_machine;
mod transport;

pub use log_store::{LogReader, LogStore, ReadError, StorageError};
pub use peer_message::{PeerMessage, SnapshotChunk, SnapshotFrame};
pub use raft_core;
pub use state_machine::{CheckpointDone, MachineError, SnapshotSource, StateMachine};
pub use transport::{Delivery, Inbox, Transport, TransportError};
