//! A number that commands add to: about the smallest state machine there can be.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft_core::{Entry, Payload, SnapshotMeta};

use crate::{CheckpointDone, MachineError, SnapshotSource, StateMachine};

/// A [`StateMachine`] that adds up. A command is eight bytes, a little-endian `i64`; the response is the sum, or `None` if
/// the command is malformed. The query asks for the sum.
#[derive(Debug, Default)]
pub struct Counter {
    sum: i64,
    disk: CounterDisk,
}

/// Where a [`Counter`] keeps its checkpoint. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct CounterDisk {
    checkpoint: Arc<Mutex<Option<(SnapshotMeta, i64)>>>,
}

impl CounterDisk {
    fn get(&self) -> Option<(SnapshotMeta, i64)> {
        self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, meta: SnapshotMeta, sum: i64) {
        *self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner) = Some((meta, sum));
    }
}

impl Counter {
    /// A counter that forgets when it is dropped.
    pub fn new() -> Counter {
        Counter::default()
    }

    /// A counter whose checkpoints outlive it.
    pub fn on(disk: CounterDisk) -> Counter {
        Counter { sum: 0, disk }
    }

    /// The command that adds `amount`.
    pub fn add(amount: i64) -> Bytes {
        Bytes::copy_from_slice(&amount.to_le_bytes())
    }
}

impl StateMachine for Counter {
    type Response = Option<i64>;
    type Query = ();
    type Answer = i64;

    const IS_QUICK: bool = true;

    fn is_quick((): &()) -> bool {
        true
    }

    fn restore(&mut self) -> Result<Option<SnapshotMeta>, MachineError> {
        let checkpoint = self.disk.get();
        self.sum = checkpoint.as_ref().map_or(0, |(_, sum)| *sum);
        Ok(checkpoint.map(|(meta, _)| meta))
    }

    fn apply(
        &mut self,
        entries: &[Entry],
        responses: &mut Vec<Option<i64>>,
    ) -> Result<(), MachineError> {
        for entry in entries {
            if let Payload::Command(command) = &entry.payload {
                let amount = <[u8; 8]>::try_from(command.as_ref()).map(i64::from_le_bytes).ok();
                self.sum = self.sum.wrapping_add(amount.unwrap_or(0));
                responses.push(amount.map(|_| self.sum));
            }
        }
        Ok(())
    }

    fn query(&self, (): ()) -> i64 {
        self.sum
    }

    fn checkpoint(&mut self, meta: SnapshotMeta, done: CheckpointDone) -> Result<(), MachineError> {
        self.disk.set(meta, self.sum);
        done.report(Ok(()));
        Ok(())
    }

    fn open_snapshot(&self) -> Result<Option<SnapshotSource>, MachineError> {
        Ok(self.disk.get().map(|(meta, sum)| SnapshotSource {
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
        data.read_exact(&mut sum)
            .map_err(|error| MachineError::new(format!("not a counter's snapshot: {error}")))?;
        self.sum = i64::from_le_bytes(sum);
        self.disk.set(meta, self.sum);
        Ok(())
    }
}
