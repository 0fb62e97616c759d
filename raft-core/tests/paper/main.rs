//! The Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", extended version), rule by rule: one test
//! per rule of figure 2 and of figure 13, and per property of figure 3. Each module is one box of a figure; each test quotes its rule.
//!
//! Where this implementation goes another way on purpose (pre-votes, snapshots by the driver), the test says so.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod append_entries;
mod install_snapshot;
mod leaders;
mod request_vote;
mod safety;
mod servers;
mod state;
