//! A durable Raft log in a [redb] file and a journal of its pages: `raft-node`'s [`LogStore`](raft_node::LogStore).
//!
//! What it is not: it decides nothing about the protocol, and stores no state of the application.

mod backend;
mod chunking;
mod error;
mod format;
mod journal;
mod open;
mod overlay;
mod plan;
mod reader;
mod settle;
mod store;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use error::OpenError;
pub use open::Options;
pub use reader::RedbLogReader;
pub use store::RedbLogStore;
