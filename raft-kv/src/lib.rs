//! A replicated, linearizable key-value store: what a service on `raft-node` looks like.
//!
//! In the order in which to read it:
//!
//! 1. [`limits`], [`command`], [`query`]: what can be asked, and its byte encoding.
//! 2. `session`, `state`: the pure state machine. Equal commands give equal states and answers; no clock, no randomness, no I/O.
//! 3. `state_file`, `snapshot`: the state on disk, and on its way to another node.
//! 4. [`KvMachine`]: both together, behind [`raft_node::StateMachine`].
//! 5. `protocol`, `service`, `client`: over the network (feature `quic`).
//!
//! The data model is etcd's v3: a global revision, and for every key the revision of its creation, of its last modification, and a
//! version. Writes belong to a client's *session* and are numbered, so that a retried write is applied once
//! (Ongaro's dissertation, §6.3).

#[cfg(feature = "quic")]
pub mod client;
mod codec;
pub mod command;
pub mod limits;
mod machine;
#[cfg(feature = "quic")]
pub mod protocol;
pub mod query;
#[cfg(feature = "quic")]
pub mod service;
mod session;
mod snapshot;
mod state;
mod state_file;

pub use codec::Malformed;
pub use command::{Command, Expect, Response, SessionId, Write, WriteOutcome};
pub use machine::KvMachine;
pub use query::{Answer, KeyRecord, Query, Record, Stats};
pub use snapshot::SnapshotRecords;
pub use state_file::{StateFileError, StateFileOptions};
