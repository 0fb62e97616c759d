//! Embeds `raft-node` with a state machine of one's own: a group of one node that adds up numbers.
//!
//! Run it with `cargo run -p raft-node --example counter`.

use std::io::Read;

use bytes::Bytes;
use raft_node::raft_core::{Entry, Membership, NodeId, Payload, SnapshotMeta};
use raft_node::testing::{MemoryDisk, Switchboard};
use raft_node::{CheckpointDone, MachineError, Node, NodeConfig, SnapshotSource, StateMachine};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let me = NodeId(1);
    let mut config = NodeConfig::new(me);
    config.founding = Some(Membership::of_voters([me]));

    // In earnest: a log store on a disk, and a transport between machines.
    let (store, transport) = (MemoryDisk::new().open(), Switchboard::new().transport(me));
    let node = Node::start(config, store, transport, Sum::default()).await?;
    node.watch_status().wait_for(|status| status.raft.leader == Some(me)).await?;

    for number in ["1", "20", "21"] {
        let sum = node.propose(Bytes::from(number)).await?; // durable, committed, applied
        println!("after {number}: {sum}");
    }
    println!("read linearizably: {}", node.read(()).await?);
    node.shutdown().await?;
    Ok(())
}

/// The state machine: a sum. Commands are numbers in decimal; what is no number counts as zero, on every member alike.
#[derive(Default)]
struct Sum {
    sum: u64,
    checkpoint: Option<(SnapshotMeta, u64)>,
}

impl StateMachine for Sum {
    type Response = u64;
    type Query = ();
    type Answer = u64;

    fn apply(&mut self, entries: &[Entry], responses: &mut Vec<u64>) -> Result<(), MachineError> {
        for entry in entries {
            if let Payload::Command(command) = &entry.payload {
                let number = std::str::from_utf8(command).ok().and_then(|text| text.parse().ok());
                self.sum = self.sum.wrapping_add(number.unwrap_or(0));
                responses.push(self.sum);
            }
        }
        Ok(())
    }

    fn query(&self, (): ()) -> u64 {
        self.sum
    }

    // What follows lets the log be shortened, and lagging members catch up. In earnest it is kept on a disk.

    fn restore(&mut self) -> Result<Option<SnapshotMeta>, MachineError> {
        Ok(None)
    }

    fn checkpoint(&mut self, meta: SnapshotMeta, done: CheckpointDone) -> Result<(), MachineError> {
        self.checkpoint = Some((meta, self.sum));
        done.report(Ok(()));
        Ok(())
    }

    fn open_snapshot(&self) -> Result<Option<SnapshotSource>, MachineError> {
        Ok(self.checkpoint.clone().map(|(meta, sum)| SnapshotSource {
            meta,
            data: Box::new(std::io::Cursor::new(sum.to_le_bytes())),
        }))
    }

    fn install_snapshot(
        &mut self,
        meta: SnapshotMeta,
        data: &mut dyn Read,
    ) -> Result<(), MachineError> {
        let mut sum = [0; 8];
        data.read_exact(&mut sum).map_err(|error| MachineError::new(error.to_string()))?;
        self.sum = u64::from_le_bytes(sum);
        self.checkpoint = Some((meta, self.sum));
        Ok(())
    }
}
