//! The state machine's order: what is applied next, when a checkpoint is made, and when a snapshot may replace the state.

use std::sync::Arc;

use raft_core::{Apply, Entries, Entry, Index, LogPosition, Membership, Payload, SnapshotMeta};

use super::mutants::mutated;

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// After so many bytes of entries ([`Entry::size_bytes`]) since the last one was started.
    Bytes(u64),
    /// After so many entries since then.
    Entries(u64),
    /// Only when somebody asks for one.
    Demand,
}

/// How far one state machine is, and what may be done with it next. Whoever owns the machine owns this.
///
/// Its promises:
/// 1. Entries are applied in order, without gaps; what did not come with an [`Apply`] is [read from the durable log](MachineOrder::next_read)
///    before what did come is applied.
/// 2. Nothing is applied between an installation that is ordered and its end, and none takes the state back.
/// 3. One checkpoint runs at a time. What makes another due meanwhile is not forgotten.
/// 4. A checkpoint stands for the last applied position and the configuration as of there.
/// 5. An installation waits until the running checkpoint has ended, and has been reported.
///
/// `W` is somebody who waits for a checkpoint; `F` is what a snapshot is installed from.
#[derive(Debug)]
pub struct MachineOrder<W, F> {
    applied: LogPosition,
    /// As of `applied`.
    membership: Arc<Membership>,
    every: CheckpointEvery,
    /// How much of that was applied since the last one was started.
    amount: u64,
    /// The last durable one.
    last: Option<SnapshotMeta>,
    is_running: bool,
    /// Who waits for the running one.
    now: Vec<W>,
    /// Who came while it was running, and so waits for the next.
    next: Vec<W>,
    /// What to install once the running checkpoint has ended.
    install: Option<(SnapshotMeta, F)>,
}

/// What was applied of some entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedSlice {
    /// How many of them are commands, each of which has a response.
    pub commands: usize,
    /// Their size.
    pub bytes: u64,
}

/// Something is to be done with a machine that can not follow what was done before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// The entries do not follow the last applied one.
    #[error("entry {first} is handed out to be applied after {applied}")]
    Gap {
        /// The first of them.
        first: Index,
        /// The last that was applied.
        applied: LogPosition,
    },
    /// Entries are handed out before it is known whether a snapshot was installed.
    #[error("entry {first} is handed out to be applied before snapshot {snapshot} is installed")]
    Installing {
        /// The first of them.
        first: Index,
        /// The snapshot.
        snapshot: LogPosition,
    },
    /// A snapshot would take the state back.
    #[error("snapshot {snapshot} is handed out to be installed over {applied}")]
    Backwards {
        /// The snapshot.
        snapshot: LogPosition,
        /// The last that was applied.
        applied: LogPosition,
    },
    /// The log gave other entries than it was asked for.
    #[error("the log store gave other entries than {first} to {last}")]
    OtherEntries {
        /// The first that was asked for.
        first: Index,
        /// The last.
        last: Index,
    },
}

impl<W, F> MachineOrder<W, F> {
    /// A machine whose durable state is `restored`; or an empty one, in a log whose configuration as of its base is `base_membership`.
    pub fn new(
        restored: Option<SnapshotMeta>,
        base_membership: Arc<Membership>,
        every: CheckpointEvery,
    ) -> MachineOrder<W, F> {
        let (applied, membership) = match &restored {
            Some(snapshot) => (snapshot.position, Arc::clone(&snapshot.membership)),
            None => (LogPosition::ORIGIN, base_membership),
        };
        MachineOrder {
            applied,
            membership,
            every,
            amount: 0,
            last: restored,
            is_running: false,
            now: Vec::new(),
            next: Vec::new(),
            install: None,
        }
    }

    /// The last applied position.
    pub fn applied(&self) -> LogPosition {
        self.applied
    }

    /// The configuration as of there.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    /// Whether this span may be applied now.
    ///
    /// # Errors
    /// If it does not follow what was applied, or a snapshot is to be installed first.
    pub fn begin(&self, span: &Apply) -> Result<(), OutOfOrder> {
        if let Some((snapshot, _)) = &self.install {
            return Err(OutOfOrder::Installing { first: span.first, snapshot: snapshot.position });
        }
        if span.first != self.applied.index.next() {
            return Err(OutOfOrder::Gap { first: span.first, applied: self.applied });
        }
        Ok(())
    }

    /// What must be read from the durable log before the entries that came with the span are applied; `None` once that is done. A part of it may
    /// be read and applied at a time.
    pub fn next_read(&self, span: &Apply) -> Option<(Index, Index)> {
        let in_memory = span.entries.first().map_or(span.last.next(), |entry| entry.index);
        let first = self.applied.index.next();
        (first < in_memory && !mutated!(EndAppliedAlone)).then(|| (first, in_memory.prev()))
    }

    /// Whether what was read is a beginning of what [`next_read`](MachineOrder::next_read) asked for.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_read(
        &self,
        (first, last): (Index, Index),
        entries: &Entries,
    ) -> Result<(), OutOfOrder> {
        let fits = entries.first().is_some_and(|entry| entry.index == first)
            && entries.last().is_some_and(|entry| entry.index <= last);
        if fits { Ok(()) } else { Err(OutOfOrder::OtherEntries { first, last }) }
    }

    /// These were applied, whole: a run that follows what was applied before. What comes due while a checkpoint is running is not forgotten: it goes on
    /// counting, and decides when that ends.
    pub fn on_applied(&mut self, entries: &[Entry]) -> AppliedSlice {
        let mut slice = AppliedSlice::default();
        for entry in entries {
            slice.bytes += entry.size_bytes() as u64;
            match &entry.payload {
                Payload::Command(_) => slice.commands += 1,
                Payload::Membership(membership) => self.membership = Arc::clone(membership),
                _ => {}
            }
        }
        if let Some(last) = entries.last() {
            self.applied = last.position();
        }
        let more = match self.every {
            CheckpointEvery::Bytes(_) => slice.bytes,
            CheckpointEvery::Entries(_) => entries.len() as u64,
            CheckpointEvery::Demand => 0,
        };
        self.amount = self.amount.saturating_add(more);
        slice
    }

    /// Somebody wants a checkpoint of all that is applied. Whoever waits is given back by [`on_checkpoint_done`](MachineOrder::on_checkpoint_done);
    /// at once, with the checkpoint, if nothing has been applied since it.
    pub fn demand_checkpoint(&mut self, who: W) -> Option<(W, SnapshotMeta)> {
        match &self.last {
            Some(last) if last.position == self.applied => Some((who, last.clone())),
            _ => {
                self.next.push(who);
                None
            }
        }
    }

    /// Whether to start a checkpoint now.
    pub fn is_checkpoint_due(&self) -> bool {
        let is_enough = match self.every {
            CheckpointEvery::Bytes(every) | CheckpointEvery::Entries(every) => self.amount >= every,
            CheckpointEvery::Demand => false,
        };
        !self.is_running && (is_enough || !self.next.is_empty())
    }

    /// Whether one was started and has not ended.
    pub fn is_checkpointing(&self) -> bool {
        self.is_running
    }

    /// A checkpoint is being started: what it stands for. The state is to be written as it is now, whatever is applied until that is done.
    pub fn start_checkpoint(&mut self) -> SnapshotMeta {
        self.is_running = true;
        self.amount = 0;
        self.now.append(&mut self.next);
        SnapshotMeta { position: self.applied, membership: Arc::clone(&self.membership) }
    }

    /// The running checkpoint is durable: to be reported to the core before anything else is done. Who waited for it; then call
    /// [`take_install`](MachineOrder::take_install).
    pub fn on_checkpoint_done(
        &mut self,
        meta: &SnapshotMeta,
    ) -> impl Iterator<Item = W> + use<'_, W, F> {
        self.is_running = false;
        self.last = Some(meta.clone());
        self.now.drain(..)
    }

    /// A snapshot is to be installed. It is kept until [`take_install`](MachineOrder::take_install) gives it out.
    ///
    /// # Errors
    /// If it is older than the state.
    pub fn order_install(&mut self, snapshot: SnapshotMeta, from: F) -> Result<(), OutOfOrder> {
        if snapshot.position.index < self.applied.index {
            let (snapshot, applied) = (snapshot.position, self.applied);
            return Err(OutOfOrder::Backwards { snapshot, applied });
        }
        self.install = Some((snapshot, from));
        Ok(())
    }

    /// The snapshot to install now, if there is one: a machine never has to do this and a checkpoint at a time. The state is replaced before anything else is done.
    pub fn take_install(&mut self) -> Option<(SnapshotMeta, F)> {
        if self.is_running && !mutated!(InstalledDuringACheckpoint) {
            return None;
        }
        self.install.take()
    }

    /// Whether an installation waits for the running checkpoint.
    pub fn has_install(&self) -> bool {
        self.install.is_some()
    }

    /// The state was replaced by this snapshot, durably: as good as a checkpoint of it.
    pub fn on_installed(&mut self, snapshot: SnapshotMeta) {
        self.applied = snapshot.position;
        self.membership = Arc::clone(&snapshot.membership);
        self.amount = 0;
        self.last = Some(snapshot);
    }
}

/// How much is applied or answered on the task or thread that drives the core, at a time. Beyond it, another thread is worth its wake-up.
const SMALL_ENTRIES: usize = 64;
const SMALL_BYTES: usize = 64 << 10;
const SMALL_QUERIES: usize = 16;

/// Whether a machine that is quick may apply this on the task that drives the core: it is little, and nothing has to be read from a disk.
pub fn is_small(span: &Apply) -> bool {
    span.entries.first().is_some_and(|entry| entry.index == span.first)
        && span.entries.len() <= SMALL_ENTRIES
        && span.entries.size_bytes() <= SMALL_BYTES
}

/// Whether so many quick questions may be answered there.
pub fn are_few(queries: usize) -> bool {
    queries <= SMALL_QUERIES
}

/// Whether who drives the core may do with the machine what was just polled, instead of handing it over: all of it is small, and all that was
/// handed over before is worked off. Nobody else may hand over what has an order, or the lane would not stay idle meanwhile. What the lane
/// has reported, and still waits to be told to the core, is told before anything is done here: an `Applied` must not be overtaken by a later
/// one. What the machine says of this (`Applied`) is told to the core afterwards, which is then polled again.
pub fn may_do_itself(
    mut are_small: impl Iterator<Item = bool>,
    is_lane_idle: impl FnOnce() -> bool,
) -> bool {
    are_small.all(|is_small| is_small) && (is_lane_idle() || mutated!(LaneOvertaken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft_core::Term;

    fn position(index: u64) -> LogPosition {
        LogPosition { index: Index(index), term: Term(1) }
    }

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta { position: position(index), membership: Membership::default().into() }
    }

    fn entries(from: u64, to: u64) -> Vec<Entry> {
        let entry = |index| Entry {
            index: Index(index),
            term: Term(1),
            payload: Payload::Command(Bytes::from_static(b"x")),
        };
        (from..=to).map(entry).collect()
    }

    fn span(first: u64, last: u64, in_memory: u64) -> Apply {
        let entries = Entries::try_from_vec(entries(in_memory, last)).expect("a run");
        Apply { first: Index(first), last: Index(last), entries }
    }

    fn order(every: u64) -> MachineOrder<&'static str, ()> {
        let every = CheckpointEvery::Entries(every);
        MachineOrder::new(None, Membership::default().into(), every)
    }

    #[test]
    fn a_trigger_while_one_is_being_built_fires_afterwards() {
        // scenario 38 (openraft 1829)
        let mut order = order(3);
        order.on_applied(&entries(1, 2));
        assert!(!order.is_checkpoint_due());
        order.on_applied(&entries(3, 3));
        assert!(order.is_checkpoint_due());
        assert_eq!(order.start_checkpoint(), meta(3));
        order.on_applied(&entries(4, 9));
        assert!(!order.is_checkpoint_due(), "one at a time");
        assert_eq!(order.on_checkpoint_done(&meta(3)).count(), 0);
        assert!(order.is_checkpoint_due(), "the trigger was remembered");
        assert_eq!(order.start_checkpoint(), meta(9));
        order.on_checkpoint_done(&meta(9)).for_each(drop);
        assert!(!order.is_checkpoint_due());
    }

    #[test]
    fn a_demand_during_a_checkpoint_waits_for_the_next_one() {
        let mut order = order(100);
        order.on_applied(&entries(1, 1));
        assert_eq!(order.demand_checkpoint("early"), None);
        assert!(order.is_checkpoint_due());
        order.start_checkpoint();
        order.on_applied(&entries(2, 2));
        assert_eq!(order.demand_checkpoint("late"), None);
        assert!(!order.is_checkpoint_due(), "one at a time");
        assert!(order.on_checkpoint_done(&meta(1)).eq(["early"]));
        assert!(order.is_checkpoint_due(), "somebody waits for a newer one");
        order.start_checkpoint();
        assert!(order.on_checkpoint_done(&meta(2)).eq(["late"]));
        assert!(!order.is_checkpoint_due());
        assert_eq!(order.demand_checkpoint("again"), Some(("again", meta(2))));
    }

    #[test]
    fn an_installation_waits_for_the_running_checkpoint() {
        let mut order = order(2);
        order.on_applied(&entries(1, 2));
        order.start_checkpoint();
        assert_eq!(order.order_install(meta(9), ()), Ok(()));
        assert_eq!(order.take_install(), None);
        let refused = order.begin(&span(3, 3, 3));
        assert_eq!(refused, Err(OutOfOrder::Installing { first: Index(3), snapshot: position(9) }));
        order.on_checkpoint_done(&meta(2)).for_each(drop);
        assert_eq!(order.take_install(), Some((meta(9), ())));
        order.on_installed(meta(9));
        assert_eq!((order.applied(), order.begin(&span(10, 10, 10))), (position(9), Ok(())));
        assert!(matches!(order.order_install(meta(8), ()), Err(OutOfOrder::Backwards { .. })));
    }

    #[test]
    fn what_is_not_in_memory_is_read_first() {
        let mut order = order(100);
        let span = span(1, 9, 6);
        assert_eq!(order.begin(&span), Ok(()));
        assert_eq!(order.next_read(&span), Some((Index(1), Index(5))));
        let read = |from, to| Entries::try_from_vec(entries(from, to)).expect("a run");
        assert_eq!(order.check_read((Index(1), Index(5)), &read(1, 3)), Ok(()));
        assert!(order.check_read((Index(1), Index(5)), &read(2, 3)).is_err());
        assert!(order.check_read((Index(1), Index(5)), &read(1, 6)).is_err());
        order.on_applied(&entries(1, 3));
        assert_eq!(order.next_read(&span), Some((Index(4), Index(5))));
        order.on_applied(&entries(4, 5));
        assert_eq!(order.next_read(&span), None);
        let slice = order.on_applied(&entries(6, 9));
        assert_eq!(slice.commands, 4);
        assert!(matches!(order.begin(&span), Err(OutOfOrder::Gap { .. })));
    }

    #[test]
    fn only_small_work_overtakes_no_lane() {
        assert!(
            is_small(&span(1, 64, 1)) && !is_small(&span(1, 65, 1)) && !is_small(&span(1, 9, 2))
        );
        assert!(may_do_itself([true, true].into_iter(), || true));
        assert!(!may_do_itself([true, false].into_iter(), || true));
        assert!(!may_do_itself([true, true].into_iter(), || false));
    }
}
