//! The rules of a driver's order: what must come before what when the actions of a [`raft_core::Raft`] are carried out. Without I/O, clock, threads or
//! runtime.
//!
//! The core hands out a queue of actions and allows a driver much: to start all of them at once, to make several writes durable together, to apply
//! while it writes. What it does not allow is told by `raft_core::Action`, and this module keeps it. Three loops go by it: the driver of this crate, the
//! simulator (`raft-sim`), whose faults and checkers so judge the code that runs in production, and yours, if you drive a core by yourself; it needs no
//! feature of this crate.
//!
//! | what | who calls it | when |
//! | --- | --- | --- |
//! | [`Job`] | who drives the core | with each action that it polls: which lane it belongs to |
//! | [`WriteOrder`] | who owns the log store | with each job of that lane; then once a commit |
//! | [`MachineOrder`] | who owns the state machine | with each job of that lane, before and after it is done |
//! | [`WaitingBatches`], [`WaitingReads`] | the same | when something is expected, and when something was applied |
//! | [`offered`] | the same | when it is to open a snapshot for a peer |
//! | [`may_do_itself`], [`is_small`] | who drives the core | before it hands jobs to the machine's owner, if that is another thread |
//! | [`Sending`] | who drives the core | when streams to peers begin, are answered and end |
//! | [`ChunkSender`] | who streams a snapshot | with each answer of the peer, and whenever it is time |
//! | [`Receiving`] | who collects incoming snapshots | with each request and with whatever arrives |
//! | [`ChunkReceiver`] | the same | with each chunk of the stream that was meant |
//!
//! What it does not decide: how long anything takes, what is retried (but for chunks that were lost), how full a queue may be, and anything of the protocol.
//!
//! Two rules are not in any type, since they need none: lanes are first in, first out; and what an earlier start of a node waited for is nobody's
//! business after it.

mod answers;
#[cfg(test)]
mod chunk_tests;
mod chunks;
mod job;
mod machine;
#[cfg(test)]
mod model_tests;
pub(crate) mod mutants;
mod streams;
mod writes;

pub use answers::{Batch, Outcome, WaitingBatches, WaitingReads};
pub use chunks::{
    ChunkReceiver, ChunkSender, ChunkSettings, ReceiveFailure, Received, SendFailure, ToSend,
};
pub use job::{Answer, Job, MachineJob, StoreJob};
pub use machine::{
    AppliedSlice, CheckpointEvery, MachineOrder, OutOfOrder, are_few, is_small, may_do_itself,
};
pub use streams::{Arriving, Offered, Receiving, Sending, StreamId, offered};
pub use writes::{Durable, WriteOrder};
