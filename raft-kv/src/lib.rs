//! A replicated, linearizable key-value store: what a service on `raft-node` looks like.
//!
//! In the order in which to read it:
//!
//! 1. [`limits`], [`command`], [`query`]: what can be asked, and its byte encoding.
//! 2. `session`, `state`: the pure state machine. Equal commands give equal states and answers; no clock, no randomness, no I/O.
//! 3. `stream`, [`Replica`]: a checkpoint on its way to another node; and all of the above as one pure machine, for simulations.
//! 4. `state_file`, `snapshot`: the state on disk, and streams from there (feature `node`).
//! 5. `KvMachine`: both together, behind `raft_node::StateMachine` (feature `node`).
//! 6. `protocol`, `service`, `client`: over the network (feature `quic`).
//!
//! The data model is etcd's v3: a global revision, and for every key the revision of its creation, of its last modification, and a
//! version. Writes belong to a client's *session* and are numbered, so that a retried write is applied once
//! (Ongaro's dissertation, §6.3).

#[cfg(feature = "quic")]
pub mod client;
mod codec;
pub mod command;
#[cfg(test)]
mod expiry_tests;
pub mod limits;
#[cfg(feature = "node")]
mod machine;
mod mutants;
#[cfg(feature = "quic")]
pub mod protocol;
pub mod query;
mod replica;
#[cfg_attr(not(feature = "node"), allow(dead_code))] // the pure state alone has no readers
mod scan;
#[cfg(feature = "quic")]
pub mod service;
mod session;
#[cfg(feature = "node")]
mod snapshot;
mod state;
#[cfg(feature = "node")]
mod state_file;
mod stream;

pub use codec::Malformed;
pub use command::{Command, Expect, Response, SessionId, Write, WriteOutcome};
#[cfg(feature = "node")]
pub use machine::KvMachine;
#[cfg(feature = "node")]
pub use query::Answer;
pub use query::{KeyRecord, Query, Record, Stats};
pub use replica::Replica;
pub use scan::{Scan, ScanEnded, ScanPage};
#[cfg(feature = "node")]
pub use state_file::{StateFileError, StateFileOptions};
pub use stream::StreamError;
