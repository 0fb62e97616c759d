//! The journal's file: where it stands, how it is made, and that one process at a time uses it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::BLOCK_BYTES;
use super::record::{
    JOURNAL_BYTES_MAX, JOURNAL_BYTES_MIN, JOURNAL_VERSION, Owner, OwnerFault, format_journal,
};
use super::recover::{Examined, Refusal, examine};
use super::stamp::{Stamped, read_stamps};
use crate::backend::owner_only;
use crate::open::{folder_of, random_id, with_suffix};
use crate::{OpenError, Options};

/// Where the journal of a log stands.
pub(crate) fn journal_path(log: &Path) -> PathBuf {
    with_suffix(log, ".journal")
}

/// An open, locked journal.
#[derive(Debug)]
pub(crate) struct JournalFile<J = FileBackend> {
    pub(crate) backend: J,
    pub(crate) owner: Owner,
}

/// Opens and locks the journal that is there, and checks whose it is.
pub(crate) fn open(options: &Options) -> Result<Option<JournalFile>, OpenError> {
    let path = journal_path(&options.path);
    let io = |error| OpenError::io(&path, error);
    let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    lock(&file, options)?;
    let mut header = vec![0; BLOCK_BYTES];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(OpenError::damaged(&path, "it ends too early"));
        }
        outcome => outcome.map_err(io)?,
    }
    let owner = check_owner(options, &header)?;
    let backend = FileBackend::new(file).map_err(|error| OpenError::redb(&path, error))?;
    Ok(Some(JournalFile { backend, owner }))
}

/// Whose journal it is that begins so; refused if it is not this node's.
pub(crate) fn check_owner(options: &Options, header: &[u8]) -> Result<Owner, OpenError> {
    let path = journal_path(&options.path);
    let owner = Owner::decode(header).map_err(|fault| match fault {
        OwnerFault::Magic => OpenError::damaged(&path, "it does not begin like a journal"),
        OwnerFault::Damaged => OpenError::damaged(&path, "its header is broken"),
        OwnerFault::Version(found) => {
            OpenError::UnknownVersion { path: path.clone(), found, supported: JOURNAL_VERSION }
        }
    })?;
    if owner.cluster != options.cluster {
        let (found, expected) = (owner.cluster, options.cluster);
        return Err(OpenError::OtherCluster { path, found, expected });
    }
    if owner.node != options.node {
        let (found, expected) = (owner.node, options.node);
        return Err(OpenError::OtherNode { path, found, expected });
    }
    Ok(owner)
}

/// How often, and after how long each time, a lock that is taken is tried again. A process that this one is starting
/// holds all its locks from the fork to the exec: a store that was just closed may seem to be in use.
const LOCK_TRIES: u32 = 50;
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

fn lock(file: &File, options: &Options) -> Result<(), OpenError> {
    for tries in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { path: options.path.clone() });
            }
            Err(TryLockError::Error(error)) => {
                return Err(OpenError::io(&journal_path(&options.path), error));
            }
        }
    }
    Ok(())
}

/// Makes a journal for a log whose file does not need the one that it had, if it ever had one.
pub(crate) fn create(options: &Options) -> Result<JournalFile, OpenError> {
    let path = journal_path(&options.path);
    let io = |error| OpenError::io(&path, error);
    let unfinished = with_suffix(&path, ".unfinished");
    let file = owner_only().create(true).truncate(true).open(&unfinished).map_err(io)?;
    lock(&file, options)?;
    let owner = new_owner(options, random_id().map_err(io)?);
    let backend = FileBackend::new(file).map_err(|error| OpenError::redb(&path, error))?;
    format_journal(&backend, &owner).map_err(io)?;
    std::fs::rename(&unfinished, &path).map_err(io)?;
    File::open(folder_of(&path)).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(JournalFile { backend, owner })
}

/// Of a new journal, with this random id.
pub(crate) fn new_owner(options: &Options, journal: [u8; 16]) -> Owner {
    let bytes = options.journal_bytes.clamp(JOURNAL_BYTES_MIN, JOURNAL_BYTES_MAX);
    Owner {
        cluster: options.cluster,
        node: options.node,
        journal,
        bytes: bytes - bytes % BLOCK_BYTES as u64,
    }
}

/// Refuses a file that needs its journal if there is none.
pub(crate) fn check_not_needed(
    options: &Options,
    file: &impl StorageBackend,
) -> Result<(), OpenError> {
    let path = options.path.clone();
    match read_stamps(file).map_err(|error| OpenError::io(&path, error))? {
        Stamped::Never => Ok(()),
        Stamped::With(stamp) if stamp.closed => Ok(()),
        Stamped::With(_) => Err(OpenError::JournalMissing { journal: journal_path(&path), path }),
        Stamped::Broken => Err(OpenError::damaged(&path, "both of its stamps are broken")),
        Stamped::Unknown(found) => {
            Err(OpenError::UnknownVersion { path, found, supported: JOURNAL_VERSION })
        }
    }
}

/// Checks the journal against the file. Writes nothing.
pub(crate) fn examine_file<'a, J: StorageBackend>(
    options: &Options,
    file: &impl StorageBackend,
    journal: &'a JournalFile<J>,
) -> Result<Examined<'a, J>, OpenError> {
    let path = options.path.as_path();
    let stamped = read_stamps(file).map_err(|error| OpenError::io(path, error))?;
    examine(&journal.backend, &journal.owner, stamped).map_err(|refusal| refused(options, refusal))
}

/// Why a log can not be opened, in full.
pub(crate) fn refused(options: &Options, refusal: Refusal) -> OpenError {
    let path = options.path.as_path();
    match refusal {
        Refusal::Io(error) => OpenError::io(path, error),
        Refusal::Damaged(what) => OpenError::damaged(&journal_path(path), what),
        Refusal::Mismatch(detail) => OpenError::JournalMismatch {
            path: path.to_path_buf(),
            journal: journal_path(path),
            detail,
        },
        Refusal::Version(found) => OpenError::UnknownVersion {
            path: path.to_path_buf(),
            found,
            supported: JOURNAL_VERSION,
        },
    }
}
