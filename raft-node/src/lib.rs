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
//! What must come before what in all that is [`order`], without I/O or threads: the simulator goes by the same code, and so may a driver of your own.
//!
//! # Features
//!
//! `driver` (default): everything. Without it there remain [`order`], what drivers say to each other ([`PeerMessage`]), and the traits that need no
//! runtime, [`LogStore`] and [`StateMachine`]: enough for a store, a machine, or a loop of one's own.
//!
//! What this crate knows nothing of: sockets, file formats, and what a command means.

#[cfg(feature = "driver")]
mod apply;
#[cfg(feature = "driver")]
mod config;
#[cfg(feature = "driver")]
mod driver;
#[cfg(feature = "driver")]
mod error;
#[cfg(feature = "driver")]
mod feedback;
#[cfg(feature = "driver")]
mod fetch;
#[cfg(feature = "driver")]
mod handle;
#[cfg(feature = "driver")]
mod handover;
mod limits;
mod log_store;
#[cfg(feature = "driver")]
mod metrics;
#[cfg(feature = "driver")]
mod node;
pub mod order;
mod peer_message;
#[cfg(feature = "driver")]
mod queues;
#[cfg(all(test, feature = "driver"))]
mod report_tests;
#[cfg(feature = "driver")]
mod snapshot_receive;
#[cfg(feature = "driver")]
mod snapshot_send;
#[cfg(all(test, feature = "driver"))]
mod snapshot_tests;
#[cfg(feature = "driver")]
mod standing;
mod state_machine;
#[cfg(feature = "driver")]
mod status;
#[cfg(feature = "driver")]
mod storage;
#[cfg(feature = "driver")]
mod tape;
#[cfg(feature = "driver")]
pub mod testing;
#[cfg(feature = "driver")]
mod transport;
#[cfg(feature = "driver")]
mod watchdog;

#[cfg(feature = "driver")]
pub use config::{NodeConfig, RecordingConfig};
#[cfg(feature = "driver")]
pub use error::{
    CheckpointFailed, ProposeError, ReadFailed, RequestError, ShutdownError, StartError,
};
#[cfg(feature = "driver")]
pub use handle::NodeHandle;
pub use limits::SizeLimit;
pub use log_store::{LogReader, LogStore, ReadError, StorageError};
#[cfg(feature = "driver")]
pub use metrics::{LatencyHistogram, Metrics};
#[cfg(feature = "driver")]
pub use node::Node;
pub use peer_message::{PeerMessage, SnapshotChunk, SnapshotFrame};
pub use raft_core;
pub use state_machine::{CheckpointDone, MachineError, SnapshotSource, StateMachine};
#[cfg(feature = "driver")]
pub use status::{Explanation, Health, NodeStatus};
#[cfg(feature = "driver")]
pub use transport::{Delivery, Inbox, Transport, TransportError};
