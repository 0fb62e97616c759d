//! The in-memory log store goes through the conformance kit itself.

use std::collections::HashMap;

use raft_node::raft_core::{Entries, Entry, Index, LogPosition, Payload, Persist, Term, Ticket};
use raft_node::testing::{MemoryDisk, check_log_store};
use raft_node::{LogReader, LogStore};

#[test]
fn the_memory_log_conforms() {
    let mut disks: HashMap<u32, MemoryDisk> = HashMap::new();
    check_log_store(move |number| disks.entry(number).or_default().open());
}

#[test]
fn a_crash_loses_what_was_not_durable_and_cuts_off_open_stores() {
    let disk = MemoryDisk::new();
    let mut store = disk.open();
    let entry = |index| Entry { term: Term(1), index: Index(index), payload: Payload::Empty };
    let write = Persist {
        ticket: Ticket(1),
        hard_state: None,
        reset: None,
        truncate_from: None,
        entries: Entries::try_from_vec(vec![entry(1), entry(2)]).expect("a run"),
    };
    store.write(std::slice::from_ref(&write)).expect("writes");
    store.compact(LogPosition { index: Index(1), term: Term(1) }).expect("compacts");
    assert!(store.reader().read(Index(1), Index(1), 100).is_err());
    disk.crash();
    assert!(store.write(&[write]).is_err(), "the process is dead");
    let mut store = disk.open();
    let restored = store.restore().expect("restores");
    assert_eq!((restored.base, restored.last), (LogPosition::ORIGIN, Index(2)));
}
