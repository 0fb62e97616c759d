//! The state on disk: a redb file that background checkpoints bring up to date, each in one durable transaction together with the
//! log position that it includes (scenario 43). Described to the byte in `docs/kv-format.md`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft_core::{NodeId, SnapshotMeta};
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableError, WriteTransaction,
};

use crate::codec::{Malformed, Put, Reader};
use crate::command::SessionId;
use crate::query::Record;
use crate::session::Session;
use crate::state::{Changes, State};
use crate::stream::Head;

pub(crate) const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
pub(crate) const SESSIONS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("sessions");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const IDENTITY: &str = "identity";
const CHECKPOINT: &str = "checkpoint";

/// How every redb file begins.
const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
/// What our identity row begins with.
const MAGIC: [u8; 8] = *b"RAFTKV\0\0";
/// The version of the file's format.
const VERSION: u16 = 1;

/// Which file, whose state, and how much memory.
#[derive(Clone, Debug)]
pub struct StateFileOptions {
    /// The file. Its folder must exist.
    pub path: PathBuf,
    /// The cluster that it belongs to.
    pub cluster: [u8; 16],
    /// The node that it belongs to.
    pub node: NodeId,
    /// How many bytes of the file are kept in memory: 8 MiB unless changed.
    pub cache_bytes: usize,
}

impl StateFileOptions {
    /// The usual amount of memory.
    pub fn new(path: impl Into<PathBuf>, cluster: [u8; 16], node: NodeId) -> StateFileOptions {
        StateFileOptions { path: path.into(), cluster, node, cache_bytes: 8 << 20 }
    }
}

/// Why the state's file can not be used. Nothing of its content was changed (redb may repair a file after an unclean stop).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateFileError {
    /// Another process has it open.
    #[error("the state file {} is in use: stop the node that runs on it, or name another file", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another cluster or node.
    #[error("the state file {} belongs to {found}, not to {expected}: name this node's own file", path.display())]
    OtherOwner {
        /// The file.
        path: PathBuf,
        /// Who stands in the file.
        found: String,
        /// Who asks.
        expected: String,
    },
    /// It was written in a format that this program does not know.
    #[error("the state file {} has format version {found}, this program reads version {supported}: use the program that wrote it, or a newer one", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u16,
        /// The version that this program reads and writes.
        supported: u16,
    },
    /// It is no state file, or torn, or corrupted.
    #[error("the state file {} is damaged: {detail}; restore the file as it was; never start this node on an empty folder instead (see 'Losing machines' in docs/src/operations.md)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What shows it.
        detail: String,
    },
    /// The operating system failed.
    #[error("the state file {} can not be used: {source}; check its folder, its permissions and the disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

impl StateFileError {
    fn damaged(path: &Path, detail: impl std::fmt::Display) -> StateFileError {
        StateFileError::Damaged { path: path.to_path_buf(), detail: detail.to_string() }
    }

    fn io(path: &Path, source: std::io::Error) -> StateFileError {
        StateFileError::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn redb(path: &Path, error: impl Into<redb::Error>) -> StateFileError {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => StateFileError::InUse { path: path.to_path_buf() },
            redb::Error::Io(source)
                if matches!(source.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) =>
            {
                StateFileError::damaged(path, source)
            }
            redb::Error::Io(source) => StateFileError::io(path, source),
            other => StateFileError::damaged(path, other),
        }
    }
}

/// What the file holds is for its owner alone.
fn close_to_others(path: &Path) -> Result<(), StateFileError> {
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, mode).map_err(|error| StateFileError::io(path, error))?;
    }
    let _ = path;
    Ok(())
}

/// The open file.
#[derive(Debug)]
pub(crate) struct StateFile {
    database: Database,
    path: PathBuf,
}

impl StateFile {
    /// Opens the file, and creates it if there is nothing at the path.
    pub(crate) fn open(options: &StateFileOptions) -> Result<StateFile, StateFileError> {
        let path = options.path.as_path();
        let is_new = check_magic(path)?;
        // redb checks its pages as it goes, and where it does not, it panics: damage must not take the process down.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = Database::builder()
                .set_cache_size(options.cache_bytes)
                .create(path)
                .map_err(|error| match error {
                    DatabaseError::UpgradeRequired(found) => StateFileError::UnknownVersion {
                        path: path.to_path_buf(),
                        found: u16::from(found),
                        supported: VERSION,
                    },
                    error => StateFileError::redb(path, error),
                })?;
            let file = StateFile { database, path: path.to_path_buf() };
            file.check_identity(options)?;
            if is_new {
                close_to_others(path)?;
                sync_folder(path)?;
            }
            Ok(file)
        }));
        opened.unwrap_or_else(|_| Err(StateFileError::damaged(path, "its pages make no sense")))
    }

    /// Compares the file's owner, or records it in a new file.
    fn check_identity(&self, options: &StateFileOptions) -> Result<(), StateFileError> {
        let path = self.path.as_path();
        let wanted = encode_identity(options.cluster, options.node);
        let found = self.meta(IDENTITY)?;
        let Some(found) = found else {
            if self.meta(CHECKPOINT)?.is_some() {
                return Err(StateFileError::damaged(path, "its identity is missing"));
            }
            return self.initialize(&wanted).map_err(|error| StateFileError::redb(path, error));
        };
        let (version, owner) =
            decode_identity(&found).map_err(|what| StateFileError::damaged(path, what))?;
        if version != VERSION {
            let path = path.to_path_buf();
            return Err(StateFileError::UnknownVersion {
                path,
                found: version,
                supported: VERSION,
            });
        }
        let expected = describe_owner(options.cluster, options.node);
        if found == wanted {
            Ok(())
        } else {
            Err(StateFileError::OtherOwner { path: path.to_path_buf(), found: owner, expected })
        }
    }

    fn initialize(&self, identity: &[u8]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(META)?.insert(IDENTITY, identity)?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(SESSIONS)?;
        transaction.commit()?;
        Ok(())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StateFileError> {
        let fault = |error: redb::Error| StateFileError::redb(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        match transaction.open_table(META) {
            Ok(table) => {
                let row = table.get(key).map_err(|error| fault(error.into()))?;
                Ok(row.map(|row| row.value().to_vec()))
            }
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(fault(error.into())),
        }
    }

    /// Reads the whole state; `None` if there was no checkpoint yet.
    pub(crate) fn load(&self) -> Result<Option<(SnapshotMeta, State)>, StateFileError> {
        let loaded = catch_unwind(AssertUnwindSafe(|| self.load_unguarded()));
        loaded
            .unwrap_or_else(|_| Err(StateFileError::damaged(&self.path, "its pages make no sense")))
    }

    fn load_unguarded(&self) -> Result<Option<(SnapshotMeta, State)>, StateFileError> {
        let redb = |error: redb::Error| StateFileError::redb(&self.path, error);
        let malformed = |what: &str, error: Malformed| {
            StateFileError::damaged(&self.path, format!("{what}: {error}"))
        };
        let Some(row) = self.meta(CHECKPOINT)? else { return Ok(None) };
        let head = Head::decode(&row).map_err(|error| malformed("its checkpoint row", error))?;
        let transaction = self.database.begin_read().map_err(|error| redb(error.into()))?;
        let mut records = Vec::new();
        let table = transaction.open_table(RECORDS).map_err(|error| redb(error.into()))?;
        for row in table.iter().map_err(|error| redb(error.into()))? {
            let (key, value) = row.map_err(|error| redb(error.into()))?;
            let record =
                decode_record(value.value()).map_err(|error| malformed("a record", error))?;
            records.push((Arc::from(key.value()), record));
        }
        let mut sessions = Vec::new();
        let table = transaction.open_table(SESSIONS).map_err(|error| redb(error.into()))?;
        for row in table.iter().map_err(|error| redb(error.into()))? {
            let (id, session) = row.map_err(|error| redb(error.into()))?;
            let session =
                Session::decode(session.value()).map_err(|error| malformed("a session", error))?;
            sessions.push((SessionId(id.value()), session));
        }
        let state = State::restore(records, sessions, head.revision);
        if state.digest != head.digest {
            let detail = "its records do not have the digest that was written with them";
            return Err(StateFileError::damaged(&self.path, detail));
        }
        Ok(Some((head.meta, state)))
    }

    /// Writes what changed, with the position that it brings the file to: all of it or nothing, durable on return.
    pub(crate) fn save(&self, meta: SnapshotMeta, changes: Changes) -> Result<(), StateFileError> {
        let head = Head { meta, revision: changes.revision, digest: changes.digest };
        // In the order of the tree, so that neighbours share pages.
        let mut records: Vec<(Arc<[u8]>, Option<Record>)> = changes.records.into_iter().collect();
        records.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.write(|transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            let mut row = Vec::new();
            for (key, record) in &records {
                if let Some(record) = record {
                    row.clear();
                    encode_record(record, &mut row);
                    table.insert(&**key, row.as_slice())?;
                } else {
                    table.remove(&**key)?;
                }
            }
            let mut table = transaction.open_table(SESSIONS)?;
            for (id, session) in &changes.sessions {
                if let Some(session) = session {
                    table.insert(id.0, session.encode().as_slice())?;
                } else {
                    table.remove(id.0)?;
                }
            }
            transaction.open_table(META)?.insert(CHECKPOINT, head.encode().as_slice())?;
            Ok(())
        })
    }

    /// Replaces everything by this state, in one durable transaction.
    pub(crate) fn replace(&self, meta: SnapshotMeta, state: &State) -> Result<(), StateFileError> {
        let head = Head { meta, revision: state.revision, digest: state.digest };
        self.write(|transaction| {
            transaction.delete_table(RECORDS)?;
            transaction.delete_table(SESSIONS)?;
            let mut table = transaction.open_table(RECORDS)?;
            let mut row = Vec::new();
            for (key, record) in state.records() {
                row.clear();
                encode_record(record, &mut row);
                table.insert(&**key, row.as_slice())?;
            }
            let mut table = transaction.open_table(SESSIONS)?;
            for (id, session) in state.sessions.iter() {
                table.insert(id.0, session.encode().as_slice())?;
            }
            transaction.open_table(META)?.insert(CHECKPOINT, head.encode().as_slice())?;
            Ok(())
        })
    }

    fn write(
        &self,
        fill: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StateFileError> {
        let written = catch_unwind(AssertUnwindSafe(|| -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            fill(&transaction)?;
            transaction.commit()?;
            Ok(())
        }));
        match written {
            Ok(result) => result.map_err(|error| StateFileError::redb(&self.path, error)),
            Err(_) => Err(StateFileError::damaged(&self.path, "its pages make no sense")),
        }
    }

    /// A view of the latest checkpoint that later ones do not change; `None` if there was none yet.
    pub(crate) fn view(&self) -> Result<Option<(Head, ReadTransaction)>, StateFileError> {
        let fault = |error: redb::Error| StateFileError::redb(&self.path, error);
        let transaction = self.database.begin_read().map_err(|error| fault(error.into()))?;
        let table = transaction.open_table(META).map_err(|error| fault(error.into()))?;
        let row = table.get(CHECKPOINT).map_err(|error| fault(error.into()))?;
        let Some(row) = row else { return Ok(None) };
        let head = Head::decode(row.value()).map_err(|error| {
            StateFileError::damaged(&self.path, format!("its checkpoint row: {error}"))
        })?;
        drop(table);
        Ok(Some((head, transaction)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether the file is to be created; refuses what is no redb file before redb sees it.
fn check_magic(path: &Path) -> Result<bool, StateFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(StateFileError::io(path, error)),
    };
    let mut magic = Vec::new();
    file.take(REDB_MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .map_err(|error| StateFileError::io(path, error))?;
    if magic == REDB_MAGIC {
        Ok(false)
    } else {
        Err(StateFileError::damaged(path, "it does not begin like a redb file"))
    }
}

/// Without this the loss of power could take a new file's name away (scenario 42).
fn sync_folder(path: &Path) -> Result<(), StateFileError> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| StateFileError::io(path, error))
}

fn encode_identity(cluster: [u8; 16], node: NodeId) -> Vec<u8> {
    let mut out = Vec::new();
    out.put(&MAGIC);
    out.put(&VERSION.to_le_bytes());
    out.put(&cluster);
    out.put_u64(node.0);
    out
}

fn decode_identity(row: &[u8]) -> Result<(u16, String), String> {
    let mut reader = Reader::new(row);
    let mut read = || -> Result<(u16, String), Malformed> {
        let magic = reader.take(MAGIC.len(), "the magic")?;
        if magic != MAGIC {
            return Err(Malformed::UnknownTag { what: "file", tag: magic[0] });
        }
        let version = reader.take(2, "the version")?;
        let version = u16::from_le_bytes([version[0], version[1]]);
        let mut cluster = [0; 16];
        cluster.copy_from_slice(reader.take(16, "the cluster")?);
        let node = reader.u64("the node")?;
        Ok((version, describe_owner(cluster, NodeId(node))))
    };
    read().map_err(|error| format!("its identity: {error}"))
}

fn describe_owner(cluster: [u8; 16], node: NodeId) -> String {
    format!("node {node} of cluster {:032x}", u128::from_be_bytes(cluster))
}

pub(crate) fn encode_record(record: &Record, out: &mut Vec<u8>) {
    out.put_u64(record.create_revision);
    out.put_u64(record.mod_revision);
    out.put_u64(record.version);
    out.put(&record.value);
}

pub(crate) fn decode_record(row: &[u8]) -> Result<Record, Malformed> {
    let mut reader = Reader::new(row);
    let create_revision = reader.u64("a record")?;
    let mod_revision = reader.u64("a record")?;
    let version = reader.u64("a record")?;
    Ok(Record { value: row[24..].into(), create_revision, mod_revision, version })
}
