//! A durable Raft log in a [redb] file and a journal beside it: `raft-node`'s [`LogStore`](raft_node::LogStore).
//!
//! A group of writes is one record of the journal and one `fdatasync`; many of them reach redb later, as one transaction.
//!
//! In the order in which to read it: `format` (the bytes), `plan` (what a group of writes amounts to), `store` (a write's way into the journal), `overlay` and
//! `reader` (who reads what redb lacks yet), `settle` (its way into redb), `lives` (whether it is the store that it was), `journal` (records and pages), `open`.
//!
//! What it is not: it decides nothing about the protocol, and stores no state of the application.

mod backend;
mod chunking;
mod error;
mod format;
mod journal;
mod lives;
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
