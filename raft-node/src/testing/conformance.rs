//! The conformance kit for log stores: what the driver and the core rely on, checked from outside.

use bytes::Bytes;
use raft_core::{
    Entries, Entry, HardState, Index, LogPosition, Membership, NodeId, Payload, Persist,
    RestoredLog, SnapshotMeta, StoreId, StoreStamp, Term, TermRun, Ticket,
};

use crate::{LogReader, LogStore, ReadError};

/// Puts a [`LogStore`] through everything that its documentation promises: restoring after a reopen, lives, founding, appending, truncation, reset,
/// compaction, writes in groups, hard states, and readers with their budgets and their limits.
///
/// `open` opens the store with this number: a number that was not seen before names an empty store, and the same number opens the same
/// store again after the earlier one was dropped.
///
/// # Panics
/// On the first promise that is broken, saying which. That is its purpose: call it from a test.
pub fn check_log_store<L: LogStore>(mut open: impl FnMut(u32) -> L) {
    let mut case = 0;
    let mut next = |check: fn(&mut Case<'_, L>)| {
        case += 1;
        let mut reopen = || open(case);
        let store = reopen();
        check(&mut Case { open: &mut reopen, store: Some(store), tickets: 0 });
    };
    next(an_empty_store_restores_empty_and_remembers_its_founding);
    next(appended_entries_survive_and_are_read_back_whole);
    next(a_group_of_writes_takes_effect_in_order);
    next(truncation_forgets_the_suffix_and_its_configurations);
    next(compaction_moves_the_base_and_keeps_its_configuration);
    next(a_reset_replaces_the_log);
    next(hard_states_survive_with_and_without_entries);
    next(readers_keep_to_their_budget_and_say_what_is_not_there);
    next(a_reader_follows_a_log_that_is_being_written);
    next(lives_are_counted_durably_on_one_store);
    let mut id_of = |number| open(number).begin_life().expect("a sound store begins a life").id;
    assert_ne!(id_of(case + 1), id_of(case + 2), "two stores have two ids");
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
    let (sender, written) = std::sync::mpsc::channel::<u64>();
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
