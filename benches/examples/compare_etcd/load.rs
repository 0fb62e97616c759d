//! What is asked of both sides, and what comes back.

use std::time::Duration;

use serde::Deserialize;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Durable, replicated writes.
    Put,
    /// Linearizable reads.
    Get,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) inflight: usize,
    pub(crate) value_size: usize,
    pub(crate) keys: u64,
    pub(crate) duration: Duration,
}

/// What came of it; the fields are those of `raft bench --json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) ops_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    pub(crate) errors: u64,
}

/// The resident memory of a process, in MiB; 0 if it is gone.
pub(crate) fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
