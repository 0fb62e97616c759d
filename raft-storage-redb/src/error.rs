//! Why a store could not be opened, and the way from redb's errors to the driver's.

use std::path::{Path, PathBuf};

use raft_core::NodeId;
use raft_node::StorageError;

/// Why a log store could not be opened. Nothing of its content was changed; after an unclean stop, redb may have repaired the file before
/// it could be looked at, which rolls back at most a write that was never acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder that should hold the file does not exist.
    #[error("the folder of the log file {} does not exist: create it, or name another", path.display())]
    FolderMissing {
        /// The log file.
        path: PathBuf,
    },
    /// The file or its folder may not be written.
    #[error("the log file {} can not be written: {source}; give this user the right to write the file and its folder, and check that the file system is not read-only", path.display())]
    NotWritable {
        /// The log file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Another process, or this one, has the file open.
    #[error("the log file {} is in use: stop the node that runs on it, or name another file", path.display())]
    InUse {
        /// The log file.
        path: PathBuf,
    },
    /// The file belongs to another cluster.
    #[error("the log file {} belongs to cluster {}, not to {}: name this cluster's file, or correct the cluster in the configuration", path.display(), hex(found), hex(expected))]
    OtherCluster {
        /// The log file.
        path: PathBuf,
        /// The cluster in the file.
        found: [u8; 16],
        /// The cluster asked for.
        expected: [u8; 16],
    },
    /// The file belongs to another node.
    #[error("the log file {} belongs to node {found}, not to node {expected}: name this node's file; a log must never be used under another id", path.display())]
    OtherNode {
        /// The log file.
        path: PathBuf,
        /// The node in the file.
        found: NodeId,
        /// The node asked for.
        expected: NodeId,
    },
    /// The file was written in a format that this program does not know.
    #[error("the log file {} has format version {found}, this program reads version {supported}: use the program that wrote it, or a newer one", path.display())]
    UnknownVersion {
        /// The log file.
        path: PathBuf,
        /// The version in the file.
        found: u16,
        /// The version that this program reads and writes.
        supported: u16,
    },
    /// There is something at the path that is not a Raft log.
    #[error("{} is not a Raft log ({detail}): put the log back if it is elsewhere; never start this node on an empty folder instead (see 'Losing machines' in docs/src/operations.md)", path.display())]
    NotALog {
        /// The path.
        path: PathBuf,
        /// What shows it.
        detail: String,
    },
    /// The file is torn or corrupted.
    #[error("the log file {} is damaged: {detail}; restore the file as it was; never start this node on an empty folder instead (see 'Losing machines' in docs/src/operations.md)", path.display())]
    Damaged {
        /// The log file.
        path: PathBuf,
        /// What shows it.
        detail: String,
    },
    /// The file was not closed, and its journal, which holds the last of what was acknowledged, is gone.
    #[error("the log file {} needs its journal, and there is no {}: put it back as it was; never start this node without it (see 'Losing machines' in docs/src/operations.md)", path.display(), journal.display())]
    JournalMissing {
        /// The log file.
        path: PathBuf,
        /// Where its journal should be.
        journal: PathBuf,
    },
    /// The file and its journal are of different logs, or of different moments.
    #[error("the log file {} and its journal {} do not belong together ({detail}): put both back as they were at one moment (see 'Losing machines' in docs/src/operations.md)", path.display(), journal.display())]
    JournalMismatch {
        /// The log file.
        path: PathBuf,
        /// The journal.
        journal: PathBuf,
        /// What shows it.
        detail: &'static str,
    },
    /// The operating system failed.
    #[error("the log file {} can not be opened: {source}; check the disk", path.display())]
    Io {
        /// The log file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> OpenError {
        use std::io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        let path = path.to_path_buf();
        match source.kind() {
            PermissionDenied | ReadOnlyFilesystem => OpenError::NotWritable { path, source },
            NotFound => OpenError::FolderMissing { path },
            _ => OpenError::Io { path, source },
        }
    }

    pub(crate) fn redb(path: &Path, error: impl Into<redb::Error>) -> OpenError {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => OpenError::InUse { path: path.to_path_buf() },
            redb::Error::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                OpenError::damaged(path, "it ends too early")
            }
            redb::Error::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => {
                OpenError::damaged(path, source)
            }
            redb::Error::Io(source) => OpenError::io(path, source),
            other => OpenError::damaged(path, other),
        }
    }

    #[allow(clippy::needless_pass_by_value)] // errors and literals alike
    pub(crate) fn damaged(path: &Path, detail: impl std::fmt::Display) -> OpenError {
        OpenError::Damaged { path: path.to_path_buf(), detail: detail.to_string() }
    }
}

/// An error of the file beneath an open store.
pub(crate) fn storage_error(
    path: &Path,
    doing: &str,
    error: impl Into<redb::Error>,
) -> StorageError {
    let error = error.into();
    let remedy = match &error {
        redb::Error::Io(source) if source.kind() == std::io::ErrorKind::StorageFull => {
            "the disk is full: free space and restart the node; nothing that was acknowledged is lost"
        }
        redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::Backend(_) => {
            "check the disk, then restart the node"
        }
        _ => {
            "restore the file as it was; never start this node on an empty folder instead (see 'Losing machines' in docs/src/operations.md)"
        }
    };
    StorageError {
        message: format!("{doing} {} failed: {error}; {remedy}", path.display()),
        source: Some(Box::new(error)),
    }
}

/// A row of an open store that is not what it should be.
pub(crate) fn damaged(path: &Path, what: impl std::fmt::Display) -> StorageError {
    StorageError {
        message: format!(
            "{} is damaged: {what}; restore the file as it was; never start this node on an empty folder instead (see 'Losing machines' in docs/src/operations.md)",
            path.display()
        ),
        source: None,
    }
}

/// A call that no correct driver makes.
pub(crate) fn misuse(path: &Path, what: impl std::fmt::Display) -> StorageError {
    StorageError {
        message: format!(
            "{what}; nothing was written to {}: this is a defect of the caller",
            path.display()
        ),
        source: None,
    }
}
