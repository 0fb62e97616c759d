//! The async driver: runs one `raft-core` over a [`LogStore`], a [`Transport`] and a [`StateMachine`].
//!
//! [`Node::start`] takes the three and gives back a [`NodeHandle`], through which the application proposes commands and reads.
//! Inside, one task owns the core (`driver.rs`, which also says why its queues are bounded and can not deadlock), and every
//! part that waits for a disk has a thread of its own:
//!
//! | thread | owns | does |
//! | --- | --- | --- |
//! | storage | the [`LogStore`] | durable writes, in groups; compaction |
//! | apply | the [`StateMachine`], which the driver borrows for small work of a [quick](StateMachine::IS_QUICK) one | applies, answers, starts checkpoints, installs snapshots |
//! | fetch | a [`LogReader`] | older entries for peers that lag |
//! | receive | a scratch folder | collects the snapshot that a leader streams |
//! | one per stream | a [`SnapshotSource`] | streams a snapshot to a peer |
//!
//! A failure of a store, and a panic in a store or machine, is final: the node stops, says why in its [`Health`], and everybody who
//! waits is told. Nothing is retried on a file that may have lost what was written to it.
//!
//! What this crate knows nothing of: sockets, file formats, and what a command means.

mod apply;
mod checkpoint;
mod config;
mod driver;
mod error;
mod feedback;
mod fetch;
mod handle;
mod handover;
mod log_store;
mod metrics;
mod node;
mod peer_message;
mod snapshot_receive;
mod snapshot_send;
#[cfg(test)]
mod snapshot_tests;
mod state_machine;
mod status;
mod storage;
mod tape;
pub mod testing;
mod transport;
mod waiting;
mod watchdog;

pub use config::{NodeConfig, RecordingConfig};
pub use error::{
    CheckpointFailed, ProposeError, ReadFailed, RequestError, ShutdownError, StartError,
};
pub use handle::NodeHandle;
pub use log_store::{LogReader, LogStore, ReadError, StorageError};
pub use metrics::{LatencyHistogram, Metrics};
pub use node::Node;
pub use peer_message::{PeerMessage, SnapshotChunk, SnapshotFrame};
pub use raft_core;
pub use state_machine::{CheckpointDone, MachineError, SnapshotSource, StateMachine};
pub use status::{Explanation, Health, NodeStatus};
pub use transport::{Delivery, Inbox, Transport, TransportError};
