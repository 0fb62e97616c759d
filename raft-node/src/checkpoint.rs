//! When to make a checkpoint: one at a time, and none forgotten.

use raft_core::{LogPosition, SnapshotMeta};
use tokio::sync::oneshot;

use crate::error::CheckpointFailed;

/// Somebody who waits for a checkpoint.
pub(crate) type CheckpointReply = oneshot::Sender<Result<SnapshotMeta, CheckpointFailed>>;

/// The state of a node's checkpoints.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    /// How many applied bytes make one due.
    every_bytes: u64,
    /// How many were applied since the last one was started.
    bytes: u64,
    /// The last durable one.
    last: Option<SnapshotMeta>,
    running: bool,
    /// Who waits for the running one.
    now: Vec<CheckpointReply>,
    /// Who came while it was running, and so waits for the next.
    next: Vec<CheckpointReply>,
}

impl Checkpoints {
    pub(crate) fn new(every_bytes: u64, last: Option<SnapshotMeta>) -> Checkpoints {
        let (now, next) = (Vec::new(), Vec::new());
        Checkpoints { every_bytes, bytes: 0, last, running: false, now, next }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// Entries were applied. What comes due while a checkpoint is running is not forgotten: the bytes go on counting, and decide
    /// when it ends (scenario 38).
    pub(crate) fn on_applied(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Somebody wants one that includes `applied`.
    pub(crate) fn on_demand(&mut self, applied: LogPosition, reply: CheckpointReply) {
        match &self.last {
            Some(last) if last.position == applied => drop(reply.send(Ok(last.clone()))),
            _ => self.next.push(reply),
        }
    }

    pub(crate) fn on_started(&mut self) {
        self.running = true;
        self.bytes = 0;
        self.now.append(&mut self.next);
    }

    /// The running one is durable.
    pub(crate) fn on_done(&mut self, meta: SnapshotMeta) {
        self.running = false;
        for reply in self.now.drain(..) {
            drop(reply.send(Ok(meta.clone())));
        }
        self.last = Some(meta);
    }

    /// A received snapshot is durable: as good as a checkpoint.
    pub(crate) fn on_installed(&mut self, meta: SnapshotMeta) {
        self.bytes = 0;
        self.last = Some(meta);
    }

    /// Whether to start one now.
    pub(crate) fn is_due(&self) -> bool {
        !self.running && (self.bytes >= self.every_bytes || !self.next.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::{Index, Membership, Term};

    fn meta(index: u64) -> SnapshotMeta {
        let position = LogPosition { index: Index(index), term: Term(1) };
        SnapshotMeta { position, membership: Membership::default().into() }
    }

    #[test]
    fn a_trigger_while_one_is_being_built_fires_afterwards() {
        // scenario 38 (openraft 1829)
        let mut checkpoints = Checkpoints::new(100, None);
        checkpoints.on_applied(99);
        assert!(!checkpoints.is_due());
        checkpoints.on_applied(1);
        assert!(checkpoints.is_due());
        checkpoints.on_started();
        checkpoints.on_applied(150);
        assert!(!checkpoints.is_due(), "one at a time");
        checkpoints.on_done(meta(1));
        assert!(checkpoints.is_due(), "the trigger was remembered");
        checkpoints.on_started();
        checkpoints.on_done(meta(2));
        assert!(!checkpoints.is_due());
    }

    #[test]
    fn a_demand_during_a_checkpoint_waits_for_the_next_one() {
        let mut checkpoints = Checkpoints::new(100, None);
        let (reply, mut early) = oneshot::channel();
        checkpoints.on_demand(meta(1).position, reply);
        assert!(checkpoints.is_due());
        checkpoints.on_started();
        let (reply, mut late) = oneshot::channel();
        checkpoints.on_demand(meta(2).position, reply);
        assert!(!checkpoints.is_due(), "one at a time");
        checkpoints.on_done(meta(1));
        assert!(checkpoints.is_due(), "somebody waits for a newer one");
        assert_eq!(early.try_recv(), Ok(Ok(meta(1))));
        assert!(late.try_recv().is_err());
        checkpoints.on_started();
        checkpoints.on_done(meta(2));
        assert!(!checkpoints.is_due());
        assert_eq!(late.try_recv(), Ok(Ok(meta(2))));
        let (reply, mut same) = oneshot::channel();
        checkpoints.on_demand(meta(2).position, reply);
        assert!(!checkpoints.is_due(), "nothing has changed since");
        assert_eq!(same.try_recv(), Ok(Ok(meta(2))));
    }
}
