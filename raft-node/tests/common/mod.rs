//! A group of nodes in one process, over memory, and a state machine that keeps everything.
// Each test binary uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft_node::raft_core::{Entry, Membership, NodeId, Payload, RoleKind, SnapshotMeta};
use raft_node::testing::{MemoryDisk, Switchboard};
use raft_node::{
    CheckpointDone, MachineError, Node, NodeConfig, NodeHandle, NodeStatus, SnapshotSource,
    StateMachine,
};

/// Nothing here takes longer, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps every command; the response is how many there are.
#[derive(Default)]
pub(crate) struct Journal {
    commands: Vec<Bytes>,
    disk: JournalDisk,
}

type Checkpoint = Option<(SnapshotMeta, Vec<u8>)>;

#[derive(Clone, Default)]
pub(crate) struct JournalDisk {
    checkpoint: Arc<Mutex<Checkpoint>>,
    panics: Arc<Mutex<bool>>,
}

impl JournalDisk {
    pub(crate) fn panic_on_apply(&self) {
        *self.panics.lock().expect("unpoisoned") = true;
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        self.checkpoint.lock().expect("unpoisoned").clone()
    }
}

impl Journal {
    pub(crate) fn on(disks: &Disks) -> Journal {
        Journal { commands: Vec::new(), disk: disks.machine.clone() }
    }

    fn encoded(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for command in &self.commands {
            data.extend((command.len() as u32).to_le_bytes());
            data.extend(command);
        }
        data
    }

    fn decode(&mut self, mut data: &[u8]) {
        self.commands.clear();
        while let Some((length, rest)) = data.split_first_chunk::<4>() {
            let (command, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
            self.commands.push(Bytes::copy_from_slice(command));
            data = rest;
        }
    }
}

impl StateMachine for Journal {
    type Response = usize;
    type Query = ();
    type Answer = Vec<Bytes>;

    fn restore(&mut self) -> Result<Option<SnapshotMeta>, MachineError> {
        let Some((meta, data)) = self.disk.checkpoint() else { return Ok(None) };
        self.decode(&data);
        Ok(Some(meta))
    }

    fn apply(&mut self, entries: &[Entry], responses: &mut Vec<usize>) -> Result<(), MachineError> {
        assert!(!*self.disk.panics.lock().expect("unpoisoned"), "the machine was told to panic");
        for entry in entries {
            if let Payload::Command(command) = &entry.payload {
                self.commands.push(command.clone());
                responses.push(self.commands.len());
            }
        }
        Ok(())
    }

    fn query(&self, (): ()) -> Vec<Bytes> {
        self.commands.clone()
    }

    fn checkpoint(&mut self, meta: SnapshotMeta, done: CheckpointDone) -> Result<(), MachineError> {
        let (disk, data) = (self.disk.clone(), self.encoded());
        // On another thread, as a real machine would.
        std::thread::spawn(move || {
            *disk.checkpoint.lock().expect("unpoisoned") = Some((meta, data));
            done.report(Ok(()));
        });
        Ok(())
    }

    fn open_snapshot(&self) -> Result<Option<SnapshotSource>, MachineError> {
        Ok(self.disk.checkpoint().map(|(meta, data)| SnapshotSource {
            meta,
            data: Box::new(std::io::Cursor::new(data)),
        }))
    }

    fn install_snapshot(
        &mut self,
        meta: SnapshotMeta,
        data: &mut dyn Read,
    ) -> Result<(), MachineError> {
        let mut all = Vec::new();
        data.read_to_end(&mut all).map_err(|error| MachineError::new(error.to_string()))?;
        self.decode(&all);
        *self.disk.checkpoint.lock().expect("unpoisoned") = Some((meta, all));
        Ok(())
    }
}

/// What of a node outlives it.
#[derive(Clone, Default)]
pub(crate) struct Disks {
    pub(crate) log: MemoryDisk,
    pub(crate) machine: JournalDisk,
}

pub(crate) struct Group {
    pub(crate) network: Switchboard,
    pub(crate) disks: BTreeMap<NodeId, Disks>,
    pub(crate) nodes: BTreeMap<NodeId, NodeHandle<Journal>>,
    /// Who founds the group if its log is empty.
    pub(crate) founders: BTreeSet<NodeId>,
    scratch: tempfile::TempDir,
    change: Change,
}

impl Group {
    pub(crate) async fn start(size: u64, change: Change) -> Group {
        let mut group = Group {
            network: Switchboard::new(),
            disks: (1..=size).map(|id| (NodeId(id), Disks::default())).collect(),
            nodes: BTreeMap::new(),
            founders: (1..=size).map(NodeId).collect(),
            scratch: tempfile::tempdir().expect("a folder"),
            change,
        };
        for id in 1..=size {
            group.start_node(NodeId(id)).await;
        }
        group
    }

    pub(crate) fn config(&self, id: NodeId) -> NodeConfig {
        let mut config = NodeConfig::new(id);
        let founds = self.founders.contains(&id);
        config.founding = founds.then(|| Membership::of_voters(self.disks.keys().copied()));
        config.scratch_dir = scratch(self.scratch.path(), id);
        config.raft.election_timeout = Duration::from_millis(150);
        config.raft.heartbeat_interval = Duration::from_millis(20);
        (self.change)(&mut config);
        config
    }

    pub(crate) async fn start_node(&mut self, id: NodeId) {
        let disks = self.disks[&id].clone();
        let machine = Journal::on(&disks);
        let transport = self.network.transport(id);
        let node = Node::start(self.config(id), disks.log.open(), transport, machine).await;
        self.nodes.insert(id, node.expect("starts"));
    }

    pub(crate) async fn stop_node(&mut self, id: u64) {
        let node = self.nodes.remove(&NodeId(id)).expect("it runs");
        node.shutdown().await.expect("stops in good order");
    }

    /// Gives a node that is down another disk: its folder was emptied, or a backup put back. It founds nothing.
    pub(crate) fn replace_disk(&mut self, id: u64, disks: Disks) {
        self.founders.remove(&NodeId(id));
        self.disks.insert(NodeId(id), disks);
    }

    /// Waits for a leader that all of these nodes know.
    pub(crate) async fn leader_of(&self, of: impl IntoIterator<Item = u64>) -> NodeId {
        let nodes: Vec<_> = of.into_iter().map(|id| &self.nodes[&NodeId(id)]).collect();
        loop {
            let leader = until(nodes[0], |status| status.raft.leader.is_some()).await.raft.leader;
            let agree = nodes.iter().all(|node| node.status().raft.leader == leader);
            let leads = nodes.iter().any(|node| {
                let raft = node.status().raft;
                Some(raft.id) == leader && raft.role == RoleKind::Leader
            });
            if let (Some(leader), true, true) = (leader, agree, leads) {
                return leader;
            }
            // Somebody's status will change.
            let mut changes = tokio::task::JoinSet::new();
            for node in &nodes {
                let mut status = node.watch_status();
                changes.spawn(async move { drop(status.changed().await) });
            }
            let changed = tokio::time::timeout(PATIENCE, changes.join_next()).await;
            changed.expect("a leader is elected in time");
        }
    }

    pub(crate) async fn shutdown(self) {
        for node in self.nodes.values() {
            node.shutdown().await.expect("stops in good order");
        }
    }
}

/// What a test wants to be otherwise.
type Change = fn(&mut NodeConfig);

fn scratch(root: &Path, id: NodeId) -> std::path::PathBuf {
    root.join(id.to_string())
}

/// Waits until a node's status is as wanted.
pub(crate) async fn until(
    node: &NodeHandle<Journal>,
    wanted: impl FnMut(&NodeStatus) -> bool,
) -> NodeStatus {
    let mut status = node.watch_status();
    let found = tokio::time::timeout(PATIENCE, status.wait_for(wanted)).await;
    let Ok(found) = found else {
        panic!("not in time: {:?} {:?}", node.status(), node.metrics());
    };
    found.expect("the node lives").clone()
}

/// Waits until a node has applied this many commands, and returns them. (Not by the leader's status: that may be some
/// milliseconds old.)
pub(crate) async fn applied(node: &NodeHandle<Journal>, count: usize) -> Vec<Bytes> {
    let mut status = node.watch_status();
    loop {
        status.mark_unchanged();
        let all = node.query_local(()).await.expect("the node lives");
        if all.len() >= count {
            return all;
        }
        let changed = tokio::time::timeout(PATIENCE, status.changed()).await;
        changed.expect("applied in time").expect("the node lives");
    }
}

pub(crate) fn command(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
