//! The conformance kit for log stores: what the driver and the core rely on, checked from outside.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, NodeId, Payload, Persist,
    RestoredLog, SnapshotMeta, StoreId, StoreStamp, Term, TermRun, Ticket,
};

use crate::{LogReader, LogStore, ReadError};

/// How long a step of the kit may take before the store counts as hung.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Puts a [`LogStore`] through everything that its documentation promises but what only a crash shows: restoring after a reopen, lives, founding,
/// appending, truncation, reset, compaction, writes in groups, hard states, and readers with their budgets and their limits. What a crash shows is
/// [`check_log_store_crashes`]'s affair.
///
/// `open` opens the store with this number: a number that was not seen before names an empty store, and the same number opens the same
/// store again after the earlier one was dropped.
///
/// # Panics
/// On the first promise that is broken, saying which, and if a step takes longer than a minute. That is its purpose: call it from a test.
pub fn check_log_store<L: LogStore>(open: impl FnMut(u32) -> L + Send + 'static) {
    check_log_store_within(STEP_TIMEOUT, open);
}

/// The same, for stores that are known to be faster, or slower: no step may take longer than `step`.
///
/// # Panics
/// As [`check_log_store`] does.
pub fn check_log_store_within<L: LogStore>(
    step: Duration,
    mut open: impl FnMut(u32) -> L + Send + 'static,
) {
    watched(step, move |begin| {
        let mut number = 0;
        for (name, check) in cases::<L>() {
            begin(name);
            number += 1;
            let mut reopen = || open(number);
            let store = reopen();
            check(&mut Case { open: &mut reopen, store: Some(store), tickets: 0 });
        }
        begin("two stores have two ids");
        let mut id_of = |number| open(number).begin_life().expect("a sound store begins a life").id;
        assert_ne!(id_of(number + 1), id_of(number + 2), "two stores have two ids");
    });
}

type Check<L> = fn(&mut Case<'_, L>);

fn cases<L: LogStore>() -> Vec<(&'static str, Check<L>)> {
    vec![
        ("founding", an_empty_store_restores_empty_and_remembers_its_founding),
        ("appending", appended_entries_survive_and_are_read_back_whole),
        ("groups of writes", a_group_of_writes_takes_effect_in_order),
        ("truncation", truncation_forgets_the_suffix_and_its_configurations),
        ("compaction", compaction_moves_the_base_and_keeps_its_configuration),
        ("reset", a_reset_replaces_the_log),
        ("a reset within a group", a_reset_counts_wherever_it_stands_in_a_group),
        ("hard states", hard_states_survive_with_and_without_entries),
        ("hard states in groups", hard_states_survive_wherever_they_stand_in_a_group),
        ("hard states beside the log", hard_states_survive_compaction_and_reset),
        ("readers", readers_keep_to_their_budget_and_say_what_is_not_there),
        ("readers of replaced entries", a_reader_never_returns_what_was_replaced),
        ("a reader beside a writer", a_reader_follows_a_log_that_is_being_written),
        ("lives", lives_are_counted_durably_on_one_store),
    ]
}

/// Runs a check on a thread of its own, and panics if a step of it hangs. The thread is left behind then.
fn watched(step: Duration, check: impl FnOnce(&mut dyn FnMut(&'static str)) + Send + 'static) {
    let (sender, steps) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        check(&mut |name| {
            // Nobody listens once a step has timed out.
            let _ = sender.send(name);
        });
    });
    let mut current = "the start";
    loop {
        match steps.recv_timeout(step) {
            Ok(name) => current = name,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{current}: the store did not get through this within {step:?}")
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Err(broken) = thread.join() {
        std::panic::resume_unwind(broken);
    }
}

/// A disk that log stores are on, and that can lose its power: what [`check_log_store_crashes`] needs of the tests of a store.
pub trait CrashingDisk: Send + 'static {
    /// The store under test.
    type Store: LogStore;

    /// Opens the store. An earlier one was dropped, or the power was lost.
    fn open(&mut self) -> Self::Store;

    /// The power goes and comes back. Whatever the store wrote and did not sync is lost, though the store may still be open: it is dropped
    /// afterwards, and may not write any more.
    fn lose_power(&mut self);

    /// The power goes after so many more operations that change the disk (writes, syncs): those after it fail, and `lose_power` is called
    /// then. A disk whose stores write a group as one operation may do nothing.
    fn lose_power_after(&mut self, operations: u64);
}

/// What only a crash shows: that a write is durable once it has returned, and that a group of writes is there as a whole or not at all.
/// `new_disk` makes a disk with an empty store on it.
///
/// # Panics
/// As [`check_log_store`] does.
pub fn check_log_store_crashes<D: CrashingDisk>(mut new_disk: impl FnMut() -> D + Send + 'static) {
    watched(STEP_TIMEOUT, move |begin| {
        begin("durability");
        a_write_that_has_returned_survives(&mut new_disk());
        begin("atomic groups");
        // Until the power holds for a whole group.
        for operations in 0.. {
            if a_group_is_there_as_a_whole_or_not_at_all(&mut new_disk(), operations) {
                return;
            }
        }
    });
}

fn hard_state(term: u64, vote: Option<u64>, commit: u64) -> HardState {
    HardState { term: Term(term), vote: vote.map(NodeId), commit: Index(commit) }
}

fn write_of(ticket: u64, entries: Entries, hard_state: Option<HardState>) -> Persist {
    Persist { ticket: Ticket(ticket), hard_state, reset: None, truncate_from: None, entries }
}

fn a_write_that_has_returned_survives<D: CrashingDisk>(disk: &mut D) {
    for round in 0..3u64 {
        let mut store = disk.open();
        store.restore().expect("a sound store restores");
        let (first, state) = (1 + 3 * round, hard_state(round + 1, Some(round), 3 * round));
        let write = write_of(1, run(first, first + 2, 1), Some(state));
        store.write(&[write]).expect("a sound store writes");
        disk.lose_power();
        drop(store);
        let mut store = disk.open();
        let restored = store.restore().expect("a sound store restores");
        let told = "a write that has returned survives the loss of power";
        assert_eq!((restored.last, restored.hard_state), (Index(first + 2), state), "{told}");
        let read = store.reader().read(Index(first), Index(first), 0).expect("there");
        assert_eq!(read, run(first, first, 1), "{told}");
    }
}

/// Returns whether the power held.
fn a_group_is_there_as_a_whole_or_not_at_all<D: CrashingDisk>(disk: &mut D, after: u64) -> bool {
    let before = hard_state(1, Some(1), 2);
    let mut store = disk.open();
    store.restore().expect("a sound store restores");
    store.write(&[write_of(1, run(1, 5, 1), Some(before))]).expect("a sound store writes");
    let then = hard_state(2, Some(2), 4);
    let cut = Persist { truncate_from: Some(Index(4)), ..write_of(2, run(4, 6, 2), None) };
    let group = [cut, write_of(3, run(7, 9, 2), Some(then))];
    disk.lose_power_after(after);
    let held = store.write(&group).is_ok();
    disk.lose_power();
    drop(store);
    let restored = disk.open().restore().expect("a sound store restores");
    let terms = |restored: &RestoredLog| restored.terms.len();
    let found = (restored.last, terms(&restored), restored.hard_state);
    let whole = (Index(9), 2, then);
    let allowed = if held { &[whole][..] } else { &[whole, (Index(5), 1, before)][..] };
    assert!(
        allowed.contains(&found),
        "a group of writes is there as a whole or not at all: the power went after {after} operations, and there is {found:?}"
    );
    held
}

struct Case<'a, L> {
    open: &'a mut dyn FnMut() -> L,
    store: Option<L>,
    tickets: u64,
}

impl<L: LogStore> Case<'_, L> {
    fn store(&mut self) -> &mut L {
        self.store.as_mut().expect("open between calls")
    }

    fn restore(&mut self) -> RestoredLog {
        self.store().restore().expect("a sound store restores")
    }

    /// Closes and opens the store, and reports what it restores.
    fn reopened(&mut self) -> RestoredLog {
        self.store = None;
        self.store = Some((self.open)());
        self.restore()
    }

    fn persist(&mut self) -> Persist {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let entries = Entries::new();
        Persist { ticket, hard_state: None, reset: None, truncate_from: None, entries }
    }

    fn append(&mut self, first: u64, last: u64, term: u64) -> Persist {
        Persist { entries: run(first, last, term), ..self.persist() }
    }

    fn write(&mut self, writes: &[Persist]) {
        self.store().write(writes).expect("a sound store writes");
    }

    fn read(&mut self, first: u64, last: u64) -> Entries {
        let (reader, wanted) = (self.store().reader(), last - first + 1);
        let mut all = Entries::new();
        while (all.len() as u64) < wanted {
            let from = Index(first + all.len() as u64);
            let read = reader.read(from, Index(last), usize::MAX).expect("written entries");
            assert!(!read.is_empty(), "a read returns at least one entry");
            all.extend(read);
        }
        all
    }

    fn assert_absent(&mut self, first: u64) {
        let read = self.store().reader().read(Index(first), Index(first), usize::MAX);
        assert!(
            matches!(read, Err(ReadError::NotThere { first: at }) if at == Index(first)),
            "entry {first} is not there, and a read must say so: {read:?}"
        );
    }
}

/// Entries whose payload tells their index and term, in different sizes; among them an empty one and, at every tenth index, a configuration.
fn run(first: u64, last: u64, term: u64) -> Entries {
    let entries = (first..=last).map(|index| {
        let payload = match index % 10 {
            0 => Payload::Membership(membership(index).into()),
            1 => Payload::Empty,
            _ => {
                let text = format!("entry {index} of term {term} ");
                Payload::Command(Bytes::from(text.repeat(index as usize % 7)))
            }
        };
        Entry { term: Term(term), index: Index(index), payload }
    });
    Entries::try_from_vec(entries.collect()).expect("a run")
}

fn membership(of: u64) -> Membership {
    Membership {
        voters: [NodeId(1), NodeId(of)].into(),
        outgoing: [NodeId(2)].into(),
        learners: [NodeId(of + 1)].into(),
        witnesses: [NodeId(2)].into(),
        stores: [(NodeId(1), StoreId(7))].into(),
    }
}

fn position(index: u64, term: u64) -> LogPosition {
    LogPosition { index: Index(index), term: Term(term) }
}

fn term_run(term: u64, first: u64) -> TermRun {
    TermRun { term: Term(term), first: Index(first) }
}

fn lives_are_counted_durably_on_one_store<L: LogStore>(case: &mut Case<'_, L>) {
    let mut before: Option<StoreStamp> = None;
    for start in 0..4 {
        // Nothing but the life is written in some of them.
        let end = case.reopened().last;
        let now = case.store().begin_life().expect("a sound store begins a life");
        if let Some(before) = before.replace(now) {
            assert_eq!(now.id, before.id, "a store keeps its id");
            assert!(now.life > before.life, "{now} after {before}: lives rise, durably");
        }
        if start % 2 == 1 {
            let write = case.append(end.0 + 1, end.0 + 3, 1);
            case.write(&[write]);
        }
    }
    assert_eq!(case.reopened().last, Index(6), "lives leave the log as it is");
    assert_eq!(case.read(1, 6), run(1, 6, 1));
}

fn an_empty_store_restores_empty_and_remembers_its_founding<L: LogStore>(case: &mut Case<'_, L>) {
    assert_eq!(case.restore(), RestoredLog::default(), "an empty store");
    case.assert_absent(1);
    case.store().found(&membership(3)).expect("founds");
    let founded = RestoredLog { base_membership: membership(3), ..RestoredLog::default() };
    assert_eq!(case.reopened(), founded, "the first configuration, as of index 0");
}

fn appended_entries_survive_and_are_read_back_whole<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let writes = [case.append(1, 25, 1), case.append(26, 40, 3)];
    for write in &writes {
        case.write(std::slice::from_ref(write));
    }
    let mut all = run(1, 25, 1);
    all.extend(run(26, 40, 3));
    assert_eq!(case.read(1, 40), all, "before a restart");
    let restored = case.reopened();
    assert_eq!(restored.terms, [term_run(1, 1), term_run(3, 26)]);
    assert_eq!(restored.last, Index(40));
    let memberships: Vec<_> = [10, 20, 30, 40].map(|i| (Index(i), membership(i))).into();
    assert_eq!(restored.memberships, memberships);
    assert_eq!(case.read(1, 40), all, "after a restart");
    assert_eq!(case.read(7, 33).first().map(|entry| entry.index), Some(Index(7)));
    let more = case.append(41, 45, 3);
    case.write(&[more]);
    assert_eq!(case.reopened().last, Index(45), "appending goes on after a restart");
}

fn a_group_of_writes_takes_effect_in_order<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let overwrite = Persist { truncate_from: Some(Index(4)), ..case.append(4, 6, 2) };
    let group = [
        case.append(1, 5, 1),
        case.append(6, 9, 1),
        overwrite,
        case.append(7, 8, 3),
        case.persist(),
    ];
    case.write(&group);
    let restored = case.reopened();
    assert_eq!(restored.terms, [term_run(1, 1), term_run(2, 4), term_run(3, 7)]);
    let mut all = run(1, 3, 1);
    all.extend(run(4, 6, 2));
    all.extend(run(7, 8, 3));
    assert_eq!(case.read(1, 8), all);
    case.assert_absent(9);
}

fn truncation_forgets_the_suffix_and_its_configurations<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let writes = [case.append(1, 12, 1), case.append(13, 35, 2)];
    case.write(&writes);
    let cut = Persist { truncate_from: Some(Index(15)), ..case.persist() };
    case.write(&[cut]);
    case.assert_absent(15);
    let restored = case.reopened();
    assert_eq!((restored.last, restored.terms.len()), (Index(14), 2));
    assert_eq!(restored.memberships, [(Index(10), membership(10))], "scenario 30");
    let again = Persist { truncate_from: Some(Index(11)), ..case.append(11, 21, 4) };
    case.write(&[again]);
    let restored = case.reopened();
    assert_eq!(restored.terms, [term_run(1, 1), term_run(4, 11)], "a whole run may go");
    let mut all = run(1, 10, 1);
    all.extend(run(11, 21, 4));
    assert_eq!(case.read(1, 21), all);
    let everything = Persist { truncate_from: Some(Index(1)), ..case.persist() };
    case.write(&[everything]);
    assert_eq!(case.reopened(), RestoredLog::default(), "everything may go");
}

fn compaction_moves_the_base_and_keeps_its_configuration<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    case.store().found(&membership(3)).expect("founds");
    let writes = [case.append(1, 15, 1), case.append(16, 40, 2)];
    case.write(&writes);
    case.store().compact(position(23, 2)).expect("compacts");
    // What was compacted may linger, but what is after it must be whole, and a later write makes it durable.
    let more = case.append(41, 42, 2);
    case.write(&[more]);
    let restored = case.reopened();
    assert!(restored.base.index <= Index(23), "nothing after the compaction's end may go");
    assert_eq!(restored.last, Index(42));
    let base = restored.base.index.0;
    let tens = base / 10 * 10;
    let expected = if tens == 0 { membership(3) } else { membership(tens) };
    assert_eq!(restored.base_membership, expected, "the configuration as of the base {base}");
    assert!(restored.memberships.iter().all(|(at, _)| at.0 > base));
    let mut kept = run(24, 40, 2);
    kept.extend(run(41, 42, 2));
    assert_eq!(case.read(24, 42), kept);
    case.store().compact(position(5, 1)).expect("compacting again below the base changes nothing");
    case.store().compact(position(42, 2)).expect("compacts all");
    let after = case.append(43, 44, 5);
    case.write(&[after]);
    let restored = case.reopened();
    assert_eq!(restored.last, Index(44), "an emptied log goes on where it was");
    assert_eq!(restored.terms.last(), Some(&term_run(5, 43)));
    assert_eq!(case.read(43, 44), run(43, 44, 5));
}

fn a_reset_replaces_the_log<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let write = case.append(1, 20, 1);
    case.write(&[write]);
    let snapshot = SnapshotMeta { position: position(100, 7), membership: membership(50).into() };
    let reset = Persist { reset: Some(snapshot.clone()), ..case.persist() };
    case.write(&[reset]);
    case.assert_absent(5);
    case.assert_absent(100);
    let expected = RestoredLog {
        base: snapshot.position,
        base_membership: (*snapshot.membership).clone(),
        last: Index(100),
        ..RestoredLog::default()
    };
    assert_eq!(case.reopened(), expected);
    // A snapshot over a conflicting log at its own index (scenario 34), with entries in the same write.
    let write = case.append(101, 130, 8);
    case.write(&[write]);
    let snapshot = SnapshotMeta { position: position(120, 9), membership: membership(60).into() };
    let reset = Persist { reset: Some(snapshot.clone()), ..case.append(121, 123, 9) };
    case.write(&[reset]);
    let restored = case.reopened();
    assert_eq!((restored.base, restored.last), (snapshot.position, Index(123)));
    assert_eq!(restored.terms, [term_run(9, 121)]);
    assert!(restored.memberships.is_empty(), "the old log's configurations are gone");
    case.assert_absent(120);
    case.assert_absent(124);
    assert_eq!(case.read(121, 123), run(121, 123, 9));
}

fn hard_states_survive_with_and_without_entries<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let of = |term, vote, commit| HardState {
        term: Term(term),
        vote: Option::map(vote, NodeId),
        commit: Index(commit),
    };
    let alone = Persist { hard_state: Some(of(5, Some(2), 0)), ..case.persist() };
    case.write(&[alone]);
    assert_eq!(case.reopened().hard_state, of(5, Some(2), 0));
    let with_entries = Persist { hard_state: Some(of(u64::MAX, None, 2)), ..case.append(1, 3, 5) };
    let unchanged = case.append(4, 4, 5);
    case.write(&[with_entries, unchanged]);
    assert_eq!(case.reopened().hard_state, of(u64::MAX, None, 2), "none means unchanged");
}

fn hard_states_survive_wherever_they_stand_in_a_group<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    for at in 0..3u64 {
        let state = hard_state(at + 2, Some(at + 1), at);
        let first = case.reopened().last.0 + 1;
        let mut group = Vec::new();
        for write in 0..3 {
            let index = first + write;
            let state = (write == at).then_some(state);
            group.push(Persist { hard_state: state, ..case.append(index, index, 1) });
        }
        case.write(&group);
        let told = format!("the hard state in write {} of 3 of a group", at + 1);
        assert_eq!(case.reopened().hard_state, state, "{told}");
    }
    let group = [1, 2, 3].map(|write| Persist {
        hard_state: Some(hard_state(10 + write, Some(write), 5)),
        ..case.persist()
    });
    case.write(&group);
    let last = hard_state(13, Some(3), 5);
    assert_eq!(case.reopened().hard_state, last, "the last hard state of a group counts");
}

fn hard_states_survive_compaction_and_reset<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let state = hard_state(4, Some(3), 20);
    let write = Persist { hard_state: Some(state), ..case.append(1, 20, 1) };
    case.write(&[write]);
    case.store().compact(position(12, 1)).expect("compacts");
    assert_eq!(case.restore().hard_state, state, "a compaction leaves the hard state alone");
    assert_eq!(case.reopened().hard_state, state, "also after a restart");
    case.store().compact(position(15, 1)).expect("compacts");
    let more = case.append(21, 22, 1);
    case.write(&[more]);
    assert_eq!(case.reopened().hard_state, state, "also with the next write");
    let snapshot = SnapshotMeta { position: position(50, 3), membership: membership(50).into() };
    let reset = Persist { reset: Some(snapshot), ..case.persist() };
    case.write(&[reset]);
    assert_eq!(case.reopened().hard_state, state, "a reset leaves the hard state alone");
}

fn a_reset_counts_wherever_it_stands_in_a_group<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let snapshot = SnapshotMeta { position: position(30, 2), membership: membership(30).into() };
    let first = case.append(1, 12, 1);
    let reset = Persist { reset: Some(snapshot.clone()), ..case.append(31, 33, 2) };
    let more = case.append(34, 35, 2);
    case.write(&[first, reset, more]);
    let restored = case.reopened();
    assert_eq!((restored.base, restored.last), (snapshot.position, Index(35)));
    assert_eq!(restored.base_membership, *snapshot.membership);
    assert_eq!(restored.terms, [term_run(2, 31)]);
    assert!(restored.memberships.is_empty(), "the old log's configurations are gone");
    case.assert_absent(12);
    assert_eq!(case.read(31, 35), run(31, 35, 2));
}

fn a_reader_never_returns_what_was_replaced<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let write = case.append(1, 20, 1);
    case.write(&[write]);
    let reader = case.store().reader();
    let all = |reader: &L::Reader, first: u64, last: u64| {
        reader.read(Index(first), Index(last), usize::MAX)
    };
    assert_eq!(all(&reader, 1, 3).expect("there").first(), run(1, 1, 1).first());
    assert_eq!(all(&reader, 12, 14).expect("there").first(), run(12, 12, 1).first());
    let cut = Persist { truncate_from: Some(Index(12)), ..case.append(12, 15, 2) };
    case.write(&[cut]);
    let told = "a reader that lives on sees what replaced an entry";
    let read = all(&reader, 12, 14).expect("there");
    assert_eq!(read, run(12, 11 + read.len() as u64, 2), "{told}");
    let gone = all(&reader, 16, 16);
    assert!(matches!(gone, Err(ReadError::NotThere { .. })), "{told}: {gone:?}");
    let snapshot = SnapshotMeta { position: position(11, 3), membership: membership(11).into() };
    let reset = Persist { reset: Some(snapshot), ..case.append(12, 14, 3) };
    case.write(&[reset]);
    let read = all(&reader, 12, 14).expect("there");
    assert_eq!(read, run(12, 11 + read.len() as u64, 3), "{told}, also after a reset");
    let gone = all(&reader, 3, 3);
    assert!(matches!(gone, Err(ReadError::NotThere { .. })), "{told}: {gone:?}");
}

fn readers_keep_to_their_budget_and_say_what_is_not_there<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let write = case.append(1, 60, 1);
    case.write(&[write]);
    let reader = case.store().reader();
    let one = reader.read(Index(5), Index(60), 0).expect("there");
    assert_eq!(one, run(5, 5, 1), "at least one entry, whatever the budget");
    for budget in [100, 1000, 3000] {
        let some = reader.read(Index(2), Index(60), budget).expect("there");
        assert_eq!(some, run(2, 1 + some.len() as u64, 1), "a prefix of what was asked for");
        let largest = some.iter().map(Entry::size_bytes).max().unwrap_or(0);
        let bytes = some.size_bytes();
        assert!(bytes <= budget + largest, "{bytes} bytes are far over the budget of {budget}");
    }
    let bounded = reader.read(Index(2), Index(9), usize::MAX).expect("there");
    assert!(bounded.last().is_some_and(|entry| entry.index <= Index(9)), "not past the last");
    for absent in [61, 1000, u64::MAX] {
        case.assert_absent(absent);
    }
}

fn a_reader_follows_a_log_that_is_being_written<L: LogStore>(case: &mut Case<'_, L>) {
    case.restore();
    let reader = case.store().reader();
    let (sender, written) = mpsc::channel::<u64>();
    let thread = std::thread::spawn(move || {
        for last in written {
            let read = reader.read(Index(last), Index(last), usize::MAX).expect("just written");
            assert_eq!(read, run(last, last, 1), "a reader sees every write that has returned");
        }
    });
    for first in (1..=60).step_by(3) {
        let write = case.append(first, first + 2, 1);
        case.write(&[write]);
        sender.send(first + 2).expect("the reader lives");
    }
    drop(sender);
    thread.join().expect("the reader saw what it should");
}
