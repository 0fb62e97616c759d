//! Which store a file is, and in which life, over real files: a copy that is put back is another store.

use std::path::Path;

use raft_core::{Membership, NodeId, StoreStamp};
use raft_node::LogStore;

use crate::{Options, RedbLogStore};

const FILES: [&str; 2] = ["log.redb", "log.redb.journal"];

fn options(folder: &Path) -> Options {
    Options {
        prefill_bytes: 0,
        journal_bytes: 64 << 10,
        ..Options::new(folder.join("log.redb"), [1; 16], NodeId(2))
    }
}

/// Starts on what is there, founds if that is nothing, and ends.
fn live(options: Options, voters: &[u64]) -> StoreStamp {
    let mut store = RedbLogStore::open(options).expect("opens");
    let restored = store.restore().expect("restores");
    let stamp = store.begin_life().expect("begins a life");
    let founding = Membership::of_voters(voters.iter().copied().map(NodeId));
    if restored.base_membership.is_empty() {
        store.found(&founding).expect("founds");
    } else {
        assert_eq!(restored.base_membership, founding, "nothing else has changed");
    }
    stamp
}

fn copy(from: &Path, to: &Path) {
    for name in FILES {
        // What was there goes first, as when a folder is emptied: a copy may get its inode.
        let _ = std::fs::remove_file(to.join(name));
        std::fs::copy(from.join(name), to.join(name)).expect("copied");
    }
}

#[test]
fn a_copy_that_is_put_back_is_another_store() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (folder, backup) = (folder.path(), backup.path());
    let first = live(options(folder), &[1, 2, 3]);
    assert_eq!(first.life, 1);
    assert_eq!(live(options(folder), &[1, 2, 3]), StoreStamp { life: 2, ..first });
    copy(folder, backup);
    assert_eq!(live(options(folder), &[1, 2, 3]), StoreStamp { life: 3, ..first });
    copy(backup, folder);
    let copied = live(options(folder), &[1, 2, 3]);
    assert_ne!(copied.id, first.id, "it lacks what came after life 2");
    assert_eq!(copied.life, 1);
    assert_eq!(live(options(folder), &[1, 2, 3]), StoreStamp { life: 2, ..copied });
}

#[test]
fn a_folder_that_was_moved_goes_on_if_somebody_says_so() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = live(options(folder.path()), &[1, 2, 3]);
    copy(folder.path(), other.path());
    let moved = Options { adopts_copy: true, ..options(other.path()) };
    assert_eq!(live(moved, &[1, 2, 3]), StoreStamp { life: 2, ..first });
    // It need not be said again.
    assert_eq!(live(options(other.path()), &[1, 2, 3]), StoreStamp { life: 3, ..first });
}

#[test]
fn a_rename_is_no_copy_and_the_only_voter_has_nobody_who_knows_better() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (root.path().join("old"), root.path().join("new"));
    std::fs::create_dir(&old).unwrap();
    let first = live(options(&old), &[2]);
    std::fs::rename(&old, &new).unwrap();
    assert_eq!(live(options(&new), &[2]), StoreStamp { life: 2, ..first });
    std::fs::create_dir(&old).unwrap();
    copy(&new, &old);
    assert_eq!(live(options(&old), &[2]), StoreStamp { life: 3, ..first });
}

#[cfg(unix)]
#[test]
fn the_files_are_for_their_owner_alone() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    live(options(folder.path()), &[1, 2, 3]);
    for name in FILES {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
}
