//! A deterministic world for many [`raft_core::Raft`]s: virtual network, disks, clocks and state machines, faults, and checkers
//! that keep their own truth. One `u64` seed decides everything, so every failure is a number.
//!
//! ```
//! let outcome = raft_sim::run_seed(7);
//! assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap());
//! ```
//!
//! What it is not: a test of `raft-node`'s threads, of a real store or of sockets. It drives the core from a loop of its own ([`World`]), without
//! threads and without real time; what must come before what in it is [`raft_node::order`]'s, as in the real driver.
//!
//! Reading order: `plan` (what a seed draws), `image` (what a disk holds), `node` (one member), `event` and `world` (the event loop and the
//! driver), `perform` (what is done with each action), `machinery`, `disk`, `network`, `streams` (what surrounds the core), `client` and `operator`
//! (who asks for what), `clients` (their books), `chaos` (faults), `liveness` (the end of a run) and `liars` (what comes after it), `checker`, `conduct` (and `conduct_votes`, `conduct_leading`, `conduct_requests`), `budgets`, `watch`, `configurations`, `ledger`, `oracle`, [`history`] and `service` (what must hold).

mod budgets;
mod case;
mod chaos;
mod checker;
#[cfg(test)]
mod checker_tests;
mod client;
mod clients;
mod conduct;
mod conduct_leading;
mod conduct_requests;
mod conduct_votes;
mod configurations;
pub mod corpus;
pub mod diagram;
mod disk;
mod event;
pub mod history;
#[cfg(test)]
mod history_tests;
mod image;
mod ledger;
mod liars;
pub mod linearizability;
mod liveness;
mod machine;
mod machinery;
mod mutants;
mod network;
mod node;
mod operator;
mod oracle;
mod outcome;
mod perform;
mod plan;
mod plan_text;
mod provoke;
#[cfg_attr(not(feature = "redb"), path = "real_absent.rs")]
mod real;
mod real_disk;
pub mod recorded;
#[cfg(test)]
mod rejected;
mod rng;
mod service;
mod serving;
pub mod shrink;
mod starting;
mod streams;
pub mod timeline;
pub mod trace;
mod watch;
pub mod words;
mod world;

pub use case::{Case, CaseError};
pub use checker::{Checker, Violation};
pub use image::Image;
pub use ledger::Ledger;
pub use machine::{HashMachine, Machine};
pub use outcome::{Coverage, Failure, Outcome, run_case, run_seed};
pub use plan::{ClientPlan, DiskPlan, Fault, NetworkPlan, Plan};
pub use rng::Rng;
pub use world::{Observer, World};
