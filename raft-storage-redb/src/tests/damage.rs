//! Foreign, torn and corrupted files: each is an error with a name, or the old state; never a panic, never silently wrong.

use raft_core::{Index, NodeId};
use raft_node::{LogReader, LogStore};
use redb::ReadableTable;

use super::model::{Model, Step, options};
use crate::format::{self, Chunk};
use crate::tables::{IDENTITY_KEY, META};
use crate::{OpenError, Options, RedbLogStore};

fn filled(folder: &tempfile::TempDir) -> Model {
    let mut store = RedbLogStore::open(options(folder)).expect("opened");
    let mut model = Model::default();
    let step = Step {
        truncate: None,
        reset: None,
        append: 30,
        size: 200,
        new_term: true,
        hard_state: true,
        compact: None,
    };
    for _ in 0..12 {
        store.write(&[model.write(&step)]).expect("written");
    }
    model
}

#[test]
fn a_file_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = RedbLogStore::open(options(&folder)).expect("opened");
    assert!(matches!(RedbLogStore::open(options(&folder)), Err(OpenError::InUse { .. })));
    drop(store);
    RedbLogStore::open(options(&folder)).expect("opened");
}

#[test]
fn a_foreign_log_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    filled(&folder);
    let before = std::fs::read(options(&folder).path).expect("read");
    let other = Options { cluster: [9; 16], ..options(&folder) };
    assert!(matches!(RedbLogStore::open(other), Err(OpenError::OtherCluster { .. })));
    let other = Options { node: NodeId(9), ..options(&folder) };
    assert!(matches!(RedbLogStore::open(other), Err(OpenError::OtherNode { .. })));
    assert!(std::fs::read(options(&folder).path).expect("read") == before);
}

#[test]
fn an_unknown_version_names_both() {
    let folder = tempfile::tempdir().expect("a folder");
    filled(&folder);
    let database = redb::Database::open(options(&folder).path).expect("opened");
    let transaction = database.begin_write().expect("begun");
    {
        let mut meta = transaction.open_table(META).expect("there");
        let mut row = meta.get(IDENTITY_KEY).expect("read").expect("there").value().to_vec();
        row[8] = 77;
        meta.insert(IDENTITY_KEY, row.as_slice()).expect("written");
    }
    transaction.commit().expect("committed");
    drop(database);
    let error = RedbLogStore::open(options(&folder)).expect_err("refused");
    assert!(matches!(error, OpenError::UnknownVersion { found: 77, supported: 1, .. }), "{error}");
}

#[test]
fn what_is_no_log_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = Options { path: folder.path().join("a").join("log"), ..options(&folder) };
    assert!(matches!(RedbLogStore::open(missing), Err(OpenError::FolderMissing { .. })));
    let itself = Options { path: folder.path().to_path_buf(), ..options(&folder) };
    assert!(matches!(RedbLogStore::open(itself), Err(OpenError::NotALog { .. })));
    for text in ["", "something else altogether"] {
        std::fs::write(options(&folder).path, text).expect("written");
        assert!(matches!(RedbLogStore::open(options(&folder)), Err(OpenError::NotALog { .. })));
        assert_eq!(std::fs::read_to_string(options(&folder).path).expect("read"), text);
    }
    std::fs::remove_file(options(&folder).path).expect("removed");
    drop(redb::Database::create(options(&folder).path).expect("made"));
    assert!(matches!(RedbLogStore::open(options(&folder)), Err(OpenError::NotALog { .. })));
}

#[test]
fn a_damaged_file_is_an_error_or_the_truth() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = filled(&folder);
    let path = options(&folder).path;
    let whole = std::fs::read(&path).expect("read");
    let mut luck = 7u64;
    for round in 0..200 {
        luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (luck >> 20) as usize % whole.len();
        let mut torn = whole.clone();
        match round % 3 {
            0 => torn[at] ^= 1 << (luck >> 61),
            1 => torn.truncate(at),
            _ => {
                let end = (at + 700).min(torn.len());
                torn[at..end].fill(0xAB);
            }
        }
        std::fs::write(&path, &torn).expect("written");
        let Ok(mut store) = RedbLogStore::open(options(&folder)) else { continue };
        let restored = store.restore().expect("restored");
        let reader = store.reader();
        let mut next = restored.base.index.next();
        while next <= restored.last {
            let Ok(entries) = reader.read(next, restored.last, 2000) else { break };
            for entry in entries.iter() {
                assert_eq!(Some(entry), model.entries.get(entry.index.0 as usize - 1));
            }
            next = entries.last().expect("one at least").index.next();
        }
    }
}

#[test]
fn no_length_in_a_chunk_is_believed() {
    let mut model = Model::default();
    let step = Step {
        truncate: None,
        reset: None,
        append: 40,
        size: 20,
        new_term: false,
        hard_state: false,
        compact: None,
    };
    model.write(&step);
    let mut row = Vec::new();
    format::encode_chunk(&mut row, model.entries.iter(), Some(&format::NumberedState::default()));
    for at in 0..row.len() - 8 {
        for value in [0, 1, 0x7F, 0xFF] {
            let mut forged = row[..row.len() - 8].to_vec();
            forged[at] = value;
            let checksum = xxhash_rust::xxh3::xxh3_64(&forged);
            forged.extend_from_slice(&checksum.to_le_bytes());
            let _ = format::peek_span(&forged);
            if let Ok(chunk) = Chunk::parse(&forged) {
                let (mut budget, mut into) = (usize::MAX, Vec::new());
                let _ = chunk.decode_into(Index(1), Index(u64::MAX), &mut budget, &mut into);
            }
        }
    }
    for length in 0..row.len() {
        assert!(Chunk::parse(&row[..length]).is_err());
    }
}
