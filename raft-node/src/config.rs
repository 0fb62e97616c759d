//! What can be set for one node. Nothing here is read from a file: that is the application's affair.

use std::path::PathBuf;
use std::time::Duration;

use raft_core::{Config, Membership, NodeId};

use crate::{SizeLimit, StartError, limits};

/// Settings of one node. Start from [`NodeConfig::new`] and change what needs changing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Settings of the protocol.
    pub raft: Config,
    /// Seeds all that is random in the protocol: election timeouts, and what tells this start's questions from those of
    /// earlier ones. `None` draws it from the operating system at each start. A number repeats one start exactly, which
    /// is for tests alone: no two starts of a group's members may share one ([`Raft::new`](raft_core::Raft::new)).
    pub seed: Option<u64>,
    /// The first configuration of a group that is being founded; used only if the log store is empty. Every founding member
    /// must be given the same one. `None` for a member that will be added to an existing group.
    pub founding: Option<Membership>,
    /// A checkpoint is started after this many bytes of applied entries
    /// ([`Entry::size_bytes`](raft_core::Entry::size_bytes)); the log before it is forgotten afterwards.
    pub checkpoint_log_bytes: u64,
    /// Where snapshots that a leader streams are collected. Created if missing, and used by nobody else.
    pub scratch_dir: PathBuf,
    /// The most proposed batches that may wait for an answer; more are refused as busy.
    pub waiting_batches_max: usize,
    /// The most bytes of commands that may wait for an answer; more are refused as busy.
    pub waiting_bytes_max: usize,
    /// The most queries that may wait for an answer; more are refused as busy.
    pub waiting_queries_max: usize,
    /// How many messages from peers may wait for the driver before the network has to wait.
    pub inbox_messages_max: usize,
    /// How many writes may wait for the disk before the driver stops to take what makes more of them.
    pub waiting_writes_max: usize,
    /// How many bytes of entries may wait for the disk before the driver stops to take what makes more of them.
    pub waiting_write_bytes_max: usize,
    /// How many inputs of each kind the driver takes at most before it acts on them.
    pub drain_max: usize,
    /// How many bytes of entries are read from the log at a time when they are applied after a restart.
    pub replay_bytes: usize,
    /// How fast a snapshot is streamed to one peer, in bytes a second; `None` for as fast as it goes.
    pub snapshot_bytes_per_second: Option<u64>,
    /// How many bytes of a snapshot may be under way without being acknowledged.
    pub snapshot_window_bytes: u64,
    /// A snapshot stream that makes no progress for this long is given up. (The leader offers it again, and it resumes.)
    pub snapshot_stall_timeout: Duration,
    /// The largest snapshot that is accepted from a leader.
    pub snapshot_bytes_max: u64,
    /// A write that takes longer than this makes the node give up its lease, and its leadership if another member can take it.
    pub storage_stall: Duration,
    /// How often the published status is renewed at most while only indexes move. A change of role or health shows at once.
    pub status_interval: Duration,
    /// Whether what the core is told is recorded, and where; see [`raft_core::recording`].
    pub recording: Option<RecordingConfig>,
}

/// A recording of what the core is told. It holds the commands: it is as confidential as the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingConfig {
    /// The file. It is made anew at each start; the one before is kept, with `.1` after its name.
    pub file: PathBuf,
    /// The recording ends before the file becomes longer than this, and the node goes on. A recording can only be lived again from its beginning,
    /// so it does not rotate.
    pub bytes_max: u64,
}

impl NodeConfig {
    /// The defaults for a member of a group on one local network. Incoming snapshots are
    /// collected in a folder of the system's temporary one, so that a real deployment should set
    /// [`scratch_dir`](NodeConfig::scratch_dir) to its data folder's file system.
    pub fn new(id: NodeId) -> NodeConfig {
        NodeConfig {
            raft: Config::new(id),
            seed: None,
            founding: None,
            checkpoint_log_bytes: 256 << 20,
            scratch_dir: std::env::temp_dir().join(format!(
                "raft-node-{}-{}",
                std::process::id(),
                id
            )),
            waiting_batches_max: 16 << 10,
            waiting_bytes_max: 64 << 20,
            waiting_queries_max: 64 << 10,
            inbox_messages_max: 256,
            waiting_writes_max: 4096,
            waiting_write_bytes_max: 64 << 20,
            drain_max: 4096,
            replay_bytes: 1 << 20,
            snapshot_bytes_per_second: None,
            snapshot_window_bytes: 2 << 20,
            snapshot_stall_timeout: Duration::from_secs(10),
            snapshot_bytes_max: 1 << 40,
            storage_stall: Duration::from_secs(1),
            status_interval: Duration::from_millis(5),
            recording: None,
        }
    }

    /// Checks what the core does not check itself: that every bound lets something through, and that the store and the transport take
    /// what the core accepts.
    pub(crate) fn validate(&self, of_parts: [Option<SizeLimit>; 2]) -> Result<(), StartError> {
        self.check(of_parts).map_err(StartError::Config)
    }

    fn check(&self, [of_store, of_transport]: [Option<SizeLimit>; 2]) -> Result<(), String> {
        limits::check(&self.raft, of_store, of_transport)?;
        let positive = [
            ("waiting_batches_max", self.waiting_batches_max as u64),
            ("waiting_bytes_max", self.waiting_bytes_max as u64),
            ("waiting_queries_max", self.waiting_queries_max as u64),
            ("inbox_messages_max", self.inbox_messages_max as u64),
            ("waiting_writes_max", self.waiting_writes_max as u64),
            ("waiting_write_bytes_max", self.waiting_write_bytes_max as u64),
            ("drain_max", self.drain_max as u64),
            ("replay_bytes", self.replay_bytes as u64),
            ("snapshot_bytes_per_second", self.snapshot_bytes_per_second.unwrap_or(1)),
            ("snapshot_window_bytes", self.snapshot_window_bytes),
            ("snapshot_bytes_max", self.snapshot_bytes_max),
            ("checkpoint_log_bytes", self.checkpoint_log_bytes),
        ];
        if self.waiting_bytes_max < self.raft.command_bytes_max {
            return Err(format!(
                "waiting_bytes_max is {} bytes, less than one command may have by raft.command_bytes_max, {}: raise the first or lower the second",
                self.waiting_bytes_max, self.raft.command_bytes_max
            ));
        }
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((setting, _)) => Err(format!("{setting} is zero; it must be positive")),
            None => Ok(()),
        }
    }
}
