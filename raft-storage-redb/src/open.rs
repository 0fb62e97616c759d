//! Opening and creating the file: whose it is, and everything that can be wrong with it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use raft_core::{NodeId, SnapshotMeta};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, StorageBackend, TableError};

use crate::OpenError;
use crate::backend::LogFile;
use crate::format::{FORMAT_VERSION, Head, Identity, Malformed, NumberedState};
use crate::journal::durable::CommitNumber;
use crate::journal::file::JournalFile;
use crate::journal::held::Held;
use crate::journal::recover::Examined;
use crate::journal::{Checkpoints, Journaled, file as journal_file};
use crate::lives::{FileMark, Lives};
use crate::settle::write_head;
use crate::store::RedbLogStore;
use crate::tables::{
    IDENTITY_KEY, LOG, MEMBERSHIPS, META, RowFault, TERMS, next_write, read_tables,
};

/// How every redb file begins.
const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// Which file, whose log, and how much memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// The log's file. Its folder must exist.
    pub path: PathBuf,
    /// The cluster that the log belongs to.
    pub cluster: [u8; 16],
    /// The node that the log belongs to.
    pub node: NodeId,
    /// How many bytes of the file are kept in memory, beyond what the operating system caches: 16 MiB unless changed. Half of it
    /// buffers a write until it is flushed, so it should be at least twice the largest group commit.
    pub cache_bytes: usize,
    /// Up to which size the file is filled with zeros as it grows, in bytes: overwriting is cheaper to fsync than growing.
    /// 64 MiB unless changed.
    pub prefill_bytes: u64,
    /// How large the journal beside the file is, in bytes, when it is made: 32 MiB unless changed, at least 64 KiB and at
    /// most 1 GiB. It is written whole once. Larger means fewer syncs of the file, and more to replay after a crash.
    pub journal_bytes: u64,
    /// Whether a file that is a copy of the one that the node ran on last is still the same store: only if that one is gone and
    /// was not used after the copy was made, as when a folder is moved to another disk. Unless changed, it is not: the node then does
    /// not vote until its group has taken it back, for a copy may lack what the node has acknowledged since.
    pub adopts_copy: bool,
}

impl Options {
    /// The usual amounts of memory and disk.
    pub fn new(path: impl Into<PathBuf>, cluster: [u8; 16], node: NodeId) -> Options {
        Options {
            path: path.into(),
            cluster,
            node,
            cache_bytes: 16 << 20,
            prefill_bytes: 64 << 20,
            journal_bytes: 32 << 20,
            adopts_copy: false,
        }
    }
}

impl RedbLogStore {
    /// Opens the log, and creates it if there is nothing at the path.
    ///
    /// A new file is made under another name and renamed when it is complete and durable, so a crash leaves no half-made log.
    /// The file is locked as long as the store or one of its readers lives. Beside it stands its journal, `NAME.journal`: after
    /// a crash the file can not be opened without it.
    ///
    /// # Errors
    /// Each way in which the file or its journal can be unusable is its own [`OpenError`]. A log that is refused is left as it is, byte for byte: it
    /// is refused again, until the files are restored.
    #[allow(clippy::needless_pass_by_value)] // the natural call builds them in place
    pub fn open(options: Options) -> Result<RedbLogStore, OpenError> {
        let path = options.path.as_path();
        let journal = journal_file::open(&options)?;
        match File::open(path) {
            Ok(file) => check_magic(path, file)?,
            Err(error) if error.kind() == ErrorKind::NotFound && journal.is_none() => {
                create(&options)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(OpenError::damaged(path, "it is gone, but its journal is there"));
            }
            Err(error) => return Err(OpenError::io(path, error)),
        }
        let file = LogFile::open(path, options.prefill_bytes)
            .map_err(|error| OpenError::io(path, error))?;
        let journal = if let Some(journal) = journal {
            journal
        } else {
            journal_file::check_not_needed(&options, &file)?;
            try_out::<_, FileBackend>(&options, &file, None)?;
            journal_file::create(&options)?
        };
        let mark = FileMark::of(path).map_err(|error| OpenError::io(path, error))?;
        Self::open_files(&options, file, journal, Checkpoints::Background, mark)
    }

    /// Opens a log of two files that are there. Neither is written to before it is clear that the log is whole.
    pub(crate) fn open_files<M: StorageBackend + Clone, J: StorageBackend>(
        options: &Options,
        file: M,
        journal: JournalFile<J>,
        checkpoints: Checkpoints,
        mark: FileMark,
    ) -> Result<RedbLogStore, OpenError> {
        let examined = journal_file::examine_file(options, &file, &journal)?;
        let shown = try_out(options, &file, Some(&examined))?;
        let recovered = examined
            .carry_out(&file, &journal.backend, shown)
            .map_err(|refusal| journal_file::refused(options, refusal))?;
        let backend = Journaled::new(file, journal.backend, recovered, checkpoints)
            .map_err(|error| OpenError::io(&options.path, error))?;
        Self::open_backend(options, backend, mark)
    }

    /// Opens a complete log behind its journal.
    fn open_backend<M: StorageBackend, J: StorageBackend>(
        options: &Options,
        mut backend: Journaled<M, J>,
        mark: FileMark,
    ) -> Result<RedbLogStore, OpenError> {
        let path = options.path.as_path();
        let expected = backend.expected();
        let log = backend
            .take_log_part()
            .ok_or_else(|| OpenError::damaged(path, "its journal is in use"))?;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = Database::builder()
                .set_cache_size(options.cache_bytes)
                .create_with_backend(backend)
                .map_err(|error| database_error(path, error))?;
            let identity = read_identity(path, &database)?;
            check_identity(options, &identity)?;
            let lives = Lives { last: None, mark, adopts_copy: options.adopts_copy };
            let path_owned = path.to_path_buf();
            RedbLogStore::new(database, path_owned, identity, expected, log, lives)
                .map_err(|fault| row_fault(path, fault))
        }));
        opened.unwrap_or_else(|_| Err(OpenError::damaged(path, "its pages make no sense")))
    }
}

/// Opens the log on a copy in memory, repairs included, and says which commit it shows. The file is left as it is, so that a log
/// that is refused can be looked at, and opened by a program that knows better.
fn try_out<M: StorageBackend + Clone, J: StorageBackend>(
    options: &Options,
    file: &M,
    examined: Option<&Examined<'_, J>>,
) -> Result<CommitNumber, OpenError> {
    let path = options.path.as_path();
    let held = Held::new(file.clone()).map_err(|error| OpenError::io(path, error))?;
    if let Some(examined) = examined {
        examined.write_pages(&held).map_err(|refusal| journal_file::refused(options, refusal))?;
    }
    let tried = catch_unwind(AssertUnwindSafe(|| {
        let mut database = Database::builder()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(held)
            .map_err(|error| database_error(path, error))?;
        // After a crash, redb has compared all checksums. After a clean stop it has not: and a page that went bad since may
        // make it allocate pages that are in use.
        let was_closed = examined.is_none_or(Examined::was_closed);
        if was_closed && !database.check_integrity().map_err(|e| database_error(path, e))? {
            return Err(OpenError::damaged(path, "its pages do not match their checksums"));
        }
        check_identity(options, &read_identity(path, &database)?)?;
        let shown = check_rows(&database, examined).map_err(|fault| row_fault(path, fault))?;
        Ok(CommitNumber(shown))
    }));
    tried.unwrap_or_else(|_| Err(OpenError::damaged(path, "its pages make no sense")))
}

/// Whether redb and the journal together hold every write up to the last that was durable; and the last that redb holds.
fn check_rows<J: StorageBackend>(
    database: &Database,
    examined: Option<&Examined<'_, J>>,
) -> Result<u64, RowFault> {
    let (mut shape, state, _) = read_tables(database)?;
    let shown = state.sequence;
    let Some(examined) = examined else { return Ok(shown) };
    let mut sequence = shown;
    for (number, bytes) in examined.writes_after(CommitNumber(shown)) {
        if let Some(write) = next_write(&mut shape, sequence, number, bytes)? {
            sequence = write.sequence;
        }
    }
    // redb goes back to the commit before the last if it finds the last one damaged, which no loss of power explains. The journal
    // may still hold what that takes away; otherwise it is lost.
    let known = examined.claimed().0;
    if sequence < known {
        return Err(RowFault::Contradiction(format!(
            "its last commit is number {shown}, but number {known} was durable"
        )));
    }
    Ok(shown)
}

fn row_fault(path: &Path, fault: RowFault) -> OpenError {
    match fault {
        RowFault::Malformed { fault: Malformed::Version { found }, .. } => {
            unknown_version(path, found)
        }
        RowFault::Redb(error) => OpenError::redb(path, error),
        fault => OpenError::damaged(path, fault),
    }
}

/// Refuses what is no redb file before redb sees it.
pub(crate) fn check_magic(path: &Path, file: impl Read) -> Result<(), OpenError> {
    let mut magic = Vec::new();
    let read = file.take(REDB_MAGIC.len() as u64).read_to_end(&mut magic);
    let detail = match read {
        Ok(_) if magic == REDB_MAGIC => return Ok(()),
        Ok(0) => "it is empty".to_owned(),
        Ok(_) => "it does not begin like a redb file".to_owned(),
        Err(error) if error.kind() == ErrorKind::IsADirectory => "it is a folder".to_owned(),
        Err(error) => return Err(OpenError::io(path, error)),
    };
    Err(OpenError::NotALog { path: path.to_path_buf(), detail })
}

fn database_error(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::UpgradeRequired(found) => unknown_version(path, u16::from(found)),
        error => OpenError::redb(path, error),
    }
}

fn unknown_version(path: &Path, found: u16) -> OpenError {
    OpenError::UnknownVersion { path: path.to_path_buf(), found, supported: FORMAT_VERSION }
}

fn read_identity(path: &Path, database: &impl ReadableDatabase) -> Result<Identity, OpenError> {
    let not_a_log =
        |detail: &str| OpenError::NotALog { path: path.to_path_buf(), detail: detail.into() };
    let transaction = database.begin_read().map_err(|error| OpenError::redb(path, error))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::Storage(error)) => return Err(OpenError::redb(path, error)),
        Err(_) => return Err(not_a_log("it is a redb file without the tables of a log")),
    };
    let row = meta.get(IDENTITY_KEY).map_err(|error| OpenError::redb(path, error))?;
    let row = row.ok_or_else(|| OpenError::damaged(path, "its identity is missing"))?;
    Identity::decode(row.value()).map_err(|fault| match fault {
        Malformed::Version { found } => unknown_version(path, found),
        Malformed::Magic => not_a_log("its identity is of something else"),
        fault => OpenError::damaged(path, format!("its identity is malformed: {fault}")),
    })
}

fn check_identity(options: &Options, identity: &Identity) -> Result<(), OpenError> {
    let path = options.path.clone();
    if identity.cluster != options.cluster {
        let (found, expected) = (identity.cluster, options.cluster);
        return Err(OpenError::OtherCluster { path, found, expected });
    }
    if identity.node != options.node {
        let (found, expected) = (identity.node, options.node);
        return Err(OpenError::OtherNode { path, found, expected });
    }
    Ok(())
}

/// Makes a complete, durable, empty log at the path.
fn create(options: &Options) -> Result<(), OpenError> {
    let path = options.path.as_path();
    let io = |error| OpenError::io(path, error);
    if path.file_name().is_none() {
        let detail = "the path names no file".into();
        return Err(OpenError::NotALog { path: path.to_path_buf(), detail });
    }
    let unfinished = with_suffix(path, ".unfinished");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let backend = LogFile::open(&unfinished, options.prefill_bytes).map_err(io)?;
    let identity =
        Identity { cluster: options.cluster, node: options.node, store: random_id().map_err(io)? };
    initialize(backend, &identity).map_err(|error| OpenError::redb(path, error))?;
    std::fs::rename(&unfinished, path).map_err(io)?;
    // Without this the loss of power could take the name away again (the file itself is durable).
    File::open(folder_of(path)).and_then(|folder| folder.sync_all()).map_err(io)
}

/// Writes the rows of an empty log to an empty backend.
pub(crate) fn initialize(
    backend: impl StorageBackend,
    identity: &Identity,
) -> Result<(), redb::Error> {
    let database = Database::builder().set_cache_size(1 << 20).create_with_backend(backend)?;
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(IDENTITY_KEY, identity.encode().as_slice())?;
    transaction.open_table(LOG)?;
    transaction.open_table(TERMS)?;
    transaction.open_table(MEMBERSHIPS)?;
    let base = SnapshotMeta {
        position: raft_core::LogPosition::ORIGIN,
        membership: raft_core::Membership::default().into(),
    };
    write_head(&transaction, &Head { state: NumberedState::default(), base })?;
    transaction.commit()?;
    database.close()?;
    Ok(())
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A file beside another, with a name that goes on after its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

pub(crate) fn random_id() -> Result<[u8; 16], std::io::Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(std::io::Error::other)?;
    Ok(id)
}
