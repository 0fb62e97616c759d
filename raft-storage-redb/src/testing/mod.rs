//! A log store on a disk that fails: for the tests of this crate, for simulators, and for whoever wants to see what becomes of a node
//! whose disk tears sectors, lies about syncs, or rots. Behind the feature `testing`.
//!
//! ```
//! use raft_core::{Membership, NodeId};
//! use raft_node::LogStore;
//! use raft_storage_redb::{Options, testing};
//!
//! let options = Options::new("log", [1; 16], NodeId(1));
//! let disk = testing::VirtualDisk::new(7);
//! testing::create(&disk, &options, [2; 16]).expect("made");
//! let mut store = testing::open(&disk, &options).expect("opened");
//! store.found(&Membership::of_voters([NodeId(1)])).expect("founded");
//! disk.lose_power();
//! let mut store = testing::open(&disk, &options).expect("opened after the power was lost");
//! assert!(store.restore().expect("restored").base_membership.is_voter(NodeId(1)));
//! ```
//!
//! What it is not: a file system. Making the two files, and giving them their names, is done at once and survives everything.

mod disk;
mod faults;
mod image;

use redb::StorageBackend;

pub use disk::{DiskFile, DiskOperation, VirtualDisk, VirtualFile};
pub use faults::{DiskFault, Fired, Rot};

use crate::format::Identity;
use crate::journal::file::{JournalFile, check_owner, new_owner};
use crate::journal::record::format_journal;
use crate::journal::{BLOCK_BYTES, Checkpoints};
use crate::lives::FileMark;
use crate::open::{check_magic, initialize};
use crate::{OpenError, Options, RedbLogStore};

/// Makes an empty log and its journal on a disk. `store` is the log's identity, which is random on a real disk; the journal's follows
/// from it. Of the options, the cluster, the node and the journal's size count.
///
/// # Errors
/// If a fault of the disk strikes.
pub fn create(disk: &VirtualDisk, options: &Options, store: [u8; 16]) -> Result<(), OpenError> {
    let path = options.path.as_path();
    let identity = Identity { cluster: options.cluster, node: options.node, store };
    let file = disk.file(DiskFile::Log);
    initialize(file, &identity).map_err(|error| OpenError::redb(path, error))?;
    let mut journal = store;
    journal.reverse();
    journal[0] ^= 0x4A;
    format_journal(&disk.file(DiskFile::Journal), &new_owner(options, journal))
        .map_err(|error| OpenError::io(path, error))
}

/// Opens a log, as [`RedbLogStore::open`] does, but for the thread that syncs the file in the background: the commit that fills the
/// journal does that here, so that everything has one order. Of the options, all count but `prefill_bytes`.
///
/// # Errors
/// Each way in which the log can be unusable is its own [`OpenError`].
pub fn open(disk: &VirtualDisk, options: &Options) -> Result<RedbLogStore, OpenError> {
    let path = options.path.as_path();
    let io = |error| OpenError::io(path, error);
    let (file, journal) = (disk.file(DiskFile::Log), disk.file(DiskFile::Journal));
    let mut header = vec![0; BLOCK_BYTES];
    journal.read(0, &mut header).map_err(|error| OpenError::redb(path, redb::Error::Io(error)))?;
    let journal = JournalFile { owner: check_owner(options, &header)?, backend: journal };
    let mut beginning = vec![0; BLOCK_BYTES.min(file.len().map_err(io)? as usize)];
    file.read(0, &mut beginning).map_err(io)?;
    check_magic(path, beginning.as_slice())?;
    // Its files are the disk: there are no copies.
    let mark = FileMark::default();
    RedbLogStore::open_files(options, file, journal, Checkpoints::Inline, mark)
}
