//! Raft as a deterministic state machine: no I/O, no clock, no randomness, no async.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod action;
mod config;
mod election;
mod entry;
mod error;
mod follower;
mod ids;
mod input;
mod invariants;
mod leader;
mod log;
mod membership;
mod message;
mod outbox;
mod progress;
mod quorum;
mod raft;
mod reads;
mod restored;
mod rng;
mod role;
mod snapshots;
mod status;
mod time;

pub use action::{Action, Apply, Event, HardState, Persist, Resolution, RoleKind};
pub use config::{Config, ConfigError};
pub use entry::{Entries, Entry, NotARun, Payload};
pub use error::{CallerFault, HandleError, PeerFault, Refusal, RestoreError};
pub use ids::{Index, LogPosition, NodeId, ProposalId, ReadId, Term, Ticket};
pub use input::Input;
pub use membership::Membership;
pub use message::{AppendOutcome, Body, Message, SnapshotMeta, SnapshotOutcome, TrafficClass};
pub use raft::Raft;
pub use restored::{Restored, RestoredLog, TermRun};
pub use status::{PeerStatus, ReplicationKind, Status};
pub use time::Instant;
