//! What a traced run is asked for, and what it gives.

use raft_core::{HandleError, NodeId, RestoreError};

use super::event::Line;

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How many founding members.
    pub nodes: u64,
    /// How many lines.
    pub events: usize,
    /// Whether members come and go, one at a time.
    pub membership: bool,
}

impl Options {
    /// Three members and a thousand lines, without changes of the membership.
    pub fn new(seed: u64) -> Options {
        Options { seed, nodes: 3, events: 1000, membership: false }
    }
}

/// What a run showed and did.
#[derive(Clone, Debug)]
pub struct Run {
    /// The trace.
    pub lines: Vec<Line>,
    /// What happened in it.
    pub tally: Tally,
}

impl Run {
    /// The trace in its written form: one JSON object a line.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            // Strings, numbers and booleans only: there is nothing that could not be written.
            text.push_str(&serde_json::to_string(line).unwrap_or_default());
            text.push('\n');
        }
        text
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after what it counts")]
pub struct Tally {
    pub elections: u64,
    pub crashes: u64,
    /// Of the crashes: in the middle of a write, which was lost.
    pub lost_writes: u64,
    pub restarts: u64,
    pub partitions: u64,
    pub lost: u64,
    pub reordered: u64,
    pub commits: u64,
    pub changes: u64,
    /// Messages that were lost or delayed because the schema could not have told what they would do.
    pub held_back: u64,
}

/// Why a run can not be told.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The options make no run.
    #[error(
        "a traced run has 1 to 9 members and 1 to 1000000 events; asked for {nodes} and {events}"
    )]
    Options {
        /// As asked for.
        nodes: u64,
        /// As asked for.
        events: usize,
    },
    /// A core refused to start.
    #[error("node {node} does not start: {source}")]
    Restore {
        /// Which.
        node: NodeId,
        /// Why.
        source: RestoreError,
    },
    /// A core refused an input.
    #[error("node {node} refuses an input: {source}")]
    Core {
        /// Which.
        node: NodeId,
        /// Why.
        source: HandleError,
    },
    /// A disk and its core disagree.
    #[error("the disk of node {node} does not fit: {what}")]
    Disk {
        /// Which.
        node: NodeId,
        /// How.
        what: String,
    },
    /// Something happened for which the schema has no words, and that should not happen here.
    #[error("node {node}: the schema can not tell {what}")]
    Inexpressible {
        /// Where.
        node: NodeId,
        /// What.
        what: &'static str,
    },
    /// Nothing happens any more.
    #[error("the run stands still after {lines} events")]
    Stuck {
        /// How far it came.
        lines: usize,
    },
}
