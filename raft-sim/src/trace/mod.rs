//! Traces of simulated runs in the event schema of etcd/raft's published TLA+ trace-validation spec, so that our behaviour can be held
//! against a spec that none of us wrote; and an executable model of that spec's rules, which needs no model checker.
//!
//! ```
//! use raft_sim::trace;
//! let run = trace::run(&trace::Options::new(7)).expect("the run can be told in the schema");
//! trace::check(run.lines.iter()).expect("the trace keeps the spec's rules");
//! ```
//!
//! What it is not: the world of [`run_seed`](crate::run_seed). A run for a trace has a small world of its own, whose faults are those
//! that the schema can tell. What is left out, and how our protocol is projected where it differs, is in the book ("Traces for an
//! independent spec").
//!
//! Reading order: `event` (the schema), `options` (what a run is asked for, and gives), `node` (one member and its projection), `world`
//! (the clock, disks and the network), `trouble` (faults), `client`, `notes` (what a node does by itself becomes), `receive` (what a
//! delivery becomes), `check` and `model` (the spec's rules).

mod check;
mod client;
mod event;
mod model;
mod node;
mod notes;
mod options;
mod receive;
mod trouble;
mod world;

pub use check::{Fault, Summary, check, check_json};
pub use event::{
    Change, ChangeAction, ConfChange, Event, Line, Msg, MsgType, Name, Prop, RoleName, State, Tag,
};
pub use options::{Options, Run, Tally, TraceError};
pub use world::run;
