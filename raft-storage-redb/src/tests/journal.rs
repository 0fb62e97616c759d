//! The journal by itself: against a plain vector of bytes with the power going at any operation, and damaged, lost or
//! exchanged files.

use proptest::prelude::*;
use raft_core::NodeId;
use raft_node::LogStore;
use redb::StorageBackend;

use super::disk::Machine;
use super::model::{Model, Step, check, options};
use crate::format::Identity;
use crate::journal::file::journal_path;
use crate::journal::recover::Refusal;
use crate::journal::{BLOCK_BYTES, Checkpoints};
use crate::open::initialize;
use crate::testing::{DiskFile, VirtualDisk};
use crate::{OpenError, Options, RedbLogStore};

const SECTOR: usize = 512;
/// The file's second sectors hold the stamps: redb leaves them alone.
const FIRST: usize = BLOCK_BYTES;

#[derive(Clone, Debug)]
enum Operation {
    Write {
        at: u16,
        sectors: u8,
        fill: u8,
    },
    Length(u8),
    /// What redb writes of the block that the stamps are in.
    Head(u8),
    Sync,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        6 => (any::<u16>(), prop_oneof![9 => 1u8..12, 1 => 1u8..60], any::<u8>())
            .prop_map(|(at, sectors, fill)| Operation::Write { at, sectors, fill }),
        1 => (8u8..40).prop_map(Operation::Length),
        1 => any::<u8>().prop_map(Operation::Head),
        3 => Just(Operation::Sync),
    ];
    prop::collection::vec(operation, 1..200)
}

/// The file as it should be, and what each sector may hold after a loss of power.
struct Expected {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
    may: std::collections::HashMap<usize, Vec<Vec<u8>>>,
}

impl Expected {
    fn of(bytes: Vec<u8>) -> Expected {
        Expected { lengths: vec![bytes.len()], bytes, may: std::collections::HashMap::new() }
    }

    fn sector(&self, number: usize) -> Vec<u8> {
        let end = ((number + 1) * SECTOR).min(self.bytes.len());
        self.bytes.get(number * SECTOR..end).map_or_else(Vec::new, <[u8]>::to_vec)
    }

    fn carry_out(
        &mut self,
        operation: &Operation,
        file: &impl StorageBackend,
    ) -> std::io::Result<()> {
        match *operation {
            Operation::Write { at, sectors, fill } => {
                let room = (self.bytes.len() - FIRST) / SECTOR;
                let at = FIRST / SECTOR + usize::from(at) % room;
                let sectors = usize::from(sectors).min(self.bytes.len() / SECTOR - at);
                for number in at..at + sectors {
                    let before = self.sector(number);
                    self.may.entry(number).or_default().push(before);
                }
                // Some sectors are zeros, as in half-empty pages.
                let mut data = vec![fill; sectors * SECTOR];
                data[sectors * SECTOR / 2..].fill(if fill % 2 == 0 { 0 } else { fill });
                let range = at * SECTOR..(at + sectors) * SECTOR;
                self.bytes[range.clone()].copy_from_slice(&data);
                file.write(range.start as u64, &data)
            }
            Operation::Head(fill) => file.write(0, &[fill; 320]),
            Operation::Length(blocks) => {
                let (old, new) = (self.bytes.len(), usize::from(blocks) * BLOCK_BYTES);
                for number in new.min(old) / SECTOR..old.max(new) / SECTOR {
                    let before = self.sector(number);
                    self.may.entry(number).or_default().extend([before, vec![0; SECTOR]]);
                }
                self.bytes.resize(new, 0);
                self.lengths.push(new);
                file.set_len(new as u64)
            }
            Operation::Sync => {
                file.sync_data()?;
                self.may.clear();
                self.lengths = vec![self.bytes.len()];
                Ok(())
            }
        }
    }

    fn check(&self, found: &[u8]) {
        assert!(self.lengths.contains(&found.len()), "{} of {:?}", found.len(), self.lengths);
        for (number, sector) in found.chunks(SECTOR).enumerate().skip(FIRST / SECTOR) {
            let earlier = self.may.get(&number).map_or(&[][..], Vec::as_slice);
            let allowed = sector == self.sector(number)
                || earlier.iter().any(|before| before == sector)
                || number * SECTOR >= self.lengths[0] && sector.iter().all(|byte| *byte == 0);
            assert!(
                allowed,
                "sector {number} is neither what was synced nor what was written since"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_file_holds_what_was_synced_wherever_the_power_goes(
        rounds in prop::collection::vec((operations(), 0u64..600), 1..6),
        mut luck in any::<u64>(),
        journal_blocks in prop::sample::select(vec![16u64, 33, 60]),
        checkpoints in prop::sample::select(vec![Checkpoints::Inline, Checkpoints::InlineWhenFull]),
    ) {
        let mut luck = move || {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            luck >> 33
        };
        let mut machine = Machine::holding(&vec![0; 10 * BLOCK_BYTES], journal_blocks * 4096);
        machine.checkpoints = checkpoints;
        let mut bytes = machine.bytes();
        for (operations, fuse) in &rounds {
            let backend = machine.open().expect("recovered");
            let mut expected = Expected::of(bytes);
            machine.set_fuse(*fuse);
            let mut died = false;
            for operation in operations {
                if expected.carry_out(operation, &backend).is_err() {
                    died = true;
                    break;
                }
                let mut read = vec![0; expected.bytes.len()];
                backend.read(0, &mut read).expect("read");
                prop_assert!(read[FIRST..] == expected.bytes[FIRST..]);
            }
            if !died && luck() % 4 == 0 && backend.sync_data().is_ok() && backend.close().is_ok() {
                // Closed: the file is whole without its journal.
                expected.carry_out(&Operation::Sync, &VirtualDisk::new(0).file(DiskFile::Log)).expect("nothing to do");
            }
            drop(backend);
            machine = machine.after_power_loss();
            // The power goes again during the replay.
            machine.set_fuse(luck() % 30);
            drop(machine.open());
            machine = machine.after_power_loss();
            drop(machine.open().expect("recovered"));
            bytes = machine.bytes();
            expected.check(&bytes);
        }
    }
}

/// Some durable commits of one record each, none of them in the file.
fn with_records(count: u8) -> Machine {
    let machine = Machine::holding(&vec![0; 20 * BLOCK_BYTES], 100 * 4096);
    let backend = machine.open().expect("recovered");
    for number in 1..=count {
        backend.write(u64::from(number) * 4096, &[number; 4096]).expect("written");
        backend.sync_data().expect("synced");
    }
    drop(backend);
    machine.after_power_loss()
}

#[test]
fn a_broken_record_is_damage_unless_it_is_the_last() {
    let whole = with_records(5);
    let bytes = whole.disk.bytes(DiskFile::Journal);
    // Blocks: the header, an empty record, another from opening, then two blocks a record.
    for (record, block) in (1..=5usize).zip((3..).step_by(2)) {
        for at in [0, 30, 60, 64, 100, 4000, 4100] {
            let mut flipped = bytes.clone();
            flipped[block * 4096 + at] ^= 4;
            let machine = whole.with(DiskFile::Journal, &flipped);
            let before = machine.bytes();
            match (record, machine.open()) {
                (5, Ok(_)) => {
                    assert_eq!(
                        machine.bytes()[4 * 4096..6 * 4096],
                        [[4; 4096], [0; 4096]].concat()
                    );
                }
                (1..5, Err(Refusal::Damaged(_))) => assert!(machine.bytes() == before),
                (record, other) => panic!("record {record}, byte {at}: {other:?}"),
            }
        }
    }
    drop(whole.open().expect("the whole one is fine"));
    assert_eq!(whole.bytes()[5 * 4096..6 * 4096], [5; 4096]);
}

#[test]
fn an_emptied_cut_or_exchanged_journal_is_refused() {
    let machine = with_records(5);
    let bytes = machine.disk.bytes(DiskFile::Journal);
    let with = |journal: &[u8]| machine.with(DiskFile::Journal, journal).open();
    assert!(matches!(with(&bytes[..50 * 4096]), Err(Refusal::Damaged(_))));
    let mut emptied = bytes.clone();
    emptied[4096..].fill(0);
    assert!(matches!(with(&emptied), Err(Refusal::Damaged(_))));
    // One of another log, with and without records.
    let mut other = with_records(3);
    other.disk.set_bytes(DiskFile::Log, &machine.bytes());
    other.owner.journal = [77; 16];
    assert!(matches!(other.open(), Err(Refusal::Mismatch(_))));
    let other = Machine { owner: other.owner, ..Machine::holding(&machine.bytes(), 200 * 4096) };
    assert!(other.open().is_err());
}

#[test]
fn an_older_copy_of_either_file_is_refused() {
    let first = with_records(2);
    let older = first.after_power_loss();
    let backend = first.open().expect("recovered");
    for number in 0..200u64 {
        backend.write(4096 * (1 + number % 19), &[number as u8; 4096]).expect("written");
        backend.sync_data().expect("synced");
    }
    drop(backend);
    let newer = first.copy();
    let mixed = newer.with(DiskFile::Log, &older.bytes());
    assert!(matches!(mixed.open(), Err(Refusal::Mismatch(_))));
    let older_journal = older.disk.bytes(DiskFile::Journal);
    let mixed = newer.with(DiskFile::Journal, &older_journal);
    assert!(matches!(mixed.open(), Err(Refusal::Mismatch(_))));
    // Closed, the file needs no journal, of whatever age.
    newer.open().expect("recovered").close().expect("closed");
    let whole = newer.bytes();
    let mixed = newer.with(DiskFile::Journal, &older_journal);
    mixed.open().expect("recovered").close().expect("closed");
    assert!(mixed.bytes()[4096..] == whole[4096..]);
}

fn filled(options: &Options) -> (RedbLogStore, Model) {
    let mut store = RedbLogStore::open(options.clone()).expect("opened");
    let mut model = Model::default();
    let step = Step {
        truncate: None,
        reset: None,
        append: 9,
        size: 200,
        new_term: true,
        hard_state: true,
        compact: None,
    };
    for _ in 0..5 {
        store.write(&[model.write(&step)]).expect("written");
    }
    (store, model)
}

#[test]
fn a_lost_journal_is_missed_only_after_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(&folder);
    let (store, model) = filled(&options);
    // A copy of the files of a store that was not closed is what a crash leaves behind.
    let crashed = Options { path: folder.path().join("crashed"), ..options.clone() };
    std::fs::copy(&options.path, &crashed.path).expect("copied");
    let error = RedbLogStore::open(crashed.clone()).expect_err("refused");
    assert!(matches!(error, OpenError::JournalMissing { .. }), "{error}");
    std::fs::copy(journal_path(&options.path), journal_path(&crashed.path)).expect("copied");
    check(&mut RedbLogStore::open(crashed).expect("opened with its journal"), &model);

    drop(store);
    std::fs::remove_file(journal_path(&options.path)).expect("removed");
    check(&mut RedbLogStore::open(options.clone()).expect("opened with a new journal"), &model);
    std::fs::remove_file(&options.path).expect("removed");
    let error = RedbLogStore::open(options).expect_err("refused");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_journal_of_others_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(&folder);
    drop(filled(&options));
    let path = journal_path(&options.path);
    let bytes = std::fs::read(&path).expect("read");
    let mut later = bytes.clone();
    later[8] = 9;
    std::fs::write(&path, later).expect("written");
    let error = RedbLogStore::open(options.clone()).expect_err("refused");
    assert!(matches!(error, OpenError::UnknownVersion { found: 9, .. }), "{error}");
    for (at, name) in [(0, "magic"), (40, "header")] {
        let mut broken = bytes.clone();
        broken[at] ^= 1;
        std::fs::write(&path, broken).expect("written");
        let error = RedbLogStore::open(options.clone()).expect_err("refused");
        assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error}");
    }
    let other = Options { path: folder.path().join("other"), node: NodeId(4), ..options.clone() };
    drop(filled(&other));
    std::fs::copy(journal_path(&other.path), &path).expect("copied");
    let error = RedbLogStore::open(options).expect_err("refused");
    assert!(matches!(error, OpenError::OtherNode { .. }), "{error}");
}

#[test]
fn a_log_from_before_there_were_journals_gets_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = options(&folder);
    let file = crate::backend::LogFile::open(&options.path, 0).expect("made");
    let identity = Identity { cluster: options.cluster, node: options.node, store: [2; 16] };
    initialize(file, &identity).expect("initialized");
    let (store, model) = filled(&options);
    drop(store);
    check(&mut RedbLogStore::open(options).expect("opened again"), &model);
}

#[test]
fn what_redb_writes_of_the_first_block_leaves_the_stamps_alone() {
    let machine = Machine::holding(&vec![0; 20 * BLOCK_BYTES], 16 * 4096);
    let backend = machine.open().expect("recovered");
    for fill in 0..100 {
        backend.write(0, &[fill; 320]).expect("written");
        backend.sync_data().expect("synced");
        let bytes = machine.bytes();
        let number = |at: usize| u64::from_le_bytes(bytes[at + 16..at + 24].try_into().expect("8"));
        let (even, odd) = (number(1024), number(2048));
        assert!(even.abs_diff(odd) == 1, "the stamps are numbers {even} and {odd}");
    }
}
