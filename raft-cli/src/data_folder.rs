//! A node's data folder: whose it is, who uses it, and where the files in it lie. Not what is in them.
//!
//! | file | what |
//! | --- | --- |
//! | `meta` | TOML: `format`, `cluster`, `node`, `has_log`; written when the folder is made, and again when the log is |
//! | `lock` | locked (`flock`) by the process that uses the folder |
//! | `log.redb` | the log and the hard state |
//! | `state.redb` | the key-value state's checkpoint |
//! | `incoming/` | snapshots on their way in; emptied at the start |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure, OrFail, Outcome};

/// The version of the layout that this program writes, and the only one that it reads.
const FORMAT: u64 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    format: u64,
    cluster: String,
    node: u64,
    /// The log was created: from then on, a folder without it has lost it.
    #[serde(default)]
    has_log: bool,
}

/// An open data folder. No other process can open it until this is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Opens a folder, which is made if it does not exist, for one node of one cluster.
    pub(crate) fn open(path: &Path, cluster: &str, node: u64) -> Outcome<DataFolder> {
        let at = path.display();
        fs::create_dir_all(path).or_fail(Code::DataFolder, || {
            format!("can not make the data folder {at} (give another one with --data, or make its parent writable)")
        })?;
        let lock = lock(path)?;
        let folder = DataFolder { path: path.to_owned(), _lock: lock };
        match fs::read_to_string(folder.meta()) {
            Ok(text) => folder.check(&text, cluster, node)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                folder.found(cluster, node)?;
            }
            Err(error) => {
                return Err(error).or_fail(Code::DataFolder, || format!("can not read {at}/meta"));
            }
        }
        folder.empty_incoming()?;
        Ok(folder)
    }

    /// The log.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log.redb")
    }

    /// The checkpoint of the state.
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state.redb")
    }

    /// Where snapshots from peers are put together.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.path.join("incoming")
    }

    fn meta(&self) -> PathBuf {
        self.path.join("meta")
    }

    fn check(&self, text: &str, cluster: &str, node: u64) -> Outcome {
        let at = self.path.display();
        // Only the version is sure to be there in every version.
        let table: toml::Table =
            toml::from_str(text).map_err(|_| damaged(&self.path, "it is not TOML"))?;
        let format = table.get("format").and_then(toml::Value::as_integer);
        let Some(format) = format else {
            return Err(damaged(&self.path, "it has no `format`"));
        };
        if u64::try_from(format) != Ok(FORMAT) {
            return Err(refused(format!(
                "the data folder {at} has format version {format}, but this program reads version {FORMAT}: \
                 use the version of raft that wrote it"
            )));
        }
        let meta: Meta = toml::from_str(text).map_err(|_| {
            damaged(&self.path, "`cluster` or `node` is missing or of the wrong type")
        })?;
        if meta.cluster != cluster {
            return Err(refused(format!(
                "the data folder {at} belongs to cluster {}, but the configuration is for cluster {cluster}: \
                 correct `data` (or --data); if this node has never run, give it an empty folder",
                meta.cluster
            )));
        }
        if meta.has_log && !self.log().exists() {
            return Err(refused(format!(
                "the data folder {at} has lost its log: put log.redb back; never start this node without it \
                 (see 'Losing machines' in docs/src/operations.md)"
            )));
        }
        if meta.node != node {
            return Err(refused(format!(
                "the data folder {at} belongs to node {}, but the configuration is for node {node}: \
                 correct `data` (or --data); two nodes must never share a folder",
                meta.node
            )));
        }
        Ok(())
    }

    /// Writes `meta`, whole or not at all.
    fn found(&self, cluster: &str, node: u64) -> Outcome {
        let at = self.path.display();
        if self.log().exists() || self.state().exists() {
            return Err(refused(format!(
                "the data folder {at} holds a log or a state, but no `meta` that says whose: \
                 put the file back; never start this node on an empty folder instead (see 'Losing machines' in docs/src/operations.md)"
            )));
        }
        self.write_meta(&Meta { format: FORMAT, cluster: cluster.to_owned(), node, has_log: false })
    }

    /// Notes that the log exists. A folder that has lost it is refused from now on: an empty log would forget what this node
    /// acknowledged and whom it voted for.
    pub(crate) fn note_log(&self, cluster: &str, node: u64) -> Outcome {
        self.write_meta(&Meta { format: FORMAT, cluster: cluster.to_owned(), node, has_log: true })
    }

    fn write_meta(&self, meta: &Meta) -> Outcome {
        let at = self.path.display();
        let write = || -> io::Result<()> {
            let text = toml::to_string(meta).map_err(io::Error::other)?;
            let temporary = self.path.join("meta.new");
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, self.meta())?;
            File::open(&self.path)?.sync_all()
        };
        write().or_fail(Code::DataFolder, || {
            format!("can not write to the data folder {at} (make it writable, or free some space)")
        })
    }

    /// What a crash left half-received is of no use.
    fn empty_incoming(&self) -> Outcome {
        let incoming = self.incoming();
        let renew = || -> io::Result<()> {
            if incoming.exists() {
                fs::remove_dir_all(&incoming)?;
            }
            fs::create_dir(&incoming)
        };
        renew().or_fail(Code::DataFolder, || {
            format!("can not write to {} (make it writable)", incoming.display())
        })
    }
}

fn lock(path: &Path) -> Outcome<File> {
    let at = path.display();
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"));
    let file = open.or_fail(Code::DataFolder, || {
        format!("can not write to the data folder {at} (make it writable, or give another one with --data)")
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(refused(format!(
            "the data folder {at} is in use by another process: stop that node first; two must never share a folder"
        ))),
        Err(TryLockError::Error(error)) => Err(error).or_fail(Code::DataFolder, || {
            format!("can not lock the data folder {at} (is it on a file system without locks?)")
        }),
    }
}

fn refused(message: String) -> Failure {
    Failure::new(Code::DataFolder, message)
}

fn damaged(path: &Path, what: &str) -> Failure {
    refused(format!(
        "{}/meta is damaged: {what}; write it again (format = {FORMAT}, cluster and node as in the node's configuration, has_log = true); never start this \
         node on an empty folder instead",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_node_of_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        drop(DataFolder::open(&path, "c1", 1).unwrap());
        drop(DataFolder::open(&path, "c1", 1).unwrap());
        let error = DataFolder::open(&path, "c2", 1).unwrap_err().to_string();
        assert!(error.contains("belongs to cluster c1"), "{error}");
        let error = DataFolder::open(&path, "c1", 2).unwrap_err().to_string();
        assert!(error.contains("belongs to node 1"), "{error}");
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataFolder::open(dir.path(), "c", 1).unwrap();
        let failure = DataFolder::open(dir.path(), "c", 1).unwrap_err();
        assert_eq!(failure.code, Code::DataFolder);
        assert!(failure.to_string().contains("in use by another process"), "{failure}");
        drop(held);
        DataFolder::open(dir.path(), "c", 1).unwrap();
    }

    #[test]
    fn damage_and_other_versions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("", "has no `format`"),
            ("\u{1}", "not TOML"),
            ("format = 1", "`cluster` or `node` is missing"),
            ("format = 2\nanything = 1", "format version 2, but this program reads version 1"),
        ] {
            fs::write(dir.path().join("meta"), text).unwrap();
            let error = DataFolder::open(dir.path(), "c", 1).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        fs::remove_file(dir.path().join("meta")).unwrap();
        fs::write(dir.path().join("log.redb"), "").unwrap();
        let error = DataFolder::open(dir.path(), "c", 1).unwrap_err().to_string();
        assert!(error.contains("no `meta`"), "{error}");
    }
}
