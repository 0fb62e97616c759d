//! What it takes to test a node, and whatever is plugged into one, without disks and sockets.
//!
//! * [`MemoryDisk`] and [`MemoryLog`]: a [`LogStore`](crate::LogStore) in memory whose disk can be made to fail, to stall, and to lose its power;
//! * [`Switchboard`]: a [`Transport`](crate::Transport) between nodes of one process, with links that can be cut;
//! * [`Counter`]: about the smallest [`StateMachine`](crate::StateMachine) there can be;
//! * [`check_log_store`], [`check_log_store_crashes`] and [`check_transport`]: the conformance kits for log stores and transports. Put yours through them.
//!
//! All of it is for tests and examples; nothing here keeps anything.

mod conformance;
mod counter;
mod memory_log;
mod switchboard;
mod transport_kit;

pub use conformance::{
    CrashingDisk, check_log_store, check_log_store_crashes, check_log_store_within,
};
pub use counter::{Counter, CounterDisk};
pub use memory_log::{MemoryDisk, MemoryLog, MemoryLogReader};
pub use switchboard::{Switchboard, SwitchboardTransport};
pub use transport_kit::{TestNetwork, check_transport};
