//! Nothing is called durable before it is: writes that are appended while a sync is under way, with the process killed or the power
//! going at every operation since; and logs that an earlier version left behind, which did call it so.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use raft_core::{NodeId, Persist};
use raft_node::LogStore;
use redb::StorageBackend;

use super::disk::Machine;
use super::model::{Model, Step, check};
use crate::format::{Identity, encode_write};
use crate::journal::record::{Header, Note, RECORD_HEADER_BYTES, Record};
use crate::journal::recover::examine;
use crate::journal::stamp::read_stamps;
use crate::journal::{BLOCK_BYTES, Checkpoints};
use crate::open::initialize;
use crate::plan::{Logged, Plan};
use crate::testing::{DiskFile, DiskOperation, VirtualDisk};
use crate::{OpenError, Options, RedbLogStore};

fn options() -> Options {
    Options { cache_bytes: 1 << 20, ..Options::new(PathBuf::from("memory"), [1; 16], NodeId(1)) }
}

const fn step(append: u8, size: u16) -> Step {
    Step {
        truncate: None,
        reset: None,
        append,
        size,
        new_term: false,
        hard_state: true,
        compact: None,
    }
}

/// A log in which writes wait for redb; some came before, and are in redb.
struct Waiting {
    machine: Machine,
    store: RedbLogStore,
    model: Model,
}

/// `size`: of each of the waiting entries; `count`: how many writes wait. Large ones make a commit that goes straight to the file.
fn waiting(seed: u64, size: u16, count: u8) -> Waiting {
    let disk = VirtualDisk::new(seed);
    let identity = Identity { cluster: [1; 16], node: NodeId(1), store: [2; 16] };
    initialize(disk.file(DiskFile::Log), &identity).expect("initialized");
    let checkpoints = Checkpoints::InlineWhenFull;
    let machine = Machine { checkpoints, ..Machine::new(disk, 64 * 4096) };
    let mut store = machine.open_log(&options()).expect("opened");
    let mut model = Model::default();
    for _ in 0..3 {
        store.write(&[model.write(&step(9, 50))]).expect("written");
    }
    store.settling().settle(None).expect("settled");
    for _ in 0..count {
        store.write(&[model.write(&step(39, size))]).expect("written");
    }
    Waiting { machine, store, model }
}

/// The next write: its number and its bytes, as the store would encode them.
fn encode(store: &mut RedbLogStore, write: &Persist, number: u64) -> Vec<u8> {
    let shape = store.restore().expect("restored");
    let plan = Plan::merge(&shape, std::slice::from_ref(write)).expect("fits");
    let (mut bytes, mut row) = (Vec::new(), Vec::new());
    encode_write(&mut bytes, &mut row, &Logged { sequence: number, compacted: None, plan });
    bytes
}

/// Writes numbered 1 to 5 are in a [`Waiting`].
const NEXT: u64 = 6;

/// How the process or the machine ended, at one moment.
fn ends(machine: &Machine) -> Vec<Machine> {
    let killed = machine.copy();
    let lost = (0..3).map(|_| machine.after_power_loss());
    std::iter::once(killed).chain(lost).collect()
}

/// Brings what waits into redb. During the sync of the log file that is number `at`, another write is appended; from then on, at each
/// operation, the process may be killed. Returns how often that was tried.
fn append_during_sync(seed: u64, size: u16, at: usize) -> usize {
    let Waiting { machine, mut store, model } = waiting(seed, size, 2);
    let mut longer = model.clone();
    let write = longer.write(&step(5, 40));
    let bytes = encode(&mut store, &write, NEXT);
    let journal = store.settling().journal.clone();
    let tried = Arc::new(Mutex::new(0));
    let (counted, on) = (tried.clone(), machine.clone());
    let (mut syncs, mut is_appended) = (0, false);
    machine.disk.observe(move |file, operation| {
        if (file, operation) == (DiskFile::Log, DiskOperation::Sync) {
            if syncs == at {
                is_appended = journal.append(NEXT, &bytes).expect("appended");
            }
            syncs += 1;
        }
        if !is_appended {
            return;
        }
        for found in ends(&on) {
            let mut store = found.open_log(&options()).unwrap_or_else(|error| {
                panic!("seed {seed}, entries of {size}: refused before {operation:?} of {file:?}: {error}")
            });
            check(&mut store, &longer);
            *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    });
    store.settling().settle(None).expect("settled");
    machine.disk.stop_observing();
    *tried.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_write_that_is_appended_during_a_sync_of_the_file_keeps_the_log_whole() {
    let mut tried = 0;
    for seed in 0..4 {
        for size in [60, 600] {
            for at in 0..3 {
                tried += append_during_sync(seed, size, at);
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

/// Writes another record behind the last one of a journal, as an earlier version may have.
fn forge(machine: &Machine, oldest: u64, build: impl FnOnce(u64, &mut Record)) {
    let journal = machine.disk.file(DiskFile::Journal);
    let (mut last, mut start) = (0, 0);
    for block in 1..machine.owner.bytes / BLOCK_BYTES as u64 {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        journal.read(block * BLOCK_BYTES as u64, &mut bytes).expect("read");
        let header = Header::decode(&bytes, &machine.owner.journal);
        if let Some(header) = header.filter(|header| header.sequence > last) {
            (last, start) = (header.sequence, block + header.blocks());
        }
    }
    let mut record = Record::default();
    build(last + 1, &mut record);
    record.seal(&machine.owner.journal, last + 1, oldest);
    journal.write(start * BLOCK_BYTES as u64, &record.bytes).expect("written");
    journal.sync_data().expect("synced");
}

/// The machine during the sync of a commit that goes straight to the file, and the one when the sync is over. The next write is not
/// appended yet.
fn around_the_sync() -> (Machine, Machine, Model, Vec<u8>) {
    let Waiting { machine, mut store, model } = waiting(1, 600, 2);
    let mut longer = model.clone();
    let write = longer.write(&step(5, 40));
    let bytes = encode(&mut store, &write, NEXT);
    let found = Arc::new(Mutex::new(Vec::new()));
    let (kept, on, mut syncs) = (found.clone(), machine.clone(), false);
    machine.disk.observe(move |file, operation| {
        let is_first = !syncs && (file, operation) == (DiskFile::Log, DiskOperation::Sync);
        let is_next = syncs && file == DiskFile::Journal;
        syncs |= is_first;
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if is_first || is_next && kept.len() == 1 {
            kept.push(on.copy());
        }
    });
    store.settling().settle(None).expect("settled");
    machine.disk.stop_observing();
    let mut found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    let (after, during) = (found.pop().expect("after it"), found.pop().expect("during it"));
    (during, after, longer, bytes)
}

/// The first record whose pages, and the first of all that the file may need.
fn oldest(machine: &Machine) -> (u64, u64) {
    let journal = machine.disk.file(DiskFile::Journal);
    let stamps = read_stamps(&machine.disk.file(DiskFile::Log)).expect("read");
    let (pages, write) = examine(&journal, &machine.owner, stamps).expect("whole").oldest();
    (pages, write.map_or(pages, |write| pages.min(write)))
}

#[test]
fn a_log_whose_journal_claimed_a_commit_too_early_opens_if_it_holds_the_writes() {
    let (during, _, longer, bytes) = around_the_sync();
    // The power goes: of the commit, any part is in the file.
    for machine in std::iter::once(during.copy()).chain((0..20).map(|_| during.after_power_loss()))
    {
        let (pages, oldest) = oldest(&machine);
        forge(&machine, oldest, |_, record| {
            record.push_log_write(NEXT, &bytes);
            record.push_note(Note { sequence: NEXT - 1, writes_through: true });
            record.push_pages(pages);
        });
        check(&mut machine.open_log(&options()).expect("whole"), &longer);
    }
    // The same claim, without the writes.
    let Waiting { machine, store, .. } = waiting(1, 600, 0);
    let lossy = machine.copy();
    drop(store);
    let (pages, oldest) = oldest(&lossy);
    forge(&lossy, oldest, |_, record| {
        record.push_note(Note { sequence: NEXT - 1, writes_through: false });
        record.push_pages(pages);
    });
    let before = (lossy.bytes(), lossy.disk.bytes(DiskFile::Journal));
    let error = lossy.open_log(&options()).expect_err("lost");
    let told = "its last commit is number 3, but number 5 was durable";
    assert!(error.to_string().contains(told), "{error}");
    assert!((lossy.bytes(), lossy.disk.bytes(DiskFile::Journal)) == before);
}

#[test]
fn a_log_whose_journal_freed_too_much_opens_if_the_file_lacks_nothing() {
    let (during, after, longer, bytes) = around_the_sync();
    let (_, oldest) = oldest(&during);
    let machine = after.copy();
    forge(&machine, oldest, |sequence, record| {
        record.push_log_write(NEXT, &bytes);
        record.push_note(Note { sequence: NEXT - 1, writes_through: true });
        record.push_pages(sequence - 1);
    });
    let mut appended = 0;
    forge(&machine, oldest, |sequence, record| {
        appended = sequence - 1;
        record.push_note(Note { sequence: NEXT - 1, writes_through: false });
        record.push_pages(sequence + 1);
    });
    assert!(appended > 0);
    check(&mut machine.copy().open_log(&options()).expect("whole"), &longer);

    // With the file as it was before that commit, something is missing.
    let older = machine.with(DiskFile::Log, &waiting_file());
    let before = (older.bytes(), older.disk.bytes(DiskFile::Journal));
    let error = older.open_log(&options()).expect_err("older");
    assert!(matches!(error, OpenError::JournalMismatch { .. }), "{error}");
    assert!((older.bytes(), older.disk.bytes(DiskFile::Journal)) == before);
}

/// The file before the commit of [`around_the_sync`].
fn waiting_file() -> Vec<u8> {
    waiting(1, 600, 2).machine.bytes()
}
