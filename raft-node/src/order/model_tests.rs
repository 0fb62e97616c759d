//! The promises of this module, whatever comes when: each property drives one type by drawn steps and keeps its own, simpler truth.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use raft_core::{
    Apply, Entries, Entry, Index, Instant, LogPosition, Membership, Payload, Persist, SnapshotMeta,
    Term, Ticket,
};

use super::{CheckpointEvery, MachineOrder, StoreJob, WaitingReads, WriteOrder};

fn position(index: u64) -> LogPosition {
    LogPosition { index: Index(index), term: Term(1) }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { position: position(index), membership: Membership::default().into() }
}

fn run_of(first: u64, last: u64) -> Entries {
    let payload = Payload::Command(Bytes::from_static(b"x"));
    let entry = |index| Entry { index: Index(index), term: Term(1), payload: payload.clone() };
    Entries::try_from_vec((first..=last).map(entry).collect()).expect("a run")
}

/// What happens to a log store.
#[derive(Clone, Copy, Debug)]
enum Disk {
    Write,
    Reset,
    Compact,
    Commit { fails: bool, more_waits: bool },
}

fn disk() -> impl Strategy<Value = Disk> {
    let commit = |(fails, more_waits)| Disk::Commit { fails, more_waits };
    prop_oneof![
        6 => Just(Disk::Write),
        1 => Just(Disk::Reset),
        2 => Just(Disk::Compact),
        4 => (prop::bool::weighted(0.05), any::<bool>()).prop_map(commit),
    ]
}

/// What happens to a state machine.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many entries come to be applied, the first of which must be read.
    Apply {
        count: u64,
        to_read: u64,
        at_a_time: u64,
    },
    /// A snapshot so far ahead has arrived.
    Install(u64),
    StartDue,
    CheckpointDone,
    Demand,
    /// A read of an index so far ahead.
    Read(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let apply = |(count, to_read, at_a_time): (u64, u64, u64)| Step::Apply {
        count,
        to_read: to_read.min(count),
        at_a_time,
    };
    prop_oneof![
        6 => (1..9_u64, 0..9_u64, 1..4_u64).prop_map(apply),
        1 => (0..9_u64).prop_map(Step::Install),
        4 => Just(Step::StartDue),
        2 => Just(Step::CheckpointDone),
        1 => Just(Step::Demand),
        3 => (0..12_u64).prop_map(Step::Read),
    ]
}

/// A machine beside its order: what a machine would see.
#[derive(Default)]
struct Seen {
    applied: u64,
    /// The running checkpoint.
    running: Option<SnapshotMeta>,
    /// What is to be installed.
    ordered: Option<u64>,
    waits: usize,
    reads: Vec<u64>,
}

impl Seen {
    fn install(&mut self, order: &mut MachineOrder<(), ()>) {
        match order.take_install() {
            Some((snapshot, ())) => {
                assert!(self.running.is_none(), "never both at a time");
                assert_eq!(Some(snapshot.position.index.0), self.ordered.take());
                self.applied = snapshot.position.index.0;
                order.on_installed(snapshot);
            }
            None => assert!(self.ordered.is_none() || self.running.is_some(), "not without reason"),
        }
    }

    fn apply(&mut self, order: &mut MachineOrder<(), ()>, count: u64, (to_read, most): (u64, u64)) {
        let (first, last) = (self.applied + 1, self.applied + count);
        let entries = run_of(first + to_read, last);
        let span = Apply { first: Index(first), last: Index(last), entries };
        if self.ordered.is_some() {
            assert!(order.begin(&span).is_err(), "not before the snapshot");
            return;
        }
        let gap = Apply { first: Index(first + 1), ..span.clone() };
        assert!(order.begin(&gap).is_err(), "not with a gap");
        assert_eq!(order.begin(&span), Ok(()));
        while let Some((from, to)) = order.next_read(&span) {
            assert_eq!((from.0, to.0), (self.applied + 1, first + to_read - 1));
            let read = run_of(from.0, to.0.min(from.0 + most - 1));
            assert_eq!(order.check_read((from, to), &read), Ok(()));
            read.slices().for_each(|slice| _ = order.on_applied(slice));
            self.applied += read.len() as u64;
        }
        assert_eq!(self.applied, first + to_read - 1, "all that came before is applied");
        span.entries.slices().for_each(|slice| _ = order.on_applied(slice));
        self.applied = last;
    }

    fn read(&mut self, reads: &mut WaitingReads<u64>, applied: u64) {
        while let Some(ready) = reads.next_ready(Index(applied)) {
            for index in ready {
                assert!(index <= applied);
                let place = self.reads.iter().position(|waiting| *waiting == index);
                self.reads.swap_remove(place.expect("it waits"));
            }
        }
        assert!(self.reads.iter().all(|index| *index > applied), "nobody waits for what is there");
    }
}

proptest! {
    /// Every write is committed once, in order, before it is reported and not after a failure; compactions neither overtake writes nor are lost.
    #[test]
    fn writes_keep_their_order(steps in prop::collection::vec(disk(), 1..60)) {
        const PATIENCE: u64 = 5;
        let mut order = WriteOrder::new(Duration::from_micros(PATIENCE));
        let (mut polled, mut reported) = (VecDeque::new(), 0);
        let (mut next, mut place, mut failed) = (1, 0, false);
        // What a compaction is due through, and since when.
        let mut due: Option<(u64, u64)> = None;
        for (now, step) in (0..).zip(steps) {
            let at = Instant(now);
            match step {
                Disk::Write | Disk::Reset => {
                    place += 1;
                    let reset = matches!(step, Disk::Reset).then(|| meta(place));
                    due = due.filter(|_| reset.is_none());
                    let write = Persist {
                        ticket: Ticket(next),
                        hard_state: None,
                        reset,
                        truncate_from: None,
                        entries: Entries::new(),
                    };
                    order.take(StoreJob::Write(write), at);
                    polled.push_back(next);
                    next += 1;
                }
                Disk::Compact => {
                    order.take(StoreJob::Compact(position(place)), at);
                    due = Some((place, due.map_or(now, |(_, since)| since)));
                }
                Disk::Commit { fails, more_waits } => {
                    let mut written = Vec::new();
                    let result = order.commit(|group| {
                        written.extend(group.iter().map(|write| write.ticket.0));
                        if fails { Err(()) } else { Ok(()) }
                    });
                    let tickets = result.map(|tickets| tickets.map(|t| t.0).collect::<Vec<_>>());
                    if failed {
                        prop_assert!(written.is_empty());
                        prop_assert_eq!(tickets, Ok(Vec::new()));
                        prop_assert_eq!(order.compaction(at, false), None);
                        continue;
                    }
                    prop_assert!(written.iter().eq(polled.iter()), "all of them, in order");
                    failed = fails && !polled.is_empty();
                    if failed {
                        prop_assert!(tickets.is_err());
                        continue;
                    }
                    reported += polled.len();
                    prop_assert!(tickets.expect("a sound disk").into_iter().eq(polled.drain(..)));
                    let may = |(_, since): &(u64, u64)| !more_waits || now - since >= PATIENCE;
                    let expected = due.take_if(|due| may(due)).map(|(through, _)| position(through));
                    prop_assert_eq!(order.compaction(at, more_waits), expected);
                }
            }
        }
        prop_assert!(failed || reported + polled.len() == next as usize - 1);
    }

    /// A machine sees entries in order and without gaps, one checkpoint or installation at a time, checkpoints of what is applied, and nobody who waits is
    /// forgotten.
    #[test]
    fn machines_see_one_thing_after_the_other(
        steps in prop::collection::vec(step(), 1..80),
        every in 1..12_u64,
    ) {
        let every = CheckpointEvery::Entries(every);
        let mut order = MachineOrder::new(None, Membership::default().into(), every);
        let mut reads = WaitingReads::new();
        let mut seen = Seen::default();
        for step in steps {
            match step {
                Step::Apply { count, to_read, at_a_time } => {
                    seen.apply(&mut order, count, (to_read, at_a_time));
                }
                Step::Install(ahead) if seen.ordered.is_none() => {
                    let index = seen.applied + ahead;
                    if let Some(before) = seen.applied.checked_sub(1) {
                        prop_assert!(order.order_install(meta(before), ()).is_err(), "never back");
                    }
                    prop_assert_eq!(order.order_install(meta(index), ()), Ok(()));
                    seen.ordered = Some(index);
                    seen.install(&mut order);
                }
                Step::StartDue if order.is_checkpoint_due() => {
                    prop_assert!(seen.running.is_none(), "one at a time");
                    let started = order.start_checkpoint();
                    prop_assert_eq!(started.position.index.0, seen.applied);
                    seen.running = Some(started);
                }
                Step::CheckpointDone => {
                    let Some(done) = seen.running.take() else { continue };
                    // Who came after it was started waits for the next.
                    let answered = order.on_checkpoint_done(&done).count();
                    seen.waits -= answered;
                    seen.install(&mut order);
                    prop_assert!(seen.waits == 0 || order.is_checkpoint_due());
                }
                Step::Demand if order.demand_checkpoint(()).is_none() => seen.waits += 1,
                Step::Read(ahead) => {
                    let index = (seen.applied + ahead).saturating_sub(4);
                    if reads.expect(Index(index), vec![index], order.applied().index).is_none() {
                        seen.reads.push(index);
                    } else {
                        prop_assert!(index <= seen.applied);
                    }
                }
                _ => {}
            }
            prop_assert_eq!(order.applied().index.0, seen.applied);
            prop_assert_eq!(order.has_install(), seen.ordered.is_some());
            seen.read(&mut reads, seen.applied);
        }
    }
}
